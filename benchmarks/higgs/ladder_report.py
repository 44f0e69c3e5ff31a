"""Tables, statements and figure of `benchmarks.higgs.ladder`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.common.reporting import Part, mean_and_error
from benchmarks.higgs.ladder_rows import ALONE, BASELINE, FINAL, Row, Values, published_increase
from benchmarks.higgs.ladder_runs import Run, Sample

#: Digits, and whether more is better.
METRICS = {
    "MMVA": (3, True),
    "MVAC": (3, True),
    "MAPA": (3, True),
    "AMS": (3, True),
    "log-loss": (4, False),
    "AUC": (4, True),
}
# With fewer events the maximal AMS depends on a handful of them and would dominate the figure.
_FEW = 10_000
COMPARED = ("log-loss", "AUC", "MAPA", "AMS")


class Statement(NamedTuple):
    """Claim that rows are better than others, or (`no_worse`) not worse by more than an error.

    Several pairs are averaged.
    """

    text: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    no_worse: bool = False


_RENEWED = ("swa-constant", "swa-linear", "swa-cosine")
_RENEWAL = "renewal no worse than a fixed start"
STATEMENTS = (
    Statement("ensemble > single network", ("ensemble",), ("single",)),
    Statement("fixing > neither", ("fixing",), ("embedding",)),
    Statement("augmentation > fixing", ("augmentation",), ("fixing",)),
    Statement("augmentation > fixing, final recipe", ("dense",), ("dense-fixing",)),
    Statement("augmentation > neither", ("augmentation",), ("embedding",)),
    Statement(f"SWA: {_RENEWAL}", _RENEWED, tuple(f"{n}-fixed" for n in _RENEWED), no_worse=True),
    *(Statement(f"{name}: {_RENEWAL}", (name,), (f"{name}-fixed",), True) for name in _RENEWED),
)


def report(rows: Mapping[str, Row], runs: Mapping[str, Run], sample: Sample) -> Part:
    """Return tables, remarks and the figure of all rows that have run."""
    tables = {"ladder": ladder_table(rows, runs)}
    compared = statements(runs, sample)
    if len(compared):
        tables["statements to test"] = compared
    alone = alone_table(rows, runs)
    if len(alone):
        tables["one technique alone"] = alone
    n = len(sample.splits)
    first = sample.splits[0]
    size = (
        f"{len(first.train):,} events to train on and {len(first.test):,} to test on, {n} seeds; means "
        "and standard errors over the seeds, each with its own split and starting values."
    )
    notes = [size]
    if sample.public is None:
        notes.append(
            "No public and private set here: MMVA and MVAC are of one half of the held-out events, with "
            "weights rescaled to the challenge's totals, MAPA and AMS of the other half at the cut of the "
            "first, then the other way round. They compare with each other, not with the study's figures."
        )
    else:
        notes.append("MAPA is of the public test set, AMS of the private one, as in the study.")
    notes.append(
        "Seconds are for one seed, or its share where all seeds train together; increases are over "
        f"'{rows[BASELINE].title}'. The study's increases are converted to that baseline."
    )
    rounds = {
        name: found.scores.assign(
            fit_seconds=found.seconds["train"], predict_seconds=found.seconds["predict"]
        )
        for name, found in runs.items()
    }
    draw = partial(_draw, rows, runs, sample)
    return Part("The study, technique by technique", tables, tuple(notes), rounds, draw)


def ladder_table(rows: Mapping[str, Row], runs: Mapping[str, Run]) -> pd.DataFrame:
    """Return scores and seconds of all rows next to the study's."""
    lines = {}
    for name, found in runs.items():
        row = rows[name]
        line: dict[str, Any] = {
            metric: cell(*mean_and_error(found.scores[metric]), digits)
            for metric, (digits, _) in METRICS.items()
        }
        if "public" in found.scores:
            line["public"] = cell(*mean_and_error(found.scores["public"]), 3)
        line |= {
            "parameters": found.n_parameters,
            "epochs": found.n_passes,
            "fit (s)": found.seconds["train"],
            "predict (s)": found.seconds["predict"],
        }
        for which in ("train", "predict"):
            line[f"{which} +"] = increase(runs, name, which)
        for metric in ("MMVA", "MVAC", "MAPA"):
            values: Values | None = getattr(row.published, metric.lower())
            line[f"study: {metric}"] = "-" if values is None else cell(*values, 3)
        for which in ("train", "predict"):
            line[f"study: {which} +"] = signed(published_increase(rows, name, which))
        lines[row.title] = line
    return pd.DataFrame(lines.values(), index=list(lines))


def cell(mean: float, error: float, digits: int) -> str:
    """Write a mean and its error, where there is one."""
    text = f"{mean:.{digits}f}"
    return text if np.isnan(error) else f"{text} ± {error:.{digits}f}"


def signed(value: float | None) -> str:
    """Write a fractional increase."""
    return "-" if value is None else f"{value:+.2f}"


def increase(runs: Mapping[str, Run], name: str, which: str) -> str:
    """Return the fractional increase of the seconds over the ensembled baseline."""
    if BASELINE not in runs:
        return "-"
    return signed(runs[name].seconds[which] / runs[BASELINE].seconds[which] - 1)


def gain(runs: Mapping[str, Run], better: str, worse: str, metric: str) -> pd.Series:
    """Return by how much a row is better than another, seed by seed."""
    difference = runs[better].scores[metric] - runs[worse].scores[metric]
    return difference if METRICS[metric][1] else -difference


