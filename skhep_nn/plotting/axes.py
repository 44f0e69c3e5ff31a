"""What the displays share: axes to draw into, the legend, and the score of one class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skhep_nn.utils.optional import needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def import_matplotlib() -> None:
    """Say what is missing where matplotlib is."""
    with needs("matplotlib", "plot"):
        import matplotlib  # noqa: ICN001, F401


def figure_and_axes(ax: Axes | None) -> tuple[Figure, Axes]:
    """Return the given axes with their figure, or new ones."""
    import_matplotlib()
    import matplotlib.pyplot as plt

    if ax is None:
        # Constrained layout keeps legends and second axes inside the saved page.
        return plt.subplots(layout="constrained")
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError(
            "ax belongs to no figure: pass axes of a live figure, or None for new ones"
        )
    return figure, ax


def legend_above(ax: Axes, handles: list[Any], columns: int) -> None:
    """Put the legend above the frame, where it never hides a curve."""
    ax.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=columns,
        frameon=False,
    )


def positive_score(estimator: Any, X: Any, pos_label: Any) -> tuple[NDArray[Any], Any]:
    """Score of the positive class for each row, and the label of that class."""
    check_is_fitted(estimator)
    classes = list(getattr(estimator, "classes_", []))
    if not classes:
        raise TypeError(f"expected a fitted classifier, got {type(estimator).__name__}")
    if pos_label is None:
        if len(classes) != 2:
            raise ValueError(
                f"the classifier knows {len(classes)} classes, {classes}: "
                "say with pos_label= whose score is to be shown"
            )
        pos_label = classes[1]
    if pos_label not in classes:
        raise ValueError(f"pos_label={pos_label!r} is not one of the classes {classes}")
    column = classes.index(pos_label)
    if hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(X))[:, column], pos_label
    score = np.asarray(estimator.decision_function(X))
    if score.ndim == 1:
        return (score if column == 1 else -score), pos_label
    return score[:, column], pos_label
