"""Modules that have moved: pickles of earlier versions, and old imports, still find what was in them."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "register"]

MOVED: dict[str, str] = {}
"""Full name of a module that is no more, and of the module that now holds what was in it."""


class _MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook for the old names; it stands last, so that it is asked only for what is not found."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the signature of importlib
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a specification for modules in the table, None for all others."""
        if fullname not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=f"moved to {MOVED[fullname]}")

    def exec_module(self, module: ModuleType) -> None:
        """Give the old module a `__getattr__` that imports the new one when something is asked for."""
        old, new = module.__name__, MOVED[module.__name__]

        def moved(name: str) -> Any:
            # Tools ask any module for names such as __path__ and __file__: that is no use of it.
            if name.startswith("__"):
                raise AttributeError(f"module {old!r} has no attribute {name!r}")
            found = getattr(importlib.import_module(new), name)
            warnings.warn(
                f"{old}.{name} has moved to {new}.{name}: import it from there, and store models "
                "that name it again.",
                DeprecationWarning,
                stacklevel=2,
            )
            return found

        vars(module)["__getattr__"] = moved


_FINDER = _MovedModules()


def register() -> None:
    """Let imports find modules that have moved; a second call changes nothing."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)


# The package imports this module for this line: `__init__.py` holds imports only.
register()
