import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from scipy.special import log_expit, logit, logsumexp
from scipy.stats import rankdata
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn import DenseNetClassifier
from skhep_nn.augmentation import EventAugmenter
from skhep_nn.estimators import AugmentedClassifier, AugmentedRegressor
from skhep_nn.estimators.augmented import inner_split
from skhep_nn.preprocessing import CartesianMomenta

NAMES = ["e_px", "e_py", "e_pz", "nu_px", "nu_py"]


@pytest.mark.filterwarnings("ignore:EventAugmenter found no momenta")
@parametrize_with_checks(
    [
        AugmentedClassifier(LogisticRegression()),
        AugmentedClassifier(RidgeClassifier(), n_copies=1, tta=False),
        AugmentedClassifier(DecisionTreeClassifier(random_state=0), include_original=False),
        AugmentedRegressor(Ridge()),
        AugmentedRegressor(DecisionTreeRegressor(random_state=0), n_copies=0),
    ]
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


@pytest.fixture
def data():
    """Momenta whose opening angle decides on the class."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(600, 5)), columns=NAMES)
    y = np.where(X["e_px"] * X["nu_px"] + X["e_py"] * X["nu_py"] > 0, "near", "far")
    return X, y, rng.uniform(0.5, 2, 600)


class Recorder(DummyClassifier):
    """Classifier that keeps its training data."""

    def fit(self, X, y, sample_weight=None, extra=None, names=None):
        self.seen_ = X, y, sample_weight, extra, names
        return super().fit(X, y, sample_weight)


class Shift(TransformerMixin, BaseEstimator):
    """Augmenter of another kind: no `random_state`, three views, no view of the unchanged rows."""

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return np.asarray(X) + 1

    def views(self, X):
        return (np.asarray(X) + shift for shift in (1, 2, 3))


def test_copies_weights_and_targets(data):
    X, y, w = data
    model = AugmentedClassifier(Recorder(), n_copies=3, random_state=0)
    model.fit(X, y, sample_weight=w, extra=list(range(600)), names=["a", "b"])
    X_seen, y_seen, w_seen, extra, names = model.estimator_.seen_
    assert X_seen.shape == (2400, 5)
    assert list(X_seen) == NAMES
    pd.testing.assert_frame_equal(X_seen[:600], X)
    assert np.array_equal(y_seen, np.tile(y, 4))
    np.testing.assert_allclose(w_seen, np.tile(w, 4) / 4)
    assert w_seen.sum() == pytest.approx(w.sum())
    assert np.array_equal(extra, np.tile(np.arange(600), 4))
    assert names == ["a", "b"]
    copies = X_seen[600:].to_numpy().reshape(3, 600, 5)
    pt = np.hypot(copies[..., 0], copies[..., 1])
    np.testing.assert_allclose(pt, np.tile(np.hypot(X["e_px"], X["e_py"]), (3, 1)))
    assert not np.allclose(copies[0], copies[1])
    model.set_params(include_original=False).fit(X, y)
    X_seen, _, w_seen, _, _ = model.estimator_.seen_
    assert len(X_seen) == 1800
    np.testing.assert_allclose(w_seen, 1 / 3)
    assert not np.allclose(X_seen[:600], X)


def test_no_weights_and_unit_weights_are_the_same(data):
    X, y, _ = data
    model = AugmentedClassifier(LogisticRegression(C=0.01), random_state=0)
    plain = clone(model).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(clone(model).fit(X, y, np.ones(600)).predict_proba(X), plain)


def test_augmentation_helps(data):
    X, y, w = data
    train, test = slice(400), slice(400, None)
    inner = HistGradientBoostingClassifier(max_iter=60, random_state=0)
    model = AugmentedClassifier(inner, n_copies=8, random_state=0)

    def loss(fitted):
        return log_loss(y[test], fitted.predict_proba(X[test]), sample_weight=w[test])

    alone = loss(inner.fit(X[train], y[train], w[train]))
    with_copies = loss(clone(model).set_params(tta=False).fit(X[train], y[train], w[train]))
    with_views = loss(model.fit(X[train], y[train], sample_weight=w[train]))
    assert with_views < with_copies < alone


def test_predictions_are_the_mean_over_views(data):
    X, y, _ = data
    model = AugmentedClassifier(LogisticRegression(), random_state=0).fit(X, y)
    views = list(model.augmenter_.views(X))
    expected = np.mean([model.estimator_.predict_proba(view) for view in views], axis=0)
    np.testing.assert_allclose(model.predict_proba(X), expected)
    np.testing.assert_allclose(expected.sum(axis=1), 1)
    assert np.array_equal(model.predict(X), model.classes_[expected.argmax(axis=1)])
    assert model.predict(X).dtype == y.dtype
    np.testing.assert_allclose(model.decision_function(X), logit(expected[:, 1]), atol=1e-14)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(expected))
    model.set_params(tta=False)
    np.testing.assert_allclose(model.predict_proba(X), model.estimator_.predict_proba(X))
    own = model.estimator_.decision_function(X)
    np.testing.assert_array_equal(model.decision_function(X), own)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_scores_of_trees_agree_with_their_probabilities(data, n_classes):
    """Trees have no decision function, and probabilities of exactly 0 and many ties."""
    X, y, _ = data
    y = y if n_classes == 2 else np.where(X["e_pz"] > 1, "high", y)
    inner = RandomForestClassifier(5, random_state=0)
    model = AugmentedClassifier(inner, n_copies=1, random_state=0).fit(X, y)
    scores, p = model.decision_function(X), model.predict_proba(X)
    assert np.isfinite(scores).all()
    assert (p == 0).any()
    best = (scores > 0).astype(int) if n_classes == 2 else scores.argmax(axis=1)
    assert np.array_equal(model.predict(X), model.classes_[best])
    if n_classes == 2:
        assert np.array_equal(rankdata(scores.round(9)), rankdata(p[:, 1].round(12)))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(model.predict_log_proba(X), np.log(p), atol=1e-12)


def test_scores_around_a_network_do_not_saturate(data):
    X, y, _ = data
    inner = make_pipeline(StandardScaler(), DenseNetClassifier(max_epochs=2, random_state=0))
    model = AugmentedClassifier(inner, n_copies=1, random_state=0).fit(X, y)
    states = model.estimator_[-1].ensemble_.states
    for name in ("output.weight", "output.bias"):
        states[name] *= 500
    p, scores = model.predict_proba(X), model.decision_function(X)
    assert (p == 1).any()
    assert len(np.unique(scores[scores > 20])) == (scores > 20).sum() > 1
    assert np.array_equal(model.predict(X), model.classes_[(scores > 0) * 1])
    logits = [model.estimator_.decision_function(view) for view in model.augmenter_.views(X)]
    expected = logsumexp([log_expit(own) for own in logits], axis=0)
    expected -= logsumexp([log_expit(-np.asarray(own)) for own in logits], axis=0)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_predictions_are_invariant_under_the_views(data):
    X, y, _ = data
    inner = make_pipeline(PolynomialFeatures(2), LogisticRegression(max_iter=1000))
    model = AugmentedClassifier(inner, n_copies=0).fit(X, y)
    expected = model.predict_proba(X)
    assert not np.allclose(model.estimator_.predict_proba(X), expected)
    for view in model.augmenter_.views(X):
        np.testing.assert_allclose(model.predict_proba(view), expected, rtol=1e-9)


def test_classifiers_without_probabilities(data):
    X, y, _ = data
    model = AugmentedClassifier(RidgeClassifier(), random_state=0).fit(X, y)
    assert not hasattr(model, "predict_proba")
    assert not hasattr(model, "predict_log_proba")
    views = [model.estimator_.decision_function(view) for view in model.augmenter_.views(X)]
    np.testing.assert_allclose(model.decision_function(X), np.mean(views, axis=0))
    with pytest.raises(AttributeError, match="has no attribute 'predict_proba'") as caught:
        _ = model.predict_proba
    assert "RidgeClassifier" in str(caught.value.__cause__)
    assert np.array_equal(model.predict(X), model.classes_[(model.decision_function(X) > 0) * 1])


class LabelsOnly(ClassifierMixin, BaseEstimator):
    """Classifier that predicts only labels."""

    def fit(self, X, y):
        self.inner_ = RidgeClassifier().fit(X, y)
        self.classes_ = self.inner_.classes_
        return self

    def predict(self, X):
        return self.inner_.predict(X)


def test_classifiers_with_labels_only(data):
    X, y, _ = data
    model = AugmentedClassifier(LabelsOnly(), n_copies=2, random_state=0).fit(X, y)
    labels = np.array([model.estimator_.predict(view) for view in model.augmenter_.views(X)])
    clear = np.abs((labels == "near").mean(axis=0) - 0.5) > 0.01
    majority = np.where((labels == "near").mean(axis=0) > 0.5, "near", "far")
    assert not hasattr(model, "decision_function")
    assert not hasattr(model, "predict_log_proba")
    assert 0 < clear.sum() < len(X)
    assert np.array_equal(model.predict(X)[clear], majority[clear])
    assert np.array_equal(model.set_params(tta=False).predict(X), model.estimator_.predict(X))


def test_regressor_with_one_and_many_targets(data):
    X, _, w = data
    y = np.hypot(X["e_px"], X["e_py"])
    model = AugmentedRegressor(RandomForestRegressor(10, random_state=0), random_state=0)
    model.fit(X[:400], y[:400], sample_weight=w[:400])
    assert model.predict(X).shape == (600,)
    alone = RandomForestRegressor(10, random_state=0).fit(X[:400], y[:400], w[:400])
    assert model.score(X[400:], y[400:]) > alone.score(X[400:], y[400:])
    both = np.column_stack([y, 2 * y])
    out = model.fit(X, both).predict(X)
    assert out.shape == (600, 2)
    views = model.augmenter_.views(X)
    np.testing.assert_allclose(out, np.mean([model.estimator_.predict(v) for v in views], axis=0))


def test_any_augmenter(data):
    X = data[0]
    target = X["e_px"] * 3
    model = AugmentedRegressor(LinearRegression(), augmenter=Shift(), n_copies=1, random_state=0)
    model.fit(X, target)
    inner = model.estimator_
    expected = np.mean([inner.predict(X.to_numpy() + s) for s in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(model.predict(X), expected)


def test_images_of_more_dimensions_reach_the_augmenter():
    class Mirror(Shift):
        def transform(self, X):
            return X[:, :, ::-1]

        def views(self, X):
            return iter((X, X[:, :, ::-1]))

    class Brightness(BaseEstimator):
        def fit(self, X, y):
            self.shape_ = X.shape
            return self

        def predict(self, X):
            return X.sum(axis=(1, 2))

    X = np.random.default_rng(0).normal(size=(10, 4, 6))
    model = AugmentedRegressor(Brightness(), augmenter=Mirror(), n_copies=2)
    model.fit(X, np.arange(10.0))
    assert model.estimator_.shape_ == (30, 4, 6)
    np.testing.assert_allclose(model.predict(X), X.sum(axis=(1, 2)))


def test_seed(data):
    X, y, _ = data
    model = AugmentedClassifier(DecisionTreeClassifier(random_state=0), n_copies=1, tta=False)
    seeded = clone(model).set_params(random_state=1)
    one, again = seeded.fit(X, y).predict(X[::-1]), clone(seeded).fit(X, y).predict(X[::-1])
    assert np.array_equal(one, again)
    thresholds = [clone(seeded).set_params(random_state=s).fit(X, y) for s in (1, 2)]
    assert not np.array_equal(*(m.estimator_.tree_.threshold[:3] for m in thresholds))
    own = clone(model).set_params(augmenter=EventAugmenter(random_state=5)).fit(X, y)
    assert own.augmenter_.random_state == 5
    nested = make_pipeline(EventAugmenter(), "passthrough")
    found = clone(seeded).set_params(augmenter=nested)._new_augmenter()
    assert isinstance(found.get_params()["eventaugmenter__random_state"], int | np.integer)


def test_clone_grid_search_pipeline_and_storage(data, tmp_path):
    X, y, _ = data
    model = AugmentedClassifier(LogisticRegression(), n_copies=1, random_state=0)
    pipeline = make_pipeline(CartesianMomenta(missing=0.0, columns=NAMES), model)
    with pytest.warns(UserWarning, match="CartesianMomenta found no momenta"):
        pipeline.fit(X, y)
    assert list(pipeline[-1].feature_names_in_) == NAMES
    assert pipeline[-1].n_features_in_ == 5
    grid = GridSearchCV(
        model, {"estimator__C": [1e-4, 1.0], "augmenter__flip_z": [True, False]}, cv=2, n_jobs=2
    )
    grid.set_params(estimator__augmenter=EventAugmenter()).fit(X, y)
    assert set(grid.best_params_) == {"estimator__C", "augmenter__flip_z"}
    joblib.dump(grid, tmp_path / "grid")
    for twin in (joblib.load(tmp_path / "grid"), pickle.loads(pickle.dumps(grid))):
        np.testing.assert_array_equal(twin.predict_proba(X), grid.predict_proba(X))
    with pytest.raises(NotFittedError):
        clone(grid.best_estimator_).predict(X)


def test_metadata_routing(data):
    X, y, w = data
    with config_context(enable_metadata_routing=True):
        silent = AugmentedClassifier(Recorder(), n_copies=1)
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            silent.fit(X, y, sample_weight=w)
        model = AugmentedClassifier(Recorder().set_fit_request(sample_weight=True), n_copies=1)
        model.set_score_request(sample_weight=True)
        model.fit(X, y, sample_weight=w)
        np.testing.assert_allclose(model.estimator_.seen_[2], np.tile(w, 2) / 2)
        grid = GridSearchCV(model, {"estimator__strategy": ["prior", "uniform"]}, cv=2)
        grid.fit(X, y, sample_weight=w)
        assert grid.best_estimator_.estimator_.seen_[2].sum() == pytest.approx(w.sum())
        steps = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            LogisticRegression().set_fit_request(sample_weight=True),
        )
        routed = AugmentedClassifier(steps, random_state=0).fit(X, y, sample_weight=w)
        unweighted = AugmentedClassifier(clone(steps), random_state=0).fit(X, y)
        assert not np.allclose(routed.predict_proba(X), unweighted.predict_proba(X))


def test_real_events(higgsml_excerpt):
    X = higgsml_excerpt.filter(regex="^(DER|PRI)_")[:2000]
    y, w = higgsml_excerpt["Label"][:2000], higgsml_excerpt["Weight"][:2000]
    model = AugmentedClassifier(HistGradientBoostingClassifier(max_iter=20), n_copies=1)
    model.fit(X, y, sample_weight=w)
    assert model.predict_proba(X).shape == (2000, 2)
    assert set(model.predict(X)) == {"b", "s"}
    assert model.score(X, y) > 0.5


def test_weights_that_the_estimator_does_not_take(data):
    X, y, w = data
    with pytest.raises(ValueError, match=r"KNeighborsClassifier\.fit takes no sample_weight"):
        AugmentedClassifier(KNeighborsClassifier()).fit(X, y, sample_weight=w)
    AugmentedClassifier(KNeighborsClassifier(), n_copies=1).fit(X, y)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(5), r"sample_weight.shape == \(5,\)"),
        (np.zeros(600), "zero"),
        (np.full(600, np.nan), "NaN"),
    ],
)
def test_bad_weights(data, weight, message):
    X, y, _ = data
    with pytest.raises(ValueError, match=message):
        AugmentedClassifier(LogisticRegression()).fit(X, y, sample_weight=weight)


def test_bad_parameters_and_data(data):
    X, y, _ = data
    inner = LogisticRegression()
    for bad in (-1, 0.5, "many"):
        with pytest.raises(ValueError, match="n_copies must be an integer of at least 0"):
            AugmentedClassifier(inner, n_copies=bad).fit(X, y)
    with pytest.raises(ValueError, match="include_original must be True"):
        AugmentedClassifier(inner, n_copies=0, include_original=False).fit(X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        AugmentedClassifier(inner).fit(X, y[:-1])
    with pytest.raises(ValueError, match="Unknown label type"):
        AugmentedClassifier(inner).fit(X, X["e_px"])
    model = AugmentedClassifier(inner).fit(X, y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(X.rename(columns={"e_px": "mu_px"}))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(X.iloc[:, :3])
    with pytest.raises(ValueError, match="infinity"):
        model.predict(X.replace({"e_pz": {X["e_pz"].iloc[0]: np.inf}}))
    with pytest.raises(ValueError, match="numeric columns, got 'kind'"):
        AugmentedClassifier(inner).fit(X.assign(kind="a"), y)


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (CalibratedClassifierCV(LogisticRegression(), cv=2), "cv"),
        (GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2), "cv"),
        (HistGradientBoostingClassifier(max_iter=2, early_stopping=True), "early_stopping"),
        (GradientBoostingClassifier(n_estimators=2, n_iter_no_change=1), "n_iter_no_change"),
        (RandomForestClassifier(100, oob_score=True), "oob_score"),
        (DenseNetClassifier(n_members=2, max_epochs=1, width=4, depth=1), "n_members"),
        (make_pipeline(StandardScaler(), GridSearchCV(LogisticRegression(), {"C": [1.0]})), "cv"),
    ],
)
def test_copies_on_both_sides_of_an_inner_split(data, estimator, name):
    """Validation on a copy of a training event tests nothing."""
    X, y, _ = data
    model = AugmentedClassifier(estimator, random_state=0)
    with pytest.warns(UserWarning, match=rf"\({name}\), and copies of one event are on both sides"):
        model.fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clone(model).set_params(n_copies=0).fit(X, y)


def test_boosting_counts_copies_when_it_decides_to_stop_early():
    """By default it stops early above 10,000 rows."""
    assert inner_split(HistGradientBoostingClassifier(), 10_000) is None
    assert inner_split(HistGradientBoostingClassifier(), 10_001) == "early_stopping"
    assert inner_split(HistGradientBoostingClassifier(early_stopping=False), 10_001) is None
    assert inner_split(CalibratedClassifierCV(cv="prefit"), 1) is None
    assert inner_split(GradientBoostingClassifier(), 1) is None


class Frame:
    """A table of another library that can be converted to pandas."""

    def __init__(self, table):
        self.table, self.columns, self.shape = table, list(table.columns), table.shape

    def to_pandas(self):
        return self.table

    def __len__(self):
        return len(self.table)


def test_tables_of_other_libraries(data):
    X, y, _ = data
    for model in (
        AugmentedClassifier(LogisticRegression(), random_state=0),
        make_pipeline(EventAugmenter(random_state=0), LogisticRegression()),
    ):
        expected = clone(model).fit(X, y).predict_proba(X)
        np.testing.assert_array_equal(model.fit(Frame(X), y).predict_proba(Frame(X)), expected)


def test_an_array_without_names_is_an_error_unless_the_augmenter_names_its_columns(data):
    X, y, _ = data
    model = AugmentedClassifier(LogisticRegression(), augmenter=EventAugmenter(), n_copies=1)
    with pytest.raises(ValueError, match=r"AugmentedClassifier got X without column names"):
        model.fit(X.to_numpy(), y)
    model.set_params(augmenter__columns=NAMES).fit(X.to_numpy(), y)
    assert list(model.augmenter_.objects_) == ["e", "nu"]
    with pytest.warns(UserWarning, match=r"without column names: give them as columns"):
        model.set_params(augmenter=None).fit(X.to_numpy(), y)


def test_the_scaler_belongs_into_the_estimator(data):
    X, y, _ = data
    scaler = StandardScaler().set_output(transform="pandas")
    outside = make_pipeline(scaler, AugmentedClassifier(LogisticRegression(), n_copies=1))
    with pytest.warns(UserWarning, match="look scaled"):
        outside.fit(X, y)
    AugmentedClassifier(make_pipeline(StandardScaler(), RidgeClassifier()), n_copies=0).fit(X, y)
