"""Parts of `benchmarks.waveforms.job`: rates against a plain loop of the same network, memory of a fit."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.common.reporting import Part, bars
from benchmarks.common.timing import (
    Loop,
    Ratio,
    in_fresh_process,
    in_turn,
    medians,
    ratios,
    resident_bytes,
    seconds_of,
    typical_epoch,
)
from skhep_nn.datasets.waveforms import make_waveforms
from skhep_nn.estimators import WaveformClassifier, WaveformRegressor
from skhep_nn.networks.waveform import WaveformCNN
from skhep_nn.utils.torch_state import half_precision

Array = NDArray[Any]

WANTED = "at least 0.95"
_CHUNK = 1000


class _OneLogit(nn.Module):
    """A network with its only output as a vector, as the loss by hand takes it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[:, 0]


class _Bench(NamedTuple):
    """Traces and settings; the variants return seconds of an epoch, or of a prediction of all traces."""

    X: Array
    y: Array
    args: argparse.Namespace
    device: str

    def network(self) -> nn.Module:
        """Return a network that standardises its inputs, as ours does."""
        network = WaveformCNN(self.X.shape[1:])
        network.reset_parameters()
        state = {"mean": self.X.mean(), "scale": self.X.std()}
        network.load_state_dict(
            {k: torch.full((1,), float(v)) for k, v in state.items()}, strict=False
        )
        return _OneLogit(network)

    def loop(self, autocast: torch.dtype | None) -> Callable[[], float]:
        """Train by hand, all traces on the device."""
        rows = torch.from_numpy(self.X).to(self.device)
        target = torch.from_numpy(self.y).float()
        by_hand = Loop(self.network(), rows, target, self.args.batch_size, autocast=autocast)
        return lambda: by_hand.seconds(self.args.passes)

    def predict_by_hand(self, autocast: torch.dtype | None) -> Callable[[], float]:
        """Predict batch by batch, from and to the host."""
        network = self.network().to(self.device).eval()
        rows = torch.from_numpy(self.X)

        @torch.inference_mode()
        def predict_all() -> Array:
            parts = []
            for batch in rows.split(256):
                with torch.autocast(self.device, dtype=autocast, enabled=autocast is not None):
                    parts.append(network(batch.to(self.device)))
            return torch.cat(parts).float().sigmoid().cpu().numpy()

        return seconds_of(predict_all)

    def estimator(self, precision: str, passes: int) -> WaveformClassifier:
        """Return ours."""
        return WaveformClassifier(
            precision=precision,
            batch_size=self.args.batch_size,
            max_epochs=passes,
            device=self.device,
            random_state=0,
        )

    def fit(self, precision: str) -> Callable[[], float]:
        """Train our estimator; with one member there is no validation."""

        def run() -> float:
            model = self.estimator(precision, self.args.passes).fit(self.X, self.y)
            return typical_epoch(model.history_.seconds.tolist())

        return run

    def predict(self, precision: str) -> Callable[[], float]:
        """Predict with ours."""
        few = slice(0, 2 * self.args.batch_size)
        model = self.estimator(precision, 1).fit(self.X[few], self.y[few])
        return seconds_of(lambda: model.predict_proba(self.X))


def rates(args: argparse.Namespace) -> Part:
    """Traces a second of ours and of a loop by hand of the same network."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = auto if args.device == "auto" else args.device
    signals = make_waveforms(
        args.speed_traces, n_points=args.points, n_pulses=(1, 2), random_state=args.seed
    )
    bench = _Bench(signals.traces.astype(np.float32), signals.n_pulses - 1, args, device)
    kinds: dict[str, torch.dtype | None] = {"float32": None}
    half = half_precision(torch.device(device))
    if half is not None:
        kinds[str(half).removeprefix("torch.")] = half
    tables, rounds, shown = {}, {}, []
    for task, by_hand, own in (
        ("training", bench.loop, bench.fit),
        ("prediction", bench.predict_by_hand, bench.predict),
    ):
        variants: dict[str, Callable[[], float]] = {}
        for name, autocast in kinds.items():
            variants[f"by hand, {name}"] = by_hand(autocast)
            variants[f"ours, {name}"] = own(name)
        seconds = in_turn(variants, args.repeats)
        wanted = [Ratio(f"by hand, {name}", f"ours, {name}", WANTED) for name in kinds]
        rounds[task] = len(bench.X) / seconds
        tables[f"{task}, traces a second"] = medians(rounds[task], "1/s")
        tables[f"{task}, ratios of seconds"] = ratios(seconds, wanted)
        shown.append(rounds[task].add_suffix(f", {task}"))
    note = (
        f"{len(bench.X):,} traces of {args.points:,} points in float32, preset default, batches of "
        f"{args.batch_size} in training. Rates are of a typical epoch. The loop by hand runs the same "
        "module on the same memory, in the same precision; rounds are in turn, ratios within a round."
    )
    title = "Rates"
    draw = bars(pd.concat(shown, axis=1), title, "traces a second")
    return Part(title, tables, (note,), rounds, draw)


# -- memory ---------------------------------------------------------------------------------------


def _fill(traces: Array) -> None:
    """Write counts into traces, a part at a time."""
    rng = np.random.default_rng(0)
    for first in range(0, len(traces), _CHUNK):
        part = traces[first : first + _CHUNK]
        part[:] = rng.integers(0, 1000, part.shape, dtype=np.uint16)


def one_fit(kind: str, n_bytes: float, n_points: int, device: str) -> dict[str, float]:
    """Fit on the given number of bytes of traces; meant for a new process."""
    dtype = np.float32 if kind == "float32" else np.uint16
    n = max(2, int(n_bytes) // (n_points * np.dtype(dtype).itemsize))
    target = np.arange(n) % 10 / 10
    model = WaveformRegressor(max_epochs=1, device=device, random_state=0)
    # Loads libraries before the measurement.
    model.fit(np.random.default_rng(1).random((64, n_points), dtype=np.float32), target[:64])
    before = resident_bytes("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.npy"
        if kind == "uint16, memory map":
            _fill(np.lib.format.open_memmap(path, "w+", dtype, (n, n_points)))
            traces = np.load(path, mmap_mode="r")
        else:
            traces = np.empty((n, n_points), dtype)
            _fill(traces)
        begun = time.perf_counter()
        model.fit(traces, target)
        seconds = time.perf_counter() - begun
    return {
        "data (GB)": traces.nbytes / 1e9,
        "peak beyond start (GB)": (resident_bytes("VmHWM") - before) / 1e9,
        "1.3 x data + 1 GB": 1.3 * traces.nbytes / 1e9 + 1,
        "fit (s)": seconds,
    }


def memory(args: argparse.Namespace) -> Part:
    """Peak resident memory of a fit in a fresh process."""
    n_bytes = args.memory_gb * 1e9
    kinds = ("uint16", "float32", "uint16, memory map")
    found = {
        kind: in_fresh_process(one_fit, kind, n_bytes, args.points, args.device) for kind in kinds
    }
    note = "One epoch of the default network. The memory of the traces is included."
    return Part("Memory of a fit", {"peak": pd.DataFrame(found)}, (note,))
