"""Estimators of traces."""

import pickle
import tracemalloc
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn import Constant
from skhep_nn.estimators import WaveformClassifier, WaveformRegressor
from skhep_nn.inputs import images as _images
from skhep_nn.networks.losses import LOSSES, through_sigmoid
from skhep_nn.training.run import _placed

ROUNDING = "mini-batch training in float32 agrees to 1e-7, the check asks for 1e-9"
# A network that the many tiny fits of scikit-learn's suite can afford.
SMALL = {"kernels": (8, 3), "channels": (8, 12), "device": "cpu"}
SMALL["network_params"] = {"strides": (4, 1), "dense": (16,), "n_bins": 16}
# On rows of a few numbers a batch normalisation, whose statistics are of one batch, blurs what the
# suite asks for.
TINY = {"channels": (16,), "kernels": 3, "precision": "float32", "batch_size": 32}
TINY["network_params"] = {"strides": 1, "head": "flatten", "dense": (16,), "norm": False}


@pytest.mark.parametrize("check", ["check_classifiers_train", "check_decision_proba_consistency"])
def test_scores_conform_with_the_defaults(check):
    """The defaults learn the suite's blobs so well that probabilities are exactly 1."""
    getattr(estimator_checks, check)("WaveformClassifier", WaveformClassifier())


@parametrize_with_checks(
    [
        WaveformClassifier(**TINY, max_epochs=40),
        WaveformRegressor(**TINY, max_epochs=60),
    ],
    expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": ROUNDING},
)
def test_conforms_to_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite warns of what it skips
        check(estimator)


@pytest.fixture(scope="module")
def pairs():
    """Counts of a digitiser with two pulses, 0 to 1 apart."""
    rng = np.random.default_rng(0)
    distance = rng.uniform(0, 1, 240)
    first = rng.uniform(55, 65, 240)
    t = np.arange(200)

    def pulse(center):
        return np.exp(-0.5 * ((t - center[:, None]) / 8) ** 2)

    light = 300 * (pulse(first) + pulse(first + 100 * distance))
    traces = np.rint(400 + light + 5 * rng.normal(size=light.shape))
    return traces.astype(np.uint16), distance


@pytest.fixture(scope="module")
def kinds(pairs):
    """The same, with the question whether they are far apart."""
    X, distance = pairs
    return X, np.where(distance > 0.5, "far", "near")


def regressor(**params):
    defaults = {"max_epochs": 25, "batch_size": 40, "random_state": 0, "precision": "float32"}
    return WaveformRegressor(**SMALL | defaults | params)


def classifier(**params):
    defaults = {"max_epochs": 15, "batch_size": 40, "random_state": 0, "precision": "float32"}
    return WaveformClassifier(**SMALL | defaults | params)


class Shifter:
    """Shifts traces by one point or none, as an augmenter in training and in prediction."""

    n_views_ = 2

    def get_params(self, deep=True):
        del deep
        return {}

    def fit(self, X, y=None):
        del y
        assert X.ndim == 3
        return self

    def transform_tensor(self, X, generator):
        shift = torch.randint(2, (len(X), 1, 1), generator=generator, device=X.device)
        return torch.where(shift == 1, X.roll(1, dims=1), X)

    def view_tensor(self, X, index):
        return X.roll(index, dims=1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("output", ["identity", "sigmoid"])
def test_it_measures(pairs, precision, output):
    X, distance = pairs
    model = regressor(precision=precision, output=output, n_members=2).fit(X, distance)
    assert model.score(X, distance) > 0.9
    assert set(model.history_.member) == {0, 1}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_classifies(kinds, precision):
    X, y = kinds
    model = classifier(precision=precision, n_members=2).fit(X, y)
    assert model.score(X, y) > 0.9
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)


@pytest.mark.parametrize("preset", ["default", "school", "inception"])
def test_presets(kinds, preset):
    X, y = kinds
    params = {"channels": None, "kernels": None, "network_params": None, "max_epochs": 1}
    model = classifier(preset=preset, **params).fit(X[:60], y[:60])
    assert np.isfinite(model.predict_proba(X)).all()


