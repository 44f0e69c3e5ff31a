"""Arrays in npy, npz, HDF5 and text files; shape and type are available before reading."""

from __future__ import annotations

import gzip
import itertools
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skhep_nn.datasets._hdf5_chunks import RowReader, import_h5py, offset_of

__all__ = [
    "PathLike",
    "StoredArray",
    "integers_if_whole",
    "list_arrays",
    "list_paths",
    "read_table",
]

Array = NDArray[Any]
PathLike = str | os.PathLike[str]

_ZIP, _NPY, _HDF5, _GZIP = b"PK\x03\x04", b"\x93NUMPY", b"\x89HDF\r\n\x1a\n", b"\x1f\x8b"
_TEXT = "utf-8-sig"  # spreadsheets put a mark before the first number
_BLOCK = 500  # lines of text that are parsed at a time
# Errors of zipfile, numpy and zlib for files that are damaged or cut off.
_DAMAGED = (ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class StoredArray(NamedTuple):
    """An array of a file; ``read(True)`` maps it into memory where the format allows."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[bool], Array]


def list_paths(paths: PathLike | Sequence[PathLike], name: str) -> list[PathLike]:
    """Return one path or several as a list; `name` is the parameter in the error message."""
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not listed:
        raise ValueError(f"{name} must name at least one file, got none.")
    return listed


def integers_if_whole(values: Array) -> Array:
    """Return values as int64 if all are whole numbers, as they are otherwise."""
    if values.dtype.kind in "fiu" and np.array_equal(values, np.rint(values)):
        return values.astype(np.int64)
    return values


def list_arrays(path: Path) -> dict[str, StoredArray] | None:
    """List the arrays of a file by name, of a .npy file as "array"; None for text."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        begin = file.read(len(_HDF5))
    if not begin:
        raise ValueError(f"{path} is empty")
    try:
        if begin.startswith(_ZIP):
            return _list_npz(path)
        if begin.startswith(_NPY):
            return _list_npy(path)
    except _DAMAGED as error:
        raise ValueError(f"{path} is damaged or cut off: {error}") from error
    # HDF5 allows a user block before the signature.
    if begin == _HDF5 or path.suffix in {".h5", ".hdf5"}:
        return _list_hdf5(path)
    return None


def _list_npy(path: Path) -> dict[str, StoredArray]:
    """List the one array of a .npy file."""
    with path.open("rb") as file:
        shape, order, dtype = _npy_header(file)
        offset = file.tell()

    def read(memory_map: bool) -> Array:
        """Map the array into memory, or read it."""
        array = _map(path, "array", shape, dtype, order, offset)
        return array if memory_map else np.array(array)

    return {"array": StoredArray(shape, dtype, read)}


def _list_npz(path: Path) -> dict[str, StoredArray]:
    """List the arrays of a .npz file."""
    arrays: dict[str, StoredArray] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as file:
                shape, order, dtype = _npy_header(file)
                start = file.tell()

            name = member.filename.removesuffix(".npy")

            def read(
                memory_map: bool,
                name: str = name,
                member: zipfile.ZipInfo = member,
                form: tuple[tuple[int, ...], np.dtype[Any], str] = (shape, dtype, order),
                start: int = start,
            ) -> Array:
                """Map an uncompressed array into memory, decompress others."""
                if memory_map and member.compress_type == zipfile.ZIP_STORED:
                    return _map(path, name, *form, _member_start(path, member) + start)
                try:
                    with np.load(path, allow_pickle=False) as archive:
                        array: Array = archive[name]
                except _DAMAGED as error:
                    raise ValueError(
                        f"{path}: array {name!r} is damaged or cut off: {error}"
                    ) from error
                return array

            arrays[name] = StoredArray(shape, dtype, read)
    return arrays


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], str, np.dtype[Any]]:
    """Read shape, order and type of an array in numpy's format."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, "F" if fortran else "C", dtype


def _member_start(path: Path, member: zipfile.ZipInfo) -> int:
    """Find where the content of a member of a zip file begins, behind its own header."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
    return member.header_offset + 30 + int(lengths.sum())


