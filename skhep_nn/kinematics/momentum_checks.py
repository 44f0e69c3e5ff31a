"""Values that cannot be components of momenta: placeholders for missing ones, angles in degrees, scaled columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skhep_nn.kinematics.momenta import REMEDY, MomentumColumns

__all__ = ["check_values", "find_scaled_azimuths", "name_scaling"]

Values: TypeAlias = NDArray[Any]
Label: TypeAlias = Callable[[int], str]

# Ranges of azimuths begin at -pi or at 0; larger values are in degrees, or stand for missing values.
_MOST_RADIANS = 2 * math.pi + 0.01
# Values that stand for missing ones are all nines. One alone may be a real component if it is small or rare.
_PLACEHOLDERS = [float("9" * n) for n in range(2, 10)]
_LARGE_PLACEHOLDERS = [-value for value in _PLACEHOLDERS[1:]]
_RARE = 1e-3

# Fewer rows could look scaled by chance.
_FEWEST_FOR_SCALING, _FEWEST_FOR_RANGE = 10, 100
# An azimuth that is uniform in a full turn has this range behind a scaler: quantiles or extremes at distance one,
# extremes at -1 and 1, standard deviation 1.
_SCALED_RANGES = (1.0, 2.0, 2 * math.sqrt(3))
# Smallest and largest value that QuantileTransformer(output_distribution="normal") returns.
_NORMAL_EXTREME = 5.1993


def check_values(
    columns: MomentumColumns, moduli: Sequence[int], values: Values, label: Label
) -> None:
    """Raise ValueError if columns hold values that no component of a momentum has.

    Parameters
    ----------
    columns : MomentumColumns
        Columns of components that change in a turn.
    moduli : sequence of int
        Columns of transverse momenta.
    values : ndarray of shape (n_samples, n_features)
        Events.
    label : callable
        Returns the text by which messages refer to a column.
    """
    for i in columns.phi:
        _refuse(np.abs(values[:, i]) > _MOST_RADIANS, i, "azimuth", values, label)
    for i in moduli:
        _refuse(values[:, i] < 0, i, "transverse momentum", values, label)
    for i in columns.eta:
        bad = np.isin(np.abs(values[:, i]), _PLACEHOLDERS)
        _refuse(bad, i, "pseudorapidity", values, label)
    for x, y in zip(columns.x, columns.y, strict=True):
        both = (values[:, x] == values[:, y]) & np.isin(np.abs(values[:, x]), _PLACEHOLDERS)
        _refuse(both, x, "component", values, label)
    for i in (*columns.x, *columns.y, *columns.z):
        bad = np.isin(values[:, i], _LARGE_PLACEHOLDERS)
        if np.count_nonzero(bad) > _RARE * len(bad):
            _refuse(bad, i, "component", values, label)


def _refuse(bad: NDArray[np.bool_], i: int, what: str, values: Values, label: Label) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        degrees = " Angles are in radians." if what == "azimuth" else ""
        raise ValueError(
            f"Column {label(i)} has the {what} {values[rows[0], i]} in row {rows[0]}, and {len(rows)} rows are "
            f"like it.{degrees} {REMEDY}"
        )


def name_scaling(columns: Sequence[int], values: Values) -> str | None:
    """Return what shows that all columns went through one scaler, or None if nothing shows it."""
    if len(values) < _FEWEST_FOR_SCALING:
        return None
    candidates, n_tested = dict(_SCALINGS), 0
    for i in columns:
        column = values[:, i].astype(np.float64)
        column = column[np.isfinite(column)]
        if len(column) and np.ptp(column) > 0:
            candidates = {what: test for what, test in candidates.items() if test(column)}
            n_tested += 1
        if not candidates:
            return None
    # One column alone may look scaled by chance.
    return next(iter(candidates)) if n_tested > 1 else None


def _near(a: float, b: float) -> bool:
    # float32 blurs the mean and standard deviation of a column that was scaled in float64.
    return abs(a - b) < 1e-4


_SCALINGS: dict[str, Callable[[Values], bool]] = {
    "mean 0 and standard deviation 1": lambda c: _near(c.mean(), 0) and _near(c.std(), 1),
    "values from 0 to 1": lambda c: _near(c.min(), 0) and _near(c.max(), 1),
    "values up to 1": lambda c: _near(np.abs(c).max(), 1),
    "values from -5.2 to 5.2, as of a normal distribution": lambda c: (
        _near(c.min(), -_NORMAL_EXTREME) and _near(c.max(), _NORMAL_EXTREME)
    ),
    "median 0 and quartiles at distance 1": lambda c: (
        _near(float(np.median(c)), 0) and _near(float(np.subtract(*np.percentile(c, [75, 25]))), 1)
    ),
}


def find_scaled_azimuths(columns: Sequence[int], values: Values) -> list[int]:
    """Return columns of azimuths that are uniform in a range that a scaler leaves, instead of a full turn."""
    scaled = []
    for i in columns:
        phi = values[:, i].astype(np.float64)
        phi = phi[np.isfinite(phi)]
        if len(phi) < _FEWEST_FOR_RANGE:
            continue
        width, spread = float(np.ptp(phi)), float(phi.std())
        # The largest of a few values stays below the end of the range.
        ends = any(0.97 < width / known < 1.02 for known in _SCALED_RANGES)
        if ends and abs(spread * math.sqrt(12) / width - 1) < 0.1:
            scaled.append(i)
    return scaled