def test_containers(pairs):
    """Two axes, three axes and DataFrames say the same, and each its own shape."""
    X, distance = pairs
    params = {"max_epochs": 2}
    plain = regressor(**params).fit(X, distance)
    assert (plain.trace_shape_, plain.n_features_in_) == ((200,), 200)
    deep = regressor(**params).fit(X[..., None], distance)
    assert (deep.trace_shape_, deep.n_features_in_) == ((200, 1), 200)
    np.testing.assert_array_equal(deep.predict(X[..., None]), plain.predict(X))
    frame = pd.DataFrame(X, columns=[f"t{i}" for i in range(200)])
    named = regressor(**params).fit(frame, distance)
    assert list(named.feature_names_in_) == list(frame.columns)
    np.testing.assert_array_equal(named.predict(frame), plain.predict(X))
    assert not hasattr(named.fit(X[..., None], distance), "feature_names_in_")
    two = np.stack([X, X[:, ::-1]], axis=-1)
    both = regressor(**params).fit(two, distance)
    assert (both.trace_shape_, both.n_features_in_) == ((200, 2), 400)
    assert both.predict(two).shape == (240,)
    text = regressor(**params).fit(X.astype(str).astype(object), distance)
    np.testing.assert_allclose(text.predict(X), plain.predict(X), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, ">u2", np.float16, np.float64])
