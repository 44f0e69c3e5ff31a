"""The public place of classes and functions that are written in private modules."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

__all__ = ["public"]

T = TypeVar("T")


def public(module: str) -> Callable[[T], T]:
    """Return a decorator that sets ``__module__`` to the public module that exports a class or function.

    Stored models and pickles name classes by ``__module__``. With the public name, the file that a class
    is written in can change without making stored models unreadable.
    """

    def set_module(named: T) -> T:
        named.__module__ = module
        if isinstance(named, type):
            for member in vars(named).values():
                # doctest runs the examples of a method only if it names the module of its class.
                if isinstance(member, FunctionType):
                    member.__module__ = module
        return named

    return set_module
