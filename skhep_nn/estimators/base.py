"""Base class of network estimators: validates and encodes data, makes folds, trains and predicts."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    clone,
    is_classifier,
)
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skhep_nn.ensemble.ensemble import Ensemble
from skhep_nn.estimators.parameters import check_owners, check_params
from skhep_nn.inputs.events import refuse_without_names
from skhep_nn.training.baseline import warn_of_nothing_learned
from skhep_nn.training.batches import n_steps
from skhep_nn.training.job import Job, Settings, Target
from skhep_nn.training.optimizers import OPTIMIZERS
from skhep_nn.training.run import Result, raise_interrupt, result_of, run
from skhep_nn.training.schedules import OneCycle
from skhep_nn.training.sklearn_callbacks import (
    CallbackSupportMixin,
    SklearnCallbacks,
    with_callbacks,
)
from skhep_nn.utils.checks import is_flag
from skhep_nn.utils.folds import Fold, have_all_classes, make_folds
from skhep_nn.utils.random import seed_of
from skhep_nn.utils.sklearn_private import check_sample_weight
from skhep_nn.utils.stored_frames import PlainState, Rebuilds, frame
from skhep_nn.utils.torch_state import (
    half_precision,
    recording_gradients,
    threads_for,
    usual_defaults,
)

__all__ = [
    "BaseNetworkEstimator",
    "EncodedData",
    "encode_target",
    "keep",
    "link_of",
    "make_job",
    "make_settings",
    "network_params",
    "planned_network",
    "predict_outputs",
    "read",
    "schedule_of",
    "strata",
    "training_weight",
]

# Number of epochs of the HiggsML study, and the optimizer steps that a fit needs if an epoch is only one or
# two steps.
_FEWEST_EPOCHS, _FEWEST_STEPS = 15, 200


class EncodedData(NamedTuple):
    """Validated data of a fit: rows encoded for the network, targets, event weights."""

    rows: Any
    target: Target
    weight: NDArray[np.float64]


class BaseNetworkEstimator(PlainState, CallbackSupportMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Fit an ensemble of networks and predict with it.

    A subclass defines how inputs become an array (`_encode_X`), how targets are encoded (`_encode_y`)
    and which network is trained (`_network`).
    """

    _rebuild: ClassVar[Rebuilds] = {"history_": frame}
    #: Word for the rows in error messages: "events", "images" or "traces".
    _called: ClassVar[str]

    # -- defined by subclasses --------------------------------------------------------------------

    @abstractmethod
    def _encode_X(self, X: Any, *, reset: bool) -> NDArray[np.float32]:
        """Validate inputs and return them encoded for the network, with one row for each sample."""

    @abstractmethod
    def _encode_y(self, y: Any, weight: NDArray[np.float64]) -> Target:
        """Validate and encode targets; sets the attributes that `predict` needs to decode them."""

    @abstractmethod
    def _network(self, n_outputs: int) -> tuple[type[nn.Module], dict[str, Any]]:
        """Return the class of the network and its arguments."""

    @abstractmethod
    def _input_state(self, X: NDArray[np.float32], weight: NDArray[np.float64]) -> dict[str, Any]:
        """Return the buffers of the input stage, such as means and scales of the training rows."""

    @abstractmethod
    def _strata(self, X: NDArray[np.float32], target: Target) -> NDArray[Any] | None:
        """Return the groups of rows that folds keep in proportion, or None."""

    @abstractmethod
    def _augmentation_frame(self, X: Any, encoded: NDArray[np.float32]) -> Any:
        """Return encoded inputs in a container with the column names that the augmenter needs."""

    def set_params(self, **params: Any) -> Self:
        """Set parameters, also nested ones (``<object>__<parameter>``) of schedules, averaging, augmenters.

        Parameters
        ----------
        **params : dict
            Parameters by name.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter does not exist, or is a parameter of an object that is None.
        """
        check_owners(self, set(params))
        super().set_params(**params)
        return self

    # -- fit --------------------------------------------------------------------------------------

    @with_callbacks  # type: ignore[untyped-decorator]
    @usual_defaults()
    @recording_gradients()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train all members.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Inputs in physical units.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            Event weights, which multiply the loss of each row (eq. 2 of arXiv:2002.01427). Their overall
            scale does not matter. Negative weights, such as those of NLO generators, are accepted if the
            total is positive.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If inputs, targets, weights or parameters are invalid.
        KeyboardInterrupt
            After Ctrl-C. The complete epochs are kept, if there are any: the estimator predicts, and a
            ConvergenceWarning says how many they are.
        """
        return self._fit(X, y, sample_weight)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        extend: Callable[[Target], Target] = lambda target: target,
    ) -> Self:
        """Train all members; `extend` may add to the encoded targets."""
        try:
            job = self._job(X, self._read(X, y, sample_weight, extend))
            result = run(job, self._settings(job), self._callbacks(X, y, sample_weight))
            self._keep(result)
        except KeyboardInterrupt:
            self._forget()
            raise
        raise_interrupt(result.net)
        warn_of_nothing_learned(result.net, job)
        return self

    def _read(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        extend: Callable[[Target], Target] = lambda target: target,
    ) -> EncodedData:
        """Validate parameters and data, and encode the data; sets the attributes that encode it at `predict`."""
        self._check_params()
        self._forget()
        if y is None:
            msg = f"{type(self).__name__} requires y to be passed, but the target y is None."
            raise ValueError(msg)
        rows = self._encode_X(X, reset=True)
        check_consistent_length(rows, y)
        weight = check_sample_weight(sample_weight, rows, dtype=np.float64)
        return EncodedData(rows, extend(self._encode_y(y, weight)), weight)

    def _job(self, X: Any, data: EncodedData) -> Job:
        """Make the folds and seeds of the members; sets the network and the augmenter."""
        rows, target = data.rows, data.target
        weight = self._training_weight(target, data.weight)
        seeds = np.random.SeedSequence(seed_of(self.random_state))
        augmenting, splitting, *members = seeds.spawn(2 + self.n_members)
        self.augmenter_ = None
        if self.augmentation is not None:
            self.augmenter_ = clone(self.augmentation)
            if not hasattr(self, "feature_names_in_"):
                refuse_without_names(self.augmenter_, type(self).__name__)
            self.augmenter_.fit(self._augmentation_frame(X, rows))
        self._network_class, self._network_params = self._network(target.n_outputs)
        self._link = target.link
        folds = make_folds(
            len(rows),
            self.n_members,
            strata=self._strata(rows, target),
            classes=target.strata,
            held_back=self.validation_fraction if self.early_stopping else None,
            seed=int(splitting.generate_state(1)[0]),
        )
        return Job(
            rows,
            weight,
            target,
            folds,
            members,
            [int(state) for state in augmenting.generate_state(self.n_members)],
            [self._input_state(rows, weight)] * self.n_members,
            have_all_classes(folds, target.strata, weight),
        )

    def _settings(self, job: Job) -> Settings:
        """Return how the job is trained."""
        device = self._device(fitting=True)
        # Not every optimizer of torch takes weight decay, and the default of AdamW is not 0.
        known = isinstance(self.optimizer, str)
        return Settings(
            network=self._network_class,
            network_params=self._network_params,
            optimizer=OPTIMIZERS[self.optimizer] if known else self.optimizer,
            optimizer_params={"optimizer__weight_decay": self.weight_decay}
            if known or self.weight_decay
            else {},
            schedule=self._schedule(),
            averaging=self.averaging,
            augmenter=self.augmenter_,
            batch_size=self.batch_size,
            n_epochs=self._n_epochs(job.folds),
            patience=self._patience(),
            monitor=getattr(self, "monitor", "loss"),
            device=device,
            autocast=self._autocast(device, fitting=True),
            capture=isinstance(self.compile, str),
            compile=is_flag(self.compile) and bool(self.compile),
            verbose=int(self.verbose),
            task="classifier" if is_classifier(self) else "regressor",
        )

    def _keep(self, result: Result) -> None:
        """Set the fitted attributes."""
        self.__dict__.update(self._fitted_attributes(result))

    def _forget(self) -> None:
        """Delete the attributes of an earlier fit, so that a fit that fails leaves no mixture of both."""
        for name in [n for n in vars(self) if n.endswith("_") and not n.startswith("__")]:
            delattr(self, name)

    def _fitted_attributes(self, result: Result) -> dict[str, Any]:
        """Return the fitted attributes."""
        ensemble = Ensemble.from_stack(
            self._network_class, self._network_params, result.state, result.weights
        )
        return {"ensemble_": ensemble, "net_": result.net, "history_": result.history}

    def _callbacks(self, X: Any, y: Any, sample_weight: Any) -> list[Any]:
        """Return copies of the user's callbacks, which `fit` must not change, and the adapter of scikit-learn's."""
        callbacks = [_copied(callback) for callback in self.callbacks or []]
        if getattr(self, "_skl_callbacks", None) or hasattr(self, "_parent_callback_ctx"):
            metadata = None if sample_weight is None else {"sample_weight": sample_weight}
            task = {"X": X, "y": y, "metadata": metadata}
            callbacks.append(
                SklearnCallbacks(self, lambda net: self._fitted_attributes(result_of(net)), task)
            )
        return callbacks

    def _training_weight(self, target: Target, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return event weights scaled so that their mean absolute value is 1."""
        if not np.isfinite(weight.sum()):
            raise ValueError("sample_weight must be finite, got NaN or infinity.")
        weight = self._balance(target, weight)
        if not weight.sum() > 0:
            msg = f"sample_weight must have a positive total, got {weight.sum()}."
            raise ValueError(msg)
        # The mean of absolute values, as positive and negative weights can almost cancel in a total.
        normalised: NDArray[np.float64] = weight / np.abs(weight).mean()
        return normalised

    def _balance(self, target: Target, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Apply `class_weight`; regressors have no such parameter."""
        del target
        return weight

    # -- predict ----------------------------------------------------------------------------------

    @usual_defaults()
    def _predict_outputs(self, X: Any, link: str | None = None) -> NDArray[np.floating[Any]]:
        """Return the mean prediction over members and views, after the link function or another one."""
        check_is_fitted(self, "ensemble_")
        views = self.augmenter_ if self.tta else None
        encoded = self._encode_X(X, reset=False)
        device = self._device(fitting=False)
        with threads_for(self.ensemble_.n_operations * len(encoded)):
            outputs: NDArray[np.floating[Any]] = self.ensemble_.predict(
                encoded,
                link=self._link if link is None else link,
                views=views,
                device=device,
                autocast=self._autocast(device, fitting=False),
            )
        return outputs

    # -- parameters -------------------------------------------------------------------------------

    def _schedule(self) -> Any:
        return OneCycle() if self.schedule is None else clone(self.schedule)

    def _n_epochs(self, folds: list[Fold]) -> int:
        """Return the number of epochs, which is higher if the rows are few."""
        if self.max_epochs is not None:
            return int(self.max_epochs)
        steps = n_steps([fold.train for fold in folds], self.batch_size)
        return max(_FEWEST_EPOCHS, -(-_FEWEST_STEPS // steps))

    def _patience(self) -> int | None:
        if is_flag(self.early_stopping):
            return 10 if self.early_stopping else None
        return int(self.early_stopping) or None

    def _device(self, *, fitting: bool) -> torch.device:
        """Return the device; prediction uses the CPU if the device of the fit is missing."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(self.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            if fitting:
                msg = f"device={self.device!r}, but torch sees no CUDA device; use device='auto'."
                raise ValueError(msg)
            return torch.device("cpu")
        return device

    def _autocast(self, device: torch.device, *, fitting: bool) -> torch.dtype | None:
        """Return the dtype of mixed precision, or None for single precision."""
        pays = getattr(self._network_class, "half_precision_pays", False)
        if self.precision == "auto":
            return half_precision(device) if pays else None
        return torch.bfloat16 if self.precision == "bfloat16" and (fitting or pays) else None

    def _check_params(self) -> None:
        check_params(self)

    def __getstate__(self) -> dict[str, Any]:
        # net_ holds optimizer, data and device tensors; ensemble_ has everything that predict needs.
        state: dict[str, Any] = super().__getstate__()
        state.pop("net_", None)
        return state


def _copied(callback: Any) -> Any:
    """Return a copy of a callback, or the callback itself if it holds files or threads."""
    try:
        return copy.deepcopy(callback)
    except (TypeError, copy.Error, RuntimeError):
        return callback


# -- steps of a fit, for the tuning wing ------------------------------------------------------------
# Functions, as methods without an underscore would belong to the public API of the estimators.


def read(estimator: BaseNetworkEstimator, X: Any, y: Any, sample_weight: Any) -> EncodedData:
    """Validate parameters and data as `fit` does, and return the encoded data."""
    return estimator._read(X, y, sample_weight)


def encode_target(estimator: BaseNetworkEstimator, y: Any, weight: NDArray[np.float64]) -> Target:
    """Return targets encoded as `fit` does for these event weights."""
    return estimator._encode_y(y, weight)


def training_weight(estimator: BaseNetworkEstimator, data: EncodedData) -> NDArray[np.float64]:
    """Return the event weights of the loss, class weights included."""
    return estimator._training_weight(data.target, data.weight)


def strata(estimator: BaseNetworkEstimator, data: EncodedData) -> NDArray[Any] | None:
    """Return the groups of rows that folds keep in proportion."""
    return estimator._strata(data.rows, data.target)


def make_job(estimator: BaseNetworkEstimator, X: Any, y: Any, sample_weight: Any) -> Job:
    """Return the job that `fit` would train."""
    return estimator._job(X, estimator._read(X, y, sample_weight))


def make_settings(estimator: BaseNetworkEstimator, job: Job) -> Settings:
    """Return the settings with which `fit` would train a job."""
    return estimator._settings(job)


def keep(estimator: BaseNetworkEstimator, result: Result) -> None:
    """Set the fitted attributes of the estimator from which a job was made."""
    estimator._keep(result)


def planned_network(
    estimator: BaseNetworkEstimator, fitted_attributes: Mapping[str, Any], n_outputs: int
) -> tuple[type[nn.Module], dict[str, Any]]:
    """Return the network class and arguments that `fit` would use on data that were read before.

    Parameters
    ----------
    estimator : network estimator
        Estimator whose parameters are checked.
    fitted_attributes : mapping
        Attributes that `read` has set on an estimator that reads the data in the same way.
    n_outputs : int
        Number of outputs.
    """
    estimator._check_params()
    for name, value in fitted_attributes.items():
        setattr(estimator, name, value)
    return estimator._network(n_outputs)


def network_params(estimator: BaseNetworkEstimator) -> dict[str, Any]:
    """Return the arguments of the network of an estimator that is fitted or has made a job."""
    return estimator._network_params


def schedule_of(estimator: BaseNetworkEstimator) -> Any:
    """Return the schedule that `fit` would use, also if the parameter is None."""
    return estimator._schedule()


def link_of(estimator: BaseNetworkEstimator) -> str:
    """Return the link function of a fitted estimator's outputs."""
    return estimator._link


def predict_outputs(estimator: BaseNetworkEstimator, X: Any) -> NDArray[np.floating[Any]]:
    """Return the mean prediction over members and views, after the link function."""
    return estimator._predict_outputs(X)
