"""Interrupts at each place where a signal may come, one after the other.

CPython runs the handler of a signal behind calls, at the entry of functions, and where a loop
turns. A profile function is called at the same places, but for the last, and what it raises comes
out there.

Code that expects errors has to tell what the handler of a signal raises from them, which takes a
real signal: see ``signals_raise``.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["Interrupt", "interrupted_at", "signals_raise"]


class Interrupt(BaseException):
    """What the handler of a signal raises."""


def interrupted_at(
    k: int,
    files: tuple[str, ...],
    function: Callable[[], object],
    kind: type[BaseException] = Interrupt,
) -> bool:
    """Call ``function``, with an interrupt at the ``k``-th place within ``files``, from 1.

    Args:
        k: which place.
        files: ends of the paths of those that are looked at.
        function: is called once.
        kind: of exception; nothing else may raise it.

    Returns:
        Whether there was such a place; the interrupt came out of ``function``, or was swallowed,
        which is an error.
    """
    left = k

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        if event == "c_call" or not frame.f_code.co_filename.endswith(files):
            return
        left -= 1
        if left == 0:
            sys.setprofile(None)
            raise kind

    came_out = False
    sys.setprofile(profile)
    try:
        function()
    except kind:
        came_out = True
    finally:
        sys.setprofile(None)
    assert came_out == (left <= 0), f"the interrupt at {k} was swallowed"
    return came_out


@contextlib.contextmanager
def signals_raise(kind: type[BaseException]) -> Iterator[Callable[[], None]]:
    """Have the handler of a signal raise ``kind``; yield what sends that signal here and now."""

    def handler(number: int, frame: object) -> None:
        raise kind("of a signal's handler")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield lambda: signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
