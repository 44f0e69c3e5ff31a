"""The Higgs job: the final recipe of the HiggsML study (arXiv:2002.01427) against its peers.

Usage: python -m benchmarks.higgs.job [--data FILE] [--members 10] [--seeds 6] [--device auto] ...

Without ``--data`` the events come from the simulator. With a file that holds the challenge's training,
public and private sets, the study's own figures (MMVA, MVAC, MAPA, public and private score) are
computed next to the published ones; otherwise events are split 70 to 30, stratified, once a seed.
All models see the same rows and the same class-balanced weights. Log-loss and AUC are weighted so; the
AMS uses the challenge's weights, rescaled to its totals, at a cut chosen on the other half of the
test rows. Writes results.json and plots into ``--output``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Before torch is imported: where another process uses a core, threads that spin for long while they
# wait for each other make an epoch some forty times slower; threads that sleep at once are slower on
# idle cores. A short spin keeps nine tenths of the gain and avoids the loss.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# scikit-learn's MLP multiplies with NumPy's BLAS, which is faster on one thread even on idle cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch

from benchmarks.common.peers import Result, Sample, available, lumin, timed
from benchmarks.common.reporting import console, machine, mean_and_error, show, write_json
from skhep_nn import (
    CartesianMomenta,
    DenseNetClassifier,
    EventAugmenter,
    ams_score,
    best_cut,
    load_higgsml,
    make_higgs_events,
)
from skhep_nn.datasets import HIGGSML_TOTALS
from skhep_nn.metrics import challenge_scores, class_balanced_weights, rescale_weights

Array = NDArray[np.float64]
OURS = "skhep_nn"
#: Table 4 and section 4.3 of the study: mean and uncertainty of its final solution.
PUBLISHED = {
    "MMVA": (3.95, 0.04),
    "MVAC": (3.89, 0.05),
    "MAPA": (3.82, 0.02),
    "public": (3.80, 0.01),
    "private": (3.803, 0.005),
}
TOTALS = {1: HIGGSML_TOTALS["s"], 0: HIGGSML_TOTALS["b"]}
COLUMNS = {"log-loss": 4, "AUC": 4, "AMS": 2, "fit (s)": 1, "predict (s)": 2}


class Split(NamedTuple):
    """One seed's rows."""

    sample: Sample
    y_test: NDArray[np.int64]
    w_test: Array


def recipe(args: argparse.Namespace, seed: int) -> Any:
    """Return the study's final solution."""
    network = DenseNetClassifier(
        n_members=args.members,
        augmentation=EventAugmenter(),
        categorical_features=["PRI_jet_num"],
        embedding_sizes=3,
        stratify_by="PRI_jet_num",
        max_epochs=args.epochs,
        device=args.device,
        random_state=seed,
    )
    return make_pipeline(CartesianMomenta(), network)


def read_events(args: argparse.Namespace) -> Bunch:
    """Load the file, or simulate."""
    if args.data is not None:
        return load_higgsml(args.data)
    events = make_higgs_events(args.events, random_state=1)
    events.kaggle_set = None
    return events


def split(events: Bunch, seed: int) -> Split:
    """Split 70 to 30, stratified by class."""
    y = (events.target == "s").astype(np.int64)
    train, test = train_test_split(np.arange(len(y)), test_size=0.3, stratify=y, random_state=seed)
    weight = events.sample_weight
    sample = Sample(
        events.data.iloc[train],
        y[train],
        class_balanced_weights(y[train], weight[train]),
        events.data.iloc[test],
        seed,
    )
    return Split(sample, y[test], weight[test])


def cross_cut_ams(y: NDArray[np.int64], probability: Array, weight: Array, seed: int) -> float:
    """Return the AMS of each half of the rows at the cut chosen on the other half, averaged."""
    halves = list(StratifiedKFold(2, shuffle=True, random_state=seed).split(y[:, None], y))
    scores = []
    for chosen_on, scored_on in halves:
        choice = rescale_weights(y[chosen_on], weight[chosen_on], TOTALS)
        cut = best_cut(y[chosen_on], probability[chosen_on], choice).cut
        scored = rescale_weights(y[scored_on], weight[scored_on], TOTALS)
        scores.append(ams_score(y[scored_on], probability[scored_on] >= cut, scored))
    return float(np.mean(scores))


