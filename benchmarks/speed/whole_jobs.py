"""Parts of `benchmarks.speed.job`: whole jobs on tables, from a hundred rows to the job of the study."""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np
import pandas as pd
import torch

from benchmarks.common.reporting import Part, bars
from benchmarks.common.timing import (
    Loop,
    PlainDenseNet,
    Ratio,
    device_work,
    in_fresh_process,
    in_turn,
    medians,
    product_rate,
    ratios,
    seconds_of,
    typical_epoch,
)
from benchmarks.speed.tables import (
    BATCH,
    MEMBERS,
    N_WEIGHTS,
    VIEWS,
    Variant,
    higgs_job,
    study_model,
)
from skhep_nn import DenseNetClassifier, EventAugmenter
from skhep_nn.training import cuda_graphs as _cuda

# -- small data -----------------------------------------------------------------------------------


def small(args: argparse.Namespace) -> Part:
    """Fits of 100 to 1,000 rows, predictions of one row, and ten stacked members against one."""
    fits = {n: _small_fits(n, 4 * args.repeats) for n in (100, 300, 1000)}
    one_row = _one_row(args.repeats)
    members = _members(args.events, args.passes, args.device, args.repeats)
    fit_table = pd.DataFrame(
        {
            f"{n:,} x 10": {
                "torch loop (ms)": 1e3 * rounds["torch loop"].median(),
                "fit (ms)": 1e3 * rounds["fit"].median(),
                "fit less loop (ms)": 1e3 * (rounds["fit"] - rounds["torch loop"]).median(),
                "fit / loop": (rounds["fit"] / rounds["torch loop"]).median(),
            }
            for n, rounds in fits.items()
        }
    ).T
    tables = {
        "fit of few rows, 60 steps": fit_table,
        "predict of one row, wanted: less than 1 ms": medians(1e3 * one_row, "ms"),
        "whole fits with augmentation": medians(members),
        "ratio": ratios(members, [Ratio("10 members", "1 member")]),
    }
    rounds = {f"fit, {n} rows": r for n, r in fits.items()}
    rounds |= {"predict": one_row, "members": members}
    note = (
        "On a CPU, but for the whole fits, which are of "
        f"{args.events:,} events and {args.passes} epochs on the device asked for."
    )
    title = "Small data"
    together = pd.concat(
        [1e3 * r.add_suffix(f", {n} rows") for n, r in fits.items()] + [1e3 * one_row], axis=1
    )
    return Part(title, tables, (note,), rounds, bars(together, title, "ms"))


def _small_fits(n_rows: int, repeats: int) -> pd.DataFrame:
    """`fit` against a loop by hand with the same numbers of steps and rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, 10)).astype(np.float32)
    y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(np.int64)
    passes = 60 // -(-n_rows // BATCH)
    model = DenseNetClassifier(max_epochs=passes, device="cpu", random_state=0)

    def loop() -> None:
        rows = torch.from_numpy((X - X.mean(0)) / X.std(0))
        batch_size = -(-n_rows // -(-n_rows // BATCH))
        by_hand = Loop(PlainDenseNet(10), rows, torch.from_numpy(y).float(), batch_size)
        for _ in range(passes):
            by_hand.run()

    variants = {"torch loop": seconds_of(loop), "fit": seconds_of(lambda: model.fit(X, y))}
    return in_turn(variants, repeats)


def _one_row(repeats: int, calls: int = 100) -> pd.DataFrame:
    """Seconds of `predict` of one row, one member and ten, and these with eight views."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 31))
    y = (X[:, 0] > 0).astype(int)
    names = [f"{k}_{axis}" for k in range(10) for axis in ("px", "py", "pz")]
    views = EventAugmenter(columns=[*names, "mass"])

    def repeated(n_members: int, augmentation: EventAugmenter | None = None) -> Variant:
        model = DenseNetClassifier(
            n_members=n_members,
            augmentation=augmentation,
            max_epochs=1,
            device="cpu",
            random_state=0,
        ).fit(X, y)
        return seconds_of(lambda: [model.predict(X[:1]) for _ in range(calls)])

    variants = {
        "1 member": repeated(1),
        f"{MEMBERS} members": repeated(MEMBERS),
        f"{MEMBERS} members, 8 views": repeated(MEMBERS, views),
    }
    return in_turn(variants, repeats) / calls


