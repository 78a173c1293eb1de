"""What becomes of each event that was read.

The holder of the reading role calls these methods, so none of them may block or call the
user's code: what would is queued as a job.
"""

from __future__ import annotations

import threading
from collections import deque

from .._shown import escaped
from ..exceptions import OverloadedError, ProtocolError, SerializationError
from ..messages import LogMessage, Message
from ..protocol import events
from ..protocol.connection import refusal_of
from ..protocol.envelopes import Notification, Request
from ..protocol.framing import Junk
from .bells import wake
from .jobs import MAX_NOTIFICATIONS, MOST_NOTIFICATIONS, CallbacksJob, CallJob, NotificationsJob
from .junk import JunkLines
from .lifetimes import is_exiting
from .reading import Reader
from .serving import Served, closed_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..futures import ResponseFuture
    from ..protocol.connection import Connection
    from ..protocol.events import Decoded
    from .closing import Closing
    from .contracts import Host
    from .crew import Crew
    from .deadlines import Deadlines
    from .outlets import PolledOutlet
    from .precedence import Precedence
    from .solo import Solo

__all__ = ["Dispatching", "Received"]

MAX_WAITING = 1 << 16
"""Requests that may wait for a handler thread; more are answered with OverloadedError."""

LARGE = 1 << 12
"""Bytes from which on the size of a frame counts, beside the number of frames."""

MAX_WAITING_FRAMES = 4
"""Largest frames (``max_frame_size``) whose bytes waiting requests may have together."""

MAX_RECEIVED = 1 << 10
"""Notifications without a handler that wait for ``receive()``."""


class Received:
    """Notifications that wait for ``receive()``."""

    def __init__(self) -> None:
        self.items: deque[Message] = deque()
        self.wakers: list[Any] = []
        self.ended = False

    def ready(self) -> bool:
        """Tell whether there is one, or never will be."""
        return bool(self.items) or self.ended


