"""Work side by side on the cores of a CPU, each worker with one thread of torch's.

Workers that share nothing but data need not wait for each other after every operation, as the threads of
OpenMP do, and where another process holds a core they lose no more than that core. Python's threads still
pass the interpreter's lock around between operations, which costs two of them a fifth of their time
and makes four as slow as two (measured on the training step of the HiggsML study). So a job that is worth
it goes to forked processes, which see the same memory: what torch's own data loader does on Linux.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, NoReturn, TypeVar

from skhep_nn.utils.torch_state import one_thread_each

__all__ = ["n_groups", "side_by_side"]

T = TypeVar("T")
Task = Callable[[threading.Event], T]

# Operations below which starting threads, and processes, costs more than they gain.
WORTH_THREADS, WORTH_PROCESSES = 1e9, 2e10


def n_groups(n_workers: int, n_parts: int, n_operations: float) -> int:
    """Return over how many workers some parts of a job should be split."""
    return max(1, min(n_workers, n_parts)) if n_operations > WORTH_THREADS else 1


def side_by_side(tasks: Sequence[Task[T]], n_operations: float) -> list[T]:
    """Run tasks at the same time and return what they return.

    Parameters
    ----------
    tasks : sequence of callable
        Each is given an event that tells it that its result is no longer wanted. What it changes may be
        lost: only what it returns, which must pickle, is certain to arrive.
    n_operations : float
        Size of the whole job.

    Returns
    -------
    list
        In the order of the tasks.
    """
    with one_thread_each():
        if len(tasks) == 1:
            return [tasks[0](threading.Event())]
        if n_operations > WORTH_PROCESSES and sys.platform == "linux":
            return _in_processes(tasks)
        return _in_threads(tasks)


def _in_threads(tasks: Sequence[Task[T]]) -> list[T]:
    stop = threading.Event()
    with ThreadPoolExecutor(len(tasks)) as pool:
        futures = [pool.submit(task, stop) for task in tasks]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            raise


class _Child(NamedTuple):
    """A forked process and where its answer comes from."""

    pid: int
    answer: int

    @classmethod
    def start(cls, task: Task[Any]) -> _Child:
        """Fork a process that runs a task."""
        read, write = os.pipe()
        with warnings.catch_warnings():
            # Python warns of forks where there are threads, such as torch's: the child uses none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            os.close(read)
            _run_in_child(task, write)
        os.close(write)
        return cls(pid, read)

    def result(self) -> Any:
        """Wait for the answer and return or raise it."""
        with os.fdopen(self.answer, "rb", closefd=False) as stream:
            content = stream.read()
        if not content:
            raise RuntimeError(
                "a worker process died before it answered; it may have run out of memory. "
                "torch.set_num_threads(1) trains without worker processes."
            )
        succeeded, value = pickle.loads(content)
        if not succeeded:
            raise value
        return value

    def end(self) -> None:
        """End the process, whatever it is doing."""
        os.close(self.answer)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _run_in_child(task: Task[Any], write: int) -> NoReturn:
    """Run a task, send its answer and leave, without the exit work of the parent."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children
        try:
            content = pickle.dumps((True, task(threading.Event())))
        except BaseException as error:  # noqa: BLE001
            content = pickle.dumps((False, error))
        with os.fdopen(write, "wb") as stream:
            stream.write(content)
    finally:
        os._exit(0)


def _in_processes(tasks: Sequence[Task[T]]) -> list[T]:
    """Run the first task here and each other one in a forked process."""
    children: list[_Child] = []
    try:
        for task in tasks[1:]:
            children.append(_Child.start(task))  # noqa: PERF401 - all that were started must be ended
        own = tasks[0](threading.Event())
        return [own, *(child.result() for child in children)]
    finally:
        for child in children:
            child.end()
