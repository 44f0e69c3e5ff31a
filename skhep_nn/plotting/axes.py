"""Helpers of the displays: axes to draw into, curves, histograms, legends, and what is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skhep_nn.utils.optional import needs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import StepPatch
    from numpy.typing import NDArray

__all__ = [
    "draw_histogram",
    "draw_members",
    "figure_and_axes",
    "import_matplotlib",
    "legend_above",
    "names_of",
    "positive_score",
    "search_results",
]


def import_matplotlib() -> None:
    """Raise an error that names the extra to install where matplotlib is missing."""
    with needs("matplotlib", "plot"):
        import matplotlib  # noqa: ICN001, F401


def figure_and_axes(ax: Axes | None) -> tuple[Figure, Axes]:
    """Return the given axes with their figure, or new ones."""
    import_matplotlib()
    import matplotlib.pyplot as plt

    if ax is None:
        # Constrained layout keeps legends and second axes inside a saved figure.
        return plt.subplots(layout="constrained")
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError(
            "ax belongs to no figure: give axes of an existing figure, or None for new axes"
        )
    return figure, ax


def legend_above(ax: Axes, handles: list[Any], columns: int) -> None:
    """Draw the legend above the frame, where it hides no curve."""
    ax.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=columns,
        frameon=False,
    )


def draw_members(ax: Axes, table: pd.DataFrame, x: str, y: str, color: Any) -> None:
    """Draw a thin curve for each member of an ensemble, behind their mean; nothing for one member."""
    members = table.groupby("member")
    if members.ngroups > 1:
        for _, rows in members:
            ax.plot(rows[x], rows[y], color=color, linewidth=0.7, alpha=0.45)


def draw_histogram(
    ax: Axes,
    edges: NDArray[Any],
    content: NDArray[Any],
    band: tuple[NDArray[Any], NDArray[Any]],
    *,
    band_alpha: float,
    **options: Any,
) -> StepPatch:
    """Draw a histogram with a band between two other contents; return it for the legend."""
    low, high = band
    drawn = ax.stairs(content, edges, **options)
    ax.stairs(high, edges, baseline=low, fill=True, color=options["color"], alpha=band_alpha)
    return drawn


def search_results(search: Any) -> Mapping[str, Any]:
    """Return the `cv_results_` of a fitted search."""
    check_is_fitted(search)
    if not hasattr(search, "cv_results_"):
        msg = f"expected a fitted search such as GridSearchCV, got {type(search).__name__}"
        raise TypeError(msg)
    results: Mapping[str, Any] = search.cv_results_
    return results


def names_of(classes: Any, class_names: Sequence[str] | None) -> list[str]:
    """Return a name for each class: the given ones, else the labels as text."""
    names = [str(label) for label in classes] if class_names is None else list(class_names)
    if len(names) != len(classes):
        raise ValueError(
            f"got {len(names)} class_names for the {len(classes)} classes "
            f"{np.asarray(classes).tolist()}"
        )
    return names


def positive_score(estimator: Any, X: Any, pos_label: Any) -> tuple[NDArray[Any], Any]:
    """Return the score of the positive class for each row, and the label of that class."""
    check_is_fitted(estimator)
    classes = list(getattr(estimator, "classes_", []))
    if not classes:
        raise TypeError(f"expected a fitted classifier, got {type(estimator).__name__}")
    if pos_label is None:
        if len(classes) != 2:
            raise ValueError(
                f"the classifier has {len(classes)} classes, {classes}: "
                "name with pos_label= the class whose score is to be shown"
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
