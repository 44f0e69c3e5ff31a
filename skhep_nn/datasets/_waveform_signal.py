"""Signal chain of a xenon chamber: from electrons in the liquid to photoelectrons in samples."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "XenonChamber",
    "check_chamber",
    "electrons_left",
    "light_of",
    "shape_of_photoelectron",
    "width_of",
]

Array = NDArray[Any]

_TAIL = 1e-4  # share of a photoelectron's pulse that is cut off
_NOTHING = 1e-9  # fewer photoelectrons in a sample are rounding errors

_QUANTUM = 0.0137  # keV for an excitation or an ionisation
_EXCITATIONS = 0.06  # for each ionisation
_FANO = 0.059  # variance of the number of quanta over its mean


class XenonChamber(NamedTuple):
    """Dual-phase xenon chamber and its read-out, as :func:`make_waveforms` simulates them.

    A tuple with names: ``XenonChamber(noise=0.0)`` changes one value of the default, and
    ``chamber._replace(noise=0.0)`` one value of another chamber. All values must be positive, except
    where 0 is allowed.

    Parameters
    ----------
    drift_velocity : float, default=1.7
        Drift velocity of electrons in the liquid, mm/us; measured: 1.705 at 380 V/cm [1]_.
    diffusion : float, default=26.0
        Longitudinal diffusion coefficient, cm^2/s, may be 0; measured: 25.7 +- 4.6 [2]_. After a
        drift time ``t`` the arrival times of electrons from one point have the variance
        ``2 * diffusion * t / drift_velocity**2``.
    electron_lifetime : float, default=5000.0
        Mean time, us, after which a drifting electron is captured by an impurity.
    recombination : float, default=0.03
        Strength of the recombination in the Thomas-Imel box model, for each ionisation.
    recombination_spread : float, default=0.05
        Standard deviation of the share of electrons that recombine, may be 0.
    extraction : float, default=0.8
        Share of the electrons that leave the liquid, at most 1.
    gap_time : float, default=1.2
        Time, us, that an electron takes to cross the gas and emits light at a constant rate.
    photoelectrons : float, default=50.0
        Mean number of photoelectrons in the photomultipliers for each electron in the gas.
    electron_spread : float, default=0.2
        Standard deviation of the light of electrons relative to its mean, beyond the counting of
        photoelectrons; from 0 to 0.5.
    gain : float, default=100.0
        Area of a photoelectron, ADC counts times ns.
    gain_spread : float, default=0.35
        Standard deviation of this area relative to its mean, may be 0.
    shaping_time : float, default=10.0
        A photoelectron has the pulse ``t * exp(-t / shaping_time)``, ns.
    noise : float, default=4.0
        Standard deviation of the electronic noise of a sample, ADC counts, may be 0.
    baseline : float, default=400.0
        ADC counts without a signal, may be 0.
    n_bits : int, default=14
        Number of bits of the digitiser, up to 16; larger signals are clipped at ``2**n_bits - 1``.

    References
    ----------
    .. [1] EXO-200 collaboration, "Measurement of the drift velocity and transverse diffusion of
       electrons in liquid xenon with the EXO-200 detector", arXiv:1609.04467.
    .. [2] O. Njoya et al., "Measurements of electron transport in liquid and gas xenon using a
       laser-driven photocathode", arXiv:1911.11580.

    Examples
    --------
    >>> from skhep_nn.datasets.waveforms import XenonChamber
    >>> XenonChamber(noise=0.0).electron_lifetime
    5000.0
    """

    drift_velocity: float = 1.7
    diffusion: float = 26.0
    electron_lifetime: float = 5000.0
    recombination: float = 0.03
    recombination_spread: float = 0.05
    extraction: float = 0.8
    gap_time: float = 1.2
    photoelectrons: float = 50.0
    electron_spread: float = 0.2
    gain: float = 100.0
    gain_spread: float = 0.35
    shaping_time: float = 10.0
    noise: float = 4.0
    baseline: float = 400.0
    n_bits: int = 14


_MAY_BE_ZERO = "diffusion recombination_spread electron_spread gain_spread noise baseline".split()
_LARGEST = {"extraction": 1.0, "electron_spread": 0.5, "n_bits": 16}


def check_chamber(chamber: XenonChamber) -> None:
    """Check the values of a chamber."""
    for name, value in chamber._asdict().items():
        most = _LARGEST.get(name, 1e6)
        zero = name in _MAY_BE_ZERO
        least = 0 if zero else np.nextafter(0, 1)
        real = isinstance(value, Integral if name == "n_bits" else Real)
        if not real or not least <= value <= most:
            raise ValueError(
                f"XenonChamber: {name} must be {'at least' if zero else 'above'} 0 and at most "
                f"{most:g}, got {value!r}."
            )


def electrons_left(
    rng: np.random.Generator, chamber: XenonChamber, energy: Array, drift_time: Array
) -> Array:
    """Count the electrons that come into the gas from vertices of `energy` (keV)."""
    quanta = energy / _QUANTUM
    quanta = quanta + np.sqrt(_FANO * quanta) * rng.standard_normal(energy.shape)
    ions = np.maximum(quanta, 0) / (1 + _EXCITATIONS)
    box = 0.25 * chamber.recombination * ions
    free = np.log1p(box) / np.where(box > 0, box, 1)
    free += chamber.recombination_spread * rng.standard_normal(energy.shape)
    electrons = np.rint(ions * np.clip(free, 0, 1)).astype(np.int64)
    survival = chamber.extraction * np.exp(-drift_time / chamber.electron_lifetime)
    left: Array = rng.binomial(electrons, survival)
    return left


def width_of(chamber: XenonChamber, drift_time: Array) -> Array:
    """Compute the standard deviation (us) of the arrival of electrons that drifted for `drift_time` (us)."""
    square_mm = 2 * chamber.diffusion * 1e-4 * drift_time  # cm^2/s are 1e-4 mm^2/us
    width: Array = np.sqrt(square_mm) / chamber.drift_velocity
    return width


def shape_of_photoelectron(chamber: XenonChamber, sampling: float) -> Array:
    """Return shares of a photoelectron's pulse in consecutive samples of `sampling` us."""
    step = 1e3 * sampling / chamber.shaping_time
    shares: list[float] = []
    before = 1.0
    # Every pulse is taken to start at the beginning of its sample.
    while before > _TAIL:
        end = step * (len(shares) + 1)
        after = (1 + end) * np.exp(-end)
        shares.append(before - after)
        before = after
    return np.array(shares, dtype=np.float32) / np.float32(sum(shares))


