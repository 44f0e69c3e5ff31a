"""Which states of the members are kept while they train: best passes, averages of weights, snapshots.

Members are held stacked; what happens to one does not touch the others.
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
    "BestPasses",
    "Kept",
    "KeptStates",
    "Scores",
    "ScoresOf",
    "Snapshots",
    "WeightAverages",
    "kept_states",
]

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
ScoresOf: TypeAlias = Callable[[State], "Scores"]


class Scores(NamedTuple):
    """What validation says of every member; the accuracy only where that is what counts."""

    loss: Floats
    accuracy: Floats | None = None

    @property
    def rank(self) -> Floats:
        """What states are ranked by: the lower the better."""
        return self.loss if self.accuracy is None else -self.accuracy

    def replaced(self, other: Scores, which: Bools) -> Scores:
        """Return these scores, of some members those of other states."""
        accuracy = None
        if self.accuracy is not None and other.accuracy is not None:
            accuracy = np.where(which, other.accuracy, self.accuracy)
        return Scores(np.where(which, other.loss, self.loss), accuracy)

    def columns(self) -> dict[str, Floats]:
        """Return them as columns of the history."""
        both = {"averaged_valid_loss": self.loss, "averaged_valid_accuracy": self.accuracy}
        return {name: value for name, value in both.items() if value is not None}


class Kept(NamedTuple):
    """The states that predict, stacked, each with the member it is of and its share in that one.

    `by_loss` tells whether members count by 1 / their validation loss.
    """

    state: State
    member: NDArray[np.int64]
    share: Floats
    by_loss: bool = True

    @classmethod
    def one_each(cls, state: State, n_members: int) -> Kept:
        """One state of every member."""
        return cls(state, np.arange(n_members), np.ones(n_members))


class KeptStates(ABC):
    """Told of every pass, it knows in the end which states predict.

    Parameters
    ----------
    best : BestPasses
        Kept up to date.
    """

    def __init__(self, best: BestPasses) -> None:
        self.best = best

    @abstractmethod
    def after_pass(
        self, epoch: int, state: State, scores: Scores | None, scores_of: ScoresOf | None
    ) -> dict[str, Floats]:
        """Take note of the state that a pass has left; return columns of the history.

        Parameters
        ----------
        epoch : int
            The pass.
        state : dict of str to Tensor
            The stacked state, which training goes on to change.
        scores : Scores or None
            Of this state; None where members are not validated.
        scores_of : callable or None
            Returns the scores of any other state, with its running moments put right.
        """

    @abstractmethod
    def kept(self, last: State, put_right: Callable[[State], None]) -> Kept:
        """Return the states that predict.

        Parameters
        ----------
        last : dict of str to Tensor
            The stacked state after the last pass.
        put_right : callable
            Puts the running moments of a state right.
        """

    def _note(self, epoch: int, state: State, scores: Scores | None) -> None:
        if scores is not None:
            self.best.update(scores.loss, epoch, state, scores.rank)


class _BestStates(KeptStates):
    """Of every member the state of its best pass, or of the last where it is not validated."""

    def after_pass(
        self, epoch: int, state: State, scores: Scores | None, scores_of: ScoresOf | None
    ) -> dict[str, Floats]:
        """Update what is kept with the state at the end of an epoch."""
        del scores_of
        self._note(epoch, state, scores)
        return {}

    def kept(self, last: State, put_right: Callable[[State], None]) -> Kept:
        """Return the states that are used for prediction."""
        del put_right
        return Kept.one_each(self.best.state(last), len(self.best.loss))


class _Mean:
    """Means of the states of members, of each over as many states as it was given."""

    def __init__(self, n_members: int) -> None:
        self.n = np.zeros(n_members, dtype=np.int64)
        self._total: State = {}

    def add(self, state: State, which: Bools) -> None:
        """Take in the states of some members."""
        if not self._total:
            # In double precision a total is as exact as the mean of the states computed at once.
            self._total = {
                name: torch.zeros_like(value, dtype=torch.float64) for name, value in state.items()
            }
        chosen = _on_device(which, state)
        for name, value in state.items():
            own = value.detach()
            self._total[name] += torch.where(_beside(chosen, own), own, torch.zeros_like(own))
        self.n[which] += 1

    def take(self, other: _Mean, which: Bools) -> None:
        """Take over the means of some members; the others begin anew with their next state."""
        chosen = _on_device(which, self._total)
        for name, total in self._total.items():
            total.copy_(torch.where(_beside(chosen, total), other._total[name], total))
        self.n[which] = other.n[which]

    def restart(self, which: Bools) -> None:
        """Let the means of some members begin anew with their next state."""
        chosen = _on_device(which, self._total)
        for total in self._total.values():
            total.masked_fill_(_beside(chosen, total), 0)
        self.n[which] = 0

    def state(self, like: State) -> State:
        """Return the means, in the precision of another state."""
        n = _on_device(np.maximum(self.n, 1), self._total)
        return {
            name: (total / _beside(n, total)).to(like[name].dtype)
            for name, total in self._total.items()
        }


def _on_device(values: NDArray[Any], state: State) -> Tensor:
    """Bring a value for every member to where a state lies: one transfer, not one for every tensor."""
    return torch.as_tensor(values, device=next(iter(state.values())).device)


def _beside(values: Tensor, like: Tensor) -> Tensor:
    """Return a value for every member in a shape that goes with a stacked tensor."""
    return values.view(-1, *[1] * (like.ndim - 1))


class WeightAverages(KeptStates):
    """Of every member a mean of the states that it went through.

    Parameters
    ----------
    best : BestPasses
        Kept up to date: from the first mean on it is told of means.
    updates : sequence of int
        Passes after which a state enters.
    period : int, optional
        By how many states a second mean lags behind at first; see `StochasticWeightAveraging`.

    Attributes
    ----------
    wait : ndarray of shape (n_members,)
        How many states the second mean of each member has when both are compared next.
    """

    def __init__(self, best: BestPasses, updates: Sequence[int], period: int | None) -> None:
        super().__init__(best)
        self.updates = frozenset(updates)
        self.first = min(updates)
        self.period = period
        n_members = len(best.loss)
        self.older, self.younger = _Mean(n_members), _Mean(n_members)
        self.wait = np.full(n_members, period or 0)
        self._state: State = {}
        self._scores: Scores | None = None

    def after_pass(
        self, epoch: int, state: State, scores: Scores | None, scores_of: ScoresOf | None
    ) -> dict[str, Floats]:
        """Update what is kept with the state at the end of an epoch."""
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
            self._note(epoch, self._state, self._scores)
            return self._scores.columns()
        self._note(epoch, state, scores)
        return {name: np.full_like(value, np.nan) for name, value in scores.columns().items()}

    def _add(self, state: State) -> None:
        if self.period is not None:
            self.younger.add(state, self.older.n >= self.period)
        self.older.add(state, np.ones(len(self.best.loss), dtype=bool))

    def _renew(self, state: State, scores_of: ScoresOf) -> None:
        """Compare the means of the members whose time it is, and keep the better."""
        due = (self.younger.n == self.wait) & (self.wait > 0)
        if self._scores is None or not due.any():
            return
        younger = self.younger.state(state)
        scores = scores_of(younger)
        # So that a mean that is not a number is given up.
        better = due & ~(self._scores.rank <= scores.rank)
        self.older.take(self.younger, better)
        self.younger.restart(due)
        chosen = _on_device(better, self._state)
        for name, value in self._state.items():
            value.copy_(torch.where(_beside(chosen, value), younger[name], value))
        self._scores = self._scores.replaced(scores, better)
        self.wait = np.where(better, self.period or 0, np.where(due, 2 * self.wait, self.wait))

    def kept(self, last: State, put_right: Callable[[State], None]) -> Kept:
        """Return the states that are used for prediction."""
        validated = bool((self.best.epoch >= 0).any())
        if validated or not self.older.n.any():
            state = self.best.state(last)
        else:
            state = self.older.state(last)
            put_right(state)
        return Kept.one_each(state, len(self.best.loss))


class Snapshots(KeptStates):
    """Of every member its best state and those at the ends of cycles before it.

    Parameters
    ----------
    best : BestPasses
        Kept up to date.
    ends : sequence of int
        Passes with which a cycle ends.
    averaging : SnapshotEnsemble or FastGeometricEnsemble
        How many states count, and how much.
    """

    def __init__(
        self,
        best: BestPasses,
        ends: Sequence[int],
        averaging: SnapshotEnsemble | FastGeometricEnsemble,
    ) -> None:
        super().__init__(best)
        self.ends = frozenset(ends)
        self.averaging = averaging
        self._latest: deque[State] = deque(maxlen=int(averaging.n_snapshots))
        # Latest first. A snapshot is forgotten when no member refers to it any more.
        self._before_best: list[list[State]] = [[] for _ in best.loss]

    def after_pass(
        self, epoch: int, state: State, scores: Scores | None, scores_of: ScoresOf | None
    ) -> dict[str, Floats]:
        """Update what is kept with the state at the end of an epoch."""
        del scores_of
        self._note(epoch, state, scores)
        for k in np.flatnonzero(self.best.epoch == epoch):
            self._before_best[k] = list(reversed(self._latest))
        if epoch in self.ends:
            self._latest.append({name: value.detach().clone() for name, value in state.items()})
        return {}

    def kept(self, last: State, put_right: Callable[[State], None]) -> Kept:
        """Return the states that are used for prediction."""
        del put_right  # each state has the moments that it was reached with
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


def kept_states(
    averaging: Any, schedule: Any, best: BestPasses, *, n_epochs: int, validated: bool
) -> KeptStates:
    """Return what keeps the states that are wanted.

    Parameters
    ----------
    averaging : StochasticWeightAveraging, SnapshotEnsemble, FastGeometricEnsemble or None
        What is wanted.
    schedule : schedule
        Whose cycles count, where it has any.
    best : BestPasses
        Best passes of the members.
    n_epochs : int
        Number of passes.
    validated : bool
        Whether the members are validated.

    Raises
    ------
    TypeError
        If `averaging` is none of these.
    ValueError
        If schedule and averaging do not go together, or there is no validation loss to compare by.
    """
    check_averaging(averaging)
    if averaging is None:
        return _BestStates(best)
    cycle_ends = getattr(schedule, "cycle_ends", None)
    ends = [] if cycle_ends is None else list(cycle_ends(n_epochs))
    if isinstance(averaging, StochasticWeightAveraging):
        passes = ends or list(range(n_epochs))
        updates = passes[averaging.n_skipped(len(passes)) :]
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
            f"{type(averaging).__name__} keeps states of the ends of cycles, but in {n_epochs} passes "
            f"{schedule!r} completes none; use CosineRestarts(cycle=5, growth=1) or CyclicLR()."
        )
        raise ValueError(msg)
    return Snapshots(best, ends, averaging)


class BestPasses:
    """Keeps the state of every member's best pass, and stops members that no longer improve.

    Parameters
    ----------
    n_members : int
        Number of members.
    patience : int, optional
        Passes without a better one after which a member stops; never if left out. What a
        stopped member reaches later does not count.

    Attributes
    ----------
    loss : ndarray of shape (n_members,)
        Validation losses of the best passes, infinite before the first.
    epoch : ndarray of shape (n_members,)
        Their passes, -1 before the first.
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
        """Take note of the validation losses of a pass and the stacked state after it.

        The lower the better; so is what passes are ranked by instead of the loss.
        """
        ranked_by = losses if ranked_by is None else ranked_by
        better = (ranked_by < self._least) & ~self.stopped
        if better.any():
            if not self._state:
                self._state = {name: value.detach().clone() for name, value in state.items()}
            # One transfer a pass, not one for every tensor: a GPU would be waited for each time.
            device = next(iter(state.values())).device
            chosen = torch.as_tensor(np.flatnonzero(better), device=device)
            for name, value in state.items():
                self._state[name][chosen] = value.detach()[chosen]
            self._least[better] = ranked_by[better]
            self.loss[better], self.epoch[better] = losses[better], epoch
        if self.patience is not None:
            self.stopped |= epoch - self.epoch >= self.patience

    def restart(self) -> None:
        """Let only later passes count, for members that have not stopped."""
        running = ~self.stopped
        self.loss[running] = self._least[running] = np.inf
        self.epoch[running] = -1

    def state(self, last: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the stacked state of the best passes; of the last for members that had none."""
        if not self._state:
            return last
        had = torch.as_tensor(self.epoch >= 0)
        return {
            name: torch.where(
                had.to(best.device).view(-1, *[1] * (best.ndim - 1)), best, last[name]
            )
            for name, best in self._state.items()
        }
