"""Reader of rows of HDF5 arrays that lets several threads decompress at the same time."""

from __future__ import annotations

import itertools
import os
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skhep_nn.utils.optional import needs

Array = NDArray[Any]

_DEFLATE, _SHUFFLE = 1, 2  # numbers of filters in the HDF5 standard


def import_h5py() -> Any:
    """Import h5py."""
    with needs("h5py", "hdf5"):
        import h5py
    return h5py


class RowReader:
    """Reads rows of a dataset with little locking between threads.

    The HDF5 library serves one call at a time and blocks all other Python threads meanwhile. Uncompressed
    data are therefore read by the operating system. Chunks compressed by gzip are decompressed here, which
    takes a third of the library's time for small chunks. The library reads all other data.

    Parameters
    ----------
    dataset : h5py.Dataset
        Array of a file that is open for reading.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._filters = _filters(dataset)
        self._descriptor = _descriptor(dataset)

    def read(self, start: int, stop: int, out: Array) -> None:
        """Read rows into an array of their shape."""
        if self._filters is not None:
            self._unpack(self._filters, start, stop, out)
        elif (
            self._descriptor is None
            or out.dtype != self.dataset.dtype
            or not out.flags.c_contiguous
        ):
            self.dataset.read_direct(out, np.s_[start:stop])
        else:
            self._read_plain(self._descriptor, start, stop, out)

    def _unpack(self, filters: list[int], start: int, stop: int, out: Array) -> None:
        """Decompress the chunks that contain the rows."""
        shape, chunks = self.dataset.shape, self.dataset.chunks
        grid = [range(start - start % chunks[0], stop, chunks[0])]
        grid += [range(0, n, step) for n, step in zip(shape[1:], chunks[1:], strict=True)]
        for place in itertools.product(*grid):
            _unpack(self.dataset, place, filters, start, out)

    def _read_plain(self, descriptor: int, start: int, stop: int, out: Array) -> None:
        """Read rows that the file stores uncompressed and contiguous."""
        dataset = self.dataset
        size = len(dataset) if dataset.chunks is None else dataset.chunks[0]
        row_bytes = out[:1].nbytes
        for first in range(start - start % size, stop, size):
            low, high = max(first, start), min(first + size, stop)
            rows = out[low - start : high - start]
            offset = self._offset(first)
            if offset is None:
                dataset.read_direct(rows, np.s_[low:high])
            elif missing := _fill(descriptor, rows, offset + (low - first) * row_bytes):
                msg = f"the file ends {missing} bytes before row {high} of {dataset.name}"
                raise OSError(msg)

    def _offset(self, first: int) -> int | None:
        """Return the position in the file of the chunk that begins at row `first`, None if never written."""
        dataset = self.dataset
        if dataset.chunks is None:
            return offset_of(dataset)
        place = (first, *[0] * (dataset.ndim - 1))
        offset: int | None = dataset.id.get_chunk_info_by_coord(place).byte_offset
        return offset


def is_stored_as_in_memory(dataset: Any) -> bool:
    """Whether the file stores values byte by byte as numpy's type does.

    Other types, such as 12 bits of a digitiser in the upper part of 16, are converted by the library.
    """
    if dataset.dtype.hasobject:
        return False
    in_memory = import_h5py().h5t.py_create(dataset.dtype, logical=True)
    return bool(dataset.id.get_type().equal(in_memory))


def offset_of(dataset: Any) -> int | None:
    """Return the position in the file of a contiguous dataset, None where the library has to read it."""
    if dataset.is_virtual or dataset.external or dataset.id.get_storage_size() == 0:
        return None
    if dataset.chunks is not None or not is_stored_as_in_memory(dataset):
        return None
    offset: int | None = dataset.id.get_offset()
    return offset


def _descriptor(dataset: Any) -> int | None:
    """Return the file descriptor, None unless rows are stored uncompressed and contiguous."""
    file = dataset.file
    simple = file.driver == "sec2" and file.mode == "r" and hasattr(os, "preadv")
    if not simple or not dataset.dtype.isnative or not dataset.ndim:
        return None
    if not is_stored_as_in_memory(dataset):
        return None
    if dataset.chunks is None:
        plain = offset_of(dataset) is not None
    else:
        n_filters = dataset.id.get_create_plist().get_nfilters()
        plain = n_filters == 0 and dataset.chunks[1:] == dataset.shape[1:]
    return int(file.id.get_vfd_handle()) if plain else None


def _fill(descriptor: int, rows: Array, offset: int) -> int:
    """Fill an array with the bytes of a file from `offset`; return the number of missing bytes."""
    view = rows.reshape(-1).view(np.uint8).data
    while view:
        n_read = os.preadv(descriptor, [view], offset)
        if n_read == 0:
            break
        view, offset = view[n_read:], offset + n_read
    return len(view)


def _filters(dataset: Any) -> list[int] | None:
    """List the filters of the chunks in the order of compression, None if only the library can undo them."""
    plan = dataset.id.get_create_plist()
    # Other byte orders would need swapping.
    if dataset.chunks is None or not dataset.dtype.isnative or not is_stored_as_in_memory(dataset):
        return None
    filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
    return filters if filters in ([_DEFLATE], [_SHUFFLE, _DEFLATE]) else None


def _unpack(
    dataset: Any, place: tuple[int, ...], filters: list[int], start: int, out: Array
) -> None:
    """Decompress one chunk into its place in an array whose first row is `start`."""
    shape, dtype = dataset.chunks, dataset.dtype
    # The last chunks extend over the edge; the first and last rows may not be wanted.
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
        # The chunk was never written, is uncompressed or damaged: the library reads it or raises.
        target[...] = dataset[(slice(first, last), *inner)]
        return
    if _SHUFFLE in filters:
        data = np.ascontiguousarray(data.reshape(dtype.itemsize, -1).T)
    chunk = data.view(dtype).reshape(shape)
    whole = tuple(slice(0, b - a) for a, b in zip(place[1:], ends[1:], strict=True))
    target[...] = chunk[(slice(first - place[0], last - place[0]), *whole)]
