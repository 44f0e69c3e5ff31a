"""The primary columns of simulated Higgs challenge events."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skhep_nn.datasets._higgs_production import (
    BACKGROUND,
    SIGNAL,
    HardJets,
    draw_azimuth,
    draw_excess,
    draw_rapidity,
    draw_recoil,
    fold_eta,
    polar,
    reconstruct,
    tabulate,
    truncated_normal,
)
from skhep_nn.datasets._tau_decays import (
    ETA_MAX,
    LEPTON_RESOLUTION,
    TAU_RESOLUTION,
    Direction,
    TauPairs,
    decay_to_lepton,
    decay_to_taus,
    draw_hadrons,
)
from skhep_nn.datasets._top_pairs import draw_top_pairs

Array = NDArray[Any]

LEP_PT_MIN, TAU_PT_MIN = 26.0, 20.0  # GeV

COMPONENTS = (*SIGNAL, *BACKGROUND)
_TABLE = tabulate(COMPONENTS)
_RAPIDITY = np.array([component.rapidity for component in COMPONENTS])
_FAKE_TAU = np.array([component.fake_tau for component in COMPONENTS])
_FAKE_ERROR = 0.3
_FAKE_OPPOSITE = 0.6  # azimuth to the leading jet: 1 is uniform, less is back to back
_FAKE_FOLLOW, _FAKE_SPREAD = (
    0.5,
    1.35,
)  # pseudorapidity of a fake tau: factor of the rapidity of the W, and spread


class Objects(NamedTuple):
    """Reconstructed objects; `seen` and `sum_et` exclude lepton and tau."""

    lepton: Direction
    tau: Direction
    jets: HardJets
    seen: Array
    sum_et: Array


def simulate_primary(rng: np.random.Generator, part: Array, higgs_mass: float) -> dict[str, Array]:
    """Simulate events of components with the indices `part`, ascending; columns by name."""
    process = [component.process for component in COMPONENTS]
    edges = np.searchsorted(part, [process.index(name) for name in ("z_tautau", "w_jets", "ttbar")])
    higgs, z, w, top = np.split(part, edges)
    samples = [
        _simulate_pairs(rng, higgs, np.full(higgs.size, higgs_mass), is_vector=False),
        _simulate_pairs(rng, z, _drell_yan(rng, z.size), is_vector=True),
        _simulate_w(rng, w, _breit_wigner(rng, 80.4, 2.1, w.size)),
        _simulate_top(rng, top),
    ]
    lepton, tau, jets = (
        type(groups[0])(*(np.concatenate(parts, axis=-1) for parts in zip(*groups, strict=True)))
        for groups in list(zip(*samples, strict=True))[:3]
    )
    seen = np.concatenate([sample.seen for sample in samples], axis=1)
    sum_et = np.concatenate([sample.sum_et for sample in samples])
    return _columns(rng, Objects(lepton, tau, jets, seen, sum_et))


def _simulate_pairs(rng: np.random.Generator, part: Array, mass: Array, is_vector: bool) -> Objects:
    """Simulate bosons that decay to taus, of equal helicity if scalar, of opposite if vector."""
    n = part.size
    rapidity = draw_rapidity(rng, _RAPIDITY[part])
    recoil = draw_recoil(rng, _TABLE, part, rapidity)
    response = _response(rng, n)
    helicity = np.copysign(1.0, rng.random(n) - 0.5)
    bosons = TauPairs(
        is_vector,
        mass,
        np.hypot(*recoil.true),
        rapidity,
        helicity,
        draw_hadrons(rng, helicity if is_vector else -helicity),
        LEP_PT_MIN / response[0],
        TAU_PT_MIN / response[1],
    )
    flight = np.arctan2(-recoil.true[1], -recoil.true[0])
    lepton, tau = (
        _measure(leg, scale, flight)
        for leg, scale in zip(decay_to_taus(rng, bosons), response, strict=True)
    )
    return Objects(lepton, tau, recoil.jets, recoil.seen, recoil.sum_et)


def _simulate_w(rng: np.random.Generator, part: Array, mass: Array) -> Objects:
    """Simulate W bosons that decay to a lepton, with a jet that is taken for a tau."""
    n = part.size
    rapidity = draw_rapidity(rng, _RAPIDITY[part])
    recoil = draw_recoil(rng, _TABLE, part, rapidity)
    fake_pt = TAU_PT_MIN + draw_excess(rng, _FAKE_TAU[part, 0], _FAKE_TAU[part, 1], 1)[0]
    fake_eta = _FAKE_FOLLOW * rapidity + _FAKE_SPREAD * rng.standard_normal(n)
    # The other parton tends to be opposite to the leading jet.
    turn = np.pi * rng.random(n) ** _FAKE_OPPOSITE * np.copysign(1.0, rng.random(n) - 0.5)
    leading = recoil.jets.phi[0]
    fake_phi = np.where(np.isnan(leading), draw_azimuth(rng, n), leading + turn)
    tau = Direction(fake_pt, fold_eta(fake_eta, ETA_MAX), fake_phi)
    response = _response(rng, n)
    # A jet is measured worse as a tau than as a jet.
    jet_pt = tau.pt * (1 + _FAKE_ERROR * truncated_normal(rng, n))
    x, y = recoil.true + polar(jet_pt, tau.phi)
    flight = np.arctan2(-y, -x)
    relative = tau._replace(phi=tau.phi - flight)
    cut = LEP_PT_MIN / response[0]
    lepton = decay_to_lepton(rng, mass, np.hypot(x, y), rapidity, cut, relative)
    lepton = _measure(lepton, response[0], flight)
    return Objects(lepton, tau, recoil.jets, recoil.seen, recoil.sum_et)


def _simulate_top(rng: np.random.Generator, part: Array) -> Objects:
    """Simulate top quark pairs."""
    lepton, tau, jets, soft = draw_top_pairs(rng, part.size, LEP_PT_MIN, TAU_PT_MIN)
    recoil = reconstruct(rng, jets, _TABLE.soft_jets[part, jets.number], _TABLE.recoil[part, 0])
    return Objects(lepton, tau, jets, recoil.seen + soft, recoil.sum_et + np.hypot(*soft))


def _breit_wigner(rng: np.random.Generator, mass: float, width: float, n: int) -> Array:
    """Draw masses of a resonance, cut off some six widths from the centre."""
    return mass + 0.5 * width * np.tan(0.475 * np.pi * (2 * rng.random(n) - 1))


def _drell_yan(rng: np.random.Generator, n: int) -> Array:
    """Draw masses of selected Z bosons: the resonance, and a heavy tail that is selected more often."""
    heavy = rng.random(n) < 0.10
    return _breit_wigner(rng, 92.0, 2.5, n) + heavy * 35.0 * rng.standard_exponential(n)


def _response(rng: np.random.Generator, n: int) -> Array:
    """Return ratios of measured to true momentum of lepton and tau, shape (2, n)."""
    scale = np.array([[LEPTON_RESOLUTION], [TAU_RESOLUTION]])
    # Spectra fall, so more selected events have momenta measured too high than too low.
    shift = np.array([[0.0], [TAU_RESOLUTION**2 * 2]])
    response: Array = 1 + shift + scale * truncated_normal(rng, (2, n))
    return response


def _measure(true: Direction, response: Array, flight: Array) -> Direction:
    """Turn a true momentum into a measured one, with its azimuth in the frame of the detector."""
    return Direction(true.pt * response, true.eta, true.phi + flight)


def _columns(rng: np.random.Generator, objects: Objects) -> dict[str, Array]:
    """Arrange reconstructed objects as the columns of the challenge, and balance them."""
    lepton, tau, jets, seen, sum_et = objects
    x, y = polar(lepton.pt, lepton.phi) + polar(tau.pt, tau.phi) + seen
    # The sum is measured in the calorimeters, where muons deposit almost no energy.
    electron = rng.random(x.size) < 0.5
    leading, subleading = (
        [values[rank] for values in (jets.pt, jets.eta, jets.phi)] for rank in (0, 1)
    )
    return {
        "PRI_tau_pt": tau.pt,
        "PRI_tau_eta": tau.eta,
        "PRI_tau_phi": _wrap(tau.phi),
        "PRI_lep_pt": lepton.pt,
        "PRI_lep_eta": lepton.eta,
        "PRI_lep_phi": _wrap(lepton.phi),
        "PRI_met": np.hypot(x, y),
        "PRI_met_phi": np.arctan2(-y, -x),
        "PRI_met_sumet": sum_et + tau.pt + electron * lepton.pt,
        "PRI_jet_num": jets.number.astype(np.float64),
        "PRI_jet_leading_pt": leading[0],
        "PRI_jet_leading_eta": leading[1],
        "PRI_jet_leading_phi": _wrap(leading[2]),
        "PRI_jet_subleading_pt": subleading[0],
        "PRI_jet_subleading_eta": subleading[1],
        "PRI_jet_subleading_phi": _wrap(subleading[2]),
        "PRI_jet_all_pt": np.nansum(jets.pt, axis=0) + jets.others_pt,
    }


def _wrap(angle: Array) -> Array:
    """Bring angles to one turn around zero."""
    return angle - 2 * np.pi * np.round(angle / (2 * np.pi))
