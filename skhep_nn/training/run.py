"""One training from start to end: from a job and its settings to fitted members."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from torch import nn

from skhep_nn.networks.stacks import State, operations_of, separate_members, stack_networks
from skhep_nn.training.checkpoints import Kept
from skhep_nn.training.job import Job, Settings
from skhep_nn.training.net import MemberNet
from skhep_nn.utils.torch_state import tensor_of, threads_for

__all__ = ["DivergedError", "Result", "raise_interrupt", "result_of", "run", "train"]

# Share of the free memory of a GPU that the rows may take. The rest is for networks, batches and their
# gradients. More rows than that stay on the host and are copied batch by batch.
_DEVICE_SHARE = 0.7

# Columns of the history that only some fits have.
_OPTIONAL_COLUMNS = ("valid_accuracy", "averaged_valid_loss", "averaged_valid_accuracy")


class DivergedError(ValueError):
    """No member of an estimator has finite parameters after training."""


class Result(NamedTuple):
    """Members of one estimator after training.

    `state` holds the checkpoints used for prediction, stacked along a leading axis; `weights` their weights
    in the mean prediction; `history` one row for each member and epoch.
    """

    net: MemberNet
    state: State
    weights: NDArray[np.float64]
    history: pd.DataFrame


def run(job: Job, settings: Settings, callbacks: Sequence[Callback] = ()) -> Result:
    """Train the members of one estimator.

    Parameters
    ----------
    job : Job
        Rows, targets and weights, and the folds of each member.
    settings : Settings
        The network and how it is trained.
    callbacks : sequence of skorch callbacks, default=()
        Called during training.

    Returns
    -------
    Result

    Raises
    ------
    DivergedError
        If no member has finite parameters after training.
    KeyboardInterrupt
        If the user pressed Ctrl-C before the end of the first epoch, or the members have diverged. Later, the
        result holds what the complete epochs have trained, and its net is marked (see `raise_interrupt`).
    """
    net = train(job, settings, callbacks)
    try:
        return result_of(net)
    except DivergedError as error:
        if net.interrupted_:
            raise KeyboardInterrupt from error  # an ordinary error would not end a search
        raise


def train(job: Job, settings: Settings, callbacks: Sequence[Callback] = ()) -> MemberNet:
    """Train all members of a job, of one estimator or of several.

    Parameters
    ----------
    job : Job
        Rows, targets and weights, and the folds of each member.
    settings : Settings
        The network and how it is trained.
    callbacks : sequence of skorch callbacks, default=()
        Called during training.

    Returns
    -------
    MemberNet
        The net after training; `result_of` returns the members of one estimator.

    Raises
    ------
    KeyboardInterrupt
        If the user pressed Ctrl-C before the end of the first epoch. Later, the net is marked as interrupted.
    RuntimeError
        If a callback ended training before the end of the first epoch.
    """
    net = _build_net(job, settings)
    for generator, seed in zip(net.generators, job.augmentation_seeds, strict=True):
        generator.manual_seed(seed)
    net.set_params(callbacks=list(callbacks))
    rows = _placed(job.rows, settings.device)
    # A backward pass takes about twice as many operations as a forward pass.
    n_operations = 3 * sum(operations_of(member) for member in separate_members(net.stack))
    with threads_for(n_operations * settings.batch_size):
        try:
            net.fit(rows, torch.as_tensor(job.target.values, device=settings.device))
        except KeyboardInterrupt:
            if not net.n_complete_:
                raise
            net.interrupted_ = True
    if not net.n_complete_:
        msg = "a callback ended training before the end of the first epoch, so nothing is trained."
        raise RuntimeError(msg)
    return net


def raise_interrupt(net: MemberNet) -> None:
    """Raise a KeyboardInterrupt if Ctrl-C ended a training, after a warning that says how much is trained.

    Call it when the results are kept: the estimators can predict, and searches and pipelines end.
    """
    if not net.interrupted_:
        return
    msg = (
        f"fit was interrupted after {net.n_complete_} of {net.max_epochs} epochs. The estimator predicts with "
        "what these have trained; it is not the model of a complete fit."
    )
    try:
        warnings.warn(msg, ConvergenceWarning, stacklevel=3)
    finally:  # also where warnings are errors
        raise KeyboardInterrupt(msg)


def _build_net(job: Job, settings: Settings) -> MemberNet:
    """Return the net; each member draws its initial parameters from its own seed."""
    own = job.member_hyperparameters
    arguments = [settings.network_params] * len(job.seeds)
    if own is not None:
        arguments = own.arguments(settings.network, settings.network_params)
    networks = []
    for seed, input_state, params in zip(job.seeds, job.input_states, arguments, strict=True):
        network: Any = settings.network(**params)
        generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
        network.reset_parameters(generator)
        network.load_state_dict(input_state, strict=False)
        networks.append(network)
    stack: nn.Module = stack_networks(networks)
    optimizer_params = settings.optimizer_params
    if own is not None:
        own.share_dropout(stack)
        # Members with different weight decay apply their own.
        optimizer_params = {} if own.decays_differ else optimizer_params
    return MemberNet(
        stack,
        criterion=job.target.loss,
        link=job.target.link,
        n_outputs=job.target.n_outputs,
        folds=job.folds,
        have_all_classes=job.have_all_classes,
        weight=torch.as_tensor(job.weight, dtype=torch.float32, device=settings.device),
        schedule=settings.schedule,
        averaging=None if settings.averaging is None else clone(settings.averaging),
        augmenter=settings.augmenter,
        settings=own,
        generators=[torch.Generator(settings.device) for _ in job.seeds],
        rngs=[np.random.default_rng(seed) for seed in job.seeds],
        patience=settings.patience,
        monitor=settings.monitor,
        autocast=settings.autocast,
        capture=settings.capture,
        n_workers=torch.get_num_threads(),
        task=settings.task,
        optimizer=settings.optimizer,
        **optimizer_params,
        batch_size=settings.batch_size,
        max_epochs=settings.n_epochs,
        device=str(settings.device),
        compile=settings.compile,
        verbose=settings.verbose,
    )


def _placed(encoded: Any, device: torch.device) -> Any:
    """Return the rows as a contiguous tensor, on the device if they fit there."""
    if not isinstance(encoded, np.ndarray):
        return encoded  # rows of a file are read batch by batch
    rows = tensor_of(encoded)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if rows.numel() * rows.element_size() > _DEVICE_SHARE * free:
            return rows
    return rows.to(device)


def result_of(net: MemberNet, members: slice = slice(None), kept: Kept | None = None) -> Result:
    """Return the result of the members of one estimator.

    Parameters
    ----------
    net : MemberNet
        The net, after training or after any epoch.
    members : slice, default=slice(None)
        Members of the estimator, if the net trains several estimators at once.
    kept : Kept, optional
        Checkpoints used for prediction, if already computed: batch-norm statistics can need an epoch over
        the training rows.

    Returns
    -------
    Result

    Raises
    ------
    DivergedError
        If none of the members has finite parameters.
    """
    kept = net.kept() if kept is None else kept
    own = np.arange(len(net.folds))[members]
    used = np.flatnonzero(np.isin(kept.member, own))
    weights = _weights(net, kept, own)[used]
    state = {name: value[used] for name, value in kept.state.items()}
    return Result(net, state, weights, _history(net, own))


def _weights(net: MemberNet, kept: Kept, own: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the weight of every checkpoint: its share of 1 / the validation loss of its member."""
    finite = np.ones(len(net.folds), dtype=bool)
    for value in kept.state.values():
        np.logical_and.at(finite, kept.member, value.flatten(1).isfinite().all(1).cpu().numpy())
    losses = np.array([record["train_loss"] for record in net.records_])
    first_bad = np.argmin(np.isfinite(losses), axis=0)
    bad_epoch = {place: int(first_bad[k]) for place, k in enumerate(own) if not finite[k]}
    if bad_epoch:
        where = ", ".join(f"member {k} in epoch {epoch}" for k, epoch in bad_epoch.items())
        msg = f"training diverged ({where}); lower the learning rate (schedule=) or look for outliers."
        if len(bad_epoch) == len(own):
            raise DivergedError(msg)
        warnings.warn(msg + " These members are left out.", ConvergenceWarning, stacklevel=3)
    best = net.best_.loss
    weight = finite.astype(float)
    finite[np.setdiff1d(np.arange(len(finite)), own)] = False
    without = [str(place) for place, k in enumerate(own) if not net.have_all_classes[k]]
    comparable = len(own) == 1 or not without
    if kept.by_loss and not comparable:
        msg = (
            f"the validation rows of member {', '.join(without)} hold no event of some class, so the losses of the "
            "members cannot be compared: all members have the same weight in the mean. Use fewer members."
        )
        warnings.warn(msg, UserWarning, stacklevel=3)
    # With negative event weights a loss can be negative, and then its inverse is not a valid weight.
    if (
        kept.by_loss
        and comparable
        and np.all(best[finite] > 0)
        and np.all(np.isfinite(best[finite]))
    ):
        weight[finite] = 1 / best[finite]
    weights: NDArray[np.float64] = weight[kept.member] * kept.share
    return weights


def _history(net: MemberNet, members: NDArray[np.intp]) -> pd.DataFrame:
    """Return the tidy history: one row for each of the members and each epoch."""
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
