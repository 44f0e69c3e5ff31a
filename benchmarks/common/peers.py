"""Peers that physicists use today, each on the same rows and class-balanced weights as our networks."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping
from skorch.dataset import ValidSplit
from torch import nn

from skhep_nn import AugmentedClassifier, CartesianMomenta, EventAugmenter
from skhep_nn.networks import DenseNet

Array = NDArray[np.float64]


class Sample(NamedTuple):
    """Rows to train on, with class-balanced weights, and rows to predict."""

    X_train: pd.DataFrame
    y_train: NDArray[np.int64]
    w_train: Array
    X_test: pd.DataFrame
    seed: int


class Result(NamedTuple):
    """Signal probability of the rows to predict, and the seconds of fit and prediction."""

    probability: Array
    fit_seconds: float
    predict_seconds: float
    model: Any = None


def timed(model: Any, sample: Sample, fit_params: dict[str, Any]) -> Result:
    """Fit and predict with a scikit-learn estimator."""
    start = time.perf_counter()
    model.fit(sample.X_train, sample.y_train, **fit_params)
    fitted = time.perf_counter()
    probability = model.predict_proba(sample.X_test)[:, 1]
    return Result(probability, fitted - start, time.perf_counter() - fitted, model)


def boosting(seed: int, n_copies: int = 1, **params: float) -> HistGradientBoostingClassifier:
    """Return gradient boosting with the best settings of a scan on other splits of these events.

    No early stopping: it led to longer trainings with a worse log-loss and AUC, and copies of one event on
    both sides of its inner split would make its validation useless.
    """
    return HistGradientBoostingClassifier(
        max_leaf_nodes=16,
        # The smallest leaf counts events, so it grows with the number of copies of each event.
        min_samples_leaf=40 * n_copies,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
        **params,
    )


def hist_gradient_boosting(sample: Sample) -> Result:
    """Fit scikit-learn's gradient boosting on the columns of the file (it handles NaN)."""
    model = boosting(sample.seed, learning_rate=0.06, max_iter=120)
    return timed(model, sample, {"sample_weight": sample.w_train})


def augmented_boosting(sample: Sample) -> Result:
    """Fit gradient boosting to eight augmented copies of the training rows; predict the mean over eight views."""
    model = AugmentedClassifier(
        boosting(sample.seed, 8, learning_rate=0.04, max_iter=200),
        augmenter=EventAugmenter(),
        n_copies=8,
        random_state=sample.seed,
    )
    return timed(model, sample, {"sample_weight": sample.w_train})


def mlp(sample: Sample) -> Result:
    """scikit-learn's MLP, the study's 4 x 100 network, on Cartesian momenta."""
    network = MLPClassifier((100,) * 4, early_stopping=True, random_state=sample.seed)
    model = make_pipeline(CartesianMomenta(), StandardScaler(), network)
    return timed(model, sample, {"mlpclassifier__sample_weight": sample.w_train})


class _Weighted(nn.Module):
    """Network for event weights in skorch: they are an input, which `forward` hands on to the loss."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.network = DenseNet(n_features)
        self.network.reset_parameters()

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network(x)[:, 0], weight


class _WeightedNet(NeuralNet):
    def get_loss(self, y_pred: Any, y_true: torch.Tensor, **_: Any) -> torch.Tensor:
        logit, weight = y_pred
        return (self.criterion_(logit, y_true) * weight).mean()


def plain_skorch(sample: Sample) -> Result:
    """Skorch as its documentation shows it: one network of our architecture, its own data loader."""
    start = time.perf_counter()
    torch.manual_seed(sample.seed)
    columns = make_pipeline(CartesianMomenta(), StandardScaler()).fit(sample.X_train)
    net = _WeightedNet(
        _Weighted,
        module__n_features=len(columns[0].get_feature_names_out()),
        criterion=nn.BCEWithLogitsLoss(reduction="none"),
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=256,
        max_epochs=100,
        train_split=ValidSplit(0.1, stratified=True, random_state=sample.seed),
        callbacks=[EarlyStopping(patience=5, load_best=True, sink=lambda _: None)],
        verbose=0,
    )

    def inputs(X: pd.DataFrame, weight: Array) -> dict[str, NDArray[np.float32]]:
        rows = np.asarray(columns.transform(X), dtype=np.float32)
        return {"x": rows, "weight": weight.astype(np.float32)}

    net.fit(inputs(sample.X_train, sample.w_train), sample.y_train.astype(np.float32))
    fitted = time.perf_counter()
    # skorch converts the logits of this criterion into the probabilities of both classes.
    probability = net.predict_proba(inputs(sample.X_test, np.ones(len(sample.X_test))))[:, 1]
    return Result(probability.astype(float), fitted - start, time.perf_counter() - fitted)


def xgboost(sample: Sample) -> Result:
    """XGBoost with its histogram method."""
    from xgboost import XGBClassifier

    model = XGBClassifier(
        n_estimators=200,
        learning_rate=0.06,
        max_depth=4,
        subsample=0.8,
        colsample_bytree=0.8,
        random_state=sample.seed,
    )
    return timed(model, sample, {"sample_weight": sample.w_train})


def lumin(python: str, n_members: int, n_epochs: int) -> Callable[[Sample], Result]:
    """Return the peer that runs the study's final recipe in LUMIN, by a Python with LUMIN installed."""
    script = Path(__file__).parents[1] / "higgs" / "lumin_peer.py"

    def run(sample: Sample) -> Result:
        columns = CartesianMomenta().fit(sample.X_train)
        X_train, X_test = (columns.transform(X) for X in (sample.X_train, sample.X_test))
        with tempfile.TemporaryDirectory() as folder:
            given, result = Path(folder) / "in.npz", Path(folder) / "out.npz"
            np.savez(
                given,
                X_train=X_train.to_numpy(np.float32),
                y_train=sample.y_train,
                w_train=sample.w_train,
                X_test=X_test.to_numpy(np.float32),
                names=np.array(list(X_train.columns)),
            )
            command = [python, script, given, result, "--members", n_members]
            command += ["--epochs", n_epochs, "--seed", sample.seed]
            subprocess.run(
                [str(part) for part in command],
                check=True,
                stdout=subprocess.DEVNULL,
                # LUMIN 0.9.1 stores whole models, which torch >= 2.6 reads only when told to.
                env=os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
            )
            out = np.load(result)
            return Result(
                out["proba"].astype(float), float(out["fit_seconds"]), float(out["predict_seconds"])
            )

    return run


def available() -> dict[str, Callable[[Sample], Result]]:
    """Return the peers that can run in this environment."""
    peers: dict[str, Callable[[Sample], Result]] = {
        "HistGradientBoosting": hist_gradient_boosting,
        "AugmentedClassifier(HistGradientBoosting)": augmented_boosting,
        "MLPClassifier": mlp,
        "skorch": plain_skorch,
    }
    if importlib.util.find_spec("xgboost"):
        peers["XGBoost"] = xgboost
    return peers
