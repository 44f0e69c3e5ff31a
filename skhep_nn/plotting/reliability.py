"""Display of the reliability of predicted probabilities."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted

from skhep_nn.metrics.classification import check_answers
from skhep_nn.plotting.axes import figure_and_axes, legend_above
from skhep_nn.utils.checks import is_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

_STRATEGIES = ("uniform", "quantile")
_HISTOGRAM_BINS = 50
# Heights of the panels, as shares of the whole.
_CURVE, _HISTOGRAM = 0.7, 0.24


class ReliabilityDisplay:
    """Fraction of events of a class against its predicted probability, with event weights.

    The points of calibrated probabilities lie on the diagonal. Create it with
    :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    curves : DataFrame
        A row for every curve and bin, see the attributes.
    histograms : DataFrame of shape (50, n_curves)
        Share of the weights of each curve in bins of equal width, indexed by intervals of the
        probability.
    expected_calibration_error : Series
        Distance from the diagonal, averaged over the events, by curve.
    ylabel : str, default="Fraction of the class"
        Label of the vertical axis.

    Attributes
    ----------
    curves : DataFrame
        With the columns

        curve
            Name of the curve.
        low, high
            Edges of the bin.
        n, weight
            Number of events and their summed weights.
        mean_prediction
            Weighted mean of the predicted probabilities; NaN in an empty bin, as are the next columns.
        fraction
            Fraction of the weights that belong to events of the class.
        fraction_low, fraction_high
            68.3 % confidence interval of `fraction`, see :meth:`from_predictions`.
    expected_calibration_error : Series
        Absolute difference between `fraction` and `mean_prediction`, averaged over bins with the weights in
        them [1]_. Fluctuations make it larger than 0 even for perfect probabilities: compare it with the
        intervals.
    ax_ : matplotlib Axes
        Axes of the curves in the last plot.
    histogram_ax_ : matplotlib Axes or None
        Axes of the distribution of predictions in the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    See Also
    --------
    sklearn.calibration.CalibrationDisplay : Without event weights, for two classes.
    sklearn.calibration.CalibratedClassifierCV : Calibrates probabilities, with event weights.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, arXiv:1706.04599.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.plotting import ReliabilityDisplay
    >>> rng = np.random.default_rng(0)
    >>> probability = rng.random(20_000)
    >>> y = np.where(rng.random(20_000) < probability, "s", "b")
    >>> good = ReliabilityDisplay.from_predictions(y, probability)
    >>> bad = ReliabilityDisplay.from_predictions(y, probability**2)
    >>> good.expected_calibration_error.round(2).to_dict()
    {'s': 0.01}
    >>> bad.expected_calibration_error.round(2).to_dict()
    {'s': 0.17}
    """

    def __init__(
        self,
        *,
        curves: pd.DataFrame,
        histograms: pd.DataFrame,
        expected_calibration_error: pd.Series[float],
        ylabel: str = "Fraction of the class",
    ) -> None:
        self.curves = curves
        self.histograms = histograms
        self.expected_calibration_error = expected_calibration_error
        self.ylabel = ylabel

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: ArrayLike, *, ax: Axes | None = None, **kwargs: Any
    ) -> Self:
        """Predict with a fitted classifier and draw how reliable its probabilities are.

        Parameters
        ----------
        estimator : estimator
            Fitted classifier with `predict_proba`.
        X : array-like or DataFrame of shape (n_samples, ...)
            Inputs that the classifier was not trained on.
        y : array-like of shape (n_samples,)
            Labels.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`from_predictions`.

        Returns
        -------
        display : ReliabilityDisplay
            The curves, drawn.

        Raises
        ------
        TypeError
            If the estimator has no `predict_proba`.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "predict_proba"):
            raise TypeError(
                f"expected a classifier with predict_proba, got {type(estimator).__name__}"
            )
        options = {"classes": estimator.classes_, **kwargs}
        return cls.from_predictions(y, estimator.predict_proba(X), ax=ax, **options)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_prob: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        n_bins: int = 10,
        strategy: Literal["uniform", "quantile"] = "uniform",
        pos_label: Any = None,
        classes: Sequence[Any] | None = None,
        groups: ArrayLike | None = None,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw how reliable given probabilities are.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Labels.
        y_prob : array-like of shape (n_samples, n_classes) or (n_samples,)
            Result of `predict_proba`, or its second column if there are two classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Event weights, which may be negative. They must have the same balance between the classes as in
            training: after training with ``class_weight="balanced"``, give the weights of
            :func:`~skhep_nn.metrics.class_balanced_weights`. None: 1 each.
        n_bins : int, default=10
            Number of bins.
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of equal width, or bins with the same number of events, as far as predictions are distinct.
        pos_label : label, default=None
            Class whose probability is shown. None: the second of two classes; for more than two classes, a
            curve for each class against the rest.
        classes : sequence of labels, default=None
            The classes, in the order of the columns of `y_prob`. None: the sorted labels in `y_true`.
        groups : array-like of shape (n_samples,), default=None
            Group of each event, such as its fold, sample or number of jets; each group has a curve.
        name : str, default=None
            Name for the legend, before the names of classes and groups. None: no name.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : ReliabilityDisplay
            The curves, drawn.

        Raises
        ------
        ValueError
            If shapes do not match, labels are not among the classes, probabilities are not between 0 and 1,
            the weights of a curve do not have a positive total, or a parameter is invalid.

        Notes
        -----
        The interval is Wilson's interval for an effective number of events: the number of equally weighted
        events with the same binomial variance as the weighted fraction. It has a width even if all events of a
        bin belong to one class. If negative weights put the fraction outside 0 to 1, the interval is the
        fraction plus and minus its standard error.
        """
        _check(n_bins, strategy)
        answers = check_answers(y_true, None, y_prob, sample_weight, classes)
        proba = np.asarray(answers.proba)
        shown = _shown(answers.classes, pos_label)
        curves, shares, errors = [], {}, {}
        for (label, rows), place in product(_groups(groups, len(proba)), shown):
            parts = [] if name is None else [name]
            if len(shown) > 1 or (name is None and label is None):
                parts.append(str(answers.classes[place]))
            curve = ", ".join(parts if label is None else [*parts, label])
            predicted, weight = proba[rows, place], answers.weight[rows]
            total = _total(weight, curve)
            edges = _edges(predicted, n_bins, strategy)
            table = _bins(answers.true[rows] == place, predicted, weight, edges)
            errors[curve] = float(np.abs(table.pop("excess")).sum() / total)
            shares[curve] = _shares(predicted, weight, total)
            curves.append(table.assign(curve=curve)[["curve", *table.columns]])
        of_what = "the class" if len(shown) > 1 else answers.classes[shown[0]]
        display = cls(
            curves=pd.concat(curves, ignore_index=True),
            histograms=pd.DataFrame(shares, index=pd.interval_range(0, 1, _HISTOGRAM_BINS)),
            expected_calibration_error=pd.Series(errors, name="expected_calibration_error"),
            ylabel=f"Fraction of {of_what}",
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        histogram: bool = True,
        log_y: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Draw the curves, and the distribution of predictions below them.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. With ``histogram=False`` they may hold the curves of another classifier. None:
            new ones.
        histogram : bool, default=True
            Whether to draw the distribution of predictions.
        log_y : bool, default=False
            Whether the vertical axis of the distribution is logarithmic.
        **kwargs : dict
            Passed to the curves, `matplotlib.axes.Axes.errorbar`.

        Returns
        -------
        self : ReliabilityDisplay
            The display, with `ax_`, `histogram_ax_` and `figure_`.
        """
        self.figure_, self.ax_ = figure_and_axes(ax)
        self.histogram_ax_: Axes | None = None
        lowest: Axes | None = None if self.ax_.has_data() else self.ax_
        if histogram:
            frame = self.ax_
            frame.set_axis_off()
            self.ax_ = frame.inset_axes((0.0, 1 - _CURVE, 1.0, _CURVE))
            self.ax_.tick_params(labelbottom=False)
            lowest = frame.inset_axes((0.0, 0.0, 1.0, _HISTOGRAM), sharex=self.ax_)
            lowest.set(ylabel="Share", yscale="log" if log_y else "linear")
            self.histogram_ax_ = lowest
        if (
            lowest is not None
        ):  # else the curve of another classifier has drawn the diagonal and the label
            self.ax_.plot([0, 1], [0, 1], color="0.5", linestyle=":", linewidth=1.2, zorder=1)
            lowest.set_xlabel("Predicted probability")
        for name, rows in self.curves.groupby("curve", sort=False):
            self._plot_curve(str(name), rows, kwargs)
        self.ax_.set(ylabel=self.ylabel, xlim=(0.0, 1.0))
        handles, _ = self.ax_.get_legend_handles_labels()
        legend_above(self.ax_, handles, columns=min(2, len(handles)))
        return self

    def _plot_curve(self, name: str, rows: pd.DataFrame, kwargs: dict[str, Any]) -> None:
        """Draw one curve and its distribution in the same colour."""
        label = f"{name} (ECE {self.expected_calibration_error[name]:.3f})"
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.2, "label": label}
        names = ("mean_prediction", "fraction", "fraction_low", "fraction_high")
        mean, fraction, low, high = (rows[name].to_numpy() for name in names)
        errors = (fraction - low, high - fraction)
        points = self.ax_.errorbar(mean, fraction, yerr=errors, **style | kwargs)
        if self.histogram_ax_ is not None:
            edges = np.linspace(0, 1, len(self.histograms) + 1)
            color = points.lines[0].get_color()
            self.histogram_ax_.stairs(self.histograms[name], edges, color=color, linewidth=1.2)


def _check(n_bins: Any, strategy: str) -> None:
    """Check the parameters of the bins."""
    if not is_count(n_bins):
        raise ValueError(f"n_bins={n_bins!r} must be an integer of at least 1")
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy={strategy!r} must be one of {_STRATEGIES}")


def _shown(classes: list[Any], pos_label: Any) -> list[int]:
    """Return the indices of the classes that have a curve."""
    if pos_label is None:
        return [1] if len(classes) == 2 else list(range(len(classes)))
    if pos_label not in classes:
        raise ValueError(f"pos_label={pos_label!r} is not one of the classes {classes}")
    return [classes.index(pos_label)]


def _groups(groups: ArrayLike | None, n: int) -> Iterator[tuple[str | None, Any]]:
    """Yield name and rows of each group."""
    if groups is None:
        yield None, slice(None)
        return
    labels = column_or_1d(groups)
    if len(labels) != n:
        raise ValueError(f"groups has {len(labels)} entries for the {n} labels of y_true")
    for label in np.unique(labels):
        yield str(label), np.flatnonzero(labels == label)


def _edges(predicted: Array, n_bins: int, strategy: str) -> Array:
    """Return the edges of the bins."""
    edges = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        inner = np.unique(np.quantile(predicted, edges[1:-1]))
        edges = np.concatenate([[0.0], inner[(inner > 0) & (inner < 1)], [1.0]])
    return edges


