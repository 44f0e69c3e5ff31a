"""Transformers of images: crop and scale."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from sklearn.utils.validation import check_is_fitted

from skhep_nn.inputs.images import ImageTransformer, chunks, floating, precise
from skhep_nn.inputs.transformers import Names
from skhep_nn.utils.checks import is_count
from skhep_nn.utils.public import public

__all__ = ["ImageCropper", "ImageScaler"]

# Largest default side of a window: the crop of images of ions, which have 576 x 576 cells.
_AUTO_SIZE = 126
# Function and inverse. All of them increase, and are applied to the modulus.
_FUNCTIONS = {"log1p": (np.log1p, np.expm1), "sqrt": (np.sqrt, np.square)}


@public("skhep_nn")
class ImageCropper(ImageTransformer):
    """Cut a window out of every image.

    A camera or a time projection chamber records far more cells than a particle touches.

    Parameters
    ----------
    size : "auto", int or sequence of two int, default="auto"
        Side of the window in cells, or ``(height, width)``. "auto" is 126 cells, or the whole side of
        images that have fewer.
    centre : {"image", "blob"} or sequence of two int, default="image"
        Centre of the window: the middle of the image; the brightest blob of each image; or
        a given cell ``(row, column)`` of all images. A window that would extend beyond the image is
        moved inside.
    blob_size : int, default=5
        Width in cells over which the first channel is averaged, twice. The maximum of the result is
        the brightest blob. Choose the width of a real blob: a single hot pixel is averaged away.
    image_shape : sequence of int, default=None
        ``(H, W)`` or ``(H, W, C)``, for images given as rows of pixels. With None such rows are
        images of height 1.

    Attributes
    ----------
    image_shape_ : tuple of int
        Shape of an image in the input.
    window_shape_ : tuple of int
        Shape of an image in the output.
    n_features_in_ : int
        Number of values of an image in the input.
    feature_names_in_ : ndarray of str
        Names of the columns seen in `fit`, if X had names.

    Notes
    -----
    Copies only the windows, in the type of the data. Of a memory-mapped array only the windows are read
    into memory, except in the search for infinities and blobs.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.preprocessing import ImageCropper
    >>> images = np.zeros((2, 576, 576), dtype=np.uint8)
    >>> ImageCropper().fit_transform(images).shape
    (2, 126, 126)
    >>> images[0, 100, 30:33] = 200
    >>> ImageCropper(size=(1, 5), centre="blob", blob_size=3).fit_transform(images)[0]
    array([[  0, 200, 200, 200,   0]], dtype=uint8)
    """

    def __init__(
        self,
        *,
        size: int | str | Sequence[int] = "auto",
        centre: str | Sequence[int] = "image",
        blob_size: int = 5,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        self.size = size
        self.centre = centre
        self.blob_size = blob_size
        self.image_shape = image_shape

    def _prepare(self, values: NDArray[Any]) -> None:
        """Check the parameters and place the window, if it is the same for all images."""
        extent = values.shape[1:3]
        given: Any = self.size
        if isinstance(given, str) and given == "auto":
            given = [min(_AUTO_SIZE, n) for n in extent]
        window = tuple(given) if np.iterable(given) else (given, given)
        if len(window) != 2 or not all(is_count(n) for n in window):
            raise ValueError(
                f"size must be 'auto', or one or two integers of at least 1, got {self.size!r}."
            )
        if window[0] > extent[0] or window[1] > extent[1]:
            raise ValueError(
                f"A window of {window[0]} x {window[1]} cells does not fit into images of "
                f"{extent[0]} x {extent[1]}. Choose a smaller size."
            )
        blob: Any = self.blob_size
        if not is_count(blob):
            raise ValueError(f"blob_size must be an integer of at least 1, got {blob!r}.")
        self.window_shape_ = (*window, *self.image_shape_[2:])
        self._corner = self._place(extent)

    def _place(self, extent: Sequence[int]) -> NDArray[np.intp] | None:
        """Return the upper left cell of the window, or None if it differs between images."""
        window = np.array(self.window_shape_[:2])
        centre: Any = self.centre
        if isinstance(centre, str):
            if centre not in ("image", "blob"):
                raise ValueError(
                    f"centre must be 'image', 'blob' or a cell (row, column), got {centre!r}."
                )
            middle: NDArray[np.intp] = (np.array(extent) - window) // 2
            return None if centre == "blob" else middle
        cell = tuple(centre) if np.iterable(centre) else ()
        inside = len(cell) == 2 and all(
            isinstance(c, Integral) and 0 <= int(c) < n for c, n in zip(cell, extent, strict=True)
        )
        if not inside:
            raise ValueError(
                f"centre={centre!r} must be a cell (row, column) of images of {extent[0]} x "
                f"{extent[1]} cells."
            )
        return self._inside(np.array([cell])).reshape(2)

    def _inside(self, cells: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the upper left cells of windows around cells of shape (n, 2), moved inside the image."""
        window = np.array(self.window_shape_[:2])
        corners: NDArray[np.intp] = np.clip(cells - window // 2, 0, self.sample_shape[:2] - window)
        return corners

    def transform(self, X: Any) -> Any:
        """Cut the window out of every image.

        Parameters
        ----------
        X : array of shape (n_samples, H, W) or (n_samples, H, W, C), or rows of pixels
            Images.

        Returns
        -------
        array of shape (n_samples, h, w) or (n_samples, h, w, C), or rows of pixels
            The windows, in the container of X.
        """
        images = self.read(X)
        height, width = self.window_shape_[:2]
        cut = np.empty(
            (len(images.values), height, width, self.sample_shape[2]), images.values.dtype
        )
        for rows in chunks(images.values):
            part = images.values[rows]
            if self._corner is None:
                cut[rows] = self._around_blobs(part)
            else:
                top, left = self._corner
                cut[rows] = part[:, top : top + height, left : left + width]
        return self._restored(images, cut)

    def _around_blobs(self, values: NDArray[Any]) -> NDArray[Any]:
        """Cut the window of each image around its brightest blob."""
        height, width = self.window_shape_[:2]
        down, right = self._inside(self._blobs(values)).T[..., np.newaxis]
        down = (down + np.arange(height))[:, :, np.newaxis]
        right = (right + np.arange(width))[:, np.newaxis, :]
        around: NDArray[Any] = values[
            np.arange(len(values))[:, np.newaxis, np.newaxis], down, right
        ]
        return around

    def _blobs(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """Return the cell of the brightest blob of each image, of shape (n, 2)."""
        energy = values[..., 0].astype(floating(values.dtype))
        # After subtraction of the pedestal, cells beyond the edge count as zero.
        energy -= energy.mean(axis=(1, 2), keepdims=True)
        # Average with a box twice: once gives a blob a flat top, twice a peak.
        weights = np.convolve(np.ones(self.blob_size), np.ones(self.blob_size))
        for axis in (1, 2):
            correlate1d(energy, weights, axis, output=energy, mode="constant")
        brightest = energy.reshape(len(energy), -1).argmax(axis=1)
        return np.stack(np.unravel_index(brightest, energy.shape[1:]), axis=1)

    def _names_out(self, names_in: Names) -> Names:
        """Return the names of the pixels kept; new ones if the windows differ between images."""
        if self._corner is None:
            n_pixels = int(np.prod(self.window_shape_))
            return np.array([f"pixel{i}" for i in range(n_pixels)], dtype=object)
        (top, left), (height, width) = self._corner, self.window_shape_[:2]
        names = names_in.reshape(self.sample_shape)[top : top + height, left : left + width]
        kept: Names = names.ravel()
        return kept


@public("skhep_nn")
class ImageScaler(ImageTransformer):
    r"""Scale the pixels of images to the range from 0 to 1.

    The smallest and the largest value are found over all pixels of all images in `fit`, so that cells
    keep their proportions. scikit-learn's `MinMaxScaler` scales each pixel separately instead.

    Parameters
    ----------
    per_channel : bool, default=True
        Scale each channel separately; otherwise all channels alike.
    function : {"log1p", "sqrt"}, default=None
        Function applied before scaling: :math:`\ln(1 + |x| / u)` or :math:`\sqrt{|x| / u}`, with the
        sign of x. It enhances the faint cells of a shower, whose energies span decades.
    unit : float, default=1.0
        The :math:`u` of `function`, in the unit of the pixels. The scale of ``"log1p"`` is
        logarithmic above this value, which is best chosen near the noise.
    image_shape : sequence of int, default=None
        ``(H, W)`` or ``(H, W, C)``, for images given as rows of pixels. With None such rows are
        images of height 1.

    Attributes
    ----------
    data_min_, data_max_ : ndarray of shape (C,)
        Smallest and largest value of each channel seen in `fit`, or of all channels if `per_channel`
        is false.
    image_shape_ : tuple of int
        Shape of an image.
    n_features_in_ : int
        Number of values of an image.
    feature_names_in_ : ndarray of str
        Names of the columns seen in `fit`, if X had names.

    Notes
    -----
    Values beyond the range seen in `fit` become less than 0 or more than 1. A constant channel becomes 0.
    The output is a copy: floating-point data keep their type, but have at least 32 bits; integers become
    float32 if that holds them exactly (uint8, int16), otherwise float64.

    The networks standardise their inputs. They need this scaler only for `function`, or to reproduce a
    published recipe.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.preprocessing import ImageScaler
    >>> images = np.array([[[100, 104], [100, 110]]], dtype=np.uint8)
    >>> scaler = ImageScaler().fit(images)
    >>> scaler.transform(images)
    array([[[0. , 0.4],
            [0. , 1. ]]], dtype=float32)
    >>> scaler.data_min_, scaler.data_max_
    (array([100.]), array([110.]))
    """

    def __init__(
        self,
        *,
        per_channel: bool = True,
        function: str | None = None,
        unit: float = 1.0,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        self.per_channel = per_channel
        self.function = function
        self.unit = unit
        self.image_shape = image_shape

    def _prepare(self, values: NDArray[Any]) -> None:
        """Check the parameters and find the range."""
        if self.function is not None and self.function not in _FUNCTIONS:
            raise ValueError(
                f"function={self.function!r} is not known; choose one of {sorted(_FUNCTIONS)} or "
                "None."
            )
        unit: Any = self.unit
        if not isinstance(unit, Real) or not 0 < float(unit) < np.inf:
            raise ValueError(f"unit must be a positive number, got {unit!r}.")
        parts = (values[rows] for rows in chunks(values))
        ends = [(part.min((0, 1, 2)), part.max((0, 1, 2))) for part in parts]
        lowest, highest = zip(*ends, strict=True)
        self.data_min_ = np.min(lowest, axis=0).astype(np.float64)
        self.data_max_ = np.max(highest, axis=0).astype(np.float64)
        if not self.per_channel:
            self.data_min_[:] = self.data_min_.min()
            self.data_max_[:] = self.data_max_.max()
        # The functions increase, so that they map the ends of the range to its ends.
        self._low, high = self.data_min_.copy(), self.data_max_.copy()
        self._apply(self._low)
        self._apply(high)
        self._range = np.where(high > self._low, high - self._low, 1.0)

    def _apply(self, values: NDArray[np.floating]) -> None:
        """Apply the function, in place."""
        if self.function is not None:
            forward, _ = _FUNCTIONS[self.function]
            values /= self.unit
            np.copysign(forward(np.abs(values)), values, out=values)

    def _undo(self, values: NDArray[np.floating]) -> None:
        """Undo the function, in place."""
        if self.function is not None:
            _, backward = _FUNCTIONS[self.function]
            np.copysign(backward(np.abs(values)), values, out=values)
            values *= self.unit

    def transform(self, X: Any) -> Any:
        """Scale images.

        Parameters
        ----------
        X : array of shape (n_samples, H, W) or (n_samples, H, W, C), or rows of pixels
            Images.

        Returns
        -------
        array of the same shape
            Floating-point images, in the container of X.
        """
        images = self.read(X)
        scaled = np.empty(images.values.shape, precise(images.values.dtype))
        low, span = (a.astype(scaled.dtype) for a in (self._low, self._range))
        for rows in chunks(scaled):
            part = scaled[rows]
            part[...] = images.values[rows]
            self._apply(part)
            part -= low
            part /= span
        return self._restored(images, scaled)

    def inverse_transform(self, X: Any) -> Any:
        """Undo `transform`.

        Parameters
        ----------
        X : array of shape (n_samples, H, W) or (n_samples, H, W, C), or rows of pixels
            Scaled images.

        Returns
        -------
        array of the same shape
            Floating-point images in their original unit, in the container of X.
        """
        check_is_fitted(self)
        images = self.read(X)
        values = np.empty(images.values.shape, precise(images.values.dtype))
        low, span = (a.astype(values.dtype) for a in (self._low, self._range))
        for rows in chunks(values):
            part = values[rows]
            part[...] = images.values[rows]
            part *= span
            part += low
            self._undo(part)
        return self._restored(images, values)
