"""Estimators stored without pickle and loaded again: the same predictions, and no untrusted types."""

import io
import pickle
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import loguniform, randint
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import skhep_nn
from skhep_nn import (
    AugmentedClassifier,
    CaloCNNClassifier,
    CaloCNNRegressor,
    CartesianMomenta,
    CosineRestarts,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAugmenter,
    HyperEnsembleClassifier,
    ImageAugmenter,
    ImageCropper,
    StackedPostRegressor,
    StochasticWeightAveraging,
    WaveformAugmenter,
    WaveformClassifier,
    WaveformScaler,
    load,
    make_calo_showers,
    make_higgs_events,
    make_ion_tracks,
    make_waveforms,
    save,
)
from skhep_nn.io.stored_types import STORED
from tests.io.archives import changed

skops_io = pytest.importorskip("skops.io")

TREE = "sklearn.tree._tree.Tree"
FAST = {"max_epochs": 2, "device": "cpu", "random_state": 0}


@pytest.fixture(scope="module")
def events():
    return make_higgs_events(400, random_state=0)


@pytest.fixture(scope="module")
def showers():
    return make_calo_showers(60, random_state=0)


def through_file(model, tmp_path, **options):
    save(model, tmp_path / "model.skops")
    return load(tmp_path / "model.skops", **options)


def test_a_pipeline_is_stored_as_a_whole(events, tmp_path):
    network = DenseNetClassifier(
        n_members=3,
        augmentation=EventAugmenter(),
        categorical_features=["PRI_jet_num"],
        averaging=StochasticWeightAveraging(),
        **FAST | {"max_epochs": 4},
    )
    model = make_pipeline(CartesianMomenta(), network)
    model.fit(events.data, events.target)
    loaded = through_file(model, tmp_path)
    assert_array_equal(loaded.predict_proba(events.data), model.predict_proba(events.data))
    assert_array_equal(loaded.feature_names_in_, model.feature_names_in_)
    assert not hasattr(loaded[-1], "net_")
    pd.testing.assert_frame_equal(loaded[-1].history_, network.history_)
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(events.data.rename(columns={"DER_mass_MMC": "mass"}))


def test_labels_and_categories_of_text(events, tmp_path):
    X = events.data[["PRI_tau_pt", "PRI_lep_pt"]].assign(
        channel=np.array(["ee", "mumu"])[np.arange(400) % 2]
    )
    y = np.where(events.target == "s", "signal", "background")
    model = DenseNetClassifier(categorical_features=["channel"], **FAST).fit(X, y)
    loaded = through_file(model, tmp_path)
    assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.classes_.dtype == model.classes_.dtype


def test_regressors_of_tables(events, tmp_path):
    X = events.data[["PRI_tau_pt", "PRI_lep_pt"]]
    model = DenseNetRegressor(**FAST).fit(X, events.data["PRI_met"])
    assert_array_equal(through_file(model, tmp_path).predict(X), model.predict(X))


def test_images(showers, tmp_path):
    model = make_pipeline(
        ImageCropper(size=24),
        CaloCNNClassifier(
            augmentation=ImageAugmenter(), schedule=CosineRestarts(max_lr=1e-3), **FAST
        ),
    ).fit(showers.images, showers.target)
    loaded = through_file(model, tmp_path)
    assert_array_equal(loaded.predict_proba(showers.images), model.predict_proba(showers.images))


def test_a_forest_needs_no_trust(tmp_path):
    ions = make_ion_tracks(80, random_state=0)
    model = StackedPostRegressor(CaloCNNRegressor(**FAST), cv=2, random_state=0)
    model.fit(ions.images, ions.target)
    loaded = through_file(model, tmp_path)
    assert_array_equal(loaded.predict(ions.images), model.predict(ions.images))


def test_waveforms(tmp_path):
    traces = make_waveforms(40, random_state=0).traces
    network = WaveformClassifier(augmentation=WaveformAugmenter(), **FAST)
    model = make_pipeline(WaveformScaler(), network).fit(traces, np.arange(40) % 2)
    assert_array_equal(
        through_file(model, tmp_path).predict_proba(traces), model.predict_proba(traces)
    )


