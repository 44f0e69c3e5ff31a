"""The architecture search of the HiggsML study (arXiv:2002.01427, section 3.10), with a test of its result.

Usage: python -m benchmarks.higgs.architecture_search [--data FILE] [--candidates 300] [--per-shape 5] [--quick] ...

Draws depth, width, growth rate, dropout and weight decay at random, by the study's rules, and trains three
members of each candidate with the rest of the study's final solution. Prints seconds and sizes, the best
candidates, the dependence of the loss on the parameters by a Gaussian process, and scores on test events of the best
candidate, the process's optimum and the study's own architecture, all with the same number of members.
Without ``--data`` the events are simulated. Writes results.json, results.md and the study's figures 11 to 13
into ``--output``; where matplotlib is missing, ``--redraw`` draws them elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see benchmarks/higgs/job.py

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import linregress, randint, uniform
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import roc_auc_score

from benchmarks.common.reporting import (
    Part,
    console,
    machine,
    mean_and_error,
    show_part,
    write_parts,
)
from benchmarks.higgs.job import read_events
from benchmarks.higgs.ladder_rows import FINAL, estimator, ladder
from benchmarks.higgs.ladder_runs import prepare
from skhep_nn import DenseNetClassifier
from skhep_nn.metrics import class_balanced_weights
from skhep_nn.tuning import ArchitectureSearch, SearchModel, fit_search_model

Array = NDArray[np.float64]

#: The study's rules, section 3.10.2.
SPACE = {
    "depth": randint(2, 9),
    "width": randint(33, 101),
    "growth_rate": uniform(-0.2, 1.2),
    "dropout": [0, 0.05, 0.1, 0.25, 0.5],
    "weight_decay": [0, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11],
}
#: The architecture that the study had before the search, and kept.
STUDY = {"depth": 6, "width": 33, "growth_rate": 0.0, "dropout": 0.0, "weight_decay": 0.0}
BEST, OPTIMUM, CURRENT = "best of the search", "optimum of the model", "the study's"
#: Defaults without and with --quick. The study's 1cycle has 135 folds, nine of which make an epoch.
FULL = {"events": 250_000, "candidates": 300, "per_shape": 5, "epochs": 15, "finalist_members": 10}
QUICK = {"events": 16_000, "candidates": 20, "per_shape": 4, "epochs": 5, "finalist_members": 4}
# With fewer scores there is neither a model nor a figure.
FEWEST = 5


class Events(NamedTuple):
    """Events as a table that networks read."""

    X: pd.DataFrame
    y: NDArray[np.int64]
    weight: Array


class Searched(NamedTuple):
    """A fitted search, a table of its candidates, a model of them, and the cost."""

    search: ArchitectureSearch
    candidates: pd.DataFrame
    model: SearchModel | None
    seconds: float
    #: Reasons of fits that failed, and how often.
    reasons: Counter[str]


class Finalist(NamedTuple):
    """A fitted ensemble and its parameters."""

    params: dict[str, Any]
    model: DenseNetClassifier
    seconds: float


def split(args: argparse.Namespace) -> list[Events]:
    """Return events to search and train on, and to test on: the first split of `benchmarks.higgs.ladder`."""
    sample = prepare(read_events(args), 1)
    X = sample.tables[False]
    halves = (sample.splits[0].train, sample.splits[0].test)
    return [Events(X.iloc[rows], sample.y[rows], sample.weight[rows]) for rows in halves]


def network(args: argparse.Namespace) -> DenseNetClassifier:
    """Return the study's final solution, with as many members as candidates have."""
    common = {"batch_size": args.batch_size, "device": args.device, "random_state": args.seed}
    return estimator(ladder(one_cycle=args.epochs, members=args.members), FINAL, **common)


