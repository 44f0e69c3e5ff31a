"""Shuffled batches of data that do not fit into memory: chunks in random order, read ahead."""

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

__all__ = ["ArrayChunks", "ChunkSource", "Pick", "ReaderThreads", "ShuffledChunks", "even_bounds"]

Array = NDArray[Any]
Rows = NDArray[np.intp]

_BUFFER_BYTES = 64 << 20
_BUFFER_CHUNKS = 4  # minimum: with fewer, rows that are neighbours in the file stay together
_BUFFER_BATCHES = 4
_ROWS_PER_CHUNK = 256  # for arrays, which are not stored in chunks


@runtime_checkable
class ChunkSource(Protocol):
    """Source of rows that is read chunk by chunk."""

    @property
    def chunk_bounds(self) -> Rows:
        """First row of every chunk, followed by the number of rows: ascending, from 0."""

    def read(self, start: int, stop: int) -> Array:
        """Read the rows from `start` to before `stop` into a new array."""

    def __len__(self) -> int: ...


class Pick(NamedTuple):
    """A batch as places in a buffer, valid until the next batch is requested.

    Parameters
    ----------
    buffer : ndarray of shape (n_buffer, ...)
        Rows of this batch and of other batches.
    places : ndarray of shape (n,)
        Positions in the buffer of the rows of this batch.
    rows : ndarray of shape (n,)
        Numbers of these rows in the source.
    """

    buffer: Array
    places: Rows
    rows: Rows

    def gather(self, out: Array | None = None) -> Array:
        """Return the rows as an array, written into `out` if it is given."""
        # mode="raise" would check the numbers and allocate a second array.
        values: Array = np.take(self.buffer, self.places, axis=0, out=out, mode="clip")
        return values