def test_meta_estimators(events, tmp_path):
    X = events.data.filter(regex="PRI_(tau|lep|met)").drop(columns="PRI_met_sumet")
    boosting = HistGradientBoostingClassifier(max_iter=3)
    model = AugmentedClassifier(boosting, augmenter=EventAugmenter(), random_state=0)
    model.fit(X, events.target)
    loaded = through_file(model, tmp_path, trusted=_others(model))
    assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_hyper_ensembles_keep_their_tables(events, tmp_path):
    X = events.data[["PRI_tau_pt", "PRI_lep_pt"]]
    space = {"lr_factor": loguniform(0.5, 2), "activation": ["swish", "relu"]}
    model = HyperEnsembleClassifier(
        DenseNetClassifier(**FAST), space, n_candidates=3, n_selected=2, random_state=0
    ).fit(X, events.target)
    others = _others(model)
    assert others, "the distribution is of scipy"
    loaded = through_file(model, tmp_path, trusted=others)
    assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    pd.testing.assert_frame_equal(loaded.candidates_, model.candidates_)
    pd.testing.assert_frame_equal(loaded.selection_, model.selection_)


def _others(model):
    """Return types in a model that neither this package nor skops trusts."""
    named = skops_io.get_untrusted_types(data=skops_io.dumps(model))
    return [name for name in named if name not in STORED]


def test_an_estimator_that_is_not_fitted(tmp_path):
    model = through_file(DenseNetClassifier(n_members=5), tmp_path)
    assert model.get_params()["n_members"] == 5


def test_pickle_sees_the_same_tables(events):
    X = events.data[["PRI_tau_pt", "PRI_lep_pt"]]
    model = DenseNetClassifier(**FAST).fit(X, events.target)
    loaded = pickle.loads(pickle.dumps(model))
    pd.testing.assert_frame_equal(loaded.history_, model.history_)


# -- refused files --------------------------------------------------------------------------------


def test_foreign_types_are_not_created(tmp_path):
    path = tmp_path / "model.skops"
    model = DenseNetClassifier(**FAST)
    model.extra_ = io.StringIO  # a class that neither skops nor this package trusts
    save(model, path)
    with pytest.raises(ValueError, match=r"_?io\.StringIO"):
        load(path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            make_pipeline(FunctionTransformer(lambda X: X), DenseNetClassifier()),
            r"parameter functiontransformer__func=<function",
        ),
        (DenseNetClassifier(class_weight={True: 1.0, False: 3.0}), "class_weight=.*keys"),
        (DenseNetClassifier(class_weight={1: 1.0, "1": 3.0}), "class_weight=.*keys"),
        (DenseNetClassifier(categorical_features=pd.Index(["a"])), "categorical_features=Index"),
        (
            HyperEnsembleClassifier(DenseNetClassifier(), {"depth": randint(1, 4)}),
            "param_distributions=.*refers to itself",
        ),
    ],
    ids=["lambda", "truth", "text and number", "index", "randint"],
)
def test_unloadable_estimators_are_not_stored(model, message, tmp_path):
    """An existing file is not changed."""
    path = tmp_path / "model.skops"
    save(DenseNetClassifier(), path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match=rf"holds something .*{message}.* joblib"):
        save(model, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_keys_that_are_numbers(events, tmp_path):
    X = events.data[["PRI_tau_pt", "PRI_lep_pt"]]
    model = DenseNetClassifier(class_weight={0: 1.0, 1: 30.0}, **FAST).fit(X, events.target == "s")
    assert through_file(model, tmp_path).class_weight == {0: 1.0, 1: 30.0}


def test_several_may_store_to_one_path(tmp_path):
    path = tmp_path / "model.skops"

    def store(n_members):
        save(DenseNetClassifier(n_members=n_members), path)
        return load(path).n_members

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(store, range(1, 25)))
    assert set(found) <= set(range(1, 25))
    assert list(tmp_path.iterdir()) == [path]


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(DenseNetClassifier(n_members=4), "~/model.skops")
    assert load("~/model.skops").n_members == 4
    (tmp_path / "link.skops").symlink_to(tmp_path / "model.skops")
    save(DenseNetClassifier(n_members=5), tmp_path / "link.skops")
    assert load(tmp_path / "model.skops").n_members == 5
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        save(DenseNetClassifier(), tmp_path / "nowhere" / "model.skops")


