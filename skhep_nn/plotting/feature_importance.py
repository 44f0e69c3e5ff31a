"""Displays of the importance, correlations and mutual dependence of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skhep_nn.inspection.feature_importance import forest_importance, mutual_dependence
from skhep_nn.inspection.rank_correlation import rank_correlations
from skhep_nn.plotting.axes import figure_and_axes
from skhep_nn.plotting.heatmap import draw_heatmap

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


class FeatureImportanceDisplay:
    """Permutation importance of features as bars: figure 2 of arXiv:2002.01427.

    Create it with :meth:`from_data`, or from an existing table.

    Parameters
    ----------
    importance : DataFrame
        Result of :func:`~skhep_nn.inspection.forest_importance`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.plotting import FeatureImportanceDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> display = FeatureImportanceDisplay.from_data(X, X[:, 1] > 0, n_forests=2, random_state=0)
    >>> display.importance["feature"][0]
    'x1'
    """

    def __init__(self, *, importance: pd.DataFrame) -> None:
        self.importance = importance

    @classmethod
    def from_data(cls, X: Any, y: ArrayLike, *, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Compute the importance of features and draw it.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,)
            Labels, or a continuous target.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :func:`~skhep_nn.inspection.forest_importance`, such as `sample_weight`.

        Returns
        -------
        display : FeatureImportanceDisplay
            Display of the importance.
        """
        return cls(importance=forest_importance(X, y, **kwargs)).plot(ax=ax)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        max_features: int | None = None,
        threshold: float | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw a bar with its standard error for each feature, the most important on top.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        max_features : int, default=None
            Number of features to draw, starting with the most important. None: all.
        threshold : float, default=None
            Position of a line, such as 0.005, above which the study counts a feature as important.
            None: no line.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.barh`.

        Returns
        -------
        self : FeatureImportanceDisplay
            The display, with `ax_` and `figure_`.
        """
        is_new = ax is None
        self.figure_, self.ax_ = figure_and_axes(ax)
        table = self.importance[:max_features]
        if is_new:
            self.figure_.set_size_inches(6.4, 0.28 * len(table) + 1.2)
        options = {"color": "C0", "ecolor": "0.2", **kwargs}
        self.ax_.barh(
            table["feature"], table["importance"], xerr=table["importance_error"], **options
        )
        self.ax_.invert_yaxis()
        if threshold is not None:
            self.ax_.axvline(threshold, color="C1", linestyle="--", linewidth=1.2)
        self.ax_.set_xlabel("Permutation importance (decrease of the score)")
        return self


class RankCorrelationDisplay:
    """Rank correlations of all pairs of features as a heat map.

    Create it with :meth:`from_data`, or from an existing table.

    Parameters
    ----------
    correlations : DataFrame of shape (n_features, n_features)
        Result of :func:`~skhep_nn.inspection.rank_correlations`, drawn in its order.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.
    text_ : ndarray of shape (n_features, n_features)
        Numbers in the cells of the last plot; None for cells without one.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.plotting import RankCorrelationDisplay
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> display = RankCorrelationDisplay.from_data(X)
    >>> display.text_.shape
    (3, 3)
    """

    def __init__(self, *, correlations: pd.DataFrame) -> None:
        self.correlations = correlations

    @classmethod
    def from_data(cls, X: Any, *, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Compute the rank correlations of features and draw them.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Features.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :func:`~skhep_nn.inspection.rank_correlations`, such as `sample_weight`.

        Returns
        -------
        display : RankCorrelationDisplay
            Display of the correlations.
        """
        return cls(correlations=rank_correlations(X, **kwargs)).plot(ax=ax)

    def plot(
        self, ax: Axes | None = None, *, values_format: str | None = "z.2f", **kwargs: Any
    ) -> Self:
        """Draw a cell for each pair, blue for negative and red for positive correlations.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones, with a size that fits the number of features.
        values_format : str or None, default="z.2f"
            Format of the number in each cell; the default writes -0.00 as 0.00. None: no numbers.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        self : RankCorrelationDisplay
            The display, with `ax_`, `figure_` and `text_`.
        """
        names = list(self.correlations.columns)
        drawn = draw_heatmap(
            ax,
            self.correlations.to_numpy(),
            rows=names,
            columns=names,
            values_format=values_format,
            label="Spearman's rank correlation",
            options={"cmap": "RdBu_r", "vmin": -1.0, "vmax": 1.0, **kwargs},
        )
        self.figure_, self.ax_, self.text_ = drawn.figure, drawn.ax, drawn.text
        return self


class MutualDependenceDisplay:
    """Dependence of each feature on the other features: figure 3 of arXiv:2002.01427.

    Create it with :meth:`from_data`, or from an existing table.

    Parameters
    ----------
    dependence : DataFrame
        Result of :func:`~skhep_nn.inspection.mutual_dependence`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.
    text_ : ndarray of shape (n_features, n_features + 1)
        Numbers in the cells of the last plot; None for cells without one.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.plotting import MutualDependenceDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> X[:, 2] = X[:, 0] ** 2
    >>> display = MutualDependenceDisplay.from_data(X, random_state=0)
    >>> [label.get_text() for label in display.ax_.get_xticklabels()][:2]
    ['Dependence', 'x2']
    """

    def __init__(self, *, dependence: pd.DataFrame) -> None:
        self.dependence = dependence

    @classmethod
    def from_data(cls, X: Any, *, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Compute the dependence of features on each other and draw it.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Features.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :func:`~skhep_nn.inspection.mutual_dependence`, such as `sample_weight`.

        Returns
        -------
        display : MutualDependenceDisplay
            Display of the dependence.
        """
        return cls(dependence=mutual_dependence(X, **kwargs)).plot(ax=ax)

    def plot(
        self, ax: Axes | None = None, *, values_format: str | None = "z.2f", **kwargs: Any
    ) -> Self:
        """Draw a row for each feature: its R2, then the contribution of each other feature.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones, with a size that fits the number of features.
        values_format : str or None, default="z.2f"
            Format of the number in each cell; the default writes -0.00 as 0.00. None: no numbers.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        self : MutualDependenceDisplay
            The display, with `ax_`, `figure_` and `text_`.
        """
        table = self.dependence
        targets = list(table["target"].unique())
        importance = table.pivot_table(index="target", columns="feature", values="importance")
        r2 = table.drop_duplicates("target").set_index("target")["dependence"]
        cells = np.column_stack([r2, importance.reindex(index=targets, columns=targets)])
        drawn = draw_heatmap(
            ax,
            cells,
            rows=targets,
            columns=["Dependence", *targets],
            values_format=values_format,
            label="R2 (left), its decrease when a feature is shuffled",
            options={"cmap": "Blues", "vmin": 0.0, "vmax": 1.0, **kwargs},
        )
        self.figure_, self.ax_, self.text_ = drawn.figure, drawn.ax, drawn.text
        # A line separates R2 from the contributions, which are another quantity.
        self.ax_.axvline(0.5, color="black", linewidth=1.5)
        return self
