"""A fit that is no better than a constant prediction says so."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from skhep_nn import (
    CaloCNNRegressor,
    Constant,
    DenseNetClassifier,
    DenseNetRegressor,
    WaveformRegressor,
)
from skhep_nn.networks.losses import LOSSES, decorrelated, through_sigmoid, with_classes

MESSAGE = "no better than a constant prediction"


@pytest.fixture
def events():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 5))
    return X, (X[:, 0] > 0).astype(int)


def classifier(**params):
    return DenseNetClassifier(
        **{"max_epochs": 12, "batch_size": 128, "schedule": Constant(), "random_state": 0} | params
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("params", [{}, {"n_members": 3}, {"early_stopping": True}])
def test_a_fit_that_learns_says_nothing(events, params):
    classifier(**params).fit(*events)
    classifier(**params).fit(events[0], np.digitize(events[0][:, 0], [-1, 1]))


@pytest.mark.filterwarnings("error")
def test_a_few_steps_say_nothing(events):
    classifier(max_epochs=2, schedule=Constant(1e-6)).fit(*events)


@pytest.mark.parametrize("params", [{}, {"n_members": 3}, {"early_stopping": True}])
def test_a_learning_rate_that_is_too_high(events, params):
    kind = "validation" if params else "training"
    with pytest.warns(ConvergenceWarning, match=f"{MESSAGE}: its {kind} loss .* learning rate"):
        classifier(schedule=Constant(lr=1e3), **params).fit(*events)


@pytest.mark.filterwarnings("ignore:Values far outside all others")
@pytest.mark.parametrize("params", [{}, {"n_members": 3}])
def test_a_row_that_sets_the_scale(events, params):
    X, y = events
    X[17] = 1e30
    with pytest.warns(ConvergenceWarning, match=f"{MESSAGE}.* scale of the columns"):
        classifier(**params).fit(X, y)


def test_a_regressor_with_weights(events):
    X, _ = events
    rng = np.random.default_rng(1)
    y, weight = rng.normal(size=600), rng.uniform(0.1, 1, 600)
    for loss in ("squared_error", "absolute_error", "huber"):
        model = DenseNetRegressor(max_epochs=12, schedule=Constant(1e-6), loss=loss, random_state=0)
        with pytest.warns(ConvergenceWarning, match=MESSAGE):
            model.fit(X, y, weight)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.set_params(schedule=None, max_epochs=None).fit(X, X[:, 0], weight)


@pytest.mark.parametrize(
    ("loss", "n_targets"),
    [
        (LOSSES["binary_cross_entropy"], 0),
        (LOSSES["cross_entropy"], -3),
        (LOSSES["squared_error"], 2),
        (LOSSES["absolute_error"], 2),
        (through_sigmoid(LOSSES["squared_error"]), 2),
        (with_classes(LOSSES["squared_error"], 2, 3, 1.0, 0.1), 3),
        (decorrelated(LOSSES["binary_cross_entropy"], 1.0, 0), 3),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_constants_are_the_best(loss, n_targets):
    rng = np.random.default_rng(2)
    weight = torch.as_tensor(rng.uniform(0.1, 2, 51))
    if n_targets < 0:
        target = torch.as_tensor(np.arange(51) % 3)
    else:
        target = torch.as_tensor(rng.uniform(size=(51, n_targets) if n_targets else 51))
    if "and" in loss.name:
        target[:, 2] = torch.arange(51) % 3
    best = loss.constant(target, weight)

    def total(outputs):
        rows = torch.as_tensor(outputs).expand(51, -1)
        return float((loss.value(rows, target) * weight).sum())

    found = minimize(
        total, best.numpy() + 0.1, method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-7}
    )
    assert_allclose(total(best.numpy()), found.fun, rtol=1e-5)


class TestConstantTargets:
    """They are learnt exactly."""

    REGRESSORS = (
        (DenseNetRegressor, (4,), {}),
        (DenseNetRegressor, (4,), {"n_members": 2, "loss": "absolute_error"}),
        (CaloCNNRegressor, (16, 16), {}),
        (WaveformRegressor, (200,), {}),
        (WaveformRegressor, (200,), {"output": "sigmoid"}),
    )

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize(("kind", "shape", "params"), REGRESSORS)
    def test_alone_or_beside_others(self, kind, shape, params):
        rng = np.random.default_rng(0)
        X = rng.random((60, *shape))
        model = kind(max_epochs=2, random_state=0, **params)
        constant = 0.1 if "output" in params else 1e9 / 3
        weight = rng.uniform(0.5, 1, 60)
        assert np.all(model.fit(X, np.full(60, constant), weight).predict(X) == constant)
        y = np.column_stack([rng.random(60), np.full(60, constant)])
        predicted = model.fit(X, y, weight).predict(X)
        assert np.all(predicted[:, 1] == constant)
        assert len(np.unique(predicted[:, 0])) > 1

    def test_in_a_graph(self, tmp_path):
        onnxruntime = pytest.importorskip("onnxruntime")
        from skhep_nn import to_onnx

        rng = np.random.default_rng(0)
        X = rng.random((60, 4), dtype=np.float32)
        y = np.column_stack([rng.random(60), np.full(60, 2.5)])
        model = DenseNetRegressor(max_epochs=2, random_state=0).fit(X, y)
        to_onnx(model, tmp_path / "model.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        (out,) = session.run(None, {session.get_inputs()[0].name: X})
        assert_allclose(out, model.predict(X), rtol=1e-5)
        assert np.all(out[:, 1] == 2.5)
