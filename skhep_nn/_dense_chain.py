"""Densely connected layers with a backward pass of their own.

Automatic differentiation of ``x = cat([x, layer(x)])`` copies all earlier features once a layer going
forward and once more, in pieces, going back. Here every layer writes its features behind those before it,
into one buffer that later layers read, and the backward pass adds into one buffer of the same shape:
joining costs nothing in either direction. The plain form in `networks.DenseNet` is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["dense_chain"]

_silu_into = torch.ops.aten.silu.out
_silu_backward = torch.ops.aten.silu_backward


class _DenseChain(torch.autograd.Function):
    """Swish layers, feature-major, all members at once; returns the features of the last one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, n_layers: int, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[:n_layers], parameters[n_layers:]
        n_members, used, n_rows = x.shape
        n_columns = weights[-1].shape[-1]
        features = x.new_empty(n_members, n_columns, n_rows)
        features[:, :used] = x
        before = []
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            z = torch.baddbmm(bias.unsqueeze(-1), weight, features[:, :used])
            before.append(z)
            if i < n_layers - 1:
                n_neurons = weight.shape[-2]
                _silu_into(z, out=features[:, used : used + n_neurons])
                used += n_neurons
        ctx.save_for_backward(features, *weights, *before)
        ctx.n_layers = n_layers
        out: Tensor = torch.nn.functional.silu(before[-1])
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        n = ctx.n_layers
        features, *rest = ctx.saved_tensors
        weights, before = rest[:n], rest[n:]
        (grad_last,) = grad_outputs
        grad_weights: list[Tensor | None] = [None] * n
        grad_biases: list[Tensor | None] = [None] * n
        grads = torch.empty_like(features)
        for i in reversed(range(n)):
            n_neurons, used = weights[i].shape[-2:]
            grad = grad_last if i == n - 1 else grads[:, used : used + n_neurons]
            grad_z = _silu_backward(grad, before[i])
            grad_weights[i] = torch.bmm(grad_z, features[:, :used].mT)
            grad_biases[i] = grad_z.sum(-1)
            into = grads[:, :used]
            if i == n - 1:
                torch.bmm(weights[i].mT, grad_z, out=into)
            elif i > 0 or ctx.needs_input_grad[0]:
                torch.baddbmm(into, weights[i].mT, grad_z, out=into)
        grad_x = grads[:, : weights[0].shape[-1]] if ctx.needs_input_grad[0] else None
        return grad_x, None, *grad_weights, *grad_biases


def dense_chain(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Run densely connected swish layers.

    Parameters
    ----------
    x : Tensor of shape (members, n_inputs, batch)
        Inputs, feature-major.
    weights : sequence of Tensor of shape (members, n_neurons, n_columns)
        Layer ``i`` reads the inputs and the features of all layers before it.
    biases : sequence of Tensor of shape (members, n_neurons)
        Biases.

    Returns
    -------
    Tensor of shape (members, n_neurons, batch)
        Features of the last layer.
    """
    out: Tensor = _DenseChain.apply(x, len(weights), *weights, *biases)  # type: ignore[no-untyped-call]
    return out
