"""Chains of fully connected layers, feature-major, with an explicit backward pass.

Automatic differentiation of ``x = cat([x, layer(x)])`` copies all earlier features in every layer, forward and
backward. Here every layer appends its features to one buffer that later layers read, and the backward pass
accumulates gradients in a buffer of the same shape, without copies. The layers of `networks.DenseNet` under automatic
differentiation are the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["ACTIVATIONS", "Buffers", "Layout", "chain_backward", "chain_forward", "dense_chain"]


class ActivationOps(NamedTuple):
    """An activation with output in a given tensor, and its gradient, which overwrites the input."""

    into: Callable[[Tensor, Tensor], Any]
    backward: Callable[[Tensor, Tensor], Any]


_ops = torch.ops.aten
# Alpha, scale and input scale of selu (arXiv:1706.02515).
_SELU = (1.6732632423543772, 1.0507009873554805, 1.0)

ACTIVATIONS = {
    "swish": ActivationOps(
        lambda z, out: _ops.silu.out(z, out=out),
        lambda grad, z: _ops.silu_backward.grad_input(grad, z, grad_input=z),
    ),
    "relu": ActivationOps(
        lambda z, out: _ops.relu.out(z, out=out),
        lambda grad, z: _ops.threshold_backward.grad_input(grad, z, 0.0, grad_input=z),
    ),
    "selu": ActivationOps(
        lambda z, out: _ops.elu.out(z, *_SELU, out=out),
        lambda grad, z: _ops.elu_backward.grad_input(grad, *_SELU, False, z, grad_input=z),
    ),
}


class Layout(NamedTuple):
    """Rows of the buffer that each layer reads and writes.

    Parameters
    ----------
    reads : tuple of slice
        Rows that a layer reads: all earlier rows if layers are densely connected.
    writes : tuple of slice
        Rows that a layer writes; the last layer writes outside the buffer.
    dense : bool
        Whether layers are densely connected.
    """

    reads: tuple[slice, ...]
    writes: tuple[slice, ...]
    dense: bool

    @classmethod
    def of(cls, n_inputs: int, n_neurons: Sequence[int], *, dense: bool) -> Layout:
        """Return the layout of a chain."""
        edges = [0, n_inputs]
        for n in n_neurons:
            edges.append(edges[-1] + n)
        last = len(n_neurons)
        reads = tuple(slice(0 if dense else edges[i], edges[i + 1]) for i in range(last))
        writes = tuple(slice(edges[i + 1], edges[i + 2]) for i in range(last))
        return cls(reads, writes, dense)


class Buffers(NamedTuple):
    """Views of the buffer of a chain, one for each layer.

    Parameters
    ----------
    reads : sequence of Tensor of shape (members, n_columns, batch)
        Features that a layer reads.
    writes : sequence of Tensor of shape (members, n_neurons, batch)
        Features that a layer writes.
    """

    reads: Sequence[Tensor]
    writes: Sequence[Tensor]

    @classmethod
    def of(cls, features: Tensor, last: Tensor, layout: Layout) -> Buffers:
        """Return the views of a buffer; the last layer writes to `last`."""
        inner = [features[:, rows] for rows in layout.writes[:-1]]
        return cls([features[:, rows] for rows in layout.reads], [*inner, last])


def chain_forward(
    activation: ActivationOps,
    buffers: Buffers,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    before: Sequence[Tensor],
    kept: Sequence[Tensor] = (),
) -> None:
    """Compute all layers on the features in the buffer.

    Parameters
    ----------
    activation : ActivationOps
        Activation of every layer.
    buffers : Buffers
        Features; the parts that the layers write are filled.
    weights : sequence of Tensor of shape (members, n_neurons, n_columns)
        Weights of each layer.
    biases : sequence of Tensor of shape (members, n_neurons, 1)
        Biases of each layer.
    before : sequence of Tensor of shape (members, n_neurons, batch)
        Filled with the inputs of the activations.
    kept : sequence of Tensor of shape (members, n_neurons, batch), optional
        Dropout masks of each layer.
    """
    layers = zip(buffers.reads, buffers.writes, weights, biases, before, strict=True)
    for i, (read, write, weight, bias, z) in enumerate(layers):
        torch.baddbmm(bias, weight, read, out=z)
        activation.into(z, write)
        if kept:
            write.mul_(kept[i])


def chain_backward(
    activation: ActivationOps,
    buffers: Buffers,
    before: Sequence[Tensor],
    weights_t: Sequence[Tensor | None],
    grads: Buffers,
    grad_weights: Sequence[Tensor],
    grad_biases: Sequence[Tensor],
    kept: Sequence[Tensor] = (),
    *,
    dense: bool,
) -> None:
    """Compute the gradients of all layers; the inputs of the activations are overwritten.

    Parameters
    ----------
    activation, buffers, before
        As after `chain_forward`.
    weights_t : sequence of Tensor of shape (members, n_columns, n_neurons)
        Transposed weights. The weight of the first layer may be cut to the inputs whose gradient is
        needed; None if no gradient of inputs is needed.
    grads : Buffers
        Gradients of the features; the gradient of the last layer is given, the others are filled.
    grad_weights, grad_biases : sequence of Tensor
        Filled with the gradients.
    kept : sequence of Tensor, optional
        As in `chain_forward`.
    dense : bool
        Whether layers are densely connected, so that gradients of earlier features accumulate.
    """
    last = len(before) - 1
    for i in range(last, -1, -1):
        z = before[i]
        if kept:
            grads.writes[i].mul_(kept[i])
        activation.backward(grads.writes[i], z)
        torch.bmm(z, buffers.reads[i].mT, out=grad_weights[i])
        torch.sum(z, -1, out=grad_biases[i])
        weight_t, into = weights_t[i], grads.reads[i]
        if weight_t is None:
            continue
        if dense and i < last:
            torch.baddbmm(into, weight_t, z, out=into)
        else:
            torch.bmm(weight_t, z, out=into)


class _Chain(torch.autograd.Function):
    """Autograd function for the layers of all members; returns the features of the last layer."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, name: str, dense: bool, n_layers: int, *parameters: Tensor
    ) -> Tensor:
        weights, biases = parameters[:n_layers], parameters[n_layers:]
        n_members, n_inputs, n_rows = x.shape
        layout = Layout.of(n_inputs, [w.shape[-2] for w in weights], dense=dense)
        features = x.new_empty(n_members, layout.reads[-1].stop, n_rows)
        features[:, :n_inputs] = x
        before = [x.new_empty(n_members, w.shape[-2], n_rows) for w in weights]
        out = torch.empty_like(before[-1])
        buffers = Buffers.of(features, out, layout)
        columns = [bias.unsqueeze(-1) for bias in biases]
        chain_forward(ACTIVATIONS[name], buffers, weights, columns, before)
        ctx.save_for_backward(features, *weights, *before)
        ctx.layout, ctx.name = layout, name
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        layout = ctx.layout
        n = len(layout.reads)
        features, *rest = ctx.saved_tensors
        weights, before = rest[:n], rest[n:]
        (grad_last,) = grad_outputs
        grads = torch.empty_like(features)
        grad_weights = [torch.empty_like(w) for w in weights]
        grad_biases = [w.new_empty(w.shape[:-1]) for w in weights]
        wants_inputs = ctx.needs_input_grad[0]
        chain_backward(
            ACTIVATIONS[ctx.name],
            Buffers.of(features, grad_last, layout),
            before,
            [w.mT if i or wants_inputs else None for i, w in enumerate(weights)],
            Buffers.of(grads, grad_last, layout),
            grad_weights,
            grad_biases,
            dense=layout.dense,
        )
        grad_x = grads[:, layout.reads[0]] if wants_inputs else None
        return grad_x, None, None, None, *grad_weights, *grad_biases


def dense_chain(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    activation: str = "swish",
    dense: bool = True,
) -> Tensor:
    """Return the features of the last layer of a chain.

    Parameters
    ----------
    x : Tensor of shape (members, n_inputs, batch)
        Inputs, feature-major.
    weights : sequence of Tensor of shape (members, n_neurons, n_columns)
        Layer ``i`` reads the inputs and the features of all earlier layers; without `dense` only the
        features of the layer before it.
    biases : sequence of Tensor of shape (members, n_neurons)
        Biases.
    activation : str, default="swish"
        One of `ACTIVATIONS`.
    dense : bool, default=True
        Whether layers are densely connected.

    Returns
    -------
    Tensor of shape (members, n_neurons, batch)
        Features of the last layer.
    """
    out: Tensor = _Chain.apply(x, activation, dense, len(weights), *weights, *biases)  # type: ignore[no-untyped-call]
    return out
