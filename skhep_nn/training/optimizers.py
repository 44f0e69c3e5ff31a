"""Optimizers by name, and the learning rate and momentum of their steps, which callbacks may change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from skhep_nn.training.schedules import Rates

__all__ = ["OPTIMIZERS", "OptimizerRates", "StepRates", "adam_rates"]


class StepRates(NamedTuple):
    """Learning rate and momentum of one optimizer step.

    The momentum is None if the optimizer has none, or keeps the momentum that it was built with.
    """

    lr: float
    momentum: float | None

    @classmethod
    def of(cls, group: dict[str, Any]) -> StepRates:
        """Return the rates of a parameter group of an optimizer. Adam's momentum is its first beta."""
        momentum = group["betas"][0] if "betas" in group else group.get("momentum")
        return cls(group["lr"], momentum)

    def set_in(self, group: dict[str, Any]) -> None:
        """Set the rates of a parameter group."""
        group["lr"] = self.lr
        if self.momentum is None:
            return
        if "betas" in group:
            group["betas"] = (self.momentum, *group["betas"][1:])
        elif "momentum" in group:
            group["momentum"] = self.momentum


class OptimizerRates:
    """Sets the rates of a schedule in an optimizer, step by step.

    Rates are set only if they differ from the rates set before, so that a callback such as skorch's
    LRScheduler can change them under a constant schedule.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        The optimizer, before its first step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._last: StepRates | None = None
        # RMSprop, for example, has no momentum by default; then the schedule does not change it.
        group = optimizer.param_groups[0]
        self._takes_momentum = "betas" in group or bool(group.get("momentum"))

    def set_step(self, rates: Rates, step: int) -> None:
        """Set the rates of one step of an epoch."""
        momentum = None
        if rates.momentum is not None and self._takes_momentum:
            momentum = float(rates.momentum[step])
        step_rates = StepRates(float(rates.lr[step]), momentum)
        if step_rates == self._last:
            return
        self._last = step_rates
        for group in self._optimizer.param_groups:
            step_rates.set_in(group)

    def of_epoch(self, rates: Rates) -> list[StepRates]:
        """Return the rates of every step of an epoch as the optimizer applies them, callbacks included."""
        found = []
        for step in range(len(rates.lr)):
            self.set_step(rates, step)
            found.append(self.current)
        return found

    @property
    def current(self) -> StepRates:
        """Rates of the optimizer's next step."""
        return StepRates.of(self._optimizer.param_groups[0])


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda params, **kwargs: torch.optim.Adam(params, fused=True, **kwargs),
    "adamw": lambda params, **kwargs: torch.optim.AdamW(params, fused=True, **kwargs),
    "sgd": lambda params, **kwargs: torch.optim.SGD(params, momentum=0.9, **kwargs),
    "rmsprop": torch.optim.RMSprop,
}


def adam_rates(lr: ArrayLike, beta1: ArrayLike, beta2: float, n_done: int) -> NDArray[np.float32]:
    """Return the factors of Adam's update for every step, computed in float64.

    Parameters
    ----------
    lr, beta1 : array-like of shape (steps,)
        Learning rate and beta1 of every step.
    beta2 : float
        Second beta of Adam.
    n_done : int
        Number of steps done before these.

    Returns
    -------
    ndarray of shape (steps, 4)
        Bias-corrected step size, ``1 - beta1``, correction of the mean square, learning rate.
    """
    sizes, betas = np.asarray(lr, dtype=float), np.asarray(beta1, dtype=float)
    count = n_done + 1 + np.arange(len(sizes))
    columns = [sizes / (1 - betas**count), 1 - betas, 1 / (1 - beta2**count), sizes]
    rates: NDArray[np.float32] = np.stack(columns, axis=1).astype(np.float32)
    return rates
