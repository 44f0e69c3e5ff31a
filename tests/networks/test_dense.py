import math

import numpy as np
import pytest
import torch

from skhep_nn.ensemble import stack_networks
from skhep_nn.networks import CategoricalColumn, DenseNet, embedding_size
from skhep_nn.networks import member_layers as _member_layers
from skhep_nn.networks.stacks import in_fast_mode

JETS = CategoricalColumn(column=22, n_categories=4, size=3)


def build(**params):
    network = DenseNet(**{"n_features": 31, "categorical": [JETS]} | params)
    network.reset_parameters(torch.Generator().manual_seed(0))
    return network


def test_parameter_count_of_the_studys_final_network():
    assert build().n_parameters == 23_113


def test_parameter_count_of_the_studys_baseline():
    network = build(depth=4, width=100, dense=False, activation="relu")
    assert network.n_parameters == 33_813


def test_widths_follow_the_growth_rate():
    network = build(width=40, growth_rate=0.5, depth=4)
    assert [layer.weight.shape[0] for layer in network.hidden] == [40, 60, 80, 100]


@pytest.mark.parametrize("growth_rate", [-0.1, -0.15])
def test_a_negative_growth_rate_shrinks_layers(growth_rate):
    network = build(width=10, growth_rate=growth_rate, depth=4)
    expected = [int(10 * (1 + d * growth_rate) + 1e-9) for d in range(4)]
    assert [layer.weight.shape[0] for layer in network.hidden] == expected


def test_forward_is_the_studys_formula():
    """x_{i+1} = D_i(x_i) joined with x_i, written out row by row."""
    network = build(depth=3)
    x = torch.randn(5, 31, generator=torch.Generator().manual_seed(1))
    x[:, 22] = torch.tensor([0.0, 1, 2, 3, -1])
    stage = network.input_stage
    expected = []
    for row in x:
        code = int(row[22])
        vector = torch.zeros(3) if code < 0 else stage.embeddings[0].weight[code]
        state = torch.cat([row[:22], row[23:], vector])
        for i, layer in enumerate(network.hidden):
            z = layer.weight @ state + layer.bias
            h = z * torch.sigmoid(z)
            state = torch.cat([state, h]) if i < 2 else h
        expected.append(network.output.weight @ state + network.output.bias)
    torch.testing.assert_close(network(x), torch.stack(expected))


def test_standardisation_comes_first():
    network = build()
    x = torch.randn(8, 31)
    x[:, 22] = 0
    before = network(x)
    network.input_stage.mean.fill_(3.0)
    network.input_stage.scale.fill_(2.0)
    moved = x * 2 + 3
    moved[:, 22] = 0
    torch.testing.assert_close(network(moved), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "gain"),
    [("swish", 2.0), ("relu", 2.0), ("selu", 1.0), ("prelu", 2 / (1 + 0.25**2))],
)
def test_starting_values(activation, gain):
    network = build(width=400, depth=2, dense=False, activation=activation)
    weight = network.hidden[1].weight
    assert weight.std().item() == pytest.approx(math.sqrt(gain / 400), rel=0.02)
    output = network.output.weight
    assert output.std().item() == pytest.approx(math.sqrt(2 / 401), rel=0.15)
    assert all(not layer.bias.any() for layer in network.hidden)
    many = DenseNet(1, categorical=[CategoricalColumn(0, 500, 20)])
    many.reset_parameters(torch.Generator().manual_seed(0))
    assert many.input_stage.embeddings[0].weight.std().item() == pytest.approx(1, rel=0.03)


def test_starting_values_come_from_the_generator_alone():
    torch.manual_seed(1)
    first = build()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = build()
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("activation", ["swish", "relu", "selu", "prelu"])
@pytest.mark.parametrize("dense", [True, False])
def test_stacked_equals_one_by_one(activation, dense):
    """Bitwise, for whole lanes of 32 events, in the mode in which estimators predict."""
    members = [
        DenseNet(31, 2, categorical=[JETS], activation=activation, dense=dense) for _ in range(3)
    ]
    for seed, network in enumerate(members):
        network.reset_parameters(torch.Generator().manual_seed(seed))
        network.input_stage.mean.fill_(seed)
    x = torch.randn(3, 64, 31, generator=torch.Generator().manual_seed(5))
    x[..., 22] = torch.randint(-1, 4, (3, 64), generator=torch.Generator().manual_seed(6))
    stacked = stack_networks(members)(x)
    alone = torch.stack([in_fast_mode(m)(rows) for m, rows in zip(members, x, strict=True)])
    assert torch.equal(stacked, alone)


