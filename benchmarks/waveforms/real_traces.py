"""Part of `benchmarks.waveforms.job` on files of real traces: classes or values, out of folds."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from benchmarks.common.bootstrap import bootstrap
from benchmarks.common.reporting import Part, console
from benchmarks.waveforms.models import OURS, Result, evaluate, few_traces
from benchmarks.waveforms.pulse_shapes import step_height
from benchmarks.waveforms.simulated_pulses import class_differences, class_scores
from skhep_nn.datasets.waveform_files import load_waveforms
from skhep_nn.estimators import WaveformClassifier, WaveformRegressor
from skhep_nn.preprocessing import WaveformScaler

Array = NDArray[Any]

HAND = "height of the step by hand"
_FEW = 1000  # traces


class Recorded(NamedTuple):
    """Real traces and their targets."""

    traces: Array
    target: Array
    is_class: bool
    notes: tuple[str, ...]


def key_of(name: str) -> str:
    """Return a name for results on a file, or on one target of it."""
    path, _, target = name.partition(":")
    return f"{Path(path).stem}_{target}" if target else Path(path).stem


def read(name: str) -> Recorded:
    """Read a file and drop traces with values that are not finite."""
    path, _, key = name.partition(":")
    found = load_waveforms(path, target_key=key or "auto", non_finite="drop")
    if found.target is None:
        raise SystemExit(f"{path} holds no target: name it, {path}:NAME")
    values = np.unique(found.target)
    is_class = len(values) == 2
    target = (found.target == values[-1]).astype(int) if is_class else found.target.astype(float)
    notes = [f"{Path(path).name}: {len(target)} traces of {found.traces.shape[1:]}."]
    if len(found.dropped):
        notes.append(_complaint(path, key, found.dropped))
    if len(target) < _FEW:
        notes.append(f"{len(target)} traces are enough to run on, not to learn from.")
    return Recorded(np.asarray(found.traces), target, is_class, tuple(notes))


def _complaint(path: str, key: str, dropped: Array) -> str:
    """Report the rows that were dropped, with the error message of the loader for them."""
    try:
        load_waveforms(path, target_key=key or "auto")
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
    return f"Dropped: rows {', '.join(map(str, dropped))}. The loader says of them: {reason}"


def models(recorded: Recorded, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Return our network, with the baseline of each trace subtracted, and the peers."""
    kind = WaveformClassifier if recorded.is_class else WaveformRegressor
    network = kind(
        max_epochs=args.real_epochs,
        batch_size=args.real_batch,
        n_members=args.members,
        device=args.device,
        random_state=seed,
    )
    found = {OURS: make_pipeline(WaveformScaler(method=None, baseline=0.02), network)}
    if not args.peers:
        return found
    if not recorded.is_class and recorded.traces.ndim == 2:
        window = recorded.traces.shape[1] // 5
        by_hand = FunctionTransformer(
            lambda traces: step_height(traces, window=window, gap=window // 5)[:, None]
        )
        found[HAND] = make_pipeline(by_hand, LinearRegression())
    return found | few_traces("classification" if recorded.is_class else "regression", seed)


def real(args: argparse.Namespace, name: str) -> Part:
    """Test on real traces, out of folds."""
    recorded = read(name)
    kind = StratifiedKFold if recorded.is_class else KFold
    splits = list(kind(args.folds, shuffle=True, random_state=args.seed).split(*recorded[:2]))
    predictions: dict[str, Array] = {}
    seconds: dict[str, list[tuple[float, float]]] = {}
    for seed, (train, test) in enumerate(track(splits, Path(name).name, console=console)):
        for model, estimator in models(recorded, args, args.seed + seed).items():
            parts = recorded.traces[train], recorded.target[train], recorded.traces[test]
            result = evaluate(estimator, *parts)
            values = predictions.setdefault(model, np.full(len(recorded.target), np.nan))
            values[test] = result.prediction
            seconds.setdefault(model, []).append((result.fit_seconds, result.predict_seconds))
    results = {
        model: Result(values, *np.sum(seconds[model], axis=0))
        for model, values in predictions.items()
    }
    size = (
        f"Out of {args.folds} folds, the same for all models; seconds are sums over all folds. Default network: "
        f"{args.members} member(s), {args.real_epochs} epochs, batches of {args.real_batch}, the baseline "
        "of each trace subtracted."
    )
    tables = (_classes if recorded.is_class else _values)(recorded, results, args)
    title = f"Real traces, {Path(name).name}"
    draw = partial(_draw, recorded, results)
    return Part(title, tables, (*recorded.notes, size), draw=draw)


def _classes(
    recorded: Recorded, results: dict[str, Result], args: argparse.Namespace
) -> dict[str, pd.DataFrame]:
    """Accuracies and areas."""
    y = recorded.target
    predictions = {name: result.prediction for name, result in results.items()}
    areas = bootstrap(y, predictions, args.draws, args.seed)
    tables = {"classes": class_scores(y, results, areas)}
    if len(results) > 1:
        tables["paired differences"] = class_differences(y, results, areas)
    return tables


def _values(
    recorded: Recorded, results: dict[str, Result], args: argparse.Namespace
) -> dict[str, pd.DataFrame]:
    """Absolute errors, and their differences trace by trace."""
    del args
    y = recorded.target
    errors = pd.DataFrame({name: np.abs(r.prediction - y) for name, r in results.items()})
    scores = pd.DataFrame(
        {
            "mean absolute error": errors.mean(),
            "±": errors.sem(),
            "median": errors.median(),
            "share of the mean target": errors.mean() / y.mean(),
            "fit (s)": [r.fit_seconds for r in results.values()],
        }
    )
    tables = {"values": scores}
    others = errors.drop(columns=OURS).sub(errors[OURS], axis=0)
    if len(results) > 1:
        better = pd.DataFrame({"error lower by": others.mean(), "±": others.sem()})
        better["standard errors"] = better["error lower by"] / better["±"]
        tables["paired differences"] = better.rename(index=lambda name: f"{OURS} against {name}")
    return tables


def _draw(recorded: Recorded, results: dict[str, Result], path: Path) -> None:
    """Draw some traces, and the predictions of the models for all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    order = np.argsort(recorded.target, kind="stable")
    shown = order[np.linspace(0, len(order) - 1, 6).astype(int)]
    for row in shown:
        trace = recorded.traces[row].reshape(recorded.traces.shape[1], -1)[:, -1]
        left.plot(trace.astype(float), lw=0.6, label=f"{recorded.target[row]:g}")
    left.set(xlabel="sample", ylabel="last channel")
    left.legend(title="target", fontsize=7)
    for name, result in results.items():
        if recorded.is_class:
            bins = np.linspace(0, 1, 21)
            for label, style in ((0, "--"), (1, "-")):
                own = np.clip(result.prediction[recorded.target == label], 0, 1)
                colour = f"C{list(results).index(name)}"
                line = right.stairs(*np.histogram(own, bins), color=colour, ls=style)
            line.set_label(name)
        else:
            right.plot(recorded.target, result.prediction, ".", ms=4, label=name)
    named = ("output", "traces") if recorded.is_class else ("target", "predicted")
    right.set(xlabel=named[0], ylabel=named[1])
    right.legend(fontsize=7)
    figure.savefig(path, dpi=130)
