"""Images and models of `benchmarks.images.electron_photon`: our networks and their peers."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from benchmarks.images.shower_shapes import azimuth_shapes, shower_shapes
from skhep_nn import (
    CaloCNNClassifier,
    ImageAugmenter,
    ImageScaler,
    OneCycle,
    load_calo_hdf5,
    make_calo_showers,
)
from skhep_nn.datasets import CALO_SPLITS
from skhep_nn.networks import CaloCNN

Array = NDArray[Any]
SHAPES, PROFILE = "boosted trees, shower shapes", "boosted trees, shapes and profile"
LOOP, MLP = "plain PyTorch loop", "MLPClassifier on pixels"


class Images(NamedTuple):
    """Images as they are in files, and labels: 1 electron, 0 photon."""

    images: Array
    target: NDArray[np.int64]


class Data(NamedTuple):
    """Images to train, tune and score models on, and their source."""

    train: Images
    validation: Images
    test: Images
    real: Images | None
    source: str


class Result(NamedTuple):
    """Probability of an electron for each set of images, and the seconds of fit and prediction."""

    proba: dict[str, Array]
    fit_seconds: float
    predict_seconds: float
    model: Any = None


Model = Callable[[Data, argparse.Namespace], Result]


# -- data -----------------------------------------------------------------------------------------


def simulate(args: argparse.Namespace) -> tuple[Images, Images, Images]:
    """Simulate images; those for validation are as many, relative to training, as in the published split."""
    n_validation = round(args.images * 25_600 / 160_000)
    sizes = (args.images, n_validation, args.test_images)
    showers = make_calo_showers(sum(sizes), random_state=args.seed)
    ends = np.cumsum(sizes)
    parts = zip([0, *ends], ends, strict=False)
    train, validation, test = (Images(showers.images[a:b], showers.target[a:b]) for a, b in parts)
    return train, validation, test


def read(args: argparse.Namespace) -> Data:
    """Simulate images or read files."""
    if args.data is None:
        return Data(*simulate(args), None, "simulated")
    files = [sorted(args.data.glob(f"Single{name}Pt50*.hdf5")) for name in ("Photon", "Electron")]
    if not all(files):
        raise SystemExit(
            f"{args.data} holds no SinglePhotonPt50*.hdf5 and SingleElectronPt50*.hdf5"
        )
    paths = [found[0] for found in files]
    n_images = min(len(load_calo_hdf5(path, lazy=True).target) for path in paths)
    if n_images >= CALO_SPLITS["test"][1]:
        parts = (load_calo_hdf5(paths, split=split) for split in CALO_SPLITS)
        train, validation, test = (Images(part.images, part.target) for part in parts)
        return Data(train, validation, test, None, "real")
    excerpt = load_calo_hdf5(paths)
    sets = simulate(args)
    for part in sets:
        part.images[..., 1] = 0  # as in the public excerpt
    source = "simulated, without times"
    return Data(*sets, Images(excerpt.images, excerpt.target), source)


# -- models ---------------------------------------------------------------------------------------


def scaler() -> ImageScaler:
    """Return the transformation of energies before networks: the square root.

    A radiated photon has a hundredth of the energy of its electron: the root reduces this ratio to a tenth.
    """
    return ImageScaler(function="sqrt")


def channels(args: argparse.Namespace) -> Callable[[Array], Array]:
    """Return a transformer that selects the channels for networks."""
    n_channels = 1 if args.inputs == "energy" else 2
    return lambda images: images[..., :n_channels]


def ours(preset: str) -> Model:
    """Return the estimator with a preset."""

    def run(data: Data, args: argparse.Namespace) -> Result:
        augmenters = {
            "none": None,
            "flips": ImageAugmenter(quarter_turns=False),
            "turns": ImageAugmenter(),
        }
        model = CaloCNNClassifier(
            preset=preset,
            n_members=args.members,
            augmentation=augmenters[args.augmentation],
            schedule=OneCycle(args.lr),
            weight_decay=args.weight_decay,
            batch_size=args.batch_size,
            max_epochs=args.epochs,
            device=args.device,
            precision=args.precision,
            random_state=args.seed,
        )
        return timed(make_pipeline(scaler(), model), data, channels(args))

    return run


def timed(model: Any, data: Data, features: Callable[[Array], Any], **fit_params: Any) -> Result:
    """Fit and predict with a scikit-learn estimator; features are made before the clock starts."""
    X = features(data.train.images)
    start = time.perf_counter()
    model.fit(X, data.train.target, **fit_params)
    fit_seconds = time.perf_counter() - start
    proba = {}
    for name, part in scored(data).items():
        X = features(part.images)
        start = time.perf_counter()
        proba[name] = model.predict_proba(X)[:, 1]
        if name == "test":
            predict_seconds = time.perf_counter() - start
    return Result(proba, fit_seconds, predict_seconds, model)


def scored(data: Data) -> dict[str, Images]:
    """Name the sets that models are scored on."""
    sets = {"validation": data.validation, "test": data.test, "real": data.real}
    return {name: part for name, part in sets.items() if part is not None}


def boosted(features: Callable[[Array], pd.DataFrame]) -> Model:
    """Return gradient boosting, stopped where the loss of the validation set is lowest."""

    def run(data: Data, args: argparse.Namespace) -> Result:
        model = HistGradientBoostingClassifier(
            max_iter=1000, early_stopping=True, n_iter_no_change=20, random_state=args.seed
        )
        held_back = {"X_val": features(data.validation.images), "y_val": data.validation.target}
        return timed(model, data, features, **held_back)

    return run


def energy_shapes(images: Array) -> pd.DataFrame:
    """Compute shower shapes as all experiments use them."""
    return shower_shapes(images[..., 0]).astype(float)


def energy_shapes_and_profile(images: Array) -> pd.DataFrame:
    """Compute shower shapes and the folded profile along azimuth."""
    return pd.concat([energy_shapes(images), azimuth_shapes(images[..., 0])], axis=1)


def mlp(data: Data, args: argparse.Namespace) -> Result:
    """Fit scikit-learn's MLP on the principal components of the pixels."""
    n_components = min(100, len(data.train.target) // 2)
    model = make_pipeline(
        scaler(),
        FunctionTransformer(lambda images: images.reshape(len(images), -1)),
        PCA(n_components, whiten=True, random_state=args.seed),
        MLPClassifier((128, 64), early_stopping=True, random_state=args.seed),
    )
    return timed(model, data, channels(args))


class PlainLoop(ClassifierMixin, BaseEstimator):
    """The same network as one trains it in PyTorch: float32, Adam, cosine annealing."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu")
            if args.device == "auto"
            else args.device
        )

    def fit(self, X: Array, y: Array) -> Self:
        """Train the network."""
        args = self.args
        torch.manual_seed(args.seed)
        self.mean, self.scale = X.mean((0, 1, 2)), X.std((0, 1, 2)) + 1e-9
        self.network_ = CaloCNN(X.shape[1:], preset=args.presets[0])
        self.network_.reset_parameters()
        self.network_.to(self.device).train()
        rows = torch.as_tensor((X - self.mean) / self.scale).to(self.device)
        labels = torch.as_tensor(y, dtype=torch.float32, device=self.device)
        optimizer = torch.optim.Adam(self.network_.parameters(), lr=args.loop_lr)
        n_steps = args.epochs * -(-len(rows) // args.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
        for _ in range(args.epochs):
            for batch in torch.randperm(len(rows), device=self.device).split(args.batch_size):
                optimizer.zero_grad()
                logit = self.network_(rows[batch])[:, 0]
                nn.functional.binary_cross_entropy_with_logits(logit, labels[batch]).backward()
                optimizer.step()
                schedule.step()
        return self

    @torch.inference_mode()
    def predict_proba(self, X: Array) -> Array:
        """Return the probabilities of both classes."""
        self.network_.eval()
        rows = torch.as_tensor((X - self.mean) / self.scale)
        logits = [self.network_(part.to(self.device))[:, 0].cpu() for part in rows.split(1024)]
        proba = torch.cat(logits).sigmoid().numpy().astype(float)
        return np.stack([1 - proba, proba], axis=1)


def plain_loop(data: Data, args: argparse.Namespace) -> Result:
    return timed(make_pipeline(scaler(), PlainLoop(args)), data, channels(args))


def contestants(args: argparse.Namespace) -> dict[str, Model]:
    """Return ours and the peers."""
    peers: dict[str, Model] = {
        SHAPES: boosted(energy_shapes),
        PROFILE: boosted(energy_shapes_and_profile),
        MLP: mlp,
    }
    models = {f"skhep_nn, {preset}": ours(preset) for preset in args.presets}
    if not args.peers:
        return models
    return peers | models | {f"{LOOP}, {args.presets[0]}": plain_loop}
