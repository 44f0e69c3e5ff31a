"""Learning-rate schedules: small parameter objects for ``schedule=`` of the estimators.

A schedule is a pure function: given the pass, the number of passes, the steps in a pass and the
validation losses so far, `rates` returns the learning rate and momentum of every step of that pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

__all__ = ["Constant", "OneCycle", "Rates"]

FloatArray = NDArray[np.float64]


class Rates(NamedTuple):
    """Rates of the steps of one pass.

    Parameters
    ----------
    lr : ndarray of shape (n_steps,)
        Learning rate of every step.
    momentum : ndarray of shape (n_steps,) or None
        Momentum (beta1 of Adam) of every step; None leaves the optimiser's own.
    """

    lr: FloatArray
    momentum: FloatArray | None


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value!r} must be a positive number.")


class Constant(BaseEstimator):  # type: ignore[misc]
    """The same learning rate throughout.

    Parameters
    ----------
    lr : float, default=2e-3
        Learning rate; the default is that of section 3.2 of arXiv:2002.01427.

    Examples
    --------
    >>> from skhep_nn import Constant
    >>> Constant(lr=1e-3).rates(0, n_epochs=2, n_steps=3).lr
    array([0.001, 0.001, 0.001])
    """

    def __init__(self, lr: float = 2e-3) -> None:
        self.lr = lr

    def rates(
        self,
        epoch: int,  # noqa: ARG002
        *,
        n_epochs: int,  # noqa: ARG002
        n_steps: int,
        valid_losses: Sequence[float] = (),  # noqa: ARG002
    ) -> Rates:
        """Return the rates of the steps of one pass.

        Parameters
        ----------
        epoch : int
            The pass, from zero.
        n_epochs : int
            Number of passes.
        n_steps : int
            Steps in a pass.
        valid_losses : sequence of float, default=()
            Validation losses of the passes so far.

        Returns
        -------
        Rates
        """
        _check_positive(lr=self.lr)
        return Rates(np.full(n_steps, float(self.lr)), None)


class OneCycle(BaseEstimator):  # type: ignore[misc]
    """The 1cycle schedule: learning rate up then down, momentum down then up, in half-cosines.

    Parameters
    ----------
    max_lr : float, default=1e-2
        Learning rate at the peak.
    initial_lr : float, default=1e-4
        Learning rate of the first step.
    final_lr : float, default=0.0
        Learning rate that the last step tends to.
    max_momentum : float, default=0.95
        Momentum (beta1 of Adam) at the start and at the end.
    min_momentum : float, default=0.85
        Momentum at the peak of the learning rate.
    warmup : float, default=1/3
        Share of the steps before the peak.

    References
    ----------
    arXiv:1803.09820; section 3.8 of arXiv:2002.01427, whose settings are the defaults.

    Examples
    --------
    >>> from skhep_nn import OneCycle
    >>> rates = OneCycle().rates(5, n_epochs=15, n_steps=100)
    >>> round(float(rates.lr[0]), 6), round(float(rates.momentum[0]), 6)
    (0.01, 0.85)
    """

    def __init__(
        self,
        max_lr: float = 1e-2,
        *,
        initial_lr: float = 1e-4,
        final_lr: float = 0.0,
        max_momentum: float = 0.95,
        min_momentum: float = 0.85,
        warmup: float = 1 / 3,
    ) -> None:
        self.max_lr = max_lr
        self.initial_lr = initial_lr
        self.final_lr = final_lr
        self.max_momentum = max_momentum
        self.min_momentum = min_momentum
        self.warmup = warmup

    def rates(
        self,
        epoch: int,
        *,
        n_epochs: int,
        n_steps: int,
        valid_losses: Sequence[float] = (),  # noqa: ARG002
    ) -> Rates:
        """Return the rates of the steps of one pass.

        Parameters
        ----------
        epoch : int
            The pass, from zero.
        n_epochs : int
            Number of passes, over which the one cycle stretches.
        n_steps : int
            Steps in a pass.
        valid_losses : sequence of float, default=()
            Validation losses of the passes so far.

        Returns
        -------
        Rates
        """
        self._check()
        total = n_epochs * n_steps
        peak = self.warmup * total
        t = np.arange(epoch * n_steps, (epoch + 1) * n_steps, dtype=float)
        up = 0.5 * (1 - np.cos(np.pi * np.minimum(t / max(peak, 1e-12), 1)))
        down = 0.5 * (1 - np.cos(np.pi * np.clip((t - peak) / max(total - peak, 1e-12), 0, 1)))
        rising = self.initial_lr + (self.max_lr - self.initial_lr) * up
        lr = np.where(t < peak, rising, self.max_lr + (self.final_lr - self.max_lr) * down)
        height = np.where(t < peak, up, 1 - down)
        momentum = self.max_momentum + (self.min_momentum - self.max_momentum) * height
        return Rates(lr, momentum)

    def _check(self) -> None:
        _check_positive(max_lr=self.max_lr, initial_lr=self.initial_lr)
        if not 0 <= self.final_lr < np.inf:
            raise ValueError(f"final_lr={self.final_lr!r} must be a number of at least 0.")
        if not 0 <= self.min_momentum <= self.max_momentum < 1:
            msg = (
                "momenta must obey 0 <= min_momentum <= max_momentum < 1, got "
                f"{self.min_momentum!r} and {self.max_momentum!r}."
            )
            raise ValueError(msg)
        if not 0 < self.warmup < 1:
            raise ValueError(f"warmup={self.warmup!r} must lie between 0 and 1.")
