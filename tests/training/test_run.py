"""Weights of events and members, and the standardisation of inputs, in whole fits."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.model_selection import GridSearchCV, cross_validate

from skhep_nn import Constant, DenseNetClassifier, DenseNetRegressor
from skhep_nn.preprocessing import weighted_moments
from tests.small_fits import Script, quick, small_events


@pytest.fixture
def events():
    return small_events()


@pytest.fixture
def contested():
    """The same rows twice with opposite labels: only the weights say which copy is right."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(150, 2))
    label = (X[:, 0] > 0).astype(int)
    order = rng.permutation(300)
    X2, y2 = np.vstack([X, X])[order], np.concatenate([label, 1 - label])[order]
    first = np.where(order < 150, 1.0, 0.02)
    return X2, y2, first, np.where(order < 150, 0.02, 1.0), (X2[:, 0] > 0).astype(int)


class TestWeightsInsideFolds:
    def model(self, n_members=1):
        return quick(max_epochs=60, n_members=n_members)

    @pytest.mark.parametrize("n_members", [1, 2])
    def test_cross_validate(self, contested, n_members):
        X, y, first, second, label = contested
        for weight, winner in ((first, label), (second, 1 - label)):
            with config_context(enable_metadata_routing=True):
                model = self.model(n_members).set_fit_request(sample_weight=True)
                model.set_score_request(sample_weight=True)
                scores = cross_validate(
                    model, X, y, cv=2, params={"sample_weight": weight}, return_estimator=True
                )
            assert scores["test_score"].min() > 0.85
            for fitted in scores["estimator"]:
                assert np.mean(fitted.predict(X) == winner) > 0.9

    def test_grid_search(self, contested):
        X, y, first, second, label = contested
        for weight, winner in ((first, label), (second, 1 - label)):
            with config_context(enable_metadata_routing=True):
                model = self.model().set_fit_request(sample_weight=True)
                model.set_score_request(sample_weight=True)
                search = GridSearchCV(model, {"depth": [1, 2]}, cv=2)
                search.fit(X, y, sample_weight=weight)
            assert search.cv_results_["mean_test_score"].min() > 0.85
            assert np.mean(search.predict(X) == winner) > 0.9

    def test_weights_that_are_not_asked_for_do_not_act(self, contested):
        """The converse: without them nothing tells the copies apart."""
        X, y, first, _, _ = contested
        with config_context(enable_metadata_routing=True):
            model = self.model().set_fit_request(sample_weight=False)
            model.set_score_request(sample_weight=True)
            scores = cross_validate(
                model, X, y, cv=2, params={"sample_weight": first}, return_estimator=True
            )
        for fitted in scores["estimator"]:
            p = fitted.predict_proba(X)[:, 1]
            assert np.abs(p - 0.5).mean() < 0.3
        assert scores["test_score"].mean() < 0.75


class TestMoments:
    def test_targets_of_weight_zero_do_not_act(self, events):
        """Not by their size either, which would set the scale of all targets."""
        X, _, w = events
        w[::3] = 0
        y = X[:, 0] + X[:, 1]
        wild = np.where(w == 0, 1e6, y)
        p, q = (
            quick(DenseNetRegressor, n_members=2).fit(X, t, sample_weight=w).predict(X)
            for t in (y, wild)
        )
        np.testing.assert_array_equal(p, q)

    def test_a_network_that_learns_nothing_predicts_the_weighted_mean(self, events):
        X, _, w = events
        Y = np.column_stack([100 + 10 * X[:, 0], -3 + X[:, 1]])
        w = np.where(X[:, 0] > 0, 10 * w, w)
        frozen = quick(DenseNetRegressor, schedule=Constant(1e-12), callbacks=[Script([[0.0]])])
        predicted = frozen.fit(X, Y, sample_weight=w).predict(X)
        expected = np.broadcast_to(np.average(Y, axis=0, weights=w), Y.shape)
        np.testing.assert_allclose(predicted, expected, rtol=1e-5)

    def test_negative_weights_count_by_their_size(self):
        X = np.array([[0.0, 1.0], [2.0, 1.0], [7.0, -4.0]])
        w = np.array([1.0, 3.0, -2.0])
        mean, scale = weighted_moments(X, w)
        expected = np.average(X, axis=0, weights=np.abs(w))
        np.testing.assert_allclose(mean, expected)
        np.testing.assert_allclose(
            scale, np.sqrt(np.average((X - expected) ** 2, axis=0, weights=np.abs(w)))
        )
        np.testing.assert_array_equal(w, [1, 3, -2])

    @pytest.mark.parametrize("cls", [DenseNetClassifier, DenseNetRegressor])
    def test_a_fit_with_negative_weights_standardises_by_their_size(self, events, cls):
        X, y, w = events
        w[:60] *= -1
        state = quick(cls).fit(X, y, sample_weight=w).ensemble_.states
        mean = np.average(X.astype(float), axis=0, weights=np.abs(w))
        np.testing.assert_allclose(state["input_stage.mean"][0], mean, rtol=1e-4, atol=1e-6)
        scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=np.abs(w)))
        np.testing.assert_allclose(state["input_stage.scale"][0], scale, rtol=1e-5)


def test_members_whose_fold_lacks_a_class_get_equal_weight():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = np.where(np.arange(60) < 2, "rare", np.where(X[:, 0] > 0, "up", "down"))
    model = DenseNetClassifier(n_members=4, max_epochs=3, random_state=0)
    with pytest.warns(UserWarning, match=r"member \d, \d hold no event of some class.*same weight"):
        model.fit(X, y)
    np.testing.assert_allclose(model.ensemble_.weights, 1 / 4)
    model.fit(X, np.where(y == "rare", "up", y))
    assert len(np.unique(model.ensemble_.weights)) == 4


def test_events_of_no_weight_do_not_make_a_fold_complete():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.arange(60) % 2
    model = DenseNetClassifier(n_members=3, max_epochs=2, random_state=0).fit(X, y)
    valid = model.net_.folds[1].valid
    weight = np.ones(60)
    weight[valid[y[valid] == 1]] = 0
    with pytest.warns(
        UserWarning, match=r"validation rows of member 1 hold no event of some class"
    ):
        model.fit(X, y, weight)
    np.testing.assert_allclose(model.ensemble_.weights, 1 / 3)
