"""What happens to all sessions of a process at once: its exit, and a fork.

Owns the list of them, which holds none alive. It takes no lock: each step on it is one, and the
exit looks at a copy.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from .._forks import forgets, look_for_fork

__all__ = ["before_exit", "close_all", "is_exiting", "park_at_exit", "track"]

_EXIT_SECONDS = 1.0
"""For children to exit by themselves when the interpreter ends with open sessions."""


class Session(Protocol):
    """What a session knows how to do when the process exits."""

    def has_closed(self) -> bool:
        """Tell whether nothing is left to be done."""
        ...

    def hang_up(self, what: str, /) -> None:
        """Take nothing more, and close our direction; ``what`` says why."""
        ...

    def close(self, timeout: float, /) -> None:
        """Close, within so many seconds."""
        ...


class Copied(Protocol):
    """What a forked process has a copy of."""

    def forget_after_fork(self) -> None:
        """Make this copy inert."""
        ...


before_exit: list[Callable[[], object]] = []
"""Called when the interpreter ends, before its sessions are closed."""

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
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


def track(session: Session, copied: Copied) -> None:
    """Include a session in what happens at exit, and its parts in what does after a fork."""
    _sessions.add(session)
    forgets(copied)


def close_all() -> None:
    """Close what the program left open, quickly and without a word, at its exit."""
    global _exiting
    _exiting = True
    look_for_fork()  # copies count as closed: they belong to the parent, and so do its children
    for function in before_exit:
        with suppress(Exception):
            function()
    sessions = [session for session in list(_sessions) if not session.has_closed()]
    for session in sessions:
        # All children see the end of their input first, so that they exit side by side.
        session.hang_up("the interpreter is ending")
    end = time.monotonic() + _EXIT_SECONDS
    for session in sessions:
        try:
            session.close(max(0.0, end - time.monotonic()))
        except Exception:
            pass
