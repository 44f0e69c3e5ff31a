"""Reading of images, and the base class of their transformers."""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from skhep_nn.inputs.offsets import differences
from skhep_nn.inputs.transformers import GridReader, GridTransformer, Names, grid_array
from skhep_nn.utils.checks import is_count

__all__ = [
    "CHUNK",
    "ImageReader",
    "ImageTransformer",
    "Images",
    "LazyImages",
    "check_finite_rows",
    "chunks",
    "floating",
    "precise",
]

# Number of values processed at once in steps that need temporary memory.
CHUNK = 2**20
# Number of rows that an error message lists.
_NAMED = 5
_SHAPES = "(n_samples, H, W), (n_samples, H, W, C) or (n_samples, n_pixels)"
# Images with fewer channels are not suspected to have their channels first.
_MANY_CHANNELS = 8


class Images(NamedTuple):
    """Validated images, with the container that they came in."""

    values: NDArray[Any]  # (n_samples, H, W, C), without a copy if possible
    n_axes: int
    labels: pd.Index | None  # of the rows of a DataFrame

    def restored(self, values: NDArray[Any], names: Names | None = None) -> Any:
        """Put images of shape (n_samples, h, w, C) into the container of the input."""
        if self.n_axes == 4:
            return values
        if self.n_axes == 3:
            return values[..., 0]
        rows = values.reshape(len(values), -1)
        return rows if self.labels is None else pd.DataFrame(rows, self.labels, names)


