"""Distance correlation of batches, with its gradient: the penalty of a decorrelated classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["batch_distance_correlation"]

# Number of distances in memory at once: on a CPU as many as fit into the cache of a core, on a GPU more.
_CPU_NUMBERS, _CUDA_NUMBERS = 1 << 18, 1 << 26

# A product of two distance variances below this is rounding error, for quantities of the order of one.
_ROUNDING = 1e-12


class _SquaredCorrelation(torch.autograd.Function):
    """Squared distance correlation, with an explicit gradient with respect to the first quantity.

    Automatic differentiation would keep six matrices of all pairs for every member.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        numbers = _CPU_NUMBERS if x.device.type == "cpu" else _CUDA_NUMBERS
        at_once = max(1, numbers // x.shape[-1] ** 2)
        parts = [
            _value_and_gradient(*part, with_gradient=ctx.needs_input_grad[0])
            for part in zip(*(t.split(at_once) for t in (x, y, weight)), strict=True)
        ]
        values, gradients = zip(*parts, strict=True)
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].unsqueeze(-1), None, None


def batch_distance_correlation(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Return the squared distance correlation of every member's batch.

    Parameters
    ----------
    x : Tensor of shape (members, batch)
        Values of the order of one, such as scores. Only they have a gradient.
    y : Tensor of shape (members, batch)
        Values of the order of one, such as a scaled mass.
    weight : Tensor of shape (members, batch)
        Event weights, not negative; zero for rows to ignore.

    Returns
    -------
    Tensor of shape (members,)
        Zero if no rows have a weight, or all have the same value.
    """
    result: Tensor = _SquaredCorrelation.apply(x, y, weight)  # type: ignore[no-untyped-call]
    return result


def _value_and_gradient(
    x: Tensor, y: Tensor, weight: Tensor, *, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return squared distance correlations, and their gradients with respect to x or zeros."""
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    difference = x.unsqueeze(-1) - x.unsqueeze(-2)
    a = _centred(difference.abs(), weight)
    b = _centred((y.unsqueeze(-1) - y.unsqueeze(-2)).abs(), weight)
    covariance, variance, other = (_mean_of(m, weight) for m in (a * b, a * a, b * b))
    product = variance * other
    # Without a branch: on a GPU the shapes of a step must not depend on values, nor may the host wait for them.
    norm = torch.where(product > _ROUNDING, product, torch.inf).rsqrt()
    value = covariance * norm
    if not with_gradient:
        return value, torch.zeros_like(x)
    share = covariance / variance.clamp(min=torch.finfo(x.dtype).tiny)
    share = torch.where(product > _ROUNDING, share, 0.0)
    pull = difference.sign_() * (b - share[:, None, None] * a)
    return value, 2 * norm.unsqueeze(-1) * weight * _row_means(pull, weight)


def _row_means(matrix: Tensor, weight: Tensor) -> Tensor:
    """Average over the last axis, in the same order on any number of threads."""
    return (matrix * weight.unsqueeze(-2)).sum(-1)


def _mean_of(matrix: Tensor, weight: Tensor) -> Tensor:
    """Average over both axes."""
    return (_row_means(matrix, weight) * weight).sum(-1)


def _centred(distances: Tensor, weight: Tensor) -> Tensor:
    """Subtract the means of rows and columns, which are equal, as distances are symmetric."""
    rows = _row_means(distances, weight)
    mean = (rows * weight).sum(-1)
    return distances - rows.unsqueeze(-1) - (rows - mean.unsqueeze(-1)).unsqueeze(-2)