def score(result: Result, part: Split) -> dict[str, float]:
    """Return one row of the table."""
    balanced = class_balanced_weights(part.y_test, part.w_test)
    return {
        "log-loss": log_loss(part.y_test, result.probability, sample_weight=balanced),
        "AUC": roc_auc_score(part.y_test, result.probability, sample_weight=balanced),
        "AMS": cross_cut_ams(part.y_test, result.probability, part.w_test, part.sample.seed),
        "fit (s)": result.fit_seconds,
        "predict (s)": result.predict_seconds,
    }


def contestants(args: argparse.Namespace) -> dict[str, Callable[[Sample], Result]]:
    """Return ours and the peers that were asked for."""

    def ours(sample: Sample) -> Result:
        weights = {"densenetclassifier__sample_weight": sample.w_train}
        return timed(recipe(args, sample.seed), sample, weights)

    models: dict[str, Callable[[Sample], Result]] = {OURS: ours}
    if args.peers:
        models |= available()
    if args.lumin_python:
        models["LUMIN"] = lumin(args.lumin_python, args.members, args.epochs)
    return models


def run_splits(args: argparse.Namespace, events: Bunch) -> tuple[pd.DataFrame, Split, Result]:
    """Fit all models on all splits; also return ours on the last split."""
    rows = []
    models = contestants(args)
    with progress_bar() as progress:
        task = progress.add_task("", total=args.seeds * len(models))
        for seed in range(args.seeds):
            part = split(events, seed)
            for name, model in models.items():
                progress.update(task, description=f"split {seed + 1}/{args.seeds}: {name}")
                result = model(part.sample)
                rows.append({"model": name, "seed": seed} | score(result, part))
                if name == OURS:
                    shown = result
                progress.advance(task)
    return pd.DataFrame(rows), part, shown


def run_challenge(args: argparse.Namespace, events: Bunch) -> tuple[pd.DataFrame, Split, Result]:
    """Fit the recipe under the conditions of the challenge and compute the study's figures."""
    y = (events.target == "s").astype(np.int64)
    is_train, is_public = events.kaggle_set == "t", events.kaggle_set == "b"
    is_test = is_public | (events.kaggle_set == "v")
    rows = np.flatnonzero(is_train)
    scores = []
    with progress_bar() as progress:
        task = progress.add_task("challenge", total=args.seeds)
        for seed in range(args.seeds):
            train, valid = train_test_split(
                rows, test_size=0.2, stratify=y[rows], random_state=seed
            )
            weight = class_balanced_weights(y[train], events.sample_weight[train])
            predicted = np.concatenate([valid, np.flatnonzero(is_test)])
            sample = Sample(
                events.data.iloc[train], y[train], weight, events.data.iloc[predicted], seed
            )
            result = contestants(args)[OURS](sample)
            p_valid, p_test = np.split(result.probability, [len(valid)])
            found = challenge_scores(
                y[valid], p_valid, events.sample_weight[valid],
                y[is_test], p_test, events.sample_weight[is_test],
                public=is_public[is_test], totals=TOTALS, random_state=seed,
            )  # fmt: skip
            scores.append(
                {
                    "model": OURS,
                    "seed": seed,
                    "MMVA": found.mmva,
                    "MVAC": found.mvac,
                    "MAPA": found.mapa,
                    "public": found.public,
                    "private": found.private,
                    "fit (s)": result.fit_seconds,
                    "predict (s)": result.predict_seconds,
                }
            )
            progress.advance(task)
    part = Split(sample, y[valid], events.sample_weight[valid])
    return pd.DataFrame(scores), part, result._replace(probability=p_valid)


