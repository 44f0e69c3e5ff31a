"""What a step is made of: rows of every member, gathered by index from data on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.dataset import Dataset
from torch import Tensor

__all__ = ["VALID_CHUNK", "Batch", "EventDataset", "Fold", "TrainBatches", "ValidBatches"]

#: Rows of all members together that are validated at once: on a CPU what its cache holds, on a GPU enough
#: to fill it.
VALID_CHUNK, CUDA_VALID_CHUNK = 2048, 262_144
# Vector units treat the last few events of a piece of work by other instructions than the rest, with
# another rounding, and where pieces end depends on the number of threads. Batches filled up to a multiple
# of this (by rows of weight zero) train to the same bits on one thread and on two.
_LANES = 64

IntArray = NDArray[np.int64]


class Batch(NamedTuple):
    """Rows of every member.

    `weight` is the event weight over the number of rows, so that the loss of a member is the plain sum
    of weight times loss; it is zero where a row only fills the shape.
    """

    X: Tensor
    y: Tensor
    weight: Tensor


class Fold(NamedTuple):
    """Row numbers that one member is trained and validated on."""

    train: IntArray
    valid: IntArray


class EventDataset(Dataset):  # type: ignore[misc]
    """Rows, targets and event weights on one device."""

    def __init__(self, X: Tensor, y: Tensor, weight: Tensor) -> None:
        super().__init__(X, y)
        self.weight = weight

    def gather(self, index: Tensor, share: Tensor) -> Batch:
        """Return the rows of a batch, their weights times their shares."""
        return Batch(self.X[index], self.y[index], self.weight[index] * share)


def _filled(width: int) -> int:
    """Return the width of a batch with its lanes filled; narrow ones are not cut into pieces at all."""
    return -(-width // _LANES) * _LANES if width > _LANES else width


class TrainBatches:
    """Shuffled batches of all members; every pass draws a new order.

    The rows of a member are cut into as many pieces as the largest member needs to keep to
    `batch_size`, equal to within one row: no small last batch with a loud gradient, and one shape for
    all steps.
    """

    def __init__(
        self,
        dataset: EventDataset,
        rows: Sequence[IntArray],
        batch_size: int,
        rngs: Sequence[np.random.Generator],
    ) -> None:
        self.dataset = dataset
        self.rows = rows
        self.rngs = rngs
        self.n_steps = max(-(-len(r) // batch_size) for r in rows)
        self.width = _filled(max(-(-len(r) // self.n_steps) for r in rows))
        self._index = np.zeros((self.n_steps, len(rows), self.width), dtype=np.int64)
        self._share = np.zeros((self.n_steps, len(rows), self.width), dtype=np.float32)
        for k, r in enumerate(rows):
            sizes = np.diff(self._edges(len(r)))
            self._share[:, k] = (np.arange(self.width) < sizes[:, None]) / sizes[:, None]

    def _edges(self, n_rows: int) -> IntArray:
        """Return where the pieces of a member's rows begin and end."""
        return np.arange(self.n_steps + 1) * n_rows // self.n_steps

    def __len__(self) -> int:
        return self.n_steps

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw the order of one pass: row numbers and shares of shape (steps, members, width)."""
        filled = self._share > 0
        for k, (rows, rng) in enumerate(zip(self.rows, self.rngs, strict=True)):
            index = self._index[:, k]
            index[filled[:, k]] = rng.permutation(rows)
        return self.template(self.dataset.X.device)

    def template(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the plan of the last pass drawn; of zeros before the first."""
        plan = (self._index, self._share)
        index, share = (torch.as_tensor(part, device=device) for part in plan)
        return index, share

    def __iter__(self) -> Iterator[Batch]:
        for index, share in zip(*self.draw(), strict=True):
            yield self.dataset.gather(index, share)


class ValidBatches:
    """The rows that each member is validated on, in order; short members are filled with weight 0."""

    def __init__(self, dataset: EventDataset, rows: Sequence[IntArray]) -> None:
        self.dataset = dataset
        width = _filled(max(len(r) for r in rows))
        index = np.zeros((len(rows), width), dtype=np.int64)
        share = np.zeros((len(rows), width), dtype=np.float32)
        total = dataset.weight.double().cpu().numpy()
        for k, r in enumerate(rows):
            if not total[r].sum() > 0:
                msg = (
                    f"the {len(r)} rows that member {k} is validated on have a total weight of "
                    f"{total[r].sum():g}; use fewer members or folds with enough positive weights."
                )
                raise ValueError(msg)
            index[k, : len(r)] = r
            share[k, : len(r)] = 1 / total[r].sum()
        device = dataset.X.device
        self._index = torch.as_tensor(index, device=device)
        self._share = torch.as_tensor(share, device=device)
        self._used = torch.as_tensor(np.arange(width) < [[len(r)] for r in rows], device=device)
        chunk = VALID_CHUNK if device.type == "cpu" else CUDA_VALID_CHUNK
        self._chunk = _filled(max(_LANES, chunk // len(rows)))

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        parts = (t.split(self._chunk, dim=1) for t in (self._index, self._share, self._used))
        for index, share, used in zip(*parts, strict=True):
            yield self.dataset.gather(index, share), used
