"""Targets in any unit, one or many, and probabilities that sum to one."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, logit, softmax
from sklearn.exceptions import NotFittedError
from sklearn.metrics import get_scorer, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skhep_nn import Constant, DenseNetRegressor, EventAugmenter
from tests.small_fits import Spy, quick, small_events


@pytest.fixture
def events():
    return small_events()


def labels_of(model, scores):
    best = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
    return model.classes_[best]


class TestScoresOfClasses:
    """Logits and logarithms of the mean probability."""

    @pytest.fixture(params=[2, 3], ids=["two classes", "three classes"])
    def classes(self, request):
        X, y, _ = small_events()
        y = y if request.param == 2 else y + (X[:, 2] > 0.5)
        return X, np.array(["a", "b", "c"])[y]

    @pytest.mark.parametrize(
        "params",
        [{}, {"n_members": 3}, {"n_members": 2, "augmentation": Spy()}],
        ids=["one member", "members", "members and views"],
    )
    def test_they_agree_with_probabilities_and_labels(self, classes, params):
        X, y = classes
        model = quick(max_epochs=8, **params).fit(X, y)
        p, logs, scores = (
            getattr(model, name)(X)
            for name in ("predict_proba", "predict_log_proba", "decision_function")
        )
        assert logs.shape == p.shape
        assert scores.shape == (p.shape if p.shape[1] > 2 else (300,))
        np.testing.assert_allclose(np.exp(logs), p, rtol=1e-5, atol=1e-7)
        from_scores = expit(scores) if scores.ndim == 1 else softmax(scores, axis=1)
        np.testing.assert_allclose(from_scores, p if scores.ndim > 1 else p[:, 1], atol=1e-6)
        np.testing.assert_array_equal(labels_of(model, scores), model.predict(X))

    def test_events_with_a_probability_of_one_are_ordered(self):
        rng = np.random.default_rng(0)
        y = rng.integers(0, 2, 3000)
        X = rng.normal(size=(3000, 3)) + 8.0 * y[:, None] * np.array([1.0, 0.5, 0.5])
        model = quick(max_epochs=25, n_members=2, schedule=Constant(1e-2)).fit(X, y)
        far = X[y == 1] + 5
        p, scores = model.predict_proba(far)[:, 1], model.decision_function(far)
        assert (p == 1).mean() > 0.1
        assert len(np.unique(scores)) > 0.95 * len(far)
        logs = model.predict_log_proba(far)
        # scikit-learn's suite compares the two, so that a probability of 0 has no other logarithm.
        np.testing.assert_array_equal(np.isneginf(logs), model.predict_proba(far) == 0)
        assert (logs[p == 1, 1] == 0).all()

    def test_it_is_not_the_mean_of_logits(self):
        """A member that is very sure outweighs the others in the mean of logits, but not in the mean probability."""
        X, y, _ = small_events()
        model = quick(n_members=3).fit(X, y)
        model.ensemble_.states["output.weight"][:] = 0
        model.ensemble_.states["output.bias"][:, 0] = [-1, -1, 30]
        model.ensemble_.weights = np.full(3, 1 / 3)
        model = pickle.loads(pickle.dumps(model))  # with another ensemble in memory
        mean = (2 * expit(-1) + 1) / 3
        np.testing.assert_allclose(model.decision_function(X), logit(mean), rtol=1e-7)
        np.testing.assert_allclose(model.predict_proba(X)[:, 1], mean, rtol=1e-6)

    def test_through_pipelines_and_searches(self):
        X, y, _ = small_events()
        pipeline = make_pipeline(StandardScaler(), quick())
        search = GridSearchCV(
            pipeline, {"densenetclassifier__max_epochs": [1, 4]}, scoring="roc_auc", cv=2
        ).fit(X, y)
        best = search.best_estimator_
        np.testing.assert_array_equal(search.decision_function(X), best.decision_function(X))
        np.testing.assert_array_equal(search.predict_log_proba(X), best.predict_log_proba(X))
        by_probability = roc_auc_score(y, search.predict_proba(X)[:, 1])
        assert roc_auc_score(y, search.decision_function(X)) == by_probability
        assert get_scorer("roc_auc")(search, X, y) == by_probability

    def test_before_fit_they_say_so(self):
        for name in ("decision_function", "predict_log_proba"):
            with pytest.raises(NotFittedError):
                getattr(quick(), name)(np.zeros((3, 4)))

    def test_regressors_have_none(self):
        assert not hasattr(DenseNetRegressor(), "decision_function")


class TestRegressorWithMembers:
    def check_folds(self, model, n):
        folds = model.net_.folds
        assert len(folds) == len(model.ensemble_) == 3
        assert sorted(np.concatenate([f.valid for f in folds])) == list(range(n))
        for fold in folds:
            assert sorted(np.concatenate(fold)) == list(range(n))
            assert n // 3 <= len(fold.valid) <= -(-n // 3)
            assert not np.array_equal(fold.valid, np.arange(fold.valid[0], fold.valid[-1] + 1))

    def check_losses(self, model, X, Y, w):
        """Out-of-fold losses on the scaled targets are what the history and the weights say."""
        Y = Y.reshape(len(Y), -1)
        mean = np.average(Y, axis=0, weights=w)
        scaled = (Y - mean) / np.sqrt(np.average((Y - mean) ** 2, axis=0, weights=w))
        rows = torch.tensor(np.asarray(X), dtype=torch.float32)
        losses = []
        for k, fold in enumerate(model.net_.folds):
            out = model.ensemble_.member(k)(rows[fold.valid]).numpy()
            squares = ((out - scaled[fold.valid]) ** 2).mean(1)
            losses.append(np.average(squares, weights=w[fold.valid]))
        best = model.history_.groupby("member").valid_loss.min()
        np.testing.assert_allclose(best, losses, rtol=1e-4)
        np.testing.assert_allclose(
            model.ensemble_.weights, (1 / best) / (1 / best).sum(), rtol=1e-6
        )

    @pytest.mark.parametrize("n_targets", [1, 2])
    def test_plain_folds(self, events, n_targets):
        X, _, w = events
        X, w = X[:100], w[:100]
        Y = 50 + 7 * X[:, 0] if n_targets == 1 else np.column_stack([X[:, 0], 1e3 * X[:, 1]])
        model = quick(DenseNetRegressor, n_members=3, max_epochs=5, batch_size=16)
        model.fit(X, Y, sample_weight=w)
        self.check_folds(model, 100)
        self.check_losses(model, X, Y, w)
        assert model.predict(X).shape == Y.shape
        mean = sum(
            weight * model.ensemble_.member(k)(torch.from_numpy(X)).numpy()
            for k, weight in enumerate(model.ensemble_.weights)
        )
        centre = np.average(Y, axis=0, weights=w)
        scale = np.sqrt(np.average((Y - centre) ** 2, axis=0, weights=w))
        np.testing.assert_allclose(
            model.predict(X).reshape(100, -1), mean * scale + centre, rtol=1e-4, atol=1e-4
        )

    def test_strata_of_a_column(self, events):
        X, _, w = events
        frame = pd.DataFrame(X, columns=list("abcd")).assign(n_jets=np.repeat([0, 1, 2], 100))
        y = frame.a + frame.n_jets
        model = quick(DenseNetRegressor, n_members=3, stratify_by="n_jets")
        model.fit(frame, y, sample_weight=w)
        self.check_folds(model, 300)
        self.check_losses(model, frame, y.to_numpy(), w)
        for fold in model.net_.folds:
            counts = np.bincount(frame.n_jets.to_numpy()[fold.valid], minlength=3)
            assert counts.min() >= 33
            assert counts.max() <= 34
        by_number = quick(DenseNetRegressor, n_members=3, stratify_by=4)
        by_number.fit(frame.to_numpy(), y, sample_weight=w)
        np.testing.assert_array_equal(
            by_number.predict(frame.to_numpy()),
            model.predict(frame),
        )

    def test_augmentation(self):
        rng = np.random.default_rng(0)
        names = [f"{p}_{c}" for p in ("tau", "lep") for c in ("px", "py", "pz")]
        frame = pd.DataFrame(rng.normal(size=(300, 6)).astype(np.float32) * 50, columns=names)
        y = np.hypot(frame.tau_px + frame.lep_px, frame.tau_py + frame.lep_py)
        w = rng.uniform(0.5, 2, 300)
        model = quick(DenseNetRegressor, n_members=3, augmentation=EventAugmenter(), max_epochs=5)
        model.fit(frame, y, sample_weight=w)
        self.check_folds(model, 300)
        self.check_losses(model, frame, y.to_numpy(), w)
        predicted = model.predict(frame)
        views = list(model.augmenter_.views(frame))
        for view in views:
            np.testing.assert_allclose(model.predict(view), predicted, rtol=1e-4)
        model.set_params(tta=False)
        single = [model.predict(view) for view in views]
        np.testing.assert_allclose(np.mean(single, axis=0), predicted, rtol=1e-4)
        assert np.ptp(single, axis=0).max() > 1e-2


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("params", [{}, {"n_members": 3, "augmentation": Spy()}])
def test_probabilities_sum_to_one(n_classes, params):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4)).astype(np.float32)
    y = np.arange(400) % n_classes
    p = quick(**params).fit(X, y).predict_proba(X)
    assert p.dtype == np.float64
    assert p.min() >= 0
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=0, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_loss(y, p)
