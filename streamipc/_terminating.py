"""Signals that end a session while it serves.

SIGTERM: what runs is finished and answered, then serving ends. Ctrl-C goes to all processes in
the terminal at the same time: of a child and its parent, one traceback is enough.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["OnSigterm"]


class OnSigterm:
    """Has SIGTERM call ``stop`` while a ``with`` block runs, instead of ending the process.

    Only in the main thread, where Python runs signal handlers, and only while nobody else
    has said what SIGTERM does. A second one ends the process as if we were not here.

    Args:
        stop: called between any two instructions of the block; it must wait for no lock
            that the block takes. ``False`` means that nothing is to be finished: the
            process ends at once.
        is_child: a ``KeyboardInterrupt`` that leaves the block, and that nobody catches, ends
            the process without a traceback.
    """

    def __init__(self, stop: Callable[[], bool], is_child: bool = False) -> None:
        self._stop = stop
        self._is_child = is_child
        self._handler = self._first  # one object: each look at a method makes a new one

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
            return
        try:
            signal.signal(signal.SIGTERM, self._handler)
        except ValueError:
            pass  # a subinterpreter, which gets no signals

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._is_child and isinstance(error, KeyboardInterrupt):
            _say_nothing_of(error)
        if signal.getsignal(signal.SIGTERM) is self._handler:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _first(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if not self._stop():
            signal.raise_signal(signal.SIGTERM)


def _say_nothing_of(interrupt: KeyboardInterrupt) -> None:
    """Have Python print no traceback of it; its exit status is that of SIGINT all the same."""
    usual = sys.excepthook
    if usual is not sys.__excepthook__:
        return  # the program has said what becomes of what it does not catch
    interrupt.said_by_parent = True  # type: ignore[attr-defined]

    def hook(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        if not hasattr(error, "said_by_parent"):
            usual(kind, error, traceback)

    sys.excepthook = hook
