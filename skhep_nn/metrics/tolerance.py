"""Share of predictions that agree with the truth to a number of decimals."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import make_scorer
from sklearn.utils.validation import check_array

from skhep_nn.utils.public import public
from skhep_nn.utils.validation import check_weight

__all__ = ["make_within_tolerance_scorer", "within_tolerance_score", "within_tolerance_scorer"]

# Double precision holds no more digits.
_MOST_DECIMALS = 15


@public("skhep_nn")
def within_tolerance_score(
    y: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    *,
    decimals: int = 1,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    r"""Share of predictions that round to the same decimals as the truth.

    With one decimal it is the accuracy published for the separation of two pulses: the mean of
    :math:`\mathrm{round}(10\,y) = \mathrm{round}(10\,\hat y)`, halves rounded to even as numpy,
    Keras and torch do.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        True values.
    y_pred : array-like of the same shape
        Predictions.
    decimals : int, default=1
        Decimals that have to agree, from -15 to 15: 1 for tenths, 0 for whole numbers, -1 for tens.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights, None for unit weights. Negative ones are accepted so long as their total is
        positive.

    Returns
    -------
    float
        From 0 to 1 without negative weights; the mean over outputs.

    Raises
    ------
    TypeError
        If `decimals` is no integer.
    ValueError
        If `decimals` is out of range, shapes differ, a value is not finite, a number is too large
        for its type to be rounded, or the sum of the weights is not positive.

    See Also
    --------
    make_within_tolerance_scorer : The same for ``scoring=``.

    Notes
    -----
    It is a score of bins, not of distances: predictions of 0.149 and 0.151 disagree, 0.151 and 0.249
    agree. With errors that are Gaussian, of standard deviation :math:`\sigma` far below the width of
    a bin :math:`w`, and truths spread evenly it is :math:`1 - \sqrt{2 / \pi}\,\sigma / w`, so that
    an error of a tenth of a bin costs eight percent.

    Truth and predictions are rounded in their respective precision: 0.35 in single precision is the same tenth as in double
    precision.

    References
    ----------
    M. Duarte, "Data challenge", LIP Data Science School 2022, Coimbra (``my_acc``).

    Examples
    --------
    >>> from skhep_nn.metrics import within_tolerance_score
    >>> within_tolerance_score([0.12, 0.48, 0.71, 0.97], [0.13, 0.56, 0.68, 1.06])
    0.5
    >>> within_tolerance_score([0.12, 0.48, 0.71, 0.97], [0.13, 0.56, 0.68, 1.06], decimals=0)
    0.75
    """
    given: Any = decimals
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise TypeError(f"decimals must be an integer, got {given!r}.")
    if abs(decimals) > _MOST_DECIMALS:
        raise ValueError(
            f"decimals must be from {-_MOST_DECIMALS} to {_MOST_DECIMALS}, got {decimals}."
        )
    truth, predicted = _columns(y, "y"), _columns(y_pred, "y_pred")
    if truth.shape != predicted.shape:
        raise ValueError(
            f"y_pred has shape {np.shape(y_pred)}, expected {np.shape(y)} like y: one prediction for "
            "every true value."
        )
    weight = check_weight(sample_weight, len(truth))
    total = float(weight.sum())
    if not 0 < total < np.inf:
        raise ValueError(
            f"sample_weight sums to {total:g}; a mean needs a positive, finite total of weights."
        )
    agree = _rounded(truth, int(decimals), "y") == _rounded(predicted, int(decimals), "y_pred")
    return float(weight @ agree.mean(axis=1)) / total


def _columns(values: npt.ArrayLike, name: str) -> npt.NDArray[np.floating]:
    """Return values as a finite matrix; float32 and float64 keep their precision."""
    if np.ndim(values) == 0:
        raise ValueError(f"{name} is a single number, expected shape (n_samples,).")
    matrix: npt.NDArray[np.floating] = check_array(
        values, ensure_2d=False, dtype=[np.float64, np.float32], input_name=name
    )
    return matrix[:, np.newaxis] if matrix.ndim == 1 else matrix


def _rounded(
    values: npt.NDArray[np.floating], decimals: int, name: str
) -> npt.NDArray[np.floating]:
    """Return values in units of the last decimal, rounded."""
    unit = 10.0 ** abs(decimals)
    with np.errstate(over="ignore"):
        rounded: npt.NDArray[np.floating] = np.rint(
            values * unit if decimals >= 0 else values / unit
        )
    if not np.isfinite(rounded).all():
        raise ValueError(
            f"{name} holds values too large for {decimals} decimals in {values.dtype}; ask for fewer."
        )
    return rounded


def make_within_tolerance_scorer(*, decimals: int = 1) -> Any:
    """Make a scorer of `within_tolerance_score` for ``scoring=`` in cross-validation and searches.

    Parameters
    ----------
    decimals : int, default=1
        As in :func:`within_tolerance_score`.

    Returns
    -------
    callable
        A scikit-learn scorer of ``predict``; the larger the better. Event weights reach it by
        metadata routing (``set_score_request(sample_weight=True)``).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from skhep_nn.metrics import make_within_tolerance_scorer
    >>> X = np.linspace(0, 1, 40)[:, np.newaxis]
    >>> scorer = make_within_tolerance_scorer(decimals=2)
    >>> cross_val_score(LinearRegression(), X, X.ravel(), scoring=scorer, cv=2).tolist()
    [1.0, 1.0]
    """
    return make_scorer(within_tolerance_score, decimals=decimals)


within_tolerance_scorer = make_within_tolerance_scorer()
"""Scorer with the defaults. To set score requests, make another scorer by ``make_within_tolerance_scorer()``."""
