"""Part of `benchmarks.speed.job`: how much memory a fit and a prediction take on top of the data of the user."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from benchmarks.common.reporting import Part
from benchmarks.common.timing import in_fresh_process, resident_bytes
from skhep_nn import CaloCNNClassifier, DenseNetClassifier, WaveformClassifier

# Small networks and large batches: what is measured is the memory of rows, not of parameters.
COMMON: dict[str, Any] = {"max_epochs": 1, "batch_size": 1024, "device": "cpu", "random_state": 0}
KINDS: dict[str, tuple[tuple[int, ...], Any]] = {
    "table, 1 member": ((40,), DenseNetClassifier(depth=2, width=16, **COMMON)),
    "table, 10 members": ((40,), DenseNetClassifier(n_members=10, depth=2, width=16, **COMMON)),
    "images": (
        (16, 16, 2),
        CaloCNNClassifier(
            network_params={"channels": (2,), "kernels": 3, "dense": (4,), "dropout": 0.0}, **COMMON
        ),
    ),
    "traces": ((1000,), WaveformClassifier(channels=2, **COMMON)),
}
# Allowed rise of the memory: a share of the bytes of the input, and a fixed part.
SHARES = {"float64": 0.6, "float32": 0.3}
FIXED = 100e6
FEW = 3000


def memory(args: argparse.Namespace) -> Part:
    """Rise of the resident memory in fit and predict, against the bytes of the input."""
    rows = {}
    for kind in KINDS:
        for dtype, share in SHARES.items():
            size = args.memory_megabytes * 1e6
            rises = in_fresh_process(rises_of, kind, dtype, size)
            rows[f"{kind}, {dtype}"] = {
                "input (MB)": size / 1e6,
                "fit (MB)": rises["fit"] / 1e6,
                "predict (MB)": rises["predict"] / 1e6,
                "wanted: at most (MB)": (share * size + FIXED) / 1e6,
            }
    return Part(
        "Memory",
        {"rise of the resident memory": pd.DataFrame(rows).T},
        notes=(
            (
                "The peak above the memory before the call, in a new process for each row of the table, after a fit "
                f"and a prediction of {FEW:,} rows, which load all libraries."
            ),
        ),
    )


def rises_of(kind: str, dtype: str, n_bytes: float) -> dict[str, float]:
    """Return the rise of the memory in a fit and a prediction in bytes; meant for a new process."""
    shape, model = KINDS[kind]
    n_rows = int(n_bytes / np.prod(shape) / np.dtype(dtype).itemsize)
    X = np.empty((n_rows, *shape), dtype=dtype)
    rng = np.random.default_rng(0)
    for start in range(0, n_rows, 10_000):  # without a temporary array of the size of the data
        block = X[start : start + 10_000]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
    y = (X.reshape(n_rows, -1)[:, 0] > 0).astype(int)
    clone(model).fit(X[:FEW], y[:FEW]).predict(X[:FEW])
    return {"fit": _rise(lambda: model.fit(X, y)), "predict": _rise(lambda: model.predict(X))}


def _rise(call: Callable[[], object]) -> float:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident_bytes("VmRSS")
    call()
    return resident_bytes("VmHWM") - before
