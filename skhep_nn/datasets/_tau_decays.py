"""Decays of bosons to taus and leptons, drawn inside the acceptance of the detector."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TAU_MASS = 1.777
ETA_MAX = 2.5
MIN_DELTA_R = 0.2
LEPTON_RESOLUTION = 0.02
TAU_RESOLUTION = 0.10

# Hadronic decays as two-body decays to pi, rho and a1: (m / m_tau)**2, analysing power of the
# visible energy for the spin of the tau, and share among the selected taus.
HADRON_MASS2 = np.array([0.0062, 0.19, 0.50])
HADRON_SPIN = np.array([1.0, 0.45, 0.0])
HADRON_SHARE = np.array([0.20, 0.45, 0.35])

_FRACTION = np.linspace(0.0, 1.0, 513)
_LEPTON_CDF = {
    helicity: (5 * _FRACTION - 3 * _FRACTION**3 + _FRACTION**4) / 3
    + helicity * (_FRACTION - 3 * _FRACTION**3 + 2 * _FRACTION**4) / 3
    for helicity in (-1, 1)
}
_MICHEL_CDF = 1.5 * _FRACTION**2 - 2 * _FRACTION**3 / 3


def lepton_efficiency(pt: Array) -> Array:
    """Return the efficiency to trigger on and identify a lepton with `pt` in units of the cut."""
    return 1 - 0.4 * np.exp(-4 * (pt - 1))


class Direction(NamedTuple):
    """Momentum of one object: pt in GeV, eta, and phi, each of shape (n,)."""

    pt: Array
    eta: Array
    phi: Array


class Hadrons(NamedTuple):
    """Kind of the hadronic decay of each tau: squared mass ratio, and helicity times spin power."""

    mass2: Array
    spin: Array


def draw_hadrons(rng: np.random.Generator, helicity: Array) -> Hadrons:
    """Choose pi, rho or a1 for each tau of the given helicity."""
    kind = np.searchsorted(np.cumsum(HADRON_SHARE)[:-1], rng.random(len(helicity)))
    return Hadrons(HADRON_MASS2[kind], HADRON_SPIN[kind] * helicity)


def lepton_survival(fraction: Array, helicity: Array) -> Array:
    """Probability that a lepton takes more than this fraction of the energy of its tau."""
    x = fraction
    square = x * x
    plain = x * (5 - square * (3 - x))
    polarised = x * (1 - square * (3 - 2 * x))
    return 1 - (plain + helicity * polarised) / 3


def _hadron_cosine(fraction: Array, hadrons: Hadrons) -> Array:
    """Cosine of the decay angle that gives this fraction of visible energy, clipped."""
    return np.clip((2 * fraction - 1 - hadrons.mass2) / (1 - hadrons.mass2), -1.0, 1.0)


def hadron_survival(fraction: Array, hadrons: Hadrons) -> Array:
    """Probability that the hadrons take more than this fraction of the energy of their tau."""
    cosine = _hadron_cosine(fraction, hadrons)
    return 0.5 * (1 - cosine) * (1 + hadrons.spin * 0.5 * (1 + cosine))


def _draw_lepton(rng: np.random.Generator, least: Array, helicity: Array) -> tuple[Array, Array]:
    """Draw the energy fraction above `least` and the momentum (GeV) across the tau's direction."""
    survival = lepton_survival(least, helicity)
    quantile = 1 - rng.random(len(least)) * survival
    fraction = np.where(
        helicity > 0,
        np.interp(quantile, _LEPTON_CDF[1], _FRACTION),
        np.interp(quantile, _LEPTON_CDF[-1], _FRACTION),
    )
    # Energy in the rest frame of the tau, in units of its largest value: at least `fraction`.
    low = fraction**2 * (1.5 - 2 * fraction / 3)
    rest = np.interp(low + rng.random(len(least)) * (5 / 6 - low), _MICHEL_CDF, _FRACTION)
    return fraction, TAU_MASS * np.sqrt(fraction * np.maximum(rest - fraction, 0.0))


