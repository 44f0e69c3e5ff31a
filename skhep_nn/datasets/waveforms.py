"""Simulated light pulses of a dual-phase xenon chamber."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from skhep_nn.datasets._simulation import check_count, seeded_chunks
from skhep_nn.datasets._waveform_signal import (
    XenonChamber,
    check_chamber,
    electrons_left,
    light_of,
    width_of,
)

__all__ = ["SimulatedWaveforms", "XenonChamber", "make_waveforms"]

Array = NDArray[Any]

_CHUNK = (
    100  # traces, always simulated together, so that a larger sample starts with the same traces
)
_DURATION = 50.0  # us, length of a trace
_TRIGGER, _JITTER = 20.0, 0.5  # us: time of the first pulse and its largest deviation
_LONGEST = 8.0  # us: time between pulses of separation 1
_LARGEST_ENERGY = 20.0  # keV: the model of the recombination holds below


class SimulatedWaveforms(NamedTuple):
    """Traces of :func:`make_waveforms` with their truth.

    The truth of the vertices has shape (n_samples, 2), in the order of their pulses. In a trace with
    one pulse, the second vertex has no energy and no electrons; its other values are NaN.

    Parameters
    ----------
    traces : ndarray of shape (n_samples, n_points)
        ADC counts.
    target : ndarray of shape (n_samples,)
        Separation ``d`` of the pulses from 0 to 1, float64; 0 for a single one. Also called
        ``separation``.
    n_pulses : ndarray of shape (n_samples,)
        1 or 2, int64.
    arrival : ndarray of shape (n_samples, 2)
        Mean time from the start of the trace at which electrons enter the gas, us.
    width : ndarray of shape (n_samples, 2)
        Standard deviation of this time by diffusion, us.
    drift_time : ndarray of shape (n_samples, 2)
        Mean drift time, us.
    energy : ndarray of shape (n_samples, 2)
        keV.
    electrons : ndarray of shape (n_samples, 2)
        Number of electrons that enter the gas, int64.
    sampling : float
        Time between two samples, us.
    """

    traces: Array
    target: Array
    n_pulses: Array
    arrival: Array
    width: Array
    drift_time: Array
    energy: Array
    electrons: Array
    sampling: float

    @property
    def separation(self) -> Array:
        """Separation of the pulses; the same as `target`."""
        return self.target


class _Settings(NamedTuple):
    """Parameters of the simulation, checked."""

    n_points: int
    kinds: tuple[int, ...]
    steps: tuple[int, int]
    energy: tuple[float, float]
    sharing: tuple[float, float]
    drift_time: tuple[float, float]
    chamber: XenonChamber
    dtype: np.dtype[Any]

    @property
    def sampling(self) -> float:
        """Time between two samples in us."""
        return _DURATION / self.n_points


def make_waveforms(
    n_samples: int = 1_000,
    *,
    n_points: int = 5_000,
    n_pulses: int | tuple[int, ...] = 2,
    separation: tuple[float, float] = (0.0, 1.0),
    energy: float | tuple[float, float] = (4.0, 16.0),
    sharing: float | tuple[float, float] = (0.1, 0.9),
    drift_time: float | tuple[float, float] = (100.0, 800.0),
    chamber: XenonChamber | None = None,
    dtype: DTypeLike = np.uint16,
    random_state: int | np.random.Generator | np.random.RandomState | None = None,
) -> SimulatedWaveforms:
    """Simulate S2 signals of one and of two energy deposits in a dual-phase xenon chamber.

    Electrons of each vertex drift to the surface of the liquid, diffuse in time, are extracted and
    emit light while they cross the gas; photomultipliers and a digitiser record it for 50 us. Two
    vertices at different depths make two pulses (2S2) which overlap the more, the smaller the
    separation ``d``; one vertex (1S2) of the same total energy makes one.

    Parameters
    ----------
    n_samples : int, default=1_000
        Number of traces.
    n_points : int, default=5_000
        Samples of a trace of 50 us, at least 50: 5,000 are taken every 10 ns.
    n_pulses : {1, 2, (1, 2)}, default=2
        Pulses of a trace; ``(1, 2)`` makes equal numbers of both in every 100 traces.
    separation : (float, float), default=(0.0, 1.0)
        Smallest and largest separation ``d`` of two pulses. On average, the electrons of the second pulse arrive
        ``d`` times 8 us after the electrons of the first. Values are multiples of a sample
        (1/800 for 5,000 points), uniform, both ends included.
    energy : float or (float, float), default=(4.0, 16.0)
        Total energy in keV, or the range in which it is uniform, up to 20.
    sharing : float or (float, float), default=(0.1, 0.9)
        Share of the energy in the first of two vertices, or the range in which it is uniform.
    drift_time : float or (float, float), default=(100.0, 800.0)
        Drift time of the first vertex in us, or the range in which it is uniform, up to 5000.
    chamber : XenonChamber, default=None
        Chamber and read-out; None for the default values.
    dtype : dtype, default=numpy.uint16
        Type of the traces. Integers are rounded and clipped to the range of the digitiser;
        ``"float32"`` and ``"float64"`` are not.
    random_state : int, numpy Generator, numpy RandomState or None, default=None
        Seed or source of random numbers. The same seed gives the same traces, bit for bit; a
        larger `n_samples` only appends traces. A Generator or RandomState is advanced. None draws
        different traces at each call.

    Returns
    -------
    SimulatedWaveforms
        Named tuple of ``traces``, ``target`` (the separation ``d``), ``n_pulses``, and the truth:
        ``arrival``, ``width``, ``drift_time``, ``energy`` and ``electrons`` of the vertices.

    Raises
    ------
    ValueError
        If a parameter has the wrong type or is out of range.

    See Also
    --------
    skhep_nn.datasets.waveform_files.load_waveforms : Read traces from files.

    Notes
    -----
    The page "waveform_simulator" of the documentation describes the physics and how two
    pulses with a small separation differ from a single pulse.

    References
    ----------
    .. [1] LUX-ZEPLIN collaboration, "The LUX-ZEPLIN (LZ) experiment", arXiv:1910.09124: a chamber
       of this kind.
    .. [2] J. Thomas and D. A. Imel, "Recombination of electron-ion pairs in liquid argon and
       liquid xenon", Phys. Rev. A 36 (1987) 614.

    Examples
    --------
    >>> from skhep_nn.datasets.waveforms import make_waveforms
    >>> waveforms = make_waveforms(100, n_pulses=(1, 2), random_state=0)
    >>> waveforms.traces.shape, waveforms.traces.dtype
    ((100, 5000), dtype('uint16'))
    >>> int((waveforms.n_pulses == 1).sum())
    50
    >>> waveforms.electrons.shape, float(waveforms.target[waveforms.n_pulses == 1].max())
    ((100, 2), 0.0)
    """
    n = check_count("n_samples", n_samples)
    settings = _check(n_points, n_pulses, separation, energy, sharing, drift_time, chamber, dtype)
    traces = np.empty((n, settings.n_points), settings.dtype)
    truth: dict[str, Array] = {}
    for rng, rows in seeded_chunks(random_state, n, _CHUNK):
        size = rows.stop - rows.start
        columns = _vertices(rng, settings)
        traces[rows] = _record(rng, settings, columns)[:size]
        for name, values in columns.items():
            whole = truth.setdefault(name, np.empty((n, *values.shape[1:]), values.dtype))
            whole[rows] = values[:size]
    return SimulatedWaveforms(traces=traces, **truth, sampling=settings.sampling)


def _vertices(rng: np.random.Generator, settings: _Settings) -> dict[str, Array]:
    """Draw the vertices of one chunk and return their truth."""
    n, chamber = _CHUNK, settings.chamber
    n_pulses = rng.permutation(np.resize(np.array(settings.kinds, np.int64), n))
    both = n_pulses == 2
    least, most = settings.steps
    delay = np.where(both, rng.integers(least, most + 1, n), 0) * settings.sampling
    total, share = rng.uniform(*settings.energy, n), rng.uniform(*settings.sharing, n)
    share = np.where(both, share, 1)
    energy = np.stack([total * share, total * (1 - share)], axis=1)
    drift_time = rng.uniform(*settings.drift_time, n)[:, None] + np.stack([0 * delay, delay], 1)
    electrons = electrons_left(rng, chamber, energy, drift_time)
    first = _TRIGGER + _JITTER * (2 * rng.random(n) - 1)
    truth = {
        "arrival": np.stack([first, first + delay], axis=1),
        "width": width_of(chamber, drift_time),
        "drift_time": drift_time,
    }
    for values in truth.values():
        values[~both, 1] = np.nan
    return {
        "target": delay / _LONGEST,
        "n_pulses": n_pulses,
        **truth,
        "energy": energy,
        "electrons": electrons,
    }


def _record(rng: np.random.Generator, settings: _Settings, truth: dict[str, Array]) -> Array:
    """Return the traces of one chunk."""
    chamber, sampling = settings.chamber, settings.sampling
    electrons = truth["electrons"].ravel()
    vertex = np.repeat(np.arange(electrons.size), electrons)
    time = truth["width"].ravel()[vertex] * rng.standard_normal(vertex.size)
    time += truth["arrival"].ravel()[vertex]
    shape = (_CHUNK, settings.n_points)
    columns, light = light_of(rng, chamber, vertex // 2, time, shape, sampling)
    traces = rng.standard_normal(shape, dtype=np.float32)
    traces *= np.float32(chamber.noise)
    traces += np.float32(chamber.baseline)
    traces[:, columns] += np.float32(chamber.gain / (1e3 * sampling)) * light
    if settings.dtype.kind == "f":
        return traces
    np.rint(traces, out=traces)
    return np.clip(traces, 0, 2**chamber.n_bits - 1, out=traces)


def _check(
    n_points: object,
    n_pulses: object,
    separation: object,
    energy: object,
    sharing: object,
    drift_time: object,
    chamber: object,
    dtype: DTypeLike,
) -> _Settings:
    """Check the parameters."""
    points = check_count("n_points", n_points, 50)
    kinds = n_pulses if isinstance(n_pulses, tuple | list) else (n_pulses,)
    if tuple(kinds) not in ((1,), (2,), (1, 2), (2, 1)):
        raise ValueError(f"n_pulses must be 1, 2 or (1, 2), got {n_pulses!r}.")
    chamber = XenonChamber() if chamber is None else chamber
    if not isinstance(chamber, XenonChamber):
        raise TypeError(f"chamber must be a XenonChamber or None, got {chamber!r}.")
    check_chamber(chamber)
    kind = np.dtype(dtype)
    wide_enough = kind.kind in "iu" and np.iinfo(kind).max >= 2**chamber.n_bits - 1
    if kind not in (np.float32, np.float64) and not wide_enough:
        raise ValueError(
            f"dtype must be float32, float64 or integers that hold {chamber.n_bits} bits, "
            f"got {dtype!r}."
        )
    least, most = _range("separation", separation, 0, 1)
    steps = _LONGEST / _DURATION * points
    grid = (int(np.ceil(least * steps - 1e-6)), int(np.floor(most * steps + 1e-6)))
    if grid[0] > grid[1]:
        raise ValueError(
            f"separation must hold a multiple of one sample, {1 / steps:.4g}, got {separation!r}; "
            f"widen it, or take more n_points."
        )
    return _Settings(
        points,
        tuple(sorted(int(k) for k in kinds)),
        grid,
        _range("energy", energy, 0.1, _LARGEST_ENERGY, "keV"),
        _range("sharing", sharing, 0, 1),
        _range("drift_time", drift_time, 0, 5000, "us"),
        chamber,
        kind,
    )


def _range(
    name: str, value: object, least: float, most: float, unit: str = ""
) -> tuple[float, float]:
    """Check a number or a range of numbers, and return its two ends."""
    ends = value if isinstance(value, tuple | list) else (value, value)
    real = len(ends) == 2 and all(isinstance(end, Real) for end in ends)
    if not real or not least <= float(ends[0]) <= float(ends[1]) <= most:
        raise ValueError(
            f"{name} must be a number or (smallest, largest), from {least:g} to {most:g}"
            f"{unit and ' ' + unit}, got {value!r}."
        )
    return float(ends[0]), float(ends[1])
