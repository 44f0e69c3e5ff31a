"""Epochs on a CPU with hand-written gradients; the members are split over threads."""

from __future__ import annotations

import inspect
import threading
from functools import partial
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skhep_nn.training.batches import TrainBatches, ValidBatches
from skhep_nn.training.checkpoints import Scores
from skhep_nn.training.member_hyperparameters import PROPORTIONAL
from skhep_nn.training.optimizers import StepRates
from skhep_nn.training.passes import EagerPass, Pass, Trainee
from skhep_nn.training.schedules import Rates
from skhep_nn.training.streamed_batches import AnyTrainBatches, AnyValidBatches
from skhep_nn.utils.optional import kernels
from skhep_nn.utils.parallel import n_groups, side_by_side

__all__ = ["CpuPass"]

# Number of threads with which training is fastest: two already hold the interpreter's lock most of the time.
MOST_THREADS = 2


class _Group:
    """Some of the members, with their optimizer."""

    def __init__(self, trainee: Trainee, batches: TrainBatches, members: slice) -> None:
        self.members = members
        self.batches = batches
        self.generators = batches.generators[members]
        self.dense = kernels("cpu_step").DenseStep(
            trainee.module, members, batches.width, trainee.loss
        )
        kind: Any = type(trainee.optimizer)
        group = trainee.optimizer.param_groups[0]
        settings = {
            name: group[name] for name in inspect.signature(kind).parameters if name in group
        }
        settings["params"] = [self.dense.flat]
        self.optimizer = kind(**settings)
        own = trainee.member_steps
        self.member_steps = None if own is None else own.flat(self.dense.flat, members)

    def train(self, index: Tensor, rates: list[StepRates], stop: threading.Event) -> Tensor:
        """Take the steps of an epoch; return the losses of shape (steps, members)."""
        losses = []
        group = self.optimizer.param_groups[0]
        steps = self.batches.batches(index, self.members)
        for step_rates, batch in zip(rates, steps, strict=True):
            if stop.is_set():
                break
            losses.append(self.dense.step(*batch))
            step_rates.set_in(group)
            if self.member_steps is None:
                self.optimizer.step()
            else:
                self.member_steps.take(self.optimizer.step, step_rates.lr)
        self.dense.store()
        return torch.stack(losses)

    def validate(self, batches: ValidBatches, stop: threading.Event) -> NDArray[np.float64]:
        """Return the validation loss of every member."""
        total = torch.zeros(self.members.stop - self.members.start)
        width = self.batches.width
        for batch, _ in batches.batches(width, self.members):
            if stop.is_set():
                break
            missing = width - batch.weight.shape[1]
            total += self.dense.losses(*(_padded(part, missing) for part in batch))
        losses: NDArray[np.float64] = total.double().numpy()
        return losses


def _padded(part: Tensor, missing: int) -> Tensor:
    """Append rows of zeros, whose weight of zero excludes them from the loss."""
    if not missing:
        return part
    return torch.cat([part, part.new_zeros(len(part), missing, *part.shape[2:])], dim=1)


@final
class CpuPass(Pass):
    """Trains and validates groups of members in parallel on a CPU, each group on one thread.

    The forward and backward pass of a `DenseNet` are hand-written, without automatic differentiation.

    Parameters
    ----------
    trainee : Trainee
        The members, on a CPU.
    batches : TrainBatches
        Batches of an epoch.
    """

    def __init__(self, trainee: Trainee, batches: TrainBatches) -> None:
        self.trainee = trainee
        self.batches = batches
        self._eager = EagerPass(trainee, batches)
        n_parameters = sum(p.numel() for p in trainee.module.parameters())
        n_operations = 6.0 * n_parameters * batches.width * batches.n_steps
        n = n_groups(trainee.n_workers, trainee.n_members, n_operations, MOST_THREADS)
        edges = [trainee.n_members * i // n for i in range(n + 1)]
        self.groups = [_Group(trainee, batches, slice(*pair)) for pair in pairwise(edges)]

    @classmethod
    def serves(cls, trainee: Trainee, batches: AnyTrainBatches) -> bool:
        """Whether hand-written gradients exist for the network and no callback watches single batches."""
        step = kernels("cpu_step")
        return (
            step is not None
            and isinstance(batches, TrainBatches)
            and trainee.device.type == "cpu"
            and not trainee.is_compiled
            and not trainee.is_watched
            and trainee.autocast is None
            and trainee.loss.penalty is None
            and step.DenseStep.serves(trainee.module)
            and type(trainee.optimizer) in PROPORTIONAL
            and len(trainee.optimizer.param_groups) == 1
        )

    def reload(self) -> None:
        """Read the parameters of the module again."""
        for group in self.groups:
            group.dense.load()

    def train(self, rates: Rates) -> NDArray[np.float64]:
        """Take the steps of one epoch; return the mean loss of every member."""
        applied = self.trainee.rates.of_epoch(rates)
        index = self.batches.draw()
        self.reload()  # a callback may have changed the parameters
        tasks = [partial(group.train, index, applied) for group in self.groups]
        losses = torch.cat(side_by_side(tasks), dim=1).numpy()
        means: NDArray[np.float64] = losses.mean(axis=0, dtype=np.float64)
        return means

    def validate(self, batches: AnyValidBatches, *, call_back: bool = True) -> Scores:
        """Return the validation scores of the members."""
        if self.trainee.monitor != "loss" or not isinstance(batches, ValidBatches):
            return self._eager.validate(batches, call_back=call_back)
        tasks = [partial(group.validate, batches) for group in self.groups]
        return Scores(np.concatenate(side_by_side(tasks)))
