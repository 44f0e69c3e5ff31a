"""The training loop: a skorch net that trains all members of an ensemble at once.

skorch supplies the loop over epochs, callbacks, history and optimizer. Added here: a batch holds rows of
every member, gathered by index from data on the device; event weights enter the loss; and no step waits
for the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer, PrintLog
from skorch.exceptions import SkorchException
from torch import Tensor, nn

from skhep_nn.ensemble.prediction import apply_link
from skhep_nn.networks.losses import Loss, RowLoss, is_right
from skhep_nn.networks.member_layers import MemberDropout
from skhep_nn.networks.stacks import State, holding, separate_members, stacked_state, write_state
from skhep_nn.training.batch_norm import (
    ENOUGH_STEPS,
    has_batch_norm,
    statistics_of,
    update_batch_norm,
)
from skhep_nn.training.batches import (
    VALID_CHUNK,
    Augmenter,
    Batch,
    EventDataset,
)
from skhep_nn.training.checkpoints import BestEpochs, Kept, Scores, ScoresOf, make_checkpoints
from skhep_nn.training.cpu_parallel import CpuPass
from skhep_nn.training.cuda_graphs import GraphPass
from skhep_nn.training.member_hyperparameters import MemberHyperparameters, MemberSteps
from skhep_nn.training.optimizers import OptimizerRates
from skhep_nn.training.passes import EagerPass, Pass, Trainee
from skhep_nn.training.schedules import Rates
from skhep_nn.training.sklearn_callbacks import SklearnCallbacks, not_printing
from skhep_nn.training.streamed_batches import (
    AnyTrainBatches,
    AnyValidBatches,
    train_batches,
    valid_batches,
)
from skhep_nn.utils.folds import Fold
from skhep_nn.utils.interrupts import Interrupts, interrupts_held, interrupts_noted

__all__ = ["MemberNet"]

_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_grad_computed")

IntArray = NDArray[np.int64]


class Schedule(Protocol):
    """Interface of a learning-rate schedule."""

    def rates(
        self, epoch: int, *, n_epochs: int, n_steps: int, valid_losses: Sequence[float] = ()
    ) -> Rates:
        """Return the learning rate and momentum of every step of an epoch."""


class _Stop(KeyboardInterrupt):
    """Raised for a callback that ends training; skorch ends its loop on a KeyboardInterrupt."""


class _StopWhenAllStopped(Callback):  # type: ignore[misc]
    """Ends training when early stopping has stopped every member."""

    def on_epoch_end(self, net: MemberNet, **kwargs: Any) -> None:  # noqa: ARG002
        """Stop if early stopping has stopped every member."""
        if net.best_.stopped.all():
            raise _Stop


class MemberNet(NeuralNet):  # type: ignore[misc]
    """skorch net whose module is a stack of members.

    Parameters
    ----------
    stack : nn.Module
        The members (see `skhep_nn.ensemble.stack_networks`).
    criterion : Loss
        Loss of every row, one of `skhep_nn.networks.losses.LOSSES`.
    link : str
        Link function, applied to the outputs that callbacks see.
    n_outputs : int
        Number of outputs of a member.
    folds : sequence of Fold
        Training and validation rows of each member; either all members have validation rows or none has.
    have_all_classes : sequence of bool
        Whether the validation rows of each member hold every class.
    weight : Tensor of shape (n_samples,)
        Event weights, scaled so that their mean absolute value is 1.
    schedule : Schedule
        Learning rate and momentum of every optimizer step.
    averaging : StochasticWeightAveraging, SnapshotEnsemble or FastGeometricEnsemble, optional
        Which checkpoints are used for prediction.
    augmenter : Augmenter, optional
        Draws a random copy of every row of every batch.
    settings : MemberHyperparameters, optional
        Hyperparameters in which the members differ.
    generators : sequence of torch.Generator
        Random numbers of the augmenter and of dropout, one generator for each member.
    rngs : sequence of numpy.random.Generator
        Order of the rows of each member.
    patience : int, optional
        Early stopping: number of epochs without improvement after which a member stops.
    monitor : {"loss", "accuracy"}, default="loss"
        Validation score that defines the best epoch of a member.
    autocast : torch.dtype, optional
        Lower precision for the forward pass.
    capture : bool, default=False
        Whether to capture the training step as a graph, on CUDA.
    n_workers : int, default=1
        Number of threads over which members are split on a CPU, and that draw the order of the rows.
    task : {"classifier", "regressor"}
        Kind of estimator that scikit-learn scorers inside callbacks see.
    **kwargs
        Passed to `skorch.NeuralNet`.
    """

    def __init__(
        self,
        stack: nn.Module,
        *,
        criterion: Loss,
        link: str,
        n_outputs: int,
        folds: Sequence[Fold],
        have_all_classes: Sequence[bool],
        weight: Tensor,
        schedule: Schedule,
        averaging: Any = None,
        augmenter: Augmenter | None,
        settings: MemberHyperparameters | None = None,
        generators: Sequence[torch.Generator],
        rngs: Sequence[np.random.Generator],
        patience: int | None = None,
        monitor: str = "loss",
        autocast: torch.dtype | None = None,
        capture: bool = False,
        n_workers: int = 1,
        task: str = "classifier",
        **kwargs: Any,
    ) -> None:
        self.stack = stack
        self.link = link
        self.n_outputs = n_outputs
        self.folds = folds
        self.have_all_classes = have_all_classes
        self.weight = weight
        self.schedule = schedule
        self.averaging = averaging
        self.augmenter = augmenter
        self.settings = settings
        self.generators = generators
        self.rngs = rngs
        self.patience = patience
        self.monitor = monitor
        self.autocast = autocast
        self.capture = capture
        self.n_workers = n_workers
        self.task = task
        self.interrupts_, self.interrupted_, self.n_complete_ = Interrupts(), False, 0
        # Validation rows of one member are training rows of the others. Scores of callbacks are therefore
        # taken from the validation itself, in which each row is predicted by its own member.
        use_caching = True if len(folds) > 1 else "auto"
        super().__init__(
            lambda: stack,
            criterion=criterion,
            train_split=None,
            use_caching=use_caching,
            **kwargs,
        )

    # -- set-up -----------------------------------------------------------------------------------

    def get_default_callbacks(self) -> list[tuple[str, Callback]]:
        """Return skorch's default callbacks, without the callbacks that read every batch."""
        return [("epoch_timer", EpochTimer()), ("print_log", PrintLog())]

    def _yield_callbacks(self) -> Iterator[tuple[str, Callback, bool]]:
        yield from super()._yield_callbacks()
        yield "stop", _StopWhenAllStopped(), True

    def torch_compile(self, module: nn.Module, name: str) -> Any:
        """Compile the networks, but not the loss, which is too small to gain from it."""
        return module if name == "criterion" else super().torch_compile(module, name)

    def initialize_criterion(self) -> MemberNet:
        """Wrap the loss function in a module."""
        self.criterion_ = RowLoss(self.criterion)
        return self

    def initialize(self) -> MemberNet:
        """Build the optimizer and all records of an empty fit."""
        # The first optimizer of a process imports half of torch, which cannot be imported again after a Ctrl-C.
        with interrupts_held():
            super().initialize()
        self.n_complete_ = 0
        self._at_epoch_begin: State | None = None
        self.records_: list[dict[str, NDArray[np.float64]]] = []
        self.best_ = BestEpochs(len(self.folds), self.patience)
        self.checkpoints_ = make_checkpoints(
            self.averaging,
            self.schedule,
            self.best_,
            n_epochs=self.max_epochs,
            validated=any(len(fold.valid) for fold in self.folds),
        )
        self.member_steps_ = MemberSteps.of(self.module_, self.optimizer_, self.settings)
        self.rates_ = OptimizerRates(self.optimizer_)
        self.pass_: Pass | None = None
        self._set_dropout_generators(self.generators)
        # Batch-norm statistics use separate random numbers, so that computing them does not change training.
        self._batch_norm_seeds: list[int] = []
        self._own_statistics: list[Tensor] = []
        if has_batch_norm(self.module_):
            own = [rng.spawn(1)[0] for rng in self.rngs]
            self._batch_norm_seeds = [int(rng.integers(2**63)) for rng in own]
        self.has_batch_callbacks = any(
            getattr(type(cb), hook) is not getattr(Callback, hook)
            for _, cb in self.callbacks_
            for hook in _BATCH_HOOKS
            if not isinstance(cb, PrintLog)
        )
        return self

    def _set_dropout_generators(self, generators: Sequence[torch.Generator]) -> None:
        """Let the dropout layers of every member draw from its generator."""
        for network, generator in zip(separate_members(self.module_), generators, strict=False):
            for module in network.modules():
                if isinstance(module, MemberDropout):
                    module.generator, module.generators = generator, generators

    @property
    def classes_(self) -> IntArray:
        """Encoded class labels, for scikit-learn scorers inside callbacks."""
        return np.arange(max(2, self.n_outputs))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.estimator_type = self.task
        return tags

    # -- data -------------------------------------------------------------------------------------

    def get_split_datasets(
        self, X: Any, y: Any = None, **fit_params: Any
    ) -> tuple[EventDataset, Any]:
        """Return the training data and, if the members are validated, the validation rows."""
        del fit_params
        dataset = EventDataset(X, y, self.weight)
        valid = np.concatenate([fold.valid for fold in self.folds])
        return dataset, torch.utils.data.Subset(dataset, valid.tolist()) if len(valid) else None

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Return batches that are gathered by index on the device."""
        if isinstance(dataset, torch.utils.data.Subset):
            dataset = dataset.dataset
        if training:
            return self._train_batches(dataset, self.rngs, self.generators)
        if isinstance(dataset, EventDataset):
            return valid_batches(dataset, self.folds)
        X = torch.as_tensor(np.asarray(dataset.X), dtype=torch.float32)
        return [(rows, None) for rows in X.split(VALID_CHUNK)]

    def _train_batches(
        self,
        dataset: EventDataset,
        rngs: Sequence[np.random.Generator],
        generators: Sequence[torch.Generator],
    ) -> AnyTrainBatches:
        """Return batches of every member's training rows, in an order drawn by the given generators."""
        return train_batches(
            dataset,
            [fold.train for fold in self.folds],
            self.batch_size,
            rngs,
            augmenter=self.augmenter,
            generators=generators,
            n_workers=self.n_workers,
        )

    # -- the loop ---------------------------------------------------------------------------------

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Call a method of all callbacks; a callback that raises KeyboardInterrupt ends training."""
        getattr(self, method_name)(self, **cb_kwargs)
        for _, callback in self.callbacks_:
            try:
                getattr(callback, method_name)(self, **cb_kwargs)
            except KeyboardInterrupt as stop:
                # scikit-learn's callbacks never raise it to end training.
                if self.interrupts_.seen or isinstance(callback, SklearnCallbacks):
                    raise
                raise _Stop from stop
            except (KeyError, SkorchException) as error:
                if "valid_" in str(error) and not any(len(fold.valid) for fold in self.folds):
                    msg = (
                        f"{type(callback).__name__} reads validation losses, but no rows are held back: set "
                        "early_stopping, which holds back validation_fraction of them, or n_members of 2 "
                        f"or more. ({error})"
                    )
                    raise ValueError(msg) from error
                raise

    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any
    ) -> MemberNet:
        """Run all epochs; without `verbose`, callbacks do not print."""
        with not_printing([] if self.verbose else [callback for _, callback in self.callbacks_]):
            super().partial_fit(X, y, classes, **fit_params)
        return self

    def fit_loop(
        self, X: Any, y: Any = None, epochs: int | None = None, **params: Any
    ) -> MemberNet:
        """Run all epochs; record a Ctrl-C of the user, which skorch hides, but not a callback's `_Stop`."""
        try:
            super().fit_loop(X, y, epochs, **params)
        except _Stop:
            self._drop_unfinished_epoch()
            raise
        except KeyboardInterrupt:
            self.interrupted_ = True
            self._drop_unfinished_epoch()
            raise
        return self

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> MemberNet:
        """Train all members.

        After Ctrl-C, the net is as it was at the end of the last complete epoch, and a KeyboardInterrupt is
        raised, which skorch does not do.
        """
        with interrupts_noted() as self.interrupts_:
            try:
                super().fit(X, y, **fit_params)
            finally:
                self._at_epoch_begin = None
                # Also if a callback fails because the fit ended early: a search must not go on.
                if self.interrupted_:
                    raise KeyboardInterrupt
        return self

    def _drop_unfinished_epoch(self) -> None:
        """Restore the state and the records of the last complete epoch, if a later one has begun."""
        if len(self.records_) > self.n_complete_ and self._at_epoch_begin is not None:
            write_state(self.module_, self._at_epoch_begin)
        del self.records_[self.n_complete_ :]
        del self.history[self.n_complete_ :]

    # -- one epoch --------------------------------------------------------------------------------

    def run_single_epoch(
        self,
        iterator: Any,
        training: bool,
        prefix: str,
        step_fn: Callable[..., dict[str, Tensor]],
        **fit_params: Any,
    ) -> None:
        """Train or validate for one epoch without waiting for the device until its end."""
        del step_fn, fit_params
        if iterator is None:
            if not training:
                self._update_checkpoints(None, None)
            return
        losses = self._train_epoch(iterator) if training else self._valid_epoch(iterator)
        self.records_[-1].setdefault(prefix + "_loss", losses)
        mean = float(losses.mean())
        previous = [row.get(prefix + "_loss", np.inf) for row in self.history[:-1]]
        self.history.record(prefix + "_loss", mean)
        self.history.record(prefix + "_loss_best", mean < min(previous, default=np.inf))

    def on_epoch_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Start the records of an epoch."""
        state = stacked_state(self.module_)
        self._at_epoch_begin = {name: value.detach().clone() for name, value in state.items()}
        super().on_epoch_begin(net, **kwargs)
        self.records_.append({})
        self._epoch_start = time.perf_counter()

    def _train_epoch(self, batches: AnyTrainBatches) -> NDArray[np.float64]:
        """Take the steps of one epoch; return the mean loss of every member."""
        rates = self._rates(len(self.records_) - 1, len(batches))
        self._set_training(True)
        if self._batch_norm_seeds:
            self._dataset = batches.dataset
            self._resume_statistics()
        self.history.record("train_batch_count", len(batches))
        if self.pass_ is None:
            with interrupts_held():  # CUDA cannot leave the capture of a graph half way
                self.pass_ = self._pass_for(batches)
        losses = self.pass_.train(rates)
        if self._batch_norm_seeds:
            self._complete_statistics(len(batches) * len(self.records_))
        if not self.has_batch_callbacks:
            # Callbacks such as Checkpoint read records of batches, so the epoch is recorded as one batch.
            self.history.new_batch()
            self.history.record_batch("train_loss", float(losses.mean()))
            self.history.record_batch("train_batch_size", sum(len(f.train) for f in self.folds))
        return losses

    def _pass_for(self, batches: AnyTrainBatches) -> Pass:
        """Return the fastest pass that can train these members on these batches."""
        trainee = Trainee(
            module=self.module_,
            loss=self.criterion_.loss,
            optimizer=self.optimizer_,
            member_steps=self.member_steps_,
            rates=self.rates_,
            generators=self.generators,
            n_members=len(self.folds),
            device=torch.device(self.device),
            autocast=self.autocast,
            batch_size=self.batch_size,
            n_epochs=self.max_epochs,
            n_workers=self.n_workers,
            monitor=self.monitor,
            capture=self.capture,
            is_compiled=bool(self.compile),
            is_watched=self.has_batch_callbacks,
            forward_backward=self.train_step_single,
            step=self._watched_step if self.has_batch_callbacks else self._optimizer_step,
            validation_step=self._validate_batch,
        )
        kinds: tuple[Any, ...] = (GraphPass, CpuPass, EagerPass)
        chosen: Pass = next(k for k in kinds if k.serves(trainee, batches))(trainee, batches)
        return chosen

    def _valid_epoch(self, batches: AnyValidBatches) -> NDArray[np.float64]:
        """Validate the members; return the loss of every member."""
        scores = self._current_pass().validate(batches)
        if scores.accuracy is not None:
            self.records_[-1]["valid_accuracy"] = scores.accuracy
        self._update_checkpoints(scores, partial(self._scores_of, batches=batches))
        return scores.loss

    def _current_pass(self) -> Pass:
        """Return the pass that was chosen before the first epoch."""
        if self.pass_ is None:
            raise RuntimeError("train for an epoch before validating: no pass has been chosen yet.")
        return self.pass_

    def _watched_step(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step as skorch does, and call the callbacks that watch batches."""
        return self._notified(batch, self.train_step, training=True)

    def _validate_batch(self, batch: Batch, used: Tensor, call_back: bool) -> dict[str, Tensor]:
        """Validate one batch, with or without calling callbacks."""
        if call_back and self.has_batch_callbacks:
            return self._notified(batch, self.validation_step, training=False, used=used)
        return self.validation_step(batch)

    def _notified(
        self,
        batch: Batch,
        step_fn: Callable[[Batch], dict[str, Tensor]],
        *,
        training: bool,
        used: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run a step and call the callbacks; they see the rows of all members, concatenated."""
        used = batch.weight != 0 if used is None else used
        plain = (batch.X[used], self.criterion.labels(batch.y)[used])
        prefix = "train" if training else "valid"
        self.notify("on_batch_begin", batch=plain, training=training)
        step = step_fn(batch)
        self.history.record_batch(prefix + "_loss", step["loss"].item() / len(self.folds))
        self.history.record_batch(prefix + "_batch_size", len(plain[0]))
        seen = step | {"y_pred": self._as_predictions(step["y_pred"].detach())[used]}
        self.notify("on_batch_end", batch=plain, training=training, **seen)
        return step

    # -- one step ---------------------------------------------------------------------------------

    def get_loss(
        self, y_pred: Tensor, y_true: Any, X: Any = None, training: bool = False
    ) -> Tensor:
        """Return the loss of every member: the sum over its rows of weight times loss."""
        del X, training
        target, weight = y_true
        outputs = y_pred.float()
        losses: Tensor = (self.criterion_(outputs, target) * weight).sum(-1)
        if self.criterion.penalty is not None:
            losses = losses + self.criterion.penalty(outputs, target, weight)
        return losses

    def _forward(self, X: Tensor) -> Tensor:
        with torch.autocast(X.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            out: Tensor = self.module_(X)
        return out

    def train_step_single(self, batch: Batch, **fit_params: Any) -> dict[str, Tensor]:
        """Run the forward and backward pass."""
        del fit_params
        y_pred = self._forward(batch.X)
        losses = self.get_loss(y_pred, (batch.y, batch.weight), training=True)
        # Members share no parameter: the gradient of the sum is each member's own gradient.
        loss = losses.sum()
        loss.backward()
        return {"loss": loss.detach(), "y_pred": y_pred, "member_losses": losses.detach()}

    def _optimizer_step(self, batch: Batch) -> dict[str, Tensor]:
        """Take one optimizer step without calling callbacks."""
        self.optimizer_.zero_grad(set_to_none=True)
        step = self.train_step_single(batch)
        if self.member_steps_ is None:
            self.optimizer_.step()
        else:
            self.member_steps_.take(self.optimizer_.step, self.rates_.current.lr)
        return step

    def validation_step(self, batch: Batch, **fit_params: Any) -> dict[str, Tensor]:
        """Run the forward pass without augmentation."""
        del fit_params
        with torch.no_grad():
            y_pred = self._forward(batch.X)
            losses = self.get_loss(y_pred, (batch.y, batch.weight))
        step = {"loss": losses.sum(), "y_pred": y_pred, "member_losses": losses}
        if self.monitor == "accuracy":
            step["member_accuracy"] = (is_right(y_pred, batch.y) * batch.weight).sum(-1)
        return step

    def evaluation_step(self, batch: Any, training: bool = False) -> Tensor:
        """Predict rows by the mean over all members."""
        X = batch[0].to(self.device)
        self._set_training(training)
        with torch.set_grad_enabled(training):
            out = self._as_predictions(self._forward(X.expand(len(self.folds), *X.shape)))
        return out.mean(0)

    def _as_predictions(self, output: Tensor) -> Tensor:
        """Apply the link; two classes get two columns, as scikit-learn's scorers expect."""
        out = apply_link(output, self.link)
        return torch.cat([1 - out, out], dim=-1) if self.link == "sigmoid" else out

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict encoded labels or scaled targets, for scorers inside callbacks."""
        out = self.predict_proba(X)
        if self.task == "classifier":
            return np.asarray(out.argmax(-1))
        return np.asarray(out[:, 0] if out.shape[1] == 1 else out)

    # -- learning rates ---------------------------------------------------------------------------

    def _rates(self, epoch: int, n_steps: int) -> Rates:
        valid = [float(r["valid_loss"].mean()) for r in self.records_ if "valid_loss" in r]
        return self.schedule.rates(
            epoch, n_epochs=self.max_epochs, n_steps=n_steps, valid_losses=valid
        )

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Complete the records of an epoch."""
        super().on_epoch_end(net, **kwargs)
        lr, momentum = self.rates_.current  # set by the schedule, or changed by a callback
        own = np.ones(1) if self.member_steps_ is None else self.member_steps_.factor
        self.records_[-1]["lr"] = lr * own
        self.records_[-1]["momentum"] = np.array([momentum], dtype=float)
        self.records_[-1]["seconds"] = np.array([time.perf_counter() - self._epoch_start])

    # -- checkpoints ------------------------------------------------------------------------------

    def _update_checkpoints(self, scores: Scores | None, scores_of: ScoresOf | None) -> None:
        """Update the checkpoints at the end of an epoch, which is complete from here on."""
        with interrupts_held():
            self.n_complete_ = 0  # until the checkpoints of all members belong together again
            state, epoch = stacked_state(self.module_), len(self.records_) - 1
            if scores is not None:
                self.records_[-1]["valid_loss"] = scores.loss
            self.records_[-1] |= self.checkpoints_.after_epoch(epoch, state, scores, scores_of)
            self.n_complete_ = epoch + 1

    def _scores_of(self, state: State, batches: AnyValidBatches) -> Scores:
        """Return the validation scores of a given state, such as averaged weights."""
        current = self._current_pass()
        with holding(self.module_, state):
            self._update_batch_norm(state)
            current.reload()
            return current.validate(batches, call_back=False)

    def _update_batch_norm(self, state: State) -> None:
        """Compute the batch-norm statistics of a state that the members hold."""
        if not self._batch_norm_seeds:
            return
        rngs = [np.random.default_rng(seed) for seed in self._batch_norm_seeds]
        generators = [torch.Generator(self.device).manual_seed(s) for s in self._batch_norm_seeds]
        batches = self._train_batches(self._dataset, rngs, generators)
        self._set_training(True)
        self._set_dropout_generators(generators)
        try:
            update_batch_norm(self.module_, batches, self._forward, state)
        finally:
            self._set_dropout_generators(self.generators)

    def _complete_statistics(self, n_steps: int) -> None:
        """After few steps, compute the batch-norm statistics of the current parameters.

        The statistics of training move by a tenth in every step and begin with mean 0 and variance 1. The next
        epoch continues with the statistics of training.
        """
        if n_steps < ENOUGH_STEPS:
            self._own_statistics = [value.clone() for value in statistics_of(self.module_)]
            self._update_batch_norm({})

    def _resume_statistics(self) -> None:
        """Restore the batch-norm statistics of training."""
        own = self._own_statistics or statistics_of(self.module_)
        for value, before in zip(statistics_of(self.module_), own, strict=True):
            value.copy_(before)
        self._own_statistics = []

    def kept(self) -> Kept:
        """Return the checkpoints used for prediction.

        Without averaging, these are the best epoch of each member, or its last one without validation.
        """

        def update(state: State) -> None:
            with holding(self.module_, state):
                self._update_batch_norm(state)

        return self.checkpoints_.kept(stacked_state(self.module_), update)
