"""What a step is made of: rows of every member, gathered by index from data on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.dataset import Dataset
from torch import Tensor

__all__ = [
    "VALID_CHUNK",
    "Augmenter",
    "Batch",
    "EventDataset",
    "Fold",
    "TrainBatches",
    "ValidBatches",
    "n_steps",
]

#: Rows of all members together that are validated at once: on a CPU what its cache holds, on a GPU enough
#: to fill it.
VALID_CHUNK, CUDA_VALID_CHUNK = 2048, 262_144
# Vector units treat the last few events of a piece of work by other instructions than the rest, with
# another rounding, and where pieces end depends on the number of threads. Batches filled up to a multiple
# of this (by rows of weight zero) train to the same bits on one thread and on two.
_LANES, _FEW_LANES = 64, 32

# What is gathered in one go: for one member on a CPU what the cache of a core holds, for all members on a
# GPU what keeps it busy.
_GATHERED_BYTES = 1 << 18
_CUDA_GATHERED_BYTES, _CUDA_GATHERED_STEPS = 1 << 26, 32

IntArray = NDArray[np.int64]


class Augmenter(Protocol):
    """What training needs of an augmenter."""

    def transform_tensor(self, X: Tensor, generator: torch.Generator) -> Tensor:
        """Return one random copy of every row."""


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
    """Return the width of a batch with its lanes filled; narrow ones are not cut into pieces."""
    lanes = _LANES if width > _LANES else _FEW_LANES
    return -(-width // lanes) * lanes


def n_steps(rows: Sequence[IntArray], batch_size: int) -> int:
    """Return the number of steps of a pass: what the member with most rows needs."""
    return max(-(-len(r) // batch_size) for r in rows)


class TrainBatches:
    """Shuffled batches of all members; every pass draws a new order.

    The rows of a member are cut into as many pieces as the largest member needs to keep to
    `batch_size`, equal to within one row: no small last batch with a loud gradient, and one shape for
    all steps.

    Parameters
    ----------
    dataset : EventDataset
        Where rows come from.
    rows : sequence of ndarray
        Row numbers of each member.
    batch_size : int
        Largest number of rows of one member in one step.
    rngs : sequence of numpy.random.Generator
        Order of the rows of each member.
    augmenter : object with `transform_tensor`, optional
        Draws a random copy of every row.
    generators : sequence of torch.Generator, default=()
        Random numbers of the augmenter, one a member; on a GPU the first serves all.

    Attributes
    ----------
    n_steps : int
        Steps of a pass.
    width : int
        Rows of a member in a batch, those that only fill the shape included.
    n_gathered : int
        Steps whose rows are gathered (and augmented) in one go: single steps are small work, and what
        a call costs beside its arithmetic counts.
    share : Tensor of shape (n_steps, members, width)
        One over the number of rows in the batch; zero where a row only fills the shape.
    """

    def __init__(
        self,
        dataset: EventDataset,
        rows: Sequence[IntArray],
        batch_size: int,
        rngs: Sequence[np.random.Generator],
        *,
        augmenter: Augmenter | None = None,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.dataset = dataset
        self.rows = rows
        self.rngs = rngs
        self.augmenter = augmenter
        self.generators = generators
        self.n_steps = n_steps(rows, batch_size)
        self.width = _filled(max(-(-len(r) // self.n_steps) for r in rows))
        self._index = np.zeros((self.n_steps, len(rows), self.width), dtype=np.int64)
        share = np.zeros(self._index.shape, dtype=np.float32)
        for k, r in enumerate(rows):
            sizes = np.diff(self._edges(len(r)))
            share[:, k] = (np.arange(self.width) < sizes[:, None]) / sizes[:, None]
        self._filled = share > 0
        self.device = dataset.X.device
        self.share = torch.as_tensor(share, device=self.device)
        self.n_gathered = self._steps_at_once()

    def _edges(self, n_rows: int) -> IntArray:
        """Return where the pieces of a member's rows begin and end."""
        return np.arange(self.n_steps + 1) * n_rows // self.n_steps

    def _steps_at_once(self) -> int:
        row = self.dataset.X[:1]
        n_bytes = self.width * row.numel() * row.element_size()
        if self.device.type == "cpu":
            at_once = _GATHERED_BYTES // n_bytes
        else:
            at_once = min(_CUDA_GATHERED_STEPS, _CUDA_GATHERED_BYTES // (n_bytes * len(self.rows)))
        return int(min(max(1, at_once), self.n_steps))

    def __len__(self) -> int:
        return self.n_steps

    def draw(self) -> Tensor:
        """Draw the order of one pass: row numbers of shape (n_steps, members, width), on the host.

        They are overwritten by the next draw.
        """
        for k, (rows, rng) in enumerate(zip(self.rows, self.rngs, strict=True)):
            self._index[:, k][self._filled[:, k]] = rng.permutation(rows)
        return torch.from_numpy(self._index)

    def gather(self, index: Tensor, share: Tensor, members: slice = slice(None)) -> Batch:
        """Return the augmented rows of some steps, with a leading axis of steps.

        Parameters
        ----------
        index, share : Tensor of shape (steps, members, width)
            Rows and their shares, on the device of the data.
        members : slice, optional
            Which members these are.
        """
        y, weight = self.dataset.y[index], self.dataset.weight[index] * share
        if self.device.type != "cpu":
            return Batch(self._augmented(self.dataset.X[index], 0), y, weight)
        # Member by member: rows stay in the cache of a core between gathering and augmenting, and what
        # is drawn for a member does not depend on which others it is trained beside.
        steps, n_members, width = index.shape
        shape = self.dataset.X.shape[1:]
        X = self.dataset.X.new_empty(n_members, steps * width, *shape)
        for j, k in enumerate(range(len(self.rows))[members]):
            torch.index_select(self.dataset.X, 0, index[:, j].flatten(), out=X[j])
            if self.augmenter is not None:
                X[j] = self._augmented(X[j], k)
        return Batch(X.view(n_members, steps, width, *shape).transpose(0, 1), y, weight)

    def _augmented(self, X: Tensor, member: int) -> Tensor:
        if self.augmenter is None:
            return X
        return self.augmenter.transform_tensor(X, self.generators[member])

    def batches(self, index: Tensor, members: slice = slice(None)) -> Iterator[Batch]:
        """Go through the steps of a pass for some members."""
        parts = (index[:, members], self.share[:, members])
        for some_index, some_share in zip(*(p.split(self.n_gathered) for p in parts), strict=True):
            gathered = self.gather(some_index.to(self.device), some_share, members)
            yield from (Batch(*parts) for parts in zip(*gathered, strict=True))

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(self.draw())


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
        return self.batches(self._chunk)

    def batches(self, width: int, members: slice = slice(None)) -> Iterator[tuple[Batch, Tensor]]:
        """Go through the rows of some members, so many of each at a time, and which of them count."""
        parts = (t[members].split(width, dim=1) for t in (self._index, self._share, self._used))
        for index, share, used in zip(*parts, strict=True):
            yield self.dataset.gather(index, share), used
