import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skhep_nn.ensemble import Ensemble, stack_networks
from skhep_nn.networks.calo import PRESETS, CaloCNN
from skhep_nn.networks.conv_layers import Block, Convolution, Dropout
from skhep_nn.networks.stacks import stacked_state

SHAPE = (32, 32, 2)
N_PARAMETERS = {
    "compact": 440_449,
    "challenge": 868_993,
    "resnet15": 338_625,
    "attention": 451_969,
    "regression": 440_449,
}
# Small, with every kind of layer in it, and two ways through.
SMALL = {
    "preset": "attention",
    "channels": (4, 6),
    "kernels": (3, 3),
    "dense": (5,),
    "dropout": 0.0,
}
DEEP = {
    "preset": "resnet15",
    "channels": (4, 6),
    "convolutions": (2, 3),
    "kernels": 3,
    "pooling": 2,
}
NETWORKS = [SMALL | {"dense_dropout": 0.0}, DEEP, DEEP | {"norm": False, "head": "flatten"}]


def build(shape=SHAPE, seed=0, **params):
    network = CaloCNN(shape, **params)
    network.reset_parameters(torch.Generator().manual_seed(seed))
    return network


def draw(*shape, seed=1):
    """Energies in a few cells, as in a calorimeter."""
    generator = torch.Generator().manual_seed(seed)
    hit = torch.rand(shape, generator=generator) < 0.3
    return torch.rand(shape, generator=generator) * hit


