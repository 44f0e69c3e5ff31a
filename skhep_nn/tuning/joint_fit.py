"""Training of several estimators at once, with the members of all estimators stacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import joblib
import numpy as np
from numpy.typing import ArrayLike

from skhep_nn.estimators.base import (
    BaseNetworkEstimator,
    keep,
    make_job,
    make_settings,
    network_params,
    schedule_of,
)
from skhep_nn.training.batches import n_steps
from skhep_nn.training.job import Job
from skhep_nn.training.member_hyperparameters import MemberHyperparameters, proportion
from skhep_nn.training.run import DivergedError, raise_interrupt, result_of, train
from skhep_nn.utils.folds import Fold
from skhep_nn.utils.sklearn_private import safe_indexing
from skhep_nn.utils.torch_state import recording_gradients, usual_defaults

__all__ = ["fit_together", "may_differ", "train_together"]

Estimator = TypeVar("Estimator", bound=BaseNetworkEstimator)

# Parameters in which estimators that train together may differ, in addition to learning rates of schedules.
_OWN = ("random_state", "verbose", "weight_decay", "dropout")


class Trained(NamedTuple):
    """Folds of an estimator after training, and the error if it diverged."""

    folds: list[Fold]
    error: DivergedError | None


def fit_together(
    estimators: Sequence[Estimator],
    X: Any,
    y: Any,
    sample_weight: ArrayLike | None = None,
    *,
    rows: Sequence[ArrayLike] | None = None,
) -> list[Estimator]:
    """Fit several estimators in one run, all their members stacked.

    Many small networks train in little more time than one, especially on a GPU. Each estimator has its own
    random numbers, folds and, optionally, rows. The result equals that of `fit`, within rounding.

    Parameters
    ----------
    estimators : sequence of network estimators
        Estimators to fit, of the same class and parameters. They may differ in `random_state`,
        `weight_decay`, `dropout`, and schedules with proportional learning rates at every step.
    X : array-like or DataFrame of shape (n_samples, n_features)
        Inputs in physical units.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets.
    sample_weight : array-like of shape (n_samples,), optional
        Event weights.
    rows : sequence of array-like of int, optional
        Row numbers to which each estimator is fitted, such as those of several splits; by default all
        rows.

    Returns
    -------
    list of estimators
        The fitted estimators. The seconds in their histories are the durations of the joint epochs.

    Raises
    ------
    TypeError
        If an estimator is not a network estimator of this package.
    ValueError
        If estimators cannot be trained together, because they differ in other parameters, have callbacks,
        or their rows lead to networks of different shapes or epochs of different length; if one of them
        diverges.

    Notes
    -----
    - With different learning rates or weight decay, the optimizer has to be Adam, AdamW, SGD or RMSprop.
    - A schedule that depends on validation losses, such as `ReduceOnPlateau`, uses the mean over all members.
    - On a GPU without fused kernels (short fits, or networks that the kernels do not support), all members draw
      dropout from the random numbers of the first member, with the same probabilities as in `fit`.

    Examples
    --------
    >>> from skhep_nn import DenseNetClassifier, fit_together, make_higgs_events
    >>> events = make_higgs_events(400, random_state=0)
    >>> X = events.data[["PRI_tau_pt", "PRI_lep_pt", "PRI_met"]]
    >>> models = [DenseNetClassifier(n_members=2, max_epochs=2, random_state=k) for k in range(3)]
    >>> [len(model.ensemble_) for model in fit_together(models, X, events.target)]
    [2, 2, 2]
    """
    estimators = list(estimators)
    for trained in train_together(estimators, X, y, sample_weight, rows=rows):
        if trained.error is not None:
            raise trained.error
    return estimators


@usual_defaults()
@recording_gradients()
def train_together(
    estimators: Sequence[BaseNetworkEstimator],
    X: Any,
    y: Any,
    sample_weight: ArrayLike | None,
    *,
    rows: Sequence[ArrayLike] | None,
) -> list[Trained]:
    """Fit several estimators in one run as `fit_together`, but return the errors of diverged estimators."""
    estimators = list(estimators)
    _check(estimators, rows)
    jobs: list[Job] = []
    for k, estimator in enumerate(estimators):
        parts: tuple[Any, ...] = (X, y, sample_weight)
        if rows is not None:
            own = np.asarray(rows[k])
            parts = tuple(None if p is None else safe_indexing(p, own) for p in parts)
        jobs.append(_sharing(make_job(estimator, *parts), jobs))
    _check_jobs(estimators, jobs)
    factors = _factors(estimators, jobs[0])
    # The estimator with the highest learning rate drives the optimizer; the others scale its step down.
    lead = factors.index(max(factors))
    joined = _joined(jobs)
    if len(estimators) > 1:
        shares = [factor / factors[lead] for factor in factors]
        joined = joined._replace(member_hyperparameters=_member_hyperparameters(estimators, shares))
    net = train(joined, make_settings(estimators[lead], joined))
    # Once for all estimators, as averaged weights may need an epoch for their batch-norm statistics.
    kept = net.kept()
    outcomes = []
    start = 0
    for estimator, job in zip(estimators, jobs, strict=True):
        members = slice(start, start + estimator.n_members)
        start = members.stop
        try:
            keep(estimator, result_of(net, members, kept))
        except DivergedError as error:
            outcomes.append(Trained(job.folds, error))
            continue
        # The net trained the members of all estimators; none of them should hold it.
        del estimator.net_
        outcomes.append(Trained(job.folds, None))
    raise_interrupt(net)
    return outcomes


def may_differ(name: str) -> bool:
    """Whether estimators that train together may differ in a parameter."""
    return name in _OWN or name.split("__", maxsplit=1)[0] == "schedule"


def _check(estimators: list[Any], rows: Sequence[ArrayLike] | None) -> None:
    """Check that estimators may be trained together."""
    if not estimators:
        raise ValueError("fit_together needs at least one estimator, got none.")
    for estimator in estimators:
        if not isinstance(estimator, BaseNetworkEstimator):
            raise TypeError(
                f"fit_together trains networks of skhep_nn, got {type(estimator).__name__}."
            )
        if estimator.callbacks or getattr(estimator, "_skl_callbacks", None):
            raise ValueError(
                "callbacks see one estimator: fit estimators that have callbacks one by one."
            )
    if rows is not None and len(rows) != len(estimators):
        raise ValueError(
            f"rows must have row numbers for every estimator, got {len(rows)} for "
            f"{len(estimators)}."
        )
    first = estimators[0]
    for estimator in estimators[1:]:
        if type(estimator) is not type(first):
            raise ValueError(
                f"estimators must be of one class, got {type(first).__name__} and "
                f"{type(estimator).__name__}."
            )
        a, b = first.get_params(), estimator.get_params()
        differ = sorted(name for name in _differing(a, b) if not may_differ(name))
        if differ:
            raise ValueError(
                f"estimators may differ in {', '.join(_OWN)} and learning rates, but these differ in "
                f"{', '.join(differ)}; fit only estimators with equal values together."
            )


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the names of the parameters that differ, without objects that have parameters themselves."""
    return [
        name
        for name in sorted(a.keys() | b.keys())
        if not hasattr(a.get(name), "get_params")
        and (name not in a or name not in b or joblib.hash(a[name]) != joblib.hash(b[name]))
    ]


