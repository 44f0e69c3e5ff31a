"""Random generators and seeds from `random_state`; None does not touch the global state of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from skhep_nn.utils.checks import is_count

__all__ = ["as_generator", "random_numbers", "seed_of"]


def random_numbers(random_state: Any) -> np.random.RandomState:
    """Return a RandomState; None gives a new one with a random seed."""
    fresh = np.random.RandomState() if random_state is None else random_state
    rng: np.random.RandomState = check_random_state(fresh)
    return rng


def seed_of(random_state: Any) -> int | None:
    """Return a seed for generators of numpy; None stays None, which means a random seed."""
    if random_state is None:
        return None
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def as_generator(random_state: object) -> np.random.Generator:
    """Return a numpy Generator for a `random_state` of scikit-learn."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**32, size=4, dtype=np.uint32))
    if random_state is None:
        return np.random.default_rng()
    if is_count(random_state, 0):
        return np.random.default_rng(int(random_state))
    raise ValueError(
        f"random_state must be None, an integer of at least 0, a numpy Generator or a numpy "
        f"RandomState, got {random_state!r}."
    )
