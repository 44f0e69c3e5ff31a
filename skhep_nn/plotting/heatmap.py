"""Heat maps with names along the edges and numbers in the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skhep_nn.plotting.axes import figure_and_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

__all__ = ["Heatmap", "draw_heatmap"]


class Heatmap(NamedTuple):
    """Drawn heat map; `text` holds the number of each cell, None for a cell without a number."""

    figure: Figure
    ax: Axes
    image: AxesImage
    text: NDArray[np.object_]


def draw_heatmap(
    ax: Axes | None,
    values: NDArray[Any],
    *,
    rows: Sequence[Any],
    columns: Sequence[Any],
    values_format: str | None,
    label: str,
    options: dict[str, Any],
    cell: tuple[float, float] = (0.5, 0.36),
) -> Heatmap:
    """Draw values as coloured cells; a cell with NaN stays empty.

    `cell` is the size of a cell in new axes, in inches. `values_format=None` writes no numbers.
    """
    is_new = ax is None
    figure, ax = figure_and_axes(ax)
    n_rows, n_columns = values.shape
    if is_new:
        # The additional space is for the names and the colour bar.
        width, height = cell
        figure.set_size_inches(width * n_columns + 2.7, height * n_rows + 2.0)
    image = ax.imshow(values, **{"aspect": "auto", **options})
    names = [str(name) for name in columns]
    # Long names side by side would overlap.
    rotation = 90 if max(map(len, names)) > 4 else 0
    ax.set_xticks(range(n_columns), names, rotation=rotation)
    ax.set_yticks(range(n_rows), [str(name) for name in rows])
    ax.tick_params(length=0)
    figure.colorbar(image, ax=ax).set_label(label)
    text = np.full(values.shape, None, dtype=object)
    if values_format is not None:
        _write_numbers(ax, image, values, values_format, text)
    return Heatmap(figure, ax, image, text)


def _write_numbers(
    ax: Axes,
    image: AxesImage,
    values: NDArray[Any],
    values_format: str,
    text: NDArray[np.object_],
) -> None:
    """Write the values, black on bright cells and white on dark ones."""
    red, green, blue, _ = np.moveaxis(image.to_rgba(values), -1, 0)
    is_bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
    for row, column in np.argwhere(np.isfinite(values)):
        text[row, column] = ax.text(
            column,
            row,
            format(values[row, column], values_format),
            ha="center",
            va="center",
            fontsize="small",
            color="black" if is_bright[row, column] else "white",
        )
