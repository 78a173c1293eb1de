"""Whether the calling code has interrupted the session's own work on this very thread.

A finalizer, a callback of the garbage collector, the handler of a signal or of logging runs in the
midst of anything, also inside the engine. What it asks for there is entered, or queued, and the
work that it has interrupted goes on with it behind it: state is guarded by locks that their holder
may take again, the turn to write is tried and never waited for, and leadership is not taken twice.

What it can't do is wait. Nobody reads while the leader's thread waits for a reply, and nobody does
anything while it holds the engine's lock. So such a wait is refused.

Owns nothing. It asks those who own what may be held, and looks at the stack where they can't tell.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from .pool_thread import idle_pool_thread, is_pool_thread

if TYPE_CHECKING:
    from .writer import Writer

__all__ = ["Reentry", "is_on_stack"]


class Reentry:
    """See the module's text. One for each session.

    Args:
        lock: the engine's.
        writer: tells whether the calling thread has the turn to write.
        leader: returns the identifier of the thread that leads.
        pool: returns that whose threads are the session's own while they have no task.
    """

    def __init__(
        self,
        lock: threading.RLock,
        writer: Writer,
        leader: Callable[[], int | None],
        pool: Callable[[], object],
    ) -> None:
        self._is_owned: Callable[[], bool] = lock._is_owned  # type: ignore[attr-defined]
        self._turn = writer.turn
        self._is_writing_here = writer.has_turn_here
        self._leader = leader
        self._pool = pool

    def interrupted(self, leads: bool = False) -> str:
        """Return what this code has interrupted; empty: nothing that others need.

        Args:
            leads: the caller itself leads, so it has not interrupted who does.
        """
        if self._is_owned():
            return "is in the midst of the session's bookkeeping"
        if self._is_writing_here():
            return "writes a message"
        if not leads and self._leader() == threading.get_ident():
            return "reads for the session"
        thread = idle_pool_thread()
        if thread is not None and thread.pool is self._pool():
            return "is one of the session's own"
        return ""

    def is_inside(self) -> bool:
        """Tell whether it has interrupted what others need."""
        return bool(self.interrupted())

    def check_wait(self, leads: bool = False) -> None:
        """Refuse to wait for what the caller itself has interrupted.

        Args:
            leads: as above.

        Raises:
            RuntimeError: it would wait for ever.
        """
        if not (self._turn or self._is_owned() or is_pool_thread()) and (
            leads or self._leader() != threading.get_ident()
        ):
            return  # mostly, and quickly told
        interrupted = self.interrupted(leads)
        if interrupted:
            raise RuntimeError(
                f"this thread {interrupted}, and was interrupted by the code that wants to wait "
                "here (a finalizer, a callback of the garbage collector, a handler of a signal or "
                "of logging): it would wait for itself. Use notify(), or request() and take the "
                "result later; or wait in another thread"
            )


def is_on_stack(codes: Collection[CodeType], owner: Any, depth: int = 2) -> bool:
    """Tell whether this thread is inside of a method of ``owner``.

    A note of who is inside would be there a moment too late.

    Args:
        codes: of the methods.
        owner: whose ``self`` it is.
        depth: how many calls above this one to begin.
    """
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        if frame.f_code in codes and frame.f_locals.get("self") is owner:
            return True
        frame = frame.f_back
    return False
