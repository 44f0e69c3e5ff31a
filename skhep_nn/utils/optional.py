"""Packages that are installed with extras."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["needs"]


@contextmanager
def needs(package: str, extra: str) -> Iterator[None]:
    """Name the extra to install where what is imported within is missing."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{package} is needed for this: pip install 'skhep_nn[{extra}]'"
        ) from error
