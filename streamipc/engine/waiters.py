"""Waking threads that wait for a change of what a lock guards.

An interrupt, such as Ctrl-C, can have ``threading.Condition.wait()`` end without the lock, as
it is taken back. The block around it releases the lock all the same, which is another
thread's by then. So here a thread waits outside of the lock, on a lock of its own: a waiter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from .._events import wake

__all__ = ["Waiters", "wake", "wake_all"]


def wake_all(wakers: Collection[Any]) -> None:
    """Release the locks on which threads sleep, whoever adds or removes one meanwhile."""
    for lock in tuple(wakers):
        wake(lock)


class Waiters:
    """What a ``threading.Condition`` is for; all but :meth:`wait_for` with the lock held.

    Args:
        lock: guards what is waited for, and the waiters.

    Attributes:
        sleeping: those that have not been woken.
    """

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.sleeping: list[Any] = []

    def wait_for(self, ready: Callable[[], object], end: float | None) -> bool:
        """Wait until ``ready()``, which is called with the lock held, or ``end``.

        Returns:
            ``False`` if the time was over first.
        """
        waiter = None
        while True:
            with self._lock:
                self.remove(waiter)
                if ready():
                    return True
                left = -1.0 if end is None else end - time.monotonic()
                if end is not None and left <= 0:
                    return False
                waiter = self.add()
            waiter.acquire(timeout=left)

    def add(self) -> Any:
        """Return a lock; once our lock is left, taking it is waiting to be woken."""
        waiter = threading.Lock()
        waiter.acquire()
        self.sleeping.append(waiter)
        return waiter

    def remove(self, waiter: Any) -> None:
        """Forget one whose owner waits no more, or ``None``."""
        if waiter in self.sleeping:
            self.sleeping.remove(waiter)

    def notify_all(self) -> None:
        """Wake all; each is forgotten behind its waking, as an interrupt may come between."""
        while self.sleeping:
            waiter = self.sleeping[-1]
            wake(waiter)
            self.remove(waiter)

    def notify(self) -> None:
        """Wake the one that has waited for longest."""
        if self.sleeping:
            waiter = self.sleeping[0]
            wake(waiter)
            self.remove(waiter)
