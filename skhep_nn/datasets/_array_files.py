"""Arrays in npy, npz and HDF5 files; shape and type are available before reading."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skhep_nn.datasets._file_errors import errors_name_file
from skhep_nn.datasets._hdf5_arrays import (
    Found,
    check_storage,
    errors_name_array,
    identity,
    open_hdf5,
    read_rows,
    walk,
)
from skhep_nn.datasets._hdf5_chunks import offset_of

__all__ = ["PathLike", "StoredArray", "integers_if_whole", "list_arrays", "list_paths"]

Array = NDArray[Any]
PathLike = str | os.PathLike[str]

_ZIP, _NPY, _HDF5 = b"PK\x03\x04", b"\x93NUMPY", b"\x89HDF\r\n\x1a\n"
_ZIP_ENTRY = b"PK\x01\x02"  # begins an entry of the directory of a zip file
_WHOLE = np.float64(2**53)  # up to here, floating-point numbers hold every whole number


class StoredArray(NamedTuple):
    """An array of a file; ``read(True)`` maps it into memory where the format allows."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[bool], Array]
    identity: Hashable  # equal for two names of one array
    problem: str = ""  # why `read` raises an error


class _Form(NamedTuple):
    """Header of an array in numpy's format."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Any
    start: int  # bytes before the numbers


def list_paths(paths: PathLike | Iterable[PathLike], name: str) -> list[PathLike]:
    """Return one path or several as a list; `name` is the parameter in the error message."""
    one = isinstance(paths, str | os.PathLike)
    listed: list[Any] = [paths] if one or not isinstance(paths, Iterable) else list(paths)
    if not all(isinstance(path, str | os.PathLike) for path in listed):
        raise TypeError(f"{name} must be a path or a list of paths, got {type(paths).__name__}.")
    if not listed:
        raise ValueError(f"{name} must name at least one file, got none.")
    return listed


def integers_if_whole(values: Array) -> Array:
    """Return values as int64 if all are whole numbers that it holds exactly, as they are otherwise."""
    if values.dtype.kind == "f":
        whole = np.array_equal(values, np.rint(values)) and bool((np.abs(values) <= _WHOLE).all())
    elif values.dtype.kind in "iu":
        whole = int(values.max(initial=0)) <= np.iinfo(np.int64).max
    else:
        whole = False
    return values.astype(np.int64) if whole else values


def list_arrays(path: Path) -> dict[str, StoredArray] | None:
    """List the arrays of a file by name, of a .npy file as "array"; None for text."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'a folder, no' if path.is_dir() else 'no such'} file")
    with path.open("rb") as file:
        begin = file.read(len(_HDF5))
    if not begin:
        raise ValueError(f"{path} is empty")
    if begin.startswith(_ZIP):
        return _list_npz(path)
    if begin.startswith(_NPY):
        return _list_npy(path)
    # HDF5 allows a user block before the signature.
    if begin == _HDF5 or path.suffix in {".h5", ".hdf5"}:
        with open_hdf5(path) as file:
            return {name: _hdf5_array(path, name, found) for name, found in walk(file)}
    return None


def _list_npy(path: Path) -> dict[str, StoredArray]:
    """List the one array of a .npy file."""
    with errors_name_file(path, " is damaged or cut off"), path.open("rb") as file:
        form = _npy_header(file, "array", path.stat().st_size)

    def read(memory_map: bool) -> Array:
        """Map the array into memory, or read it."""
        array = _map(path, "array", form)
        return array if memory_map else np.array(array)

    return {"array": StoredArray(form.shape, form.dtype, read, "array")}


