"""Calls ``on_progress`` for the items of one request: in order, and before the result.

Owns the items that wait for that, with the reply behind them. The engine's lock guards the queue
and ``_queued``.

Invariant: while something waits, there is one task that is queued or runs, and passes it on. So the
order is kept, and the reply is set last.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..exceptions import ProtocolError
from .flow import Held

if TYPE_CHECKING:
    from .calls import Call
    from .outgoing import Outgoing

__all__ = ["ProgressCalls"]


class ProgressCalls:
    """The task, which is queued whenever there are items to pass on.

    The thread that reads adds items, and in the end the reply; one worker at a time takes them off.

    Args:
        outgoing: whose request it is.
        call: the request.
        callback: the user's, run in a copy of the context in which the request was made.
        window: items that the peer may send before more are granted.
    """

    is_offloaded = True
    is_background = True
    is_handler = False
    by_io_thread = False
    passes_on_reply = True
    taker: int | None = None
    may_be_left = True  # when the session ends: there may be thousands, each with many items

    def __init__(
        self,
        outgoing: Outgoing,
        call: Call,
        callback: Callable[[Any], object],
        window: int,
    ) -> None:
        self._outgoing = outgoing
        self._call = call
        self._callback = callback
        self._window = window
        self._context = contextvars.copy_context()
        self.waiting: deque[tuple[bool, Any, BaseException | None]] = deque()
        self._queued = False
        self._owed = 0
        self._count = 0  # items that the peer has sent
        self._mark: object = None  # what brought the last one
        self._allowed = window  # items that it may have sent since the start
        self._failed = False
        call.items = self

    def arrived(self, item: Any, mark: object = None) -> bool:
        """Queue an item for the callback, one of each mark."""
        if mark is None or self._mark is not mark:
            if self._count >= self._allowed:
                return False
            self._add((False, item, None))
            self._count, self._mark = self._count + 1, mark
        return True

    def replied(self, value: Any, error: BaseException | None) -> None:
        """Queue the outcome behind the items."""
        self._outgoing.completes_later(self._call)
        self._add((True, value, error))

    def _add(self, entry: tuple[bool, Any, BaseException | None]) -> None:
        with self._outgoing.lock:
            self.waiting.append(entry)
            if not self._queued:
                self._queued = True
                self._outgoing.pool.submit_locked(self)

    def ended(self) -> None:
        """Do nothing: the items that are left are not passed on."""

    def took(self, seconds: float) -> None:
        """Learn nothing: the callback is the user's, and always gets a worker."""

    def run(self) -> None:
        """Pass on what is there."""
        while True:
            with self._outgoing.lock:
                if not self.waiting:
                    self._queued = False
                    return
                is_reply, value, error = self.waiting.popleft()
            if is_reply:
                self._outgoing.complete(self._call, value, error)
                continue
            if isinstance(value, Held):
                self._pass_on_held(value)
            elif not self._call.ready():
                self._pass_on(value)

    def _pass_on_held(self, held: Held) -> None:
        flow = self._outgoing.flow
        try:
            if not self._call.ready():
                envelope: Any = flow.begin(held)
                if envelope is None:
                    raise ProtocolError(
                        f"an item of request {self._call.id!r}, of {held.size:,} bytes, takes more "
                        "memory than there is for it (Limits.held_bytes)"
                    )
                self._pass_on(envelope.item)
        except Exception as error:  # also of a serializer of the user's own
            self._outgoing.cancel(self._call)
            self._outgoing.settle(self._call, None, error)
        finally:
            flow.release(held)

    def _pass_on(self, item: Any) -> None:
        try:
            if not self._failed:
                self._context.run(self._callback, item)
        except BaseException as error:
            self._failed = True  # said once; the request goes on
            self._outgoing.report(error)
        self._owed += 1
        if self._owed * 2 >= self._window:
            owed, self._owed = self._owed, 0
            self._allowed += owed
            self._outgoing.credit(self._call, owed)
