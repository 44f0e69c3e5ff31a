import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score

from skhep_nn.metrics import (
    make_within_tolerance_scorer,
    within_tolerance_score,
    within_tolerance_scorer,
)


def published(y_true, y_pred):
    """The metric of the school's notebook, with torch in place of Keras."""
    y_true, y_pred = (torch.as_tensor(v, dtype=torch.float32) for v in (y_true, y_pred))
    return torch.eq(torch.round(y_true * 10), torch.round(y_pred * 10)).float().mean().item()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_published_accuracy(dtype):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 401, 5000) / 400  # the published d, in steps of 1/400
    y_pred = (y + rng.normal(0, 0.03, 5000)).astype(dtype)
    score = within_tolerance_score(y.astype(dtype), y_pred)
    assert score == pytest.approx(published(y, y_pred), abs=2e-3 if dtype == "float64" else 1e-7)
    assert 0.5 < score < 0.9


def test_halves_go_to_even():
    assert within_tolerance_score([0.25], [0.2]) == 1
    assert within_tolerance_score([0.25], [0.3]) == 0
    assert within_tolerance_score([0.75], [0.8]) == 1
    assert within_tolerance_score([0.5, 1.5], [0, 2], decimals=0) == 1
    assert within_tolerance_score([-0.01], [0.01]) == 1  # no negative zero


@pytest.mark.parametrize(
    ("decimals", "expected"), [(3, 0.0), (2, 0.25), (1, 0.5), (0, 0.75), (-1, 1.0), (-15, 1.0)]
)
def test_decimals(decimals, expected):
    y, y_pred = [1.004, 1.04, 1.4, 4.0], [1.0, 1.0, 1.0, 1.0]
    assert within_tolerance_score(y, y_pred, decimals=decimals) == expected


def test_single_and_double_precision_share_a_tenth():
    y = np.arange(5, 1000, 10) / 100
    assert within_tolerance_score(y, y.astype(np.float32)) == 1


def test_gaussian_errors():
    """The rule of thumb of the docstring: one minus the mean error in units of a bin."""
    rng = np.random.default_rng(0)
    y = rng.uniform(0, 1, 400_000)
    for sigma in (0.003, 0.01, 0.02):
        score = within_tolerance_score(y, y + rng.normal(0, sigma, len(y)))
        assert score == pytest.approx(1 - np.sqrt(2 / np.pi) * sigma / 0.1, abs=0.003)


def test_several_outputs_count_alike():
    y = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]])
    y_pred = y + np.array([[0, 0.1], [0, 0.1], [0.1, 0.1], [0, 0]])
    assert within_tolerance_score(y, y_pred) == 0.5
    assert within_tolerance_score(y, y_pred, sample_weight=[0, 0, 0, 3]) == 1
    assert within_tolerance_score(pd.DataFrame(y), y_pred) == 0.5


def test_weights():
    y, y_pred = [0.1, 0.2, 0.3], [0.1, 0.2, 0.4]
    assert within_tolerance_score(y, y_pred, sample_weight=[1, 2, 5]) == pytest.approx(3 / 8)
    assert within_tolerance_score(y, y_pred, sample_weight=[1, 2, -1]) == pytest.approx(3 / 2)
    assert within_tolerance_score(y, y_pred, sample_weight=[7, 7, 7]) == pytest.approx(2 / 3)


def test_one_column_is_a_vector():
    """Keras and torch would compare every truth with every prediction."""
    y = np.linspace(0, 1, 11)
    assert within_tolerance_score(y, y[:, np.newaxis]) == 1
    assert within_tolerance_score(y[:, np.newaxis], pd.Series(y)) == 1


@pytest.mark.parametrize(
    ("y", "y_pred", "params", "error", "message"),
    [
        ([0.1], [0.1], {"decimals": 1.0}, TypeError, "decimals must be an integer, got 1.0"),
        ([0.1], [0.1], {"decimals": True}, TypeError, "decimals must be an integer"),
        ([0.1], [0.1], {"decimals": 16}, ValueError, "from -15 to 15, got 16"),
        ([0.1, 0.2], [0.1], {}, ValueError, r"y_pred has shape \(1,\), expected \(2,\) like y"),
        ([0.1, 0.2], [[0.1, 0.2]], {}, ValueError, r"shape \(1, 2\)"),
        ([0.1, np.nan], [0.1, 0.2], {}, ValueError, "y contains NaN"),
        ([0.1, 0.2], [0.1, np.inf], {}, ValueError, "y_pred contains infinity"),
        ([], [], {}, ValueError, "y"),
        (0.1, 0.1, {}, ValueError, "y is a single number"),
        (["a"], ["a"], {}, ValueError, "could not convert"),
        ([0.1], [0.1], {"sample_weight": [0]}, ValueError, "sample_weight sums to 0"),
        ([0.1], [0.1], {"sample_weight": [np.nan]}, ValueError, r"sample_weight\[0\] is nan"),
        ([0.1], [0.1], {"sample_weight": [1, 1]}, ValueError, r"expected \(1,\) like y"),
        ([1e300], [1e300], {"decimals": 15}, ValueError, "y holds values too large for 15"),
    ],
)
def test_errors(y, y_pred, params, error, message):
    with pytest.raises(error, match=message):
        within_tolerance_score(y, y_pred, **params)


def test_scorer():
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 1, (200, 1))
    y = X.ravel() + rng.normal(0, 0.02, 200)
    model = LinearRegression().fit(X, y)
    assert within_tolerance_scorer(model, X, y) == within_tolerance_score(y, model.predict(X))
    whole = make_within_tolerance_scorer(decimals=0)
    assert whole(model, X, y) == within_tolerance_score(y, model.predict(X), decimals=0)
    assert whole(model, X, y) > within_tolerance_scorer(model, X, y)
    assert cross_val_score(model, X, y, scoring=whole).min() > 0.9
    weight = np.where(X.ravel() > 0.5, 1.0, 0.0)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_within_tolerance_scorer().set_score_request(sample_weight=True)
        search = GridSearchCV(
            Ridge().set_fit_request(sample_weight=False),
            {"alpha": [1e-3, 1e3]},
            scoring=scorer,
        ).fit(X, y, sample_weight=weight)
    assert search.best_params_ == {"alpha": 1e-3}
    assert search.best_score_ != pytest.approx(
        GridSearchCV(Ridge(), {"alpha": [1e-3]}, scoring=scorer).fit(X, y).best_score_, abs=1e-9
    )
