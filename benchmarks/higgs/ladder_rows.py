"""Rows of `benchmarks.higgs.ladder`: the changes by each technique of the study, and its published results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from skhep_nn import Constant, CosineRestarts, DenseNetClassifier, EventAugmenter, OneCycle
from skhep_nn.networks import FeatureBlock
from skhep_nn.training import (
    CyclicLR,
    FastGeometricEnsemble,
    SnapshotEnsemble,
    StochasticWeightAveraging,
)

Values = tuple[float, float]

#: The ensembled baseline, which times are compared with.
BASELINE = "ensemble"
#: The study's final solution.
FINAL = "dense"
LADDER, ALONE = "ladder", "alone"
# Columns after CartesianMomenta: derived ones come first.
_HIGH, _LOW = range(13), range(13, 31)


class Published(NamedTuple):
    """Results of the study for a row, means and uncertainties.

    Fractional increases of seconds are over the row `over`, without uncertainty; `alone` is the
    improvement of the private score in per cent where the technique is the only one (table 9).
    """

    mmva: Values | None = None
    mvac: Values | None = None
    mapa: Values | None = None
    train: float | None = None
    predict: float | None = None
    over: str = BASELINE
    alone: Values | None = None


class Row(NamedTuple):
    """One solution: an earlier row with some parameters of the estimator changed."""

    title: str
    builds_on: str | None
    changes: Mapping[str, Any]
    published: Published = Published()
    kind: str = LADDER
    #: Whether events are turned to one orientation first ("data fixing").
    aligned: bool = False


class Lengths(NamedTuple):
    """Numbers of epochs, in the study's proportions to 1cycle.

    The study counts folds; nine folds make an epoch.
    """

    one_cycle: int

    def _scaled(self, n_folds: int) -> int:
        """Turn the study's folds, 135 in 1cycle, into epochs."""
        return max(1, round(n_folds / 135 * self.one_cycle))

    @property
    def most(self) -> int:
        """Epochs of all schedules except 1cycle: whole cycles of 1, 2, 4, ..., about twice as many as in 1cycle."""
        return 2 ** round(math.log2(2 * self.one_cycle + 2)) - 1

    @property
    def patience(self) -> int:
        """Patience of early stopping, 50 of the study's folds."""
        return self._scaled(50)

    @property
    def cycles(self) -> int:
        """Number of cycles, nine for the study's 1cycle; here a cycle is an epoch."""
        return self._scaled(81)


def _base(lengths: Lengths, members: int) -> dict[str, Row]:
    """Return rows of tables 3, 4 and 5 up to the activation."""
    jets = {
        "categorical_features": ["PRI_jet_num"],
        "embedding_sizes": 3,
        "stratify_by": "PRI_jet_num",
    }
    single = {
        "schedule": Constant(2e-3),
        "early_stopping": lengths.patience,
        "max_epochs": lengths.most,
        "class_weight": "balanced",
        "depth": 4,
        "width": 100,
        "dense": False,
        "activation": "relu",
    }
    augmentation = {"augmentation": EventAugmenter()}
    restarts = {"schedule": CosineRestarts(2e-3), "early_stopping": False}
    return {
        "single": Row(
            "single network", None, single,
            Published((3.43, 0.04), (3.38, 0.04), (3.44, 0.02)),
        ),
        "ensemble": Row(
            "+ ensembling (baseline)", "single", {"n_members": members},
            Published((3.70, 0.05), (3.64, 0.04), (3.664, 0.007), alone=(7.58, 0.05)),
        ),
        "embedding": Row(
            "+ embedding", "ensemble", jets,
            Published((3.78, 0.05), (3.70, 0.06), (3.71, 0.02), 0.13, 0.08),
        ),
        "fixing": Row(
            "+ fixing (EventAligner)", "embedding", {},
            Published((3.90, 0.04), (3.83, 0.05), (3.76, 0.01)), aligned=True,
        ),
        "augmentation": Row(
            "+ augmentation", "embedding", augmentation,
            Published((3.96, 0.04), (3.89, 0.05), (3.79, 0.01), 1.45, 14),
        ),
        "sgdr": Row(
            "+ SGDR", "augmentation", restarts,
            Published((3.94, 0.06), (3.90, 0.04), (3.80, 0.02), 2.12, 14),
        ),
        "swish": Row(
            "+ swish", "sgdr", {"activation": "swish"},
            Published((3.96, 0.06), (3.86, 0.05), (3.81, 0.02), 2.32, 17),
        ),
    }  # fmt: skip


