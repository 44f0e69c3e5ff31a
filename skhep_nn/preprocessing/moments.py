"""Weighted means and standard deviations of columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["weighted_moments"]

# Spread relative to the mean below which a column is constant up to rounding.
_CONSTANT_FLOAT32, _CONSTANT_FLOAT64 = 1e-7, 1e-12


def weighted_moments(
    X: NDArray[np.floating],
    sample_weight: NDArray[np.floating],
    *,
    tame_constants: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weighted mean and standard deviation of every column.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_columns)
        Finite values.
    sample_weight : ndarray of shape (n_samples,)
        Event weights. Their absolute values are used: with the negative weights of NLO generators a
        variance could become negative, and a scale only needs the right order of magnitude.
    tame_constants : bool, default=False
        Whether a constant column is scaled by its modulus. Used for inputs, so that a column that is
        constant here but varies in later data stays small. For targets the scale must stay 1, as predictions are
        multiplied by it.

    Returns
    -------
    mean : ndarray of shape (n_columns,)
        Weighted means.
    scale : ndarray of shape (n_columns,)
        Weighted standard deviations. For a column that is constant in the precision of X the scale
        is 1, or ``max(1, abs(mean))`` with `tame_constants`, so that dividing by it is safe.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.preprocessing import weighted_moments
    >>> mean, scale = weighted_moments(np.array([[0.0, 5.0], [2.0, 5.0]]), np.array([1.0, 3.0]))
    >>> mean, scale.round(3)
    (array([1.5, 5. ]), array([0.866, 1.   ]))
    >>> weighted_moments(np.array([[5.0], [5.0]]), np.ones(2), tame_constants=True)
    (array([5.]), array([5.]))
    """
    weight = np.abs(sample_weight, dtype=np.float64)
    weight = weight / weight.sum()
    mean = np.empty(X.shape[1])
    scale = np.empty(X.shape[1])
    for j in range(
        X.shape[1]
    ):  # column by column, so that only one column at a time is copied to float64
        column = X[:, j].astype(np.float64)
        mean[j] = weight @ column
        scale[j] = np.sqrt(weight @ (column - mean[j]) ** 2)
    rounding = _CONSTANT_FLOAT32 if X.dtype == np.float32 else _CONSTANT_FLOAT64
    constant = scale <= rounding * np.abs(mean)
    scale[constant] = np.maximum(1.0, np.abs(mean[constant])) if tame_constants else 1.0
    return mean, scale
