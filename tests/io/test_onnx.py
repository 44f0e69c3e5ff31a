"""Networks as ONNX: the same predictions by another runtime, from the same input as in `fit`."""

import json
import logging
import signal
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skhep_nn import (
    CaloCNNClassifier,
    CaloCNNRegressor,
    CartesianMomenta,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAligner,
    EventAugmenter,
    ImageAugmenter,
    ImageCropper,
    WaveformAugmenter,
    WaveformClassifier,
    WaveformRegressor,
    make_calo_showers,
    make_higgs_events,
    make_ion_tracks,
    make_waveforms,
    save,
    to_onnx,
)

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

# The graph computes in single precision.
FAST = {"max_epochs": 2, "device": "cpu", "precision": "float32", "random_state": 0}
SMALL_DENSE = {"depth": 2, "width": 8}
SMALL = {
    "network_params": {"channels": (4,), "kernels": 3, "pooling": 4, "dropout": 0.0, "dense": (8,)}
}
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def events():
    return make_higgs_events(400, random_state=0)


def run(model, X):
    """Return all outputs of a graph by name."""
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    rows = np.ascontiguousarray(X, dtype=np.float32)
    return dict(zip(names, session.run(None, {"X": rows}), strict=True))


def told(model):
    return {entry.key: json.loads(entry.value) for entry in model.metadata_props}


