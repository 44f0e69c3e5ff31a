"""Convolutional networks for detector traces, such as pulses of photomultipliers."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from skhep_nn.estimators.grids import GridEstimator
from skhep_nn.estimators.targets import BaseNetworkClassifier, BaseNetworkRegressor
from skhep_nn.inputs.waveforms import WaveformReader
from skhep_nn.networks.losses import through_sigmoid
from skhep_nn.networks.waveform import WaveformCNN
from skhep_nn.training.job import Target
from skhep_nn.utils.public import public

__all__ = ["WaveformClassifier", "WaveformRegressor"]


class _WaveformEstimator(WaveformReader, GridEstimator, ABC):
    """Base class of estimators of traces: builds the `WaveformCNN`."""

    # Dtypes of digitisers, which are not converted.
    _kept: ClassVar[tuple[type, ...]] = (np.uint8, np.int8, np.uint16, np.int16, np.float16)
    _called: ClassVar[str] = "traces"

    def _network(self, n_outputs: int) -> tuple[type[nn.Module], dict[str, Any]]:
        params = {"trace_shape": self.sample_shape, "n_outputs": n_outputs, "preset": self.preset}
        given = {"channels": self.channels, "kernels": self.kernels}
        given = {name: value for name, value in given.items() if value is not None}
        further = self._further(WaveformCNN, self.network_params)
        twice = sorted(given.keys() & further.keys())
        if twice:
            raise ValueError(
                f"network_params={further} has {' and '.join(twice)}, which are parameters of "
                f"{type(self).__name__} and set there too; leave one of them out."
            )
        return WaveformCNN, params | given | further


@public("skhep_nn")
class WaveformClassifier(_WaveformEstimator, BaseNetworkClassifier):
    """Ensemble of convolutional networks that classifies traces, such as traces of one pulse and of two.

    Parameters
    ----------
    n_members : int, default=1
        Number of networks. With more than one, member k is trained on all stratified folds except fold
        k and validated on fold k, its checkpoint with the lowest validation loss is kept, and its
        weight in the mean of the predictions is proportional to 1 / that loss.
    augmentation : augmenter, default=None
        Augmenter for the kind of data: `EventAugmenter()`, `ImageAugmenter()` or `WaveformAugmenter()`.
        It draws a new random copy of every row of every batch.
    tta : bool, default=True
        Test-time augmentation: predictions are the mean over the augmenter's fixed set of views.
    schedule : schedule object, default=None
        Learning rate and momentum of every optimizer step; None is `OneCycle()`.
    averaging : averaging object, default=None
        Which checkpoints are used for prediction: `StochasticWeightAveraging()` averages the weights of
        every member, `SnapshotEnsemble()` and `FastGeometricEnsemble()` average the predictions of
        several checkpoints of every member. None keeps the best epoch of each member.
    optimizer : {"adam", "adamw", "sgd", "rmsprop"} or torch optimizer class, default="adam"
        Optimizer of the network's parameters.
    weight_decay : float, default=0.0
        L2 penalty (decoupled for "adamw").
    batch_size : int, default=256
        Largest number of rows in a batch; the rows of an epoch are cut into batches of equal size.
    max_epochs : int, default=None
        Number of epochs. None is 15, or more if 15 epochs have fewer than 200 optimizer steps.
    validation_fraction : float, default=0.1
        Share of the rows held back for early stopping, with one member.
    early_stopping : bool or int, default=False
        Number of epochs without a lower validation loss after which a member stops; True means 10.
        With one member this holds back `validation_fraction` of the rows.
    class_weight : dict, "balanced" or None, default=None
        Factors on the weights of each class; "balanced" scales the event weights so that all classes
        have the same total, while their ratios inside a class stay (eq. 3 of arXiv:2002.01427).
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", ...; "auto" is CUDA if it is available.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision of the forward pass; "auto" is bfloat16 for convolutions on a device that has
        instructions for it, float32 otherwise. Tables are always predicted in float32.
    compile : {"auto", True, False}, default="auto"
        Whether to compile the network with torch.compile, which takes half a minute. "auto" does not
        compile; on CUDA it captures the training step as a graph, in less than a second.
    callbacks : list of skorch callbacks, default=None
        Any callback of skorch. They are copied: the copies that a fit has used are in
        ``net_.callbacks_``. Regressors train on scaled targets, so callbacks see targets and
        predictions in scaled units. Callbacks that look at single batches slow training down.
        `schedule` overrules skorch's LRScheduler unless it is `Constant`.
    random_state : int, RandomState instance or None, default=None
        Seed of folds, initial parameters, order of the rows and augmentation.
    verbose : int, default=0
        1 shows skorch's table of epochs.
    preset : {"default", "school", "inception"}, default="default"
        Architecture, see `WaveformCNN`.
    channels : int or sequence of int, default=None
        Number of channels (filters) of every block; one number is for all blocks of the preset. None
        keeps the channels of the preset.
    kernels : int or sequence, default=None
        Kernel sizes of the convolutions of each block. None keeps the kernels of the preset.
    network_params : dict, default=None
        Further fields that change the architecture of the preset, such as ``{"n_bins": 50}``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    ensemble_ : Ensemble
        States and weights of the members.
    history_ : DataFrame
        A row for every member and epoch: losses, learning rate, momentum, seconds.
    net_ : MemberNet
        The skorch net, dropped when pickled.
    augmenter_ : augmenter or None
        The fitted augmenter.
    trace_shape_ : tuple of int
        Shape of the traces seen at fit, (T,) or (T, C).
    offset_ : ndarray of shape (C,)
        Offset of each channel that is subtracted before the conversion to float32; only if X is so far from
        zero that float32 cannot hold its differences.
    n_features_in_ : int
        Number of values of a trace.
    feature_names_in_ : ndarray of str
        Names of the columns seen at fit, where X had any.

    See Also
    --------
    WaveformRegressor : Networks for quantities, such as the time between two pulses.

    Notes
    -----
    Traces, of shape (n_samples, T) or (n_samples, T, C), are standardised inside the network by the
    mean and standard deviation of each channel at fit. They may be float32, float16 or integers
    of 8 and 16 bits, as digitisers write them; on a CPU these are never copied as a whole, also if they are
    memory maps. NaN and infinity are an error that names the traces.

    Examples
    --------
    >>> from skhep_nn import WaveformClassifier
    >>> from skhep_nn.datasets.waveforms import make_waveforms
    >>> signals = make_waveforms(200, n_points=500, n_pulses=(1, 2), random_state=0)
    >>> model = WaveformClassifier(max_epochs=1, batch_size=50, random_state=0)
    >>> model.fit(signals.traces, signals.n_pulses).predict_proba(signals.traces).shape
    (200, 2)
    """

    def __init__(
        self,
        *,
        n_members: int = 1,
        augmentation: Any = None,
        tta: bool = True,
        schedule: Any = None,
        averaging: Any = None,
        optimizer: Any = "adam",
        weight_decay: float = 0.0,
        batch_size: int = 256,
        max_epochs: int | None = None,
        validation_fraction: float = 0.1,
        early_stopping: bool | int = False,
        class_weight: Any = None,
        device: str = "auto",
        precision: str = "auto",
        compile: bool | Literal["auto"] = "auto",  # noqa: A002
        callbacks: list[Any] | None = None,
        random_state: Any = None,
        verbose: int = 0,
        preset: str = "default",
        channels: int | Sequence[int] | None = None,
        kernels: int | Sequence[Any] | None = None,
        network_params: Mapping[str, Any] | None = None,
    ) -> None:
        self.n_members = n_members
        self.augmentation = augmentation
        self.tta = tta
        self.schedule = schedule
        self.averaging = averaging
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.class_weight = class_weight
        self.device = device
        self.precision = precision
        self.compile = compile
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose
        self.preset = preset
        self.channels = channels
        self.kernels = kernels
        self.network_params = network_params


@public("skhep_nn")
class WaveformRegressor(_WaveformEstimator, BaseNetworkRegressor):
    """Ensemble of convolutional networks that measures quantities on traces, such as times and energies.

    Parameters
    ----------
    n_members : int, default=1
        Number of networks. With more than one, member k is trained on all stratified folds except fold
        k and validated on fold k, its checkpoint with the lowest validation loss is kept, and its
        weight in the mean of the predictions is proportional to 1 / that loss.
    augmentation : augmenter, default=None
        Augmenter for the kind of data: `EventAugmenter()`, `ImageAugmenter()` or `WaveformAugmenter()`.
        It draws a new random copy of every row of every batch.
    tta : bool, default=True
        Test-time augmentation: predictions are the mean over the augmenter's fixed set of views.
    schedule : schedule object, default=None
        Learning rate and momentum of every optimizer step; None is `OneCycle()`.
    averaging : averaging object, default=None
        Which checkpoints are used for prediction: `StochasticWeightAveraging()` averages the weights of
        every member, `SnapshotEnsemble()` and `FastGeometricEnsemble()` average the predictions of
        several checkpoints of every member. None keeps the best epoch of each member.
    optimizer : {"adam", "adamw", "sgd", "rmsprop"} or torch optimizer class, default="adam"
        Optimizer of the network's parameters.
    weight_decay : float, default=0.0
        L2 penalty (decoupled for "adamw").
    batch_size : int, default=256
        Largest number of rows in a batch; the rows of an epoch are cut into batches of equal size.
    max_epochs : int, default=None
        Number of epochs. None is 15, or more if 15 epochs have fewer than 200 optimizer steps.
    validation_fraction : float, default=0.1
        Share of the rows held back for early stopping, with one member.
    early_stopping : bool or int, default=False
        Number of epochs without a lower validation loss after which a member stops; True means 10.
        With one member this holds back `validation_fraction` of the rows.
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", ...; "auto" is CUDA if it is available.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision of the forward pass; "auto" is bfloat16 for convolutions on a device that has
        instructions for it, float32 otherwise. Tables are always predicted in float32.
    compile : {"auto", True, False}, default="auto"
        Whether to compile the network with torch.compile, which takes half a minute. "auto" does not
        compile; on CUDA it captures the training step as a graph, in less than a second.
    callbacks : list of skorch callbacks, default=None
        Any callback of skorch. They are copied: the copies that a fit has used are in
        ``net_.callbacks_``. Regressors train on scaled targets, so callbacks see targets and
        predictions in scaled units. Callbacks that look at single batches slow training down.
        `schedule` overrules skorch's LRScheduler unless it is `Constant`.
    random_state : int, RandomState instance or None, default=None
        Seed of folds, initial parameters, order of the rows and augmentation.
    verbose : int, default=0
        1 shows skorch's table of epochs.
    preset : {"default", "school", "inception"}, default="default"
        Architecture, see `WaveformCNN`.
    channels : int or sequence of int, default=None
        Number of channels (filters) of every block; one number is for all blocks of the preset. None
        keeps the channels of the preset.
    kernels : int or sequence, default=None
        Kernel sizes of the convolutions of each block. None keeps the kernels of the preset.
    network_params : dict, default=None
        Further fields that change the architecture of the preset, such as ``{"n_bins": 50}``.
    loss : {"squared_error", "absolute_error", "huber"}, default="squared_error"
        Loss on the targets, scaled to mean 0 and standard deviation 1 if `output` is "identity".
    output : {"identity", "sigmoid"}, default="identity"
        "sigmoid" is for targets from 0 to 1, which are not scaled, and keeps predictions in that range.

    Attributes
    ----------
    ensemble_ : Ensemble
        States and weights of the members.
    history_ : DataFrame
        A row for every member and epoch: losses, learning rate, momentum, seconds.
    net_ : MemberNet
        The skorch net, dropped when pickled.
    augmenter_ : augmenter or None
        The fitted augmenter.
    trace_shape_ : tuple of int
        Shape of the traces seen at fit, (T,) or (T, C).
    offset_ : ndarray of shape (C,)
        Offset of each channel that is subtracted before the conversion to float32; only if X is so far from
        zero that float32 cannot hold its differences.
    n_features_in_ : int
        Number of values of a trace.
    feature_names_in_ : ndarray of str
        Names of the columns seen at fit, where X had any.

    See Also
    --------
    WaveformClassifier : Networks for classes.

    Notes
    -----
    Traces, of shape (n_samples, T) or (n_samples, T, C), are standardised inside the network by the
    mean and standard deviation of each channel at fit. They may be float32, float16 or integers
    of 8 and 16 bits, as digitisers write them; on a CPU these are never copied as a whole, also if they are
    memory maps. NaN and infinity are an error that names the traces.

    Examples
    --------
    >>> from skhep_nn import WaveformRegressor
    >>> from skhep_nn.datasets.waveforms import make_waveforms
    >>> signals = make_waveforms(200, n_points=500, random_state=0)
    >>> model = WaveformRegressor(output="sigmoid", max_epochs=1, random_state=0)
    >>> model.fit(signals.traces, signals.separation).predict(signals.traces).shape
    (200,)
    """

    def __init__(
        self,
        *,
        n_members: int = 1,
        augmentation: Any = None,
        tta: bool = True,
        schedule: Any = None,
        averaging: Any = None,
        optimizer: Any = "adam",
        weight_decay: float = 0.0,
        batch_size: int = 256,
        max_epochs: int | None = None,
        validation_fraction: float = 0.1,
        early_stopping: bool | int = False,
        device: str = "auto",
        precision: str = "auto",
        compile: bool | Literal["auto"] = "auto",  # noqa: A002
        callbacks: list[Any] | None = None,
        random_state: Any = None,
        verbose: int = 0,
        preset: str = "default",
        channels: int | Sequence[int] | None = None,
        kernels: int | Sequence[Any] | None = None,
        network_params: Mapping[str, Any] | None = None,
        loss: str = "squared_error",
        output: Literal["identity", "sigmoid"] = "identity",
    ) -> None:
        self.n_members = n_members
        self.augmentation = augmentation
        self.tta = tta
        self.schedule = schedule
        self.averaging = averaging
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.device = device
        self.precision = precision
        self.compile = compile
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose
        self.preset = preset
        self.channels = channels
        self.kernels = kernels
        self.network_params = network_params
        self.loss = loss
        self.output = output

    def _encode_y(self, y: Any, weight: NDArray[np.float64]) -> Target:
        target = super()._encode_y(y, weight)
        if self.output == "identity":
            return target
        values = np.asarray(y, dtype=np.float64).reshape(target.values.shape)
        if values.min() < 0 or values.max() > 1:
            raise ValueError(
                f'output="sigmoid" is for targets from 0 to 1, but y reaches from {values.min():g} to '
                f'{values.max():g}. Scale them, or use output="identity".'
            )
        n_targets = target.n_outputs
        self._target_mean, self._target_scale = np.zeros(n_targets), np.ones(n_targets)
        self._learn_constants(values)
        # The link "sigmoid" alone means two classes, for which callbacks see two probabilities.
        return target._replace(
            values=values.astype(np.float32), loss=through_sigmoid(target.loss), link="0+sigmoid"
        )

    def _check_params(self) -> None:
        super()._check_params()
        if self.output not in ("identity", "sigmoid"):
            raise ValueError(f"output={self.output!r} must be 'identity' or 'sigmoid'.")
