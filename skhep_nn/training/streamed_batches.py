"""Batches of rows that are read from a file during training and validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skhep_nn.inputs.shuffled_chunks import ShuffledChunks
from skhep_nn.training.batches import (
    VALID_CHUNK,
    Augmenter,
    Batch,
    EventDataset,
    TrainBatches,
    ValidBatches,
    n_steps,
    validation_totals,
)
from skhep_nn.utils.folds import Fold

__all__ = [
    "AnyTrainBatches",
    "AnyValidBatches",
    "StreamTrainBatches",
    "StreamValidBatches",
    "member_places",
    "train_batches",
    "valid_batches",
]


def _belongs(rows: Sequence[NDArray[np.int64]], n_rows: int) -> NDArray[np.bool_]:
    """Return the mask of shape (members, rows) of the rows that belong to each member."""
    belongs = np.zeros((len(rows), n_rows), dtype=np.bool_)
    for k, own in enumerate(rows):
        belongs[k, own] = True
    return belongs


def member_places(
    own: NDArray[np.bool_], width: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the places of each member's rows, padded to one width, and the mask of real rows."""
    counts = own.sum(axis=1)
    width = int(counts.max()) if width is None else width
    at = np.argsort(~own, axis=1, kind="stable")[:, :width]
    return at, np.arange(width) < counts[:, None]


class StreamTrainBatches:
    """Batches of rows that are read from a file in random order, each row once an epoch.

    Rows are read once for all members: every member trains on the same batch, without the rows of it that
    are validation rows of this member.

    Parameters
    ----------
    dataset : EventDataset
        Data whose rows are read from a file in chunks.
    rows : sequence of ndarray
        Row numbers of each member.
    batch_size : int
        Largest number of rows in a batch.
    rng : numpy.random.Generator
        Order of chunks and rows.
    augmenter : object with `transform_tensor`, optional
        Draws a random copy of every row for each member.
    generators : sequence of torch.Generator
        Random numbers of the augmenter, one generator for each member.

    Attributes
    ----------
    n_steps : int
        Number of steps of an epoch.
    width : int
        Rows of a batch.
    belongs : ndarray of shape (members, rows)
        Mask of the rows that belong to each member.
    chunks : ShuffledChunks
        Iterating over it once is one epoch.
    """

    def __init__(
        self,
        dataset: EventDataset,
        rows: Sequence[NDArray[np.int64]],
        batch_size: int,
        rng: np.random.Generator,
        *,
        augmenter: Augmenter | None,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.dataset = dataset
        self.augmenter = augmenter
        self.generators = generators
        self.device = dataset.y.device
        self.belongs = _belongs(rows, len(dataset))
        used = np.flatnonzero(self.belongs.any(axis=0))
        self.n_steps = n_steps([used], batch_size)
        # Batches have equal sizes, except that the last one may have a few rows less.
        self.width = -(-len(used) // self.n_steps)
        self.chunks = ShuffledChunks(dataset.X, self.width, rows=used, random_state=rng)

    def __len__(self) -> int:
        return self.n_steps

    def gather(self, values: Tensor, places: Tensor, index: Tensor, share: Tensor) -> Batch:
        """Return the augmented rows of a step.

        Parameters
        ----------
        values : Tensor of shape (rows, ...)
            Rows of all members.
        places : Tensor of shape (members, width)
            Places of each member's rows among them.
        index : Tensor of shape (members, width)
            Row numbers in the file.
        share : Tensor of shape (members, width)
            1 / the number of rows of a member for real rows, zero for padding.
        """
        own = [values[some] for some in places]
        if self.augmenter is not None:
            pairs = zip(own, self.generators, strict=False)
            own = [self.augmenter.transform_tensor(some, g) for some, g in pairs]
        return self.dataset.gather(index, share, torch.stack(own))

    def __iter__(self) -> Iterator[Batch]:
        for values, rows in self.chunks:
            places, used = member_places(self.belongs[:, rows])
            share = used / used.sum(axis=1, keepdims=True).clip(min=1)
            yield self.gather(
                torch.from_numpy(values).to(self.device),
                torch.as_tensor(places, device=self.device),
                torch.as_tensor(rows[places], device=self.device),
                torch.as_tensor(share, dtype=torch.float32, device=self.device),
            )


class StreamValidBatches:
    """Validation rows of each member, read once in the order of the file."""

    def __init__(self, dataset: EventDataset, folds: Sequence[Fold]) -> None:
        self.dataset = dataset
        self.device = dataset.y.device
        rows = [fold.valid for fold in folds]
        self._belongs = _belongs(rows, len(dataset))
        totals = validation_totals(dataset.weight, rows)
        self._share = torch.as_tensor(1 / totals, dtype=torch.float32, device=self.device)

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        for start in range(0, len(self.dataset), VALID_CHUNK):
            own = self._belongs[:, start : start + VALID_CHUNK]
            if not own.any():
                continue
            wanted = np.flatnonzero(own.any(axis=0))
            first, last = start + int(wanted[0]), start + int(wanted[-1]) + 1
            values = torch.from_numpy(self.dataset.X.read(first, last)).to(self.device)
            places, counts = member_places(self._belongs[:, first:last])
            at = torch.as_tensor(places, device=self.device)
            used = torch.as_tensor(counts, device=self.device)
            share = used * self._share[:, None]
            yield self.dataset.gather(first + at, share, values[at]), used


AnyTrainBatches: TypeAlias = TrainBatches | StreamTrainBatches
AnyValidBatches: TypeAlias = ValidBatches | StreamValidBatches


def train_batches(
    dataset: EventDataset,
    rows: Sequence[NDArray[np.int64]],
    batch_size: int,
    rngs: Sequence[np.random.Generator],
    *,
    augmenter: Augmenter | None,
    generators: Sequence[torch.Generator],
    n_workers: int,
) -> AnyTrainBatches:
    """Return the batches of the members' training rows, in memory or read from a file.

    A file is read in one order for all members, drawn by the generator of the first.
    """
    if not isinstance(dataset.X, Tensor):
        return StreamTrainBatches(
            dataset, rows, batch_size, rngs[0], augmenter=augmenter, generators=generators
        )
    return TrainBatches(
        dataset,
        rows,
        batch_size,
        rngs,
        augmenter=augmenter,
        generators=generators,
        n_workers=n_workers,
    )


def valid_batches(dataset: EventDataset, folds: Sequence[Fold]) -> AnyValidBatches:
    """Return the batches of the members' validation rows, in memory or read from a file."""
    if isinstance(dataset.X, Tensor):
        return ValidBatches(dataset, [fold.valid for fold in folds])
    return StreamValidBatches(dataset, folds)
