"""Helpers of the displays of images: a grid of axes, colours, and checks of images and classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.utils import column_or_1d

from skhep_nn.plotting.axes import figure_and_axes, import_matplotlib, names_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

SCALES = ("auto", "log", "linear", "symmetric")
# Ratio of the largest to the smallest positive value above which a linear scale hides most values.
_WIDE = 100


class Grid(NamedTuple):
    """Axes for images; `ax` are the given axes that hold them, None in a new figure."""

    figure: Figure
    ax: Axes | None
    axes: NDArray[Any]  # (rows, columns)


class Colours(NamedTuple):
    """Map of values to colours."""

    cmap: Colormap
    norm: Normalize


def grid_of_axes(
    ax: Axes | None, n_rows: int, n_columns: int, *, height: float = 1.9, gap: float = 0.08
) -> Grid:
    """Return axes in rows and columns, in a new figure or in the place of given axes.

    `height` is the height of a row in a new figure, in inches; `gap` is the fraction of a column that
    stays empty in given axes.
    """
    if ax is None:
        import_matplotlib()
        import matplotlib.pyplot as plt

        size = (1.8 * n_columns + 0.8, height * n_rows + 0.3)
        figure, axes = plt.subplots(
            n_rows, n_columns, figsize=size, squeeze=False, layout="constrained"
        )
        return Grid(figure, None, axes)
    figure, ax = figure_and_axes(ax)
    ax.set_axis_off()
    width, tall = 0.88 / n_columns, 1 / n_rows  # the rest is for a colour bar
    axes = np.empty((n_rows, n_columns), dtype=object)
    for row, column in np.ndindex(axes.shape):
        # Room for a title above each.
        place = (column * width, 1 - (row + 1) * tall, (1 - gap) * width, 0.8 * tall)
        axes[row, column] = ax.inset_axes(place)
    return Grid(figure, ax, axes)


def colours_for(values: NDArray[Any], scale: str) -> Colours:
    """Return colours for a scale; on a logarithmic scale values without a logarithm are white."""
    import_matplotlib()
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    if scale not in SCALES:
        raise ValueError(f"scale={scale!r} must be one of {SCALES}")
    low, high = float(values.min()), float(values.max())
    positive = values[values > 0]
    if scale == "auto":
        wide = positive.size and high > _WIDE * float(positive.min())
        scale = "symmetric" if low < 0 else ("log" if wide else "linear")
    if scale == "symmetric":
        reach = max(abs(low), abs(high)) or 1.0
        return Colours(colormaps["RdBu_r"], Normalize(-reach, reach))
    cmap = colormaps["viridis"]
    if scale == "linear" or not positive.size:
        return Colours(cmap, Normalize(low, high))
    blank = cmap.with_extremes(bad="white")
    return Colours(blank, LogNorm(float(positive.min()), high))


def draw_image(ax: Axes, image: NDArray[Any], colours: Colours, **kwargs: Any) -> Any:
    """Draw one image without ticks; pseudorapidity, the first axis, grows upwards."""
    ax.set(xticks=[], yticks=[])
    options = {"origin": "lower", "cmap": colours.cmap, "norm": colours.norm, **kwargs}
    return ax.imshow(image, **options)


def add_colour_bar(grid: Grid, drawn: Any, label: str, axes: Any = None) -> None:
    """Draw a colour bar beside all images, or beside the given images of one row."""
    if grid.ax is None:
        bar = grid.figure.colorbar(drawn, ax=grid.axes if axes is None else axes, shrink=0.9)
    elif axes is None:
        bar = grid.figure.colorbar(drawn, cax=grid.ax.inset_axes((0.9, 0.05, 0.03, 0.85)))
    else:
        beside = np.ravel(axes)[-1].inset_axes((1.06, 0, 0.08, 1))
        bar = grid.figure.colorbar(drawn, cax=beside)
    bar.set_label(label)


def check_images(images: Any, channel: int) -> None:
    """Check that images have the right shape and the channel exists."""
    if getattr(images, "ndim", 0) not in (3, 4):
        raise ValueError(
            f"images must have the shape (n_samples, H, W) or (n_samples, H, W, C), got "
            f"{getattr(images, 'shape', type(images).__name__)}; reshape rows of pixels"
        )
    n_channels = 1 if images.ndim == 3 else images.shape[3]
    if not -n_channels <= channel < n_channels:
        raise ValueError(f"channel={channel} does not exist: images have {n_channels}")


def channel_of(images: NDArray[Any], channel: int) -> NDArray[Any]:
    """Return one channel of images."""
    return images if images.ndim == 3 else images[..., channel]


def classes_of(
    y: ArrayLike, images: Any, class_names: Sequence[str] | None
) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Return labels, their classes, and the names of the classes."""
    labels = column_or_1d(y)
    if len(labels) != len(images):
        raise ValueError(f"y has {len(labels)} labels for {len(images)} images")
    classes = np.unique(labels)
    return labels, classes, names_of(classes, class_names)
