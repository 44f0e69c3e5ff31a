"""Displays of images: samples and means of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skhep_nn.plotting.image_grid import (
    add_colour_bar,
    channel_of,
    check_images,
    classes_of,
    colours_for,
    draw_image,
    grid_of_axes,
)
from skhep_nn.utils.validation import check_weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

_CHUNK = 4096  # images that are read at a time, since the images of a file may not fit into memory


class ImageSamplesDisplay:
    """Some images of each class, in one row per class.

    Create it with :meth:`from_images`.

    Parameters
    ----------
    images : ndarray of shape (n_classes, n_samples, H, W)
        One channel of the images.
    class_names : list of str
        Names of the classes.

    Attributes
    ----------
    axes_ : ndarray of Axes of shape (n_classes, n_samples)
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    Examples
    --------
    >>> from skhep_nn import make_calo_showers
    >>> from skhep_nn.plotting import ImageSamplesDisplay
    >>> showers = make_calo_showers(50, random_state=0)
    >>> display = ImageSamplesDisplay.from_images(
    ...     showers.images, showers.target, n=3, class_names=["photon", "electron"], random_state=0
    ... )
    >>> display.images.shape
    (2, 3, 32, 32)
    """

    def __init__(self, *, images: Array, class_names: list[str]) -> None:
        self.images = images
        self.class_names = class_names

    @classmethod
    def from_images(
        cls,
        images: Any,
        y: ArrayLike,
        *,
        n: int = 5,
        channel: int = 0,
        class_names: Sequence[str] | None = None,
        random_state: int | np.random.Generator | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Choose images of each class at random and draw them.

        Parameters
        ----------
        images : array of shape (n_samples, H, W) or (n_samples, H, W, C)
            Images, in memory or in a file.
        y : array-like of shape (n_samples,)
            Labels.
        n : int, default=5
            Number of images of each class; fewer if a class has fewer.
        channel : int, default=0
            Channel to draw.
        class_names : list of str, default=None
            Names in the order of the sorted labels. None: the labels.
        random_state : int, numpy Generator or None, default=None
            Seed or source of random numbers.
        ax : matplotlib Axes, default=None
            Axes whose area the images fill. None: a new figure.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : ImageSamplesDisplay
            Display of the images.
        """
        check_images(images, channel)
        labels, classes, names = classes_of(y, images, class_names)
        rng = np.random.default_rng(random_state)
        n_shown = min(n, *(int((labels == label).sum()) for label in classes))
        if n_shown < 1:
            raise ValueError(f"n={n!r} must be at least 1")
        shown = []
        for label in classes:
            rows = rng.choice(np.flatnonzero(labels == label), n_shown, replace=False)
            shown.append(channel_of(np.asarray(images[rows]), channel))
        return cls(images=np.stack(shown), class_names=names).plot(ax=ax, **kwargs)

    def plot(
        self, ax: Axes | None = None, *, scale: str = "auto", label: str = "", **kwargs: Any
    ) -> Self:
        """Draw the images with a common scale of colours.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes whose area the images fill. None: a new figure.
        scale : {"auto", "log", "linear", "symmetric"}, default="auto"
            Scale of the colours. On a logarithmic scale zeros are white; a symmetric scale is for
            values of both signs, such as times.
        label : str, default=""
            Label of the colour bar: the quantity with its unit.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        self : ImageSamplesDisplay
            The display, with `axes_` and `figure_`.
        """
        colours = colours_for(self.images, scale)
        grid = grid_of_axes(ax, *self.images.shape[:2])
        self.figure_, self.axes_ = grid.figure, grid.axes
        for row, (name, of_class) in enumerate(zip(self.class_names, self.images, strict=True)):
            for axes, image in zip(grid.axes[row], of_class, strict=True):
                drawn = draw_image(axes, image, colours, **kwargs)
            grid.axes[row, 0].set_ylabel(name)
        add_colour_bar(grid, drawn, label)
        return self


