"""Displays of a whole search: the best score so far, and the score against the size of the networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from scipy.stats import linregress

from skhep_nn.plotting.axes import figure_and_axes, legend_above, search_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Results = Mapping[str, Any] | pd.DataFrame


class SearchProgressDisplay:
    """Best score so far against the number of candidates.

    Create it with :meth:`from_estimator` or :meth:`from_results`. Several searches may share axes.

    Parameters
    ----------
    table : DataFrame
        A row for each candidate: `candidate`, counted from 1, `score` (NaN if the fit failed) and `best`, the
        best score so far.
    name : str, default=None
        Name of the search for the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    Examples
    --------
    >>> from skhep_nn.plotting import SearchProgressDisplay
    >>> results = {"mean_test_score": [-0.5, -0.6, -0.4]}
    >>> SearchProgressDisplay.from_results(results).table["best"].tolist()
    [-0.5, -0.5, -0.4]
    """

    def __init__(self, *, table: pd.DataFrame, name: str | None = None) -> None:
        self.table = table
        self.name = name

    @classmethod
    def from_estimator(cls, search: Any, **kwargs: Any) -> Self:
        """Draw the progress of a fitted search.

        Parameters
        ----------
        search : ArchitectureSearch, RandomizedSearchCV or another fitted search
            With `cv_results_`.
        **kwargs : dict
            Passed to :meth:`from_results`.

        Returns
        -------
        display : SearchProgressDisplay
            Display of the progress.
        """
        return cls.from_results(search_results(search), **kwargs)

    @classmethod
    def from_results(
        cls,
        cv_results: Results,
        *,
        score: str = "mean_test_score",
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the progress of a search.

        Parameters
        ----------
        cv_results : dict or DataFrame
            `cv_results_` of a search, in the order in which candidates were fitted.
        score : str, default="mean_test_score"
            Name of the result to draw.
        name : str, default=None
            Name of the search for the legend. None: no legend.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : SearchProgressDisplay
            Display of the progress.

        Raises
        ------
        ValueError
            If the score is not in the results.
        """
        scores = _column(cv_results, score)
        scores = np.where(np.isfinite(scores), scores, np.nan)
        table = pd.DataFrame({"candidate": np.arange(1, len(scores) + 1), "score": scores})
        table["best"] = np.fmax.accumulate(scores)
        return cls(table=table, name=name).plot(ax, **kwargs)

    def plot(self, ax: Axes | None = None, *, candidates: bool = True, **kwargs: Any) -> Self:
        """Draw a step at each improvement.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        candidates : bool, default=True
            Whether to draw the score of every candidate, too.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.step`.

        Returns
        -------
        self : SearchProgressDisplay
            The display, with `ax_` and `figure_`.
        """
        self.figure_, self.ax_ = figure_and_axes(ax)
        x = self.table["candidate"]
        options = {"where": "post", "linewidth": 2.0, "label": self.name, **kwargs}
        (line,) = self.ax_.step(x, self.table["best"], **options)
        if candidates:
            self.ax_.plot(
                x, self.table["score"], ".", markersize=4, alpha=0.5, color=line.get_color()
            )
        self.ax_.set(xlabel="Candidates", ylabel="Mean test score, best so far")
        named, _ = self.ax_.get_legend_handles_labels()
        if named:
            legend_above(self.ax_, named, columns=3)
        return self


