"""Convolutional networks for images of calorimeters and other pixel detectors."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_is_fitted
from torch import nn

from skhep_nn.estimators.grids import GridEstimator
from skhep_nn.estimators.targets import (
    BaseNetworkClassifier,
    BaseNetworkRegressor,
    class_probabilities,
)
from skhep_nn.inputs.images import ImageReader
from skhep_nn.networks.calo import CaloCNN
from skhep_nn.networks.losses import with_classes
from skhep_nn.training.job import Target
from skhep_nn.training.sklearn_callbacks import with_callbacks
from skhep_nn.utils.public import public
from skhep_nn.utils.torch_state import recording_gradients, usual_defaults

__all__ = ["CaloCNNClassifier", "CaloCNNRegressor"]


class _CaloEstimator(ImageReader, GridEstimator, ABC):
    """Base class of estimators of images: builds the `CaloCNN`."""

    _called: ClassVar[str] = "images"

    def _network(self, n_outputs: int) -> tuple[type[nn.Module], dict[str, Any]]:
        params = {"image_shape": self.sample_shape, "n_outputs": n_outputs, "preset": self.preset}
        return CaloCNN, params | self._further(CaloCNN, self.network_params)


@public("skhep_nn")
class CaloCNNClassifier(_CaloEstimator, BaseNetworkClassifier):
    """Ensemble of convolutional networks that classifies images, such as electrons and photons.

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
    preset : {"compact", "challenge", "resnet15", "attention", "regression"}, default="compact"
        Architecture, see `CaloCNN`.
    network_params : dict, default=None
        Fields that change the architecture of the preset, such as ``{"channels": (16, 32)}``.
    image_shape : tuple of int, default=None
        ``(H, W)`` or ``(H, W, C)`` of images that come as rows of pixels; by default such rows are
        images of one row.
    monitor : {"loss", "accuracy"}, default="loss"
        Validation score that defines the best epoch of a member and decides on early stopping.

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
    image_shape_ : tuple of int
        Shape of the images seen at fit.
    offset_ : ndarray of shape (C,)
        Offset of each channel that is subtracted before the conversion to float32; only if X is so far from
        zero that float32 cannot hold its differences.
    n_features_in_ : int
        Number of values of an image.

    Notes
    -----
    Images are standardised inside the network by the mean and standard deviation of each channel at
    fit. They may be float32 or uint8; on a CPU these are never copied as a whole, also if they are memory maps.

    References
    ----------
    arXiv:1807.11916 (the electron-photon data), arXiv:1512.03385 (residual networks), arXiv:1709.01507
    (squeeze-and-excitation).

    Examples
    --------
    >>> from skhep_nn import CaloCNNClassifier, make_calo_showers
    >>> showers = make_calo_showers(200, random_state=0)
    >>> model = CaloCNNClassifier(max_epochs=1, batch_size=50, random_state=0)
    >>> model.fit(showers.images, showers.target).predict_proba(showers.images).shape
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
        preset: str = "compact",
        network_params: Mapping[str, Any] | None = None,
        image_shape: Sequence[int] | None = None,
        monitor: str = "loss",
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
        self.network_params = network_params
        self.image_shape = image_shape
        self.monitor = monitor


def _has_classes(regressor: Any) -> bool:
    """Raise AttributeError if a fitted regressor has no auxiliary classes."""
    if hasattr(regressor, "ensemble_") and not hasattr(regressor, "aux_classes_"):
        msg = f"This {type(regressor).__name__} was fitted without aux_target: it has no classes."
        raise AttributeError(msg)
    return True


