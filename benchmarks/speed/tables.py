"""Parts of `benchmarks.speed.job`: training and prediction on tables, our networks against other libraries."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from skorch import NeuralNetBinaryClassifier

from benchmarks.common.peers import Sample, lumin
from benchmarks.common.reporting import Part, bars
from benchmarks.common.timing import (
    Loop,
    PlainDenseNet,
    Ratio,
    in_turn,
    medians,
    product_rate,
    ratios,
    seconds_of,
    typical_epoch,
    using_threads,
)
from skhep_nn import CartesianMomenta, DenseNetClassifier, EventAugmenter, make_higgs_events
from skhep_nn.metrics import class_balanced_weights

Variant = Callable[[], float]

BATCH, CATEGORY, N_CATEGORIES, N_NUMBERS = 256, "PRI_jet_num", 4, 30
SKORCH_MODULE = {"module__n_numbers": N_NUMBERS, "module__n_categories": N_CATEGORIES}
#: Weights of the matrix products: six layers of 33 that read 33 to 198 features, and the output.
N_WEIGHTS = 33 * 33 * 21 + 33
#: Figures are scaled to the study's numbers of events.
EVENTS, PREDICTED, MEMBERS, VIEWS = 200_000, 550_000, 10, 8
FLOOR = "floor by a large matrix product"


class Job(NamedTuple):
    """Simulated events: as our estimators take them, and standardised, category last, for loops by hand."""

    raw: pd.DataFrame
    frame: pd.DataFrame
    rows: NDArray[np.float32]
    y: NDArray[np.int64]
    weight: NDArray[np.float64]


def higgs_job(n_events: int, seed: int = 0) -> Job:
    """Simulate events of the study."""
    events = make_higgs_events(n_events, random_state=seed)
    frame = CartesianMomenta().fit_transform(events.data)
    numbers = frame.drop(columns=CATEGORY).to_numpy(np.float64)
    numbers = (numbers - numbers.mean(0)) / np.where(numbers.std(0) > 0, numbers.std(0), 1)
    y = (events.target == "s").astype(np.int64)
    return Job(
        events.data,
        frame,
        np.column_stack([numbers, frame[CATEGORY]]).astype(np.float32),
        y,
        class_balanced_weights(y, events.sample_weight),
    )


def study_model(n_members: int, device: str, **params: Any) -> DenseNetClassifier:
    """Return the study's networks, as an estimator."""
    return DenseNetClassifier(
        n_members=n_members,
        categorical_features=[CATEGORY],
        embedding_sizes=3,
        batch_size=BATCH,
        device=device,
        random_state=0,
        **params,
    )


def plain_network() -> PlainDenseNet:
    """Return the study's network, as one writes it in torch."""
    return PlainDenseNet(N_NUMBERS, N_CATEGORIES)


# -- training -------------------------------------------------------------------------------------


