"""Shuffled batches of data that are too large to shuffle: chunks in random order, read ahead."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skhep_nn.utils.checks import is_count

__all__ = ["ArrayChunks", "ChunkSource", "ReaderThreads", "ShuffledChunks", "even_bounds"]

Array = NDArray[Any]
Rows = NDArray[np.intp]

_BUFFER_BYTES = 64 << 20
_BUFFER_CHUNKS = 4  # at least: fewer would leave neighbours of the file together
_BUFFER_BATCHES = 4
_ROWS_PER_CHUNK = 256  # of arrays, which have no chunks of their own


@runtime_checkable
class ChunkSource(Protocol):
    """Rows that are best read a chunk at a time."""

    @property
    def chunk_bounds(self) -> Rows:
        """First row of every chunk, and the number of rows: ascending, from 0."""

    def read(self, start: int, stop: int) -> Array:
        """Read rows, a new array."""

    def __len__(self) -> int: ...


class Pick(NamedTuple):
    """A batch whose rows still lie in a buffer, until the next batch is asked for.

    Parameters
    ----------
    buffer : ndarray of shape (n_buffer, ...)
        Rows of this batch and of others.
    places : ndarray of shape (n,)
        Where in the buffer those of this batch are.
    rows : ndarray of shape (n,)
        Their numbers in the source.
    """

    buffer: Array
    places: Rows
    rows: Rows

    def gather(self, out: Array | None = None) -> Array:
        """Gather the rows, into an array of their shape and type if there is one."""
        # Without a check of numbers that are right, which would take memory beside `out`.
        values: Array = np.take(self.buffer, self.places, axis=0, out=out, mode="clip")
        return values


def even_bounds(n_rows: int, chunk_size: int) -> Rows:
    """Bounds of chunks of one size, of which the last may be smaller.

    Examples
    --------
    >>> even_bounds(10, 4)
    array([ 0,  4,  8, 10])
    """
    return np.append(np.arange(0, n_rows, chunk_size), n_rows).astype(np.intp)


class ArrayChunks:
    """An array or memory-map as a source of chunks.

    Parameters
    ----------
    array : ndarray of shape (n_rows, ...)
        In memory or mapped from a file.
    chunk_size : int, default=256
        Rows read at once.

    Examples
    --------
    >>> ArrayChunks(np.arange(6.0), chunk_size=4).read(2, 4)
    array([2., 3.])
    """

    def __init__(self, array: Array, chunk_size: int = _ROWS_PER_CHUNK) -> None:
        self.array = array
        self.chunk_size = _positive("chunk_size", chunk_size)

    @property
    def chunk_bounds(self) -> Rows:
        """First row of every chunk, and the number of rows."""
        return even_bounds(len(self.array), self.chunk_size)

    def read(self, start: int, stop: int) -> Array:
        """Read rows, a new array."""
        return np.array(self.array[start:stop])

    def __len__(self) -> int:
        return len(self.array)


class ShuffledChunks:
    """Batches in random order of rows that lie in chunks, each chunk read once an epoch.

    Chunks are dealt out into buffers: chunk ``i`` of ``n`` comes from anywhere in the ``i``-th of
    as many equal parts of the data as a buffer has chunks, so that data that are sorted, by class
    say, have much the same mixture in every buffer. Rows of a buffer are shuffled and handed out
    as batches, while threads read the next buffer. What does not fill a batch stays for the
    next buffer.

    Iterating is one epoch; each has another order, drawn from `random_state`, which does not
    depend on how fast chunks are read.

    Parameters
    ----------
    source : ChunkSource or ndarray
        What has ``read(start, stop)``, ``chunk_bounds`` and a length. A numpy array or memory-map
        is taken in chunks of 256 rows.
    batch_size : int
        Rows of a batch. The last of an epoch may be smaller.
    rows : array-like of int, default=None
        Numbers of the rows to use, each once, in any order; None means all. Chunks without any of
        them are not read.
    buffer_size : int, default=None
        Rows of a buffer, rounded up to whole chunks; there are two of them in memory. None takes
        64 MiB, and at least four chunks and four batches.
    drop_last : bool, default=False
        Leave out the last batch of an epoch where it is smaller.
    n_threads : int, default=None
        Threads that read, of which each takes other chunks: ``source.read`` must bear that unless
        it is 1. None begins with one and takes more, at most eight and one less than there are
        processors, while batches have to wait for them and reading becomes faster.
    random_state : int, numpy Generator or None, default=None
        Seed or source of random numbers.

    Raises
    ------
    TypeError
        If `source` is no source of chunks.
    ValueError
        If a number is not what it must be, or `rows` are none of the source's or not unique.

    Examples
    --------
    >>> batches = ShuffledChunks(np.arange(1_000.0), 300, random_state=0)
    >>> [len(rows) for values, rows in batches]
    [300, 300, 300, 100]
    >>> values, rows = next(iter(batches))
    >>> bool((values == rows).all())
    True
    """

    def __init__(
        self,
        source: ChunkSource | Array,
        batch_size: int,
        *,
        rows: ArrayLike | None = None,
        buffer_size: int | None = None,
        drop_last: bool = False,
        n_threads: int | None = None,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        if isinstance(source, np.ndarray):
            source = ArrayChunks(source)
        if not isinstance(source, ChunkSource):
            raise TypeError(
                f"source must be a numpy array or have read(start, stop), chunk_bounds and a "
                f"length, got {type(source).__name__}."
            )
        self.source = source
        self.batch_size = _positive("batch_size", batch_size)
        self.drop_last = drop_last
        given = None if n_threads is None else _positive("n_threads", n_threads)
        self._readers = ReaderThreads(given)
        self._rng = np.random.default_rng(random_state)
        self._rows = _assign(source, rows)
        self.n_rows = sum(map(len, self._rows))
        self._row = source.read(0, 1)
        self._per_buffer = self._chunks_per_buffer(buffer_size)

    def __len__(self) -> int:
        whole, rest = divmod(self.n_rows, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Array, Rows]]:
        return ((pick.gather(), pick.rows) for pick in self.picks())

    def picks(self) -> Iterator[Pick]:
        """Go through one epoch, and leave it to others to gather rows, whereto they like."""
        # Before anything is yielded, so that epochs do not depend on when batches are taken.
        return self._picks(self._rng.spawn(1)[0])

    def _picks(self, rng: np.random.Generator) -> Iterator[Pick]:
        """Hand out one epoch."""
        size, dealt = self.batch_size, self._deal(rng)
        kept_values, kept_rows = np.empty(0), np.empty(0, np.intp)
        for number, (values, rows) in enumerate(self._read_ahead(dealt)):
            # What was left of the buffer before goes into the room at the front.
            if kept_rows.size:
                values[: kept_rows.size], rows[: kept_rows.size] = kept_values, kept_rows
            order = rng.permutation(rows.size)
            whole = rows.size - rows.size % size
            is_last = number + 1 == len(dealt)
            end = rows.size if is_last and not self.drop_last else whole
            for start in range(0, end, size):
                chosen = order[start : min(start + size, end)]
                yield Pick(values, chosen, rows[chosen])
            kept_values, kept_rows = values[order[whole:]], rows[order[whole:]]

    def _read_ahead(self, dealt: list[list[int]]) -> Iterator[tuple[Array, Rows]]:
        """Read buffers one ahead of what is taken, with room at their front for what is left."""
        stopped = threading.Event()
        room, rooms = 0, []
        for chunks in dealt:
            rooms.append(room)
            room = (room + sum(self._rows[chunk].size for chunk in chunks)) % self.batch_size
        # In turns: to get new memory for every buffer takes about as long as to fill it.
        plans = zip(dealt, rooms, itertools.cycle(self._memory(dealt, rooms)), strict=False)
        ahead = ThreadPoolExecutor(1, "ShuffledChunks")
        with ahead, ThreadPoolExecutor(self._readers.most, "ShuffledChunks-read") as readers:
            started = (ahead.submit(self._read, readers, *plan, stopped) for plan in plans)
            try:
                is_first, following = True, next(started, None)
                while following is not None:
                    current, following = following, next(started, None)
                    waited = not current.done()
                    buffer = current.result()
                    # Of many, the first is always waited for, and the last may be small.
                    if len(dealt) < 3 or (not is_first and following is not None):
                        rate = buffer.rows.size / buffer.seconds
                        self._readers.judge(buffer.n_threads, rate, waited=waited)
                    yield buffer.values, buffer.rows
                    is_first = False
            finally:
                stopped.set()

    def _chunks_per_buffer(self, buffer_size: int | None) -> int:
        """Chunks of a buffer."""
        mean_rows = self.n_rows / max(len(self._rows), 1)
        if buffer_size is not None:
            return max(1, math.ceil(_positive("buffer_size", buffer_size) / max(mean_rows, 1)))
        if self.n_rows == 0:
            return 1
        rows = max(_BUFFER_BYTES // max(self._row.nbytes, 1), _BUFFER_BATCHES * self.batch_size)
        return max(_BUFFER_CHUNKS, math.ceil(rows / mean_rows))

    def _deal(self, rng: np.random.Generator) -> list[list[int]]:
        """Deal the chunks out into buffers, each with chunks from all over the data."""
        n = len(self._rows)
        n_buffers = math.ceil(n / self._per_buffer)
        buffers: list[list[int]] = [[] for _ in range(n_buffers)]
        for start in range(0, n, max(n_buffers, 1)):
            part = range(start, min(start + n_buffers, n))
            for chunk, buffer in zip(part, rng.permutation(n_buffers), strict=False):
                buffers[buffer].append(chunk)
        return [buffers[number] for number in rng.permutation(n_buffers)]

    def _memory(self, dealt: list[list[int]], rooms: list[int]) -> list[Array]:
        """Get memory for two buffers, the one that is handed out and the one that is read."""
        sizes = [
            room + sum(self._rows[chunk].size for chunk in chunks)
            for chunks, room in zip(dealt, rooms, strict=True)
        ]
        shape = (max(sizes, default=0), *self._row.shape[1:])
        return [np.empty(shape, self._row.dtype) for _ in dealt[:2]]

    def _read(
        self,
        readers: ThreadPoolExecutor,
        chunks: list[int],
        room: int,
        memory: Array,
        stopped: threading.Event,
    ) -> _Buffer:
        """Read the rows of some chunks behind some room, unless all stops meanwhile."""
        parts = [self._rows[chunk] for chunk in chunks]
        rows = np.concatenate([np.empty(room, np.intp), *parts])
        ends = room + np.cumsum([part.size for part in parts])
        values = memory[: rows.size]

        def fill(first: int) -> None:
            """Read every so many-th chunk to its place."""
            for part, end in zip(parts[first::n_threads], ends[first::n_threads], strict=True):
                if stopped.is_set():
                    return
                self._read_part(part, values[end - part.size : end])

        n_threads = self._readers.n_threads
        begun = time.perf_counter()
        # Going through the results raises what a thread raised.
        for _ in readers.map(fill, range(n_threads)):
            pass
        return _Buffer(values, rows, n_threads, time.perf_counter() - begun)

    def _read_part(self, part: Rows, out: Array) -> None:
        """Read the wanted rows of a chunk."""
        first = int(part[0])
        values = self.source.read(first, int(part[-1]) + 1)
        if part.size == len(values):
            out[...] = values
        else:
            np.take(values, part - first, axis=0, out=out, mode="clip")


class _Buffer(NamedTuple):
    """Rows of a buffer, their numbers, and how they were read."""

    values: Array
    rows: Rows
    n_threads: int
    seconds: float


def _positive(name: str, value: object) -> int:
    """Refuse what is not a number of rows."""
    if not is_count(value):
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    return int(value)


def _assign(source: ChunkSource, rows: ArrayLike | None) -> list[Rows]:
    """Rows to use, by chunk, without chunks that have none."""
    n, bounds = len(source), np.asarray(source.chunk_bounds, dtype=np.intp)
    if bounds[0] != 0 or bounds[-1] != n or (np.diff(bounds) < 0).any():
        raise ValueError(
            f"chunk_bounds must ascend from 0 to the number of rows, {n}, got {bounds!r}."
        )
    if rows is None:
        chosen = np.arange(n)
    else:
        chosen = np.asarray(rows)
        whole = chosen.size == 0 or np.issubdtype(chosen.dtype, np.integer)
        if chosen.ndim != 1 or not whole:
            raise ValueError(
                f"rows must be a list of row numbers, got an array of shape {chosen.shape} and "
                f"type {chosen.dtype}."
            )
        chosen = np.sort(chosen).astype(np.intp)
        if chosen.size and (chosen[0] < 0 or chosen[-1] >= n or (np.diff(chosen) == 0).any()):
            raise ValueError(
                f"rows must be numbers from 0 to {n - 1}, each once, got {chosen.size} of them "
                f"from {chosen[0]} to {chosen[-1]}, {np.unique(chosen).size} different ones."
            )
    parts = np.split(chosen, np.searchsorted(chosen, bounds[1:-1]))
    return [part for part in parts if part.size]


_MOST_THREADS = 8

_WORTH_MORE = 1.3  # times the rate that twice the threads have to read at


class ReaderThreads:
    """How many threads read: as few as keep up.

    They hold Python's lock every now and then, in each other's way and in that of whoever takes the
    batches: from a file in the page cache one thread may read faster than eight, from a slow or a packed one
    eight are faster.

    Parameters
    ----------
    n_threads : int or None
        Their number; None finds it.

    Attributes
    ----------
    most : int
        More than that will not be asked for.
    n_threads : int
        With how many to read what comes next.
    """

    def __init__(self, n_threads: int | None) -> None:
        spare = max(1, min(_MOST_THREADS, (os.cpu_count() or 1) - 1))
        self.most = spare if n_threads is None else n_threads
        self.n_threads = 1 if n_threads is None else n_threads
        self._fewer: tuple[int, float] | None = None  # threads before, and rows a second with them
        self._settled = False

    def judge(self, n_threads: int, rate: float, *, waited: bool) -> None:
        """Take note of how fast so many threads read, and whether they were waited for."""
        if self._settled or n_threads != self.n_threads:
            return
        if self._fewer is not None:
            n_fewer, its_rate = self._fewer
            if rate < _WORTH_MORE * its_rate:
                self.n_threads, self._settled = n_fewer, True
                return
            self._fewer = None
        if waited and self.n_threads < self.most:
            self._fewer = (self.n_threads, rate)
            self.n_threads = min(2 * self.n_threads, self.most)
