"""Which estimators set rows aside while they are fitted: copies of a row must not lie on both sides."""

from __future__ import annotations

import warnings
from typing import Any

from sklearn.pipeline import Pipeline

__all__ = ["inner_split", "warn_of_copies"]

# Above so many rows histogram-based gradient boosting stops early, unless told.
_STOPS_EARLY_ABOVE = 10_000


def inner_split(estimator: Any, n_rows: int) -> str | None:
    """Return the parameter by which an estimator validates on rows that it is fitted to, None if it does not.

    Parameters
    ----------
    estimator : estimator
        Of any library that follows scikit-learn; of a Pipeline the last step.
    n_rows : int
        Rows that it is to be fitted to.
    """
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    params = last.get_params(deep=False) if hasattr(last, "get_params") else {}
    stopping = params.get("early_stopping")
    if n_rows > _STOPS_EARLY_ABOVE if stopping == "auto" else stopping:
        return "early_stopping"
    if "cv" in params and params["cv"] != "prefit":
        return "cv"
    if params.get("oob_score"):
        return "oob_score"
    if params.get("n_members", 1) > 1:
        return "n_members"
    # Gradient boosting that does not go by histograms.
    stops = "validation_fraction" in params and "early_stopping" not in params
    return "n_iter_no_change" if stops and params.get("n_iter_no_change") is not None else None


def warn_of_copies(wrapper: str, estimator: Any, n_rows: int) -> None:
    """Warn, where the fit of a wrapper was called, if copies of an event would be validated on others of it."""
    name = inner_split(estimator, n_rows)
    if name is not None:
        warnings.warn(
            f"{type(estimator).__name__} sets aside some of the rows that it is fitted to ({name}), and copies of one "
            f"event are on both sides: what it finds there is too good. Put {wrapper} inside of it, or turn that "
            "off; a network of this package takes augmentation= itself.",
            stacklevel=3,
        )
