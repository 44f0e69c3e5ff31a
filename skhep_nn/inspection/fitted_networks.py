"""Access to the fitted networks of an estimator or a pipeline."""

from __future__ import annotations

from typing import Any

from sklearn.pipeline import Pipeline

__all__ = ["check_member", "input_of_last_step", "last_step"]


def last_step(estimator: Any) -> Any:
    """Return the last step of a Pipeline, or the estimator itself."""
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def input_of_last_step(estimator: Any, X: Any) -> Any:
    """Transform `X` by all steps of a Pipeline but the last; other estimators take `X` unchanged."""
    if isinstance(estimator, Pipeline) and len(estimator) > 1:
        return estimator[:-1].transform(X)
    return X


def check_member(member: int, n_members: int) -> None:
    """Refuse a member that the ensemble does not have; negative numbers count from the last."""
    if not -n_members <= member < n_members:
        raise ValueError(f"member={member} does not exist: the ensemble has {n_members}")
