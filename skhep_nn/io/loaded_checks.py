"""Checks of loaded objects: what a damaged or forged file could break is found before the object is used.

Compiled code of scikit-learn and numpy follows indices in arrays without looking whether they are in range, and a
file decides what is in these arrays. The checks here read arrays only; they never predict with compiled code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    RandomTreesEmbedding,
)
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)

from skhep_nn.ensemble import Ensemble
from skhep_nn.io.stored_types import CHECKED_TREES
from skhep_nn.utils.sklearn_private import has_categories, histogram_trees, initial_prediction

__all__ = ["check_loaded", "parts"]

_TREES = (DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor)
_FORESTS = (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    RandomTreesEmbedding,
)
_BOOSTED = (GradientBoostingClassifier, GradientBoostingRegressor)
_HISTOGRAM_BOOSTED = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)

_MERSENNE_WORDS = 624
_PHILOX_WORDS = 4

# Sizes of a network in a file are limited before it is built, for its constructor may loop over them.
_MOST_NEURONS = 10**7
_COUNTS_OF_LAYERS = ("depth", "convolutions")


def check_loaded(model: Any, trusted: Collection[str]) -> None:
    """Check all objects that a file made.

    Parameters
    ----------
    model : object
        What was loaded.
    trusted : collection of str
        Names of types that the user trusts; their arrays are not checked.

    Raises
    ------
    ValueError
        If an object could crash Python, or is not one that this package stores. The message completes
        "... is damaged: ".
    """
    found = list(parts(model))
    checked: set[int] = set()
    for part in found:
        if isinstance(part, BaseEstimator | Ensemble) and type(part).__module__.startswith(
            "skhep_nn"
        ):
            _check_attributes(part)
        for kinds, check in _CHECKS:
            if isinstance(part, kinds):
                checked.update(map(id, check(part) or ()))
    for part in found:
        name = f"{type(part).__module__}.{type(part).__qualname__}"
        if name in CHECKED_TREES and name not in trusted and id(part) not in checked:
            raise ValueError(
                f"{name} outside of the estimators of scikit-learn whose trees are checked; if you trust the "
                f"author of the file: trusted=[{name!r}]"
            )


def parts(model: Any) -> Iterator[Any]:
    """Yield an object and all objects in its attributes and containers, each once."""
    seen: dict[int, Any] = {}
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, str | bytes | bytearray | type):
            continue
        seen[id(part)] = part
        yield part
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list | tuple | set):
            waiting += part
        elif isinstance(part, np.ndarray):
            waiting += part.ravel().tolist() if part.dtype == object else ()
        else:
            waiting += getattr(part, "__dict__", {}).values()


def _check_attributes(part: Any) -> None:
    """Refuse attributes that replace methods; complete the parameters that an older version did not know."""
    kind = type(part)
    for name in vars(part):
        of_class = inspect.getattr_static(kind, name, None)
        if hasattr(of_class, "__get__") and not isinstance(of_class, cached_property):
            raise ValueError(f"{kind.__name__} with an attribute in place of its method {name}")
    if isinstance(part, BaseEstimator):
        for name, parameter in inspect.signature(kind).parameters.items():
            if name not in vars(part):
                if parameter.default is parameter.empty:
                    raise ValueError(f"{kind.__name__} without its parameter {name}")
                setattr(part, name, parameter.default)


def _check_tree(model: Any) -> list[Any]:
    """Check the tree of one decision tree of scikit-learn, and return it."""
    tree = getattr(model, "tree_", None)
    if tree is not None:
        _check_nodes(model, tree, model.n_features_in_)
    return [tree]


def _check_nodes(model: Any, tree: Any, n_features: int) -> None:
    name = type(model).__name__
    if tree.node_count != tree.capacity:
        raise ValueError(f"{name} with {tree.node_count} nodes in arrays of {tree.capacity}")
    if tree.n_outputs < 1 or tree.max_n_classes < 1:
        raise ValueError(f"{name} with a tree without values")
    nodes = tree.__getstate__()["nodes"]
    leaf = nodes["left_child"] == -1
    depth = _depth(name, nodes["left_child"], nodes["right_child"], leaf)
    # decision_path reserves memory for this depth.
    if depth > tree.max_depth:
        raise ValueError(f"{name} with a tree deeper than the stated {tree.max_depth}")
    _check_cuts(name, nodes["feature"][~leaf], nodes["threshold"][~leaf], n_features)


def _depth(name: str, left: NDArray[Any], right: NDArray[Any], leaf: NDArray[np.bool_]) -> int:
    """Return the depth of a tree, after a check that every node but the first is the child of one node before it."""
    inner = np.flatnonzero(~leaf)
    children = np.concatenate([left[inner], right[inner]]).astype(np.int64)
    parents = np.concatenate([inner, inner])
    n_nodes = len(leaf)
    if not np.array_equal(np.sort(children), np.arange(1, n_nodes)) or np.any(children <= parents):
        raise ValueError(f"{name} with children that form no tree")
    parent = np.zeros(n_nodes, dtype=np.int64)
    parent[children] = parents
    # Pointers are doubled: each step looks twice as far towards the root as the one before.
    steps = (np.arange(n_nodes) > 0).astype(np.int64)
    while parent.any():
        steps += steps[parent]
        parent = parent[parent]
    return int(steps.max())


def _check_cuts(name: str, feature: NDArray[Any], threshold: NDArray[Any], n_features: int) -> None:
    if feature.size and (feature.min() < 0 or feature.max() >= n_features):
        raise ValueError(f"{name} with cuts on features outside of its {n_features}")
    # A cut between present and missing values is at infinity.
    if np.isnan(threshold).any():
        raise ValueError(f"{name} with a threshold that is no number")


def _check_forest(model: Any) -> None:
    for member in getattr(model, "estimators_", ()):
        if not isinstance(member, _TREES) or member.n_features_in_ != model.n_features_in_:
            raise ValueError(f"{type(model).__name__} with members that do not fit to it")


def _check_boosted(model: Any) -> None:
    members = getattr(model, "estimators_", None)
    if members is None:
        return
    name = type(model).__name__
    for member in members.ravel():
        if (
            not isinstance(member, DecisionTreeRegressor)
            or member.n_features_in_ != model.n_features_in_
            or member.tree_.n_outputs != 1
        ):
            raise ValueError(f"{name} with trees that do not fit to it")
    if not (isinstance(model.init_, DummyClassifier | DummyRegressor) or model.init_ == "zero"):
        raise ValueError(f"{name} that starts from {type(model.init_).__name__}")
    start = initial_prediction(model, np.zeros((1, model.n_features_in_)))
    if members.ndim != 2 or start.shape[1] != members.shape[1]:
        raise ValueError(f"{name} with {members.shape} trees for {start.shape[1]} outputs")


def _check_histogram_boosted(model: Any) -> list[Any]:
    """Check the trees of histogram-based gradient boosting, and return them if they have no cuts on categories."""
    if not hasattr(model, "_predictors") or has_categories(model):
        # Sets of categories are bits in further arrays.
        return []
    name = type(model).__name__
    trees = histogram_trees(model)
    for tree in trees:
        nodes = tree.nodes
        leaf = nodes["is_leaf"] != 0
        _depth(name, nodes["left"], nodes["right"], leaf)
        inner = nodes[~leaf]
        _check_cuts(name, inner["feature_idx"], inner["num_threshold"], model.n_features_in_)
        if inner["is_categorical"].any():
            raise ValueError(f"{name} with cuts on categories that it does not have")
    return trees


def _check_random_state(generator: Any) -> None:
    state = (
        generator.bit_generator.state
        if isinstance(generator, np.random.Generator)
        else generator.get_state(legacy=False)
    )
    inner = state["state"]
    position = inner.get("pos", 0) if isinstance(inner, dict) else 0
    if not 0 <= position <= _MERSENNE_WORDS:
        raise ValueError(f"a random state at position {position} of {_MERSENNE_WORDS}")
    if not 0 <= state.get("buffer_pos", 0) <= _PHILOX_WORDS:
        raise ValueError(f"a random state at position {state['buffer_pos']} of {_PHILOX_WORDS}")


def _check_ensemble(ensemble: Ensemble) -> None:
    """Check that states, weights and the network of an ensemble belong together."""
    missing = {"network", "network_params", "states", "weights"} - vars(ensemble).keys()
    if missing:
        raise ValueError(f"Ensemble without {', '.join(sorted(missing))}")
    states: Any = ensemble.states  # whatever the file says
    arrays = isinstance(states, dict) and all(isinstance(v, np.ndarray) for v in states.values())
    if not arrays or not states:
        raise ValueError("Ensemble with states that are no arrays")
    _check_sizes(ensemble.network_params, len(states))
    try:
        with torch.device("meta"):  # shapes without memory
            network = ensemble.network(**ensemble.network_params)
    except Exception as error:
        raise ValueError(f"Ensemble whose network cannot be built: {error}") from error
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    n_members = np.shape(ensemble.weights)
    found = {name: value.shape[1:] for name, value in states.items()}
    counts = {value.shape[:1] for value in states.values()}
    if found != expected or counts != {n_members}:
        raise ValueError("Ensemble with states that do not fit to its network or weights")
    for name, value in network.state_dict().items():
        if states[name].dtype.kind not in ("f" if value.is_floating_point() else "iub"):
            raise ValueError(f"Ensemble with a state {name} of dtype {states[name].dtype}")
    vars(ensemble)["_runtime"] = {}
    weights = ensemble.weights
    if weights.dtype.kind != "f" or not np.isfinite(weights).all() or np.any(weights < 0):
        raise ValueError(f"Ensemble with the weights {weights}")


def _check_sizes(value: Any, n_states: int, name: str = "") -> None:
    """Refuse numbers in the parameters of a network that no stored network has."""
    if isinstance(value, dict):
        for key, part in value.items():
            _check_sizes(part, n_states, str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            _check_sizes(part, n_states, name)
    elif isinstance(value, int):
        most = n_states if name in _COUNTS_OF_LAYERS else _MOST_NEURONS
        if abs(value) > most:
            raise ValueError(f"Ensemble with {name}={value}")


_CHECKS: tuple[tuple[Any, Callable[[Any], list[Any] | None]], ...] = (
    (_TREES, _check_tree),
    (_FORESTS, _check_forest),
    (_BOOSTED, _check_boosted),
    (_HISTOGRAM_BOOSTED, _check_histogram_boosted),
    ((np.random.RandomState, np.random.Generator), _check_random_state),
    (Ensemble, _check_ensemble),
)
