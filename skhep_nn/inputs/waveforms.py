"""Reading of detector traces, and the base class of their transformers."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, NamedTuple

import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from skhep_nn.inputs.images import check_finite_rows
from skhep_nn.inputs.transformers import GridReader, GridTransformer, Names, grid_array
from skhep_nn.utils.checks import is_integer

__all__ = [
    "WaveformReader",
    "WaveformTransformer",
    "Waveforms",
    "baseline_window",
]

_SHAPES = "(n_samples, n_points) or (n_samples, n_points, n_channels)"


# Number of channels for each point from which on channels seem to come first.
_MANY_MORE = 4


class Waveforms(NamedTuple):
    """Validated traces, with the container that they came in."""

    values: NDArray[Any]  # (n_samples, T, C), without a copy if possible
    n_axes: int
    labels: pd.Index | None  # of the rows of a DataFrame

    def restored(self, values: NDArray[Any], names: Names | None = None) -> Any:
        """Put traces of shape (n_samples, t, C) into the container of the input."""
        if self.n_axes == 3:
            return values
        rows = values[..., 0]
        return rows if self.labels is None else pd.DataFrame(rows, self.labels, names)


def baseline_window(baseline: Any, n_points: int) -> slice | None:
    """Return the points that the baseline is computed from, given as a number, a fraction or (start, stop)."""
    if baseline is None:
        return None
    bounds: Any = (0, baseline)
    if (
        isinstance(baseline, Real)
        and not isinstance(baseline, Integral)
        and 0 < float(baseline) < 1
    ):
        bounds = (0, max(1, int(float(baseline) * n_points)))
    elif isinstance(baseline, tuple | list):
        bounds = tuple(baseline)
    are_integers = all(is_integer(b) for b in bounds)
    if len(bounds) != 2 or not are_integers or not 0 <= bounds[0] < bounds[1] <= n_points:
        raise ValueError(
            f"baseline must be None, a number of points from 1 to the {n_points} of a trace, a "
            f"fraction of the trace between 0 and 1, or the points (start, stop), got {baseline!r}."
        )
    return slice(int(bounds[0]), int(bounds[1]))


def _warn_of_channels_first(name: str, n_points: int, n_channels: int) -> None:
    """Warn if traces (T, C) have many more channels than points, as if the channels came first."""
    if n_channels >= _MANY_MORE * n_points and n_channels > 2 * _MANY_MORE:
        warnings.warn(
            f"{name} takes traces of shape {(n_points, n_channels)} as {n_points} points with {n_channels} "
            "channels, but they look as if channels came first. Channels come last here: np.moveaxis(X, 1, -1).",
            stacklevel=5,
        )


class WaveformReader(GridReader):
    """Reader of traces: (n_samples, T) of one channel, or (n_samples, T, C).

    For estimators of scikit-learn. Sets `n_features_in_`, `trace_shape_`, which is (T,) or (T, C),
    and, for DataFrames, `feature_names_in_`.
    """

    trace_shape_: tuple[int, ...]

    def read(self, X: Any, *, reset: bool = False) -> Waveforms:
        """Validate traces, keeping their type; arrays are not copied."""
        if not reset:
            check_is_fitted(self)
        array = grid_array(X, "traces", _SHAPES)
        if array.ndim == 3:
            values = check_array(
                array, allow_nd=True, ensure_all_finite=False, input_name="X", estimator=self
            )
        elif array.ndim > 3:
            raise ValueError(
                f"X must have the shape {_SHAPES}, got {array.shape}. Put further axes among the channels."
            )
        else:
            values = validate_data(self, X, dtype="numeric", ensure_all_finite=False, reset=reset)
        self._check_traces(values.shape[1:], reset=reset)
        check_finite_rows(values, "traces")
        labels = X.index if isinstance(X, pd.DataFrame) else None
        return Waveforms(values.reshape(*values.shape[:2], -1), values.ndim, labels)

    def _check_traces(self, shape: tuple[int, ...], *, reset: bool) -> None:
        """Check the shape of a trace."""
        if min(shape) < 1:
            raise ValueError(f"X has traces of shape {shape}, without a single value.")
        if not reset:
            if shape != self.trace_shape_:
                raise ValueError(
                    f"X has traces of shape {shape}, but {type(self).__name__} is expecting traces of "
                    f"shape {self.trace_shape_}."
                )
            return
        self.trace_shape_ = shape
        self._n_axes = 1 + len(shape)
        if len(shape) == 2:
            self._set_array(shape)
            _warn_of_channels_first(type(self).__name__, *shape)

    @property
    def sample_shape(self) -> tuple[int, int]:
        """Points and channels."""
        n_points, n_channels = (*self.trace_shape_, 1)[:2]
        return n_points, n_channels


class WaveformTransformer(WaveformReader, GridTransformer):
    """Transformer of traces, as (n_samples, T) or (n_samples, T, C).

    A subclass has `_prepare`, which checks the parameters and learns from traces (n_samples, T, C), and
    `transform`, which returns `self._restored(waveforms, values)`.
    """
