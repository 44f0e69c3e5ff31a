"""Electromagnetic showers in a homogeneous calorimeter by the GFlash parametrisation."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc

Array = NDArray[Any]

# Lead tungstate.
_Z = 68.4
_CRITICAL_ENERGY = 9.64e-3  # GeV
_RADIATION_LENGTH = 0.89  # cm
_MOLIERE_RADIUS = 2.3  # cm
_CRYSTAL_SIZE = 2.37  # cm, at the depth of the shower
_CRYSTAL_DEPTH = 25.8  # radiation lengths
_LIGHT = (
    0.89 * (2.2 - 1) / 29.98
)  # ns for each radiation length: light from deeper in the crystal has a shorter way out

# Soft electrons of a shower bend in the magnetic field, which widens it along azimuth.
_STRETCH = 1.12

HALF_WINDOW = 5  # crystals on either side of the one that is hit
WINDOW = 2 * HALF_WINDOW + 1
_USUAL_DEPTH = 8.0  # radiation lengths, mean depth of the energy
# Crystals are tilted by three degrees, so that deeper showers sit further on.
_TILT = np.tan(np.radians(3)) * _RADIATION_LENGTH / _CRYSTAL_SIZE

_BINS = 32  # bins along a side of a crystal in the table of lateral shares
# Slices in depth, each with a fifth of the energy, as quantiles of a normal distribution.
_SLICES = np.array([-1.2816, -0.5244, 0.0, 0.5244, 1.2816])
_RADII = np.geomspace(0.04, 4.0, 9)  # radii of the table in Moliere radii


class Showers(NamedTuple):
    """Deposits of showers in a window around the crystal where they are densest."""

    row: Array  # crystal at the centre of the window
    column: Array
    deposit: Array  # GeV, shape (n, window, window)
    delay: Array  # ns, against a shower of usual depth


@lru_cache(maxsize=1)
def _lateral_table() -> Array:
    """Return the shares of crystals, (bins of the impact, radius, crystals of the window)."""
    impact = (np.arange(_BINS) + 0.5) / _BINS
    edges = np.arange(-HALF_WINDOW, HALF_WINDOW + 2)
    # Edges of crystals as seen from the impact, in Moliere radii.
    seen = (edges[None, :] - impact[:, None]).ravel() * (_CRYSTAL_SIZE / _MOLIERE_RADIUS)
    x, y = seen[:, None], seen[None, :] / _STRETCH
    tables = []
    for radius in _RADII:
        to_x, to_y = np.sqrt(x**2 + radius**2), np.sqrt(y**2 + radius**2)
        # The integral of the density R^2 / pi (r^2 + R^2)^2 over a quarter plane, by x and y.
        corner = (x / to_x * np.arctan(y / to_x) + y / to_y * np.arctan(x / to_y)) / (2 * np.pi)
        corner = corner.reshape(_BINS, edges.size, _BINS, edges.size)
        cells = np.diff(np.diff(corner, axis=1), axis=3)
        tables.append(cells.transpose(0, 2, 1, 3).reshape(_BINS**2, WINDOW**2))
    return np.stack(tables, axis=1).astype(np.float32)


def deposit_energy(
    rng: np.random.Generator, energy: Array, is_photon: Array, row: Array, column: Array
) -> Showers:
    """Shower particles of given energy (GeV) and place of entry (in crystals)."""
    n = energy.size
    log_energy = np.log(np.maximum(energy, 0.1))
    top, alpha = _draw_longitudinal(rng, log_energy - np.log(_CRITICAL_ENERGY))
    # A photon has to make a pair first.
    start = np.where(is_photon, 9 / 7 * rng.standard_exponential(n), 0.0)
    beta = (alpha - 1) / top
    depth = start + alpha / beta - _USUAL_DEPTH
    contained = gammainc(alpha, beta * np.maximum(_CRYSTAL_DEPTH - start, 0.01))
    response = 1 + np.hypot(0.028 / np.sqrt(energy), 0.003) * rng.standard_normal(n)
    measured = energy * contained * np.maximum(response, 0.1)
    cells, bins = [], []
    for place in (row, column):
        tilted = place + _TILT * depth
        cells.append(np.floor(tilted).astype(np.intp))
        bins.append(((tilted - cells[-1]) * _BINS).astype(np.intp))
    shares = _lateral_table()[bins[0] * _BINS + bins[1]]
    weights = _radial_weights(log_energy, alpha).astype(np.float32)
    share = np.matmul(weights[:, None, :], shares)[:, 0]
    # The energy comes in spots; their number fluctuates in every crystal.
    spots = (93 * np.log(_Z) * np.maximum(energy, 0.01) ** 0.876).astype(np.float32)
    scatter = rng.standard_normal(share.shape, dtype=np.float32)
    share = np.maximum(share + scatter * np.sqrt(share / spots[:, None]), 0)
    deposit = share * measured.astype(np.float32)[:, None]
    return Showers(cells[0], cells[1], deposit.reshape(n, WINDOW, WINDOW), -_LIGHT * depth)


def _draw_longitudinal(rng: np.random.Generator, log_y: Array) -> tuple[Array, Array]:
    """Draw the depth of the maximum and the shape of the profile."""
    correlation = 0.705 - 0.023 * log_y
    first, second = rng.standard_normal((2, log_y.size))
    both, apart = np.sqrt((1 + correlation) / 2) * first, np.sqrt((1 - correlation) / 2) * second
    top = (log_y - 0.812) * np.exp((both + apart) / (-1.4 + 1.26 * log_y))
    mean_alpha = 0.81 + (0.458 + 2.26 / _Z) * log_y
    alpha = mean_alpha * np.exp((both - apart) / (-0.58 + 0.86 * log_y))
    return top, np.maximum(alpha, 1.1)


def _radial_weights(log_energy: Array, alpha: Array) -> Array:
    """Return weights for the radii of the table, averaged over the depth of the shower."""
    # Quantiles of a gamma distribution (Wilson and Hilferty), in units of its mode.
    shape = alpha[:, None]
    quantile = shape * (1 - 1 / (9 * shape) + _SLICES / (3 * np.sqrt(shape))) ** 3
    tau = np.maximum(quantile, 0.0) / (shape - 1)
    energy = log_energy[:, None]
    core = 0.0251 + 0.00319 * energy + (0.1162 - 0.000381 * _Z) * tau
    rise, fall = 0.3585 + 0.0421 * energy, -2.59
    tail = (0.659 - 0.00309 * _Z) * (np.exp(fall * (tau - 0.645)) + np.exp(rise * (tau - 0.645)))
    place = (0.401 + 0.00187 * _Z - tau) / (1.313 - 0.0686 * energy)
    share = np.clip((2.632 - 0.00094 * _Z) * np.exp(place - np.exp(place)), 0, 1)
    return _onto_table(core, share) + _onto_table(tail, 1 - share)


def _onto_table(radius: Array, share: Array) -> Array:
    """Distribute shares over the two nearest radii of the table, averaged over depth."""
    step = np.log(_RADII[1] / _RADII[0])
    place = np.clip(np.log(radius / _RADII[0]) / step, 0, _RADII.size - 1)
    distance = np.abs(place[:, :, None] - np.arange(_RADII.size))
    hats = np.maximum(1 - distance, 0)
    mean: Array = np.einsum("nk,nkj->nj", share, hats) / _SLICES.size
    return mean
