"""Display of the classifier output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d

from skhep_nn.plotting.axes import (
    draw_histogram,
    figure_and_axes,
    legend_above,
    names_of,
    positive_score,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray


class ScoreDistributionDisplay:
    """Weighted distribution of the classifier output for each true class.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    bin_edges : ndarray of shape (n_bins + 1,)
        Edges of the bins.
    contents : ndarray of shape (n_classes, n_bins)
        Sum of weights in each bin, with `density` divided by the total and the width of the bin.
    uncertainties : ndarray of shape (n_classes, n_bins)
        Statistical uncertainty of `contents`: root of the sum of squared weights.
    class_names : list of str
        Names of the classes for the legend.
    density : bool
        Whether each class is normalised to unit area.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.plotting import ScoreDistributionDisplay
    >>> rng = np.random.default_rng(0)
    >>> y = rng.choice(["b", "s"], 1000)
    >>> score = rng.beta(2 + (y == "s"), 3 - (y == "s"))
    >>> display = ScoreDistributionDisplay.from_predictions(y, score, bins=20)
    >>> display.class_names, display.contents.shape
    (['b', 's'], (2, 20))
    """

    def __init__(
        self,
        *,
        bin_edges: NDArray[Any],
        contents: NDArray[Any],
        uncertainties: NDArray[Any],
        class_names: list[str],
        density: bool,
    ) -> None:
        self.bin_edges = bin_edges
        self.contents = contents
        self.uncertainties = uncertainties
        self.class_names = class_names
        self.density = density

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        pos_label: Any = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Score the rows of `X` with a fitted classifier and draw the distributions.

        Parameters
        ----------
        estimator : estimator
            Fitted classifier with `predict_proba` or `decision_function`.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Events.
        y : array-like of shape (n_samples,)
            Labels.
        pos_label : label, default=None
            Label of the class whose score is shown. None: the second of two classes.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`from_predictions`.

        Returns
        -------
        display : ScoreDistributionDisplay
            Display of the distributions.
        """
        score, _ = positive_score(estimator, X, pos_label)
        return cls.from_predictions(y, score, ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_score: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        bins: int | ArrayLike = 40,
        density: bool = True,
        class_names: list[str] | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the distributions of given scores.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Labels.
        y_score : array-like of shape (n_samples,)
            Classifier output.
        sample_weight : array-like of shape (n_samples,), default=None
            Event weights. None: 1 each.
        bins : int or array-like of shape (n_bins + 1,), default=40
            Number of bins of equal width (from 0 to 1 if all scores lie there), or the edges of the bins.
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
        display : ScoreDistributionDisplay
            Display of the distributions.

        Raises
        ------
        ValueError
            If lengths differ, a score is not finite, or the weights of a class sum to zero and
            `density` is True.
        """
        labels = column_or_1d(y_true)
        score = column_or_1d(y_score)
        weight = np.ones(len(score)) if sample_weight is None else column_or_1d(sample_weight)
        check_consistent_length(labels, score, weight)
        if not np.isfinite(score).all():
            raise ValueError(
                f"{np.sum(~np.isfinite(score))} of {len(score)} scores are NaN or infinite: "
                "expected finite numbers"
            )
        classes = np.unique(labels)
        names = names_of(classes, class_names)
        unit_range = (0.0, 1.0) if score.min() >= 0.0 and score.max() <= 1.0 else None
        edges = np.histogram_bin_edges(score, bins, range=unit_range)
        of_class = [labels == label for label in classes]
        contents, variances = (
            np.stack([np.histogram(score[own], edges, weights=w[own])[0] for own in of_class])
            for w in (weight, weight**2)
        )
        scale = np.ones((1, 1))
        if density:
            scale = contents.sum(axis=1, keepdims=True) * np.diff(edges)
            if (scale == 0.0).any():
                raise ValueError(
                    "the weights of a class sum to zero inside the bins and cannot be normalised to unit "
                    "area: use density=False, or other bins"
                )
        display = cls(
            bin_edges=edges,
            contents=contents / scale,
            uncertainties=np.sqrt(variances) / np.abs(scale),
            class_names=names,
            density=density,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, *, log_y: bool = False, **kwargs: Any) -> Self:
        """Draw a histogram with its statistical uncertainty for each class.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        log_y : bool, default=False
            Whether the vertical axis is logarithmic.
        **kwargs : dict
            Passed to each histogram, a `matplotlib.patches.StepPatch`.

        Returns
        -------
        self : ScoreDistributionDisplay
            The display, with `ax_` and `figure_`.
        """
        self.figure_, self.ax_ = figure_and_axes(ax)
        handles = []
        rows = zip(self.class_names, self.contents, self.uncertainties, strict=True)
        for index, (name, content, uncertainty) in enumerate(rows):
            options = {"color": f"C{index}", "label": name, "linewidth": 1.5, **kwargs}
            band = content - uncertainty, content + uncertainty
            handles.append(
                draw_histogram(self.ax_, self.bin_edges, content, band, band_alpha=0.25, **options)
            )
        widths = np.diff(self.bin_edges)
        per_bin = f" / {widths[0]:.3g}" if np.allclose(widths, widths[0]) else " / bin"
        self.ax_.set(
            xlabel="Classifier output",
            ylabel="Density (unit area)" if self.density else f"Weighted events{per_bin}",
            xlim=(self.bin_edges[0], self.bin_edges[-1]),
        )
        positive = self.contents[self.contents > 0.0]
        if log_y and positive.size:
            self.ax_.set(yscale="log", ylim=(0.5 * positive.min(), 2.0 * positive.max()))
        elif self.contents.min() >= 0.0:
            self.ax_.set_ylim(bottom=0.0)
        legend_above(self.ax_, handles, columns=len(handles))
        return self