def _list_npz(path: Path) -> dict[str, StoredArray]:
    """List the arrays of a .npz file."""
    arrays: dict[str, StoredArray] = {}
    with errors_name_file(path, " is damaged or cut off"), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"two arrays are called {name!r}")
            # A wrong length of a comment swallows the entries behind it.
            if _ZIP_ENTRY in member.comment + member.extra:
                raise ValueError(f"the directory of the archive is broken behind {name!r}")
            # Opening compares the two places of a zip file that hold the name.
            with archive.open(member) as file:
                if name == member.filename:
                    continue
                form = _npy_header(file, name, member.file_size)
            read = _npz_reader(path, name, member, form)
            arrays[name] = StoredArray(form.shape, form.dtype, read, name)
    return arrays


def _npz_reader(
    path: Path, name: str, member: zipfile.ZipInfo, form: _Form
) -> Callable[[bool], Array]:
    """Return the function that reads one array of a .npz file."""

    def read(memory_map: bool) -> Array:
        """Map an uncompressed array into memory, decompress others."""
        with errors_name_file(path, f": array {name!r} is damaged or cut off"):
            if form.dtype.hasobject:
                return np.empty(0, form.dtype)
            if memory_map and member.compress_type == zipfile.ZIP_STORED:
                start = _member_start(path, member) + form.start
                return _map(path, name, form._replace(start=start))
            with zipfile.ZipFile(path) as archive, archive.open(member) as file:
                array: Array = np.lib.format.read_array(file, allow_pickle=False)
                return array

    return read


def _npy_header(file: IO[bytes], name: str, n_bytes: int) -> _Form:
    """Read the header of an array in numpy's format, which is `n_bytes` long altogether."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version in {(2, 0), (3, 0)}:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version} of the npy format is not known")
    form = _Form(shape, dtype, "F" if fortran else "C", file.tell())
    end = form.start + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (min(shape, default=0) < 0 or end != n_bytes):
        raise ValueError(
            f"array {name!r} of shape {shape} and type {dtype} ends at byte {end}, the file at "
            f"{n_bytes}"
        )
    return form


def _member_start(path: Path, member: zipfile.ZipInfo) -> int:
    """Find where the content of a member of a zip file begins, behind its own header."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
    return member.header_offset + 30 + int(lengths.sum())


def _map(path: Path, name: str, form: _Form) -> Array:
    """Map a part of a file into memory, read-only."""
    if form.dtype.hasobject or 0 in form.shape:
        return np.empty(0 if form.dtype.hasobject else form.shape, form.dtype)
    end = form.start + math.prod(form.shape) * form.dtype.itemsize
    if path.stat().st_size < end:
        raise ValueError(
            f"{path} is cut off: array {name!r} of shape {form.shape} and type {form.dtype} ends at "
            f"byte {end}, the file at {path.stat().st_size}"
        )
    return np.memmap(path, form.dtype, "r", form.start, form.shape, form.order)


def _hdf5_array(path: Path, name: str, found: Found) -> StoredArray:
    """Describe one array of an HDF5 file that is open."""
    if found.dataset is None:

        def refuse(memory_map: bool) -> Array:  # noqa: ARG001 - the signature of `read`
            """Say why the array cannot be read."""
            raise ValueError(f"{path}: array {name!r} {found.problem}")

        return StoredArray((), np.dtype("V1"), refuse, name, found.problem)
    dataset = found.dataset
    shape, dtype, source = dataset.shape, dataset.dtype, Path(dataset.file.filename)
    offset = offset_of(dataset)
    if offset is not None:
        with errors_name_array(path, name, dataset):
            check_storage(dataset)

    def read(memory_map: bool) -> Array:
        """Map a contiguous array into memory, read others."""
        if memory_map and offset is not None:
            with errors_name_file(path, f": array {name!r} is damaged"):
                return _map(source, name, _Form(shape, dtype, "C", offset))
        with open_hdf5(path) as file:
            if shape and not dtype.hasobject:
                return read_rows(path, name, file[name])
            with errors_name_array(path, name, file[name]):
                return np.asarray(file[name][()])

    return StoredArray(shape, dtype, read, identity(dataset))
