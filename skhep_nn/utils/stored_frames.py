"""Plain values for DataFrames and private named tuples in the stored state of an estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["PlainState", "Rebuild", "Rebuilds", "each", "frame", "one"]

Rebuild: TypeAlias = Callable[[Any], Any]
Rebuilds: TypeAlias = Mapping[str, Rebuild]
"""For each attribute, the function that rebuilds it from plain values."""


class StoredFrame(NamedTuple):
    """A DataFrame with a default index as arrays, for formats without pickle."""

    names: list[str]
    columns: list[NDArray[Any]]
    dtypes: list[str]


class PlainState:
    """Mixin, before `BaseEstimator`, that stores tuples and lists in place of private classes.

    A stored model then names no private class, and private classes can change. `_rebuild` lists the attributes
    concerned, each with the function that rebuilds it.
    """

    _rebuild: ClassVar[Rebuilds] = {}

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return state | {name: _plain(state[name]) for name in self._rebuild if name in state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        rebuilt = {
            name: rebuild(state[name]) for name, rebuild in self._rebuild.items() if name in state
        }
        super().__setstate__(state | rebuilt)  # type: ignore[misc]


def one(kind: Callable[..., Any]) -> Rebuild:
    """Return a function that rebuilds one named tuple from its values."""
    return lambda values: kind(*values)


def each(kind: Callable[..., Any]) -> Rebuild:
    """Return a function that rebuilds a list of named tuples from a list of their values."""
    return lambda several: [kind(*values) for values in several]


def frame(stored: Any) -> pd.DataFrame:
    """Rebuild a DataFrame from names, columns and dtypes; a DataFrame is returned unchanged."""
    if isinstance(stored, pd.DataFrame):
        return stored
    columns = zip(*StoredFrame(*stored), strict=True)
    return pd.DataFrame({name: pd.Series(values, dtype=dtype) for name, values, dtype in columns})


def _plain(value: Any) -> Any:
    """Replace named tuples and tables by plain tuples, also inside lists and tuples."""
    if isinstance(value, pd.DataFrame):
        return tuple(_stored(value)) if _is_plain(value) else value
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value


def _is_plain(value: pd.DataFrame) -> bool:
    """Whether arrays alone rebuild a table: default index, unique text names, dtypes of numpy."""
    return (
        value.index.equals(pd.RangeIndex(len(value)))
        and value.columns.is_unique
        and all(isinstance(name, str) for name in value.columns)
        and all(isinstance(dtype, np.dtype | pd.StringDtype) for dtype in value.dtypes)
    )


def _stored(table: pd.DataFrame) -> StoredFrame:
    columns = [np.asarray(table[name]) for name in table.columns]
    return StoredFrame(list(table.columns), columns, [str(dtype) for dtype in table.dtypes])
