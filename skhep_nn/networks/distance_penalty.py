"""Distance correlation of batches, with its gradient: the penalty of a decorrelated classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["batch_distance_correlation"]

# Numbers of the distances of some members that are held at once: what a cache of a core holds, and on a
# GPU a part of its memory.
_CPU_NUMBERS, _CUDA_NUMBERS = 1 << 18, 1 << 26

# Product of two distance variances, of quantities of the order of one, that is no more than rounding.
_ROUNDING = 1e-12


class _SquaredCorrelation(torch.autograd.Function):
    """Squared distance correlation whose gradient by the first quantity is found on the way.

    Automatic differentiation would keep half a dozen matrices of all pairs for every member.
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
        Of the order of one, such as scores; the result has a gradient by these alone.
    y : Tensor of shape (members, batch)
        Of the order of one, such as a scaled mass.
    weight : Tensor of shape (members, batch)
        Not negative; zero for rows that do not count.

    Returns
    -------
    Tensor of shape (members,)
        Zero where no rows count, or all of them have the same value.
    """
    result: Tensor = _SquaredCorrelation.apply(x, y, weight)  # type: ignore[no-untyped-call]
    return result


def _value_and_gradient(
    x: Tensor, y: Tensor, weight: Tensor, *, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return squared distance correlations and, if wanted, their gradients by x, else zeros."""
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    difference = x.unsqueeze(-1) - x.unsqueeze(-2)
    a = _centred(difference.abs(), weight)
    b = _centred((y.unsqueeze(-1) - y.unsqueeze(-2)).abs(), weight)
    covariance, variance, other = (_mean_of(m, weight) for m in (a * b, a * a, b * b))
    product = variance * other
    # No branch: the shapes of a step, and what it waits for, must not depend on its numbers.
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
    """Subtract the means of rows and columns, which are the same as distances are symmetric."""
    rows = _row_means(distances, weight)
    mean = (rows * weight).sum(-1)
    return distances - rows.unsqueeze(-1) - (rows - mean.unsqueeze(-1)).unsqueeze(-2)
