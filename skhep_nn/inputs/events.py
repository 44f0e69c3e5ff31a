"""Base class of transformers that find momenta by the names of columns."""

from __future__ import annotations

import abc
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from skhep_nn.inputs.transformers import Names
from skhep_nn.utils.sklearn_private import check_feature_names_in

__all__ = ["EventTransformer", "as_pandas", "refuse_without_names"]

_READ_AS: dict[str, Any] = {"dtype": [np.float64, np.float32], "ensure_all_finite": "allow-nan"}


def as_pandas(X: Any) -> Any:
    """Convert tables of other libraries, such as polars, to pandas; return anything else unchanged."""
    other = hasattr(X, "to_pandas") and hasattr(X, "columns")
    return X.to_pandas() if other else X


class EventTransformer(TransformerMixin, BaseEstimator, abc.ABC):  # type: ignore[misc]
    """Transformer of events, as DataFrames or arrays.

    A subclass has the parameters `columns` and `objects`, `_prepare`, which finds the momenta, and `_problems`.
    """

    columns: Sequence[str] | None
    # Models stored before this parameter existed do not have it.
    objects: Mapping[str, Any] | None = None

    @abc.abstractmethod
    def _prepare(self, names: list[str]) -> None:
        """Check the parameters, find the momenta, and set the attributes that `transform` needs."""

    @abc.abstractmethod
    def _problems(self, names: list[str], values: NDArray[Any]) -> list[str]:
        """Return what looks wrong in the columns and values seen in `fit`, as texts of warnings."""

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002 - scikit-learn's signature
        """Find the momenta among the columns.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Events. Momenta are found by the names of the columns, which for an array are `columns`.
        y : ignored
            Not used, present by convention.

        Returns
        -------
        self
        """
        _, values = self.read(X, reset=True)
        names = self._names()
        self._prepare(names)
        for problem in self._problems(names, values):
            warnings.warn(f"{type(self).__name__} {problem}", stacklevel=2)
        return self

    def read(self, X: Any, *, reset: bool = False) -> tuple[pd.DataFrame | None, NDArray[Any]]:
        """Validate events; return them as a DataFrame (None for an array) and as an array of numbers."""
        if not reset:
            check_is_fitted(self)
        X = as_pandas(X)
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X, self._numbers(X)
        return None, validate_data(self, X, reset=reset, **_READ_AS)

    def read_output(self, X: Any) -> tuple[pd.DataFrame | None, NDArray[Any]]:
        """Validate the output of `transform` in the same way."""
        names = list(self.get_feature_names_out())
        table = X if isinstance(X, pd.DataFrame) else None
        values = check_array(X, input_name="X", **_READ_AS) if table is None else self._numbers(X)
        if values.shape[1] != len(names):
            raise ValueError(
                f"X has {values.shape[1]} features, but {type(self).__name__}.transform gives "
                f"{len(names)} features."
            )
        if table is not None and self._names() and list(table.columns) != names:
            raise ValueError(
                f"The columns of X should be the columns that transform gives, {names}; got "
                f"{list(table.columns)}."
            )
        return table, values

    def _numbers(self, table: pd.DataFrame) -> NDArray[Any]:
        """Return all columns as numbers, pandas categories as zeros."""
        labels = [isinstance(dtype, pd.CategoricalDtype) for dtype in table.dtypes]
        numbers = table.copy(deep=False)
        for i in np.flatnonzero(labels).tolist():
            numbers.isetitem(i, 0.0)
        bad = [
            f"{name!r} ({dtype})"
            for name, dtype in numbers.dtypes.items()
            if not pd.api.types.is_numeric_dtype(dtype)
        ]
        if bad:
            raise ValueError(
                f"{type(self).__name__} needs numeric columns, got {', '.join(bad)}. Drop or "
                "convert them; columns of labels pass through as pandas categories."
            )
        values: NDArray[Any] = check_array(numbers, input_name="X", estimator=self, **_READ_AS)
        return values

    def _names(self) -> list[str]:
        """Return the names of the columns seen in `fit`; an empty list if they have no names."""
        found = getattr(self, "feature_names_in_", None)
        if self.columns is None:
            names = [] if found is None else list(found)
        else:
            names = list(self.columns)
            if len(names) != self.n_features_in_:
                raise ValueError(
                    f"columns has {len(names)} names, but X has {self.n_features_in_} columns."
                )
            if found is not None and names != list(found):
                raise ValueError(
                    f"columns differs from the names that X has itself: {names} against "
                    f"{list(found)}. Leave columns at None for a DataFrame."
                )
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ValueError(f"Column names must be unique, these repeat: {repeated}.")
        return names

    def get_feature_names_out(self, input_features: Any = None) -> Names:
        """Return the names of the columns that `transform` returns.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns of X, if the X given to `fit` had no names.

        Returns
        -------
        ndarray of str
        """
        return self._names_out(self._names_in(input_features))

    def _names_in(self, input_features: Any = None) -> Names:
        """Check `input_features` as scikit-learn does; `columns` names the columns of an array."""
        check_is_fitted(self)
        if input_features is None and self.columns is not None:
            return np.asarray(list(self.columns), dtype=object)
        names: Names = check_feature_names_in(self, input_features)
        return names

    def _names_out(self, names_in: Names) -> Names:
        """Return the output names for given input names."""
        return names_in

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def refuse_without_names(augmenter: Any, owner: str) -> None:
    """Raise ValueError if an augmenter of events cannot know the momenta of an array without column names.

    Parameters
    ----------
    augmenter : augmenter
        Augmenter of any kind, before it is fitted.
    owner : str
        Name of the estimator that got the array, for the message.
    """
    is_unnamed = isinstance(augmenter, EventTransformer) and augmenter.columns is None
    if is_unnamed and augmenter.objects is None:
        name = type(augmenter).__name__
        raise ValueError(
            f"{owner} got X without column names, by which {name} finds the momenta, so that nothing would be "
            "augmented. An earlier step or a meta-estimator may have turned a DataFrame into an array: use "
            f'set_output(transform="pandas"), or name the columns by {name}(columns=[...]).'
        )
