"""Rows for captured training steps: copied to the GPU while it computes the steps before."""

from __future__ import annotations

from itertools import cycle
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from skhep_nn.training.batches import Batch, EventDataset, TrainBatches
from skhep_nn.training.streamed_batches import StreamTrainBatches, member_places

__all__ = ["GraphRows", "rows_for"]

# Number of host buffers for rows from a file; full buffers bridge the wait for the next chunk of the file.
_N_BUFFERS = 4


class GraphRows(Protocol):
    """Interface of the rows of a captured epoch.

    Attributes
    ----------
    block_size : int
        Number of steps whose rows are gathered at once.
    """

    block_size: int

    def stage(self, first: int) -> None:
        """Copy to the device what `gather` needs for the block of steps that starts at `first`."""

    def gather(self) -> Batch:
        """Return the rows of a block, with a leading axis of steps; this is captured in a graph."""

    def prepare_epoch(self) -> None:
        """Prepare the next epoch."""


def rows_for(batches: TrainBatches | StreamTrainBatches) -> GraphRows:
    """Return the rows of batches, in memory or read from a file."""
    return _Streamed(batches) if isinstance(batches, StreamTrainBatches) else _Planned(batches)


class _Stager:
    """Copies rows from the host while the device computes the steps before.

    Two host buffers alternate: one is filled while the other is copied to the device.
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
        """Copy rows to the device; operations enqueued after this call find them in `rows`."""
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
    """Rows in memory: on the device, or on the host if they do not fit on the device."""

    def __init__(self, batches: TrainBatches) -> None:
        self.batches = batches
        self.block_size = batches.n_gathered
        # One order of rows is drawn while the other one is still being read.
        plan = batches.draw()
        self._plans = cycle([plan.pin_memory(), torch.empty_like(plan, pin_memory=True)])
        self._plan = next(self._plans)
        self.index = torch.zeros_like(plan[: self.block_size], device=batches.device)
        self.sizes = torch.zeros_like(batches.sizes[: self.block_size])
        stage = batches.dataset.streams
        self._stager = _Stager(batches.dataset, self.index.shape) if stage else None

    def gather(self) -> Batch:
        rows = None if self._stager is None else self._stager.rows
        return self.batches.gather(self.index, self.sizes, rows=rows)

    def stage(self, first: int) -> None:
        index = self._plan[first : first + self.block_size]
        self.index[: len(index)].copy_(index, non_blocking=True)
        self.sizes[: len(index)].copy_(self.batches.sizes[first : first + self.block_size])
        if self._stager is not None:
            self._stager.stage(index)

    def prepare_epoch(self) -> None:
        self._plan = self.batches.draw(next(self._plans))


class _DeviceBuffer:
    """A tensor on the device that is filled from alternating host buffers."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.tensor = torch.zeros(shape, dtype=dtype, device=device)
        buffers = [torch.zeros(shape, dtype=dtype, pin_memory=True) for _ in range(_N_BUFFERS)]
        self._buffers = cycle(buffers)

    def buffer(self, n_rows: int) -> Tensor:
        """Return the host memory to fill next; the caller waits until it was copied to the device."""
        self._filled = next(self._buffers)[:n_rows]
        return self._filled

    def send(self) -> None:
        """Copy the filled rows to the first rows of the tensor."""
        self.tensor[: len(self._filled)].copy_(self._filled, non_blocking=True)


class _Streamed:
    """Rows read from a file batch by batch, the same for all members."""

    block_size = 1

    def __init__(self, batches: StreamTrainBatches) -> None:
        self.batches = batches
        dataset, device, width = batches.dataset, batches.device, batches.width
        dtype = torch.from_numpy(np.empty(0, dataset.X.dtype)).dtype
        self.values = _DeviceBuffer((width, *dataset.X.shape[1:]), dtype, device)
        # The first line has the row numbers in the file. One line for each member has the places of its rows
        # in the batch and, at the end, their number. All are copied at once, as a transfer is expensive.
        self.numbers = _DeviceBuffer((1 + len(batches.belongs), width + 1), torch.long, device)
        self._lane = torch.arange(width, device=device)
        self._left = cycle([torch.cuda.Event() for _ in range(_N_BUFFERS)])
        self.prepare_epoch()

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
        # If the last batch is not full, rows of the batch before are at its end, with a weight of zero.
        places, used = member_places(belongs, width)
        left = next(self._left)
        left.synchronize()
        values, numbers = self.values.buffer(n_rows), self.numbers.buffer(1 + len(belongs))
        # numpy uses this thread only; threads of torch would delay the threads that read the file.
        pick.gather(values.numpy())
        lines = numbers.numpy()
        lines[0, :n_rows] = pick.rows
        lines[1:, :-1], lines[1:, -1] = places, used.sum(axis=1)
        self.values.send()
        self.numbers.send()
        left.record()

    def prepare_epoch(self) -> None:
        self._picks = self.batches.chunks.picks()
