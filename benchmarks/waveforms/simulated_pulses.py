"""Parts of `benchmarks.waveforms.job` on simulated traces: separations of two pulses, and one pulse or two."""

from __future__ import annotations

import argparse
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.common.bootstrap import bootstrap
from benchmarks.common.reporting import Part, console
from benchmarks.waveforms.models import (
    OURS,
    SCHOOL,
    Result,
    contestants,
    evaluate,
    has_rocket,
    warm_up,
)
from skhep_nn.datasets.waveforms import make_waveforms
from skhep_nn.metrics.classification import area_under_roc

Array = NDArray[Any]

#: Mean squared error and share that rounds to the same tenth, on traces that are not public.
PUBLISHED = (9.9e-4, 0.739)
#: Goal for the seconds of training, as a fraction of the seconds of the preset "school".
WANTED_SHARE = 0.2
_SAME = 0.01  # published: two pulses that are hardly apart
_D_EDGES = (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5, 1.001)


class Task(NamedTuple):
    """Traces to train on and to test on, their targets and their separations."""

    train: Array
    y_train: Array
    test: Array
    y_test: Array
    d_test: Array


def simulated(args: argparse.Namespace, seed: int, **params: Any) -> Task:
    """Simulate traces; the target is d or, if there are also traces with one pulse, the class (1: two pulses)."""
    signals = make_waveforms(
        args.n_train + args.n_test, n_points=args.points, random_state=seed, **params
    )
    is_class = "n_pulses" in params
    y = (signals.n_pulses - 1) if is_class else signals.target
    train, test = slice(0, args.n_train), slice(args.n_train, None)
    return Task(
        signals.traces[train], y[train], signals.traces[test], y[test], signals.target[test]
    )


def run(task: Task, models: dict[str, Any]) -> dict[str, Result]:
    """Train and test all models."""
    found = {}
    for name, model in models.items():
        found[name] = evaluate(model, task.train, task.y_train, task.test)
        console.print(f"{name}: fitted in {found[name].fit_seconds:.1f} s")
    return found


def sizes(args: argparse.Namespace) -> str:
    """Say how much was run."""
    text = (
        f"{args.n_train:,} simulated traces of {args.points:,} points to train on, {args.n_test:,} "
        f"others to test on. Default network: {args.members} member(s), {args.epochs} epochs, batches of "
        f"{args.batch_size}."
    )
    if args.peers and not has_rocket():
        text += " MiniRocket was left out: aeon is not installed."
    return text


# -- separation of two pulses ---------------------------------------------------------------------


class Errors(NamedTuple):
    """Errors of each test trace, one column for each model, averaged over the seeds."""

    residual: pd.DataFrame
    square: pd.DataFrame
    agrees: pd.DataFrame  # share of the seeds in which it rounds to the right tenth


def separation(args: argparse.Namespace) -> Part:
    """Measure the separation d of two pulses."""
    task = simulated(args, args.seed)
    warm_up(task.train[:256], args)
    runs = [
        run(task, contestants("regression", args, seed))
        for seed in range(args.seed, args.seed + args.seeds)
    ]
    errors = _errors(task.y_test, runs)
    tables = {"test set": _scores(errors, runs)}
    if len(runs[0]) > 1:
        tables["paired differences"] = _differences(errors)
    spread, bias = _against_d(task.y_test, errors, args.bins)
    tables |= {"spread of residuals against d": spread, "bias against d": bias}
    notes = [
        sizes(args),
        f"Published, on other traces: MSE {PUBLISHED[0]:.2g}, {PUBLISHED[1]} to the same tenth.",
        f"{args.seeds} training(s) of each; errors are statistical errors of the test sample, trace by trace.",
    ]
    if SCHOOL in runs[0]:
        notes.append(_time_note(runs))
    draw = partial(_draw_separation, task.y_test, runs[0], errors, args.bins)
    return Part("Separation of two pulses", tables, tuple(notes), draw=draw)


def _errors(y: Array, runs: list[dict[str, Result]]) -> Errors:
    """Compare predictions with the truth."""
    found: list[dict[str, Array]] = [{}, {}, {}]
    for name in runs[0]:
        predictions = np.array([results[name].prediction for results in runs])
        residuals = predictions - y
        # Trace by trace, the terms of `within_tolerance_score`.
        tenths = np.rint(10 * predictions) == np.rint(10 * y)
        for column, values in zip(found, (residuals, residuals**2, tenths), strict=True):
            column[name] = values.mean(axis=0)
    return Errors(*map(pd.DataFrame, found))


