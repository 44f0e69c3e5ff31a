"""Networks and members of fitted estimators are ordinary torch modules, batch first."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.nn.utils import prune

from skhep_nn import CaloCNNClassifier, DenseNetClassifier, WaveformClassifier
from skhep_nn.networks import CaloCNN, CategoricalColumn, DenseNet, SplitDenseNet, WaveformCNN
from skhep_nn.networks.stacks import in_fast_mode

FEW, MANY = CategoricalColumn(2, 3, 2), CategoricalColumn(3, 80, 2)
BLOCKS = {"low": ([0, 1, 2],), "high": ([1, 3, 4], 1, 6)}
NETWORKS = {
    "swish": (DenseNet, {"n_features": 5, "depth": 3, "n_outputs": 2}),
    "relu chain": (DenseNet, {"n_features": 5, "depth": 2, "dense": False, "activation": "relu"}),
    "selu": (DenseNet, {"n_features": 5, "depth": 2, "activation": "selu", "dropout": 0.2}),
    "prelu": (DenseNet, {"n_features": 5, "depth": 2, "activation": "prelu"}),
    "embeddings": (DenseNet, {"n_features": 5, "depth": 2, "categorical": [FEW, MANY]}),
    "split": (
        SplitDenseNet,
        {"n_features": 5, "blocks": BLOCKS, "depth": 2, "bottleneck": 2, "categorical": [FEW]},
    ),
    "split without bottlenecks": (SplitDenseNet, {"n_features": 5, "blocks": BLOCKS, "depth": 2}),
    "compact image": (
        CaloCNN,
        {"image_shape": (6, 5, 2), "channels": (3, 4), "kernels": 3, "dropout": 0.2},
    ),
    "residual image": (
        CaloCNN,
        {
            "image_shape": (6, 5, 2),
            "channels": (3, 4),
            "kernels": 3,
            "dropout": 0,
            "convolutions": 3,
            "residual": True,
            "attention": True,
            "head": "flatten",
            "dense": (16,),
        },
    ),
    "trace": (WaveformCNN, {"trace_shape": (40, 2), "channels": 4, "n_bins": 3, "dense": (4,)}),
    "school trace": (WaveformCNN, {"trace_shape": (40,), "preset": "school", "channels": 3}),
    "inception trace": (
        WaveformCNN,
        {
            "trace_shape": (40, 1),
            "preset": "inception",
            "channels": (4, 8, 8),
            "kernels": ("auto", (3, 5, 7), (3, 5, 7)),
            "strides": 1,
            "residual": 2,
        },
    ),
}
every_network = pytest.mark.parametrize("name", list(NETWORKS))


def build(name, dtype=torch.float64):
    """Build a network with statistics that standardise and normalise."""
    kind, params = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    network = kind(**params)
    network.reset_parameters(generator)
    with torch.no_grad():
        for buffer_name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand(buffer.shape, generator=generator))
            assert buffer_name.rpartition(".")[2] in {
                *("mean", "scale", "running_mean", "running_var", "continuous", "_order")
            }
    return network.to(dtype).eval()


def rows_for(name, n_rows=3, dtype=torch.float64, seed=1):
    kind, params = NETWORKS[name]
    shape = {
        CaloCNN: params.get("image_shape"),
        WaveformCNN: params.get("trace_shape"),
    }.get(kind, (5,))
    x = torch.randn(n_rows, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    for column, n_categories, _ in params.get("categorical", ()):
        x[:, column] = torch.arange(n_rows) % (n_categories + 1) - 1
    return x


def layers_of(network):
    return {
        name: module
        for name, module in network.named_modules()
        if name and not isinstance(module, nn.ModuleList | nn.ModuleDict)
    }


@every_network
def test_every_layer_is_seen_by_hooks_batch_first(name):
    network, x = build(name, torch.float32), rows_for(name, 7, torch.float32)
    seen, shapes = set(), []

    def watch(layer):
        def hook(_, inputs, output):
            seen.add(layer)
            shapes.extend(value.shape for value in (inputs[0], output))

        return hook

    layers = layers_of(network)
    for layer, module in layers.items():
        module.register_forward_hook(watch(layer))
    assert network(x).shape[0] == 7
    assert seen == set(layers)
    assert {shape[0] for shape in shapes} == {7}


@every_network
def test_every_parameter_is_used_by_a_layer_that_hooks_see(name):
    """Functional summaries count parameters of the modules that were called."""
    network = build(name)
    called = []
    for module in network.modules():
        module.register_forward_hook(lambda module, _, __: called.append(module))
    network(rows_for(name))
    used = {id(p) for module in called for p in module.parameters(recurse=False)}
    assert used == {id(p) for p in network.parameters()}


@pytest.mark.filterwarnings(
    "ignore:Full backward hook is firing"
)  # codes of categories have no gradient
@every_network
def test_gradients_of_layers_are_seen_by_backward_hooks_batch_first(name):
    network, x = build(name), rows_for(name, 7).requires_grad_()
    seen = {}
    for layer, module in layers_of(network).items():
        module.register_full_backward_hook(
            lambda _, __, out, layer=layer: seen.update({layer: out[0].shape[0]})
        )
    network(x).sin().sum().backward()
    assert set(seen) == set(layers_of(network))
    assert set(seen.values()) == {7}


@every_network
def test_hooks_may_replace_the_output_of_a_layer(name):
    network, x = build(name), rows_for(name)
    before = network(x)
    for layer, module in layers_of(network).items():
        if "dropout" in layer or isinstance(module, nn.Identity):
            continue
        handle = module.register_forward_hook(lambda _, __, output: output + 1)
        assert not torch.equal(network(x), before), layer
        handle.remove()
    assert torch.equal(network(x), before)


@every_network
def test_nothing_that_a_layer_has_seen_is_overwritten(name):
    network, x = build(name), rows_for(name)
    kept = []
    for module in network.modules():
        module.register_forward_hook(
            lambda _, inputs, output: kept.extend((v, v.clone()) for v in (inputs[0], output))
        )
    network(x)
    assert all(torch.equal(value, copied) for value, copied in kept)


@every_network
def test_first_and_second_derivatives_agree_with_differences(name):
    network, x = build(name), rows_for(name, 2).requires_grad_()
    assert torch.autograd.gradcheck(network, (x,))
    assert torch.autograd.gradgradcheck(network, (x,))


@every_network
def test_derivatives_in_float32_are_those_of_float64(name):
    found = []
    for dtype in (torch.float32, torch.float64):
        network = build(name, dtype)
        x = rows_for(name, 1, dtype)

        def output(z, network=network):
            return network(z).sin().sum()

        gradient = torch.autograd.functional.jacobian(output, x)
        found.append((gradient, torch.autograd.functional.hessian(output, x)))
    for single, double in zip(*found, strict=True):
        size = float(double.abs().max())
        assert size > 0
        assert_allclose(single.numpy(), double.numpy(), rtol=1e-3, atol=2e-4 * size)


@every_network
@pytest.mark.parametrize("training", [True, False])
def test_a_gradient_penalty_has_the_gradients_of_float64(name, training):
    found = []
    for dtype in (torch.float32, torch.float64):
        network, x = build(name, dtype).train(training), rows_for(name, 8, dtype).requires_grad_()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            out = network(x)
        (gradient,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        (out.sum() + gradient.square().sum()).backward()
        found.append(
            [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
        )
    if training and NETWORKS[name][1].get("dropout"):
        return  # drawn otherwise in each precision
    for single, double in zip(*found, strict=True):
        size = max(float(double.abs().max()), 1e-2)
        assert_allclose(single.numpy(), double.numpy(), rtol=2e-2, atol=2e-3 * size)


@every_network
def test_a_graph_can_be_used_twice(name):
    network, x = build(name, torch.float32), rows_for(name, 4, torch.float32).requires_grad_()
    out = network(x).sum()
    first, second = (torch.autograd.grad(out, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert first.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own forward mode
@every_network
def test_functional_transforms_agree_with_autograd(name):
    network, x = build(name, torch.float32), rows_for(name, 4, torch.float32)

    def one(row, parameters):
        return torch.func.functional_call(network, parameters, (row[None],))[0].sum()

    parameters = {key: value.detach() for key, value in network.named_parameters()}
    z = x.clone().requires_grad_()
    expected = torch.autograd.grad(network(z).sum(), z)[0]
    tolerance = {"rtol": 1e-3, "atol": 1e-4 * float(expected.abs().max())}
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.grad):
        each = torch.func.vmap(transform(one), in_dims=(0, None))(x, parameters)
        torch.testing.assert_close(each, expected, **tolerance)
    hessian = torch.func.vmap(torch.func.hessian(one), in_dims=(0, None))(x, parameters)
    plain = torch.autograd.functional.hessian(lambda row: one(row, parameters), x[0])
    size = float(plain.abs().max())
    torch.testing.assert_close(hessian[0], plain, rtol=1e-3, atol=1e-3 * size)
    stacked = {key: torch.stack([value, 2 * value]) for key, value in parameters.items()}
    two = torch.func.vmap(one, in_dims=(None, 0))(x[0], stacked)
    torch.testing.assert_close(two[0], one(x[0], parameters))


@every_network
def test_copies_and_states_give_the_same_outputs(name):
    network, x = build(name), rows_for(name)
    kind, params = NETWORKS[name]
    again = kind(**params).double().eval()
    again.load_state_dict(network.state_dict())
    for other in (again, copy.deepcopy(network)):
        assert torch.equal(other(x), network(x))


@every_network
def test_pruned_weights_are_zero_in_the_output(name):
    # Pruning in torch cannot flatten weights in channels_last order; members of ensembles have others.
    network = build(name).to(memory_format=torch.contiguous_format)
    x = rows_for(name)
    pruned = copy.deepcopy(network)
    for module in pruned.modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            prune.l1_unstructured(module, "weight", amount=0.5)
            mask = module.weight_mask
            assert not mask.all()
    masked = copy.deepcopy(network)
    with torch.no_grad():
        for layer, module in pruned.named_modules():
            if hasattr(module, "weight_mask"):
                masked.get_submodule(layer).weight.mul_(module.weight_mask)
    assert torch.equal(pruned(x), masked(x))
    assert not torch.equal(pruned(x), network(x))


@every_network
def test_a_stack_of_fast_networks_agrees(name):
    network, x = build(name, torch.float32), rows_for(name, 40, torch.float32)
    fast = in_fast_mode(copy.deepcopy(network))
    torch.testing.assert_close(fast(x), network(x), rtol=1e-4, atol=1e-4)
    z = x.clone().requires_grad_()
    torch.testing.assert_close(
        *(torch.autograd.grad(net(z).sum(), z)[0] for net in (fast, network)),
        rtol=1e-3,
        atol=1e-4,
    )


@every_network
def test_dropout_and_batch_norm_act_in_training_alone(name):
    network, x = build(name, torch.float32), rows_for(name, 20, torch.float32)
    before = network(x).detach()
    states = copy.deepcopy(network.state_dict())
    network.train()(x)
    moved = [
        key for key, value in network.state_dict().items() if not torch.equal(value, states[key])
    ]
    assert all("running" in key for key in moved)
    assert bool(moved) == any("running" in key for key in states)
    network.load_state_dict(states)
    assert torch.equal(network.eval()(x), before)


@every_network
def test_changes_of_single_inputs_add_up_along_a_path(name):
    """Integrated gradients, from the derivatives that attributions use."""
    network, x = build(name), rows_for(name, 1)
    path = torch.linspace(0, 1, 3001, dtype=x.dtype).view(-1, *(1,) * (x.ndim - 1)) * x
    if NETWORKS[name][1].get("categorical"):
        pytest.skip("codes have no gradient")
    path.requires_grad_()
    (gradient,) = torch.autograd.grad(network(path).sum(), path)
    attributed = (gradient.mean(0) * x[0]).sum()
    expected = (network(x) - network(0 * x)).sum()
    assert_allclose(attributed.item(), expected.item(), rtol=5e-3, atol=5e-3)


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(200, 5)).astype(np.float32)
    images = rng.normal(size=(80, 6, 5)).astype(np.float32)
    traces = rng.normal(size=(80, 60)).astype(np.float32)
    params = {"max_epochs": 2, "n_members": 2, "random_state": 0}
    split = {"low": [0, 1, 2], "high": [3, 4]}
    return [
        (DenseNetClassifier(depth=2, **params).fit(table, table[:, 0] > 0), table),
        (DenseNetClassifier(depth=2, blocks=split, **params).fit(table, table[:, 0] > 0), table),
        (CaloCNNClassifier(**params).fit(images, images.mean((1, 2)) > 0), images),
        (WaveformClassifier(**params).fit(traces, traces.mean(1) > 0), traces),
    ]


def test_members_of_fitted_estimators_are_such_modules_and_agree_with_predictions(fitted):
    for model, X in fitted:
        rows = torch.from_numpy(X)
        members = [model.ensemble_.member(k) for k in range(2)]
        outputs = [member(rows).sigmoid().numpy()[:, 0] for member in members]
        mean = np.average(outputs, axis=0, weights=model.ensemble_.weights)
        # Images and traces may be predicted in bfloat16.
        assert_allclose(model.predict_proba(X)[:, 1], mean, atol=2e-2, rtol=0)
        seen = []
        member = members[1]
        for layer in layers_of(member).values():
            layer.register_forward_hook(lambda layer, _, __, seen=seen: seen.append(layer))
        member(rows)
        assert set(seen) == set(layers_of(member).values())
        z = rows[:1].clone()
        assert torch.autograd.functional.hessian(lambda x: member(x).sin().sum(), z).abs().max() > 0  # noqa: B023


def test_a_member_trains_with_a_gradient_penalty(fitted):
    for model, X in fitted:
        member = model.ensemble_.member(0).requires_grad_()
        optimizer = torch.optim.SGD(member.parameters(), lr=1e-3)
        penalties = []
        for _ in range(10):
            x = torch.from_numpy(X[:50]).clone().requires_grad_()
            (gradient,) = torch.autograd.grad(member(x).sum(), x, create_graph=True)
            penalty = gradient.square().sum() / len(x)
            penalties.append(penalty.item())
            optimizer.zero_grad()
            penalty.backward()
            optimizer.step()
        assert penalties[-1] < penalties[0]


def test_changing_a_member_does_not_change_predictions(fitted):
    for model, X in fitted:
        before = model.predict_proba(X)
        with torch.no_grad():
            for parameter in model.ensemble_.member(0).parameters():
                parameter.zero_()
        np.testing.assert_array_equal(model.predict_proba(X), before)


def test_rescale_rule_explains_the_difference_of_outputs():
    """DeepLIFT (arXiv:1704.02685) by hooks: activations are modules, each used once."""
    network = build("relu chain")
    x, zero = rows_for("relu chain"), rows_for("relu chain", seed=7)
    differences, factors = {}, {}

    def keep(layer, inputs, output):
        differences[layer] = (inputs[0].chunk(2), output.chunk(2))

    activations = list(network.activations)
    for layer in activations:
        layer.register_forward_hook(keep)
    both = torch.cat([x, zero]).requires_grad_()
    network(both)
    for layer in activations:
        inputs, outputs = differences[layer]
        change = inputs[0] - inputs[1]
        factors[layer] = ((outputs[0] - outputs[1]) / change).repeat(2, 1)
        layer.register_full_backward_hook(
            lambda layer, _, grad: (grad[0] * factors[layer].detach(),)
        )
    (gradient,) = torch.autograd.grad(network(both).sum(), both)
    attributed = (gradient[: len(x)] * (x - zero)).sum(1)
    torch.testing.assert_close(attributed, (network(x) - network(zero))[:, 0])
