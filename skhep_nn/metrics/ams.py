"""The Approximate Median Significance (AMS) and the choice of the cut on a score."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skhep_nn.utils.checks import is_number
from skhep_nn.utils.public import public
from skhep_nn.utils.validation import BoolArray, FloatArray, check_events, check_mask, check_score

# (1 + x) ln(1 + x) - x = x^2 (1/2 - x/6 + x^2/12 - ...): the coefficients in the brackets. Sixteen
# of them reach double precision below _SERIES_LIMIT, above it the closed form loses few digits.
_SERIES = np.array([(-1.0) ** k / (k * (k - 1)) for k in range(2, 18)])
_SERIES_LIMIT = 0.1


class AMSCurve(NamedTuple):
    """AMS against the cut on a score; all fields are arrays of shape (n_cuts,).

    Parameters
    ----------
    cuts : ndarray
        The distinct scores in increasing order. A cut selects the events with ``score >= cut``.
    ams : ndarray
        AMS of the events that the cut selects, NaN where a summed weight is negative.
    signal, background : ndarray
        Summed weights of the selected signal and background events.
    """

    cuts: FloatArray
    ams: FloatArray
    signal: FloatArray
    background: FloatArray


class BestCut(NamedTuple):
    """The chosen cut on a score, next to the cut of the maximal AMS.

    Parameters
    ----------
    cut : float
        Mean score of the events that rank highest by AMS.
    ams : float
        AMS of the events with ``score >= cut``, on the data that chose it.
    max_cut, max_ams : float
        The cut of the highest AMS on these data and that AMS, an optimistic upper limit.
    """

    cut: float
    ams: float
    max_cut: float
    max_ams: float


@public("skhep_nn")
def ams_score(
    y: npt.ArrayLike,
    selected: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    b_reg: float = 10.0,
    *,
    pos_label: Any = None,
) -> float:
    r"""Approximate Median Significance of a selection.

    .. math:: \mathrm{AMS} = \sqrt{2\left((s + b + b_r)\ln\left(1 + \frac{s}{b + b_r}\right)
        - s\right)}

    with :math:`s` and :math:`b` the summed weights of the selected signal and background events.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Binary labels: ``"s"``/``"b"``, 1/0, 1/-1, True/False or any other two classes.
    selected : array-like of bool of shape (n_samples,)
        True for the events in the signal region.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights: expected numbers of events. None counts each event once.
    b_reg : float, default=10.0
        The constant :math:`b_r` that regularises regions with little background. 10 in the challenge.
    pos_label : label, default=None
        Label of the signal. None means ``"s"`` for the labels s and b, else the larger of the two.

    Returns
    -------
    float
        The AMS, in standard deviations. Infinite where signal meets no background and `b_reg` is 0.

    Raises
    ------
    ValueError
        If the labels are not binary, lengths differ, a weight is not finite, or the weights of the
        selected signal or background sum to less than zero (possible with negative event weights).
    TypeError
        If `selected` is not boolean.

    Notes
    -----
    For :math:`s \ll b + b_r` the formula is a difference of nearly equal numbers; a series replaces
    it there, which tends to :math:`s / \sqrt{b + b_r}`. Equation 1 of arXiv:2002.01427 is misprinted.

    References
    ----------
    C. Adam-Bourdarios et al., "The Higgs boson machine learning challenge", PMLR 42 (2015);
    G. Cowan et al., arXiv:1007.1727; G. C. Strong, arXiv:2002.01427.

    Examples
    --------
    >>> from skhep_nn.metrics import ams_score
    >>> round(ams_score(["s", "b", "s"], [True, True, False], [10.0, 90.0, 5.0]), 4)
    0.984
    """
    is_signal, weight = check_events(y, sample_weight, pos_label)
    chosen = check_mask(selected, len(weight))
    check_b_reg(b_reg)
    signal = float(weight[chosen & is_signal].sum())
    background = float(weight[chosen & ~is_signal].sum())
    if signal < 0 or background < 0:
        raise ValueError(
            f"the selected weights sum to s={signal:g} and b={background:g}; the AMS needs both to be "
            "zero or more. With negative event weights select more events."
        )
    return float(_ams(np.array([signal]), np.array([background]), b_reg)[0])


def ams_curve(
    y: npt.ArrayLike,
    score: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    b_reg: float = 10.0,
    *,
    pos_label: Any = None,
) -> AMSCurve:
    """AMS of every cut that a score allows, in O(n log n).

    Parameters
    ----------
    y, sample_weight, b_reg, pos_label
        As in :func:`ams_score`.
    score : array-like of shape (n_samples,)
        The larger, the more signal-like: a column of ``predict_proba``, or a decision function.

    Returns
    -------
    AMSCurve
        One entry for each distinct score; a cut selects all events with equal scores or none. The
        AMS is NaN at cuts where a summed weight is negative.

    Raises
    ------
    ValueError
        If the labels are not binary, lengths differ, or a weight or score is not finite.

    References
    ----------
    G. C. Strong, arXiv:2002.01427, section 2.1.2.

    Examples
    --------
    >>> from skhep_nn.metrics import ams_curve
    >>> curve = ams_curve([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.9])
    >>> curve.cuts
    array([0.1, 0.4, 0.9])
    >>> curve.signal, curve.background
    (array([2., 2., 1.]), array([2., 1., 0.]))
    """
    is_signal, weight = check_events(y, sample_weight, pos_label)
    return _curve(is_signal, check_score(score, len(weight)), weight, b_reg)[0]


def best_cut(
    y: npt.ArrayLike,
    score: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    fraction: float = 0.1,
    *,
    b_reg: float = 10.0,
    pos_label: Any = None,
) -> BestCut:
    """Choose the cut on a score so that it holds on unseen events.

    Each event's score is taken as a cut and the events are ranked by the AMS at that cut; the mean
    score of the top `fraction` of the events is the cut. It follows the fluctuations of the AMS less
    than the cut of the maximum does.

    Parameters
    ----------
    y, score, sample_weight, b_reg, pos_label
        As in :func:`ams_curve`.
    fraction : float, default=0.1
        Share of all events (counted, not weighted) that enters the mean, in (0, 1]; at least one.

    Returns
    -------
    BestCut
        The cut, the AMS there, and the maximum with its cut. Cuts whose AMS is NaN rank last; of equal
        AMS the higher cut ranks first.

    Raises
    ------
    ValueError
        As :func:`ams_curve`; also if `fraction` is outside (0, 1], or no cut has a defined AMS.

    References
    ----------
    G. C. Strong, arXiv:2002.01427, section 2.1.2.

    Examples
    --------
    >>> from skhep_nn.metrics import best_cut
    >>> best = best_cut([0, 0, 1, 1], [0.1, 0.3, 0.6, 0.8], fraction=0.5)
    >>> round(best.cut, 3), best.max_cut
    (0.45, 0.6)
    """
    is_signal, weight = check_events(y, sample_weight, pos_label)
    return _choose_cut(is_signal, check_score(score, len(weight)), weight, fraction, b_reg)


def _ams(signal: FloatArray, background: FloatArray, b_reg: float) -> FloatArray:
    """Return the AMS of yields, element by element; NaN where a yield is negative."""
    b = background + b_reg
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x = signal / b
        series = np.polynomial.polynomial.polyval(np.minimum(x, _SERIES_LIMIT), _SERIES)
        ams = np.where(
            x < _SERIES_LIMIT,
            signal / np.sqrt(b) * np.sqrt(2.0 * series),
            np.sqrt(2.0 * ((signal + b) * np.log1p(x) - signal)),
        )
    ams[signal == 0] = 0.0
    ams[(signal < 0) | (background < 0)] = np.nan
    return ams


def _curve(
    is_signal: BoolArray, score: FloatArray, weight: FloatArray, b_reg: float
) -> tuple[AMSCurve, npt.NDArray[np.intp]]:
    """Return the AMS curve of checked arrays, and the number of events at each cut."""
    check_b_reg(b_reg)
    cuts, at, counts = np.unique(score, return_inverse=True, return_counts=True)
    yields = [
        np.bincount(at, np.where(rows, weight, 0.0), len(cuts))[::-1].cumsum()[::-1]
        for rows in (is_signal, ~is_signal)
    ]
    return AMSCurve(cuts, _ams(yields[0], yields[1], b_reg), *yields), counts


def _choose_cut(
    is_signal: BoolArray, score: FloatArray, weight: FloatArray, fraction: float, b_reg: float
) -> BestCut:
    """Rank the events of checked arrays by AMS and average the scores of the highest."""
    if not (is_number(fraction) and 0 < fraction <= 1):
        raise ValueError(f"fraction={fraction!r} must be a number in (0, 1]")
    curve, counts = _curve(is_signal, score, weight, b_reg)
    ams = np.where(np.isnan(curve.ams), -np.inf, curve.ams)
    if ams.max() == -np.inf:
        raise ValueError(
            "the weights sum to less than zero at every cut: there is no AMS to rank by"
        )
    # Stable sort of the reversed arrays: of equal AMS the higher cut comes first.
    order = len(ams) - 1 - np.argsort(-ams[::-1], kind="stable")
    # The small addition keeps 0.29 * 100 from counting as 28 events.
    n_top = max(1, int(fraction * len(score) + 1e-9))
    taken = np.diff(np.minimum(counts[order].cumsum(), n_top), prepend=0)
    top = curve.cuts[order][taken > 0]
    # Rounding may lift the mean of equal scores above them, so that the cut would miss their events.
    cut = float(np.clip(np.average(top, weights=taken[taken > 0]), top.min(), top.max()))
    best = order[0]
    at_cut = float(curve.ams[np.searchsorted(curve.cuts, cut)])
    return BestCut(cut, at_cut, float(curve.cuts[best]), float(curve.ams[best]))


def check_b_reg(b_reg: float) -> None:
    """Refuse a regularisation that is negative or not a number."""
    if not (is_number(b_reg) and b_reg >= 0):
        raise ValueError(f"b_reg={b_reg!r} must be a finite number, zero or more")
