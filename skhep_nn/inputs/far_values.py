"""Values far outside all others, which spoil the scale of a column: placeholders and outliers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FarValues", "far_values", "listing", "remedies"]

# Scale over spread of the ordinary values above which networks were seen to lose accuracy: a single outlier hurts
# from 30 on and blinds at 100, a placeholder in a tenth of the rows hurts from 15 on and blinds at 30.
_OUTLIERS, _PLACEHOLDER = 30.0, 10.0
# Numbers such as -999 hardly ever are measurements.
_NINES = 4.0
_FEWEST_ORDINARY = 10
_MOST_SORTED = 20_000
# Quantiles of the ordinary values, and their distance in standard deviations of a normal distribution.
_CORE, _CORE_WIDTH = (0.05, 0.95), 3.29
_TAILS = (0.01, 0.99)


class FarValues(NamedTuple):
    """What spoils the scale of a column.

    Parameters
    ----------
    placeholders : dict of float to int
        Repeated values that lie apart from all others, and the number of their rows.
    outliers : ndarray of int
        Rows of the other far values, the farthest first.
    farthest : float
        Value of the first of these rows; NaN without outliers.
    """

    placeholders: dict[float, int]
    outliers: NDArray[np.intp]
    farthest: float

    def text(self, n_rows: int, label: str) -> str:
        """Describe the values for a message."""
        what = [
            f"is {value:.7g} in {count} of {n_rows} rows"
            for value, count in self.placeholders.items()
        ]
        if len(self.outliers):
            rows = "row" if len(self.outliers) == 1 else f"{len(self.outliers)} rows, such as"
            what.append(f"reaches {self.farthest:.3g} in {rows} {self.outliers[0]}")
        return f"{label} {' and '.join(what)}"


def far_values(column: NDArray[np.floating]) -> FarValues | None:
    """Find values whose distance makes all others look alike once the column is standardised.

    The spread of the other values is measured by quantiles, which such values do not change.

    Parameters
    ----------
    column : ndarray of shape (n_samples,)
        Finite values.

    Returns
    -------
    FarValues or None
        None if the scale of the column suits its values.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.inputs.far_values import far_values
    >>> column = np.random.default_rng(0).normal(size=1000)
    >>> far_values(column) is None
    True
    >>> column[::10] = -999
    >>> far_values(column).placeholders
    {-999.0: 100}
    """
    values = column.astype(np.float64)
    step = 1 + len(values) // _MOST_SORTED
    ordinary = np.sort(values[::step])
    placeholders: dict[float, int] = {}
    # Single outliers hide the placeholders behind them.
    while found := (
        _placeholders(ordinary, values)
        or _placeholders(ordinary[~_far_and_single(ordinary)], values)
    ):
        placeholders |= {value: int(np.count_nonzero(values == value)) for value in found}
        ordinary = ordinary[~np.isin(ordinary, found)]
    is_ordinary = ~np.isin(values, list(placeholders))
    spread = _spread(ordinary)
    outliers = np.array([], dtype=np.intp)
    if spread > 0 and np.std(values, where=is_ordinary) > _OUTLIERS * spread:
        distance = np.where(is_ordinary, abs(values - np.median(ordinary)), 0)
        far = np.flatnonzero(distance > _OUTLIERS * spread)
        outliers = far[np.argsort(-distance[far], kind="stable")]
    if not placeholders and not len(outliers):
        return None
    return FarValues(placeholders, outliers, values[outliers[0]] if len(outliers) else np.nan)


def listing(texts: list[str], most: int = 5) -> str:
    """Join descriptions of columns, of which a message shows only the first few."""
    more = f"; and {len(texts) - most} more columns" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more


def remedies(found: Iterable[FarValues]) -> str:
    """Say what to do about far values of columns."""
    found = list(found)
    values = [value for far in found for value in far.placeholders]
    text = []
    if values:
        text.append(
            f"If {values[0]:.7g} stands for a missing value, make it NaN, X.replace({values[0]:.7g}, "
            "np.nan), and fill it, for example with CartesianMomenta(missing=0.0) or scikit-learn's "
            "SimpleImputer; if it is a code, name the column in categorical_features."
        )
    if any(len(far.outliers) for far in found):
        text.append(
            "Drop rows that are mistakes; if they are real, clip the columns or take their logarithm."
        )
    return " ".join(text)


def _placeholders(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> list[float]:
    """Return the smallest or largest value, or both, if repeated and so far out that they spoil the scale."""
    ends = ordered[0], ordered[-1]
    # Both together too, as one hides the other where they lie on two sides.
    for tried in ([ends[0]], [ends[1]], [*ends]):
        rest = ordered[~np.isin(ordered, tried)]
        if len(rest) < _FEWEST_ORDINARY:
            continue
        low, high = _quantiles(rest, _TAILS)
        gap = min(min(abs(rest[0] - end), abs(rest[-1] - end)) for end in tried)
        spread = _spread(rest)
        if spread == 0 or gap <= high - low:
            continue
        limit = _NINES if all(_is_nines(end) for end in tried) else _PLACEHOLDER
        repeated = all(np.count_nonzero(values == end) > 1 for end in tried)
        if repeated and ordered.std() > limit * spread:
            return [float(end) for end in tried]
    return []


def _far_and_single(ordered: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of the sorted values are outliers that occur only once."""
    is_new = np.r_[True, ordered[1:] != ordered[:-1], True]
    distance = abs(ordered - ordered[len(ordered) // 2])
    far: NDArray[np.bool_] = is_new[1:] & is_new[:-1] & (distance > _OUTLIERS * _spread(ordered))
    return far


def _is_nines(value: float) -> bool:
    """Whether a number is written with nines only, two or more, as people write placeholders."""
    digits = f"{abs(value):.0f}"
    return value == np.rint(value) and len(digits) > 1 and set(digits) == {"9"}


def _quantiles(ordered: NDArray[np.float64], shares: tuple[float, float]) -> tuple[float, float]:
    """Return two quantiles of sorted values."""
    low, high = (ordered[int(share * (len(ordered) - 1))] for share in shares)
    return float(low), float(high)


def _spread(ordered: NDArray[np.float64]) -> float:
    """Return the spread of the core of sorted values; without the most common one if that fills the core."""
    for values in (ordered, ordered[ordered != ordered[len(ordered) // 2]]):
        if len(values) >= _FEWEST_ORDINARY:
            low, high = _quantiles(values, _CORE)
            if high > low:
                return (high - low) / _CORE_WIDTH
    return 0.0
