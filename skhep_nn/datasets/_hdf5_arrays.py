"""Arrays of HDF5 files: links, types and storage, checked before they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skhep_nn.datasets._file_errors import errors_name_file
from skhep_nn.datasets._hdf5_chunks import RowReader, import_h5py

__all__ = [
    "FileState",
    "Found",
    "check_storage",
    "errors_name_array",
    "file_states",
    "find",
    "identity",
    "open_hdf5",
    "read_rows",
    "state_of",
    "walk",
]

Array = NDArray[Any]

# Filters that the HDF5 group has registered, by number; hdf5plugin brings most of them.
_FILTERS = {
    4: "szip",
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
}
# Larger arrays than this must have files of a plausible size: deflate packs up to 1,032 to 1.
_ALWAYS_ALLOWED, _LARGEST_RATIO = 1 << 30, 2_000


class Found(NamedTuple):
    """A name in an HDF5 file, with its dataset or the reason why no dataset can be read."""

    dataset: Any | None
    problem: str = ""


class FileState(NamedTuple):
    """Size and time of the last change of a file, which tell whether it was rewritten."""

    path: str
    size: int
    modified: int


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open a file for reading; errors inside the block name it."""
    h5py = import_h5py()
    problem = " is no HDF5 file, or damaged or cut off"
    with errors_name_file(path, problem), h5py.File(path, "r") as file:
        yield file


def find(group: Any, name: str) -> Found:
    """Look up a name directly in a group, following links; the dataset is None for another group."""
    h5py = import_h5py()
    try:
        node = group[name]
    except (KeyError, OSError, RuntimeError):
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.SoftLink):
            return Found(None, f"is a soft link to {link.path!r}, which cannot be opened")
        if isinstance(link, h5py.ExternalLink):
            return Found(
                None,
                f"is a link to {link.path!r} of the file {link.filename!r}, which cannot be opened",
            )
        raise
    if not isinstance(node, h5py.Dataset):
        return Found(None)
    try:
        _ = node.dtype
    except (TypeError, ValueError) as error:
        return Found(None, f"has an HDF5 type that numpy lacks ({error})")
    return Found(node) if node.shape is not None else Found(None, "has no values")


def walk(file: Any) -> Iterator[tuple[str, Found]]:
    """Yield the datasets of a file by name, through links, and the names that cannot be read."""
    h5py = import_h5py()
    seen = {identity(file)}
    waiting = [("", file["/"])]
    while waiting:
        prefix, group = waiting.pop(0)
        for name in group:
            found = find(group, name)
            if found.dataset is not None or found.problem:
                yield prefix + name, found
                continue
            node = group[name]
            # A link may lead back to a group above.
            if isinstance(node, h5py.Group) and identity(node) not in seen:
                seen.add(identity(node))
                waiting.append((f"{prefix}{name}/", node))


def identity(node: Any) -> tuple[int, int]:
    """Return what two names of one object have in common."""
    info = import_h5py().h5o.get_info(node.id)
    return int(info.fileno), int(info.addr)


def read_rows(path: Path, name: str, dataset: Any) -> Array:
    """Read a whole dataset of numbers, after checking that the file holds as much."""
    with errors_name_array(path, name, dataset):
        check_storage(dataset)
        array = np.empty(dataset.shape, dataset.dtype)
        RowReader(dataset).read(0, len(array), array)
        return array


@contextmanager
def errors_name_array(
    path: str | Path,
    name: str,
    dataset: Any,
    problem: str | None = None,
    kind: type[ValueError | OSError] = ValueError,
) -> Iterator[None]:
    """Make errors of reading name the file, the array, and what is missing for reading it.

    `problem` continues the path in the message, by default ": array 'name' is damaged or incomplete".
    """
    try:
        with errors_name_file(path, problem or f": array {name!r} is damaged or incomplete", kind):
            yield
    except (ValueError, OSError) as error:
        missing = _missing_filters(dataset)
        if not missing:
            raise
        raise kind(
            f"{path}: array {name!r} is packed with {' and '.join(missing)}, which this HDF5 library "
            f"lacks. Run pip install hdf5plugin, and import hdf5plugin before loading."
        ) from error


def _missing_filters(dataset: Any) -> list[str]:
    """List the filters of a dataset that are not installed."""
    h5py = import_h5py()
    plan = dataset.id.get_create_plist()
    numbers = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
    return [
        f"the filter {_FILTERS.get(number, 'of an unknown name')} (number {number})"
        for number in numbers
        if not h5py.h5z.filter_avail(number)
    ]


def check_storage(dataset: Any) -> None:
    """Refuse a dataset whose shape disagrees with what the file holds of it."""
    if dataset.dtype.hasobject or not dataset.ndim:
        return
    n_bytes = math.prod(dataset.shape) * dataset.id.get_type().get_size()
    if dataset.is_virtual:
        _check_sources(dataset)
        return
    if dataset.external:
        _check_external(dataset, n_bytes)
        return
    stored = dataset.id.get_storage_size()
    if dataset.chunks is None:
        held = stored in (0, n_bytes)
    else:
        grid = zip(dataset.shape, dataset.chunks, strict=True)
        held = dataset.id.get_num_chunks() <= math.prod(-(-n // step) for n, step in grid)
        size = Path(dataset.file.filename).stat().st_size
        held &= n_bytes <= max(_ALWAYS_ALLOWED, _LARGEST_RATIO * size)
    if not held:
        raise ValueError(
            f"shape {dataset.shape} and type {dataset.dtype} need {n_bytes} bytes, the file holds "
            f"{stored}"
        )


def _check_sources(dataset: Any) -> None:
    """Refuse a virtual dataset without its sources, for which the library returns fill values."""
    h5py = import_h5py()
    for path, name in _sources(dataset):
        if not path.is_file():
            raise ValueError(f"its numbers lie in the file {str(path)!r}, which is not there")
        with h5py.File(path, "r") as file:
            if name not in file:
                raise ValueError(
                    f"its numbers lie in {name!r} of the file {str(path)!r}, which lacks it"
                )


def _sources(dataset: Any) -> list[tuple[Path, str]]:
    """List the file and the name of the sources of a virtual dataset, except for numbered files."""
    own = Path(dataset.file.filename)
    listed = []
    for source in dataset.virtual_sources():
        path = own if source.file_name == "." else own.parent / source.file_name
        if path != own and not path.exists() and Path(source.file_name).exists():
            path = Path(source.file_name)
        if "%" not in source.file_name:
            listed.append((path, source.dset_name))
    return listed


def _check_external(dataset: Any, n_bytes: int) -> None:
    """Refuse raw files that are missing or too short, which the library fills up with zeros."""
    for name, offset, size in dataset.external:
        wanted = min(size, n_bytes)
        n_bytes -= wanted
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"its numbers lie in the file {name!r}, which is not there")
        if path.stat().st_size < offset + wanted:
            raise ValueError(
                f"its numbers lie in the file {name!r} up to byte {offset + wanted}, which ends at "
                f"{path.stat().st_size}"
            )


def file_states(path: Path, dataset: Any) -> tuple[FileState, ...]:
    """Return the state of all files that hold a part of a dataset."""
    paths = {str(path), dataset.file.filename}
    if dataset.is_virtual:
        paths |= {str(source) for source, _ in _sources(dataset)}
    elif dataset.external:
        paths |= {name for name, _, _ in dataset.external}
    return tuple(state_of(Path(name).absolute()) for name in sorted(paths))


def state_of(path: str | Path) -> FileState:
    """Return the present state of a file."""
    status = Path(path).stat()
    return FileState(str(path), status.st_size, status.st_mtime_ns)
