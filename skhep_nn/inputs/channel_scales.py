"""Warnings of channels of images and traces whose differences the network cannot see."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from skhep_nn.inputs.far_values import far_values, listing

__all__ = ["ChannelScales"]

# The rows of the largest values are outliers if without them the scale is smaller by this factor. They are at most
# one row, or one in a thousand: more often large values are what is searched for, such as pulses among noise.
_OUTLIERS = 30.0
_SHARE = 1e-3
_N_CELLS = 5_000
_NAMED_ROWS = 3


class ChannelScales:
    """Collects what decides whether the scale of every channel suits its values, chunk by chunk.

    Parameters
    ----------
    n_rows, n_channels : int
        Number of images or traces, and of their channels.
    """

    def __init__(self, n_rows: int, n_channels: int) -> None:
        self._low = np.full(n_channels, np.inf)
        self._high = np.full(n_channels, -np.inf)
        self._mean, self._square = np.empty((2, n_rows, n_channels))
        self._cells: list[NDArray[np.float64]] = []
        self._generator = np.random.default_rng(0)

    def add(
        self,
        rows: slice,
        values: NDArray[np.float64],
        mean: NDArray[np.float64],
        square: NDArray[np.float64],
    ) -> None:
        """Add rows, of shape (n_some, ..., C), with the mean and the mean square of each."""
        axes = tuple(range(values.ndim - 1))
        self._low = np.minimum(self._low, values.min(axes))
        self._high = np.maximum(self._high, values.max(axes))
        self._mean[rows], self._square[rows] = mean, square
        cells = values.reshape(-1, values.shape[-1])
        n = -(-_N_CELLS * len(values) // len(self._mean))
        self._cells.append(cells[self._generator.integers(len(cells), size=n)])

    def warn(self, called: str, *, lost: NDArray[np.bool_]) -> None:
        """Warn of channels that float32 blurs or whose scale some rows or a placeholder spoil.

        Parameters
        ----------
        called : str
            Word for the rows, such as "images".
        lost : ndarray of bool of shape (C,)
            Channels whose spread is not used, as it might come from rounding.
        """
        # A constant differs by its rounding errors.
        rounding = 4 * np.finfo(np.float32).eps * np.maximum(abs(self._low), abs(self._high))
        blurred = np.flatnonzero(lost & (self._high - self._low > rounding)).tolist()
        if blurred:
            msg = (
                f"channels {blurred} of X differ by less than float32 resolves: they are too far from zero, "
                "or too small altogether. Subtract an offset in double precision first, or choose another unit."
            )
            warnings.warn(msg, UserWarning, stacklevel=2)
        texts = [text for c in range(len(lost)) if (text := self._spoilt(c, called))]
        if texts:
            msg = (
                f"Values far outside all others spoil the scale of {called}, so that the network hardly tells "
                f"the others apart: {listing(texts)}. Drop or repair what is broken, fill what is missing."
            )
            warnings.warn(msg, UserWarning, stacklevel=2)

    def _spoilt(self, channel: int, called: str) -> str:
        """Say which rows or which placeholder spoil the scale of a channel; empty if none."""
        mean = self._mean[:, channel]
        center = np.median(mean)
        power = np.maximum(self._square[:, channel] - 2 * mean * center + center**2, 0)
        order = np.argsort(-power, kind="stable")
        most = max(1, int(_SHARE * len(order)))
        usual = power[order[most:]].mean() if len(order) > most else 0.0
        if usual > 0 and power.mean() > _OUTLIERS**2 * usual:
            far = [int(row) for row in order[:most] if power[row] > _OUTLIERS**2 * usual]
            named = ", ".join(map(str, far[:_NAMED_ROWS])) + ", ..." * (len(far) > _NAMED_ROWS)
            largest = max(self._low[channel], self._high[channel], key=abs)
            rows = "row" if len(far) == 1 else f"{len(far)} rows:"
            return f"channel {channel} reaches {largest:.3g} ({rows} {named})"
        cells = np.concatenate(self._cells)[:, channel]
        found = far_values(cells)
        if found is None or not found.placeholders:
            return ""
        values = list(found.placeholders)
        others = cells[~np.isin(cells, values)]
        # Saturated pulses repeat their value too, but others come near them.
        gap = min(abs(others - value).min() for value in values)
        if gap <= np.ptp(others):
            return ""
        share = sum(found.placeholders.values()) / len(cells)
        named = " and ".join(f"{value:.7g}" for value in values)
        return f"channel {channel} is {named} in {100 * share:.2g} % of the values of {called}"