def test_higgs_job_in_one_graph(events, tmp_path):
    """Momenta, filled columns, categories, views, members and their weights."""
    network = DenseNetClassifier(
        n_members=3,
        augmentation=EventAugmenter(),
        categorical_features=["PRI_jet_num"],
        **SMALL_DENSE,
        **FAST,
    )
    model = make_pipeline(CartesianMomenta(), network).fit(events.data, events.target)
    graph = to_onnx(model, tmp_path / "higgs.onnx")
    rows = events.data.copy()
    rows.loc[rows.index[0], "PRI_jet_num"] = 7  # unseen at fit
    assert rows.isna().any(axis=None)
    outputs = run(graph, rows)
    assert list(outputs) == ["probabilities"]
    np.testing.assert_allclose(
        outputs["probabilities"], model.predict_proba(rows), rtol=0, atol=TOLERANCE
    )
    stored = onnx.load(tmp_path / "higgs.onnx")
    assert told(stored)["classes"] == network.classes_.tolist()
    assert told(stored)["feature_names_in"] == list(events.data.columns)
    # Any number of rows, not only the number of example rows.
    one = run(stored, rows[:1])["probabilities"]
    np.testing.assert_allclose(one, outputs["probabilities"][:1], atol=TOLERANCE)
    # The graph holds one network for each member, not one for each of their eight views.
    products = [node for node in stored.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert len(products) < 10 * len(network.ensemble_)


@pytest.mark.parametrize("steps", ["aligned first", "momenta first"])
def test_aligned_events(events, steps):
    before = [EventAligner(), CartesianMomenta()]
    names = [name for name in events.data.columns if not name.startswith("DER")]
    X = events.data[names]
    model = make_pipeline(
        *(before if steps == "aligned first" else before[::-1]),
        DenseNetClassifier(**SMALL_DENSE, **FAST),
    ).fit(X, events.target)
    found = run(to_onnx(model), X)["probabilities"]
    # Rounding to single precision may turn an event on the edge the other way; no event here is on the edge.
    np.testing.assert_allclose(found, model.predict_proba(X), rtol=0, atol=1e-5)


def test_without_views(events):
    X = events.data[["PRI_tau_pt", "PRI_tau_eta", "PRI_tau_phi"]]
    model = DenseNetClassifier(augmentation=EventAugmenter(), tta=False, **SMALL_DENSE, **FAST)
    model.fit(X, events.target)
    found = run(to_onnx(model), X)["probabilities"]
    np.testing.assert_allclose(found, model.predict_proba(X), rtol=0, atol=TOLERANCE)


def test_many_classes_and_split_networks(events):
    X = events.data[["PRI_tau_pt", "PRI_lep_pt", "PRI_met"]]
    y = np.arange(len(X)) % 3
    model = DenseNetClassifier(
        blocks={"leptons": ["PRI_tau_pt", "PRI_lep_pt"], "rest": ["PRI_met"]}, **FAST
    ).fit(X, y)
    found = run(to_onnx(model), X)["probabilities"]
    np.testing.assert_allclose(found, model.predict_proba(X), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("n_targets", [1, 2])
def test_targets_come_in_their_units(events, n_targets):
    X = events.data[["PRI_tau_pt", "PRI_lep_pt", "PRI_tau_phi"]]
    y = 1e3 + 50 * events.data[["PRI_met", "PRI_met_sumet"][:n_targets]].to_numpy()
    y = y[:, 0] if n_targets == 1 else y
    model = DenseNetRegressor(n_members=2, **SMALL_DENSE, **FAST).fit(X, y)
    found = run(to_onnx(model), X)["prediction"]
    assert found.shape == y.shape
    np.testing.assert_allclose(found, model.predict(X), rtol=1e-5)


@pytest.mark.parametrize(
    ("offset", "scale"), [(1.7e9, 60.0), (5e-12, 1e-12), (0.0, 1e-45), (0.0, 1e39)]
)
def test_targets_that_single_precision_cannot_hold(offset, scale):
    X = np.random.default_rng(0).normal(size=(300, 3))
    y = offset + scale * X[:, 0]
    model = DenseNetRegressor(**SMALL_DENSE, **FAST).fit(X, y)
    found = run(to_onnx(model), X)["prediction"]
    np.testing.assert_allclose((found - model.predict(X)) / scale, 0, atol=1e-5)


@pytest.mark.parametrize("n_columns", [1, 3])
def test_inputs_in_small_units(n_columns):
    """The optimiser of the graph takes small numbers for zero."""
    X = 1e-12 * (5 + np.random.default_rng(0).normal(size=(300, n_columns)))
    model = DenseNetClassifier(**SMALL_DENSE, **FAST).fit(X, X[:, 0] > 5e-12)
    found = run(to_onnx(model), X)["probabilities"]
    np.testing.assert_allclose(found, model.predict_proba(X), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_predict_refuses_become_nan(events, bad):
    X = events.data[["PRI_tau_pt", "PRI_lep_pt", "PRI_jet_num"]].copy()
    table = DenseNetClassifier(categorical_features=["PRI_jet_num"], **SMALL_DENSE, **FAST)
    table.fit(X, events.target)
    showers = make_calo_showers(40, random_state=0)
    images = CaloCNNClassifier(augmentation=ImageAugmenter(), **SMALL, **FAST)
    images.fit(showers.images, showers.target)
    for model, rows in ((table, X.to_numpy(float)), (images, showers.images.copy())):
        rows[(1, *[-1] * (rows.ndim - 1))] = bad
        found = run(to_onnx(model), rows)["probabilities"]
        np.testing.assert_array_equal(np.isnan(found).any(1), np.arange(len(rows)) == 1)


@pytest.mark.parametrize("n_axes", [2, 3, 4])
def test_images_in_the_shape_of_the_fit(n_axes):
    showers = make_calo_showers(60, random_state=0)
    X = {2: showers.images.reshape(60, -1), 3: showers.images[..., 0], 4: showers.images}[n_axes]
    shape = (32, 32, 2) if n_axes == 2 else None
    model = CaloCNNClassifier(
        augmentation=ImageAugmenter(), image_shape=shape, n_members=2, **SMALL, **FAST
    ).fit(X, showers.target)
    found = run(to_onnx(model), X)["probabilities"]
    np.testing.assert_allclose(found, model.predict_proba(X), rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["compact", "challenge", "attention", "resnet15"])
def test_presets_of_images(preset):
    showers = make_calo_showers(40, random_state=0)
    model = CaloCNNClassifier(preset=preset, **FAST | {"max_epochs": 1})
    model.fit(showers.images, showers.target)
    found = run(to_onnx(model), showers.images)["probabilities"]
    np.testing.assert_allclose(found, model.predict_proba(showers.images), rtol=0, atol=1e-5)


def test_energies_and_the_class_beside_them():
    ions = make_ion_tracks(60, random_state=0)
    model = CaloCNNRegressor(**SMALL, **FAST)
    model.fit(ions.images, ions.target, aux_target=np.arange(60) % 2)
    outputs = run(to_onnx(model), ions.images)
    assert list(outputs) == ["prediction", "aux_probabilities"]
    np.testing.assert_allclose(outputs["prediction"], model.predict(ions.images), rtol=1e-4)
    np.testing.assert_allclose(
        outputs["aux_probabilities"], model.predict_aux_proba(ions.images), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("augmentation", [None, WaveformAugmenter()])
def test_traces(augmentation):
    traces = make_waveforms(40, n_points=500, random_state=0).traces
    model = WaveformClassifier(augmentation=augmentation, **FAST).fit(traces, np.arange(40) % 2)
    found = run(to_onnx(model), traces)["probabilities"]
    np.testing.assert_allclose(found, model.predict_proba(traces), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_separations_through_a_sigmoid():
    traces = make_waveforms(40, n_points=500, random_state=0).traces
    model = WaveformRegressor(preset="school", output="sigmoid", **FAST)
    model.fit(traces, np.linspace(0, 1, 40))
    found = run(to_onnx(model), traces)["prediction"]
    np.testing.assert_allclose(found, model.predict(traces), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [[0, 1, 2], [-3, 5, 100_000], [-(2**24), 2**24], [0.5, 0.25, 8.0], [True, False], range(3000)],
    ids=["few", "gaps", "far apart", "fractions", "truth", "many"],
)
def test_categories_of_numbers(values):
    column = np.resize(np.array(values), 6000)
    X = pd.DataFrame({"x": np.linspace(-1, 1, 6000), "kind": column})
    model = DenseNetClassifier(categorical_features=["kind"], **SMALL_DENSE, **FAST)
    model.fit(X, np.arange(6000) % 2)
    rows = X[:3010].astype({"kind": float})
    rows.loc[:4, "kind"] = [77_777.0, -9.0, 0.75, 1e9, 2.0**25]  # unseen
    found = run(to_onnx(model), rows)["probabilities"]
    np.testing.assert_allclose(found, model.predict_proba(rows), rtol=0, atol=TOLERANCE)


def test_global_settings_neither_act_nor_change(events):
    """Also while other threads export."""
    X = events.data[["PRI_tau_pt", "PRI_lep_pt"]]
    model = DenseNetClassifier(**SMALL_DENSE, **FAST).fit(X, events.target)
    expected = model.predict_proba(X)
    state = (warnings.filters.copy(), logging.getLogger("torch.onnx").level)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), ThreadPoolExecutor(3) as pool:
            graphs = list(pool.map(to_onnx, [model] * 3))
            graphs.append(to_onnx(model))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert (warnings.filters, logging.getLogger("torch.onnx").level) == state
    for graph in graphs:
        found = run(graph, X)["probabilities"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_names_of_the_columns_of_an_array(events):
    names = ["PRI_tau_pt", "PRI_tau_eta", "PRI_tau_phi"]
    X = events.data[names].to_numpy()
    model = make_pipeline(CartesianMomenta(columns=names), DenseNetClassifier(**FAST))
    graph = to_onnx(model.fit(X, events.target))
    assert told(graph)["feature_names_in"] == names
    np.testing.assert_allclose(
        run(graph, X)["probabilities"], model.predict_proba(X), rtol=0, atol=TOLERANCE
    )


# -- estimators that cannot be exported -----------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["ee", "mumu"], "Turn text into numbers"),
        ([1, "1", 2, "2"], "Turn text into numbers"),
        ([1, 2**24 + 1], "float32 cannot hold"),
        ([0.1, 0.2], "float32 cannot hold"),
    ],
)
def test_categories_that_no_tensor_holds(values, message):
    X = pd.DataFrame({"x": np.linspace(-1, 1, 60), "kind": np.resize(np.array(values, object), 60)})
    model = DenseNetClassifier(categorical_features=["kind"], **FAST).fit(X, np.arange(60) % 2)
    with pytest.raises(ValueError, match=message):
        to_onnx(model)


def test_steps_that_are_not_written(events):
    X, y = events.data, events.target
    scaled = make_pipeline(CartesianMomenta(), StandardScaler(), DenseNetClassifier(**FAST))
    with pytest.raises(
        TypeError, match=r"StandardScaler cannot be written .*to_onnx\(model\[-1\]\)"
    ):
        to_onnx(scaled.fit(X, y))
    with pytest.raises(TypeError, match="RandomForestClassifier must be a network of skhep_nn"):
        to_onnx(RandomForestClassifier(n_estimators=2).fit(X.fillna(0), y))
    with pytest.raises(TypeError, match="ImageCropper cannot"):
        to_onnx(make_pipeline(ImageCropper(), CaloCNNClassifier()))
    fitted = DenseNetClassifier(**FAST).fit(X[["PRI_met"]], y)
    for model in (DenseNetClassifier(), make_pipeline(CartesianMomenta(), fitted)):
        with pytest.raises(NotFittedError):
            to_onnx(model)
    with pytest.raises(TypeError, match="must be a network"):
        to_onnx(make_pipeline("passthrough"))
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        to_onnx(fitted, "nowhere/model.onnx")


def test_passthrough_steps_are_ignored(events):
    X = events.data[["PRI_tau_pt", "PRI_lep_pt"]]
    network = DenseNetClassifier(**SMALL_DENSE, **FAST)
    model = make_pipeline("passthrough", network).fit(X, events.target)
    found = run(to_onnx(model), X)["probabilities"]
    np.testing.assert_allclose(found, model.predict_proba(X), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_error_without_onnx_names_the_extra(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"skhep_nn\[onnx\]"):
        to_onnx(DenseNetClassifier())


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("write", [to_onnx, save], ids=["to_onnx", "save"])
def test_a_full_disk_leaves_the_old_file(write, tmp_path):
    import resource

    X = np.random.default_rng(0).normal(size=(200, 40)).astype("f4")
    model = DenseNetClassifier(max_epochs=1, width=100, random_state=0).fit(X, X[:, 0] > 0)
    path = tmp_path / "model"
    write(model, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # A limit on the size of files stands for the full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(OSError, match=r"model could not be written"):
            write(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
