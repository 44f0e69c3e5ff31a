"""The display of a training history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skhep_nn._drawing import figure_and_axes, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class HistoryDisplay:
    """Losses of all members and the learning rate against the epoch.

    Make one with :meth:`from_estimator`, or from a history table of your own.

    Parameters
    ----------
    history : DataFrame
        Tidy table as in `history_` of a fitted estimator: columns `member`, `epoch`,
        `train_loss`, `valid_loss` (NaN without validation) and `lr`.
    name : str, default=None
        Title. None: no title.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the losses in the last plot.
    lr_ax_ : matplotlib Axes or None
        Axes of the learning rate in the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

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
            The history, drawn.
        """
        if isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        check_is_fitted(estimator, "history_")
        return cls(history=estimator.history_, name=name).plot(ax=ax, **kwargs)

    def mean(self, column: str) -> pd.Series[Any]:
        """Mean over members of one column, for the epochs that every member has.

        Parameters
        ----------
        column : str
            A column of the history.

        Returns
        -------
        mean : Series
            Indexed by epoch. Empty where the column holds no number.
        """
        # Members that stop early would make the mean of the rest jump.
        table = self.history.pivot_table(index="epoch", columns="member", values=column)
        return table.dropna().mean(axis=1)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        show_lr: bool = True,
        log_y: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Draw each member thin, the mean of all members thick.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        show_lr : bool, default=True
            Whether to draw the learning rate on a second axis.
        log_y : bool, default=False
            Whether the loss axis is logarithmic.
        **kwargs : dict
            Passed to the mean curves, `matplotlib.lines.Line2D`.

        Returns
        -------
        self : HistoryDisplay
            The display, with `ax_`, `lr_ax_` and `figure_`.

        Raises
        ------
        ValueError
            If the history lacks a column.
        """
        columns = {"member", "epoch", "train_loss", "valid_loss", "lr"}
        missing = sorted(columns - set(self.history.columns))
        if missing:
            raise ValueError(
                f"the history lacks the columns {missing}: pass `history_` of a fitted estimator"
            )
        self.figure_, self.ax_ = figure_and_axes(ax)
        self.lr_ax_: Axes | None = None
        handles = [
            *self._plot_loss("train_loss", {"color": "C0", "label": "training", **kwargs}),
            *self._plot_loss("valid_loss", {"color": "C1", "label": "validation", **kwargs}),
        ]
        self.ax_.set(xlabel="Epoch", ylabel="Loss", yscale="log" if log_y else "linear")
        self.ax_.locator_params(axis="x", integer=True)
        if show_lr:
            handles += self._plot_learning_rate()
        if self.name is not None:
            self.figure_.suptitle(self.name)
        legend_above(self.ax_, handles, columns=len(handles))
        return self

    def _plot_loss(self, column: str, options: dict[str, Any]) -> list[Any]:
        """Draw one kind of loss; return the handle of its mean, if there was anything to draw."""
        if self.history[column].isna().all():
            return []
        members = self.history.groupby("member")
        if members.ngroups > 1:
            for _, rows in members:
                self.ax_.plot(
                    rows["epoch"],
                    rows[column],
                    color=options["color"],
                    linewidth=0.7,
                    alpha=0.45,
                )
        mean = self.mean(column)
        return list(self.ax_.plot(mean.index, mean, **{"linewidth": 2.0, **options}))

    def _plot_learning_rate(self) -> list[Any]:
        """Draw the learning rate on a second axis behind the losses."""
        rate = self.history.groupby("epoch")["lr"].mean().dropna()
        if rate.empty:
            return []
        lr_ax = self.lr_ax_ = self.ax_.twinx()
        lr_ax.set(ylabel="Learning rate", ylim=(0.0, 1.1 * float(rate.max())))
        lr_ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        # The losses are what is looked at: they stay in front.
        self.ax_.set_zorder(lr_ax.get_zorder() + 1)
        self.ax_.patch.set_visible(False)
        options: dict[str, Any] = {
            "color": "0.5",
            "linestyle": "--",
            "linewidth": 1.2,
            "label": "learning rate",
        }
        return list(lr_ax.plot(rate.index, rate, **options))
