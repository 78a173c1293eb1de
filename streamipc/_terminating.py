"""SIGTERM while a session serves: what runs is finished and answered, then serving ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["on_sigterm"]


@contextmanager
def on_sigterm(stop: Callable[[], bool]) -> Iterator[None]:
    """Have SIGTERM call ``stop`` while the block runs, instead of ending the process.

    Only in the main thread, where Python runs signal handlers, and only while nobody else
    has said what SIGTERM does. A second one ends the process as if we were not here.

    Args:
        stop: called between any two instructions of the block; it must wait for no lock
            that the block takes. ``False`` means that nothing is to be finished: the
            process ends at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    import signal

    def first(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if not stop():
            signal.raise_signal(signal.SIGTERM)

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGTERM, first)
    except ValueError:  # a subinterpreter, which gets no signals
        yield
        return
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is first:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
