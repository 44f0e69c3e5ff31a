"""Which pass each member was best at, and its state there."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["BestPasses"]


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
