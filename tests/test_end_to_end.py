"""The public face as a whole: nothing forgotten, and the Higgs job as a user writes it."""

import inspect

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

import skhep_nn
from skhep_nn import (
    CartesianMomenta,
    DenseNetClassifier,
    EventAugmenter,
    OneCycle,
    ams_score,
    best_cut,
    make_ams_scorer,
    make_higgs_events,
)
from skhep_nn.metrics import rescale_weights

TOTALS = {"s": 691.9886, "b": 410_999.8473}
# What is fitted, by name: the files of tests that run scikit-learn's suite over it.
CONFORMANCE = {
    "ArchitectureSearch": "tuning/test_architecture_search",
    "AugmentedClassifier": "estimators/test_augmented",
    "AugmentedRegressor": "estimators/test_augmented",
    "CaloCNNClassifier": "estimators/test_calo",
    "CaloCNNRegressor": "estimators/test_calo",
    "CartesianMomenta": "preprocessing/test_events",
    "DenseNetClassifier": "estimators/test_dense",
    "DenseNetRegressor": "estimators/test_dense",
    "EventAligner": "preprocessing/test_events",
    "EventAugmenter": "augmentation/test_events",
    "HyperEnsembleClassifier": "tuning/test_hyper_ensemble",
    "HyperEnsembleRegressor": "tuning/test_hyper_ensemble",
    "ImageAugmenter": "augmentation/test_images",
    "ImageCropper": "preprocessing/test_images",
    "ImageScaler": "preprocessing/test_images",
    "StackedPostRegressor": "estimators/test_stacking",
    "WaveformAugmenter": "augmentation/test_waveforms",
    "WaveformClassifier": "estimators/test_waveform",
    "WaveformRegressor": "estimators/test_waveform",
    "WaveformScaler": "preprocessing/test_waveforms",
}


def test_the_conformance_suite_runs_over_everything_public(request):
    public = {
        name
        for name in skhep_nn.__all__
        if inspect.isclass(thing := getattr(skhep_nn, name))
        and issubclass(thing, BaseEstimator)
        and hasattr(thing, "fit")
    }
    assert public == set(CONFORMANCE)
    for name, module in CONFORMANCE.items():
        source = (request.path.parent / f"{module}.py").read_text()
        assert "parametrize_with_checks" in source
        assert f"{name}(" in source


@pytest.fixture(scope="module")
def events():
    return make_higgs_events(6000, random_state=0)


@pytest.fixture(scope="module")
def halves(events):
    return train_test_split(
        events.data,
        events.target,
        events.sample_weight,
        test_size=0.5,
        stratify=events.target,
        random_state=0,
    )


def job(**params):
    network = DenseNetClassifier(
        augmentation=EventAugmenter(),
        categorical_features=["PRI_jet_num"],
        embedding_sizes=3,
        class_weight="balanced",
        random_state=0,
        **params,
    )
    return make_pipeline(CartesianMomenta(), network)


def test_the_higgs_job(halves, tmp_path):
    X, X_test, y, y_test, w, w_test = halves
    model = job(n_members=4, max_epochs=10, stratify_by="PRI_jet_num")
    model.fit(X, y, densenetclassifier__sample_weight=w)
    p = model.predict_proba(X_test)[:, list(model.classes_).index("s")]
    weight = rescale_weights(y_test, w_test, TOTALS)
    cut = best_cut(y_test, p, weight).cut
    everything = ams_score(y_test, np.ones(len(p), dtype=bool), weight)
    assert ams_score(y_test, p >= cut, weight) > 1.5 * everything
    joblib.dump(model, tmp_path / "higgs.joblib")
    again = joblib.load(tmp_path / "higgs.joblib")
    np.testing.assert_array_equal(again.predict_proba(X_test)[:, 1], p)


def test_grid_search_with_weights_and_the_significance_as_score(halves):
    X, _, y, _, w, _ = halves
    with sklearn.config_context(enable_metadata_routing=True):
        model = job(max_epochs=2, schedule=OneCycle())
        model[-1].set_fit_request(sample_weight=True)
        scorer = make_ams_scorer(totals=TOTALS).set_score_request(sample_weight=True)
        search = GridSearchCV(
            model, {"densenetclassifier__schedule__max_lr": [1e-6, 1e-2]}, scoring=scorer, cv=2
        )
        search.fit(X, y, sample_weight=w)
    assert search.best_params_ == {"densenetclassifier__schedule__max_lr": 1e-2}
    assert np.all(np.isfinite(search.cv_results_["mean_test_score"]))
