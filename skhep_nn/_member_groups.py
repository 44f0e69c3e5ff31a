"""Passes on a CPU without automatic differentiation, members split over threads."""

from __future__ import annotations

import inspect
import threading
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skhep_nn._batches import TrainBatches, ValidBatches
from skhep_nn._dense_step import DenseStep
from skhep_nn._torch_state import side_by_side

__all__ = ["MemberGroups"]

# Operations of a pass below which starting threads costs more than they gain.
_WORTH_THREADS = 1e9
_ELEMENTWISE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop)

_Rates = list[tuple[float, float | None]]


class _Group:
    """Some members, their step and their optimiser."""

    def __init__(self, net: Any, batches: TrainBatches, members: slice) -> None:
        self.members = members
        self.batches = batches
        self.dense = DenseStep(net.module_, members, batches.width, net.criterion_.loss)
        kind, group = type(net.optimizer_), net.optimizer_.param_groups[0]
        settings = {
            name: group[name] for name in inspect.signature(kind).parameters if name in group
        }
        settings["params"] = [self.dense.flat]
        self.optimizer = kind(**settings)

    def train(self, index: Tensor, rates: _Rates, stop: threading.Event) -> Tensor:
        """Take the steps of a pass; return the losses, (steps, members)."""
        self.dense.load()
        losses = []
        group = self.optimizer.param_groups[0]
        steps = self.batches.batches(index, self.members)
        for (lr, momentum), batch in zip(rates, steps, strict=True):
            if stop.is_set():
                break
            losses.append(self.dense.step(*batch))
            group["lr"] = lr
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            elif "momentum" in group:
                group["momentum"] = momentum
            self.optimizer.step()
        self.dense.store()
        return torch.stack(losses)

    def validate(self, batches: ValidBatches, stop: threading.Event) -> Tensor:
        """Return the validation loss of every member."""
        total = torch.zeros(self.members.stop - self.members.start)
        width = self.batches.width
        for batch, _ in batches.batches(width, self.members):
            if stop.is_set():
                break
            missing = width - batch.weight.shape[1]
            total += self.dense.losses(*(_filled_up(part, missing) for part in batch))
        return total


def _filled_up(part: Tensor, missing: int) -> Tensor:
    """Append rows of zeros: of weight zero, they do not count."""
    if not missing:
        return part
    return torch.cat([part, part.new_zeros(len(part), missing, *part.shape[2:])], dim=1)


class MemberGroups:
    """Trains and validates groups of members side by side, each group on one thread.

    Parameters
    ----------
    net : MemberNet
        Initialised, its module on a CPU.
    batches : TrainBatches
        Where the rows of a pass come from.
    """

    def __init__(self, net: Any, batches: TrainBatches) -> None:
        self.net = net
        self.batches = batches
        n_members = len(net.folds)
        n_parameters = sum(p.numel() for p in net.module_.parameters())
        n_operations = 6 * n_parameters * batches.width * batches.n_steps
        n_groups = min(net.n_workers, n_members) if n_operations > _WORTH_THREADS else 1
        edges = [n_members * i // n_groups for i in range(n_groups + 1)]
        self.groups = [_Group(net, batches, slice(*pair)) for pair in pairwise(edges)]

    @staticmethod
    def serves(net: Any) -> bool:
        """Whether the net can be trained so: the gradients are known and nobody watches single batches."""
        return (
            torch.device(net.device).type == "cpu"
            and not net.compile
            and not net.notifies_batches
            and net.autocast is None
            and DenseStep.serves(net.module_)
            and type(net.optimizer_) in _ELEMENTWISE
            and len(net.optimizer_.param_groups) == 1
        )

    def run(self, rates: _Rates) -> NDArray[np.float64]:
        """Run one pass; return the mean loss of every member."""
        index = self.batches.draw()
        losses = side_by_side([partial(group.train, index, rates) for group in self.groups])
        means: NDArray[np.float64] = torch.cat(losses, 1).mean(0).double().numpy()
        return means

    def validate(self, batches: ValidBatches) -> NDArray[np.float64]:
        """Return the validation loss of every member."""
        losses = side_by_side([partial(group.validate, batches) for group in self.groups])
        totals: NDArray[np.float64] = torch.cat(losses).double().numpy()
        return totals
