"""Checks of single values: flags, counts, numbers. True and False do not count as numbers."""

from __future__ import annotations

from math import isfinite
from numbers import Integral, Real
from typing import Any, TypeGuard

import numpy as np

__all__ = ["is_count", "is_flag", "is_integer", "is_number"]


def is_flag(value: Any) -> bool:
    """Whether a value is True or False, as Python's or numpy's type (grids of a search hold numpy's)."""
    return isinstance(value, bool | np.bool_)


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a value is an integer of any type."""
    return isinstance(value, Integral) and not is_flag(value)


def is_count(value: Any, least: int = 1) -> TypeGuard[int]:
    """Whether a value is an integer of at least `least`."""
    return is_integer(value) and int(value) >= least


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number."""
    return isinstance(value, Real) and not is_flag(value) and isfinite(value)
