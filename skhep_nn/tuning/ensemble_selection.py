"""Candidates of a hyper-ensemble: drawn at random, trained stacked, selected greedily, merged."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import ParameterSampler

from skhep_nn.ensemble.ensemble import Ensemble
from skhep_nn.estimators.base import (
    encode_target,
    link_of,
    predict_outputs,
    read,
    schedule_of,
    strata,
    training_weight,
)
from skhep_nn.training.member_hyperparameters import PROPORTIONAL, proportion
from skhep_nn.training.schedules import Rates
from skhep_nn.tuning.joint_fit import may_differ, train_together
from skhep_nn.utils.folds import Fold, make_folds
from skhep_nn.utils.sklearn_private import safe_indexing

__all__ = [
    "Data",
    "Judge",
    "draw_candidates",
    "merged",
    "out_of_training",
    "select",
    "stacks_of",
    "train_candidates",
]

Outputs: TypeAlias = NDArray[np.float64]

#: Key of the distributions for a factor on all learning rates of the schedule.
LR_FACTOR = "lr_factor"
# Epochs and steps for which schedules are compared; `max_epochs` replaces the epochs if it is set.
_EPOCHS, _STEPS = 15, 20
# Parameters on which predictions of a fitted estimator depend, in addition to its networks.
_AT_PREDICT = ("augmentation", "tta", "precision", "device", "categorical_features")
# Probabilities are clipped at this distance from 0 and 1, which is about the precision of float32.
_LEAST = 1e-7


class Data(NamedTuple):
    """Training data of candidates."""

    X: Any
    y: Any
    sample_weight: Any


def draw_candidates(
    estimator: Any, distributions: Any, n: int, random_state: np.random.RandomState
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Draw parameters; return them and estimators with these parameters, each with its own seed."""
    sampler = ParameterSampler(distributions, n, random_state=random_state)
    seeds = random_state.randint(np.iinfo(np.int32).max, size=n).tolist()
    with warnings.catch_warnings():
        # If there are fewer combinations than candidates, candidates with equal parameters differ in their seeds.
        warnings.filterwarnings("ignore", message="The total space of parameters")
        drawn = [dict(params) for params in sampler]
    params = [drawn[k % len(drawn)] for k in range(n)]
    return params, [_model(estimator, p, seed) for p, seed in zip(params, seeds, strict=True)]


def _model(estimator: Any, params: Mapping[str, Any], seed: int) -> Any:
    """Return an estimator with the drawn parameters."""
    own = {name: value for name, value in params.items() if name != LR_FACTOR}
    model = clone(estimator).set_params(**clone(own, safe=False), random_state=seed)
    if LR_FACTOR in params:
        schedule = schedule_of(model)
        rates = {
            name: value * params[LR_FACTOR]
            for name, value in schedule.get_params().items()
            if name.split("_")[-1] == "lr"
        }
        model.set_params(schedule=schedule.set_params(**rates))
    return model


def stacks_of(models: Sequence[Any]) -> list[list[int]]:
    """Return groups of models, by index, that can be trained stacked."""
    stacks: dict[str, list[tuple[list[Rates] | str, list[int]]]] = {}
    for index, model in enumerate(models):
        rates = _rates(model)
        of_shape = stacks.setdefault(joblib.hash(_fixed(model)), [])
        for reference, stack in of_shape:
            if _go_together(rates, reference):
                stack.append(index)
                break
        else:
            of_shape.append((rates, [index]))
    return [stack for of_shape in stacks.values() for _, stack in of_shape]


def _fixed(model: Any) -> dict[str, Any]:
    """Return the parameters that stacked models must share."""
    params: dict[str, Any] = model.get_params()
    optimizer = params["optimizer"]
    if not (isinstance(optimizer, str) or optimizer in PROPORTIONAL):
        return params | {"verbose": None}
    fixed: dict[str, Any] = {
        name: type(value).__name__ if hasattr(value, "get_params") else value
        for name, value in params.items()
        if not may_differ(name)
    }
    # Separate stacks with and without dropout, as training without dropout is faster.
    return fixed | {"dropout": bool(params.get("dropout", 0))}


