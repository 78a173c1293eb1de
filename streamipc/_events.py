"""Waking threads, and an event for which the main thread may wait while signals come."""

from __future__ import annotations

import threading
from typing import Any

from ._signals import let_through

__all__ = ["Event", "wake"]


def wake(lock: Any) -> None:
    """Release a lock that serves as a wake-up call; waking twice is the same as once."""
    try:
        lock.release()
    except RuntimeError as error:  # it was released, and its owner has not come round to it
        let_through(error)


class Event:
    """As :class:`threading.Event`, but an exception of a signal's handler can't break it.

    That one waits on a condition, and an interrupt within ``Condition.wait()`` may leave the
    condition's lock held for ever, or have "release unlocked lock" come out in its place. Here each
    waiter has a lock of its own.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[threading.Lock] = []

    def is_set(self) -> bool:
        """Tell whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake all who wait; again is the same as once."""
        self._is_set = True
        for lock in self._waiters.copy():
            wake(lock)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; return whether it is.

        Args:
            timeout: seconds; ``None``: as long as it takes.
        """
        if self._is_set:
            return True
        lock = threading.Lock()
        lock.acquire()
        try:
            self._waiters.append(lock)
            if not self._is_set:  # or it was set before it could see us
                lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        finally:
            if lock in self._waiters:
                self._waiters.remove(lock)
        return self._is_set
