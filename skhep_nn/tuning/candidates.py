"""Candidates of an architecture search: sizes of their networks, and their validation losses."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.utils.parallel import Parallel, delayed

from skhep_nn.estimators.base import planned_network, read
from skhep_nn.tuning.ensemble_selection import Data, stacks_of
from skhep_nn.tuning.joint_fit import train_together

__all__ = [
    "Candidate",
    "Data",
    "NetworkProbe",
    "Outcome",
    "Sieve",
    "fit_candidates",
    "tabulate",
    "window_of",
]

# Number of consecutive proposals that may be refused before a search ends.
_PATIENCE = 1000

_FAILURES = (ValueError, ArithmeticError, RuntimeError)


class Candidate(NamedTuple):
    """Parameters of a candidate and the number of free parameters of its network."""

    params: dict[str, Any]
    n_parameters: int


class Outcome(NamedTuple):
    """Result of the fit of a candidate: validation loss of each member, and duration.

    A fit that failed has losses of NaN and an error.
    """

    losses: NDArray[np.float64]
    seconds: float
    error: str = "the validation loss is NaN"


class NetworkProbe:
    """Builds the networks of candidates as `fit` would, without allocating memory or training.

    Inputs are read once, as `fit` reads them.
    """

    def __init__(self, estimator: Any, data: Data) -> None:
        self.estimator = estimator
        probe = clone(estimator)
        self.n_outputs = read(probe, *data).target.n_outputs
        own = set(probe.get_params(deep=False))
        self.fitted_attributes = {k: v for k, v in vars(probe).items() if k not in own}

    def candidate(self, params: Mapping[str, Any]) -> Candidate:
        """Return a candidate; raises ValueError if its parameters describe no network."""
        model = clone(self.estimator).set_params(**clone(dict(params), safe=False))
        network_class, arguments = planned_network(model, self.fitted_attributes, self.n_outputs)
        with torch.device("meta"):
            network = network_class(**arguments)
        n_parameters = sum(p.numel() for p in network.parameters())
        return Candidate(dict(params), n_parameters)


def window_of(n_parameters: Any) -> tuple[float, float]:
    """Return the smallest and the largest allowed number of free parameters."""
    try:
        low, high = (None, None) if n_parameters is None else n_parameters
        window = (0.0 if low is None else float(low), np.inf if high is None else float(high))
    except (TypeError, ValueError):
        window = (1.0, 0.0)
    if not 0 <= window[0] <= window[1]:
        msg = f"n_parameters={n_parameters!r} must be the smallest and the largest allowed number."
        raise ValueError(msg)
    return window


class Sieve:
    """Selects candidates that are new and of an allowed size.

    Parameters
    ----------
    probe : NetworkProbe
        Builds the networks of candidates.
    window : tuple of float
        Smallest and largest number of free parameters.
    """

    def __init__(self, probe: NetworkProbe, window: tuple[float, float]) -> None:
        self.probe = probe
        self.window = window
        self._seen: set[str] = set()
        self._sizes: list[int] = []
        self._why = ""

    def first(self, proposals: Any) -> Candidate | None:
        """Return the first proposal that is selected, or None after `_PATIENCE` refusals."""
        for params in islice(proposals, _PATIENCE):
            candidate = self._selected(params)
            if candidate is not None:
                self._seen.add(_key(params))
                return candidate
        return None

    def _selected(self, params: dict[str, Any]) -> Candidate | None:
        """Return the candidate if it is new and of an allowed size, else None."""
        if _key(params) in self._seen:
            return None
        try:
            candidate = self.probe.candidate(params)
        except ValueError as error:
            self._why = str(error)
            return None
        self._sizes.append(candidate.n_parameters)
        low, high = self.window
        return candidate if low <= candidate.n_parameters <= high else None

    def report(self, n_found: int, n_wanted: int) -> None:
        """Warn that there are fewer candidates than wanted; raise ValueError if there are none."""
        low, high = self.window
        allowed = "" if self.window == (0.0, np.inf) else f" of {low:.0f} to {high:.0f} parameters"
        if n_found:
            msg = (
                f"only {n_found} of {n_wanted} candidates: {_PATIENCE} draws gave no other{allowed}"
            )
            warnings.warn(msg, UserWarning, stacklevel=4)
            return
        msg = f"{_PATIENCE} draws gave no network"
        if self._sizes:
            msg += (
                f"{allowed}, but of {min(self._sizes)} to {max(self._sizes)}; change n_parameters or "
                "param_distributions"
            )
        else:
            msg += f" that can be built: {self._why}"
        raise ValueError(msg)


def _key(params: dict[str, Any]) -> str:
    """Return a text that identifies a set of parameters."""
    return repr(sorted((name, repr(value)) for name, value in params.items()))


def fit_candidates(
    estimator: Any,
    candidates: Sequence[Candidate],
    data: Data,
    *,
    n_jobs: int | None,
    verbose: int,
    error_score: float | str,
) -> list[Outcome]:
    """Fit all candidates, stacked where possible, and return their outcomes."""
    models = [
        clone(estimator).set_params(**clone(candidate.params, safe=False))
        for candidate in candidates
    ]
    groups = [part for group in stacks_of(models) for part in _parts(group, models[group[0]])]
    # The largest first, so that no process starts a large one at the end.
    groups.sort(key=lambda group: -len(group) * candidates[group[0]].n_parameters)
    fitted = Parallel(n_jobs=n_jobs, verbose=verbose)(
        delayed(_fit_group)([models[index] for index in group], data, error_score)
        for group in groups
    )
    outcomes = dict(zip(chain(*groups), chain(*fitted), strict=True))
    return [outcomes[index] for index in range(len(candidates))]


def _parts(group: list[int], model: Any) -> list[list[int]]:
    """Return a group, or its models one by one if the history does not show their best epochs."""
    by_loss = getattr(model, "monitor", "loss") == "loss"
    averaged = getattr(model, "averaging", None) is not None
    whole = by_loss and not (averaged or model.callbacks or model.early_stopping)
    return [group] if whole else [[index] for index in group]


def _fit_group(models: Sequence[Any], data: Data, error_score: float | str) -> list[Outcome]:
    """Fit models stacked, if there are several."""
    if len(models) == 1:
        return [_fit(models[0], data, error_score)]
    started = time.perf_counter()
    try:
        all_trained = train_together(models, data.X, data.y, data.sample_weight, rows=None)
    except _FAILURES:
        # Fit the models one by one, so that only the failing one gets the error.
        return [_fit(model, data, error_score) for model in models]
    seconds = (time.perf_counter() - started) / len(models)
    outcomes = []
    for model, trained in zip(models, all_trained, strict=True):
        if trained.error is None:
            outcomes.append(Outcome(_losses(model), seconds))
        else:
            outcomes.append(_failed(model, trained.error, seconds, error_score))
    return outcomes


def _losses(model: Any) -> NDArray[np.float64]:
    """Return the validation loss of each member's best epoch, NaN for a member without a finite loss."""
    if hasattr(model, "net_"):
        losses = np.asarray(model.net_.best_.loss, dtype=float)
        return np.where(np.isfinite(losses), losses, np.nan)
    least = model.history_.groupby("member")["valid_loss"].min()
    return np.asarray(least, dtype=float)


