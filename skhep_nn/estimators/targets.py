"""Base classes of network classifiers and regressors: targets, class weights, predictions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_is_fitted

from skhep_nn.estimators.base import BaseNetworkEstimator
from skhep_nn.metrics.weights import class_balanced_weights
from skhep_nn.networks.losses import LOSSES
from skhep_nn.preprocessing.moments import weighted_moments
from skhep_nn.training.job import Target
from skhep_nn.utils.checks import is_number
from skhep_nn.utils.log_probabilities import class_scores, log_proba

__all__ = [
    "BaseNetworkClassifier",
    "BaseNetworkRegressor",
    "ProbabilityClassifier",
    "TargetScaling",
    "class_probabilities",
    "log_probabilities",
    "target_scaling",
]


class ProbabilityClassifier(ClassifierMixin):  # type: ignore[misc]
    """Labels, logits and logarithms of a classifier that computes logarithms of its probabilities."""

    classes_: Any

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of every class, shape (n_samples, n_classes)."""
        raise NotImplementedError

    def _log_probabilities(self, X: Any) -> NDArray[np.float64]:
        """Return the logarithm of the probability of every class, also where it rounds to 0 or 1."""
        raise NotImplementedError

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the logarithm of the probability of every class.

        It has more digits than the logarithm of `predict_proba`, except where that is exactly 0 or 1;
        `decision_function` orders events there, too.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; minus infinity where `predict_proba` is exactly 0.
        """
        return log_proba(self._log_probabilities(X), self.predict_proba(X))

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the logit of the probability, which orders events also where `predict_proba` is exactly 1.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes the logit of `predict_proba` for the second class, positive where that class is
            predicted. For more classes the logarithms of the probabilities.
        """
        return class_scores(self._log_probabilities(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels of `classes_`, with their dtype.
        """
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels


class BaseNetworkClassifier(ProbabilityClassifier, BaseNetworkEstimator):
    """Network estimator for two or more classes."""

    def _encode_y(self, y: Any, weight: NDArray[np.float64]) -> Target:
        del weight
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        n_classes = len(self.classes_)
        if n_classes < 2:
            msg = (
                f"{type(self).__name__} needs samples of at least two classes, but y holds one class "
                f"only: {self.classes_.tolist()[0]!r}."
            )
            raise ValueError(msg)
        if n_classes == 2:
            loss = LOSSES["binary_cross_entropy"]
            return Target(codes.astype(np.float32), codes, loss, "sigmoid", 1)
        return Target(codes, codes, LOSSES["cross_entropy"], "softmax", n_classes)

    def _balance(self, target: Target, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.class_weight is None:
            return weight
        codes = np.asarray(target.strata)
        if isinstance(self.class_weight, str):
            if self.class_weight != "balanced":
                msg = f"class_weight={self.class_weight!r} must be 'balanced', a dict or None."
                raise ValueError(msg)
            balanced: NDArray[np.float64] = class_balanced_weights(self.classes_[codes], weight)
            return balanced
        unknown = set(self.class_weight) - set(self.classes_.tolist())
        if unknown:
            msg = f"class_weight names {sorted(unknown)}, but the classes are {self.classes_}."
            raise ValueError(msg)
        if not all(is_number(w) and w >= 0 for w in self.class_weight.values()):
            raise ValueError(f"class_weight={self.class_weight} must be numbers of at least 0.")
        factors = np.array([self.class_weight.get(c, 1.0) for c in self.classes_.tolist()])
        factored: NDArray[np.float64] = weight * factors[codes]
        return factored

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of every class.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Inputs in physical units.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; the weighted mean over members, averaged over the test-time
            views if `augmentation` is set and `tta` is true.
        """
        return class_probabilities(self._predict_outputs(X))

    def _log_probabilities(self, X: Any) -> NDArray[np.float64]:
        """Return the logarithm of the mean probability of every class, computed from the logits of members."""
        check_is_fitted(self, "ensemble_")
        return self._predict_outputs(X, link=f"log_{self._link}").astype(np.float64, copy=False)


class BaseNetworkRegressor(RegressorMixin, BaseNetworkEstimator):  # type: ignore[misc]
    """Network estimator for one or many targets, scaled to mean 0 and standard deviation 1 for training."""

    def _encode_y(self, y: Any, weight: NDArray[np.float64]) -> Target:
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=self)
        self._one_target = y.ndim == 1
        values = y[:, None] if self._one_target else y
        self._target_mean, self._target_scale = weighted_moments(values, weight)
        scaled = ((values - self._target_mean) / self._target_scale).astype(np.float32)
        constant = self._learn_constants(values)
        scaled[:, constant] = 0
        return Target(scaled, None, LOSSES[self.loss], "identity", values.shape[1])

    def _learn_constants(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Let `predict` return constant targets exactly, by a scale of 0; return which targets are constant."""
        constant: NDArray[np.bool_] = values.min(axis=0) == values.max(axis=0)
        self._target_mean = np.where(constant, values[0], self._target_mean)
        self._target_scale = np.where(constant, 0, self._target_scale)
        return constant

    def _check_params(self) -> None:
        super()._check_params()
        known = ("squared_error", "absolute_error", "huber")
        if self.loss not in known:
            raise ValueError(f"loss={self.loss!r} is not known; choose one of {known}.")

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Predict the targets.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Inputs in physical units.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            In the units of `y`.
        """
        # Outputs of an auxiliary task follow the outputs of the targets.
        scaled = self._predict_outputs(X)[:, : len(self._target_mean)]
        out = scaled * self._target_scale + self._target_mean
        result: NDArray[np.float64] = out[:, 0] if self._one_target else out
        return result

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def class_probabilities(probability: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return probabilities with a column for every class; a single column is the second of two classes."""
    out = probability.astype(np.float64)
    if out.shape[1] == 1:
        return np.hstack([1 - out, out])
    # float32 probabilities sum to one only within 1e-7, for which scikit-learn's metrics warn.
    normalised: NDArray[np.float64] = out / out.sum(axis=1, keepdims=True)
    return normalised


def log_probabilities(classifier: BaseNetworkClassifier, X: Any) -> NDArray[np.float64]:
    """Return the logarithm of the mean probability of every class, also where `predict_proba` is exactly 0."""
    return classifier._log_probabilities(X)


class TargetScaling(NamedTuple):
    """How a regressor scales its targets: ``target = output * scale + mean``, one value for each target.

    The scale of a constant target is 0.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    one_target: bool


def target_scaling(regressor: BaseNetworkRegressor) -> TargetScaling:
    """Return the scaling of the targets of a fitted regressor."""
    return TargetScaling(regressor._target_mean, regressor._target_scale, regressor._one_target)
