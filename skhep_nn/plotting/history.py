"""Display of a training history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skhep_nn.plotting.axes import draw_members, figure_and_axes, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Height of a panel below the losses and of the gap above it, as fractions of the whole height.
_PANEL, _GAP = 0.19, 0.035
_LABELS = {"train_loss": "training", "valid_loss": "validation"}


class HistoryDisplay:
    """Losses of all members, the learning rate and the momentum against the epoch.

    Figures 6 and 8 of arXiv:2002.01427. Create it with :meth:`from_estimator`, or from any history
    table.

    Parameters
    ----------
    history : DataFrame
        Tidy table as in `history_` of a fitted estimator: columns `member`, `epoch`,
        `train_loss`, `valid_loss` (NaN without validation) and `lr`, for panels also `momentum`.
        Further columns with names that end in ``_loss``, such as the loss of averaged weights, are
        drawn in the same way.
    name : str, default=None
        Title. None: no title.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the losses in the last plot.
    lr_ax_ : matplotlib Axes or None
        Axes of the learning rate in the last plot.
    momentum_ax_ : matplotlib Axes or None
        Axes of the momentum in the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    See Also
    --------
    ScheduleDisplay : Learning rate and momentum of every step; the history has the values of the
        last step of each epoch.

    Examples
    --------
    >>> import pandas as pd
    >>> from skhep_nn.plotting import HistoryDisplay
    >>> history = pd.DataFrame({
    ...     "member": [0, 0, 1, 1],
    ...     "epoch": [1, 2, 1, 2],
    ...     "train_loss": [0.7, 0.5, 0.8, 0.4],
    ...     "valid_loss": [0.7, 0.6, 0.7, 0.5],
    ...     "lr": [0.001, 0.002, 0.001, 0.002],
    ... })
    >>> display = HistoryDisplay(history=history).plot()
    >>> display.mean("train_loss").round(3).to_list()
    [0.75, 0.45]
    """

    def __init__(self, *, history: pd.DataFrame, name: str | None = None) -> None:
        self.history = history
        self.name = name

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, name: str | None = None, ax: Axes | None = None, **kwargs: Any
    ) -> Self:
        """Draw the training history of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted estimator of this package, or a Pipeline that ends in one.
        name : str, default=None
            Title. None: no title.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : HistoryDisplay
            Display of the history.
        """
        if isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        if not hasattr(estimator, "history_"):
            check_is_fitted(estimator)
            msg = (
                f"{type(estimator).__name__} has no history_: give the fitted network inside it, such as "
                "best_estimator_ or estimator_."
            )
            raise TypeError(msg)
        return cls(history=estimator.history_, name=name).plot(ax=ax, **kwargs)

    def mean(self, column: str) -> pd.Series[Any]:
        """Return the mean of a column over members, for the epochs that all members have.

        Parameters
        ----------
        column : str
            A column of the history.

        Returns
        -------
        mean : Series
            Indexed by epoch. Empty where the column holds no number.
        """
        # The mean would jump at an epoch where a member stops early.
        table = self.history.pivot_table(index="epoch", columns="member", values=column)
        return table.dropna().mean(axis=1)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        show_lr: bool = True,
        panels: bool = False,
        log_y: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Draw a thin curve for each member, and a thick curve for their mean.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        show_lr : bool, default=True
            Whether to draw the learning rate: in a panel with `panels`, else on a second axis.
        panels : bool, default=False
            Whether to draw learning rate and momentum in separate panels below the losses.
        log_y : bool, default=False
            Whether the loss axis is logarithmic.
        **kwargs : dict
            Passed to the mean curves, `matplotlib.lines.Line2D`.

        Returns
        -------
        self : HistoryDisplay
            The display, with `ax_`, `lr_ax_`, `momentum_ax_` and `figure_`.

        Raises
        ------
        ValueError
            If the history lacks a column.
        """
        needed = {"member", "epoch", "train_loss", "valid_loss", "lr"}
        missing = sorted((needed | {"momentum"} if panels else needed) - set(self.history.columns))
        if missing:
            raise ValueError(
                f"the history lacks the columns {missing}: pass `history_` of a fitted estimator"
            )
        self.figure_, self.ax_ = figure_and_axes(ax)
        self.lr_ax_: Axes | None = None
        self.momentum_ax_: Axes | None = None
        lowest = self._plot_panels(show_lr=show_lr, is_new=ax is None) if panels else None
        handles = []
        names = [str(name) for name in self.history.columns]
        others = [name for name in names if name.endswith("_loss") and name not in _LABELS]
        for index, column in enumerate([*_LABELS, *others]):
            label = _LABELS.get(column, column.removesuffix("_loss").replace("_", " "))
            handles += self._plot_loss(column, {"color": f"C{index}", "label": label, **kwargs})
        self.ax_.set(ylabel="Loss", yscale="log" if log_y else "linear")
        (self.ax_ if lowest is None else lowest).set_xlabel("Epoch")
        self.ax_.locator_params(axis="x", integer=True)
        if show_lr and not panels:
            handles += self._plot_learning_rate()
        if self.name is not None:
            self.figure_.suptitle(self.name)
        legend_above(self.ax_, handles, columns=len(handles))
        return self

    def _plot_panels(self, *, show_lr: bool, is_new: bool) -> Axes:
        """Divide the axes into panels, the uppermost for the losses; draw and return the lowest."""
        frame = self.ax_
        frame.set_axis_off()
        wanted = {"lr": "Learning rate"} if show_lr else {}
        wanted["momentum"] = "Momentum"
        if is_new:
            self.figure_.set_size_inches(6.4, 3.8 + 1.4 * len(wanted))
        step = _PANEL + _GAP
        height = 1 - step * len(wanted)
        self.ax_ = frame.inset_axes((0.0, 1 - height, 1.0, height))
        self.ax_.tick_params(labelbottom=False)
        panel = self.ax_
        for place, (column, label) in enumerate(wanted.items()):
            bottom = step * (len(wanted) - 1 - place)
            panel = frame.inset_axes((0.0, bottom, 1.0, _PANEL), sharex=self.ax_)
            rate = self._rate(column)
            panel.plot(rate.index, rate, color="0.3", linewidth=1.5)
            panel.set_ylabel(label)
            panel.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3), useOffset=False)
            panel.tick_params(labelbottom=bottom == 0)
            setattr(self, f"{column}_ax_", panel)
        return panel

    def _rate(self, column: str) -> pd.Series[Any]:
        """Return the learning rate or momentum of each epoch, averaged over members that still train."""
        return self.history.groupby("epoch")[column].mean().dropna()

    def _plot_loss(self, column: str, options: dict[str, Any]) -> list[Any]:
        """Draw one kind of loss; return the handle of its mean in a list, which is empty without values."""
        if self.history[column].isna().all():
            return []
        draw_members(self.ax_, self.history, "epoch", column, options["color"])
        mean = self.mean(column)
        return list(self.ax_.plot(mean.index, mean, **{"linewidth": 2.0, **options}))

    def _plot_learning_rate(self) -> list[Any]:
        """Draw the learning rate on a second axis behind the losses."""
        rate = self._rate("lr")
        if rate.empty:
            return []
        lr_ax = self.lr_ax_ = self.ax_.twinx()
        lr_ax.set(ylabel="Learning rate", ylim=(0.0, 1.1 * float(rate.max())))
        lr_ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        # The losses matter most and stay in front of the learning rate.
        self.ax_.set_zorder(lr_ax.get_zorder() + 1)
        self.ax_.patch.set_visible(False)
        options: dict[str, Any] = {
            "color": "0.5",
            "linestyle": "--",
            "linewidth": 1.2,
            "label": "learning rate",
        }
        return list(lr_ax.plot(rate.index, rate, **options))
