"""Search for the best architecture by the validation losses of its members."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from numbers import Real
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.model_selection import ParameterSampler
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skhep_nn.estimators.base import BaseNetworkEstimator
from skhep_nn.estimators.parameters import check_searchable
from skhep_nn.tuning.candidates import (
    Candidate,
    Data,
    NetworkProbe,
    Outcome,
    Sieve,
    fit_candidates,
    tabulate,
    window_of,
)
from skhep_nn.tuning.proposals import METHODS, Proposals, proposals_of
from skhep_nn.utils.checks import is_count
from skhep_nn.utils.public import public
from skhep_nn.utils.random import seed_of

__all__ = ["ArchitectureSearch"]


def _delegated(name: str) -> Callable[[Any], bool]:
    """Return a check whether the best estimator, or before the fit the estimator, has a method."""

    def check(search: Any) -> bool:
        if search.refit is False:
            raise AttributeError(f"{name} needs a search with refit=True, got refit=False")
        getattr(getattr(search, "best_estimator_", search.estimator), name)
        return True

    return check


@public("skhep_nn")
class ArchitectureSearch(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """Search over architectures and regularisation of a network by its members' validation losses.

    Candidates are drawn from distributions; a candidate with a network that is too small or too large is drawn
    again. Each candidate is trained once, with `n_members` members, and each member is validated on the fold that
    it was not trained on. These folds are the cross-validation of the search; it has no `cv` parameter. The score
    of a candidate is minus the mean over members of the validation loss at the best epoch.

    Parameters
    ----------
    estimator : DenseNetClassifier, DenseNetRegressor or another network estimator
        Network with ``n_members`` of 2 or more, or with ``early_stopping``, so that there are validation losses.
        Cloned for each candidate. Transformers go before the search, in a Pipeline.
    param_distributions : dict or list of dict
        Distribution (of scipy.stats, or any object with `rvs`) or list of values for each parameter, as
        in `RandomizedSearchCV`. Parameters that change the meaning of the loss, such as `n_members`, `loss` and
        `class_weight`, cannot be searched over.
    n_iter : int, default=20
        Number of candidates.
    n_parameters : tuple of (int or None, int or None), default=None
        Smallest and largest number of free parameters of one network. None: no limit.
    method : {"random", "gaussian_process", "optuna"}, default="random"
        How candidates are chosen. "random": all at random. "gaussian_process": the first `n_initial` at random,
        the others from many random draws by the expected improvement of a Gaussian process (see
        `fit_search_model`). "optuna": by optuna's tree-structured Parzen estimator
        (``pip install 'skhep_nn[optuna]'``), which takes lists and scipy's `randint`, `uniform` and `loguniform`.
    n_per_shape : int, default=1
        Number of random candidates with the same architecture. They differ only in `weight_decay`, `dropout`,
        learning rates and `random_state`, and are trained stacked in one run (`fit_together`).
    n_initial : int, default=10
        Number of random candidates before a model chooses.
    round_size : int, default=4
        Number of candidates that the model chooses at a time, before it is fitted again.
    refit : bool or dict, default=True
        Whether to fit the best candidate again, for predictions. A dict gives further parameters for that fit,
        such as ``{"n_members": 10}``.
    error_score : "raise" or float, default=nan
        Score of a candidate whose fit fails, for example because the training diverges; such a candidate is never
        the best. "raise" raises the error.
    n_jobs : int, default=None
        Number of processes. Results do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Determines the candidates. If the `random_state` of `estimator` is None, it also determines the folds and
        starting values, which are the same for all candidates.
    verbose : int, default=0
        Passed to `joblib.Parallel`.

    Attributes
    ----------
    cv_results_ : dict of str to ndarray
        A value for each candidate, as in `RandomizedSearchCV`: `params`, `param_<name>`,
        `split<k>_test_score` of member k, `mean_test_score`, `std_test_score`, `rank_test_score`,
        `mean_fit_time` (seconds for all members; candidates trained together share the time of their run), and
        `n_parameters`.
    best_index_ : int
        Index of the best candidate in `cv_results_`.
    best_params_ : dict
        Parameters of the best candidate.
    best_score_ : float
        Mean score of the best candidate. As the best of many it is too high: expect a lower score on new data.
    best_estimator_ : estimator
        Estimator fitted to all rows with the best parameters; only with `refit`.
    refit_time_ : float
        Seconds that this fit took.
    n_splits_ : int
        Number of members.

    See Also
    --------
    skhep_nn.tuning.fit_search_model : Shows which parameters matter.
    sklearn.model_selection.RandomizedSearchCV : Uses any scorer and any folds, with a fit for each fold.

    References
    ----------
    arXiv:2002.01427, section 3.10.

    Examples
    --------
    >>> from scipy.stats import randint, uniform
    >>> from skhep_nn import ArchitectureSearch, DenseNetClassifier, make_higgs_events
    >>> events = make_higgs_events(400, random_state=0)
    >>> X = events.data[["DER_mass_vis", "PRI_tau_pt", "PRI_met"]]
    >>> network = DenseNetClassifier(n_members=2, class_weight="balanced", max_epochs=2)
    >>> space = {"depth": randint(1, 4), "width": randint(4, 30), "growth_rate": uniform(-0.2, 0.5)}
    >>> search = ArchitectureSearch(
    ...     network, space, n_iter=4, n_parameters=(100, 1000), random_state=0
    ... ).fit(X, events.target, sample_weight=events.sample_weight)
    >>> bool((search.cv_results_["n_parameters"] <= 1000).all())
    True
    >>> search.predict_proba(X).shape
    (400, 2)
    """

    def __init__(
        self,
        estimator: Any,
        param_distributions: Any,
        *,
        n_iter: int = 20,
        n_parameters: tuple[int | None, int | None] | None = None,
        method: Literal["random", "gaussian_process", "optuna"] = "random",
        n_per_shape: int = 1,
        n_initial: int = 10,
        round_size: int = 4,
        refit: Any = True,
        error_score: Any = np.nan,  # "raise" or a number
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.param_distributions = param_distributions
        self.n_iter = n_iter
        self.n_parameters = n_parameters
        self.method = method
        self.n_per_shape = n_per_shape
        self.n_initial = n_initial
        self.round_size = round_size
        self.refit = refit
        self.error_score = error_score
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train all candidates, then the best one again.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs of the estimator.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Event weights, for training and for the validation losses.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, no candidate has an allowed size, or every fit fails.
        TypeError
            If `estimator` is not a network estimator.
        """
        self._check_params()
        window = window_of(self.n_parameters)
        if y is None:
            msg = f"{type(self).__name__} requires y to be passed, but the target y is None."
            raise ValueError(msg)
        drawing, training = (
            np.random.SeedSequence(seed_of(self.random_state)).generate_state(2) >> 1
        )
        model = clone(self.estimator)
        if model.random_state is None:
            model.set_params(random_state=int(training))
        data = Data(X, y, sample_weight)
        probe = NetworkProbe(model, data)
        source = proposals_of(
            self.method,
            self.param_distributions,
            np.random.RandomState(drawing),
            n_initial=self.n_initial,
            round_size=self.round_size,
            n_per_shape=self.n_per_shape,
        )
        candidates, outcomes = self._search(model, data, source, Sieve(probe, window))
        self._keep_results(candidates, outcomes)
        if self.refit is not False:
            self._fit_best(model, data)
        return self

    def _check_params(self) -> None:
        """Check the parameters."""
        model = self.estimator
        if not isinstance(model, BaseNetworkEstimator):
            msg = (
                f"estimator={model!r} must be a network estimator such as DenseNetClassifier(); put "
                "transformers before the search: make_pipeline(CartesianMomenta(), search)"
            )
            raise TypeError(msg)
        if model.n_members < 2 and not model.early_stopping:
            msg = (
                "a network with one member that is trained on all rows has no validation loss; set "
                "n_members=3 (or early_stopping=True) in estimator"
            )
            raise ValueError(msg)
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} must be one of {METHODS}.")
        for name in ("n_iter", "n_per_shape", "n_initial", "round_size"):
            value = getattr(self, name)
            if not is_count(value):
                raise ValueError(f"{name}={value!r} must be an integer of at least 1.")
        if not any((isinstance(self.error_score, Real), self.error_score == "raise")):
            raise ValueError(f"error_score={self.error_score!r} must be 'raise' or a number.")
        if not isinstance(self.refit, bool | np.bool_ | dict):
            raise TypeError(f"refit={self.refit!r} must be True, False or a dict of parameters.")
        spaces = ParameterSampler(self.param_distributions, 1).param_distributions
        names = {name for space in spaces for name in space}
        if "n_members" in names:
            raise ValueError("n_members determines the folds of the scores: set it in estimator")
        check_searchable(model, names)

    def _search(
        self, model: Any, data: Data, source: Proposals, sieve: Sieve
    ) -> tuple[list[Candidate], list[Outcome]]:
        """Choose and fit candidates, round by round."""
        candidates: list[Candidate] = []
        outcomes: list[Outcome] = []
        while (left := self.n_iter - len(candidates)) > 0:
            tried = [candidate.params for candidate in candidates]
            scores = [-float(outcome.losses.mean()) for outcome in outcomes]
            chosen: list[Candidate] = []
            for _ in range(int(min(left, source.n_next(len(tried))))):
                pending = [candidate.params for candidate in chosen]
                found = sieve.first(source.proposals(tried, scores, pending))
                if found is None:
                    break
                chosen.append(found)
            if not chosen:
                sieve.report(len(candidates), self.n_iter)
                break
            candidates += chosen
            outcomes += self._fit_candidates(model, chosen, data)
        return candidates, outcomes

    def _fit_candidates(self, model: Any, candidates: list[Candidate], data: Data) -> list[Outcome]:
        """Fit candidates and return their outcomes."""
        return fit_candidates(
            model,
            candidates,
            data,
            n_jobs=self.n_jobs,
            verbose=self.verbose,
            error_score=self.error_score,
        )

    def _keep_results(self, candidates: list[Candidate], outcomes: list[Outcome]) -> None:
        """Set the attributes about all candidates and the best one."""
        results = tabulate(candidates, outcomes, self.error_score)
        scores = -np.array([outcome.losses.mean() for outcome in outcomes])
        failed = ~np.isfinite(scores)
        if failed.all():
            msg = (
                f"all {len(candidates)} candidates failed to train; error_score='raise' shows where. "
                f"The first was {candidates[0].params}: {outcomes[0].error}"
            )
            raise ValueError(msg)
        # A failed candidate is never the best, whatever error_score is.
        ranked = np.where(failed, -np.inf, scores)
        results["rank_test_score"] = rankdata(-ranked, method="min").astype(np.int32)
        self.cv_results_ = results
        self.n_splits_ = len(outcomes[0].losses)
        self.best_index_ = int(ranked.argmax())
        self.best_params_ = results["params"][self.best_index_]
        self.best_score_ = float(ranked[self.best_index_])

    def _fit_best(self, model: Any, data: Data) -> None:
        """Fit the best candidate to all rows."""
        further = self.refit if isinstance(self.refit, dict) else {}
        started = time.perf_counter()
        best = clone(model).set_params(**deepcopy(self.best_params_ | further))
        self.best_estimator_ = best.fit(data.X, data.y, sample_weight=data.sample_weight)
        self.refit_time_ = time.perf_counter() - started

    def _fitted(self, method: str) -> Any:
        """Return a method of the best estimator."""
        check_is_fitted(self, "best_estimator_")
        return getattr(self.best_estimator_, method)

    @available_if(_delegated("predict"))  # type: ignore[untyped-decorator]
    def predict(self, X: Any) -> NDArray[Any]:
        """Predict with the best candidate.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            Labels or targets.
        """
        return np.asarray(self._fitted("predict")(X))

    @available_if(_delegated("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of every class, predicted by the best candidate.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`.
        """
        return np.asarray(self._fitted("predict_proba")(X))

    @available_if(_delegated("predict_log_proba"))  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the logarithm of the probability of every class, predicted by the best candidate.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        return np.asarray(self._fitted("predict_log_proba")(X))

    @available_if(_delegated("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the logit of the probability, computed by the best candidate.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            As `decision_function` of the estimator.
        """
        return np.asarray(self._fitted("decision_function")(X))

    @available_if(_delegated("score"))  # type: ignore[untyped-decorator]
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the score of the best candidate: accuracy or R2, not the score of the search.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Event weights.

        Returns
        -------
        float
            Score; higher is better.
        """
        return float(self._fitted("score")(X, y, sample_weight=sample_weight))

    @property
    def classes_(self) -> NDArray[Any]:
        """Class labels, if the estimator is a classifier."""
        return np.asarray(self._fitted("classes_"))

    @property
    def n_features_in_(self) -> int:
        """Number of features seen by the estimator."""
        return int(self._fitted("n_features_in_"))

    @property
    def feature_names_in_(self) -> NDArray[np.object_]:
        """Names of features, if the estimator has seen any."""
        return np.asarray(self._fitted("feature_names_in_"))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        for kind in ("classifier_tags", "regressor_tags", "target_tags", "input_tags"):
            setattr(tags, kind, deepcopy(getattr(inner, kind)))
        tags.estimator_type, tags.non_deterministic = inner.estimator_type, inner.non_deterministic
        return tags
