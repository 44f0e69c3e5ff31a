"""Random numbers of the simulators."""

from __future__ import annotations

from numbers import Integral

import numpy as np

__all__ = ["as_generator"]


def as_generator(random_state: object) -> np.random.Generator:
    """Turn what scikit-learn calls a random state into a numpy Generator."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**32, size=4, dtype=np.uint32))
    if random_state is None:
        return np.random.default_rng()
    if isinstance(random_state, Integral) and int(random_state) >= 0:
        return np.random.default_rng(int(random_state))
    raise ValueError(
        f"random_state must be None, an integer of at least 0, a numpy Generator or a numpy "
        f"RandomState, got {random_state!r}."
    )
