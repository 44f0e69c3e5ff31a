"""Batch-norm statistics of states whose training steps have not computed them: averages, and the first steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from skhep_nn.networks.conv_layers import MOMENTUM
from skhep_nn.networks.stacks import State, stacked_state
from skhep_nn.training.batches import Batch

__all__ = ["ENOUGH_STEPS", "has_batch_norm", "statistics_of", "update_batch_norm"]

# Number of steps after which the statistics have forgotten their initial values: 0.9^100 is 3e-5.
ENOUGH_STEPS = 100


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var"))


def has_batch_norm(stack: nn.Module) -> bool:
    """Whether a stack has batch normalisation."""
    return any(_is_statistic(name) for name, _ in stack.named_buffers())


def statistics_of(stack: nn.Module) -> list[Tensor]:
    """Return the batch-norm statistics of a stack, which training updates in place."""
    return [buffer for name, buffer in stack.named_buffers() if _is_statistic(name)]


@torch.no_grad()
def update_batch_norm(
    stack: nn.Module, batches: Iterable[Batch], forward: Callable[[Tensor], Tensor], state: State
) -> None:
    """Compute the batch-norm statistics again, as means over batches, for the stack and a state.

    The statistics of averaged weights are not the average of statistics (arXiv:1803.05407).

    Parameters
    ----------
    stack : nn.Module
        The members, in training mode, with the parameters of the state.
    batches : iterable of Batch
        Training rows of every member.
    forward : callable
        Forward pass of the stack.
    state : dict of str to Tensor
        Its batch-norm statistics are replaced.
    """
    statistics = statistics_of(stack)
    before = [value.clone() for value in statistics]
    totals = [torch.zeros_like(value, dtype=torch.float64) for value in statistics]
    n = 0
    for batch in batches:
        for value in statistics:
            value.zero_()
        # Rows that only pad the batch must not enter the statistics.
        n_used = int((batch.weight != 0).any(0).nonzero().max()) + 1
        forward(batch.X[:, :n_used])
        for total, value in zip(totals, statistics, strict=True):
            total.add_(value)
        n += 1
    for value, total, old in zip(statistics, totals, before, strict=True):
        # Starting from zero, a batch adds its statistics times `MOMENTUM`; a batch of one value adds none.
        found = (total / (n * MOMENTUM)).to(value.dtype)
        value.copy_(torch.where(total != 0, found, old))
    for name, value in stacked_state(stack).items():
        if _is_statistic(name):
            state[name] = value.detach().clone()
