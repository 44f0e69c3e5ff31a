"""Learning-rate schedules: small parameter objects for ``schedule=`` of the estimators.

A schedule is a pure function: given the epoch, the number of epochs, the steps in an epoch and
the validation losses so far, `rates` returns the learning rate and momentum of every step of that epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from skhep_nn.utils.checks import is_count, is_number
from skhep_nn.utils.public import public

__all__ = ["Constant", "CosineRestarts", "CyclicLR", "OneCycle", "Rates", "ReduceOnPlateau"]

FloatArray = NDArray[np.float64]


class Rates(NamedTuple):
    """Learning rate and momentum of the optimizer steps of one epoch.

    Parameters
    ----------
    lr : ndarray of shape (n_steps,)
        Learning rate of every step.
    momentum : ndarray of shape (n_steps,) or None
        Momentum (beta1 of Adam) of every step; None keeps the momentum of the optimizer.
    """

    lr: FloatArray
    momentum: FloatArray | None


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (is_number(value) and value > 0):
            raise ValueError(f"{name}={value!r} must be a positive number.")


class _Steps(NamedTuple):
    """The steps of one epoch, see `_Schedule.rates`."""

    epoch: int
    n_epochs: int
    n_steps: int
    valid_losses: Sequence[float]

    @property
    def numbers(self) -> FloatArray:
        """Numbers of the steps in the whole fit."""
        return np.arange(self.epoch * self.n_steps, (self.epoch + 1) * self.n_steps, dtype=float)


class _Schedule(BaseEstimator, ABC):  # type: ignore[misc]
    """Base class of schedules: checks the parameters, then computes the rates."""

    def rates(
        self, epoch: int, *, n_epochs: int, n_steps: int, valid_losses: Sequence[float] = ()
    ) -> Rates:
        """Return the learning rate and momentum of every step of an epoch.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from zero.
        n_epochs : int
            Number of epochs.
        n_steps : int
            Number of steps in an epoch.
        valid_losses : sequence of float, default=()
            Validation losses of the epochs so far.

        Returns
        -------
        Rates

        Raises
        ------
        ValueError
            If a parameter is invalid, or a schedule needs validation losses and there are none.
        """
        self._check()
        return self._rates(_Steps(epoch, n_epochs, n_steps, valid_losses))

    @abstractmethod
    def _rates(self, steps: _Steps) -> Rates: ...

    @abstractmethod
    def _check(self) -> None: ...


@public("skhep_nn")
class Constant(_Schedule):
    """The same learning rate throughout.

    Parameters
    ----------
    lr : float, default=2e-3
        Learning rate; the default is from section 3.2 of arXiv:2002.01427.

    Examples
    --------
    >>> from skhep_nn import Constant
    >>> Constant(lr=1e-3).rates(0, n_epochs=2, n_steps=3).lr
    array([0.001, 0.001, 0.001])
    """

    def __init__(self, lr: float = 2e-3) -> None:
        self.lr = lr

    def _rates(self, steps: _Steps) -> Rates:
        return Rates(np.full(steps.n_steps, float(self.lr)), None)

    def _check(self) -> None:
        _check_positive(lr=self.lr)


@public("skhep_nn")
class OneCycle(_Schedule):
    """The 1cycle schedule: learning rate up then down, momentum down then up, in half-cosines.

    Parameters
    ----------
    max_lr : float, default=1e-2
        Learning rate at the peak.
    initial_lr : float, default=1e-4
        Learning rate of the first step, or `max_lr` if that is lower.
    final_lr : float, default=0.0
        Learning rate towards which the last steps fall.
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

    def _rates(self, steps: _Steps) -> Rates:
        total = steps.n_epochs * steps.n_steps
        peak = self.warmup * total
        t = steps.numbers
        up = 0.5 * (1 - np.cos(np.pi * np.minimum(t / max(peak, 1e-12), 1)))
        down = 0.5 * (1 - np.cos(np.pi * np.clip((t - peak) / max(total - peak, 1e-12), 0, 1)))
        # In a search over low values of `max_lr`, the first step must not exceed it.
        first = min(self.initial_lr, self.max_lr)
        rising = first + (self.max_lr - first) * up
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