def statements(runs: Mapping[str, Run], sample: Sample) -> pd.DataFrame:
    """Return the paired differences behind the statements whose rows have run."""
    lines = {}
    for statement in STATEMENTS:
        if set(statement.better + statement.worse) <= set(runs):
            for metric in COMPARED:
                line = _line(runs, sample, statement, metric)
                lines[f"{statement.text}: {metric}"] = line
    for metric in COMPARED if FINAL in runs and len(runs) > 1 else ():
        others = [name for name in runs if name != FINAL]
        best = max(others, key=lambda name: gain(runs, name, FINAL, metric).mean())
        statement = Statement("", (FINAL,), (best,), no_worse=True)
        line = _line(runs, sample, statement, metric)
        lines[f"final no worse than the best other ({best}): {metric}"] = line
        error = mean_and_error(runs[best].scores[metric])[1]
        mean = gain(runs, FINAL, best, metric).mean()
        within = {"±": _number(error, metric), "holds": _verdict(mean, error, no_worse=True)}
        unpaired = {"± corrected": "-", "errors": mean / error if error else np.nan}
        lines[f"final within one error of the score of {best}: {metric}"] = line | within | unpaired
    return pd.DataFrame(lines.values(), index=list(lines))


def _line(
    runs: Mapping[str, Run], sample: Sample, statement: Statement, metric: str
) -> dict[str, Any]:
    """Return a paired difference, its errors and the verdict."""
    pairs = zip(statement.better, statement.worse, strict=True)
    gains = pd.concat([gain(runs, *pair, metric) for pair in pairs], axis=1).mean(axis=1)
    mean, error = mean_and_error(gains)
    first = sample.splits[0]
    # Splits share events, so the error is corrected as by Nadeau and Bengio (2003).
    shared = len(first.test) / len(first.train) if sample.public is None else 0.0
    corrected = error * np.sqrt(1 + len(gains) * shared)
    return {
        "better by": f"{mean:+.{METRICS[metric][0] + 1}f}",
        "±": _number(error, metric),
        "± corrected": _number(corrected, metric),
        "errors": mean / error if error else np.nan,
        "seeds": f"{int((gains > 0).sum())} of {len(gains)}",
        "holds": _verdict(mean, error, statement.no_worse),
    }


def _number(value: float, metric: str) -> str:
    """Write an error, where there is one."""
    return "-" if np.isnan(value) else f"{value:.{METRICS[metric][0] + 1}f}"


def _verdict(mean: float, error: float, no_worse: bool) -> str:
    """Return whether a difference supports a statement."""
    if np.isnan(error):
        return "undecided with one seed"
    if no_worse:
        return "yes" if mean >= -error else "no"
    if abs(mean) <= error:
        return "undecided"
    return "yes" if mean > 0 else "no"


def alone_table(rows: Mapping[str, Row], runs: Mapping[str, Run]) -> pd.DataFrame:
    """Return the improvement that each technique alone brings to the single network (table 9)."""
    lines: dict[str, dict[str, str]] = {}
    for name in runs if "single" in runs else ():
        if (published := rows[name].published.alone) is None:
            continue
        start = runs["single"].scores
        gains = {m: gain(runs, name, "single", m) / start[m] * 100 for m in ("AMS", "MAPA")}
        loss = mean_and_error(gain(runs, name, "single", "log-loss"))
        lines[rows[name].title] = {
            f"{metric} (%)": cell(*mean_and_error(values), 2) for metric, values in gains.items()
        } | {"log-loss lower by": cell(*loss, 4), "study: private AMS (%)": cell(*published, 2)}
    return pd.DataFrame(lines.values(), index=list(lines))


def _draw(rows: Mapping[str, Row], runs: Mapping[str, Run], sample: Sample, path: Path) -> None:
    """Draw the scores of every solution, as figure 14 of the study does, and its log-loss below."""
    from matplotlib.figure import Figure

    names = [name for name in runs if rows[name].kind != ALONE]
    places = np.arange(len(names))
    figure = Figure(figsize=(3 + 0.4 * len(names), 8), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    metrics = ["MMVA", "MVAC", "MAPA", "AMS"] + (["public"] if sample.public is not None else [])
    if len(sample.splits[0].pairs[0][0]) < _FEW:
        metrics.remove("MMVA")
    for i, metric in enumerate(metrics):
        found = [mean_and_error(runs[name].scores[metric]) for name in names]
        offset = 0.1 * (i - (len(metrics) - 1) / 2)
        mean, error = np.array(found).T
        top.errorbar(places + offset, mean, error, fmt="o", ms=4, capsize=2, label=metric)
    told = [(k, rows[n].published.mapa) for k, n in enumerate(names)]
    told = [(k, *values) for k, values in told if values is not None]
    if told:
        place, mean, error = np.array(told).T
        top.errorbar(place, mean, error, fmt="D", c="k", mfc="none", label="MAPA of the study")
    top.set_ylabel("AMS")
    top.legend(ncols=3, fontsize="small")
    mean, error = np.array([mean_and_error(runs[n].scores["log-loss"]) for n in names]).T
    bottom.errorbar(places, mean, error, fmt="o", c="tab:red", capsize=2)
    bottom.set_ylabel("weighted log-loss")
    for axes in (top, bottom):
        axes.grid(axis="x", alpha=0.3)
    bottom.set_xticks(places, [rows[name].title for name in names], rotation=45, ha="right")
    figure.savefig(path, dpi=150)
