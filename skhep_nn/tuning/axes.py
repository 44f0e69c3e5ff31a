"""Parameters of a search as axes: positions of their values, for a model of the scores and for plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skhep_nn.utils.checks import is_flag

__all__ = [
    "FEWEST_CANDIDATES",
    "PARAM_PREFIX",
    "Scale",
    "SearchAxis",
    "as_column",
    "as_table",
    "is_given",
    "is_number",
    "read_results",
    "text_of",
]

Scale = Literal["linear", "log", "category"]
Array = NDArray[np.float64]

# Fewest candidates that a model of the scores can be fitted to.
FEWEST_CANDIDATES = 5

PARAM_PREFIX = "param_"
_SCALES = ("linear", "log", "category")


class SearchAxis:
    """A parameter of a search and the scale of its values.

    Numbers have a linear scale, or a logarithmic scale if they extend over decades, with zero one decade
    below the smallest other value. All other values are categories.

    Parameters
    ----------
    name : str
        Name of the parameter.
    values : sequence
        Values of the candidates.
    scale : {"linear", "log", "category"}, optional
        Scale. None: chosen by the values.

    Attributes
    ----------
    levels : list
        Distinct values: numbers in ascending order, categories in the order of their texts.
    """

    def __init__(self, name: str, values: Sequence[Any], scale: Scale | None = None) -> None:
        self.name = name
        self.scale: Scale = _scale_of(values) if scale is None else scale
        of_text = {text_of(value): value for value in values}
        self.levels: list[Any] = list(of_text.values())
        if self.scale == "category":
            self.levels.sort(key=text_of)
            self._low, self._high = 0.0, float(len(self.levels) - 1)
            return
        if not all(map(is_number, self.levels)) or (self.scale == "log" and min(self.levels) < 0):
            least = " of at least 0" if self.scale == "log" else ""
            msg = f"scale {scale!r} of {name!r} needs numbers{least}, got {self.levels[:5]}"
            raise ValueError(msg)
        self.levels.sort()
        self._zero = np.log10(min((v for v in self.levels if v > 0), default=1.0)) - 1
        self._low, self._high = self.positions([self.levels[0], self.levels[-1]])

    @property
    def is_constant(self) -> bool:
        """Whether all candidates have the same value."""
        return len(self.levels) < 2

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the axis in a plot."""
        half = 0.5 if self.scale == "category" or self.is_constant else 0.0
        return float(self._low) - half, float(self._high) + half

    def positions(self, values: Sequence[Any]) -> Array:
        """Return positions of values: the values, their decimal logarithms, or indices of categories."""
        if self.scale == "category":
            places = {text_of(level): float(place) for place, level in enumerate(self.levels)}
            unknown = [value for value in values if text_of(value) not in places]
            if unknown:
                msg = f"{self.name}={unknown[0]!r} was not tried; choose one of {self.levels}"
                raise ValueError(msg)
            return np.array([places[text_of(value)] for value in values])
        numbers = np.array([float(value) for value in values])
        if self.scale == "linear":
            return numbers
        logs: Array = np.full_like(numbers, self._zero)
        np.log10(numbers, out=logs, where=numbers > 0)
        return logs

    def columns(self, values: Sequence[Any]) -> Array:
        """Return columns for a model: one from 0 to 1 for numbers, an indicator for each category.

        All indicators of a category that no candidate has are 0.
        """
        if self.scale == "category":
            own = np.array([text_of(value) for value in values], dtype=object)
            names = np.array([text_of(level) for level in self.levels], dtype=object)
            return np.asarray(own[:, None] == names, dtype=float)
        places = self.positions(values)
        scaled: Array = (places[:, None] - self._low) / ((self._high - self._low) or 1.0)
        return scaled

    def grid(self, n_points: int) -> list[Any]:
        """Return values along the axis: the candidates' values if there are few, else evenly spaced ones."""
        if self.scale == "category" or len(self.levels) <= n_points:
            return self.levels
        places = np.linspace(self._low, self._high, n_points)
        if self.scale == "log":
            whole = self.levels[0] == 0
            places = 10**places
            places[0] = 0.0 if whole else places[0]
        if all(isinstance(level, Integral) for level in self.levels):
            places = np.unique(np.rint(places).astype(int))
        return list(places.tolist())

    def ticks(self) -> tuple[list[float], list[str]] | None:
        """Return positions and labels of ticks, None on a linear scale, where matplotlib chooses them."""
        if self.scale == "category":
            return list(range(len(self.levels))), [text_of(level) for level in self.levels]
        if self.scale == "linear":
            return None
        low = int(np.ceil(self._low - 1e-9))
        decades = range(low, int(np.floor(self._high + 1e-9)) + 1)
        step = max(1, round(len(decades) / 3))
        places: list[float] = [float(d) for d in decades[::-step]][::-1]
        names = [f"$10^{{{place:.0f}}}$" for place in places]
        if self.levels[0] == 0:
            beyond = [(p, n) for p, n in zip(places, names, strict=True) if p > self._low + 1.5]
            places, names = [p for p, _ in beyond], [n for _, n in beyond]
            places, names = [float(self._low), *places], ["0", *names]
        return places, names


