"""Training of classifiers whose score does not depend on a mass (DisCo)."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skhep_nn.inputs.tables import TableReader
from skhep_nn.networks.losses import decorrelated
from skhep_nn.preprocessing.moments import weighted_moments
from skhep_nn.training.job import Job
from skhep_nn.utils.checks import is_number

__all__ = ["check_decorrelation", "with_decorrelation"]


def check_decorrelation(strength: Any, window: Any) -> None:
    """Raise ValueError for an invalid strength or range of the mass."""
    if not (is_number(strength) and strength >= 0):
        msg = f"decorrelation_strength={strength!r} must be a finite number of at least 0."
        raise ValueError(msg)
    if window is None:
        return
    ends = list(window) if np.iterable(window) else []
    if not (len(ends) == 2 and all(isinstance(end, Real) for end in ends) and ends[0] < ends[1]):
        msg = (
            f"decorrelation_range={window!r} must be None or two numbers, the first less than the "
            "second."
        )
        raise ValueError(msg)


def with_decorrelation(estimator: Any, reader: TableReader, job: Job) -> Job:
    """Add the mass to the targets and the penalty to the loss, if the estimator has `decorrelate`.

    Parameters
    ----------
    estimator : DenseNetClassifier
        A classifier with the parameters `decorrelate`, `decorrelation_strength`, `decorrelation_range`
        and `background_label`, and with `classes_`.
    reader : TableReader
        The estimator's reader, which finds the column of the mass.
    job : Job
        Training data of the estimator.
    """
    if estimator.decorrelate is None:
        return job
    column = reader.position(estimator.decorrelate, "decorrelate")
    if column in reader.categorical:
        label = reader.label(column)
        msg = (
            f"decorrelate={estimator.decorrelate!r}: {label} is categorical, it must hold numbers."
        )
        raise ValueError(msg)
    background = _background(estimator.classes_.tolist(), estimator.background_label)
    mass = job.rows[:, column].astype(np.float64)
    counts = np.asarray(job.target.strata) == background
    if estimator.decorrelation_range is not None:
        low, high = estimator.decorrelation_range
        counts &= (mass >= low) & (mass <= high)
    weight = job.weight * counts
    if not weight.any():
        msg = (
            f"no event of the background class {estimator.classes_.tolist()[background]!r} with a weight has "
            f"{reader.label(column)} in decorrelation_range={estimator.decorrelation_range}; widen it."
        )
        raise ValueError(msg)
    if estimator.decorrelation_strength == 0:
        return job
    values = np.column_stack([job.target.values, _scaled(mass, weight), counts])
    target = job.target._replace(
        values=values.astype(np.float32),
        loss=decorrelated(job.target.loss, float(estimator.decorrelation_strength), background),
    )
    return job._replace(target=target)


def _background(classes: list[Any], label: Any) -> int:
    """Return the code of the background class."""
    if label is None:
        return 0
    if label not in classes:
        raise ValueError(f"background_label={label!r} is not among the classes {classes}.")
    return classes.index(label)


def _scaled(mass: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scaled masses, which have the same correlations; zero for events without a weight."""
    mean, scale = weighted_moments(mass[:, None], weight)
    return np.where(weight != 0, (mass - mean[0]) / scale[0], 0.0)
