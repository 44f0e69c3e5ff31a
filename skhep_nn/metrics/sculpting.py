"""How much a cut on a score changes the mass spectrum of the background."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skhep_nn.metrics.correlation import distance_correlation
from skhep_nn.utils.checks import is_number
from skhep_nn.utils.validation import (
    BoolArray,
    FloatArray,
    check_edges,
    check_events,
    check_score,
)

__all__ = ["MassSculpting", "Spectra", "background_spectra", "mass_sculpting"]

# Share of masses left out at each end if `bins` is a number: long tails would make all bins wide.
_TAIL = 0.005


class MassSculpting(NamedTuple):
    """Effect of a cut on a score on the mass spectrum of the background.

    Parameters
    ----------
    cut : float
        Events with ``score >= cut`` are selected.
    signal_efficiency, background_efficiency : float
        Selected shares of the weights of signal and background, at any mass.
    divergence : float
        Jensen-Shannon divergence in bits between the mass spectra of the selected background and
        of all background: 0 for equal spectra, at most 1.
    distance_correlation : float
        Distance correlation of score and mass, for all background in the range of the bins, selected or not;
        weights enter with their absolute values.
    """

    cut: float
    signal_efficiency: float
    background_efficiency: float
    divergence: float
    distance_correlation: float


class Spectra(NamedTuple):
    """Mass spectra of the background, without a cut and after each cut.

    `contents` and `uncertainties` are (1 + n_cuts, n_bins), of unit area; `sculpting` has one value for
    each cut.
    """

    bin_edges: FloatArray
    contents: FloatArray
    uncertainties: FloatArray
    sculpting: list[MassSculpting]


def mass_sculpting(
    y: npt.ArrayLike,
    score: npt.ArrayLike,
    mass: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    *,
    signal_efficiency: float = 0.5,
    bins: int | npt.ArrayLike = 40,
    pos_label: Any = None,
) -> MassSculpting:
    """Measure how much a cut on a score changes the mass spectrum of the background.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels of signal and background.
    score : array-like of shape (n_samples,)
        Classifier output, larger for signal.
    mass : array-like of shape (n_samples,)
        Mass of each event, in the unit of the bins. Events with a mass of NaN count in the
        efficiencies, but not in the spectra.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights, None for unit weights. Where negative ones make the content of a bin negative it is
        taken as 0.
    signal_efficiency : float, default=0.5
        Share of the weights of the signal that the cut selects, between 0 and 1.
    bins : int or array-like of shape (n_bins + 1,), default=40
        Edges of the bins, or the number of bins of equal width between the 0.5th and the 99.5th percentile
        of the background's masses. Masses outside are left out.
    pos_label : label, default=None
        The signal. None: "s" of "s" and "b", else the second of two labels.

    Returns
    -------
    MassSculpting
        Cut, efficiencies, and the two measures of dependence.

    Raises
    ------
    ValueError
        If lengths differ, a score is not finite, `signal_efficiency` is not between 0 and 1, a class is
        missing, or no background has a mass in the bins, before or after the cut.

    Notes
    -----
    A divergence of finite samples is positive without any sculpting, about ``0.18 * n_bins / n`` for n
    selected events of equal weight: compare it between classifiers on the same events and bins.

    References
    ----------
    G. Kasieczka and D. Shih, arXiv:2001.05310, which compares classifiers by the divergence and the
    background efficiency at a signal efficiency of 50 %.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.metrics import mass_sculpting
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["b", "s"], 5000)
    >>> mass = np.where(y == "b", rng.exponential(50, 10_000), rng.normal(125, 10, 10_000))
    >>> by_mass = mass_sculpting(y, -np.abs(mass - 125), mass, bins=range(0, 301, 10))
    >>> by_chance = mass_sculpting(y, rng.normal(size=10_000), mass, bins=range(0, 301, 10))
    >>> round(by_mass.divergence, 2), round(by_chance.divergence, 2)
    (0.87, 0.0)
    """
    spectra = background_spectra(
        y, score, mass, sample_weight, (signal_efficiency,), bins, pos_label
    )
    return spectra.sculpting[0]


def background_spectra(
    y: npt.ArrayLike,
    score: npt.ArrayLike,
    mass: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    signal_efficiencies: tuple[float, ...],
    bins: int | npt.ArrayLike,
    pos_label: Any,
) -> Spectra:
    """Return the mass spectra of `mass_sculpting` for several signal efficiencies."""
    is_signal, weight = check_events(y, sample_weight, pos_label)
    if is_signal.all() or not is_signal.any():
        raise ValueError(f"y holds {np.unique(np.asarray(y))} only, expected signal and background")
    scores = check_score(score, len(weight))
    masses = np.asarray(mass, dtype=np.float64)
    if masses.shape != weight.shape:
        raise ValueError(f"mass has shape {masses.shape}, expected {weight.shape} like y")
    edges = _edges(masses[~is_signal], bins)
    inside = ~is_signal & (masses >= edges[0]) & (masses <= edges[-1])
    parts = [_spectrum(masses, weight, inside, edges, "of the background")]
    found = []
    dependence = distance_correlation(scores[inside], masses[inside], np.abs(weight[inside]))
    for efficiency in signal_efficiencies:
        cut = _cut(scores[is_signal], weight[is_signal], efficiency)
        passed = scores >= cut
        of_what = f"of the background with a score of at least {cut:g}"
        parts.append(_spectrum(masses, weight, inside & passed, edges, of_what))
        found.append(
            MassSculpting(
                cut,
                _share(passed[is_signal], weight[is_signal]),
                _share(passed[~is_signal], weight[~is_signal]),
                _divergence(parts[0][0], parts[-1][0]),
                dependence,
            )
        )
    contents, uncertainties = (np.stack(part) for part in zip(*parts, strict=True))
    widths = np.diff(edges)
    return Spectra(edges, contents / widths, uncertainties / widths, found)


def _edges(masses: FloatArray, bins: int | npt.ArrayLike) -> FloatArray:
    """Return the edges of the bins."""
    if not np.iterable(bins):
        finite = masses[np.isfinite(masses)]
        if not len(finite):
            raise ValueError(f"none of {len(masses)} masses of the background is a finite number")
        low, high = np.quantile(finite, [_TAIL, 1 - _TAIL], method="nearest")
        if not low < high:
            low, high = low - 0.5, low + 0.5
        edges: FloatArray = np.histogram_bin_edges(finite, bins, range=(low, high))
        return edges
    return check_edges(bins)


def _cut(score: FloatArray, weight: FloatArray, efficiency: float) -> float:
    """Return the cut that selects the wanted share of the signal, or slightly more for tied scores."""
    if not (is_number(efficiency) and 0 < efficiency < 1):
        raise ValueError(f"signal_efficiency={efficiency!r} must be a number between 0 and 1")
    order = np.argsort(score)[::-1]
    passed = np.cumsum(weight[order])
    if not passed[-1] > 0:
        raise ValueError(f"the weights of the signal sum to {passed[-1]:g}, expected more than 0")
    # A binary search would fail: negative weights make the sum decrease in places.
    enough = passed >= efficiency * passed[-1] * (1 - 1e-12)
    return float(score[order[np.argmax(enough)]])


def _share(passed: BoolArray, weight: FloatArray) -> float:
    """Return the selected share of the weights."""
    return float(weight[passed].sum() / weight.sum())


def _spectrum(
    mass: FloatArray, weight: FloatArray, rows: BoolArray, edges: FloatArray, of_what: str
) -> tuple[FloatArray, FloatArray]:
    """Return the contents of the bins, normalised to total 1, and their uncertainties."""
    contents, squares = (
        np.histogram(mass[rows], edges, weights=w[rows])[0] for w in (weight, weight**2)
    )
    total = np.maximum(contents, 0).sum()
    if not total > 0:
        raise ValueError(
            f"no mass {of_what} lies between {edges[0]:g} and {edges[-1]:g}: pass other bins, or a "
            "larger signal efficiency"
        )
    return np.maximum(contents, 0) / total, np.sqrt(squares) / total


def _divergence(p: FloatArray, q: FloatArray) -> float:
    """Return the Jensen-Shannon divergence of two spectra of total 1, in bits."""
    mean = (p + q) / 2

    def relative_entropy(share: FloatArray) -> float:
        some = share > 0
        return float(share[some] @ np.log2(share[some] / mean[some]))

    return max(0.0, (relative_entropy(p) + relative_entropy(q)) / 2)
