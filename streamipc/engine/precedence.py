"""Handlers go first: other threads' notifications wait while very many wait here.

Two sides may flood each other with notifications whose handlers notify back. A handler that
waits for room has its side read on meanwhile, and what is read must be kept, up to a bound
(``MOST_NOTIFICATIONS``, and a number of bytes). With both sides at that bound neither would
read, and both handlers would wait for ever. So from half of it on, the other threads send one
notification for each burst of those that are handled. A handler takes one away from here for
each that it sends; so what both sides hold, and have in the stream, shrinks from then on.

Invariant: whoever waits here hangs a bell with the lock held while it is crowded; and who ends
the crowding, or a burst, rings with the lock held. A handler that waits for a thread which
waits here makes no progress, and is found out by that.
"""

from __future__ import annotations

from ..handlers import current
from .bells import Bells

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading

    from .serving import Served

__all__ = ["CROWDED_AT", "Precedence"]

CROWDED_AT = 1 << 15
"""Notifications waiting from which on their handlers go first, until half of them are handled."""

_NO_PROGRESS = 0.1
"""Seconds after which a notification goes out although no other was handled meanwhile."""


class Precedence:
    """Says who may send a notification now.

    Args:
        lock: guards everything here; methods whose names end in ``_locked`` hold it.
        crowded_bytes: bytes of waiting notifications above which it is crowded too.

    Attributes:
        crowded: the handlers go first.
        handled: the notification that is being handled.
    """

    def __init__(self, lock: threading.Lock, crowded_bytes: int) -> None:
        self.crowded = False
        self.handled: Served | None = None
        self._lock = lock
        self._crowded_bytes = crowded_bytes
        self._bells = Bells(lock)
        self._over = False

    def arrived_locked(self, waiting: int, waiting_bytes: int) -> None:
        """So many notifications wait for their handlers, with one that has just come."""
        if (waiting >= CROWDED_AT or waiting_bytes > self._crowded_bytes) and not self._over:
            self.crowded = True

    def burst_handled_locked(self, waiting: int, waiting_bytes: int) -> None:
        """Some were handled, and so many still wait."""
        if not self.crowded:
            return
        if waiting * 2 <= CROWDED_AT and waiting_bytes * 2 <= self._crowded_bytes:
            self.crowded = False
            self._bells.ring()
        else:
            self._bells.ring_one()

    def end_locked(self) -> None:
        """The session takes nothing more to be sent: nobody waits."""
        self._over = True
        self.crowded = False
        self._bells.ring()

    def give_way(self) -> None:
        """Wait for a turn, unless it is a notification's handler that asks."""
        if current.get() is not None and _served() is self.handled:
            return
        while True:
            with self._lock:
                if not self.crowded:
                    return
                bell = self._bells.hang()
                handled = self.handled
            try:
                if bell.acquire(timeout=_NO_PROGRESS):
                    return
            finally:
                with self._lock:
                    self._bells.take_down(bell)
            if self.handled is handled:
                return


def _served() -> Served | None:
    """Return what the calling code handles."""
    handled = current.get()
    return getattr(handled, "_served", handled)  # type: ignore[arg-type]  # of a context
