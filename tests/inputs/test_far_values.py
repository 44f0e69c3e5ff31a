"""Placeholders and outliers that spoil the scale of a column, and units that are too small."""

import warnings

import numpy as np
import pandas as pd
import pytest

from skhep_nn import (
    CartesianMomenta,
    DenseNetClassifier,
    DenseNetRegressor,
    make_higgs_events,
)
from skhep_nn.inputs.far_values import far_values
from tests.small_fits import quick


def normal(n=1500, seed=0):
    return np.random.default_rng(seed).normal(size=n)


def with_value(value, share, column=None):
    """Return a column in which a share of the rows holds one value."""
    column = normal() if column is None else column.copy()
    seed = int(value) % 997
    column[np.random.default_rng(seed).random(len(column)) < share] = value
    return column


@pytest.mark.parametrize("value", [-999.0, 999.0, 9999.0, -32768.0, 1e20, -1e30, 3.4e38])
@pytest.mark.parametrize("share", [0.003, 0.1, 0.7, 0.97])
def test_placeholders_are_found_in_any_share_of_the_rows(value, share):
    column = with_value(value, share)
    found = far_values(column)
    assert found.placeholders == {value: np.count_nonzero(column == value)}
    assert not len(found.outliers)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (with_value(-99, 0.1), {-99}),
        # A small unit, as after a scaler.
        (with_value(-1, 0.1, 1e-3 * normal()), {-1}),
        (with_value(0, 0.3, 91.2 + 2.5 * normal()), {0}),
        (with_value(-999, 0.1, with_value(999, 0.1)), {-999, 999}),
        (with_value(-999, 0.2, with_value(9999, 0.2, with_value(-99, 0.2))), {-999, 9999, -99}),
        (with_value(-999, 0.4, np.random.default_rng(0).poisson(2, 1500)), {-999}),
    ],
)
def test_several_values_and_other_units(column, values):
    assert set(far_values(column).placeholders) == values


def test_outliers_are_named_by_row():
    found = far_values(np.r_[normal(), 1e30, with_value(-999, 0.1), -1e31])
    assert set(found.placeholders) == {-999}
    assert found.outliers.tolist() == [3001, 1500]
    assert found.farthest == -1e31
    assert far_values(np.r_[3e3, normal()]).outliers.tolist() == [0]


@pytest.mark.parametrize(
    "column",
    [
        normal(),
        normal(12),
        np.ones(500),
        np.exp(normal(20_000)),
        np.exp(2 * normal(20_000)),
        np.random.default_rng(0).exponential(size=50_000),
        np.random.default_rng(0).pareto(2, 50_000),
        np.random.default_rng(0).random(1000) < 0.01,
        1e6 * (np.random.default_rng(0).random(1000) < 0.01),
        np.random.default_rng(0).poisson(0.01, 10_000),
        np.clip(np.random.default_rng(0).exponential(size=9000), 0, 3),
        with_value(0, 0.99, np.random.default_rng(0).exponential(size=9000)),
        with_value(-9, 0.1),
        1.6e9 + 1e5 * normal(),
    ],
)
def test_columns_that_train_well_say_nothing(column):
    assert far_values(np.asarray(column, dtype=np.float32)) is None


def draw(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return X, (X[:, 0] + 0.5 * X[:, 1] + 0.5 * rng.normal(size=n) > 0).astype(int)


class TestFit:
    def test_a_placeholder_is_said_and_the_remedy_restores_the_accuracy(self):
        (X, y), (Z, z) = draw(1500, 0), draw(3000, 1)
        frames = [pd.DataFrame(A, columns=["m", "a", "b", "c"]) for A in (X, Z)]
        for frame in frames:
            frame.loc[::10, "m"] = -999.0
        model = DenseNetClassifier(random_state=0)
        message = (
            r"1 of 4 columns .*: 'm' is -999 in 150 of 1500 rows\. .*X\.replace\(-999, np\.nan\)"
        )
        with pytest.warns(UserWarning, match=message) as caught:
            blind = model.fit(frames[0], y).score(frames[1], z)
        assert len(caught) == 1
        A, B = (frame.replace(-999, np.nan).fillna(0.0) for frame in frames)
        assert model.fit(A, y).score(B, z) > 0.8 > blind

    def test_a_row_is_named_in_every_column(self):
        X, y = draw(600, 0)
        X[7] = 1e30
        with pytest.warns(UserWarning, match="column 0 reaches 1e[+]30 in row 7; column 1 reaches"):
            quick(DenseNetRegressor).fit(X, y)

    def test_categories_and_the_columns_beside_them_keep_their_names(self):
        X, y = draw(600, 0)
        frame = pd.DataFrame(X, columns=["a", "b", "c", "d"]).assign(code=-999)
        frame.loc[::3, ["code", "d"]] = 1, 9999.0
        with pytest.warns(UserWarning, match="1 of 4 columns of numbers of X.*: 'd' is 9999 in"):
            quick(categorical_features=["code"]).fit(frame, y)

    def test_many_columns_are_one_message(self):
        X, y = draw(600, 0)
        X = np.hstack([X, X, X])
        X[::4] = -999
        with pytest.warns(UserWarning, match="column 4 is .*; and 7 more columns") as caught:
            quick().fit(X, y)
        assert len(caught) == 1

    def test_events_of_the_challenge_train_with_placeholders_and_say_so(self):
        events = make_higgs_events(2000, random_state=0)
        with pytest.warns(UserWarning, match="10 of 30 columns .*'DER_mass_MMC' is -999 in"):
            model = quick().fit(events.data.fillna(-999.0), events.target)
        assert np.isfinite(model.predict_proba(events.data.fillna(-999.0))).all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table = CartesianMomenta().fit_transform(events.data)
            quick().fit(table, events.target)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", [1e-45, 1e-42, 1e-39])
def test_units_below_single_precision_are_named(dtype, unit):
    X, y = draw(300, 0)
    X[:, 2] = (1 + abs(X[:, 2])) * unit
    with pytest.warns(UserWarning, match=r"columns \[2\] of X .* choose another unit"):
        quick().fit(X.astype(dtype), y)
    X[:, 2] /= unit
    for fine in (1e-36, 1e30):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            quick().fit((X * [1, 1, fine, 1]).astype(dtype), y)
