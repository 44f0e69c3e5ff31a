"""What a training has made of the members of an estimator: weights and history."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from skhep_nn.training.checkpoints import Kept
from skhep_nn.training.net import MemberNet

__all__ = ["DivergedError", "history_frame", "member_weights"]

# Of the history, where they are found.
_OPTIONAL_COLUMNS = ("valid_accuracy", "averaged_valid_loss", "averaged_valid_accuracy")


class DivergedError(ValueError):
    """None of an estimator's members has come out finite."""


def member_weights(net: MemberNet, kept: Kept, own: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the weight of every state: 1 / validation loss of its member, of which it has a share.

    Only members of an estimator's `own` are looked at.
    """
    finite = np.ones(len(net.folds), dtype=bool)
    for value in kept.state.values():
        np.logical_and.at(finite, kept.member, value.flatten(1).isfinite().all(1).cpu().numpy())
    losses = np.array([record["train_loss"] for record in net.records_])
    passes = np.argmin(np.isfinite(losses), axis=0)
    bad_pass = {place: int(passes[k]) for place, k in enumerate(own) if not finite[k]}
    if bad_pass:
        where = ", ".join(f"member {k} in pass {epoch}" for k, epoch in bad_pass.items())
        msg = f"training diverged ({where}); lower the learning rate (schedule=) or look for outliers."
        if len(bad_pass) == len(own):
            raise DivergedError(msg)
        warnings.warn(msg + " These members are left out.", ConvergenceWarning, stacklevel=3)
    best = net.best_.loss
    weight = finite.astype(float)
    finite[np.setdiff1d(np.arange(len(finite)), own)] = False
    # A loss can be negative under negative event weights: its inverse then ranks nothing.
    if kept.by_loss and np.all(best[finite] > 0) and np.all(np.isfinite(best[finite])):
        weight[finite] = 1 / best[finite]
    weights: NDArray[np.float64] = weight[kept.member] * kept.share
    return weights


def history_frame(net: MemberNet, members: NDArray[np.intp]) -> pd.DataFrame:
    """Return the tidy history: a row for every one of some members and every pass."""
    n_members = len(net.folds)
    columns: dict[str, list[NDArray[Any]]] = {}
    for epoch, record in enumerate(net.records_):
        row = {"member": np.arange(n_members), "epoch": np.array([epoch])}
        for name in ("train_loss", "valid_loss", "lr", "momentum", "seconds"):
            row[name] = record.get(name, np.array([np.nan]))
        row |= {name: record[name] for name in _OPTIONAL_COLUMNS if name in record}
        for name, value in row.items():
            columns.setdefault(name, []).append(np.broadcast_to(value, n_members)[members])
    columns["member"] = [np.arange(len(members))] * len(columns["member"])
    return pd.DataFrame({name: np.concatenate(values) for name, values in columns.items()})
