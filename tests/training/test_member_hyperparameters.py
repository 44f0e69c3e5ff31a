"""Members that differ in learning rate, weight decay and dropout, against each of them alone."""

import numpy as np
import pytest
import torch

from skhep_nn import (
    Constant,
    CosineRestarts,
    DenseNetClassifier,
    EventAugmenter,
    OneCycle,
    WaveformClassifier,
    fit_together,
    make_higgs_events,
)
from skhep_nn.networks.member_layers import MemberDropout
from skhep_nn.training import cpu_parallel as _member_groups
from skhep_nn.training import net as _training
from skhep_nn.training.cuda_graphs import FlatAdam
from skhep_nn.training.member_hyperparameters import MemberHyperparameters, MemberSteps, proportion
from skhep_nn.training.optimizers import adam_rates

LR = [1e-2, 1e-3, 3e-3]
DECAY = [0.0, 0.3, 0.01]
FEATURES = ["PRI_tau_pt", "PRI_lep_pt", "PRI_met", "PRI_lep_eta"]


def one_cycle(max_lr):
    return OneCycle(max_lr, initial_lr=max_lr / 100)


@pytest.fixture(scope="module")
def events():
    events = make_higgs_events(2000, random_state=0)
    return events.data[FEATURES], events.target, events.sample_weight


def models(settings, **params):
    defaults = {"max_epochs": 3, "device": "cpu", "depth": 3, "random_state": 0}
    return [DenseNetClassifier(**defaults | params | own) for own in settings]


def autograd_only(monkeypatch):
    monkeypatch.setattr(_training.CpuPass, "serves", staticmethod(lambda *_: False))


def largest_difference(a, b):
    """Of weights, in units of how far training has moved them."""
    return max(
        np.abs(value - b.ensemble_.states[name]).max()
        for name, value in a.ensemble_.states.items()
        if not name.startswith("input_stage.mean")
    )


