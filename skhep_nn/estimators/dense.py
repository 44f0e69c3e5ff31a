"""Densely connected networks for rows of physics features."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skhep_nn.estimators.base import EncodedData
from skhep_nn.estimators.decorrelation import check_decorrelation, with_decorrelation
from skhep_nn.estimators.tables import TableEstimator
from skhep_nn.estimators.targets import BaseNetworkClassifier, BaseNetworkRegressor
from skhep_nn.networks.dense import DenseNet
from skhep_nn.networks.dense_layers import CategoricalColumn, embedding_size
from skhep_nn.networks.split_dense import FeatureBlock, SplitDenseNet
from skhep_nn.preprocessing.moments import weighted_moments
from skhep_nn.training.job import Job
from skhep_nn.utils.checks import is_count, is_integer
from skhep_nn.utils.public import public

__all__ = ["DenseNetClassifier", "DenseNetRegressor"]


class _DenseNetEstimator(TableEstimator, ABC):
    """Base class of classifier and regressor: builds the `DenseNet` of a table."""

    def _embeddings(self) -> list[CategoricalColumn]:
        """Return the embedding of every categorical column."""
        sizes = self.embedding_sizes
        is_auto = isinstance(sizes, str) and sizes == "auto"
        numbers = [] if is_auto else sizes.values() if isinstance(sizes, Mapping) else [sizes]
        if not all(is_count(size) for size in numbers):
            msg = (
                f"embedding_sizes={sizes!r} must be 'auto', an integer of at least 1, or a mapping "
                "from columns of categorical_features to such integers."
            )
            raise ValueError(msg)
        given: dict[int, Any] = {}
        if isinstance(sizes, Mapping):
            positions = self._reader.positions(list(sizes), "embedding_sizes")
            unknown = self._reader.names([j for j in positions if j not in self._categorical])
            if unknown:
                msg = f"embedding_sizes names {unknown}, which categorical_features does not."
                raise ValueError(msg)
            given = {self._reader.position(c, "embedding_sizes"): size for c, size in sizes.items()}
        elif not is_auto:
            given = dict.fromkeys(self._categorical, sizes)
        columns = []
        for j in self._categorical:
            n = len(self.categories_[j])
            columns.append(CategoricalColumn(j, n, int(given.get(j, embedding_size(n)))))
        return columns

    def _network(self, n_outputs: int) -> tuple[type[nn.Module], dict[str, Any]]:
        params = {
            "n_features": self.n_features_in_,
            "n_outputs": n_outputs,
            "categorical": self._embeddings(),
        }
        for name in ("depth", "width", "growth_rate", "dense", "activation", "dropout"):
            params[name] = getattr(self, name)
        if self.blocks is None:
            if self.bottleneck:
                msg = f"bottleneck={self.bottleneck!r} connects blocks: name them in blocks=."
                raise ValueError(msg)
            return DenseNet, params
        return SplitDenseNet, params | {
            "blocks": self._feature_blocks(),
            "bottleneck": self.bottleneck,
        }

    def _feature_blocks(self) -> dict[str, FeatureBlock]:
        """Return the blocks with column numbers."""
        if not isinstance(self.blocks, Mapping):
            msg = f"blocks={self.blocks!r} must be a mapping from names to columns or FeatureBlock."
            raise TypeError(msg)
        if not is_integer(self.bottleneck):
            raise ValueError(f"bottleneck={self.bottleneck!r} must be an integer of at least 0.")
        everything = range(self.n_features_in_)
        blocks = {}
        for name, given in self.blocks.items():
            block = given if isinstance(given, FeatureBlock) else FeatureBlock(given)
            own: Any = everything
            if block.columns is not None:
                own = self._reader.positions(block.columns, f"block {name!r}")
            blocks[str(name)] = block._replace(columns=list(own))
        left = set(everything).difference(*(block.columns or () for block in blocks.values()))
        if left:
            msg = (
                f"columns {self._reader.names(sorted(left))} of X are in no block; add them to one of blocks= "
                "or leave them out of X."
            )
            raise ValueError(msg)
        return blocks

    def _input_state(self, X: NDArray[np.float32], weight: NDArray[np.float64]) -> dict[str, Any]:
        is_number = ~np.isin(np.arange(X.shape[1]), self._categorical)
        numbers = X[:, is_number] if self._categorical else X
        mean, scale = weighted_moments(numbers, weight, tame_constants=True)
        # Values that are too small for float32, of which `fit` warns, must not divide by zero.
        scale[scale.astype(np.float32) == 0] = 1
        return {
            "input_stage.mean": torch.as_tensor(mean, dtype=torch.float32),
            "input_stage.scale": torch.as_tensor(scale, dtype=torch.float32),
        }


@public("skhep_nn")
class DenseNetClassifier(_DenseNetEstimator, BaseNetworkClassifier):
    """Ensemble of densely connected networks that classifies rows of physics features.

    Follows the HiggsML study (arXiv:2002.01427). With ``n_members=10``,
    ``augmentation=EventAugmenter()``, ``categorical_features=["PRI_jet_num"]``, an embedding of 3,
    ``class_weight="balanced"`` and the other defaults it is the final solution of that study.

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
    depth : int, default=6
        Number of hidden layers.
    width : int or "auto", default="auto"
        Neurons of the first hidden layer; "auto" is the number of inputs, embeddings included.
    growth_rate : float, default=0.0
        Layer d, from zero, has ``width * (1 + d * growth_rate)`` neurons.
    dense : bool, default=True
        Whether each layer is connected to the outputs of all layers before it.
    activation : {"swish", "relu", "selu", "prelu"}, default="swish"
        Activation of the hidden layers, each with the initialisation that suits it.
    dropout : float, default=0.0
        Dropout rate after every hidden activation; on a CPU rounded to a multiple of 1/256, at least 1/256.
    categorical_features : sequence of str or int, or boolean mask, default=None
        Columns with categories (any integers or strings), by name or number, or a mask of all columns:
        each gets an embedding. A category that was not seen at fit has a separate entry.
    embedding_sizes : "auto", int or dict, default="auto"
        Length of the embeddings, for all or by column; "auto" is ``min(50, (n + 1) // 2)``.
    stratify_by : str or int, default=None
        Column that refines the strata of the folds: the study stratifies by class within the number
        of jets.
    blocks : dict of str to columns or FeatureBlock, default=None
        Groups of columns with separate layers, joined by the output layer: a `SplitDenseNet`. Columns by
        name or number, a boolean mask, or None for all; a `~skhep_nn.networks.FeatureBlock` also sets
        depth and width of its layers. None: all columns go through the same layers.
    bottleneck : int, default=0
        With `blocks`: number of neurons to which each block is compressed as input of the other blocks.
    decorrelate : str or int, default=None
        Column, such as a mass, on which the score of background events should not depend, so that a cut
        on the score does not sculpt its spectrum. The column remains an input. The loss of each event
        gets a penalty: `decorrelation_strength` times the squared distance correlation of column and
        score among the background events of its batch (DisCo, arXiv:2001.05310), with event weights.
        Losses of validation and ``history_`` include it. A suitable strength depends on the batch size,
        as column and score of a few events are correlated by chance.
    decorrelation_strength : float, default=1.0
        With `decorrelate`: factor of the penalty; 0 trains without penalty.
    decorrelation_range : tuple of two floats, default=None
        With `decorrelate`: range of the column; only background events inside it enter the penalty, for
        example events with a defined mass near the signal. None: all background events.
    background_label : label, default=None
        With `decorrelate`: background class, whose probability is the score. None: the first of
        `classes_`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    ensemble_ : Ensemble
        The fitted members, as numpy arrays, and their weights.
    history_ : DataFrame
        A row for every member and epoch: member, epoch, train_loss, valid_loss, lr, momentum, seconds.
    augmenter_ : augmenter or None
        The fitted copy of `augmentation`.
    categories_ : dict of int to ndarray
        Categories of the categorical columns, by column number; only if there are any.
    net_ : MemberNet
        The skorch net after training; not kept by pickle.
    n_features_in_ : int
        Number of columns seen at fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X had any.

    See Also
    --------
    DenseNetRegressor : Dense networks for continuous targets.
    AugmentedClassifier : Augmentation around any other classifier.

    References
    ----------
    arXiv:2002.01427 (the study), arXiv:1608.06993 (dense connections), arXiv:1604.06737 (entity
    embeddings), arXiv:1710.05941 (swish), arXiv:1803.09820 (1cycle).

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skhep_nn import CartesianMomenta, DenseNetClassifier, EventAugmenter, make_higgs_events
    >>> events = make_higgs_events(2000, random_state=0)
    >>> model = make_pipeline(
    ...     CartesianMomenta(),
    ...     DenseNetClassifier(
    ...         n_members=2,
    ...         augmentation=EventAugmenter(),
    ...         categorical_features=["PRI_jet_num"],
    ...         class_weight="balanced",
    ...         max_epochs=3,
    ...         random_state=0,
    ...     ),
    ... )
    >>> weights = {"densenetclassifier__sample_weight": events.sample_weight}
    >>> model.fit(events.data, events.target, **weights).predict_proba(events.data).shape
    (2000, 2)
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
        depth: int = 6,
        width: int | Literal["auto"] = "auto",
        growth_rate: float = 0.0,
        dense: bool = True,
        activation: str = "swish",
        dropout: float = 0.0,
        categorical_features: Sequence[str | int | bool] | str | int | None = None,
        embedding_sizes: int | Literal["auto"] | Mapping[str | int, int] = "auto",
        stratify_by: str | int | None = None,
        blocks: Mapping[str, Any] | None = None,
        bottleneck: int = 0,
        decorrelate: str | int | None = None,
        decorrelation_strength: float = 1.0,
        decorrelation_range: tuple[float, float] | None = None,
        background_label: Any = None,
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
        self.depth = depth
        self.width = width
        self.growth_rate = growth_rate
        self.dense = dense
        self.activation = activation
        self.dropout = dropout
        self.categorical_features = categorical_features
        self.embedding_sizes = embedding_sizes
        self.stratify_by = stratify_by
        self.blocks = blocks
        self.bottleneck = bottleneck
        self.decorrelate = decorrelate
        self.decorrelation_strength = decorrelation_strength
        self.decorrelation_range = decorrelation_range
        self.background_label = background_label

    def _check_params(self) -> None:
        super()._check_params()
        check_decorrelation(self.decorrelation_strength, self.decorrelation_range)

    def _job(self, X: Any, data: EncodedData) -> Job:
        return with_decorrelation(self, self._reader, super()._job(X, data))


@public("skhep_nn")
class DenseNetRegressor(_DenseNetEstimator, BaseNetworkRegressor):
    """Ensemble of densely connected networks that predicts one or many targets from rows of features.

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
    depth : int, default=6
        Number of hidden layers.
    width : int or "auto", default="auto"
        Neurons of the first hidden layer; "auto" is the number of inputs, embeddings included.
    growth_rate : float, default=0.0
        Layer d, from zero, has ``width * (1 + d * growth_rate)`` neurons.
    dense : bool, default=True
        Whether each layer is connected to the outputs of all layers before it.
    activation : {"swish", "relu", "selu", "prelu"}, default="swish"
        Activation of the hidden layers, each with the initialisation that suits it.
    dropout : float, default=0.0
        Dropout rate after every hidden activation; on a CPU rounded to a multiple of 1/256, at least 1/256.
    categorical_features : sequence of str or int, or boolean mask, default=None
        Columns with categories (any integers or strings), by name or number, or a mask of all columns:
        each gets an embedding.
    embedding_sizes : "auto", int or dict, default="auto"
        Length of the embeddings, for all or by column; "auto" is ``min(50, (n + 1) // 2)``.
    stratify_by : str or int, default=None
        Column whose values have the same proportions in all folds.
    blocks : dict of str to columns or FeatureBlock, default=None
        Groups of columns with separate layers, as in `DenseNetClassifier`.
    bottleneck : int, default=0
        With `blocks`: number of neurons to which each block is compressed as input of the other blocks.
    loss : {"squared_error", "absolute_error", "huber"}, default="squared_error"
        Loss on the scaled targets.

    Attributes
    ----------
    ensemble_ : Ensemble
        The fitted members, as numpy arrays, and their weights.
    history_ : DataFrame
        A row for every member and epoch: member, epoch, train_loss, valid_loss, lr, momentum, seconds.
    augmenter_ : augmenter or None
        The fitted copy of `augmentation`.
    categories_ : dict of int to ndarray
        Categories of the categorical columns, by column number; only if there are any.
    net_ : MemberNet
        The skorch net after training; not kept by pickle.
    n_features_in_ : int
        Number of columns seen at fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X had any.

    See Also
    --------
    DenseNetClassifier : Dense networks for classes.

    References
    ----------
    arXiv:2002.01427, section 3.9.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn import DenseNetRegressor
    >>> X = np.random.default_rng(0).normal(size=(500, 3))
    >>> y = X[:, 0] + 0.1 * X[:, 1] ** 2
    >>> model = DenseNetRegressor(max_epochs=50, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.9)
    True
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
        depth: int = 6,
        width: int | Literal["auto"] = "auto",
        growth_rate: float = 0.0,
        dense: bool = True,
        activation: str = "swish",
        dropout: float = 0.0,
        categorical_features: Sequence[str | int | bool] | str | int | None = None,
        embedding_sizes: int | Literal["auto"] | Mapping[str | int, int] = "auto",
        stratify_by: str | int | None = None,
        blocks: Mapping[str, Any] | None = None,
        bottleneck: int = 0,
        loss: str = "squared_error",
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
        self.depth = depth
        self.width = width
        self.growth_rate = growth_rate
        self.dense = dense
        self.activation = activation
        self.dropout = dropout
        self.categorical_features = categorical_features
        self.embedding_sizes = embedding_sizes
        self.stratify_by = stratify_by
        self.blocks = blocks
        self.bottleneck = bottleneck
        self.loss = loss
