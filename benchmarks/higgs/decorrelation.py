"""How far a penalty on distance correlation keeps a classifier from sculpting the mass, and its price.

Usage: python -m benchmarks.higgs.decorrelation [--data FILE] [--events 60000] [--strengths 0 1 10] ...

Trains `DenseNetClassifier` on Higgs events (simulated, or from the challenge) with growing
`decorrelation_strength`, and once without the mass among the inputs. On test events it prints the area under
the ROC curve (class-balanced weights) and, at a signal efficiency of 50 %, the background efficiency and the
Jensen-Shannon divergence of the mass spectra of background before and after the cut; the distance
correlation of score and mass; the seconds to fit. Mean and standard error over seeds, each with another
split. Writes results.json, results.md and a figure into ``--output``.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from benchmarks.common.reporting import Part, console, machine, show_part, write_parts
from skhep_nn import CartesianMomenta, DenseNetClassifier, load_higgsml, make_higgs_events
from skhep_nn.metrics import class_balanced_weights, mass_sculpting

MASS = "DER_mass_MMC"
WITHOUT = "mass left out"
STRENGTHS = [0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
FIGURES = ("AUC", "background efficiency", "divergence (bits)", "distance correlation", "fit (s)")


class Sample(NamedTuple):
    """Events with labels, weights and masses; undefined masses are NaN."""

    X: pd.DataFrame
    y: NDArray[Any]
    weight: NDArray[Any]
    mass: NDArray[Any]


class Trained(NamedTuple):
    """Scores of one model, for the figure."""

    test: Sample
    score: NDArray[Any]


def samples(args: argparse.Namespace, seed: int) -> tuple[Sample, Sample]:
    """Return events to train and to test on."""
    if args.data is None:
        events = make_higgs_events(args.events, random_state=seed)
    else:
        events = load_higgsml(args.data)
    columns = (events.data, np.asarray(events.target), np.asarray(events.sample_weight))
    halves = train_test_split(
        *columns, test_size=args.test_size, stratify=columns[1], random_state=seed
    )
    train, test = (
        Sample(X, y, w, X[MASS].to_numpy(dtype=float)) for X, y, w in (halves[0::2], halves[1::2])
    )
    return train, test


def score(args: argparse.Namespace, train: Sample, test: Sample, variant: Any, seed: int) -> Any:
    """Train one model; return its scores of the test events and the seconds it took."""
    left_out = variant == WITHOUT
    network = DenseNetClassifier(
        n_members=args.members,
        max_epochs=args.epochs,
        batch_size=args.batch_size,
        categorical_features=["PRI_jet_num"],
        embedding_sizes=3,
        class_weight="balanced",
        device=args.device,
        random_state=seed,
        decorrelate=None if left_out else MASS,
        decorrelation_strength=0.0 if left_out else variant,
        decorrelation_range=tuple(args.range),
    )
    model = make_pipeline(CartesianMomenta(), network)
    inputs = [part.X.drop(columns=MASS) if left_out else part.X for part in (train, test)]
    started = time.perf_counter()
    model.fit(inputs[0], train.y, densenetclassifier__sample_weight=train.weight)
    seconds = time.perf_counter() - started
    return model.predict_proba(inputs[1])[:, list(network.classes_).index("s")], seconds


def edges(args: argparse.Namespace) -> NDArray[Any]:
    """Return edges of the bins of the mass."""
    return np.linspace(*args.range, args.bins + 1)


def measured(args: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Trained], str]:
    """Train all variants on all splits; return the figures, the scores of the last split, its size."""
    variants = {WITHOUT: WITHOUT} | {f"strength {s:g}": s for s in args.strengths}
    jobs = [(seed, *variant) for seed in range(args.seeds) for variant in variants.items()]
    rows: list[dict[str, Any]] = []
    drawn: dict[str, Trained] = {}
    known: tuple[int | None, Any] = (None, None)
    for seed, name, variant in track(jobs, "training", console=console):
        if seed != known[0]:
            known = seed, samples(args, seed)
        train, test = known[1]
        if not rows:
            # A first fit, so that seconds do not include work done once, such as loading libraries.
            score(args, *(Sample(*(part[:500] for part in s)) for s in (train, test)), 1.0, seed)
        p, seconds = score(args, train, test, variant, seed)
        found = mass_sculpting(test.y, p, test.mass, test.weight, bins=edges(args))
        balanced = class_balanced_weights(test.y, test.weight)
        values = (
            roc_auc_score(test.y == "s", p, sample_weight=balanced),
            found.background_efficiency,
            found.divergence,
            found.distance_correlation,
            seconds,
        )
        rows.append({"seed": seed, "model": name} | dict(zip(FIGURES, values, strict=True)))
        drawn[name] = Trained(test, p)
    return pd.DataFrame(rows), drawn, f"{len(train.y):,} to train on, {len(test.y):,} to test on"


def study(args: argparse.Namespace) -> Part:
    """Put the figures of all variants into tables."""
    rounds, drawn, size = measured(args)
    by_model = rounds.drop(columns="seed").groupby("model", sort=False)
    tables = {"mean": by_model.mean()}
    if args.seeds > 1:
        tables["standard error"] = by_model.sem()
    kind = "Simulated events" if args.data is None else "Events of the challenge"
    setting = (
        f"{kind}, {size}, {args.seeds} split(s); {args.members} member(s), {args.epochs} epochs, batches "
        f"of {args.batch_size}; {MASS} from {args.range[0]:g} to {args.range[1]:g} GeV in {args.bins} bins."
    )
    passing = (
        f"In the last split {_passing(args, drawn)} background events pass, depending on the model: with so "
        "few events the divergence is positive even without sculpting."
    )
    draw = partial(_draw, tables["mean"], drawn, edges(args))
    return Part("decorrelation", tables, (setting, passing), {"splits": rounds}, draw)


def _passing(args: argparse.Namespace, drawn: dict[str, Trained]) -> str:
    """Return the range, over the models, of the number of background events that pass the cut."""
    numbers = []
    for test, p in drawn.values():
        cut = mass_sculpting(test.y, p, test.mass, test.weight, bins=edges(args)).cut
        inside = (test.mass >= args.range[0]) & (test.mass <= args.range[1])
        numbers.append(int(((test.y == "b") & inside & (p >= cut)).sum()))
    return f"{min(numbers):,} to {max(numbers):,}"


def _draw(mean: pd.DataFrame, drawn: dict[str, Trained], bins: NDArray[Any], path: Path) -> None:
    """Draw price against sculpting, and the spectra of the weakest and the strongest penalty."""
    from matplotlib.figure import Figure

    from skhep_nn.plotting import MassSculptingDisplay

    figure = Figure(figsize=(16, 4.5), layout="constrained")
    left, *others = figure.subplots(1, 3)
    left.plot(mean["divergence (bits)"].drop(WITHOUT), mean["AUC"].drop(WITHOUT), "o-")
    left.plot(*mean.loc[WITHOUT, ["divergence (bits)", "AUC"]], "s", color="C1")
    for name, row in mean.iterrows():
        place = (row["divergence (bits)"], row["AUC"])
        label, below = str(name).removeprefix("strength "), -3 if name == WITHOUT else -11
        left.annotate(label, place, (7, below), textcoords="offset points", fontsize=8)
    left.set(
        xlabel="Divergence of the mass spectra (bits)",
        ylabel="Area under the ROC curve",
        xscale="log",
        title="By strength of the penalty",
    )
    left.margins(x=0.3)
    strengths = [name for name in drawn if name != WITHOUT]
    for axes, name in zip(others, (strengths[0], strengths[-1]), strict=True):
        test, p = drawn[name]
        MassSculptingDisplay.from_predictions(
            test.y,
            p,
            test.mass,
            sample_weight=test.weight,
            signal_efficiencies=(0.8, 0.5),
            bins=bins,
            ax=axes,
            xlabel=f"{MASS} (GeV), {name}",
        )
    figure.savefig(path, dpi=150)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="csv, csv.gz or parquet of the challenge")
    parser.add_argument("--events", type=int, default=60_000, help="number to simulate")
    parser.add_argument("--test-size", type=float, default=0.5, help="share of the events")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS)
    parser.add_argument("--range", type=float, nargs=2, default=[60.0, 250.0], help="GeV")
    parser.add_argument("--bins", type=int, default=38)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("results/decorrelation"))
    return parser.parse_args()


def main() -> None:
    args = parse()
    where = machine(args.device)
    console.print(f"on {where['gpu'] or where['processor']}, {where['cores']} cores\n")
    part = study(args)
    show_part(part)
    args.output.mkdir(parents=True, exist_ok=True)
    if part.draw is not None:
        part.draw(args.output / "decorrelation.png")
    for path in write_parts(args.output, where, {"decorrelation": part}):
        console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
