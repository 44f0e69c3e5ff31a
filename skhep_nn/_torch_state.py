"""torch's global state, lent for a fit and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["recording_gradients", "threads_for"]

# Operations of one step or chunk below which a second thread does not pay.
_WORTH_THREADS = 1e8


@contextmanager
def threads_for(n_operations: float) -> Iterator[None]:
    """Use one thread for a small job: a second one costs more in waiting than it gains in work.

    Measured: single networks at batch 256 gain nothing from it, and where another process holds the core
    two threads that wait for each other fall to a hundredth of the rate of one.
    """
    before = torch.get_num_threads()
    if before == 1 or n_operations > _WORTH_THREADS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def recording_gradients() -> Iterator[None]:
    """Train even where the caller has switched gradients off."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield
