"""Display of mass spectra before and after cuts on a score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from skhep_nn.metrics.sculpting import background_spectra
from skhep_nn.plotting.axes import (
    draw_histogram,
    figure_and_axes,
    legend_above,
    positive_score,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray


class MassSculptingDisplay:
    """Mass spectra of the background, before and after cuts on a score.

    If a cut does not sculpt the mass, its spectrum equals the spectrum before the cut. Create it with
    :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    bin_edges : ndarray of shape (n_bins + 1,)
        Edges of the bins.
    contents : ndarray of shape (1 + n_cuts, n_bins)
        Spectra of unit area: of all background in the first row, after each cut in the others.
    uncertainties : ndarray of shape (1 + n_cuts, n_bins)
        Statistical uncertainty of `contents`: root of the sum of squared weights.
    sculpting : DataFrame
        A row for each cut, with the fields of `~skhep_nn.metrics.MassSculpting`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.

    See Also
    --------
    skhep_nn.metrics.mass_sculpting : Computes the figures of merit.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.plotting import MassSculptingDisplay
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["b", "s"], 5000)
    >>> mass = np.where(y == "b", rng.exponential(50, 10_000), rng.normal(125, 10, 10_000))
    >>> score = -np.abs(mass - 125)
    >>> display = MassSculptingDisplay.from_predictions(y, score, mass, bins=range(0, 301, 10))
    >>> display.sculpting["signal_efficiency"].round(2).tolist()
    [0.8, 0.5, 0.2]
    """

    def __init__(
        self,
        *,
        bin_edges: NDArray[Any],
        contents: NDArray[Any],
        uncertainties: NDArray[Any],
        sculpting: pd.DataFrame,
    ) -> None:
        self.bin_edges = bin_edges
        self.contents = contents
        self.uncertainties = uncertainties
        self.sculpting = sculpting

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        mass: ArrayLike,
        *,
        pos_label: Any = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Score the rows of `X` with a fitted classifier and draw the spectra.

        Parameters
        ----------
        estimator : estimator
            Fitted classifier with `predict_proba` or `decision_function`.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Events.
        y : array-like of shape (n_samples,)
            Labels of signal and background.
        mass : array-like of shape (n_samples,)
            Mass of each event.
        pos_label : label, default=None
            Label of the signal. None: the second of two classes.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`from_predictions`.

        Returns
        -------
        display : MassSculptingDisplay
            Display of the spectra.
        """
        score, pos_label = positive_score(estimator, X, pos_label)
        return cls.from_predictions(y, score, mass, pos_label=pos_label, ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_score: ArrayLike,
        mass: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        signal_efficiencies: Sequence[float] = (0.8, 0.5, 0.2),
        bins: int | ArrayLike = 40,
        pos_label: Any = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the spectra for given scores.

        Parameters
        ----------
        y_true, y_score, mass, sample_weight, bins, pos_label
            As in :func:`skhep_nn.metrics.mass_sculpting`.
        signal_efficiencies : sequence of float, default=(0.8, 0.5, 0.2)
            Fractions of the signal above each cut.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : MassSculptingDisplay
            Display of the spectra.

        Raises
        ------
        ValueError
            Under the conditions of :func:`skhep_nn.metrics.mass_sculpting`.
        """
        spectra = background_spectra(
            y_true, y_score, mass, sample_weight, tuple(signal_efficiencies), bins, pos_label
        )
        display = cls(
            bin_edges=spectra.bin_edges,
            contents=spectra.contents,
            uncertainties=spectra.uncertainties,
            sculpting=pd.DataFrame(spectra.sculpting),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, *, xlabel: str = "Mass", **kwargs: Any) -> Self:
        """Draw a histogram with its statistical uncertainty for each cut.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        xlabel : str, default="Mass"
            Label of the horizontal axis.
        **kwargs : dict
            Passed to each histogram, a `matplotlib.patches.StepPatch`.

        Returns
        -------
        self : MassSculptingDisplay
            The display, with `ax_` and `figure_`.
        """
        self.figure_, self.ax_ = figure_and_axes(ax)
        rows = self.sculpting[["signal_efficiency", "divergence"]].itertuples(index=False)
        names = ["All background"]
        names += [f"{row[0]:.0%} of the signal, JSD {row[1]:.3f}" for row in rows]
        handles = []
        for index, name in enumerate(names):
            content, uncertainty = self.contents[index], self.uncertainties[index]
            colour = "black" if index == 0 else f"C{index - 1}"
            options = {"color": colour, "label": name, "linewidth": 1.5, **kwargs}
            band = np.maximum(content - uncertainty, 0), content + uncertainty
            handles.append(
                draw_histogram(self.ax_, self.bin_edges, content, band, band_alpha=0.2, **options)
            )
        self.ax_.set(
            xlabel=xlabel,
            ylabel="Background, unit area",
            xlim=(self.bin_edges[0], self.bin_edges[-1]),
        )
        self.ax_.set_ylim(bottom=0.0)
        legend_above(self.ax_, handles, columns=min(2, len(handles)))
        return self