def _rates(model: Any) -> list[Rates] | str:
    """Return the learning rates of a model, or a hash of its schedule if they depend on the training."""
    schedule, n_epochs = schedule_of(model), model.max_epochs or _EPOCHS
    try:
        return [schedule.rates(k, n_epochs=n_epochs, n_steps=_STEPS) for k in range(n_epochs)]
    except ValueError:
        return str(joblib.hash(schedule))


def _go_together(a: list[Rates] | str, b: list[Rates] | str) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return proportion(a, b) is not None


class Judge:
    """Chooses the validation rows of candidates, and computes the loss of predictions for them.

    Parameters
    ----------
    estimator : estimator
        Estimator that reads inputs and targets, and defines the loss.
    data : Data
        All rows.
    validation_fraction : float or None
        Fraction of the rows on which no candidate is trained; None uses the folds of the members.
    seed : int
        Seed of the choice of validation rows.

    Attributes
    ----------
    fold : Fold
        Training and validation rows of the candidates.
    """

    def __init__(
        self, estimator: Any, data: Data, validation_fraction: float | None, seed: int
    ) -> None:
        reader = clone(estimator)
        encoded = read(reader, *data)
        everything = np.arange(len(encoded.rows))
        self.fold = Fold(everything, everything)
        if validation_fraction is not None:
            (self.fold,) = make_folds(
                len(everything),
                1,
                strata=strata(reader, encoded),
                classes=encoded.target.strata,
                held_back=validation_fraction,
                seed=seed,
            )
        own_weight = training_weight(reader, encoded)[self.fold.valid]
        if not own_weight.sum() > 0:
            raise ValueError(
                f"the {len(own_weight)} validation rows of the candidates have a total weight of "
                f"{own_weight.sum():g}; use a larger validation_fraction."
            )
        # Targets are scaled as for the candidates, by the training rows.
        of_training = np.zeros(len(everything))
        of_training[self.fold.train] = encoded.weight[self.fold.train]
        target = encode_target(reader, data.y, of_training)
        self._values = torch.as_tensor(target.values[self.fold.valid], device="cpu")
        if self._values.is_floating_point():
            self._values = self._values.double()
        self._weight = torch.as_tensor(own_weight / own_weight.sum(), device="cpu")
        self.target = target
        self.classes = getattr(reader, "classes_", None)

    def loss(self, outputs: Outputs) -> float:
        """Return the weighted mean loss of predictions (outputs after the link function)."""
        raw = _before_link(torch.from_numpy(outputs), self.target.link)
        loss = float((self.target.loss.value(raw, self._values) * self._weight).sum())
        return loss if np.isfinite(loss) else np.inf


def _before_link(outputs: torch.Tensor, link: str) -> torch.Tensor:
    """Invert the link function: return logits for given probabilities."""
    if link == "sigmoid":
        return outputs.logit(eps=_LEAST)
    if link == "softmax":
        return outputs.clamp(min=_LEAST).log()
    n_before, plus, rest = link.partition("+")
    if not plus:
        return outputs
    first, last = outputs.tensor_split([int(n_before)], dim=-1)
    return torch.cat([first, _before_link(last, rest)], dim=-1)


class Trained(NamedTuple):
    """A candidate after training, with the folds of its members, and the error if it failed."""

    model: Any
    folds: list[Fold]
    error: ValueError | None


def train_candidates(models: Sequence[Any], data: Data, rows: NDArray[np.int64]) -> list[Trained]:
    """Train all candidates on some rows, stacked where possible."""
    parts = (None if part is None else safe_indexing(part, rows) for part in data)
    X, y, weight = parts
    trained: dict[int, Trained] = {}
    for stack in stacks_of(models):
        own = [models[index] for index in stack]
        outcomes = train_together(own, X, y, weight, rows=None)
        for index, model, outcome in zip(stack, own, outcomes, strict=True):
            trained[index] = Trained(model, outcome.folds, outcome.error)
    return [trained[index] for index in range(len(models))]


