"""A second regressor on the predictions of a first one."""

import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn import CaloCNNRegressor, StackedPostRegressor

VALUES = np.array([1.0, 3.0, 6.0, 10.0])
FOLDS = "rows of weight zero take part in the folds, rows that are left out do not"


@parametrize_with_checks(
    [
        StackedPostRegressor(LinearRegression(), post_regressor=Ridge(), cv=2),
        StackedPostRegressor(DecisionTreeRegressor(random_state=0), cv=2),
    ],
    expected_failed_checks=lambda model: {
        f"check_sample_weight_equivalence_on_{kind}_data": FOLDS
        for kind in ("dense", "sparse")
        if isinstance(model.estimator, DecisionTreeRegressor)
    },
)
def test_conforms_to_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite warns about checks that it skips
        check(estimator)


@pytest.fixture(scope="module")
def data():
    """Noisy rows whose target is one of four values."""
    rng = np.random.default_rng(0)
    y = rng.choice(VALUES, 400)
    return y[:, None] * [1, 0.5, 0.2] + rng.normal(scale=0.4, size=(400, 3)), y


def stacked(estimator=None, **params):
    defaults = {"post_regressor": RandomForestRegressor(20, random_state=0), "random_state": 0}
    return StackedPostRegressor(
        LinearRegression() if estimator is None else estimator, **defaults | params
    )


class Recorder(RandomForestRegressor):
    """Regressor that keeps its training data."""

    def fit(self, X, y, sample_weight=None):
        self.seen_ = X, y, sample_weight
        return super().fit(X, y, sample_weight)


def test_the_post_regressor_sees_out_of_fold_predictions_and_sums(data):
    X, y = data
    folds = KFold(4, shuffle=True, random_state=3)
    tree = DecisionTreeRegressor(random_state=0)
    model = stacked(tree, post_regressor=Recorder(5, random_state=0), cv=folds).fit(X, y)
    features, target, _ = model.post_regressor_.seen_
    expected = np.column_stack([cross_val_predict(tree, X, y, cv=folds), X.sum(1)])
    np.testing.assert_allclose(features, expected)
    np.testing.assert_array_equal(target, y)
    # Predictions for training rows would be perfect:
    assert np.abs(features[:, 0] - y).mean() > 0.01
    np.testing.assert_array_equal(model.estimator_.predict(X), y)
    np.testing.assert_array_equal(
        model.predict(X), model.post_regressor_.predict(np.column_stack([y, X.sum(1)]))
    )


def test_it_gains_where_targets_are_a_few_values_and_loses_elsewhere(data):
    """The case of the warning in the documentation."""
    X, y = data
    model = StackedPostRegressor(LinearRegression(), random_state=0).fit(X[:300], y[:300])
    post = model.post_regressor_
    assert (post.criterion, post.max_depth) == ("absolute_error", 50)
    error = np.abs(model.predict(X[300:]) - y[300:]).mean()
    assert error < 0.7 * np.abs(model.estimator_.predict(X[300:]) - y[300:]).mean()
    rng = np.random.default_rng(1)
    other = rng.choice([4.5, 14.0], 200)
    X_other = other[:, None] * [1, 0.5, 0.2] + rng.normal(scale=0.4, size=(200, 3))
    error = np.abs(model.predict(X_other) - other).mean()
    assert error > 2 * np.abs(model.estimator_.predict(X_other) - other).mean()


def width(X):
    return np.asarray(X).std(axis=1)


def extremes(X):
    return pd.DataFrame({"lowest": np.min(X, axis=1), "highest": np.max(X, axis=1)})


def both(X):
    return np.column_stack([np.min(X, axis=1), np.max(X, axis=1)])


@pytest.mark.parametrize(
    ("features", "names"),
    [
        ("sum", ["sum"]),
        (None, []),
        (width, ["width"]),
        (extremes, ["lowest", "highest"]),
        (both, ["both 0", "both 1"]),
        (PCA(2), ["pca0", "pca1"]),
        (lambda X: np.ones(len(X)), ["<lambda>"]),
    ],
)
def test_input_features_and_their_names(data, features, names):
    X, y = data
    model = stacked(input_features=features).fit(X, y)
    importances = model.feature_importances_
    assert list(importances.index) == ["prediction", *names]
    assert importances.sum() == pytest.approx(1)
    np.testing.assert_array_equal(importances, model.post_regressor_.feature_importances_)
    assert len(model.predict(X[:7])) == 7
    if isinstance(features, PCA):
        assert not hasattr(features, "components_")  # a clone was fitted


def test_names_can_be_given(data):
    X, y = data
    model = stacked(input_features=both, feature_names=["low", "high"]).fit(X, y)
    assert list(model.feature_importances_.index) == ["prediction", "low", "high"]
    with pytest.raises(ValueError, match="must be 2 names"):
        stacked(input_features=both, feature_names=["low"]).fit(X, y)


def test_several_targets_images_and_sparse_rows(data):
    X, y = data
    two = np.column_stack([y, -y])
    model = stacked(input_features=None).fit(X, two)
    assert model.predict(X).shape == (400, 2)
    assert list(model.post_feature_names_) == ["prediction 0", "prediction 1"]
    rows = stacked(post_regressor=Recorder(5)).fit(sparse.csr_array(X), y)
    np.testing.assert_allclose(rows.post_regressor_.seen_[0][:, 1], X.sum(1))


