"""Augmentation at training and at prediction, around any scikit-learn estimator."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_expit
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, RegressorMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.metadata_routing import UNUSED, MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    has_fit_parameter,
    validate_data,
)

from skhep_nn.augmentation.events import EventAugmenter
from skhep_nn.estimators.parameters import check_augmenter_of, check_rows_of
from skhep_nn.inputs.events import as_pandas, refuse_without_names
from skhep_nn.utils.checks import is_count
from skhep_nn.utils.log_probabilities import class_scores, log_mean, log_proba
from skhep_nn.utils.public import public
from skhep_nn.utils.sklearn_private import check_sample_weight

__all__ = ["AugmentedClassifier", "AugmentedRegressor", "inner_split", "warn_of_copies"]


# Largest probability of a class below which float32 probabilities have digits enough for their logarithms.
_SURE = 0.999


def _estimator_has(method: str) -> Callable[[Any], bool]:
    """Return a check whether the wrapped estimator, fitted or not, has a method."""
    return lambda self: bool(getattr(getattr(self, "estimator_", self.estimator), method))


def _estimator_has_scores(classifier: Any) -> bool:
    """Return whether the wrapped estimator, fitted or not, has probabilities or a decision function."""
    inner = getattr(classifier, "estimator_", classifier.estimator)
    return hasattr(inner, "predict_proba") or bool(inner.decision_function)


def _rows(data: Any, rows: NDArray[np.intp]) -> Any:
    """Return rows of an array, a DataFrame or a Series."""
    return data.iloc[rows] if isinstance(data, pd.DataFrame | pd.Series) else np.asarray(data)[rows]


def _has_rows(value: Any, n_rows: int) -> bool:
    """Return whether an argument of `fit` holds one value per row."""
    return not isinstance(value, str | dict) and hasattr(value, "__len__") and len(value) == n_rows


class _Augmented(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the classifier and the regressor: fits augmented copies, averages over views."""

    # Only the request of the wrapped estimator decides whether it gets weights.
    __metadata_request__fit = {"sample_weight": UNUSED}  # noqa: RUF012 - scikit-learn's protocol

    def __init__(
        self,
        estimator: Any,
        *,
        augmenter: Any = None,
        n_copies: int = 4,
        include_original: bool = True,
        tta: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.augmenter = augmenter
        self.n_copies = n_copies
        self.include_original = include_original
        self.tta = tta
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any) -> Self:
        """Fit the estimator to augmented copies of the rows.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Training data in a form that the augmenter accepts.
        y : array of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array of shape (n_samples,), default=None
            Weights of the rows, divided evenly among the copies of a row. Negative weights are
            passed on unchecked; the estimator may refuse them.
        **fit_params : dict
            Further arguments of the estimator's `fit`; an argument with one value per row is
            repeated with the rows. With metadata routing enabled, the estimator has to request them.

        Returns
        -------
        self
        """
        y = self._read_y(y)
        X = self._read(X, reset=True)
        check_consistent_length(X, y)
        n_rows, n_parts = len(y), self._n_parts()
        augmenter = self._new_augmenter()
        check_augmenter_of(self.estimator, "augmenter", augmenter)
        check_rows_of(augmenter, X)
        if self.n_copies:
            warn_of_copies(type(self).__name__, self.estimator, n_rows * n_parts)
        params = self._params(X, sample_weight, fit_params, n_parts)
        if self.augmenter is not None and not hasattr(self, "feature_names_in_"):
            refuse_without_names(self.augmenter, type(self).__name__)
        self.augmenter_ = augmenter.fit(X)
        rows = np.tile(np.arange(n_rows), n_parts)
        self.estimator_ = clone(self.estimator).fit(
            self._augmented(X, n_rows),
            y[rows],
            **{k: _rows(v, rows) if _has_rows(v, n_rows) else v for k, v in params.items()},
        )
        return self

    def _n_parts(self) -> int:
        """Return how many rows are trained on for each given row."""
        given: Any = self.n_copies
        if not is_count(given, 0):
            raise ValueError(f"n_copies must be an integer of at least 0, got {given!r}.")
        if not given and not self.include_original:
            raise ValueError("Nothing to train on: with n_copies=0, include_original must be True.")
        return int(given) + bool(self.include_original)

    def _augmented(self, X: Any, n_rows: int) -> Any:
        """Return the training data: the original rows, if they are included, then the copies."""
        if not self.n_copies:
            return X
        repeated = _rows(X, np.tile(np.arange(n_rows), self.n_copies))
        parts = [X] * bool(self.include_original) + [self.augmenter_.transform(repeated)]
        if all(isinstance(part, pd.DataFrame) for part in parts):
            return pd.concat(parts, ignore_index=True)
        return np.concatenate([np.asarray(part) for part in parts])

    def _new_augmenter(self) -> Any:
        """Return an unfitted augmenter, with seeds drawn from `random_state` if that is given."""
        augmenter = (
            EventAugmenter() if self.augmenter is None else clone(self.augmenter, safe=False)
        )
        if self.random_state is not None and hasattr(augmenter, "get_params"):
            rng = check_random_state(self.random_state)
            names = [
                n for n in sorted(augmenter.get_params()) if n.split("__")[-1] == "random_state"
            ]
            augmenter.set_params(**{name: rng.randint(np.iinfo(np.int32).max) for name in names})
        return augmenter

    def _params(
        self, X: Any, sample_weight: Any, fit_params: dict[str, Any], n_parts: int
    ) -> dict[str, Any]:
        """Return the arguments of the estimator's `fit` for the rows before augmentation."""
        takes_weights = has_fit_parameter(self.estimator, "sample_weight")
        if sample_weight is not None:
            sample_weight = check_sample_weight(sample_weight, X) / n_parts
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", sample_weight=sample_weight, **fit_params)
            params = dict(routed.estimator.fit)
        else:
            params = dict(fit_params)
            if sample_weight is not None:
                if not takes_weights:
                    raise ValueError(
                        f"{type(self.estimator).__name__}.fit takes no sample_weight. Leave the "
                        "weights out, choose an estimator that takes them, or, for a Pipeline, put "
                        f"the {type(self).__name__} inside it or enable metadata routing."
                    )
                params["sample_weight"] = sample_weight
        if takes_weights and sample_weight is None and n_parts > 1:
            # The balance between data and the penalty of a regularised estimator must not change.
            params["sample_weight"] = np.full(len(X), 1 / n_parts)
        return params

    def _read(self, X: Any, *, reset: bool = False) -> Any:
        """Check names and number of the columns; the augmenter checks their values."""
        X = as_pandas(X)
        if isinstance(X, pd.DataFrame):
            return validate_data(self, X, reset=reset, skip_check_array=True)
        return validate_data(
            self, X, reset=reset, dtype=None, allow_nd=True, ensure_all_finite=False
        )

    def _read_y(self, y: Any) -> NDArray[Any]:
        """Return the checked targets."""
        several = bool(get_tags(self).target_tags.multi_output)
        return np.asarray(validate_data(self, y=y, multi_output=several))

    def _of_views(self, method: str, X: Any) -> list[NDArray[Any]]:
        """Return a method's results for each view of the data."""
        check_is_fitted(self)
        X = self._read(X)
        function = getattr(self.estimator_, method)
        views = self.augmenter_.views(X) if self.tta else [X]
        return [np.asarray(function(view)) for view in views]

    def _mean_over_views(self, method: str, X: Any) -> NDArray[Any]:
        """Return the mean of a method's results over the views of the data."""
        mean: NDArray[Any] = np.mean(self._of_views(method, X), axis=0)
        return mean

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the metadata routing: metadata of `fit` go to the estimator.

        Returns
        -------
        MetadataRouter
        """
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(
                estimator=self.estimator,
                method_mapping=MethodMapping().add(caller="fit", callee="fit"),
            )
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        for name in ("allow_nan", "categorical", "string", "positive_only"):
            setattr(tags.input_tags, name, getattr(inner.input_tags, name))
        tags.non_deterministic = inner.non_deterministic
        return tags


@public("skhep_nn")
class AugmentedClassifier(ClassifierMixin, _Augmented):  # type: ignore[misc]
    """Augmentation at training and at prediction around any classifier.

    Fits the classifier to augmented copies of the rows, and predicts the mean over a fixed set of
    views of each row (test-time augmentation, section 3.4.3 of arXiv:2002.01427). The mean is over
    the results of `predict_proba`, else of `decision_function`, else over votes.

    Parameters
    ----------
    estimator : classifier
        Cloned before it is fitted. Its `random_state` is not changed.
    augmenter : augmenter, default=None
        Object with `fit`, `transform` (one random copy of every row) and `views` (iterator over
        fixed versions of all rows). None: `EventAugmenter()`.
    n_copies : int, default=4
        Number of augmented copies of every row in training. With 0, only predictions use the
        augmenter.
    include_original : bool, default=True
        Whether to train on the original rows, too.
    tta : bool, default=True
        Whether to predict the mean over the augmenter's views; else predict the original rows once.
    random_state : int, RandomState instance or None, default=None
        Source of the seed of the augmenter. None: the augmenter keeps its seed.

    Attributes
    ----------
    estimator_, augmenter_ : classifier, augmenter
        Fitted clones.
    classes_ : ndarray of shape (n_classes,)
        Labels.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Number of the columns seen in `fit`, and their names where X had any.

    Notes
    -----
    The wrapped estimator does not see which rows are copies of the same event. If it sets some rows aside (for
    early stopping, a search or calibration), copies of these rows remain in training, and the validation score is
    too good. Wrap this class in such an estimator instead. `fit` warns where it finds this.

    If the estimator takes weights, all weights are divided by the number of copies, also the weights of 1 that
    ``sample_weight=None`` stands for. The sum of weights, and so the strength of a penalty, is the same as
    without augmentation.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from sklearn.ensemble import HistGradientBoostingClassifier
    >>> from skhep_nn import AugmentedClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = pd.DataFrame(rng.normal(size=(500, 4)), columns=["e_px", "e_py", "nu_px", "nu_py"])
    >>> y = (X.e_px * X.nu_px + X.e_py * X.nu_py > 0).astype(int)
    >>> model = AugmentedClassifier(HistGradientBoostingClassifier(), random_state=0)
    >>> model.fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.9
    True
    """

    def _read_y(self, y: Any) -> NDArray[Any]:
        labels: NDArray[Any] = super()._read_y(y)
        check_classification_targets(labels)
        return labels

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels seen in `fit`."""
        return np.asarray(self.estimator_.classes_)

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Data with the columns seen in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels, of the type of `classes_`.
        """
        check_is_fitted(self)
        if not self.tta:
            return np.asarray(self.estimator_.predict(self._read(X)))
        if hasattr(self.estimator_, "predict_proba"):
            scores = self._mean_over_views("predict_proba", X)
        elif hasattr(self.estimator_, "decision_function"):
            scores = self._mean_over_views("decision_function", X)
        else:
            scores = self._votes(X)
        best = scores > 0 if scores.ndim == 1 else scores.argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best.astype(np.intp)]
        return labels

    def _votes(self, X: Any) -> NDArray[Any]:
        """Return for each label the number of views in which it is predicted."""
        views = self.augmenter_.views(self._read(X))
        votes = [self.estimator_.predict(view)[:, None] == self.classes_ for view in views]
        return np.asarray(np.sum(votes, axis=0))

    @available_if(_estimator_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Return the probability of every class, averaged over views.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Data with the columns seen in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`.
        """
        return self._mean_over_views("predict_proba", X)

    def _log_probabilities(self, X: Any) -> NDArray[np.float64]:
        """Return the logarithm of the mean probability over views.

        The logarithm of the mean keeps ties and labels of `predict_proba` exactly. Where probabilities are close
        to 1, the decision function of the estimator has more digits.
        """
        X = as_pandas(X)
        mean = self._mean_over_views("predict_proba", X)
        # A probability of 0 is no error; many estimators compute its logarithm themselves.
        with np.errstate(divide="ignore"):
            logs: NDArray[np.float64] = np.log(mean.astype(np.float64, copy=False))
            sure = np.flatnonzero(mean.max(axis=1) > _SURE)
        if len(sure) and mean.shape[1] == 2 and hasattr(self.estimator_, "decision_function"):
            logits = self._of_views("decision_function", _rows(X, sure))
            of_views = [np.column_stack([log_expit(-own), log_expit(own)]) for own in logits]
            exact = log_mean(of_views, np.full(len(of_views), 1 / len(of_views)))
            # Not every decision function is the logit of the probability.
            if np.allclose(np.exp(exact), mean[sure], rtol=0, atol=1e-6):
                logs[sure] = exact
        return logs

    @available_if(_estimator_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Return the logarithm of the probability of every class, averaged over views before the logarithm.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Data with the columns seen in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; minus infinity where `predict_proba` is exactly 0.
        """
        check_is_fitted(self)
        return log_proba(self._log_probabilities(X), self.predict_proba(X))

    @available_if(_estimator_has_scores)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> NDArray[Any]:
        """Return scores that order events and agree with `predict`.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Data with the columns seen in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            If the estimator has probabilities, the logit of the mean probability over views: for two
            classes that of the second, for more the logarithms of their probabilities. Without
            probabilities the mean of the estimator's `decision_function`, in its shape; with `tta=False`
            what the estimator returns.
        """
        check_is_fitted(self)
        own = hasattr(self.estimator_, "decision_function")
        if own and not (self.tta and hasattr(self.estimator_, "predict_proba")):
            return self._mean_over_views("decision_function", X)
        return class_scores(self._log_probabilities(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        if inner.classifier_tags is not None:
            tags.classifier_tags = inner.classifier_tags
            tags.classifier_tags.multi_label = False
        return tags


@public("skhep_nn")
class AugmentedRegressor(RegressorMixin, _Augmented):  # type: ignore[misc]
    """Augmentation at training and at prediction around any regressor.

    Fits the regressor to augmented copies of the rows, and predicts the mean over a fixed set of
    views of each row (test-time augmentation). Augmentation must not change the target: a mass or
    an energy is suitable, a component of a momentum is not.

    Parameters
    ----------
    estimator : regressor
        Cloned before it is fitted. Its `random_state` is not changed.
    augmenter, n_copies, include_original, tta, random_state
        As in `AugmentedClassifier`.

    Attributes
    ----------
    estimator_, augmenter_ : regressor, augmenter
        Fitted clones.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Number of the columns seen in `fit`, and their names where X had any.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from sklearn.ensemble import HistGradientBoostingRegressor
    >>> from skhep_nn import AugmentedRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = pd.DataFrame(rng.normal(size=(500, 3)), columns=["e_px", "e_py", "e_pz"])
    >>> y = np.sqrt((X**2).sum(axis=1))
    >>> model = AugmentedRegressor(HistGradientBoostingRegressor(), random_state=0)
    >>> model.fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.9
    True
    """

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict targets, averaged over views.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Data with the columns seen in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        """
        return self._mean_over_views("predict", X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.target_tags.multi_output = inner.target_tags.multi_output
        if inner.regressor_tags is not None:
            tags.regressor_tags = inner.regressor_tags
        return tags


# Number of rows above which early_stopping="auto" of histogram-based gradient boosting means True.
_STOPS_EARLY_ABOVE = 10_000


def inner_split(estimator: Any, n_rows: int) -> str | None:
    """Return the parameter that makes an estimator validate on a part of its training rows, else None.

    Parameters
    ----------
    estimator : estimator
        Estimator of any library that follows scikit-learn. For a Pipeline, the last step is examined.
    n_rows : int
        Number of training rows.
    """
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    params = last.get_params(deep=False) if hasattr(last, "get_params") else {}
    stopping = params.get("early_stopping")
    if n_rows > _STOPS_EARLY_ABOVE if stopping == "auto" else stopping:
        return "early_stopping"
    if "cv" in params and params["cv"] != "prefit":
        return "cv"
    if params.get("oob_score"):
        return "oob_score"
    if params.get("n_members", 1) > 1:
        return "n_members"
    # Gradient boosting without histograms has no early_stopping; n_iter_no_change turns it on.
    stops = "validation_fraction" in params and "early_stopping" not in params
    return "n_iter_no_change" if stops and params.get("n_iter_no_change") is not None else None


def warn_of_copies(wrapper: str, estimator: Any, n_rows: int) -> None:
    """Warn the caller of a wrapper's `fit` if copies of one event end up in training and in validation."""
    name = inner_split(estimator, n_rows)
    if name is not None:
        warnings.warn(
            f"{type(estimator).__name__} sets aside some of the rows that it is fitted to ({name}), and copies of one "
            f"event are on both sides: its validation score is too good. Put {wrapper} inside it, or turn {name} off; a "
            "network of this package takes augmentation= itself.",
            stacklevel=3,
        )
