"""Part of `benchmarks.waveforms.job`: the worked grid search over batch size, filters, kernel and optimiser."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline

from benchmarks.common.reporting import Part
from skhep_nn import Constant
from skhep_nn.datasets.waveforms import make_waveforms
from skhep_nn.estimators import WaveformRegressor
from skhep_nn.metrics.tolerance import within_tolerance_scorer
from skhep_nn.plotting import SearchHeatmapDisplay
from skhep_nn.preprocessing import WaveformScaler

GRID: dict[str, list[Any]] = {
    "network__batch_size": [16, 32, 128],
    "network__channels": [16, 32],
    "network__kernels": [3, 9],
    "network__optimizer": ["adam", "rmsprop", "sgd"],
}
MAPS = (("batch_size", "channels"), ("kernels", "optimizer"))


def search(args: argparse.Namespace) -> Part:
    """Search, and draw the score against two pairs of parameters."""
    signals = make_waveforms(args.grid_traces, n_points=args.grid_points, random_state=args.seed)
    network = WaveformRegressor(
        preset="school",
        output="sigmoid",
        schedule=Constant(1e-3),
        max_epochs=args.grid_epochs,
        device=args.device,
        random_state=args.seed,
    )
    model = Pipeline([("scaler", WaveformScaler()), ("network", network)])
    found = GridSearchCV(
        model,
        GRID,
        scoring={"negative MSE": "neg_mean_squared_error", "same tenth": within_tolerance_scorer},
        refit="negative MSE",
        cv=KFold(3),
        n_jobs=args.jobs,
    )
    start = time.perf_counter()
    found.fit(signals.traces, signals.target)
    seconds = time.perf_counter() - start
    table = _table(found)
    n_fits = 3 * len(table)
    notes = (
        (
            f"{args.grid_traces:,} traces of {args.grid_points:,} points, preset school, {args.grid_epochs} "
            f"epochs at a rate of 1e-3, three folds: {n_fits} fits in {seconds:.0f} s. Errors are standard errors of the mean "
            "over the folds."
        ),
    )
    return Part("Grid search", {"candidates": table}, notes, draw=partial(_draw, found))


def _table(found: GridSearchCV) -> pd.DataFrame:
    """Return all candidates, best first."""
    display = SearchHeatmapDisplay.from_estimator(found, x=MAPS[0][0], y=MAPS[0][1])
    table = display.results
    tenth = SearchHeatmapDisplay.from_estimator(
        found, x=MAPS[0][0], y=MAPS[0][1], score="same tenth"
    ).results
    names = [key.removeprefix("network__") for key in GRID]
    both = table.merge(tenth, on=names, suffixes=("", "_tenth"))
    root = found.n_splits_**0.5
    shown = both[names].assign(
        **{
            "MSE (1e-4)": -1e4 * both["mean_score"],
            "± (1e-4)": 1e4 * both["std_score"] / root,
            "same tenth": both["mean_score_tenth"],
            "±": both["std_score_tenth"] / root,
            "fit (s)": both["fit_seconds"],
        }
    )
    shown.index = pd.Index(range(1, len(shown) + 1))
    return shown


def _draw(found: GridSearchCV, path: Path) -> None:
    """Draw a heat map of each pair of parameters."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(MAPS), figsize=(11, 4), layout="constrained")
    for ax, (x, y) in zip(axes, MAPS, strict=True):
        SearchHeatmapDisplay.from_estimator(found, x=x, y=y, ax=ax, values_format=".2g")
    figure.savefig(path, dpi=130)
    plt.close("all")
