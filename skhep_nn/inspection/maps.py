"""Outputs of the layers of a fitted network for an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skhep_nn.inspection.fitted_networks import check_member, input_of_last_step, last_step
from skhep_nn.utils.torch_state import tensor_of, usual_defaults

__all__ = ["feature_maps", "network_and_image"]

Array = npt.NDArray[Any]


@usual_defaults()
def feature_maps(
    estimator: Any,
    image: npt.ArrayLike,
    *,
    layers: str | Sequence[str] | None = None,
    member: int = 0,
) -> dict[str, npt.NDArray[np.float32]]:
    """Compute the outputs of the layers of a fitted convolutional network for an image.

    Parameters
    ----------
    estimator : estimator
        Fitted `CaloCNNClassifier` or another estimator of images, or a Pipeline that ends in one,
        whose earlier steps then transform the image.
    image : array-like of shape (H, W), (H, W, C) or (n_pixels,)
        One image, in the form of the images given to `fit`.
    layers : str or list of str, default=None
        Submodules of the network by their names in torch, such as ``"blocks.0.units.0"``, whose
        outputs are images. None: all blocks, ``"blocks.0"``, ``"blocks.1"`` and so on, each after
        convolution, pooling and activation.
    member : int, default=0
        Member of the ensemble; negative ones count from the last.

    Returns
    -------
    dict of str to ndarray of shape (channels, H, W)
        Activations in the order in which they were computed, float32.

    Raises
    ------
    TypeError
        If the estimator is no ensemble of networks for images.
    ValueError
        If the image has another shape than those at fit, the network has no such layer or
        member, or a layer gives no images.

    See Also
    --------
    skhep_nn.plotting.FeatureMapsDisplay : Plot of the maps.

    Notes
    -----
    Computed in float32 on the CPU, without dropout, from the image itself,
    without augmented views.

    Examples
    --------
    >>> from skhep_nn import CaloCNNClassifier, make_calo_showers
    >>> from skhep_nn.inspection import feature_maps
    >>> showers = make_calo_showers(100, random_state=0)
    >>> model = CaloCNNClassifier(max_epochs=1, random_state=0)
    >>> _ = model.fit(showers.images, showers.target)
    >>> maps = feature_maps(model, showers.images[0])
    >>> {name: values.shape for name, values in maps.items()}
    {'blocks.0': (32, 16, 16), 'blocks.1': (64, 8, 8), 'blocks.2': (128, 4, 4), 'blocks.3': (256, 2, 2)}
    """
    network, pixels = network_and_image(estimator, image, member)
    names = [layers] if isinstance(layers, str) else layers
    if names is None:
        names = [f"blocks.{k}" for k in range(len(_blocks(network)))]
    modules = dict(network.named_modules())
    unknown = [name for name in names if not name or name not in modules]
    if unknown:
        raise ValueError(
            f"the network has no layers {unknown}: choose from {[name for name in modules if name]}"
        )
    found: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del module, inputs
            found[name] = output

        return keep

    handles = [modules[name].register_forward_hook(keeper(name)) for name in names]
    try:
        with torch.inference_mode():
            network(tensor_of(pixels))
    finally:
        for handle in handles:
            handle.remove()
    flat = [name for name, output in found.items() if output.ndim != 4]
    if flat:
        raise ValueError(f"layers {flat} give numbers, not images: choose layers of blocks")
    return {name: output[0].contiguous().numpy() for name, output in found.items()}


def network_and_image(
    estimator: Any, image: npt.ArrayLike, member: int = 0
) -> tuple[nn.Module, Array]:
    """Return one member of a fitted estimator, and its input image of shape (1, H, W, C)."""
    check_is_fitted(estimator)
    batch = input_of_last_step(estimator, np.asarray(image)[None])
    estimator = last_step(estimator)
    if not hasattr(estimator, "ensemble_") or not hasattr(estimator, "image_shape_"):
        raise TypeError(
            f"expected a fitted estimator of images, such as CaloCNNClassifier, got "
            f"{type(estimator).__name__}"
        )
    check_member(member, len(estimator.ensemble_))
    values = np.ascontiguousarray(estimator.read(batch).values)
    return estimator.ensemble_.member(member), values


def _blocks(network: nn.Module) -> nn.ModuleList:
    """Return the blocks of a network."""
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise TypeError(
            f"{type(network).__name__} has no blocks: name submodules of the network with layers="
        )
    return blocks