def _map(
    path: Path,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    order: Any,
    offset: int,
) -> Array:
    """Map a part of a file into memory, read-only."""
    if dtype.hasobject or 0 in shape:
        return np.empty(shape, dtype)
    needed = offset + int(np.prod(shape)) * dtype.itemsize
    if path.stat().st_size < needed:
        raise ValueError(
            f"{path} is cut off: array {name!r} of shape {shape} and type {dtype} ends at byte "
            f"{needed}, the file at {path.stat().st_size}"
        )
    return np.memmap(path, dtype, "r", offset, shape, order)


def _list_hdf5(path: Path) -> dict[str, StoredArray]:
    """List the arrays of an HDF5 file, also in groups."""
    h5py = import_h5py()
    arrays: dict[str, StoredArray] = {}

    def visit(name: str, node: Any) -> None:
        """Collect an array."""
        if not isinstance(node, h5py.Dataset) or node.shape is None:
            return
        plan = node.id.get_create_plist()
        in_one_piece = plan.get_layout() == h5py.h5d.CONTIGUOUS and not node.dtype.hasobject
        offset = offset_of(node) if in_one_piece else None
        shape, dtype = node.shape, node.dtype

        def read(memory_map: bool) -> Array:
            """Map a contiguous array into memory, read others."""
            if memory_map and offset is not None:
                return _map(path, name, shape, dtype, "C", offset)
            with h5py.File(path, "r") as file:
                if not shape or dtype.hasobject:
                    return np.asarray(file[name][()])
                array = np.empty(shape, dtype)
                try:
                    RowReader(file[name]).read(0, shape[0], array)
                except OSError as error:
                    raise ValueError(f"{path}: array {name!r} is damaged: {error}") from error
                return array

        arrays[name] = StoredArray(shape, dtype, read)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file, or damaged or cut off: {error}") from error
    return arrays


def read_table(path: Path) -> tuple[list[str], Iterator[Array]]:
    """Read column names (empty without a header) and blocks of rows from a text of numbers."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    lines = _lines(path, packed)
    first = next(lines, None)
    if first is None:
        raise ValueError(f"{path} holds no traces")
    separator = next((mark for mark in ",;\t" if mark in first), None)
    fields = [field.strip() for field in first.lstrip("# ").split(separator)]
    counted = len(fields) > 1 and fields == [str(number) for number in range(len(fields))]
    names = fields if counted or not all(map(_is_number, fields)) else []
    rows = lines if names else itertools.chain([first], lines)
    return names, _blocks(path, rows, separator, len(fields))


def _lines(path: Path, packed: bool) -> Iterator[str]:
    """Yield the lines that are not empty."""
    try:
        with gzip.open(path, "rt", encoding=_TEXT) if packed else path.open(encoding=_TEXT) as file:
            yield from (line for line in file if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text, and neither npz, npy nor HDF5, or damaged: {error}"
        ) from error
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut off: {error}") from error


def _blocks(
    path: Path, lines: Iterable[str], separator: str | None, n_fields: int
) -> Iterator[Array]:
    """Parse lines in blocks."""
    lines = iter(lines)
    for start in itertools.count(0, _BLOCK):
        block = list(itertools.islice(lines, _BLOCK))
        if not block:
            return
        try:
            rows = np.loadtxt(block, float, None, separator, ndmin=2)
        except ValueError as error:
            raise _broken_row_error(path, block, separator, n_fields, start) from error
        if rows.shape[1] != n_fields:
            raise _broken_row_error(path, block, separator, n_fields, start)
        yield rows


def _broken_row_error(
    path: Path, block: list[str], separator: str | None, n_fields: int, start: int
) -> ValueError:
    """Return an error that names the unreadable row and its problem."""
    for number, line in enumerate(block, start):
        fields = line.split(separator)
        if len(fields) != n_fields:
            return ValueError(
                f"{path}: row {number} has {len(fields)} values, the first line {n_fields}: all "
                f"traces must have the same length"
            )
        for column, field in enumerate(fields):
            if not _is_number(field):
                return ValueError(
                    f"{path}: row {number}, column {column} holds {field.strip()!r} where a number "
                    f"was expected"
                )
    return ValueError(f"{path}: rows from {start} to {start + len(block) - 1} cannot be read")


def _is_number(text: str) -> bool:
    """Return whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
