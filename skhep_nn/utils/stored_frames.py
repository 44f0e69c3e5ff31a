"""Tables and private tuples among the attributes of an estimator, as plain values while it is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["PlainState", "Rebuild", "Rebuilds", "each", "frame", "one"]

Rebuild: TypeAlias = Callable[[Any], Any]
Rebuilds: TypeAlias = Mapping[str, Rebuild]
"""Names of attributes, and how each is made of plain values."""


class StoredFrame(NamedTuple):
    """A DataFrame with rows by number: formats without pickle know arrays only."""

    names: list[str]
    columns: list[NDArray[Any]]
    dtypes: list[str]


class PlainState:
    """Mixin, before `BaseEstimator`: the stored state holds plain values in place of private classes.

    Tables and named tuples become tuples and lists, so that a stored model names no private class and
    these can change. `_rebuild` names the attributes that hold them and says how each is made again.
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
    """Return a function that makes one named tuple of its values."""
    return lambda values: kind(*values)


def each(kind: Callable[..., Any]) -> Rebuild:
    """Return a function that makes a list of named tuples of a list of their values."""
    return lambda several: [kind(*values) for values in several]


def frame(stored: Any) -> pd.DataFrame:
    """Return a table made of its names, columns and dtypes; one that was stored as a whole stays itself."""
    if isinstance(stored, pd.DataFrame):
        return stored
    columns = zip(*StoredFrame(*stored), strict=True)
    return pd.DataFrame({name: pd.Series(values, dtype=dtype) for name, values, dtype in columns})


def _plain(value: Any) -> Any:
    """Return a value with tuples in place of named tuples and of tables, at any depth of lists."""
    if isinstance(value, pd.DataFrame):
        return tuple(_stored(value)) if _is_plain(value) else value
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value


def _is_plain(value: pd.DataFrame) -> bool:
    """Whether a table is no more than its arrays: rows by number, columns by name, numpy's types."""
    return (
        value.index.equals(pd.RangeIndex(len(value)))
        and value.columns.is_unique
        and all(isinstance(name, str) for name in value.columns)
        and all(isinstance(dtype, np.dtype | pd.StringDtype) for dtype in value.dtypes)
    )


def _stored(table: pd.DataFrame) -> StoredFrame:
    columns = [np.asarray(table[name]) for name in table.columns]
    return StoredFrame(list(table.columns), columns, [str(dtype) for dtype in table.dtypes])
