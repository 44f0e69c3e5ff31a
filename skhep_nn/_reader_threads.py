"""How many threads it takes to read as fast as what is read is used."""

from __future__ import annotations

import os

__all__ = ["ReaderThreads"]

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
