"""torch's global state, lent for a fit and put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = [
    "half_precision",
    "one_thread_each",
    "recording_gradients",
    "side_by_side",
    "threads_for",
]

T = TypeVar("T")

# Operations of one step or chunk below which a second thread does not pay.
_WORTH_THREADS = 1e8


@contextmanager
def threads_for(n_operations: float) -> Iterator[None]:
    """Use one thread for a small job: a second one costs more in waiting than it gains in work.

    Measured: single networks at batch 256 gain nothing from it, and where another process holds the core
    two threads that wait for each other fall to a hundredth of the rate of one.
    """
    if n_operations > _WORTH_THREADS:
        yield
        return
    with one_thread_each():
        yield


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch use no threads of its own, also in Python threads that start meanwhile."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(tasks: Sequence[Callable[[threading.Event], T]]) -> list[T]:
    """Run tasks, each on a thread with one thread of torch's, and return what they return.

    Threads that share nothing but the data need not wait for each other after every operation, as
    those of OpenMP do, and where another process holds a core they lose no more than that core. The event
    that a task is given tells it that its result is no longer wanted.
    """
    stop = threading.Event()
    with one_thread_each():
        if len(tasks) == 1:
            return [tasks[0](stop)]
        with ThreadPoolExecutor(len(tasks)) as pool:
            futures = [pool.submit(task, stop) for task in tasks]
            try:
                return [future.result() for future in futures]
            except BaseException:
                stop.set()
                raise


def half_precision(device: torch.device) -> torch.dtype | None:
    """Return the half precision that a device computes faster in than in single precision, if any."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # With AVX-512-bf16 or AMX; without, bfloat16 is emulated and slower.
        native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else None


@contextmanager
def recording_gradients() -> Iterator[None]:
    """Train even where the caller has switched gradients off."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield
