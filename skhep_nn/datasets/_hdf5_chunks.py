"""Rows of HDF5 arrays, in a way that threads can share the work of unpacking."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_DEFLATE, _SHUFFLE = 1, 2  # numbers of filters in the HDF5 standard


def import_h5py() -> Any:
    """Import h5py."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("h5py is needed for this: pip install 'skhep_nn[hdf5]'") from error
    return h5py


def read_rows(dataset: Any, start: int, stop: int, out: Array) -> None:
    """Read rows of a dataset into an array.

    The library unpacks one chunk at a time in a process, and takes three times as long for small
    ones as zlib does. Where gzip is all that is done to the chunks, they are unpacked here, which
    several threads can do at once.
    """
    filters = _filters(dataset)
    if filters is None:
        dataset.read_direct(out, np.s_[start:stop])
        return
    size = dataset.chunks[0]
    first = start - start % size
    grid = [range(first, stop, size)]
    grid += [
        range(0, n, step) for n, step in zip(dataset.shape[1:], dataset.chunks[1:], strict=True)
    ]
    for place in itertools.product(*grid):
        _unpack(dataset, place, filters, start, out)


def _filters(dataset: Any) -> list[int] | None:
    """List the filters of the chunks in the order of packing, None where the library has to do it."""
    plan = dataset.id.get_create_plist()
    # Numbers of this machine only: others would have to be turned around.
    if dataset.chunks is None or dataset.dtype.hasobject or not dataset.dtype.isnative:
        return None
    filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
    return filters if filters in ([_DEFLATE], [_SHUFFLE, _DEFLATE]) else None


def _unpack(
    dataset: Any, place: tuple[int, ...], filters: list[int], start: int, out: Array
) -> None:
    """Unpack one chunk to its place in an array whose first row is `start`."""
    shape, dtype = dataset.chunks, dataset.dtype
    # The last chunks stand over the edge; the first and last rows may not be wanted.
    ends = [min(a + b, n) for a, b, n in zip(place, shape, dataset.shape, strict=True)]
    first, last = max(place[0], start), min(ends[0], start + len(out))
    inner = tuple(slice(a, b) for a, b in zip(place[1:], ends[1:], strict=True))
    target = out[(slice(first - start, last - start), *inner)]
    try:
        skipped, packed = dataset.id.read_direct_chunk(place)
        data = None if skipped else np.frombuffer(zlib.decompress(packed), np.uint8)
    except (OSError, RuntimeError, ValueError, zlib.error):
        data = None
    if data is None or data.size != np.prod(shape) * dtype.itemsize:
        # Never written, stored as it is, or damaged, which the library says in its own words.
        target[...] = dataset[(slice(first, last), *inner)]
        return
    if _SHUFFLE in filters:
        data = np.ascontiguousarray(data.reshape(dtype.itemsize, -1).T)
    chunk = data.view(dtype).reshape(shape)
    whole = tuple(slice(0, b - a) for a, b in zip(place[1:], ends[1:], strict=True))
    target[...] = chunk[(slice(first - place[0], last - place[0]), *whole)]
