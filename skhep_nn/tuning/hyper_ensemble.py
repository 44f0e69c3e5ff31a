"""Ensembles of networks with different hyperparameters, selected on validation rows."""

from __future__ import annotations

from copy import deepcopy
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import loguniform
from sklearn.base import (
    BaseEstimator,
    MetaEstimatorMixin,
    RegressorMixin,
    is_classifier,
)
from sklearn.model_selection import ParameterSampler
from sklearn.utils import get_tags, indexable
from sklearn.utils.validation import check_is_fitted

from skhep_nn.ensemble.ensemble import Ensemble
from skhep_nn.estimators.base import BaseNetworkEstimator
from skhep_nn.estimators.parameters import check_searchable
from skhep_nn.estimators.targets import ProbabilityClassifier, log_probabilities
from skhep_nn.tuning.ensemble_selection import (
    LR_FACTOR,
    Data,
    Judge,
    Trained,
    draw_candidates,
    merged,
    out_of_training,
    select,
    train_candidates,
)
from skhep_nn.utils.checks import is_count
from skhep_nn.utils.log_probabilities import log_mean
from skhep_nn.utils.public import public
from skhep_nn.utils.random import seed_of
from skhep_nn.utils.sklearn_private import num_samples
from skhep_nn.utils.stored_frames import PlainState, Rebuilds, frame

__all__ = ["HyperEnsembleClassifier", "HyperEnsembleRegressor"]

Probabilities = NDArray[np.float64]


