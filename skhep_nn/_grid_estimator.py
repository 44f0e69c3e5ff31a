"""What estimators of images and of traces share: inputs of any axes, with channels last."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from skhep_nn._base import BaseNetworkEstimator, Target
from skhep_nn._images import chunks

__all__ = ["GridEstimator"]


class GridEstimator(BaseNetworkEstimator, ABC):
    """Estimator whose network standardises each channel; a subclass has `read` and `_network`."""

    #: Types that are not turned into float32 as a whole, which would take more memory: the network
    #: turns each batch into numbers.
    _kept: ClassVar[tuple[type, ...]] = (np.uint8,)

    @abstractmethod
    def read(self, X: Any, *, reset: bool = False) -> Any:
        """Validate inputs; the answer has `values`, channels last."""

    def _encode_X(self, X: Any, *, reset: bool) -> NDArray[Any]:
        values: NDArray[Any] = self.read(X, reset=reset).values
        return values if values.dtype in self._kept else values.astype(np.float32, copy=False)

    def _input_state(self, X: NDArray[Any], weight: NDArray[np.float64]) -> dict[str, Any]:
        """Return the weighted mean and standard deviation of each channel over all its cells."""
        size = np.abs(weight)
        total = np.zeros((2, X.shape[-1]))
        cells = tuple(range(1, X.ndim - 1))
        for some in chunks(X):
            # Chunk by chunk: a copy of all inputs in double precision may not fit.
            values = X[some].astype(np.float64)
            total[0] += size[some] @ values.mean(cells)
            total[1] += size[some] @ np.square(values).mean(cells)
        mean, square = total / size.sum()
        spread = np.sqrt(np.maximum(square - mean**2, 0))
        scale = np.where(spread > 1e-6 * np.maximum(1, np.abs(mean)), spread, 1)
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
