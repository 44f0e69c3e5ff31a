"""The final recipe of the HiggsML study (arXiv:2002.01427, section 3.9) in LUMIN, the library of its author.

Usage: LUMIN_PYTHON benchmarks/higgs/lumin_peer.py IN.npz OUT.npz [--members 10] [--epochs 15] [--seed 0]

Runs under a Python that has LUMIN, which cannot be installed beside this package: ``lumin==0.9.1
torch==2.13.0 pdpbox==0.3.0`` is known to work. ``python -m benchmarks.higgs.job --lumin-python`` calls it.

IN.npz holds ``X_train`` and ``X_test`` (momenta in Cartesian form), ``names`` (their columns),
``y_train`` (0 or 1) and ``w_train`` (class-balanced, mean 1). OUT.npz gets ``proba`` (the
probability of class 1 for ``X_test``), ``fit_seconds``, ``predict_seconds`` and ``lumin_version``.
The seconds include writing the fold files from which LUMIN reads its data, but not start-up.

Where LUMIN 0.9.1 differs from the study's text, LUMIN's way is kept: it validates after each full
epoch (the study: after each fold), leaves out the rows of a fold that do not fill a batch, and turns
and reflects momenta after they were standardised.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

# Both are read when the libraries are imported or first used. LUMIN stores the state of its
# optimisers, which torch >= 2.6 reads back only when told to, and always draws its loss history.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pandas as pd
import torch
from lumin.data_processing.file_proc import df2foldfile
from lumin.data_processing.pre_proc import fit_input_pipe, proc_cats
from lumin.nn.callbacks.cyclic_callbacks import OneCycle
from lumin.nn.data.fold_yielder import HEPAugFoldYielder
from lumin.nn.ensemble.ensemble import Ensemble
from lumin.nn.models.helpers import CatEmbedder
from lumin.nn.models.model_builder import ModelBuilder
from lumin.nn.training.train import train_models
from lumin.utils.misc import ids2unique
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

JETS, TARGET, WEIGHT, STRATUM = "PRI_jet_num", "gen_target", "gen_weight", "gen_strat_key"
EMBEDDING, DEPTH, BATCH, FOLDS = 3, 6, 256, 10


@contextmanager
def silenced() -> Iterator[None]:
    """Suppress the output of LUMIN, its progress bars and shell commands; exceptions are raised as usual."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for stream in (1, 2):
                os.dup2(nowhere, stream)
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, original in zip((1, 2), kept, strict=True):
            os.dup2(original, stream)
            os.close(original)
        os.close(nowhere)


def read(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training rows, with target, weight and stratum as further columns, and rows to predict."""
    with np.load(path) as given:
        names = [str(name) for name in given["names"]]
        train = pd.DataFrame(given["X_train"], columns=names)
        test = pd.DataFrame(given["X_test"], columns=names)
        train[TARGET], train[WEIGHT] = given["y_train"].astype(int), given["w_train"]
    if JETS not in names:
        raise ValueError(f"names has no {JETS!r}, the categorical feature; it has {names}")
    if len(train) < FOLDS * BATCH:
        raise ValueError(
            f"X_train has {len(train)} rows; LUMIN cannot train on folds smaller than a batch: give "
            f"at least {FOLDS * BATCH} ({FOLDS} folds, batches of {BATCH})"
        )
    test[TARGET] = 0
    # LUMIN's proc_cats writes codes into these columns, and the strata are made of integers.
    for frame in (train, test):
        frame[JETS] = frame[JETS].astype(int)
    train[STRATUM] = ids2unique(train[[TARGET, JETS]].to_numpy())
    return train, test


def folds_of(
    frame: pd.DataFrame, pipe: Pipeline, features: list[str], path: Path
) -> HEPAugFoldYielder:
    """Write the standardised rows into ten folds on disk and open them for LUMIN."""
    frame = frame.copy()
    frame[features] = pipe.transform(frame[features].to_numpy(np.float32))
    training = STRATUM in frame
    df2foldfile(
        frame,
        n_folds=FOLDS,
        cont_feats=features,
        cat_feats=[JETS],
        targ_feats=TARGET,
        targ_type="int",
        savename=path,
        shuffle=training,
        strat_key=STRATUM if training else None,
        wgt_feat=WEIGHT if training else None,
    )
    # Rotation by any angle and both flips in training; two angles and four flips at test time.
    return HEPAugFoldYielder(f"{path}.hdf5", rot_mult=2, reflect_y=True, reflect_z=True)


def train_ensemble(
    folds: HEPAugFoldYielder, n_jet_codes: int, members: int, epochs: int, folder: Path
) -> Ensemble:
    """Train the networks, each with another fold held back, and weight them by 1 / its loss."""
    builder = ModelBuilder(
        objective="classifier",
        n_out=1,
        cont_feats=folds.cont_feats,
        cat_embedder=CatEmbedder([JETS], [n_jet_codes], emb_szs=[EMBEDDING]),
        model_args={
            "body": {
                "depth": DEPTH,
                "width": len(folds.cont_feats) + EMBEDDING,
                "act": "swish",
                "dense": True,
            }
        },
        opt_args={"opt": "adam", "eps": 1e-8},
    )
    # The lengths count epochs over nine folds: 5 and 10 are the study's 45 and 90 folds.
    rise = max(1, round(epochs / 3))
    cycle = partial(
        OneCycle,
        lengths=(rise, epochs - rise),
        lr_range=(1e-4, 1e-2),
        mom_range=(0.85, 0.95),
        interp="cosine",
    )
    results, _, _ = train_models(
        folds,
        n_models=members,
        bs=BATCH,
        model_builder=builder,
        n_epochs=epochs,
        cb_partials=[cycle],
        live_fdbk=False,
        savepath=folder / "weights",
    )
    return Ensemble.from_results(results, members, builder, metric="loss", weighting="reciprocal")


def run(
    train: pd.DataFrame, test: pd.DataFrame, members: int, epochs: int
) -> tuple[NDArray[np.float64], float, float]:
    """Signal probability of the test rows, seconds to train, seconds to predict."""
    features = [name for name in test if name not in {JETS, TARGET}]
    with tempfile.TemporaryDirectory() as name, silenced():
        folder = Path(name)
        start = time.perf_counter()
        _, n_codes = proc_cats(train, [JETS], test_df=test)
        pipe = fit_input_pipe(train, features)
        folds = folds_of(train, pipe, features, folder / "train")
        ensemble = train_ensemble(folds, n_codes[JETS], members, epochs, folder)
        fitted = time.perf_counter()
        views = folds_of(test, pipe, features, folder / "test")
        ensemble.predict(views)
        proba = views.get_column("pred")
        predicted = time.perf_counter()
        folds.close()
        views.close()
    return proba, fitted - start, predicted - fitted


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--members", type=int, default=FOLDS)
    parser.add_argument("--epochs", type=int, default=15, help="epochs, at least 2")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.members < 1 or options.epochs < 2:
        parser.error(
            f"--members must be 1 or more and --epochs 2 or more, got {options.members} and "
            f"{options.epochs}"
        )
    train, test = read(options.input)
    # LUMIN draws from all three global generators.
    random.seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002
    torch.manual_seed(options.seed)
    proba, fit_seconds, predict_seconds = run(train, test, options.members, options.epochs)
    np.savez(
        options.output,
        proba=proba,
        fit_seconds=fit_seconds,
        predict_seconds=predict_seconds,
        lumin_version=version("lumin"),
    )
    print(
        f"LUMIN {version('lumin')}: {options.members} networks trained in {fit_seconds:.1f} s, "
        f"{len(proba)} rows predicted in {predict_seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
