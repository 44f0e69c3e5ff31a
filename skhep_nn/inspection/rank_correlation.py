"""Rank correlations of features, with event weights."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from skhep_nn.inspection.feature_table import check_positive_weight, feature_table
from skhep_nn.utils.validation import BoolArray, FloatArray

__all__ = ["rank_correlations"]


def rank_correlations(
    X: Any, *, sample_weight: npt.ArrayLike | None = None, cluster: bool = True
) -> pd.DataFrame:
    """Compute Spearman's rank correlation of all pairs of features.

    A pair at 1 or -1 holds the same information twice: one is a monotonic function of the other.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n_samples, n_features)
        Features; NaN where undefined, such as the mass of two jets in an event with one.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights, at least 0. None: 1 each.
    cluster : bool, default=True
        Whether to order correlated features next to each other, by hierarchical clustering
        with the distance ``1 - |correlation|``. False keeps the order of `X`.

    Returns
    -------
    DataFrame of shape (n_features, n_features)
        Correlations from -1 to 1, names of features in index and columns. NaN where a feature does
        not vary.

    Raises
    ------
    ValueError
        If `X` holds anything but finite numbers and NaN, or a weight is negative.

    See Also
    --------
    mutual_dependence : Dependence of one feature on all others together.
    skhep_nn.plotting.RankCorrelationDisplay : Plot of the correlations.

    Notes
    -----
    Each pair is correlated over the events that have both. With weights the rank of a value is the
    weight of all events below it plus half the weight of events with the same value. The ranks are
    then correlated with weights: a weight of 2 counts as the same event twice.

    References
    ----------
    Section 3.1 of arXiv:2002.01427.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.inspection import rank_correlations
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> x[:, 2] = -np.exp(x[:, 0])
    >>> correlations = rank_correlations(x)
    >>> round(float(correlations.loc["x0", "x2"]), 3)
    -1.0
    >>> list(correlations.columns)
    ['x1', 'x2', 'x0']
    """
    values, names = feature_table(X)
    weight = check_positive_weight(sample_weight, len(values))
    correlations = _correlations(values, weight)
    order = _cluster_order(correlations) if cluster else list(range(len(names)))
    table = pd.DataFrame(correlations, index=names, columns=names)
    return table.iloc[order, order]


def _correlations(values: FloatArray, weight: FloatArray) -> FloatArray:
    """Correlate the ranks of all pairs of columns, each over the rows that have both."""
    defined = ~np.isnan(values)
    # Columns defined in the same rows, such as all that need two jets, are ranked together.
    patterns, pattern_of = np.unique(defined, axis=1, return_inverse=True)
    correlations = np.empty((values.shape[1],) * 2)
    for a, b in combinations_with_replacement(range(patterns.shape[1]), 2):
        rows: BoolArray = patterns[:, a] & patterns[:, b] & (weight > 0)
        block = np.ix_(np.flatnonzero(pattern_of == a), np.flatnonzero(pattern_of == b))
        ranks = [
            np.column_stack([_ranks(values[rows, j], weight[rows]) for j in columns.ravel()])
            for columns in block
        ]
        correlations[block] = _correlate(ranks[0], ranks[1], weight[rows])
        correlations.T[block] = correlations[block]
    return correlations


def _ranks(values: FloatArray, weight: FloatArray) -> FloatArray:
    """Return weighted ranks: the weight below each value, and half the weight of equal values."""
    _, place = np.unique(values, return_inverse=True)
    level = np.bincount(place, weight)
    ranks: FloatArray = (np.cumsum(level) - level / 2)[place]
    return ranks


def _correlate(left: FloatArray, right: FloatArray, weight: FloatArray) -> FloatArray:
    """Return weighted correlations of the columns of two arrays; NaN for constants."""
    if not len(weight):
        return np.full((left.shape[1], right.shape[1]), np.nan)
    left, right = (ranks - np.average(ranks, axis=0, weights=weight) for ranks in (left, right))
    spread = [np.sqrt(weight @ ranks**2) for ranks in (left, right)]
    # Rounding leaves a trace of spread in a constant column: its ranks are all half the total.
    spread = [np.where(s < 1e-10 * weight.sum() ** 1.5, np.nan, s) for s in spread]
    product = (left * weight[:, None]).T @ right
    correlation: FloatArray = np.clip(product / np.outer(*spread), -1, 1)
    return correlation


def _cluster_order(correlations: FloatArray) -> list[int]:
    """Return the order of a clustering in which neighbours are as close as possible."""
    if len(correlations) < 3:
        return list(range(len(correlations)))
    distance = 1 - np.abs(np.nan_to_num(correlations))
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), method="average", optimal_ordering=True)
    return [int(leaf) for leaf in leaves_list(tree)]
