"""Checks of the parameters that all network estimators have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from skhep_nn.inputs.events import EventTransformer
from skhep_nn.inputs.images import ImageTransformer
from skhep_nn.inputs.waveforms import WaveformTransformer
from skhep_nn.kinematics.momenta import find_momenta
from skhep_nn.training.optimizers import OPTIMIZERS
from skhep_nn.utils.checks import is_count, is_flag, is_number

__all__ = [
    "PRECISIONS",
    "check_augmenter_of",
    "check_owners",
    "check_params",
    "check_rows_of",
    "check_searchable",
]

PRECISIONS = ("auto", "float32", "bfloat16")


def _is_device(value: Any) -> bool:
    if value == "auto":
        return True
    try:
        torch.device(value)
    except (RuntimeError, TypeError):
        return False
    return True


_ANY_OF = "must be one of {} or a torch optimizer class"
_CONSTRAINTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n_members": (is_count, "must be an integer of at least 1"),
    "batch_size": (is_count, "must be an integer of at least 1"),
    "max_epochs": (lambda v: v is None or is_count(v), "must be an integer of at least 1 or None"),
    "depth": (is_count, "must be an integer of at least 1"),
    "width": (lambda v: v == "auto" or is_count(v), "must be 'auto' or an integer of at least 1"),
    "growth_rate": (is_number, "must be a number"),
    "dropout": (lambda v: is_number(v) and 0 <= v < 1, "must lie in [0, 1)"),
    "dense": (is_flag, "must be True or False"),
    "tta": (is_flag, "must be True or False"),
    "weight_decay": (lambda v: is_number(v) and v >= 0, "must be a number of at least 0"),
    "validation_fraction": (lambda v: is_number(v) and 0 < v < 1, "must lie between 0 and 1"),
    "early_stopping": (
        lambda v: is_flag(v) or (is_count(v, 0)),
        "must be a boolean or a number of epochs",
    ),
    "monitor": (lambda v: v in ("loss", "accuracy"), "must be 'loss' or 'accuracy'"),
    "optimizer": (
        lambda v: v in OPTIMIZERS if isinstance(v, str) else callable(v),
        _ANY_OF.format(sorted(OPTIMIZERS)),
    ),
    "precision": (lambda v: v in PRECISIONS, f"must be one of {PRECISIONS}"),
    "compile": (lambda v: v == "auto" or is_flag(v), "must be 'auto', True or False"),
    "device": (_is_device, "must be 'auto' or a device of torch, such as 'cpu' or 'cuda:1'"),
    "schedule": (
        lambda v: v is None or hasattr(v, "rates"),
        "must be a schedule such as OneCycle()",
    ),
    "averaging": (
        lambda v: v is None or hasattr(v, "n_skipped") or hasattr(v, "shares"),
        "must be an object such as StochasticWeightAveraging() or None",
    ),
    "callbacks": (
        lambda v: v is None or isinstance(v, list | tuple),
        "must be a list of skorch callbacks or None",
    ),
}


def check_params(estimator: Any) -> None:
    """Raise ValueError for the first invalid parameter."""
    for name, value in estimator.get_params(deep=False).items():
        allowed, text = _CONSTRAINTS.get(name, (None, ""))
        if allowed is not None and not allowed(value):
            raise ValueError(f"{name}={value!r} {text}.")
    _check_is_augmenter(estimator.augmentation)
    check_augmenter_of(estimator, "augmentation", estimator.augmentation)


# Kinds of data, the base class of their transformers, and an augmenter.
_KINDS: dict[str, tuple[type, str]] = {
    "events": (EventTransformer, "EventAugmenter()"),
    "images": (ImageTransformer, "ImageAugmenter()"),
    "traces": (WaveformTransformer, "WaveformAugmenter()"),
}


def _kind_of(augmenter: Any) -> str | None:
    """Return the kind of data of an augmenter of this package, None for others."""
    return next((kind for kind, (base, _) in _KINDS.items() if isinstance(augmenter, base)), None)


def check_augmenter_of(estimator: Any, name: str, augmenter: Any) -> None:
    """Raise TypeError if an augmenter is for another kind of data than a network estimator.

    Parameters
    ----------
    estimator : estimator
        Nothing is known of estimators of other packages, except for searches over networks.
    name : str
        Parameter that holds the augmenter.
    augmenter : augmenter or None
        Nothing is known of augmenters of other packages.
    """
    while not hasattr(estimator, "_called") and hasattr(estimator, "estimator"):
        estimator = estimator.estimator
    kind, wanted = _kind_of(augmenter), getattr(estimator, "_called", None)
    if kind is not None and wanted in _KINDS and kind != wanted:
        msg = (
            f"{name}={augmenter!r} is for {kind}, but {type(estimator).__name__} takes {wanted}; use "
            f"{_KINDS[wanted][1]}."
        )
        raise TypeError(msg)


def check_rows_of(augmenter: Any, X: Any) -> None:
    """Raise TypeError if an augmenter would take the columns of a table for pixels or points, or arrays for tables.

    Parameters
    ----------
    augmenter : augmenter
        Nothing is known of augmenters of other packages.
    X : DataFrame or ndarray
        Data to augment.
    """
    kind, n_axes = _kind_of(augmenter), np.ndim(X)
    names = [str(name) for name in X.columns] if hasattr(X, "columns") else []
    if kind == "events" and n_axes > 2:
        others = " or ".join(_KINDS[other][1] for other in ("images", "traces"))
        msg = f"{augmenter!r} is for events, rows of a table, but X has the shape {X.shape}; use {others}."
    elif kind == "images" and n_axes == 2 and augmenter.image_shape is None:
        msg = (
            f"{augmenter!r} would take the {X.shape[1]} columns of X for the pixels of an image of one row. Give "
            "image_shape=(height, width) if they are pixels; events, rows of a table, need EventAugmenter()."
        )
    elif kind == "traces" and find_momenta(names):
        msg = (
            f"{augmenter!r} would take the columns of X for points in time, but they are momenta of events: "
            f"{names[:5]}; use EventAugmenter()."
        )
    else:
        return
    raise TypeError(msg)


def _check_is_augmenter(augmentation: Any) -> None:
    """Raise TypeError if the object is no augmenter."""
    if augmentation is None:
        return
    missing = [
        name
        for name in ("fit", "transform_tensor", "view_tensor")
        if not hasattr(augmentation, name)
    ]
    if missing:
        msg = (
            f"augmentation={augmentation!r} is no augmenter, it has no {' and no '.join(missing)}; use "
            "for example EventAugmenter()."
        )
        raise TypeError(msg)


def check_owners(model: Any, names: set[str]) -> None:
    """Raise ValueError if a nested parameter belongs to an object that is None and is not set as well."""
    for name in sorted(names):
        owner, nested, _ = name.partition("__")
        if nested and owner not in names and getattr(model, owner, model) is None:
            example = ", such as schedule=OneCycle()" if owner == "schedule" else ""
            msg = f"{name} cannot be set while {owner} is None: give an object first{example}."
            raise ValueError(msg)


def check_searchable(model: Any, names: set[str]) -> None:
    """Raise ValueError if a search names parameters that the model does not have."""
    check_owners(model, names)
    unknown = names - set(model.get_params())
    # Nested parameters may belong to an object that the search itself sets.
    unknown = {name for name in unknown if name.partition("__")[0] not in names - {name}}
    if unknown:
        msg = f"param_distributions names {sorted(unknown)}, which {type(model).__name__} does not have"
        raise ValueError(msg)
