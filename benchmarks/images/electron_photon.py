"""Electron or photon: convolutional networks on calorimeter images against their peers.

Usage: python -m benchmarks.images.electron_photon [--data DIR] [--images 30000] [--presets compact ...] ...

Without ``--data`` images come from the simulator. With a folder that holds the public files
(``SinglePhotonPt50*.hdf5`` and ``SingleElectronPt50*.hdf5``, 249,000 images each) it is the published
protocol: 160,000 images of a class for training, 25,600 for validation, 25,600 for the test. A folder
with fewer images, such as an excerpt, is a sanity check: models are trained on simulated energies, and
scored on the real images as well. All models see the same images. Writes results.json, results.md and
plots into ``--output``, anew after each model.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks.common.bootstrap import bootstrap
from benchmarks.common.reporting import Part, console, machine, show_part, write_parts
from benchmarks.images.electron_photon_models import (
    SHAPES,
    Data,
    Result,
    channels,
    contestants,
    read,
)
from skhep_nn.metrics import binned_scores, classification_summary

UNIT = 50.0  # GeV, of the energies
CLASSES = ["photon", "electron"]
#: Accuracy and area under the ROC curve in the documents of the challenge, on the real test set.
PUBLISHED = {"challenge": (None, 0.8104), "compact": (0.7255, None)}


# -- scores ---------------------------------------------------------------------------------------


def score_table(data: Data, results: dict[str, Result], areas: pd.DataFrame) -> pd.DataFrame:
    """Scores of all models: errors are binomial for accuracies, of the bootstrap for areas."""
    rows = {}
    n_test = len(data.test.target)
    for name, result in results.items():
        accuracy = ((result.proba["test"] > 0.5) == data.test.target).mean()
        held_back = (result.proba["validation"] > 0.5) == data.validation.target
        rows[name] = {
            "accuracy": f"{accuracy:.4f} ± {np.sqrt(accuracy * (1 - accuracy) / n_test):.4f}",
            "AUC": f"{roc_auc_score(data.test.target, result.proba['test']):.4f} ± "
            f"{areas[name].std():.4f}",
            "validation accuracy": f"{held_back.mean():.4f}",
            "fit (s)": f"{result.fit_seconds:.1f}",
            "predict (s)": f"{result.predict_seconds:.2f}",
        }
        if data.real is not None:
            n = len(data.real.target)
            area = roc_auc_score(data.real.target, result.proba["real"])
            rows[name][f"AUC, {n} real images"] = f"{area:.3f}"
    return pd.DataFrame(rows).T


def differences(data: Data, results: dict[str, Result], areas: pd.DataFrame) -> pd.DataFrame:
    """AUC of ours less each other model, on the same draws of events."""
    first, *others = sorted(results, key=lambda name: not name.startswith("skhep_nn"))
    rows = {}
    for name in others:
        found = [roc_auc_score(data.test.target, results[n].proba["test"]) for n in (first, name)]
        error = (areas[first] - areas[name]).std()
        rows[f"{first} - {name}"] = {
            "AUC": f"{found[0] - found[1]:.4f} ± {error:.4f}",
            "standard errors": f"{(found[0] - found[1]) / error:.1f}",
            "wanted": "more than 2" if name == SHAPES else "",
        }
    return pd.DataFrame(rows).T


def report(data: Data, results: dict[str, Result], args: argparse.Namespace) -> dict[str, Part]:
    """Return the tables and the remarks."""
    target = data.test.target
    probas = {name: result.proba["test"] for name, result in results.items()}
    areas = bootstrap(target, probas, args.draws, args.seed)
    tables = {"test set": score_table(data, results, areas)}
    if len(results) > 1:
        tables["paired difference"] = differences(data, results, areas)
    shown = next((name for name in results if name.startswith("skhep_nn")), None)
    sizes = (
        f"{len(data.train.target):,} images for training, {len(data.validation.target):,} for "
        f"validation, {len(target):,} for the test ({data.source}). Errors of areas, and of their "
        f"differences, are from {args.draws} bootstrap draws of the test events."
    )
    notes = [sizes]
    for preset, (accuracy, area) in PUBLISHED.items():
        figure = f"accuracy {accuracy}" if area is None else f"AUC {area}"
        notes.append(f"Published for the network of preset {preset!r} on the real images: {figure}")
    if shown is not None:
        proba = probas[shown]
        summary = classification_summary(target, proba=proba)
        names = dict(enumerate(CLASSES))
        tables[f"{shown}: each class"] = summary.per_class.rename(names).round(4)
        energy = UNIT * data.test.images[..., 0].sum((1, 2))
        binned = binned_scores(energy, target, proba, bins=args.bins).round(4)
        index = [f"{row.low:.0f} to {row.high:.0f} GeV" for row in binned.itertuples()]
        tables[f"{shown}: against the deposited energy"] = binned.drop(
            columns=["low", "high", "weight"]
        ).set_axis(index)
    return {"electron_photon": Part("Electron or photon", tables, tuple(notes))}


def draw(args: argparse.Namespace, data: Data, results: dict[str, Result]) -> list[Path]:
    """Draw images, ROC curves, scores against energy, predictions, feature maps and the training."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from sklearn.metrics import RocCurveDisplay

    from skhep_nn import plotting

    test, label = data.test, "energy / 50 GeV"
    energy = UNIT * test.images[..., 0].sum((1, 2))
    named: dict[str, Any] = {"class_names": CLASSES}
    displays: dict[str, Any] = {
        "samples": plotting.ImageSamplesDisplay.from_images(
            test.images, test.target, random_state=0, label=label, **named
        ),
        "means": plotting.MeanImagesDisplay.from_images(
            test.images, test.target, label=label, **named
        ),
    }
    for name, result in results.items():
        proba = result.proba["test"]
        last = name == next(reversed(results))
        axes = {key: displays[key].ax_ if key in displays else None for key in ("roc", "energy")}
        displays["roc"] = RocCurveDisplay.from_predictions(
            test.target, proba, name=name, ax=axes["roc"], plot_chance_level=last
        )
        displays["energy"] = plotting.BinnedScoresDisplay.from_predictions(
            energy, test.target, proba, bins=args.bins, name=name, ax=axes["energy"],
            xlabel="deposited energy (GeV)",
        )  # fmt: skip
    shown = next((r for name, r in results.items() if name.startswith("skhep_nn")), None)
    if shown is not None:
        predicted = (test.images, test.target, shown.proba["test"])
        for which in ("random", "wrong"):
            displays[f"predictions_{which}"] = plotting.PredictionSamplesDisplay.from_predictions(
                *predicted, which=which, random_state=0, label=label, **named
            )
        displays["feature_maps"] = plotting.FeatureMapsDisplay.from_estimator(
            shown.model, channels(args)(test.images[0])
        )
        displays["history"] = plotting.HistoryDisplay.from_estimator(shown.model)
    paths = []
    for name, display in displays.items():
        paths.append(args.output / f"{name}.png")
        display.figure_.savefig(paths[-1], dpi=120, bbox_inches="tight")
    plt.close("all")
    return paths


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the public files, or of an excerpt")
    parser.add_argument("--images", type=int, default=30_000, help="simulated ones to train on")
    parser.add_argument("--test-images", type=int, default=20_000, help="simulated ones to test on")
    parser.add_argument("--presets", nargs="+", default=["compact"], help="of CaloCNN")
    parser.add_argument("--inputs", choices=["energy", "both"], default="energy")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=4e-3, help="largest learning rate of ours")
    parser.add_argument("--loop-lr", type=float, default=1e-3, help="of the plain loop")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--augmentation", choices=["none", "flips", "turns"], default="flips")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--draws", type=int, default=200, help="draws of the bootstrap")
    parser.add_argument("--bins", type=int, default=6, help="of the deposited energy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/electron_photon"))
    return parser.parse_args()


def main() -> None:
    args = parse()
    data = read(args)
    where = machine(args.device)
    console.print(f"{len(data.train.target):,} {data.source} images to train on")
    console.print(f"on {where['gpu'] or where['processor']}, {where['torch_threads']} threads\n")
    args.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Result] = {}
    for name, model in contestants(args).items():
        results[name] = model(data, args)
        area = roc_auc_score(data.test.target, results[name].proba["test"])
        console.print(f"{name}: AUC {area:.4f}, {results[name].fit_seconds:.0f} s")
        # Written after each model, so that results are kept if a later model fails.
        parts = report(data, results, args)
        paths = write_parts(args.output, where, parts)
    console.print()
    show_part(parts["electron_photon"])
    for path in [*paths, *draw(args, data, results)]:
        console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
