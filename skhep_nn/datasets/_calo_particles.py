"""Flight of electrons and photons through a tracker and a magnetic field to a calorimeter."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RADIUS = 1.36  # m, where showers in the calorimeter are densest
CRYSTAL = RADIUS * np.pi / 180  # m: a crystal covers 0.01745 in azimuth and in pseudorapidity
_FIELD = 0.3 * 3.8  # GeV/m: momentum over radius of curvature
_SPEED_OF_LIGHT = 0.2998  # m/ns

# Radii (m) of beam pipe, pixel layers, strip layers and the support tube, and their shares of the
# tracker's material.
_LAYER_RADIUS = np.array(
    [0.03, 0.044, 0.073, 0.102, 0.25, 0.34, 0.42, 0.50, 0.61, 0.69, 0.78, 0.87, 0.97, 1.08, 1.18]
)
_LAYER_SHARE = np.array([2, 7, 7, 7, 9, 9, 9, 9, 6, 6, 6, 6, 6, 6, 5]) / 100
_PASSED = np.concatenate([[0.0], np.cumsum(_LAYER_SHARE)])

_SOFTEST = 0.003  # smallest share of the electron's energy that counts as radiation


class Flock(NamedTuple):
    """Particles of many events in flight, one entry for each particle."""

    event: Array
    energy: Array  # GeV
    layer: Array  # layers passed so far
    offset: Array  # m, along azimuth, from the straight line of the primary particle
    angle: Array  # rad, against that line
    charge: Array  # -1, 0, 1


class Arrivals(NamedTuple):
    """Particles at the calorimeter."""

    event: Array
    energy: Array  # GeV
    column: Array  # crystals, along azimuth, from the straight line of the primary particle
    delay: Array  # ns, against that line
    is_photon: Array


def tracker_material(eta: Array) -> Array:
    """Thickness of the tracker in radiation lengths."""
    thickness: Array = 0.5 + 0.6 * eta**2
    return thickness


def fly_to_calorimeter(
    rng: np.random.Generator, energy: Array, eta: Array, charge: Array
) -> tuple[Arrivals, Array]:
    """Take the primary particle of each event to the calorimeter; also count its conversions.

    Electrons radiate, photons convert to pairs, which radiate again; photons of the last
    generation do not convert.
    """
    n = energy.size
    zeros = np.zeros(n)
    primary = Flock(np.arange(n), energy, np.zeros(n, dtype=np.intp), zeros, zeros, charge)
    electrons, photons = _select(primary, charge != 0), _select(primary, charge == 0)
    material, cosh_eta = tracker_material(eta), np.cosh(eta)
    arrived = []
    for _ in range(2):
        electrons, radiated = _bend(rng, electrons, material, cosh_eta)
        arrived.append(electrons)
        whole, electrons = _convert(rng, _join(photons, radiated), material)
        photons = _select(whole, np.zeros(whole.event.size, dtype=bool))
        arrived.append(whole)
        if len(arrived) == 2:
            conversions = np.bincount(electrons.event, minlength=n) // 2
    electrons, radiated = _bend(rng, electrons, material, cosh_eta)
    everything = _join(*arrived, electrons, _extrapolate(radiated))
    return _arrive(everything, cosh_eta), conversions


def _select(flock: Flock, chosen: Array) -> Flock:
    """Keep some particles."""
    return Flock(*(values[chosen] for values in flock))


def _join(*flocks: Flock) -> Flock:
    """Put particles together."""
    return Flock(*(np.concatenate(values) for values in zip(*flocks, strict=True)))


def _bend(
    rng: np.random.Generator, start: Flock, material: Array, cosh_eta: Array
) -> tuple[Flock, Flock]:
    """Take electrons to the calorimeter; also return their radiated photons at the layer of origin."""
    energy, offset, angle = start.energy.copy(), start.offset.copy(), start.angle.copy()
    radius = np.concatenate([[0.0], _LAYER_RADIUS])[start.layer]
    curvature = start.charge * _FIELD * cosh_eta[start.event]
    candidates = material[start.event] * 4 / 3 * np.log(1 / _SOFTEST)
    radiated = []

    def advance(to: float, moving: Array) -> None:
        """Follow the arc to a radius; curvature is small enough for a parabola."""
        step = np.where(moving, to - radius, 0.0)
        bend = curvature / energy * step
        offset[:] += (angle + 0.5 * bend) * step
        angle[:] += bend
        radius[moving] = to

    for layer in range(_LAYER_RADIUS.size):
        moving = start.layer <= layer
        advance(_LAYER_RADIUS[layer], moving)
        probability = -np.expm1(-0.5 * _LAYER_SHARE[layer] * candidates)
        for _ in range(2):
            # Candidates follow 1/k; the Bethe-Heitler spectrum 1/k (4/3 - 4/3 u + u^2) thins them.
            u = _SOFTEST ** rng.random(energy.size)
            accepted = rng.random(energy.size) < probability * (1 - u + 0.75 * u**2)
            chosen = np.flatnonzero(moving & accepted)
            photon_energy = u[chosen] * energy[chosen]
            energy[chosen] = np.maximum(energy[chosen] - photon_energy, 1e-3)
            passed, uncharged = np.full(chosen.size, layer + 1), np.zeros(chosen.size)
            place = (offset[chosen], angle[chosen])
            radiated.append(Flock(start.event[chosen], photon_energy, passed, *place, uncharged))
    advance(RADIUS, np.ones(energy.size, dtype=bool))
    end = Flock(start.event, energy, start.layer, offset, angle, start.charge)
    return end, _join(*radiated)


def _convert(rng: np.random.Generator, photons: Flock, material: Array) -> tuple[Flock, Flock]:
    """Convert photons; return unconverted photons at the calorimeter and pairs at their layers."""
    n = photons.event.size
    free_path = 9 / 7 * rng.standard_exponential(n) / material[photons.event]
    layer = np.searchsorted(_PASSED, _PASSED[photons.layer] + free_path)
    inside = layer <= _LAYER_RADIUS.size
    pairs, layer = _select(photons, inside), layer[inside]
    radius = np.concatenate([[0.0], _LAYER_RADIUS])
    step = radius[layer] - radius[pairs.layer]
    # 1 - 4/3 z (1 - z) is six parts uniform and one part (1 - 2 z)^2.
    v = 2 * rng.random(layer.size) - 1
    share = 0.5 * (1 + np.where(rng.random(layer.size) < 1 / 7, np.cbrt(v), v))
    pairs = pairs._replace(layer=layer, offset=pairs.offset + pairs.angle * step)
    legs = [
        pairs._replace(energy=pairs.energy * fraction, charge=np.full(layer.size, charge))
        for fraction, charge in ((share, 1.0), (1 - share, -1.0))
    ]
    return _extrapolate(_select(photons, ~inside)), _join(*legs)


def _extrapolate(photons: Flock) -> Flock:
    """Take photons to the calorimeter on a straight line."""
    radius = np.concatenate([[0.0], _LAYER_RADIUS])[photons.layer]
    return photons._replace(offset=photons.offset + photons.angle * (RADIUS - radius))


def _arrive(flock: Flock, cosh_eta: Array) -> Arrivals:
    """Express the particles at the calorimeter in its units."""
    start = np.concatenate([[0.0], _LAYER_RADIUS])[flock.layer]
    curvature = flock.charge * _FIELD * cosh_eta[flock.event] / flock.energy
    # An arc is longer than its chord by length^3 curvature^2 / 24.
    detour = (RADIUS - start) ** 3 * curvature**2 / 24
    return Arrivals(
        flock.event,
        flock.energy,
        flock.offset / CRYSTAL,
        np.minimum(detour, RADIUS) / _SPEED_OF_LIGHT,
        flock.charge == 0,
    )
