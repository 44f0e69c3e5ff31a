"""Parts of `benchmarks.speed.job`: time and memory against the size of the job, and rows that stay on the host."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from benchmarks.common.reporting import Part, bars
from benchmarks.common.timing import (
    in_fresh_process,
    in_turn,
    resident_bytes,
    typical_epoch,
)
from skhep_nn import DenseNetClassifier
from skhep_nn.estimators import base as _base
from skhep_nn.networks import DenseNet

SECONDS, MEMORY = "seconds an epoch", "peak memory (MB)"
#: Fixed, so that the number of parameters grows linearly with the features, not quadratically.
WIDTH = 32


class Size(NamedTuple):
    """The size of a job."""

    rows: int
    members: int
    features: int


def normal_rows(n_rows: int, n_features: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return rows that cost little to make, and two classes."""
    X = np.random.default_rng(0).standard_normal((n_rows, n_features), dtype=np.float32)
    return X, (X[:, 0] > 0).astype(np.int64)


def model_of(n_members: int, device: str, passes: int) -> DenseNetClassifier:
    """Return the study's depth and batch, with a width that does not depend on the features."""
    return DenseNetClassifier(
        n_members=n_members, width=WIDTH, max_epochs=passes, device=device, random_state=0
    )


def seconds_a_pass(model: DenseNetClassifier) -> float:
    """Return the seconds of a typical epoch of a fitted model."""
    return typical_epoch(model.history_.query("member == 0").seconds.tolist())


# -- curves ---------------------------------------------------------------------------------------


def one_fit(device: str, passes: int, size: Size) -> dict[str, float]:
    """Return time of an epoch and peak memory of a fit; meant for a new process."""
    X, y = normal_rows(size.rows, size.features)
    n_few = 40 * size.members
    model_of(size.members, device, 1).fit(
        X[:n_few], y[:n_few]
    )  # loads libraries before the measurement
    gc.collect()
    before = resident_bytes("VmRSS")
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = model_of(size.members, device, passes).fit(X, y)
    if device == "cuda":
        peak = float(torch.cuda.max_memory_allocated())
    else:
        # The rows exist before the fit and are not copied; they are added, as they count on a GPU.
        peak = resident_bytes("VmHWM") - before + X.nbytes
    n_parameters = DenseNet(size.features, width=WIDTH).n_parameters
    data = X.nbytes + 8 * size.rows  # and four bytes each of a target and a weight
    networks = 16 * n_parameters * size.members  # parameter, gradient and Adam's two moments
    return {
        SECONDS: seconds_a_pass(model),
        MEMORY: peak / 1e6,
        "data + model (MB)": (data + networks) / 1e6,
        "peak / (data + model)": peak / (data + networks),
    }


def scale(args: argparse.Namespace) -> Part:
    """Time of an epoch and peak memory against rows, members and features, one at a time."""
    largest = 10_000_000 if args.device == "cuda" else 1_000_000
    rows = args.scale_rows or [10**k for k in range(4, 8) if 10**k <= largest]
    values = {"rows": rows, "members": args.scale_members, "features": args.scale_features}
    base = Size(*args.scale_base)
    found: dict[Size, dict[str, float]] = {}
    notes = []
    for name, points in values.items():
        for size in (base._replace(**{name: point}) for point in points):
            if size in found:
                continue
            try:
                found[size] = in_fresh_process(one_fit, args.device, args.passes, size)
            except (BrokenProcessPool, MemoryError, torch.OutOfMemoryError) as error:
                notes.append(f"{size} ended without a figure: {type(error).__name__}.")
                found[size] = {}
    tables = {}
    for name, points in values.items():
        sizes = [base._replace(**{name: point}) for point in points]
        tables[name] = pd.DataFrame([found[s] for s in sizes], index=[f"{p:,}" for p in points])
    curves = {
        (name, figure): (np.array(points, dtype=float), tables[name][figure].to_numpy())
        for name, points in values.items()
        for figure in (SECONDS, MEMORY)
        if figure in tables[name]
    }
    lines = {
        f"{figure} against {name}": dict(zip(LINE_COLUMNS, line(*curve), strict=True))
        for (name, figure), curve in curves.items()
        if len(curve[0]) > 1
    }
    if lines:
        tables["straight lines, a fixed part and one in proportion"] = pd.DataFrame(lines).T
    where = "of the device" if args.device == "cuda" else "of the process, less what it had before"
    notes.insert(
        0,
        f"Where nothing else is said: {base.rows:,} rows, {base.members} members, {base.features} "
        f"features; {WIDTH} neurons a layer, batches of 256. Memory is the peak {where}. The model is "
        "parameters, gradients and Adam's moments of all members. A process for each figure.",
    )
    return Part("Scale", tables, tuple(notes), None, partial(draw, curves))