def _seconds(runs: list[dict[str, Result]], name: str) -> tuple[float, float]:
    """Return median seconds of fits and of predictions."""
    return (
        float(np.median([results[name].fit_seconds for results in runs])),
        float(np.median([results[name].predict_seconds for results in runs])),
    )


def _scores(errors: Errors, runs: list[dict[str, Result]]) -> pd.DataFrame:
    """Scores of all models, with standard errors."""
    rows = {}
    for name in errors.square:
        bias = errors.residual[name].mean()
        mse = errors.square[name].mean()
        fit, predict = _seconds(runs, name)
        rows[name] = {
            "MSE (1e-4)": 1e4 * mse,
            "± (1e-4)": 1e4 * errors.square[name].sem(),
            "same tenth": errors.agrees[name].mean(),
            "±": errors.agrees[name].sem(),
            "bias (1e-3)": 1e3 * bias,
            "spread (1e-3)": 1e3 * np.sqrt(mse - bias**2),
            "fit (s)": fit,
            "predict (s)": predict,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _differences(errors: Errors) -> pd.DataFrame:
    """Set every other model against ours, trace by trace; positive where ours is better."""
    rows = {}
    for name in errors.square.columns.drop(OURS):
        mse = 1e4 * (errors.square[name] - errors.square[OURS])
        tenth = errors.agrees[OURS] - errors.agrees[name]
        rows[f"{OURS} against {name}"] = {
            "MSE lower by (1e-4)": mse.mean(),
            "± (1e-4)": mse.sem(),
            "standard errors": mse.mean() / mse.sem(),
            "same tenth higher by": tenth.mean(),
            "±": tenth.sem(),
            "standard errors, tenth": tenth.mean() / max(tenth.sem(), 1e-12),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _against_d(y: Array, errors: Errors, n_bins: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Spread and bias of the residuals in bins of d."""
    edges = np.linspace(0, 1, n_bins + 1)
    at = np.clip(np.searchsorted(edges, y, side="right") - 1, 0, n_bins - 1)
    names = [f"{low:.2g} to {high:.2g}" for low, high in pairwise(edges)]
    kept = [k for k in range(n_bins) if (at == k).sum() > 1]
    labels = [names[k] for k in kept]
    n = pd.Series({names[k]: int((at == k).sum()) for k in kept}, name="n")
    residual = errors.residual.groupby(at).mean().loc[kept].set_axis(labels)
    square = errors.square.groupby(at).mean().loc[kept].set_axis(labels)
    spread = np.sqrt(np.maximum(square - residual**2, 0))
    return pd.concat([n, spread], axis=1), pd.concat([n, residual], axis=1)


def _time_note(runs: list[dict[str, Result]]) -> str:
    """Compare the seconds of training with the published network."""
    own, theirs = (_seconds(runs, name)[0] for name in (OURS, SCHOOL))
    verdict = "at most" if own <= WANTED_SHARE * theirs else "not at most"
    return (
        f"Training took {own:.1f} s, the preset school {theirs:.1f} s: a share of {own / theirs:.3f}, "
        f"{verdict} the {WANTED_SHARE:g} that is wanted."
    )


def _draw_separation(
    y: Array, results: dict[str, Result], errors: Errors, n_bins: int, path: Path
) -> None:
    """Draw predicted against true d, and spread and bias against d."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    prediction = results[OURS].prediction
    counts = left.hist2d(y, prediction, bins=80, range=[(0, 1), (-0.1, 1.1)], cmin=1)[3]
    figure.colorbar(counts, ax=left).set_label("traces")
    left.plot([0, 1], [0, 1], "k:", lw=1)
    left.set(xlabel="true d", ylabel="predicted d", title=OURS)
    spread, bias = _against_d(y, errors, n_bins)
    places = np.array([np.mean([float(x) for x in name.split(" to ")]) for name in spread.index])
    for number, name in enumerate(results):
        shifted = places + 0.15 / n_bins * (number - len(results) / 2)
        n = spread["n"].to_numpy()
        width = spread[name].to_numpy()
        middle.errorbar(shifted, width, width / np.sqrt(2 * n), fmt="o", ms=3, label=name)
        right.errorbar(shifted, bias[name], width / np.sqrt(n), fmt="o", ms=3)
    middle.set(xlabel="true d", ylabel="spread of residuals", yscale="log")
    right.set(xlabel="true d", ylabel="bias")
    right.axhline(0, color="k", lw=0.5)
    figure.legend(*middle.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    figure.savefig(path, dpi=130)


# -- one pulse or two -----------------------------------------------------------------------------


def pulses(args: argparse.Namespace) -> Part:
    """Tell one pulse from two."""
    tables: dict[str, pd.DataFrame] = {}
    tasks, found = {}, {}
    for number, (name, most) in enumerate(((f"d < {_SAME}", _SAME * 0.999), ("any d", 1.0))):
        both = {"n_pulses": (1, 2), "separation": (0.0, most)}
        tasks[name] = simulated(args, args.seed + 1 + number, **both)
        found[name] = run(tasks[name], contestants("classification", args, args.seed))
        tables |= _class_tables(name, tasks[name], found[name], args)
    areas = _areas_against_d(tasks["any d"], found["any d"])
    tables["any d: area against d"] = areas.drop(columns="d")
    notes = (
        sizes(args) + " Equal numbers of traces with one pulse and with two in each.",
        (
            "Areas are under the ROC curve. Their errors, and the errors of differences, are of "
            f"{args.draws} bootstrap draws of the test traces, against d by DeLong. Against d, the "
            "traces with two pulses of the bin are set against all with one."
        ),
    )
    draw = partial(_draw_pulses, tasks, found, areas)
    return Part("One pulse or two", tables, notes, draw=draw)


def class_scores(y: Array, results: dict[str, Result], areas: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies with binomial errors and areas with bootstrap errors."""
    rows = {}
    for name, result in results.items():
        accuracy = ((result.prediction > 0.5) == y).mean()
        rows[name] = {
            "accuracy": accuracy,
            "±": np.sqrt(accuracy * (1 - accuracy) / len(y)),
            "AUC": roc_auc_score(y, result.prediction),
            "± (AUC)": areas[name].std(),
            "fit (s)": result.fit_seconds,
            "predict (s)": result.predict_seconds,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def class_differences(y: Array, results: dict[str, Result], areas: pd.DataFrame) -> pd.DataFrame:
    """Return the area of our network less the area of each peer, on the same draws of traces."""
    rows = {}
    for name in [name for name in results if name != OURS]:
        ours, other = (roc_auc_score(y, results[n].prediction) for n in (OURS, name))
        error = (areas[OURS] - areas[name]).std()
        rows[f"{OURS} against {name}"] = {
            "AUC higher by": ours - other,
            "±": error,
            "standard errors": (ours - other) / max(error, 1e-12),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _class_tables(
    caption: str, task: Task, results: dict[str, Result], args: argparse.Namespace
) -> dict[str, pd.DataFrame]:
    """Scores and differences."""
    predictions = {name: result.prediction for name, result in results.items()}
    areas = bootstrap(task.y_test, predictions, args.draws, args.seed)
    tables = {caption: class_scores(task.y_test, results, areas)}
    if len(results) > 1:
        tables[f"{caption}: differences"] = class_differences(task.y_test, results, areas)
    return tables


def _areas_against_d(task: Task, results: dict[str, Result]) -> pd.DataFrame:
    """Areas of two pulses in bins of d against one."""
    rows = {}
    two = task.y_test == 1
    for low, high in pairwise(_D_EDGES):
        inside = two & (task.d_test >= low) & (task.d_test < high)
        if inside.sum() < 2:
            continue
        used = inside | ~two
        row = {"n": int(inside.sum()), "d": float(task.d_test[inside].mean())}
        for name, result in results.items():
            score = result.prediction[used].astype(float)
            area, error = area_under_roc(score, two[used], np.ones(used.sum()))
            row |= {name: area, f"± {name}": error}
        rows[f"{low:.2g} to {high:.2g}"] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _draw_pulses(
    tasks: dict[str, Task],
    found: dict[str, dict[str, Result]],
    areas: pd.DataFrame,
    path: Path,
) -> None:
    """Draw ROC curves of close pairs, and areas against d."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    name, task = next(iter(tasks.items()))
    for model, result in found[name].items():
        false, true, _ = roc_curve(task.y_test, result.prediction)
        area = roc_auc_score(task.y_test, result.prediction)
        left.plot(false, true, label=f"{model} ({area:.3f})")
        right.errorbar(areas["d"], areas[model], areas[f"± {model}"], fmt="o-", ms=3, label=model)
    left.plot([0, 1], [0, 1], "k:", lw=1)
    left.set(xlabel="share of one pulse", ylabel="share of two pulses", title=name)
    left.legend(fontsize=8)
    right.set(xlabel="d", ylabel="area under the ROC curve", title="trained on any d")
    right.axhline(0.5, color="k", ls=":", lw=1)
    figure.savefig(path, dpi=130)
