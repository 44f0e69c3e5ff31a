"""torch's global state, lent for a fit and put back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "computable",
    "half_precision",
    "one_thread_each",
    "only_stored",
    "recording_gradients",
    "tensor_of",
    "threads_for",
]

# The threads of OpenMP do not survive a fork: in a forked child the first operation of torch on several threads
# would wait for them forever. torch's own data loader sets one thread in its workers for the same reason.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))

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


def tensor_of(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor, without copying it if it is contiguous: it is only read.

    Torch warns of arrays that must not be written, such as memory maps.
    """
    array = np.ascontiguousarray(array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


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


def only_stored(rows: Tensor) -> bool:
    """Whether these are counts of 16 bits on a GPU, where torch does next to nothing with them."""
    return rows.dtype == torch.uint16 and rows.device.type == "cuda"


def computable(rows: Tensor) -> Tensor:
    """Return rows as numbers where their device only stores them as they are, else as they are."""
    if not only_stored(rows):
        return rows
    # By the signed numbers of the same bits, of which those from 32,768 on have become negative.
    signed = rows.view(torch.int16).float()
    return torch.where(signed < 0, signed + 65536, signed)
