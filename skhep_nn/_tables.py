"""From a table to an array: columns of numbers, columns of categories."""

from __future__ import annotations

from abc import ABC
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from skhep_nn._base import BaseNetworkEstimator, Target

__all__ = ["TableEstimator"]


class TableEstimator(BaseNetworkEstimator, ABC):
    """Reads tables: finds columns by name or number, encodes categories, refuses what is not finite."""

    # -- columns ----------------------------------------------------------------------------------

    def _position(self, column: str | int, parameter: str) -> int:
        """Return the position of a column given by name or number."""
        names = list(getattr(self, "feature_names_in_", []))
        if isinstance(column, str):
            if column not in names:
                msg = f"{parameter} names the column {column!r}, but X has " + (
                    f"the columns {names}." if names else "no column names; give its number."
                )
                raise ValueError(msg)
            return names.index(column)
        if not 0 <= column < self.n_features_in_:
            msg = f"{parameter} names column {column}, but X has {self.n_features_in_} columns."
            raise ValueError(msg)
        return int(column)

    def _label(self, column: int) -> str:
        """Return what to call a column in a message."""
        names = getattr(self, "feature_names_in_", None)
        return f"column {column}" if names is None else repr(str(names[column]))

    def _encode_X(self, X: Any, *, reset: bool) -> NDArray[np.float32]:
        if not isinstance(X, pd.DataFrame):
            dtype = None if self._names_categories() else np.float32
            X = check_array(X, dtype=dtype, ensure_all_finite=False, estimator=self, input_name="X")
        elif X.shape[1] == 0:
            raise ValueError(f"Found array with 0 feature(s) (shape={X.shape}) in X.")
        # With skip_check_array it only sets or compares names and number of columns.
        validate_data(self, X, reset=reset, skip_check_array=True)
        if reset:
            named = self.categorical_features
            named = [] if named is None else [named] if isinstance(named, str | int) else named
            self._categorical = sorted(self._position(c, "categorical_features") for c in named)
        if not self._categorical:
            encoded = self._numbers(X)
        else:
            encoded = self._numbers_and_codes(X, reset=reset)
        self._check_finite(encoded)
        return encoded

    def _names_categories(self) -> bool:
        return self.categorical_features is not None

    def _numbers(self, X: Any) -> NDArray[np.float32]:
        """Return columns of numbers as float32; say which are not numbers."""
        try:
            numbers: NDArray[np.float32] = check_array(
                X, dtype=np.float32, ensure_all_finite=False, estimator=self, ensure_min_features=0
            )
        except (ValueError, TypeError) as error:
            text = [str(c) for c in _text_columns(X)]
            if not text:
                raise
            msg = (
                f"columns {text} of X do not hold numbers; name them in categorical_features, or "
                "leave them out."
            )
            raise ValueError(msg) from error
        return numbers

    def _numbers_and_codes(self, X: Any, *, reset: bool) -> NDArray[np.float32]:
        """Return all columns as float32, categorical ones as codes; -1 is a category unseen at fit."""
        frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(X)
        is_number = ~np.isin(np.arange(frame.shape[1]), self._categorical)
        encoded = np.empty(frame.shape, dtype=np.float32)
        if is_number.any():
            encoded[:, is_number] = self._numbers(frame.loc[:, is_number])
        if reset:
            self.categories_: dict[int, NDArray[Any]] = {}
        for j in self._categorical:
            column = frame.iloc[:, j]
            if column.isna().any():
                raise ValueError(f"Input X contains NaN in the categorical {self._label(j)}.")
            if reset:
                self.categories_[j] = np.sort(np.asarray(column.unique()))
            # An array of Python objects is compared value by value, whatever the column is stored as.
            index = pd.Index(self.categories_[j].astype(object))
            encoded[:, j] = index.get_indexer(pd.Index(np.asarray(column, dtype=object)))
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


def _text_columns(X: Any) -> list[Any]:
    """Return the columns of a frame that cannot be read as numbers."""
    if not isinstance(X, pd.DataFrame):
        return []
    return [
        c
        for c in X.columns
        if pd.to_numeric(X[c], errors="coerce").isna().sum() > X[c].isna().sum()
    ]