class Training(NamedTuple):
    """Variants of training; each returns seconds per member and epoch of 200,000 events."""

    job: Job
    device: str
    passes: int

    def ours(
        self, n_members: int, n_threads: int | None, augmentation: EventAugmenter | None = None
    ) -> Variant:
        """Run epochs of `fit`, validation included."""
        model = study_model(
            n_members, self.device, augmentation=augmentation, max_epochs=self.passes
        )
        # Each of several members holds a fold back; a single one has none.
        share = 1 - 1 / n_members if n_members > 1 else 1.0

        def run() -> float:
            with using_threads(n_threads):
                model.fit(self.job.frame, self.job.y, sample_weight=self.job.weight)
            seconds = model.history_.query("member == 0").seconds.tolist()
            return self._scaled(typical_epoch(seconds), n_members * share)

        return run

    def loop(self, n_threads: int | None, *, fused: bool | None = None) -> Variant:
        """Run a loop by hand."""
        rows, target = (torch.from_numpy(a).to(self.device) for a in (self.job.rows, self.job.y))

        def run() -> float:
            loop = Loop(plain_network(), rows, target.float(), BATCH, fused=fused)
            with using_threads(n_threads):
                return self._scaled(loop.seconds(self.passes))

        return run

    def skorch(self, n_threads: int | None) -> Variant:
        """Skorch with its defaults: its own data loader, a fifth of the rows held back to validate on."""
        n_trained = 0.8

        def run() -> float:
            net = NeuralNetBinaryClassifier(
                PlainDenseNet,
                **SKORCH_MODULE,
                optimizer=torch.optim.Adam,
                lr=1e-3,
                batch_size=BATCH,
                max_epochs=self.passes,
                device=self.device,
                verbose=0,
            )
            with using_threads(n_threads):
                net.fit(self.job.rows, self.job.y.astype(np.float32))
            return self._scaled(typical_epoch(net.history[:, "dur"])) / n_trained

        return run

    def lumin(self, python: str) -> Variant:
        """LUMIN on one thread: the time that more epochs add to a run, its files of folds included."""
        X_test = self.job.raw.iloc[:1000]
        sample = Sample(self.job.raw, self.job.y, self.job.weight, X_test, 0)
        short, long = (lumin(python, 1, n) for n in (2, 2 + self.passes))

        def run() -> float:
            with environment(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES=""):
                more = long(sample).fit_seconds - short(sample).fit_seconds
            # Nine of ten folds are trained on.
            return self._scaled(more / self.passes, 0.9)

        return run

    def floor(self, n_threads: int | None) -> Variant:
        """Forward and backward as matrix products alone: six operations a weight and event."""
        return lambda: 6 * N_WEIGHTS * EVENTS / product_rate(self.device, n_threads)

    def _scaled(self, seconds: float, n_passes: float = 1.0) -> float:
        return seconds / n_passes * EVENTS / len(self.job.y)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


OURS = f"ours, {MEMBERS} members"
OURS_AUGMENTED = f"{OURS}, augmented"


def train(args: argparse.Namespace) -> Part:
    """Measure seconds per member and epoch of the study's network, batch 256."""
    training = Training(higgs_job(args.events), args.device, args.passes)
    n_threads = torch.get_num_threads()
    all_threads = f"{OURS}, {n_threads} threads"
    rounds = in_turn(_train_variants(training, all_threads, args.lumin_python), args.repeats)
    bars_of_ratios = [
        Ratio("skorch", OURS, "at least 5"),
        Ratio("LUMIN, augmented", OURS_AUGMENTED, "at least 3"),
        Ratio("torch loop", OURS, "at least 2.5"),
        Ratio("torch loop, fused Adam", OURS),
        Ratio(OURS, all_threads, "at least 1.7" if n_threads == 2 else ""),
        Ratio(OURS, FLOOR, "at most 1.5"),
        Ratio("skorch", "ours, 1 member"),
        Ratio("torch loop", "ours, 1 member"),
        Ratio("ours, 1 member", FLOOR),
        Ratio(OURS_AUGMENTED, OURS),
    ]
    tables = {
        "seconds per member and epoch": medians(rounds),
        "ratios": ratios(rounds, _for_device(bars_of_ratios, args.device)),
    }
    title = "Training on tables"
    draw = bars(rounds, title, f"seconds per member and epoch of {EVENTS:,} events", (FLOOR,))
    return Part(title, tables, _train_notes(args), {"seconds": rounds}, draw)


def _train_variants(training: Training, all_threads: str, python: str | None) -> dict[str, Variant]:
    """Return the variants; on a CPU all use one thread, except ours on all threads."""
    on_cpu = training.device == "cpu"
    one = 1 if on_cpu else None
    variants = {
        "skorch": training.skorch(one),
        "torch loop": training.loop(one),
        "torch loop, fused Adam": training.loop(one, fused=True),
        "ours, 1 member": training.ours(1, one),
        OURS: training.ours(MEMBERS, one),
        OURS_AUGMENTED: training.ours(MEMBERS, one, EventAugmenter()),
        FLOOR: training.floor(one),
    }
    if on_cpu and torch.get_num_threads() > 1:
        variants[all_threads] = training.ours(MEMBERS, None)
    if on_cpu and python:
        variants["LUMIN, augmented"] = training.lumin(python)
    return variants


