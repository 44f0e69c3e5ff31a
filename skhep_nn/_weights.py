"""Checked labels, scores and event weights, and the rescaling of weights per class."""

from collections.abc import Mapping
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


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
        The weights; their ratios inside a class stay.

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

    Equation 3 of arXiv:2002.01427, up to the overall factor: ratios inside a class stay.

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
    """Sum of weights of each class, which must be positive."""
    classes, at = np.unique(labels, return_inverse=True)
    sums = np.bincount(at, weight)
    for label, total in zip(classes.tolist(), sums.tolist(), strict=True):
        if not (isfinite(total) and total > 0):
            raise ValueError(
                f"the weights of class {label!r} sum to {total:g}; every class needs a positive, "
                "finite total"
            )
    return dict(zip(classes.tolist(), sums.tolist(), strict=True))


def check_events(
    y: npt.ArrayLike, sample_weight: npt.ArrayLike | None, pos_label: Any
) -> tuple[BoolArray, FloatArray]:
    """Labels as a mask of signal events, and their weights."""
    labels = check_labels(y)
    classes = np.unique(labels).tolist()
    if len(classes) > 2:
        raise ValueError(
            f"y has {len(classes)} classes ({classes[:4]}, ...), expected signal and background"
        )
    if pos_label is None:
        pos_label = _default_pos_label(classes)
    elif len(classes) == 2 and pos_label not in classes:
        raise ValueError(f"pos_label={pos_label!r} is none of the classes {classes}")
    return np.asarray(labels == pos_label, dtype=bool), check_weight(sample_weight, len(labels))


def check_labels(y: npt.ArrayLike) -> npt.NDArray[Any]:
    """Labels as a non-empty vector without missing values."""
    labels = np.asarray(y)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"y has shape {labels.shape}, expected (n_samples,) with n_samples > 0")
    missing = np.flatnonzero(pd.isna(labels))
    if missing.size:
        raise ValueError(f"y[{missing[0]}] is missing, expected a class label")
    return labels


def _default_pos_label(classes: list[Any]) -> Any:
    """Label that means signal where the user names none."""
    if set(classes) <= {"s", "b"}:
        return "s"
    if len(classes) == 2:
        return classes[1]
    if classes[0] in (-1, 0, 1):
        return 1
    raise ValueError(
        f"y holds only the class {classes[0]!r}: say which label is signal with pos_label"
    )


def check_weight(sample_weight: npt.ArrayLike | None, n: int) -> FloatArray:
    """Event weights as a finite vector of the right length."""
    if sample_weight is None:
        return np.ones(n)
    return check_vector(sample_weight, n, "sample_weight")


def check_score(score: npt.ArrayLike, n: int) -> FloatArray:
    """Scores as a finite vector of the right length."""
    shape = np.shape(score)
    if len(shape) == 2 and shape[1] == 2:
        raise ValueError(f"score has shape {shape}: pass the column of the signal class only")
    return check_vector(score, n, "score")


def check_vector(values: npt.ArrayLike, n: int, name: str) -> FloatArray:
    """Return a finite float64 vector of the right length."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.shape != (n,):
        raise ValueError(f"{name} has shape {vector.shape}, expected ({n},) like y")
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise ValueError(
            f"{name}[{bad[0]}] is {vector[bad[0]]}: {bad.size} of {n} values are not finite"
        )
    return vector


def check_mask(selected: npt.ArrayLike, n: int, name: str = "selected") -> BoolArray:
    """Return a boolean vector of the right length."""
    mask = np.asarray(selected)
    if mask.dtype == object and all(isinstance(value, bool | np.bool_) for value in mask.flat):
        mask = mask.astype(bool)
    if mask.dtype != bool:
        raise TypeError(f"{name} has dtype {mask.dtype}, expected bool (for a score: score >= cut)")
    if mask.shape != (n,):
        raise ValueError(f"{name} has shape {mask.shape}, expected ({n},) like y")
    return mask


def is_finite_number(value: Any) -> bool:
    """Whether a value is a real, finite number and no bool."""
    return not isinstance(value, bool) and isinstance(value, Real) and isfinite(value)
