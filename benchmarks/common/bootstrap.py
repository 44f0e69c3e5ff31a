"""Bootstrap of the area under the ROC curve, which compares models on the same draws of the test set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

Array = NDArray[Any]


def bootstrap(target: Array, probas: dict[str, Array], n_draws: int, seed: int) -> pd.DataFrame:
    """Return the area under the ROC curve of every model (columns) for every draw (rows)."""
    rng = np.random.default_rng(seed)
    areas = []
    for _ in range(n_draws):
        rows = rng.integers(0, len(target), len(target))
        areas.append({n: roc_auc_score(target[rows], p[rows]) for n, p in probas.items()})
    return pd.DataFrame(areas)
