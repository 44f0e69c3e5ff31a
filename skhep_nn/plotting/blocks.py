"""Displays of networks with blocks of columns: their reliance on inputs, and outputs of bottlenecks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from sklearn.utils import column_or_1d

from skhep_nn.inspection.blocks import (
    block_reliance,
    bottleneck_outputs,
    bottleneck_reliance,
    split_estimator,
)
from skhep_nn.plotting.axes import figure_and_axes
from skhep_nn.plotting.scores import ScoreDistributionDisplay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

_QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
_BOXES: dict[str, Any] = {
    "orientation": "horizontal",
    "showfliers": False,
    "showmeans": True,
    "patch_artist": True,
    "boxprops": {"facecolor": "C0", "alpha": 0.5},
    "medianprops": {"color": "black"},
    "meanprops": {"marker": "D", "markersize": 4, "markerfacecolor": "C1", "markeredgecolor": "C1"},
    "widths": 0.6,
}
# Share of events beyond the histograms on either side: activations have long tails.
_TAIL = 0.005


class RelianceDisplay:
    """How much a network relies on each block of columns, or a bottleneck on each feature.

    The distribution over events is drawn as a box: the middle half of the events with the median, a
    diamond at the mean, and whiskers from the 5 % to the 95 % quantile. Create it with
    :meth:`from_estimator` or :meth:`from_table`.

    Parameters
    ----------
    summary : DataFrame
        A row for each block or feature; columns `mean`, `q05`, `q25`, `median`, `q75` and `q95`.
    quantity : str
        Measure of the reliance, for the label of the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    See Also
    --------
    skhep_nn.inspection.block_reliance, skhep_nn.inspection.bottleneck_reliance : Compute the reliance.

    References
    ----------
    arXiv:2002.01427, figures 18 and 19.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn import DenseNetClassifier
    >>> from skhep_nn.plotting import RelianceDisplay
    >>> X = np.random.default_rng(0).normal(size=(500, 4))
    >>> blocks = {"telling": [0, 1], "noise": [2, 3]}
    >>> model = DenseNetClassifier(blocks=blocks, depth=2, random_state=0).fit(X, X[:, 0] > X[:, 1])
    >>> display = RelianceDisplay.from_estimator(model, X)
    >>> display.summary["median"].idxmax()
    'telling'
    """

    def __init__(self, *, summary: pd.DataFrame, quantity: str) -> None:
        self.summary = summary
        self.quantity = quantity

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        bottleneck: str | None = None,
        neuron: int = 0,
        output: int = 0,
        member: int | None = None,
        sample_weight: ArrayLike | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Compute the reliance of a fitted network and draw it.

        Parameters
        ----------
        estimator : estimator
            Fitted `DenseNetClassifier` or `DenseNetRegressor` with `blocks`, or a Pipeline that ends in
            one.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Events.
        bottleneck : str, default=None
            Block whose bottleneck is shown: its reliance on the features of the block. None: the
            reliance of the network's output on all blocks.
        neuron : int, default=0
            Neuron of the bottleneck.
        output : int, default=0
            Output of the network, if there are several and `bottleneck` is None.
        member : int, default=None
            Member of the ensemble. None: events of all members, weighted as in predictions.
        sample_weight : array-like of shape (n_samples,), default=None
            Event weights of at least 0. None: 1 each.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : RelianceDisplay
            Display of the distributions.

        Raises
        ------
        TypeError
            If the estimator has no networks with blocks.
        ValueError
            If the block, bottleneck, neuron, output or member does not exist, or a weight is negative.
        """
        if bottleneck is None:
            table = block_reliance(estimator, X, member=member)
            table = _only(table, output=output)
            quantity = "|weights · features of the block|"
        else:
            table = bottleneck_reliance(estimator, X, member=member)
            table = _only(table, block=bottleneck, neuron=neuron)
            quantity = f"|weight · feature| in the bottleneck of {bottleneck}"
        weight = split_estimator(estimator).ensemble_.weights[table["member"]]
        if sample_weight is not None:
            weight = weight * column_or_1d(sample_weight)[table["row"]]
        return cls.from_table(table, weight=weight, quantity=quantity, ax=ax, **kwargs)

    @classmethod
    def from_table(
        cls,
        table: pd.DataFrame,
        *,
        weight: ArrayLike | None = None,
        quantity: str = "Reliance",
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw a table of reliance.

        Parameters
        ----------
        table : DataFrame
            Result of :func:`~skhep_nn.inspection.block_reliance`, or the rows of one neuron in the result of
            :func:`~skhep_nn.inspection.bottleneck_reliance`. The column `reliance` is shown for each
            `feature` if there is such a column, else for each `block`.
        weight : array-like of shape (n_rows,), default=None
            Weights of the rows, of at least 0. None: 1 each.
        quantity : str, default="Reliance"
            Label of the axis.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : RelianceDisplay
            Display of the distributions.

        Raises
        ------
        ValueError
            If a weight is negative or not finite, since such weights have no quantiles.
        """
        weights = np.ones(len(table)) if weight is None else column_or_1d(weight)
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(
                "weights must be finite and not negative: this display shows quantiles"
            )
        by = "feature" if "feature" in table else "block"
        values = table["reliance"].to_numpy()
        rows = {}
        for name, index in table.groupby(by, observed=True).indices.items():
            own, w = values[index], weights[index]
            quantiles = np.quantile(
                own, list(_QUANTILES.values()), weights=w, method="inverted_cdf"
            )
            mean = np.average(own, weights=w)
            rows[name] = {"mean": mean, **dict(zip(_QUANTILES, quantiles, strict=True))}
        summary = pd.DataFrame.from_dict(rows, orient="index").rename_axis(by)
        return cls(summary=summary, quantity=quantity).plot(ax=ax, **kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        n_most: int | None = None,
        log_x: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Draw a box for each block or feature, the one with the largest mean at the top.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        n_most : int, default=None
            Number of boxes. None: all.
        log_x : bool, default=False
            Whether the axis of the reliance is logarithmic.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.bxp`.

        Returns
        -------
        self : RelianceDisplay
            The display, with `ax_` and `figure_`.
        """
        self.figure_, self.ax_ = figure_and_axes(ax)
        shown = self.summary.sort_values("mean", ascending=False)[:n_most][::-1]
        names = {"mean": "mean", "q05": "whislo", "q25": "q1", "median": "med", "q75": "q3"}
        shown = shown.rename(columns=names | {"q95": "whishi"})
        boxes: list[dict[str, Any]] = [
            {"label": str(name)} | {str(key): value for key, value in row.items()}
            for name, row in shown.iterrows()
        ]
        self.ax_.bxp(boxes, **_BOXES | kwargs)
        self.ax_.set_xlabel(self.quantity)
        if log_x:
            self.ax_.set_xscale("log")
        else:
            self.ax_.set_xlim(left=0.0)
        return self


class BottleneckOutputDisplay:
    """Output of a bottleneck after the activation: its distribution for each class.

    Create it with :meth:`from_estimator`.

    Parameters
    ----------
    distributions : ScoreDistributionDisplay
        Histograms of the output, one for each class.
    quantity : str
        Name of the output, for the label of the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    See Also
    --------
    skhep_nn.inspection.bottleneck_outputs : Computes the outputs.

    References
    ----------
    arXiv:2002.01427, figure 20.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn import DenseNetClassifier
    >>> from skhep_nn.plotting import BottleneckOutputDisplay
    >>> X = np.random.default_rng(0).normal(size=(500, 4))
    >>> y = np.where(X[:, 0] * X[:, 2] > 0, "s", "b")
    >>> blocks = {"first": [0, 1], "second": [2, 3]}
    >>> model = DenseNetClassifier(blocks=blocks, bottleneck=1, depth=2, random_state=0).fit(X, y)
    >>> display = BottleneckOutputDisplay.from_estimator(model, X, y, bottleneck="first")
    >>> display.distributions.class_names
    ['b', 's']
    """

    def __init__(self, *, distributions: ScoreDistributionDisplay, quantity: str) -> None:
        self.distributions = distributions
        self.quantity = quantity

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        bottleneck: str,
        neuron: int = 0,
        member: int = 0,
        sample_weight: ArrayLike | None = None,
        bins: int | ArrayLike = 40,
        density: bool = True,
        class_names: list[str] | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Compute the output of a bottleneck of a fitted network and draw it.

        Parameters
        ----------
        estimator : estimator
            Fitted `DenseNetClassifier` with `blocks` and `bottleneck`, or a Pipeline that ends in one.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Events.
        y : array-like of shape (n_samples,)
            Labels.
        bottleneck : str
            Block whose bottleneck is shown.
        neuron : int, default=0
            Neuron of the bottleneck.
        member : int, default=0
            Member of the ensemble. Each member learns different bottlenecks.
        sample_weight : array-like of shape (n_samples,), default=None
            Event weights. None: 1 each.
        bins : int or array-like of shape (n_bins + 1,), default=40
            Number of bins of equal width between the 0.5 % and 99.5 % quantiles of the events, or the
            edges of the bins. Events outside the bins are left out.
        density : bool, default=True
            Whether to normalise each class to unit area; else the sum of weights is shown.
        class_names : list of str, default=None
            Names for the legend in the order of the sorted labels. None: the labels.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : BottleneckOutputDisplay
            Display of the distributions.

        Raises
        ------
        TypeError
            If the estimator has no networks with blocks.
        ValueError
            If the bottleneck, neuron or member does not exist, or lengths differ.
        """
        table = bottleneck_outputs(estimator, X, y, member=member)
        table = _only(table, block=bottleneck, neuron=neuron)
        values = table["value"].to_numpy()
        low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
        distributions = ScoreDistributionDisplay.from_predictions(
            table["target"],
            values,
            sample_weight=sample_weight,
            bins=np.histogram_bin_edges(values, bins, range=(low, high)),
            density=density,
            class_names=class_names,
            ax=ax,
            **kwargs,
        )
        quantity = f"Output of the bottleneck of {bottleneck}"
        return cls(distributions=distributions, quantity=quantity)._labelled()

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw a histogram with its statistical uncertainty for each class.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`ScoreDistributionDisplay.plot`.

        Returns
        -------
        self : BottleneckOutputDisplay
            The display, with `ax_` and `figure_`.
        """
        self.distributions.plot(ax=ax, **kwargs)
        return self._labelled()

    def _labelled(self) -> Self:
        """Replace the label of the axis, since the histograms show no score."""
        self.figure_, self.ax_ = self.distributions.figure_, self.distributions.ax_
        self.ax_.set_xlabel(self.quantity)
        return self


def _only(table: pd.DataFrame, **chosen: Any) -> pd.DataFrame:
    """Return the rows of one block, neuron or output."""
    for column, value in chosen.items():
        known = table[column].unique().tolist()
        if value not in known:
            raise ValueError(f"there is no {column} {value!r}: choose one of {known}")
        table = table[table[column] == value]
    return table
