"""Displays of a search over several parameters: its candidates, and the dependence of the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from skhep_nn.plotting.axes import import_matplotlib, search_results
from skhep_nn.tuning.axes import SearchAxis, read_results
from skhep_nn.tuning.surrogate import SearchModel, fit_search_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_BEST: dict[str, Any] = {"color": "tab:red", "zorder": 4, "clip_on": False}
_POINTS: dict[str, Any] = {"s": 6, "linewidths": 0, "zorder": 3}
_N_BINS = 12


class SearchSamplesDisplay:
    """Candidates of a search: a histogram of each parameter, and points for each pair of parameters.

    Points are coloured by the score; red marks the best candidate. Create it with :meth:`from_estimator` or
    :meth:`from_results`.

    Parameters
    ----------
    axes : list of SearchAxis
        Parameters and their scales.
    table : DataFrame
        Candidates: a column for each parameter, and `score`.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure of the last plot.
    axes_ : ndarray of Axes of shape (n_parameters, n_parameters)
        Axes of the last plot; None above the diagonal.

    See Also
    --------
    SearchDependenceDisplay : Dependence of the score on the parameters.

    References
    ----------
    arXiv:2002.01427, figure 11.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.plotting import SearchSamplesDisplay
    >>> rng = np.random.default_rng(0)
    >>> depth, width = rng.integers(2, 9, 40), rng.integers(33, 101, 40)
    >>> results = {"param_depth": depth, "param_width": width, "mean_test_score": -depth}
    >>> SearchSamplesDisplay.from_results(results).axes_.shape
    (2, 2)
    """

    def __init__(self, *, axes: list[SearchAxis], table: pd.DataFrame) -> None:
        self.axes = axes
        self.table = table

    @classmethod
    def from_estimator(cls, search: Any, **kwargs: Any) -> Self:
        """Draw the candidates of a fitted search.

        Parameters
        ----------
        search : ArchitectureSearch, RandomizedSearchCV or another fitted search
            With `cv_results_`.
        **kwargs : dict
            Passed to :meth:`from_results`.

        Returns
        -------
        display : SearchSamplesDisplay
            Display of the candidates.
        """
        return cls.from_results(search_results(search), **kwargs)

    @classmethod
    def from_results(
        cls,
        cv_results: Mapping[str, Any] | pd.DataFrame,
        *,
        parameters: Sequence[str] | None = None,
        score: str = "mean_test_score",
        scales: Mapping[str, Any] | None = None,
        figure: Figure | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the candidates of a search.

        Parameters
        ----------
        cv_results : dict or DataFrame
            `cv_results_` of a search, or a table of it. Candidates whose fit failed are left out.
        parameters : sequence of str, default=None
            Parameters to draw. None: all parameters that vary.
        score : str, default="mean_test_score"
            Name of the result for the colours.
        scales : dict of str to {"linear", "log", "category"}, default=None
            Scales of parameters, as in `fit_search_model`.
        figure : matplotlib Figure, default=None
            Figure to draw into. None: a new one.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : SearchSamplesDisplay
            Display of the candidates.

        Raises
        ------
        ValueError
            If a parameter or the score is not in the results, or no candidate has a finite score.
        """
        axes, table = read_results(cv_results, parameters=parameters, score=score, scales=scales)
        return cls(axes=axes, table=table).plot(figure, **kwargs)

    def plot(self, figure: Figure | None = None, **kwargs: Any) -> Self:
        """Draw histograms on the diagonal and points below it.

        Parameters
        ----------
        figure : matplotlib Figure, default=None
            Figure to draw into. None: a new one.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.scatter`.

        Returns
        -------
        self : SearchSamplesDisplay
            The display, with `figure_` and `axes_`.
        """
        self.figure_, self.axes_ = _corner_axes(figure, self.axes)
        best = int(self.table["score"].to_numpy().argmax())
        places = [axis.positions(self.table[axis.name].tolist()) for axis in self.axes]
        points = None
        for column, row in combinations(range(len(self.axes)), 2):
            ax = self.axes_[row, column]
            options = {"c": self.table["score"], "cmap": "viridis", **_POINTS, "s": 10, **kwargs}
            points = ax.scatter(places[column], places[row], **options)
            ax.plot(places[column][best], places[row][best], "o", markersize=5, **_BEST)
        for k in range(len(self.axes)):
            ax = self.axes_[k, k]
            ax.hist(places[k], _histogram_edges(places[k]), color="C0", alpha=0.7)
            ax.axvline(places[k][best], linewidth=1.2, **_BEST)
        _share_heights(self.axes_, "Candidates")
        if points is not None:
            _color_bar(self.figure_, self.axes_, points, "Mean test score")
        return self


