"""How an epoch is computed: the abstract class `Pass`, and the eager pass for every network.

`CpuPass` (`cpu_parallel`) and `GraphPass` (`cuda_graphs`) compute the same faster, for some networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skhep_nn.networks.losses import Loss
from skhep_nn.training.batches import Batch, ValidBatches
from skhep_nn.training.checkpoints import Scores
from skhep_nn.training.member_hyperparameters import MemberSteps
from skhep_nn.training.optimizers import OptimizerRates
from skhep_nn.training.schedules import Rates
from skhep_nn.training.streamed_batches import AnyTrainBatches, AnyValidBatches

__all__ = ["EagerPass", "Pass", "Trainee"]


class Trainee(NamedTuple):
    """Stacked members with their loss and optimizer, and the functions that take single steps.

    `forward_backward` computes gradients; `step` also updates the parameters, and calls callbacks that
    watch single batches (if `is_watched`); `validation_step` takes a batch, the mask of its real rows, and
    whether callbacks are called. All return tensors by name.
    """

    module: Any
    loss: Loss
    optimizer: torch.optim.Optimizer
    member_steps: MemberSteps | None
    rates: OptimizerRates
    generators: Sequence[torch.Generator]
    n_members: int
    device: torch.device
    autocast: torch.dtype | None
    batch_size: int
    n_epochs: int
    n_workers: int
    monitor: str
    capture: bool
    is_compiled: bool
    is_watched: bool
    forward_backward: Callable[[Batch], dict[str, Tensor]]
    step: Callable[[Batch], dict[str, Tensor]]
    validation_step: Callable[[Batch, Tensor, bool], dict[str, Tensor]]


class Pass(ABC):
    """Takes the optimizer steps of one epoch, and validates, for all members at once."""

    @classmethod
    @abstractmethod
    def serves(cls, trainee: Trainee, batches: AnyTrainBatches) -> bool:
        """Whether this pass can train these members on these batches."""

    @abstractmethod
    def train(self, rates: Rates) -> NDArray[np.float64]:
        """Take the steps of one epoch; return the mean loss of every member."""

    @abstractmethod
    def validate(self, batches: AnyValidBatches, *, call_back: bool = True) -> Scores:
        """Return the validation scores of the members, with or without calling callbacks."""

    @abstractmethod
    def reload(self) -> None:
        """Read the parameters of the module again, after they were changed elsewhere."""


@final
class EagerPass(Pass):
    """Computes one step at a time by automatic differentiation, for any network."""

    def __init__(self, trainee: Trainee, batches: AnyTrainBatches) -> None:
        self.trainee = trainee
        self.batches = batches

    @classmethod
    def serves(cls, trainee: Trainee, batches: AnyTrainBatches) -> bool:
        """Return True: this pass is the reference."""
        del trainee, batches
        return True

    def train(self, rates: Rates) -> NDArray[np.float64]:
        """Take the steps of one epoch; return the mean loss of every member."""
        trainee, batches = self.trainee, self.batches
        losses = torch.empty(len(batches), trainee.n_members, device=batches.dataset.y.device)
        for step, batch in enumerate(batches):
            trainee.rates.set_step(rates, step)
            losses[step] = trainee.step(batch)["member_losses"]
        means: NDArray[np.float64] = losses.mean(0).double().cpu().numpy()
        return means

    def validate(self, batches: AnyValidBatches, *, call_back: bool = True) -> Scores:
        """Return the validation scores of the members, with or without calling callbacks."""
        trainee = self.trainee
        by_loss = trainee.monitor == "loss"
        figures = ["member_losses"] if by_loss else ["member_losses", "member_accuracy"]
        total = torch.zeros(len(figures), trainee.n_members, device=batches.dataset.y.device)
        trainee.module.train(False)
        parts: Iterable[tuple[Batch, Tensor]] = batches
        if trainee.loss.penalty is not None and isinstance(batches, ValidBatches):
            # A penalty depends on the number of rows in a batch, so validation uses the batch size of training.
            parts = batches.batches(trainee.batch_size)
        for batch, used in parts:
            result = trainee.validation_step(batch, used, call_back)
            total += torch.stack([result[name] for name in figures])
        return Scores(*total.double().cpu().numpy())

    def reload(self) -> None:
        """Do nothing: every step reads the parameters of the module."""
