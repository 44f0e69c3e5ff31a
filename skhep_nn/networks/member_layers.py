"""Layers of one member, batch first; in fast mode feature-major, with parameters that may have a member axis.

See `skhep_nn.networks.stacks.in_fast_mode`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "FEW_CATEGORIES",
    "Concatenation",
    "MemberDropout",
    "MemberEmbedding",
    "MemberLinear",
    "MemberPReLU",
    "dropped_bytes",
    "fill_with_kept",
    "random_bytes",
]

# Up to this number of categories a product with one-hot codes is faster than a lookup, whose backward pass sums
# the rows of each category: a quarter of a training step of the HiggsML network, measured on a GPU.
FEW_CATEGORIES = 64


class Concatenation(nn.Module):
    """Concatenates features: the last axis of tables, and the axis before it in fast mode."""

    fast = False

    def forward(self, *parts: Tensor) -> Tensor:
        """Join ``(..., batch, features)``, in fast mode ``(..., features, batch)``."""
        return torch.cat(parts, dim=-2 if self.fast else -1)


class MemberLinear(nn.Module):
    """Fully connected layer. In fast mode its weight may have a leading member axis."""

    fast = False

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_outputs, n_inputs))
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., batch, inputs)`` to ``(..., batch, outputs)``; in fast mode the last two axes are swapped."""
        if not self.fast:
            return F.linear(x, self.weight, self.bias)
        multiply_add = torch.addmm if self.weight.ndim == 2 else torch.baddbmm
        return multiply_add(self.bias.unsqueeze(-1), self.weight, x)


def dropped_bytes(rate: float) -> int:
    """Return the number of byte values, out of 256, that mean "dropped": at least 1, at most 255."""
    return min(max(1, round(256 * rate)), 255)


def random_bytes(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw one random byte for each value of a tensor, eight bytes at once: floats would cost as much as a layer."""
    draws = x.new_empty((x.numel() + 7) // 8, dtype=torch.int64)
    draws = draws.random_(-(2**63), None, generator=generator)
    return draws.view(torch.uint8)[: x.numel()].view(x.shape)


def fill_with_kept(out: Tensor, rate: float, generator: torch.Generator | None) -> None:
    """Fill a tensor with a dropout mask: 0 for dropped values, else 1 / (share of values kept).

    The rate is rounded to a 256th, and the mask uses the rounded rate, so that means do not change.
    """
    if not rate:
        out.fill_(1)
        return
    dropped = dropped_bytes(rate)
    torch.ge(random_bytes(out, generator), dropped, out=out)
    out.mul_(256 / (256 - dropped))


class MemberDropout(nn.Module):
    """Dropout with masks from given random generators.

    The dropout of torch, used without a generator, draws from the global one, so that fits in parallel would change
    each other. On a CPU each member of a stack has its generator and does not depend on the other members; on a GPU the generator
    of the first member draws for all in one call. (Fused kernels draw their own masks.)
    Members of a stack can have different rates, see `share`.
    """

    generator: torch.Generator | None = None
    generators: Sequence[torch.Generator] = ()
    rates: Sequence[float] = ()
    kept_share: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def share(self, rates: Sequence[float]) -> None:
        """Set a rate for each member of a stack."""
        self.rates = rates
        self.register_buffer("kept_share", 1 - torch.tensor(rates).view(-1, 1, 1), persistent=False)

    def rates_of(self, n_members: int) -> Sequence[float]:
        """Return the rate of each member."""
        return self.rates or [self.rate] * n_members

    def forward(self, x: Tensor) -> Tensor:
        """Drop features in training."""
        if not self.training:
            return x
        if self.generator is None and not self.generators:
            return F.dropout(x, self.rate)
        if x.device.type == "cpu":
            return x * self.kept(torch.empty_like(x))
        if self.rates:
            # One call for each member would cost more than the drawing itself.
            kept = torch.ones_like(x)
            kept.bernoulli_(self.kept_share.expand_as(x), generator=self.generator)
            return x * kept / self.kept_share.to(x.dtype)
        kept = torch.empty_like(x).bernoulli_(1 - self.rate, generator=self.generator)
        return x * kept / (1 - self.rate)

    def kept(self, out: Tensor, members: slice = slice(None)) -> Tensor:
        """Fill a tensor on a CPU with the dropout masks of the members."""
        parts = out if out.ndim == 3 else out.unsqueeze(0)
        of_members = self.generators if out.ndim == 3 else ()
        generators: Sequence[torch.Generator | None] = of_members or [self.generator] * len(parts)
        rates = self.rates_of(len(generators))
        for part, rate, generator in zip(parts, rates[members], generators[members], strict=True):
            fill_with_kept(part, rate, generator)
        return out


class MemberPReLU(nn.Module):
    """PReLU with one slope for each layer (arXiv:1502.01852). The slope may have a leading member axis."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((1,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """Scale negative inputs by the learnt slope."""
        return torch.where(x > 0, x, self.slope.unsqueeze(-1) * x)


class MemberEmbedding(nn.Module):
    """Entity embedding (arXiv:1604.06737); code -1, a category unseen at fit, maps to the zero vector.

    Zero is the mean of the N(0, 1) from which the vectors start, so an unseen category is neutral.
    """

    fast = False

    def __init__(self, n_categories: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_categories, size))

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes of shape ``(..., batch)`` to vectors ``(..., batch, size)``, in fast mode ``(..., size, batch)``."""
        n_categories = self.weight.shape[-2]
        if n_categories <= FEW_CATEGORIES:
            categories = torch.arange(n_categories, device=codes.device).unsqueeze(-1)
            is_category = (codes.unsqueeze(-2) == categories).to(self.weight.dtype)
            return self.weight.mT @ is_category if self.fast else is_category.mT @ self.weight
        table = F.pad(self.weight, (0, 0, 1, 0))  # row 0 is for unseen categories
        rows = codes + 1
        if table.ndim == 3:
            n_members, n_rows, _ = table.shape
            rows = rows + n_rows * torch.arange(n_members, device=rows.device).unsqueeze(-1)
            table = table.flatten(0, 1)
        vectors = F.embedding(rows, table)
        return vectors.mT if self.fast else vectors
