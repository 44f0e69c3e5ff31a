"""Densely connected networks for rows of physics features."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data
from torch import nn

from skhep_nn._base import (
    BaseNetworkClassifier,
    BaseNetworkEstimator,
    BaseNetworkRegressor,
    Target,
)
from skhep_nn._docs import with_common_parameters
from skhep_nn.networks import CategoricalColumn, DenseNet, embedding_size
from skhep_nn.preprocessing import weighted_moments

__all__ = ["DenseNetClassifier", "DenseNetRegressor"]


class _TableEstimator(BaseNetworkEstimator, ABC):
    """What the estimators of tables share: columns of numbers, columns of categories, a `DenseNet`."""

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

    # -- network ----------------------------------------------------------------------------------

    def _embeddings(self) -> list[CategoricalColumn]:
        """Return the embedding of every categorical column."""
        sizes = self.embedding_sizes
        given: dict[int, Any] = {}
        if isinstance(sizes, Mapping):
            given = {self._position(c, "embedding_sizes"): s for c, s in sizes.items()}
        elif sizes != "auto":
            given = dict.fromkeys(self._categorical, sizes)
        columns = []
        for j in self._categorical:
            n = len(self.categories_[j])
            columns.append(CategoricalColumn(j, n, int(given.get(j, embedding_size(n)))))
        return columns

    def _network(self, n_outputs: int) -> tuple[type[nn.Module], dict[str, Any]]:
        params = {
            "n_features": self.n_features_in_,
            "n_outputs": n_outputs,
            "categorical": self._embeddings(),
        }
        for name in ("depth", "width", "growth_rate", "dense", "activation", "dropout"):
            params[name] = getattr(self, name)
        return DenseNet, params

    def _input_state(self, X: NDArray[np.float32], weight: NDArray[np.float64]) -> dict[str, Any]:
        is_number = ~np.isin(np.arange(X.shape[1]), self._categorical)
        mean, scale = weighted_moments(X[:, is_number] if self._categorical else X, weight)
        return {
            "input_stage.mean": torch.as_tensor(mean, dtype=torch.float32),
            "input_stage.scale": torch.as_tensor(scale, dtype=torch.float32),
        }


def _text_columns(X: Any) -> list[Any]:
    """Return the columns of a frame that cannot be read as numbers."""
    if not isinstance(X, pd.DataFrame):
        return []
    return [
        c
        for c in X.columns
        if pd.to_numeric(X[c], errors="coerce").isna().sum() > X[c].isna().sum()
    ]


@with_common_parameters
class DenseNetClassifier(_TableEstimator, BaseNetworkClassifier):
    """Ensemble of densely connected networks that classifies rows of physics features.

    Holds the recipe of the HiggsML study (arXiv:2002.01427). With ``n_members=10``,
    ``augmentation=EventAugmenter()``, ``categorical_features=["PRI_jet_num"]``, an embedding of 3,
    ``class_weight="balanced"`` and the other defaults it is the final solution of that study.

    Parameters
    ----------
    %(common)s
    depth : int, default=6
        Number of hidden layers.
    width : int or "auto", default="auto"
        Neurons of the first hidden layer; "auto" is the number of inputs, embeddings included.
    growth_rate : float, default=0.0
        Layer d, from zero, has ``width * (1 + d * growth_rate)`` neurons.
    dense : bool, default=True
        Whether each layer sees the outputs of all layers before it.
    activation : {"swish", "relu", "selu", "prelu"}, default="swish"
        Activation of the hidden layers, each with the initialisation that suits it.
    dropout : float, default=0.0
        Dropout rate after every hidden activation.
    categorical_features : sequence of str or int, default=None
        Columns with categories (any integers or strings), by name or number: each gets an embedding.
        A category that was not seen at fit gets a slot of its own.
    embedding_sizes : "auto", int or dict, default="auto"
        Length of the embeddings, for all or by column; "auto" is ``min(50, (n + 1) // 2)``.
    stratify_by : str or int, default=None
        Column that refines the strata of the folds: the study stratifies by class within the number
        of jets.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    ensemble_ : Ensemble
        The fitted members, as numpy arrays, and their weights.
    history_ : DataFrame
        A row for every member and pass: member, epoch, train_loss, valid_loss, lr, momentum, seconds.
    categories_ : dict of int to ndarray
        Categories of the categorical columns, by column number; only if there are any.
    net_ : MemberNet
        The skorch net after training; not kept by pickle.
    n_features_in_ : int
        Number of columns seen at fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X had any.

    See Also
    --------
    DenseNetRegressor : The same for continuous targets.
    AugmentedClassifier : Augmentation around any other classifier.

    References
    ----------
    arXiv:2002.01427 (the study), arXiv:1608.06993 (dense connections), arXiv:1604.06737 (entity
    embeddings), arXiv:1710.05941 (swish), arXiv:1803.09820 (1cycle).

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skhep_nn import CartesianMomenta, DenseNetClassifier, EventAugmenter, make_higgs_events
    >>> events = make_higgs_events(2000, random_state=0)
    >>> model = make_pipeline(
    ...     CartesianMomenta(),
    ...     DenseNetClassifier(
    ...         n_members=2,
    ...         augmentation=EventAugmenter(),
    ...         categorical_features=["PRI_jet_num"],
    ...         class_weight="balanced",
    ...         max_epochs=3,
    ...         random_state=0,
    ...     ),
    ... )
    >>> weights = {"densenetclassifier__sample_weight": events.sample_weight}
    >>> model.fit(events.data, events.target, **weights).predict_proba(events.data).shape
    (2000, 2)
    """

    def __init__(
        self,
        *,
        n_members: int = 1,
        augmentation: Any = None,
        tta: bool = True,
        schedule: Any = None,
        optimizer: Any = "adam",
        weight_decay: float = 0.0,
        batch_size: int = 256,
        max_epochs: int | None = None,
        validation_fraction: float = 0.1,
        early_stopping: bool | int = False,
        class_weight: Any = None,
        device: str = "auto",
        precision: str = "auto",
        compile: bool | Literal["auto"] = "auto",  # noqa: A002
        callbacks: list[Any] | None = None,
        random_state: Any = None,
        verbose: int = 0,
        depth: int = 6,
        width: int | Literal["auto"] = "auto",
        growth_rate: float = 0.0,
        dense: bool = True,
        activation: str = "swish",
        dropout: float = 0.0,
        categorical_features: Sequence[str | int] | None = None,
        embedding_sizes: int | Literal["auto"] | Mapping[str | int, int] = "auto",
        stratify_by: str | int | None = None,
    ) -> None:
        self.n_members = n_members
        self.augmentation = augmentation
        self.tta = tta
        self.schedule = schedule
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.class_weight = class_weight
        self.device = device
        self.precision = precision
        self.compile = compile
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose
        self.depth = depth
        self.width = width
        self.growth_rate = growth_rate
        self.dense = dense
        self.activation = activation
        self.dropout = dropout
        self.categorical_features = categorical_features
        self.embedding_sizes = embedding_sizes
        self.stratify_by = stratify_by


@with_common_parameters
class DenseNetRegressor(_TableEstimator, BaseNetworkRegressor):
    """Ensemble of densely connected networks that predicts one or many targets from rows of features.

    Parameters
    ----------
    %(common)s
    depth : int, default=6
        Number of hidden layers.
    width : int or "auto", default="auto"
        Neurons of the first hidden layer; "auto" is the number of inputs, embeddings included.
    growth_rate : float, default=0.0
        Layer d, from zero, has ``width * (1 + d * growth_rate)`` neurons.
    dense : bool, default=True
        Whether each layer sees the outputs of all layers before it.
    activation : {"swish", "relu", "selu", "prelu"}, default="swish"
        Activation of the hidden layers, each with the initialisation that suits it.
    dropout : float, default=0.0
        Dropout rate after every hidden activation.
    categorical_features : sequence of str or int, default=None
        Columns with categories (any integers or strings), by name or number: each gets an embedding.
    embedding_sizes : "auto", int or dict, default="auto"
        Length of the embeddings, for all or by column; "auto" is ``min(50, (n + 1) // 2)``.
    stratify_by : str or int, default=None
        Column whose values the folds share out evenly.
    loss : {"squared_error", "absolute_error", "huber"}, default="squared_error"
        Loss on the scaled targets.

    Attributes
    ----------
    ensemble_ : Ensemble
        The fitted members, as numpy arrays, and their weights.
    history_ : DataFrame
        A row for every member and pass: member, epoch, train_loss, valid_loss, lr, momentum, seconds.
    net_ : MemberNet
        The skorch net after training; not kept by pickle.
    n_features_in_ : int
        Number of columns seen at fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X had any.

    See Also
    --------
    DenseNetClassifier : The same for classes.

    References
    ----------
    arXiv:2002.01427, section 3.9.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn import DenseNetRegressor
    >>> X = np.random.default_rng(0).normal(size=(500, 3))
    >>> y = X[:, 0] + 0.1 * X[:, 1] ** 2
    >>> model = DenseNetRegressor(max_epochs=50, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.9)
    True
    """

    def __init__(
        self,
        *,
        n_members: int = 1,
        augmentation: Any = None,
        tta: bool = True,
        schedule: Any = None,
        optimizer: Any = "adam",
        weight_decay: float = 0.0,
        batch_size: int = 256,
        max_epochs: int | None = None,
        validation_fraction: float = 0.1,
        early_stopping: bool | int = False,
        device: str = "auto",
        precision: str = "auto",
        compile: bool | Literal["auto"] = "auto",  # noqa: A002
        callbacks: list[Any] | None = None,
        random_state: Any = None,
        verbose: int = 0,
        depth: int = 6,
        width: int | Literal["auto"] = "auto",
        growth_rate: float = 0.0,
        dense: bool = True,
        activation: str = "swish",
        dropout: float = 0.0,
        categorical_features: Sequence[str | int] | None = None,
        embedding_sizes: int | Literal["auto"] | Mapping[str | int, int] = "auto",
        stratify_by: str | int | None = None,
        loss: str = "squared_error",
    ) -> None:
        self.n_members = n_members
        self.augmentation = augmentation
        self.tta = tta
        self.schedule = schedule
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.device = device
        self.precision = precision
        self.compile = compile
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose
        self.depth = depth
        self.width = width
        self.growth_rate = growth_rate
        self.dense = dense
        self.activation = activation
        self.dropout = dropout
        self.categorical_features = categorical_features
        self.embedding_sizes = embedding_sizes
        self.stratify_by = stratify_by
        self.loss = loss
