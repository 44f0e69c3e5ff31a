"""Estimators that train as one."""

import numpy as np
import pytest
from sklearn.callback import ProgressBar
from sklearn.linear_model import LogisticRegression

from skhep_nn import (
    CaloCNNClassifier,
    CartesianMomenta,
    Constant,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAugmenter,
    OneCycle,
    ReduceOnPlateau,
    fit_together,
    make_higgs_events,
)
from skhep_nn.tuning import joint_fit as _together
from skhep_nn.tuning.joint_fit import train_together


@pytest.fixture(scope="module")
def events():
    events = make_higgs_events(3000, random_state=0)
    return CartesianMomenta().fit_transform(events.data), events.target, events.sample_weight


def models(n=3, **params):
    defaults = {
        "n_members": 2,
        "max_epochs": 3,
        "categorical_features": ["PRI_jet_num"],
        "class_weight": "balanced",
        "device": "cpu",
    }
    return [DenseNetClassifier(random_state=k, **defaults | params) for k in range(n)]


def assert_same(a, b, atol=1e-5):
    for name, value in a.ensemble_.states.items():
        np.testing.assert_allclose(value, b.ensemble_.states[name], rtol=1e-3, atol=atol)
    np.testing.assert_allclose(a.ensemble_.weights, b.ensemble_.weights, rtol=1e-4)


@pytest.mark.parametrize(
    "params", [{}, {"n_members": 1}, {"early_stopping": 2}, {"augmentation": EventAugmenter()}]
)
def test_together_is_one_by_one(events, params):
    X, y, w = events
    together = fit_together(models(**params), X, y, w)
    for model, alone in zip(together, models(**params), strict=True):
        alone.fit(X, y, sample_weight=w)
        assert_same(model, alone)
        np.testing.assert_allclose(model.predict_proba(X), alone.predict_proba(X), atol=1e-4)
        columns = ["member", "epoch", "train_loss", "valid_loss", "lr"]
        np.testing.assert_allclose(
            model.history_[columns], alone.history_[columns], rtol=1e-3, atol=1e-6
        )
        assert not hasattr(model, "net_")


def test_each_on_its_own_rows(events):
    X, y, w = events
    rng = np.random.default_rng(0)
    rows = [rng.permutation(3000)[:2000] for _ in range(3)]
    together = fit_together(models(), X, y, w, rows=rows)
    for model, alone, own in zip(together, models(), rows, strict=True):
        alone.fit(X.iloc[own], y.iloc[own] if hasattr(y, "iloc") else y[own], sample_weight=w[own])
        assert_same(model, alone)
    means = [model.ensemble_.states["input_stage.mean"][0] for model in together]
    assert np.abs(means[0] - means[1]).max() > 1e-3


def test_passes_of_different_length_are_refused(events):
    X, y, _ = events
    with pytest.raises(ValueError, match="from 4 to 6 steps"):
        fit_together(models(2), X, y, rows=[np.arange(2000), np.arange(3000)])


def test_targets_of_regressors_are_scaled_by_their_own_rows(events):
    X, _, _ = events
    target = X["PRI_met_px"].to_numpy()
    rows = [np.arange(0, 1500), np.arange(1500, 3000)]
    pair = [DenseNetRegressor(max_epochs=2, random_state=k, device="cpu") for k in range(2)]
    fit_together(pair, X, target, rows=rows)
    for k, own in enumerate(rows):
        alone = DenseNetRegressor(max_epochs=2, random_state=k, device="cpu")
        alone.fit(X.iloc[own], target[own])
        np.testing.assert_allclose(pair[k].predict(X), alone.predict(X), rtol=1e-3, atol=1e-2)


@pytest.mark.cuda
def test_together_on_cuda(events):
    X, y, w = events
    together = fit_together(models(device="cuda"), X, y, w)
    for model, alone in zip(together, models(device="cuda"), strict=True):
        alone.fit(X, y, sample_weight=w)
        difference = np.abs(model.predict_proba(X) - alone.predict_proba(X))
        assert difference.mean() < 5e-3


@pytest.mark.parametrize(
    ("estimators", "kwargs", "error", "message"),
    [
        ([], {}, ValueError, "at least one"),
        ([LogisticRegression()], {}, TypeError, "LogisticRegression"),
        ([*models(1), CaloCNNClassifier()], {}, ValueError, "one class"),
        ([*models(1), *models(1, width=20)], {}, ValueError, "in width"),
        (
            [*models(1, schedule=OneCycle(1e-3)), *models(1, schedule=OneCycle(1e-2))],
            {},
            ValueError,
            "in schedule__max_lr in another way",
        ),
        (
            [
                *models(1, schedule=ReduceOnPlateau(1e-3)),
                *models(1, schedule=ReduceOnPlateau(2e-3)),
            ],
            {},
            ValueError,
            "depend on the validation losses.* in schedule__lr",
        ),
        ([*models(1), *models(1, n_members=3)], {}, ValueError, "in n_members"),
        (models(1, callbacks=[object()]), {}, ValueError, "one by one"),
        (models(2), {"rows": [np.arange(5)]}, ValueError, "1 for 2"),
    ],
)
def test_what_cannot_be_trained_together(events, estimators, kwargs, error, message):
    X, y, _ = events
    with pytest.raises(error, match=message):
        fit_together(estimators, X, y, **kwargs)


def test_rows_that_lead_to_different_networks(events):
    X, y, _ = events
    few = np.arange(len(X)) < 1500
    X = X.assign(PRI_jet_num=np.where(few, np.minimum(X["PRI_jet_num"], 1), X["PRI_jet_num"]))
    with pytest.raises(ValueError, match="different networks"):
        fit_together(models(2), X, y, rows=[np.arange(1500), np.arange(1500, 3000)])


def test_rows_that_estimators_share_are_held_once(events, monkeypatch):
    X, y, _ = events
    joined = []
    whole = _together._joined
    monkeypatch.setattr(_together, "_joined", lambda jobs: joined.append(whole(jobs)) or joined[-1])
    fit_together(models(3, max_epochs=1), X, y)
    fit_together(models(2, max_epochs=1), X, y, rows=[np.arange(1500), np.arange(1500, 3000)])
    assert [len(job.rows) for job in joined] == [3000, 3000]
    fit_together(models(2, max_epochs=1), X, y, rows=[np.arange(1500), np.arange(1500)])
    assert len(joined[-1].rows) == 1500


def test_one_that_diverges(events):
    """It is told from the others, whose weights are their own affair."""
    X, y, w = events
    # A huge weight decay blows up one of them.
    mixed = [*models(1), *models(1, weight_decay=1e30, optimizer="sgd")]
    for model in mixed:
        model.set_params(optimizer="sgd", schedule=Constant(1e-3))
    first, second = train_together(mixed, X, y, w, rows=None)
    assert first.error is None
    assert "member 0 in epoch 0" in str(second.error)
    alone = models(1, optimizer="sgd", schedule=Constant(1e-3))[0].fit(X, y, sample_weight=w)
    assert_same(mixed[0], alone)
    assert not hasattr(mixed[1], "ensemble_")
    with pytest.raises(ValueError, match="diverged"):
        fit_together(mixed, X, y, w)


def test_callbacks_of_scikit_learn_are_refused(events):
    X, y, _ = events
    few = models(2)
    few[1].set_callbacks(ProgressBar())
    with pytest.raises(ValueError, match="callbacks see one estimator"):
        fit_together(few, X, y)
