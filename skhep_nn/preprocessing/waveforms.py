"""Transformers of traces: baselines and scales."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skhep_nn.inputs.images import chunks, precise
from skhep_nn.inputs.waveforms import WaveformTransformer, baseline_window
from skhep_nn.utils.public import public

__all__ = ["WaveformScaler"]

_METHODS = ("minmax", "peak", "area", None)
_STATISTICS: dict[str, Any] = {"median": np.median, "mean": np.mean}
_SIGNS = {"positive": 1, "negative": -1}


def _has_inverse(scaler: WaveformScaler) -> bool:
    """Whether all traces are scaled alike; raise AttributeError otherwise."""
    if scaler.baseline is None and (scaler.per == "global" or scaler.method is None):
        return True
    raise AttributeError(
        "inverse_transform needs per='global' and baseline=None: the baselines and scales of single "
        "traces are not kept."
    )


@public("skhep_nn")
class WaveformScaler(WaveformTransformer):
    r"""Subtract the baseline of traces and scale them.

    First the baseline, then the polarity, then the scale. By default the scaler applies the
    published recipe :math:`(x - \min X) / (\max X - \min X)` over all traces [1]_, which keeps the
    proportions between traces. scikit-learn's `MinMaxScaler` scales each point in time separately instead.

    Parameters
    ----------
    method : {"minmax", "peak", "area"}, default="minmax"
        ``"minmax"`` maps the smallest value to 0 and the largest to 1, regardless of the baseline;
        ``"peak"`` divides by the largest modulus and ``"area"`` by the modulus of the sum over the
        points. Both need a `baseline` if the digitiser has a pedestal. None does not scale.
    per : {"global", "trace"}, default="global"
        Scale all traces alike, by the range, peak or mean area seen in `fit`, or each trace separately.
        Traces that are scaled separately lose the information about their energy.
    per_channel : bool, default=True
        Scale each channel separately; otherwise all channels of a trace alike, by their common range,
        peak or area, which keeps the ratios between channels.
    baseline : int, float or sequence of two int, default=None
        Points that give the baseline of each trace and channel: a number of points or a fraction
        of the trace, from its start; or ``(start, stop)``. None subtracts nothing.
    statistic : {"median", "mean"}, default="median"
        The baseline is the median of these points, which ignores a small pulse among them, or their
        mean, which is faster.
    polarity : {"positive", "negative"}, default="positive"
        Sign of the pulses. Negative pulses, as of photomultipliers, are inverted.

    Attributes
    ----------
    offset_, scale_ : ndarray of shape (C,)
        Offset that is subtracted from each channel, and scale that it is then divided by, if `per`
        is ``"global"``.
    trace_shape_ : tuple of int
        Shape of a trace, (T,) or (T, C).
    n_features_in_ : int
        Number of values of a trace.
    feature_names_in_ : ndarray of str
        Names of the columns seen in `fit`, if X had names.

    See Also
    --------
    ImageScaler : The same for images.

    Notes
    -----
    The output is a copy: float32 and float64 data keep their type; integers become float32 if that
    holds them exactly (uint16), otherwise float64, so that nothing wraps around.

    A constant trace or channel becomes 0 with ``"minmax"``, and with a `baseline` also with the other
    methods. With ``per="trace"`` the noise of a trace without a pulse is scaled up to the size of a
    pulse.

    The networks standardise their inputs. They need this scaler only for baselines that differ
    between traces, to scale each trace separately, or to reproduce a published recipe.

    References
    ----------
    .. [1] M. Duarte, "Data challenge", LIP Data Science School 2022, Coimbra.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.preprocessing import WaveformScaler
    >>> traces = np.array([[100, 100, 104, 102], [90, 90, 92, 100]], dtype=np.uint16)
    >>> WaveformScaler().fit_transform(traces).round(2)
    array([[0.71, 0.71, 1.  , 0.86],
           [0.  , 0.  , 0.14, 0.71]], dtype=float32)
    >>> WaveformScaler(method="area", per="trace", baseline=2).fit_transform(traces).round(2)
    array([[0.  , 0.  , 0.67, 0.33],
           [0.  , 0.  , 0.17, 0.83]], dtype=float32)
    """

    def __init__(
        self,
        *,
        method: str | None = "minmax",
        per: str = "global",
        per_channel: bool = True,
        baseline: float | tuple[int, int] | None = None,
        statistic: str = "median",
        polarity: str = "positive",
    ) -> None:
        self.method = method
        self.per = per
        self.per_channel = per_channel
        self.baseline = baseline
        self.statistic = statistic
        self.polarity = polarity

    def _prepare(self, values: NDArray[Any]) -> None:
        """Check the parameters and compute the scale common to all traces."""
        for name, known in (
            ("method", _METHODS),
            ("per", ("global", "trace")),
            ("statistic", tuple(_STATISTICS)),
            ("polarity", tuple(_SIGNS)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not known; choose one of {known}."
                )
        self._window = baseline_window(self.baseline, self.sample_shape[0])
        for name in ("offset_", "scale_"):
            if hasattr(self, name):
                delattr(self, name)
        if self.per == "global":
            self._fit_scale(values)

    def _fit_scale(self, values: NDArray[Any]) -> None:
        """Compute the scale common to all traces, chunk by chunk."""
        n_channels = values.shape[2]
        low, high = np.full(n_channels, np.inf), np.full(n_channels, -np.inf)
        area, tiny = np.zeros(n_channels), np.zeros(n_channels)
        for rows in chunks(values):
            part = np.empty(values[rows].shape, precise(values.dtype))
            rounding = self._levelled(values[rows], out=part)
            low = np.minimum(low, part.min((0, 1)))
            high = np.maximum(high, part.max((0, 1)))
            tiny = np.maximum(tiny, rounding.max(0))
            if self.method == "area":
                area += part.sum((0, 1), dtype=np.float64)
        parts = (low, high, area / len(values), tiny)
        self.offset_, self.scale_ = self._scale(*(p[np.newaxis] for p in parts))
        self.offset_, self.scale_ = self.offset_[0], self.scale_[0]

    def _levelled(self, values: NDArray[Any], *, out: NDArray[np.floating]) -> NDArray[np.floating]:
        """Write traces with the baseline subtracted and positive pulses into `out`.

        Returns the largest rounding error, of shape (n_samples, C), which is zero without a baseline.
        A pulse must be larger.
        """
        out[...] = values
        rounding: NDArray[np.floating] = np.zeros((len(out), out.shape[2]))
        if self._window is not None:
            level = _STATISTICS[self.statistic](out[:, self._window].astype(np.float64), axis=1)
            out -= level[:, np.newaxis].astype(out.dtype)
            rounding = 4 * np.finfo(out.dtype).eps * np.abs(level)
        if _SIGNS[self.polarity] < 0:
            np.negative(out, out=out)
        return rounding

    def _scale(
        self,
        low: NDArray[np.floating],
        high: NDArray[np.floating],
        area: NDArray[np.floating],
        tiny: NDArray[np.floating],
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return offset and scale, given smallest and largest value, area and rounding error, all (n, C)."""
        if not self.per_channel:
            low[:] = low.min(axis=1, keepdims=True)
            high[:] = high.max(axis=1, keepdims=True)
            area[:] = area.sum(axis=1, keepdims=True)
            tiny[:] = tiny.max(axis=1, keepdims=True)
        offset = low if self.method == "minmax" else np.zeros_like(low)
        scale = {
            "minmax": high - low,
            "peak": np.maximum(np.abs(low), np.abs(high)),
            "area": np.abs(area),
            None: np.ones_like(low),
        }[self.method]
        if self.method == "area":
            tiny = tiny * self.sample_shape[0]
        return offset, np.where(scale > tiny, scale, 1.0)

    def transform(self, X: Any) -> Any:
        """Subtract baselines and scale.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, T), or array of shape (n_samples, T, C)
            Traces.

        Returns
        -------
        array of the same shape
            Floating-point traces, in the container of X.
        """
        waveforms = self.read(X)
        values = waveforms.values
        scaled = np.empty(values.shape, precise(values.dtype))
        for rows in chunks(scaled):
            part = scaled[rows]
            tiny = self._levelled(values[rows], out=part)
            offset, scale = self._own_scale(part, tiny)
            if self.method == "minmax":
                part -= offset.astype(part.dtype)
            if self.method is not None:
                part /= scale.astype(part.dtype)
        return self._restored(waveforms, scaled)

    def _own_scale(
        self, part: NDArray[np.floating], tiny: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return offset and scale of some traces, which broadcast to (n_samples, T, C)."""
        if self.per == "global":
            return self.offset_, self.scale_
        area = part.sum(axis=1, dtype=np.float64)
        offset, scale = self._scale(part.min(axis=1), part.max(axis=1), area, tiny)
        return offset[:, np.newaxis], scale[:, np.newaxis]

    @available_if(_has_inverse)  # type: ignore[untyped-decorator]
    def inverse_transform(self, X: Any) -> Any:
        """Undo `transform`, if all traces are scaled alike and no baseline is subtracted.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, T), or array of shape (n_samples, T, C)
            Scaled traces.

        Returns
        -------
        array of the same shape
            Floating-point traces in their original unit, in the container of X.
        """
        check_is_fitted(self)
        waveforms = self.read(X)
        values = waveforms.values.astype(precise(waveforms.values.dtype))
        sign = _SIGNS[self.polarity]
        for rows in chunks(values):
            part = values[rows]
            if self.per == "global":
                part *= self.scale_.astype(part.dtype)
                part += self.offset_.astype(part.dtype)
            if sign < 0:
                np.negative(part, out=part)
        return self._restored(waveforms, values)
