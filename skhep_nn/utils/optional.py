"""Parts that may be missing: packages that come with extras, and the folder of faster kernels."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from skhep_nn.utils.interrupts import interrupts_held

__all__ = ["kernels", "needs"]


@contextmanager
def needs(package: str, extra: str) -> Iterator[None]:
    """Raise an ImportError that names the extra to install, if an import inside the block fails."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{package} is needed for this: pip install 'skhep_nn[{extra}]'"
        ) from error


@cache
def kernels(name: str) -> Any:
    """Return a module of `skhep_nn.kernels`, or None if that folder is not there.

    Kernels compute what the networks compute, only faster. Every use goes through this function, so that the
    library stays correct without them.

    Parameters
    ----------
    name : {"cpu_forward", "cpu_step", "gpu"}
        Name of the module.

    Returns
    -------
    module or None
    """
    try:
        with interrupts_held():  # an import that is cut short cannot be repeated
            return importlib.import_module(f"skhep_nn.kernels.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("skhep_nn.kernels", f"skhep_nn.kernels.{name}"):
            raise
        return None