@pytest.mark.parametrize("path", ["fast", "autograd"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("which", ["lr", "decay", "both"])
def test_each_trains_as_alone(events, monkeypatch, path, optimizer, which):
    """Within 2e-5 after 24 steps, where weights differ by over 1e-3 if settings are mixed up."""
    if path == "autograd":
        autograd_only(monkeypatch)
    own = [
        {"schedule": one_cycle(lr if which != "decay" else 1e-2)}
        | ({"weight_decay": decay} if which != "lr" else {"weight_decay": 0.1})
        for lr, decay in zip(LR, DECAY, strict=True)
    ]
    X, y, w = events
    together = fit_together(models(own, optimizer=optimizer), X, y, w)
    alone = [m.fit(X, y, sample_weight=w) for m in models(own, optimizer=optimizer)]
    for a, b in zip(together, alone, strict=True):
        assert largest_difference(a, b) < 2e-5
        np.testing.assert_allclose(a.history_["lr"], b.history_["lr"], rtol=1e-6)
    assert largest_difference(alone[0], together[1]) > 1e-3
    assert largest_difference(alone[1], alone[2]) > 1e-3


@pytest.mark.parametrize("path", ["fast", "autograd"])
def test_the_member_that_leads_is_not_touched(events, monkeypatch, path):
    """A factor of one changes no bit, whatever the others have."""
    if path == "autograd":
        autograd_only(monkeypatch)
    X, y, w = events
    same = fit_together(models([{}, {}], schedule=Constant(1e-2)), X, y, w)
    own = [{"schedule": Constant(lr)} for lr in (1e-2, 1e-3)]
    mixed = fit_together(models(own), X, y, w)
    for name, value in same[0].ensemble_.states.items():
        np.testing.assert_array_equal(value, mixed[0].ensemble_.states[name])


@pytest.mark.parametrize("augmentation", [None, EventAugmenter()])
@pytest.mark.parametrize("n_members", [1, 2])
def test_dropout(augmentation, n_members):
    """The same features are dropped as alone; 2e-4, as one step in which they were not would be 1e-2."""
    events = make_higgs_events(1000, random_state=0)
    X = EventAugmenterInput(events.data)
    own = [{"dropout": rate, "random_state": k} for k, rate in enumerate([0.3, 0.0, 0.1])]
    params = {"augmentation": augmentation, "n_members": n_members}
    together = fit_together(models(own, **params), X, events.target)
    for a, b in zip(together, models(own, **params), strict=True):
        b.fit(X, events.target)
        assert largest_difference(a, b) < 2e-4
        assert a.ensemble_.network_params == b.ensemble_.network_params


def EventAugmenterInput(data):  # noqa: N802 - reads like the column selection that it is
    from skhep_nn import CartesianMomenta

    return CartesianMomenta().fit_transform(data)[
        ["PRI_tau_px", "PRI_tau_py", "PRI_tau_pz", "PRI_met_px", "PRI_met_py"]
    ]


def test_networks_that_are_not_stacked():
    """Convolutions run one after the other: parameters have no member axis."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 64)).astype(np.float32), np.arange(120) % 2
    X[y == 1] += np.sin(np.arange(64) / 5)
    own = [
        {"schedule": Constant(lr), "weight_decay": decay, "random_state": k}
        for k, (lr, decay) in enumerate([(1e-3, 0.1), (3e-3, 0.0), (3e-3, 1.0)])
    ]

    # Adam's first steps make a whole step of a gradient that is rounding alone.
    common = {"optimizer": "sgd", "max_epochs": 2, "batch_size": 40, "precision": "float32"}

    def networks():
        return [WaveformClassifier(device="cpu", **common, **o) for o in own]

    together = fit_together(networks(), X, y)
    for a, b in zip(together, networks(), strict=True):
        b.fit(X, y)
        for name, value in a.ensemble_.states.items():
            np.testing.assert_allclose(value, b.ensemble_.states[name], atol=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_on_cuda(events, optimizer):
    """Captured steps; members go apart by rounding, so that means are compared."""
    own = [
        {"schedule": one_cycle(lr), "weight_decay": decay}
        for lr, decay in zip(LR, DECAY, strict=True)
    ]
    X, y, w = events
    together = fit_together(models(own, optimizer=optimizer, device="cuda"), X, y, w)
    for a, b in zip(together, models(own, optimizer=optimizer), strict=True):
        b.fit(X, y, sample_weight=w)
        assert np.abs(a.predict_proba(X) - b.predict_proba(X)).mean() < 5e-3


@pytest.mark.cuda
def test_dropout_on_cuda():
    x = torch.ones(2, 50, 400, device="cuda")
    layer = MemberDropout(0.5)
    layer.share([0.5, 0.1])
    layer.to("cuda").generator = torch.Generator("cuda").manual_seed(0)
    np.testing.assert_allclose((layer(x) == 0).float().mean((1, 2)).cpu(), [0.5, 0.1], atol=0.02)
    np.testing.assert_allclose(layer(x).mean((1, 2)).cpu(), 1, atol=0.05)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("own_decay", [True, False])
@pytest.mark.parametrize("aligned", [True, False])
def test_flat_adam_of_members(kind, own_decay, aligned):
    """The flat form that GPUs use is the optimiser of each member: plain tensor arithmetic."""
    stack = torch.nn.Module()
    generator = torch.Generator().manual_seed(0)
    stack.weight = torch.nn.Parameter(torch.randn(3, 3, 4, generator=generator))
    stack.bias = torch.nn.Parameter(torch.randn(3, 3, generator=generator))
    decay = DECAY if own_decay else [0.2] * 3
    alone = []
    for k in range(3):
        p = [torch.nn.Parameter(t.detach()[k].clone()) for t in (stack.weight, stack.bias)]
        alone.append((p, kind(p, lr=LR[k], weight_decay=decay[k])))
    optimizer = kind(stack.parameters(), lr=max(LR), weight_decay=decay[-1])
    factor = tuple(lr / max(LR) for lr in LR)
    settings = MemberHyperparameters(factor, tuple(decay), (None,) * 3)
    own = MemberSteps.of(stack, optimizer, settings)
    group = optimizer.param_groups[0]
    decoupled = kind is torch.optim.AdamW
    flat = FlatAdam(
        list(stack.parameters()), group, decoupled=decoupled, aligned=aligned, member_steps=own
    )
    for step in range(20):
        for p in stack.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        for k, (parameters, theirs) in enumerate(alone):
            for p, q in zip(parameters, stack.parameters(), strict=True):
                p.grad = q.grad[k].clone()
            theirs.step()
        flat.step(torch.from_numpy(adam_rates([max(LR)], [0.9], 0.999, step))[0])
    for k, (parameters, _) in enumerate(alone):
        for p, q in zip(parameters, stack.parameters(), strict=True):
            torch.testing.assert_close(p, q[k], rtol=1e-4, atol=1e-5)


def test_settings_that_agree_are_none():
    settings = MemberHyperparameters((1.0, 1.0), (0.1, 0.1), (None, None))
    stack = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(stack.parameters(), weight_decay=0.1)
    assert MemberSteps.of(stack, optimizer, settings) is None
    assert MemberSteps.of(stack, optimizer, None) is None
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_optimisers_whose_steps_are_not_proportional(events):
    X, y, _ = events
    own = [{"schedule": Constant(lr)} for lr in LR]
    with pytest.raises(
        ValueError, match="need one of the optimizers Adam, AdamW, SGD, RMSprop, got Adagrad"
    ):
        fit_together(models(own, optimizer=torch.optim.Adagrad), X, y)


def rates_of(schedule):
    return [schedule.rates(epoch, n_epochs=4, n_steps=5) for epoch in range(4)]


@pytest.mark.parametrize(
    ("a", "b", "factor"),
    [
        (Constant(1e-3), Constant(1e-2), 0.1),
        (one_cycle(1e-3), one_cycle(1e-2), 0.1),
        (OneCycle(1e-3), OneCycle(1e-2), None),
        (OneCycle(), OneCycle(min_momentum=0.8), None),
        (CosineRestarts(1e-3), CosineRestarts(5e-3), 0.2),
        (CosineRestarts(1e-3), CosineRestarts(1e-3, growth=1), None),
        (Constant(), OneCycle(), None),
        (OneCycle(), OneCycle(), 1.0),
    ],
)
def test_proportion(a, b, factor):
    assert proportion(rates_of(a), rates_of(b)) == pytest.approx(factor)


def test_members_on_threads_have_their_own_vectors(events, monkeypatch):
    """Groups of members hold slices of what belongs to the stack."""
    monkeypatch.setattr(_member_groups, "n_groups", lambda *_: 2)
    own = [{"schedule": Constant(lr), "weight_decay": d} for lr, d in zip(LR, DECAY, strict=True)]
    X, y, w = events
    for a, b in zip(fit_together(models(own), X, y, w), models(own), strict=True):
        assert largest_difference(a, b.fit(X, y, sample_weight=w)) < 2e-5
