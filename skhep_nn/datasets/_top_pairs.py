"""Top quark pairs that decay to a lepton, a hadronic tau, and two b jets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skhep_nn.datasets._higgs_production import (
    JET_PT_MIN,
    SOFT_JET_PT_MIN,
    HardJets,
    draw_azimuth,
    draw_excess,
    fold_eta,
    jet_eta_max,
    jet_resolution,
    polar,
    truncated_normal,
)
from skhep_nn.datasets._tau_decays import (
    ETA_MAX,
    LEPTON_RESOLUTION,
    TAU_RESOLUTION,
    Direction,
    apart,
    draw_hadron_fraction,
    draw_hadrons,
)

Array = NDArray[Any]

_TOP_MASS, _W_MASS, _TOP_PT_SCALE = 172.5, 80.4, 30.0  # GeV
_FAKE_SHARE = 0.35  # share of taus, by count, that are jets


class TopPairs(NamedTuple):
    """Reconstructed objects of top pairs, before soft activity."""

    lepton: Direction
    tau: Direction
    jets: HardJets
    soft: Array  # shape (2, n): vector sum of the jets below 30 GeV

    def take(self, rows: NDArray[np.intp]) -> TopPairs:
        """Keep the given events."""
        return TopPairs(
            Direction(*(values[rows] for values in self.lepton)),
            Direction(*(values[rows] for values in self.tau)),
            HardJets(*(values[..., rows] for values in self.jets)),
            self.soft[:, rows],
        )


def draw_top_pairs(rng: np.random.Generator, n: int, lep_pt: float, tau_pt: float) -> TopPairs:
    """Draw `n` top pairs whose lepton and tau pass the cuts on momentum, eta and distance."""
    pairs = _try_top_pairs(rng, 8 * n + 64)
    rows = _selected(pairs, lep_pt, tau_pt)
    if rows.size >= n:
        return pairs.take(rows[:n])
    more = draw_top_pairs(rng, n - rows.size, lep_pt, tau_pt)
    return _join(pairs.take(rows), more)


def _selected(pairs: TopPairs, lep_pt: float, tau_pt: float) -> NDArray[np.intp]:
    """Return the rows of events that pass the selection."""
    lepton, tau = pairs.lepton, pairs.tau
    good = (lepton.pt > lep_pt) & (tau.pt > tau_pt) & apart(lepton, tau)
    good &= (np.abs(lepton.eta) < ETA_MAX) & (np.abs(tau.eta) < ETA_MAX)
    return np.flatnonzero(good)


def _join(first: TopPairs, second: TopPairs) -> TopPairs:
    """Put two sets of events one after the other."""

    def joined(one: tuple[Array, ...], two: tuple[Array, ...]) -> list[Array]:
        return [np.concatenate(pair, axis=-1) for pair in zip(one, two, strict=True)]

    return TopPairs(
        Direction(*joined(first.lepton, second.lepton)),
        Direction(*joined(first.tau, second.tau)),
        HardJets(*joined(first.jets, second.jets)),
        np.concatenate([first.soft, second.soft], axis=1),
    )


def _try_top_pairs(rng: np.random.Generator, n: int) -> TopPairs:
    """Draw top pairs before any cut: one W to a lepton, one to a tau or to a jet seen as one."""
    radiation = _draw_radiation(rng, n)
    recoil = polar(radiation.pt, radiation.phi).sum(axis=1)
    transverse = polar(_TOP_PT_SCALE * rng.standard_gamma(2.4, n), draw_azimuth(rng, n))
    centre = 1.05 * rng.standard_normal(n)
    legs, others = [], []
    partons = [Direction(*values) for values in zip(*radiation, strict=True)]
    for sign in (1.0, -1.0):
        rapidity = centre + sign * 0.8 * rng.standard_normal(n)
        top = _momentum(sign * transverse - recoil / 2, rapidity)
        boson, b_quark = _decay(rng, top, _TOP_MASS, _W_MASS)
        leg, other = _decay(rng, boson, _W_MASS, 0.0)
        partons.append(_direction(b_quark))
        legs.append(_direction(leg))
        others.append(_direction(other))
    lepton, tau = legs
    fake = rng.random(n) < _FAKE_SHARE
    partons.append(others[1]._replace(pt=others[1].pt * fake))
    # A W makes left-handed taus only.
    fraction, _ = draw_hadron_fraction(rng, np.zeros(n), draw_hadrons(rng, np.full(n, -1.0)))
    fraction = np.where(fake, rng.uniform(0.25, 1.0, n), fraction)
    lepton_error, tau_error = truncated_normal(rng, (2, n))
    lepton = lepton._replace(pt=lepton.pt * (1 + LEPTON_RESOLUTION * lepton_error))
    tau = tau._replace(pt=tau.pt * fraction * (1 + TAU_RESOLUTION * tau_error))
    return TopPairs(lepton, tau, *_reconstruct_jets(rng, partons))


def _draw_radiation(rng: np.random.Generator, n: int) -> Direction:
    """Draw up to two jets radiated beside the top quarks, each array of shape (2, n)."""
    number = rng.poisson(0.8, n)
    pt = SOFT_JET_PT_MIN + draw_excess(rng, np.full(n, 28.0), np.full(n, 0.1), 2)
    pt *= number > np.arange(2)[:, None]
    phi = np.stack([draw_azimuth(rng, n) for _ in range(2)])
    return Direction(pt, 1.8 * rng.standard_normal((2, n)), phi)


def _reconstruct_jets(rng: np.random.Generator, partons: list[Direction]) -> tuple[HardJets, Array]:
    """Measure partons as jets; return the jets above 30 GeV and the sum of the softer ones."""
    pt, eta, phi = (np.stack(values) for values in zip(*partons, strict=True))
    pt = pt * (1 + jet_resolution(pt) * truncated_normal(rng, pt.shape))
    eta = fold_eta(eta, jet_eta_max(pt))
    order = np.argsort(-pt, axis=0)
    pt, eta, phi = (np.take_along_axis(values, order, axis=0) for values in (pt, eta, phi))
    hard = pt > JET_PT_MIN
    rest = polar(pt, phi)
    lead_pt, lead_eta, lead_phi = (
        np.where(hard[:2], values[:2], np.nan) for values in (pt, eta, phi)
    )
    jets = HardJets(
        np.minimum(hard.sum(axis=0), 3),
        lead_pt,
        lead_eta,
        lead_phi,
        np.where(hard, rest, 0.0)[:, 2:].sum(axis=1),
        np.where(hard, pt, 0.0)[2:].sum(axis=0),
    )
    return jets, np.where(hard | (pt < SOFT_JET_PT_MIN), 0.0, rest).sum(axis=1)


def _decay(
    rng: np.random.Generator, parent: Array, mass: float, child_mass: float
) -> tuple[Array, Array]:
    """Decay isotropically to a child of the given mass and a massless one.

    Momenta are arrays of rows E, px, py, pz.
    """
    n = parent.shape[1]
    cosine = rng.random(n) * 2 - 1
    sine, angle = np.sqrt(1 - cosine**2), draw_azimuth(rng, n)
    momentum = (mass**2 - child_mass**2) / (2 * mass)
    rest = momentum * np.stack([sine * np.cos(angle), sine * np.sin(angle), cosine])
    energy = np.hypot(momentum, child_mass)
    projected = (parent[1:] * rest).sum(axis=0)
    boosted = rest + parent[1:] * (energy + projected / (parent[0] + mass)) / mass
    child = np.concatenate([[(parent[0] * energy + projected) / mass], boosted])
    return child, parent - child


def _momentum(transverse: Array, rapidity: Array) -> Array:
    """Return rows E, px, py, pz of a top quark."""
    size = np.sqrt((transverse**2).sum(axis=0) + _TOP_MASS**2)
    return np.stack([size * np.cosh(rapidity), *transverse, size * np.sinh(rapidity)])


def _direction(momentum: Array) -> Direction:
    """Return pt, eta and phi of rows E, px, py, pz."""
    pt = np.sqrt(momentum[1] ** 2 + momentum[2] ** 2)
    return Direction(pt, np.arcsinh(momentum[3] / pt), np.arctan2(momentum[2], momentum[1]))
