"""What the library has to say to nobody in particular: the logger ``streamipc``.

What is said there comes from threads that others rely on, in moments when things go wrong.
So saying it never raises, also where no descriptor or no memory is left, or where a handler of
the user's fails.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Hashable

from ._signals import let_through
from .exceptions import IpcError

__all__ = ["LogLimit", "log_error", "log_warning"]

_MOST = 10
"""Errors of one kind that are logged in a second."""

_KINDS = 64
"""Kinds that are told apart; further ones are counted together."""

_FURTHER = "further kinds"


class LogLimit:
    """Lets so many errors of one kind into the log in a second, and counts the others.

    A peer can make a session report 50,000 errors a second, each of which takes more bytes in the
    log than it had on the wire.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards what is counted
        self._counts: dict[Hashable, tuple[float, int, int]] = {}  # since when, logged, left out

    def forget_after_fork(self) -> None:
        """Renew the lock, in a forked process."""
        self._lock = threading.RLock()

    def admit(self, kind: Hashable) -> int | None:
        """Return how many of this kind were left out so far; ``None``: leave this one out."""
        now = time.monotonic()
        with self._lock:
            if kind not in self._counts and len(self._counts) >= _KINDS - 1:
                self._forget_quiet(now)
                if len(self._counts) >= _KINDS - 1:
                    kind = _FURTHER
            since, logged, left_out = self._counts.get(kind, (now, 0, 0))
            if now - since >= 1:
                since, logged = now, 0
            if logged >= _MOST:
                self._counts[kind] = since, logged, left_out + 1
                return None
            self._counts[kind] = since, logged + 1, 0
            return left_out

    def _forget_quiet(self, now: float) -> None:
        """Forget kinds that came last a second ago and of which all was told."""
        for kind, (since, _, left_out) in list(self._counts.items()):
            if now - since >= 1 and not left_out:
                del self._counts[kind]

    def left_out(self) -> int:
        """Return how many were left out that no later one has told of, and forget them."""
        with self._lock:
            count = sum(left_out for _, _, left_out in self._counts.values())
            self._counts.clear()
        return count


def log_error(text: str, error: BaseException) -> None:
    """Log an error with its traceback; a fault of the peer's has none."""
    bare = isinstance(error, IpcError) and not (error.__traceback__ or error.__cause__)
    _log("error", text, None if bare else error)


def log_warning(text: str) -> None:
    """Log a warning."""
    _log("warning", text, None)


def _log(level: str, text: str, error: BaseException | None) -> None:
    try:
        getattr(logging.getLogger("streamipc"), level)("%s", text, exc_info=error)
    except Exception as failure:
        let_through(failure)
        try:
            sys.stderr.write(f"{text}\n(not logged: {type(failure).__name__}: {failure})\n")
        except Exception as silence:
            let_through(silence)  # else there is nowhere left to say it
