"""Part of `benchmarks.speed.job`: networks for images and waveforms against loops by hand of the same network."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.common.reporting import Part, bars
from benchmarks.common.timing import (
    Loop,
    Ratio,
    in_turn,
    medians,
    ratios,
    seconds_of,
    typical_epoch,
)
from skhep_nn.utils.torch_state import half_precision

Array = NDArray[np.float32]

PLAIN, LAST, HALF = "float32", "channels last", "channels last, bfloat16"


class Case(NamedTuple):
    """A network, as one writes it in torch, and as an estimator of ours.

    `data` makes inputs with channels last; `network` takes them with channels first and returns a
    logit a row.
    """

    name: str
    data: Callable[[int], Array]
    network: Callable[[], nn.Module]
    estimator: Callable[..., Any]


# -- electron or photon: images of a calorimeter --------------------------------------------------


def images(n: int) -> Array:
    """Return images of 32 x 32 cells with two channels; their content does not matter here."""
    return np.random.default_rng(0).standard_normal((n, 32, 32, 2), dtype=np.float32)


def challenge_network() -> nn.Module:
    """Return the preset "challenge" of `CaloCNN`, as one writes it in torch."""
    layers: list[nn.Module] = []
    n_inputs = 2
    for n in (32, 64, 128):
        layers += [nn.Conv2d(n_inputs, n, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(n, n, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        n_inputs = n
    layers.append(nn.Flatten())
    n_inputs *= 4 * 4
    for n, rate in zip((256, 128, 128, 64), (0.4, 0.4, 0.25, 0.3), strict=True):
        layers += [nn.Linear(n_inputs, n), nn.ReLU(), nn.Dropout(rate)]
        n_inputs = n
    return nn.Sequential(*layers, nn.Linear(n_inputs, 1), nn.Flatten(0))


def calo_estimator(**params: Any) -> Any:
    """Return the same network as an estimator."""
    from skhep_nn.estimators import CaloCNNClassifier

    return CaloCNNClassifier(preset="challenge", **params)


CASES = [Case("calorimeter images", images, challenge_network, calo_estimator)]


# -- variants -------------------------------------------------------------------------------------


class ChannelsLast(nn.Module):
    """A network for inputs that lie in memory with channels last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for a view of the input with channels first."""
        return self.network(x.movedim(-1, 1))


class Measured(NamedTuple):
    """A case at a size; variants return the seconds of one epoch, or of one prediction, of all rows."""

    case: Case
    X: Array
    y: NDArray[np.int64]
    device: str
    batch_size: int
    passes: int

    def _network(self, kind: str) -> tuple[nn.Module, Array, torch.dtype | None]:
        network = self.case.network()
        if kind == PLAIN:
            return network, np.ascontiguousarray(np.moveaxis(self.X, -1, 1)), None
        return ChannelsLast(network), self.X, torch.bfloat16 if kind == HALF else None

    def loop(self, kind: str) -> Callable[[], float]:
        """Train by hand, all rows on the device."""
        network, X, autocast = self._network(kind)
        rows = torch.from_numpy(X).to(self.device)
        target = torch.from_numpy(self.y).float()
        by_hand = Loop(network, rows, target, self.batch_size, autocast=autocast)
        return lambda: by_hand.seconds(self.passes)

    def predict_by_hand(self, kind: str) -> Callable[[], float]:
        """Predict batch by batch, from and to the host."""
        network, X, autocast = self._network(kind)
        network.to(self.device).eval()
        rows = torch.from_numpy(X)

        @torch.inference_mode()
        def predict_all() -> NDArray[np.float32]:
            parts = []
            for batch in rows.split(self.batch_size):
                with torch.autocast(self.device, dtype=autocast, enabled=autocast is not None):
                    parts.append(network(batch.to(self.device)))
            return torch.cat(parts).float().sigmoid().cpu().numpy()

        return seconds_of(predict_all)

    def estimator(self, precision: str) -> Any:
        """Return ours."""
        return self.case.estimator(
            precision=precision,
            batch_size=self.batch_size,
            max_epochs=self.passes,
            device=self.device,
            random_state=0,
        )

    def fit(self, precision: str) -> float:
        """Train our estimator; with one member there is no validation."""
        history = self.estimator(precision).fit(self.X, self.y).history_
        return typical_epoch(history.seconds.tolist())

    def predict(self, precision: str) -> Callable[[], float]:
        """Predict with ours."""
        few = slice(0, 2 * self.batch_size)
        model = self.estimator(precision).set_params(max_epochs=1).fit(self.X[few], self.y[few])
        return seconds_of(partial(model.predict_proba, self.X))


def compare(measured: Measured, repeats: int) -> dict[str, pd.DataFrame]:
    """Return the rounds of training and of prediction."""
    half = half_precision(torch.device(measured.device)) is not None
    kinds = [PLAIN, LAST, *([HALF] if half else [])]
    precisions = {"ours, float32": "float32"} | ({"ours, bfloat16": "bfloat16"} if half else {})
    training = {kind: measured.loop(kind) for kind in kinds}
    training |= {name: partial(measured.fit, p) for name, p in precisions.items()}
    prediction = {kind: measured.predict_by_hand(kind) for kind in kinds}
    prediction |= {name: measured.predict(p) for name, p in precisions.items()}
    return {"training": in_turn(training, repeats), "prediction": in_turn(prediction, repeats)}


def run_cases(args: argparse.Namespace) -> Part:
    """Rows a second of every case."""
    tables, rounds, shown = {}, {}, []
    for case in CASES:
        X = case.data(args.images)
        y = np.arange(len(X)) % 2
        measured = Measured(case, X, y, args.device, args.image_batch, args.passes)
        for task, seconds in compare(measured, args.repeats).items():
            name = f"{case.name}, {task}"
            rates = len(X) / seconds
            rounds[name] = rates
            tables[f"{name}, rows a second"] = medians(rates, "1/s")
            tables[f"{name}, ratios of seconds"] = ratios(seconds, _wanted(args.device))
            shown.append(rates.add_suffix(f", {name}"))
    parameters = {c.name: sum(p.numel() for p in c.network().parameters()) for c in CASES}
    notes = (
        (
            f"{args.images:,} rows, batches of {args.image_batch}; parameters: {parameters}. Rates are of "
            "a typical epoch. Loops by hand have all rows on the device when they train, take batches by "
            "index, and predict batch by batch from the host."
        ),
    )
    title = "Images and waveforms"
    draw = bars(pd.concat(shown, axis=1), title, "rows a second")
    return Part(title, tables, notes, rounds, draw)


def _wanted(device: str) -> list[Ratio]:
    """Return ratios of seconds, the one by hand on top: how many times faster ours is."""
    same = "at least 1.3" if device == "cuda" else "at least 0.95"
    plain = "at least 2.5" if device == "cpu" else ""
    return [
        Ratio(LAST, "ours, float32", "" if device == "cuda" else same),
        Ratio(HALF, "ours, bfloat16", same),
        Ratio(PLAIN, "ours, float32"),
        Ratio(PLAIN, "ours, bfloat16", plain),
    ]