class SearchDependenceDisplay:
    """Partial dependence of the score of a search on each parameter and on each pair of parameters.

    The diagonal shows the expected score against one parameter, averaged over the others, with a band of one
    standard deviation (of the average, not of single candidates). Below it are maps against two parameters, with
    points at the candidates. Red marks the best candidate. Create it with :meth:`from_model` or
    :meth:`from_estimator`.

    Parameters
    ----------
    model : SearchModel
        Gaussian process of the scores.
    single : dict of str to DataFrame
        Partial dependence on each parameter.
    pairs : dict of (str, str) to DataFrame
        Partial dependence on each pair.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure of the last plot.
    axes_ : ndarray of Axes of shape (n_parameters, n_parameters)
        Axes of the last plot; None above the diagonal.

    See Also
    --------
    skhep_nn.tuning.fit_search_model : Fits the model.

    References
    ----------
    arXiv:2002.01427, figure 12; J. H. Friedman, Ann. Stat. 29 (2001) 1189.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.plotting import SearchDependenceDisplay
    >>> from skhep_nn.tuning import fit_search_model
    >>> rng = np.random.default_rng(0)
    >>> depth, width = rng.integers(2, 9, 40), rng.integers(33, 101, 40)
    >>> score = -((depth - 5) ** 2) + rng.normal(scale=0.1, size=40)
    >>> results = {"param_depth": depth, "param_width": width, "mean_test_score": score}
    >>> model = fit_search_model(results, random_state=0)
    >>> display = SearchDependenceDisplay.from_model(model)
    >>> display.single["depth"].set_index("depth")["mean"].idxmax()
    5
    """

    def __init__(
        self,
        *,
        model: SearchModel,
        single: dict[str, pd.DataFrame],
        pairs: dict[tuple[str, str], pd.DataFrame],
    ) -> None:
        self.model = model
        self.single = single
        self.pairs = pairs

    @classmethod
    def from_estimator(
        cls,
        search: Any,
        *,
        parameters: Sequence[str] | None = None,
        random_state: int | np.random.RandomState | None = 0,
        figure: Figure | None = None,
        **kwargs: Any,
    ) -> Self:
        """Fit a model to the results of a search and draw it.

        Parameters
        ----------
        search : ArchitectureSearch, RandomizedSearchCV or another fitted search
            With `cv_results_`.
        parameters : sequence of str, default=None
            Parameters of the model. None: all parameters that vary.
        random_state : int, RandomState instance or None, default=0
            Passed to `fit_search_model`.
        figure : matplotlib Figure, default=None
            Figure to draw into. None: a new one.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : SearchDependenceDisplay
            Display of the dependence.
        """
        model = fit_search_model(
            search_results(search), parameters=parameters, random_state=random_state
        )
        return cls.from_model(model, figure=figure, **kwargs)

    @classmethod
    def from_model(
        cls,
        model: SearchModel,
        *,
        parameters: Sequence[str] | None = None,
        n_points: int | None = None,
        figure: Figure | None = None,
        **kwargs: Any,
    ) -> Self:
        """Compute the partial dependence of a model and draw it.

        Parameters
        ----------
        model : SearchModel
            Result of :func:`~skhep_nn.tuning.fit_search_model`.
        parameters : sequence of str, default=None
            Parameters to draw. None: all parameters of the model.
        n_points : int, default=None
            Number of points along each axis. None: 40 on the diagonal, 15 below it.
        figure : matplotlib Figure, default=None
            Figure to draw into. None: a new one.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : SearchDependenceDisplay
            Display of the dependence.

        Raises
        ------
        ValueError
            If the model does not have such a parameter.
        """
        names = model.parameters if parameters is None else list(parameters)
        single = {name: model.partial_dependence(name, n_points=n_points) for name in names}
        pairs = {
            (x, y): model.partial_dependence(x, y, n_points=n_points)
            for x, y in combinations(names, 2)
        }
        return cls(model=model, single=single, pairs=pairs).plot(figure, **kwargs)

    def plot(self, figure: Figure | None = None, *, candidates: bool = True, **kwargs: Any) -> Self:
        """Draw curves on the diagonal and maps below it.

        Parameters
        ----------
        figure : matplotlib Figure, default=None
            Figure to draw into. None: a new one.
        candidates : bool, default=True
            Whether to draw the candidates in the maps.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.contourf`, or `pcolormesh` for categories.

        Returns
        -------
        self : SearchDependenceDisplay
            The display, with `figure_` and `axes_`.
        """
        import_matplotlib()
        from matplotlib.ticker import MaxNLocator

        axes = [axis for name in self.single for axis in self.model.axes if axis.name == name]
        self.figure_, self.axes_ = _corner_axes(figure, axes)
        table = self.model.table
        best = int(table["score"].to_numpy().argmax())
        places = [axis.positions(table[axis.name].tolist()) for axis in axes]
        means = [pair["mean"] for pair in self.pairs.values()] or [table["score"]]
        low, high = min(map(min, means)), max(map(max, means))
        # A common scale makes the maps comparable.
        options = {"levels": MaxNLocator(12).tick_values(low, high), "cmap": "viridis", **kwargs}
        drawn = None
        for column, row in combinations(range(len(axes)), 2):
            ax = self.axes_[row, column]
            pair = self.pairs[axes[column].name, axes[row].name]
            drawn = _draw_map(ax, pair, axes[column], axes[row], options)
            if candidates:
                ax.scatter(places[column], places[row], color="black", **_POINTS)
            ax.plot(places[column][best], places[row][best], "o", markersize=5, **_BEST)
        for k, axis in enumerate(axes):
            self._draw_curve(self.axes_[k, k], axis)
            self.axes_[k, k].axvline(places[k][best], linewidth=1.2, **_BEST)
            for row in range(k, len(axes)):
                self.axes_[row, k].set_xlim(axis.limits)
            for column in range(k):
                self.axes_[k, column].set_ylim(axis.limits)
        _share_heights(self.axes_, "Expected score")
        if drawn is not None:
            _color_bar(self.figure_, self.axes_, drawn, "Expected score")
        return self

    def _draw_curve(self, ax: Axes, axis: SearchAxis) -> None:
        """Draw the dependence on one parameter."""
        table = self.single[axis.name]
        x = axis.positions(table[axis.name].tolist())
        mean, std = table["mean"].to_numpy(), table["std"].to_numpy()
        if axis.scale == "category":
            ax.errorbar(x, mean, std, fmt="o", color="C0")
        else:
            ax.plot(x, mean, color="C0")
            ax.fill_between(x, mean - std, mean + std, color="C0", alpha=0.3, linewidth=0)


