"""Display of a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skhep_nn.plotting.axes import figure_and_axes, legend_above

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray


class ScheduleDisplay:
    """Learning rate and momentum of every step: figures 6 and 9 of arXiv:2002.01427.

    Create it with :meth:`from_schedule`.

    Parameters
    ----------
    lr : ndarray of shape (n_iterations,)
        Learning rate of every step.
    momentum : ndarray of shape (n_iterations,) or None
        Momentum (beta1 of Adam) of every step; None if the schedule does not change it.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the learning rate in the last plot.
    momentum_ax_ : matplotlib Axes or None
        Axes of the momentum in the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    See Also
    --------
    HistoryDisplay : Losses, learning rate and momentum of each epoch of a fit.

    Examples
    --------
    >>> from skhep_nn import OneCycle
    >>> from skhep_nn.plotting import ScheduleDisplay
    >>> display = ScheduleDisplay.from_schedule(OneCycle(), n_epochs=15, n_steps=100)
    >>> int(display.lr.argmax()), int(display.momentum.argmin())
    (500, 500)
    """

    def __init__(self, *, lr: NDArray[Any], momentum: NDArray[Any] | None = None) -> None:
        self.lr = lr
        self.momentum = momentum

    @classmethod
    def from_schedule(
        cls,
        schedule: Any,
        *,
        n_epochs: int,
        n_steps: int,
        valid_losses: Sequence[float] = (),
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the learning rate and momentum of a schedule.

        Parameters
        ----------
        schedule : schedule
            `OneCycle`, `CosineRestarts` or another object for `schedule=` of the estimators.
        n_epochs : int
            Number of epochs.
        n_steps : int
            Number of optimizer steps (minibatches) in an epoch.
        valid_losses : sequence of float, default=()
            Validation losses of the epochs, for schedules that depend on them.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : ScheduleDisplay
            Display of the schedule.
        """
        rates = [
            schedule.rates(
                epoch, n_epochs=n_epochs, n_steps=n_steps, valid_losses=list(valid_losses)[:epoch]
            )
            for epoch in range(n_epochs)
        ]
        parts = [part.momentum for part in rates if part.momentum is not None]
        return cls(
            lr=np.concatenate([part.lr for part in rates]),
            momentum=np.concatenate(parts) if len(parts) == len(rates) else None,
        ).plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, *, log_y: bool = False, **kwargs: Any) -> Self:
        """Draw the learning rate, and the momentum on a second axis.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        log_y : bool, default=False
            Whether the axis of the learning rate is logarithmic.
        **kwargs : dict
            Passed to the curve of the learning rate, `matplotlib.lines.Line2D`.

        Returns
        -------
        self : ScheduleDisplay
            The display, with `ax_`, `momentum_ax_` and `figure_`.
        """
        self.figure_, self.ax_ = figure_and_axes(ax)
        handles = self.ax_.plot(self.lr, **{"color": "C0", "label": "learning rate", **kwargs})
        self.ax_.set(xlabel="Iteration (minibatch)", ylabel="Learning rate")
        if log_y:
            self.ax_.set_yscale("log")
        else:
            self.ax_.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        self.momentum_ax_: Axes | None = None
        if self.momentum is not None:
            self.momentum_ax_ = self.ax_.twinx()
            options: dict[str, Any] = {"color": "C1", "linestyle": "--", "label": "momentum"}
            handles += self.momentum_ax_.plot(self.momentum, **options)
            self.momentum_ax_.set_ylabel("Momentum")
        legend_above(self.ax_, handles, columns=len(handles))
        return self
