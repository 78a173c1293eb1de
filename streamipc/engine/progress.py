"""Calls ``on_progress`` for the items of one request: in order, and before the result.

Owns the items that wait for that, with the reply behind them, and the one in hand. The engine's
lock guards the queue and ``_queued``.

Invariant: while something waits, the task is queued or runs, and passes it on. It may be queued
twice, by one who was interrupted, and one thread runs it. So the order is kept, and the reply is
set last. What is in hand stays there until all is done for it, and credit is owed until it is
granted: after an interrupt the task goes on where it was.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._signals import is_interrupt, let_through
from ..exceptions import ProtocolError
from .flow import Held

if TYPE_CHECKING:
    from .calls import Call
    from .outgoing import Outgoing

__all__ = ["ProgressCalls"]


class ProgressCalls:
    """The task, which is queued whenever there are items to pass on.

    The thread that reads adds items, and in the end the reply; one other at a time takes them off.

    Args:
        outgoing: whose request it is.
        call: the request.
        callback: the user's, run in a copy of the context in which the request was made.
        window: items that the peer may send before more are granted.
    """

    has_begun = False  # it goes on where it ended
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
        self._runner: object = None  # whoever runs it
        self._has_reply = False
        self._in_hand: tuple[bool, Any, BaseException | None] | None = None
        self._is_passed = False  # that was given to the callback
        self._owed = 0
        self._count = 0  # items that the peer has sent
        self._mark: object = None  # what brought the last one
        self._allowed = window  # items that it may have sent since the start
        self._failed = False
        call.items = self

    def arrived(self, item: Any, mark: object = None) -> bool:
        """Queue an item for the callback, one of each mark."""
        with self._outgoing.lock:
            if mark is None or self._mark is not mark:
                if self._count >= self._allowed:
                    return False
                self._count, self._mark = self._count + 1, mark
                self.waiting.append((False, item, None))
            self._queue_locked()
        return True

    def replied(self, value: Any, error: BaseException | None) -> None:
        """Queue the outcome behind the items."""
        self._outgoing.completes_later(self._call)
        with self._outgoing.lock:
            if not self._has_reply:
                self._has_reply = True
                self.waiting.append((True, value, error))
            self._queue_locked()

    def _queue_locked(self) -> None:
        if not self._queued:
            # In this order: who is interrupted in between submits it once more.
            self._outgoing.pool.submit_locked(self)
            self._queued = True

    def ended(self) -> None:
        """Do nothing: the items that are left are not passed on."""

    def took(self, seconds: float) -> None:
        """Learn nothing: the callback is the user's, and is always offloaded."""

    def run(self) -> None:
        """Pass on what is there."""
        me = object()
        try:
            with self._outgoing.lock:
                self._runner = self._runner or me
            if self._runner is me:
                self._pass_on_all()
        finally:
            if self._runner is me:
                self._runner = None

    def _pass_on_all(self) -> None:
        while True:
            if self._owed * 2 >= self._window:
                self._grant()
            if self._in_hand is None:
                with self._outgoing.lock:
                    if not self.waiting:
                        self._queued, self._runner = False, None
                        return
                    # An interrupt may come behind the call, and not before.
                    self._in_hand = self.waiting[0]
                    self.waiting.popleft()
            is_reply, value, error = self._in_hand
            if is_reply:
                self._outgoing.complete(self._call, value, error)
            elif isinstance(value, Held):
                self._pass_on_held(value)
            else:
                self._pass_on(value)
            self._owed += self._is_passed
            self._in_hand, self._is_passed = None, False

    def _pass_on_held(self, held: Held) -> None:
        flow = self._outgoing.flow
        try:
            if not (self._is_passed or self._call.ready()):
                envelope: Any = flow.begin(held)
                if envelope is None:
                    raise ProtocolError(
                        f"an item of request {self._call.id!r}, of {held.size:,} bytes, takes more "
                        "memory than there is for it (Limits.held_bytes)"
                    )
                self._pass_on(envelope.item)
        except Exception as error:  # also of a serializer of the user's own
            let_through(error)
            self._outgoing.cancel(self._call)
            self._outgoing.settle(self._call, None, error)
        flow.release(held)

    def _pass_on(self, item: Any) -> None:
        if self._is_passed or self._call.ready():
            return
        try:
            # Nothing comes between this and the first line of the callback.
            self._is_passed = True
            if not self._failed:
                self._context.run(self._callback, item)
        except BaseException as error:
            self._failed = not is_interrupt(error)  # said once; the request goes on
            self._outgoing.report(error)

    def _grant(self) -> None:
        owed = self._owed
        self._allowed += owed
        self._outgoing.credit(self._call, owed)
        self._owed -= owed
