"""Pulse shapes: features of a trace of a detector, computed without a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.signal import find_peaks

Array = NDArray[Any]

_CHUNK = 500  # traces at a time, in single precision
_SHARES = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)  # of the area
_FINE, _COARSE = 100, 50  # bins of the profile of the pulse, and of the whole trace
_PROMINENT = 0.05  # least height of a peak, as a fraction of the height of the pulse


def pulse_shapes(traces: Array, *, profile: bool = True) -> pd.DataFrame:
    """Compute shapes of traces (n, T) or (n, T, C), the shapes of each channel side by side.

    Lengths are in samples. The baseline is the median of the first 2 % of a trace; pulses below it are
    turned over. With `profile` the pulse comes as 100 bins too, aligned with its beginning, and the
    whole trace as 50.
    """
    channels = traces.reshape(*traces.shape[:2], -1)
    columns = {}
    for number in range(channels.shape[2]):
        parts = [
            _shapes(channels[start : start + _CHUNK, :, number], profile=profile)
            for start in range(0, len(channels), _CHUNK)
        ]
        prefix = f"{number}: " if channels.shape[2] > 1 else ""
        for name in parts[0]:
            columns[prefix + name] = np.concatenate([part[name] for part in parts])
    return pd.DataFrame(columns)


def step_height(traces: Array, *, window: int = 1000, gap: int = 200) -> Array:
    """Height of a step by hand: the largest difference of means over windows around a gap."""
    sums = np.cumsum(traces, axis=1, dtype=float)
    means = (sums[:, window:] - sums[:, :-window]) / window
    return (means[:, window + gap :] - means[:, : -window - gap]).max(axis=1)


def _shapes(traces: Array, *, profile: bool) -> dict[str, Array]:
    """Shapes of traces (n, T) of one channel."""
    n_points = traces.shape[1]
    values = traces.astype(np.float32)
    start = values[:, : max(n_points // 50, 3)]
    baseline = np.median(start, axis=1)
    values -= baseline[:, None]
    turned = -values.min(axis=1) > values.max(axis=1)
    values[turned] *= -1
    smooth = uniform_filter1d(values, max(n_points // 250, 3), axis=1)
    # Noise of the smoothed trace where there is no pulse yet.
    threshold = 4 * smooth[:, : start.shape[1]].std(axis=1) + 1e-9
    pulse = np.where(smooth > threshold[:, None], values, 0)
    found = {
        "baseline": baseline,
        "noise": start.std(axis=1),
        "area": values.sum(axis=1),
        "highest sample": values.max(axis=1),
        "height": smooth.max(axis=1),
        "time of the height": smooth.argmax(axis=1),
    }
    found |= _times(pulse) | _moments(pulse) | _edges(smooth) | _peaks(smooth, n_points // 100)
    wide = uniform_filter1d(values, max(n_points // 80, 3), axis=1)
    found |= {f"{name}, smoothed more": v for name, v in _peaks(wide, n_points // 100).items()}
    if profile:
        found |= _profiles(values, found[f"time of {_SHARES[0]:.0%}"])
    return found


def _times(pulse: Array) -> dict[str, Array]:
    """Return the times at which fractions of the area are reached, and their differences."""
    sums = np.maximum.accumulate(np.cumsum(pulse, axis=1, dtype=np.float64), axis=1)
    goal = sums[:, -1:]
    times = {share: (sums < share * goal).sum(axis=1).astype(float) for share in _SHARES}
    found = {f"time of {share:.0%}": value for share, value in times.items()}
    for low, high in ((0.02, 0.98), (0.05, 0.95), (0.1, 0.9), (0.25, 0.75), (0.1, 0.5), (0.5, 0.9)):
        found[f"from {low:.0%} to {high:.0%}"] = times[high] - times[low]
    return found


def _moments(pulse: Array) -> dict[str, Array]:
    """Mean time, width, skewness and kurtosis of the charge."""
    weight = np.maximum(pulse, 0).astype(np.float64)
    total = np.maximum(weight.sum(axis=1), 1e-9)
    place = np.arange(pulse.shape[1])
    mean = weight @ place / total
    # From sums of powers: a matrix of distances would be as large as the traces.
    centre = place.mean()
    raw = [weight @ (place - centre) ** k / total for k in range(5)]
    m = mean - centre
    second = np.maximum(raw[2] - m**2, 1e-9)
    third = raw[3] - 3 * m * raw[2] + 2 * m**3
    fourth = raw[4] - 4 * m * raw[3] + 6 * m**2 * raw[2] - 3 * m**4
    return {
        "mean time": mean,
        "width": np.sqrt(second),
        "skewness": third / second**1.5,
        "kurtosis": fourth / second**2,
    }


def _edges(smooth: Array) -> dict[str, Array]:
    """Widths at fractions of the height, and how long the edges take."""
    height = smooth.max(axis=1, keepdims=True)
    first, last = {}, {}
    for level in (0.1, 0.5, 0.9):
        above = smooth >= level * height
        first[level] = above.argmax(axis=1)
        last[level] = smooth.shape[1] - 1 - above[:, ::-1].argmax(axis=1)
    found = {f"width at {level:.0%}": (last[level] - first[level]) for level in first}
    found["samples above 50%"] = (smooth >= 0.5 * height).sum(axis=1)
    return found | {"rise": first[0.9] - first[0.1], "fall": last[0.1] - last[0.9]}


def _peaks(smooth: Array, apart: int) -> dict[str, Array]:
    """Count peaks; find heights and times of the two highest, and the valley between these."""
    rows = []
    for trace in smooth:
        height = trace.max()
        places, _ = find_peaks(trace, prominence=_PROMINENT * height, distance=max(apart, 1))
        highest = np.sort(places[np.argsort(-trace[places])][:2])
        if len(highest) < 2:
            rows.append((len(places), height, 0.0, 0.0, 1.0))
            continue
        first, second = highest
        valley = trace[first:second].min() / max(min(trace[first], trace[second]), 1e-9)
        rows.append((len(places), trace[first], trace[second], second - first, valley))
    names = ("peaks", "first peak", "second peak", "between peaks", "valley")
    return dict(zip(names, np.array(rows, dtype=float).T, strict=True))


def _profiles(values: Array, begin: Array) -> dict[str, Array]:
    """Shares of the area in bins: of a quarter of the trace from where the pulse begins, and of all."""
    n, n_points = values.shape
    area = np.maximum(np.abs(values.sum(axis=1, dtype=float)), 1e-9)
    sums = np.zeros((n, n_points + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])

    def shares(edges: Array) -> Array:
        at = np.take_along_axis(sums, np.clip(edges, 0, n_points).astype(np.intp), axis=1)
        return np.diff(at, axis=1) / area[:, None]

    step = n_points / 4 / _FINE
    aligned = shares(np.rint(begin[:, None] + step * np.arange(-3, _FINE - 2)))
    whole = np.linspace(0, n_points, _COARSE + 1)
    coarse = shares(np.broadcast_to(np.rint(whole), (n, _COARSE + 1)))
    found = {f"pulse, bin {k}": aligned[:, k] for k in range(aligned.shape[1])}
    return found | {f"trace, bin {k}": coarse[:, k] for k in range(_COARSE)}
