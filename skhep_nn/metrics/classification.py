"""Scores of a classifier: one report, and in bins of a quantity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from skhep_nn.utils.validation import (
    BoolArray,
    FloatArray,
    check_edges,
    check_labels,
    check_vector,
    check_weight,
)

__all__ = ["ClassificationSummary", "binned_scores", "classification_summary"]

CodeArray = npt.NDArray[np.intp]
SCORES = ("precision", "recall", "specificity", "f1", "auc")


class ClassificationSummary(NamedTuple):
    """Scores of a classifier in one report.

    Parameters
    ----------
    accuracy : float
        Share of events whose class was predicted.
    precision : float
        Share of true events among the events predicted to be of the class.
    recall : float
        Share of the events of the class that were predicted to be of it: sensitivity, efficiency.
    specificity : float
        Share of the other events that were not predicted to be of the class.
    f1 : float
        Harmonic mean of precision and recall.
    auc : float
        Area under the ROC curve, NaN without probabilities.
    per_class : DataFrame
        The last five for each class against the rest, with its number of events (`n`) and their
        summed weights (`weight`); indexed by class.
    """

    accuracy: float
    precision: float
    recall: float
    specificity: float
    f1: float
    auc: float
    per_class: pd.DataFrame


class Answers(NamedTuple):
    """Checked labels, predictions and weights of events."""

    classes: list[Any]
    true: CodeArray  # index in `classes` for each event
    predicted: CodeArray
    weight: FloatArray
    proba: FloatArray | None  # (n, n_classes)


def classification_summary(
    y: npt.ArrayLike,
    y_pred: npt.ArrayLike | None = None,
    *,
    proba: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    pos_label: Any = None,
    classes: Sequence[Any] | None = None,
) -> ClassificationSummary:
    """Accuracy, precision, recall, specificity, F1 and area under the ROC curve in one report.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels.
    y_pred : array-like of shape (n_samples,), default=None
        Predicted labels. None: the most probable class; with two classes, the second if its
        probability is above one half.
    proba : array-like of shape (n_samples, n_classes) or (n_samples,), default=None
        Output of `predict_proba`, or its second column where there are two classes. Needed for
        the area under the ROC curve, and where `y_pred` is not given.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights, which may be negative. None: 1 each.
    pos_label : label, default=None
        Class of the scores outside `per_class`. None: the second of two classes; with more
        classes, the unweighted mean over all.
    classes : sequence of labels, default=None
        The classes, in the order of the columns of `proba` (`classes_` of a classifier). None:
        the sorted labels in `y` and `y_pred`.

    Returns
    -------
    ClassificationSummary
        A score that would be zero over zero, such as the precision of a class that is never
        predicted, is NaN.

    Raises
    ------
    ValueError
        If neither `y_pred` nor `proba` is given, shapes do not fit, a label is not one of the
        classes, or probabilities are not between 0 and 1.

    See Also
    --------
    binned_scores : Accuracy and area in bins of a quantity.

    Examples
    --------
    >>> from skhep_nn.metrics import classification_summary
    >>> y = ["photon", "photon", "electron", "electron", "electron"]
    >>> summary = classification_summary(y, proba=[0.9, 0.4, 0.6, 0.2, 0.1])
    >>> summary.accuracy, summary.recall, round(summary.specificity, 3), round(summary.auc, 3)
    (0.6, 0.5, 0.667, 0.833)
    >>> summary.per_class[["precision", "recall", "n"]].round(3)
              precision  recall  n
    electron      0.667   0.667  3
    photon        0.500   0.500  2
    """
    answers = check_answers(y, y_pred, proba, sample_weight, classes)
    rows = [_one_against_rest(answers, k) for k in range(len(answers.classes))]
    per_class = pd.DataFrame(rows, index=pd.Index(answers.classes))
    names = list(SCORES)
    if pos_label is None and len(answers.classes) != 2:
        scores = per_class[names].mean(skipna=False)
    else:
        scores = per_class[names].iloc[_place(answers.classes, pos_label)]
    accuracy = _ratio(answers.weight[answers.true == answers.predicted].sum(), answers.weight.sum())
    precision, recall, specificity, f1, auc = map(float, scores)
    return ClassificationSummary(accuracy, precision, recall, specificity, f1, auc, per_class)


def binned_scores(
    values: npt.ArrayLike,
    y: npt.ArrayLike,
    proba: npt.ArrayLike,
    *,
    bins: int | npt.ArrayLike = 10,
    sample_weight: npt.ArrayLike | None = None,
    pos_label: Any = None,
    classes: Sequence[Any] | None = None,
) -> pd.DataFrame:
    """Accuracy and area under the ROC curve against a quantity, such as the deposited energy.

    Parameters
    ----------
    values : array-like of shape (n_samples,)
        The quantity, which need not be an input of the classifier.
    y : array-like of shape (n_samples,)
        Labels.
    proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Output of `predict_proba`, or its second column where there are two classes.
    bins : int or array-like of shape (n_bins + 1,), default=10
        Number of bins with the same number of events, as far as values are distinct; or the
        edges. A bin includes its lower edge, the last bin also its upper one. Events outside are left out.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights, which may be negative. None: 1 each.
    pos_label : label, default=None
        Class whose area under the ROC curve, against the rest, is computed. None: the second of
        two classes; with more classes, the mean over all.
    classes : sequence of labels, default=None
        As in :func:`classification_summary`.

    Returns
    -------
    DataFrame
        A row for every bin, also for an empty one, with the columns

        low, high
            Edges of the bin.
        mean
            Weighted mean of the quantity.
        n, weight
            Number of events and their summed weights.
        accuracy, accuracy_error
            Share of events whose class is the most probable one, and its binomial standard error.
        auc, auc_error
            Area under the ROC curve and its standard error [1]_; the error is NaN for a mean over more
            than two classes. Both are NaN where a class has too few events in the bin.

    Raises
    ------
    ValueError
        If shapes do not fit, edges do not increase, values are not finite, labels are not among
        the classes, or probabilities are not between 0 and 1.

    See Also
    --------
    skhep_nn.plotting.BinnedScoresDisplay : The plot of it.

    References
    ----------
    .. [1] E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, "Comparing the areas under two or
       more correlated receiver operating characteristic curves: a nonparametric approach",
       Biometrics 44 (1988) 837, with weighted means in place of plain ones.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.metrics import binned_scores
    >>> rng = np.random.default_rng(0)
    >>> energy, y = rng.uniform(1, 100, 2000), rng.integers(0, 2, 2000)
    >>> measured = y + 5 * rng.normal(size=2000) / np.sqrt(energy)
    >>> proba = 1 / (1 + np.exp(0.5 - measured))
    >>> table = binned_scores(energy, y, proba, bins=[0, 50, 100])
    >>> table[["low", "high", "n", "auc", "auc_error"]].round(3)
        low   high     n    auc  auc_error
    0   0.0   50.0   993  0.721      0.016
    1  50.0  100.0  1007  0.873      0.011
    """
    answers = check_answers(y, None, proba, sample_weight, classes)
    quantity = check_vector(values, len(answers.true), "values")
    edges = _edges(quantity, bins)
    # The last edge belongs to the last bin, as in numpy.histogram.
    at = np.searchsorted(edges, quantity, side="right") - 1
    at[quantity == edges[-1]] = len(edges) - 2
    if pos_label is None and len(answers.classes) != 2:
        wanted = list(range(len(answers.classes)))
    else:
        wanted = [_place(answers.classes, pos_label)]
    rows = []
    for index in range(len(edges) - 1):
        inside = at == index
        scores = _scores_of(_part(answers, inside), wanted)
        mean = _ratio(answers.weight[inside] @ quantity[inside], answers.weight[inside].sum())
        rows.append({"low": edges[index], "high": edges[index + 1], "mean": mean, **scores})
    return pd.DataFrame(rows)


def area_under_roc(
    score: FloatArray, is_signal: BoolArray, weight: FloatArray
) -> tuple[float, float]:
    """Return the weighted area under the ROC curve, ties counted half, and its DeLong error."""
    signal, background = _placements(score, is_signal, weight)
    of_signal, of_background = weight[is_signal], weight[~is_signal]
    area = _ratio(of_signal @ signal, of_signal.sum())
    variance = _variance(signal, of_signal) + _variance(background, of_background)
    return area, float(np.sqrt(variance))


def _placements(
    score: FloatArray, is_signal: BoolArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return shares of background below each signal event, and of signal above each background event."""
    shares = []
    for own, sign in ((is_signal, 1.0), (~is_signal, -1.0)):
        here, there = sign * score[own], sign * score[~own]
        order = np.argsort(there)
        summed = np.concatenate([[0.0], np.cumsum(weight[~own][order])])
        below, up_to = (np.searchsorted(there[order], here, side) for side in ("left", "right"))
        with np.errstate(invalid="ignore", divide="ignore"):
            shares.append((summed[below] + summed[up_to]) / (2 * summed[-1]))
    return shares[0], shares[1]


