"""What is trained: targets, and rows with every member's share of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skhep_nn.networks.losses import Loss
from skhep_nn.training.member_hyperparameters import MemberSettings
from skhep_nn.utils.folds import Fold

__all__ = ["Job", "Target"]


class Target(NamedTuple):
    """What the network is trained on.

    `values` is (n,) of class codes or 0/1, or (n, n_targets) of scaled targets; `strata` groups the
    rows that the folds should share out evenly (None: no groups).
    """

    values: NDArray[Any]
    strata: NDArray[Any] | None
    loss: Loss
    link: str
    n_outputs: int


class Job(NamedTuple):
    """What is trained: rows with their targets and weights, and every member's share of them.

    For each member, `folds`, `seeds` (of starting values and of the order of rows), `lent` (seed of
    its augmentation and dropout) and `input_states` (moments of its inputs) hold one value.
    `settings` are what members of several estimators differ in.
    """

    rows: Any
    weight: NDArray[np.float64]
    target: Target
    folds: list[Fold]
    seeds: list[np.random.SeedSequence]
    lent: list[int]
    input_states: list[dict[str, Any]]
    settings: MemberSettings | None = None
