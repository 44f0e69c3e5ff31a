"""Event weights rescaled per class."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from skhep_nn.utils.validation import FloatArray, check_labels, check_weight

__all__ = ["class_balanced_weights", "class_totals", "rescale_weights"]


def rescale_weights(
    y: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    totals: Mapping[Any, float],
) -> FloatArray:
    """Scale event weights so that each class sums to a given total.

    An AMS depends on the absolute numbers of expected events: when a subset of a sample is scored, its
    weights have to stand for the whole.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels.
    sample_weight : array-like of shape (n_samples,) or None
        Event weights, None for unit weights.
    totals : mapping from label to float
        The sum of weights wanted for each class, e.g. ``HIGGSML_TOTALS``.

    Returns
    -------
    ndarray of shape (n_samples,)
        The weights; ratios within a class are unchanged.

    Raises
    ------
    ValueError
        If the classes of `y` and the keys of `totals` differ, a total is negative or not finite, or a
        class has a sum of weights that is not positive.

    Examples
    --------
    >>> from skhep_nn.metrics import rescale_weights
    >>> rescale_weights(["s", "b", "b"], [1.0, 1.0, 3.0], {"s": 5.0, "b": 100.0})
    array([  5.,  25.,  75.])
    """
    labels, weight = check_labels(y), check_weight(sample_weight, len(np.asarray(y)))
    sums = class_totals(labels, weight)
    if set(sums) != set(totals):
        raise ValueError(
            f"y holds the classes {list(sums)} but totals names {list(totals)}; they must be the same"
        )
    scaled = np.empty_like(weight)
    for label, class_sum in sums.items():
        total = totals[label]
        if not (isfinite(total) and total >= 0):
            raise ValueError(f"totals[{label!r}] = {total} must be finite and not negative")
        rows = labels == label
        scaled[rows] = weight[rows] * (total / class_sum)
    return scaled


def class_balanced_weights(
    y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
) -> FloatArray:
    """Event weights with the same total for each class and an overall mean of 1.

    Equation 3 of arXiv:2002.01427, up to the overall factor: ratios within a class are unchanged.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels of two or more classes.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights, None for unit weights. Negative ones are accepted so long as the total of every
        class is positive.

    Returns
    -------
    ndarray of shape (n_samples,)
        The weights; each class sums to ``n_samples / n_classes``.

    Raises
    ------
    ValueError
        If a weight is not finite or the total of a class is not positive.

    Examples
    --------
    >>> from skhep_nn.metrics import class_balanced_weights
    >>> class_balanced_weights(["s", "b", "b"], [0.1, 1.0, 3.0])
    array([1.5  , 0.375, 1.125])
    """
    labels = check_labels(y)
    classes = np.unique(labels)
    share = len(labels) / len(classes)
    return rescale_weights(labels, sample_weight, dict.fromkeys(classes.tolist(), share))


def class_totals(labels: npt.NDArray[Any], weight: FloatArray) -> dict[Any, float]:
    """Return the sum of weights of each class, refusing sums that are not positive."""
    classes, at = np.unique(labels, return_inverse=True)
    sums = np.bincount(at, weight)
    for label, total in zip(classes.tolist(), sums.tolist(), strict=True):
        if not (isfinite(total) and total > 0):
            raise ValueError(
                f"the weights of class {label!r} sum to {total:g}; every class needs a positive, "
                "finite total"
            )
    return dict(zip(classes.tolist(), sums.tolist(), strict=True))