def read_results(
    cv_results: Mapping[str, Any] | pd.DataFrame,
    *,
    parameters: Sequence[str] | None,
    score: str,
    scales: Mapping[str, Scale] | None,
    fewest: int = 1,
) -> tuple[list[SearchAxis], pd.DataFrame]:
    """Return the axes of a search and a table of its candidates, without candidates whose fit failed."""
    results = {str(key): values for key, values in cv_results.items()}
    known = [key.removeprefix(PARAM_PREFIX) for key in results if key.startswith(PARAM_PREFIX)]
    scales = dict(scales or {})
    for given in [*(parameters or []), *scales]:
        if given not in known:
            raise ValueError(f"{given!r} is no parameter of the search; choose among {known}")
    wrong = {name: scale for name, scale in scales.items() if scale not in _SCALES}
    if wrong:
        raise ValueError(f"scales={wrong} must be among {_SCALES}")
    if score not in results:
        raise ValueError(f"score={score!r} is not in the results, which hold {list(results)}")
    scores = np.asarray(results[score], dtype=float)
    usable = np.isfinite(scores)
    if usable.sum() < fewest:
        raise ValueError(
            f"expected at least {fewest} candidates with a finite score, got {usable.sum()}"
        )
    axes, columns = [], {}
    for name in known if parameters is None else parameters:
        values = _values_of(name, results[PARAM_PREFIX + name], usable)
        axis = SearchAxis(name, values, scales.get(name))
        if parameters is None and axis.is_constant:
            continue
        axes.append(axis)
        columns[name] = as_column(values)
    if not axes:
        raise ValueError(f"no parameter of the search varies among {usable.sum()} candidates")
    return axes, pd.DataFrame(columns).assign(score=scores[usable])


def is_given(values: Any) -> NDArray[np.bool_]:
    """Return which candidates have a value of a parameter; with a list of grids, some have none."""
    if isinstance(values, np.ma.MaskedArray):
        return ~np.ma.getmaskarray(values)
    # A table of pandas holds NaN where the array is masked.
    return np.array([not (isinstance(v, float) and np.isnan(v)) for v in values], dtype=bool)


def _values_of(name: str, values: Any, usable: NDArray[np.bool_]) -> list[Any]:
    """Return the values of a parameter in the usable candidates; each of them must have one."""
    missing = int((usable & ~is_given(values)).sum())
    if missing:
        msg = (
            f"{missing} candidates have no {name!r}; name in parameters= only parameters that all "
            "candidates have"
        )
        raise ValueError(msg)
    plain = values.data if isinstance(values, np.ma.MaskedArray) else values
    return [value for value, use in zip(plain, usable, strict=True) if use]


def as_table(candidates: Any, axes: Sequence[SearchAxis]) -> pd.DataFrame:
    """Return candidates, given as a table or dictionaries, as a table with a column for each axis."""
    if not isinstance(candidates, pd.DataFrame):
        candidates = [candidates] if isinstance(candidates, Mapping) else list(candidates)
        names = [axis.name for axis in axes]
        candidates = pd.DataFrame(
            {n: as_column([candidate.get(n) for candidate in candidates]) for n in names}
        )
    missing = [a.name for a in axes if a.name not in candidates or candidates[a.name].isna().any()]
    if missing:
        raise ValueError(f"candidates have no {missing}, which the model needs")
    table: pd.DataFrame = candidates[[axis.name for axis in axes]]
    return table


def as_column(values: Sequence[Any]) -> pd.Series[Any]:
    """Return values as a column, element by element: a value may itself be a list."""
    return pd.Series(np.fromiter(values, dtype=object, count=len(values))).infer_objects()


def _scale_of(values: Sequence[Any]) -> Scale:
    """Return the scale on which the values are spread most evenly."""
    if not all(map(is_number, values)):
        return "category"
    numbers = np.unique([float(value) for value in values])
    positive = numbers[numbers > 0]
    if (numbers < 0).any() or not len(positive):
        return "linear"
    over_decades = positive.max() >= 100 * positive.min()
    # Uniformly drawn numbers may also include values close to zero, but their median is not.
    return "log" if over_decades and np.median(positive) < 0.2 * positive.max() else "linear"


def is_number(value: Any) -> bool:
    """Return whether a value is a number; True and False count as categories."""
    return isinstance(value, Real) and not is_flag(value)


def text_of(value: Any) -> str:
    """Return a text that is the same for equal values, such as 1 and 1.0."""
    if isinstance(value, str):
        return value
    return repr(float(value)) if is_number(value) else repr(value)