LINE_COLUMNS = ["fixed", "for each", "furthest point, relative"]


class Line(NamedTuple):
    """A straight line through a curve, and its largest relative deviation from a point."""

    fixed: float
    per_unit: float
    worst: float


def line(x: NDArray[np.float64], y: NDArray[np.float64]) -> Line:
    """Fit a fixed and a proportional part, both at least zero, to the curve; all points have equal weight."""
    used = np.isfinite(y) & (y > 0)
    if len(set(x[used])) < 2:
        return Line(np.nan, np.nan, np.nan)
    columns = np.column_stack([np.ones(used.sum()), x[used]]) / y[used, None]
    (fixed, per_unit), _ = nnls(columns, np.ones(used.sum()))
    worst = np.abs(columns @ [fixed, per_unit] - 1).max()
    return Line(float(fixed), float(per_unit), float(worst))


def draw(curves: dict[tuple[str, str], Any], path: Path) -> None:
    """Draw every curve on logarithmic axes, with its straight line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panels = figure.subplots(2, 3, squeeze=False)
    for axes, ((name, quantity), (x, y)) in zip(panels.T.flat, curves.items(), strict=False):
        axes.loglog(x, y, "o")
        fixed, per_unit, _ = line(x, y)
        if np.isfinite(fixed):
            shown = np.geomspace(x.min(), x.max(), 100)
            label = f"{fixed:.2g} + {per_unit:.2g} x"
            axes.loglog(shown, fixed + per_unit * shown, "-", color="tab:grey", label=label)
            axes.legend()
        axes.set_xlabel(name)
        axes.set_ylabel(quantity)
    figure.savefig(path, dpi=150)


# -- rows on the host -----------------------------------------------------------------------------


@contextmanager
def no_rows_on_the_device() -> Iterator[None]:
    """Leave the rows on the host, as if the device had no room for them."""
    share = _base._DEVICE_SHARE
    _base._DEVICE_SHARE = 0.0
    try:
        yield
    finally:
        _base._DEVICE_SHARE = share


def stream(args: argparse.Namespace) -> Part:
    """Time of an epoch with rows brought from the host, over the time with rows on the device."""
    there, streamed = "rows on the device", "rows on the host"
    found, rounds = {}, {}
    for n_features in args.stream_features:
        X, y = normal_rows(args.stream_rows, n_features)

        def fit(
            X: NDArray[np.float32] = X, y: NDArray[np.int64] = y, *, streams: bool = False
        ) -> float:
            model = model_of(args.scale_base[1], args.device, args.passes)
            if not streams:
                return seconds_a_pass(model.fit(X, y))
            with no_rows_on_the_device():
                return seconds_a_pass(model.fit(X, y))

        variants: dict[str, Callable[[], float]] = {
            there: fit,
            streamed: partial(fit, streams=True),
        }
        seconds = in_turn(variants, args.repeats)
        rounds[f"{n_features} features"] = seconds
        n_bytes = X.nbytes * args.scale_base[1]
        found[f"{n_features} features"] = {
            f"{there} (s)": seconds[there].median(),
            f"{streamed} (s)": seconds[streamed].median(),
            "rate kept": (seconds[there] / seconds[streamed]).median(),
            "brought (GB/s)": n_bytes / seconds[streamed].median() / 1e9,
        }
    note = (
        f"An epoch of {args.stream_rows:,} rows, {args.scale_base[1]} members, {WIDTH} neurons a layer. "
        "Every member reads its own rows in its own order, so the data are transferred once per member."
    )
    together = pd.concat([r.add_suffix(f", {name}") for name, r in rounds.items()], axis=1)
    title = "Rows on the host"
    tables = {"seconds an epoch": pd.DataFrame(found).T}
    return Part(title, tables, (note,), rounds, bars(together, title, "seconds an epoch"))