def floating(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the floating-point type of the data, or one that holds their integers exactly."""
    return np.dtype(dtype if dtype.kind == "f" else np.result_type(dtype, np.float32))


def precise(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type to compute in: as `floating`, but of at least 32 bits."""
    return np.promote_types(floating(dtype), np.float32)


def chunks(values: NDArray[Any]) -> list[slice]:
    """Return slices of images that are processed at once."""
    n = max(1, CHUNK // math.prod(values.shape[1:]))
    return [slice(start, start + n) for start in range(0, len(values), n)]


def check_finite_rows(
    values: NDArray[Any], called: str, what: str = "NaN or infinity", first: int | None = None
) -> None:
    """Raise ValueError if values are not finite, naming the rows.

    Parameters
    ----------
    values : ndarray of shape (n_samples, ...)
        Images or traces.
    called : str
        Word for the rows in the message, such as "images".
    what : str, default="NaN or infinity"
        Word for the bad values in the message.
    first : int, default=None
        Row of the data that the values begin with, if they are a part of the data.
    """
    if values.dtype.kind != "f":
        return
    axes = tuple(range(1, values.ndim))
    bad: list[int] = []
    for some in chunks(values):
        if not _all_finite(values[some]):
            finite = np.isfinite(values[some])
            bad += (some.start + np.flatnonzero(~finite.all(axes))).tolist()
    if bad:
        start = first or 0
        named = ", ".join(str(start + row) for row in bad[:_NAMED])
        named += ", ..." if len(bad) > _NAMED else ""
        rows = "row" if len(bad) == 1 else "rows"
        part = "" if first is None else f" from {first} to {first + len(values) - 1}"
        msg = (
            f"Input X contains {what} in {len(bad)} of {len(values)} {called}{part} ({rows} {named}). "
            f"Drop these {called}, or repair them first."
        )
        raise ValueError(msg)


def _all_finite(values: NDArray[Any]) -> bool:
    """Whether all numbers are finite; tests their sum first, which is quick."""
    if values.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def _warn_of_channels_first(name: str, shape: tuple[int, ...]) -> None:
    """Warn if images (H, W, C) have few rows and many channels, as if the channels came first."""
    n_rows, n_columns, n_channels = (*shape, 1, 1)[:3]
    many = n_channels >= _MANY_CHANNELS or n_channels == n_columns >= _MANY_CHANNELS // 2
    if many and 2 * n_rows <= min(n_columns, n_channels):
        warnings.warn(
            f"{name} takes images of shape {shape} as {n_rows} x {n_columns} cells with {n_channels} channels, "
            "but they look as if channels came first. Channels come last here: np.moveaxis(X, 1, -1). If the "
            f"shape is right, say image_shape={shape}.",
            stacklevel=5,
        )


class LazyImages:
    """Images that are read from a source when needed, used like an array of shape (n, H, W, C).

    Parameters
    ----------
    source : ChunkSource
        Object with ``shape``, ``dtype``, ``read(start, stop)`` and ``chunk_bounds``.
    dtype : numpy dtype, optional
        Type that images are converted to when read.
    image_shape : tuple of int, optional
        (H, W) or (H, W, C), where the source holds rows of pixels.
    offset : ndarray of shape (C,), optional
        Offset of each channel that is subtracted before the conversion.
    """

    def __init__(
        self,
        source: Any,
        dtype: Any = None,
        image_shape: tuple[int, ...] | None = None,
        offset: NDArray[np.float64] | None = None,
    ) -> None:
        self.source = source
        self.offset = offset
        self.dtype = np.dtype(source.dtype if dtype is None else dtype)
        height, width, n_channels = (*(image_shape or source.shape[1:]), 1)[:3]
        self.shape = (len(source), height, width, n_channels)
        self.ndim = 4

    @staticmethod
    def serves(X: Any) -> bool:
        """Whether X is a source of chunks rather than an array."""
        return hasattr(X, "read") and hasattr(X, "chunk_bounds") and hasattr(X, "shape")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def chunk_bounds(self) -> NDArray[np.intp]:
        """First row of every chunk, followed by the number of rows."""
        bounds: NDArray[np.intp] = self.source.chunk_bounds
        return bounds

    def astype(self, dtype: Any, *, copy: bool = False) -> LazyImages:
        """Return the same images, converted to another type when read."""
        del copy
        return LazyImages(self.source, dtype, self.shape[1:], self.offset)

    def without(self, offset: NDArray[np.float64]) -> LazyImages:
        """Return the same images as float32, with the offset of each channel subtracted when read."""
        return LazyImages(self.source, np.float32, self.shape[1:], offset)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read the images from `start` to before `stop`."""
        stored = np.asarray(self.source.read(start, stop)).reshape(-1, *self.shape[1:])
        check_finite_rows(stored, "images", first=start)
        with np.errstate(over="ignore"):
            moved = stored if self.offset is None else differences(stored, self.offset)
            values: NDArray[Any] = moved.astype(self.dtype, copy=False)
        if values is not stored:
            check_finite_rows(values, "images", f"values beyond {self.dtype}", first=start)
        return values

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Read a slice of the images."""
        start, stop, _ = rows.indices(len(self))
        return self.read(start, stop)


class ImageReader(GridReader, abc.ABC):
    """Reader of images: arrays of images, or rows of pixels with `image_shape`.

    For estimators of scikit-learn that have the parameter `image_shape`.
    """

    image_shape: Sequence[int] | None

    def read(self, X: Any, *, reset: bool = False) -> Images:
        """Validate images."""
        if not reset:
            check_is_fitted(self)
        if LazyImages.serves(X):
            return self._read_lazily(X, reset=reset)
        array = grid_array(X, "images", _SHAPES)
        if array.ndim > 2:
            values = check_array(
                array, allow_nd=True, ensure_all_finite=False, input_name="X", estimator=self
            )
            self._check_images(values.shape, reset=reset)
        else:
            values = validate_data(self, X, dtype="numeric", ensure_all_finite=False, reset=reset)
            if reset:
                self._set_image_shape(values.shape[1])
        check_finite_rows(values, "images")
        if reset:
            self._n_axes = values.ndim
        height, width, n_channels = self.sample_shape
        labels = X.index if isinstance(X, pd.DataFrame) else None
        images = values.reshape(len(values), height, width, n_channels)
        return Images(images, values.ndim, labels)

    def _read_lazily(self, X: Any, *, reset: bool) -> Images:
        """Check the shape of images that stay in their files."""
        n_axes, lazy = len(X.shape), X
        if n_axes == 2:
            n_pixels = X.shape[1]
            if reset:
                self._set_image_shape(n_pixels)
                self._set_array((n_pixels,))
            elif n_pixels != self.n_features_in_:
                raise ValueError(
                    f"X has {n_pixels} features, but {type(self).__name__} is expecting "
                    f"{self.n_features_in_} features as input."
                )
        else:
            self._check_images(X.shape, reset=reset)
        if not isinstance(X, LazyImages):
            lazy = LazyImages(X, image_shape=self.image_shape_)
        if reset:
            self._n_axes = n_axes
        return Images(lazy, n_axes, None)

    def _set_image_shape(self, n_pixels: int) -> None:
        """Set the shape of images that come as rows of pixels."""
        self.image_shape_ = self._given_shape() or (1, n_pixels)
        if math.prod(self.image_shape_) != n_pixels:
            raise ValueError(
                f"Images of shape {self.image_shape_} have {math.prod(self.image_shape_)} "
                f"pixels, but X has {n_pixels} columns. Check image_shape."
            )

    def _check_images(self, array_shape: tuple[int, ...], *, reset: bool) -> None:
        """Check the shape of an array of images."""
        shape = array_shape[1:]
        if len(shape) not in (2, 3) or 0 in shape:
            raise ValueError(f"X must have the shape {_SHAPES}, none of them 0, got {array_shape}.")
        expected = (self._given_shape() or shape) if reset else self.image_shape_
        if shape != expected:
            raise ValueError(
                f"X has images of shape {shape}, but {type(self).__name__} is expecting images of "
                f"shape {expected}."
            )
        if reset:
            if self.image_shape is None:
                _warn_of_channels_first(type(self).__name__, shape)
            self.image_shape_ = shape
            self._set_array(shape)

    def _given_shape(self) -> tuple[int, ...] | None:
        """Check the parameter `image_shape`."""
        if self.image_shape is None:
            return None
        shape: tuple[Any, ...] = tuple(self.image_shape)
        whole = all(is_count(n) for n in shape)
        if len(shape) not in (2, 3) or not whole:
            raise ValueError(
                f"image_shape must be (H, W) or (H, W, C), integers of at least 1, got "
                f"{self.image_shape!r}."
            )
        return shape

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, n_channels = (*self.image_shape_, 1)[:3]
        return height, width, n_channels


class ImageTransformer(ImageReader, GridTransformer):
    """Transformer of images, as arrays of images or as rows of pixels.

    A subclass has `_prepare`, which checks the parameters and learns from images (n_samples, H, W, C).
    """