class MeanImagesDisplay:
    """Mean image of each class, and the difference between two classes.

    Create it with :meth:`from_images`.

    Parameters
    ----------
    means : ndarray of shape (n_classes, H, W)
        One channel of the mean images.
    class_names : list of str
        Names of the classes.

    Attributes
    ----------
    axes_ : ndarray of Axes of shape (1, n_panels)
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    Examples
    --------
    >>> from skhep_nn import make_calo_showers
    >>> from skhep_nn.plotting import MeanImagesDisplay
    >>> showers = make_calo_showers(50, random_state=0)
    >>> display = MeanImagesDisplay.from_images(showers.images, showers.target)
    >>> display.means.shape
    (2, 32, 32)
    """

    def __init__(self, *, means: Array, class_names: list[str]) -> None:
        self.means = means
        self.class_names = class_names

    @classmethod
    def from_images(
        cls,
        images: Any,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        channel: int = 0,
        class_names: Sequence[str] | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Compute the mean images and draw them.

        Parameters
        ----------
        images : array of shape (n_samples, H, W) or (n_samples, H, W, C)
            Images, in memory or in a file, which is read in parts.
        y : array-like of shape (n_samples,)
            Labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Event weights. None: 1 each.
        channel : int, default=0
            Channel to draw.
        class_names : list of str, default=None
            Names in the order of the sorted labels. None: the labels.
        ax : matplotlib Axes, default=None
            Axes whose area the images fill. None: a new figure.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : MeanImagesDisplay
            Display of the means.

        Raises
        ------
        ValueError
            If shapes do not match, or the weights of a class sum to zero.
        """
        check_images(images, channel)
        labels, classes, names = classes_of(y, images, class_names)
        shares = (labels == classes[:, None]) * check_weight(sample_weight, len(labels))
        totals = shares.sum(axis=1)
        if not totals.all():
            label = classes[totals == 0].tolist()[0]
            raise ValueError(f"the weights of class {label!r} sum to zero")
        means = np.zeros((len(classes), *images.shape[1:3]))
        for start in range(0, len(labels), _CHUNK):
            rows = slice(start, start + _CHUNK)
            values = channel_of(np.asarray(images[rows]), channel)
            means += np.tensordot(shares[:, rows], values, axes=1)
        means /= totals[:, None, None]
        return cls(means=means, class_names=names).plot(ax=ax, **kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        difference: bool = True,
        scale: str = "auto",
        label: str = "",
        **kwargs: Any,
    ) -> Self:
        """Draw the means with a common scale of colours.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes whose area the images fill. None: a new figure.
        difference : bool, default=True
            Whether to draw also the difference of two classes, second minus first, over their sum.
        scale : {"auto", "log", "linear", "symmetric"}, default="auto"
            Scale of the colours.
        label : str, default=""
            Label of the colour bar: the quantity with its unit.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        self : MeanImagesDisplay
            The display, with `axes_` and `figure_`.
        """
        both = difference and len(self.means) == 2
        colours = colours_for(self.means, scale)
        grid = grid_of_axes(ax, 1, len(self.means) + both, height=2.4, gap=0.4)
        self.figure_, self.axes_ = grid.figure, grid.axes
        panels = grid.axes[0]
        for axes, name, mean in zip(panels, self.class_names, self.means, strict=False):
            drawn = draw_image(axes, mean, colours, **kwargs)
            axes.set_title(name)
        add_colour_bar(grid, drawn, label, panels[: len(self.means)])
        if both:
            self._plot_difference(grid, **kwargs)
        return self

    def _plot_difference(self, grid: Any, **kwargs: Any) -> None:
        """Draw the difference of the two classes over their sum."""
        first, second = self.means
        summed = np.abs(first) + np.abs(second)
        shares = np.where(summed > 0, (second - first) / np.where(summed > 0, summed, 1), 0)
        axes = grid.axes[0, -1]
        drawn = draw_image(axes, shares, colours_for(shares, "symmetric"), **kwargs)
        axes.set_title("difference / sum")
        add_colour_bar(grid, drawn, f"more {self.class_names[1]} →", axes)