def randomised(network, seed=3):
    """Give biases, gains and running moments values that would show if they were left out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.ndim == 1 and name not in ("mean", "scale"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_counts(preset):
    network = build(preset=preset)
    assert network.n_parameters == N_PARAMETERS[preset]
    assert f'"{preset}"``, {N_PARAMETERS[preset]:,}' in CaloCNN.__doc__
    assert network(draw(3, *SHAPE)).shape == (3, 1)
    assert build(preset=preset, n_outputs=4)(draw(3, *SHAPE)).shape == (3, 4)


def test_resnet15_has_fifteen_convolutions():
    convolutions = [m for m in build(preset="resnet15").modules() if isinstance(m, Convolution)]
    kernels = [tuple(m.weight.shape[2:]) for m in convolutions]
    assert kernels.count((7, 7)) == 1
    assert kernels.count((3, 3)) == 14
    assert kernels.count((1, 1)) == 1  # the shortcut where channels double


def test_the_challenges_baseline_is_the_published_one():
    """Layer by layer as in the notebook's summary, in torch's own layers."""
    widths = [(2, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    dense = [(2048, 256), (256, 128), (128, 128), (128, 64), (64, 1)]
    layers = []
    for i, (n_inputs, n_outputs) in enumerate(widths):
        layers += [nn.Conv2d(n_inputs, n_outputs, 3, padding="same"), nn.ReLU()]
        if i % 2:
            layers.append(nn.MaxPool2d(2))
    features = nn.Sequential(*layers)
    head = nn.Sequential(*(nn.Sequential(nn.Linear(*sizes), nn.ReLU()) for sizes in dense[:-1]))
    last = nn.Linear(*dense[-1])
    published = [608, 9248, 18496, 36928, 73856, 147584, 524544, 32896, 16512, 8256, 65]
    ours = randomised(build(preset="challenge")).eval()
    theirs = [m for m in [*features, *head.modules(), last] if hasattr(m, "weight")]
    mine = [m for m in ours.modules() if hasattr(m, "weight")]
    assert [m.weight.numel() + m.bias.numel() for m in mine] == published
    for a, b in zip(mine, theirs, strict=True):
        b.load_state_dict(a.state_dict())
    rates = [m.rate for m in ours.modules() if isinstance(m, Dropout)]
    assert rates == [0.4, 0.4, 0.25, 0.3]
    x = draw(4, *SHAPE)
    maps = features(x.permute(0, 3, 1, 2))
    expected = last(head(maps.permute(0, 2, 3, 1).flatten(1)))  # cells first, as in Keras
    torch.testing.assert_close(ours(x), expected)


class Reference(nn.Module):
    """The compact network in torch's own layers."""

    def __init__(self):
        super().__init__()
        channels, kernels = (2, 32, 64, 128, 256), (7, 5, 3, 3)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(n, m, k, padding=k // 2, bias=False)
            for n, m, k in zip(channels, channels[1:], kernels, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in channels[1:])
        self.hidden, self.output = nn.Linear(256, 64), nn.Linear(64, 1)

    def forward(self, x):
        x = x.permute(0, 3, 1, 2).contiguous()
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.max_pool2d(F.relu(norm(convolution(x))), 2)
        return self.output(F.relu(self.hidden(x.mean((2, 3)))))

    def load(self, network):
        for block, convolution, norm in zip(
            network.blocks, self.convolutions, self.norms, strict=True
        ):
            unit = block.units[0]
            convolution.weight.data.copy_(unit.weight)
            norm.weight.data.copy_(unit.gain)
            norm.bias.data.copy_(unit.bias)
            norm.running_mean.copy_(unit.running_mean)
            norm.running_var.copy_(unit.running_var)
        self.hidden.load_state_dict(network.hidden[0].state_dict())
        self.output.load_state_dict(network.output.state_dict())
        return self


@pytest.mark.parametrize("training", [True, False])
def test_compact_network_in_torchs_own_layers(training):
    network = randomised(build(dropout=0.0, dense_dropout=0.0)).train(training)
    reference = Reference().load(network).train(training)
    x = draw(16, *SHAPE)
    got, expected = network(x), reference(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    for out in (got, expected):
        out.sin().sum().backward()
    for block, convolution, norm in zip(
        network.blocks, reference.convolutions, reference.norms, strict=True
    ):
        unit = block.units[0]
        torch.testing.assert_close(unit.running_mean, norm.running_mean)
        torch.testing.assert_close(unit.running_var, norm.running_var)
        for a, b in ((unit.weight, convolution.weight), (unit.gain, norm.weight)):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(unit.bias.grad, norm.bias.grad, rtol=1e-3, atol=1e-4)


def test_residual_pairs_and_attention_by_their_formulas():
    network = randomised(build((8, 8), preset="resnet15", channels=(3,), convolutions=3, kernels=3,
                               pooling=2, attention=True)).eval()  # fmt: skip
    (block,) = network.blocks
    first, pair = block.units
    x = draw(5, 8, 8)
    h = F.relu(first(x.unsqueeze(1)))
    h = F.relu(pair.second(F.relu(pair.first(h))) + h)
    h = F.max_pool2d(h, 2)
    squeeze, excite = block.attention.squeeze, block.attention.excite
    factor = torch.sigmoid(excite(F.relu(squeeze(h.mean((2, 3))))))
    expected = network.output((h * factor[:, :, None, None]).mean((2, 3)))
    torch.testing.assert_close(network(x), expected)
    shortcut = build((8, 8), **DEEP).blocks[1].units[1].shortcut
    assert isinstance(shortcut, nn.Identity)
    shortcut = build((8, 8), **DEEP | {"convolutions": 2}).blocks[1].units[0].shortcut
    assert shortcut.weight.shape == (6, 4, 1, 1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("shape", [(32, 32, 2), (30, 20)])
def test_activations_stay_channels_last(preset, autocast, shape):
    network = build(shape, preset=preset)
    seen = []

    def look(module, args, out):
        seen.extend(t for t in (*args, out) if t.ndim == 4)

    for module in network.modules():
        if isinstance(module, (Convolution, Dropout, Block)):
            module.register_forward_hook(look)
    for training in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            out = network.train(training)(draw(4, *shape))
        assert out.dtype == torch.float32
    assert len(seen) >= 20
    for maps in seen:
        assert maps.permute(0, 2, 3, 1).is_contiguous()
        if not (maps is seen[0] or maps.shape[1] <= 2):
            assert maps.dtype == (torch.bfloat16 if autocast else torch.float32)


@pytest.mark.parametrize("preset", PRESETS)
def test_bfloat16_is_close(preset):
    network = build(preset=preset, initial="he_normal").eval()
    x = draw(64, *SHAPE)
    exact = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(x)
    assert torch.corrcoef(torch.stack([exact, rounded]).squeeze(-1))[0, 1] > 0.99


def test_standardisation_comes_first():
    network = build().eval()
    x = draw(8, *SHAPE)
    before = network(x)
    network.mean.copy_(torch.tensor([3.0, -1.0]))
    network.scale.copy_(torch.tensor([2.0, 0.5]))
    moved = x * network.scale + network.mean
    torch.testing.assert_close(network(moved), before, rtol=1e-4, atol=1e-5)


def test_images_of_any_type():
    network = build((20, 20)).eval()
    x = torch.randint(0, 255, (4, 20, 20), generator=torch.Generator().manual_seed(0))
    expected = network(x.float())
    for dtype in (torch.uint8, torch.int16, torch.float64, torch.float16):
        assert torch.equal(network(x.to(dtype)), expected)
    assert torch.equal(network(x.unsqueeze(-1)), expected)


def test_truncated_normal_starting_values():
    network = build(preset="challenge")
    weights = [m.weight for m in network.modules() if hasattr(m, "weight")]
    for weight in weights:
        assert weight.abs().max() <= 0.1
    pooled = torch.cat([w.flatten() for w in weights])
    # The standard deviation of a normal distribution cut at two of its own is 0.8796.
    assert pooled.std().item() == pytest.approx(0.05 * 0.8796, rel=0.01)
    assert pooled.abs().max() > 0.099
    assert not any(m.bias.any() for m in network.modules() if hasattr(m, "bias"))


def test_he_normal_starting_values():
    network = build()
    for block in network.blocks:
        weight = block.units[0].weight
        fan_in = weight[0].numel()
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.06)
        assert torch.equal(block.units[0].gain, torch.ones(len(weight)))
    assert network.hidden[0].weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.03)
    wide = build(n_outputs=64).output.weight
    assert wide.std().item() == pytest.approx(math.sqrt(2 / (64 + 64)), rel=0.05)


@pytest.mark.parametrize("preset", PRESETS)
def test_starting_values_come_from_the_generator_alone(preset):
    torch.manual_seed(1)
    first = build(preset=preset)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = randomised(CaloCNN(SHAPE, preset=preset))
    second.reset_parameters(torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert any(
        not torch.equal(a, b)
        for a, b in zip(first.parameters(), build(seed=1, preset=preset).parameters(), strict=True)
    )


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout(rate, dtype):
    dropout = Dropout(rate)
    dropout.generator = torch.Generator().manual_seed(0)
    x = torch.ones(32, 7, 31, 15, dtype=dtype).to(memory_format=torch.channels_last)
    x.requires_grad_()
    state = torch.get_rng_state()
    out = dropout(x)
    assert torch.equal(state, torch.get_rng_state())
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert (out == 0).float().mean().item() == pytest.approx(rate, abs=0.006)
    assert out.float().mean().item() == pytest.approx(1, abs=0.01)
    out.sum().backward()
    assert torch.equal(x.grad, out)
    kept = (out.detach() != 0).double().reshape(32, -1)
    assert torch.corrcoef(kept).fill_diagonal_(0).abs().max() < 0.1
    # Neighbours in memory share a draw of the generator, not their fate.
    flat = (out.detach() != 0).permute(0, 2, 3, 1).flatten().double()
    for lag in range(1, 9):
        pair = torch.stack([flat[:-lag], flat[lag:]])
        assert torch.corrcoef(pair)[0, 1].abs() < 0.02
    assert not torch.equal(out, dropout(x))
    dropout.generator.manual_seed(0)
    assert torch.equal(out, dropout(x))
    assert dropout.eval()(x) is x
    rows = torch.ones(1001, 3)
    assert dropout.train()(rows).shape == rows.shape


def test_dropout_only_acts_in_training():
    network = build()
    x = draw(4, *SHAPE)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("params", NETWORKS, ids=str)
def test_an_image_is_judged_by_itself(params):
    network = randomised(build((12, 10), **params)).eval().double()
    x = draw(40, 12, 10).double()
    whole = network(x)
    torch.testing.assert_close(torch.cat([network(image[None]) for image in x]), whole)
    torch.testing.assert_close(network(x.flip(0)), whole.flip(0))
    network.train()
    if params.get("norm", True):
        assert not torch.allclose(network(x)[:20], network(x[:20]))


def members_of(params, n=3, *, training=True):
    members = [randomised(build((12, 10), seed=k, **params), seed=k) for k in range(n)]
    return [member.train(training) for member in members], draw(n, 40, 12, 10)


def vmapped(template, parameters, buffers, x):
    def call(parameters, buffers, rows):
        return torch.func.functional_call(template, (parameters, buffers), (rows,))

    return torch.func.vmap(call, randomness="different")(parameters, buffers, x)


def on_slices(template, parameters, buffers, x):
    """Run one member after the other, on views of the stacked tensors."""
    outputs = []
    for k, rows in enumerate(x):
        slices = {name: tensor[k] for name, tensor in (parameters | buffers).items()}
        outputs.append(torch.func.functional_call(template, slices, (rows,)))
    return torch.stack(outputs)


@pytest.mark.parametrize("run", [vmapped, on_slices])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("params", NETWORKS, ids=str)
def test_stacked_equals_one_by_one(run, params, training, autocast):
    """Outputs, gradients, and the running moments, which training moves in the stack itself."""
    members, x = members_of(params, training=training)
    parameters, buffers = torch.func.stack_module_state(members)
    before = {name: tensor.clone() for name, tensor in buffers.items()}
    template = copy.deepcopy(members[0]).to("meta")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        together = run(template, parameters, buffers, x)
        alone = torch.stack([member(rows) for member, rows in zip(members, x, strict=True)])
    close = {"rtol": 5e-2, "atol": 5e-2} if autocast else {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(together, alone, **close)
    moved = {name for name in before if not torch.equal(buffers[name], before[name])}
    assert moved == {name for name in before if training and "running" in name}
    for out in (together, alone):
        out.sin().sum().backward()
    for name, stacked in (parameters | buffers).items():
        of_members = [m.get_parameter(name) if name in parameters else m.get_buffer(name)
                      for m in members]  # fmt: skip
        torch.testing.assert_close(stacked, torch.stack(of_members), **close)
        if name in parameters and not autocast:
            grads = torch.stack([parameter.grad for parameter in of_members])
            torch.testing.assert_close(stacked.grad, grads, rtol=1e-3, atol=1e-3)


def test_a_stack_of_them():
    members, x = members_of(NETWORKS[0])
    stack = stack_networks(members).train()
    alone = torch.stack([member(rows) for member, rows in zip(members, x, strict=True)])
    torch.testing.assert_close(stack(x), alone, rtol=1e-4, atol=1e-5)
    for name, values in stacked_state(stack).items():
        of_members = torch.stack([member.state_dict()[name] for member in members])
        torch.testing.assert_close(values, of_members, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("run", [vmapped, on_slices])
def test_dropout_differs_between_stacked_members(run):
    members, x = members_of(SMALL | {"dropout": (0, 0.3)})
    template = copy.deepcopy(members[0]).to("meta")
    generator = torch.Generator().manual_seed(0)
    for module in template.modules():
        if isinstance(module, Dropout):
            module.generator = generator
    parameters, buffers = torch.func.stack_module_state([members[0]] * 3)
    state = torch.get_rng_state()
    out = run(template, parameters, buffers, x[:1].expand_as(x))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.allclose(out[0], out[1])


def test_an_ensemble_of_them(tmp_path):
    members, x = members_of(SMALL)
    params = {"image_shape": (12, 10)} | SMALL
    states = {
        k: np.stack([m.state_dict()[k].numpy() for m in members]) for k in members[0].state_dict()
    }
    ensemble = Ensemble(CaloCNN, params, states)
    alone = torch.stack([m.eval()(x[0]) for m in members]).mean(0).detach()
    np.testing.assert_allclose(ensemble.predict(x[0].numpy()), alone, rtol=1e-4, atol=1e-5)
    again = pickle.loads(pickle.dumps(ensemble))
    np.testing.assert_array_equal(again.predict(x[0].numpy()), ensemble.predict(x[0].numpy()))


def test_copies():
    network = randomised(build((12, 10), **SMALL)).eval()
    x = draw(3, 12, 10)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), network(x))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 13), (5, 3, 4), (33, 47)])
