"""Logarithms of probabilities: their means, and the scores that order events where probabilities are exactly 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

__all__ = ["class_scores", "log_mean", "log_proba", "normalised"]

FloatArray = npt.NDArray[np.float64]

# Logarithm of the smallest number above 0. It stands for a probability of 0, as scores have to be finite.
_LEAST = float(np.log(np.finfo(np.float64).smallest_subnormal))


def log_mean(logs: Sequence[npt.ArrayLike], weights: npt.ArrayLike) -> FloatArray:
    """Return the logarithm of a weighted mean of probabilities.

    Parameters
    ----------
    logs : sequence of array of shape (n_samples, n_classes)
        Logarithms of the probabilities that are averaged.
    weights : array of shape (n_terms,)
        Weights that sum to one.
    """
    shares = np.asarray(weights, dtype=np.float64)[:, np.newaxis, np.newaxis]
    mean: FloatArray = logsumexp(np.asarray(logs, dtype=np.float64), axis=0, b=shares)
    return mean


def normalised(logs: FloatArray) -> FloatArray:
    """Compute the logarithm of the most probable class anew, from the probabilities of the other classes.

    A probability of almost 1 has a logarithm of almost 0, which rounding makes exactly 0 long before the
    other classes have a probability of 0.
    """
    # Only where the class has more than half, as rounding must not decide between equal probabilities.
    rows = np.flatnonzero(logs.max(axis=1) > np.log(0.5))
    best = logs[rows].argmax(axis=1)
    others = logs[rows]
    others[np.arange(len(rows)), best] = -np.inf
    out = logs.copy()
    out[rows, best] = np.log1p(-np.exp(logsumexp(others, axis=1)))
    return out


def log_proba(logs: FloatArray, probability: FloatArray) -> FloatArray:
    """Return the result of `predict_log_proba`, -inf and 0 where `predict_proba` is exactly 0 and 1.

    scikit-learn's conformance suite compares the two methods.
    """
    out = normalised(logs)
    out[probability == 0] = -np.inf
    out[probability == 1] = 0
    return out


def class_scores(logs: FloatArray) -> FloatArray:
    """Return scores in the shapes of `decision_function` from logarithms of probabilities.

    Parameters
    ----------
    logs : ndarray of shape (n_samples, n_classes)
        Logarithms of probabilities.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_classes)
        The logit of the second of two classes, else the logarithms; always finite.
    """
    logs = np.where(np.isneginf(logs), _LEAST, logs)
    scores: FloatArray = logs[:, 1] - logs[:, 0] if logs.shape[1] == 2 else normalised(logs)
    return scores