def out_of_training(trained: Trained, X: Any, n_outputs: int, judge: Judge, rows: Any) -> Outputs:
    """Predict rows outside the training rows; NaN for a candidate that failed.

    Predicts `rows`, or if None all rows, each by the member that is validated on it.
    """
    model = trained.model
    if trained.error is not None:
        return np.full((len(judge.fold.valid), n_outputs), np.nan)
    if judge.classes is not None and len(model.classes_) != len(judge.classes):
        missing = sorted(set(judge.classes.tolist()) - set(model.classes_.tolist()))
        msg = f"the training rows have none of the classes {missing}; remove such rare classes."
        raise ValueError(msg)
    if rows is not None:
        predicted: Outputs = predict_outputs(model, safe_indexing(X, rows)).astype(np.float64)
        return predicted
    if len(model.ensemble_) != model.n_members:
        msg = (
            f"averaging={model.averaging!r} keeps several checkpoints of a member, which the folds of members "
            "cannot validate; set validation_fraction to a number."
        )
        raise ValueError(msg)
    predicted = np.full((len(judge.fold.valid), n_outputs), np.nan)
    ensemble = model.ensemble_
    for k, fold in enumerate(trained.folds):
        one = copy.copy(model)
        states = {name: value[k : k + 1] for name, value in ensemble.states.items()}
        one.ensemble_ = Ensemble(ensemble.network, ensemble.network_params, states)
        predicted[fold.valid] = predict_outputs(one, safe_indexing(X, fold.valid))
    return predicted


def select(
    outputs: Sequence[Outputs], loss: Callable[[Outputs], float], n_picks: int
) -> tuple[list[int], list[float]]:
    """Pick candidates one by one, each time the candidate with the lowest loss of the mean prediction.

    A candidate can be picked repeatedly. Returns the picks and the loss after each pick.
    """
    usable = [k for k, own in enumerate(outputs) if np.isfinite(own).all()]
    total = np.zeros_like(outputs[0])
    picks: list[int] = []
    losses: list[float] = []
    for n in range(1, n_picks + 1):
        after = [loss((total + outputs[k]) / n) for k in usable]
        best = int(np.argmin(after))
        picks.append(usable[best])
        losses.append(after[best])
        total += outputs[usable[best]]
    return picks, losses


def merged(
    models: Mapping[int, Any], weights: NDArray[np.float64]
) -> tuple[list[Any], list[float]]:
    """Join fitted models with networks of the same shape; return the models and their weights."""
    groups: dict[str, list[int]] = {}
    for index, model in models.items():
        groups.setdefault(joblib.hash(_predicting(model)), []).append(index)
    joined = []
    for group in groups.values():
        whole = copy.copy(models[group[0]])
        whole.ensemble_ = _joined([models[k].ensemble_ for k in group], weights[group])
        del whole.history_
        joined.append(whole)
    return joined, [float(weights[group].sum()) for group in groups.values()]


def _predicting(model: Any) -> tuple[Any, ...]:
    """Return the values that must be equal for networks to predict stacked."""
    ensemble, params = model.ensemble_, model.get_params()
    own = {name: params.get(name) for name in _AT_PREDICT}
    return ensemble.network.__name__, _without_dropout(ensemble), own, link_of(model)


def _without_dropout(ensemble: Ensemble) -> dict[str, Any]:
    """Return the arguments of a network without dropout, which prediction does not use."""
    params = ensemble.network_params
    return params | {"dropout": 0.0} if "dropout" in params else params


def _joined(ensembles: Sequence[Ensemble], weights: NDArray[np.float64]) -> Ensemble:
    """Join ensembles into one, given the weight of each."""
    states = {
        name: np.concatenate([own.states[name] for own in ensembles])
        for name in ensembles[0].states
    }
    shares = [weight * own.weights for weight, own in zip(weights, ensembles, strict=True)]
    first = ensembles[0]
    return Ensemble(first.network, _without_dropout(first), states, np.concatenate(shares))
