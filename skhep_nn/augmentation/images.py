"""Augmentation of images: flips, quarter turns, rolls and smearing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skhep_nn.inputs.images import ImageTransformer, chunks, floating
from skhep_nn.utils.public import public
from skhep_nn.utils.random import random_numbers
from skhep_nn.utils.stored_frames import PlainState, Rebuilds, each
from skhep_nn.utils.torch_state import as_signed

__all__ = ["ImageAugmenter"]


class _Placement(NamedTuple):
    """Orientation of an image: mirrored along its axes, then transposed."""

    transposed: bool
    mirror_rows: bool
    mirror_columns: bool


@public("skhep_nn")
class ImageAugmenter(PlainState, ImageTransformer):
    r"""Flip, turn and roll images of a calorimeter, and smear their energies.

    A barrel calorimeter is symmetric in pseudorapidity and azimuth, so that an image flipped along
    either is equally likely, with the same class [1]_. If cells are square and both axes are
    equivalent, an image rotated by a quarter turn is equally likely, too.

    Parameters
    ----------
    flip_eta : bool, default=True
        Mirror half of the copies in pseudorapidity.
    flip_phi : bool, default=True
        Mirror half of the copies in azimuth.
    quarter_turns : bool, default=True
        Rotate by a random number of quarter turns. Images that are not square are never rotated. A
        magnetic field spreads the radiation of an electron in azimuth: try False if the classes
        differ in this.
    roll_phi : int, default=0
        Shift along azimuth by a whole number of cells, uniform from ``-roll_phi`` to ``roll_phi``.
        Cells that leave the image on one side return on the other, as azimuth is periodic. The
        sum of an image, its pedestal and its noise stay the same.
    smearing : float, default=0.0
        Relative standard deviation of a Gaussian factor on the energy of each cell, drawn
        independently for every cell, like the spread of a calibration. An empty cell stays empty, no
        energy becomes negative, and the sum of many cells hardly changes. Only for energies with a
        pedestal of zero.
    energy_channels : sequence of int, default=(0,)
        Channels that hold energies (not times, for example), to which `smearing` applies.
    phi_axis : {0, 1}, default=1
        Axis of the image along which azimuth varies: 0 for rows, 1 for columns.
    image_shape : sequence of int, default=None
        ``(H, W)`` or ``(H, W, C)``, for images given as rows of pixels. With None such rows are
        images of height 1.
    random_state : int, RandomState instance or None, default=None
        Seed of `transform`. With an int, every call draws the same numbers.

    Attributes
    ----------
    n_views_ : int
        Number of test-time views, which are all orientations by flips and turns: by default eight
        for a square image, otherwise four.
    image_shape_ : tuple of int
        Shape of an image.
    n_features_in_ : int
        Number of values of an image.
    feature_names_in_ : ndarray of str
        Names of the columns seen in `fit`, if X had names.

    See Also
    --------
    EventAugmenter : The same for rows of momenta.

    Notes
    -----
    Integers, such as the uint8 and uint16 counts of a camera, keep their type under flips, turns and rolls.
    Smearing makes them floating-point numbers (float32 for 8 and 16 bits), so that nothing wraps around.

    Pixels are permuted, never interpolated, so that all operations except smearing are exact.

    As a step of a Pipeline an augmenter acts both at fit and at predict. The parameter
    ``augmentation=`` of the networks draws new copies for every batch and averages over the views at
    predict; `AugmentedClassifier` does so for other estimators.

    References
    ----------
    .. [1] M. Andrews, M. Paulini, S. Gleyzer and B. Poczos, "End-to-end physics event
       classification with CMS open data", arXiv:1807.11916.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.augmentation import ImageAugmenter
    >>> image = np.array([[[1, 2], [3, 4]]])
    >>> augmenter = ImageAugmenter(random_state=0).fit(image)
    >>> augmenter.transform(image)
    array([[[4, 2],
            [3, 1]]])
    >>> augmenter.n_views_
    8
    >>> [view.ravel().tolist() for view in augmenter.views(image)][:4]
    [[1, 2, 3, 4], [2, 1, 4, 3], [3, 4, 1, 2], [4, 3, 2, 1]]
    """

    _rebuild: ClassVar[Rebuilds] = {"_views": each(_Placement)}

    def __init__(
        self,
        *,
        flip_eta: bool = True,
        flip_phi: bool = True,
        quarter_turns: bool = True,
        roll_phi: int = 0,
        smearing: float = 0.0,
        energy_channels: Sequence[int] = (0,),
        phi_axis: int = 1,
        image_shape: Sequence[int] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.flip_eta = flip_eta
        self.flip_phi = flip_phi
        self.quarter_turns = quarter_turns
        self.roll_phi = roll_phi
        self.smearing = smearing
        self.energy_channels = energy_channels
        self.phi_axis = phi_axis
        self.image_shape = image_shape
        self.random_state = random_state

    def _prepare(self, values: NDArray[Any]) -> None:
        """Check the parameters and list the views."""
        height, width, n_channels = values.shape[1:]
        self._check_parameters(height, width, n_channels)
        flips = (self.flip_eta, self.flip_phi)
        if self.phi_axis == 0:
            flips = flips[::-1]
        # A single row is its own mirror image.
        self._mirrors_rows = bool(flips[0]) and height > 1
        self._mirrors_columns = bool(flips[1]) and width > 1
        self._turns = bool(self.quarter_turns) and height == width > 1
        switches = [
            (False, True) if on or self._turns else (False,)
            for on in (self._turns, self._mirrors_rows, self._mirrors_columns)
        ]
        self._views = [
            placement
            for placement in (_Placement(*bits) for bits in product(*switches))
            # Without mirrors only rotations are allowed: an even number of reflections.
            if self._mirrors or not self._turns or sum(placement) % 2 == 0
        ]
        self.n_views_ = len(self._views)

    def _check_parameters(self, height: int, width: int, n_channels: int) -> None:
        """Raise ValueError for the first parameter that is out of its range."""
        if self.phi_axis not in (0, 1):
            raise ValueError(f"phi_axis must be 0 or 1, got {self.phi_axis!r}.")
        extent = (height, width)[self.phi_axis]
        roll: Any = self.roll_phi
        if not isinstance(roll, Integral) or not 0 <= int(roll) < extent:
            raise ValueError(
                f"roll_phi must be an integer from 0 to below the {extent} cells that the image "
                f"has in azimuth, got {roll!r}."
            )
        smearing: Any = self.smearing
        if not isinstance(smearing, Real) or not 0 <= float(smearing) < np.inf:
            raise ValueError(f"smearing must be a number of at least 0, got {smearing!r}.")
        channels: Any = self.energy_channels
        for channel in channels:
            if not isinstance(channel, Integral) or not 0 <= int(channel) < n_channels:
                raise ValueError(
                    f"energy_channels must be among the {n_channels} channels of the images, from "
                    f"0 on, got {channel!r}."
                )

    @property
    def _mirrors(self) -> bool:
        """Whether images are mirrored, along any axis."""
        return self._mirrors_rows or self._mirrors_columns

    def transform(self, X: Any) -> Any:
        """Give every image a random orientation and smear its energies.

        Parameters
        ----------
        X : array of shape (n_samples, H, W) or (n_samples, H, W, C), or rows of pixels
            Images.

        Returns
        -------
        array of the same shape
            One copy of every image, in the container of X.
        """
        images = self.read(X)
        rng = random_numbers(self.random_state)
        n_samples, *shape = images.values.shape
        uniform = rng.uniform(size=(4, n_samples))
        dtype = floating(images.values.dtype) if self.smearing else images.values.dtype
        out = np.empty(images.values.shape, dtype)
        for rows in chunks(out):
            pixels = images.values[rows].reshape(-1, shape[0] * shape[1], shape[2])
            sources = self._sources(torch.from_numpy(uniform[:, rows])).numpy()
            moved = np.take_along_axis(pixels, sources[..., np.newaxis], axis=1)
            out[rows] = moved.reshape(-1, *shape)
            if self.smearing:
                for channel in self.energy_channels:
                    normal = rng.standard_normal(size=out[rows].shape[:3])
                    out[rows][..., channel] *= np.maximum(1 + self.smearing * normal, 0)
        return self._restored(images, out)

    def views(self, X: Any) -> Iterator[Any]:
        """Yield the fixed views of the images, over which predictions are averaged.

        Parameters
        ----------
        X : array of shape (n_samples, H, W) or (n_samples, H, W, C), or rows of pixels
            Images.

        Yields
        ------
        array of the same shape
            All images in one orientation, `n_views_` times; the first view is unchanged.
        """
        images = self.read(X)
        return (
            self._restored(images, np.ascontiguousarray(_placed(np, images.values, placement)))
            for placement in self._views
        )

    def transform_tensor(self, X: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Give every image of a batch a random orientation and smear its energies, on its device.

        Has no synchronisation and no data-dependent step, so that it can be captured in a CUDA
        graph. Register the generator with the graph, so that each replay draws new numbers.

        Parameters
        ----------
        X : Tensor of shape (..., H, W), (..., H, W, C) or (..., n_pixels)
            Images, with any number of leading dimensions. Not changed in place.
        generator : torch.Generator
            Source of random numbers, on the device of X.

        Returns
        -------
        Tensor of the same shape
            One copy of every image.
        """
        height, width, n_channels = self.sample_shape
        pixels = self._images(X).reshape(-1, height * width, n_channels)
        shape = (4, len(pixels))
        uniform = torch.rand(shape, generator=generator, dtype=torch.float32, device=X.device)
        sources = self._sources(uniform)
        bits = as_signed(pixels)
        if n_channels == 1:
            moved = bits.squeeze(-1).gather(1, sources).unsqueeze(-1)
        else:
            moved = bits.gather(1, sources.unsqueeze(-1).expand(-1, -1, n_channels))
        moved = moved.view(X.dtype)
        if self.smearing:
            moved = moved if moved.is_floating_point() else moved.float()
            for channel in self.energy_channels:
                energy = moved[..., channel]
                normal = torch.empty_like(energy).normal_(generator=generator)
                energy.mul_(normal.mul_(self.smearing).add_(1).clamp_(min=0))
        return moved.reshape(X.shape)

    def view_tensor(self, X: torch.Tensor, index: int) -> torch.Tensor:
        """Return one of the fixed views of a batch, on its device.

        Parameters
        ----------
        X : Tensor of shape (..., H, W), (..., H, W, C) or (..., n_pixels)
            Images. Not changed in place.
        index : int
            Number of the view, from 0 (the unchanged images) to ``n_views_ - 1``.

        Returns
        -------
        Tensor of the same shape
            All images in this orientation.
        """
        if not 0 <= index < self.n_views_:
            raise IndexError(f"There are {self.n_views_} views, from 0 on; got index {index}.")
        placed = _placed(torch, as_signed(self._images(X)), self._views[index])
        view: torch.Tensor = placed.reshape(X.shape).contiguous()
        # A view with the same type would still be an operator, which ONNX does not have.
        return view if view.dtype == X.dtype else view.view(X.dtype)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True  # the random numbers of an image depend on its row
        return tags

    def _images(self, X: torch.Tensor) -> torch.Tensor:
        """Reshape a batch to images of shape (..., H, W, C)."""
        size = self.sample_shape
        if X.shape[-3:] == size:
            return X
        if X.shape[-len(self.image_shape_) :] == self.image_shape_:
            return X.unsqueeze(-1)
        if X.shape[-1] == self.n_features_in_:
            return X.reshape(*X.shape[:-1], *size)
        raise ValueError(
            f"X has the shape {tuple(X.shape)}, but {type(self).__name__} is expecting images of "
            f"shape {self.image_shape_} or rows of {self.n_features_in_} features as input."
        )

    def _sources(self, uniform: torch.Tensor) -> torch.Tensor:
        """Return the source of each pixel of each image, from four numbers uniform in [0, 1).

        Flips, turns and rolls move whole rows and columns. The number of a source pixel is thus the sum of
        one term for the row and one for the column, which costs one addition a pixel.
        """
        height, width, _ = self.sample_shape
        heads = uniform[:3] >= 0.5
        transposed = heads[0] & self._turns
        up = heads[1] & (self._turns or self._mirrors_rows)
        if self._turns:
            left = heads[2] if self._mirrors else transposed ^ up
        else:
            left = heads[2] & self._mirrors_columns
        position = [torch.arange(n, device=uniform.device) for n in (height, width)]
        rows, columns = (
            torch.where(mirrored[:, None], n - 1 - place, place)
            for n, place, mirrored in zip((height, width), position, (up, left), strict=True)
        )
        if self.roll_phi:
            shift = (uniform[3, :, None] * (2 * self.roll_phi + 1)).long() - self.roll_phi
            if self.phi_axis == 1:
                columns = (columns - shift) % width
            else:
                rows = (rows - shift) % height
        rows = rows * width
        if self._turns:
            rows, columns = (
                torch.where(transposed[:, None], columns, rows),
                torch.where(transposed[:, None], rows, columns),
            )
        sources: torch.Tensor = (rows[:, :, None] + columns[:, None, :]).flatten(1)
        return sources


def _placed(xp: Any, images: Any, placement: _Placement) -> Any:
    """Return images of shape (..., H, W, C), as an array or a tensor, in another orientation."""
    axes = [
        axis
        for axis, mirrored in ((-3, placement.mirror_rows), (-2, placement.mirror_columns))
        if mirrored
    ]
    flipped = xp.flip(images, axes) if axes else images
    return xp.swapaxes(flipped, -3, -2) if placement.transposed else flipped