def progress_bar() -> Progress:
    """Return a bar that also reads well in a log."""
    columns = (TextColumn("{task.description:<55}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console)


def differences(table: pd.DataFrame) -> dict[str, dict[str, pd.Series]]:
    """Return ours minus each peer, split by split: the spread of the splits themselves drops out."""
    by_model = {name: rows.set_index("seed") for name, rows in table.groupby("model", sort=False)}
    ours = by_model.pop(OURS)
    return {
        f"{OURS} - {name}": {c: ours[c] - rows[c] for c in ("log-loss", "AUC", "AMS")}
        for name, rows in by_model.items()
    }


def draw(folder: Path, part: Split, result: Result) -> list[Path]:
    """Draw ROC curve, AMS against the cut, output by class and training history."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from sklearn.metrics import RocCurveDisplay

    from skhep_nn.plotting import (
        AMSCurveDisplay,
        HistoryDisplay,
        ScoreDistributionDisplay,
    )

    balanced = class_balanced_weights(part.y_test, part.w_test)
    rescaled = rescale_weights(part.y_test, part.w_test, TOTALS)
    events = (part.y_test, result.probability)
    displays = {
        "roc": RocCurveDisplay.from_predictions(
            *events, sample_weight=balanced, plot_chance_level=True, name=OURS
        ),
        "ams": AMSCurveDisplay.from_predictions(*events, sample_weight=rescaled),
        "output": ScoreDistributionDisplay.from_predictions(
            *events, sample_weight=balanced, class_names=["background", "signal"]
        ),
        "history": HistoryDisplay.from_estimator(result.model[-1]),
    }
    paths = []
    for name, display in displays.items():
        paths.append(folder / f"{name}.png")
        display.figure_.savefig(paths[-1], dpi=150, bbox_inches="tight")
        plt.close(display.figure_)
    return paths


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="csv(.gz) or parquet of the challenge")
    parser.add_argument("--events", type=int, default=12_000, help="number to simulate")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=6, help="number of splits")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--lumin-python", help="interpreter that has LUMIN 0.9.1")
    parser.add_argument("--output", type=Path, default=Path("results/higgsml"))
    return parser.parse_args()


def main() -> None:
    args = parse()
    events = read_events(args)
    where = machine(args.device)
    source = "simulated events" if args.data is None else args.data.name
    console.print(f"{len(events.target):,} events ({source}), {args.members} members")
    console.print(f"on {where['gpu'] or where['processor']}, {where['cores']} cores\n")
    sets = set() if events.kaggle_set is None else set(np.unique(events.kaggle_set))
    challenge = {"t", "b", "v"} <= sets
    table, part, result = (run_challenge if challenge else run_splits)(args, events)

    by_model = {name: dict(rows.items()) for name, rows in table.groupby("model", sort=False)}
    if challenge:
        digits = dict.fromkeys(PUBLISHED, 3) | {"fit (s)": 1, "predict (s)": 2}
        show("Conditions of the challenge", by_model, digits)
        for name, (mean, error) in PUBLISHED.items():
            console.print(f"published {name}: {mean} ± {error}")
    else:
        show(f"Mean ± standard error over {args.seeds} splits", by_model, COLUMNS)
        if args.seeds > 1 and len(by_model) > 1:
            wide = {"log-loss": 4, "AUC": 4, "AMS": 2}
            show("Difference, split by split", differences(table), wide)

    args.output.mkdir(parents=True, exist_ok=True)
    paths = draw(args.output, part, result)
    summary = {
        name: {c: mean_and_error(v) for c, v in rows.items() if c not in ("model", "seed")}
        for name, rows in by_model.items()
    }
    content = {"machine": where, "arguments": {k: str(v) for k, v in vars(args).items()}}
    content |= {"summary": summary, "splits": table.to_dict("records")}
    write_json(args.output / "results.json", content)
    for path in [args.output / "results.json", *paths]:
        console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
