"""Tables among the attributes of an estimator, as arrays while it is stored."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["FramesAsArrays"]


class StoredFrame(NamedTuple):
    """A DataFrame with rows by number: formats without pickle know arrays only."""

    names: list[str]
    columns: list[NDArray[Any]]
    dtypes: list[str]


class FramesAsArrays:
    """Mixin, before `BaseEstimator`: in the state that is stored, tables are arrays."""

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        frames = {name: value for name, value in state.items() if _is_plain(value)}
        return state | {name: _stored(frame) for name, frame in frames.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        stored = {name: value for name, value in state.items() if isinstance(value, StoredFrame)}
        frames = {name: _restored(value) for name, value in stored.items()}
        super().__setstate__(state | frames)  # type: ignore[misc]


def _is_plain(value: Any) -> bool:
    """Whether a value is a table whose arrays are all of it: rows by number, columns by name, numpy's types."""
    return (
        isinstance(value, pd.DataFrame)
        and value.index.equals(pd.RangeIndex(len(value)))
        and value.columns.is_unique
        and all(isinstance(name, str) for name in value.columns)
        and all(isinstance(dtype, np.dtype | pd.StringDtype) for dtype in value.dtypes)
    )


def _stored(frame: pd.DataFrame) -> StoredFrame:
    columns = [np.asarray(frame[name]) for name in frame.columns]
    return StoredFrame(list(frame.columns), columns, [str(dtype) for dtype in frame.dtypes])


def _restored(stored: StoredFrame) -> pd.DataFrame:
    columns = zip(*stored, strict=True)
    return pd.DataFrame({name: pd.Series(values, dtype=dtype) for name, values, dtype in columns})
