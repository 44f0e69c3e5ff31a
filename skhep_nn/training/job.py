"""Job and Settings: data and parameters that an estimator gives to `skhep_nn.training.run.run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skhep_nn.networks.losses import Loss
from skhep_nn.training.batches import Augmenter
from skhep_nn.training.member_hyperparameters import MemberHyperparameters
from skhep_nn.utils.folds import Fold

__all__ = ["Job", "Settings", "Target"]


class Target(NamedTuple):
    """Encoded targets, with the loss, the link function and the number of outputs.

    `values` has shape (n,), class codes or 0/1, or (n, n_targets), scaled targets. `strata` are the
    classes that folds keep in proportion, or None.
    """

    values: NDArray[Any]
    strata: NDArray[Any] | None
    loss: Loss
    link: str
    n_outputs: int


class Job(NamedTuple):
    """Rows with their targets and event weights, and the folds of every member.

    `folds`, `have_all_classes` (of the validation rows), `seeds` (of initial parameters and of the order of rows), `augmentation_seeds` (of augmentation
    and dropout) and `input_states` (buffers of the input stage) hold one value for each member.
    `member_hyperparameters` are the hyperparameters in which members of several estimators differ.
    """

    rows: Any
    weight: NDArray[np.float64]
    target: Target
    folds: list[Fold]
    seeds: list[np.random.SeedSequence]
    augmentation_seeds: list[int]
    input_states: list[dict[str, Any]]
    have_all_classes: list[bool]
    member_hyperparameters: MemberHyperparameters | None = None


class Settings(NamedTuple):
    """The network of one member, and how it is trained.

    `autocast` is the lower precision of the forward pass, if any; `capture` asks for CUDA graphs;
    `compile` for ``torch.compile``; `task` is what scikit-learn's scorers inside callbacks see.
    """

    network: type[nn.Module]
    network_params: dict[str, Any]
    optimizer: Callable[..., torch.optim.Optimizer]
    optimizer_params: dict[str, Any]
    schedule: Any
    averaging: Any
    augmenter: Augmenter | None
    batch_size: int
    n_epochs: int
    patience: int | None
    monitor: str
    device: torch.device
    autocast: torch.dtype | None
    capture: bool
    compile: bool
    verbose: int
    task: str
