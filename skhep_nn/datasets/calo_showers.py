"""Simulated images of electrons and photons in a crystal calorimeter."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from skhep_nn.datasets._calo_particles import Arrivals, fly_to_calorimeter
from skhep_nn.datasets._calo_profile import HALF_WINDOW, WINDOW, deposit_energy
from skhep_nn.datasets._calo_readout import hit_times, interesting_towers, read_out
from skhep_nn.datasets._simulation import check_count, seeded_chunks

__all__ = ["make_calo_showers"]

Array = NDArray[Any]

_CHUNK = (
    500  # images, always simulated together, so that a larger sample starts with the same images
)
_UNIT = 50.0  # GeV and ns: both channels of the public files are divided by it
_VERTEX_TIME = 0.18  # ns, spread of the collisions
_SMALLEST_SIDE = 8


class _Settings(NamedTuple):
    """Parameters of the simulation, checked."""

    electron_fraction: float
    pt: tuple[float, float]
    eta_max: float
    shape: tuple[int, int]
    noise: float


def make_calo_showers(
    n_samples: int = 1_000,
    *,
    electron_fraction: float = 0.5,
    pt: float | tuple[float, float] = 50.0,
    eta_max: float = 1.2,
    image_shape: tuple[int, int] = (32, 32),
    noise: float = 0.05,
    random_state: int | np.random.Generator | np.random.RandomState | None = None,
) -> Bunch:
    """Simulate images of single electrons and photons in a calorimeter of lead tungstate crystals.

    A fast simulation of the barrel of the CMS calorimeter, in numpy. Images have the form of
    the public electron and photon images (32 x 32 crystals, hit energy and hit time). Electrons
    radiate in the tracker and bend in the magnetic field, photons convert to pairs that do both,
    so that either can arrive as several particles spread out along azimuth. These particles
    shower by the GFlash parametrisation [1]_; crystals are read out with noise, zero suppression and
    times. The classes differ for these reasons only.

    Parameters
    ----------
    n_samples : int, default=1_000
        Number of images.
    electron_fraction : float, default=0.5
        Share of electrons, from 0 to 1: exact, to rounding, in every 500 images.
    pt : float or (float, float), default=50.0
        Transverse momentum in GeV, or the range in which it is uniform, from 2 to 1000. The
        energy is ``pt * cosh(eta)``. Towers below 2.5 GeV of transverse energy are not read out: at
        5 GeV a quarter of the energy is lost, at 2 GeV all of it.
    eta_max : float, default=1.2
        Largest pseudorapidity, up to 1.4; pseudorapidity is uniform on either side of zero.
    image_shape : (int, int), default=(32, 32)
        Crystals along pseudorapidity and along azimuth, at least 8 by 8. Images are centred on
        the crystal ``(image_shape[0] // 2, image_shape[1] // 2)`` that most energy points to.
    noise : float, default=0.05
        Standard deviation of the noise of a crystal in GeV.
    random_state : int, numpy Generator, numpy RandomState or None, default=None
        Seed or source of random numbers. The same seed gives the same images, bit for bit; a
        larger `n_samples` only appends images. A Generator or RandomState is advanced. None draws
        different images at each call.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        With the attributes

        images : ndarray of shape (n_samples, height, width, 2)
            float32. Channel 0 is the energy in units of 50 GeV, channel 1 the time in units of
            50 ns against a particle with the speed of light; both are 0 where no hit is kept.
        target : ndarray of shape (n_samples,)
            1 for electrons, 0 for photons, as in the public files; int64.
        energy : ndarray of shape (n_samples,)
            True energy in GeV.
        eta : ndarray of shape (n_samples,)
            True pseudorapidity.
        n_conversions : ndarray of shape (n_samples,)
            Photons, the primary one or radiated ones, that became pairs before the calorimeter.

    Raises
    ------
    ValueError
        If a parameter has the wrong type or is out of range.

    See Also
    --------
    skhep_nn.datasets.calo_files.load_calo_hdf5 : Read the public files.

    Notes
    -----
    The page "calo_simulators" of the documentation describes the physics, compares images with
    real ones, and lists the effects that are not modelled.

    References
    ----------
    .. [1] G. Grindhammer and S. Peters, "The parameterized simulation of electromagnetic showers
       in homogeneous and sampling calorimeters", arXiv:hep-ex/0001020.
    .. [2] M. Andrews et al., "End-to-end physics event classification with CMS Open Data",
       arXiv:1807.11916.

    Examples
    --------
    >>> from skhep_nn.datasets.calo_showers import make_calo_showers
    >>> showers = make_calo_showers(100, random_state=0)
    >>> showers.images.shape, showers.images.dtype
    ((100, 32, 32, 2), dtype('float32'))
    >>> seen = 50 * showers.images[..., 0].sum(axis=(1, 2)) / showers.energy
    >>> bool(0.95 < float(seen.mean()) < 1.05)
    True
    """
    settings = _check(electron_fraction, pt, eta_max, image_shape, noise)
    n = check_count("n_samples", n_samples)
    images = np.empty((n, *settings.shape, 2), dtype=np.float32)
    truth: dict[str, Array] = {}
    for rng, rows in seeded_chunks(random_state, n, _CHUNK):
        size = rows.stop - rows.start
        chunk, columns = _simulate(rng, settings)
        images[rows] = chunk[:size]
        for name, values in columns.items():
            truth.setdefault(name, np.empty(n, values.dtype))[rows] = values[:size]
    return Bunch(images=images, **truth)


def _simulate(rng: np.random.Generator, settings: _Settings) -> tuple[Array, dict[str, Array]]:
    """Simulate one chunk and return images and truth."""
    n = _CHUNK
    is_electron = rng.permutation(n) < round(n * settings.electron_fraction)
    eta = settings.eta_max * (2 * rng.random(n) - 1)
    energy = rng.uniform(*settings.pt, n) * np.cosh(eta)
    charge = np.where(is_electron, np.copysign(1.0, rng.random(n) - 0.5), 0.0)
    arrivals, n_conversions = fly_to_calorimeter(rng, energy, eta, charge)
    deposit, time = _fill_crystals(rng, arrivals, settings.shape)
    transverse = (1 / np.cosh(eta)).astype(np.float32)
    towers = interesting_towers(deposit, transverse, rng.integers(0, 5, (2, n)))
    kept = read_out(rng, deposit, settings.noise, towers)
    images = np.zeros((*kept.shape, 2), dtype=np.float32)
    images[..., 0] = kept / np.float32(_UNIT)
    hit = kept > 0
    images[..., 1][hit] = hit_times(rng, kept[hit], time[hit], settings.noise) / _UNIT
    truth = {
        "target": is_electron.astype(np.int64),
        "energy": energy,
        "eta": eta,
        "n_conversions": n_conversions,
    }
    return images, truth


def _fill_crystals(
    rng: np.random.Generator, arrivals: Arrivals, shape: tuple[int, int]
) -> tuple[Array, Array]:
    """Shower all particles; return the deposit (GeV) and its mean time (ns) for each crystal."""
    n, event = _CHUNK, arrivals.event
    impact = rng.random((2, n))
    showers = deposit_energy(
        rng,
        arrivals.energy,
        arrivals.is_photon,
        impact[0, event],
        impact[1, event] + np.clip(arrivals.column, -shape[1], shape[1]),
    )
    row = showers.row + shape[0] // 2
    column = showers.column - _seed(showers.column, arrivals, shape[1])[event] + shape[1] // 2
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    # A margin around the image holds the parts of windows that extend over the edge.
    rows, columns = (side + 2 * HALF_WINDOW for side in shape)
    window = (np.arange(WINDOW)[:, None] * columns + np.arange(WINDOW)).ravel()
    first = (event[inside] * rows + row[inside]) * columns + column[inside]
    place = (first[:, None] + window).ravel()
    deposits = showers.deposit[inside].reshape(-1, window.size)
    vertex = _VERTEX_TIME * rng.standard_normal(n)
    delay = (arrivals.delay + showers.delay + vertex[event])[inside]

    def collect(weights: Array) -> Array:
        """Sum over the showers for each crystal, and cut off the margin."""
        total = np.bincount(place, weights.ravel(), n * rows * columns)
        frame = slice(HALF_WINDOW, -HALF_WINDOW)
        return total.reshape(n, rows, columns)[:, frame, frame].astype(np.float32)

    deposit, moment = collect(deposits), collect(deposits * delay[:, None])
    empty = deposit <= 0
    return deposit, np.where(empty, 0, moment / np.where(empty, 1, deposit))


def _seed(column: Array, arrivals: Arrivals, reach: int) -> Array:
    """Return the column to which most energy points, for each event."""
    width = 2 * reach + 3
    shifted = np.clip(column, -reach - 1, reach + 1) + reach + 1
    energy = np.bincount(arrivals.event * width + shifted, arrivals.energy, _CHUNK * width)
    seed: Array = energy.reshape(_CHUNK, width).argmax(axis=1) - reach - 1
    return seed


def _check(
    electron_fraction: object, pt: object, eta_max: object, image_shape: object, noise: object
) -> _Settings:
    """Check the parameters."""
    if not isinstance(electron_fraction, Real) or not 0 <= float(electron_fraction) <= 1:
        raise ValueError(f"electron_fraction must be from 0 to 1, got {electron_fraction!r}.")
    momenta = pt if isinstance(pt, tuple | list) else (pt, pt)
    real = len(momenta) == 2 and all(isinstance(value, Real) for value in momenta)
    if not real or not 2 <= float(momenta[0]) <= float(momenta[1]) <= 1000:
        raise ValueError(
            f"pt must be a transverse momentum or a range (least, largest) of it, from 2 to 1000 "
            f"GeV, got {pt!r}."
        )
    if not isinstance(eta_max, Real) or not 0 <= float(eta_max) <= 1.4:
        raise ValueError(f"eta_max must be from 0 to 1.4, where the barrel ends, got {eta_max!r}.")
    if not isinstance(noise, Real) or not 0 <= float(noise) < 10:
        raise ValueError(f"noise must be from 0 to 10 GeV a crystal, got {noise!r}.")
    shape = image_shape if isinstance(image_shape, tuple | list) else ()
    whole = len(shape) == 2 and all(isinstance(side, Integral) for side in shape)
    if not whole or min(int(side) for side in shape) < _SMALLEST_SIDE:
        raise ValueError(
            f"image_shape must be two numbers of crystals, (along eta, along phi), of at least "
            f"{_SMALLEST_SIDE}, got {image_shape!r}."
        )
    return _Settings(
        float(electron_fraction),
        (float(momenta[0]), float(momenta[1])),
        float(eta_max),
        (int(shape[0]), int(shape[1])),
        float(noise),
    )
