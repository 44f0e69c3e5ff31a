"""Timing for `benchmarks.speed.job`: variants in turn, floors, hand-written loops, fresh processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# -- timing ---------------------------------------------------------------------------------------


class Ratio(NamedTuple):
    """One variant's seconds over another's, and the project's goal for this ratio."""

    top: str
    bottom: str
    wanted: str = ""


def in_turn(variants: Mapping[str, Callable[[], float]], repeats: int) -> pd.DataFrame:
    """Run every variant once a round, so that a busy spell of the machine hits all of them.

    Variants return the seconds that count. The first round warms up and is dropped.
    """
    for run in variants.values():
        run()
    return pd.DataFrame([{name: run() for name, run in variants.items()} for _ in range(repeats)])


def seconds_of(run: Callable[[], object]) -> Callable[[], float]:
    """Return a variant for `in_turn` whose whole time counts."""

    def timed() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return timed


def medians(rounds: pd.DataFrame, unit: str = "s") -> pd.DataFrame:
    """Return median, least and most over the rounds of every variant."""
    columns = {"median": rounds.median(), "least": rounds.min(), "most": rounds.max()}
    return pd.DataFrame({f"{name} ({unit})": value for name, value in columns.items()})


def ratios(rounds: pd.DataFrame, wanted: Sequence[Ratio]) -> pd.DataFrame:
    """Return medians over the rounds of ratios within a round, where both variants have run."""
    rows = {
        f"{r.top} / {r.bottom}": {
            "ratio": (rounds[r.top] / rounds[r.bottom]).median(),
            "wanted": r.wanted,
        }
        for r in wanted
        if r.top in rounds and r.bottom in rounds
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["ratio", "wanted"])


def typical_epoch(seconds: Sequence[float]) -> float:
    """Return the median of all epochs but the first, in which memory is allocated and caches fill."""
    return float(np.median(seconds[1:] if len(seconds) > 1 else seconds))


@contextmanager
def using_threads(n_threads: int | None) -> Iterator[None]:
    """Set the number of torch's threads; None does not change it."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def finish(device: str) -> None:
    """Wait until a GPU has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def product_rate(device: str, n_threads: int | None = None) -> float:
    """Return the operations a second of a large float32 matrix product, TF32 off as by default in torch."""
    size, n_products = (8192, 5) if device == "cuda" else (2048, 1)
    a, b, out = torch.rand(3, size, size, device=device).unbind()
    with using_threads(n_threads):
        torch.mm(a, b, out=out)
        finish(device)
        start = time.perf_counter()
        for _ in range(n_products):
            torch.mm(a, b, out=out)
        finish(device)
    return n_products * 2 * size**3 / (time.perf_counter() - start)


# -- loops written by hand -------------------------------------------------------------------------


class PlainDenseNet(nn.Module):
    """The densely connected network as usually written in torch, the category in the last column."""

    def __init__(self, n_numbers: int, n_categories: int = 0, size: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_categories, size) if n_categories else None
        width = n_numbers + (size if n_categories else 0)
        self.hidden = nn.ModuleList(nn.Linear(width * (i + 1), width) for i in range(6))
        self.activation = nn.SiLU()
        self.output = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a logit for every row."""
        if self.embedding is not None:
            x = torch.cat([x[:, :-1], self.embedding(x[:, -1].long())], dim=1)
        for layer in self.hidden[:-1]:
            x = torch.cat([x, self.activation(layer(x))], dim=1)
        return self.output(self.activation(self.hidden[-1](x)))[:, 0]


class Loop:
    """A training loop by hand: tensors on the device, batches by index, Adam, no extras."""

    def __init__(
        self,
        network: nn.Module,
        rows: Tensor,
        target: Tensor,
        batch_size: int,
        *,
        autocast: torch.dtype | None = None,
        fused: bool | None = None,
    ) -> None:
        self.device = rows.device.type
        self.network = network.to(rows.device).train()
        self.rows, self.target, self.batch_size = rows, target.to(rows.device), batch_size
        self.autocast = autocast
        self.optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=fused)

    def run(self) -> None:
        """Train for one epoch."""
        order = torch.randperm(len(self.rows), device=self.rows.device)
        for batch in order.split(self.batch_size):
            self.optimiser.zero_grad()
            with torch.autocast(self.device, dtype=self.autocast, enabled=bool(self.autocast)):
                logit = self.network(self.rows[batch])
            loss = F.binary_cross_entropy_with_logits(logit.float(), self.target[batch])
            loss.backward()
            self.optimiser.step()
        finish(self.device)

    def seconds(self, passes: int) -> float:
        """Return the seconds of a typical epoch."""
        run = seconds_of(self.run)
        return typical_epoch([run() for _ in range(passes)])


# -- processes and devices ------------------------------------------------------------------------


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of a module in a new process: no caches are warm, no memory is in use."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def resident_bytes(field: str) -> float:
    """Return VmRSS (now) or VmHWM (peak) of this process; NaN where the system does not report it.

    Not the peak of getrusage, which in a new process begins with the peak of its parent.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(field)), np.nan)


def device_work(run: Callable[[], object]) -> dict[str, int]:
    """Count the kernels and copies of a GPU, the calls that start them, and the waits of the host."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    events = [e for e in profiler.events() if not getattr(e, "is_user_annotation", False)]
    starts = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")
    waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize")
    return {
        "kernels": sum(e.device_type == DeviceType.CUDA for e in events),
        "starts": sum(e.name.startswith(starts) for e in events),
        "waits": sum(e.name.startswith(waits) for e in events),
    }
