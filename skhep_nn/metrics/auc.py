"""Area under the ROC curve with event weights of any sign, and its scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from sklearn.metrics import make_scorer

from skhep_nn.metrics.classification import area_under_roc
from skhep_nn.utils.public import public
from skhep_nn.utils.validation import (
    BoolArray,
    FloatArray,
    check_events,
    check_labels,
    check_score,
    check_vector,
    check_weight,
)

__all__ = ["auc_score", "auc_scorer", "make_auc_scorer"]


@public("skhep_nn")
def auc_score(
    y: npt.ArrayLike,
    score: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    *,
    pos_label: Any = None,
    classes: Sequence[Any] | None = None,
) -> float:
    """Area under the ROC curve, also with negative event weights.

    It is the weighted share of pairs of a signal and a background event in which the signal has the
    higher score; equal scores count half. With negative weights, as NLO generators give them, the
    ROC curve is no longer monotonic and scikit-learn's `roc_auc_score` refuses it, but the share stays
    well defined.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels.
    score : array-like of shape (n_samples,) or (n_samples, n_classes)
        For two classes, the larger the more signal-like: a column of `predict_proba`, or
        `decision_function`. For more classes `predict_proba`, log-probabilities or logits of all.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights, which may be negative. None: 1 each.
    pos_label : label, default=None
        Label of the signal, for two classes. None means ``"s"`` for the labels s and b, else the larger
        of the two.
    classes : sequence of labels, default=None
        With more than two classes, the classes in the order of the columns of `score`. None: the sorted labels in `y`.

    Returns
    -------
    float
        Area; for more than two classes the unweighted mean of each class against the rest. With
        negative weights it may be outside of 0 to 1 by its statistical error.

    Raises
    ------
    ValueError
        If the events of a class are missing or their weights do not have a positive sum, lengths differ, or a
        weight or score is not finite.

    See Also
    --------
    skhep_nn.metrics.classification_summary : The same area among other scores.
    skhep_nn.metrics.binned_scores : The area in bins of a quantity, with its statistical error.

    Examples
    --------
    >>> from skhep_nn import auc_score
    >>> auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    >>> auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], [1.0, -0.5, 1.0, 1.0])
    1.5
    """
    if np.ndim(score) == 2 and np.shape(score)[1] > 2:
        return _mean_over_classes(y, score, sample_weight, pos_label, classes)
    is_signal, weight = check_events(y, sample_weight, pos_label)
    values = check_score(score, len(weight))
    labels = np.asarray(y)
    _check_totals(is_signal, weight, labels)
    return area_under_roc(values, is_signal, weight)[0]


def _mean_over_classes(
    y: npt.ArrayLike,
    score: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    pos_label: Any,
    classes: Sequence[Any] | None,
) -> float:
    """Return the mean area of each class against the rest."""
    if pos_label is not None:
        raise ValueError(
            f"pos_label={pos_label!r} is for two classes, but score has {np.shape(score)[1]} columns. "
            "Leave it out, or give the column of that class and labels that are this class or not."
        )
    labels = check_labels(y)
    weight = check_weight(sample_weight, len(labels))
    known = np.unique(labels).tolist() if classes is None else list(classes)
    columns = np.asarray(score, dtype=np.float64)
    if columns.shape != (len(labels), len(known)):
        raise ValueError(
            f"score has shape {columns.shape}, expected ({len(labels)}, {len(known)}) for the classes "
            f"{known}; name others with classes="
        )
    unknown = set(labels.tolist()) - set(known)
    if unknown:
        raise ValueError(f"labels {sorted(unknown)} of y are not among the classes {known}")
    check_vector(columns.ravel(), columns.size, "score")
    areas = []
    for k, label in enumerate(known):
        is_class = np.asarray(labels == label, dtype=bool)
        _check_totals(is_class, weight, labels)
        areas.append(area_under_roc(_against_rest(columns, k), is_class, weight)[0])
    return float(np.mean(areas))


def _against_rest(columns: FloatArray, k: int) -> FloatArray:
    """Return a score that orders events by the probability of a class.

    Logits of several classes do not: the probability also depends on the logits of the other classes.
    """
    if columns.min() >= 0 and np.allclose(columns.sum(axis=1), 1):
        return columns[:, k]
    others: FloatArray = logsumexp(np.delete(columns, k, axis=1), axis=1)
    return columns[:, k] - others


def _check_totals(is_signal: BoolArray, weight: FloatArray, labels: npt.NDArray[Any]) -> None:
    """Raise ValueError if one of two sides has no events, or no positive total weight."""
    for rows in (is_signal, ~is_signal):
        if not rows.any():
            raise ValueError(
                f"y holds only the classes {np.unique(labels).tolist()}: the area under the ROC curve needs "
                "events of the class and of the rest; split with stratify=y."
            )
        total = float(weight[rows].sum())
        if not total > 0:
            found = np.unique(labels[rows]).tolist()
            raise ValueError(
                f"the weights of the {rows.sum()} events of {found} sum to {total:g}; the area under the "
                "ROC curve needs a positive total of each class. Score more events."
            )


def make_auc_scorer(*, pos_label: Any = None, classes: Sequence[Any] | None = None) -> Any:
    """Make a scorer of the area under the ROC curve for ``scoring=`` in cross-validation and searches.

    Unlike scikit-learn's ``"roc_auc"``, it takes negative event weights.

    Parameters
    ----------
    pos_label, classes
        As in :func:`auc_score`.

    Returns
    -------
    callable
        A scikit-learn scorer of ``decision_function``, or ``predict_proba`` if the classifier has no
        decision function. Event weights reach it by metadata routing, see the example; without routing all events count
        once.

    Examples
    --------
    >>> import numpy as np, sklearn
    >>> from sklearn.model_selection import cross_val_score
    >>> from skhep_nn import DenseNetClassifier, make_auc_scorer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2))
    >>> y, w = (X[:, 0] > 0).astype(int), rng.choice([1.0, -1.0], size=400, p=[0.8, 0.2])
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     scores = cross_val_score(
    ...         DenseNetClassifier(random_state=0).set_fit_request(sample_weight=True),
    ...         X,
    ...         y,
    ...         params={"sample_weight": w},
    ...         scoring=make_auc_scorer().set_score_request(sample_weight=True),
    ...         cv=2,
    ...     )
    >>> bool(scores.min() > 0.9)
    True
    """
    return make_scorer(
        auc_score,
        response_method=["decision_function", "predict_proba"],
        pos_label=pos_label,
        classes=classes,
    )


auc_scorer = make_auc_scorer()
"""Scorer with the defaults. To set score requests, make another scorer by ``make_auc_scorer()``."""
