"""Global state of torch, changed for the time of a fit or a prediction and restored afterwards."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "as_signed",
    "computable",
    "half_precision",
    "one_thread_each",
    "only_stored",
    "recording_gradients",
    "tensor_of",
    "threads_for",
    "usual_defaults",
]

# The threads of OpenMP do not survive a fork: in a forked child the first operation of torch on several threads
# would wait for them forever. torch's own data loader sets one thread in its workers for the same reason.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))

# A step or chunk of fewer operations is no faster with a second thread.
_WORTH_THREADS = 1e8


@contextmanager
def threads_for(n_operations: float) -> Iterator[None]:
    """Use one thread for a small job, where a second thread costs more in waiting than it saves.

    Measured: a single network at batch size 256 gains nothing from a second thread, and if another process
    occupies a core, two threads that wait for each other reach a hundredth of the rate of one.
    """
    if n_operations > _WORTH_THREADS:
        yield
        return
    with one_thread_each():
        yield


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Make every operation of torch use one thread, also in Python threads started inside the block."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def tensor_of(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor, without a copy if it is contiguous. The tensor must only be read.

    The warning of torch about arrays that are not writable, such as memory maps, is suppressed.
    """
    array = np.ascontiguousarray(array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def half_precision(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type in which a device computes faster than in float32, or None."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Without AVX-512-bf16 or AMX, bfloat16 is emulated and slower.
        native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else None


class _Float32:
    """Makes float32 the default dtype of torch while any thread asks for it.

    The default belongs to the whole process: the last thread to leave restores it, not the first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._before = torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                self._before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self._n_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                torch.set_default_dtype(self._before)


_FLOAT32 = _Float32()


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Give new tensors torch's usual dtype and device, float32 and the CPU, whatever the user has set."""
    usual_device = torch.get_default_device() == torch.device("cpu")
    # A device that is set, even the CPU, is looked up in every call of torch, which costs time.
    with _FLOAT32, nullcontext() if usual_device else torch.device("cpu"):
        yield


@contextmanager
def recording_gradients() -> Iterator[None]:
    """Enable gradients, also inside a caller's `torch.no_grad` or `torch.inference_mode`."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def only_stored(rows: Tensor) -> bool:
    """Whether rows are uint16 on a GPU, where torch supports almost no operation on them."""
    return rows.dtype == torch.uint16 and rows.device.type == "cuda"


def computable(rows: Tensor) -> Tensor:
    """Return rows as float32 if they are `only_stored` on their device, otherwise unchanged."""
    if not only_stored(rows):
        return rows
    # The same bits read as int16: values from 32,768 on appear negative.
    signed = rows.view(torch.int16).float()
    return torch.where(signed < 0, signed + 65536, signed)


# Few functions of torch accept unsigned integers, so these are viewed as signed ones of the same bits.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def as_signed(X: Tensor) -> Tensor:
    """View unsigned integers as signed ones of the same bits; return other tensors unchanged."""
    signed = _SIGNED.get(X.dtype)
    return X if signed is None else X.view(signed)
