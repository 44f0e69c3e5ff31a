"""Calorimeter images in HDF5 files, read at once or on access."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.utils import Bunch

from skhep_nn.datasets._array_files import PathLike, integers_if_whole, list_paths
from skhep_nn.datasets._file_errors import errors_name_file
from skhep_nn.datasets._hdf5_arrays import (
    FileState,
    check_storage,
    errors_name_array,
    file_states,
    find,
    open_hdf5,
    state_of,
)
from skhep_nn.datasets._hdf5_chunks import RowReader, import_h5py
from skhep_nn.utils.checks import is_integer

__all__ = ["CALO_SPLITS", "CaloImages", "load_calo_hdf5"]

Array = NDArray[Any]
Rows = NDArray[np.intp]

CALO_SPLITS = {
    "train": (0, 160_000),
    "validation": (160_000, 185_600),
    "test": (185_600, 211_200),
}
"""Rows of each file in the published split of the electron and photon images."""

_ROWS_PER_CHUNK = 256  # for files without chunks


class _Part(NamedTuple):
    """Range of rows in one file."""

    path: str
    start: int
    stop: int
    chunk_size: int  # 0 where the file is not chunked
    states: tuple[FileState, ...]  # of all files that hold its images


class CaloImages:
    """Concatenated images of HDF5 files that are read on access.

    Made by :func:`load_calo_hdf5` with ``lazy=True``. It has the shape, type and indexing of an
    array. Every index returns a numpy array in memory. The index of the rows is a number, a slice, or
    an array of numbers or booleans; a tuple may add indices into the images. Each access reads a
    chunk of the file at most once, and only if rows in it are wanted. ``numpy.asarray`` reads
    everything. Pickles and processes made by fork hold the paths and open the files anew. A file that
    has changed since :func:`load_calo_hdf5` is an error, as labels would belong to other images.

    Attributes
    ----------
    shape : tuple of int
        (n_images, height, width, channels).
    dtype : dtype
        Type of the images in the files.
    ndim, size, nbytes : int
        As for an array.
    chunk_bounds : ndarray of int
        First row of every chunk, and the number of rows. Shuffled reading needs it together with
        :meth:`read`.
    """

    def __init__(
        self, parts: Sequence[_Part], image_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._parts = tuple(parts)
        self._offsets = np.cumsum([0, *(part.stop - part.start for part in parts)])
        self.shape = (int(self._offsets[-1]), *image_shape)
        self.dtype = dtype
        self._files: dict[int, RowReader] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes that all images take in memory."""
        return self.size * self.dtype.itemsize

    @property
    def chunk_bounds(self) -> Rows:
        """First row of every chunk, and the number of rows."""
        bounds = [np.zeros(1, np.intp)]
        for part, offset in zip(self._parts, self._offsets, strict=False):
            step = part.chunk_size or _ROWS_PER_CHUNK
            inner = np.arange(part.start - part.start % step + step, part.stop, step)
            bounds.append(np.append(inner, part.stop) - part.start + offset)
        return np.concatenate(bounds).astype(np.intp)

    def read(self, start: int, stop: int) -> Array:
        """Read rows ``start`` to ``stop`` into a new array."""
        start, stop, _ = slice(start, stop).indices(len(self))
        images = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        for number, (part, offset) in enumerate(zip(self._parts, self._offsets, strict=False)):
            first, last = max(start, offset), min(stop, offset + part.stop - part.start)
            if first < last:
                shift = part.start - offset
                rows = images[first - start : last - start]
                reader, begin, end = self._open(number), int(first + shift), int(last + shift)
                problem = f" is damaged in images {begin} to {end}"
                with errors_name_array(part.path, "X", reader.dataset, problem, OSError):
                    reader.read(begin, end, rows)
        return images

    def take(self, rows: Array) -> Array:
        """Read rows by number, in any order and with repetition; each chunk is read at most once."""
        wanted, place = np.unique(rows, return_inverse=True)
        images = np.empty((wanted.size, *self.shape[1:]), self.dtype)
        for start, stop in self._runs(wanted):
            first, last = wanted[start], wanted[stop - 1] + 1
            images[start:stop] = self.read(int(first), int(last))[wanted[start:stop] - first]
        return images if np.array_equal(wanted, rows) else images[place.reshape(np.shape(rows))]

    def _runs(self, wanted: Rows) -> list[tuple[int, int]]:
        """Split ascending rows into ranges that are read without unwanted rows in between."""
        bounds = self.chunk_bounds
        chunk = np.searchsorted(bounds, wanted, side="right")
        part = np.searchsorted(self._offsets, wanted, side="right") - 1
        chunked = np.array([part.chunk_size > 0 for part in self._parts])[part]
        follows = np.diff(wanted) == 1
        # Rows of one chunk are decompressed together anyway.
        together = follows | ((np.diff(chunk) == 0) & chunked[1:])
        cuts = [0, *(np.flatnonzero(~together) + 1), wanted.size]
        return [(a, b) for a, b in itertools.pairwise(cuts) if a < b]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        key, *rest = key if isinstance(key, tuple) else (key,)
        if key is Ellipsis:
            return np.asarray(self)[(key, *rest)]
        if isinstance(key, Integral):
            row = int(key) + (len(self) if int(key) < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"row {key} of {len(self)} images")
            image: Array = self.read(row, row + 1)[(0, *rest)]
            return image
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            images = (
                self.read(start, stop) if step == 1 else self.take(np.arange(start, stop, step))
            )
        else:
            images = self.take(self._row_numbers(key))
        selected: Array = images[(slice(None), *rest)] if rest else images
        return selected

    def _row_numbers(self, key: Any) -> Rows:
        """Turn an array of numbers or booleans into row numbers from 0."""
        index = np.asarray(key)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise IndexError(
                    f"a mask of {len(self)} images must have shape ({len(self)},), got {index.shape}"
                )
            return np.flatnonzero(index)
        if index.size == 0:
            return index.astype(np.intp)
        if not np.issubdtype(index.dtype, np.integer):
            raise IndexError(f"rows must be integers or booleans, got type {index.dtype}")
        index = np.where(index < 0, index + len(self), index).astype(np.intp)
        if index.min() < 0 or index.max() >= len(self):
            raise IndexError(f"rows from {np.min(key)} to {np.max(key)} of {len(self)} images")
        return index

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("images of a file cannot become an array without being copied")
        images = self.read(0, len(self))
        return images if dtype is None else images.astype(dtype, copy=False)

    def __repr__(self) -> str:
        names = ", ".join(Path(part.path).name for part in self._parts)
        return f"<CaloImages of {names}: shape {self.shape}, {self.dtype}>"

    def _open(self, number: int) -> RowReader:
        """Open the images of one file, once in each process; refuse it if it was rewritten."""
        part = self._parts[number]
        for state in part.states:
            if state_of(state.path) != state:
                self._files.pop(number, None)
                raise OSError(
                    f"{part.path}: {state.path} was changed after load_calo_hdf5 had read labels and "
                    f"shapes. Load it again."
                )
        with self._lock:
            if self._process != os.getpid():
                self._files, self._process = {}, os.getpid()
            if number not in self._files:
                with errors_name_file(part.path, " is damaged or cut off", OSError):
                    file = import_h5py().File(part.path, "r")
                    self._files[number] = RowReader(file["X"])
            return self._files[number]

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self._parts, "image_shape": self.shape[1:], "dtype": self.dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).__init__(self, **state)


def load_calo_hdf5(
    paths: PathLike | Sequence[PathLike],
    start: int | None = None,
    stop: int | None = None,
    *,
    split: str | None = None,
    lazy: bool = False,
) -> Bunch:
    """Read calorimeter images from HDF5 files with ``/X`` and ``/y``, and concatenate them.

    The files have the form of the public electron and photon images, which come as one file for each
    class: ``X`` holds images of (height, width, channels), hit energy and hit time, and ``y`` one
    label for each.

    Parameters
    ----------
    paths : path or list of paths
        Files; images of all must have the same shape and type.
    start, stop : int, default=None
        Rows to take of *each* file. None is the beginning or the end.
    split : {"train", "validation", "test"}, default=None
        Instead of `start` and `stop`: their values in the published split, 160,000, 25,600 and
        25,600 images of each class (see ``CALO_SPLITS``).
    lazy : bool, default=False
        Whether to return images as :class:`CaloImages`, which are read from the files on access.
        Labels are always read at once.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        With the attributes

        images : ndarray or CaloImages of shape (n_images, height, width, channels)
            In the type of the files.
        target : ndarray of shape (n_images,)
            Labels: int64 if all of them are whole numbers that it holds exactly, text as it is. In the public
            files 1 is an electron and 0 a photon.

    Raises
    ------
    ImportError
        If h5py is not installed.
    FileNotFoundError
        If there is no such file.
    OSError
        If images are damaged, packed with a filter that is not installed, or, for lazy ones, if the file
        has changed since.
    TypeError
        If `paths`, `start` or `stop` has the wrong type.
    ValueError
        If a file is no HDF5 file, lacks ``X`` or ``y``, has another number of labels than images, or
        images of another shape or type than the first file, or holds other types than numbers (and text
        for labels); or if a range is empty or not in a file.

    References
    ----------
    M. Andrews et al., "End-to-end physics event classification with CMS Open Data",
    arXiv:1807.11916.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import h5py
    >>> from skhep_nn.datasets.calo_files import load_calo_hdf5
    >>> from skhep_nn.datasets.calo_showers import make_calo_showers
    >>> showers = make_calo_showers(20, random_state=0)
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "showers.hdf5"
    ...     with h5py.File(path, "w") as file:
    ...         file["X"], file["y"] = showers.images, showers.target
    ...     first = load_calo_hdf5(path, 0, 5)
    ...     lazily = load_calo_hdf5(path, lazy=True)
    ...     last = lazily.images[-5:]
    >>> first.images.shape, last.shape, lazily.images.shape
    ((5, 32, 32, 2), (5, 32, 32, 2), (20, 32, 32, 2))
    """
    if split is not None:
        if split not in CALO_SPLITS or start is not None or stop is not None:
            raise ValueError(
                f"split must be one of {', '.join(map(repr, CALO_SPLITS))}, without start and "
                f"stop; got split={split!r}, start={start!r}, stop={stop!r}."
            )
        start, stop = CALO_SPLITS[split]
    for parameter, value in (("start", start), ("stop", stop)):
        if value is not None and not is_integer(value):
            raise TypeError(f"{parameter} must be an integer or None, got {value!r}.")
    names = list_paths(paths, "paths")
    parts: list[_Part] = []
    targets: list[Array] = []
    kinds: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
    for name in names:
        part, target, kind = _inspect(Path(name).expanduser(), start, stop)
        if kinds and kind != kinds[0]:
            raise ValueError(
                f"{name}: images are {kind[0]} of {kind[1]}, those of {names[0]} {kinds[0][0]} of "
                f"{kinds[0][1]}; load them on their own, or convert them."
            )
        if targets and (target.dtype.kind in "OU") != (targets[0].dtype.kind in "OU"):
            raise ValueError(
                f"{name}: labels are of type {target.dtype}, those of {names[0]} {targets[0].dtype}; "
                f"convert them."
            )
        parts.append(part)
        targets.append(target)
        kinds.append(kind)
    images = CaloImages(parts, *kinds[0])
    target = integers_if_whole(np.concatenate(targets))
    return Bunch(images=images if lazy else np.asarray(images), target=target)


def _inspect(
    path: Path, start: int | None, stop: int | None
) -> tuple[_Part, Array, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Check one file; return its range of rows, its labels, and shape and type of its images."""
    h5py = import_h5py()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is not an HDF5 file, or cut off before its header")
    with open_hdf5(path) as file:
        images, labels = _datasets(path, file)
        if images.ndim < 2 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{path}: expected X of shape (n, ...) and y of shape (n,), got {images.shape} and "
                f"{labels.shape}"
            )
        first = 0 if start is None else int(start)
        last = len(images) if stop is None else int(stop)
        if not 0 <= first < last <= len(images):
            raise ValueError(
                f"{path}: rows {first} to {last} asked for, which must be a range of at least one "
                f"of its {len(images)} images"
            )
        with errors_name_array(path, "X", images):
            check_storage(images)
        chunk_size = images.chunks[0] if images.chunks else 0
        absolute = path.absolute()
        part = _Part(str(absolute), first, last, chunk_size, file_states(absolute, images))
        with errors_name_array(path, "y", labels):
            check_storage(labels)
            text = h5py.check_string_dtype(labels.dtype)
            target = (labels.asstr() if text else labels)[first:last]
        return part, target, (images.shape[1:], images.dtype)


def _datasets(path: Path, file: Any) -> tuple[Any, Any]:
    """Return the arrays X and y of an open file, refusing other types than numbers and text."""
    found = []
    for key in ("X", "y"):
        held = find(file, key) if key in list(file) else None
        if held is not None and held.problem:
            raise ValueError(f"{path}: array {key!r} {held.problem}")
        if held is None or held.dataset is None:
            raise ValueError(f"{path}: needs the arrays X and y, holds {sorted(file)}")
        dtype = held.dataset.dtype
        text = key == "y" and import_h5py().check_string_dtype(dtype)
        if not text and dtype.kind not in "biuf":
            raise ValueError(f"{path}: array {key!r} of type {dtype} is not made of numbers")
        found.append(held.dataset)
    return found[0], found[1]
