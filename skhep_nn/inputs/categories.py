"""Categories of a column: found at fit, looked up at predict also where they come in another type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["Levels", "category_codes", "examples_of", "sorted_categories"]

# Numbers as files write them. A leading zero, as in "07", makes a text a code rather than a number.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
# Number of values that a message lists.
_NAMED = 4


class Levels(NamedTuple):
    """Distinct values of a column and the place of each row among them.

    Parameters
    ----------
    places : ndarray of int of shape (n_rows,)
        Position in `values` of the value of each row; -1 is a missing value.
    values : ndarray of shape (n_values,)
        Distinct values, in native byte order.
    """

    places: NDArray[np.intp]
    values: NDArray[Any]

    @classmethod
    def of(cls, column: pd.Series[Any]) -> Levels:
        """Find the distinct values of a column of any type; TypeError if they cannot be compared."""
        dtype = column.dtype
        if isinstance(dtype, np.dtype) and not dtype.isnative:
            column = pd.Series(column.to_numpy().astype(dtype.newbyteorder("=")))
        places, values = pd.factorize(column)
        return cls(places, np.asarray(values))

    @property
    def has_missing(self) -> bool:
        """Whether a value is missing; NaN of pyarrow is one too, which pandas takes for a value."""
        return bool((self.places < 0).any() or pd.isna(self.values.astype(object)).any())


def sorted_categories(values: NDArray[Any]) -> NDArray[Any]:
    """Return categories in order; if their types differ, by the name of the type first."""
    try:
        return np.sort(values)
    except TypeError:
        ordered = sorted(values.tolist(), key=lambda c: (type(c).__name__, c))
        return np.array(ordered, dtype=object)


def category_codes(values: NDArray[Any], categories: NDArray[Any]) -> NDArray[np.intp]:
    """Return the positions of values among categories, -1 for unknown values.

    A value of another type is the same category if there is no doubt: the number 3 and the text "3", text and bytes,
    True and 1, a number in single and in double precision. A value that could stand for several categories is
    unknown.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        Values to look up.
    categories : ndarray of shape (n_categories,)
        Distinct categories.

    Returns
    -------
    ndarray of int of shape (n_values,)

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.inputs.categories import category_codes
    >>> category_codes(np.array(["2", "4.0", "07", "e"]), np.array([2, 4, 7]))
    array([ 0,  1, -1, -1])
    """
    # The coarser of two floating-point types decides which numbers are equal.
    narrow = min((_float_type(values), _float_type(categories)), key=lambda t: t.itemsize)
    exact = {category: code for code, category in enumerate(categories.tolist())}
    codes = [exact.get(value, -1) for value in values.tolist()]
    if -1 in codes:
        meanings: dict[Any, set[int]] = {}
        for category, code in exact.items():
            for meaning in _meanings(category, narrow):
                meanings.setdefault(meaning, set()).add(code)
        for i, value in enumerate(values.tolist()):
            if codes[i] < 0:
                found = set().union(*(meanings.get(m, ()) for m in _meanings(value, narrow)))
                codes[i] = found.pop() if len(found) == 1 else -1
    return np.array(codes, dtype=np.intp)


def examples_of(values: Iterable[Any]) -> str:
    """Return the first few values as text for a message, followed by the name of their type."""
    listed = list(values)
    shown = ", ".join(repr(value) for value in listed[:_NAMED])
    names = " and ".join(sorted({type(value).__name__ for value in listed[:_NAMED]}))
    return f"{shown}{', ...' if len(listed) > _NAMED else ''} ({names})"


def _float_type(values: NDArray[Any]) -> np.dtype[Any]:
    return values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)


def _meanings(value: Any, narrow: np.dtype[Any]) -> Iterator[Any]:
    """Yield what a value may stand for: itself, the number that a text writes, the text of a flag."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            yield value
            return
    if isinstance(value, bool):
        yield from (str(value), str(value).lower())
    if isinstance(value, str):
        yield value
        if not _NUMBER.fullmatch(value):
            return
        value = int(value) if _INTEGER.fullmatch(value) else float(value)
    if isinstance(value, float) and not value.is_integer():
        with np.errstate(over="ignore", under="ignore"):
            value = float(narrow.type(value))
    yield value
