"""Write one small fitted estimator of each kind, by `save` and by joblib, with its predictions.

Run it once per release, before names or files move: ``python tests/io/write_stored_models.py FOLDER``.
`test_stored_models.py` then holds that later versions still load these files and predict the same.
Inputs come from numpy's frozen legacy generator, not from the simulators, which may change.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

import skhep_nn as sk
from skhep_nn import ArchitectureSearch, AugmentedClassifier, AugmentedRegressor

N_ROWS = 48
FAST: dict[str, Any] = {"max_epochs": 2, "device": "cpu", "random_state": 0}


def make_inputs() -> dict[str, Any]:
    """Return events, images, ions, traces and their targets."""
    draw = np.random.RandomState(0)
    names = ["lep_pt", "lep_eta", "lep_phi", "tau_pt", "tau_eta", "tau_phi", "met", "met_phi"]
    values = draw.exponential(50, (N_ROWS, len(names)))
    for j, name in enumerate(names):
        if name.endswith("eta"):
            values[:, j] = draw.normal(0, 1.5, N_ROWS)
        if name.endswith("phi"):
            values[:, j] = draw.uniform(-np.pi, np.pi, N_ROWS)
    events = pd.DataFrame(values, columns=names).assign(n_jets=draw.randint(0, 3, N_ROWS))
    target = (events["lep_pt"] + events["tau_pt"] > 80).astype(int)
    images = draw.exponential(1, (N_ROWS, 8, 8, 2)).astype(np.float32)
    traces = draw.normal(0, 1, (N_ROWS, 64)).astype(np.float32)
    return {
        "events": events,
        "images": images,
        "traces": traces,
        "classes": target.to_numpy(),
        "labels": np.where(target == 1, "signal", "background"),
        "three": np.arange(N_ROWS) % 3,
        "energy": images.sum((1, 2, 3)).astype(float),
        "two_targets": np.column_stack([events["lep_pt"] * 2, events["tau_pt"]]),
    }


def make_models() -> dict[str, tuple[Any, str, str, str]]:
    """Return for each name an estimator, its inputs, its target and the method to compare."""
    cnn = {
        "network_params": {"channels": (4, 4), "kernels": 3, "dropout": (0.0, 0.1), "dense": (8,)}
    }
    trace = {"channels": 4, "network_params": {"dense": (8,)}}
    blocks = {
        "lepton": ["lep_pt", "lep_eta", "lep_phi"],
        "rest": ["tau_pt", "tau_eta", "tau_phi", "met", "met_phi", "n_jets"],
    }
    small = {"depth": 2, "width": 8, **FAST}
    return {
        "dense_classifier": (
            make_pipeline(
                sk.CartesianMomenta(),
                sk.DenseNetClassifier(
                    n_members=3,
                    augmentation=sk.EventAugmenter(),
                    categorical_features=["n_jets"],
                    averaging=sk.StochasticWeightAveraging(),
                    **small | {"max_epochs": 4},
                ),
            ),
            "events",
            "labels",
            "predict_proba",
        ),
        "dense_blocks": (
            sk.DenseNetClassifier(blocks=blocks, **small),
            "events",
            "three",
            "predict_proba",
        ),
        "dense_regressor": (
            make_pipeline(
                sk.EventAligner(reference="lep", orient="tau"),
                sk.DenseNetRegressor(**small, schedule=sk.Constant()),
            ),
            "events",
            "two_targets",
            "predict",
        ),
        "calo_classifier": (
            make_pipeline(
                sk.ImageScaler(),
                sk.ImageCropper(size=6),
                sk.CaloCNNClassifier(
                    augmentation=sk.ImageAugmenter(),
                    averaging=sk.SnapshotEnsemble(),
                    schedule=sk.CosineRestarts(max_lr=1e-3),
                    **cnn,
                    **FAST,
                ),
            ),
            "images",
            "classes",
            "predict_proba",
        ),
        "calo_regressor": (
            sk.CaloCNNRegressor(**cnn, **FAST, n_members=2, schedule=sk.ReduceOnPlateau()),
            "images",
            "energy",
            "predict",
        ),
        "waveform_classifier": (
            make_pipeline(
                sk.WaveformScaler(),
                sk.WaveformClassifier(augmentation=sk.WaveformAugmenter(), **trace, **FAST),
            ),
            "traces",
            "classes",
            "predict_proba",
        ),
        "waveform_regressor": (
            sk.WaveformRegressor(
                **trace,
                **FAST | {"max_epochs": 4},
                averaging=sk.FastGeometricEnsemble(n_snapshots=2),
                schedule=sk.CyclicLR(cycle=2),
            ),
            "traces",
            "energy",
            "predict",
        ),
        "augmented_classifier": (
            AugmentedClassifier(
                HistGradientBoostingClassifier(max_iter=3, random_state=0),
                augmenter=sk.EventAugmenter(),
                random_state=0,
            ),
            "events",
            "labels",
            "predict_proba",
        ),
        "augmented_regressor": (
            AugmentedRegressor(
                HistGradientBoostingRegressor(max_iter=3, random_state=0),
                augmenter=sk.EventAugmenter(),
                random_state=0,
            ),
            "events",
            "energy",
            "predict",
        ),
        "stacked_regressor": (
            sk.StackedPostRegressor(
                sk.CaloCNNRegressor(**cnn, **FAST),
                post_regressor=LinearRegression(),
                cv=2,
                random_state=0,
            ),
            "images",
            "energy",
            "predict",
        ),
        "hyper_classifier": (
            sk.HyperEnsembleClassifier(
                sk.DenseNetClassifier(schedule=sk.OneCycle(), **small),
                {"depth": [1, 2]},
                n_candidates=2,
                random_state=0,
            ),
            "events",
            "classes",
            "predict_proba",
        ),
        "hyper_regressor": (
            sk.HyperEnsembleRegressor(
                sk.DenseNetRegressor(**small), {"depth": [1, 2]}, n_candidates=2, random_state=0
            ),
            "events",
            "energy",
            "predict",
        ),
        "architecture_search": (
            ArchitectureSearch(
                sk.DenseNetClassifier(n_members=2, **small),
                {"depth": [1, 2]},
                n_iter=2,
                random_state=0,
            ),
            "events",
            "classes",
            "predict_proba",
        ),
        "event_augmenter": (sk.EventAugmenter(random_state=0), "events", "classes", "transform"),
        "image_augmenter": (
            sk.ImageAugmenter(roll_phi=1, random_state=0),
            "images",
            "classes",
            "transform",
        ),
        "waveform_augmenter": (
            sk.WaveformAugmenter(random_state=0),
            "traces",
            "classes",
            "transform",
        ),
    }


def write(folder: Path) -> None:
    """Fit and store all estimators, and write their predictions."""
    folder.mkdir(parents=True)
    inputs = make_inputs()
    predictions = {}
    for name, (model, data, target, method) in make_models().items():
        X = inputs[data]
        model.fit(X, inputs[target])
        predictions[name] = np.asarray(getattr(model, method)(X))
        sk.save(model, folder / f"{name}.skops")
        joblib.dump(model, folder / f"{name}.joblib", compress=True)
    np.savez_compressed(folder / "predictions.npz", **predictions)
    versions = {"skhep_nn": sk.__version__, "scikit-learn": sklearn.__version__}
    (folder / "versions.json").write_text(json.dumps(versions) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