def run_search(args: argparse.Namespace, train: Events) -> Searched:
    """Search, fit the best candidate again, and model the scores."""
    search = ArchitectureSearch(
        network(args),
        # With one seed, candidates of equal shape have nearly equal losses, and the model would find no noise.
        SPACE | {"random_state": randint(0, 2**31 - 1)},
        n_iter=args.candidates,
        n_parameters=tuple(args.window),
        n_per_shape=args.per_shape,
        refit={"n_members": args.finalist_members, "random_state": args.seed},
        random_state=args.seed,
        verbose=5,
    )
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FitFailedWarning)
        search.fit(train.X, train.y, sample_weight=train.weight)
    seconds = time.perf_counter() - started - search.refit_time_
    reasons: Counter[str] = Counter()
    for warning in caught:
        text = str(warning.message).splitlines()[0]
        if issubclass(warning.category, FitFailedWarning):
            reasons[text] += 1
        else:
            console.print(f"{warning.category.__name__}: {text}", highlight=False)
    results = {name: values for name, values in search.cv_results_.items() if name != "params"}
    candidates = pd.DataFrame({name: list(values) for name, values in results.items()})
    return Searched(search, candidates, model_of(candidates, args.seed), seconds, reasons)


def scored(candidates: pd.DataFrame) -> pd.DataFrame:
    """Return the candidates that have a score."""
    return candidates[np.isfinite(candidates["mean_test_score"].to_numpy(dtype=float))]


def model_of(candidates: pd.DataFrame, seed: int) -> SearchModel | None:
    """Return a model of the scores; None if there are too few, or all of one size."""
    known = scored(candidates)
    enough = len(known) >= FEWEST and np.ptp(known["n_parameters"]) > 0
    return fit_search_model(known, parameters=SPACE, random_state=seed) if enough else None


