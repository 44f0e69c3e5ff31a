"""Dropout in fits: masks, rates and random numbers of members."""

import pytest
import torch
from torch.nn import functional as F

from skhep_nn.ensemble import stack_networks
from skhep_nn.networks import DenseNet
from skhep_nn.networks.stacks import in_fast_mode
from tests.small_fits import quick, small_events, weighted_loss


@pytest.fixture
def events():
    return small_events()


class TestDropout:
    @pytest.mark.parametrize("n_members", [1, 3])
    @pytest.mark.parametrize("activation", ["swish", "relu"])
    def test_validation_is_without_dropout(self, events, n_members, activation):
        X, y, w = events
        model = quick(
            dropout=0.5, early_stopping=9, max_epochs=1, n_members=n_members, activation=activation
        ).fit(X, y, sample_weight=w)
        for k, fold in enumerate(model.net_.folds):
            rows = fold.valid
            assert model.history_.valid_loss[k] == pytest.approx(
                weighted_loss(model, k, X[rows], y[rows], w[rows]), rel=1e-5
            )

    def test_every_pass_trains_with_it_and_validates_without(self, events, monkeypatch):
        X, y, _ = events
        modes = []
        layer = type(DenseNet(4, dropout=0.5).dropout)
        forward = layer.forward

        def spy(self, x):
            modes.append(self.training)
            return forward(self, x)

        monkeypatch.setattr(layer, "forward", spy)
        quick(dropout=0.5, activation="prelu", depth=1, n_members=3, max_epochs=3).fit(X, y)
        n_steps, n_valid = 4, 1
        assert modes == ([True] * n_steps + [False] * n_valid) * 3

    @pytest.mark.parametrize("activation", ["swish", "selu", "prelu", "relu"])
    @pytest.mark.parametrize("n_members", [1, 3])
    def test_it_comes_after_the_activation(self, activation, n_members):
        """Neurons are dropped, not what goes into them: zero, or the activation over 1 - rate."""
        networks = [
            DenseNet(5, depth=2, width=40, activation=activation, dropout=0.25)
            for _ in range(n_members)
        ]
        for k, network in enumerate(networks):
            network.reset_parameters(torch.Generator().manual_seed(k))
        stack = stack_networks(networks) if n_members > 1 else in_fast_mode(networks[0])
        act = {
            "swish": F.silu,
            "selu": F.selu,
            "relu": F.relu,
            "prelu": lambda h: torch.where(h > 0, h, 0.25 * h),
        }[activation]
        before, after = {}, {}
        layers = [*stack.hidden, stack.output]
        for i, layer in enumerate(layers):
            layer.register_forward_pre_hook(
                lambda _, args, i=i: after.__setitem__(i - 1, args[0].detach())
            )
            layer.register_forward_hook(
                lambda _, args, out, i=i: before.__setitem__(i, out.detach())
            )
        x = torch.randn(*stack.output.bias.shape[:-1], 64, 5)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            stack.train()(x)
        for i in range(2):
            h = after[i][..., -40:, :]  # the new neurons come last
            dropped = h == 0
            kept = torch.where(dropped, 0, act(before[i]) / 0.75)
            torch.testing.assert_close(h, kept)
            share = (dropped & (act(before[i]) != 0)).float().mean()
            assert 0.05 < share < 0.35