def _train_notes(args: argparse.Namespace) -> tuple[str, ...]:
    n_parameters = sum(p.numel() for p in plain_network().parameters())
    threads = ", one thread where none are named" if args.device == "cpu" else ""
    return (
        (
            f"Seconds per member and epoch of {EVENTS:,} training events, measured with "
            f"{args.events:,}: the median of {args.passes} epochs less the first. Ours include "
            "validating each of several members on its fold, as LUMIN's do; skorch by default validates "
            "on a fifth of its rows, the loops by hand on none."
        ),
        f"The network: {n_parameters:,} parameters, batches of {BATCH}{threads}.",
        "Only variants with 'augmented' in their names use augmentation.",
    )


def _for_device(wanted: list[Ratio], device: str) -> list[Ratio]:
    """Remove the goals, which are for a CPU, from ratios of other devices."""
    return wanted if device == "cpu" else [ratio._replace(wanted="") for ratio in wanted]


# -- prediction -----------------------------------------------------------------------------------


def predict(args: argparse.Namespace) -> Part:
    """Seconds of the study's prediction: ten members, eight views."""
    job = higgs_job(args.predict_rows)
    model = study_model(MEMBERS, args.device, augmentation=EventAugmenter(), max_epochs=1)
    few = slice(0, 5000)
    model.fit(job.frame[few], job.y[few], sample_weight=job.weight[few])
    scale = PREDICTED / len(job.y)

    def ours(n_threads: int | None) -> Variant:
        run = seconds_of(lambda: model.predict_proba(job.frame))

        def scaled() -> float:
            with using_threads(n_threads):
                return run() * scale

        return scaled

    def floor(n_threads: int | None) -> Variant:
        n_operations = 2 * N_WEIGHTS * PREDICTED * MEMBERS * VIEWS
        return lambda: n_operations / product_rate(args.device, n_threads)

    n_threads = torch.get_num_threads()
    variants = {
        "skorch": _skorch_prediction(job.rows, args.device, scale),
        "torch loop": _torch_prediction(job.rows, args.device, scale),
        "ours": ours(None),
        FLOOR: floor(None),
    }
    if args.device == "cpu" and n_threads > 1:
        one = ", one thread"
        variants |= {f"ours{one}": ours(1), FLOOR + one: floor(1)}
    rounds = in_turn(variants, args.repeats)
    wanted = [
        Ratio("skorch", "ours", "at least 20"),
        Ratio("torch loop", "ours"),
        Ratio("ours", FLOOR, "at most 1.7"),
        Ratio("ours, one thread", f"{FLOOR}, one thread", "at most 1.7"),
        Ratio("ours, one thread", "ours"),
    ]
    note = (
        f"{MEMBERS} members and {VIEWS} views of {PREDICTED:,} events, measured with "
        f"{len(job.y):,}, on {n_threads} threads where nothing is said. skorch predicts one view with "
        f"one network, times {MEMBERS * VIEWS}; the loop by hand goes member by member in chunks of "
        "2,048 rows and spends no time on making views."
    )
    tables = {
        "seconds": medians(rounds),
        "ratios": ratios(rounds, _for_device(wanted, args.device)),
    }
    title = "Prediction on tables"
    floors = (FLOOR, f"{FLOOR}, one thread")
    draw = bars(rounds, title, f"seconds for {PREDICTED:,} events", floors)
    return Part(title, tables, (note,), {"seconds": rounds}, draw)


def _skorch_prediction(rows: NDArray[np.float32], device: str, scale: float) -> Variant:
    net = NeuralNetBinaryClassifier(PlainDenseNet, **SKORCH_MODULE, device=device, verbose=0)
    net.initialize()
    run = seconds_of(lambda: net.predict_proba(rows))
    return lambda: run() * MEMBERS * VIEWS * scale


def _torch_prediction(array: NDArray[np.float32], device: str, scale: float) -> Variant:
    networks = [plain_network().to(device).eval() for _ in range(MEMBERS)]
    rows = torch.from_numpy(array)

    @torch.inference_mode()
    def predict_all() -> NDArray[np.float32]:
        means = []
        for chunk in rows.split(2048):
            views = [chunk.to(device)] * VIEWS
            total = sum(network(view).sigmoid() for view in views for network in networks)
            means.append(total / len(views) / len(networks))
        return torch.cat(means).cpu().numpy()

    run = seconds_of(predict_all)
    return lambda: run() * scale