def even_bounds(n_rows: int, chunk_size: int) -> Rows:
    """Return the bounds of chunks of equal size; the last one may be smaller.

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
        Number of rows read at once.

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
        """First row of every chunk, followed by the number of rows."""
        return even_bounds(len(self.array), self.chunk_size)

    def read(self, start: int, stop: int) -> Array:
        """Read the rows from `start` to before `stop` into a new array."""
        return np.array(self.array[start:stop])

    def __len__(self) -> int:
        return len(self.array)


class ShuffledChunks:
    """Batches in random order of rows that are stored in chunks; each chunk is read once an epoch.

    Chunks are distributed over buffers. The data are divided into as many equal parts as a buffer has
    chunks, and the buffer takes a random chunk of each part, so that all buffers have a similar mixture even
    if the data are sorted, for example by class. The rows of a buffer are shuffled and returned as
    batches, while threads read the next buffer. Rows that do not fill a batch are kept for the next
    buffer.

    One iteration is one epoch. Every epoch has another order, drawn from `random_state`, which does not
    depend on how fast chunks are read.

    Parameters
    ----------
    source : ChunkSource or ndarray
        Object with ``read(start, stop)``, ``chunk_bounds`` and a length. A numpy array or memory-map
        is read in chunks of 256 rows.
    batch_size : int
        Number of rows of a batch. The last batch of an epoch may be smaller.
    rows : array-like of int, default=None
        Numbers of the rows to use, each once, in any order; None means all. Chunks without any of
        these rows are not read.
    buffer_size : int, default=None
        Number of rows of a buffer, rounded up to whole chunks; two buffers are in memory. None means
        64 MiB, but at least four chunks and four batches.
    drop_last : bool, default=False
        Leave out the last batch of an epoch if it is smaller than `batch_size`.
    n_threads : int, default=None
        Number of threads that read, each its share of the chunks; with more than one, ``source.read`` must
        be thread-safe. None starts with one thread and doubles the number while batches wait and
        reading becomes faster, up to eight and to one less than the number of processors.
    random_state : int, numpy Generator or None, default=None
        Seed or source of random numbers.

    Raises
    ------
    TypeError
        If `source` is no source of chunks.
    ValueError
        If a parameter is out of range, or `rows` are not rows of the source or not unique.

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
        """Yield the batches of one epoch without gathering their rows, so that the caller chooses where to."""
        # Drawn before the first batch, so that the order does not depend on when batches are taken.
        return self._picks(self._rng.spawn(1)[0])

    def _picks(self, rng: np.random.Generator) -> Iterator[Pick]:
        """Yield the batches of one epoch."""
        size, dealt = self.batch_size, self._deal(rng)
        kept_values, kept_rows = np.empty(0), np.empty(0, np.intp)
        for number, (values, rows) in enumerate(self._read_ahead(dealt)):
            # Rows left over from the previous buffer go to the front.
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
        """Yield buffers while the next one is read, with room at their front for rows left over."""
        stopped = threading.Event()
        room, rooms = 0, []
        for chunks in dealt:
            rooms.append(room)
            room = (room + sum(self._rows[chunk].size for chunk in chunks)) % self.batch_size
        # Two buffers in turns, as allocating memory takes about as long as filling it.
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
                    # The first buffer is always waited for and the last may be small: neither measures speed.
                    if len(dealt) < 3 or (not is_first and following is not None):
                        rate = buffer.rows.size / buffer.seconds
                        self._readers.judge(buffer.n_threads, rate, waited=waited)
                    yield buffer.values, buffer.rows
                    is_first = False
            finally:
                stopped.set()

    def _chunks_per_buffer(self, buffer_size: int | None) -> int:
        """Return the number of chunks of a buffer."""
        mean_rows = self.n_rows / max(len(self._rows), 1)
        if buffer_size is not None:
            return max(1, math.ceil(_positive("buffer_size", buffer_size) / max(mean_rows, 1)))
        if self.n_rows == 0:
            return 1
        rows = max(_BUFFER_BYTES // max(self._row.nbytes, 1), _BUFFER_BATCHES * self.batch_size)
        return max(_BUFFER_CHUNKS, math.ceil(rows / mean_rows))

    def _deal(self, rng: np.random.Generator) -> list[list[int]]:
        """Distribute the chunks over buffers, each with chunks from all parts of the data."""
        n = len(self._rows)
        n_buffers = math.ceil(n / self._per_buffer)
        buffers: list[list[int]] = [[] for _ in range(n_buffers)]
        for start in range(0, n, max(n_buffers, 1)):
            part = range(start, min(start + n_buffers, n))
            for chunk, buffer in zip(part, rng.permutation(n_buffers), strict=False):
                buffers[buffer].append(chunk)
        return [buffers[number] for number in rng.permutation(n_buffers)]

    def _memory(self, dealt: list[list[int]], rooms: list[int]) -> list[Array]:
        """Allocate two buffers, one to take batches from and one to read into."""
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
        """Read the rows of some chunks behind free room, unless the epoch is stopped."""
        parts = [self._rows[chunk] for chunk in chunks]
        rows = np.concatenate([np.empty(room, np.intp), *parts])
        ends = room + np.cumsum([part.size for part in parts])
        values = memory[: rows.size]

        def fill(first: int) -> None:
            """Read every `n_threads`-th chunk to its place."""
            for part, end in zip(parts[first::n_threads], ends[first::n_threads], strict=True):
                if stopped.is_set():
                    return
                self._read_part(part, values[end - part.size : end])

        n_threads = self._readers.n_threads
        begun = time.perf_counter()
        # Iterating over the results raises the errors of the threads.
        for _ in readers.map(fill, range(n_threads)):
            pass
        return _Buffer(values, rows, n_threads, time.perf_counter() - begun)

    def _read_part(self, part: Rows, out: Array) -> None:
        """Read the wanted rows of a chunk."""
        first = int(part[0])
        last = int(part[-1])
        values = self.source.read(first, last + 1)
        expected = (last + 1 - first, *self._row.shape[1:])
        # Fewer rows would be repeated below, and another type would be cast without a word.
        if values.shape != expected or values.dtype != self._row.dtype:
            raise ValueError(
                f"source.read({first}, {last + 1}) must return rows like the first, of shape {expected} "
                f"and type {self._row.dtype}, got {values.shape} of {values.dtype}. Has the file changed?"
            )
        if part.size == len(values):
            out[...] = values
        else:
            np.take(values, part - first, axis=0, out=out, mode="clip")


class _Buffer(NamedTuple):
    """Rows of a buffer, their numbers, and the number of threads and seconds it took to read them."""

    values: Array
    rows: Rows
    n_threads: int
    seconds: float


def _positive(name: str, value: object) -> int:
    """Return a number of rows or threads, checked."""
    if not is_count(value):
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    return int(value)


def _assign(source: ChunkSource, rows: ArrayLike | None) -> list[Rows]:
    """Return the rows to use of every chunk, without the chunks that are not needed."""
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

_WORTH_MORE = 1.3  # speed-up that justifies doubling the number of threads


class ReaderThreads:
    """Decides how many threads read: as few as are needed.

    Threads compete for Python's lock, also with the consumer of the batches. One thread may be faster than
    eight for a file in the page cache; eight are faster for a slow or compressed file.

    Parameters
    ----------
    n_threads : int or None
        Number of threads; None adapts it to measured speeds.

    Attributes
    ----------
    most : int
        Largest number of threads that may be used.
    n_threads : int
        Number of threads for the next buffer.
    """

    def __init__(self, n_threads: int | None) -> None:
        spare = max(1, min(_MOST_THREADS, (os.cpu_count() or 1) - 1))
        self.most = spare if n_threads is None else n_threads
        self.n_threads = 1 if n_threads is None else n_threads
        self._fewer: tuple[int, float] | None = (
            None  # previous number of threads and their rows per second
        )
        self._settled = False

    def judge(self, n_threads: int, rate: float, *, waited: bool) -> None:
        """Update the number of threads after a buffer.

        Parameters
        ----------
        n_threads : int
            Number of threads that read the buffer.
        rate : float
            Rows per second.
        waited : bool
            Whether batches had to wait for the buffer.
        """
        if self._settled or n_threads != self.n_threads:
            return
        if self._fewer is not None:
            n_fewer, previous_rate = self._fewer
            if rate < _WORTH_MORE * previous_rate:
                self.n_threads, self._settled = n_fewer, True
                return
            self._fewer = None
        if waited and self.n_threads < self.most:
            self._fewer = (self.n_threads, rate)
            self.n_threads = min(2 * self.n_threads, self.most)