def draw_hadron_fraction(
    rng: np.random.Generator, least: Array, hadrons: Hadrons
) -> tuple[Array, Array]:
    """Draw the energy fraction above `least` and the momentum (GeV) across the tau's direction."""
    tail = rng.random(len(least)) * hadron_survival(least, hadrons)
    linear = 1 + hadrons.spin
    root = np.sqrt(np.maximum(linear**2 - 4 * hadrons.spin * tail, 0.0))
    cosine = 1 - 4 * tail / (linear + root + 1e-12)
    fraction = 0.5 * (cosine * (1 - hadrons.mass2) + 1 + hadrons.mass2)
    sine = np.sqrt(np.maximum(1 - cosine**2, 0.0))
    return fraction, 0.5 * TAU_MASS * (1 - hadrons.mass2) * sine


class _Legs(NamedTuple):
    """Two massless daughters in the frame where the boson flies along x, at rapidity 0."""

    pt1: Array
    pt2: Array
    px1: Array
    px2: Array
    py: Array
    pz: Array


def _draw_legs(rng: np.random.Generator, mass: Array, pt: Array, is_vector: bool) -> _Legs:
    """Decay each boson in its rest frame and boost along its transverse momentum.

    A scalar decays isotropically. A vector made of light quarks is polarised along the beam:
    ``1 + cos**2``, a mixture of three parts uniform cosine and one part cube root of a uniform number.
    """
    n = len(mass)
    cosine = rng.random(n) * 2 - 1
    if is_vector:
        peaked = np.flatnonzero(rng.random(n) < 0.25)
        cosine[peaked] = np.cbrt(cosine[peaked])
    sine = np.sqrt(1 - cosine * cosine)
    angle = rng.random(n) * (2 * np.pi)
    along = np.sqrt(mass * mass + pt * pt) * sine * np.cos(angle)
    px1, px2 = 0.5 * (pt + along), 0.5 * (pt - along)
    py = 0.5 * mass * sine * np.sin(angle)
    across = py * py
    return _Legs(
        np.sqrt(px1 * px1 + across),
        np.sqrt(px2 * px2 + across),
        px1,
        px2,
        py,
        0.5 * mass * cosine,
    )


def _tilt(rng: np.random.Generator, fraction: Array, across: Array, tau: Direction) -> Direction:
    """Rotate the visible momentum by its angle to the direction of the tau."""
    cosh = np.cosh(tau.eta)
    momentum = fraction * tau.pt * cosh
    # In units of eta and phi, an angle on the sphere is cosh(eta) times larger.
    angle = across / momentum * cosh
    turn = rng.random(len(fraction)) * (2 * np.pi)
    eta = tau.eta + angle * np.cos(turn)
    return Direction(momentum / np.cosh(eta), eta, tau.phi + angle * np.sin(turn))


def apart(first: Direction, second: Direction) -> NDArray[np.bool_]:
    """Return where two objects are far enough apart to be reconstructed separately."""
    turn = np.abs(first.phi - second.phi)
    turn = np.minimum(turn, np.abs(2 * np.pi - turn))
    far: NDArray[np.bool_] = (first.eta - second.eta) ** 2 + turn**2 > MIN_DELTA_R**2
    return far


class TauPairs(NamedTuple):
    """Bosons to decay to a leptonic and a hadronic tau, and the cuts on their true momenta."""

    is_vector: bool
    mass: Array
    pt: Array
    rapidity: Array
    lepton_helicity: Array
    hadrons: Hadrons
    lepton_cut: Array
    tau_cut: Array

    def take(self, rows: NDArray[np.intp]) -> TauPairs:
        """Keep the given rows."""
        mass2, spin = self.hadrons
        return TauPairs(
            self.is_vector,
            self.mass[rows],
            self.pt[rows],
            self.rapidity[rows],
            self.lepton_helicity[rows],
            Hadrons(mass2[rows], spin[rows]),
            self.lepton_cut[rows],
            self.tau_cut[rows],
        )

    def bound(self) -> Array:
        """Return the largest probability, over decay angles, that both momenta exceed the cuts."""
        hardest = 0.5 * (np.sqrt(self.mass**2 + self.pt**2) + self.pt)
        lepton = lepton_survival(np.minimum(self.lepton_cut / hardest, 1.0), self.lepton_helicity)
        return lepton * hadron_survival(self.tau_cut / hardest, self.hadrons)


