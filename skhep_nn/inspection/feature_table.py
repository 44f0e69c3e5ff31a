"""Checks of tables of features and of their event weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_numeric_dtype
from sklearn.utils import check_array

from skhep_nn.utils.validation import FloatArray, check_weight

__all__ = ["FeatureTable", "check_positive_weight", "feature_table"]


class FeatureTable(NamedTuple):
    """Numbers of shape (n_samples, n_features), NaN where undefined, and the names of the columns."""

    values: FloatArray
    names: list[str]


def feature_table(X: Any, *, n_least: int = 1) -> FeatureTable:
    """Read at least two rows and `n_least` columns of numbers; NaN is allowed."""
    if isinstance(X, pd.DataFrame):
        strange = [str(name) for name, dtype in X.dtypes.items() if not is_numeric_dtype(dtype)]
        if strange:
            raise ValueError(
                f"columns {strange} of X do not hold numbers: leave them out, or encode them first"
            )
    columns = getattr(X, "columns", None)
    values: FloatArray = check_array(
        X,
        dtype=np.float64,
        ensure_all_finite=False,
        ensure_min_samples=2,
        ensure_min_features=n_least,
        input_name="X",
    )
    names = (
        [f"x{j}" for j in range(values.shape[1])] if columns is None else list(map(str, columns))
    )
    infinite = [names[j] for j in np.flatnonzero(np.isinf(values).any(axis=0))]
    if infinite:
        raise ValueError(
            f"Input X contains infinity in {infinite}: mark what is undefined by NaN instead"
        )
    return FeatureTable(values, names)


def check_positive_weight(sample_weight: npt.ArrayLike | None, n: int) -> FloatArray:
    """Return event weights, refusing negative ones and a total of zero."""
    weight = check_weight(sample_weight, n)
    n_negative = int(np.sum(weight < 0))
    if n_negative:
        raise ValueError(
            f"{n_negative} of {n} sample weights are negative, expected weights of at least 0: "
            "forests draw rows in proportion to them; take their absolute values or leave the rows out"
        )
    if not weight.any():
        raise ValueError(f"all {n} sample weights are zero, expected a positive total")
    return weight