def _variance(values: FloatArray, weight: FloatArray) -> float:
    """Return the variance of a weighted mean."""
    n, total = len(values), weight.sum()
    if n < 2 or total == 0:
        return float("nan")
    mean = weight @ values / total
    return float(n / (n - 1) * np.square(weight * (values - mean)).sum() / total**2)


def _scores_of(part: Answers, wanted: list[int]) -> dict[str, float]:
    """Return the scores of the events in one bin."""
    right = (part.true == part.predicted).astype(float)
    total = part.weight.sum()
    accuracy = _ratio(part.weight @ right, total)
    error = _ratio(np.sqrt(np.square(part.weight * (right - accuracy)).sum()), abs(total))
    areas = [_area(part, k) for k in wanted]
    return {
        "n": len(right),
        "weight": total,
        "accuracy": accuracy,
        "accuracy_error": error,
        "auc": float(np.mean([area for area, _ in areas])),
        # Areas of several classes against the rest are correlated.
        "auc_error": areas[0][1] if len(areas) == 1 else float("nan"),
    }


def _one_against_rest(answers: Answers, place: int) -> dict[str, float]:
    """Return the scores of one class against the rest."""
    true, predicted = answers.true == place, answers.predicted == place
    weight = answers.weight
    n_true, n_predicted = weight[true].sum(), weight[predicted].sum()
    hits, others = weight[true & predicted].sum(), weight[~true].sum()
    return {
        "precision": _ratio(hits, n_predicted),
        "recall": _ratio(hits, n_true),
        "specificity": _ratio(weight[~true & ~predicted].sum(), others),
        "f1": _ratio(2 * hits, n_true + n_predicted),
        "auc": _area(answers, place)[0],
        "n": int(true.sum()),
        "weight": float(n_true),
    }


