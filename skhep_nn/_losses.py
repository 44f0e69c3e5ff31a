"""Losses of single rows; weights and means come later."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LOSSES", "RowLoss"]


def _binary_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output.squeeze(-1), target, reduction="none")


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return -output.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)


def _mean_over_targets(elementwise: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return elementwise(output, target, reduction="none").mean(-1)

    return loss


#: Loss of every row: (..., batch, outputs) and targets -> (..., batch).
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary_cross_entropy": _binary_cross_entropy,
    "cross_entropy": _cross_entropy,
    "squared_error": _mean_over_targets(F.mse_loss),
    "absolute_error": _mean_over_targets(F.l1_loss),
    "huber": _mean_over_targets(F.huber_loss),
}


class RowLoss(nn.Module):
    """A loss of rows as the module that skorch takes a criterion to be."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every row."""
        return self.function(output, target)
