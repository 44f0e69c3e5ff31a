"""The learning rate and momentum that each optimizer step is taken with."""

import numpy as np
import pytest
import torch

from skhep_nn import Constant, OneCycle
from tests.small_fits import quick, small_events


@pytest.fixture
def events():
    return small_events()


def recording(base):
    """Return a class of optimiser that keeps the settings each step was taken with."""

    class Recording(base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.seen = []

        def step(self, closure=None):
            group = self.param_groups[0]
            momentum = group["betas"][0] if "betas" in group else group["momentum"]
            self.seen.append((float(group["lr"]), float(momentum)))
            return super().step(closure)

    return Recording


class SGD(torch.optim.SGD):
    def __init__(self, params, **kwargs):
        super().__init__(params, momentum=0.5, **kwargs)


class TestOneCycle:
    @pytest.mark.parametrize("base", [torch.optim.Adam, SGD])
    @pytest.mark.parametrize("n_members", [1, 3])
    def test_every_step_is_taken_with_its_rates(self, events, base, n_members):
        X, y, _ = events
        schedule = OneCycle(max_lr=1e-3, initial_lr=1e-5)
        model = quick(
            optimizer=recording(base), n_members=n_members, schedule=schedule, max_epochs=4
        ).fit(X, y)
        n_steps = {1: 5, 3: 4}[n_members]
        rates = [schedule.rates(epoch, n_epochs=4, n_steps=n_steps) for epoch in range(4)]
        lr, momentum = np.transpose(model.net_.optimizer_.seen)
        np.testing.assert_allclose(lr, np.concatenate([r.lr for r in rates]))
        np.testing.assert_allclose(momentum, np.concatenate([r.momentum for r in rates]))

    @pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
    def test_optimisers_by_name_and_the_default_schedule(self, events, name):
        X, y, _ = events
        model = quick(optimizer=name, max_epochs=3).fit(X, y)
        rates = OneCycle().rates(2, n_epochs=3, n_steps=5)
        group = model.net_.optimizer_.param_groups[0]
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        assert float(group["lr"]) == pytest.approx(rates.lr[-1])
        # torch's RMSprop keeps no momentum unless it is built with some.
        expected = 0 if name == "rmsprop" else rates.momentum[-1]
        assert momentum == pytest.approx(expected)
        last = model.history_.iloc[-1]
        assert (last.lr, last.momentum) == pytest.approx((rates.lr[-1], expected))

    def test_a_momentum_that_passes_through_zero(self, events):
        X, y, _ = events
        schedule = OneCycle(max_lr=1e-3, max_momentum=0.9, min_momentum=0.0, warmup=0.5)
        model = quick(optimizer=recording(SGD), schedule=schedule, max_epochs=2).fit(X, y)
        _, momentum = np.transpose(model.net_.optimizer_.seen)
        rates = [schedule.rates(epoch, n_epochs=2, n_steps=5) for epoch in range(2)]
        assert momentum.min() == 0
        np.testing.assert_allclose(momentum, np.concatenate([r.momentum for r in rates]))

    def test_a_constant_schedule_leaves_the_optimisers_own_momentum(self, events):
        X, y, _ = events
        model = quick(optimizer=recording(SGD), schedule=Constant(1e-3)).fit(X, y)
        assert set(model.net_.optimizer_.seen) == {(1e-3, 0.5)}