def _draw_map(
    ax: Axes, pair: pd.DataFrame, x: SearchAxis, y: SearchAxis, options: dict[str, Any]
) -> Any:
    """Draw the dependence on two parameters."""
    grid = pair.assign(
        x=x.positions(pair[x.name].tolist()), y=y.positions(pair[y.name].tolist())
    ).pivot_table(index="y", columns="x", values="mean")
    coordinates = grid.columns.to_numpy(), grid.index.to_numpy(), grid.to_numpy()
    if "category" not in (x.scale, y.scale):
        return ax.contourf(*coordinates, **options)
    others = {name: value for name, value in options.items() if name != "levels"}
    levels = options["levels"]
    return ax.pcolormesh(*coordinates, shading="nearest", vmin=levels[0], vmax=levels[-1], **others)


def _corner_axes(
    figure: Figure | None, axes: Sequence[SearchAxis]
) -> tuple[Figure, NDArray[np.object_]]:
    """Return axes for each parameter on the diagonal, for each pair below it, and None above it."""
    import_matplotlib()
    import matplotlib.pyplot as plt

    n = len(axes)
    if figure is None:
        figure = plt.figure(figsize=(1.0 + 1.7 * n, 1.0 + 1.6 * n), layout="constrained")
    grid: Any = figure.subplots(n, n, squeeze=False)
    for row, column in np.ndindex(n, n):
        ax = grid[row, column]
        if column > row:
            ax.remove()
            grid[row, column] = None
            continue
        _set_ticks(ax.xaxis, axes[column])
        if row == n - 1:
            ax.set_xlabel(axes[column].name)
        else:
            ax.tick_params(labelbottom=False)
        if column < row:
            _set_ticks(ax.yaxis, axes[row])
        if column == 0 < row:
            ax.set_ylabel(axes[row].name)
        elif row > 0:
            ax.tick_params(labelleft=False)
    return figure, grid


def _set_ticks(drawn: Any, axis: SearchAxis) -> None:
    """Set ticks of an axis, with labels if positions are not the values themselves."""
    from matplotlib.ticker import MaxNLocator

    ticks = axis.ticks()
    if ticks is not None:
        drawn.set_ticks(*ticks)
        return
    is_whole = all(isinstance(level, Integral) for level in axis.levels)
    drawn.set_major_locator(MaxNLocator(3, integer=is_whole))


def _share_heights(grid: NDArray[np.object_], label: str) -> None:
    """Give all axes on the diagonal the same vertical limits, and label the first of them."""
    diagonal = grid.diagonal()
    ranges = [ax.get_ylim() for ax in diagonal]
    for ax in diagonal:
        ax.set_ylim(min(low for low, _ in ranges), max(high for _, high in ranges))
    diagonal[0].set_ylabel(label)


def _histogram_edges(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return edges of bins: a bin for each value if there are few values, else 12 bins."""
    values = np.unique(places)
    if len(values) > _N_BINS:
        return np.linspace(values[0], values[-1], _N_BINS + 1)
    half = 0.4 * (np.diff(values).min() if len(values) > 1 else 1.0)
    return np.sort(np.concatenate([values - half, values + half]))


def _color_bar(figure: Figure, grid: NDArray[np.object_], drawn: Any, label: str) -> None:
    """Draw the colour bar in the empty corner."""
    n = len(grid)
    cells = grid[0, 0].get_gridspec()
    host = figure.add_subplot(cells[0, (n + 1) // 2 :])
    host.axis("off")
    bar = figure.colorbar(
        drawn, cax=host.inset_axes((0.05, 0.6, 0.9, 0.12)), orientation="horizontal"
    )
    bar.ax.locator_params(nbins=4)
    bar.set_label(label)
