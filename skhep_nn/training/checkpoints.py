"""Which checkpoints of the members are kept during training: best epochs, averages of weights, snapshots.

States are stacked along a leading axis of members, which are treated independently of each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skhep_nn.networks.stacks import State
from skhep_nn.training.averaging import (
    FastGeometricEnsemble,
    SnapshotEnsemble,
    StochasticWeightAveraging,
    check_averaging,
)

__all__ = [
    "BestEpochs",
    "Checkpoints",
    "Kept",
    "Scores",
    "ScoresOf",
    "Snapshots",
    "WeightAverages",
    "make_checkpoints",
]

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
ScoresOf: TypeAlias = Callable[[State], "Scores"]


class Scores(NamedTuple):
    """Validation loss of every member, and the accuracy if that is monitored."""

    loss: Floats
    accuracy: Floats | None = None

    @property
    def rank(self) -> Floats:
        """Values to rank checkpoints by: lower is better."""
        return self.loss if self.accuracy is None else -self.accuracy

    def replaced(self, other: Scores, which: Bools) -> Scores:
        """Return these scores with the scores of some members taken from others."""
        accuracy = None
        if self.accuracy is not None and other.accuracy is not None:
            accuracy = np.where(which, other.accuracy, self.accuracy)
        return Scores(np.where(which, other.loss, self.loss), accuracy)

    def columns(self) -> dict[str, Floats]:
        """Return the scores as columns of the history."""
        both = {"averaged_valid_loss": self.loss, "averaged_valid_accuracy": self.accuracy}
        return {name: value for name, value in both.items() if value is not None}


class Kept(NamedTuple):
    """Checkpoints used for prediction, stacked, each with its member and its share in that member.

    `by_loss` is whether members are weighted by 1 / their validation loss.
    """

    state: State
    member: NDArray[np.int64]
    share: Floats
    by_loss: bool = True

    @classmethod
    def one_each(cls, state: State, n_members: int) -> Kept:
        """Return one checkpoint for every member."""
        return cls(state, np.arange(n_members), np.ones(n_members))


class Checkpoints(ABC):
    """Decides which checkpoints are used for prediction; updated after every epoch.

    Parameters
    ----------
    best : BestEpochs
        Best epochs of the members, updated here.
    """

    def __init__(self, best: BestEpochs) -> None:
        self.best = best

    @abstractmethod
    def after_epoch(
        self, epoch: int, state: State, scores: Scores | None, scores_of: ScoresOf | None
    ) -> dict[str, Floats]:
        """Update the checkpoints with the state at the end of an epoch; return columns of the history.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from zero.
        state : dict of str to Tensor
            The stacked state, which training changes in place later.
        scores : Scores or None
            Validation scores of this state; None if members are not validated.
        scores_of : callable or None
            Returns the scores of any other state, after updating its batch-norm statistics.
        """

    @abstractmethod
    def kept(self, last: State, update_batch_norm: Callable[[State], None]) -> Kept:
        """Return the checkpoints used for prediction.

        Parameters
        ----------
        last : dict of str to Tensor
            The stacked state after the last epoch.
        update_batch_norm : callable
            Updates the batch-norm statistics of a state.
        """

    def _update_best(self, epoch: int, state: State, scores: Scores | None) -> None:
        if scores is not None:
            self.best.update(scores.loss, epoch, state, scores.rank)


class _BestCheckpoints(Checkpoints):
    """Keeps the best epoch of every member, or the last one if members are not validated."""

    def after_epoch(
        self, epoch: int, state: State, scores: Scores | None, scores_of: ScoresOf | None
    ) -> dict[str, Floats]:
        """Update the checkpoints with the state at the end of an epoch."""
        del scores_of
        self._update_best(epoch, state, scores)
        return {}

    def kept(self, last: State, update_batch_norm: Callable[[State], None]) -> Kept:
        """Return the checkpoints used for prediction."""
        del update_batch_norm
        return Kept.one_each(self.best.state(last), len(self.best.loss))


class _Mean:
    """Running mean of the states of every member; the number of states may differ between members."""

    def __init__(self, n_members: int) -> None:
        self.n = np.zeros(n_members, dtype=np.int64)
        self._total: State = {}

    def add(self, state: State, which: Bools) -> None:
        """Add the states of some members to their means."""
        if not self._total:
            # Sums in double precision are as exact as the mean of all states computed at once.
            self._total = {
                name: torch.zeros_like(value, dtype=torch.float64) for name, value in state.items()
            }
        chosen = _on_device(which, state)
        for name, value in state.items():
            own = value.detach()
            self._total[name] += torch.where(
                _broadcastable(chosen, own), own, torch.zeros_like(own)
            )
        self.n[which] += 1

    def take(self, other: _Mean, which: Bools) -> None:
        """Replace the means of some members by their means in `other`."""
        chosen = _on_device(which, self._total)
        for name, total in self._total.items():
            total.copy_(torch.where(_broadcastable(chosen, total), other._total[name], total))
        self.n[which] = other.n[which]

    def restart(self, which: Bools) -> None:
        """Reset the means of some members."""
        chosen = _on_device(which, self._total)
        for total in self._total.values():
            total.masked_fill_(_broadcastable(chosen, total), 0)
        self.n[which] = 0

    def state(self, like: State) -> State:
        """Return the means, with the dtypes of another state."""
        n = _on_device(np.maximum(self.n, 1), self._total)
        return {
            name: (total / _broadcastable(n, total)).to(like[name].dtype)
            for name, total in self._total.items()
        }


def _on_device(values: NDArray[Any], state: State) -> Tensor:
    """Return one value for every member on the device of a state, copied in a single transfer."""
    return torch.as_tensor(values, device=next(iter(state.values())).device)


def _broadcastable(values: Tensor, like: Tensor) -> Tensor:
    """Return one value for every member in a shape that broadcasts with a stacked tensor."""
    return values.view(-1, *[1] * (like.ndim - 1))


class WeightAverages(Checkpoints):
    """Averages the weights of every member over the epochs.

    Parameters
    ----------
    best : BestEpochs
        Best epochs of the members; from the first average on they go by the loss of the averages.
    updates : sequence of int
        Epochs after which the state enters the average.
    period : int, optional
        Number of states by which the second average starts later; see `StochasticWeightAveraging`.

    Attributes
    ----------
    wait : ndarray of shape (n_members,)
        Number of states in the second average of each member when both averages are compared next.
    """

    def __init__(self, best: BestEpochs, updates: Sequence[int], period: int | None) -> None:
        super().__init__(best)
        self.updates = frozenset(updates)
        self.first = min(updates)
        self.period = period
        n_members = len(best.loss)
        self.older, self.younger = _Mean(n_members), _Mean(n_members)
        self.wait = np.full(n_members, period or 0)
        self._state: State = {}
        self._scores: Scores | None = None

    def after_epoch(
        self, epoch: int, state: State, scores: Scores | None, scores_of: ScoresOf | None
    ) -> dict[str, Floats]:
        """Update the checkpoints with the state at the end of an epoch."""
        if epoch == self.first:
            self.best.restart()
        if epoch in self.updates:
            self._add(state)
            if scores_of is not None:
                self._state = self.older.state(state)
                self._scores = scores_of(self._state)
                self._renew(state, scores_of)
        if scores is None:
            return {}
        if self._scores is not None:
            self._update_best(epoch, self._state, self._scores)
            return self._scores.columns()
        self._update_best(epoch, state, scores)
        return {name: np.full_like(value, np.nan) for name, value in scores.columns().items()}

    def _add(self, state: State) -> None:
        if self.period is not None:
            self.younger.add(state, self.older.n >= self.period)
        self.older.add(state, np.ones(len(self.best.loss), dtype=bool))

    def _renew(self, state: State, scores_of: ScoresOf) -> None:
        """Compare both averages of the members for which a comparison is due, and keep the better one."""
        due = (self.younger.n == self.wait) & (self.wait > 0)
        if self._scores is None or not due.any():
            return
        younger = self.younger.state(state)
        scores = scores_of(younger)
        # Negated, so that an average with a loss of NaN is given up.
        better = due & ~(self._scores.rank <= scores.rank)
        self.older.take(self.younger, better)
        self.younger.restart(due)
        chosen = _on_device(better, self._state)
        for name, value in self._state.items():
            value.copy_(torch.where(_broadcastable(chosen, value), younger[name], value))
        self._scores = self._scores.replaced(scores, better)
        self.wait = np.where(better, self.period or 0, np.where(due, 2 * self.wait, self.wait))

    def kept(self, last: State, update_batch_norm: Callable[[State], None]) -> Kept:
        """Return the checkpoints used for prediction."""
        validated = bool((self.best.epoch >= 0).any())
        if validated or not self.older.n.any():
            state = self.best.state(last)
        else:
            state = self.older.state(last)
            update_batch_norm(state)
        return Kept.one_each(state, len(self.best.loss))


class Snapshots(Checkpoints):
    """Keeps the best epoch of every member, and its states at the ends of the cycles before.

    Parameters
    ----------
    best : BestEpochs
        Best epochs of the members, updated here.
    ends : sequence of int
        Last epochs of the cycles.
    averaging : SnapshotEnsemble or FastGeometricEnsemble
        Number of checkpoints and their shares.
    """

    def __init__(
        self,
        best: BestEpochs,
        ends: Sequence[int],
        averaging: SnapshotEnsemble | FastGeometricEnsemble,
    ) -> None:
        super().__init__(best)
        self.ends = frozenset(ends)
        self.averaging = averaging
        self._latest: deque[State] = deque(maxlen=int(averaging.n_snapshots))
        # Latest first. The memory of a snapshot is freed when no member refers to it any more.
        self._before_best: list[list[State]] = [[] for _ in best.loss]

    def after_epoch(
        self, epoch: int, state: State, scores: Scores | None, scores_of: ScoresOf | None
    ) -> dict[str, Floats]:
        """Update the checkpoints with the state at the end of an epoch."""
        del scores_of
        self._update_best(epoch, state, scores)
        for k in np.flatnonzero(self.best.epoch == epoch):
            self._before_best[k] = list(reversed(self._latest))
        if epoch in self.ends:
            self._latest.append({name: value.detach().clone() for name, value in state.items()})
        return {}

    def kept(self, last: State, update_batch_norm: Callable[[State], None]) -> Kept:
        """Return the checkpoints used for prediction."""
        del update_batch_norm  # each snapshot has its own batch-norm statistics
        best = self.best.state(last)
        rows: list[tuple[int, State]] = []
        shares = []
        for k, epoch in enumerate(self.best.epoch):
            latest = list(reversed(self._latest)) or [last]
            states = latest if epoch < 0 else [best, *self._before_best[k]]
            states = states[: int(self.averaging.n_snapshots)]
            rows += [(k, state) for state in states]
            shares.append(self.averaging.shares(len(states)))
        return Kept(
            {name: torch.stack([state[name][k] for k, state in rows]) for name in last},
            np.array([k for k, _ in rows]),
            np.concatenate(shares),
            by_loss=bool(self.averaging.weight_by_loss),
        )


def make_checkpoints(
    averaging: Any, schedule: Any, best: BestEpochs, *, n_epochs: int, validated: bool
) -> Checkpoints:
    """Return the rule by which checkpoints are kept.

    Parameters
    ----------
    averaging : StochasticWeightAveraging, SnapshotEnsemble, FastGeometricEnsemble or None
        Which checkpoints are used for prediction.
    schedule : schedule
        Learning-rate schedule, whose cycles count if it has any.
    best : BestEpochs
        Best epochs of the members.
    n_epochs : int
        Number of epochs.
    validated : bool
        Whether the members are validated.

    Raises
    ------
    TypeError
        If `averaging` is of another type.
    ValueError
        If schedule and averaging do not go together, or there is no validation loss to compare by.
    """
    check_averaging(averaging)
    if averaging is None:
        return _BestCheckpoints(best)
    cycle_ends = getattr(schedule, "cycle_ends", None)
    ends = [] if cycle_ends is None else list(cycle_ends(n_epochs))
    if isinstance(averaging, StochasticWeightAveraging):
        epochs = ends or list(range(n_epochs))
        updates = epochs[averaging.n_skipped(len(epochs)) :]
        if averaging.renewal_period is not None and not validated:
            msg = (
                f"{averaging!r} compares averages by their validation loss; use n_members > 1, "
                "early_stopping, or renewal_period=None."
            )
            raise ValueError(msg)
        return WeightAverages(best, updates, averaging.renewal_period)
    averaging.shares(1)
    if not ends:
        msg = (
            f"{type(averaging).__name__} keeps a checkpoint at the end of every cycle, but "
            f"{schedule!r} completes no cycle in {n_epochs} epochs; use CosineRestarts(cycle=5, growth=1) or CyclicLR()."
        )
        raise ValueError(msg)
    return Snapshots(best, ends, averaging)


class BestEpochs:
    """Keeps the best epoch of every member, and stops members that no longer improve.

    Parameters
    ----------
    n_members : int
        Number of members.
    patience : int, optional
        Number of epochs without a lower loss after which a member stops; None means never. Later epochs
        of a stopped member do not count.

    Attributes
    ----------
    loss : ndarray of shape (n_members,)
        Validation losses of the best epochs, infinite before the first epoch.
    epoch : ndarray of shape (n_members,)
        Best epochs, -1 before the first epoch.
    stopped : ndarray of shape (n_members,)
        Which members have stopped.
    """

    def __init__(self, n_members: int, patience: int | None) -> None:
        self.patience = patience
        self.loss = np.full(n_members, np.inf)
        self.epoch = np.full(n_members, -1)
        self.stopped = np.zeros(n_members, dtype=bool)
        self._least = np.full(n_members, np.inf)
        self._state: dict[str, Tensor] = {}

    def update(
        self,
        losses: NDArray[np.float64],
        epoch: int,
        state: dict[str, Tensor],
        ranked_by: NDArray[np.float64] | None = None,
    ) -> None:
        """Update the best epochs with the validation losses and the stacked state of an epoch.

        Epochs are ranked by `ranked_by` instead of the loss, if given; lower is better.
        """
        ranked_by = losses if ranked_by is None else ranked_by
        better = (ranked_by < self._least) & ~self.stopped
        if better.any():
            if not self._state:
                self._state = {name: value.detach().clone() for name, value in state.items()}
            # One transfer for each epoch instead of one for each tensor: every transfer waits for the GPU.
            device = next(iter(state.values())).device
            chosen = torch.as_tensor(np.flatnonzero(better), device=device)
            for name, value in state.items():
                self._state[name][chosen] = value.detach()[chosen]
            self._least[better] = ranked_by[better]
            self.loss[better], self.epoch[better] = losses[better], epoch
        if self.patience is not None:
            self.stopped |= epoch - self.epoch >= self.patience

    def restart(self) -> None:
        """Forget the best epochs of the members that have not stopped."""
        running = ~self.stopped
        self.loss[running] = self._least[running] = np.inf
        self.epoch[running] = -1

    def state(self, last: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the stacked state of the best epochs, and the last state for members without one."""
        if not self._state:
            return last
        has_best = torch.as_tensor(self.epoch >= 0)
        return {
            name: torch.where(
                has_best.to(best.device).view(-1, *[1] * (best.ndim - 1)), best, last[name]
            )
            for name, best in self._state.items()
        }