def test_types_are_numbers(pairs, dtype):
    X, distance = pairs
    X = (X // 4).astype(dtype)
    model = regressor(max_epochs=2).fit(X, distance)
    assert model._encode_X(X, reset=False).dtype == (
        np.float32 if dtype in (">u2", np.float64) else dtype
    )
    same = regressor(max_epochs=2).fit(X.astype(np.float32), distance)
    np.testing.assert_array_equal(model.predict(X), same.predict(X.astype(np.float32)))


def test_wrong_shapes_are_named(pairs):
    X, distance = pairs
    model = regressor(max_epochs=1).fit(X, distance)
    with pytest.raises(
        ValueError, match="X has 150 features, but WaveformRegressor is expecting 200"
    ):
        model.predict(X[:, :150])
    with pytest.raises(ValueError, match=r"shape \(200, 1\), but .* expecting .* \(200,\)"):
        model.predict(X[..., None])
    model.fit(X.reshape(240, 100, 2), distance)
    with pytest.raises(ValueError, match=r"shape \(200,\), but .* expecting .* \(100, 2\)"):
        model.predict(X)
    with pytest.raises(ValueError, match=r"n_channels\), got \(240, 10, 10, 2\)"):
        model.fit(X.reshape(240, 10, 10, 2), distance)
    with pytest.raises(ValueError, match=r"shape \(200, 0\), without a single value"):
        model.fit(np.zeros((240, 200, 0)), distance)
    with pytest.raises(ValueError, match=r"network_params=.* has channels"):
        regressor(network_params={"channels": (4,)}).fit(X, distance)


@pytest.mark.parametrize("n_axes", [2, 3])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_traces_that_are_not_finite_are_named(pairs, n_axes, bad, monkeypatch):
    monkeypatch.setattr(_images, "CHUNK", 2000)  # ten traces
    X, distance = pairs
    broken = X.astype(np.float32)
    model = regressor(max_epochs=1)
    broken[17, 3] = bad
    shape = broken.shape if n_axes == 2 else (240, 100, 2)
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 240 traces \(row 17\)"):
        model.fit(broken.reshape(shape), distance)
    model.fit(X.reshape(shape), distance)
    broken[[19, 20, 111, 112, 239]] = bad
    with pytest.raises(ValueError, match=r"in 6 of 240 traces \(rows 17, 19, 20, 111, 112, ...\)"):
        model.predict(broken.reshape(shape))
    huge = X.astype(np.float64)
    huge[5] *= 1e40
    with pytest.raises(ValueError, match=r"beyond float32 in 1 of 240 traces \(row 5\)"):
        model.predict(huge.reshape(shape))


def test_channels_are_standardised_by_weighted_moments(pairs):
    X, distance = pairs
    two = np.stack([X, X[:, ::-1] // 2], axis=-1)
    w = np.random.default_rng(1).uniform(0, 2, 240)
    states = regressor(max_epochs=1).fit(two, distance, sample_weight=w).ensemble_.states
    weight = np.broadcast_to(w[:, None], X.shape).ravel()
    for channel in range(2):
        values = two[..., channel].ravel().astype(float)
        mean = np.average(values, weights=weight)
        spread = np.sqrt(np.average((values - mean) ** 2, weights=weight))
        assert states["mean"][0, channel] == pytest.approx(mean, rel=1e-5)
        assert states["scale"][0, channel] == pytest.approx(spread, rel=1e-4)


def test_sample_weights_count(pairs):
    """Traces of next to no weight teach nothing."""
    X, distance = pairs
    spoilt = distance.copy()
    spoilt[120:] = 1 - spoilt[120:]
    weight = np.where(np.arange(240) < 120, 1.0, 1e-6)
    model = regressor(max_epochs=40).fit(X, spoilt, sample_weight=weight)
    assert model.score(X, distance) > 0.8
    assert regressor(max_epochs=40).fit(X, spoilt).score(X, distance) < 0.5


def test_sigmoid_keeps_predictions_between_0_and_1(pairs):
    X, distance = pairs
    targets = np.column_stack([distance, distance > 0.5, 1 - distance])
    model = regressor(output="sigmoid").fit(X, targets)
    predicted = model.predict(X)
    assert predicted.shape == targets.shape
    assert 0 < predicted.min() < 0.1
    assert 0.9 < predicted.max() < 1
    assert ((predicted[:, 1] > 0.5) == targets[:, 1]).mean() > 0.95
    # Its loss is that of the targets as they are.
    error = np.square(predicted - targets).mean()
    assert model.history_.train_loss.iloc[-1] == pytest.approx(error, rel=0.5)
    raw = model.ensemble_.member(0)(torch.from_numpy(X)[..., None])
    np.testing.assert_allclose(raw.sigmoid(), predicted, rtol=1e-4, atol=1e-6)
    members = regressor(output="sigmoid", n_members=2, max_epochs=2).fit(X, distance)
    outs = [members.ensemble_.member(k)(torch.from_numpy(X)[..., None]) for k in range(2)]
    expected = sum(
        w * out.sigmoid().numpy() for w, out in zip(members.ensemble_.weights, outs, strict=True)
    )
    np.testing.assert_allclose(members.predict(X), expected[:, 0], rtol=1e-4)


@pytest.mark.parametrize(("low", "high"), [(-0.1, 1.0), (0.0, 1.5)])
def test_targets_outside_of_the_sigmoid_are_named(pairs, low, high):
    X, distance = pairs
    y = low + (high - low) * (distance - distance.min()) / np.ptp(distance)
    with pytest.raises(ValueError, match=f"from 0 to 1, but y reaches from {low:g} to {high:g}"):
        regressor(output="sigmoid").fit(X, y)
    regressor(output="sigmoid", max_epochs=1).fit(X, y.clip(0, 1))


@pytest.mark.parametrize("name", ["absolute_error", "squared_error", "huber"])
def test_the_loss_through_a_sigmoid(name):
    generator = torch.Generator().manual_seed(0)
    out = torch.randn(3, 7, 2, generator=generator, requires_grad=True)
    target = torch.rand(3, 7, 2, generator=generator)
    loss = through_sigmoid(LOSSES[name])
    expected = LOSSES[name].value(1 / (1 + torch.exp(-out)), target)
    torch.testing.assert_close(loss.value(out, target), expected)
    (gradient,) = torch.autograd.grad(loss.value(out, target).sum(), out)
    torch.testing.assert_close(loss.gradient(out.detach(), target), gradient)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss": "cubic"}, "loss='cubic'"),
        ({"output": "relu"}, "output='relu' must be 'identity' or 'sigmoid'"),
        ({"preset": "huge"}, "preset='huge'"),
        ({"kernels": 0}, "kernels must be integers"),
    ],
)
def test_wrong_parameters_are_named(pairs, params, message):
    with pytest.raises(ValueError, match=message):
        regressor(**params).fit(*pairs)


def test_targets_have_a_unit_and_training_has_none(pairs):
    X, distance = pairs
    one = regressor(max_epochs=3).fit(X, distance)
    other = regressor(max_epochs=3).fit(X, 8 - 1000 * distance)
    np.testing.assert_allclose(
        other.history_.train_loss.iloc[0], one.history_.train_loss.iloc[0], rtol=0.5
    )
    targets = np.column_stack([distance, 1000 - 100 * distance])
    both = regressor().fit(X, targets)
    assert both.predict(X).shape == (240, 2)
    assert both.score(X, targets) > 0.9


def test_members_and_views(pairs, tmp_path):
    X, distance = pairs
    params = {"n_members": 3, "max_epochs": 3, "augmentation": Shifter()}
    model = regressor(**params).fit(X, distance)
    again = clone(model).fit(X, distance)
    for name, value in model.ensemble_.states.items():
        np.testing.assert_array_equal(again.ensemble_.states[name], value)
    assert len({v.tobytes() for v in model.ensemble_.states["blocks.0.unit.running_var"]}) == 3
    rows = torch.from_numpy(X)[..., None]
    stacked = model.ensemble_.predict_members(rows, stacked=True)
    alone = model.ensemble_.predict_members(rows, stacked=False)
    torch.testing.assert_close(stacked, alone, rtol=1e-5, atol=1e-6)
    views = torch.stack(
        [model.ensemble_.predict_members(rows.roll(k, dims=1)) for k in range(2)]
    ).mean(0)
    mean = np.tensordot(model.ensemble_.weights, views.numpy(), 1)[:, 0]
    expected = mean * distance.std() + distance.mean()
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-4, atol=1e-5)
    joblib.dump(model, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert len(pickle.dumps(model)) < 100_000


def test_classifiers_are_stored(kinds, tmp_path):
    X, y = kinds
    model = classifier(n_members=2, max_epochs=2, precision="auto").fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_early_stopping_restores_the_best_pass(pairs):
    X, distance = pairs
    y = distance + np.random.default_rng(1).normal(0, 0.5, 240)  # more noise than there is to learn
    model = regressor(early_stopping=3, max_epochs=60, schedule=Constant(lr=0.02))
    history = model.fit(X, y).history_
    assert len(history) < 60
    rows = model.net_.folds[0].valid
    error = np.square(model.predict(X[rows]) - y[rows]).mean() / y.var()
    assert history.valid_loss.min() == pytest.approx(error, rel=1e-3)


def test_a_search_over_filters_and_kernels_in_a_pipeline(pairs):
    X, distance = pairs
    scaler = FunctionTransformer(np.sqrt)
    inner = regressor(max_epochs=2, network_params=None, preset="school", augmentation=Shifter())
    pipeline = make_pipeline(scaler, inner.set_params(channels=None, kernels=None))
    grid = {"waveformregressor__channels": [4, 8], "waveformregressor__kernels": [3, 9]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(X, distance)
    alone = GridSearchCV(pipeline, grid, cv=2).fit(X, distance)
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_array_equal(search.cv_results_[name], alone.cv_results_[name])
    best = search.best_params_
    weight = search.best_estimator_[-1].ensemble_.states["blocks.0.unit.weight"]
    shape = (best["waveformregressor__channels"], 1, 1, best["waveformregressor__kernels"])
    assert weight.shape[1:] == shape


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("shape", [(4000, 300), (4000, 150, 2)])
def test_traces_are_not_copied(pairs, tmp_path, monkeypatch, dtype, shape):
    """Neither from memory nor from a memory map that must not be written."""
    monkeypatch.setattr(_images, "CHUNK", 2**13)  # steps in double precision take little memory
    traces = np.random.default_rng(0).integers(0, 5000, shape).astype(dtype)
    target = np.tile(pairs[1], 17)[:4000]
    np.save(tmp_path / "traces.npy", traces)
    regressor(max_epochs=1).fit(*pairs).predict(
        pairs[0]
    )  # the first of a process import modules of torch
    for source in (traces, np.load(tmp_path / "traces.npy", mmap_mode="r")):
        model = regressor(max_epochs=1, batch_size=400)
        tracemalloc.start()
        try:
            model.fit(source, target).predict(source)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # Of numpy; torch's memory is not traced, but its rows are the array itself:
        assert peak < 1.2e6 < traces.nbytes
        rows = _placed(model._encode_X(source, reset=False), torch.device("cpu"))
        assert rows.data_ptr() == source.__array_interface__["data"][0]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_cuda_is_as_the_cpu(pairs, dtype):
    """Captured or not, and what was trained on one device predicts on the other."""
    X, distance = pairs
    X = X.astype(dtype)
    models = [
        regressor(max_epochs=3, n_members=2, device=device, compile=graph, output="sigmoid")
        for device, graph in (("cpu", "auto"), ("cuda", "auto"), ("cuda", False))
    ]
    cpu, *others = [model.fit(X, distance) for model in models]
    for model in others:
        assert np.abs(model.predict(X) - cpu.predict(X)).mean() < 0.05
        there = model.predict(X)
        here = model.set_params(device="cpu").predict(X)
        np.testing.assert_allclose(here, there, atol=5e-3)
