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


class FramesAsArrays:
    """Mixin, before `BaseEstimator`: in the state that is stored, tables are arrays."""

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        frames = {name: value for name, value in state.items() if isinstance(value, pd.DataFrame)}
        return state | {name: _stored(frame) for name, frame in frames.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        stored = {name: value for name, value in state.items() if isinstance(value, StoredFrame)}
        frames = {
            name: pd.DataFrame(dict(zip(*value, strict=True))) for name, value in stored.items()
        }
        super().__setstate__(state | frames)  # type: ignore[misc]


def _stored(frame: pd.DataFrame) -> StoredFrame:
    return StoredFrame(list(frame.columns), [np.asarray(frame[name]) for name in frame.columns])
