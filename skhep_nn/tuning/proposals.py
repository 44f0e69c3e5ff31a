"""Choice of the next candidates of a search: random draws, or by a model of the scores so far."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import Any

import numpy as np
from sklearn.model_selection import ParameterSampler

from skhep_nn.tuning.axes import FEWEST_CANDIDATES, PARAM_PREFIX
from skhep_nn.tuning.joint_fit import may_differ
from skhep_nn.tuning.surrogate import SearchModel, fit_search_model, with_expected_scores

__all__ = ["METHODS", "Params", "Proposals", "proposals_of"]

Params = dict[str, Any]

METHODS = ("random", "gaussian_process", "optuna")
_N_POOL = 1000
# Number of draws for another candidate of a shape. If all are refused, lists of values have no new combination.
_N_VARIATIONS = 50


class Proposals(ABC):
    """Source of candidates.

    Parameters
    ----------
    n_initial : int or infinity, default=infinity
        Number of candidates that are chosen without scores.
    round_size : int, default=1
        Number of further candidates that are chosen at a time, by the same scores.
    """

    def __init__(self, n_initial: float = math.inf, round_size: int = 1) -> None:
        self.n_initial = n_initial
        self.round_size = round_size

    def n_next(self, n_tried: int) -> float:
        """Return how many candidates to choose before their scores are needed."""
        return self.round_size if n_tried >= self.n_initial else self.n_initial - n_tried

    @abstractmethod
    def proposals(
        self, tried: Sequence[Params], scores: Sequence[float], pending: Sequence[Params]
    ) -> Iterator[Params]:
        """Yield proposals endlessly, the most promising first; a request for another rejects the previous one.

        `pending` are the candidates that are chosen but not yet fitted.
        """


class _Random(Proposals):
    """Independent draws from the distributions."""

    def __init__(
        self, distributions: Any, rng: np.random.RandomState, n_per_shape: int = 1
    ) -> None:
        super().__init__()
        self.distributions = distributions
        self.rng = rng
        self.n_per_shape = n_per_shape

    def proposals(
        self, tried: Sequence[Params], scores: Sequence[float], pending: Sequence[Params]
    ) -> Iterator[Params]:
        """Yield draws, as variations of the latest shape while it has too few candidates."""
        del tried, scores
        if pending:
            shape = _shape(pending[-1])
            latest = takewhile(lambda params: _shape(params) == shape, reversed(pending))
            if len(list(latest)) < self.n_per_shape:
                for _ in range(_N_VARIATIONS):
                    other = self._draw()
                    yield pending[-1] | {k: v for k, v in other.items() if k not in shape}
        while True:
            yield self._draw()

    def _draw(self) -> Params:
        """Return one draw."""
        (params,) = ParameterSampler(self.distributions, 1, random_state=self.rng)
        return dict(params)


class _GaussianProcess(Proposals):
    """Random draws at first, then the draws with the largest expected improvement among many."""

    def __init__(
        self, distributions: Any, rng: np.random.RandomState, n_initial: int, round_size: int
    ) -> None:
        super().__init__(n_initial, round_size)
        self.random = _Random(distributions, rng)
        self.rng = rng
        self._latest: tuple[int, SearchModel | None] = (0, None)

    def proposals(
        self, tried: Sequence[Params], scores: Sequence[float], pending: Sequence[Params]
    ) -> Iterator[Params]:
        """Yield draws, ranked by the model as soon as there are enough scores."""
        random = self.random.proposals([], [], [])
        usable = np.isfinite(scores)
        if len(tried) >= self.n_initial and usable.sum() >= FEWEST_CANDIDATES:
            model = self._model_of(tried, scores)
            if pending:
                # Otherwise all candidates of one round, which are fitted together, would be alike.
                model = with_expected_scores(model, pending)
            pool = list(islice(random, _N_POOL))
            for index in np.argsort(-model.expected_improvement(pool), kind="stable"):
                yield pool[index]
        yield from random

    def _model_of(self, tried: Sequence[Params], scores: Sequence[float]) -> SearchModel:
        """Return the model of all scores so far, fitted once per round."""
        n_tried, model = self._latest
        if model is None or n_tried != len(tried):
            names = list(tried[0])
            results: dict[str, Any] = {
                PARAM_PREFIX + name: [params[name] for params in tried] for name in names
            }
            results["mean_test_score"] = scores
            seed = int(self.rng.randint(2**31 - 1))
            model = fit_search_model(results, parameters=names, n_restarts=1, random_state=seed)
            self._latest = len(tried), model
        return model


class _Optuna(Proposals):
    """Proposals of optuna's tree-structured Parzen estimator, through its ask-and-tell interface."""

    def __init__(
        self, distributions: Any, rng: np.random.RandomState, n_initial: int, round_size: int
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            msg = "optuna is needed for method='optuna': pip install 'skhep_nn[optuna]'"
            raise ImportError(msg) from error
        super().__init__(n_initial, round_size)
        self.optuna = optuna
        self.lists = {k: list(v) for k, v in distributions.items() if not hasattr(v, "rvs")}
        self.spaces = {name: self._space(name, given) for name, given in distributions.items()}
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=n_initial, seed=int(rng.randint(2**31 - 1))
        )
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # not to announce a study
        try:
            self.study = optuna.study.create_study(direction="maximize", sampler=sampler)
        finally:
            optuna.logging.set_verbosity(verbosity)
        self.asked: list[Any] = []
        self.n_told = 0

    def _space(self, name: str, given: Any) -> Any:
        """Return the distribution of optuna that equals a distribution of scipy or a list."""
        kinds = self.optuna.distributions
        if name in self.lists:
            # Positions in the list, since optuna takes only plain values.
            return kinds.CategoricalDistribution(range(len(self.lists[name])))
        kind = getattr(getattr(given, "dist", None), "name", type(given).__name__)
        low, high = given.support()
        if kind == "randint":
            return kinds.IntDistribution(int(low), int(high))
        if kind in ("uniform", "loguniform", "reciprocal"):
            return kinds.FloatDistribution(float(low), float(high), log=kind != "uniform")
        msg = (
            f"the distribution of {name!r}, {kind}, has no counterpart in optuna; use a list, or scipy's "
            "randint, uniform or loguniform"
        )
        raise ValueError(msg)

    def proposals(
        self, tried: Sequence[Params], scores: Sequence[float], pending: Sequence[Params]
    ) -> Iterator[Params]:
        """Yield the trials of optuna."""
        del tried, pending  # optuna keeps its trials itself
        # optuna counts pruned trials as worse than all others, but ignores failed ones.
        refused = self.optuna.trial.TrialState.PRUNED
        for trial, score in zip(self.asked[self.n_told :], scores[self.n_told :], strict=False):
            if np.isfinite(score):
                self.study.tell(trial, float(score))
            else:
                self.study.tell(trial, state=refused)
        self.n_told = len(scores)
        while True:
            trial = self.study.ask(self.spaces)
            self.asked.append(trial)
            yield {
                name: self.lists[name][value] if name in self.lists else value
                for name, value in trial.params.items()
            }
            self.asked.remove(trial)
            self.study.tell(trial, state=refused)


def proposals_of(
    method: str,
    distributions: Any,
    rng: np.random.RandomState,
    *,
    n_initial: int,
    round_size: int,
    n_per_shape: int,
) -> Proposals:
    """Return the source of candidates for a method."""
    if method == "random":
        return _Random(distributions, rng, n_per_shape)
    if not isinstance(distributions, Mapping):
        msg = f"method={method!r} needs one dict of distributions; only 'random' takes a list of dicts"
        raise TypeError(msg)
    kind = _Optuna if method == "optuna" else _GaussianProcess
    return kind(distributions, rng, n_initial, round_size)


def _shape(params: Params) -> Params:
    """Return the parameters that must be the same for candidates trained in one run."""
    return {name: value for name, value in params.items() if not may_differ(name)}