def _factors(estimators: Sequence[Any], job: Job) -> list[float]:
    """Return the ratio of each estimator's learning rates to the first; ValueError if not constant."""
    first = estimators[0]
    n_epochs = make_settings(first, job).n_epochs
    n = n_steps([fold.train for fold in job.folds], first.batch_size)
    schedules = [schedule_of(estimator) for estimator in estimators]
    differ = [_differing(*(_flat(s) for s in (schedules[0], other))) for other in schedules]
    if not any(differ):
        return [1.0] * len(estimators)
    factors = []
    for other, names in zip(schedules, differ, strict=True):
        try:
            ours, reference = (
                [s.rates(epoch, n_epochs=n_epochs, n_steps=n) for epoch in range(n_epochs)]
                for s in (other, schedules[0])
            )
        except ValueError as error:
            msg = (
                "estimators whose learning rates depend on the validation losses of all members cannot "
                f"differ in {', '.join(sorted(set().union(*differ)))}; fit only estimators with equal values "
                "together."
            )
            raise ValueError(msg) from error
        factor = proportion(ours, reference)
        if factor is None:
            raise ValueError(
                "the learning rates of estimators must be in proportion to each other at every step, and "
                f"their momenta equal, but these differ in {', '.join(names)} in another way; scale all "
                "rates of a schedule, or fit only estimators with equal values together."
            )
        factors.append(factor)
    return factors