@public("skhep_nn")
class CaloCNNRegressor(_CaloEstimator, BaseNetworkRegressor):
    """Ensemble of convolutional networks that measures quantities on images, such as energies.

    If the class of the particle is known for the training images, and energies look different from class
    to class, predicting the class as an auxiliary output helps the network: pass it to `fit` as
    `aux_target`.

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
    preset : {"compact", "challenge", "resnet15", "attention", "regression"}, default="regression"
        Architecture, see `CaloCNN`.
    network_params : dict, default=None
        Fields that change the architecture of the preset, such as ``{"channels": (16, 32)}``.
    image_shape : tuple of int, default=None
        ``(H, W)`` or ``(H, W, C)`` of images that come as rows of pixels; by default such rows are
        images of one row.
    loss : {"absolute_error", "squared_error", "huber"}, default="absolute_error"
        Loss on the scaled targets.
    target_weight : float, default=1.0
        Factor of `loss`, if there is an `aux_target`.
    aux_weight : float, default=0.1
        Factor of the cross-entropy of the `aux_target`.

    Attributes
    ----------
    ensemble_ : Ensemble
        States and weights of the members.
    aux_classes_ : ndarray of shape (n_classes,)
        Labels of the `aux_target`, if there was one.
    history_ : DataFrame
        A row for every member and epoch: losses, learning rate, momentum, seconds.
    net_ : MemberNet
        The skorch net, dropped when pickled.
    augmenter_ : augmenter or None
        The fitted augmenter.
    image_shape_ : tuple of int
        Shape of the images seen at fit.
    offset_ : ndarray of shape (C,)
        Offset of each channel that is subtracted before the conversion to float32; only if X is so far from
        zero that float32 cannot hold its differences.
    n_features_in_ : int
        Number of values of an image.

    See Also
    --------
    CaloCNNClassifier : Convolutional networks for classes only.
    StackedPostRegressor : A second regressor on the predictions, for targets with few values.

    Notes
    -----
    Targets are scaled to mean 0 and standard deviation 1 for training, so that the balance of the two
    losses does not depend on the unit: with an `aux_weight` of 0.1, a cross-entropy of one counts as much
    as an error of a tenth of the standard deviation. A weight for an error in the unit of the target must
    be divided by the standard deviation: 0.1 for an error in keV, of energies that spread by 10 keV, is
    0.01 here. The validation loss, which selects epochs and weights members, is the sum of both losses.

    References
    ----------
    arXiv:1706.05098 (multi-task learning), arXiv:2202.05480 (images of ions in a gas).

    Examples
    --------
    >>> from skhep_nn import CaloCNNRegressor, make_ion_tracks
    >>> tracks = make_ion_tracks(120, image_shape=(16, 16), random_state=0)
    >>> model = CaloCNNRegressor(max_epochs=2, random_state=0)
    >>> model.fit(tracks.images, tracks.target, aux_target=tracks.is_electron)
    CaloCNNRegressor(max_epochs=2, random_state=0)
    >>> model.predict(tracks.images).shape
    (120,)
    >>> model.predict_aux_proba(tracks.images).shape
    (120, 2)
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
        preset: str = "regression",
        network_params: Mapping[str, Any] | None = None,
        image_shape: Sequence[int] | None = None,
        loss: str = "absolute_error",
        target_weight: float = 1.0,
        aux_weight: float = 0.1,
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
        self.network_params = network_params
        self.image_shape = image_shape
        self.loss = loss
        self.target_weight = target_weight
        self.aux_weight = aux_weight

    @with_callbacks  # type: ignore[untyped-decorator]
    @usual_defaults()
    @recording_gradients()
    def fit(self, X: Any, y: Any, sample_weight: Any = None, aux_target: Any = None) -> Self:
        """Train all members.

        Parameters
        ----------
        X : array-like of shape (n_samples, H, W), (n_samples, H, W, C) or (n_samples, n_features)
            Images.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            Event weights, which multiply both losses of each row. Their overall scale does not matter.
            Negative weights are accepted if the total is positive.
        aux_target : array-like of shape (n_samples,), optional
            Labels of two or more classes to predict in addition to the targets. Classes have the same
            proportions in all folds.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If inputs, targets, labels, weights or parameters are invalid.
        KeyboardInterrupt
            After Ctrl-C. The complete epochs are kept, if there are any: the estimator predicts, and a
            ConvergenceWarning says how many they are.
        """
        return self._fit(X, y, sample_weight, partial(self._with_classes, labels=aux_target))

    def _with_classes(self, target: Target, labels: Any) -> Target:
        """Add the class codes to the targets, with their loss and link function."""
        if labels is None:
            return target
        labels = column_or_1d(labels, warn=True)
        check_consistent_length(target.values, labels)
        assert_all_finite(labels, input_name="aux_target")
        check_classification_targets(labels)
        self.aux_classes_, codes = np.unique(labels, return_inverse=True)
        n_targets, n_classes = target.n_outputs, len(self.aux_classes_)
        if n_classes < 2:
            msg = (
                f"aux_target needs at least two classes, but has only one: "
                f"{self.aux_classes_.tolist()[0]!r}. Leave it out."
            )
            raise ValueError(msg)
        return Target(
            np.column_stack([target.values, codes]).astype(np.float32),
            codes,
            with_classes(target.loss, n_targets, n_classes, self.target_weight, self.aux_weight),
            f"{n_targets}+{'sigmoid' if n_classes == 2 else 'softmax'}",
            n_targets + (1 if n_classes == 2 else n_classes),
        )

    def _check_params(self) -> None:
        super()._check_params()
        for name in ("target_weight", "aux_weight"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 <= float(value) < np.inf:
                raise ValueError(f"{name}={value!r} must be a number of at least 0.")

    @available_if(_has_classes)  # type: ignore[untyped-decorator]
    def predict_aux_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of every class of the `aux_target`.

        Available if `fit` had an `aux_target`.

        Parameters
        ----------
        X : array-like of shape (n_samples, H, W), (n_samples, H, W, C) or (n_samples, n_features)
            Images.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `aux_classes_`; the weighted mean over members, averaged over the test-time
            views if `augmentation` is set and `tta` is true.
        """
        check_is_fitted(self, "ensemble_")
        out = self._predict_outputs(X)[:, len(self._target_mean) :]
        return class_probabilities(out)
