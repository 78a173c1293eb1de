"""Notifications of the peer's: those that wait for their handlers, and those for ``receive()``.

Owns both queues, the one in hand between them, and the count of what was dropped. The engine's lock
guards ``_is_handling`` and ``_runs``, with which ``_waiting`` is looked at; the queue for
``receive()`` needs none, each step on it is one.

Invariant: while ``_is_handling``, the task is queued or runs, and handles all that waits, in the
order sent. It may be queued twice, by one who was interrupted: it does nothing while it ``_runs``.
The one in hand stays there until all is done for it: the task goes on with it after an interrupt.
Without threads an interrupt may lose it, and whoever enters the next notification finds that out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._forks import at_home, look_for_fork
from ..exceptions import RequestTimeoutError, SessionClosedError
from ..handlers import SLOW_SECONDS
from ..protocol.envelopes import Notification
from .flow import FEW, SMALL, Held, Kind
from .incoming import IncomingRequest
from .lifetimes import is_exiting, park_at_exit
from .waiters import wake_all

if TYPE_CHECKING:
    from ..messages import Message
    from ..protocol.connection import Connection
    from ..protocol.framing import Frame
    from .caller_runs import CallerRuns
    from .channel import Channel
    from .contracts import Host
    from .errors import ErrorReports
    from .flow import Flow
    from .incoming import Answering
    from .lifecycle import Lifecycle
    from .send_gate import SendGate
    from .thread_pool import ThreadPool

__all__ = ["Inbox", "Received"]

_BURST = 64
"""Notifications handled before the next duty gets a turn."""


class Received:
    """Notifications that wait for ``receive()``."""

    def __init__(self) -> None:
        self.items: deque[Message | Held] = deque()
        self.wakers: list[Any] = []
        self.ended = False

    def ready(self) -> bool:
        """Tell whether there is one, or never will be."""
        return bool(self.items) or self.ended


class Inbox:
    """See the module's text.

    Args:
        host: the session's side, which knows the handlers.
        flow: counts what is held, and pauses reading.
        send_gate: has other threads' notifications wait while many wait here.
        pool: runs the task.
        channel: tells whether handlers wait for room.
        responder: what a handler may ask.
        wait: waits until something is ready, or a time; tells whether it is.
        has_threads: whether others send while the pool handles.

    Attributes:
        dropped: notifications thrown away because nobody took them.
    """

    def __init__(
        self,
        *,
        lock: threading.RLock,
        connection: Connection,
        lifecycle: Lifecycle,
        host: Host,
        flow: Flow,
        send_gate: SendGate,
        pool: ThreadPool | CallerRuns,
        channel: Channel,
        errors: ErrorReports,
        responder: Answering,
        wait: Callable[[Any, float | None], bool],
        has_threads: bool,
    ) -> None:
        self._lock = lock
        self._connection = connection
        self._lifecycle = lifecycle
        self._host = host
        self._flow = flow
        self._send_gate = send_gate
        self._pool = pool
        self._channel = channel
        self._errors = errors
        self._responder = responder
        self._wait = wait
        self._has_threads = has_threads
        self._many = flow.limits.waiting_notifications
        self._received = Received()
        self._waiting: deque[IncomingRequest] = deque()
        self._in_hand: IncomingRequest | None = None
        self._task = _Handling(self)
        self._is_handling = False
        self._runs = False
        self._is_slow = False
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """How many wait for their handlers."""
        return len(self._waiting)

    # What is read, by whoever reads: see ``dispatcher.py``.

    def try_notification(self, notification: Notification) -> bool:
        """Take a notification as most are, small and with a handler; tell whether it is one."""
        connection, flow, waiting = self._connection, self._flow, self._waiting
        payload = connection.frames[0]
        if (
            notification.metadata
            or connection.note is not None  # somebody was interrupted
            or type(payload) is not memoryview
            or len(payload) >= SMALL
            or len(waiting) >= FEW
        ):
            return False
        handlers = self._host.message_handlers(type(notification.message))
        if not handlers:
            return False
        served = IncomingRequest(self._responder, notification, handlers)
        connection.note = served
        with self._lock:
            if self._is_handling and self._has_threads and not flow.total:
                served.entered = True  # noted in the step that does it
                waiting.append(served)
                if len(waiting) < self._many:
                    return True
        self._queue(served)
        return True

    def notification_received(self, notification: Notification) -> None:
        """Another, for which ``Connection.note`` notes how far it has come."""
        connection = self._connection
        served: IncomingRequest | None = connection.note
        if served is None:
            connection.note = served = self._served(notification)
        self._enter(served, notification, connection.frames[0])

    def take(self, message: Message) -> None:
        """Take one that was made here."""
        notification = Notification(message)
        self._enter(self._served(notification), notification, None)

    def _served(self, notification: Notification) -> IncomingRequest:
        handlers = self._host.message_handlers(type(notification.message))
        return IncomingRequest(self._responder, notification, handlers)

    def _enter(
        self, served: IncomingRequest, notification: Notification, payload: Frame | None
    ) -> None:
        flow = self._flow
        # One without a handler must not overtake those in work.
        is_kept = not (served.handlers or served.entered or self._is_handling)
        kind = Kind.RECEIVED if is_kept else Kind.NOTIFICATION
        if not served.entered and served.held is None:
            waiting = len(self._received.items if is_kept else self._waiting)
            held = flow.hold(kind, notification, payload, waiting)
            if held is not None:
                served.hold(held)
        if served.held is not None:
            flow.charge(served.held)
        if is_kept:
            self._keep(served, type(notification.message).__wire_name__)
        else:
            self._queue(served)

    def _queue(self, served: IncomingRequest) -> None:
        """Have a notification handled; again is the same as once."""
        flow = self._flow
        with self._lock:
            if not served.entered:
                served.entered = True
                self._waiting.append(served)
            if not self._is_handling or (not self._has_threads and self._is_lost()):
                # In this order: who is interrupted in between submits it once more.
                self._pool.submit_locked(self._task)
                self._is_handling = True
            waiting = len(self._waiting)
            if (waiting >= self._many or flow.total) and flow.are_many_locked(waiting):
                # A handler that waits for the peer must not wait for itself, up to a point.
                for_peer = bool(self._pool.blocked or self._channel.handlers_waiting)
                flow.too_many_wait_locked(waiting, for_peer)
                if self._has_threads:
                    self._send_gate.arrived_locked(flow.level_locked(waiting))

    def _is_lost(self) -> bool:
        """Tell whether the task neither runs nor waits, where the user's threads run it."""
        return not (self._runs or self._pool.waiting_tasks())

    def room_is_awaited(self) -> None:
        """Have reading go on: a handler waits for room, perhaps for a peer that waits for us."""
        with self._lock:
            self._flow.room_is_awaited_locked(len(self._waiting))

    # Handling.

    def _handle(self) -> None:
        mine = False
        try:
            with self._lock:
                mine, self._runs = not self._runs, True
            if mine:
                self._handle_some()
        finally:  # also when interrupted, without threads: there is no other task for the rest
            if mine:
                with self._lock:
                    self._runs = False
                    self._leave_rest_locked()

    def _handle_some(self) -> None:
        waiting, gate, clock = self._waiting, self._send_gate, time.perf_counter
        start = clock()
        for _ in range(_BURST):
            served = self._in_hand
            if served is None:
                if not waiting:
                    break
                # An interrupt may come behind the call, and not before.
                self._in_hand = served = waiting[0]
                waiting.popleft()
            gate.handled = served
            if not served.over:
                served.run_notification()
            if not at_home[0]:  # the handler has forked: the rest is the parent's
                look_for_fork()
                break
            if not served.was_taken:
                self._keep(served, type(served.message).__wire_name__)
            elif served.held is not None:
                self._flow.release(served.held)
            self._in_hand = None
            now = clock()
            if now - start > SLOW_SECONDS:
                self._is_slow = True
            start = now

    def _leave_rest_locked(self) -> None:
        waiting, flow = self._waiting, self._flow
        if waiting or self._in_hand is not None:
            self._pool.submit_locked(self._task)
        else:
            self._is_handling = False
        self._send_gate.burst_handled_locked(flow.level_locked(len(waiting)))
        flow.notifications_handled_locked(len(waiting))

    # receive().

    def _keep(self, served: IncomingRequest, name: str) -> None:
        """Keep a notification that no handler took, of this wire name, for ``receive()``."""
        received, flow = self._received, self._flow
        held = served.held
        if held is not None:
            flow.move(held, Kind.RECEIVED)
        kept: Any = served.message if held is None else held
        if not served.is_kept:
            served.entered = served.is_kept = True
            received.items.append(kept)
        most = flow.limits.unreceived
        while len(received.items) > most or (held is not None and flow.has_too_much_received):
            try:
                oldest = received.items.popleft()
            except IndexError:
                break  # it was received meanwhile
            if type(oldest) is Held:
                flow.release(oldest)
            self.dropped += 1
            if self.dropped == 1:
                self._errors.warn_soon(
                    f"more than {most:,} notifications, or {flow.bound // 4:,} bytes of them, wait "
                    "for receive() or a handler: the oldest are dropped (session.stats counts "
                    f"them); register a handler with @session.on_message, for one of {name}"
                )
        wake_all(received.wakers)

    def receive(self, timeout: float | None) -> Message:
        """Return the next notification that no handler took."""
        lifecycle, received = self._lifecycle, self._received
        lifecycle.check_caller()
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            ended = received.ended  # asked before: the last may come with the end, after our look
            try:
                item = received.items.popleft()
            except IndexError:
                pass  # or another thread has taken what woke us
            else:
                if isinstance(item, Held):
                    return self._flow.take(item).message  # type: ignore[union-attr]
                return item
            if ended:
                park_at_exit()
                raise lifecycle.error()
            if lifecycle.refusal is None or not lifecycle.started:
                try:
                    lifecycle.start()
                except SessionClosedError:
                    if not lifecycle.begun:
                        raise  # otherwise it has ended just now, and the last may have come
            if not self._wait(received, end):
                raise RequestTimeoutError(f"no notification came within {timeout:g} s")

    # The end.

    def end_receiving(self) -> None:
        """Have ``receive()`` raise once what is there has been taken."""
        self._received.ended = True
        wake_all(self._received.wakers)

    def drop_waiting(self) -> None:
        """Count those that no handler has taken when the session is over, and say so."""
        in_hand = self._in_hand
        count = len(self._waiting) + (in_hand is not None and not in_hand.has_begun)
        self.dropped, self._in_hand = self.dropped + count, None
        self._waiting.clear()
        if count and not is_exiting():
            self._host.warn(
                f"{count:,} notifications were still waiting for their handler when the session "
                "ended: they are dropped (session.stats counts them)"
            )

    def forget_after_fork(self) -> None:
        """Hold nothing, in a forked child."""
        self._in_hand = None
        self._waiting.clear()
        self._received.items.clear()
        self._received.ended = True


class _Handling:
    """The task that handles what waits; see the invariant."""

    __slots__ = ("_inbox", "by_io_thread")
    has_begun = False  # it does nothing while it runs, and goes on where it ended
    is_background = False
    is_handler = True

    def __init__(self, inbox: Inbox) -> None:
        self.by_io_thread = False
        self._inbox = inbox

    @property
    def is_offloaded(self) -> bool:
        """Whether handling notifications was slow lately."""
        return self._inbox._is_slow

    def took(self, seconds: float) -> None:
        """Learn how long a burst takes; :meth:`run` measures each notification itself."""
        if seconds > _BURST * SLOW_SECONDS:
            self._inbox._is_slow = True

    def run(self) -> None:
        """Handle a burst of them."""
        self._inbox._handle()
