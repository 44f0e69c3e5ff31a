"""Whether a fit is better than the best constant prediction."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skhep_nn.networks.losses import Loss
from skhep_nn.training.job import Job
from skhep_nn.training.net import MemberNet

__all__ = ["warn_of_nothing_learned"]

# Fits of fewer steps may well be no better than a constant, as their user knows.
_FEW_STEPS, _FEW_EPOCHS, _MANY_STEPS = 30, 5, 200
# A constant is beaten by chance by about 1 / (number of rows), and by a row far out of line as well.
_CHANCE, _ROWS_BY_CHANCE = 1e-3, 2.0
_CHUNK = 65_536


def warn_of_nothing_learned(net: MemberNet, job: Job) -> None:
    """Warn if the members predict no better than the best constant.

    Parameters
    ----------
    net : MemberNet
        The net after training.
    job : Job
        What it was trained on.
    """
    if net.criterion_.loss.penalty is not None:
        return  # the penalty is a part of the loss that a constant does not have
    n_epochs, n_rows = len(net.records_), len(job.weight)
    n_steps = n_epochs * -(-max(len(fold.train) for fold in job.folds) // net.batch_size)
    if n_steps < (_FEW_STEPS if n_epochs >= _FEW_EPOCHS else _MANY_STEPS):
        return
    validated = all(len(fold.valid) for fold in job.folds)
    kind = "validation" if validated else "training"
    if validated:
        seen = [record["valid_loss"] for record in net.records_]
        seen += [r["averaged_valid_loss"] for r in net.records_ if "averaged_valid_loss" in r]
        best = np.where(np.isnan(seen), np.inf, seen).min(axis=0)
        found = float(best[np.isfinite(best)].mean())  # without the members that diverged
    else:
        found = float(net.records_[-1]["train_loss"].mean())
    constant = _constant_loss(job, validated=validated)
    # The loss of a training epoch is a mean over its steps, with dropout and augmentation: it falls later.
    needed = constant * (1 - _CHANCE - _ROWS_BY_CHANCE / n_rows) if validated else constant
    # A constant target has nothing to learn, and negative weights can make a loss negative.
    if not constant > 1e-6 or found < needed:
        return
    msg = (
        f"the fit is no better than a constant prediction: its {kind} loss is {found:.4g}, and {constant:.4g} if every "
        "row is predicted alike. Look at the learning rate (schedule=), at the number of epochs (max_epochs=) and at "
        "the scale of the columns."
    )
    warnings.warn(msg, ConvergenceWarning, stacklevel=4)


def _constant_loss(job: Job, *, validated: bool) -> float:
    """Return the loss of the best constant prediction, defined as in the history."""
    loss: Loss = job.target.loss
    values, weight = torch.as_tensor(job.target.values), torch.as_tensor(job.weight)
    if values.is_floating_point():
        values = values.double()
    best = loss.constant(values, weight.abs())
    of_rows = torch.cat(
        [
            loss.value(best.expand(len(some), -1), some) * own
            for some, own in zip(values.split(_CHUNK), weight.split(_CHUNK), strict=True)
        ]
    ).numpy()
    if not validated:
        return float(np.mean([of_rows[fold.train].mean() for fold in job.folds]))
    valid = [fold.valid for fold in job.folds]
    return float(np.mean([of_rows[rows].sum() / job.weight[rows].sum() for rows in valid]))
