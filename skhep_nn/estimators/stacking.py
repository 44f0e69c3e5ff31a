"""A second regressor on the predictions of a first one, for targets that take only a few values."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin, clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold, check_cv
from sklearn.utils import Bunch, get_tags, indexable
from sklearn.utils.metadata_routing import UNUSED, MetadataRouter, MethodMapping, process_routing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    has_fit_parameter,
    validate_data,
)

from skhep_nn.utils.public import public
from skhep_nn.utils.random import seed_of
from skhep_nn.utils.sklearn_private import (
    check_method_params,
    check_sample_weight,
    num_samples,
    safe_indexing,
)

__all__ = ["StackedPostRegressor"]

Array = NDArray[np.float64]


def _total(X: Any) -> Array:
    """Return the sum of all values of each row or image."""
    if hasattr(X, "tocsr"):
        return np.asarray(X.sum(axis=1), dtype=np.float64).ravel()
    values = np.asarray(X)
    total: Array = values.sum(axis=tuple(range(1, values.ndim)), dtype=np.float64)
    return total


def _numbered(name: str, n: int) -> list[str]:
    """Return the names of `n` columns: one name, or numbered names if there are several columns."""
    return [name] if n == 1 else [f"{name} {k}" for k in range(n)]


def _columns(values: Any, n_rows: int, source: str) -> Array:
    """Return one number or several numbers per row as an array of columns."""
    columns = np.asarray(values, dtype=np.float64)
    if columns.ndim not in (1, 2) or len(columns) != n_rows:
        msg = (
            f"{source} must return one or several numbers for each of {n_rows} rows, got an array "
            f"of shape {columns.shape}."
        )
        raise ValueError(msg)
    return columns.reshape(n_rows, -1)


def _fit_and_read(
    estimator: Any,
    data: tuple[Any, NDArray[Any], dict[str, Any]],
    split: tuple[NDArray[np.intp], NDArray[np.intp]],
    read: Callable[[Any, Any], Array],
) -> Array:
    """Fit a clone to the training rows of a split, and return its predictions for the test rows."""
    X, y, params = data
    train, test = split
    own = check_method_params(X, params, indices=train)
    return read(
        clone(estimator).fit(safe_indexing(X, train), y[train], **own), safe_indexing(X, test)
    )


@public("skhep_nn")
class StackedPostRegressor(MetaEstimatorMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Regressor on the predictions of another regressor and on simple sums of the input.

    The second regressor, by default a random forest, is fitted to out-of-fold predictions of the first:
    each row is predicted by a clone that was not fitted to it, so that these predictions are like the
    predictions of new data. The first regressor is then fitted to all rows.

    .. warning::
        A forest helps where the true targets take only a few values, as in calibration data with six known
        energies: the forest learns these values and moves every prediction to one of them. For energies that
        are not in the training data it still returns the known values, which is worse than no forest at all.
        Use it only to decide which of the known values a row has.

    Parameters
    ----------
    estimator : regressor
        First regressor, such as `CaloCNNRegressor`, or a Pipeline that ends in a regressor. Cloned before it
        is fitted, unless `cv` is "prefit".
    post_regressor : regressor, default=None
        Second regressor, which is cloned. None: ``RandomForestRegressor(criterion="absolute_error",
        max_depth=50)``.
    input_features : "sum", callable, transformer or None, default="sum"
        Features of the input for the post-regressor: the sum of all values of a row or image; the one or
        several numbers per row that a function of X or a transformer (cloned, and fitted to X and y)
        returns; or no features.
    feature_names : sequence of str, default=None
        Names of the columns of `input_features`, for `feature_importances_`. None: the columns of a DataFrame,
        the result of `get_feature_names_out`, or the (numbered) name of the function or transformer.
    aux_features : bool, default=False
        Whether the results of the estimator's `predict_aux_proba` (`CaloCNNRegressor`) are features of the
        post-regressor, too.
    cv : int, cross-validation generator, iterable or "prefit", default=5
        Folds of the out-of-fold predictions; a number of folds means shuffled folds. With "prefit",
        `estimator` is already fitted, and the post-regressor is fitted to its predictions for X, which must
        not be the rows that `estimator` was fitted to. (`clone`, and so a search, removes the fitted state,
        unless the estimator is wrapped in a `sklearn.frozen.FrozenEstimator`.)
    n_jobs : int, default=None
        Number of processes for the folds.
    random_state : int, RandomState instance or None, default=None
        Seed of the shuffled folds and of the default post-regressor. It does not seed `estimator` nor a given
        `post_regressor`.

    Attributes
    ----------
    estimator_ : regressor
        First regressor, fitted to all rows. Its `predict` returns the prediction without the
        post-regressor.
    post_regressor_ : regressor
        Second regressor, fitted to the predictions.
    input_features_ : transformer or None
        Fitted transformer, if `input_features` is a transformer.
    post_feature_names_ : ndarray of str
        Names of the features of the post-regressor, predictions first.
    feature_importances_ : Series
        Importances of the post-regressor's features by name, if it provides importances.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Attributes of `estimator_`.

    See Also
    --------
    sklearn.ensemble.StackingRegressor : Several estimators (D. H. Wolpert, Neural Networks 5 (1992) 241).

    Notes
    -----
    Without metadata routing, both regressors get `sample_weight`, and `estimator` gets every other argument of
    `fit`, such as `aux_target`. With metadata routing, each regressor gets the arguments that it requests.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from skhep_nn import StackedPostRegressor
    >>> rng = np.random.default_rng(0)
    >>> y = rng.choice([1.0, 3.0, 6.0], 300)
    >>> X = y[:, None] + rng.normal(scale=0.3, size=(300, 4))
    >>> model = StackedPostRegressor(LinearRegression(), random_state=0).fit(X[:200], y[:200])
    >>> with_forest = abs(model.predict(X[200:]) - y[200:]).mean()
    >>> bool(with_forest < abs(model.estimator_.predict(X[200:]) - y[200:]).mean() / 2)
    True
    >>> list(model.feature_importances_.index)
    ['prediction', 'sum']
    """

    # Only the requests of the two regressors decide whether they get weights.
    __metadata_request__fit = {"sample_weight": UNUSED}  # noqa: RUF012 - scikit-learn's protocol

    def __init__(
        self,
        estimator: Any,
        *,
        post_regressor: Any = None,
        input_features: Any = "sum",
        feature_names: Any = None,
        aux_features: bool = False,
        cv: Any = 5,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.post_regressor = post_regressor
        self.input_features = input_features
        self.feature_names = feature_names
        self.aux_features = aux_features
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any) -> Self:
        """Fit both regressors.

        Parameters
        ----------
        X : array, DataFrame or sparse matrix of shape (n_samples, ...)
            Inputs of the estimator: rows of features, images, ...
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        **fit_params : dict
            Further arguments of the estimator's `fit`; an argument with one value per row is split with
            the rows. Not used with ``cv="prefit"``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If targets, parameters, weights or folds are invalid.
        """
        self._check_params()
        self.input_features_: Any = None
        several = bool(get_tags(self).target_tags.multi_output)
        y = np.asarray(validate_data(self, y=y, multi_output=several))
        check_consistent_length(X, y)
        (X,) = indexable(X)
        prefit = isinstance(self.cv, str)
        rng = np.random.default_rng(seed_of(self.random_state))
        folds, forest = rng.integers(2**31, size=2).tolist()
        post = clone(self._post_prototype(forest))
        to_fit = [post] if prefit else [self.estimator, post]
        params = self._params(X, sample_weight, fit_params, to_fit)
        if prefit:
            check_is_fitted(self.estimator)
            self.estimator_ = self.estimator
        else:
            self.estimator_ = clone(self.estimator).fit(X, y, **params.estimator)
        self._aux_classes = self._classes()
        if prefit:
            predicted = self._predicted(self.estimator_, X)
        else:
            predicted = self._out_of_fold(X, y, params.estimator, folds)
        inputs = self._inputs(X, y)
        columns = _columns(inputs, len(y), "input_features")
        names = self._names(inputs, columns.shape[1])
        names = self._predicted_names(predicted.shape[1]) + names
        self.post_feature_names_ = np.array(names, dtype=object)
        self.post_regressor_ = post.fit(np.hstack([predicted, columns]), y, **params.post_regressor)
        return self

    def _check_params(self) -> None:
        """Check parameters that would otherwise fail only after long fits."""
        if isinstance(self.cv, str) and self.cv != "prefit":
            raise ValueError(f"cv={self.cv!r} must be 'prefit', a number of folds or folds.")
        features = self.input_features
        usable = features is None or callable(features) or hasattr(features, "transform")
        if not usable and not (isinstance(features, str) and features == "sum"):
            kinds = "'sum', a function, a transformer or None"
            raise ValueError(f"input_features={features!r} must be {kinds}.")

    def _post_prototype(self, seed: int | None = None) -> Any:
        """Return the post-regressor to clone."""
        if self.post_regressor is not None:
            return self.post_regressor
        return RandomForestRegressor(criterion="absolute_error", max_depth=50, random_state=seed)

    def _params(
        self, X: Any, sample_weight: Any, fit_params: dict[str, Any], to_fit: list[Any]
    ) -> Bunch:
        """Return the arguments of `fit` for both regressors."""
        if sample_weight is not None:
            sample_weight = check_sample_weight(sample_weight, X)
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", sample_weight=sample_weight, **fit_params)
            return Bunch(**{name: dict(params.fit) for name, params in routed.items()})
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        for regressor in to_fit:
            if weights and not has_fit_parameter(regressor, "sample_weight"):
                name = type(regressor).__name__
                msg = f"{name}.fit takes no sample_weight: leave it out or enable metadata routing."
                raise ValueError(msg)
        return Bunch(estimator=weights | fit_params, post_regressor=weights)

    def _classes(self) -> NDArray[Any] | None:
        """Return the classes whose probabilities are features of the post-regressor, None without them."""
        if not self.aux_features:
            return None
        if not hasattr(self.estimator_, "predict_aux_proba"):
            name = type(self.estimator_).__name__
            msg = (
                f"aux_features=True, but {name} has no predict_aux_proba: was there no aux_target? A "
                "Pipeline has no predict_aux_proba: put its transformers before the StackedPostRegressor."
            )
            raise ValueError(msg)
        return np.asarray(self.estimator_.aux_classes_)

    def _predicted(self, estimator: Any, X: Any) -> Array:
        """Return the predictions of an estimator as columns."""
        n_rows = num_samples(X)
        predicted = _columns(estimator.predict(X), n_rows, "The estimator")
        if self._aux_classes is None:
            return predicted
        # A fold may lack a class. The first column is left out: it follows from the others.
        probability = np.zeros((n_rows, len(self._aux_classes)))
        places = np.searchsorted(self._aux_classes, estimator.aux_classes_)
        probability[:, places] = estimator.predict_aux_proba(X)
        return np.hstack([predicted, probability[:, 1:]])

    def _out_of_fold(self, X: Any, y: NDArray[Any], params: dict[str, Any], seed: int) -> Array:
        """Return the prediction of every row by a clone that was not fitted to it."""
        cv = self.cv
        if isinstance(cv, Integral):
            cv = KFold(int(cv), shuffle=True, random_state=seed)
        splits = list(check_cv(cv, y).split(X, y))
        order = np.concatenate([test for _, test in splits])
        if not np.array_equal(np.sort(order), np.arange(len(y))):
            msg = "The test folds of cv must hold every row once, as in KFold, unlike ShuffleSplit."
            raise ValueError(msg)
        parts = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit_and_read)(self.estimator, (X, y, params), split, self._predicted)
            for split in splits
        )
        predicted: Array = np.concatenate(parts)[np.argsort(order)]
        return predicted

    def _inputs(self, X: Any, y: NDArray[Any] | None = None) -> Any:
        """Return the features of the input for the post-regressor; with y, fit a transformer first."""
        features = self.input_features
        if features is None:
            return np.empty((num_samples(X), 0))
        if not hasattr(features, "transform"):
            return _total(X) if isinstance(features, str) else features(X)
        if y is not None:
            self.input_features_ = clone(features).fit(X, y)
        return self.input_features_.transform(X)

    def _predicted_names(self, n: int) -> list[str]:
        """Return the names of the columns that `_predicted` returns."""
        classes = [] if self._aux_classes is None else self._aux_classes[1:].tolist()
        probabilities = [f"probability of {label}" for label in classes]
        return _numbered("prediction", n - len(classes)) + probabilities

    def _names(self, inputs: Any, n: int) -> list[str]:
        """Return the names of the `n` columns of the input features."""
        names, features = self.feature_names, self.input_features
        if names is not None:
            if isinstance(names, str) or len(names) != n:
                raise ValueError(
                    f"feature_names={names!r} must be {n} names, one for each input feature."
                )
            return list(names)
        if isinstance(inputs, pd.DataFrame):
            return [str(column) for column in inputs.columns]
        if hasattr(self.input_features_, "get_feature_names_out"):
            return [str(name) for name in self.input_features_.get_feature_names_out()]
        name = getattr(features, "__name__", type(features).__name__.lower())
        return _numbered(features if isinstance(features, str) else name, n)

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict with the estimator, then with the post-regressor.

        Parameters
        ----------
        X : array, DataFrame or sparse matrix of shape (n_samples, ...)
            Inputs, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        """
        check_is_fitted(self, "post_regressor_")
        predicted = self._predicted(self.estimator_, X)
        inputs = _columns(self._inputs(X), len(predicted), "input_features")
        return np.asarray(self.post_regressor_.predict(np.hstack([predicted, inputs])))

    @property
    def feature_importances_(self) -> pd.Series:
        """Importances of the post-regressor's features by name."""
        check_is_fitted(self, "post_regressor_")
        values = self.post_regressor_.feature_importances_
        return pd.Series(values, self.post_feature_names_, name="importance")

    @property
    def n_features_in_(self) -> int:
        """Number of features seen by the estimator."""
        check_is_fitted(self, "post_regressor_")
        return int(self.estimator_.n_features_in_)

    @property
    def feature_names_in_(self) -> NDArray[np.object_]:
        """Names of features, if the estimator has seen any."""
        check_is_fitted(self, "post_regressor_")
        return np.asarray(self.estimator_.feature_names_in_)

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the metadata routing: metadata of `fit` go to the regressors that request them.

        Returns
        -------
        MetadataRouter
        """
        to_fit = MethodMapping().add(caller="fit", callee="fit")
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(estimator=self.estimator, method_mapping=to_fit)
            .add(post_regressor=self._post_prototype(), method_mapping=to_fit)
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner, post = get_tags(self.estimator), get_tags(self._post_prototype())
        several = inner.target_tags.multi_output and post.target_tags.multi_output
        for name in ("allow_nan", "categorical", "string", "positive_only", "sparse"):
            setattr(tags.input_tags, name, getattr(inner.input_tags, name))
        tags.non_deterministic = inner.non_deterministic or post.non_deterministic
        tags.target_tags.multi_output = several
        return tags