def test_few_and_many_categories_embed_alike(monkeypatch):
    codes = torch.tensor([[0, 3, -1, 2, 3], [1, -1, 0, 0, 2]])
    results = []
    for few in (64, 0):
        monkeypatch.setattr(_member_layers, "FEW_CATEGORIES", few)
        single = []
        for seed in range(2):
            embedding = _member_layers.MemberEmbedding(4, 3)
            torch.nn.init.normal_(embedding.weight, generator=torch.Generator().manual_seed(seed))
            single.append(embedding)
        stack = _member_layers.MemberEmbedding(4, 3)
        stack.weight = torch.nn.Parameter(torch.stack([e.weight.detach() for e in single]))
        in_fast_mode(stack)
        out = stack(codes)
        assert out.shape == (2, 3, 5)
        (out * torch.arange(15.0).view(3, 5)).sum().backward()
        for k, embedding in enumerate(single):
            torch.testing.assert_close(embedding(codes[k]), out[k].mT)
            torch.testing.assert_close(in_fast_mode(embedding)(codes[k]), out[k])
        results.append((out.detach(), stack.weight.grad))
    torch.testing.assert_close(results[0], results[1])
    assert not results[0][0][0, :, 2].any()


def test_dropout_only_acts_in_training():
    network = build(dropout=0.5)
    x = torch.zeros(4, 31)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"activation": "tanh"}, "choose one of"),
        ({"dropout": 1.0}, "dropout"),
        ({"depth": 0}, "depth"),
        ({"width": 10, "growth_rate": -0.5}, "at least one"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        build(**params)


def test_embedding_size_is_the_rule_of_thumb():
    sizes = [embedding_size(n) for n in (1, 2, 3, 4, 99, 100, 10_000)]
    np.testing.assert_array_equal(sizes, [1, 1, 2, 2, 50, 50, 50])


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"width": 7, "growth_rate": 0.4, "depth": 4},
        {"depth": 1},
        {"dense": False, "growth_rate": -0.1},
        {"activation": "relu"},
        {"activation": "selu", "dense": False},
    ],
)
def test_the_chains_own_backward_is_automatic_differentiation(monkeypatch, n_members, params):
    members = []
    for seed in range(n_members):
        members.append(DenseNet(31, 2, categorical=[JETS], **params))
        members[-1].reset_parameters(torch.Generator().manual_seed(seed))
    network = stack_networks(members) if n_members > 1 else in_fast_mode(members[0])
    shape = (n_members, 50, 31) if n_members > 1 else (50, 31)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x[..., 22] = torch.randint(0, 4, shape[:-1], generator=torch.Generator().manual_seed(2)).float()
    x.requires_grad_()
    results = []
    for chained in (True, False):
        if not chained:
            monkeypatch.setattr(DenseNet, "_chains", lambda *_: False)
        network.zero_grad()
        x.grad = None
        out = network(x)
        (out.sin() * torch.arange(1, 101).view(50, 2)).sum().backward()
        grads = {name: p.grad for name, p in network.named_parameters()}
        results.append({"out": out.detach(), "x": x.grad} | grads)
    for name, value in results[0].items():
        # Gradients that are small differences of large terms are as exact as those terms.
        size = results[1][name].abs().max().item()
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=2e-6 * size)


def test_dropout_precision_and_activation_leave_the_chain():
    x = torch.zeros(2, 33)
    assert in_fast_mode(build())._chains(x)
    assert not in_fast_mode(build(dropout=0.1))._chains(x)
    assert in_fast_mode(build(dropout=0.1)).eval()._chains(x)
    assert not in_fast_mode(build(activation="prelu"))._chains(x)
    assert not build()._chains(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not in_fast_mode(build())._chains(x)