def test_trusted_is_a_list_of_names(tmp_path):
    save(RandomForestClassifier(n_estimators=1).fit([[0], [1]], [0, 1]), tmp_path / "f.skops")
    assert load(tmp_path / "f.skops", trusted=TREE).n_estimators == 1
    for wrong in (True, None, [3]):
        with pytest.raises(TypeError, match="trusted must be a list of names"):
            load(tmp_path / "f.skops", trusted=wrong)


def rewritten(path, old, new):
    """Return a copy of a file with another description and, like files of the first version, no checksum."""
    other = path.with_name("other.skops")
    other.write_bytes(path.read_bytes())

    def change(entries):
        entries["schema.json"] = entries["schema.json"].replace(old, new)

    changed(other, change, checksum=False)
    return other


def test_files_of_other_versions_and_damaged_ones(tmp_path):
    path = tmp_path / "model.skops"
    save(DenseNetClassifier(), path)
    later = rewritten(path, b"DenseNetClassifier", b"SparseNetClassifier")
    with pytest.raises(
        ValueError, match=r"SparseNetClassifier, which skhep_nn\.save does not store"
    ):
        load(later)
    newer = rewritten(path, b'"protocol":', b'"protocol":9')
    with pytest.raises(ValueError, match=r"from another version: .*skops"):
        load(newer)
    model = DenseNetClassifier(**FAST).fit(np.eye(40), np.arange(40) % 2)
    save(model, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "cut.skops", "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name)[: None if name.endswith("json") else 90])
    with pytest.raises(ValueError, match=r"cut\.skops is damaged"):
        load(tmp_path / "cut.skops")


def test_any_change_is_found_by_the_checksum(tmp_path):
    path = tmp_path / "model.skops"
    save(DenseNetClassifier(max_epochs=1).fit([[0.0], [1.0]] * 20, [0, 1] * 20), path)
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert "checksum.sha256" in names
    for name in names:
        path.write_bytes(good)
        changed(
            path,
            lambda entries, name=name: entries.update({name: entries[name][:-1] + b"#"}),
            checksum=True,
        )
        with pytest.raises(ValueError, match=r"model\.skops is damaged, .*checksum"):
            load(path)
    path.write_bytes(good)
    changed(path, lambda entries: entries.update({"more.npy": b""}), checksum=True)
    with pytest.raises(ValueError, match="checksum"):
        load(path)


def test_files_without_a_checksum_load(tmp_path):
    """The first version wrote no checksums."""
    path = tmp_path / "model.skops"
    save(DenseNetClassifier(n_members=4), path)
    changed(path, lambda entries: entries.pop("checksum.sha256"), checksum=True)
    assert load(path).n_members == 4


def test_an_entry_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "model.skops"
    save(DenseNetClassifier(), path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("schema.json", "{}")
    with pytest.raises(ValueError, match=r"schema\.json more than once"):
        load(path)


def test_tables_with_more_than_arrays_stay_whole_in_a_pickle():
    model = DenseNetClassifier(**FAST).fit(np.eye(40), np.arange(40) % 2)
    model.history_ = model.history_.set_index(["member", "epoch"])
    loaded = pickle.loads(pickle.dumps(model))
    pd.testing.assert_frame_equal(loaded.history_, model.history_)


def test_files_of_other_kinds(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere.skops")
    text = tmp_path / "notes.txt"
    text.write_text("no archive")
    with pytest.raises(ValueError, match=r"notes\.txt was not written by skhep_nn\.save"):
        load(text)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match="not written by"):
        load(other)


def test_error_without_skops_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(ImportError, match=r"skhep_nn\[store\]"):
        save(DenseNetClassifier(), tmp_path / "model.skops")
    with pytest.raises(ImportError, match=r"skhep_nn\[store\]"):
        load(tmp_path / "model.skops")


def test_names_are_public():
    assert {"load", "save"} <= set(skhep_nn.__all__)
