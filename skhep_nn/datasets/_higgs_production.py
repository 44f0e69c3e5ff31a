"""Production of the processes of the Higgs challenge: jets and soft activity beside the boson."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

JET_PT_MIN = 30.0
JET_ETA_MAX = 4.5
SOFT_JET_PT_MIN = 20.0
_EXCESS_MAX, _JET_ENERGY_MAX = 700.0, 2500.0  # GeV, where the energy of the beams ends


class Component(NamedTuple):
    """One sample of simulated events, in the sense of the challenge: equal process and weight.

    All spectra describe selected events: production is drawn from them, and
    decays are then drawn under the condition that the event is selected.
    """

    process: str
    share: float  # of the events of its class, by count
    weight: float  # of one event, before the classes are scaled to their sums
    rapidity: tuple[float, float]  # of the boson: uniform part, largest value
    jets: tuple[float, float, float, float]  # probability of 0, 1, 2, and 3 or more jets
    soft_jets: tuple[float, float, float, float]  # mean number below 30 GeV, by number of jets
    scale: tuple[float, float, float]  # GeV, of the spectrum of 1, 2, and 3 or more jets
    tail: tuple[float, float, float]  # shape of the spectrum: 0 is exponential, more is harder
    gap: tuple[float, float]  # centre and width of the distance of two jets in eta
    centre: tuple[float, float]  # widths in eta: of one jet, of the middle of two jets
    follow: float  # how much of the boson's rapidity the jets share
    opposite: float  # azimuth between two jets: 1 is uniform, less is back to back
    recoil: tuple[float, float]  # GeV for each component, unreconstructed: without and with jets
    fake_tau: tuple[float, float] = (0.0, 0.0)  # GeV and shape, spectrum of a jet seen as a tau


SIGNAL = (
    Component(  # gluon fusion
        "higgs", 0.386, 0.01864, (1.6, 2.25), (0.582, 0.290, 0.101, 0.027), (0.45, 0.66, 0.73, 0.7),
        (23.4, 22.5, 40.0), (0.27, 0.35, 0.15), (0.0, 2.5), (1.90, 1.35), 0.35, 1.0, (17.0, 21.0),
    ),
    Component(  # vector boson fusion: two jets, forward and backward
        "higgs", 0.522, 0.00150, (1.6, 2.25), (0.097, 0.340, 0.454, 0.109), (0.80, 0.75, 0.40, 0.5),
        (48.5, 47.3, 45.0), (0.09, 0.06, 0.10), (3.6, 2.0), (2.15, 0.95), 0.45, 1.0, (17.0, 21.0),
    ),
    Component(  # with a W or Z that decays to jets
        "higgs", 0.092, 0.00265, (1.7, 2.25), (0.213, 0.371, 0.297, 0.119), (0.74, 0.83, 0.50, 0.6),
        (37.5, 34.0, 42.0), (0.17, 0.11, 0.05), (0.0, 1.3), (1.25, 0.80), 0.85, 1.35, (20.0, 20.0),
    ),
)  # fmt: skip

BACKGROUND = (
    Component(  # Drell-Yan with up to one hard parton
        "z_tautau", 0.107, 1.68161, (2.1, 2.25), (0.429, 0.549, 0.018, 0.004), (0.97, 0.34, 0.43, 0.5),
        (22.6, 18.0, 25.0), (0.22, 0.22, 0.15), (0.0, 2.0), (1.30, 1.15), 0.60, 1.0, (21.0, 15.0),
    ),
    Component(  # with two partons
        "z_tautau", 0.042, 1.45485, (2.1, 2.25), (0.144, 0.427, 0.400, 0.029), (1.33, 1.14, 0.33, 0.5),
        (30.0, 29.3, 35.0), (0.11, 0.26, 0.15), (0.0, 1.4), (1.30, 1.15), 0.60, 0.80, (20.0, 20.0),
    ),
    Component(  # with three and more partons
        "z_tautau", 0.014, 1.267, (2.1, 2.25), (0.108, 0.250, 0.399, 0.243), (1.60, 1.53, 1.24, 0.9),
        (31.1, 27.3, 37.0), (0.26, 0.32, 0.15), (0.0, 1.35), (1.25, 1.10), 0.50, 0.80, (19.0, 19.0),
    ),
    Component(  # enriched in pairs of jets typical for vector boson fusion, tighter sample
        "z_tautau", 0.061, 0.317, (2.1, 2.25), (0.028, 0.229, 0.431, 0.312), (1.50, 1.23, 0.78, 0.9),
        (42.7, 51.9, 47.0), (0.13, 0.09, 0.10), (2.1, 1.1), (1.65, 1.10), 0.25, 0.75, (19.0, 19.0),
    ),
    Component(  # the same, wider in eta
        "z_tautau", 0.089, 0.0718, (2.1, 2.25), (0.034, 0.236, 0.381, 0.349), (2.70, 1.77, 0.95, 0.9),
        (57.6, 39.8, 43.0), (0.02, 0.22, 0.10), (2.6, 1.7), (1.90, 1.15), 0.30, 0.80, (19.0, 19.0),
    ),
    Component(  # W with no hard parton but the one that is seen as a tau
        "w_jets", 0.273, 4.465, (2.3, 2.4), (0.939, 0.053, 0.007, 0.001), (0.28, 0.65, 1.00, 1.0),
        (12.7, 15.0, 20.0), (0.17, 0.20, 0.15), (0.0, 2.5), (2.00, 1.45), 0.25, 0.60, (10.0, 14.0),
        (8.2, 0.20),
    ),
    Component(  # one more parton
        "w_jets", 0.300, 2.065, (2.3, 2.4), (0.421, 0.472, 0.099, 0.008), (1.09, 0.54, 0.52, 0.7),
        (20.4, 22.4, 28.0), (0.10, 0.22, 0.15), (0.0, 2.0), (1.65, 1.40), 0.30, 0.65, (12.0, 12.0),
        (9.2, 0.28),
    ),
    Component(  # more than one
        "w_jets", 0.052, 1.106, (2.3, 2.4), (0.123, 0.297, 0.298, 0.282), (1.73, 1.23, 1.37, 1.0),
        (25.3, 25.5, 38.0), (0.29, 0.22, 0.15), (0.0, 2.1), (1.65, 1.20), 0.15, 0.60, (14.0, 14.0),
        (14.0, 0.45),
    ),
    Component(  # top pairs: only radiation beside the two b jets is drawn from this row
        "ttbar", 0.062, 0.74406, (2.0, 2.25), (0.500, 0.300, 0.150, 0.050), (0.80, 0.80, 0.80, 0.8),
        (25.0, 25.0, 25.0), (0.10, 0.10, 0.10), (0.0, 2.0), (1.80, 1.40), 0.0, 0.8, (14.0, 14.0),
    ),
)  # fmt: skip


class HardJets(NamedTuple):
    """Jets above 30 GeV: the two hardest (NaN where absent), and sums over the others."""

    number: Array
    pt: Array  # shape (2, n), like eta and phi
    eta: Array
    phi: Array
    others: Array  # shape (2, n), vector sum in the transverse plane
    others_pt: Array  # scalar sum


class Recoil(NamedTuple):
    """Reconstructed jets and soft activity, and the true recoil of the boson."""

    jets: HardJets
    seen: Array  # shape (2, n), vector sum of the objects in the missing momentum
    true: Array  # shape (2, n), the same without the errors of measurement
    sum_et: Array


class Table(NamedTuple):
    """Numbers of several components, one row for each component."""

    cumulative: Array
    soft_jets: Array
    scale: Array
    tail: Array
    gap: Array
    centre: Array
    follow: Array
    opposite: Array
    recoil: Array


def tabulate(components: tuple[Component, ...]) -> Table:
    """Arrange the numbers of components for look-up by index."""
    columns = {name: np.array([getattr(c, name) for c in components]) for name in Table._fields[1:]}
    return Table(np.cumsum([c.jets for c in components], axis=1)[:, :3], **columns)


def truncated_normal(rng: np.random.Generator, size: int | tuple[int, ...]) -> Array:
    """Draw unit normal numbers, cut off at three so that no event is extreme."""
    return np.clip(rng.standard_normal(size), -3.0, 3.0)


def draw_excess(rng: np.random.Generator, scale: Array, tail: Array, count: int) -> Array:
    """Draw `count` momenta above threshold each from generalised Pareto spectra, hardest first.

    These are exponential at first and a power law far out. Shape (count, n).
    """
    drawn = scale / tail * np.expm1(tail * rng.standard_exponential((count, *scale.shape)))
    drawn.sort(axis=0)
    return np.minimum(drawn[::-1], _EXCESS_MAX)


def jet_eta_max(pt: Array) -> Array:
    """Return the largest pseudorapidity of jets, limited by the calorimeter and the beam energy."""
    return np.minimum(JET_ETA_MAX, np.arccosh(np.fmax(_JET_ENERGY_MAX / np.fmax(pt, 1.0), 1.0)))


def fold_eta(eta: Array, largest: float | Array) -> Array:
    """Reflect pseudorapidities beyond an edge back inside."""
    size = np.abs(eta)
    inside = np.abs(np.where(size > largest, 2 * largest - size, size))
    return np.copysign(np.minimum(inside, largest), eta)


def draw_rapidity(rng: np.random.Generator, shape: Array) -> Array:
    """Draw boson rapidities from trapezia: sums of two uniform numbers. `shape` is (n, 2)."""
    flat, largest = shape.T
    n = len(flat)
    drawn: Array = flat * (rng.random(n) * 2 - 1) + (largest - flat) * (rng.random(n) * 2 - 1)
    return drawn


def draw_azimuth(rng: np.random.Generator, n: int) -> Array:
    """Draw uniform azimuths."""
    return (rng.random(n) * 2 - 1) * np.pi


def polar(pt: Array, phi: Array) -> Array:
    """Return transverse components, shape (2, ...)."""
    return np.stack([pt * np.cos(phi), pt * np.sin(phi)])


def draw_recoil(rng: np.random.Generator, table: Table, part: Array, rapidity: Array) -> Recoil:
    """Draw jets and soft activity for events of the components with the indices `part`."""
    n = len(part)
    number = (rng.random((n, 1)) > table.cumulative[part]).sum(axis=1)
    pt, eta, phi = np.full((3, 2, n), np.nan)
    others, others_pt = np.zeros((2, n)), np.zeros(n)
    follow = table.follow[part] * rapidity
    for count in (1, 2, 3):
        rows = np.flatnonzero(number == count)
        kind, leading = part[rows], min(count, 2)
        scale, tail = table.scale[kind, count - 1], table.tail[kind, count - 1]
        drawn = JET_PT_MIN + draw_excess(rng, scale, tail, count)
        pt[:leading, rows] = drawn[:leading]
        middle = follow[rows] + table.centre[kind, leading - 1] * rng.standard_normal(rows.size)
        phi[0, rows] = draw_azimuth(rng, rows.size)
        if count == 1:
            eta[0, rows] = middle
            continue
        gap = table.gap[kind, 0] + table.gap[kind, 1] * rng.standard_normal(rows.size)
        gap = np.copysign(gap, rng.random(rows.size) - 0.5)
        eta[0, rows], eta[1, rows] = middle + gap / 2, middle - gap / 2
        turn = np.pi * rng.random(rows.size) ** table.opposite[kind]
        phi[1, rows] = phi[0, rows] + np.copysign(turn, rng.random(rows.size) - 0.5)
        if count == 3:
            others[:, rows], others_pt[rows] = _draw_others(rng, drawn[2])
    jets = HardJets(number, pt, fold_eta(eta, jet_eta_max(pt)), phi, others, others_pt)
    return reconstruct(
        rng, jets, table.soft_jets[part, number], table.recoil[part, np.minimum(number, 1)]
    )


def _draw_others(rng: np.random.Generator, third: Array) -> tuple[Array, Array]:
    """Add softer jets to the third one; return the vector sum and the scalar sum."""
    n = len(third)
    vector = polar(third, draw_azimuth(rng, n))
    total = third.copy()
    present = np.ones(n, dtype=bool)
    for _ in range(2):
        present &= rng.random(n) < 0.35
        pt = present * (JET_PT_MIN + (third - JET_PT_MIN) * rng.random(n))
        vector += polar(pt, draw_azimuth(rng, n))
        total += pt
    return vector, total


def reconstruct(
    rng: np.random.Generator, jets: HardJets, soft_jets: Array, recoil: Array
) -> Recoil:
    """Add soft jets and soft activity to hard jets, and undo the errors of measurement."""
    n = len(jets.number)
    each = np.nan_to_num(polar(jets.pt, jets.phi))
    error = jet_resolution(jets.pt) * truncated_normal(rng, (2, n))
    true = (each / (1 + np.nan_to_num(error))).sum(axis=1) + jets.others
    seen = each.sum(axis=1) + jets.others
    activity = jets.others_pt + np.nansum(jets.pt, axis=0)
    number = rng.poisson(soft_jets)
    for count in (1, 2):
        pt = (number >= count) * _draw_soft_pt(rng, n)
        vector = polar(pt, draw_azimuth(rng, n))
        seen += vector
        true += 0.8 * vector
        activity += 1.6 * pt
    # The soft term: its sum grows with pile-up, its vector with the root of its sum.
    soft_sum = 26.5 * rng.standard_gamma(1.8, n)
    size = 0.25 * np.sqrt(soft_sum) * rng.standard_gamma(2.0, n)
    vector = polar(size, draw_azimuth(rng, n))
    seen += vector
    unseen = polar(recoil / 3**0.5 * rng.standard_gamma(2.0, n), draw_azimuth(rng, n))
    seen += 0.07 * unseen
    true += vector + unseen
    return Recoil(jets, seen, true, 0.95 * activity + soft_sum)


def jet_resolution(pt: Array) -> Array:
    """Return the relative resolution of a calorimeter: a stochastic and a constant term."""
    return np.sqrt(0.64 / np.fmax(pt, JET_PT_MIN) + 0.04**2)


def _draw_soft_pt(rng: np.random.Generator, n: int) -> Array:
    """Draw momenta of jets that are too soft to be counted or miss the primary vertex."""
    width, span = 9.0, JET_PT_MIN - SOFT_JET_PT_MIN
    exponent = -np.log1p(-rng.random(n) * -np.expm1(-span / width))
    missed = rng.random(n) < 0.12
    return SOFT_JET_PT_MIN + np.where(missed, 15.0 * rng.standard_exponential(n), width * exponent)
