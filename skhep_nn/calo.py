"""Convolutional networks for images of calorimeters and other pixel detectors."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skhep_nn._base import BaseNetworkClassifier, BaseNetworkEstimator, Target
from skhep_nn._calo_cnn import CaloCNN
from skhep_nn._docs import with_common_parameters
from skhep_nn._images import ImageReader, chunks

__all__ = ["CaloCNNClassifier"]


class _CaloEstimator(ImageReader, BaseNetworkEstimator, ABC):
    """What estimators of images share: reading, the `CaloCNN`, moments of the channels."""

    def _encode_X(self, X: Any, *, reset: bool) -> NDArray[Any]:
        values = self.read(X, reset=reset).values
        # Bytes stay bytes, a quarter of the memory: the network turns each batch into numbers.
        return values if values.dtype == np.uint8 else values.astype(np.float32, copy=False)

    def _network(self, n_outputs: int) -> tuple[type[nn.Module], dict[str, Any]]:
        params = {"image_shape": self._size, "n_outputs": n_outputs, "preset": self.preset}
        return CaloCNN, params | dict(self.network_params or {})

    def _input_state(self, X: NDArray[Any], weight: NDArray[np.float64]) -> dict[str, Any]:
        """Return the weighted mean and standard deviation of each channel over all its cells."""
        size = np.abs(weight)
        total = np.zeros((2, X.shape[-1]))
        for some in chunks(X):
            # Chunk by chunk: a copy of all images in double precision may not fit.
            images = X[some].astype(np.float64)
            total[0] += size[some] @ images.mean((1, 2))
            total[1] += size[some] @ np.square(images).mean((1, 2))
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


@with_common_parameters
class CaloCNNClassifier(_CaloEstimator, BaseNetworkClassifier):
    """Ensemble of convolutional networks that classifies images, such as electrons and photons.

    Parameters
    ----------
    %(common)s
    preset : {"compact", "challenge", "resnet15", "attention"}, default="compact"
        Architecture, see `CaloCNN`.
    network_params : dict, default=None
        Fields of the architecture that differ from the preset's, such as ``{"channels": (16, 32)}``.
    image_shape : tuple of int, default=None
        ``(H, W)`` or ``(H, W, C)`` of images that come as rows of pixels; by default such rows are
        images of one row.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    ensemble_ : Ensemble
        States and weights of the members.
    history_ : DataFrame
        A row for every member and pass: losses, learning rate, momentum, seconds.
    net_ : MemberNet
        The skorch net, dropped when pickled.
    augmenter_ : augmenter or None
        The fitted augmenter.
    image_shape_ : tuple of int
        Shape of the images seen at fit.
    n_features_in_ : int
        Number of values of an image.

    Notes
    -----
    Images are standardised inside the network by the mean and standard deviation of each channel at
    fit. They may be float32 or bytes, which are never copied as a whole on a CPU, memory maps included.

    References
    ----------
    arXiv:1807.11916 (the electron-photon data), arXiv:1512.03385 (residual networks), arXiv:1709.01507
    (squeeze-and-excitation).

    Examples
    --------
    >>> from skhep_nn import CaloCNNClassifier, make_calo_showers
    >>> showers = make_calo_showers(200, random_state=0)
    >>> model = CaloCNNClassifier(max_epochs=1, batch_size=50, random_state=0)
    >>> model.fit(showers.images, showers.target).predict_proba(showers.images).shape
    (200, 2)
    """

    def __init__(
        self,
        *,
        n_members: int = 1,
        augmentation: Any = None,
        tta: bool = True,
        schedule: Any = None,
        optimizer: Any = "adam",
        weight_decay: float = 0.0,
        batch_size: int = 256,
        max_epochs: int | None = None,
        validation_fraction: float = 0.1,
        early_stopping: bool | int = False,
        class_weight: Any = None,
        device: str = "auto",
        precision: str = "auto",
        compile: bool | Literal["auto"] = "auto",  # noqa: A002
        callbacks: list[Any] | None = None,
        random_state: Any = None,
        verbose: int = 0,
        preset: str = "compact",
        network_params: Mapping[str, Any] | None = None,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        self.n_members = n_members
        self.augmentation = augmentation
        self.tta = tta
        self.schedule = schedule
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.class_weight = class_weight
        self.device = device
        self.precision = precision
        self.compile = compile
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose
        self.preset = preset
        self.network_params = network_params
        self.image_shape = image_shape
