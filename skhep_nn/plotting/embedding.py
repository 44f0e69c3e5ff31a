"""The display of a learnt embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skhep_nn.plotting.heatmap import draw_heatmap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray


class EmbeddingDisplay:
    """The vectors that a network has learnt for the categories of a feature, as a heat map.

    Figure 4 of arXiv:2002.01427. Make one with :meth:`from_estimator`.

    Parameters
    ----------
    vectors : ndarray of shape (n_categories, size)
        A vector for each category.
    categories : sequence of length n_categories
        The categories.
    feature : str, default=None
        Name of the feature. None: no name.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Figure of the last plot.
    text_ : ndarray of shape (n_categories, size)
        Numbers in the cells of the last plot; None for cells without one.

    Notes
    -----
    Where two rows are alike, the network does not tell these categories apart. A single element
    means nothing: the layer behind may as well work with any other coordinates, which is also why
    members of an ensemble learn different matrices, and why their mean shows nothing.

    Examples
    --------
    >>> from skhep_nn import CartesianMomenta, DenseNetClassifier, make_higgs_events
    >>> from skhep_nn.plotting import EmbeddingDisplay
    >>> events = make_higgs_events(500, random_state=0)
    >>> X = CartesianMomenta().fit_transform(events.data)
    >>> model = DenseNetClassifier(
    ...     categorical_features=["PRI_jet_num"], embedding_sizes=3, max_epochs=1, random_state=0
    ... ).fit(X, events.target)
    >>> display = EmbeddingDisplay.from_estimator(model)
    >>> list(display.categories), display.vectors.shape
    ([0, 1, 2, 3], (4, 3))
    """

    def __init__(
        self, *, vectors: NDArray[Any], categories: Sequence[Any], feature: str | None = None
    ) -> None:
        self.vectors = vectors
        self.categories = categories
        self.feature = feature

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        feature: str | int | None = None,
        *,
        member: int = 0,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw an embedding of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted `DenseNetClassifier` or `DenseNetRegressor`, or a Pipeline that ends in one.
        feature : str or int, default=None
            A column of `categorical_features`, by name or number, as the last step of a Pipeline
            sees it. None: the only one.
        member : int, default=0
            Member of the ensemble; negative ones count from the last.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : EmbeddingDisplay
            The embedding, drawn. Its rows are the categories seen at fit, in order; one that was not
            seen is embedded as zeros.

        Raises
        ------
        TypeError
            If the estimator has no embeddings.
        ValueError
            If the feature or the member does not exist, or several features could be meant.
        """
        check_is_fitted(estimator)
        if isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        categories = getattr(estimator, "categories_", None)
        if not isinstance(categories, dict) or not hasattr(estimator, "ensemble_"):
            raise TypeError(
                "expected a fitted DenseNetClassifier or DenseNetRegressor with "
                f"categorical_features, got {type(estimator).__name__} without embeddings"
            )
        column = _column_of(estimator, feature)
        ensemble = estimator.ensemble_
        n_members = len(ensemble)
        if not -n_members <= member < n_members:
            raise ValueError(f"member={member} does not exist: the ensemble has {n_members}")
        place = sorted(categories).index(column)
        return cls(
            vectors=ensemble.states[f"input_stage.embeddings.{place}.weight"][member],
            categories=categories[column].tolist(),
            feature=_name_of(estimator, column),
        ).plot(ax=ax, **kwargs)

    def plot(
        self, ax: Axes | None = None, *, values_format: str | None = "z.2f", **kwargs: Any
    ) -> Self:
        """Draw a row of cells for each category, blue for negative and red for positive elements.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones, as large as the embedding asks for.
        values_format : str or None, default="z.2f"
            Format of the number in each cell, here with no sign before 0.00. None: no numbers.
        **kwargs : dict
            Passed to `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        self : EmbeddingDisplay
            The display, with `ax_`, `figure_` and `text_`.
        """
        reach = float(np.abs(self.vectors).max())
        drawn = draw_heatmap(
            ax,
            self.vectors,
            rows=self.categories,
            columns=range(self.vectors.shape[1]),
            values_format=values_format,
            label="Weight",
            options={"cmap": "RdBu_r", "vmin": -reach, "vmax": reach, **kwargs},
        )
        self.figure_, self.ax_, self.text_ = drawn.figure, drawn.ax, drawn.text
        self.ax_.set(xlabel="Element of the embedding", ylabel=self.feature or "")
        return self


def _column_of(estimator: Any, feature: str | int | None) -> int:
    """Position of the feature that is meant, which must be a categorical one."""
    columns = sorted(estimator.categories_)
    names = [_name_of(estimator, column) for column in columns]
    if feature is None:
        if len(columns) != 1:
            raise ValueError(f"the estimator embeds {names}: say with feature= which one to draw")
        return int(columns[0])
    if feature in columns:
        return int(feature)
    if feature not in names:
        raise ValueError(f"feature={feature!r} is not embedded: choose one of {names}")
    return int(columns[names.index(str(feature))])


def _name_of(estimator: Any, column: int) -> str:
    """Name of a column, or what to call it where columns have no names."""
    names = getattr(estimator, "feature_names_in_", None)
    return f"column {column}" if names is None else str(names[column])
