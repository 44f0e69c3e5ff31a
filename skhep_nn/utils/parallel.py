"""Work side by side on the cores of a CPU: threads of Python, each with one thread of torch.

Threads that share nothing but data need not wait for each other after every operation, as the threads of
OpenMP do. They do pass the interpreter's lock around between operations. Measured on 16 cores with ten
members and 50,000 events: training gains nothing from more than two threads and with eight takes twice as
long, prediction gains up to four. Forked processes would gain more, but a fork hangs or fails once the process
has used torch's threads or CUDA.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from skhep_nn.utils.interrupts import interrupts_held
from skhep_nn.utils.torch_state import one_thread_each

__all__ = ["n_groups", "side_by_side"]

T = TypeVar("T")
Task = Callable[[threading.Event], T]

# With fewer operations, starting threads takes longer than they save.
WORTH_THREADS = 1e9


def n_groups(n_workers: int, n_parts: int, n_operations: float, most: int) -> int:
    """Return how many threads, at most `most`, share the parts of a job."""
    return max(1, min(n_workers, n_parts, most)) if n_operations > WORTH_THREADS else 1


def side_by_side(tasks: Sequence[Task[T]]) -> list[T]:
    """Run tasks at the same time and return their results.

    Parameters
    ----------
    tasks : sequence of callable
        Each gets an event, which is set when its result is no longer needed: another task raised an error, or
        the user interrupted.

    Returns
    -------
    list
        Results in the order of the tasks.
    """
    stop = threading.Event()
    with one_thread_each():
        if len(tasks) == 1:
            return [tasks[0](stop)]
        with ThreadPoolExecutor(len(tasks)) as pool:
            try:
                # Interrupted while it starts a thread, a pool would not wait for this thread at the end.
                with interrupts_held():
                    futures = [pool.submit(task, stop) for task in tasks]
                return [future.result() for future in futures]
            except BaseException:
                stop.set()
                raise
