"""Display of the significance against the cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skhep_nn.metrics.ams import ams_curve, ams_score, best_cut
from skhep_nn.plotting.axes import figure_and_axes, legend_above, positive_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray


class AMSCurveDisplay:
    r"""Approximate median significance (AMS) against the cut on the classifier output.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    cuts : ndarray of shape (n_cuts,)
        Cuts; an event is selected when its score is not below the cut.
    ams : ndarray of shape (n_cuts,)
        AMS of the selected events, in standard deviations.
    cut : float
        The chosen cut.
    cut_ams : float
        AMS at the chosen cut.
    name : str, default=None
        Name for the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    See Also
    --------
    skhep_nn.ams_curve : Computes the values.
    skhep_nn.best_cut : Chooses the cut.

    References
    ----------
    C. Adam-Bourdarios et al., "The Higgs boson machine learning challenge", PMLR 42 (2015);
    choice of the cut: G. C. Strong, arXiv:2002.01427, section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.plotting import AMSCurveDisplay
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 1000)
    >>> score = rng.beta(2 + y, 3 - y)
    >>> display = AMSCurveDisplay.from_predictions(y, score)
    >>> display.ax_.get_ylabel()
    'Approximate median significance [σ]'
    """

    def __init__(
        self,
        *,
        cuts: NDArray[Any],
        ams: NDArray[Any],
        cut: float,
        cut_ams: float,
        name: str | None = None,
    ) -> None:
        self.cuts = cuts
        self.ams = ams
        self.cut = cut
        self.cut_ams = cut_ams
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        pos_label: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Score the rows of `X` with a fitted classifier and draw the curve.

        Parameters
        ----------
        estimator : estimator
            Fitted classifier with `predict_proba` or `decision_function`.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Events.
        y : array-like of shape (n_samples,)
            Labels, of two classes.
        pos_label : label, default=None
            Label of the signal. None: the second of the two classes.
        name : str, default=None
            Name for the legend. None: the name of the estimator's class.
        **kwargs : dict
            Passed to :meth:`from_predictions`.

        Returns
        -------
        display : AMSCurveDisplay
            Display of the curve.
        """
        score, pos_label = positive_score(estimator, X, pos_label)
        name = type(estimator).__name__ if name is None else name
        return cls.from_predictions(y, score, pos_label=pos_label, name=name, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_score: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        b_reg: float = 10.0,
        cut: float | None = None,
        pos_label: Any = None,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the curve of given scores.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Labels, of two classes.
        y_score : array-like of shape (n_samples,)
            Classifier output, larger for the signal.
        sample_weight : array-like of shape (n_samples,), default=None
            Event weights, scaled so that they sum to the expected yields. None: 1 each.
        b_reg : float, default=10.0
            Regularisation term of the AMS, in events.
        cut : float, default=None
            Cut that was chosen on other events. None: :func:`skhep_nn.best_cut` of these events.
        pos_label : label, default=None
            Label of the signal. None: as in :func:`skhep_nn.ams_score`.
        name : str, default=None
            Name for the legend.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : AMSCurveDisplay
            Display of the curve.
        """
        options = {"b_reg": b_reg, "pos_label": pos_label}
        curve = ams_curve(y_true, y_score, sample_weight, **options)
        if cut is None:
            cut = best_cut(y_true, y_score, sample_weight, **options).cut
        selected = np.asarray(y_score) >= cut
        cut_ams = ams_score(y_true, selected, sample_weight, **options)
        display = cls(cuts=curve.cuts, ams=curve.ams, cut=cut, cut_ams=cut_ams, name=name)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the curve and mark the chosen cut.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to the curve, a `matplotlib.lines.Line2D`.

        Returns
        -------
        self : AMSCurveDisplay
            The display, with `ax_` and `figure_`.
        """
        self.figure_, self.ax_ = figure_and_axes(ax)
        options = {"label": self.name or "AMS", **kwargs}
        (line,) = self.ax_.plot(self.cuts, self.ams, **options)
        self.ax_.axvline(self.cut, color=line.get_color(), linestyle="--", linewidth=1.0, alpha=0.7)
        self.ax_.plot(
            [self.cut],
            [self.cut_ams],
            marker="o",
            linestyle="none",
            color=line.get_color(),
            label=f"cut at {self.cut:.3f}: AMS = {self.cut_ams:.3f}",
        )
        self.ax_.set(
            xlabel="Cut on the classifier output", ylabel="Approximate median significance [σ]"
        )
        self.ax_.set_ylim(bottom=0.0)
        handles, _ = self.ax_.get_legend_handles_labels()
        legend_above(self.ax_, handles, columns=2)
        return self
