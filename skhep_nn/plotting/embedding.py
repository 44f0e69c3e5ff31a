"""Display of a learnt embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skhep_nn.inspection.fitted_networks import check_member
from skhep_nn.plotting.heatmap import draw_heatmap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray


class EmbeddingDisplay:
    """Heat map of the vectors that a network has learnt for the categories of a feature.

    Figure 4 of arXiv:2002.01427. Create it with :meth:`from_estimator`.

    Parameters
    ----------
    vectors : ndarray of shape (n_categories, size)
        Vector of each category.
    categories : sequence of length n_categories
        Categories.
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
    If two rows are alike, the network treats these categories alike. A single element has no meaning, since
    the next layer works with any coordinates of the vectors. For the same reason members of an ensemble learn
    different matrices, and their mean has no meaning.

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
            Column of `categorical_features`, by its name or number in the input of the network (the last
            step of a Pipeline). None: the only categorical column.
        member : int, default=0
            Member of the ensemble; negative numbers count from the last.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: new ones.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : EmbeddingDisplay
            Display of the embedding. Its rows are the categories seen at fit, in order; a category that was
            not seen has a vector of zeros.

        Raises
        ------
        TypeError
            If the estimator has no embeddings.
        ValueError
            If the feature or the member does not exist, or `feature` is None and there are several.
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
        check_member(member, len(ensemble))
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
            Axes to draw into. None: new ones, with a size that fits the embedding.
        values_format : str or None, default="z.2f"
            Format of the number in each cell; the default writes -0.00 as 0.00. None: no numbers.
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
    """Return the position of a categorical feature."""
    columns = sorted(estimator.categories_)
    names = [_name_of(estimator, column) for column in columns]
    if feature is None:
        if len(columns) != 1:
            raise ValueError(f"the estimator embeds {names}: name one of them with feature=")
        return int(columns[0])
    if feature in columns:
        return int(feature)
    if feature not in names:
        raise ValueError(f"feature={feature!r} is not embedded: choose one of {names}")
    return int(columns[names.index(str(feature))])


def _name_of(estimator: Any, column: int) -> str:
    """Return the name of a column, or its number as text if columns have no names."""
    names = getattr(estimator, "feature_names_in_", None)
    return f"column {column}" if names is None else str(names[column])
