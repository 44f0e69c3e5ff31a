"""Common parts of readers and transformers of images and traces."""

from __future__ import annotations

import abc
import math
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skhep_nn.utils.sklearn_private import check_feature_names_in

__all__ = ["GridReader", "GridTransformer", "Names", "grid_array"]

Names: TypeAlias = NDArray[np.object_]


class _Container(Protocol):
    """Validated data that remember their container."""

    @property
    def values(self) -> NDArray[Any]:
        """Array of all axes, channels last."""

    @property
    def labels(self) -> pd.Index | None:
        """Labels of the rows of a DataFrame, else None."""

    def restored(self, values: NDArray[Any], names: Names | None = None) -> Any:
        """Put values into the container of the input."""


def grid_array(X: Any, called: str, shapes: str) -> Any:
    """Return X, or an array of it, refusing what is no array of numbers with at least two axes.

    Parameters
    ----------
    X : object
        Input of the user.
    called : str
        Word for the rows in the message, such as "images".
    shapes : str
        Allowed shapes, for the message.
    """
    try:
        array = X if hasattr(X, "ndim") else np.asarray(X)
    except ValueError as error:
        raise ValueError(
            f"X must hold {called} of one shape: crop or pad them to one ({error})."
        ) from error
    if array.ndim == 1 and len(array) and array.dtype == object:
        raise ValueError(
            f"X must have the shape {shapes}, got {len(array)} objects, {_described(array, called)}."
        )
    dtype = getattr(array, "dtype", None)
    if array.ndim < 2 or (isinstance(dtype, np.dtype) and dtype.kind in "mMVUS"):
        got = f"{array.shape} of {dtype}" if array.ndim or hasattr(X, "ndim") else repr(X)
        # The words that scikit-learn asks for.
        remedy = " Reshape your data: X.reshape(1, -1) is one row." if array.ndim == 1 else ""
        raise ValueError(f"X must hold numbers in the shape {shapes}, got {got}.{remedy}")
    return array


def _described(objects: Any, called: str) -> str:
    """Describe the objects of an array, and the remedy, for an error message."""
    rows = list(objects)
    shapes = [np.shape(row) for row in rows]
    other = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is not None:
        return f"row {other} of shape {shapes[other]}, row 0 of {shapes[0]}: crop or pad them to one shape"
    if shapes[0]:
        return f"each of shape {shapes[0]}: np.stack(X) makes one array of {called}"
    return f"the first {rows[0]!r}"


def _has_columns(transformer: Any) -> bool:
    """Whether the data are rows of numbers, whose columns have names, rather than arrays of more axes."""
    return getattr(transformer, "_n_axes", 2) == 2


class GridReader(abc.ABC):
    """Reader of images or traces, as arrays of several axes or as rows of numbers.

    For estimators of scikit-learn. A subclass has `read` and `sample_shape`.
    """

    _n_axes: int
    n_features_in_: int

    @abc.abstractmethod
    def read(self, X: Any, *, reset: bool = False) -> Any:
        """Validate data; the result has `values` (channels last), `labels` and `restored`."""

    @property
    @abc.abstractmethod
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one image or trace, channels last."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample as `fit` got it."""
        n_axes = self._n_axes - 1
        return self.sample_shape[:n_axes] if n_axes > 1 else (self.n_features_in_,)

    def _set_array(self, shape: tuple[int, ...]) -> None:
        """Set the fitted attributes for samples of several axes, which have no columns with names."""
        self.n_features_in_ = math.prod(shape)
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_


class GridTransformer(GridReader, TransformerMixin, BaseEstimator, abc.ABC):  # type: ignore[misc]
    """Transformer of images or traces.

    A subclass has `read`, which validates, and `_prepare`, which checks the parameters and learns.
    """

    @abc.abstractmethod
    def _prepare(self, values: NDArray[Any]) -> None:
        """Check the parameters and learn from the values, channels last."""

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002 - scikit-learn's signature
        """Check the parameters and learn from the data.

        Parameters
        ----------
        X : array or DataFrame
            Images of shape (n_samples, H, W) or (n_samples, H, W, C), or traces of shape
            (n_samples, T, C), depending on the class; or rows of numbers: an array or DataFrame
            of shape (n_samples, n_pixels) or (n_samples, T).
        y : ignored
            Not used, present by convention.

        Returns
        -------
        self
        """
        self._prepare(self.read(X, reset=True).values)
        return self

    @available_if(_has_columns)  # type: ignore[untyped-decorator]
    def get_feature_names_out(self, input_features: Any = None) -> Names:
        """Return the names of the columns that `transform` returns, if X are rows of numbers.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns of X, if the X given to `fit` had no names.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        return self._names_out(check_feature_names_in(self, input_features))

    def _names_out(self, names_in: Names) -> Names:
        """Return the output names for given input names."""
        return names_in

    def _restored(self, data: _Container, values: NDArray[Any]) -> Any:
        """Return values in the container of the input, columns named as by `get_feature_names_out`."""
        names = None if data.labels is None else self.get_feature_names_out()
        return data.restored(values, names)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
