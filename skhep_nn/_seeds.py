"""Random numbers from scikit-learn's `random_state`, of which None leaves numpy's global state alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["random_numbers", "seed_of"]


def random_numbers(random_state: Any) -> np.random.RandomState:
    """Return a source of random numbers; None is a fresh one."""
    fresh = np.random.RandomState() if random_state is None else random_state
    rng: np.random.RandomState = check_random_state(fresh)
    return rng


def seed_of(random_state: Any) -> int | None:
    """Return a seed for numpy's generators; None stays None, a fresh one."""
    if random_state is None:
        return None
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
