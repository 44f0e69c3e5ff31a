"""Base class of estimators of images and traces, with channels last."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skhep_nn.estimators.base import BaseNetworkEstimator
from skhep_nn.inputs.channel_scales import ChannelScales
from skhep_nn.inputs.images import check_finite_rows, chunks
from skhep_nn.inputs.offsets import channel_offsets, differences
from skhep_nn.inputs.transformers import GridReader
from skhep_nn.training.job import Target

__all__ = ["GridEstimator"]


class GridEstimator(GridReader, BaseNetworkEstimator, ABC):
    """Estimator whose network standardises each channel.

    A subclass has `read`, `sample_shape` and `_network`.
    """

    #: Types that are not converted to float32 as a whole, which would take more memory: the network
    #: converts each batch.
    _kept: ClassVar[tuple[type, ...]] = (np.uint8,)

    @staticmethod
    def _further(network: type[nn.Module], given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Check `network_params` and return them as further arguments of the network."""
        further = dict(given or {})
        known = list(inspect.signature(network).parameters)
        if unknown := sorted(further.keys() - set(known)):
            msg = f"network_params names {unknown}, but {network.__name__} has {known}."
            raise ValueError(msg)
        return further

    def _encode_X(self, X: Any, *, reset: bool) -> NDArray[Any]:
        values = self.read(X, reset=reset).values
        is_lazy = not isinstance(values, np.ndarray)
        if reset:
            # A file is not read as a whole for this: its first, middle and last images tell.
            rows = _three(values) if is_lazy else chunks(values)
            found = channel_offsets(values, rows)
            if found is not None:
                self.offset_ = found
        offset = getattr(self, "offset_", None)
        if offset is not None and not reset and values.dtype in (np.float16, np.float32):
            msg = (
                f"X came as {values.dtype}, which cannot hold {self._called} around "
                f"{np.abs(offset).max():.4g}, as in fit. Pass integers or double precision."
            )
            warnings.warn(msg, UserWarning, stacklevel=2)
        if offset is None and values.dtype in self._kept:
            kept: NDArray[Any] = values
            return kept
        if offset is None:
            with np.errstate(over="ignore"):
                encoded: NDArray[Any] = values.astype(np.float32, copy=False)
        elif is_lazy:
            encoded = values.without(offset)
        else:
            encoded = np.empty(values.shape, np.float32)
            with np.errstate(over="ignore"):
                for some in chunks(values):
                    encoded[some] = differences(values[some], offset)
        if not is_lazy and values.dtype != encoded.dtype:
            check_finite_rows(encoded, self._called, "values beyond float32")
        return encoded

    def _input_state(self, X: NDArray[Any], weight: NDArray[np.float64]) -> dict[str, Any]:
        """Return the weighted mean and standard deviation of each channel over all its cells."""
        size = np.abs(weight)
        total = np.zeros((2, X.shape[-1]))
        cells = tuple(range(1, X.ndim - 1))
        seen = ChannelScales(len(X), X.shape[-1])
        for some in chunks(X):
            # Chunk by chunk, as a copy of all inputs in double precision may not fit into memory.
            values = X[some].astype(np.float64)
            mean, square = values.mean(cells), np.square(values).mean(cells)
            total[0] += size[some] @ mean
            total[1] += size[some] @ square
            seen.add(some, values, mean, square)
        mean, square = total / size.sum()
        spread = np.sqrt(np.maximum(square - mean**2, 0))
        # Rounding leaves some spread in a constant channel, in proportion to its mean. A fixed limit would instead
        # depend on the unit of the channel.
        least = np.maximum(1e-6 * np.abs(mean), np.finfo(np.float32).tiny)
        scale = np.where(spread > least, spread, 1)
        seen.warn(self._called, lost=spread <= least)
        return {
            "mean": torch.as_tensor(mean, dtype=torch.float32),
            "scale": torch.as_tensor(scale, dtype=torch.float32),
        }

    def _strata(self, X: NDArray[Any], target: Target) -> NDArray[Any] | None:
        del X
        return target.strata

    def _augmentation_frame(self, X: Any, encoded: NDArray[Any]) -> Any:
        del X
        return encoded


def _three(images: Any) -> list[slice]:
    """Return slices of one image each: the first, the one in the middle, the last."""
    n = len(images)
    return [slice(row, row + 1) for row in sorted({0, n // 2, n - 1})]
