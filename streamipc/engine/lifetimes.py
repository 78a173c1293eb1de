"""What happens to all sessions of a process at once: its exit, and a fork."""

from __future__ import annotations

import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING

from .._forks import forgets, look_for_fork

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["close_all", "is_exiting", "park_at_exit", "track"]

_EXIT_SECONDS = 1.0
"""For children to exit by themselves when the interpreter ends with open sessions."""

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_exiting = False

_PARKED = 5.0
"""Seconds: longer than the end takes, and not for ever, for the thread may hold a lock of
the user's that somebody else needs to end."""


def is_exiting() -> bool:
    """Tell whether the interpreter has come to its end."""
    return _exiting


def park_at_exit(error: BaseException | None = None) -> None:
    """Put a daemon thread to sleep that the end of the interpreter is waking.

    All it could do is raise, and have its traceback printed into the program's last
    words. Python stops such threads itself a moment later.

    Args:
        error: what went wrong. From 3.12 on, starting a thread fails a moment before any
            atexit function is called, and only its text says that this is the end.
    """
    ending = _exiting or "interpreter shutdown" in str(error)
    if ending and threading.current_thread().daemon:
        time.sleep(_PARKED)


def track(engine: Engine) -> None:
    """Include an engine in what happens at exit and after a fork."""
    _engines.add(engine)
    forgets(engine)


def close_all() -> None:
    """Close what the program left open, quickly and without a word, at its exit."""
    global _exiting
    _exiting = True
    look_for_fork()  # copies count as closed: they belong to the parent, and so do its children
    engines = [engine for engine in list(_engines) if not engine.closing.closed.is_set()]
    for engine in engines:
        # All children see the end of their input first, so that they exit side by side.
        engine.refuse(partial(engine.host.closed_error, "the interpreter is ending"))
        engine.closing.leave_output()
        try:
            engine.endpoint.close_write()
        except Exception:
            pass
    end = time.monotonic() + _EXIT_SECONDS
    for engine in engines:
        try:
            engine.closing.close(max(0.0, end - time.monotonic()))
        except Exception:
            pass
