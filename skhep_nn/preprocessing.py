"""Weighted moments of columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["weighted_moments"]

# Relative spread under which a float32 column holds nothing but rounding.
_CONSTANT = 1e-7


def weighted_moments(
    X: NDArray[np.floating], sample_weight: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weighted mean and standard deviation of every column.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_columns)
        Finite values.
    sample_weight : ndarray of shape (n_samples,)
        Event weights. Their absolute values are used: with the negative weights of NLO generators a
        variance could come out negative, and a scale only has to be of the right size.

    Returns
    -------
    mean : ndarray of shape (n_columns,)
        Weighted means.
    scale : ndarray of shape (n_columns,)
        Weighted standard deviations; 1 for a constant column, so that dividing by it is safe.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.preprocessing import weighted_moments
    >>> mean, scale = weighted_moments(np.array([[0.0, 5.0], [2.0, 5.0]]), np.array([1.0, 3.0]))
    >>> mean, scale.round(3)
    (array([1.5, 5. ]), array([0.866, 1.   ]))
    """
    weight = np.abs(sample_weight, dtype=np.float64)
    weight = weight / weight.sum()
    mean = np.empty(X.shape[1])
    scale = np.empty(X.shape[1])
    for j in range(X.shape[1]):  # a column at a time: one float64 copy of a column, never of X
        column = X[:, j].astype(np.float64)
        mean[j] = weight @ column
        scale[j] = np.sqrt(weight @ (column - mean[j]) ** 2)
    scale[scale <= _CONSTANT * np.abs(mean)] = 1.0
    return mean, scale
