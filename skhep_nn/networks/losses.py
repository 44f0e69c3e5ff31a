"""Losses of single rows and their gradients, before weights and means."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skhep_nn.networks.distance_penalty import batch_distance_correlation

__all__ = [
    "LOSSES",
    "Loss",
    "RowLoss",
    "decorrelated",
    "is_right",
    "through_sigmoid",
    "with_classes",
]

# Largest number of rows for which all pairs are compared at once.
_PENALISED_ROWS = 2048


def _same(target: Tensor) -> Tensor:
    return target


class Loss(NamedTuple):
    """A loss of rows, and its gradient with respect to the outputs.

    Parameters
    ----------
    name : str
        Name of the loss.
    value : callable
        Maps outputs (..., batch, outputs) and targets to losses (..., batch).
    gradient : callable
        Maps outputs and targets to the gradient of the losses, with the shape of the outputs.
    constant : callable
        Maps targets and weights (batch,) to the outputs (outputs,) that fit all of them best, if every row
        has the same.
    penalty : callable, optional
        Maps outputs, targets and weights (members, batch) to a term (members,) that is added to the
        loss of every member. It depends on the whole batch.
    labels : callable, default=the targets
        Maps targets to the labels with which scores compare predictions.
    """

    name: str
    value: Callable[[Tensor, Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]
    constant: Callable[[Tensor, Tensor], Tensor]
    penalty: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    labels: Callable[[Tensor], Tensor] = _same


def _binary_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output.squeeze(-1), target, reduction="none")


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return -output.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)


def _cross_entropy_slope(output: Tensor, target: Tensor) -> Tensor:
    # Not F.one_hot, which waits for the device to find the number of classes.
    is_class = target.unsqueeze(-1) == torch.arange(output.shape[-1], device=output.device)
    return output.softmax(-1) - is_class.to(output.dtype)


def _mean(target: Tensor, weight: Tensor) -> Tensor:
    return (weight.unsqueeze(-1) * target).sum(0) / weight.sum()


def _median(target: Tensor, weight: Tensor) -> Tensor:
    order = target.argsort(0)
    half = weight[order].cumsum(0) >= weight.sum() / 2
    at: Tensor = order.gather(0, half.int().argmax(0, keepdim=True))
    return target.gather(0, at)[0]


def _mean_logit(target: Tensor, weight: Tensor) -> Tensor:
    return _mean(target.unsqueeze(-1), weight).logit()


def _log_shares(target: Tensor, weight: Tensor) -> Tensor:
    return (
        torch.zeros(int(target.max()) + 1, dtype=weight.dtype).index_add_(0, target, weight).log()
    )


def _over_targets(
    name: str,
    elementwise: Callable[..., Tensor],
    gradient: Callable[[Tensor], Tensor],
    constant: Callable[[Tensor, Tensor], Tensor],
) -> Loss:
    """Return a loss of the differences between outputs and targets, averaged over targets."""

    def value(output: Tensor, target: Tensor) -> Tensor:
        return elementwise(output, target, reduction="none").mean(-1)

    return Loss(
        name, value, lambda output, target: gradient(output - target) / output.shape[-1], constant
    )


_ALL = (
    Loss(
        "binary_cross_entropy",
        _binary_cross_entropy,
        lambda output, target: output.sigmoid() - target.unsqueeze(-1),
        _mean_logit,
    ),
    Loss("cross_entropy", _cross_entropy, _cross_entropy_slope, _log_shares),
    _over_targets("squared_error", F.mse_loss, lambda difference: 2 * difference, _mean),
    _over_targets("absolute_error", F.l1_loss, torch.sign, _median),
    _over_targets("huber", F.huber_loss, lambda difference: difference.clamp(-1, 1), _median),
)
LOSSES = {loss.name: loss for loss in _ALL}


def is_right(output: Tensor, code: Tensor) -> Tensor:
    """Return whether the most probable class is the true one; a single output is the logit of the second class."""
    if output.shape[-1] == 1:
        return (output.squeeze(-1) > 0) == (code > 0.5)
    return output.argmax(-1) == code


def with_classes(
    loss: Loss, n_targets: int, n_classes: int, target_weight: float, class_weight: float
) -> Loss:
    """Return the sum of a loss of targets and the cross-entropy of a class.

    Parameters
    ----------
    loss : Loss
        Loss of the targets.
    n_targets : int
        Number of targets, which are the first columns of outputs and targets. The next column of the
        targets is the code of the class.
    n_classes : int
        Number of classes, at least two: one further output for two classes, else one for each class.
    target_weight, class_weight : float
        Factors of `loss` and of the cross-entropy.
    """
    of_class = LOSSES["binary_cross_entropy" if n_classes == 2 else "cross_entropy"]

    def parts(output: Tensor, target: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        code = target[..., n_targets]
        return (
            (output[..., :n_targets], target[..., :n_targets]),
            (output[..., n_targets:], code if n_classes == 2 else code.long()),
        )

    def value(output: Tensor, target: Tensor) -> Tensor:
        first, second = parts(output, target)
        return target_weight * loss.value(*first) + class_weight * of_class.value(*second)

    def gradient(output: Tensor, target: Tensor) -> Tensor:
        first, second = parts(output, target)
        gradients = target_weight * loss.gradient(*first), class_weight * of_class.gradient(*second)
        return torch.cat(gradients, dim=-1)

    def constant(target: Tensor, weight: Tensor) -> Tensor:
        code = target[:, n_targets]
        of_code = of_class.constant(code if n_classes == 2 else code.long(), weight)
        return torch.cat([loss.constant(target[:, :n_targets], weight), of_code])

    return Loss(f"{loss.name} and {of_class.name}", value, gradient, constant)


def through_sigmoid(loss: Loss) -> Loss:
    """Return a loss of the sigmoid of the outputs.

    Parameters
    ----------
    loss : Loss
        Loss of targets between 0 and 1.
    """

    def value(output: Tensor, target: Tensor) -> Tensor:
        return loss.value(output.sigmoid(), target)

    def gradient(output: Tensor, target: Tensor) -> Tensor:
        share = output.sigmoid()
        return loss.gradient(share, target) * share * (1 - share)

    def constant(target: Tensor, weight: Tensor) -> Tensor:
        return loss.constant(target, weight).logit(eps=1e-9)

    return Loss(f"{loss.name} through a sigmoid", value, gradient, constant)


def decorrelated(loss: Loss, strength: float, background: int) -> Loss:
    """Return a loss of classes plus the squared distance correlation between score and mass.

    Parameters
    ----------
    loss : Loss
        Loss of the class: one output for the second of two classes, else one for each class. Two columns
        follow its targets: the mass, of the order of one, and 1 for rows that enter the correlation,
        else 0. The correlation uses absolute weights.
    strength : float
        Factor of the correlation, which is added to the loss.
    background : int
        Class whose probability is the score. With two classes, both choices give the same correlation.
    """

    def labels(target: Tensor) -> Tensor:
        code = target[..., 0]
        return code if loss.name == "binary_cross_entropy" else code.long()

    def value(output: Tensor, target: Tensor) -> Tensor:
        return loss.value(output, labels(target))

    def gradient(output: Tensor, target: Tensor) -> Tensor:
        return loss.gradient(output, labels(target))

    def constant(target: Tensor, weight: Tensor) -> Tensor:
        return loss.constant(labels(target), weight)

    def penalty(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        if output.shape[-1] == 1:
            score = output.squeeze(-1).sigmoid()
        else:
            score = output.softmax(-1)[..., background]
        size = weight.abs()
        columns = (score, target[..., 1], size * target[..., 2], size)
        pieces = zip(*(c.split(_PENALISED_ROWS, dim=-1) for c in columns), strict=True)
        terms = [batch_distance_correlation(*piece) * total.sum(-1) for *piece, total in pieces]
        return strength * torch.stack(terms).sum(0)

    return Loss(f"{loss.name}, decorrelated", value, gradient, constant, penalty, labels)


class RowLoss(nn.Module):
    """A loss of rows as a module, as skorch expects of a criterion."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every row."""
        return self.loss.value(output, target)
