import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from skhep_nn.ensemble import stack_networks
from skhep_nn.networks.conv_layers import Convolution
from skhep_nn.networks.waveform import PRESETS, WaveformCNN
from skhep_nn.networks.waveform_layers import Windows

N_PARAMETERS = {"default": 64_961, "school": 998_729, "inception": 124_769}
SMALL = {"channels": (4, 6), "kernels": (8, 3), "strides": (4, 2), "dense": (5,), "n_bins": 3}
# Inception modules and shortcuts, one of which changes the number of points.
MODULES = {
    "preset": "inception",
    "channels": (4, 8, 8, 12),
    "kernels": (8, (3, 5, 9), (3, 5, 9), (3, 5)),
    "strides": (4, 1, 1, 1),
    "pooling": (1, 1, 2, 1),
    "residual": 2,
}
NETWORKS = [SMALL, SMALL | {"norm": False, "head": "flatten", "padding": "valid"}, MODULES]


def build(shape=(5000,), seed=0, **params):
    network = WaveformCNN(shape, **params)
    network.reset_parameters(torch.Generator().manual_seed(seed))
    return network


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).cumsum(1) / 10


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
    assert f'"{preset}"``, {N_PARAMETERS[preset]:,}' in WaveformCNN.__doc__
    assert network(draw(3, 5000)).shape == (3, 1)
    assert build((700, 3), preset=preset, n_outputs=4)(draw(2, 700, 3)).shape == (2, 4)


def test_the_school_network_is_the_published_one():
    """Layer by layer as Keras counts its parameters, in torch's own layers."""
    ours = randomised(build(preset="school")).eval()
    convolution, hidden, last = nn.Conv1d(1, 32, 3), nn.Linear(32 * 312, 100), nn.Linear(100, 1)
    theirs = [convolution, hidden, last]
    mine = [m for m in ours.modules() if hasattr(m, "weight")]
    assert [m.weight.numel() + m.bias.numel() for m in mine] == [128, 998_500, 101]
    for a, b in zip(mine, theirs, strict=True):
        b.load_state_dict({"weight": a.weight.reshape(b.weight.shape), "bias": a.bias})
    x = draw(4, 5000)
    maps = F.max_pool1d(convolution(x[:, None]).relu(), 16)
    expected = last(hidden(maps.transpose(1, 2).flatten(1)).relu())  # points first, as in Keras
    torch.testing.assert_close(ours(x), expected)


def test_the_default_network_in_plain_torch():
    ours = build((5000, 2))
    ours.mean.copy_(torch.tensor([1.0, -2.0]))
    ours.scale.copy_(torch.tensor([2.0, 3.0]))
    blocks = [
        nn.Sequential(
            nn.Conv1d(n, m, k, stride=s, padding=(k - 1) // 2, bias=False),
            nn.BatchNorm1d(m),
            nn.ReLU(),
        )
        for n, m, k, s in ((2, 32, 100, 50), (32, 32, 5, 2), (32, 32, 5, 2))
    ]
    head = nn.Sequential(nn.Linear(800, 64), nn.ReLU(), nn.Linear(64, 1))
    for a, (b, norm, _) in zip(ours.blocks, blocks, strict=True):
        b.weight.data.copy_(a.unit.weight[:, :, 0])
        norm.weight.data.copy_(a.unit.gain)
    head[0].load_state_dict(ours.hidden[0].state_dict())
    head[2].load_state_dict(ours.output.state_dict())
    x = draw(6, 5000, 2)

    def reference():
        maps = (x - ours.mean) / ours.scale
        for block, n_points in zip(blocks, (100, 50, 25), strict=True):
            maps = block(maps.transpose(1, 2)).transpose(1, 2)
            assert maps.shape[1] == n_points
        return head(F.adaptive_avg_pool1d(maps.transpose(1, 2), 25).transpose(1, 2).flatten(1))

    torch.testing.assert_close(ours(x), reference(), rtol=1e-4, atol=1e-5)
    for block in blocks:
        block.eval()
    torch.testing.assert_close(ours.eval()(x), reference(), rtol=1e-4, atol=1e-5)


def plain(unit, x):
    return F.relu(
        F.batch_norm(
            F.conv1d(
                x,
                unit.weight[:, :, 0],
                stride=unit.stride[1],
                padding=unit.padding[1],
            ),
            unit.running_mean,
            unit.running_var,
            unit.gain,
            unit.bias,
        )
        if unit.norm
        else F.conv1d(x, unit.weight[:, :, 0], unit.bias)
    )


def test_inception_modules_and_shortcuts_in_plain_torch():
    ours = randomised(build((64,), **MODULES)).eval()
    x = draw(5, 64)
    before = maps = plain(ours.blocks[0].unit, x[:, None])  # four blocks: two shortcuts of two
    # ...of which the first starts at the first block.
    assert sorted(ours.shortcuts) == ["1", "3"]
    before = x[:, None]
    for number, block in enumerate(ours.blocks):
        if number == 2:
            before = maps
        if number == 0:
            maps = plain(block.unit, before)
            continue
        narrow = F.conv1d(maps, block.unit.narrow.weight[:, :, 0], block.unit.narrow.bias)
        parts = [bare(branch, narrow) for branch in block.unit.branches]
        parts.append(bare(block.unit.behind_maximum, F.max_pool1d(maps, 3, 1, 1)))
        maps = torch.cat(parts, 1)
        if number == 2:
            maps = F.max_pool1d(maps, 2)
        if number in (1, 3):
            length = maps.shape[2]
            maps = maps + bare(
                ours.shortcuts[str(number)].unit, F.adaptive_avg_pool1d(before, length)
            )
        maps = maps.relu()
    expected = ours.output(maps.mean(2))
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)


