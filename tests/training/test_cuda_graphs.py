"""What runs on a GPU, against the CPU: the same figures, within rounding."""

import importlib.util
import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from skhep_nn import (
    CaloCNNClassifier,
    CartesianMomenta,
    Constant,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAugmenter,
    fit_together,
    make_calo_showers,
    make_higgs_events,
)
from skhep_nn.training import cuda_graphs as _cuda
from skhep_nn.training import run
from skhep_nn.training.cuda_graphs import FlatAdam, GraphPass
from skhep_nn.training.optimizers import adam_rates
from skhep_nn.training.passes import EagerPass

cuda = pytest.mark.cuda


@pytest.fixture(autouse=True)
def small_jobs_are_worth_kernels(monkeypatch):
    monkeypatch.setattr(_cuda, "_WORTH_COMPILING", 0)


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
@pytest.mark.parametrize("aligned", [False, True])
def test_flat_adam_is_torchs_adam(decoupled, weight_decay, aligned):
    """On any device: the flat form is plain tensor arithmetic."""
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    shapes = [(3, 4, 5), (3, 4), (7,)]
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimiser = kind(theirs, weight_decay=weight_decay)
    group = optimiser.param_groups[0]
    flat = FlatAdam(ours, group, decoupled=decoupled, aligned=aligned)
    places = np.diff([p.data_ptr() for p in ours])
    assert (places % 256 == 0).all() == aligned
    for step in range(20):
        group["lr"], beta1 = 0.01 * (1 + step), 0.95 - 0.005 * step
        group["betas"] = (beta1, 0.999)
        for a, b in zip(ours, theirs, strict=True):
            b.grad = torch.randn(b.shape, generator=generator)
            a.grad = b.grad.clone()
        optimiser.step()
        flat.step(torch.from_numpy(adam_rates([group["lr"]], [beta1], 0.999, step))[0])
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
    assert isinstance(captured.net_.pass_, GraphPass)
    assert isinstance(eager.net_.pass_, EagerPass)
    np.testing.assert_allclose(
        captured.history_.train_loss, eager.history_.train_loss, rtol=2e-3, atol=1e-4
    )
    difference = np.abs(captured.predict_proba(X) - eager.predict_proba(X))
    assert difference.mean() < 5e-3


@cuda
@pytest.mark.parametrize("params", [{}, {"activation": "prelu"}])
def test_fused_and_automatic_steps_are_chosen_by_the_network(events, params):
    X, y, w = events
    runner = model(device="cuda", max_epochs=1, **params).fit(X, y, sample_weight=w).net_.pass_
    fused = "activation" not in params and importlib.util.find_spec("triton") is not None
    assert type(runner.stepper).__name__ == ("_Fused" if fused else "_Autograd")


@cuda
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_fused_steps_agree_with_automatic_differentiation(events, monkeypatch, n_outputs):
    X, y, w = events
    target = y if n_outputs == 1 else np.digitize(X.to_numpy()[:, 0], [50.0, 100.0])
    settings = {"device": "cuda", "augmentation": EventAugmenter(), "weight_decay": 1e-3}
    fused = model(**settings).fit(X, target, sample_weight=w)
    monkeypatch.setattr(_cuda, "_WORTH_COMPILING", np.inf)
    simple = model(**settings).fit(X, target, sample_weight=w)
    for column in ("train_loss", "valid_loss"):
        np.testing.assert_allclose(fused.history_[column], simple.history_[column], rtol=5e-3)
    difference = np.abs(fused.predict_proba(X) - simple.predict_proba(X))
    assert difference.mean() < 5e-3


