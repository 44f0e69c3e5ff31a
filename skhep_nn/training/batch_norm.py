"""States in and out of stacked networks, in place, and the running moments that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from skhep_nn.networks.conv_layers import MOMENTUM
from skhep_nn.networks.stacks import State, stacked_state
from skhep_nn.training.batches import Batch

__all__ = ["find_moments", "has_moments"]


def _is_moment(name: str) -> bool:
    return name.endswith(("running_mean", "running_var"))


def has_moments(stack: nn.Module) -> bool:
    """Whether a stack has batch normalisation."""
    return any(_is_moment(name) for name, _ in stack.named_buffers())


@torch.no_grad()
def find_moments(
    stack: nn.Module, batches: Iterable[Batch], forward: Callable[[Tensor], Tensor], state: State
) -> None:
    """Find the moments of batch normalisation anew, their means over batches, for stack and state.

    Those of weights that no step has reached are not the mean of others' moments (arXiv:1803.05407).

    Parameters
    ----------
    stack : nn.Module
        In training mode, holding the state.
    batches : iterable of Batch
        Rows of every member.
    forward : callable
        Runs the stack.
    state : dict of str to Tensor
        Its moments are replaced.
    """
    moments = [buffer for name, buffer in stack.named_buffers() if _is_moment(name)]
    before = [moment.clone() for moment in moments]
    totals = [torch.zeros_like(moment, dtype=torch.float64) for moment in moments]
    n = 0
    for batch in batches:
        for moment in moments:
            moment.zero_()
        # Less the rows that only fill the batch up.
        n_used = int((batch.weight != 0).any(0).nonzero().max()) + 1
        forward(batch.X[:, :n_used])
        for total, moment in zip(totals, moments, strict=True):
            total.add_(moment)
        n += 1
    for moment, total, old in zip(moments, totals, before, strict=True):
        # From zero, a batch has moved them by `MOMENTUM` of the way; not where it was a single value.
        found = (total / (n * MOMENTUM)).to(moment.dtype)
        moment.copy_(torch.where(total != 0, found, old))
    for name, value in stacked_state(stack).items():
        if _is_moment(name):
            state[name] = value.detach().clone()