class Dispatching:
    """The part of :class:`~streamipc.engine.engine.Engine` that takes events.

    Where it passes itself on, it is the whole engine, which a type checker can't know.
    """

    lock: threading.Lock
    connection: Connection
    host: Host
    reader: Reader
    crew: Crew | Solo
    solo: Solo | None
    outlet: PolledOutlet
    closing: Closing
    notifications: deque[Served]
    notifying: bool
    precedence: Precedence
    max_frame_size: int
    weight: int
    waiting_bytes: int
    notification_bytes: int
    _weighed: int
    _rules: dict[type, Callable[[Any], None]]
    _received: Received
    _frames_received: int
    _late: int
    _junk: JunkLines
    _deadlines: Deadlines
    _unreadable: int
    _calls: dict[Any, Any]
    take_calls: Callable[[], list[Any]]
    _dropped: int
    _send_control: Callable[[Any], None]
    _report_soon: Callable[[Exception], None]
    cancel: Callable[[Any], None]
    report: Callable[[BaseException], None]

    def _make_rules(self) -> dict[type, Callable[[Any], None]]:
        return {
            events.RequestReceived: self._request_received,
            events.NotificationReceived: self._notification_received,
            events.ReplyReceived: self._reply_received,
            events.ProgressReceived: self._progress_received,
            events.ItemFailed: self._item_failed,
            events.CreditReceived: self._credit_received,
            events.CancelReceived: self._cancel_received,
            events.LateReply: self._late_reply,
            events.JunkReceived: self._junk_received,
            events.ViolationReceived: self._violation_received,
            events.Mismatch: self._mismatched,
            events.Skipped: self._skipped,
            events.PeerSkipped: self._peer_skipped,
            events.Rejected: self._rejected,
        }

    def _dispatch(self, decoded: list[Decoded]) -> None:
        self._frames_received += len(decoded)
        received = self.reader.bytes_received
        size = received - self._weighed  # what was skipped before it counts too
        self._weighed = received
        self.weight = 0 if size < LARGE else self._weight_of(size // len(decoded))
        rules = self._rules
        junk = self._junk
        for item in decoded:
            if junk.waits and type(item) is not Junk:
                junk.end_line()
            try:
                event = self.connection.receive(item)
                if event is not None:
                    rules[type(event)](event)
            except Exception as error:
                # Such as an id that can't be hashed, of a serializer of the user's own:
                # whatever one frame does, the next ones are read.
                self._report_soon(error)

    def _weight_of(self, size: int) -> int:
        """Return by how many bytes a frame of this size counts."""
        weight = min(size, self.max_frame_size)
        return weight if weight >= LARGE else 0

    def _request_received(self, event: events.RequestReceived) -> None:
        request = event.request
        if self.closing.refuses_requests:
            self._refuse_request(request, closed_refusal(request.id))
            return
        served_now = self.connection.served
        if len(served_now) > MAX_WAITING and self.crew.waiting_jobs() >= MAX_WAITING:
            error = OverloadedError(
                f"the peer has {MAX_WAITING:,} requests waiting; try again later"
            )
            self._refuse_request(request, refusal_of(request.id, error, "overloaded"))
            return
        if self.weight and self.waiting_bytes + self.weight > (
            MAX_WAITING_FRAMES * self.max_frame_size
        ):
            error = OverloadedError(
                f"the peer has requests of {self.waiting_bytes:,} bytes waiting; try again later"
            )
            self._refuse_request(request, refusal_of(request.id, error, "overloaded"))
            return
        handlers = self.host.request_handlers(type(request.message))
        served = Served(self, request, handlers, request.id, request.timeout, request.window)  # type: ignore[arg-type]
        if self.weight:
            served.weight = self.weight
            with self.lock:
                self.waiting_bytes += self.weight
        # In the place of the envelope; one step, as the one in Engine.answer.
        served_now[request.id] = served
        self.crew.submit_read(served)

    def taken(self, weight: int) -> None:
        """A large request no longer waits for a handler."""
        with self.lock:
            self.waiting_bytes -= weight

    def _refuse_request(self, request: Request, answer: Any) -> None:
        with self.lock:
            self.connection.served.pop(request.id, None)
        self._send_control(answer)

    def _notification_received(self, event: events.NotificationReceived) -> None:
        self._take_notification(event.notification)

    def _take_notification(self, notification: Notification) -> None:
        handlers = self.host.message_handlers(type(notification.message))
        if not handlers and not self.notifying:  # or it would overtake those in work
            self.keep(notification.message)
            return
        served = Served(self, notification, handlers, None, None, 0)  # type: ignore[arg-type]
        with self.lock:
            if self.weight:
                served.weight = self.weight
                self.notification_bytes += self.weight
            self.notifications.append(served)
            if not self.notifying:
                self.notifying = True
                self.crew.submit_locked(NotificationsJob(self))  # type: ignore[arg-type]
            waiting = len(self.notifications)
            if waiting >= MAX_NOTIFICATIONS or self.notification_bytes > self.max_frame_size:
                # A handler that waits for the peer must not wait for itself, up to a point.
                if self.solo is None:
                    self.precedence.arrived_locked(waiting)
                    self.reader.overfull = waiting >= MOST_NOTIFICATIONS
                if self.reader.overfull or not (
                    self.crew.blocked_jobs or self.outlet.handlers_waiting
                ):
                    self.reader.paused = True

    def keep(self, message: Message) -> None:
        """Keep a notification that no handler took for ``receive()``."""
        received = self._received
        if len(received.items) >= MAX_RECEIVED:
            received.items.popleft()
            self._dropped += 1
            if self._dropped == 1:
                text = (
                    f"more than {MAX_RECEIVED:,} notifications wait for receive() or a handler: "
                    "the oldest are dropped (session.stats counts them); register a handler with "
                    f"@session.on_message, for one of {type(message).__wire_name__}"
                )
                self.crew.submit(CallJob(lambda: self.host.warn(text), self.report))
        received.items.append(message)
        for lock in tuple(received.wakers):
            wake(lock)

    def drop_notifications(self) -> None:
        """Count those that no handler has taken when the session is over, and say so."""
        count = len(self.notifications)
        self.notifications.clear()
        self._dropped += count
        if count and not is_exiting():
            self.host.warn(
                f"{count:,} notifications were still waiting for their handler when the session "
                "ended: they are dropped (session.stats counts them)"
            )

    def _reply_received(self, event: events.ReplyReceived) -> None:
        future = event.call
        if future.on_reply is not None:
            future.on_reply(event.value, event.error)
        elif future.settle(event.value, event.error) and future.callbacks:
            self.crew.submit(CallbacksJob(future, self.report))

    def end_call(self, future: Any, value: Any, error: BaseException | None) -> None:
        """Set a request's outcome, behind the items that have arrived for ``on_progress``."""
        if future.on_reply is not None:
            future.on_reply(value, error)
        else:
            self.settle(future, value, error)

    def settle(self, future: ResponseFuture[Any], value: Any, error: BaseException | None) -> None:
        """Set a future's outcome; its callbacks run on the crew."""
        if future.settle(value, error) and future.callbacks:
            self.crew.submit(CallbacksJob(future, self.report))

    def _progress_received(self, event: events.ProgressReceived) -> None:
        future = event.call
        if not future.on_item(event.item):
            # Holding it would let the peer fill our memory; dropping it would make a hole.
            error = ProtocolError(
                f"the peer sent more items for request {future.id!r} than it was granted"
            )
            self.cancel(future)
            self.settle(future, None, error)

    def _item_failed(self, event: events.ItemFailed) -> None:
        self.cancel(event.call)  # or its handler would wait for credit that nobody grants
        self.end_call(event.call, None, event.error)

    def _credit_received(self, event: events.CreditReceived) -> None:
        served = self.connection.served.get(event.id)
        if served is not None:
            served.granted(event.count)

    def _cancel_received(self, event: events.CancelReceived) -> None:
        served = self.connection.served.get(event.id)
        if served is not None:
            self.cancel_served(served)

    def cancel_served(self, served: Served) -> None:
        """Tell a handler that nobody waits for its answer."""
        self.call_soon(served.cancel())

    def call_soon(self, callbacks: list[Callable[[], object]]) -> None:
        """Call what ``on_cancel`` was given."""
        if callbacks:
            self.crew.submit_and_wake(CallJob(lambda: self._call(callbacks), self.report))

    def _call(self, callbacks: list[Callable[[], object]]) -> None:
        for callback in callbacks:
            try:
                callback()
            except BaseException as error:
                self.report(error)

    def _late_reply(self, event: events.LateReply) -> None:
        self._late += 1

    def _junk_received(self, event: events.JunkReceived) -> None:
        self._frames_received -= 1  # it was none
        if self._junk.add(event.data):
            with self.lock:
                self._deadlines.add(self._junk.due, self._junk)
                self.crew.deadline_added(self._junk.due)

    def _take_junk(self, line: str) -> None:
        self._take_notification(Notification(LogMessage(line, "junk")))

    def _violation_received(self, event: events.ViolationReceived) -> None:
        self._fault(event.error)

    def _fault(self, error: Exception) -> None:
        """Report a fault of the peer's. Where in our code it was found helps nobody."""
        self._unreadable += 1
        self._report_soon(error.with_traceback(None))

    def _mismatched(self, event: events.Mismatch) -> None:
        self._fault(event.error)
        if event.answer is not None:
            self._send_control(event.answer)
        for future in self.take_calls():
            self.end_call(future, None, SerializationError(str(event.error)))

    def _skipped(self, event: events.Skipped) -> None:
        self._fault(event.error)
        self._send_control(event.answer)

    def _peer_skipped(self, event: events.PeerSkipped) -> None:
        message: Any = event.notification.message
        why = escaped(str(message.message))  # before they leave the table, for it may fail
        with self.lock:
            # One without a size is small, and no peer skips that.
            futures = [c for c in self._calls.values() if c.size and str(c.size) == event.length]
            for future in futures:
                del self._calls[future.id]
        for future in futures:
            name = type(future.request).__wire_name__
            error = ProtocolError(f"{name} was not read by the peer: {why}")
            self.end_call(future, None, error)
        if not futures:
            self._take_notification(event.notification)

    def _rejected(self, event: events.Rejected) -> None:
        self._send_control(event.answer)