@cuda
def test_fused_dropout_is_as_good_repeatable_and_a_members_own(events, monkeypatch):
    X, y, w = events
    settings = {"device": "cuda", "dropout": 0.2}
    fused = model(**settings).fit(X, y, sample_weight=w)
    assert_same_ensemble(fused, model(**settings).fit(X, y, sample_weight=w), 0)
    pair = [model(**settings), model(**settings | {"dropout": 0.05, "random_state": 7})]
    together, _ = fit_together(pair, X, y, w)
    # Stacked with others its work is cut in another way, and rounded.
    difference = np.abs(together.predict_proba(X) - fused.predict_proba(X))
    assert difference.mean() < 5e-3
    monkeypatch.setattr(_cuda, "_WORTH_COMPILING", np.inf)
    simple = model(**settings).fit(X, y, sample_weight=w)
    assert type(simple.net_.pass_.stepper).__name__ == "_Autograd"
    losses = [m.history_.valid_loss.tail(len(m.ensemble_)).mean() for m in (fused, simple)]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


@cuda
@pytest.mark.parametrize("augmentation", [None, EventAugmenter()])
def test_rows_that_stay_on_the_host_give_the_same(events, monkeypatch, augmentation):
    X, y, w = events
    settings = {"device": "cuda", "augmentation": augmentation}
    resident = model(**settings).fit(X, y, sample_weight=w)
    monkeypatch.setattr(run, "_DEVICE_SHARE", 0.0)
    streamed = model(**settings).fit(X, y, sample_weight=w)
    assert streamed.net_.pass_.rows._stager is not None
    assert resident.net_.pass_.rows._stager is None
    assert_same_ensemble(resident, streamed, 0)
    eager = model(compile=False, **settings).fit(X, y, sample_weight=w)
    np.testing.assert_allclose(eager.history_.train_loss, resident.history_.train_loss, rtol=5e-3)


@cuda
def test_a_fit_is_repeatable_on_cuda(events):
    X, y, w = events
    settings = {"device": "cuda", "augmentation": EventAugmenter()}
    fits = [model(**settings).fit(X, y, sample_weight=w) for _ in range(2)]
    assert_same_ensemble(*fits, 0)


@cuda
@pytest.mark.parametrize("params", [{}, {"activation": "prelu"}])
def test_a_captured_pass_does_not_wait_for_the_device(events, params):
    X, y, w = events
    runner = model(device="cuda", **params).fit(X, y, sample_weight=w).net_.pass_
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for first in (0, 0):
            runner._fetch(first)
            for graph in runner._step_graphs.values():
                runner.stepper.position.zero_()
                graph.replay()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@cuda
@pytest.mark.parametrize("activation", ["swish", "prelu"], ids=["fused", "automatic"])
def test_dropout_and_augmentation_draw_anew_in_every_step(events, activation):
    X, y, w = events
    fitted = model(device="cuda", dropout=0.3, activation=activation, schedule=Constant(1e-12)).fit(
        X, y, sample_weight=w
    )
    runner = fitted.net_.pass_
    losses = []
    for n_done in range(3):
        runner.n_done = n_done
        runner._fetch(0)
        runner._step_graphs[1].replay()
        losses.append(runner.stepper.losses[0].clone())
    assert not torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[1], losses[2])
    plain = model(device="cuda", augmentation=EventAugmenter()).fit(X, y, sample_weight=w)
    drawn = []
    for _ in range(3):
        plain.net_.pass_._fetch(0)
        drawn.append(plain.net_.pass_.gathered.X.clone())
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


@cuda
@pytest.mark.parametrize("n_members", [1, 4])
def test_ordinary_modules_train_and_predict_on_cuda(n_members):
    """Convolutions with batch normalisation, members one after the other in one captured step."""
    images = make_calo_showers(600, random_state=0)
    settings = {"preset": "compact", "max_epochs": 3, "batch_size": 64, "random_state": 0}
    fitted = CaloCNNClassifier(n_members=n_members, device="cuda", **settings)
    fitted.fit(images.images, images.target)
    assert type(fitted.net_.pass_.stepper).__name__ == "_Autograd"
    weight = fitted.ensemble_.states["blocks.0.units.0.running_var"]
    assert np.all(weight != 1)
    on_gpu = fitted.predict_proba(images.images)
    on_cpu = fitted.set_params(device="cpu", precision="float32").predict_proba(images.images)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=0.02)


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
    assert isinstance(fitted.net_.pass_, EagerPass)
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
