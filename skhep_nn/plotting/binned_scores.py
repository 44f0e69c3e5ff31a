"""Display of scores in bins of a quantity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from sklearn.utils.validation import check_is_fitted

from skhep_nn.metrics.classification import binned_scores
from skhep_nn.plotting.axes import figure_and_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

_TITLES = {"auc": "Area under the ROC curve", "accuracy": "Accuracy"}


class BinnedScoresDisplay:
    """Accuracy or area under the ROC curve against a quantity, such as the deposited energy.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    scores : DataFrame
        Result of :func:`~skhep_nn.metrics.binned_scores`.
    name : str, default=None
        Name for the legend. None: no legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.plotting import BinnedScoresDisplay
    >>> rng = np.random.default_rng(0)
    >>> energy, y = rng.uniform(1, 100, 2000), rng.integers(0, 2, 2000)
    >>> proba = np.where(y == 1, rng.beta(3, 2, 2000), rng.beta(2, 3, 2000))
    >>> display = BinnedScoresDisplay.from_predictions(energy, y, proba, bins=5)
    >>> len(display.scores)
    5
    """

    def __init__(self, *, scores: pd.DataFrame, name: str | None = None) -> None:
        self.scores = scores
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        values: ArrayLike,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Predict with a fitted classifier and draw its scores in bins.

        Parameters
        ----------
        estimator : estimator
            Fitted classifier with `predict_proba`.
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs.
        y : array-like of shape (n_samples,)
            Labels.
        values : array-like of shape (n_samples,)
            Quantity that is binned.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`from_predictions`.

        Returns
        -------
        display : BinnedScoresDisplay
            Display of the scores.
        """
        check_is_fitted(estimator)
        options = {"name": type(estimator).__name__, "classes": estimator.classes_, **kwargs}
        return cls.from_predictions(values, y, estimator.predict_proba(X), ax=ax, **options)

    @classmethod
    def from_predictions(
        cls,
        values: ArrayLike,
        y_true: ArrayLike,
        proba: ArrayLike,
        *,
        bins: int | ArrayLike = 10,
        sample_weight: ArrayLike | None = None,
        pos_label: Any = None,
        classes: Any = None,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the scores of given predictions.

        Parameters
        ----------
        values : array-like of shape (n_samples,)
            Quantity that is binned.
        y_true : array-like of shape (n_samples,)
            Labels.
        proba : array-like of shape (n_samples, n_classes) or (n_samples,)
            Probabilities.
        bins, sample_weight, pos_label, classes
            As in :func:`~skhep_nn.metrics.binned_scores`.
        name : str, default=None
            Name for the legend. None: no legend.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : BinnedScoresDisplay
            Display of the scores.
        """
        scores = binned_scores(
            values,
            y_true,
            proba,
            bins=bins,
            sample_weight=sample_weight,
            pos_label=pos_label,
            classes=classes,
        )
        return cls(scores=scores, name=name).plot(ax=ax, **kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        score: Literal["auc", "accuracy"] = "auc",
        xlabel: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw a point with its error for each bin, at the mean of the quantity in it.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into; they may hold the scores of another classifier. None: new ones.
        score : {"auc", "accuracy"}, default="auc"
            Score to draw.
        xlabel : str, default=None
            Name of the quantity, with its unit. None: the label of the axes is not changed.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.errorbar`.

        Returns
        -------
        self : BinnedScoresDisplay
            The display, with `ax_` and `figure_`.

        Raises
        ------
        ValueError
            If `score` is neither of the two.
        """
        if score not in _TITLES:
            raise ValueError(f"score={score!r} must be one of {sorted(_TITLES)}")
        self.figure_, self.ax_ = figure_and_axes(ax)
        mean, low, high, height, error = (
            self.scores[name].to_numpy()
            for name in ("mean", "low", "high", score, f"{score}_error")
        )
        options = {"fmt": "o", "capsize": 0, "markersize": 4, "label": self.name, **kwargs}
        self.ax_.errorbar(mean, height, xerr=(mean - low, high - mean), yerr=error, **options)
        self.ax_.set_ylabel(_TITLES[score])
        if xlabel is not None:
            self.ax_.set_xlabel(xlabel)
        if self.name is not None:
            self.ax_.legend(frameon=False)
        return self
