"""Waking threads that wait for a change of what a lock guards.

An interrupt, such as Ctrl-C, can have ``threading.Condition.wait()`` end without the lock, as
it is taken back. The block around it releases the lock all the same, which is another
thread's by then. So here a thread waits outside of the lock, for a bell of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from .._signals import interrupt_in

__all__ = ["Bells", "wake"]


def wake(lock: Any) -> None:
    """Release a lock that serves as a wake-up call; waking twice is the same as once."""
    try:
        lock.release()
    except RuntimeError as error:
        # It was released already and its owner has not come round to it.
        if interrupt_in(error) is not None:
            raise


class Bells:
    """What a ``threading.Condition`` is for; all but :meth:`wait_for` with the lock held.

    Args:
        lock: guards what is waited for, and the bells.

    Attributes:
        hung: those that have not been rung.
    """

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.hung: list[Any] = []

    def wait_for(self, ready: Callable[[], object], end: float | None) -> bool:
        """Wait until ``ready()``, which is called with the lock held, or ``end``.

        Returns:
            ``False`` if the time was over first.
        """
        bell = None
        while True:
            with self._lock:
                self.take_down(bell)
                if ready():
                    return True
                left = -1.0 if end is None else end - time.monotonic()
                if end is not None and left <= 0:
                    return False
                bell = self.hang()
            bell.acquire(timeout=left)

    def hang(self) -> Any:
        """Return a lock; once our lock is left, taking it is waiting to be rung."""
        bell = threading.Lock()
        bell.acquire()
        self.hung.append(bell)
        return bell

    def take_down(self, bell: Any) -> None:
        """Forget a bell whose owner waits no more, or ``None``."""
        if bell in self.hung:
            self.hung.remove(bell)

    def ring(self) -> None:
        """Wake all; each is forgotten behind its waking, as an interrupt may come between."""
        while self.hung:
            wake(self.hung[-1])
            self.hung.pop()

    def ring_one(self) -> None:
        """Wake the one that has waited for longest."""
        if self.hung:
            wake(self.hung[0])
            del self.hung[0]
