"""Tables: columns of numbers become float32, columns of categories become codes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray
from sklearn.utils import check_array

from skhep_nn.inputs.categories import Levels, category_codes, examples_of, sorted_categories
from skhep_nn.inputs.far_values import far_values, listing, remedies
from skhep_nn.inputs.offsets import BLURRED
from skhep_nn.utils.checks import is_integer

__all__ = ["TableReader", "as_table"]

Table = pd.DataFrame | NDArray[Any]

_ROWS_AT_A_TIME = 4096
# Number of columns that a warning describes.
_NAMED_COLUMNS = 3


def as_table(X: Any, owner: str) -> Table:
    """Return a DataFrame of pandas as it is and anything else as an array, refusing empty tables.

    Parameters
    ----------
    X : DataFrame or array-like of shape (n_samples, n_features)
        Events.
    owner : str
        Name of the estimator, for error messages.
    """
    if not isinstance(X, pd.DataFrame):
        array: NDArray[Any] = check_array(
            X, dtype=None, ensure_all_finite=False, estimator=owner, input_name="X"
        )
        return array
    for what, n in (("sample", X.shape[0]), ("feature", X.shape[1])):
        if n == 0:
            msg = (
                f"Found array with 0 {what}(s) (shape={X.shape}) while a minimum of 1 is required "
                f"by {owner}."
            )
            raise ValueError(msg)
    return X


class TableReader(NamedTuple):
    """Reads tables that have the columns of the training data.

    Finds columns by name or number, encodes categories and refuses values that are not finite. Cheap to
    make, so that an estimator makes one from its fitted attributes when needed and does not store it.

    Parameters
    ----------
    owner : str
        Name of the estimator, for error messages.
    n_columns : int
        Number of columns seen in `fit`.
    columns : ndarray of str or None
        Names of the columns seen in `fit`, if they had names.
    categorical : sequence of int
        Positions of the categorical columns.
    categories : mapping of int to ndarray
        Sorted categories of every categorical column, by its position.
    """

    owner: str
    n_columns: int
    columns: NDArray[np.object_] | None
    categorical: Sequence[int] = ()
    categories: Mapping[int, NDArray[Any]] = {}

    # -- columns ----------------------------------------------------------------------------------

    def position(self, column: Any, parameter: str) -> int:
        """Return the position of a column given by name or number."""
        if isinstance(column, str):
            names = [] if self.columns is None else list(self.columns)
            if column not in names:
                msg = f"{parameter} names the column {column!r}, but X has " + (
                    f"the columns {names}." if names else "no column names; give its number."
                )
                raise ValueError(msg)
            return names.index(column)
        if not is_integer(column):
            msg = f"{parameter} holds {column!r}; give the name of a column or its number."
            raise ValueError(msg)
        if not 0 <= column < self.n_columns:
            msg = f"{parameter} names column {column}, but X has {self.n_columns} columns."
            raise ValueError(msg)
        return int(column)

    def positions(self, columns: Any, parameter: str) -> list[int]:
        """Return sorted positions of columns, given by a name, a number, a list of these or a boolean mask."""
        if columns is None:
            return []
        if isinstance(columns, str) or not np.iterable(columns):
            columns = [columns]
        columns = list(columns)
        if columns and all(isinstance(c, bool | np.bool_) for c in columns):
            if len(columns) != self.n_columns:
                msg = (
                    f"{parameter} is a boolean mask of length {len(columns)}, but X has "
                    f"{self.n_columns} columns."
                )
                raise ValueError(msg)
            return np.flatnonzero(columns).tolist()
        positions = [self.position(c, parameter) for c in columns]
        for j in positions:
            if positions.count(j) > 1:
                raise ValueError(f"{parameter} names {self.label(j)} more than once: {columns}.")
        return sorted(positions)

    def label(self, column: int) -> str:
        """Return the text by which messages refer to a column."""
        return f"column {column}" if self.columns is None else repr(str(self.columns[column]))

    def names(self, columns: Sequence[int]) -> list[Any]:
        """Return the names of columns, or their numbers where they have no names."""
        return [j if self.columns is None else str(self.columns[j]) for j in columns]

    # -- reading ----------------------------------------------------------------------------------

    def learn(self, table: Table) -> TableReader:
        """Return a reader with the categories of a table, or this one without categorical columns."""
        self._refuse_dates(table)
        if not self.categorical:
            return self
        frame = pd.DataFrame(table)
        categories = {
            j: sorted_categories(self._levels(j, frame.iloc[:, j]).values) for j in self.categorical
        }
        return self._replace(categories=categories)

    def read(self, table: Table) -> NDArray[np.float32]:
        """Return all columns as float32, categorical ones as codes; -1 is a category unseen at fit."""
        self._refuse_dates(table)
        if self.categorical:
            encoded = self._numbers_and_codes(table)
        else:
            encoded = self._numbers(table, range(table.shape[1]))
        self._check_finite(encoded)
        # Torch warns of arrays that cannot be written, such as memory maps and pandas' own.
        return np.require(encoded, requirements=["C", "W"])

    def warn_of_scales(self, table: Table, encoded: NDArray[np.float32]) -> None:
        """Warn of columns of numbers whose differences the network cannot see, and say why.

        Either float32 cannot hold the differences, as the values are far from zero or too small altogether, or a few
        values are so far outside that all others look alike.
        """
        numbers = np.setdiff1d(np.arange(encoded.shape[1]), self.categorical).tolist()
        if blurred := self._blurred(table, encoded, numbers):
            msg = (
                f"columns {self.names(blurred)} of X differ by less than {BLURRED:.0e} of their "
                "mean or are too small altogether, which float32 cannot resolve: subtract an offset first, "
                "for example the smallest value, or choose another unit."
            )
            warnings.warn(msg, UserWarning, stacklevel=2)
        found = {j: far_values(encoded[:, j]) for j in numbers}
        spoilt = {j: far for j, far in found.items() if far is not None}
        if spoilt:
            texts = [far.text(len(encoded), self.label(j)) for j, far in spoilt.items()]
            msg = (
                f"Values far outside all others spoil the scale of {len(spoilt)} of {len(numbers)} columns "
                f"of numbers of X, so that the network hardly tells the others apart: {listing(texts)}. "
                f"{remedies(spoilt.values())}"
            )
            warnings.warn(msg, UserWarning, stacklevel=2)

    def _blurred(
        self, table: Table, encoded: NDArray[np.float32], numbers: Sequence[int]
    ) -> list[int]:
        """Return the columns whose values float32 does not tell apart."""
        low, high = (f(axis=0).astype(np.float64) for f in (encoded.min, encoded.max))
        largest = np.maximum(abs(low), abs(high))
        is_small = largest < np.finfo(np.float32).tiny
        # A quick test first, as hardly any column needs the exact one.
        suspects = np.flatnonzero(is_small | (high - low <= 10 * BLURRED * largest))
        blurred = []
        for j in np.intersect1d(suspects, numbers).tolist():
            column = table.iloc[:, j] if isinstance(table, pd.DataFrame) else table[:, j]
            precision = np.float32 if column.dtype == np.float32 else np.float64
            values = _as_floats(column, np.float64)
            center = abs(values.mean())
            # A constant that was computed in several ways differs by its rounding errors.
            is_constant = np.ptp(values) <= 4 * np.finfo(precision).eps * center
            if not is_constant and (is_small[j] or values.std() < BLURRED * center):
                blurred.append(j)
        return blurred

    def _refuse_dates(self, table: Table) -> None:
        """Refuse dates and durations: as numbers they would depend on the unit they are stored in."""
        if isinstance(table, pd.DataFrame):
            dtypes = [
                d.categories.dtype if isinstance(d, pd.CategoricalDtype) else d
                for d in table.dtypes
            ]
        else:
            dtypes = [table.dtype] * table.shape[1]
        dates = [j for j, dtype in enumerate(dtypes) if dtype.kind in "mM"]
        if dates:
            msg = (
                f"columns {self.names(dates)} of X hold dates or durations; turn them into numbers, "
                "such as seconds since the first event, or leave them out."
            )
            raise ValueError(msg)

    def _numbers(self, table: Table, columns: Sequence[int]) -> NDArray[np.float32]:
        """Return columns of numbers as float32; `columns` are their positions in X, for messages."""
        if _is_plain(table):
            plain = np.empty(table.shape, dtype=np.float32)
            _fill(plain, range(table.shape[1]), table)
            return plain
        try:
            numbers: NDArray[np.float32] = check_array(
                table, dtype=np.float32, ensure_all_finite=False, estimator=self.owner
            )
        except (ValueError, TypeError):
            # Column by column, to read pandas' NA among objects too, and to name columns that fail.
            frame = pd.DataFrame(table)
            numbers = np.empty(frame.shape, dtype=np.float32)
            failed: dict[int, ValueError | TypeError] = {}
            for i, j in enumerate(columns):
                try:
                    numbers[:, i] = _as_floats(frame.iloc[:, i], np.float32)
                except (ValueError, TypeError) as error:
                    failed[j] = error
            if failed:
                first = next(iter(failed.values()))
                msg = (
                    f"columns {self.names(list(failed))} of X do not hold numbers; name them in "
                    f"categorical_features, or leave them out. ({first})"
                )
                raise (TypeError if isinstance(first, TypeError) else ValueError)(msg) from first
        return numbers

    def _numbers_and_codes(self, table: Table) -> NDArray[np.float32]:
        frame = pd.DataFrame(table)
        is_number = ~np.isin(np.arange(frame.shape[1]), self.categorical)
        encoded = np.empty(frame.shape, dtype=np.float32)
        if is_number.any():
            columns = np.flatnonzero(is_number).tolist()
            numbers = frame.loc[:, is_number]
            if _is_plain(numbers):
                _fill(encoded, columns, numbers)
            else:
                encoded[:, is_number] = self._numbers(numbers, columns)
        strange: dict[int, NDArray[Any]] = {}
        for j in self.categorical:
            places, values = self._levels(j, frame.iloc[:, j])
            codes = category_codes(values, self.categories[j])
            encoded[:, j] = codes[places]
            if not (codes >= 0).any():
                strange[j] = values
        if strange:
            self._warn_of_strange(strange)
        return encoded

    def _levels(self, j: int, column: pd.Series[Any]) -> Levels:
        """Return the distinct values of a categorical column, which must not be missing."""
        try:
            levels = Levels.of(column)
            # Only what can be sorted is a category.
            sorted_categories(levels.values)
        except TypeError as error:
            msg = f"The categorical {self.label(j)} of X must hold numbers or text ({error})."
            raise ValueError(msg) from error
        if levels.has_missing:
            raise ValueError(f"Input X contains NaN in the categorical {self.label(j)}.")
        return levels

    def _warn_of_strange(self, strange: Mapping[int, NDArray[Any]]) -> None:
        """Warn of categorical columns in which no row is a known category, with examples."""
        shown = list(strange.items())[:_NAMED_COLUMNS]
        what = "; ".join(
            f"{self.label(j)} holds {examples_of(values.tolist())}, but fit saw "
            f"{examples_of(self.categories[j].tolist())}"
            for j, values in shown
        )
        more = f"; {len(strange) - len(shown)} more columns are like that" * (
            len(strange) > len(shown)
        )
        msg = (
            f"No row of X has a known category in {len(strange)} of {len(self.categorical)} categorical "
            f"columns: {what}{more}. All their rows are predicted as an unseen category: "
            "convert them to the values that fit saw."
        )
        warnings.warn(msg, UserWarning, stacklevel=2)

    def _check_finite(self, encoded: NDArray[np.float32]) -> None:
        finite = np.isfinite(encoded)
        if finite.all():
            return
        what = []
        for text, bad in (("NaN", np.isnan(encoded)), ("infinity", np.isinf(encoded))):
            columns = ", ".join(self.label(int(j)) for j in np.flatnonzero(bad.any(axis=0)))
            if columns:
                what.append(f"{text} in {columns}")
        msg = (
            f"Input X contains {' and '.join(what)} (or values too large for float32). "
            f"{self.owner} does not guess what they mean: fill undefined values first, for "
            "example with CartesianMomenta(missing=0.0) or scikit-learn's SimpleImputer."
        )
        raise ValueError(msg)


def _is_plain(table: Table) -> TypeGuard[pd.DataFrame]:
    """Whether a table is a DataFrame with only integer and floating-point columns of numpy."""
    return isinstance(table, pd.DataFrame) and all(
        isinstance(dtype, np.dtype) and dtype.kind in "fiu" for dtype in table.dtypes
    )


def _fill(out: NDArray[np.float32], columns: Sequence[int], table: pd.DataFrame) -> None:
    """Copy the columns of a frame into columns of an array, in blocks of rows that fit a core's cache.

    A frame lies in memory column by column: copying it as a whole takes three times as long.
    """
    values = [table.iloc[:, j].to_numpy() for j in range(table.shape[1])]
    with np.errstate(over="ignore"):  # infinities are reported by name
        for start in range(0, len(out), _ROWS_AT_A_TIME):
            rows = slice(start, start + _ROWS_AT_A_TIME)
            part = out[rows]
            for j, column in zip(columns, values, strict=True):
                part[:, j] = column[rows]


def _as_floats(column: Any, dtype: DTypeLike) -> NDArray[Any]:
    """Return one column of any type as floats, missing values as NaN."""
    values = np.asarray(column)
    if values.dtype.kind not in "biuf":
        values = np.asarray(column, dtype=object)
        values = np.where(pd.isna(values), np.nan, values)
    return values.astype(dtype)
