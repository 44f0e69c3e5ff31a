"""Displays of a network's predictions for images, and of its feature maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skhep_nn.inspection.maps import feature_maps, network_and_image
from skhep_nn.metrics.classification import check_answers
from skhep_nn.plotting.axes import names_of
from skhep_nn.plotting.image_grid import (
    add_colour_bar,
    channel_of,
    check_images,
    colours_for,
    draw_image,
    grid_of_axes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

Choice = Literal["random", "sure", "unsure", "wrong"]
_CHOICES = ("random", "sure", "unsure", "wrong")


class PredictionSamplesDisplay:
    """Images with their true and predicted classes.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    images : ndarray of shape (n, H, W)
        One channel of the images.
    true, predicted : ndarray of int of shape (n,)
        Classes as indices of `class_names`.
    proba : ndarray of shape (n, n_classes)
        Probabilities.
    class_names : list of str
        Names of the classes.

    Attributes
    ----------
    axes_ : ndarray of Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn import make_calo_showers
    >>> from skhep_nn.plotting import PredictionSamplesDisplay
    >>> showers = make_calo_showers(50, random_state=0)
    >>> proba = np.linspace(0, 1, 50)
    >>> display = PredictionSamplesDisplay.from_predictions(
    ...     showers.images, showers.target, proba, which="wrong", n=4
    ... )
    >>> bool((display.true != display.predicted).all())
    True
    """

    def __init__(
        self, *, images: Array, true: Array, predicted: Array, proba: Array, class_names: list[str]
    ) -> None:
        self.images = images
        self.true = true
        self.predicted = predicted
        self.proba = proba
        self.class_names = class_names

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: ArrayLike, *, ax: Axes | None = None, **kwargs: Any
    ) -> Self:
        """Predict with a fitted classifier and draw some images.

        Parameters
        ----------
        estimator : estimator
            Fitted classifier with `predict_proba`.
        X : array of shape (n_samples, H, W) or (n_samples, H, W, C)
            Images.
        y : array-like of shape (n_samples,)
            Labels.
        ax : matplotlib Axes, default=None
            Axes whose area the images fill. None: a new figure.
        **kwargs : dict
            Passed to :meth:`from_predictions`.

        Returns
        -------
        display : PredictionSamplesDisplay
            Display of the images.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "predict_proba"):
            msg = (
                f"{type(estimator).__name__} is no classifier: this display shows labels and probabilities. "
                "scikit-learn's PredictionErrorDisplay shows the predictions of regressors."
            )
            raise TypeError(msg)
        options = {"classes": estimator.classes_, **kwargs}
        return cls.from_predictions(X, y, estimator.predict_proba(X), ax=ax, **options)

    @classmethod
    def from_predictions(
        cls,
        images: Any,
        y_true: ArrayLike,
        proba: ArrayLike,
        *,
        n: int = 8,
        which: Choice = "random",
        channel: int = 0,
        classes: Sequence[Any] | None = None,
        class_names: Sequence[str] | None = None,
        random_state: int | np.random.Generator | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Choose some images with given predictions and draw them.

        Parameters
        ----------
        images : array of shape (n_samples, H, W) or (n_samples, H, W, C)
            Images, in memory or in a file.
        y_true : array-like of shape (n_samples,)
            Labels.
        proba : array-like of shape (n_samples, n_classes) or (n_samples,)
            Probabilities of all classes, or of the second of two classes.
        n : int, default=8
            Number of images; fewer if there are fewer.
        which : {"random", "sure", "unsure", "wrong"}, default="random"
            Choice of images: random ones; correct predictions, the most certain first; the least certain
            predictions first; or wrong predictions, the most certain first.
        channel : int, default=0
            Channel to draw.
        classes : sequence of labels, default=None
            Classes in the order of the columns of `proba`. None: the sorted labels.
        class_names : list of str, default=None
            Names in the same order. None: the labels.
        random_state : int, numpy Generator or None, default=None
            Seed or source of random numbers.
        ax : matplotlib Axes, default=None
            Axes whose area the images fill. None: a new figure.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : PredictionSamplesDisplay
            Display of the images.

        Raises
        ------
        ValueError
            If shapes do not match, `which` is unknown, or no image fulfils `which`.
        """
        check_images(images, channel)
        answers = check_answers(y_true, None, proba, None, classes)
        if len(images) != len(answers.true):
            raise ValueError(f"y_true has {len(answers.true)} labels for {len(images)} images")
        names = names_of(answers.classes, class_names)
        rows = _choose(answers, n, which, np.random.default_rng(random_state))
        shares: Any = answers.proba
        display = cls(
            images=channel_of(np.asarray(images[rows]), channel),
            true=answers.true[rows],
            predicted=answers.predicted[rows],
            proba=shares[rows],
            class_names=names,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        n_columns: int = 4,
        scale: str = "auto",
        label: str = "",
        **kwargs: Any,
    ) -> Self:
        """Draw each image under its prediction, which is green if it is correct, else red.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes whose area the images fill. None: a new figure.
        n_columns : int, default=4
            Number of images in a row.
        scale : {"auto", "log", "linear", "symmetric"}, default="auto"
            Scale of the colours.
        label : str, default=""
            Label of the colour bar: the quantity with its unit.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        self : PredictionSamplesDisplay
            The display, with `axes_` and `figure_`.
        """
        n = len(self.images)
        n_columns = min(n_columns, n)
        colours = colours_for(self.images, scale)
        grid = grid_of_axes(ax, -(-n // n_columns), n_columns, height=2.3)
        self.figure_, self.axes_ = grid.figure, grid.axes
        for axes in grid.axes.flat[n:]:
            axes.set_axis_off()
        for index, axes in enumerate(grid.axes.flat[:n]):
            drawn = draw_image(axes, self.images[index], colours, **kwargs)
            true, predicted = self.true[index], self.predicted[index]
            share = self.proba[index, predicted]
            axes.set_title(
                f"{self.class_names[predicted]} ({share:.0%})\nis {self.class_names[true]}",
                color="tab:green" if true == predicted else "tab:red",
                fontsize="small",
            )
        add_colour_bar(grid, drawn, label)
        return self


def _choose(answers: Any, n: int, which: str, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the rows of images chosen by certainty and correctness of their predictions."""
    if which not in _CHOICES:
        raise ValueError(f"which={which!r} must be one of {_CHOICES}")
    if n < 1:
        raise ValueError(f"n={n!r} must be at least 1")
    two_best = np.sort(answers.proba, axis=1)[:, -2:]
    lead = two_best[:, 1] - two_best[:, 0]
    right = answers.true == answers.predicted
    if which == "random":
        return rng.permutation(len(lead))[:n]
    if which == "unsure":
        return np.argsort(lead, kind="stable")[:n]
    rows = np.flatnonzero(right if which == "sure" else ~right)
    if not rows.size:
        raise ValueError(f"which={which!r}, but no prediction is {which.replace('sure', 'right')}")
    chosen: NDArray[np.intp] = rows[np.argsort(-lead[rows], kind="stable")][:n]
    return chosen


class FeatureMapsDisplay:
    """Feature maps of a fitted network for one image, in one row per layer.

    Create it with :meth:`from_estimator`.

    Parameters
    ----------
    image : ndarray of shape (H, W)
        One channel of the image.
    maps : dict of str to ndarray of shape (channels, H, W)
        Result of :func:`~skhep_nn.inspection.feature_maps`.

    Attributes
    ----------
    axes_ : ndarray of Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    Examples
    --------
    >>> from skhep_nn import CaloCNNClassifier, make_calo_showers
    >>> from skhep_nn.plotting import FeatureMapsDisplay
    >>> showers = make_calo_showers(100, random_state=0)
    >>> small = {"channels": (4, 8), "kernels": 3, "dropout": 0.0}
    >>> model = CaloCNNClassifier(network_params=small, max_epochs=1, random_state=0)
    >>> _ = model.fit(showers.images, showers.target)
    >>> display = FeatureMapsDisplay.from_estimator(model, showers.images[0])
    >>> list(display.maps)
    ['blocks.0', 'blocks.1']
    """

    def __init__(self, *, image: Array, maps: dict[str, Array]) -> None:
        self.image = image
        self.maps = maps

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        image: ArrayLike,
        *,
        layers: str | Sequence[str] | None = None,
        member: int = 0,
        channel: int = 0,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Compute the feature maps of an image and draw them.

        Parameters
        ----------
        estimator, image, layers, member
            As in :func:`~skhep_nn.inspection.feature_maps`.
        channel : int, default=0
            Channel of the image that is drawn beside the maps.
        ax : matplotlib Axes, default=None
            Axes whose area the images fill. None: a new figure.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : FeatureMapsDisplay
            Display of the maps.
        """
        maps = feature_maps(estimator, image, layers=layers, member=member)
        _, seen = network_and_image(estimator, image)
        check_images(seen, channel)
        return cls(image=seen[0, ..., channel], maps=maps).plot(ax=ax, **kwargs)

    def plot(
        self, ax: Axes | None = None, *, n_maps: int = 8, scale: str = "auto", **kwargs: Any
    ) -> Self:
        """Draw the image, then for each layer the channels that vary most over the image.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes whose area the images fill. None: a new figure.
        n_maps : int, default=8
            Number of channels of each layer. The colours of each channel extend from its smallest to its
            largest value.
        scale : {"auto", "log", "linear", "symmetric"}, default="auto"
            Scale of the colours of the image.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        self : FeatureMapsDisplay
            The display, with `axes_` and `figure_`.
        """
        grid = grid_of_axes(ax, len(self.maps), n_maps + 1, height=1.8)
        self.figure_, self.axes_ = grid.figure, grid.axes
        for axes in grid.axes.flat:
            axes.set_axis_off()
        first = grid.axes[0, 0]
        first.set_axis_on()
        draw_image(first, self.image, colours_for(self.image, scale), **kwargs)
        first.set_title("image", fontsize="small")
        for row, (name, maps) in zip(grid.axes, self.maps.items(), strict=True):
            spread = maps.std(axis=(1, 2))
            order = np.argsort(-spread, kind="stable")[:n_maps]
            for axes, channel in zip(row[1:], order, strict=False):
                axes.set_axis_on()
                draw_image(axes, maps[channel], colours_for(maps[channel], "linear"), **kwargs)
                axes.set_title(f"{name} [{channel}]", fontsize="small")
        return self
