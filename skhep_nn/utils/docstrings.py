"""Text that the docstrings of several estimators share."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["with_common_parameters"]

T = TypeVar("T", bound=type)

_COMMON = """n_members : int, default=1
        Number of networks. With more than one, member k is trained on all stratified folds but fold k
        and validated on that one, its best pass is kept, and its weight in the mean of the predictions
        is proportional to 1 / its validation loss.
    augmentation : augmenter, default=None
        For example `EventAugmenter()`: draws a fresh random copy of every row of every batch.
    tta : bool, default=True
        Test-time augmentation: predictions are the mean over the augmenter's fixed set of views.
    schedule : schedule, default=None
        Learning rate and momentum of every step; None is `OneCycle()`.
    averaging : averaging, default=None
        What becomes of the states that training passes through: `StochasticWeightAveraging()` averages
        the weights of every member, `SnapshotEnsemble()` and `FastGeometricEnsemble()` make networks
        of their own of several states. None keeps each member's best pass.
    optimizer : {"adam", "adamw", "sgd", "rmsprop"} or torch optimiser class, default="adam"
        Takes the steps.
    weight_decay : float, default=0.0
        L2 penalty (decoupled for "adamw").
    batch_size : int, default=256
        Most rows of a batch; the rows of a pass are cut into batches of equal size.
    max_epochs : int, default=None
        Full passes over the training rows; None is 15, or as many as make 200 steps where the rows are
        few.
    validation_fraction : float, default=0.1
        Share of the rows held back for early stopping, with one member.
    early_stopping : bool or int, default=False
        A number stops a member after so many passes without a better validation loss; True means
        ten. With one member this holds back `validation_fraction` of the rows.{class_weight}
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", ...; "auto" is CUDA where there is one.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the forward pass; "auto" is bfloat16 for convolutions on a device that has instructions for
        it, float32 otherwise. Tables are always predicted in float32.
    compile : {"auto", True, False}, default="auto"
        Whether torch.compile turns the network into a faster one, which takes half a minute. "auto"
        does without; on CUDA it captures the training step as a graph, in less than a second.
    callbacks : list of skorch callbacks, default=None
        Any callback of skorch. They are copied: those that a fit has used are in ``net_.callbacks_``.
        Regressors train on scaled targets, in whose units callbacks see targets and predictions.
        Those that look at single batches slow training down. `schedule` overrules skorch's LRScheduler
        unless it is `Constant`.
    random_state : int, RandomState instance or None, default=None
        Seeds folds, starting values, order of the rows and augmentation.
    verbose : int, default=0
        1 shows skorch's table of passes."""

_CLASS_WEIGHT = """
    class_weight : dict, "balanced" or None, default=None
        Factors on the weights of each class; "balanced" scales the event weights so that all classes
        have the same total, while their ratios inside a class stay (eq. 3 of arXiv:2002.01427)."""


def with_common_parameters(cls: T) -> T:
    """Fill in the parameters that all network estimators have, at ``%(common)s``."""
    class_weight = _CLASS_WEIGHT if hasattr(cls, "predict_proba") else ""
    common = _COMMON.replace("{class_weight}", class_weight)
    cls.__doc__ = (cls.__doc__ or "").replace("%(common)s", common)
    return cls
