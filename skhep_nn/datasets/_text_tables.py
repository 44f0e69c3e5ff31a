"""Tables of numbers in text: names of columns, blocks of rows, and the columns that are points of a trace."""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Points", "find_points", "listed", "read_table"]

Array = NDArray[Any]

_GZIP = b"\x1f\x8b"
_TEXT = "utf-8-sig"  # spreadsheets put a mark before the first number
_BLOCK = 500  # lines of text that are parsed at a time
_NAMED = 10  # columns listed in a message
# What programs write where a number is missing.
_MISSING = frozenset({"", "-", "--", "?", "na", "n/a", "#n/a", "<na>", "null", "none", "missing"})
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?", re.IGNORECASE)


class Points(NamedTuple):
    """Columns of a table that are points of a trace."""

    columns: list[int]
    warnings: list[str]  # about columns that were left out, and names that look like a mistake


def read_table(path: Path) -> tuple[list[str], Iterator[Array]]:
    """Read column names (empty without a header) and blocks of rows from a text of numbers."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    lines = _lines(path, packed)
    first, second = next(lines, None), next(lines, "")
    if first is None:
        raise ValueError(f"{path} holds no traces")
    separator = next((mark for mark in ",;\t" if mark in first), None)
    fields = [field.strip() for field in first.lstrip("# ").split(separator)]
    below = next((field.strip() for field in second.split(separator)), "")
    if not fields:
        raise ValueError(
            f"{path}: the first line, {first.strip()!r}, holds neither names nor numbers"
        )
    names = fields if _is_header(fields, below) else []
    rows = itertools.chain([] if names else [first], [second] if second else [], lines)
    return names, _blocks(path, rows, separator, len(fields))


def _is_header(fields: list[str], below: str) -> bool:
    """Whether the fields of the first line are names; `below` is the field under the first of them."""
    numbers = [float(field) for field in fields if _is_number(field)]
    is_text = any(not _is_number(field) and field.lower() not in _MISSING for field in fields)
    if is_text:
        # Names of points may be numbers, which ascend: else one number of a row is broken.
        return _ascend(numbers)
    rest = fields[1:] if not fields[0] else fields
    if len(fields) > 1 and rest == [str(number) for number in range(len(rest))]:
        return True
    # pandas writes nothing above the numbers of rows, which count from 0.
    return not fields[0] and len(numbers) == len(rest) and _ascend(numbers) and below == "0"


def _ascend(numbers: Sequence[float]) -> bool:
    """Whether each number is larger than the one before."""
    return all(a < b for a, b in pairwise(numbers))


def _lines(path: Path, packed: bool) -> Iterator[str]:
    """Yield the lines that are not empty."""
    try:
        with gzip.open(path, "rt", encoding=_TEXT) if packed else path.open(encoding=_TEXT) as file:
            for line in file:
                if "\0" in line:
                    raise _no_text_error(path, "it holds zero bytes")
                if line.strip():
                    yield line
    except UnicodeDecodeError as error:
        raise _no_text_error(path, error) from error
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut off: {error}") from error


def _no_text_error(path: Path, reason: object) -> ValueError:
    """Return the error for a file of an unknown format."""
    return ValueError(f"{path} is no text, and neither npz, npy nor HDF5, or damaged: {reason}")


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
        if rows.shape != (len(block), n_fields):
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
    """Return whether a text is a number; Python's form 1_000 is not valid in a table."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def find_points(path: Path, names: list[str], n_columns: int, target: int | None) -> Points:
    """Choose the columns that are points of a trace: all but the target whose names follow one pattern.

    Event numbers, labels and energies beside the points would otherwise become the end of every trace.
    """
    columns = [column for column in range(n_columns) if column != target]
    # A first column without a name holds the row numbers of pandas.
    columns = [column for column in columns if not names or column or names[0]]
    if not names or not columns:
        return Points(columns, [])
    patterns = {column: _pattern(names[column]) for column in columns}
    pattern, count = Counter(patterns.values()).most_common(1)[0]
    every = listed(names[column] for column in columns)
    if count == 1 and len(columns) > 1:
        return Points(
            columns,
            [f"{path}: the names of its columns, {every}, do not number points; all are taken"],
        )
    if 2 * count <= len(columns):
        raise ValueError(
            f"{path}: its columns, {every}, cannot all be points of one trace, as their names follow "
            f"{len(set(patterns.values()))} patterns. Give the target as target_key, and remove other "
            f"columns from the file."
        )
    points = [column for column in columns if patterns[column] == pattern]
    odd = [names[column] for column in columns if patterns[column] != pattern]
    ends = f"{names[points[0]]!r} to {names[points[-1]]!r}"
    messages = []
    if odd:
        messages.append(
            f"{path}: left out the columns {listed(odd)}, whose names do not follow those of the "
            f"points, {ends}. Give the target as target_key; rename a column that is a point."
        )
    if pattern.count("#") == 1:
        numbers = [float(_NUMBER.findall(names[column])[0]) for column in points]
        if not _ascend(numbers):
            messages.append(
                f"{path}: the points, {ends}, do not lie in the order of their numbers, but are taken "
                f"in the order of the file."
            )
    return Points(points, messages)


def _pattern(name: str) -> str:
    """Return a name with its numbers replaced."""
    return "#" if _is_number(name) else _NUMBER.sub("#", name)


def listed(names: Iterable[str]) -> str:
    """Return names for a message, the first ten."""
    names = list(names)
    return ", ".join(map(repr, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
