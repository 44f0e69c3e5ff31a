"""Checks of labels, scores, event weights, masks and edges of bins."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def check_events(
    y: npt.ArrayLike, sample_weight: npt.ArrayLike | None, pos_label: Any
) -> tuple[BoolArray, FloatArray]:
    """Return the mask of signal events and the event weights."""
    labels = check_labels(y)
    classes = np.unique(labels).tolist()
    if len(classes) > 2:
        raise ValueError(
            f"y has {len(classes)} classes ({classes[:4]}, ...), expected signal and background"
        )
    if pos_label is None:
        pos_label = _default_pos_label(classes)
    elif len(classes) == 2 and pos_label not in classes:
        raise ValueError(f"pos_label={pos_label!r} is not among the classes {classes}")
    return np.asarray(labels == pos_label, dtype=bool), check_weight(sample_weight, len(labels))


def check_labels(y: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return labels as a non-empty vector without missing values."""
    labels = np.asarray(y)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"y has shape {labels.shape}, expected (n_samples,) with n_samples > 0")
    missing = np.flatnonzero(pd.isna(labels))
    if missing.size:
        raise ValueError(f"y[{missing[0]}] is missing, expected a class label")
    return labels


def _default_pos_label(classes: list[Any]) -> Any:
    """Return the label of the signal class if the user gives no `pos_label`."""
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
    """Return event weights as a finite vector of length `n`; unit weights for None."""
    if sample_weight is None:
        return np.ones(n)
    return check_vector(sample_weight, n, "sample_weight")


def check_score(score: npt.ArrayLike, n: int) -> FloatArray:
    """Return scores as a finite vector of length `n`."""
    shape = np.shape(score)
    if len(shape) == 2 and shape[1] == 2:
        raise ValueError(f"score has shape {shape}: pass the column of the signal class only")
    return check_vector(score, n, "score")


def check_vector(values: npt.ArrayLike, n: int, name: str) -> FloatArray:
    """Return values as a finite float64 vector of length `n`."""
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
    """Return a boolean vector of length `n`."""
    mask = np.asarray(selected)
    if mask.dtype == object and all(isinstance(value, bool | np.bool_) for value in mask.flat):
        mask = mask.astype(bool)
    if mask.dtype != bool:
        raise TypeError(f"{name} has dtype {mask.dtype}, expected bool (for a score: score >= cut)")
    if mask.shape != (n,):
        raise ValueError(f"{name} has shape {mask.shape}, expected ({n},) like y")
    return mask


def check_edges(bins: npt.ArrayLike) -> FloatArray:
    """Return edges of bins in increasing order."""
    edges = np.asarray(bins, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(
            f"bins={bins!r} must be a number of bins or at least two edges that increase"
        )
    return edges
