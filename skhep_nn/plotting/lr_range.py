"""Display of the learning-rate range test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skhep_nn.plotting.axes import draw_members, figure_and_axes, legend_above
from skhep_nn.tuning.lr_range import LRRange, lr_range_test

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class LRRangeDisplay:
    """Loss against a growing learning rate: the range test of arXiv:1506.01186.

    Create it with :meth:`from_estimator` or :meth:`from_result`.

    Parameters
    ----------
    result : LRRange
        Result of :func:`~skhep_nn.lr_range_test`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    See Also
    --------
    ScheduleDisplay : Learning rates of a schedule.
    HistoryDisplay : Losses of a fit.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn import DenseNetClassifier
    >>> from skhep_nn.plotting import LRRangeDisplay
    >>> X = np.random.default_rng(0).normal(size=(300, 3))
    >>> model = DenseNetClassifier(random_state=0)
    >>> display = LRRangeDisplay.from_estimator(model, X, X[:, 0] > 0, n_members=2)
    >>> bool(display.result.suggested < display.result.lowest)
    True
    """

    def __init__(self, *, result: LRRange) -> None:
        self.result = result

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Run the test for a network and draw it.

        Parameters
        ----------
        estimator : network estimator, or Pipeline that ends in one
            Estimator such as `DenseNetClassifier`, fitted or not. It is cloned and not changed.
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Event weights.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :func:`~skhep_nn.lr_range_test`.

        Returns
        -------
        display : LRRangeDisplay
            Display of the test.
        """
        return cls.from_result(lr_range_test(estimator, X, y, sample_weight, **kwargs), ax=ax)

    @classmethod
    def from_result(cls, result: LRRange, *, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the result of a test.

        Parameters
        ----------
        result : LRRange
            Result of :func:`~skhep_nn.lr_range_test`.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : LRRangeDisplay
            Display of the test.
        """
        return cls(result=result).plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, *, log_y: bool = False, **kwargs: Any) -> Self:
        """Draw the smoothed loss, thin for members and thick for their mean, and the rates found from it.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        log_y : bool, default=False
            Whether the loss axis is logarithmic.
        **kwargs : dict
            Passed to the mean curve, `matplotlib.lines.Line2D`.

        Returns
        -------
        self : LRRangeDisplay
            The display, with `ax_` and `figure_`.
        """
        self.figure_, self.ax_ = figure_and_axes(ax)
        found, mean = self.result, self.result.mean
        options = {"color": "C0", "linewidth": 2.0, "label": "loss", "zorder": 3, **kwargs}
        draw_members(self.ax_, found.table, "lr", "smoothed_loss", options["color"])
        handles = self.ax_.plot(mean.index, mean, **options)
        self.ax_.set(
            xscale="log",
            yscale="log" if log_y else "linear",
            xlabel="Learning rate",
            ylabel="Loss (smoothed)",
        )
        marks = (("suggested", "C1", "-"), ("steepest", "C2", ":"), ("lowest", "C3", "--"))
        for name, color, style in marks:
            rate = getattr(found, name)
            label = f"{name} {rate:.1e}"
            handles.append(self.ax_.axvline(rate, color=color, linestyle=style, label=label))
        if np.isfinite(found.diverged):
            thick: dict[str, Any] = {"color": "0.5", "linewidth": 4.0, "alpha": 0.5}
            label = f"diverged {found.diverged:.1e}"
            handles.append(self.ax_.axvline(found.diverged, label=label, **thick))
        legend_above(self.ax_, handles, columns=2)
        return self