def _flat(schedule: Any) -> dict[str, Any]:
    """Return the class and parameters of a schedule, named as parameters of an estimator."""
    params = schedule.get_params() if hasattr(schedule, "get_params") else {"": schedule}
    return {"schedule": type(schedule)} | {f"schedule__{name}": v for name, v in params.items()}


def _member_hyperparameters(
    estimators: Sequence[Any], factors: list[float]
) -> MemberHyperparameters:
    """Return the hyperparameters of all members, given the learning rates of the estimators."""
    of_member = [
        (e, f) for e, f in zip(estimators, factors, strict=True) for _ in range(e.n_members)
    ]
    return MemberHyperparameters(
        tuple(factor for _, factor in of_member),
        tuple(float(estimator.weight_decay) for estimator, _ in of_member),
        tuple(network_params(estimator).get("dropout") for estimator, _ in of_member),
    )


def _sharing(job: Job, others: list[Job]) -> Job:
    """Return a job that shares its arrays with an earlier job that has the same data."""
    for other in others:
        ours, theirs = ((j.rows, j.weight, j.target.values) for j in (job, other))
        pairs = list(zip(ours, theirs, strict=True))
        if all(isinstance(a, np.ndarray) and a.shape == b.shape for a, b in pairs) and all(
            np.array_equal(a, b) for a, b in pairs[::-1]
        ):
            target = job.target._replace(values=other.target.values)
            return job._replace(rows=other.rows, weight=other.weight, target=target)
    return job


def _check_jobs(estimators: list[Any], jobs: list[Job]) -> None:
    """Check that the networks, losses and numbers of steps of all jobs are equal."""
    shapes = {
        (job.target.loss.name, job.target.link, joblib.hash(_shared_arguments(estimator)))
        for estimator, job in zip(estimators, jobs, strict=True)
    }
    if len(shapes) > 1:
        raise ValueError(
            "the estimators' rows lead to different networks: classes, categories or features differ "
            "from one to the other. Fit them one by one."
        )
    batch_size = estimators[0].batch_size
    steps = sorted({n_steps([fold.train for fold in job.folds], batch_size) for job in jobs})
    if len(steps) > 1:
        raise ValueError(
            f"the estimators' epochs have from {steps[0]} to {steps[-1]} steps, as their numbers of rows "
            "differ. Use equal numbers of rows, or fit them one by one."
        )


def _shared_arguments(estimator: Any) -> dict[str, Any]:
    """Return the arguments of an estimator's network that stacked members must share."""
    return {name: value for name, value in network_params(estimator).items() if name != "dropout"}


def _joined(jobs: list[Job]) -> Job:
    """Concatenate jobs into one; data that jobs share are held once."""
    folds = []
    starts: dict[int, int] = {}
    parts: list[Job] = []
    n_rows = 0
    for job in jobs:
        if id(job.rows) not in starts:
            starts[id(job.rows)] = n_rows
            n_rows += len(job.rows)
            parts.append(job)
        start = starts[id(job.rows)]
        folds += [Fold(fold.train + start, fold.valid + start) for fold in job.folds]
    target = jobs[0].target
    if len(parts) == 1:
        rows, weight, values = parts[0].rows, parts[0].weight, target.values
    else:
        rows, weight, values = (
            np.concatenate(arrays)
            for arrays in zip(*((p.rows, p.weight, p.target.values) for p in parts), strict=True)
        )
    return Job(
        rows,
        weight,
        target._replace(values=values, strata=None),
        folds,
        [seed for job in jobs for seed in job.seeds],
        [seed for job in jobs for seed in job.augmentation_seeds],
        [state for job in jobs for state in job.input_states],
        [valid for job in jobs for valid in job.have_all_classes],
    )
