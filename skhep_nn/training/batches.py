"""Batches: rows of every member, gathered by index from data on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.dataset import Dataset
from torch import Tensor

from skhep_nn.utils.folds import IntArray
from skhep_nn.utils.torch_state import computable, only_stored

__all__ = [
    "VALID_CHUNK",
    "Augmenter",
    "Batch",
    "EventDataset",
    "TrainBatches",
    "ValidBatches",
    "n_steps",
    "validation_totals",
]

#: Number of rows, over all members, that are validated at once: fits the cache of a CPU, keeps a GPU busy.
VALID_CHUNK, CUDA_VALID_CHUNK = 2048, 32_768
# Batches are padded to a multiple of this by rows of weight zero. The rows at the end of each thread's part
# are rounded differently by vector instructions, so without padding results would depend on the number of
# threads.
_LANES, _FEW_LANES = 64, 32

# Number of row numbers in an epoch from which they are drawn on several threads.
_WORTH_THREADS = 500_000
# Bytes that are gathered at once: rows of one member fit the cache of a CPU core, rows of all members keep a
# GPU busy.
_GATHERED_BYTES = 1 << 18
_CUDA_GATHERED_BYTES, _CUDA_GATHERED_STEPS = 1 << 26, 32


class Augmenter(Protocol):
    """Interface of an augmenter."""

    def transform_tensor(self, X: Tensor, generator: torch.Generator) -> Tensor:
        """Return one random copy of every row."""


class Batch(NamedTuple):
    """Rows of every member.

    `weight` is the event weight divided by the number of rows, so that the loss of a member is the sum of
    weight times loss. Padding has a weight of zero.
    """

    X: Tensor
    y: Tensor
    weight: Tensor


class EventDataset(Dataset):  # type: ignore[misc]
    """Rows, targets and event weights.

    Targets and weights are on the device of the training; rows are on the device too, or on the host if
    they need too much memory.
    """

    def __init__(self, X: Tensor, y: Tensor, weight: Tensor) -> None:
        super().__init__(X, y)
        self.weight = weight

    @property
    def streams(self) -> bool:
        """Whether rows are copied from the host batch by batch."""
        return bool(self.X.device != self.y.device)

    def rows(self, index: Tensor) -> Tensor:
        """Return rows on the device of the targets."""
        X, index = self.X, index.to(self.X.device)
        # torch cannot gather unsigned 16-bit integers on a GPU, but it can gather signed ones.
        stored = only_stored(X)
        rows: Tensor = X.view(torch.int16)[index].view(X.dtype) if stored else X[index]
        return rows.to(self.y.device)

    def gather(self, index: Tensor, share: Tensor, rows: Tensor | None = None) -> Batch:
        """Return a batch of rows (gathered unless given), their targets, and their weights times `share`."""
        rows = self.rows(index) if rows is None else rows
        return Batch(computable(rows), self.y[index], self.weight[index] * share)


def _filled(width: int) -> int:
    """Return the number of rows of a batch with padding; small batches need less of it."""
    lanes = _LANES if width > _LANES else _FEW_LANES
    return -(-width // lanes) * lanes


def n_steps(rows: Sequence[IntArray], batch_size: int) -> int:
    """Return the number of steps of an epoch, given by the member with most rows."""
    return max(-(-len(r) // batch_size) for r in rows)


class TrainBatches:
    """Shuffled batches of all members; every epoch draws a new order.

    The rows of each member are cut into the same number of batches, with sizes that are equal within one
    row. No last batch is small with a noisy gradient, and all steps have one shape.

    Parameters
    ----------
    dataset : EventDataset
        Rows, targets and weights.
    rows : sequence of ndarray
        Row numbers of each member.
    batch_size : int
        Largest number of rows of one member in a batch.
    rngs : sequence of numpy.random.Generator
        Order of the rows of each member.
    augmenter : object with `transform_tensor`, optional
        Draws a random copy of every row.
    generators : sequence of torch.Generator, default=()
        Random numbers of the augmenter, one generator for each member; a GPU uses the first for all.
    n_workers : int, default=1
        Number of threads that draw the order of the rows.

    Attributes
    ----------
    n_steps : int
        Number of steps of an epoch.
    width : int
        Rows of a member in a batch, padding included.
    n_gathered : int
        Number of steps whose rows are gathered (and augmented) at once, to reduce the overhead of calls.
    sizes : Tensor of shape (n_steps, members)
        Numbers of rows without padding.
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
        n_workers: int = 1,
    ) -> None:
        self.dataset = dataset
        self.n_workers = n_workers
        # Short integers halve the memory of the order of an epoch, which has one for every row of every member.
        self._rows = [r.astype(np.int32 if len(dataset) < 2**31 else np.int64) for r in rows]
        self.rngs = rngs
        self.augmenter = augmenter
        self.generators = generators
        self.n_steps = n_steps(rows, batch_size)
        self.width = _filled(max(-(-len(r) // self.n_steps) for r in rows))
        self.device = dataset.y.device
        sizes = np.stack([np.diff(self._edges(len(r))) for r in rows], axis=1)
        self.sizes = torch.as_tensor(sizes, dtype=torch.float32, device=self.device)
        self._lane = torch.arange(self.width, device=self.device)
        self.n_gathered = self._steps_at_once()

    def _edges(self, n_rows: int) -> IntArray:
        """Return the boundaries of the batches among the rows of a member."""
        return np.arange(self.n_steps + 1) * n_rows // self.n_steps

    def _steps_at_once(self) -> int:
        row = self.dataset.X[:1]
        n_bytes = self.width * row.numel() * row.element_size()
        if self.device.type == "cpu":
            at_once = _GATHERED_BYTES // n_bytes
        else:
            at_once = min(_CUDA_GATHERED_STEPS, _CUDA_GATHERED_BYTES // (n_bytes * len(self._rows)))
        return int(min(max(1, at_once), self.n_steps))

    def __len__(self) -> int:
        return self.n_steps

    def draw(self, out: Tensor | None = None) -> Tensor:
        """Draw the order of the rows of one epoch.

        Parameters
        ----------
        out : Tensor of shape (n_steps, members, width), optional
            Memory for the result, with the dtype of the row numbers.

        Returns
        -------
        Tensor of shape (n_steps, members, width)
            Row numbers, on the host. Padding has the numbers of other rows of the member.
        """
        shape = (self.n_steps, len(self._rows), self.width)
        index = np.empty(shape, dtype=self._rows[0].dtype) if out is None else out.numpy()
        lane = np.arange(self.width)

        def draw_for(k: int) -> None:
            rows = self._rows[k]
            at = self._edges(len(rows))[:-1, None] + lane
            # Padding takes the rows that come next, as copies of a single row would distort batch-norm
            # statistics.
            index[:, k] = np.take(self.rngs[k].permutation(rows), at, mode="wrap")

        members = range(len(self._rows))
        if self.n_workers > 1 and index.size > _WORTH_THREADS:
            # Shuffling releases the interpreter's lock.
            with ThreadPoolExecutor(min(self.n_workers, len(members))) as pool:
                list(pool.map(draw_for, members))
        else:
            for k in members:
                draw_for(k)
        return torch.from_numpy(index)

    def shares(self, sizes: Tensor) -> Tensor:
        """Return 1 / the number of rows for real rows, and zero for padding."""
        sizes = sizes.unsqueeze(-1)
        return (self._lane < sizes) / sizes.clamp(min=1)

    def gather(
        self,
        index: Tensor,
        sizes: Tensor,
        members: slice = slice(None),
        rows: Tensor | None = None,
    ) -> Batch:
        """Return the augmented rows of some steps, with a leading axis of steps.

        Parameters
        ----------
        index : Tensor of shape (steps, members, width)
            Row numbers, on the device of the training.
        sizes : Tensor of shape (steps, members)
            Numbers of rows without padding.
        members : slice, optional
            The members.
        rows : Tensor of shape (steps, members, width, ...), optional
            The rows, if already gathered.
        """
        share = self.shares(sizes)
        if self.device.type != "cpu":
            batch = self.dataset.gather(index, share, rows)
            return batch._replace(X=self._augmented(batch.X, 0))
        # Member by member, so that rows stay in the cache between gathering and augmenting, and random
        # numbers of a member do not depend on the other members.
        steps, n_members, width = index.shape
        shape = self.dataset.X.shape[1:]
        numbers = [index[:, j].flatten() for j in range(n_members)]
        if self.augmenter is None:
            X = self.dataset.X.new_empty(n_members, steps * width, *shape)
            for own, into in zip(numbers, X, strict=True):
                torch.index_select(self.dataset.X, 0, own, out=into)
        else:
            # Stacked instead of written in place, as augmenters may return another dtype.
            own_rows = (self.dataset.X.index_select(0, own) for own in numbers)
            ks = range(len(self._rows))[members]
            X = torch.stack([self._augmented(r, k) for r, k in zip(own_rows, ks, strict=True)])
        X = X.view(n_members, steps, width, *shape).transpose(0, 1)
        return self.dataset.gather(index, share, X)

    def _augmented(self, X: Tensor, member: int) -> Tensor:
        if self.augmenter is None:
            return X
        return self.augmenter.transform_tensor(X, self.generators[member])

    def batches(self, index: Tensor, members: slice = slice(None)) -> Iterator[Batch]:
        """Iterate over the batches of an epoch for some members."""
        parts = (index[:, members], self.sizes[:, members])
        for some_index, sizes in zip(*(p.split(self.n_gathered) for p in parts), strict=True):
            gathered = self.gather(some_index.to(self.device), sizes, members)
            yield from (Batch(*step) for step in zip(*gathered, strict=True))

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(self.draw())


def validation_totals(weight: Tensor, rows: Sequence[IntArray]) -> NDArray[np.float64]:
    """Return the total weight of the validation rows of each member, which must be positive."""
    weights = weight.double().cpu().numpy()
    totals = np.array([weights[r].sum() for r in rows])
    for k, r in enumerate(rows):
        if not totals[k] > 0:
            msg = (
                f"the {len(r)} validation rows of member {k} have a total weight of "
                f"{totals[k]:g}; use fewer members or folds with enough positive weights."
            )
            raise ValueError(msg)
    return totals


class ValidBatches:
    """Validation rows of each member, in order, padded to one length by rows of weight zero."""

    def __init__(self, dataset: EventDataset, rows: Sequence[IntArray]) -> None:
        self.dataset = dataset
        self.width = _filled(max(len(r) for r in rows))
        index = np.zeros(
            (len(rows), self.width), dtype=np.int32 if len(dataset) < 2**31 else np.int64
        )
        totals = validation_totals(dataset.weight, rows)
        for k, r in enumerate(rows):
            index[k, : len(r)] = r
        device = dataset.y.device
        self._index = torch.as_tensor(index, device=device)
        self._share = torch.as_tensor(1 / totals, dtype=torch.float32, device=device).unsqueeze(-1)
        self._sizes = torch.as_tensor([[len(r)] for r in rows], device=device)
        chunk = VALID_CHUNK if device.type == "cpu" else CUDA_VALID_CHUNK
        self._chunk = _filled(max(_LANES, chunk // len(rows)))

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        return self.batches(self._chunk)

    def batches(self, width: int, members: slice = slice(None)) -> Iterator[tuple[Batch, Tensor]]:
        """Iterate over the rows of some members, `width` of each at a time, with the mask of real rows."""
        share, sizes = self._share[members], self._sizes[members]
        for start in range(0, self.width, width):
            index = self._index[members, start : start + width]
            used = torch.arange(start, start + index.shape[1], device=index.device) < sizes
            yield self.dataset.gather(index, used * share), used
