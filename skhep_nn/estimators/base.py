"""Abstract estimators: validate, encode, split folds, train, predict. Nothing domain-specific."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    clone,
    is_classifier,
)
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import nn

from skhep_nn.ensemble.ensemble import Ensemble
from skhep_nn.estimators.parameters import check_owners, check_params
from skhep_nn.networks.stacks import operations_of, separate_members, stack_networks
from skhep_nn.training._outcome import history_frame, member_weights
from skhep_nn.training.batches import n_steps
from skhep_nn.training.checkpoints import Kept
from skhep_nn.training.job import Job, Target
from skhep_nn.training.net import MemberNet
from skhep_nn.training.optimizers import OPTIMIZERS
from skhep_nn.training.schedules import OneCycle
from skhep_nn.training.sklearn_callbacks import (
    CallbackSupportMixin,
    SklearnCallbacks,
    with_callbacks,
)
from skhep_nn.utils.checks import is_flag
from skhep_nn.utils.folds import Fold, make_folds
from skhep_nn.utils.random import seed_of
from skhep_nn.utils.stored_frames import PlainState, Rebuilds, frame
from skhep_nn.utils.torch_state import half_precision, recording_gradients, tensor_of, threads_for

__all__ = ["BaseNetworkEstimator"]

# The study's number of passes, and what it takes to fit anything at all when a pass is a step or two.
_FEWEST_EPOCHS, _FEWEST_STEPS = 15, 200
# Of the free memory of a GPU that rows may take; more of them stay on the host and are brought batch by
# batch. The rest is for networks, batches and their gradients.
_DEVICE_SHARE = 0.7


class BaseNetworkEstimator(PlainState, CallbackSupportMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Fit an ensemble of networks and predict with it.

    Subclasses say how inputs become an array (`_encode_X`), what the targets are (`_encode_y`) and
    which network is meant (`_network`).
    """

    _rebuild: ClassVar[Rebuilds] = {"history_": frame}

    # -- what a subclass says ---------------------------------------------------------------------

    @abstractmethod
    def _encode_X(self, X: Any, *, reset: bool) -> NDArray[np.float32]:
        """Validate inputs and return what the network reads, rows first."""

    @abstractmethod
    def _encode_y(self, y: Any, weight: NDArray[np.float64]) -> Target:
        """Validate targets, set what predict needs of them and return them encoded."""

    @abstractmethod
    def _network(self, n_outputs: int) -> tuple[type[nn.Module], dict[str, Any]]:
        """Return the class of the network and its arguments."""

    @abstractmethod
    def _input_state(self, X: NDArray[np.float32], weight: NDArray[np.float64]) -> dict[str, Any]:
        """Return the buffers of the network that are found on the training data."""

    @abstractmethod
    def _strata(self, X: NDArray[np.float32], target: Target) -> NDArray[Any] | None:
        """Return the groups of rows that the folds should share out evenly."""

    @abstractmethod
    def _augmentation_frame(self, X: Any, encoded: NDArray[np.float32]) -> Any:
        """Return encoded inputs in the container whose column names the augmenter reads."""

    def set_params(self, **params: Any) -> Self:
        """Set parameters, also ``<object>__<parameter>`` of schedules, averaging and augmenters.

        Parameters
        ----------
        **params : dict
            Their values.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no such parameter, or no object that would have it.
        """
        check_owners(self, set(params))
        super().set_params(**params)
        return self

    # -- fit --------------------------------------------------------------------------------------

    @with_callbacks  # type: ignore[untyped-decorator]
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
            scale does not matter. Negative weights, as NLO generators give, are accepted as long as
            their total is positive.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If inputs, targets, weights or parameters are not what they should be.
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
        job = self._prepare(X, y, sample_weight, extend)
        net = self._trained(job, self._callbacks(X, y, sample_weight))
        self._keep(self._fitted_attributes(net))
        return self

    def _prepare(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        extend: Callable[[Target], Target] = lambda target: target,
    ) -> Job:
        """Validate, encode and share out the rows, and set what predict needs of all that."""
        self._check_params()
        self._forget()
        if y is None:
            msg = f"{type(self).__name__} requires y to be passed, but the target y is None."
            raise ValueError(msg)
        encoded = self._encode_X(X, reset=True)
        check_consistent_length(encoded, y)
        weight = _check_sample_weight(sample_weight, encoded, dtype=np.float64)
        target = extend(self._encode_y(y, weight))
        weight = self._training_weight(target, weight)

        seeds = np.random.SeedSequence(seed_of(self.random_state))
        lent, split, *members = seeds.spawn(2 + self.n_members)
        self.augmenter_ = None
        if self.augmentation is not None:
            self.augmenter_ = clone(self.augmentation)
            self.augmenter_.fit(self._augmentation_frame(X, encoded))
        self._network_class, self._network_params = self._network(target.n_outputs)
        self._link = target.link
        folds = make_folds(
            len(encoded),
            self.n_members,
            strata=self._strata(encoded, target),
            classes=target.strata,
            held_back=self.validation_fraction if self.early_stopping else None,
            seed=int(split.generate_state(1)[0]),
        )
        return Job(
            encoded,
            weight,
            target,
            folds,
            members,
            [int(state) for state in lent.generate_state(self.n_members)],
            [self._input_state(encoded, weight)] * self.n_members,
        )

    def _trained(self, job: Job, callbacks: list[Any]) -> MemberNet:
        """Return the net after its training."""
        device = self._device(fitting=True)
        net = self._build_net(job, device)
        for generator, seed in zip(net.generators, job.lent, strict=True):
            generator.manual_seed(seed)
        net.set_params(callbacks=callbacks)
        rows = _placed(job.rows, device)
        # Forward, and twice as much backward.
        a_row = 3 * sum(operations_of(member) for member in separate_members(net.stack))
        with threads_for(a_row * self.batch_size):
            net.fit(rows, torch.as_tensor(job.target.values, device=device))
        if net.interrupted_:
            raise KeyboardInterrupt
        return net

    def _keep(self, attributes: dict[str, Any]) -> None:
        """Set fitted attributes."""
        for name, value in attributes.items():
            setattr(self, name, value)

    def _forget(self) -> None:
        """Drop what an earlier fit left: a fit that fails half-way must not leave parts of two."""
        for name in [n for n in vars(self) if n.endswith("_") and not n.startswith("__")]:
            delattr(self, name)

    def _fitted_attributes(
        self, net: MemberNet, members: slice = slice(None), kept: Kept | None = None
    ) -> dict[str, Any]:
        """Return what a fitted estimator is made of: its members of the net, as of the last pass."""
        kept = net.kept() if kept is None else kept
        own = np.arange(len(net.folds))[members]
        weights = member_weights(net, kept, own)
        used = np.flatnonzero(np.isin(kept.member, own))
        state = {name: value[used] for name, value in kept.state.items()}
        ensemble = Ensemble.from_stack(
            self._network_class, self._network_params, state, weights[used]
        )
        return {"ensemble_": ensemble, "net_": net, "history_": history_frame(net, own)}

    def _build_net(self, job: Job, device: torch.device) -> MemberNet:
        """Return the net, its members drawn each from its own seed."""
        networks = []
        settings = job.settings
        arguments = [self._network_params] * len(job.seeds)
        if settings is not None:
            arguments = settings.arguments(self._network_class, self._network_params)
        members = zip(job.seeds, job.input_states, arguments, strict=True)
        for seed, input_state, own_arguments in members:
            network: Any = self._network_class(**own_arguments)
            generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
            network.reset_parameters(generator)
            network.load_state_dict(input_state, strict=False)
            networks.append(network)
        optimizer = self.optimizer
        if isinstance(optimizer, str):
            optimizer = OPTIMIZERS[optimizer]
        # Not every optimiser of torch knows weight decay; AdamW has some unless told otherwise.
        takes_decay = self.weight_decay or isinstance(self.optimizer, str)
        decay = {"optimizer__weight_decay": self.weight_decay} if takes_decay else {}
        stack = stack_networks(networks)
        if settings is not None:
            settings.share_dropout(stack)
            decay = {} if settings.decays_differ else decay
        return MemberNet(
            stack,
            criterion=job.target.loss,
            link=job.target.link,
            n_outputs=job.target.n_outputs,
            folds=job.folds,
            weight=torch.as_tensor(job.weight, dtype=torch.float32, device=device),
            schedule=self._schedule(),
            averaging=None if self.averaging is None else clone(self.averaging),
            augmenter=self.augmenter_,
            settings=settings,
            generators=[torch.Generator(device) for _ in job.seeds],
            rngs=[np.random.default_rng(seed) for seed in job.seeds],
            patience=self._patience(),
            monitor=getattr(self, "monitor", "loss"),
            autocast=self._autocast(device, fitting=True),
            capture=isinstance(self.compile, str),
            n_workers=torch.get_num_threads(),
            task="classifier" if is_classifier(self) else "regressor",
            optimizer=optimizer,
            **decay,
            batch_size=self.batch_size,
            max_epochs=self._n_epochs(job.folds),
            device=str(device),
            compile=is_flag(self.compile) and bool(self.compile),
            verbose=int(self.verbose),
        )

    def _callbacks(self, X: Any, y: Any, sample_weight: Any) -> list[Any]:
        """Return the user's callbacks, copied as a fit leaves its parameters alone, and the bridge."""
        callbacks = [_copied(callback) for callback in self.callbacks or []]
        if getattr(self, "_skl_callbacks", None) or hasattr(self, "_parent_callback_ctx"):
            metadata = None if sample_weight is None else {"sample_weight": sample_weight}
            task = {"X": X, "y": y, "metadata": metadata}
            callbacks.append(SklearnCallbacks(self, self._fitted_attributes, task))
        return callbacks

    def _training_weight(self, target: Target, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weights of the loss, their sizes one in the mean."""
        if not np.isfinite(weight.sum()):
            raise ValueError("sample_weight must be finite, got NaN or infinity.")
        weight = self._balance(target, weight)
        if not weight.sum() > 0:
            msg = f"sample_weight must have a positive total, got {weight.sum()}."
            raise ValueError(msg)
        # Of the sizes, as totals of positive and negative weights can all but cancel.
        normalised: NDArray[np.float64] = weight / np.abs(weight).mean()
        return normalised

    def _balance(self, target: Target, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Apply `class_weight`, which regressors do not have."""
        del target
        return weight

    # -- predict ----------------------------------------------------------------------------------

    def _predict_outputs(self, X: Any) -> NDArray[np.float32]:
        """Return the mean over members and views, after the link."""
        check_is_fitted(self, "ensemble_")
        views = self.augmenter_ if self.tta else None
        encoded = self._encode_X(X, reset=False)
        device = self._device(fitting=False)
        with threads_for(self.ensemble_.n_operations * len(encoded)):
            outputs: NDArray[np.float32] = self.ensemble_.predict(
                encoded,
                link=self._link,
                views=views,
                device=device,
                autocast=self._autocast(device, fitting=False),
            )
        return outputs

    # -- parameters -------------------------------------------------------------------------------

    def _schedule(self) -> Any:
        return OneCycle() if self.schedule is None else clone(self.schedule)

    def _n_epochs(self, folds: list[Fold]) -> int:
        """Return the number of passes; few rows need more of them to make a fit of."""
        if self.max_epochs is not None:
            return int(self.max_epochs)
        steps = n_steps([fold.train for fold in folds], self.batch_size)
        return max(_FEWEST_EPOCHS, -(-_FEWEST_STEPS // steps))

    def _patience(self) -> int | None:
        if is_flag(self.early_stopping):
            return 10 if self.early_stopping else None
        return int(self.early_stopping) or None

    def _device(self, *, fitting: bool) -> torch.device:
        """Return the device to use; a fitted model also predicts where its device is missing."""
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
        """Return the precision below single that the networks run in."""
        pays = getattr(self._network_class, "half_precision_pays", False)
        if self.precision == "auto":
            return half_precision(device) if pays else None
        return torch.bfloat16 if self.precision == "bfloat16" and (fitting or pays) else None

    def _check_params(self) -> None:
        check_params(self)

    def __getstate__(self) -> dict[str, Any]:
        # The net holds optimiser, data and device tensors; all that predict needs is in ensemble_.
        state: dict[str, Any] = super().__getstate__()
        state.pop("net_", None)
        return state


def _placed(encoded: Any, device: torch.device) -> Any:
    """Return the rows, one after the other in memory, on the device if they fit there."""
    if not isinstance(encoded, np.ndarray):
        return encoded  # read from its file batch by batch
    rows = tensor_of(encoded)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if rows.numel() * rows.element_size() > _DEVICE_SHARE * free:
            return rows
    return rows.to(device)


def _copied(callback: Any) -> Any:
    """Copy a callback, so that a fit leaves parameters alone; what holds files or threads stays itself."""
    try:
        return copy.deepcopy(callback)
    except (TypeError, copy.Error, RuntimeError):
        return callback