def _total(weight: Array, name: str) -> float:
    """Return the sum of the weights of a curve, which must be positive."""
    total = float(weight.sum())
    if not total > 0:
        raise ValueError(f"the weights of {name!r} must have a positive total, got {total:g}")
    return total


def _shares(predicted: Array, weight: Array, total: float) -> Array:
    """Return the distribution of the predictions."""
    contents, _ = np.histogram(predicted, _HISTOGRAM_BINS, range=(0.0, 1.0), weights=weight)
    shares: Array = contents / total
    return shares


def _bins(
    is_class: NDArray[np.bool_], predicted: Array, weight: Array, edges: Array
) -> pd.DataFrame:
    """Return the columns of a curve for each bin, and the excess of weight over the prediction."""
    n_bins = len(edges) - 1
    at = np.searchsorted(edges[1:-1], predicted, side="right")

    def summed(values: Any) -> Array:
        sums: Array = np.bincount(at, values, minlength=n_bins).astype(np.float64)
        return sums

    total, squares = summed(weight), summed(weight**2)
    in_class, foreseen = summed(weight * is_class), summed(weight * predicted)
    with np.errstate(invalid="ignore", divide="ignore"):
        fraction = in_class / total
        variance = summed((weight * (is_class - fraction[at])) ** 2) / total**2
        low, high = _interval(fraction, variance, total**2 / squares)
        return pd.DataFrame(
            {
                "low": edges[:-1],
                "high": edges[1:],
                "n": np.bincount(at, minlength=n_bins),
                "weight": total,
                "mean_prediction": foreseen / total,
                "fraction": fraction,
                "fraction_low": low,
                "fraction_high": high,
                "excess": in_class - foreseen,
            }
        )


def _interval(fraction: Array, variance: Array, n_effective: Array) -> tuple[Array, Array]:
    """Return the 68.3 % interval of a fraction: Wilson's for the effective number of events."""
    binomial = fraction * (1 - fraction)
    n = np.where(variance > 0, binomial / variance, n_effective)
    centre = (fraction + 0.5 / n) / (1 + 1 / n)
    half = np.sqrt(np.maximum(binomial, 0) / n + 0.25 / n**2) / (1 + 1 / n)
    inside = (fraction >= 0) & (fraction <= 1) & (n > 0)
    root = np.sqrt(variance)
    # Rounding must not move an end of the interval past the fraction.
    low = np.minimum(np.where(inside, centre - half, fraction - root), fraction)
    high = np.maximum(np.where(inside, centre + half, fraction + root), fraction)
    return low, high
