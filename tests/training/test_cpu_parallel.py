"""Training and prediction without automatic differentiation, against the simple version."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from skhep_nn import (
    Constant,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAugmenter,
    make_higgs_events,
)
from skhep_nn.ensemble import Ensemble, stack_networks
from skhep_nn.kernels.cpu_step import DenseStep
from skhep_nn.networks import CategoricalColumn, DenseNet
from skhep_nn.networks.losses import LOSSES
from skhep_nn.networks.member_layers import MemberDropout, fill_with_kept
from skhep_nn.training import cpu_parallel
from skhep_nn.training.cpu_parallel import CpuPass
from skhep_nn.training.passes import EagerPass
from skhep_nn.utils import parallel as _workers
from skhep_nn.utils.parallel import side_by_side

WIDTH, N_FEATURES = 70, 9
CATEGORICAL = [CategoricalColumn(2, 4, 3), CategoricalColumn(7, 3, 2)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stack(n_members=3, n_outputs=1, **params):
    members = []
    for seed in range(n_members):
        network = DenseNet(N_FEATURES, n_outputs, **{"categorical": CATEGORICAL} | params)
        network.reset_parameters(torch.Generator().manual_seed(seed))
        n = len(network.input_stage.mean)
        network.input_stage.mean.copy_(random(n, seed=seed))
        network.input_stage.scale.copy_(random(n, seed=seed).abs() + 0.5)
        members.append(network)
    return stack_networks(members)


def rows(*shape, seed=5):
    X = random(*shape, N_FEATURES, seed=seed)
    for column in CATEGORICAL:
        codes = torch.randint(
            -1, column.n_categories, shape, generator=torch.Generator().manual_seed(column.column)
        )
        X[..., column.column] = codes.float()
    return X


def targets(loss, n_outputs, *shape):
    generator = torch.Generator().manual_seed(9)
    if loss == "binary_cross_entropy":
        return torch.randint(0, 2, shape, generator=generator).float()
    if loss == "cross_entropy":
        return torch.randint(0, n_outputs, shape, generator=generator)
    return random(*shape, n_outputs, seed=9)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_slopes_are_the_derivatives_of_the_losses(loss):
    n_outputs = 1 if loss == "binary_cross_entropy" else 3
    output = (2 * random(4, 50, n_outputs)).double().requires_grad_()
    target = targets(loss, n_outputs, 4, 50)
    target = target if loss == "cross_entropy" else target.double()
    LOSSES[loss].value(output, target).sum().backward()
    slope = LOSSES[loss].gradient(output.detach(), target)
    torch.testing.assert_close(slope.expand_as(output), output.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"activation": "relu", "dense": False, "width": 12, "growth_rate": -0.1},
        {"activation": "selu", "depth": 1},
        {"categorical": [], "width": 5, "growth_rate": 0.3, "depth": 3},
        {"categorical": [], "depth": 1, "dense": False},
    ],
)
def test_the_gradient_is_automatic_differentiation(loss, params, monkeypatch):
    n_outputs = 1 if loss == "binary_cross_entropy" else 3
    network = stack(n_outputs=n_outputs, **params)
    X, weight = rows(3, WIDTH), random(3, WIDTH, seed=3)
    y = targets(loss, n_outputs, 3, WIDTH)
    monkeypatch.setattr(DenseNet, "_chains", lambda *_: False)
    expected = (LOSSES[loss].value(network(X), y) * weight).sum(-1)
    expected.sum().backward()
    for members in (slice(0, 3), slice(1, 3)):
        step = DenseStep(network, members, WIDTH, LOSSES[loss])
        step.load()
        part = X[members], y[members], weight[members]
        for _ in range(2):  # memory that is used again must not remember
            losses = step.step(*part)
        torch.testing.assert_close(losses, expected[members].detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(step.losses(*part), losses)
        sizes = [p[members].numel() for p in network.parameters()]
        assert not step.flat.grad[sum(sizes) :].any()
        parts = step.flat.grad[: sum(sizes)].split(sizes)
        for (name, p), part in zip(network.named_parameters(), parts, strict=True):
            grad = p.grad[members]
            size = grad.abs().max().item() + 1e-6
            torch.testing.assert_close(
                part.view_as(grad), grad, rtol=1e-4, atol=2e-6 * size, msg=lambda m, n=name: n + m
            )


def test_what_is_not_served():
    assert DenseStep.serves(stack())
    assert not DenseStep.serves(stack(activation="prelu"))
    assert not DenseStep.serves(stack(categorical=[CategoricalColumn(2, 65, 3)]))
    assert not DenseStep.serves(torch.nn.Linear(3, 1))


def test_parameters_are_taken_over_and_handed_back():
    network = stack()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    step = DenseStep(network, slice(1, 3), WIDTH, LOSSES["binary_cross_entropy"])
    step.load()
    with torch.no_grad():
        step.flat.add_(1)
    step.store()
    for name, p in network.named_parameters():
        assert torch.equal(p[0], before[name][0])
        assert torch.equal(p[1:], before[name][1:] + 1)


# -- whole fits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(900, 6)).astype(np.float32)
    y = (X[:, 0] + 0.5 * X[:, 1] ** 2 + 0.3 * rng.normal(size=900) > 0.4).astype(int)
    return X, y, rng.uniform(0.2, 3, 900)


def fitted(events, cls=DenseNetClassifier, **params):
    X, y, w = events
    defaults = {"n_members": 5, "max_epochs": 3, "batch_size": 64, "random_state": 0}
    return cls(**defaults | {"device": "cpu"} | params).fit(X, y, sample_weight=w)


@pytest.fixture
def workers(monkeypatch):
    """Split even the smallest job, over as many threads as there are."""
    monkeypatch.setattr(_workers, "WORTH_THREADS", 0)
    monkeypatch.setattr(cpu_parallel, "MOST_THREADS", 8)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("cls", [DenseNetClassifier, DenseNetRegressor])
def test_it_trains_like_automatic_differentiation(events, monkeypatch, cls, optimizer):
    params = {"optimizer": optimizer, "weight_decay": 0.01, "early_stopping": True}
    ours = fitted(events, cls, **params)
    monkeypatch.setattr(CpuPass, "serves", lambda *_: False)
    simple = fitted(events, cls, **params)
    assert isinstance(ours.net_.pass_, CpuPass)
    assert isinstance(simple.net_.pass_, EagerPass)
    for column in ("train_loss", "valid_loss", "lr", "momentum"):
        np.testing.assert_allclose(ours.history_[column], simple.history_[column], rtol=1e-4)
    for name, value in simple.ensemble_.states.items():
        np.testing.assert_allclose(ours.ensemble_.states[name], value, rtol=2e-3, atol=2e-5)


def test_groups_of_members_train_to_the_same_bits(events, monkeypatch, workers):
    """With one worker, two and three: what a member becomes does not depend on its neighbours."""
    names = ["lep_px", "lep_py", "lep_pz", "jet_px", "jet_py", "jet_pz"]
    models = []
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        augmenter = EventAugmenter(columns=names)
        models.append(fitted(events, augmentation=augmenter, early_stopping=True))
        assert len(models[-1].net_.pass_.groups) == n_threads
    for model in models[1:]:
        for name, value in models[0].ensemble_.states.items():
            np.testing.assert_array_equal(model.ensemble_.states[name], value, err_msg=name)
        np.testing.assert_array_equal(
            model.history_.drop(columns="seconds"), models[0].history_.drop(columns="seconds")
        )


def test_small_fits_start_no_threads(events, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert len(fitted(events, n_members=2).net_.pass_.groups) == 1


# -- workers ------------------------------------------------------------------------------------------


def test_side_by_side_keeps_order_and_lends_one_thread_each(workers):
    before = torch.get_num_threads()
    tasks = [lambda _, i=i: (i, torch.get_num_threads()) for i in range(3)]
    assert side_by_side(tasks) == [(0, 1), (1, 1), (2, 1)]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("first", [0, 1])
def test_an_error_in_one_task_ends_the_others(workers, first):
    def fails(_):
        raise KeyError("no")

    def waits(stop: threading.Event):
        stop.wait(30)

    tasks = [fails, waits] if first == 0 else [lambda _: None, fails, waits]
    start = time.perf_counter()
    with pytest.raises(KeyError, match="no"):
        side_by_side(tasks)
    assert time.perf_counter() - start < 10


@pytest.mark.slow
def test_a_forked_child_ends_with_the_right_result(events):
    """A fit or a prediction after a fork, as the default start method of Linux has it up to Python 3.13."""
    program = """