@public("skhep_nn")
class CosineRestarts(_Schedule):
    """Cosine annealing with warm restarts (SGDR): half a cosine down, then up again at once.

    Parameters
    ----------
    max_lr : float, default=2e-3
        Learning rate at the start of every cycle.
    final_lr : float, default=0.0
        Learning rate towards which the last steps of a cycle fall.
    cycle : int or None, default=1
        Epochs of the first cycle; None makes one cycle of the whole fit, without restart.
    growth : float, default=2
        Factor by which each cycle is longer than the one before.

    See Also
    --------
    CyclicLR : Linear cycles.

    Notes
    -----
    ``CosineRestarts(final_lr=2e-4, growth=1)`` gives the study's cosine cycles for weight averages
    (section 3.7).

    References
    ----------
    arXiv:1608.03983; section 3.5 of arXiv:2002.01427.

    Examples
    --------
    >>> from skhep_nn import CosineRestarts
    >>> schedule = CosineRestarts(max_lr=1.0)
    >>> [float(schedule.rates(e, n_epochs=7, n_steps=1).lr[0].round(2)) for e in range(7)]
    [1.0, 1.0, 0.5, 1.0, 0.85, 0.5, 0.15]
    """

    def __init__(
        self,
        max_lr: float = 2e-3,
        *,
        final_lr: float = 0.0,
        cycle: int | None = 1,
        growth: float = 2,
    ) -> None:
        self.max_lr = max_lr
        self.final_lr = final_lr
        self.cycle = cycle
        self.growth = growth

    def _rates(self, steps: _Steps) -> Rates:
        length = float(steps.n_epochs if self.cycle is None else self.cycle) * steps.n_steps
        start = 0.0
        t = steps.numbers
        lr = np.empty(len(t))
        while start <= t[-1]:
            inside = t >= start
            lr[inside] = 0.5 * (1 + np.cos(np.pi * (t[inside] - start) / length))
            start += length
            length *= self.growth
        return Rates(self.final_lr + (self.max_lr - self.final_lr) * lr, None)

    def cycle_ends(self, n_epochs: int) -> list[int]:
        """Return the last epoch of every cycle.

        Parameters
        ----------
        n_epochs : int
            Number of epochs.

        Returns
        -------
        list of int
            Epochs, from zero; the last whole epoch if a cycle ends within one. Empty without restarts.

        Examples
        --------
        >>> from skhep_nn import CosineRestarts
        >>> CosineRestarts().cycle_ends(15)
        [0, 2, 6, 14]
        """
        self._check()
        ends: list[int] = []
        if self.cycle is None:
            return ends
        length = end = float(self.cycle)
        while end <= n_epochs:
            ends.append(int(end) - 1)
            length *= self.growth
            end += length
        return ends

    def _check(self) -> None:
        _check_positive(max_lr=self.max_lr)
        if not 0 <= self.final_lr <= self.max_lr:
            raise ValueError(f"final_lr={self.final_lr!r} must lie between 0 and max_lr.")
        if self.cycle is not None and not is_count(self.cycle):
            raise ValueError(f"cycle={self.cycle!r} must be an integer of at least 1 or None.")
        if not 1 <= self.growth < np.inf:
            raise ValueError(f"growth={self.growth!r} must be a number of at least 1.")


