"""The gate for what is notified: handlers go first, others wait while very many wait here.

Two sides may flood each other with notifications whose handlers notify back. A handler that
waits for room has its side read on meanwhile, and what is read must be kept, up to
the bound of ``flow.py``. With both sides at that bound neither would read, and both handlers
would wait for ever. So from half of it on, the other threads send one notification for each
burst of those that are handled. A handler takes one away from here for each that it sends; so
what both sides hold, and have in the stream, shrinks from then on.

Only the user's own threads give way: no handler or callback of a session with threads does,
since others may wait for it. A handler may wait for one of the user's threads all the same. It
makes no progress then, and is found out by that: what waits goes on, and what follows does not
wait for that handler, and for the next such one less long. But slow handlers look like stuck
ones. So from three quarters of the bound on, one a second goes on without a burst and no more,
which is less than any handlers handle that both sides are flooded with.

Invariant: whoever waits here is among the waiters, with the lock held, while it is closed; and who
opens it, or ends a burst, notifies them with the lock held.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..handlers import current, has_returned
from .pool_thread import current_pool_thread
from .waiters import Waiters

if TYPE_CHECKING:
    from .incoming import IncomingRequest as IncomingRequest

__all__ = ["SendGate"]

_LONGEST = 1.0
"""Seconds that a notification waits at the most; where so many wait, that the first one does."""

_NO_PROGRESS = 0.1
"""Seconds after which it goes on if one and the same notification was handled all the time."""

_LEAST_NO_PROGRESS = 0.01
"""The same where handlers were found to be stuck several times in a burst."""

_NOBODY = object()


class SendGate:
    """Says who may send a notification now.

    Args:
        lock: guards everything here; methods whose names end in ``_locked`` hold it.
        most: notifications that may wait at the most.
        is_inside: tells whether the caller has interrupted what others need; see ``reentry.py``.

    Attributes:
        closes_at: how many wait from which on their handlers go first, until half of them are
            handled.
        strict_at: how many wait from which on that is so however long a burst takes.
        closed: the handlers go first.
        handled: the notification that is being handled.
    """

    def __init__(
        self, lock: threading.RLock, most: int, is_inside: Callable[[], bool] = lambda: False
    ) -> None:
        self.closes_at = most // 2
        self.strict_at = most * 3 // 4
        self.closed = False
        self.handled: IncomingRequest | None = None
        self._lock = lock
        self._is_inside = is_inside
        self._waiters = Waiters(lock)
        self._over = False
        self._stuck: object = _NOBODY  # whose handler was found to make no progress
        self._patience = _NO_PROGRESS
        self._strict = False
        self._next = 0.0  # when another one may go on without a burst, if strict

    def arrived_locked(self, waiting: int) -> None:
        """So many notifications wait for their handlers, with one that has just come."""
        if waiting >= self.closes_at and not self._over:
            self.closed = True
            self._strict = waiting >= self.strict_at

    def burst_handled_locked(self, waiting: int) -> None:
        """Some were handled, and so many still wait."""
        self.handled = None
        if not self.closed:
            return
        self._stuck = _NOBODY
        self._patience = _NO_PROGRESS
        self._strict = waiting >= self.strict_at
        if waiting * 2 <= self.closes_at:
            self.closed = False
            self._waiters.notify_all()
        else:
            self._waiters.notify()

    def end_locked(self) -> None:
        """The session takes nothing more to be sent: nobody waits."""
        self._over = True
        self.closed = False
        self._waiters.notify_all()

    def wait(self, deadline: float | None = None) -> bool:
        """Wait for a turn, unless it is a handler or a callback that asks.

        Args:
            deadline: in :func:`time.monotonic` seconds, or ``None``.

        Returns:
            ``False`` if the deadline came first.
        """
        handling = current.get()
        if current_pool_thread() is not None or not (handling is None or has_returned(handling)):
            return True
        if self._is_inside():
            return True
        end = time.monotonic() + _LONGEST
        with self._lock:
            if not self.closed or (self._stuck is self.handled and not self._strict):
                return True
            waiter = self._waiters.add()
            handled = self.handled
        try:
            while not waiter.acquire(timeout=self._wait_until(deadline)):
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                with self._lock:
                    if self._may_go_on(waiter, handled, end):
                        return True
                    handled = self.handled
            return True
        finally:
            with self._lock:
                sleeping = self._waiters.sleeping
                if waiter in sleeping:
                    sleeping.remove(waiter)  # the first call in here: it always happens

    def _wait_until(self, deadline: float | None) -> float:
        """Return for how many seconds to sleep before looking around."""
        if deadline is None:
            return self._patience
        return max(0.0, min(self._patience, deadline - time.monotonic()))

    def _may_go_on(self, waiter: Any, handled: IncomingRequest | None, end: float) -> bool:
        """Tell whether who waits need not do so any more.

        Args:
            waiter: which has not been woken.
            handled: what was handled some time ago.
            end: when it has waited for long.
        """
        now = time.monotonic()
        if self._strict:
            if self._waiters.sleeping[:1] != [waiter] or now < max(end, self._next):
                return False
            self._next = now + _LONGEST
            return True
        if self.handled is handled:  # no progress
            self._stuck = handled
            self._patience = max(self._patience / 2, _LEAST_NO_PROGRESS)
            return True
        return now >= end
