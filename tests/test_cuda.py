"""What runs on a GPU, against the CPU: the same figures, within rounding."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from skhep_nn import (
    CartesianMomenta,
    Constant,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAugmenter,
    make_higgs_events,
)
from skhep_nn._cuda import FlatAdam

cuda = pytest.mark.cuda


@pytest.fixture(scope="module")
def events():
    events = make_higgs_events(6000, random_state=0)
    X = CartesianMomenta().fit_transform(events.data)
    return X, events.target, events.sample_weight


def model(**params):
    defaults = {
        "n_members": 3,
        "categorical_features": ["PRI_jet_num"],
        "class_weight": "balanced",
        "max_epochs": 3,
        "random_state": 0,
    }
    return DenseNetClassifier(**defaults | params)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_flat_adam_is_torchs_adam(decoupled, weight_decay):
    """On any device: the flat form is plain tensor arithmetic."""
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    shapes = [(3, 4, 5), (3, 4), (7,)]
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimiser = kind(theirs, weight_decay=weight_decay)
    group = optimiser.param_groups[0]
    flat = FlatAdam(ours, group, decoupled=decoupled)
    for step in range(20):
        group["lr"], beta1 = 0.01 * (1 + step), 0.95 - 0.005 * step
        group["betas"] = (beta1, 0.999)
        for a, b in zip(ours, theirs, strict=True):
            b.grad = torch.randn(b.shape, generator=generator)
            a.grad = b.grad.clone()
        optimiser.step()
        flat.step(torch.tensor(group["lr"]), torch.tensor(beta1))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def assert_same_ensemble(a, b, tolerance):
    for name, value in a.ensemble_.states.items():
        np.testing.assert_allclose(
            value, b.ensemble_.states[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


@cuda
def test_training_agrees_with_the_cpu(events):
    X, y, w = events
    settings = {"schedule": Constant(1e-3), "max_epochs": 1}
    on_cpu = model(device="cpu", **settings).fit(X, y, sample_weight=w)
    on_gpu = model(device="cuda", **settings).fit(X, y, sample_weight=w)
    # Adam divides by the gradient's size: where a gradient is all rounding, so is its step.
    assert_same_ensemble(on_cpu, on_gpu, 5e-3)
    np.testing.assert_allclose(on_cpu.predict_proba(X), on_gpu.predict_proba(X), atol=5e-3)
    np.testing.assert_allclose(
        on_cpu.history_.train_loss, on_gpu.history_.train_loss, rtol=1e-3, atol=1e-5
    )


@cuda
@pytest.mark.parametrize("augmentation", [None, EventAugmenter()])
def test_captured_graph_agrees_with_eager_steps(events, augmentation):
    X, y, w = events
    settings = {"device": "cuda", "augmentation": augmentation}
    captured = model(**settings).fit(X, y, sample_weight=w)
    eager = model(compile=False, **settings).fit(X, y, sample_weight=w)
    assert captured.net_._graphed is not None
    assert eager.net_._graphed is None
    np.testing.assert_allclose(
        captured.history_.train_loss, eager.history_.train_loss, rtol=2e-3, atol=1e-4
    )
    difference = np.abs(captured.predict_proba(X) - eager.predict_proba(X))
    assert difference.mean() < 5e-3


@cuda
def test_a_captured_pass_does_not_wait_for_the_device(events):
    X, y, w = events
    fitted = model(device="cuda").fit(X, y, sample_weight=w)
    graphed = fitted.net_._graphed
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            graphed.position.zero_()
            graphed.graph.replay()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@cuda
def test_dropout_and_augmentation_draw_anew_in_every_replay(events):
    X, y, w = events
    fitted = model(device="cuda", dropout=0.3, schedule=Constant(1e-12)).fit(X, y, sample_weight=w)
    graphed = fitted.net_._graphed
    losses = []
    for _ in range(3):
        graphed.position.zero_()
        graphed.graph.replay()
        losses.append(graphed.losses[0].clone())
    assert not torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[1], losses[2])


@cuda
def test_trained_on_cuda_predicts_without_a_gpu(events, tmp_path):
    X, y, w = events
    fitted = model(device="cuda", augmentation=EventAugmenter()).fit(X, y, sample_weight=w)
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps((fitted, X)))
    code = (
        "import pickle, sys, numpy as np, torch\n"
        "assert not torch.cuda.is_available()\n"
        "model, X = pickle.load(open(sys.argv[1], 'rb'))\n"
        "np.save(sys.argv[2], model.predict_proba(X))\n"
    )
    out = tmp_path / "proba.npy"
    subprocess.run(
        [sys.executable, "-c", code, path, out],
        check=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    np.testing.assert_allclose(np.load(out), fitted.predict_proba(X), atol=1e-5)


@cuda
def test_trained_on_the_cpu_predicts_on_cuda(events):
    X, y, w = events
    fitted = model(device="cpu", augmentation=EventAugmenter()).fit(X, y, sample_weight=w)
    p = fitted.predict_proba(X)
    np.testing.assert_allclose(p, fitted.set_params(device="cuda").predict_proba(X), atol=1e-5)


@cuda
def test_callbacks_and_early_stopping_on_cuda(events):
    from skorch.callbacks import EpochScoring

    X, y, w = events
    scoring = EpochScoring("roc_auc", name="auc", lower_is_better=False)
    fitted = model(device="cuda", early_stopping=2, max_epochs=6, callbacks=[scoring])
    fitted.fit(X, y, sample_weight=w)
    assert fitted.net_._graphed is None
    assert fitted.net_.history[-1, "auc"] > 0.6


@cuda
def test_regression_and_many_classes_on_cuda():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 4))
    frame = pd.DataFrame(X, columns=list("abcd"))
    target = np.column_stack([X[:, 0], X[:, 1] ** 2])
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    for kind, wanted in ((DenseNetRegressor, target), (DenseNetClassifier, y)):
        scores = [
            kind(device=device, max_epochs=40, random_state=0)
            .fit(frame, wanted)
            .score(frame, wanted)
            for device in ("cpu", "cuda")
        ]
        assert scores[1] > 0.9
        assert scores[1] == pytest.approx(scores[0], abs=0.02)


@cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_on_cuda(events, precision):
    X, y, w = events
    fitted = model(device="cuda", precision=precision, max_epochs=5).fit(X, y, sample_weight=w)
    assert np.isfinite(fitted.history_.train_loss).all()
    assert fitted.history_.valid_loss.iloc[-1] < 0.62
