"""Common parts of the simulators: checks of integers, and chunks that are seeded separately."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from skhep_nn.utils.checks import is_count
from skhep_nn.utils.random import as_generator

__all__ = ["check_count", "seeded_chunks"]


def check_count(name: str, value: object, least: int = 1) -> int:
    """Return an integer parameter, refusing other types and values below `least`."""
    if not is_count(value, least):
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
    return int(value)


def seeded_chunks(
    random_state: object, n_samples: int, size: int
) -> Iterator[tuple[np.random.Generator, slice]]:
    """Yield a generator and the rows for each chunk of `size` samples.

    The generator of a chunk depends on the seed and the number of the chunk only. A simulator that
    always draws whole chunks therefore starts with the same samples, however many are asked for.
    """
    root = int(as_generator(random_state).integers(2**63))
    for number, start in enumerate(range(0, n_samples, size)):
        seed = np.random.SeedSequence(root, spawn_key=(number,))
        yield np.random.default_rng(seed), slice(start, min(start + size, n_samples))
