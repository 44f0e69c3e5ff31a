"""Layers for one member whose parameters may carry a leading member axis, feature-major."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "FEW_CATEGORIES",
    "DropoutShare",
    "MemberDropout",
    "MemberEmbedding",
    "MemberLinear",
    "MemberPReLU",
]

# Up to so many categories a product with zeros and ones beats looking vectors up, whose backward pass has
# to collect the rows of each category again: measured on a GPU, a quarter of the study's training step.
FEW_CATEGORIES = 64


class MemberLinear(nn.Module):
    """A fully connected layer, feature-major, whose weight may carry a leading member axis."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_outputs, n_inputs))
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., inputs, batch)`` to ``(..., outputs, batch)``."""
        multiply_add = torch.addmm if self.weight.ndim == 2 else torch.baddbmm
        return multiply_add(self.bias.unsqueeze(-1), self.weight, x)


class DropoutShare(NamedTuple):
    """Some members of a stack, the rate at which they drop features, and whose generator they draw by."""

    members: slice
    rate: float
    lender: int


class MemberDropout(nn.Module):
    """Dropout that draws from a generator of its own, where training has lent it one.

    torch's dropout reads global state, which fits side by side would take from each other. Members of a
    stack may have rates of their own, see `share`.
    """

    generator: torch.Generator | None = None
    generators: Sequence[torch.Generator] = ()
    shares: Sequence[DropoutShare] = ()
    kept_share: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def share(self, shares: Sequence[DropoutShare]) -> None:
        """Let members of a stack have rates of their own; together they are all its members."""
        self.shares = shares
        rates = torch.cat(
            [torch.full((s.members.stop - s.members.start, 1, 1), s.rate) for s in shares]
        )
        self.register_buffer("kept_share", 1 - rates, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Drop features in training."""
        if not self.training:
            return x
        if self.shares:
            return x * self._kept(x) / self.kept_share.to(x.dtype)
        kept = torch.empty_like(x).bernoulli_(1 - self.rate, generator=self.generator)
        return x * kept / (1 - self.rate)

    def _kept(self, x: Tensor) -> Tensor:
        """Draw what members with rates of their own keep."""
        kept = torch.ones_like(x)
        if x.device.type != "cpu":
            # A call for each would cost more than the drawing itself.
            return kept.bernoulli_(self.kept_share.expand_as(x), generator=self.generator)
        for members, rate, lender in self.shares:
            if rate:
                generator = self.generators[lender] if self.generators else None
                kept[members].bernoulli_(1 - rate, generator=generator)
        return kept


class MemberPReLU(nn.Module):
    """PReLU with one slope a layer (arXiv:1502.01852), which may carry a leading member axis."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((1,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """Scale negative inputs by the learnt slope."""
        return torch.where(x > 0, x, self.slope.unsqueeze(-1) * x)


class MemberEmbedding(nn.Module):
    """Entity embedding (arXiv:1604.06737); code -1, a category unseen at fit, maps to the zero vector.

    Zero is the mean of the N(0, 1) the vectors start from: an unseen category says nothing.
    """

    def __init__(self, n_categories: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_categories, size))

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes of shape ``(..., batch)`` to vectors ``(..., size, batch)``."""
        n_categories = self.weight.shape[-2]
        if n_categories <= FEW_CATEGORIES:
            categories = torch.arange(n_categories, device=codes.device).unsqueeze(-1)
            is_category = (codes.unsqueeze(-2) == categories).to(self.weight.dtype)
            return self.weight.mT @ is_category
        table = F.pad(self.weight, (0, 0, 1, 0))  # row 0 is the slot of the unseen category
        rows = codes + 1
        if table.ndim == 3:
            n_members, n_rows, _ = table.shape
            rows = rows + n_rows * torch.arange(n_members, device=rows.device).unsqueeze(-1)
            table = table.flatten(0, 1)
        return F.embedding(rows, table).mT
