"""Ctrl-C during a fit: noted, and held back while a state is half written or a module half imported.

Python delivers Ctrl-C to the main thread only. In other threads, and where the process does not answer it by a
function of Python, nothing here has an effect.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TypeAlias

__all__ = ["Interrupts", "interrupts_held", "interrupts_noted"]

_Handler: TypeAlias = Callable[[int, FrameType | None], object]


@dataclass
class Interrupts:
    """Whether the user has pressed Ctrl-C."""

    seen: bool = False


@contextmanager
def interrupts_noted() -> Iterator[Interrupts]:
    """Note whether the user presses Ctrl-C inside the block.

    A KeyboardInterrupt alone does not say so: callbacks of skorch raise one to end training.
    """
    noted = Interrupts()

    def note(before: _Handler, number: int, frame: FrameType | None) -> None:
        try:
            before(number, frame)
        except KeyboardInterrupt:
            noted.seen = True
            raise

    with _answered_by(note):
        yield noted


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Deliver Ctrl-C only at the end of the block; a second one is delivered at once."""
    held = False

    def hold(before: _Handler, number: int, frame: FrameType | None) -> None:
        nonlocal held
        held = not held
        if not held:
            before(number, frame)

    try:
        with _answered_by(hold):
            yield
    finally:
        if held:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _answered_by(answer: Callable[[_Handler, int, FrameType | None], None]) -> Iterator[None]:
    """Let a function answer Ctrl-C; it gets the handler that was there before, which comes back afterwards."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if in_main_thread else None
    if not callable(before):
        yield
        return
    try:
        signal.signal(signal.SIGINT, partial(answer, before))
        yield
    finally:
        signal.signal(signal.SIGINT, before)