def described(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters as cells of a table."""
    return {
        "depth": int(params["depth"]),
        "width": int(params["width"]),
        "growth rate": f"{params['growth_rate']:.2f}",
        "dropout": f"{params['dropout']:g}",
        "weight decay": f"{params['weight_decay']:g}",
    }


def samples_part(args: argparse.Namespace, found: Searched, train: Events, source: str) -> Part:
    """Report the candidates, the cost, the failures and the best candidate."""
    candidates, n = found.candidates, len(found.candidates)
    shapes = candidates[["param_depth", "param_width", "param_growth_rate"]].drop_duplicates()
    took = {
        "candidates": n,
        "architectures (depth, width, growth rate)": len(shapes),
        "candidates without a score": n - len(scored(candidates)),
        "networks trained": n * args.members,
        "seconds of the search": found.seconds,
        "seconds a candidate": found.seconds / n,
        "fewest free parameters": int(candidates["n_parameters"].min()),
        "most free parameters": int(candidates["n_parameters"].max()),
    }
    tables = {
        "candidates tried": pd.DataFrame({"value": pd.Series(took, dtype=object)}),
        "best candidates": best_table(found),
    }
    setting = (
        f"{len(train.y):,} events ({source}) to search on, {args.epochs} epochs of 1cycle, batches of "
        f"{args.batch_size}, augmentation and class-balanced weights as in the study's final solution."
    )
    folds = (
        f"Each of the {args.members} members is trained on {1 - 1 / args.members:.0%} of them (the study: 90 %) "
        "and validated on the others. The loss is the mean over the members, ± their standard deviation. Every "
        "candidate has its own folds and starting values."
    )
    return Part(
        "Architecture search", tables, (setting, folds, failures(found)), {"candidates": candidates}
    )


def best_table(found: Searched) -> pd.DataFrame:
    """Return the candidates of the lowest loss, with the loss that the model expects."""
    best = scored(found.candidates).nlargest(5, "mean_test_score")
    lines = []
    for _, row in best.iterrows():
        params = {name: row[f"param_{name}"] for name in SPACE}
        line = described(params) | {
            "parameters": int(row["n_parameters"]),
            "validation loss": f"{-row['mean_test_score']:.5f} ± {row['std_test_score']:.5f}",
        }
        if found.model is not None:
            expected = found.model.predict([params]).iloc[0]
            line["expected"] = f"{-expected['mean']:.5f} ± {expected['std']:.5f}"
        lines.append(line)
    return pd.DataFrame(lines, index=[str(k + 1) for k in range(len(lines))])


def failures(found: Searched) -> str:
    """Say how many candidates have no score, and why."""
    n, n_scored = len(found.candidates), len(scored(found.candidates))
    reasons = "; ".join(f"{count} x {reason}" for reason, count in found.reasons.most_common())
    told = f"{n - n_scored} of {n} have no score and count nowhere else: {reasons or 'NaN losses'}."
    return told if n_scored < n else "No candidate failed."


def modelled_parts(found: Searched) -> dict[str, Part]:
    """Report the dependence of the loss on the parameters, by the model and by the line of figure 13."""
    title, model = "Dependence of the loss", found.model
    if model is None:
        none = f"No model: fewer than {FEWEST} candidates have a score, or all are of one size."
        return {"dependence": Part(title, {}, (none,))}
    effects = model.effects().set_index("parameter")
    effects["effect / noise"] = effects["effect"] / model.noise_std
    optimum = model.optimum(model.table)
    known = scored(found.candidates)
    meaning = (
        "Effect: between the highest and the lowest expected loss along one parameter, averaged over the others. "
        f"Noise, by which candidates scatter about the model: {model.noise_std:.2g}."
    )
    best = (
        f"Best expected loss among the candidates: {-optimum.mean:.5f} ± {optimum.std:.5f}; lowest loss seen: "
        f"{-found.search.best_score_:.5f}, the best of {len(known)} noisy ones."
    )
    line = linregress(known["n_parameters"] / 1e4, -known["mean_test_score"])
    size = f"A straight line changes by {line.slope:+.2g} ± {line.stderr:.2g} for 10,000 parameters more."
    return {
        "dependence": Part(title, {"effects": effects}, (meaning, best)),
        "size": Part("Loss against size", {}, (size,)),
    }


def finalists_of(args: argparse.Namespace, found: Searched, train: Events) -> dict[str, Finalist]:
    """Return the best candidate, the optimum of the model among the candidates, and the study's network."""
    best = {name: found.search.best_params_[name] for name in SPACE}
    finalists = {BEST: Finalist(best, found.search.best_estimator_, found.search.refit_time_)}
    wanted = {CURRENT: STUDY}
    if found.model is not None:
        wanted = {OPTIMUM: found.model.optimum(found.model.table).params} | wanted
    for name, params in track(wanted.items(), "finalists", console=console):
        if params == best:
            finalists[name] = finalists[BEST]
            continue
        model = network(args).set_params(**params, n_members=args.finalist_members)
        started = time.perf_counter()
        model.fit(train.X, train.y, sample_weight=train.weight)
        finalists[name] = Finalist(params, model, time.perf_counter() - started)
    return finalists


def finalists_part(args: argparse.Namespace, finalists: dict[str, Finalist], test: Events) -> Part:
    """Score the finalists on test events, and compare with the study's network."""
    weight = class_balanced_weights(test.y, test.weight)
    signal, losses, folds = {}, {}, {}
    for name, (_, model, _) in finalists.items():
        signal[name] = model.predict_proba(test.X)[:, 1]
        right = np.where(test.y == 1, signal[name], 1 - signal[name])
        # float32 knows no probabilities closer to 0.
        losses[name] = -np.log(np.maximum(right, 1e-7))
        folds[name] = model.history_.groupby("member")["valid_loss"].min()
    lines = {}
    for name, finalist in finalists.items():
        in_folds = mean_and_error(folds[name] - folds[CURRENT])
        on_test = _weighted_mean(losses[name] - losses[CURRENT], weight)
        lines[name] = described(finalist.params) | {
            "parameters": finalist.model.ensemble_.n_parameters,
            "validation loss": f"{folds[name].mean():.5f}",
            "validation, less the study's": _difference(name, *in_folds),
            "log-loss": f"{np.average(losses[name], weights=weight):.5f}",
            "log-loss, less the study's": _difference(name, *on_test),
            "AUC": f"{roc_auc_score(test.y, signal[name], sample_weight=weight):.5f}",
            "fit (s)": finalist.seconds,
        }
    what = (
        f"{args.finalist_members} members each, on the same folds, all trained anew; {len(test.y):,} test events, "
        "which took no part in the search. Log-loss and AUC with class-balanced weights."
    )
    errors = (
        "Differences are paired. ± is their standard error: of the validation loss over the members, starting "
        "values included; of the log-loss over the test events alone."
    )
    if finalists.get(OPTIMUM) is finalists[BEST]:
        what += " The model's optimum is the best candidate: one fit serves for both."
    tables = {"finalists": pd.DataFrame(lines.values(), index=list(lines))}
    return Part("On test events", tables, (what, errors), {"validation loss": pd.DataFrame(folds)})


def _weighted_mean(values: Array, weight: Array) -> tuple[float, float]:
    """Return a weighted mean and its standard error."""
    mean = np.average(values, weights=weight)
    error = np.sqrt(np.sum((weight * (values - mean)) ** 2)) / weight.sum()
    return float(mean), float(error)


def _difference(name: str, mean: float, error: float) -> str:
    """Write the difference to the study's network; empty for that network."""
    return "-" if name == CURRENT else f"{mean:+.5f} ± {error:.5f}"


def figures(
    candidates: pd.DataFrame, model: SearchModel | None
) -> dict[str, Callable[[Path], None]]:
    """Return a function to draw each figure; empty without matplotlib or with too few candidates."""
    if model is None or find_spec("matplotlib") is None:
        return {}
    from skhep_nn import plotting

    samples = partial(plotting.SearchSamplesDisplay.from_results, parameters=SPACE)
    makers: dict[str, Callable[[], Any]] = {
        "samples": partial(samples, candidates),
        "dependence": partial(plotting.SearchDependenceDisplay.from_model, model),
        "size": partial(plotting.SearchSizeDisplay.from_results, candidates),
        "progress": partial(plotting.SearchProgressDisplay.from_results, candidates),
    }
    return {name: partial(_save, make) for name, make in makers.items()}


def _save(make: Callable[[], Any], path: Path) -> None:
    """Draw a display into a file."""
    import matplotlib.pyplot as plt

    display = make()
    display.figure_.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(display.figure_)


def redraw(args: argparse.Namespace) -> None:
    """Draw the figures of a search that has run elsewhere."""
    rounds = json.loads(args.redraw.read_text())["samples"]["rounds"]
    candidates = pd.DataFrame(rounds["candidates"])
    for name, draw in figures(candidates, model_of(candidates, args.seed)).items():
        draw(args.output / f"{name}.png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="csv(.gz) or parquet of the challenge")
    parser.add_argument("--events", type=int, help="number to simulate")
    parser.add_argument("--candidates", type=int, help="number to try")
    parser.add_argument("--per-shape", type=int, help="candidates of one shape, trained stacked")
    parser.add_argument("--members", type=int, default=3, help="of a candidate")
    parser.add_argument("--epochs", type=int, help="epochs of 1cycle")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--window", type=int, nargs=2, default=[5_000, 100_000], help="parameters")
    parser.add_argument("--finalist-members", type=int, help="of each tested architecture")
    parser.add_argument("--quick", action="store_true", help="fewer events, candidates and epochs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--redraw", type=Path, metavar="FILE", help="only draw a results.json")
    parser.add_argument("--output", type=Path, default=Path("results/architecture_search"))
    args = parser.parse_args()
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main() -> None:
    args = parse()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.redraw is not None:
        redraw(args)
        return
    train, test = split(args)
    source, where = getattr(args.data, "name", "simulated"), machine(args.device)
    console.print(f"{args.candidates} candidates, {len(train.y):,} events ({source}) to search on")
    console.print(f"on {where['gpu'] or where['processor']}, {where['torch_threads']} threads\n")
    found = run_search(args, train)
    drawn = figures(found.candidates, found.model)
    parts = {
        "samples": samples_part(args, found, train, source),
        **modelled_parts(found),
        "progress": Part("Progress", {}, (f"Best: candidate {found.search.best_index_ + 1}.",)),
    }
    parts = {name: part._replace(draw=drawn.get(name)) for name, part in parts.items()}
    # Written here, so that results are kept if a finalist fails.
    write_parts(args.output, where, parts)
    parts["finalists"] = finalists_part(args, finalists_of(args, found, train), test)
    for part in parts.values():
        show_part(part)
    for name, draw in drawn.items():
        draw(args.output / f"{name}.png")
    if not drawn:
        console.print("no figures without matplotlib and a model")
    for path in write_parts(args.output, where, parts):
        console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
