"""Hyperparameters in which members that train together may differ: learning rate, weight decay, dropout.

The optimizer steps all parameters with one learning rate. Its step is proportional to that rate, so the
step of a member with another rate is scaled; weight decay is added to its gradient before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skhep_nn.networks.member_layers import MemberDropout
from skhep_nn.networks.stacks import separate_members
from skhep_nn.training.schedules import Rates

__all__ = ["PROPORTIONAL", "MemberHyperparameters", "MemberSteps", "proportion"]

Floats: TypeAlias = NDArray[np.float64]

# Optimizers whose steps are proportional to the learning rate and update each parameter independently.
PROPORTIONAL = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop)


def proportion(rates: Sequence[Rates], reference: Sequence[Rates]) -> float | None:
    """Return the factor between learning rates and reference rates, if it is the same at every step.

    Parameters
    ----------
    rates, reference : sequence of Rates
        Rates of the same epochs.

    Returns
    -------
    float or None
        None if the rates are not in proportion, or the momenta differ.
    """
    ours, theirs = (np.concatenate([r.lr for r in given]) for given in (rates, reference))
    momenta = [(a.momentum, b.momentum) for a, b in zip(rates, reference, strict=True)]
    alike = all(
        a is b is None or (a is not None and b is not None and np.allclose(a, b, rtol=1e-9))
        for a, b in momenta
    )
    factor = float(ours.max() / theirs.max())
    if not alike or not np.allclose(ours, factor * theirs, rtol=1e-6, atol=1e-9 * ours.max()):
        return None
    return 1.0 if abs(factor - 1) < 1e-12 else factor


class MemberHyperparameters(NamedTuple):
    """Hyperparameters of stacked members, one value for each member.

    Parameters
    ----------
    lr_factor : tuple of float
        Learning rate as a multiple of the learning rate of the schedule.
    weight_decay : tuple of float
        Weight decay.
    dropout : tuple
        Values of the argument `dropout` of the networks.
    """

    lr_factor: tuple[float, ...]
    weight_decay: tuple[float, ...]
    dropout: tuple[Any, ...]

    @property
    def steps_differ(self) -> bool:
        """Whether members differ in learning rate or weight decay."""
        return self.decays_differ or any(factor != 1 for factor in self.lr_factor)

    @property
    def decays_differ(self) -> bool:
        """Whether members differ in weight decay, so that the optimizer cannot apply it."""
        return len(set(self.weight_decay)) > 1

    def arguments(self, network: type[nn.Module], params: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the arguments of each member's network; stackable networks all get the highest dropout."""
        if "dropout" not in params:
            return [params] * len(self.dropout)
        if getattr(network, "stackable", False):
            return [params | {"dropout": max(self.dropout)}] * len(self.dropout)
        return [params | {"dropout": rate} for rate in self.dropout]

    def share_dropout(self, stack: nn.Module) -> None:
        """Set the dropout rate of each member in the layers that all members share."""
        for module in _stacked_dropout(stack):
            module.share(self.dropout)


def _stacked_dropout(stack: nn.Module) -> Iterator[MemberDropout]:
    """Iterate over the dropout layers that act on all members at once."""
    if getattr(stack, "stackable", False):
        yield from (module for module in stack.modules() if isinstance(module, MemberDropout))


class MemberSteps:
    """Turns the common step of an optimizer into a step for each member.

    Parameters
    ----------
    stack : nn.Module
        The members, on the device of the training.
    factor : ndarray of shape (members,)
        Learning rates as multiples of the optimizer's.
    decay : ndarray of shape (members,)
        Weight decay.
    decoupled : bool
        Whether weight decay is decoupled, as in AdamW.

    Notes
    -----
    Before the step, ``decay * p`` is added to the gradient of a parameter ``p`` (AdamW: ``p`` is scaled
    by ``1 - lr * decay``). After it, ``p`` goes back to ``old + factor * (p - old)``. With a factor of
    one the step is the optimizer's, bit for bit.
    """

    def __init__(self, stack: nn.Module, factor: Floats, decay: Floats, *, decoupled: bool) -> None:
        self.stack = stack
        self.factor, self.decay, self.decoupled = factor, decay, decoupled
        self._parameters = list(stack.parameters())
        self._factors, self._decays = self.broadcastable(factor), self.broadcastable(decay)

    @classmethod
    def of(
        cls,
        stack: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: MemberHyperparameters | None,
    ) -> Self | None:
        """Return the steps of members that differ in learning rate or weight decay, else None.

        If members differ in weight decay, it is set to zero in the optimizer.
        """
        if settings is None or not settings.steps_differ:
            return None
        (group, *others) = optimizer.param_groups
        if type(optimizer) not in PROPORTIONAL or others or group.get("maximize"):
            names = ", ".join(kind.__name__ for kind in PROPORTIONAL)
            msg = (
                f"members that differ in learning rate or weight decay need one of the optimizers {names}, "
                f"got {type(optimizer).__name__}; fit only estimators with equal values together."
            )
            raise ValueError(msg)
        decay = np.zeros(len(settings.lr_factor))
        if settings.decays_differ:
            decay = np.array(settings.weight_decay, dtype=float)
            group["weight_decay"] = 0.0
        decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
        return cls(stack, np.array(settings.lr_factor), decay, decoupled=decoupled)

    def broadcastable(self, values: Floats) -> list[Tensor]:
        """Return one value for each member in shapes that broadcast with the parameters of the stack."""
        first = self._parameters[0]
        own = torch.as_tensor(values, dtype=first.dtype, device=first.device)
        members = separate_members(self.stack)
        if len(members) == 1:
            return [own.view(-1, *[1] * (p.ndim - 1)) for p in self._parameters]
        return [own[k] for k, member in enumerate(members) for _ in member.parameters()]

    def flat(self, parameter: Tensor, members: slice) -> MemberSteps:
        """Return the steps of some members whose parameters are in one flat tensor, in order.

        Padding at the end of the tensor has a factor of one and no weight decay.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _parameters=[parameter])
        for name, fill in (("_factors", 1.0), ("_decays", 0.0)):
            values = torch.full_like(parameter, fill, requires_grad=False)
            laid = [
                value.expand_as(p)[members].flatten()
                for value, p in zip(getattr(self, name), self._parameters, strict=True)
            ]
            joined = torch.cat(laid)
            values[: len(joined)] = joined
            setattr(other, name, [values])
        return other

    @torch.no_grad()
    def take(self, step: Callable[[], Any], lr: float) -> None:
        """Take one optimizer step for all members.

        Parameters
        ----------
        step : callable
            Step of the optimizer, which reads the gradients of the parameters.
        lr : float
            Learning rate of the optimizer.
        """
        old = [p.detach().clone() for p in self._parameters]
        if self.decay.any():
            for p, decay in zip(self._parameters, self._decays, strict=True):
                if self.decoupled:
                    p.mul_(1 - lr * decay)
                elif p.grad is not None:
                    p.grad.add_(p * decay)
        step()
        for p, before, factor in zip(self._parameters, old, self._factors, strict=True):
            p.copy_(torch.lerp(before, p, factor.expand_as(p)))
