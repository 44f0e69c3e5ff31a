"""Training and validation rows of every member."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

__all__ = ["Fold", "have_all_classes", "make_folds"]


def make_folds(
    n_rows: int,
    n_members: int,
    *,
    strata: NDArray[Any] | None,
    classes: NDArray[Any] | None,
    held_back: float | None,
    seed: int,
) -> list[Fold]:
    """Return the training and validation rows of every member.

    With several members, each is validated on one fold of a cross-validation and trained on the
    others. A single member is validated on the share `held_back` of the rows (None: on none) and trained
    on the rest. Rows are split with the same proportions of the `strata` on either side.
    """
    rows = np.arange(n_rows)
    if n_members > n_rows:
        msg = f"n_members={n_members} folds need at least as many rows, got n_samples={n_rows}."
        raise ValueError(msg)
    if n_members == 1:
        if held_back is None:
            return [Fold(rows, rows[:0])]
        n_held_back = int(np.ceil(held_back * n_rows))
        strata = _merge_rare(strata, classes, 2)
        if strata is not None and min(n_held_back, n_rows - n_held_back) < len(np.unique(strata)):
            strata = None  # too few rows on one side to hold every stratum
        train, valid = train_test_split(
            rows, test_size=held_back, stratify=strata, random_state=seed
        )
        return [Fold(train, valid)]
    splitter = KFold if strata is None else StratifiedKFold
    strata = _merge_rare(strata, classes, n_members)
    splits = splitter(n_members, shuffle=True, random_state=seed).split(rows, strata)
    with warnings.catch_warnings():
        # A class with fewer rows than folds is missing in some folds, which is acceptable.
        warnings.filterwarnings("ignore", message="The least populated class")
        return [Fold(train, valid) for train, valid in splits]


def _merge_rare(
    strata: NDArray[Any] | None, classes: NDArray[Any] | None, n_least: int
) -> NDArray[Any] | None:
    """Merge strata of fewer than `n_least` rows into the largest one of their class, or of all classes."""
    if strata is None:
        return None
    _, merged = np.unique(strata, return_inverse=True)
    everything = np.zeros(len(merged), dtype=int)
    for groups in (everything if classes is None else classes, everything):
        for group in np.unique(groups):
            inside = groups == group
            counts = np.bincount(merged[inside], minlength=merged.max() + 1)
            rare = inside & (np.bincount(merged)[merged] < n_least)
            merged = np.where(rare, counts.argmax(), merged)
    return merged


IntArray = NDArray[np.int64]


class Fold(NamedTuple):
    """Row numbers for training and for validation of one member."""

    train: IntArray
    valid: IntArray


def have_all_classes(
    folds: list[Fold], classes: NDArray[Any] | None, weight: NDArray[np.float64]
) -> list[bool]:
    """Return which members have a validation row of every class, counting rows of a weight other than 0.

    The validation losses of other members cannot be compared with theirs.
    """
    if classes is None:
        return [True] * len(folds)
    present = np.unique(classes[weight != 0])
    return [
        len(np.unique(classes[fold.valid][weight[fold.valid] != 0])) == len(present)
        for fold in folds
    ]
