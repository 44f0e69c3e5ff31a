"""Read-out of a calorimeter: selection of crystals, noise and hit times."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TOWER = 5  # crystals along a side of a trigger tower
TOWER_THRESHOLD = 2.5  # GeV of transverse energy: with its eight neighbours, it is read out
NOISE_THRESHOLD = 1.95  # in units of the noise, for crystals outside the cluster
DOMINO_THRESHOLD = 0.3  # GeV: a column of the cluster, with one more on either side
ROAD = 17  # columns on either side of the seed in which the cluster may grow

_NOISE_TIME, _CONSTANT_TIME, _LARGEST_TIME = 35.0, 0.2, 125.0  # ns
_TIME_SPREAD = 40.0  # ns: the fit of a pulse of noise


def read_out(rng: np.random.Generator, deposit: Array, noise: float, towers: Array) -> Array:
    """Return the energies that are kept, 0 elsewhere; `towers` marks the crystals read out."""
    seen = deposit + np.float32(noise) * rng.standard_normal(deposit.shape, dtype=np.float32)
    kept = towers & (seen > NOISE_THRESHOLD * noise)
    middle, seed = (size // 2 for size in deposit.shape[1:])
    rows = slice(max(middle - 2, 0), middle + 3)
    columns = slice(max(seed - ROAD, 0), seed + ROAD + 1)
    cluster = seen[:, rows, columns].sum(axis=1) > DOMINO_THRESHOLD
    grown = cluster.copy()
    grown[:, 1:] |= cluster[:, :-1]
    grown[:, :-1] |= cluster[:, 1:]
    kept[:, rows, columns] |= (towers & (seen > 0))[:, rows, columns] & grown[:, None, :]
    return np.where(kept, seen, np.float32(0))


def interesting_towers(deposit: Array, transverse: Array, corner: Array) -> Array:
    """Mark crystals of the towers that are read out; `corner` is the offset of the grid of towers."""
    membership = [_membership(size, corner[axis]) for axis, size in enumerate(deposit.shape[1:])]
    rows, columns = membership
    energy = np.matmul(np.matmul(rows.transpose(0, 2, 1), deposit), columns)
    high = (energy * transverse[:, None, None] > TOWER_THRESHOLD).astype(np.float32)
    near = np.matmul(np.matmul(_grown(rows), high), _grown(columns).transpose(0, 2, 1))
    towers: Array = near > 0
    return towers


def _membership(size: int, corner: Array) -> Array:
    """One where a crystal of a row lies in a tower, shape (events, crystals, towers)."""
    tower = (np.arange(size) + corner[:, None]) // TOWER
    number = (size + 2 * TOWER - 2) // TOWER
    membership: Array = (tower[:, :, None] == np.arange(number)).astype(np.float32)
    return membership


def _grown(membership: Array) -> Array:
    """Extend the membership to neighbouring towers."""
    grown = membership.copy()
    grown[:, :, 1:] += membership[:, :, :-1]
    grown[:, :, :-1] += membership[:, :, 1:]
    return grown


def hit_times(rng: np.random.Generator, energy: Array, true_time: Array, noise: float) -> Array:
    """Return measured times (ns) of hits; the resolution improves with energy over noise."""
    if noise > 0:
        spread = np.minimum(_NOISE_TIME * noise / energy, _TIME_SPREAD)
    else:
        spread = np.zeros_like(energy)
    spread = np.hypot(spread, _CONSTANT_TIME)
    jitter = spread * rng.standard_normal(energy.shape, dtype=np.float32)
    times: Array = np.clip(true_time + jitter, -_LARGEST_TIME, _LARGEST_TIME)
    return times