def _averaging(lengths: Lengths) -> dict[str, Row]:
    """Return the rows of table 6, and the weight averages with a fixed start beside them."""
    long_cycle = lengths.patience
    snapshots = {
        "schedule": CosineRestarts(2e-3, cycle=long_cycle, growth=1),
        "averaging": SnapshotEnsemble(weight_by_loss=False),
        "early_stopping": 2 * long_cycle,
        "max_epochs": 5 * long_cycle,
    }
    geometric = {
        "schedule": CyclicLR(),
        "averaging": FastGeometricEnsemble(weight_by_loss=False),
        "early_stopping": lengths.cycles,
    }
    rows = {
        "sse": Row(
            "- SGDR + SSE", "swish", snapshots,
            Published((3.95, 0.05), (3.85, 0.05), (3.81, 0.02), 0.15, 1.5, "swish"),
        ),
        "fge": Row(
            "- SGDR + FGE", "swish", geometric,
            Published((3.95, 0.06), (3.86, 0.05), (3.80, 0.02), -0.13, 6, "swish"),
        ),
    }  # fmt: skip
    cosine = CosineRestarts(2e-3, final_lr=2e-4, cycle=1, growth=1)
    weights = {
        "constant": (Constant(2e-3), 1, lengths.patience, (3.96, 0.06), (3.88, 0.05), -0.09),
        "linear": (CyclicLR(), 2, lengths.cycles, (3.97, 0.06), (3.87, 0.04), 0.25),
        "cosine": (cosine, 2, lengths.cycles, (3.95, 0.05), (3.89, 0.05), 0.22),
    }
    for name, (schedule, period, patience, mmva, mvac, train) in weights.items():
        averaging = StochasticWeightAveraging(1, renewal_period=period)
        changes = {"schedule": schedule, "averaging": averaging, "early_stopping": patience}
        published = Published(mmva, mvac, (3.81, 0.02), train, 0, "swish")
        rows[f"swa-{name}"] = Row(f"- SGDR + SWA, {name}", "swish", changes, published)
        fixed = {
            "averaging": StochasticWeightAveraging(0.75, renewal_period=None),
            "early_stopping": False,
        }
        rows[f"swa-{name}-fixed"] = Row(f"SWA, {name}, start fixed", f"swa-{name}", fixed)
    return rows


def _final(lengths: Lengths) -> dict[str, Row]:
    """Return the last rows of table 4, and the rows of tables 10 and 7."""
    cycle = {"schedule": OneCycle(), "max_epochs": lengths.one_cycle}
    dense = {"dense": True, "depth": 6, "width": "auto"}
    rows = {
        "1cycle": Row(
            "- SGDR + 1cycle", "swish", cycle,
            Published((4.04, 0.06), (3.85, 0.04), (3.81, 0.02), 0.66, 17),
        ),
        "dense": Row(
            "+ dense (final)", "1cycle", dense,
            Published((3.95, 0.04), (3.89, 0.05), (3.82, 0.02), 0.81, 17),
        ),
        "dense-fixing": Row(
            "final, fixing instead", "dense", {"augmentation": None}, aligned=True
        ),
    }  # fmt: skip
    wide = {width: FeatureBlock(_HIGH, depth=1, width=width) for width in (50, 51)}
    splits: dict[str, tuple[str, dict[str, Any], Published]] = {
        "full-split": (
            "full split", {"blocks": {"low": FeatureBlock(_LOW, 6, 20), "high": wide[50]}},
            Published((3.69, 0.06), (3.64, 0.06), (3.596, 0.006), 0.02, -0.10, FINAL),
        ),
        "bottleneck": (
            "full split, bottlenecks",
            {"blocks": {"low": FeatureBlock(_LOW, 6, 21), "high": wide[51]}, "bottleneck": 1},
            Published((3.80, 0.05), (3.72, 0.05), (3.647, 0.006), 0.14, 0, FINAL),
        ),
        "semi-split": (
            "semi-split", {"blocks": {"deep": None, "wide": wide[50]}},
            Published((3.93, 0.05), (3.86, 0.05), (3.82, 0.02), 0.12, 0.1, FINAL),
        ),
    }  # fmt: skip
    for name, (title, changes, published) in splits.items():
        rows[name] = Row(title, "dense", changes, published)
    return rows