def light_of(
    rng: np.random.Generator,
    chamber: XenonChamber,
    row: Array,
    time: Array,
    shape: tuple[int, int],
    sampling: float,
) -> tuple[slice, Array]:
    """Return the light of electrons that enter the gas at `time` (us) in the trace `row`.

    The result is the range of columns with light, and the photoelectrons in each trace and
    column, with the spread of their gain and their pulse shape.
    """
    n, n_points = shape
    column = np.floor(time / sampling).astype(np.intp)
    inside = (column >= 0) & (column < n_points)
    row, column = row[inside], column[inside]
    if not column.size:
        return slice(0, 0), np.zeros((n, 0), np.float32)
    gap = chamber.gap_time / sampling
    pulse = shape_of_photoelectron(chamber, sampling)
    first = int(column.min())
    width = int(column.max()) - first + 2 + int(np.ceil(gap)) + pulse.size
    weight = None
    if chamber.electron_spread > 0:
        spread = chamber.electron_spread * rng.standard_normal(column.size)
        weight = np.maximum(1 + spread, 0)
    entering = np.bincount(row * width + column - first, weight, n * width).reshape(n, width)
    mean = _moving_mean(entering, gap) * chamber.photoelectrons
    charge = _amplify(rng, mean, chamber.gain_spread)
    light = np.zeros_like(charge)
    for delay, share in enumerate(pulse):
        light[:, delay:] += share * charge[:, : width - delay]
    last = min(first + width, n_points)
    return slice(first, last), light[:, : last - first]


def _moving_mean(values: Array, length: float) -> Array:
    """Spread each value evenly over `length` columns from its own on."""
    if length <= 1:
        return values
    whole, part = int(length), length - int(length)
    total = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=total[:, 1:])
    mean = total[:, 1:].copy()
    mean[:, whole:] -= (1 - part) * total[:, 1 : total.shape[1] - whole]
    mean[:, whole + 1 :] -= part * total[:, 1 : total.shape[1] - whole - 1]
    return np.divide(mean, length, out=mean)


def _amplify(rng: np.random.Generator, mean: Array, spread: float) -> Array:
    """Count photoelectrons and sum up their areas, each of mean 1 and a gamma distribution."""
    place = np.flatnonzero(mean > _NOTHING)
    count = rng.poisson(mean.ravel()[place])
    place, area = place[count > 0], count[count > 0].astype(np.float32)
    if spread > 0:
        variance = np.float32(spread**2)
        area = variance * rng.standard_gamma(area / variance, dtype=np.float32)
    charge: Array = np.zeros(mean.shape, np.float32)
    charge.ravel()[place] = area
    return charge