def test_images_of_any_size(preset, shape):
    network = build(shape, preset=preset, n_outputs=2)
    for n in (1, 2, 5):
        out = network.train()(draw(n, *shape))
        assert out.shape == (n, 2)
        out.sum().backward()
        assert torch.isfinite(network.eval()(draw(n, *shape))).all()
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


def test_kernels_end_where_the_image_does():
    (first, *_, last) = build((1, 64)).blocks
    assert first.units[0].weight.shape == (32, 1, 1, 7)
    assert last.units[0].weight.shape == (256, 128, 1, 3)
    assert build((64, 2)).blocks[0].units[0].weight.shape == (32, 1, 7, 3)


def test_free_construction():
    network = build(
        (16, 12, 3),
        n_outputs=3,
        channels=[8, 10],
        kernels=[5, 3],
        convolutions=2,
        pooling=[4, 1],
        dropout=[0.1, 0],
        norm=False,
        head="flatten",
        dense=[7],
        dense_dropout=0.2,
    )
    assert [tuple(m.weight.shape) for m in network.modules() if isinstance(m, Convolution)] == [
        (8, 3, 5, 5),
        (8, 8, 5, 5),
        (10, 8, 3, 3),
        (10, 10, 3, 3),
    ]
    assert network.hidden[0].weight.shape == (7, 10 * 4 * 3)
    assert [m.rate for m in network.modules() if isinstance(m, Dropout)] == [0.1, 0.2]
    assert build(dense=()).output.weight.shape == (1, 256)
    assert build(attention=True).n_parameters == N_PARAMETERS["attention"]
    truncated = build(initial="truncated_normal")
    assert truncated.blocks[0].units[0].weight.abs().max() <= 0.1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"preset": "large"}, "preset='large' is not known; choose one of"),
        ({"channels": (8, 8)}, r"kernels=\(7, 5, 3, 3\) has 4 values for 2 blocks"),
        ({"channels": ()}, "channels must have one value for each block"),
        ({"channels": 8}, "channels must have one value for each block"),
        ({"channels": (8, 8, 8, 0)}, "channels must be integers of at least 1, got 0"),
        ({"kernels": 4}, "kernels must be odd integers of at least 1, got 4"),
        ({"pooling": 0}, "pooling must be integers"),
        ({"convolutions": 1.5}, "convolutions must be integers"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dense": (8, 4), "dense_dropout": (0.1,)}, "has 1 values for 2 dense layers"),
        ({"dense_dropout": -0.1}, "dense_dropout must lie in"),
        ({"dense": (0,)}, "dense must be integers"),
        ({"head": "max"}, "head='max' must be 'average' or 'flatten'"),
        ({"initial": "zeros"}, "initial='zeros' must be one of"),
        ({"shape": (32,)}, r"image_shape=\(32,\) must be \(H, W\) or \(H, W, C\)"),
        ({"shape": (0, 3)}, "image_shape must be integers"),
        ({"n_outputs": 0}, "n_outputs must be integers"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        build(**params)


def test_bad_images():
    with pytest.raises(ValueError, match=r"shape \(32, 31, 2\), but the network was built for"):
        build()(torch.zeros(3, 32, 31, 2))
    with pytest.raises(ValueError, match=r"shape \(32, 32\), but the network was built for"):
        build()(torch.zeros(3, 32, 32))


@pytest.mark.cuda
@pytest.mark.parametrize("preset", PRESETS)
def test_cuda_agrees_with_cpu(preset, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network = randomised(build(preset=preset, dropout=0.0, dense_dropout=0.0))
    twin = copy.deepcopy(network).cuda()
    x = draw(16, *SHAPE)
    for training in (True, False):
        out, expected = twin.train(training)(x.cuda()), network.train(training)(x)
        torch.testing.assert_close(out.cpu(), expected, rtol=1e-3, atol=1e-3)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name].cpu(), value, rtol=1e-3, atol=1e-4)
