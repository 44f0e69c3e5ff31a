"""A triangle of axes: one for each parameter of a search, and one for each pair of them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from skhep_nn.plotting.axes import import_matplotlib
from skhep_nn.tuning.axes import SearchAxis

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["color_bar", "corner_axes", "histogram_edges", "share_heights"]

_N_BINS = 12


def corner_axes(
    figure: Figure | None, axes: Sequence[SearchAxis]
) -> tuple[Figure, NDArray[np.object_]]:
    """Return axes for each parameter and, below the diagonal, for each pair; None above it."""
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
    """Name the places along an axis that are not the values themselves."""
    from matplotlib.ticker import MaxNLocator

    ticks = axis.ticks()
    if ticks is not None:
        drawn.set_ticks(*ticks)
        return
    is_whole = all(isinstance(level, Integral) for level in axis.levels)
    drawn.set_major_locator(MaxNLocator(3, integer=is_whole))


def share_heights(grid: NDArray[np.object_], label: str) -> None:
    """Give all axes of the diagonal the same heights, which the first of them shows."""
    diagonal = grid.diagonal()
    ranges = [ax.get_ylim() for ax in diagonal]
    for ax in diagonal:
        ax.set_ylim(min(low for low, _ in ranges), max(high for _, high in ranges))
    diagonal[0].set_ylabel(label)


def histogram_edges(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return edges of bins: one for each value if there are few, else a dozen."""
    values = np.unique(places)
    if len(values) > _N_BINS:
        return np.linspace(values[0], values[-1], _N_BINS + 1)
    half = 0.4 * (np.diff(values).min() if len(values) > 1 else 1.0)
    return np.sort(np.concatenate([values - half, values + half]))


def color_bar(figure: Figure, grid: NDArray[np.object_], drawn: Any, label: str) -> None:
    """Draw the colour bar into the empty corner."""
    n = len(grid)
    cells = grid[0, 0].get_gridspec()
    host = figure.add_subplot(cells[0, (n + 1) // 2 :])
    host.axis("off")
    bar = figure.colorbar(
        drawn, cax=host.inset_axes((0.05, 0.6, 0.9, 0.12)), orientation="horizontal"
    )
    bar.ax.locator_params(nbins=4)
    bar.set_label(label)