def _failed(model: Any, error: Exception, seconds: float, error_score: float | str) -> Outcome:
    """Return the outcome of a failed fit and warn, or raise the error if `error_score` is "raise"."""
    if isinstance(error_score, str):
        raise error
    text = f"a candidate could not be fitted, its score is {error_score}: {error}\n{model}"
    warnings.warn(text, FitFailedWarning, stacklevel=2)
    return Outcome(np.full(model.n_members, np.nan), seconds, str(error))


def _fit(model: Any, data: Data, error_score: float | str) -> Outcome:
    """Fit a single model."""
    started = time.perf_counter()
    try:
        model.fit(data.X, data.y, sample_weight=data.sample_weight)
    except _FAILURES as error:
        return _failed(model, error, time.perf_counter() - started, error_score)
    return Outcome(_losses(model), time.perf_counter() - started)


def tabulate(
    candidates: Sequence[Candidate], outcomes: Sequence[Outcome], error_score: float | str
) -> dict[str, Any]:
    """Return parameters and outcomes of candidates, as the ``cv_results_`` of scikit-learn's searches."""
    scores = -np.array([outcome.losses for outcome in outcomes])
    if not isinstance(error_score, str):
        scores[~np.isfinite(scores.mean(axis=1))] = error_score
    params = [candidate.params for candidate in candidates]
    results: dict[str, Any] = {
        "mean_fit_time": np.array([outcome.seconds for outcome in outcomes]),
        "n_parameters": np.array([candidate.n_parameters for candidate in candidates]),
        "params": params,
    }
    for name in dict.fromkeys(name for own in params for name in own):
        results[f"param_{name}"] = _masked(name, params)
    for k, column in enumerate(scores.T):
        results[f"split{k}_test_score"] = column
    return results | {
        "mean_test_score": scores.mean(axis=1),
        "std_test_score": scores.std(axis=1),
    }


def _masked(name: str, params: list[dict[str, Any]]) -> np.ma.MaskedArray[Any, Any]:
    """Return the values of a parameter, masked for candidates without it."""
    given = np.array([name in own for own in params])
    values = [own[name] for own in params if name in own]
    is_number = all(isinstance(value, Real | np.bool_) for value in values)
    dtype = np.asarray(values).dtype if is_number else np.dtype(object)
    column = np.ma.MaskedArray(np.empty(len(params), dtype=dtype), mask=True)
    for index, value in zip(np.flatnonzero(given), values, strict=True):
        column[index] = value
    return column
