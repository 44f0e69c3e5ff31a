"""Checks of single values: flags, counts, numbers."""

from __future__ import annotations

from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = ["is_flag", "is_integer"]


def is_flag(value: Any) -> bool:
    """Whether a value is True or False, of Python or (from a grid of a search) of numpy."""
    return isinstance(value, bool | np.bool_)


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not is_flag(value) and int(value) >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not is_flag(value) and bool(np.isfinite(float(value)))


def is_integer(value: Any) -> bool:
    """Return whether a value is a whole number of any type; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_)


def is_finite_number(value: Any) -> bool:
    """Whether a value is a real, finite number and no bool."""
    return not isinstance(value, bool) and isinstance(value, Real) and isfinite(value)
