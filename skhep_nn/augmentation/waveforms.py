"""Augmentation of traces: shifts, amplitudes, noise and wandering baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skhep_nn.inputs.images import chunks, floating
from skhep_nn.inputs.waveforms import WaveformTransformer, baseline_window
from skhep_nn.utils.checks import is_count, is_number
from skhep_nn.utils.public import public
from skhep_nn.utils.random import random_numbers
from skhep_nn.utils.stored_frames import PlainState, Rebuilds, each
from skhep_nn.utils.torch_state import as_signed

__all__ = ["WaveformAugmenter"]

# Number of cosines in a wandering baseline: the constant and the slowest ones.
_N_MODES = 4
# Largest number of traces from which the typical range is computed.
_N_LOOKED_AT = 1000


class _View(NamedTuple):
    """Fixed view of a trace: reversed or not, then shifted by a number of points."""

    mirrored: bool
    shift: int


@public("skhep_nn")
class WaveformAugmenter(PlainState, WaveformTransformer):
    r"""Shift traces in time, scale their amplitude, add noise and a wandering baseline.

    The time and amplitude of a pulse and the noise of the electronics are independent of its
    shape: the number of pulses and the distance between two pulses stay the same.

    Parameters
    ----------
    shift : int or float, default=0.02
        Largest shift in time, as a number of points or, below 1, as a fraction of the trace: uniform
        from ``-shift`` to ``shift``, in whole points. All channels of a trace shift together.
    padding : {"edge", "wrap"}, default="edge"
        Values that fill the free end of a shifted trace: ``"edge"`` repeats the point at that end;
        the points shifted beyond the other end are lost, so choose `shift` such that no pulse gets
        there. ``"wrap"`` inserts the lost points, which keeps noise and area but may make a step.
    amplitude : float, default=0.05
        Standard deviation of the logarithm of a random factor on each trace, the same for all of its
        channels: about the relative standard deviation of the amplitude. The factor acts on the height
        above the baseline. Set it to 0 if the target is an energy or a number of photons.
    noise : float, default=0.0
        Standard deviation of white Gaussian noise on every point, in units of `range_`.
    baseline_wander : float, default=0.0
        Root mean square of a slow change of the baseline of each trace and channel, in units of
        `range_`: a constant and the three slowest cosines, of half a period to one and a half.
    mirror : bool, default=False
        Reverse half of the copies in time. Only for symmetric pulses, which are rare.
    n_shifts : int, default=3
        Odd number of shifts among the views: the centres of `n_shifts` equal parts of the range.
    baseline : int, float or sequence of two int, default=0.02
        Points whose mean is the baseline, which `amplitude` does not scale: a number of points or a
        fraction of the trace, from its start; or ``(start, stop)``. None means a baseline of zero.
    random_state : int, RandomState instance or None, default=None
        Seed of `transform`. With an int, every call draws the same numbers.

    Attributes
    ----------
    n_views_ : int
        Number of test-time views: `n_shifts`, times two with `mirror`. There are fewer if
        `shift_` is too small for `n_shifts` different shifts.
    shift_ : int
        Largest shift in points.
    range_ : ndarray of shape (C,)
        Largest minus smallest value of a trace, for each channel, as the median over at most 1,000
        evenly spaced traces. It is the unit of `noise` and `baseline_wander` and the same for all
        traces, like the noise of electronics.
    trace_shape_ : tuple of int
        Shape of a trace, (T,) or (T, C).
    n_features_in_ : int
        Number of values of a trace.
    feature_names_in_ : ndarray of str
        Names of the columns seen in `fit`, if X had names.

    See Also
    --------
    ImageAugmenter : The same for images.
    WaveformScaler : Baselines and scales.

    Notes
    -----
    Integers, such as uint16, keep their type if they are only shifted or reversed. All other augmentations
    convert them to floating-point numbers (float32 for uint16), so that no value overflows.

    Scaling a pulse does not change its relative fluctuations, which depend on the number of electrons. This
    is harmless for a few percent; a factor of two would make unphysical traces.

    As a step of a Pipeline an augmenter acts both at fit and at predict. The parameter
    ``augmentation=`` of the networks draws new copies for every batch and averages over the views at
    predict; `AugmentedRegressor` does so for other estimators.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.augmentation import WaveformAugmenter
    >>> traces = np.array([[10, 10, 10, 70, 30, 10, 10, 10]], dtype=np.uint16)
    >>> augmenter = WaveformAugmenter(shift=2, amplitude=0.0, random_state=0).fit(traces)
    >>> augmenter.transform(traces)
    array([[10, 10, 70, 30, 10, 10, 10, 10]], dtype=uint16)
    >>> [view.argmax().item() for view in augmenter.views(traces)]
    [3, 2, 4]
    >>> WaveformAugmenter(shift=0, amplitude=0.1, random_state=0).fit_transform(traces).round(1)
    array([[10. , 10. , 10. , 76.2, 32.1, 10. , 10. , 10. ]], dtype=float32)
    """

    _rebuild: ClassVar[Rebuilds] = {"_views": each(_View)}

    def __init__(
        self,
        *,
        shift: float = 0.02,
        padding: str = "edge",
        amplitude: float = 0.05,
        noise: float = 0.0,
        baseline_wander: float = 0.0,
        mirror: bool = False,
        n_shifts: int = 3,
        baseline: float | tuple[int, int] | None = 0.02,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.shift = shift
        self.padding = padding
        self.amplitude = amplitude
        self.noise = noise
        self.baseline_wander = baseline_wander
        self.mirror = mirror
        self.n_shifts = n_shifts
        self.baseline = baseline
        self.random_state = random_state

    def _prepare(self, values: NDArray[Any]) -> None:
        """Check the parameters, compute the range and list the views."""
        n_points = self.sample_shape[0]
        self._check_parameters(n_points)
        whole = isinstance(self.shift, Integral)
        self.shift_ = int(self.shift) if whole else int(self.shift * n_points)
        self._window = baseline_window(self.baseline, n_points)
        some = values[:: -(-len(values) // _N_LOOKED_AT)]
        # In double precision: unsigned integers would wrap around, and half precision overflows.
        span = some.max(axis=1).astype(np.float64) - some.min(axis=1).astype(np.float64)
        self.range_ = np.median(span, axis=0)
        self._units: list[float] = self.range_.tolist()
        width = 2 * self.shift_ / self.n_shifts
        steps = [round(k * width) for k in range(self.n_shifts // 2 + 1)]
        shifts = dict.fromkeys(sign * step for step in steps for sign in (-1, 1))
        mirrors = (False, True) if self._mirrors else (False,)
        self._views = [_View(mirrored, shift) for mirrored in mirrors for shift in shifts]
        self.n_views_ = len(self._views)

    def _check_parameters(self, n_points: int) -> None:
        """Raise ValueError for the first parameter that is out of its range."""
        shift: Any = self.shift
        if not is_number(shift) or not 0 <= shift < (
            n_points if isinstance(shift, Integral) else 1
        ):
            raise ValueError(
                f"shift must be an integer from 0 to below the {n_points} points of a trace or a "
                f"fraction of at least 0 and below 1, got {shift!r}."
            )
        if self.padding not in ("edge", "wrap"):
            raise ValueError(f"padding must be 'edge' or 'wrap', got {self.padding!r}.")
        for name in ("amplitude", "noise", "baseline_wander"):
            value: Any = getattr(self, name)
            if not isinstance(value, Real) or not 0 <= float(value) < np.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}.")
        n_shifts: Any = self.n_shifts
        if not is_count(n_shifts) or n_shifts % 2 == 0:
            raise ValueError(f"n_shifts must be an odd number of at least 1, got {n_shifts!r}.")

    @property
    def _mirrors(self) -> bool:
        """Whether traces are reversed, which changes nothing for a single point."""
        return bool(self.mirror) and self.sample_shape[0] > 1

    @property
    def _computes(self) -> bool:
        """Whether values change, rather than only move."""
        return bool(self.amplitude or self.noise or self.baseline_wander)

    def transform(self, X: Any) -> Any:
        """Make one random copy of every trace.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, T), or array of shape (n_samples, T, C)
            Traces.

        Returns
        -------
        array of the same shape
            One copy of every trace, in the container of X.
        """
        waveforms = self.read(X)
        values = waveforms.values
        rng = random_numbers(self.random_state)
        uniform = torch.from_numpy(rng.uniform(size=(2, len(values))))
        normal = torch.from_numpy(rng.standard_normal(size=(self._n_normal, len(values))))
        dtype = floating(values.dtype) if self._computes else values.dtype
        out = np.empty(values.shape, dtype.newbyteorder("="))
        for rows in chunks(out):
            part = torch.from_numpy(np.array(values[rows], dtype=out.dtype, order="C"))
            noise = None
            if self.noise:
                drawn = rng.standard_normal(size=out[rows].shape).astype(out.dtype, copy=False)
                noise = torch.from_numpy(drawn)
            out[rows] = self._altered(part, uniform[:, rows], normal[:, rows], noise).numpy()
        return self._restored(waveforms, out)

    def views(self, X: Any) -> Iterator[Any]:
        """Yield the fixed views of the traces, over which predictions are averaged.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, T), or array of shape (n_samples, T, C)
            Traces.

        Yields
        ------
        array of the same shape
            All traces in one view, `n_views_` times; the first view is unchanged. Amplitudes, noise
            and baselines stay the same.
        """
        waveforms = self.read(X)
        return (
            self._restored(waveforms, waveforms.values[:, self._sources(np, view)])
            for view in self._views
        )

    def transform_tensor(self, X: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Make one random copy of every trace of a batch, on its device.

        Has no synchronisation and no data-dependent step, so that it can be captured in a CUDA
        graph. Register the generator with the graph, so that each replay draws new numbers.

        Parameters
        ----------
        X : Tensor of shape (..., T) or (..., T, C)
            Traces, with any number of leading dimensions. Not changed in place.
        generator : torch.Generator
            Source of random numbers, on the device of X.

        Returns
        -------
        Tensor of the same shape
            One copy of every trace; of integers in float32, unless they are only shifted or reversed.
        """
        traces = self._traces(X).reshape(-1, *self.sample_shape)
        shapes, device = [(n, len(traces)) for n in (2, self._n_normal)], X.device
        uniform = torch.rand(shapes[0], generator=generator, dtype=torch.float32, device=device)
        normal = torch.randn(shapes[1], generator=generator, dtype=torch.float32, device=device)
        if self._computes and not traces.is_floating_point():
            traces = traces.float()
        noise = torch.empty_like(traces).normal_(generator=generator) if self.noise else None
        return self._altered(traces, uniform, normal, noise).reshape(X.shape)

    def view_tensor(self, X: torch.Tensor, index: int) -> torch.Tensor:
        """Return one of the fixed views of a batch, on its device.

        Parameters
        ----------
        X : Tensor of shape (..., T) or (..., T, C)
            Traces. Not changed in place.
        index : int
            Number of the view, from 0 (the unchanged traces) to ``n_views_ - 1``.

        Returns
        -------
        Tensor of the same shape
            All traces in this view.
        """
        if not 0 <= index < self.n_views_:
            raise IndexError(f"There are {self.n_views_} views, from 0 on; got index {index}.")
        traces = self._traces(X)
        sources = self._sources(torch, self._views[index], device=X.device)
        seen = as_signed(traces).index_select(-2, sources).reshape(X.shape)
        # A view with the same type would still be an operator, which ONNX does not have.
        return seen if seen.dtype == X.dtype else seen.view(X.dtype)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True  # the random numbers of a trace depend on its row
        return tags

    def _traces(self, X: torch.Tensor) -> torch.Tensor:
        """Reshape a batch to traces of shape (..., T, C)."""
        if X.shape[-2:] == self.sample_shape:
            return X
        if X.shape[-1:] == self.trace_shape_ or (*X.shape[-1:], 1) == self.sample_shape:
            return X.unsqueeze(-1)
        raise ValueError(
            f"X has the shape {tuple(X.shape)}, but {type(self).__name__} is expecting traces of "
            f"shape {self.trace_shape_} as input."
        )

    def _sources(self, xp: Any, view: _View, **where: Any) -> Any:
        """Return the source of each point of a view, as an array or a tensor."""
        n_points = self.sample_shape[0]
        sources = xp.arange(n_points, **where) - view.shift
        sources = sources % n_points if self.padding == "wrap" else sources.clip(0, n_points - 1)
        return n_points - 1 - sources if view.mirrored else sources

    @property
    def _n_normal(self) -> int:
        """Number of normally distributed random numbers of a trace, apart from its noise."""
        return 1 + (self.sample_shape[1] * _N_MODES if self.baseline_wander else 0)

    def _altered(
        self,
        X: torch.Tensor,
        uniform: torch.Tensor,
        normal: torch.Tensor,
        noise: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return copies of traces (n, T, C), given uniform and normal random numbers, both (:, n)."""
        copies = self._moved(X, *uniform)
        if self.amplitude:
            factor = (self.amplitude * normal[0]).exp().to(X.dtype)[:, None, None]
            copies = copies.mul(factor)
            if self._window is not None:
                level = X[:, self._window].mean(dim=1, keepdim=True)
                copies.add_(level.mul(1 - factor))
        elif copies is X:
            copies = X.clone()
        if self.baseline_wander:
            modes = _slow_modes(copies)
            weights = normal[1:].unflatten(0, (-1, _N_MODES)).to(X.dtype)
            each = self.baseline_wander / math.sqrt(_N_MODES)
            for channel, unit in enumerate(self._units):
                copies[..., channel].addmm_(weights[channel].T, modes, alpha=each * unit)
        if noise is not None:
            for channel, unit in enumerate(self._units):
                copies[..., channel].add_(noise[..., channel], alpha=self.noise * unit)
        return copies

    def _moved(self, X: torch.Tensor, coin: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Shift and reverse traces (n, T, C); returns X itself if neither is wanted."""
        if not (self._mirrors or self.shift_):
            return X
        moved = as_signed(X)
        if self._mirrors:
            moved = torch.where((coin < 0.5)[:, None, None], moved.flip(1), moved)
        if self.shift_:
            moved = self._shifted(moved, place)
        return moved.view(X.dtype)

    def _shifted(self, X: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Shift each trace by cutting it out of a padded one, at a start given by a number in [0, 1).

        Copying whole traces takes half the time of looking up every point.
        """
        n_points, n_channels = self.sample_shape
        if self.padding == "wrap":
            ends = X[:, -self.shift_ :], X[:, : self.shift_]
        else:
            shape = (len(X), self.shift_, n_channels)
            ends = X[:, :1].expand(shape), X[:, -1:].expand(shape)
        longer = torch.cat([ends[0], X, ends[1]], dim=1).flatten(1)
        starts = (place * (2 * self.shift_ + 1)).long()
        traces = torch.arange(len(X), device=X.device)
        cut = longer.unfold(1, n_points * n_channels, n_channels)[traces, starts]
        return cut.reshape(X.shape)


def _slow_modes(like: torch.Tensor) -> torch.Tensor:
    """Return the slowest cosines over a trace, each with a root mean square of 1."""
    n_points = like.shape[1]
    # In single precision, as half precision cannot count the points of a trace.
    orders = torch.arange(_N_MODES, dtype=torch.float32, device=like.device)
    time = torch.arange(n_points, dtype=torch.float32, device=like.device) + 0.5
    modes = torch.outer(orders, time * (math.pi / n_points)).cos()
    modes[1:].mul_(math.sqrt(2))
    return modes.to(like.dtype)
