"""Speed of the training core, as ratios in one run.

Usage: python benchmarks/speed.py [--reference] [--device auto] [--output results/speed] [--repeats 5]

Prints, as medians over repeats with the variants taken in turn:

* what training ten stacked members costs over one member (HiggsML recipe, class-balanced);
* what `fit` costs over a hand-written torch loop of the same network on 1,000 x 10 rows;
* what `predict` of one row costs after a first call;
* with ``--reference``, the study's job: 200,000 events, 15 passes with augmentation, for each number of
  ``--members``, then 550,000 events with eight views.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see higgsml.py

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from reporting import console, machine, write_json
from torch.nn import functional as F

from skhep_nn import CartesianMomenta, DenseNetClassifier, EventAugmenter, make_higgs_events
from skhep_nn.networks import DenseNet


def in_turn(variants: dict[str, Callable[[], object]], repeats: int) -> pd.DataFrame:
    """Time every variant once a round, so that a busy spell of the machine hits all of them."""
    for run in variants.values():
        run()
    rows = []
    for _ in range(repeats):
        row = {}
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            row[name] = time.perf_counter() - start
        rows.append(row)
    return pd.DataFrame(rows)


def members(n_events: int, n_epochs: int, repeats: int) -> pd.DataFrame:
    """Ten stacked members and one, on the same rows."""
    events = make_higgs_events(n_events, random_state=0)
    X = CartesianMomenta().fit_transform(events.data)

    def fit(n_members: int) -> Callable[[], object]:
        model = DenseNetClassifier(
            n_members=n_members,
            augmentation=EventAugmenter(),
            categorical_features=["PRI_jet_num"],
            class_weight="balanced",
            max_epochs=n_epochs,
            random_state=0,
        )
        return lambda: model.fit(X, events.target, sample_weight=events.sample_weight)

    return in_turn({"1 member": fit(1), "10 members": fit(10)}, repeats)


def torch_loop(
    X: NDArray[np.float32], y: NDArray[np.int64], n_epochs: int, batch_size: int
) -> None:
    """Train by the loop a physicist writes: tensors in memory, batches by index, no extras."""
    mean, scale = X.mean(0), X.std(0)
    rows, target = torch.from_numpy((X - mean) / scale), torch.from_numpy(y).float()
    network = DenseNet(X.shape[1])
    network.reset_parameters()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(n_epochs):
        for batch in torch.randperm(len(rows)).split(batch_size):
            optimiser.zero_grad()
            loss = F.binary_cross_entropy_with_logits(network(rows[batch])[:, 0], target[batch])
            loss.backward()
            optimiser.step()


def small_fit(n_epochs: int, repeats: int) -> pd.DataFrame:
    """`fit` and the hand-written loop on 1,000 x 10 rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 10)).astype(np.float32)
    y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(np.int64)
    model = DenseNetClassifier(max_epochs=n_epochs, device="cpu", random_state=0)
    variants = {
        "torch loop": lambda: torch_loop(X, y, n_epochs, 250),
        "fit": lambda: model.fit(X, y),
    }
    return in_turn(variants, repeats)


def one_row(repeats: int) -> pd.DataFrame:
    """`predict` of one row, one member and ten."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 31))
    y = (X[:, 0] > 0).astype(int)
    models = {
        f"predict one row, {k} members": DenseNetClassifier(
            n_members=k, max_epochs=1, device="cpu", random_state=0
        ).fit(X, y)
        for k in (1, 10)
    }
    calls = 100

    def repeat(model: DenseNetClassifier) -> Callable[[], object]:
        return lambda: [model.predict(X[:1]) for _ in range(calls)]

    return in_turn({name: repeat(m) for name, m in models.items()}, repeats) / calls


def reference_job(device: str, sizes: list[int], n_events: int, n_predicted: int) -> pd.DataFrame:
    """Train and predict at the size of the study; the first fit of a process counts as it is."""
    columns = CartesianMomenta()
    events = make_higgs_events(n_events, random_state=0)
    X = columns.fit_transform(events.data)
    X_test = columns.transform(make_higgs_events(n_predicted, random_state=1).data)
    rows = []
    for n_members in sizes:
        model = DenseNetClassifier(
            n_members=n_members,
            augmentation=EventAugmenter(),
            categorical_features=["PRI_jet_num"],
            embedding_sizes=3,
            class_weight="balanced",
            device=device,
            random_state=0,
        )
        start = time.perf_counter()
        model.fit(X, events.target, sample_weight=events.sample_weight)
        fitted = time.perf_counter()
        model.predict_proba(X_test[:1000])
        warm = time.perf_counter()
        model.predict_proba(X_test)
        end = time.perf_counter()
        history = model.history_.query("member == 0").seconds
        row = {"members": n_members, "fit (s)": fitted - start, "predict (s)": end - warm}
        row |= {"first pass (s)": history.iloc[0], "later pass (s)": history.iloc[1:].median()}
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--events", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("results/speed"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--reference", action="store_true", help="run the study's job")
    parser.add_argument("--members", type=int, nargs="+", default=[10])
    parser.add_argument("--reference-events", type=int, nargs=2, default=[200_000, 550_000])
    args = parser.parse_args()
    where = machine(args.device)
    console.print(
        f"on {where['gpu'] or where['processor']}, {where['cores']} cores, torch threads: "
        f"{where['torch_threads']}"
    )
    stacked = members(args.events, args.epochs, args.repeats)
    small = small_fit(15, 4 * args.repeats)
    single = one_row(args.repeats)
    medians = pd.concat([stacked.median(), small.median(), single.median()])
    ratios = {
        "10 members / 1 member": (stacked["10 members"] / stacked["1 member"]).median(),
        "fit / torch loop, 1,000 x 10": (small["fit"] / small["torch loop"]).median(),
    }
    for name, value in medians.items():
        console.print(f"{name:<32} {1e3 * value:10.2f} ms")
    for name, value in ratios.items():
        console.print(f"{name:<32} {value:10.2f}")
    content = {"machine": where, "medians_s": medians.to_dict(), "ratios": ratios}
    if args.reference:
        job = reference_job(args.device, args.members, *args.reference_events)
        console.print(job.round(2).to_string(index=False))
        content["reference"] = job.to_dict("records")
    write_json(args.output / "results.json", content)


if __name__ == "__main__":
    main()