@public("skhep_nn")
class CyclicLR(_Schedule):
    """Linear cycles: the learning rate rises and falls again, over and over ("triangular").

    Parameters
    ----------
    max_lr : float, default=2e-3
        Learning rate in the middle of every cycle.
    min_lr : float, default=2e-4
        Learning rate at the start and the end of every cycle.
    cycle : int, default=1
        Number of epochs of a cycle.

    See Also
    --------
    CosineRestarts : Cycles in which the learning rate only falls.

    References
    ----------
    arXiv:1506.01186; section 3.7 of arXiv:2002.01427, whose rates are the defaults (its cycles are 5/9
    of an epoch).

    Examples
    --------
    >>> from skhep_nn import CyclicLR
    >>> schedule = CyclicLR(max_lr=1.0, min_lr=0.2, cycle=2)
    >>> [schedule.rates(e, n_epochs=4, n_steps=2).lr.round(1).tolist() for e in range(4)]
    [[0.2, 0.6], [1.0, 0.6], [0.2, 0.6], [1.0, 0.6]]
    """

    def __init__(self, max_lr: float = 2e-3, *, min_lr: float = 2e-4, cycle: int = 1) -> None:
        self.max_lr = max_lr
        self.min_lr = min_lr
        self.cycle = cycle

    def _rates(self, steps: _Steps) -> Rates:
        length = self.cycle * steps.n_steps
        t = steps.numbers % length / length
        height = 1 - np.abs(2 * t - 1)
        return Rates(self.min_lr + (self.max_lr - self.min_lr) * height, None)

    def cycle_ends(self, n_epochs: int) -> list[int]:
        """Return the last epoch of every cycle, where the learning rate is lowest.

        Parameters
        ----------
        n_epochs : int
            Number of epochs.

        Returns
        -------
        list of int
            Epochs, from zero.
        """
        self._check()
        return list(range(self.cycle - 1, n_epochs, self.cycle))

    def _check(self) -> None:
        _check_positive(max_lr=self.max_lr)
        if not 0 <= self.min_lr <= self.max_lr:
            raise ValueError(f"min_lr={self.min_lr!r} must lie between 0 and max_lr.")
        if not is_count(self.cycle):
            raise ValueError(f"cycle={self.cycle!r} must be an integer of at least 1.")


@public("skhep_nn")
class ReduceOnPlateau(_Schedule):
    """A learning rate that is lowered when the validation loss stops falling.

    Needs a validation loss: more than one member, or early stopping. The loss is the mean over members.

    Parameters
    ----------
    lr : float, default=1e-3
        Learning rate of the first epoch.
    factor : float, default=0.1
        Factor by which the learning rate is multiplied.
    patience : int, default=5
        Number of epochs without a lower loss before the learning rate is lowered.
    threshold : float, default=1e-4
        Smallest relative improvement of the loss that counts.
    min_lr : float, default=0.0
        Lowest learning rate.

    Examples
    --------
    >>> from skhep_nn import ReduceOnPlateau
    >>> schedule = ReduceOnPlateau(lr=1.0, patience=2)
    >>> schedule.rates(4, n_epochs=9, n_steps=2, valid_losses=[0.7, 0.6, 0.6, 0.6]).lr
    array([0.1, 0.1])
    """

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        factor: float = 0.1,
        patience: int = 5,
        threshold: float = 1e-4,
        min_lr: float = 0.0,
    ) -> None:
        self.lr = lr
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.min_lr = min_lr

    def _rates(self, steps: _Steps) -> Rates:
        if steps.epoch > 0 and not steps.valid_losses:
            msg = (
                "ReduceOnPlateau needs a validation loss; use n_members > 1, early_stopping, or "
                "another schedule such as CosineRestarts."
            )
            raise ValueError(msg)
        lr, best, waited = float(self.lr), np.inf, 0
        for loss in steps.valid_losses:
            # Relative to the absolute loss, as negative event weights can make it negative.
            better = not np.isfinite(best) or loss < best - self.threshold * abs(best)
            best, waited = (loss, 0) if better else (best, waited + 1)
            if waited >= self.patience:
                lr, waited = max(lr * self.factor, self.min_lr), 0
        return Rates(np.full(steps.n_steps, lr), None)

    def _check(self) -> None:
        _check_positive(lr=self.lr)
        if not 0 < self.factor < 1:
            raise ValueError(f"factor={self.factor!r} must lie between 0 and 1.")
        if not is_count(self.patience):
            raise ValueError(f"patience={self.patience!r} must be an integer of at least 1.")
        if not 0 <= self.threshold < np.inf:
            raise ValueError(f"threshold={self.threshold!r} must be a number of at least 0.")
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(f"min_lr={self.min_lr!r} must lie between 0 and lr.")
