"""From a table to an array: columns of numbers, columns of categories."""

from __future__ import annotations

import warnings
from abc import ABC
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from skhep_nn.estimators.base import BaseNetworkEstimator
from skhep_nn.training.job import Target
from skhep_nn.utils.checks import is_integer

__all__ = ["TableEstimator"]

# Spread relative to the mean below which float32, with its seven digits, blurs a column.
_BLURRED = 1e-5
_TURNED_ROWS = 4096


class TableEstimator(BaseNetworkEstimator, ABC):
    """Reads tables: finds columns by name or number, encodes categories, refuses what is not finite."""

    # -- columns ----------------------------------------------------------------------------------

    def _position(self, column: Any, parameter: str) -> int:
        """Return the position of a column given by name or number."""
        names = list(getattr(self, "feature_names_in_", []))
        if isinstance(column, str):
            if column not in names:
                msg = f"{parameter} names the column {column!r}, but X has " + (
                    f"the columns {names}." if names else "no column names; give its number."
                )
                raise ValueError(msg)
            return names.index(column)
        if not is_integer(column):
            msg = f"{parameter} holds {column!r}; give the name of a column or its number."
            raise ValueError(msg)
        if not 0 <= column < self.n_features_in_:
            msg = f"{parameter} names column {column}, but X has {self.n_features_in_} columns."
            raise ValueError(msg)
        return int(column)

    def _positions(self, columns: Any, parameter: str) -> list[int]:
        """Return the sorted positions of columns: names, numbers, one of them, or a boolean mask."""
        if columns is None:
            return []
        if isinstance(columns, str) or not np.iterable(columns):
            columns = [columns]
        columns = list(columns)
        if columns and all(isinstance(c, bool | np.bool_) for c in columns):
            if len(columns) != self.n_features_in_:
                msg = (
                    f"{parameter} is a boolean mask of length {len(columns)}, but X has "
                    f"{self.n_features_in_} columns."
                )
                raise ValueError(msg)
            return np.flatnonzero(columns).tolist()
        positions = [self._position(c, parameter) for c in columns]
        for j in positions:
            if positions.count(j) > 1:
                raise ValueError(f"{parameter} names {self._label(j)} more than once: {columns}.")
        return sorted(positions)

    def _label(self, column: int) -> str:
        """Return what to call a column in a message."""
        names = getattr(self, "feature_names_in_", None)
        return f"column {column}" if names is None else repr(str(names[column]))

    def _names(self, columns: Sequence[int]) -> list[Any]:
        """Return the names of columns, or their numbers where they have no names."""
        names = getattr(self, "feature_names_in_", None)
        return [j if names is None else str(names[j]) for j in columns]

    # -- reading ----------------------------------------------------------------------------------

    def _encode_X(self, X: Any, *, reset: bool) -> NDArray[np.float32]:
        table = self._table(X)
        # The original X, as any kind of data frame has names; it only sets or compares these and
        # the number of columns.
        validate_data(self, X, reset=reset, skip_check_array=True)
        if reset:
            self._categorical = self._positions(self.categorical_features, "categorical_features")
        self._refuse_dates(table)
        if not self._categorical:
            encoded = self._numbers(table, range(table.shape[1]))
        else:
            encoded = self._numbers_and_codes(table, reset=reset)
        self._check_finite(encoded)
        if reset:
            self._warn_of_offsets(table, encoded)
        # Torch warns of arrays that cannot be written, such as memory maps and pandas' own.
        return np.require(encoded, requirements=["C", "W"])

    def _table(self, X: Any) -> pd.DataFrame | NDArray[Any]:
        """Return a pandas frame as it is and all else as an array, of two dimensions and not empty."""
        if not isinstance(X, pd.DataFrame):
            array: NDArray[Any] = check_array(
                X, dtype=None, ensure_all_finite=False, estimator=self, input_name="X"
            )
            return array
        for what, n in (("sample", X.shape[0]), ("feature", X.shape[1])):
            if n == 0:
                msg = (
                    f"Found array with 0 {what}(s) (shape={X.shape}) while a minimum of 1 is required "
                    f"by {type(self).__name__}."
                )
                raise ValueError(msg)
        return X

    def _refuse_dates(self, table: pd.DataFrame | NDArray[Any]) -> None:
        """Refuse dates and durations: as numbers they would depend on the unit they are stored in."""
        if isinstance(table, pd.DataFrame):
            kept = [
                d.categories.dtype if isinstance(d, pd.CategoricalDtype) else d
                for d in table.dtypes
            ]
        else:
            kept = [table.dtype] * table.shape[1]
        dates = [j for j, dtype in enumerate(kept) if dtype.kind in "mM"]
        if dates:
            msg = (
                f"columns {self._names(dates)} of X hold dates or durations; turn them into numbers, "
                "such as seconds since the first event, or leave them out."
            )
            raise ValueError(msg)

    def _numbers(
        self, table: pd.DataFrame | NDArray[Any], columns: Sequence[int]
    ) -> NDArray[np.float32]:
        """Return columns of numbers as float32; `columns` are their positions in X, for messages."""
        if _is_plain(table):
            plain = np.empty(table.shape, dtype=np.float32)
            _fill(plain, range(table.shape[1]), table)
            return plain
        try:
            numbers: NDArray[np.float32] = check_array(
                table, dtype=np.float32, ensure_all_finite=False, estimator=self
            )
        except (ValueError, TypeError):
            # Column by column, which reads more (pandas' NA among objects) and knows which one fails.
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
                    f"columns {self._names(list(failed))} of X do not hold numbers; name them in "
                    f"categorical_features, or leave them out. ({first})"
                )
                raise (TypeError if isinstance(first, TypeError) else ValueError)(msg) from first
        return numbers

    def _numbers_and_codes(
        self, table: pd.DataFrame | NDArray[Any], *, reset: bool
    ) -> NDArray[np.float32]:
        """Return all columns as float32, categorical ones as codes; -1 is a category unseen at fit."""
        frame = pd.DataFrame(table)
        is_number = ~np.isin(np.arange(frame.shape[1]), self._categorical)
        encoded = np.empty(frame.shape, dtype=np.float32)
        if is_number.any():
            columns = np.flatnonzero(is_number).tolist()
            numbers = frame.loc[:, is_number]
            if _is_plain(numbers):
                _fill(encoded, columns, numbers)
            else:
                encoded[:, is_number] = self._numbers(numbers, columns)
        if reset:
            self.categories_: dict[int, NDArray[Any]] = {}
        for j in self._categorical:
            column = frame.iloc[:, j]
            known = None if reset else self.categories_[j]
            if known is not None and known.dtype.kind == "i" and _kind(column) in "iu":
                encoded[:, j] = _codes_of(np.asarray(column), known)
                continue
            # An array of Python objects is compared value by value, whatever the column is stored
            # as, and pyarrow's NaN is found, which is not "missing" to pandas.
            values = np.asarray(column, dtype=object)
            if pd.isna(values).any():
                raise ValueError(f"Input X contains NaN in the categorical {self._label(j)}.")
            try:
                if reset:
                    self.categories_[j] = _sorted_categories(np.asarray(column.unique()))
                index = pd.Index(self.categories_[j].astype(object))
                encoded[:, j] = index.get_indexer(pd.Index(values))
            except TypeError as error:
                msg = f"The categorical {self._label(j)} of X must hold numbers or text ({error})."
                raise ValueError(msg) from error
        return encoded

    def _check_finite(self, encoded: NDArray[np.float32]) -> None:
        finite = np.isfinite(encoded)
        if finite.all():
            return
        what = []
        for text, bad in (("NaN", np.isnan(encoded)), ("infinity", np.isinf(encoded))):
            columns = ", ".join(self._label(int(j)) for j in np.flatnonzero(bad.any(axis=0)))
            if columns:
                what.append(f"{text} in {columns}")
        msg = (
            f"Input X contains {' and '.join(what)} (or values too large for float32). "
            f"{type(self).__name__} does not guess what they mean: fill undefined values first, for "
            "example with CartesianMomenta(missing=0.0) or scikit-learn's SimpleImputer."
        )
        raise ValueError(msg)

    def _warn_of_offsets(
        self, table: pd.DataFrame | NDArray[Any], encoded: NDArray[np.float32]
    ) -> None:
        """Warn of columns that differ by so little from their mean that float32 blurs them."""
        low, high = (f(axis=0).astype(np.float64) for f in (encoded.min, encoded.max))
        # A rough sieve first, as hardly any column needs the closer look.
        suspects = np.flatnonzero(high - low <= 10 * _BLURRED * np.maximum(abs(low), abs(high)))
        blurred = []
        for j in np.setdiff1d(suspects, self._categorical):
            column = table.iloc[:, j] if isinstance(table, pd.DataFrame) else table[:, j]
            precision = np.float32 if column.dtype == np.float32 else np.float64
            values = _as_floats(column, np.float64)
            center = abs(values.mean())
            # A constant that was computed in several ways differs by its own rounding.
            is_constant = np.ptp(values) <= 4 * np.finfo(precision).eps * center
            # In small units nothing may be left at all.
            is_lost = low[j] == high[j] == 0
            if not is_constant and (is_lost or values.std() < _BLURRED * center):
                blurred.append(int(j))
        if blurred:
            msg = (
                f"columns {self._names(blurred)} of X differ by less than {_BLURRED:.0e} of their "
                "mean or are too small altogether, which float32 cannot resolve: subtract an offset first, "
                "for example the smallest value, or choose another unit."
            )
            warnings.warn(msg, UserWarning, stacklevel=2)

    def _augmentation_frame(self, X: Any, encoded: NDArray[np.float32]) -> Any:
        del X
        names = getattr(self, "feature_names_in_", None)
        return encoded if names is None else pd.DataFrame(encoded, columns=names)

    def _strata(self, X: NDArray[np.float32], target: Target) -> NDArray[Any] | None:
        if self.stratify_by is None:
            return target.strata
        column = self._position(self.stratify_by, "stratify_by")
        _, groups = np.unique(X[:, column], return_inverse=True)
        refined: NDArray[Any] = groups
        if target.strata is not None:
            refined = groups + (groups.max() + 1) * target.strata
        return refined


def _kind(column: Any) -> str:
    """Return numpy's letter for the type of a column, "O" for those that are not numpy's."""
    return str(column.dtype.kind) if isinstance(column.dtype, np.dtype) else "O"


def _codes_of(values: NDArray[Any], categories: NDArray[Any]) -> NDArray[np.intp]:
    """Return the places of whole numbers among sorted categories, -1 where they are none."""
    places = np.searchsorted(categories, values)
    found = categories[np.minimum(places, len(categories) - 1)] == values
    return np.where(found, places, -1)


def _is_plain(table: pd.DataFrame | NDArray[Any]) -> TypeGuard[pd.DataFrame]:
    """Whether all columns of a frame are numpy's numbers, which need no closer look."""
    return isinstance(table, pd.DataFrame) and all(
        isinstance(dtype, np.dtype) and dtype.kind in "fiu" for dtype in table.dtypes
    )


def _fill(out: NDArray[np.float32], columns: Sequence[int], table: pd.DataFrame) -> None:
    """Write the columns of a frame into rows, so many at a time that they stay in a core's cache.

    A frame lies in memory column by column: turned as a whole it takes three times as long.
    """
    values = [table.iloc[:, j].to_numpy() for j in range(table.shape[1])]
    with np.errstate(over="ignore"):  # infinities are reported by name
        for start in range(0, len(out), _TURNED_ROWS):
            rows = slice(start, start + _TURNED_ROWS)
            part = out[rows]
            for j, column in zip(columns, values, strict=True):
                part[:, j] = column[rows]


def _as_floats(column: Any, dtype: DTypeLike) -> NDArray[Any]:
    """Return one column as floats, however it is stored, with NaN for what is missing."""
    values = np.asarray(column)
    if values.dtype.kind not in "biuf":
        values = np.asarray(column, dtype=object)
        values = np.where(pd.isna(values), np.nan, values)
    return values.astype(dtype)


def _sorted_categories(categories: NDArray[Any]) -> NDArray[Any]:
    """Return categories in order; those of different types by the name of the type first."""
    try:
        return np.sort(categories)
    except TypeError:
        ordered = sorted(categories.tolist(), key=lambda c: (type(c).__name__, c))
        return np.array(ordered, dtype=object)
