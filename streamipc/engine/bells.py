"""Waking threads that wait for a change of what a lock guards.

An interrupt, such as Ctrl-C, can have ``threading.Condition.wait()`` end without the lock, as
it is taken back. The block around it releases the lock all the same, which is another
thread's by then. So here a thread waits outside of the lock, for a bell of its own.
"""

from __future__ import annotations

from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Bells", "wake"]


def wake(lock: Any) -> None:
    """Release a lock that serves as a wake-up call; waking twice is the same as once."""
    try:
        lock.release()
    except RuntimeError:
        pass  # it was released already and its owner has not come round to it


class Bells:
    """What a ``threading.Condition`` is for; all methods are called with its lock held.

    Attributes:
        hung: those that have not been rung.
    """

    def __init__(self) -> None:
        self.hung: list[Any] = []

    def hang(self) -> Any:
        """Return a lock; once our lock is left, taking it is waiting to be rung."""
        bell = allocate_lock()
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