def _members(n_events: int, passes: int, device: str, repeats: int) -> pd.DataFrame:
    """Whole fits of one member and of ten on the same rows."""
    job = higgs_job(n_events)

    def fit(n_members: int) -> Variant:
        model = study_model(n_members, device, augmentation=EventAugmenter(), max_epochs=passes)
        return seconds_of(partial(model.fit, job.frame, job.y, sample_weight=job.weight))

    return in_turn({"1 member": fit(1), "10 members": fit(MEMBERS)}, repeats)


# -- the job of the study -------------------------------------------------------------------------


def reference(args: argparse.Namespace) -> Part:
    """Run the job of the study, each number of members in a new process."""
    rows = {
        f"{k} member{'s' * (k > 1)}": in_fresh_process(
            _reference_job, args.device, k, *args.reference_events
        )
        for k in args.members
    }
    table = pd.DataFrame(rows)
    n_train, n_predict = args.reference_events
    notes = [
        (
            f"{n_train:,} events, 15 epochs, a fresh rotation and flips in every batch; then {n_predict:,} "
            f"events with {VIEWS} views. The first fit and the first prediction of a process, as they are; "
            "importing, starting the device and simulating are not counted. The floor is forward and "
            "backward as matrix products alone, at the float32 rate of a large one."
        ),
    ]
    if args.device == "cuda":
        notes.append("Wanted: fit at most 3 s with 10 members and 6 s with 60; predict 0.3 s.")
    columns = ["fit (s)", "predict (s)"]
    shown = pd.DataFrame(
        {f"{name}, {column}": [row[column]] for name, row in rows.items() for column in columns}
    )
    title = "The job of the study"
    return Part(title, {"first of a process": table}, tuple(notes), None, bars(shown, title, "s"))


def _reference_job(
    device: str, n_members: int, n_events: int, n_predicted: int
) -> dict[str, float]:
    """Train and predict once; count launches on a GPU."""
    job, test = higgs_job(n_events, 0), higgs_job(n_predicted, 1)
    torch.zeros(1, device=device)
    model = study_model(n_members, device, augmentation=EventAugmenter())
    start = time.perf_counter()
    model.fit(job.frame, job.y, sample_weight=job.weight)
    fitted = time.perf_counter()
    model.predict_proba(test.frame)
    predicted = time.perf_counter()
    model.predict_proba(test.frame)
    end = time.perf_counter()
    history = model.history_.query("member == 0").seconds.tolist()
    rate = product_rate(device)
    share = 1 - 1 / n_members if n_members > 1 else 1.0
    floor = 6 * N_WEIGHTS * n_events * share * n_members * len(history) / rate
    predict_floor = 2 * N_WEIGHTS * n_predicted * n_members * VIEWS / rate
    found = {
        "fit (s)": fitted - start,
        "first epoch (s)": history[0],
        "later epoch (s)": typical_epoch(history),
        "fit / floor": (fitted - start) / floor,
        "later epoch / floor": typical_epoch(history) * len(history) / floor,
        "predict (s)": predicted - fitted,
        "predict again (s)": end - predicted,
        "predict again / floor": (end - predicted) / predict_floor,
        "matrix product (TFLOP/s)": rate / 1e12,
    }
    return found | (_launches(n_members) if device == "cuda" else {})


def _launches(n_members: int) -> dict[str, float]:
    """Kernels, and calls of the host that start them, per step: the number that more epochs add to a fit."""
    job = higgs_job(50_000)
    few, many = 2, 4

    def work(passes: int) -> dict[str, int]:
        # Kernels are forced, because the few epochs counted here would be too short a job for them.
        _cuda._WORTH_COMPILING = 0
        model = study_model(n_members, "cuda", augmentation=EventAugmenter(), max_epochs=passes)
        return device_work(lambda: model.fit(job.frame, job.y, sample_weight=job.weight))

    n_trained = len(job.y) * (1 - 1 / n_members if n_members > 1 else 1.0)
    n_steps = (many - few) * -(-n_trained // BATCH)
    less, more = work(few), work(many)
    return {f"{name} a step": (more[name] - less[name]) / n_steps for name in ("kernels", "starts")}