def bare(unit, x):
    """Convolution and moments without the activation."""
    x = F.conv1d(x, unit.weight[:, :, 0], padding=unit.padding[1])
    return F.batch_norm(x, unit.running_mean, unit.running_var, unit.gain, unit.bias)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(50, 25), (7, 3), (4, 4), (3, 8)])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_windows_side_by_side_are_a_convolution(norm, kernel, stride, n_channels):
    size = {"norm": norm, "stride": (1, stride), "padding": (0, (kernel - 1) // 2)}
    windows = Windows(n_channels, 6, (1, kernel), **size)
    same = Convolution(n_channels, 6, (1, kernel), **size)
    nn.init.normal_(windows.weight, generator=torch.Generator().manual_seed(0))
    same.load_state_dict(windows.state_dict())
    x = draw(4, 203, n_channels).transpose(1, 2).unsqueeze(2)
    for training in (True, False):
        out, expected = windows.train(training)(x), same.train(training)(x)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
        a, b = (
            torch.autograd.grad(o.square().sum(), m.weight)[0]
            for o, m in ((out, windows), (expected, same))
        )
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert windows(x).dtype == torch.bfloat16
        torch.testing.assert_close(windows(x), same(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("preset", PRESETS)
def test_strided_first_blocks_are_windows(preset):
    kinds = [type(m) for m in build(preset=preset).modules() if isinstance(m, Convolution)]
    assert (kinds[0] is Windows) == (preset != "school")
    assert set(kinds[1:]) <= {Convolution}


@pytest.mark.parametrize("n_points", [1, 2, 6, 30, 199, 200, 201, 1000, 20_011])
@pytest.mark.parametrize("preset", PRESETS)
def test_any_length(preset, n_points):
    network = build((n_points, 2), preset=preset).eval()
    x = draw(2, n_points, 2).requires_grad_()
    out = network(x)
    assert out.shape == (2, 1)
    if preset != "school":
        assert network.blocks[0].n_points <= 200
        (gradient,) = torch.autograd.grad(out.sum(), x)
        seen = gradient.abs().sum((0, 2)) > 0
        assert seen.float().mean() > 0.9


def test_heads_and_their_sizes_do_not_depend_on_the_length():
    for n_points in (1000, 5000):
        network = build((n_points,), kernels=(10, 5, 5), strides=(5, 2, 2))
        assert network.hidden[0].weight.shape == (64, 800)
    assert build(head="average").hidden[0].weight.shape == (64, 32)
    assert build((9900,), head="flatten").hidden[0].weight.shape == (64, 25 * 32)
    assert build((1990,), head="flatten").hidden[0].weight.shape == (64, 27 * 32)
    assert build(n_bins=10).hidden[0].weight.shape == (64, 10 * 32)
    assert build(n_bins=80).hidden[0].weight.shape == (64, 25 * 32)


def test_order_of_time_is_kept():
    """What the mean over the whole trace forgets."""
    x = torch.zeros(2, 5000)
    x[0, 1000:1200] = x[1, 3000:3200] = 1
    two = build().eval()(x)
    assert abs(two[0] - two[1]) > 1e-3
    one = build(head="average").eval()(x)
    torch.testing.assert_close(one[0], one[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float16, np.float64])
def test_counts_are_numbers(dtype):
    x = np.random.default_rng(0).integers(0, 200, (3, 500)).astype(dtype)
    network = build((500,)).eval()
    network.mean.fill_(100)
    network.scale.fill_(50)
    expected = network(torch.from_numpy(x.astype(np.float32)))
    torch.testing.assert_close(network(torch.from_numpy(x)), expected)


@pytest.mark.parametrize("params", [*NETWORKS, {}, {"preset": "school"}])
def test_operations_are_those_that_torch_counts(params):
    network = build((600, 2), **params).eval()
    counter = FlopCounterMode(display=False)
    with counter:
        network(draw(3, 600, 2))
    assert counter.get_total_flops() == 3 * network.n_operations


def test_the_default_is_cheaper_than_the_published():
    assert build().n_operations < 0.52 * build(preset="school").n_operations


def test_one_number_of_channels_is_for_all_blocks():
    assert build(channels=8).n_parameters == build(channels=(8, 8, 8)).n_parameters
    school = build(preset="school", channels=16, kernels=5)
    assert school.blocks[0].unit.weight.shape == (16, 1, 1, 5)


def test_starting_values():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    WaveformCNN((5000,))
    first, again = build(seed=1), build(seed=1)
    assert torch.equal(before, torch.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.output.weight, build(seed=2).output.weight)
    weight = first.blocks[1].unit.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (32 * 5)), rel=0.05)
    weight = build(preset="school").hidden[0].weight  # Glorot-uniform, as in Keras
    limit = math.sqrt(6 / (32 * 312 + 100))
    assert limit * 0.999 < weight.abs().max() <= limit * 1.000001
    first(draw(8, 5000))
    assert first.blocks[0].unit.running_mean.abs().sum() > 0
    first.reset_parameters()
    assert first.blocks[0].unit.running_mean.abs().sum() == 0


@pytest.mark.parametrize("params", NETWORKS)
def test_half_precision(params):
    network = randomised(build((400,), **params)).eval()
    x = draw(16, 400)
    types = []
    network.blocks[-1].register_forward_hook(lambda *args: types.append(args[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x)
    assert types == [torch.bfloat16]
    assert out.dtype == torch.float32
    expected = network(x)
    assert (out - expected).std() < 0.1 * expected.std()


@pytest.mark.parametrize("params", NETWORKS)
def test_members_side_by_side(params):
    members = [randomised(build((300,), seed=k, **params), seed=k).eval() for k in range(3)]
    x = draw(3, 7, 300, seed=4)
    stack = stack_networks(members).eval()
    expected = torch.stack([member(rows) for member, rows in zip(members, x, strict=True)])
    torch.testing.assert_close(stack(x), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(members[0]))(x[0]), expected[0])


def test_dropout_is_for_training():
    network = build((400,), **SMALL | {"dropout": 0.5, "dense_dropout": 0.5})
    x = draw(8, 400)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"preset": "resnet"}, "preset='resnet' is not known"),
        ({"channels": ()}, "channels must have one value for each block"),
        ({"channels": (8, 16)}, "kernels=.* has 3 values for 2 blocks"),
        ({"channels": (8, 0, 8)}, "channels must be integers"),
        ({"kernels": 0}, "kernels must be integers"),
        ({"kernels": ("auto", "wide", 5)}, "kernels must be integers"),
        ({"kernels": (8, (3, 5, 7), 5)}, r"at least two, a stride of 1 \(got 2\)"),
        ({"kernels": (8, (3, 5), 5), "strides": 1}, r"multiple of 3 \(got 32\)"),
        ({"kernels": (8, (3,), 5), "strides": 1}, "at least two"),
        ({"kernels": (8, (3, 4, 5), 5), "strides": 1}, "kernels must be odd"),
        ({"strides": (2, "auto", 2)}, "for the first block only"),
        ({"strides": -1}, "strides must be integers"),
        ({"pooling": 0}, "pooling must be integers"),
        ({"padding": "zeros"}, "padding='zeros' must be 'same' or 'valid'"),
        ({"head": "max"}, "head='max' must be one of"),
        ({"n_bins": 0}, "n_bins must be integers"),
        ({"residual": -1}, "residual must be integers"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"dense": (0,)}, "dense must be integers"),
        ({"initial": "zeros"}, "initial='zeros' must be one of"),
        ({"shape": (3, 4, 5)}, r"trace_shape=\(3, 4, 5\) must be \(T,\) or \(T, C\)"),
        ({"shape": (0,)}, "trace_shape must be integers"),
        ({"n_outputs": 0}, "n_outputs must be integers"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        build(**params)


def test_bad_traces():
    with pytest.raises(ValueError, match=r"shape \(40,\), but the network was built for \(50, 1\)"):
        build((50,))(torch.zeros(3, 40))
    with pytest.raises(ValueError, match=r"shape \(50,\), but the network was built for \(50, 2\)"):
        build((50, 2))(torch.zeros(3, 50))


@pytest.mark.cuda
@pytest.mark.parametrize("params", [*NETWORKS, *({"preset": preset} for preset in PRESETS)])
def test_cuda_agrees_with_cpu(params, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network = randomised(build((1000,), **params))
    twin = copy.deepcopy(network).cuda()
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (16, 1000)).astype(np.uint16))
    for training in (True, False):
        out, expected = twin.train(training)(x.cuda()), network.train(training)(x)
        torch.testing.assert_close(out.cpu(), expected, rtol=1e-3, atol=1e-3)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name].cpu(), value, rtol=1e-3, atol=1e-4)
