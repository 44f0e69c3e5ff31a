"""How the rows of captured training steps come to a GPU."""

from __future__ import annotations

from itertools import cycle
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from skhep_nn.training.batches import Batch, EventDataset, TrainBatches
from skhep_nn.training.streamed_batches import StreamTrainBatches, own_first

__all__ = ["GraphedRows", "rows_for"]

# Buffers on the host for rows from a file: a wait for the next piece of it is bridged by those on their way.
_N_BUFFERS = 4


class GraphedRows(Protocol):
    """Where a captured pass has its rows from.

    Attributes
    ----------
    at_once : int
        Steps of a block.
    """

    at_once: int

    def stage(self, first: int) -> None:
        """Bring what `gather` needs for the block that starts with a step."""

    def gather(self) -> Batch:
        """Return the rows of a block, with a leading axis of steps; this is captured."""

    def turn(self) -> None:
        """Prepare the next pass."""


def rows_for(batches: TrainBatches | StreamTrainBatches) -> GraphedRows:
    """Return the rows of batches."""
    return _Streamed(batches) if isinstance(batches, StreamTrainBatches) else _Planned(batches)


class _Stager:
    """Brings rows from the host while the device is busy with those before.

    Two buffers on the host take turns: one is filled while the other is on its way.
    """

    def __init__(self, dataset: EventDataset, shape: torch.Size) -> None:
        self.dataset = dataset
        row = dataset.X.shape[1:]
        device = dataset.y.device
        self.rows = torch.zeros(*shape, *row, dtype=dataset.X.dtype, device=device)
        self._arrived = torch.empty_like(self.rows)
        self._stream = torch.cuda.Stream()
        buffers = [
            torch.empty(self.rows.shape, dtype=self.rows.dtype, pin_memory=True) for _ in range(2)
        ]
        self._buffers = cycle(zip(buffers, (torch.cuda.Event(), torch.cuda.Event()), strict=True))
        self._taken = torch.cuda.Event()

    def stage(self, index: Tensor) -> None:
        """Bring rows; work enqueued on the device from now on finds them in `rows`."""
        buffer, left = next(self._buffers)
        left.synchronize()
        filled = buffer.flatten(0, 2)[: index.numel()]
        torch.index_select(self.dataset.X, 0, index.flatten(), out=filled)
        main = torch.cuda.current_stream()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._taken)
            self._arrived.copy_(buffer, non_blocking=True)
            left.record()
        main.wait_stream(self._stream)
        self.rows.copy_(self._arrived)
        self._taken.record(main)


class _Planned:
    """Rows by number, from the device or, where that cannot hold them, from the host."""

    def __init__(self, batches: TrainBatches) -> None:
        self.batches = batches
        self.at_once = batches.n_gathered
        # One plan is drawn while the other is still being read.
        plan = batches.draw()
        self._plans = cycle([plan.pin_memory(), torch.empty_like(plan, pin_memory=True)])
        self._plan = next(self._plans)
        self.index = torch.zeros_like(plan[: self.at_once], device=batches.device)
        self.sizes = torch.zeros_like(batches.sizes[: self.at_once])
        stage = batches.dataset.streams
        self._stager = _Stager(batches.dataset, self.index.shape) if stage else None

    def gather(self) -> Batch:
        rows = None if self._stager is None else self._stager.rows
        return self.batches.gather(self.index, self.sizes, rows=rows)

    def stage(self, first: int) -> None:
        index = self._plan[first : first + self.at_once]
        self.index[: len(index)].copy_(index, non_blocking=True)
        self.sizes[: len(index)].copy_(self.batches.sizes[first : first + self.at_once])
        if self._stager is not None:
            self._stager.stage(index)

    def turn(self) -> None:
        self._plan = self.batches.draw(next(self._plans))


class _Arriving:
    """A tensor on the device that is filled from buffers on the host in turns."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.tensor = torch.zeros(shape, dtype=dtype, device=device)
        buffers = [torch.zeros(shape, dtype=dtype, pin_memory=True) for _ in range(_N_BUFFERS)]
        self._buffers = cycle(buffers)

    def buffer(self, n_rows: int) -> Tensor:
        """Return the memory to fill next; whoever does sees to it that it has left."""
        self._filled = next(self._buffers)[:n_rows]
        return self._filled

    def send(self) -> None:
        """Bring what has been filled to the first rows."""
        self.tensor[: len(self._filled)].copy_(self._filled, non_blocking=True)


class _Streamed:
    """Rows that come batch by batch from a file, the same for all members."""

    at_once = 1

    def __init__(self, batches: StreamTrainBatches) -> None:
        self.batches = batches
        dataset, device, width = batches.dataset, batches.device, batches.width
        dtype = torch.from_numpy(np.empty(0, dataset.X.dtype)).dtype
        self.values = _Arriving((width, *dataset.X.shape[1:]), dtype, device)
        # One line with the rows' numbers in the file, one for each member with the places of its own among
        # them and, at the end, how many these are: one transfer, for each costs as much as the other work
        # on a batch.
        self.numbers = _Arriving((1 + len(batches.belongs), width + 1), torch.long, device)
        self._lane = torch.arange(width, device=device)
        self._left = cycle([torch.cuda.Event() for _ in range(_N_BUFFERS)])
        self.turn()

    def gather(self) -> Batch:
        rows, own = self.numbers.tensor[0], self.numbers.tensor[1:]
        places, counts = own[:, :-1], own[:, -1:]
        share = (self._lane < counts) / counts.clamp(min=1)
        batch = self.batches.gather(self.values.tensor, places, rows[places], share)
        return Batch(*(part.unsqueeze(0) for part in batch))

    def stage(self, first: int) -> None:
        del first
        pick = next(self._picks)
        n_rows, width = len(pick.rows), len(self._lane)
        belongs = np.zeros((len(self.batches.belongs), width), dtype=np.bool_)
        belongs[:, :n_rows] = self.batches.belongs[:, pick.rows]
        # A last batch that is not full has rows of the one before at its end, of weight zero.
        places, used = own_first(belongs, width)
        left = next(self._left)
        left.synchronize()
        values, numbers = self.values.buffer(n_rows), self.numbers.buffer(1 + len(belongs))
        # On this thread alone: those of torch would keep the ones that read waiting.
        pick.gather(values.numpy())
        lines = numbers.numpy()
        lines[0, :n_rows] = pick.rows
        lines[1:, :-1], lines[1:, -1] = places, used.sum(axis=1)
        self.values.send()
        self.numbers.send()
        left.record()

    def turn(self) -> None:
        self._picks = self.batches.chunks.picks()