def _area(answers: Answers, place: int) -> tuple[float, float]:
    """Return the area under the ROC curve of one class against the rest, and its error."""
    is_signal = answers.true == place
    if answers.proba is None or is_signal.all() or not is_signal.any():
        return float("nan"), float("nan")
    return area_under_roc(answers.proba[:, place], is_signal, answers.weight)


def _ratio(part: Any, whole: Any) -> float:
    """Return the quotient, NaN for a divisor of zero."""
    return float(part / whole) if whole else float("nan")


def _part(answers: Answers, rows: BoolArray) -> Answers:
    """Select events."""
    proba = None if answers.proba is None else answers.proba[rows]
    return answers._replace(
        true=answers.true[rows],
        predicted=answers.predicted[rows],
        weight=answers.weight[rows],
        proba=proba,
    )


def _edges(quantity: FloatArray, bins: int | npt.ArrayLike) -> FloatArray:
    """Return the edges of the bins."""
    if np.ndim(bins) == 0:
        n_bins = np.asarray(bins)
        if n_bins.dtype.kind not in "iu" or n_bins < 1:
            raise ValueError(f"bins={bins!r} must be an integer of at least 1, or the edges")
        edges = np.unique(np.quantile(quantity, np.linspace(0, 1, int(n_bins) + 1)))
        return edges if len(edges) > 1 else edges[0] + np.array([-0.5, 0.5])
    return check_edges(bins)


def _place(classes: list[Any], pos_label: Any) -> int:
    """Return the index of the class that is scored."""
    if pos_label is None:
        return 1
    if pos_label not in classes:
        raise ValueError(f"pos_label={pos_label!r} is not one of the classes {classes}")
    return classes.index(pos_label)


def check_answers(
    y: npt.ArrayLike,
    y_pred: npt.ArrayLike | None,
    proba: npt.ArrayLike | None,
    sample_weight: npt.ArrayLike | None,
    classes: Sequence[Any] | None,
) -> Answers:
    """Check labels, predictions, probabilities and weights; return labels as indices of classes."""
    if y_pred is None and proba is None:
        raise ValueError("give y_pred, proba or both, got neither")
    labels = check_labels(y)
    answers = [labels] if y_pred is None else [labels, check_labels(y_pred)]
    if len(answers[-1]) != len(labels):
        raise ValueError(f"y_pred has {len(answers[-1])} labels for the {len(labels)} of y")
    known = list(np.unique(np.concatenate(answers)).tolist() if classes is None else classes)
    if len(known) < 2:
        raise ValueError(f"there is one class only, {known}: name both with classes=")
    codes = [pd.Index(known).get_indexer(pd.Index(one)) for one in answers]
    for one, places in zip(answers, codes, strict=True):
        if (places < 0).any():
            label = one[places < 0].tolist()[0]
            raise ValueError(f"label {label!r} is not one of the classes {known}")
    shares = None if proba is None else _check_proba(proba, len(labels), known)
    if y_pred is None and shares is not None:
        codes.append(shares.argmax(axis=1))
    weight = check_weight(sample_weight, len(labels))
    return Answers(known, codes[0], codes[-1], weight, shares)


def _check_proba(proba: npt.ArrayLike, n: int, classes: list[Any]) -> FloatArray:
    """Return checked probabilities of all classes."""
    values = np.asarray(proba, dtype=float)
    if values.shape == (n,) and len(classes) == 2:
        values = np.stack([1 - values, values], axis=1)
    if values.shape != (n, len(classes)):
        raise ValueError(
            f"proba has shape {values.shape}, expected ({n}, {len(classes)}) for the classes "
            f"{classes}; name others with classes="
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("proba must hold numbers from 0 to 1, as predict_proba gives them")
    return values
