"""Heat map of the scores of a search against two parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd

from skhep_nn.plotting.axes import search_results
from skhep_nn.plotting.heatmap import draw_heatmap
from skhep_nn.tuning.axes import (
    PARAM_PREFIX,
    SearchAxis,
    as_column,
    is_given,
    is_number,
    text_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


class SearchHeatmapDisplay:
    """Mean test score of a search against two of its parameters, a cell for each pair of values.

    Create it with :meth:`from_estimator` or :meth:`from_results`.

    Parameters
    ----------
    results : DataFrame
        Results of the search as a tidy table, see :attr:`results`.
    cells : DataFrame
        Mean test scores. The index holds the values of parameter `y`, the columns the values of parameter `x`,
        as text. NaN if the search has no candidate with this pair of values, or if all their fits failed.
    x, y : str
        Names of the parameters along the columns and the index.
    score : str, default="score"
        Name of the score.

    Attributes
    ----------
    results : DataFrame
        A row for each candidate of the search, best first. Columns are its parameters, by their shortest
        distinct names (`batch_size` for `waveformregressor__batch_size`), then `mean_score` and `std_score`,
        mean and standard deviation over the folds, and `fit_seconds`, the mean time of a fit (NaN if the
        results do not contain it).
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.
    text_ : ndarray of shape (n_rows, n_columns) or None
        Numbers in the cells of the last plot; None for cells without a number.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.neighbors import KNeighborsRegressor
    >>> from skhep_nn.plotting import SearchHeatmapDisplay
    >>> X = np.random.default_rng(0).random((60, 2))
    >>> grid = {"n_neighbors": [1, 3, 9], "weights": ["uniform", "distance"], "p": [1, 2]}
    >>> search = GridSearchCV(KNeighborsRegressor(), grid, cv=2).fit(X, X.sum(axis=1))
    >>> display = SearchHeatmapDisplay.from_estimator(search, x="n_neighbors", y="weights")
    >>> display.cells.shape, len(display.results)
    ((2, 3), 12)
    >>> display.cells.max().max() == search.best_score_
    np.True_
    """

    def __init__(
        self, *, results: pd.DataFrame, cells: pd.DataFrame, x: str, y: str, score: str = "score"
    ) -> None:
        self.results = results
        self.cells = cells
        self.x = x
        self.y = y
        self.score = score

    @classmethod
    def from_estimator(
        cls,
        search: Any,
        *,
        x: str,
        y: str,
        score: str | None = None,
        others: Literal["best", "mean"] = "best",
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw a fitted search.

        Parameters
        ----------
        search : GridSearchCV, RandomizedSearchCV or another search
            Fitted search, with `cv_results_`.
        x, y : str
            As in :meth:`from_results`.
        score : str, default=None
            Name of the scorer. None: the scorer named by `refit`, or the only scorer.
        others : {"best", "mean"}, default="best"
            As in :meth:`from_results`.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : SearchHeatmapDisplay
            Display of the scores.

        Raises
        ------
        TypeError
            If `search` has no `cv_results_`.
        ValueError
            Under the conditions of :meth:`from_results`.
        """
        results = search_results(search)
        if score is None:
            score = search.refit if isinstance(search.refit, str) else "score"
            if f"mean_test_{score}" not in results:
                score = "score"
        scoring = getattr(search, "scoring", None)
        label = scoring if score == "score" and isinstance(scoring, str) else score
        return cls.from_results(
            results, x=x, y=y, score=score, others=others, ax=ax, name=label, **kwargs
        )

    @classmethod
    def from_results(
        cls,
        cv_results: Mapping[str, Any] | pd.DataFrame,
        *,
        x: str,
        y: str,
        score: str = "score",
        others: Literal["best", "mean"] = "best",
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the results of a search.

        Parameters
        ----------
        cv_results : dict or DataFrame
            `cv_results_` of the search, or a table of it.
        x, y : str
            Parameters along the horizontal and the vertical axis, by their names in the search, or by an end
            of the name that no other parameter has: `batch_size` is enough for
            `waveformregressor__batch_size`. Candidates without one of the two are left out.
        score : str, default="score"
            Name of the scorer; `"score"` if the search has only one.
        others : {"best", "mean"}, default="best"
            Value of a cell with several candidates, which differ in further parameters: their best mean
            test score, or the mean of their mean test scores.
        name : str, default=None
            Name of the score for the colour bar. None: `score`.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : SearchHeatmapDisplay
            Display of the scores.

        Raises
        ------
        ValueError
            If a parameter or the score is not in the results, or `others` is neither of the two.
        """
        if others not in ("best", "mean"):
            raise ValueError(f"others={others!r} must be 'best' or 'mean'")
        results: dict[str, Any] = {str(key): values for key, values in cv_results.items()}
        parameters = {
            key.removeprefix(PARAM_PREFIX): key for key in results if key.startswith(PARAM_PREFIX)
        }
        short = _short_names(list(parameters))
        chosen = [_find(given, short) for given in (x, y)]
        if chosen[0] == chosen[1]:
            raise ValueError(f"x={x!r} and y={y!r} are the same parameter: name two")
        table = _tidy(results, score, {parameters[long]: name for long, name in short.items()})
        have_both = np.logical_and(*(is_given(results[parameters[long]]) for long in chosen))
        if not have_both.any():
            raise ValueError(f"no candidate of the search has both {chosen[0]!r} and {chosen[1]!r}")
        column, row = (short[long] for long in chosen)
        cells = _cells(table[have_both], column, row, others)
        best_first = table.sort_values("mean_score", ascending=False, kind="stable")
        display = cls(
            results=best_first.reset_index(drop=True),
            cells=cells,
            x=column,
            y=row,
            score=score if name is None else name,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self, ax: Axes | None = None, *, values_format: str | None = ".3g", **kwargs: Any
    ) -> Self:
        """Draw the cells, with a frame around the best one.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones, with a size that fits the number of values.
        values_format : str or None, default=".3g"
            Format of the score in each cell. None: no numbers.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        self : SearchHeatmapDisplay
            The display, with `ax_`, `figure_` and `text_`.
        """
        values = self.cells.to_numpy(dtype=float)
        drawn = draw_heatmap(
            ax,
            values,
            rows=list(self.cells.index),
            columns=list(self.cells.columns),
            values_format=values_format,
            label=f"Mean test {self.score}",
            options={"cmap": "viridis", **kwargs},
            # Wide cells: scores have a sign and three digits.
            cell=(0.8, 0.6),
        )
        self.figure_, self.ax_, self.text_ = drawn.figure, drawn.ax, drawn.text
        self.ax_.set(xlabel=self.x, ylabel=self.y)
        if np.isfinite(values).any():
            self._frame(values)
        return self

    def _frame(self, values: NDArray[Any]) -> None:
        """Draw a frame around the best cell."""
        from matplotlib.patches import Rectangle

        row, column = np.unravel_index(np.nanargmax(values), values.shape)
        corner = (float(column) - 0.5, float(row) - 0.5)
        # The frame must not be clipped at the border of the axes.
        frame = Rectangle(corner, 1, 1, fill=False, clip_on=False, zorder=3)
        frame.set(edgecolor="tab:red", linewidth=2)
        self.ax_.add_patch(frame)


def _short_names(names: list[str]) -> dict[str, str]:
    """Return for each name its shortest end, at double underscores, that no other name has."""
    short = {}
    for name in names:
        parts = name.split("__")
        ends = ["__".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        alone = [end for end in ends if sum(_ends_with(other, end) for other in names) == 1]
        short[name] = alone[0] if alone else name
    return short


def _ends_with(name: str, end: str) -> bool:
    """Return whether `end` is the whole name or the last parts of it."""
    return name == end or name.endswith(f"__{end}")


def _find(given: str, short: Mapping[str, str]) -> str:
    """Return the full name of a parameter from its name or a distinct end of it."""
    if given in short:
        return given
    found = [name for name in short if _ends_with(name, given)]
    if len(found) != 1:
        what = f"is the end of several: {found}" if found else "is not a parameter of the search"
        raise ValueError(f"{given!r} {what}; choose one of {sorted(short)}")
    return found[0]


def _tidy(results: Mapping[str, Any], score: str, names: Mapping[str, str]) -> pd.DataFrame:
    """Return parameters, score and time of all candidates."""
    key = f"mean_test_{score}"
    if key not in results:
        known = [k.removeprefix("mean_test_") for k in results if k.startswith("mean_test_")]
        raise ValueError(f"score={score!r} is not in the results; choose one of {known}")
    columns = {}
    for param, name in names.items():
        values = zip(results[param], is_given(results[param]), strict=True)
        columns[name] = as_column([value if given else None for value, given in values])
    nothing = np.full(len(results[key]), np.nan)
    return pd.DataFrame(columns).assign(
        mean_score=np.asarray(results[key], dtype=float),
        std_score=np.asarray(results.get(f"std_test_{score}", nothing), dtype=float),
        fit_seconds=np.asarray(results.get("mean_fit_time", nothing), dtype=float),
    )


def _cells(table: pd.DataFrame, x: str, y: str, others: str) -> pd.DataFrame:
    """Return the best or mean score of each pair of values, without fits that have failed."""
    (columns, column_of), (rows, row_of) = (_labels_and_places(table[name]) for name in (x, y))
    scores = table["mean_score"].to_numpy()
    cells = np.full((len(rows), len(columns)), np.nan)
    for row, column in np.ndindex(cells.shape):
        own = scores[np.isfinite(scores) & (row_of == row) & (column_of == column)]
        if own.size:
            cells[row, column] = own.max() if others == "best" else own.mean()
    return pd.DataFrame(cells, index=pd.Index(rows, name=y), columns=pd.Index(columns, name=x))


def _labels_and_places(values: pd.Series[Any]) -> tuple[list[str], NDArray[np.intp]]:
    """Return the labels of a parameter's values along an axis, and the place of each candidate."""
    axis = SearchAxis(str(values.name), values.tolist())
    # Numbers stand in order, categories as the search lists them.
    in_order = values if axis.scale == "category" else axis.levels
    labels = list(dict.fromkeys(map(_label, in_order)))
    return labels, np.array([labels.index(_label(value)) for value in values])


def _label(value: Any) -> str:
    """Write a value for an axis; numbers that agree in six digits share a cell."""
    return f"{value:.6g}" if is_number(value) else text_of(value)