class SearchSizeDisplay:
    """Score of candidates against the number of free parameters of their networks.

    A fitted line shows whether larger networks have better scores. Create it with :meth:`from_estimator` or
    :meth:`from_results`.

    Parameters
    ----------
    table : DataFrame
        A row for each candidate: `n_parameters`, `score` and `std`, the standard deviation over folds.
    slope, slope_error : float
        Increase of the score for 10 000 further parameters, and its standard error from the scatter about the
        line.
    intercept : float
        Score of the line at 0 parameters.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    References
    ----------
    arXiv:2002.01427, figure 13.

    Examples
    --------
    >>> from skhep_nn.plotting import SearchSizeDisplay
    >>> results = {"n_parameters": [5e3, 1e4, 2e4], "mean_test_score": [-0.5, -0.49, -0.47]}
    >>> round(SearchSizeDisplay.from_results(results).slope, 3)
    0.02
    """

    def __init__(
        self, *, table: pd.DataFrame, slope: float, slope_error: float, intercept: float
    ) -> None:
        self.table = table
        self.slope = slope
        self.slope_error = slope_error
        self.intercept = intercept

    @classmethod
    def from_estimator(cls, search: Any, **kwargs: Any) -> Self:
        """Draw the candidates of a fitted search.

        Parameters
        ----------
        search : ArchitectureSearch
            Fitted search.
        **kwargs : dict
            Passed to :meth:`from_results`.

        Returns
        -------
        display : SearchSizeDisplay
            Display of the candidates.
        """
        return cls.from_results(search_results(search), **kwargs)

    @classmethod
    def from_results(
        cls,
        cv_results: Results,
        *,
        score: str = "mean_test_score",
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the candidates of a search.

        Parameters
        ----------
        cv_results : dict or DataFrame
            `cv_results_` of an `ArchitectureSearch`, with `n_parameters`. Candidates without a finite score are
            left out.
        score : str, default="mean_test_score"
            Name of the result to draw.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : SearchSizeDisplay
            Display of the candidates.

        Raises
        ------
        ValueError
            If the results lack the score or the sizes, if fewer than three candidates have a score, or if all
            their sizes are equal.
        """
        scores, sizes = _column(cv_results, score), _column(cv_results, "n_parameters")
        std = score.replace("mean_", "std_", 1)
        spread = _column(cv_results, std) if std in cv_results else np.full_like(scores, np.nan)
        table = pd.DataFrame({"n_parameters": sizes, "score": scores, "std": spread})
        table = table[np.isfinite(scores)].reset_index(drop=True)
        if len(table) < 3 or table["n_parameters"].nunique() < 2:
            msg = f"a line needs three candidates or more, of different sizes; got {len(table)}"
            raise ValueError(msg)
        line = linregress(table["n_parameters"] / 1e4, table["score"])
        found = {"slope": line.slope, "slope_error": line.stderr, "intercept": line.intercept}
        return cls(table=table, **{k: float(v) for k, v in found.items()}).plot(ax, **kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        error_bars: bool = False,
        log_x: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Draw a point for each candidate, and the line.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        error_bars : bool, default=False
            Whether to draw the standard deviation over folds. Most of it is common to all candidates, since
            they have the same folds.
        log_x : bool, default=False
            Whether the horizontal axis is logarithmic.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.errorbar`.

        Returns
        -------
        self : SearchSizeDisplay
            The display, with `ax_` and `figure_`.
        """
        self.figure_, self.ax_ = figure_and_axes(ax)
        sizes = self.table["n_parameters"]
        options: dict[str, Any] = {
            "fmt": "o",
            "markersize": 4,
            "alpha": 0.6,
            "color": "C0",
            **kwargs,
        }
        std = self.table["std"] if error_bars else None
        self.ax_.errorbar(sizes, self.table["score"], std, **options)
        x = np.linspace(sizes.min(), sizes.max(), 200)
        label = f"slope ({self.slope:.1e} ± {self.slope_error:.1e}) / 10 000 parameters"
        line = self.ax_.plot(x, self.intercept + self.slope * x / 1e4, color="C1", label=label)
        self.ax_.set(
            xscale="log" if log_x else "linear",
            xlabel="Free parameters of a network",
            ylabel="Mean test score",
        )
        legend_above(self.ax_, line, columns=1)
        return self


def _column(results: Results, name: str) -> Any:
    """Return a column of the results as numbers."""
    if name not in results:
        raise ValueError(f"{name!r} is not in the results, which hold {[str(k) for k in results]}")
    return np.asarray(results[name], dtype=float)
