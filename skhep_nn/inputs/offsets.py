"""Offsets of channels that single precision cannot hold beside the differences of the values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLURRED", "channel_offsets", "differences"]

# float32 has seven digits: it blurs values whose spread relative to their mean is smaller than this.
BLURRED = 1e-5
_MOST_SLICES = 8


def channel_offsets(values: Any, rows: list[slice]) -> NDArray[np.float64] | None:
    """Return what has to be subtracted from each channel before a conversion to float32.

    Parameters
    ----------
    values : array of shape (n_samples, ..., C)
        Finite values, or something whose slices are such arrays.
    rows : list of slice
        Slices that are looked at.

    Returns
    -------
    ndarray of shape (C,) or None
        Mean of the channels that float32 would blur, a whole number for integers, and 0 for the other channels;
        None if it blurs none.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.inputs.offsets import channel_offsets
    >>> counts = np.array([[[2**31], [2**31 + 20]], [[2**31 + 7], [2**31 + 5]]])
    >>> channel_offsets(counts, [slice(0, 2)])
    array([2.14748366e+09])
    >>> channel_offsets(counts - 2**31, [slice(0, 2)]) is None
    True
    """
    if values.dtype.kind not in "iuf" or np.can_cast(values.dtype, np.float32):
        return None
    is_whole = values.dtype.kind in "iu"
    ends = [_ends(values[some]) for some in rows]
    lowest = np.min([low for low, _ in ends], axis=0)
    highest = np.max([high for _, high in ends], axis=0)
    low, high = lowest.astype(np.float64), highest.astype(np.float64)
    if is_whole:
        width = (highest.astype(np.uint64) - lowest.astype(np.uint64)).astype(np.float64)
    else:
        width = high - low
    offset = np.zeros(values.shape[-1])
    # A quick test first, as hardly any channel needs the exact one.
    largest = np.maximum(abs(low), abs(high))
    for c in np.flatnonzero((width <= 10 * BLURRED * largest) & (width > 0)).tolist():
        few = rows[:: 1 + len(rows) // _MOST_SLICES]
        apart = [differences(values[some][..., [c]], low[[c]]).ravel() for some in few]
        spread, center = np.std(np.concatenate(apart)), low[c] + np.mean(np.concatenate(apart))
        # A constant that was computed in several ways differs by its rounding errors.
        rounding = 0.0 if is_whole else 4 * np.finfo(np.float64).eps
        if width[c] > rounding * abs(center) and spread < BLURRED * abs(center):
            offset[c] = np.rint(center) if is_whole else center
    return offset if offset.any() else None


def differences(values: NDArray[Any], offset: NDArray[np.float64]) -> NDArray[Any]:
    """Return values less the offset of their channel, the last axis; exact for integers of any size."""
    if values.dtype.kind not in "iu" or (offset != np.rint(offset)).any():
        moved: NDArray[Any] = values.astype(np.float64) - offset
        return moved
    # Integers modulo 2**64: differences of large unsigned ones are right too.
    whole = np.array([round(o) % 2**64 for o in offset.tolist()], dtype=np.uint64)
    exact: NDArray[Any] = (values.astype(np.uint64) - whole).view(np.int64)
    return exact


def _ends(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the smallest and the largest value of every channel."""
    axes = tuple(range(values.ndim - 1))
    return values.min(axes), values.max(axes)