import os, sys
import numpy as np
import torch
from skhep_nn import DenseNetClassifier
rng = np.random.default_rng(0)
X = rng.normal(size=(3000, 36)).astype("f4")
y = (X[:, 0] > 0).astype(int)
torch.set_num_threads(2)
def answer():
    model = DenseNetClassifier(n_members=4, max_epochs=2, random_state=0, device="cpu").fit(X, y)
    return model.predict_proba(X)
first = answer()
if (child := os.fork()) == 0:
    os._exit(0 if np.array_equal(answer(), first) else 7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert run.returncode == 0, run.stderr


# -- prediction ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_members", [1, 5, 6])
@pytest.mark.parametrize(
    "params", [{}, {"activation": "relu", "dense": False}, {"categorical": []}]
)
def test_prediction_in_memory_of_its_own_is_the_networks(n_members, params, monkeypatch, workers):
    """To the same bits, whichever way rows are cut: also in a process with more threads."""
    network = stack(n_members, 2, **params)
    settings = {"n_features": N_FEATURES, "n_outputs": 2, "categorical": CATEGORICAL} | params
    ensemble = Ensemble.from_stack(DenseNet, settings, network.state_dict())
    X = rows(1500).numpy()
    expected = ensemble.predict(X, link="softmax", chunk_size=2048)
    np.testing.assert_array_equal(ensemble.predict(X, link="softmax"), expected)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    np.testing.assert_array_equal(ensemble.predict(X, link="softmax"), expected)
    np.testing.assert_array_equal(ensemble.predict(X[700:1400], link="softmax"), expected[700:1400])


def test_many_categories_are_looked_up():
    params = {"categorical": [CategoricalColumn(2, 100, 3)]}
    ensemble = Ensemble.from_stack(
        DenseNet, {"n_features": N_FEATURES} | params, stack(2, **params).state_dict()
    )
    X = rows(1500).numpy()
    np.testing.assert_array_equal(ensemble.predict(X), ensemble.predict(X, chunk_size=2048))


@pytest.mark.parametrize("rates", [(), (0.5, 0.0, 0.1)])
@pytest.mark.parametrize("members", [slice(0, 3), slice(1, 3)])
def test_dropout_is_that_of_the_layers(rates, members, monkeypatch):
    """The same features of the same members, whoever trains beside them; none when nobody trains."""
    network = stack(dropout=0.25)
    if rates:
        network.dropout.share(rates)
    loss = LOSSES["binary_cross_entropy"]
    X, weight = rows(3, WIDTH), random(3, WIDTH, seed=3)
    y = targets(loss.name, 1, 3, WIDTH)
    monkeypatch.setattr(DenseNet, "_chains", lambda *_: False)

    def lend():
        network.dropout.generators = [torch.Generator().manual_seed(k) for k in range(3)]

    lend()
    expected = (loss.value(network.train()(X), y) * weight).sum(-1)
    expected.sum().backward()
    lend()
    step = DenseStep(network, members, WIDTH, loss)
    step.load()
    part = X[members], y[members], weight[members]
    torch.testing.assert_close(step.step(*part), expected[members].detach(), rtol=1e-5, atol=1e-5)
    sizes = [p[members].numel() for p in network.parameters()]
    parts = step.flat.grad[: sum(sizes)].split(sizes)
    for own, p in zip(parts, network.parameters(), strict=True):
        grad = p.grad[members]
        limit = 2e-6 * (grad.abs().max().item() + 1e-6)
        torch.testing.assert_close(own.view_as(grad), grad, rtol=1e-4, atol=limit)
    without = (loss.value(network.eval()(X), y) * weight).sum(-1)[members]
    torch.testing.assert_close(step.losses(*part), without.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rate", [1e-4, 0.1, 0.5, 0.9999])
def test_what_dropout_keeps(rate):
    """Its mean is one, and the share that is dropped the rate to a 256th."""
    out = fill(torch.empty(300, 333), rate)
    assert abs(out.mean() - 1) < 5 * out.std() / out.numel() ** 0.5
    dropped = (out == 0).float().mean().item()
    assert abs(dropped - rate) < 1 / 256 + 0.005
    assert len(out.unique()) == 2
    torch.testing.assert_close(fill(torch.empty(7), 0.0), torch.ones(7))


def fill(out, rate):
    fill_with_kept(out, rate, torch.Generator().manual_seed(0))
    return out


@pytest.mark.parametrize("rates", [(), (0.5, 0.0, 0.1)])
def test_dropout_elsewhere_than_on_a_cpu_asks_the_host_for_nothing(rates):
    """All members at once, by operations alone that a graph can hold; tensors without numbers go that way."""
    layer = MemberDropout(0.25)
    if rates:
        layer.share(rates)
    x = torch.empty(3, 4, 5, device="meta", requires_grad=True)
    out = layer.to("meta")(x)
    out.sum().backward()
    assert out.shape == x.grad.shape == (3, 4, 5)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_fits_with_dropout_agree_with_automatic_differentiation(optimizer, monkeypatch):
    """Also when members are split over workers."""
    events = make_higgs_events(1500, random_state=0)
    X, y = events.data.filter(like="PRI_").fillna(0), events.target

    def fitted():
        model = DenseNetClassifier(
            n_members=3, dropout=0.2, augmentation=EventAugmenter(), max_epochs=2,
            optimizer=optimizer, schedule=Constant(1e-3), device="cpu", random_state=0,
        )  # fmt: skip
        return model.fit(X, y)

    fused = fitted()
    assert isinstance(fused.net_.pass_, CpuPass)
    monkeypatch.setattr(CpuPass, "serves", staticmethod(lambda *_: False))
    simple = fitted()
    assert isinstance(simple.net_.pass_, EagerPass)
    for column in ("train_loss", "valid_loss"):
        np.testing.assert_allclose(fused.history_[column], simple.history_[column], rtol=1e-3)
    np.testing.assert_allclose(fused.predict_proba(X), simple.predict_proba(X), atol=2e-3)
