"""Distance correlation of two quantities, with event weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from skhep_nn.utils.validation import FloatArray, check_vector, check_weight

__all__ = ["distance_correlation"]


def distance_correlation(
    x: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
) -> float:
    r"""Distance correlation of two quantities: 0 only if they are independent.

    Unlike a correlation coefficient it sees any dependence, not only a linear or monotonic one. With
    :math:`a_{ij} = |x_i - x_j|`, :math:`b_{ij} = |y_i - y_j|`, weighted means over rows and
    columns subtracted, and weights of total 1,

    .. math:: \mathrm{dCor}^2 = \frac{\sum w_i w_j a_{ij} b_{ij}}
        {\sqrt{\sum w_i w_j a_{ij}^2 \, \sum w_i w_j b_{ij}^2}}.

    Parameters
    ----------
    x, y : array-like of shape (n_samples,)
        Values, such as score and mass of background events.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights, not negative: a weight of 2 is the same event twice. None for unit weights.

    Returns
    -------
    float
        From 0 to 1, where 1 is a linear relation; 0 if either is constant. In a finite
        sample it is positive even for independent quantities, of the order of ``n_samples**-0.5``.

    Raises
    ------
    ValueError
        If lengths differ, a value is not finite, a weight is negative, or all are zero.

    Notes
    -----
    Time grows as ``n log(n)**2``, memory as ``n``: the sums over pairs are sums over events that come before
    another in both quantities, found by merging sorted halves.

    References
    ----------
    G. J. Szekely, M. L. Rizzo and N. K. Bakirov, arXiv:0803.4101; as a penalty: G. Kasieczka and
    D. Shih, arXiv:2001.05310.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.metrics import distance_correlation
    >>> x = np.linspace(-1, 1, 1001)
    >>> round(distance_correlation(x, 3 - x), 3)
    1.0
    >>> round(distance_correlation(x, x**2), 3), round(abs(float(np.corrcoef(x, x**2)[0, 1])), 3)
    (0.491, 0.0)
    """
    n = np.size(x)
    first, second = check_vector(x, n, "x"), check_vector(y, n, "y")
    weight = check_weight(sample_weight, n)
    if weight.min(initial=0.0) < 0 or not weight.sum() > 0:
        msg = (
            f"sample_weight must not be negative and must have a positive total, got a total of {weight.sum():g} "
            f"and a smallest weight of {weight.min(initial=0.0):g}; leave out events of negative weight or take "
            "their absolute values"
        )
        raise ValueError(msg)
    used = weight > 0
    weight = weight[used] / weight[used].sum()
    first, second = (_standardised(values[used], weight) for values in (first, second))
    product = _variance(first, weight) * _variance(second, weight)
    if product <= 0:
        return 0.0
    squared = _covariance(first, second, weight) / np.sqrt(product)
    return float(np.sqrt(np.clip(squared, 0.0, 1.0)))


def _standardised(values: FloatArray, weight: FloatArray) -> FloatArray:
    """Shift and scale values, which reduces rounding errors only; constants become zero."""
    values = values / max(np.abs(values).max(), np.finfo(float).tiny)
    centred: FloatArray = values - weight @ values
    spread = np.sqrt(weight @ centred**2)
    if spread <= 4 * np.finfo(float).eps:
        return np.zeros_like(values)
    return centred / spread


def _mean_distances(x: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the weighted mean distance of every event from all others."""
    order = np.argsort(x)
    x, w = x[order], weight[order]
    below, moment = np.cumsum(w), np.cumsum(w * x)
    means = np.empty_like(x)
    means[order] = x * (2 * below - below[-1]) - 2 * moment + moment[-1]
    return means


def _covariance(x: FloatArray, y: FloatArray, weight: FloatArray) -> float:
    """Return the squared distance covariance, for weights of total one."""
    a, b = _mean_distances(x, weight), _mean_distances(y, weight)
    product = _mean_product(x, y, weight)
    return float(product - 2 * weight @ (a * b) + (weight @ a) * (weight @ b))


def _variance(x: FloatArray, weight: FloatArray) -> float:
    """Return the squared distance variance, for weights of total one."""
    a = _mean_distances(x, weight)
    squares = 2 * (weight @ x**2 - (weight @ x) ** 2)
    return float(squares - 2 * weight @ a**2 + (weight @ a) ** 2)


def _mean_product(x: FloatArray, y: FloatArray, weight: FloatArray) -> float:
    """Return the weighted mean over pairs of the product of their distances."""
    order = np.argsort(x)
    x, y, w = x[order], y[order], weight[order]
    moments = np.column_stack([w, w * x, w * y, w * x * y])
    # A pair counts with a plus if x and y order its events alike, with a minus otherwise.
    signed = 2 * _sums_below(moments, y) - np.cumsum(moments, axis=0)
    one, of_x, of_y, of_both = signed.T
    return float(2 * w @ (x * y * one - y * of_x - x * of_y + of_both))


def _sums_below(values: FloatArray, y: FloatArray) -> FloatArray:
    """Sum values over earlier rows with a smaller y, by merging pairs of blocks of growing size."""
    n = len(y)
    by_y = np.argsort(y, kind="stable")
    sums = np.zeros_like(values)
    size = 1
    while size < n:
        pair = by_y // (2 * size)
        # Rows ordered by pair of blocks, and by y within a pair.
        order = by_y[np.argsort(pair, kind="stable")]
        is_right = (order // size) % 2 == 1
        total = np.cumsum(np.where(is_right[:, None], 0.0, values[order]), axis=0)
        right = order[is_right]
        start = right // (2 * size) * (2 * size)
        before = np.where(start[:, None] > 0, total[start - 1], 0.0)
        sums[right] += total[is_right] - before
        size *= 2
    return sums
