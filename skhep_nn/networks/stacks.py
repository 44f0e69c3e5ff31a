"""Networks of several members run as one module, and the tensors of all members."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

__all__ = [
    "State",
    "holding",
    "in_fast_mode",
    "separate_members",
    "stack_networks",
    "stacked_state",
    "write_state",
]

State: TypeAlias = dict[str, Tensor]


@contextmanager
def holding(stack: nn.Module, state: State) -> Iterator[None]:
    """Replace the state of a stack inside the block, and restore it afterwards.

    The tensors are overwritten in place, as captured graphs and flat copies of the parameters refer to them.
    """
    own = {name: value.detach().clone() for name, value in stacked_state(stack).items()}
    write_state(stack, state)
    try:
        yield
    finally:
        write_state(stack, own)


def write_state(stack: nn.Module, state: State) -> None:
    """Overwrite the tensors of a stack, in place, with a stacked state."""
    members = [member.state_dict() for member in separate_members(stack)]
    for name, value in state.items():
        if len(members) == 1:
            members[0][name].copy_(value.reshape(members[0][name].shape))
        else:
            for member, own in zip(members, value, strict=True):
                member[name].copy_(own)


class _Members(nn.Module):
    """Members that run one after the other, each on its own inputs.

    A single convolutional network keeps the device busy, so that one call for all members would save nothing, and
    grouped convolutions are slower.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(members, batch, ...)`` to ``(members, batch, outputs)``."""
        outputs = [member(rows) for member, rows in zip(self.members, x, strict=True)]
        return torch.stack(outputs)


def in_fast_mode(network: nn.Module) -> nn.Module:
    """Let a network compute as estimators train and predict: the same outputs sooner, but for nothing else.

    Networks of this package are ordinary modules until then. In fast mode their layers may work on transposed
    tensors, merge with other layers, overwrite their inputs or have an explicit backward pass, which hooks do not
    see and which has no second derivative.

    Parameters
    ----------
    network : nn.Module
        Changed in place.

    Returns
    -------
    nn.Module
        The network.
    """
    for module in network.modules():
        if getattr(type(module), "fast", None) is False:
            module.fast = True  # type: ignore[assignment]
    return network


def _set_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter or buffer by a tensor of another shape."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(value)
    else:
        owner._buffers[leaf] = value


def stack_networks(networks: Sequence[nn.Module], *, share: bool = False) -> nn.Module:
    """Return one module that runs several networks of the same shape at once.

    Parameters
    ----------
    networks : sequence of nn.Module
        The members. Modules with ``stackable = True`` run by batched matrix products, others one
        after the other.
    share : bool, default=False
        Whether modules that run one after the other are used as they are, without a copy of their
        parameters.

    Returns
    -------
    nn.Module
        Maps ``(members, batch, ...)`` to ``(members, batch, outputs)``.

    Examples
    --------
    >>> import torch
    >>> from skhep_nn.ensemble import stack_networks
    >>> stack = stack_networks([torch.nn.Linear(3, 1) for _ in range(5)])
    >>> stack(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7, 1])
    """
    if not getattr(networks[0], "stackable", False):
        return _Members(networks if share else [in_fast_mode(copy.deepcopy(n)) for n in networks])
    states = [network.state_dict() for network in networks]
    stacked = in_fast_mode(copy.deepcopy(networks[0]))
    for name in states[0]:
        _set_tensor(stacked, name, torch.stack([state[name] for state in states]))
    return stacked


def operations_of(network: nn.Module) -> int:
    """Return the number of operations for one row: `n_operations` of the network, or 2 for each parameter."""
    counted: int | None = getattr(network, "n_operations", None)
    return 2 * sum(p.numel() for p in network.parameters()) if counted is None else counted


def separate_members(stack: nn.Module) -> list[nn.Module]:
    """Return the members of a stack if they are separate modules, else a list with the stack itself.

    Parameters
    ----------
    stack : nn.Module
        Result of `stack_networks`.

    Returns
    -------
    list of nn.Module
    """
    stack = getattr(stack, "_orig_mod", stack)  # unwrap torch.compile
    return list(stack.members) if isinstance(stack, _Members) else [stack]


def stacked_state(stack: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a stack, each with a leading member axis.

    Parameters
    ----------
    stack : nn.Module
        Result of `stack_networks`.

    Returns
    -------
    dict of str to Tensor
        Under the names of the ``state_dict`` of one member.
    """
    stack = getattr(stack, "_orig_mod", stack)  # unwrap torch.compile
    if not isinstance(stack, _Members):
        return dict(stack.state_dict())
    states = [member.state_dict() for member in stack.members]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}
