"""Simulated images of electrons and helium ions that are stopped in a gas."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf
from sklearn.utils import Bunch

from skhep_nn.datasets._simulation import check_count, seeded_chunks

__all__ = ["ION_SPLITS", "make_ion_tracks"]

Array = NDArray[Any]

ION_SPLITS = {
    "train": {"electron": (3.0, 10.0, 30.0), "helium": (1.0, 6.0, 20.0)},
    "test": {"electron": (1.0, 6.0, 20.0), "helium": (3.0, 10.0, 30.0)},
}
"""Energies (keV) of the published split; the test set exchanges the energies of the particles."""

_CHUNK = (
    500  # images, always simulated together, so that a larger sample starts with the same images
)
_SEGMENTS = 48  # number of segments of a track, each with the same energy

# Lengths are in pixels of the published images of 576 x 576.
_PUBLISHED_PIXEL = (
    576 / 50
)  # side of a pixel of the 50 x 50 images to which the numbers below were fitted
_LIGHT = 5.05 * _PUBLISHED_PIXEL**2  # grey levels for each keV of ionisation
_PEDESTAL, _PIXEL_NOISE, _COLUMN_NOISE = 100.4, 0.20, 0.18  # grey levels


class _Particle(NamedTuple):
    """Properties of a particle that determine its images."""

    reach: float  # range at 30 keV
    power: float  # exponent of the energy in the range
    scattering: float  # rad, while the energy falls by a factor of e
    width: float  # standard deviation of the light of a point
    quenching: tuple[float, float]  # share of energy that ionises: a E^b
    spread: float  # relative spread of the light, without counting statistics


_PARTICLES = {
    "electron": _Particle(125.0, 1.8, 2.2, 5.3, (1.0, 0.0), 0.09),
    "helium": _Particle(1.2, 0.8, 0.3, 6.6, (0.47, 0.17), 0.0),
}
_COUNTING = 0.65  # relative counting error of one grey level in a pixel of the 50 x 50 images


def make_ion_tracks(
    n_samples: int = 1_000,
    *,
    split: str = "train",
    image_shape: tuple[int, int] = (50, 50),
    pixel_size: float = 576 / 50,
    random_state: int | np.random.Generator | np.random.RandomState | None = None,
) -> Bunch:
    """Simulate camera images of electrons and helium ions of six energies stopped in a gas.

    The simulated detector is an optical time projection chamber, as in the competitions IDAO 2021
    and MLHEP 2021: a track starts in the middle of the image, its electrons drift and diffuse,
    and a camera records their light as grey levels above a pedestal. An ion stops within the width
    of the diffusion and loses energy to nuclei that gives no light; an electron of 30 keV has a
    crooked track of some 15 pixels that is densest at its end, one of 10 keV is a blob.

    Parameters
    ----------
    n_samples : int, default=1_000
        Number of images. The six kinds are equally frequent, to one image in every 500.
    split : {"train", "test"}, default="train"
        Published split: ``"train"`` has electrons of 3, 10 and 30 keV and helium of 1, 6 and 20
        keV; ``"test"`` exchanges the energies.
    image_shape : (int, int), default=(50, 50)
        Rows and columns.
    pixel_size : float, default=11.52
        Side of a pixel in pixels of the published images of 576 x 576: 1 gives their resolution,
        the default covers the whole image with 50 x 50 pixels. A pixel holds the mean of the light.
    random_state : int, numpy Generator, numpy RandomState or None, default=None
        Seed or source of random numbers. The same seed gives the same images, bit for bit; a
        larger `n_samples` only appends images. A Generator or RandomState is advanced. None draws
        different images at each call.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        With the attributes

        images : ndarray of shape (n_samples, rows, columns)
            Grey levels, uint8.
        target : ndarray of shape (n_samples,)
            Energy in keV, float64.
        is_electron : ndarray of shape (n_samples,)
            1 for electrons, 0 for helium ions; int64.

    Raises
    ------
    ValueError
        If a parameter has the wrong type or is out of range.

    Notes
    -----
    The page "calo_simulators" of the documentation compares images with real ones.

    References
    ----------
    .. [1] E. Baracchini et al., "The CYGNO experiment", arXiv:2202.05480: detectors of this kind.
    .. [2] J. Lindhard et al., "Integral equations governing radiation effects", Mat. Fys. Medd.
       Dan. Vid. Selsk. 33 no. 10 (1963): energy of ions that is not seen.

    Examples
    --------
    >>> from skhep_nn.datasets.ion_tracks import make_ion_tracks
    >>> tracks = make_ion_tracks(600, random_state=0)
    >>> tracks.images.shape, tracks.images.dtype
    ((600, 50, 50), dtype('uint8'))
    >>> sorted({(int(e), int(is_e)) for e, is_e in zip(tracks.target, tracks.is_electron)})
    [(1, 0), (3, 1), (6, 0), (10, 1), (20, 0), (30, 1)]
    """
    shape = _check(n_samples, split, image_shape, pixel_size)
    n = int(n_samples)
    images = np.empty((n, *shape), dtype=np.uint8)
    energy, is_electron = np.empty(n), np.empty(n, dtype=np.int64)
    kinds = [(name, value) for name in _PARTICLES for value in ION_SPLITS[split][name]]
    for rng, rows in seeded_chunks(random_state, n, _CHUNK):
        size = rows.stop - rows.start
        kind = rng.permutation(np.arange(_CHUNK) % len(kinds))
        chunk = np.empty((_CHUNK, *shape), dtype=np.uint8)
        for index, (name, value) in enumerate(kinds):
            chosen = np.flatnonzero(kind == index)
            light = _track(rng, _PARTICLES[name], value, chosen.size, shape, float(pixel_size))
            chunk[chosen] = _photograph(rng, light, float(pixel_size))
        images[rows] = chunk[:size]
        energy[rows] = np.array([value for _, value in kinds])[kind[:size]]
        is_electron[rows] = np.array([name == "electron" for name, _ in kinds])[kind[:size]]
    return Bunch(images=images, target=energy, is_electron=is_electron)


def _track(
    rng: np.random.Generator,
    particle: _Particle,
    energy: float,
    n: int,
    shape: tuple[int, int],
    pixel_size: float,
) -> Array:
    """Return the light of `n` tracks, in grey levels for each pixel."""
    left = energy * (1 - (np.arange(_SEGMENTS + 1)) / _SEGMENTS)
    ranges = particle.reach * (left / 30) ** particle.power
    lengths = ranges[:-1] - ranges[1:]
    middle = 0.5 * (left[:-1] + left[1:])
    turns = particle.scattering * np.sqrt(energy / _SEGMENTS / middle)
    direction = rng.standard_normal((n, 3))
    place, places = np.zeros((n, 2)), np.empty((_SEGMENTS, n, 2))
    for segment, (length, turn) in enumerate(zip(lengths, turns, strict=True)):
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        # The camera sees two of the three dimensions.
        step = length * direction[:, :2]
        places[segment] = place + 0.5 * step
        place += step
        direction += turn * rng.standard_normal((n, 3))
    seen = [
        _shares(places[:, :, axis] / particle.width, shape[axis], pixel_size / particle.width)
        for axis in (0, 1)
    ]
    factor, power = particle.quenching
    mean = _LIGHT * energy * factor * energy**power
    counting = _COUNTING / np.sqrt(mean / _PUBLISHED_PIXEL**2)
    spread = np.hypot(counting, particle.spread) * rng.standard_normal(n)
    light = np.maximum(mean * (1 + spread), 0) / (_SEGMENTS * pixel_size**2)
    image: Array = light[:, None, None] * np.matmul(seen[0].transpose(0, 2, 1), seen[1])
    return image


def _shares(places: Array, size: int, pixel_size: float) -> Array:
    """Return the shares of the light of points along one axis, (tracks, segments, pixels)."""
    edges = (np.arange(size + 1) - size / 2) * pixel_size
    distance = (edges - places.T[:, :, None]) / np.sqrt(2)
    shares: Array = 0.5 * np.diff(erf(distance.astype(np.float32)), axis=2)
    return shares


def _photograph(rng: np.random.Generator, light: Array, pixel_size: float) -> Array:
    """Digitise light to grey levels; part of the noise is common to a column."""
    n, rows, columns = light.shape
    smaller = _PUBLISHED_PIXEL / pixel_size
    pixel = smaller * _PIXEL_NOISE * rng.standard_normal((n, rows, columns), dtype=np.float32)
    column = np.sqrt(smaller) * _COLUMN_NOISE * rng.standard_normal((n, 1, columns))
    grey = _PEDESTAL + light + pixel + column
    levels: Array = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return levels


def _check(
    n_samples: object, split: object, image_shape: object, pixel_size: object
) -> tuple[int, int]:
    """Check the parameters and return the shape of the images."""
    check_count("n_samples", n_samples)
    if split not in ION_SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, ION_SPLITS))}, got {split!r}.")
    shape = image_shape if isinstance(image_shape, tuple | list) else ()
    whole = len(shape) == 2 and all(isinstance(side, Integral) for side in shape)
    if not whole or min(int(side) for side in shape) < 1:
        raise ValueError(f"image_shape must be (rows, columns), at least 1, got {image_shape!r}.")
    if not isinstance(pixel_size, Real) or not 0.1 <= float(pixel_size) <= 1000:
        raise ValueError(f"pixel_size must be from 0.1 to 1000, got {pixel_size!r}.")
    return int(shape[0]), int(shape[1])