class _HyperEnsemble(PlainState, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the classifier and the regressor: candidates, their selection, the weighted mean."""

    _rebuild: ClassVar[Rebuilds] = {"candidates_": frame, "selection_": frame, "history_": frame}

    def __init__(
        self,
        estimator: Any,
        param_distributions: Any = None,
        *,
        n_candidates: int = 30,
        n_selected: int = 10,
        validation_fraction: float | None = 0.2,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.param_distributions = param_distributions
        self.n_candidates = n_candidates
        self.n_selected = n_selected
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train all candidates and select from them.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs of the estimator.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Event weights, for training and for the validation loss.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, or all candidates diverge.
        TypeError
            If `estimator` is not a network estimator.
        """
        distributions = self._check_params()
        for name in [n for n in vars(self) if n.endswith("_") and not n.startswith("__")]:
            delattr(self, name)
        seeds = np.random.SeedSequence(seed_of(self.random_state)).generate_state(2) >> 1
        drawing, splitting = seeds.tolist()
        if isinstance(sample_weight, Real):
            sample_weight = np.full(num_samples(X), float(sample_weight))
        data = Data(X, y, sample_weight)
        judge = Judge(self.estimator, data, self.validation_fraction, splitting)
        data = Data(*indexable(*data))
        random = np.random.RandomState(drawing)
        params, models = draw_candidates(self.estimator, distributions, self.n_candidates, random)
        trained = train_candidates(models, data, judge.fold.train)
        rows = None if self.validation_fraction is None else judge.fold.valid
        n_outputs = judge.target.n_outputs
        outputs = [out_of_training(t, data.X, n_outputs, judge, rows) for t in trained]
        losses = np.array([judge.loss(own) for own in outputs])
        if not np.isfinite(losses).any():
            msg = "all candidates diverged; lower the learning rates or look for outliers."
            raise ValueError(msg) from trained[0].error
        picks, after = select(outputs, judge.loss, self.n_selected)
        self._keep(params, losses, trained, picks)
        self.selection_ = pd.DataFrame({"candidate": picks, "valid_loss": after})
        return self

    def _check_params(self) -> Any:
        """Check the parameters and return the distributions."""
        model = self.estimator
        is_network = isinstance(model, BaseNetworkEstimator)
        if not is_network or is_classifier(model) != is_classifier(self):
            kind = "Classifier" if is_classifier(self) else "Regressor"
            msg = (
                f"estimator={model!r} must be a network estimator such as DenseNet{kind}(); put "
                "transformers before the ensemble: make_pipeline(CartesianMomenta(), ...)"
            )
            raise TypeError(msg)
        for name in ("n_candidates", "n_selected"):
            value = getattr(self, name)
            if not is_count(value):
                raise ValueError(f"{name}={value!r} must be an integer of at least 1.")
        fraction: Any = self.validation_fraction
        if fraction is None and model.n_members < 2:
            msg = (
                "validation_fraction=None validates candidates on the folds of their members: give the "
                "estimator n_members of 2 or more, or set validation_fraction to a number."
            )
            raise ValueError(msg)
        if fraction is not None and not (isinstance(fraction, Real) and 0 < float(fraction) < 1):
            msg = f"validation_fraction={fraction!r} must lie between 0 and 1, or be None."
            raise ValueError(msg)
        distributions = self.param_distributions
        if distributions is None:
            distributions = {
                LR_FACTOR: loguniform(0.2, 2.0),
                "weight_decay": loguniform(1e-7, 1e-4),
            }
        spaces = ParameterSampler(distributions, 1).param_distributions
        names = {name for space in spaces for name in space}
        check_searchable(model, names - {LR_FACTOR})
        fixed = sorted(names & {"n_members", "random_state", "callbacks", "class_weight", "loss"})
        if fixed:
            raise ValueError(f"param_distributions names {fixed}: set these in estimator.")
        return distributions

    def _keep(
        self,
        params: list[dict[str, Any]],
        losses: NDArray[np.float64],
        trained: list[Trained],
        picks: list[int],
    ) -> None:
        """Set the attributes about all candidates, and keep the networks of the picked candidates."""
        times = np.bincount(picks, minlength=len(params))
        self.weights_ = times / len(picks)
        table = pd.DataFrame(params)
        table["valid_loss"] = losses
        self.candidates_ = table.assign(n_picked=times)
        fitted = {k: t.model for k, t in enumerate(trained) if t.error is None}
        self.history_ = pd.concat(
            [model.history_.assign(candidate=k) for k, model in fitted.items()], ignore_index=True
        )
        picked = {k: model for k, model in fitted.items() if times[k]}
        self.models_, self.model_weights_ = merged(picked, self.weights_)

    def _mean(self, method: str, X: Any) -> NDArray[Any]:
        """Return the weighted mean of a method's results over the models."""
        check_is_fitted(self, "models_")
        pairs = zip(self.model_weights_, self.models_, strict=True)
        mean: NDArray[Any] = sum(weight * getattr(model, method)(X) for weight, model in pairs)
        return mean

    @property
    def ensembles_(self) -> list[Ensemble]:
        """Networks used for predictions: one ensemble for each picked shape or activation."""
        check_is_fitted(self, "models_")
        return [model.ensemble_ for model in self.models_]

    @property
    def n_features_in_(self) -> int:
        """Number of features seen by the estimator."""
        check_is_fitted(self, "models_")
        return int(self.models_[0].n_features_in_)

    @property
    def feature_names_in_(self) -> NDArray[np.object_]:
        """Names of features, if the estimator has seen any."""
        check_is_fitted(self, "models_")
        return np.asarray(self.models_[0].feature_names_in_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        for name in ("classifier_tags", "regressor_tags", "target_tags", "input_tags"):
            setattr(tags, name, deepcopy(getattr(inner, name)))
        tags.non_deterministic = inner.non_deterministic
        return tags


@public("skhep_nn")
class HyperEnsembleClassifier(ProbabilityClassifier, _HyperEnsemble):
    """Ensemble of networks that differ in learning rate, weight decay, dropout, activation, ...

    Candidates are drawn from distributions and trained on the same rows, stacked in as few runs as possible.
    The ensemble is then built greedily: each step adds the candidate that gives the mean prediction the lowest
    loss on common validation rows; a candidate may be added several times. Predictions are the mean over the
    picked candidates.

    Parameters
    ----------
    estimator : DenseNetClassifier, CaloCNNClassifier or WaveformClassifier
        Cloned for each candidate. Transformers go before the ensemble, in a Pipeline.
    param_distributions : dict or list of dict, default=None
        Distribution (of scipy.stats, or any object with `rvs`) or list of values for each parameter, as
        in `RandomizedSearchCV`. Besides the parameters of the estimator there is ``"lr_factor"``, which
        multiplies all learning rates of its schedule. None:
        ``{"lr_factor": loguniform(0.2, 2), "weight_decay": loguniform(1e-7, 1e-4)}``.
    n_candidates : int, default=30
        Number of candidates. If lists of values have fewer combinations, combinations are used again with
        other seeds.
    n_selected : int, default=10
        Number of picks; a candidate can be picked several times.
    validation_fraction : float or None, default=0.2
        Fraction of the rows that no candidate is trained on. None: every row is predicted by the member
        that is validated on it, which needs an estimator with two or more members; a picked candidate then
        contributes all its members.
    random_state : int, RandomState instance or None, default=None
        Determines the candidates, their seeds, and the validation rows.

    Attributes
    ----------
    candidates_ : DataFrame
        A row for each candidate: its parameters, `valid_loss` (infinite if it diverged), `n_picked`.
    selection_ : DataFrame
        A row for each pick: `candidate`, and `valid_loss` of the mean so far.
    weights_ : ndarray of shape (n_candidates,)
        Weights of the candidates; they sum to one.
    models_, model_weights_ : list of estimators, list of float
        Estimators used for predictions, and their weights. Networks of one shape are joined in one
        estimator, which has no history.
    ensembles_ : list of Ensemble
        Networks of these estimators.
    history_ : DataFrame
        Histories of all candidates, with a column `candidate`.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Number and names of the features seen by the estimator.

    See Also
    --------
    fit_together : Trains several estimators in one run.

    Notes
    -----
    - Candidates are trained in one run if they differ only in proportional learning rates (as with
      `lr_factor`), in `weight_decay` and in `dropout`. Zero and non-zero values of the last two need
      different runs, as do different values of any other parameter, such as `activation`.
    - The validation loss is the loss of training with event and class weights, without penalties such as
      the penalty of `decorrelate`.
    - Candidates are selected by this loss, so that it is too low: expect a higher loss on new data.

    References
    ----------
    Caruana et al., Ensemble selection from libraries of models, ICML 2004; arXiv:2607.05380 (TabPack).

    Examples
    --------
    >>> from skhep_nn import DenseNetClassifier, make_higgs_events
    >>> from skhep_nn import HyperEnsembleClassifier
    >>> events = make_higgs_events(400, random_state=0)
    >>> X = events.data[["DER_mass_vis", "PRI_tau_pt", "PRI_met"]]
    >>> network = DenseNetClassifier(depth=2, max_epochs=3, class_weight="balanced")
    >>> space = {"lr_factor": [0.3, 1.0, 3.0], "weight_decay": [0.0, 1e-3]}
    >>> model = HyperEnsembleClassifier(
    ...     network, space, n_candidates=6, n_selected=4, random_state=0
    ... ).fit(X, events.target, sample_weight=events.sample_weight)
    >>> int(model.candidates_["n_picked"].sum()), model.predict_proba(X).shape
    (4, (400, 2))
    """

    @property
    def classes_(self) -> NDArray[Any]:
        """Class labels."""
        check_is_fitted(self, "models_")
        return np.asarray(self.models_[0].classes_)

    def predict_proba(self, X: Any) -> Probabilities:
        """Return the probability of every class.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`: the weighted mean over the picked candidates.
        """
        return self._mean("predict_proba", X)

    def _log_probabilities(self, X: Any) -> Probabilities:
        """Return the logarithm of the weighted mean of the models' probabilities."""
        check_is_fitted(self, "models_")
        logs = [log_probabilities(model, X) for model in self.models_]
        return log_mean(logs, self.model_weights_)


@public("skhep_nn")
class HyperEnsembleRegressor(RegressorMixin, _HyperEnsemble):  # type: ignore[misc]
    """Ensemble of networks that differ in learning rate, weight decay, ... for continuous targets.

    Candidates are selected as in `HyperEnsembleClassifier`.

    Parameters
    ----------
    estimator : DenseNetRegressor, CaloCNNRegressor or WaveformRegressor
        Cloned for each candidate.
    param_distributions, n_candidates, n_selected, validation_fraction, random_state
        As in `HyperEnsembleClassifier`.

    Attributes
    ----------
    candidates_, selection_, weights_, models_, model_weights_, ensembles_, history_
        As in `HyperEnsembleClassifier`. Losses are in units of the scaled targets.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Number and names of the features seen by the estimator.

    References
    ----------
    Caruana et al., Ensemble selection from libraries of models, ICML 2004; arXiv:2607.05380 (TabPack).

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn import DenseNetRegressor
    >>> from skhep_nn import HyperEnsembleRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 3))
    >>> network = DenseNetRegressor(depth=2, max_epochs=20)
    >>> model = HyperEnsembleRegressor(network, n_candidates=4, n_selected=3, random_state=0)
    >>> model.fit(X, X[:, 0] * X[:, 1]).predict(X).shape
    (300,)
    """

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Predict the targets.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            Predictions in the units of `y`.
        """
        return self._mean("predict", X)
