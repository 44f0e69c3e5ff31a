"""Models of `benchmarks.waveforms.job`: our networks and their peers, all of them estimators on raw traces."""

from __future__ import annotations

import argparse
import importlib.util
import time
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from benchmarks.waveforms.pulse_shapes import pulse_shapes
from skhep_nn import Constant
from skhep_nn.estimators import WaveformClassifier, WaveformRegressor
from skhep_nn.networks.waveform import WaveformCNN
from skhep_nn.preprocessing import WaveformScaler

Array = NDArray[Any]
Task = Literal["regression", "classification"]

OURS, SCHOOL = "skhep_nn, default", "skhep_nn, preset school"
SHAPES, LOOP = "boosted trees, pulse shapes", "plain PyTorch loop, default network"
ROCKET = "MiniRocket and ridge"
LIGHT = "sum of the trace alone"
TREES, LINEAR = "extra trees, pulse shapes", "logistic regression, pulse shapes"
_ROCKET_POINTS, _ROCKET_KERNELS = 1000, 5000


class Result(NamedTuple):
    """Predictions of a model for the test traces, and the seconds of fit and prediction."""

    prediction: Array
    fit_seconds: float
    predict_seconds: float
    model: Any = None


def evaluate(model: Any, X: Array, y: Array, X_test: Array) -> Result:
    """Fit, and predict values, or the probability of the second class."""
    start = time.perf_counter()
    model.fit(X, y)
    fitted = time.perf_counter()
    prediction = answer(model, X_test)
    return Result(prediction, fitted - start, time.perf_counter() - fitted, model)


def answer(model: Any, X: Array) -> Array:
    """Return predicted values, or probabilities of the second class."""
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(X))[:, 1]
    if hasattr(model, "decision_function"):
        return np.asarray(model.decision_function(X))
    return np.asarray(model.predict(X), dtype=float)


# -- ours -----------------------------------------------------------------------------------------


def ours(task: Task, args: argparse.Namespace, seed: int) -> Any:
    """Return the estimator with its defaults."""
    kind = WaveformRegressor if task == "regression" else WaveformClassifier
    params: dict[str, Any] = {"output": "sigmoid"} if task == "regression" else {}
    return kind(
        max_epochs=args.epochs,
        batch_size=args.batch_size,
        n_members=args.members,
        device=args.device,
        random_state=seed,
        **params,
    )


def school(args: argparse.Namespace, seed: int) -> Any:
    """Return the published recipe: RMSprop at 1e-3, batches of 128, ten epochs."""
    network = WaveformRegressor(
        preset="school",
        output="sigmoid",
        optimizer="rmsprop",
        schedule=Constant(1e-3),
        batch_size=128,
        max_epochs=args.school_epochs,
        device=args.device,
        random_state=seed,
    )
    return make_pipeline(WaveformScaler(), network)


def warm_up(X: Array, args: argparse.Namespace) -> None:
    """Train once, so that the first model measured does not include the time in which torch loads its parts."""
    WaveformRegressor(max_epochs=2, device=args.device).fit(X, np.arange(len(X)) % 10 / 10)


# -- peers ----------------------------------------------------------------------------------------


def boosting(task: Task, seed: int) -> Any:
    """Return gradient boosting on pulse shapes, with early stopping on a tenth of the traces."""
    options: dict[str, Any] = {
        "max_iter": 1000,
        "learning_rate": 0.06,
        "early_stopping": True,
        "n_iter_no_change": 20,
        "random_state": seed,
    }
    if task == "regression":
        model: Any = HistGradientBoostingRegressor(**options)
    else:
        model = HistGradientBoostingClassifier(**options)
    return make_pipeline(FunctionTransformer(pulse_shapes), model)


