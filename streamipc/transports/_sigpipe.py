"""Writes that must not end the process where nobody reads any more.

Python ignores SIGPIPE, so such a write raises ``BrokenPipeError``. Programs for the command
line often give the signal its default back, for the sake of ``tool | head``, and it would
end them whenever a child of theirs dies. ``send(2)`` has MSG_NOSIGNAL for that, a pipe has
nothing. So, where the default holds, SIGPIPE is blocked in the thread that writes, and what
the write has brought up is taken away before it is let through again.
"""

from __future__ import annotations

# What the module signal wraps in enums, which every write would pay for.
import _signal  # type: ignore[import-not-found]
from collections.abc import Callable
from typing import Any

__all__ = ["SIGPIPE", "SigpipeHeldBack", "disposition_of"]

SIGPIPE: int = getattr(_signal, "SIGPIPE", 0)


def _ignored(_: int) -> Any:  # pragma: no cover - Windows
    return True


disposition_of: Callable[[int], Any] = _signal.getsignal if SIGPIPE else _ignored
"""Falsy for SIGPIPE while its default holds, or nobody in Python knows what does."""


class SigpipeHeldBack:
    """Keeps SIGPIPE from this thread during a ``with`` block, for writes to a broken pipe."""

    def __enter__(self) -> None:
        if not SIGPIPE:  # pragma: no cover - Windows
            return
        self._blocked = True
        self._was_pending = SIGPIPE in _signal.sigpending()
        # Told first, for blocking it may raise what a signal handler raises, after the fact.
        self._blocked = SIGPIPE in _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        try:
            _signal.pthread_sigmask(_signal.SIG_BLOCK, (SIGPIPE,))
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if not SIGPIPE:  # pragma: no cover - Windows
            return
        try:
            if not self._was_pending and SIGPIPE in _signal.sigpending():
                _take_pending()
        finally:
            if not self._blocked:
                _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (SIGPIPE,))


def _take_pending() -> None:
    if hasattr(_signal, "sigtimedwait"):
        _signal.sigtimedwait((SIGPIPE,), 0)
    else:  # pragma: no cover - macOS
        _signal.sigwait((SIGPIPE,))
