"""Runs of `benchmarks.higgs.ladder`: events, splits, trainings of one row for all seeds, scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.utils import Bunch

from benchmarks.higgs.job import TOTALS
from skhep_nn import CartesianMomenta, DenseNetClassifier, EventAligner, fit_together
from skhep_nn.metrics import challenge_scores, class_balanced_weights

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

# Parts of the test set whose AMS is averaged (MAPA): ten in the study, of 10,000 events each. The AMS of
# a few events is biased, so small samples have fewer parts.
_MOST_PARTS, _PART_EVENTS = 10, 1_000


class Split(NamedTuple):
    """Rows of one seed: for training, for the scores, and for choosing and applying a cut."""

    train: Rows
    #: Rows for log-loss and AUC.
    test: Rows
    #: Rows on which a cut is chosen, and rows to which it is applied.
    pairs: list[tuple[Rows, Rows]]

    @property
    def predicted(self) -> Rows:
        """All rows that the scores need."""
        parts = [self.test, *(rows for pair in self.pairs for rows in pair)]
        return np.unique(np.concatenate(parts))


class Sample(NamedTuple):
    """Events as tables that networks read, as they are and turned to one orientation."""

    tables: dict[bool, pd.DataFrame]
    y: NDArray[np.int64]
    weight: Array
    #: Mask of the rows of the public test set; None for files without one.
    public: NDArray[np.bool_] | None
    splits: list[Split]


class Run(NamedTuple):
    """Results of a row: scores for every seed, and the seconds."""

    scores: pd.DataFrame
    fit_seconds: float
    predict_seconds: float
    n_passes: float
    n_parameters: int

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds to train and to predict, of one seed."""
        n = len(self.scores)
        return {"train": self.fit_seconds / n, "predict": self.predict_seconds / n}


def prepare(events: Bunch, n_seeds: int) -> Sample:
    """Turn momenta and split, under the conditions of the challenge where the file allows it."""
    y = (events.target == "s").astype(np.int64)
    table = CartesianMomenta().fit_transform(events.data)
    tables = {False: table, True: EventAligner().fit_transform(table)}
    sets = set() if events.kaggle_set is None else set(np.unique(events.kaggle_set))
    public = None
    if {"t", "b", "v"} <= sets:
        public = events.kaggle_set == "b"
        test = np.flatnonzero(public | (events.kaggle_set == "v"))
        splits = [_challenge(events.kaggle_set == "t", test, y, seed) for seed in range(n_seeds)]
    else:
        splits = [_halves(y, seed) for seed in range(n_seeds)]
    return Sample(tables, y, events.sample_weight, public, splits)


def _challenge(is_train: NDArray[np.bool_], test: Rows, y: NDArray[np.int64], seed: int) -> Split:
    """Hold a fifth of the training set back to choose the cut."""
    rows = np.flatnonzero(is_train)
    train, valid = train_test_split(rows, test_size=0.2, stratify=y[rows], random_state=seed)
    return Split(train, test, [(valid, test)])


def _halves(y: NDArray[np.int64], seed: int) -> Split:
    """Hold 30 % back, as `benchmarks.higgs.job` does; each half is scored at the cut of the other."""
    train, test = train_test_split(np.arange(len(y)), test_size=0.3, stratify=y, random_state=seed)
    halves = StratifiedKFold(2, shuffle=True, random_state=seed).split(test, y[test])
    return Split(train, test, [(test[a], test[b]) for a, b in halves])


def run(estimator: DenseNetClassifier, sample: Sample, *, aligned: bool) -> Run:
    """Train a row for all seeds, predict and score."""
    X = sample.tables[aligned]
    estimators = [clone(estimator).set_params(random_state=s) for s in range(len(sample.splits))]
    start = time.perf_counter()
    fitted = fit_all(estimators, X, sample.y, sample.weight, [s.train for s in sample.splits])
    trained = time.perf_counter()
    predictions = [
        model.predict_proba(X.iloc[split.predicted])[:, 1]
        for model, split in zip(fitted, sample.splits, strict=True)
    ]
    predicted = time.perf_counter()
    scores = []
    for seed, (split, found) in enumerate(zip(sample.splits, predictions, strict=True)):
        probability = np.full(len(sample.y), np.nan)
        probability[split.predicted] = found
        scores.append(_score(sample, split, probability, seed))
    return Run(
        pd.DataFrame(scores),
        trained - start,
        predicted - trained,
        float(np.mean([model.history_["epoch"].max() + 1 for model in fitted])),
        fitted[0].ensemble_.n_parameters,
    )


def fit_all(
    estimators: Sequence[DenseNetClassifier],
    X: pd.DataFrame,
    y: NDArray[np.int64],
    weight: Array,
    rows: Sequence[Rows],
) -> list[Any]:
    """Fit every estimator to its own rows: stacked, unless their numbers of steps differ."""
    try:
        return fit_together(estimators, X, y, sample_weight=weight, rows=rows)
    except ValueError:
        return [
            model.fit(X.iloc[own], y[own], sample_weight=weight[own])
            for model, own in zip(estimators, rows, strict=True)
        ]


def _score(sample: Sample, split: Split, probability: Array, seed: int) -> dict[str, float]:
    """Return the scores of one seed."""
    y, weight, test = sample.y, sample.weight, split.test
    balanced = class_balanced_weights(y[test], weight[test])
    found = []
    for chosen_on, scored_on in split.pairs:
        n_parts = int(np.clip(len(scored_on) // _PART_EVENTS, 2, _MOST_PARTS))
        scores = challenge_scores(
            y[chosen_on], probability[chosen_on], weight[chosen_on],
            y[scored_on], probability[scored_on], weight[scored_on],
            public=None if sample.public is None else sample.public[scored_on],
            totals=TOTALS, n_splits=n_parts, random_state=seed,
        )  # fmt: skip
        found.append(scores._asdict())
    ams = pd.DataFrame(found).mean()
    # Without a private set, the held-out events scored at the cut of others take its place.
    whole = "public" if sample.public is None else "private"
    return {
        "MMVA": ams["mmva"],
        "MVAC": ams["mvac"],
        "MAPA": ams["mapa"],
        "AMS": ams[whole],
        "log-loss": log_loss(y[test], probability[test], sample_weight=balanced),
        "AUC": roc_auc_score(y[test], probability[test], sample_weight=balanced),
    } | ({} if sample.public is None else {"public": ams["public"]})
