"""Loader of digitised detector signals, which maps traces into memory where the format allows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skhep_nn.datasets._array_files import (
    PathLike,
    StoredArray,
    integers_if_whole,
    list_arrays,
    list_paths,
)
from skhep_nn.datasets._file_errors import errors_name_file
from skhep_nn.datasets._text_tables import Points, find_points, listed, read_table
from skhep_nn.utils.checks import is_integer

__all__ = ["Waveforms", "load_waveforms"]

Array = NDArray[Any]
Rows = NDArray[np.intp]

_TRACES = ("traces", "waveforms", "waveform", "X", "x", "array")
_TARGETS = ("target", "targets", "y", "labels", "label", "separation", "d")
_BLOCK = 1 << 22  # values that are checked for infinities at a time
_NAMED = 10  # rows listed in a message
_VISIBLE = 1e-3  # rounding of float32, as a share of the height of a trace, that asks for float64


class Waveforms(NamedTuple):
    """Traces of :func:`load_waveforms`.

    Parameters
    ----------
    traces : ndarray of shape (n_traces, n_points) or (n_traces, n_points, n_channels)
        In the type of the file; from text float32, or float64 where its digits matter, as for small
        pulses on a large offset. A read-only :class:`numpy.memmap` where the
        format allows.
    target : ndarray of shape (n_traces,) or (n_traces, n_targets), or None
        In the type of the file; a single column loses its second axis.
    dropped : ndarray of int
        Row numbers, over all files in order, that were left out because of values that are not
        finite.
    """

    traces: Array
    target: Array | None
    dropped: Rows


def load_waveforms(
    path: PathLike | Sequence[PathLike],
    *,
    traces_key: str | None = "auto",
    target_key: str | int | None = "auto",
    non_finite: str = "error",
    memory_map: bool = True,
) -> Waveforms:
    """Read detector traces, and a target, from npz, npy, HDF5 or csv.

    The content determines the format, not the name. Traces of npy files, of npz files that are
    not compressed (:func:`numpy.savez`) and of HDF5 files that are not chunked are mapped into
    memory, so that only the accessed parts are read; other arrays are read at once.

    Parameters
    ----------
    path : path or list of paths
        A file, or several of the same form, whose traces are concatenated in memory.
    traces_key : str, default="auto"
        Name of the array of the traces, in HDF5 with the groups (``"run1/traces"``). ``"auto"``
        takes the only array with two or three axes (a single column does not count). Of several such
        arrays it takes the first of "traces", "waveforms", "waveform", "X" and "x". npy and csv files
        have one array, which needs no name.
    target_key : str, int or None, default="auto"
        Name of the array of the target; in csv files the name or number of its column. ``"auto"``
        takes the first existing array of "target", "targets", "y", "labels", "label", "separation" and
        "d", else the only array with one value for each trace, else no target. It looks only in the group
        of the traces: other groups may hold other runs. None reads no target.
    non_finite : {"error", "drop", "keep"}, default="error"
        Treatment of NaN and infinity in traces or target, which digitisers write on
        overflow. "error" raises an error that names the rows. "drop" leaves the rows out and lists
        them in ``dropped``; a memory map is then read. "keep" does not check, so nothing is read in
        advance.
    memory_map : bool, default=True
        Whether to map traces into memory where the format allows, rather than to read them.

    Returns
    -------
    Waveforms
        Named tuple of ``traces``, ``target`` and ``dropped``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the file is HDF5 and h5py is not installed.
    TypeError
        If a path or a key has the wrong type.
    ValueError
        If a file is damaged or cut off, has no array of that name or several to choose from, traces
        of different lengths, values that are no numbers or not finite, another number of targets
        than traces, or another form than the first of several files. The message names the file,
        and the row or the arrays.

    Warns
    -----
    UserWarning
        If columns of a csv file are left out, or the names of the points look like a mistake.

    See Also
    --------
    skhep_nn.datasets.waveforms.make_waveforms : Simulate traces.

    Notes
    -----
    In csv files a row is a trace. A first line that is not numeric, or that counts from 0, holds the column
    names. Points of the trace are the columns whose names differ only in their numbers ("t0", "t1", ...);
    other columns, such as an event number, are left out with a warning, and without names all columns but
    the target are points. A first column without a name, such as the row numbers of pandas, is left out.
    Columns are separated by comma, semicolon, tabulator or spaces, and the file may be compressed by gzip.

    In HDF5 files, soft and external links are followed. Names that cannot be read, such as a link to a
    file that is not there or a type that numpy lacks, are an error only where they are needed.

    A file must not change while its traces are mapped into memory. Flipped bytes are found where the
    format has checksums: gzip, npz read with ``memory_map=False``, HDF5 with fletcher32.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skhep_nn.datasets.waveform_files import load_waveforms
    >>> rng = np.random.default_rng(0)
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "pulses.npz"
    ...     np.savez(path, traces=rng.integers(0, 500, (6, 80)), d=rng.random(6))
    ...     waveforms = load_waveforms(path, memory_map=False)
    >>> waveforms.traces.shape, waveforms.target.shape, waveforms.dropped.size
    ((6, 80), (6,), 0)
    """
    if non_finite not in {"error", "drop", "keep"}:
        raise ValueError(f"non_finite must be 'error', 'drop' or 'keep', got {non_finite!r}.")
    _check_keys(traces_key, target_key)
    paths = list_paths(path, "path")
    parts: list[Waveforms] = []
    offset = 0
    for name in paths:
        file = Path(name).expanduser()
        # Several files are copied into one array anyway, so that mapping them saves a copy.
        with errors_name_file(file, " is damaged"):
            traces, target = _load(file, traces_key, target_key, memory_map or len(paths) > 1)
        kept = _apply_non_finite(file, traces, target, non_finite)
        parts.append(kept._replace(dropped=kept.dropped + offset))
        _check_same_form(file, parts[-1], paths[0], parts[0])
        offset += len(traces)
    if len(parts) == 1:
        return parts[0]
    targets = [part.target for part in parts if part.target is not None]
    return Waveforms(
        np.concatenate([part.traces for part in parts]),
        np.concatenate(targets) if targets else None,
        np.concatenate([part.dropped for part in parts]),
    )


def _check_keys(traces_key: object, target_key: object) -> None:
    """Refuse keys that are no names."""
    if traces_key is not None and not isinstance(traces_key, str):
        raise TypeError(f"traces_key must be the name of an array, got {traces_key!r}.")
    if target_key is not None and not isinstance(target_key, str) and not is_integer(target_key):
        raise TypeError(
            f"target_key must be a name, the number of a column, or None, got {target_key!r}."
        )


def _load(
    path: Path, traces_key: str | None, target_key: str | int | None, memory_map: bool
) -> tuple[Array, Array | None]:
    """Read traces and target of one file, and check their shapes."""
    arrays = list_arrays(path)
    if arrays is None:
        traces, target = _load_table(path, traces_key, target_key)
    else:
        name = _choose_traces(path, arrays, traces_key)
        traces = _numbers(path, name, arrays[name], memory_map)
        if traces.ndim not in {2, 3} or 0 in traces.shape:
            raise ValueError(
                f"{path}: traces {name!r} must have the shape (n_traces, n_points) or (n_traces, "
                f"n_points, n_channels), and not be empty; got {traces.shape}. {_described(arrays)}"
            )
        key = _choose_target(path, arrays, name, len(traces), target_key)
        target = None if key is None else _numbers(path, key, arrays[key], memory_map=False)
        if target is not None and (target.ndim not in {1, 2} or len(target) != len(traces)):
            raise ValueError(
                f"{path}: target {key!r} has the shape {target.shape}, which must be one value, "
                f"or one row, for each of the {len(traces)} traces {name!r}. {_described(arrays)}"
            )
    if target is not None and target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    return traces, target


def _choose_traces(path: Path, arrays: Mapping[str, StoredArray], key: str | None) -> str:
    """Return the name of the array of traces."""
    if key in arrays:
        return str(key)
    if key != "auto":
        raise ValueError(f"{path}: no array {key!r} for traces_key. {_described(arrays)}")
    found = _one_name_each(
        arrays, [n for n, a in arrays.items() if len(a.shape) in {2, 3} and a.shape[1:] != (1,)]
    )
    # A well-known name that cannot be read counts too, lest other traces are taken in its place.
    known = [name for name in _TRACES if name in found or (name in arrays and arrays[name].problem)]
    found = known or found
    found = found or [name for name, array in arrays.items() if array.dtype.hasobject]
    if not found or (len(found) > 1 and not known):
        raise ValueError(
            f"{path}: {'no' if not found else 'more than one'} array can be the traces: name it "
            f"with traces_key. {_described(arrays)}"
        )
    return found[0]


def _one_name_each(arrays: Mapping[str, StoredArray], names: list[str]) -> list[str]:
    """Leave out further names of one array, which links give; well-known names stay."""
    chosen: dict[Any, str] = {}
    for name in sorted(names, key=lambda name: name not in _TRACES + _TARGETS):
        chosen.setdefault(arrays[name].identity, name)
    return list(chosen.values())


def _choose_target(
    path: Path, arrays: Mapping[str, StoredArray], traces: str, n: int, key: str | int | None
) -> str | None:
    """Return the name of the array of the target, None without a target."""
    if key is None or (isinstance(key, str) and key in arrays):
        return None if key is None else str(key)
    if key != "auto":
        raise ValueError(f"{path}: no array {key!r} for target_key. {_described(arrays)}")
    group, slash, _ = traces.rpartition("/")
    others = {
        name: array
        for name, array in arrays.items()
        if name.rpartition("/")[0] == group and array.identity != arrays[traces].identity
    }
    found = [
        name
        for name, array in others.items()
        if array.shape in {(n,), (n, 1)} and array.dtype.kind in "biuf"
    ]
    named = [group + slash + name for name in _TARGETS if group + slash + name in others]
    found = _one_name_each(arrays, found)
    if len(found) > 1 and not named:
        raise ValueError(
            f"{path}: more than one array can be the target: name it with target_key, or give "
            f"None. {_described(arrays)}"
        )
    return next(iter(named or found), None)


def _described(arrays: Mapping[str, StoredArray]) -> str:
    """Describe the arrays of a file for an error message."""
    held = [
        f"{name!r}, which {array.problem}"
        if array.problem
        else f"{name!r} {array.shape} {array.dtype}"
        for name, array in arrays.items()
    ]
    return f"The file holds {', '.join(held) or 'no arrays'}."


def _numbers(path: Path, name: str, array: StoredArray, memory_map: bool) -> Array:
    """Read an array, refusing types that are not numbers."""
    if array.problem:
        return array.read(False)
    if array.dtype.kind == "O" and array.shape:
        values = array.read(memory_map)
        lengths = [np.shape(row) for row in values]
        other = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        detail = "" if other is None else f" (row {other} has {lengths[other]}, row 0 {lengths[0]})"
        raise ValueError(
            f"{path}: array {name!r} holds objects, not numbers: traces of different lengths"
            f"{detail}? Cut or pad them to one length."
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: array {name!r} of type {array.dtype} is not made of numbers")
    return array.read(memory_map)


def _load_table(
    path: Path, traces_key: str | None, target_key: str | int | None
) -> tuple[Array, Array | None]:
    """Read traces and the target column from text."""
    if traces_key != "auto":
        raise ValueError(
            f"{path} is text, whose columns are the points of the traces: traces_key must stay "
            f"'auto', got {traces_key!r}"
        )
    names, blocks = read_table(path)
    points: Points | None = None
    column: int | None = None
    traces: list[Array] = []
    targets: list[Array] = []
    for block in blocks:
        if points is None:
            column = _target_column(path, names, block.shape[1], target_key)
            points = find_points(path, names, block.shape[1], column)
        traces.append(_narrowed(block[:, points.columns]))
        if column is not None:
            targets.append(block[:, column])
    if points is None or not points.columns:
        raise ValueError(f"{path} holds no traces")
    for message in points.warnings:
        warnings.warn(message, UserWarning, stacklevel=4)
    if column is None:
        return np.concatenate(traces), None
    return np.concatenate(traces), integers_if_whole(np.concatenate(targets))


def _narrowed(rows: Array) -> Array:
    """Return traces as float32, unless its rounding is visible in the height of one of them."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = rows.astype(np.float32)
        rounding = np.abs(rows - narrow).max(axis=1, initial=0)
        height = np.ptp(rows, axis=1) if rows.shape[1] else rounding
        return rows if ((height > 0) & (rounding > _VISIBLE * height)).any() else narrow