class PlainLoop(BaseEstimator):
    """Our default network as one trains it in PyTorch: float32, Adam, cosine annealing."""

    def __init__(self, task: Task, args: argparse.Namespace, seed: int) -> None:
        self.task = task
        self.args = args
        self.seed = seed

    def fit(self, X: Array, y: Array) -> Self:
        """Train the network."""
        args = self.args
        torch.manual_seed(self.seed)
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.device_ = torch.device(auto if args.device == "auto" else args.device)
        self.mean_, self.scale_ = float(X.mean()), float(X.std()) + 1e-9
        self.network_ = WaveformCNN(X.shape[1:])
        self.network_.reset_parameters()
        self.network_.to(self.device_).train()
        rows = torch.from_numpy(self._scaled(X)).to(self.device_)
        target = torch.as_tensor(y, dtype=torch.float32, device=self.device_)
        loss = nn.MSELoss() if self.task == "regression" else nn.BCEWithLogitsLoss()
        optimizer = torch.optim.Adam(self.network_.parameters(), lr=1e-3)
        n_steps = args.epochs * -(-len(rows) // args.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
        for _ in range(args.epochs):
            for batch in torch.randperm(len(rows), device=self.device_).split(args.batch_size):
                optimizer.zero_grad()
                loss(self._output(rows[batch]), target[batch]).backward()
                optimizer.step()
                schedule.step()
        return self

    def _scaled(self, X: Array) -> Array:
        scaled = X.astype(np.float32)
        scaled -= self.mean_
        scaled /= self.scale_
        return scaled

    def _output(self, rows: torch.Tensor) -> torch.Tensor:
        output = self.network_(rows)[:, 0]
        return output.sigmoid() if self.task == "regression" else output

    @torch.inference_mode()
    def decision_function(self, X: Array) -> Array:
        """Return the outputs, as probabilities or values of 0 to 1."""
        self.network_.eval()
        parts = [
            self._output(torch.from_numpy(self._scaled(X[start : start + 512])).to(self.device_))
            for start in range(0, len(X), 512)
        ]
        found = torch.cat(parts).cpu()
        if self.task == "classification":
            found = found.sigmoid()
        return found.numpy().astype(float)


class Rocket(TransformerMixin, BaseEstimator):
    """MiniRocket of aeon on traces averaged to 1,000 points at most."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fit(self, X: Array, y: Array | None = None) -> Self:
        """Choose the kernels."""
        from aeon.transformations.collection.convolution_based import MiniRocket

        del y
        self.rocket_ = MiniRocket(
            n_kernels=_ROCKET_KERNELS, random_state=self.seed, n_jobs=torch.get_num_threads()
        )
        self.rocket_.fit(self._shorter(X))
        return self

    def transform(self, X: Array) -> Array:
        """Return shares of points above thresholds."""
        return np.asarray(self.rocket_.transform(self._shorter(X)), dtype=np.float32)

    def _shorter(self, X: Array) -> Array:
        factor = -(-X.shape[1] // _ROCKET_POINTS)
        n_points = X.shape[1] // factor
        cut = X[:, : n_points * factor].reshape(len(X), n_points, factor, -1)
        return np.ascontiguousarray(cut.mean(axis=2, dtype=np.float32).transpose(0, 2, 1))


def light() -> Any:
    """Return logistic regression on the amount of light: the only information where pulses coincide."""
    total = FunctionTransformer(_total)
    return make_pipeline(total, StandardScaler(), LogisticRegression())


def _total(X: Array) -> Array:
    """Sum every trace."""
    return X.reshape(len(X), -1).sum(axis=1, dtype=float, keepdims=True)


def rocket(seed: int) -> Any:
    """Return MiniRocket and a ridge regression, of values or of labels 0 and 1."""
    return make_pipeline(Rocket(seed), StandardScaler(), RidgeCV(alphas=np.logspace(0, 5, 6)))


def has_rocket() -> bool:
    """Whether aeon is installed."""
    return importlib.util.find_spec("aeon") is not None


def contestants(task: Task, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Return ours and the peers for simulated traces; `school` only measures separations."""
    models = {OURS: ours(task, args, seed)}
    if task == "regression" and args.school_epochs:
        models[SCHOOL] = school(args, seed)
    if args.peers:
        if task == "classification":
            models[LIGHT] = light()
        models[SHAPES] = boosting(task, seed)
        models[LOOP] = PlainLoop(task, args, seed)
        if has_rocket():
            models[ROCKET] = rocket(seed)
    return models


def few_traces(task: Task, seed: int) -> dict[str, Any]:
    """Return models on pulse shapes for files of few traces."""
    shapes = FunctionTransformer(pulse_shapes, kw_args={"profile": False})
    options: dict[str, Any] = {"min_samples_leaf": 5, "random_state": seed}
    if task == "regression":
        return {
            SHAPES: make_pipeline(shapes, HistGradientBoostingRegressor(**options)),
            TREES: make_pipeline(shapes, ExtraTreesRegressor(500, random_state=seed)),
        }
    return {
        SHAPES: make_pipeline(shapes, HistGradientBoostingClassifier(**options)),
        TREES: make_pipeline(shapes, ExtraTreesClassifier(500, random_state=seed)),
        LINEAR: make_pipeline(shapes, StandardScaler(), LogisticRegression(max_iter=2000)),
    }