def decay_to_taus(rng: np.random.Generator, bosons: TauPairs) -> tuple[Direction, Direction]:
    """Decay bosons to taus until the lepton and the hadrons of each boson satisfy the cuts.

    Angles are accepted with the probability that the visible momenta exceed the cuts. The momenta
    are then drawn above the cuts. The distribution equals rejection sampling of whole decays, at a
    tenth of the cost. Azimuths are relative to the flight of the boson.
    """
    n = len(bosons.mass)
    lepton, tau = (Direction(*np.empty((3, n))) for _ in range(2))
    rows = np.arange(n)
    bound = bosons.bound()
    left, scale = bosons, bound
    while rows.size:
        found, one, two = _try_decays(rng, left, scale)
        for target, source in ((lepton, one), (tau, two)):
            for values, new in zip(target, source, strict=True):
                values[rows[found]] = new
        rows = np.delete(rows, found)
        left, scale = bosons.take(rows), bound[rows]
    return lepton, tau


def _try_decays(
    rng: np.random.Generator, bosons: TauPairs, bound: Array
) -> tuple[NDArray[np.intp], Direction, Direction]:
    """Try one decay of each boson; return the rows that passed, with their lepton and tau."""
    legs = _draw_legs(rng, bosons.mass, bosons.pt, bosons.is_vector)
    least1 = np.minimum(bosons.lepton_cut / legs.pt1, 1.0)
    least2 = np.minimum(bosons.tau_cut / legs.pt2, 1.0)
    chance = lepton_survival(least1, bosons.lepton_helicity)
    chance *= hadron_survival(least2, bosons.hadrons)
    rows = np.flatnonzero(rng.random(len(bound)) * bound < chance)
    bosons, legs = bosons.take(rows), _Legs(*(values[rows] for values in legs))
    x1, across1 = _draw_lepton(rng, least1[rows], bosons.lepton_helicity)
    x2, across2 = draw_hadron_fraction(rng, least2[rows], bosons.hadrons)
    eta1 = bosons.rapidity + np.arcsinh(legs.pz / legs.pt1)
    eta2 = bosons.rapidity - np.arcsinh(legs.pz / legs.pt2)
    first = Direction(legs.pt1, eta1, np.arctan2(legs.py, legs.px1))
    second = Direction(legs.pt2, eta2, np.arctan2(-legs.py, legs.px2))
    lepton = _tilt(rng, x1, across1, first)
    tau = _tilt(rng, x2, across2, second)
    good = (lepton.pt > bosons.lepton_cut) & (tau.pt > bosons.tau_cut) & apart(lepton, tau)
    good &= (np.abs(lepton.eta) < ETA_MAX) & (np.abs(tau.eta) < ETA_MAX)
    good &= rng.random(good.size) < lepton_efficiency(lepton.pt / bosons.lepton_cut)
    keep = np.flatnonzero(good)
    one, two = (Direction(*(values[keep] for values in leg)) for leg in (lepton, tau))
    return rows[keep], one, two


def decay_to_lepton(
    rng: np.random.Generator,
    mass: Array,
    pt: Array,
    rapidity: Array,
    lepton_cut: Array,
    tau: Direction,
) -> Direction:
    """Decay W bosons to lepton and neutrino until the lepton satisfies its cuts, away from `tau`.

    Azimuths, also of `tau`, are relative to the flight of the boson.
    """
    n = len(mass)
    lepton = Direction(*np.empty((3, n)))
    rows = np.arange(n)
    while rows.size:
        legs = _draw_legs(rng, mass[rows], pt[rows], is_vector=True)
        eta = rapidity[rows] + np.arcsinh(legs.pz / legs.pt1)
        tried = Direction(legs.pt1, eta, np.arctan2(legs.py, legs.px1))
        good = rng.random(rows.size) < lepton_efficiency(tried.pt / lepton_cut[rows])
        good &= (tried.pt > lepton_cut[rows]) & (np.abs(eta) < ETA_MAX)
        good &= apart(tried, Direction(*(values[rows] for values in tau)))
        for values, new in zip(lepton, tried, strict=True):
            values[rows[good]] = new[good]
        rows = rows[~good]
    return lepton