def _target_column(
    path: Path, names: list[str], n_columns: int, key: str | int | None
) -> int | None:
    """Return the number of the target column, None without a target."""
    if key is None:
        return None
    if is_integer(key) and -n_columns <= key < n_columns:
        return int(key) % n_columns
    if key in names:
        return names.index(str(key))
    if key == "auto":
        return next((names.index(name) for name in _TARGETS if name in names), None)
    raise ValueError(
        f"{path}: no column {key!r} for target_key; the file has {n_columns} columns, "
        f"{listed(names) or 'without names'}"
    )


def _apply_non_finite(
    path: Path, traces: Array, target: Array | None, non_finite: str
) -> Waveforms:
    """Treat rows with values that are not finite as `non_finite` requests."""
    none = np.zeros(0, np.intp)
    if non_finite == "keep":
        return Waveforms(traces, target, none)
    finite = _finite_rows(traces)
    if target is not None:
        finite &= _finite_rows(target)
    bad = np.flatnonzero(~finite)
    if bad.size == 0:
        return Waveforms(traces, target, none)
    rows = ", ".join(map(str, bad[:_NAMED])) + (", ..." if bad.size > _NAMED else "")
    if non_finite == "error" or bad.size == len(traces):
        raise ValueError(
            f"{path}: {bad.size} of {len(traces)} traces, or their targets, hold NaN or infinity: "
            f"rows {rows}. Give non_finite='drop' to leave them out, 'keep' to take them as they "
            f"are."
        )
    return Waveforms(traces[finite], None if target is None else target[finite], bad)


def _finite_rows(values: Array) -> NDArray[np.bool_]:
    """Return for every row whether all values are finite, reading blocks of rows."""
    finite = np.ones(len(values), np.bool_)
    if values.dtype.kind != "f":
        return finite
    step = max(1, _BLOCK // max(1, values[0].size))
    for start in range(0, len(values), step):
        rows = np.asarray(values[start : start + step])
        finite[start : start + step] = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    return finite


def _check_same_form(path: Path, part: Waveforms, first_path: PathLike, first: Waveforms) -> None:
    """Refuse a file whose form differs from the first."""
    forms = []
    for waveforms in (part, first):
        target = waveforms.target
        form = f"traces of {waveforms.traces.shape[1:]} {waveforms.traces.dtype}, "
        forms.append(form + ("no target" if target is None else f"targets {target.shape[1:]}"))
    if forms[0] != forms[1]:
        raise ValueError(
            f"{path} holds {forms[0]}; {first_path} {forms[1]}. Load them on their own, or convert "
            f"them."
        )