def _finalists() -> dict[str, Row]:
    """Return the rows of table 7: depth, width and growth rate that the study's search found."""
    found = {
        (4, 100, 0.1): Published((3.90, 0.05), (3.83, 0.05), (3.74, 0.01), 0.23, 0.6, FINAL),
        (4, 40, 0.45): Published((3.96, 0.05), (3.90, 0.05), (3.82, 0.01), -0.02, -0.01, FINAL),
        (5, 100, -0.1): Published((4.03, 0.05), (3.91, 0.05), (3.80, 0.02), 0.15, 0.6, FINAL),
        (5, 33, 0.9): Published((3.95, 0.05), (3.89, 0.04), (3.81, 0.02), 0.19, 0.6, FINAL),
        # With the study's rate of -0.2 the sixth layer has no neurons and the next a negative number.
        (8, 33, -0.1): Published((3.95, 0.06), (3.89, 0.06), (3.82, 0.02), 0.4, 1.2, FINAL),
    }
    rows = {}
    for (depth, width, growth), published in found.items():
        changes = {"depth": depth, "width": width, "growth_rate": growth}
        name = f"{depth}x{width}{growth:+g}"
        rows[name] = Row(f"finalist {depth} {width} {growth:g}", "dense", changes, published)
    return rows


def _alone(lengths: Lengths, rows: dict[str, Row]) -> dict[str, Row]:
    """Return the rows of table 9: the single network and one technique."""
    # Only early stopping holds rows back from one member; this patience never stops the training.
    cycle = {**rows["1cycle"].changes, "early_stopping": lengths.one_cycle}
    techniques = {
        "augmentation": (rows["augmentation"].changes, (7.98, 0.05)),
        "1cycle": (cycle, (4.00, 0.03)),
        "swish": (rows["swish"].changes, (2.22, 0.03)),
        "embedding": (rows["embedding"].changes, (1.63, 0.03)),
        "dense": (rows["dense"].changes, (1.25, 0.03)),
    }
    return {
        f"single+{name}": Row(
            f"single network + {name}", "single", changes, Published(alone=improvement), ALONE
        )
        for name, (changes, improvement) in techniques.items()
    }


def ladder(one_cycle: int, members: int) -> dict[str, Row]:
    """Return all rows, each after the one that it builds on.

    Parameters
    ----------
    one_cycle : int
        Epochs of the 1cycle schedule; the other schedules change in proportion.
    members : int
        Networks in an ensemble.
    """
    lengths = Lengths(one_cycle)
    rows = _base(lengths, members) | _averaging(lengths) | _final(lengths) | _finalists()
    return rows | _alone(lengths, rows)


def parameters(rows: Mapping[str, Row], name: str) -> dict[str, Any]:
    """Return the changes of a row and of all rows that it builds on, the later ones last."""
    row = rows[name]
    before = {} if row.builds_on is None else parameters(rows, row.builds_on)
    return before | dict(row.changes)


def estimator(rows: Mapping[str, Row], name: str, **common: Any) -> DenseNetClassifier:
    """Return the estimator of a row."""
    return DenseNetClassifier(**parameters(rows, name), **common)


def published_increase(rows: Mapping[str, Row], name: str, which: str) -> float | None:
    """Return the study's fractional increase of the seconds over the ensembled baseline.

    Parameters
    ----------
    which : str
        "train" or "predict".
    """
    if name == BASELINE:
        return 0.0
    published = rows[name].published
    own = getattr(published, which)
    if own is None:
        return None
    before = published_increase(rows, published.over, which) if published.over != BASELINE else 0.0
    return None if before is None else (1 + own) * (1 + before) - 1
