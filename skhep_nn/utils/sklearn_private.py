"""Names of scikit-learn that it does not export, in one place: when one moves, only this file changes."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils.validation import _check_feature_names_in as check_feature_names_in
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _num_samples as num_samples

__all__ = [
    "check_feature_names_in",
    "check_method_params",
    "check_sample_weight",
    "has_categories",
    "histogram_trees",
    "initial_prediction",
    "num_samples",
    "safe_indexing",
]


def initial_prediction(model: Any, X: ArrayLike) -> NDArray[np.float64]:
    """Return what gradient boosting predicts before its first tree, with one column for each tree of a stage."""
    start: NDArray[np.float64] = model._raw_predict_init(X)
    return start


def histogram_trees(model: Any) -> list[Any]:
    """Return the trees of fitted histogram-based gradient boosting."""
    return [tree for stage in model._predictors for tree in stage]


def has_categories(model: Any) -> bool:
    """Whether histogram-based gradient boosting has cuts on categories."""
    mapper = model._bin_mapper
    return model._preprocessor is not None or bool(mapper.is_categorical_.any())