def test_prefit(data):
    X, y = data
    fitted = LinearRegression().fit(X[:200], y[:200])
    model = stacked(fitted, cv="prefit").fit(X[200:], y[200:])
    assert model.estimator_ is fitted
    assert np.abs(model.predict(X[200:]) - y[200:]).mean() < 0.3
    with pytest.raises(NotFittedError):
        stacked(cv="prefit").fit(X, y)
    frozen = clone(stacked(FrozenEstimator(fitted), cv="prefit")).fit(X[200:], y[200:])
    np.testing.assert_array_equal(frozen.predict(X), model.predict(X))
    # Only the post-regressor is fitted, and only it has to take weights.
    fitted = KNeighborsRegressor().fit(X[:200], y[:200])
    stacked(fitted, cv="prefit").fit(X[200:], y[200:], sample_weight=np.ones(200))


@pytest.mark.slow
def test_it_composes_and_is_stored(data, tmp_path):
    X, y = data
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    pipeline = make_pipeline(StandardScaler(), stacked(Ridge(), n_jobs=2))
    grid = {
        "stackedpostregressor__estimator__alpha": [1.0, 1e5],
        "stackedpostregressor__post_regressor__max_depth": [1, None],
    }
    search = GridSearchCV(pipeline, grid, cv=2).fit(frame, y)
    assert search.best_params_["stackedpostregressor__estimator__alpha"] == 1.0
    path = tmp_path / "search.joblib"
    joblib.dump(search, path)
    np.testing.assert_array_equal(joblib.load(path).predict(frame), search.predict(frame))
    inside = stacked(make_pipeline(StandardScaler(), Ridge())).fit(frame, y)
    assert list(inside.feature_names_in_) == ["a", "b", "c"]
    assert inside.n_features_in_ == 3


def test_random_state_alone_decides(data):
    X, y = data
    tree = DecisionTreeRegressor(max_depth=3, random_state=0)
    models = [StackedPostRegressor(tree, random_state=s).fit(X, y).predict(X) for s in (1, 1, 2)]
    np.testing.assert_array_equal(models[0], models[1])
    assert not np.array_equal(models[0], models[2])
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the state of other code
    StackedPostRegressor(tree).fit(X, y)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_weights_are_for_both(data):
    X, y = data
    weight = np.where(y < 5, 1.0, 1e-9)
    model = stacked(Ridge(1e-6), post_regressor=Recorder(5)).fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(model.post_regressor_.seen_[2], weight)
    expected = Ridge(1e-6).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(model.estimator_.coef_, expected.coef_)
    folds = model.post_regressor_.seen_[0][:, 0]
    assert np.corrcoef(folds[y < 5], expected.predict(X)[y < 5])[0, 1] > 0.99
    for params in ({"estimator": KNeighborsRegressor()}, {"post_regressor": KNeighborsRegressor()}):
        with pytest.raises(ValueError, match=r"KNeighborsRegressor.*takes no sample_weight"):
            stacked(**params).fit(X, y, sample_weight=weight)


def test_routing(data):
    X, y = data
    weight = np.where(y < 5, 1.0, 0.5)
    with config_context(enable_metadata_routing=True):
        post = Recorder(5).set_fit_request(sample_weight=True)
        ridge = Ridge().set_fit_request(sample_weight=False)
        model = stacked(ridge, post_regressor=post).fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(model.post_regressor_.seen_[2], weight)
    np.testing.assert_allclose(model.estimator_.coef_, Ridge().fit(X, y).coef_)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"cv": "fitted"}, "'prefit'"),
        ({"cv": ShuffleSplit(3, random_state=0)}, "every row once"),
        ({"input_features": "product"}, "input_features='product'"),
        ({"input_features": 3}, "input_features=3"),
        ({"input_features": lambda X: X[:-1, 0]}, "input_features must return"),
        ({"aux_features": True}, "LinearRegression has no predict_aux_proba"),
    ],
)
def test_wrong_parameters_are_named(data, params, message):
    with pytest.raises(ValueError, match=message):
        stacked(**params).fit(*data)


def test_without_importances(data):
    model = stacked(post_regressor=DummyRegressor())
    assert not hasattr(model, "feature_importances_")
    assert not hasattr(model.fit(*data), "feature_importances_")


@pytest.fixture(scope="module")
def spots():
    """Images of a bright or a wide spot of one of three energies."""
    rng = np.random.default_rng(0)
    wide, energy = np.arange(120) % 2, np.array([1.0, 3.0, 9.0])[np.arange(120) % 3]
    r2 = np.square(np.arange(8) - 3.5)
    images = np.exp(-(r2[:, None] + r2) / np.where(wide, 12, 2)[:, None, None])
    images *= energy[:, None, None]
    return images + 0.1 * rng.normal(size=images.shape), energy, np.array(["ion", "e"])[wide]


def test_networks_with_classes(spots):
    images, energy, label = spots
    small = {"channels": (8,), "kernels": 3, "dropout": 0.0, "dense": (), "dense_dropout": 0.0}
    network = CaloCNNRegressor(network_params=small, max_epochs=15, batch_size=20, random_state=0)
    model = stacked(network, aux_features=True, cv=3).fit(images, energy, aux_target=label)
    assert list(model.post_feature_names_) == ["prediction", "probability of ion", "sum"]
    assert np.abs(model.predict(images) - energy).mean() < 0.5
    # A class that only one of the folds has still gets probabilities.
    rare = label.astype(object)
    rare[[0, 3]] = "muon"
    folds = [(np.arange(40, 120), np.arange(40)), (np.arange(80), np.arange(80, 120))]
    folds.append((np.delete(np.arange(120), np.s_[40:80]), np.arange(40, 80)))
    model.set_params(cv=folds, estimator__max_epochs=1, post_regressor=Recorder(5))
    model.fit(images, energy, aux_target=rare)
    seen = model.post_regressor_.seen_[0]
    assert seen.shape == (120, 4)
    assert (seen[:40, 2] == 0).all()
    assert (seen[40:, 2] > 0).all()
    with pytest.raises(ValueError, match="CaloCNNRegressor has no predict_aux_proba"):
        model.fit(images, energy)
