"""What becomes of each event that was read.

The leader calls these methods, so none of them may block or call the
user's code: what would is queued as a job.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._shown import escaped
from .._signals import interrupt_in
from ..exceptions import (
    OverloadedError,
    ProtocolError,
    SerializationError,
    release_frames,
    with_traceback_as_text,
)
from ..messages import LogMessage, Message
from ..protocol import events
from ..protocol.connection import error_from, refusal_of
from ..protocol.envelopes import (
    Cancel,
    Credit,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)
from ..protocol.framing import Junk
from .flow import Flow, Held, Kind
from .jobs import CallbacksJob, CallJob, NotificationsJob
from .junk import JunkLines
from .lifetimes import is_exiting
from .reader import Reader
from .serving import Served, closed_refusal
from .waiters import wake

if TYPE_CHECKING:
    from ..protocol.connection import Connection
    from ..protocol.framing import Item
    from .caller_runs import CallerRuns
    from .calls import Call
    from .channel import Channel
    from .closing import Closing
    from .contracts import Host
    from .deadlines import Deadlines
    from .send_gate import SendGate
    from .thread_pool import ThreadPool

__all__ = ["Dispatching", "Received"]

_BURST = 128
"""Frames after which deadlines are seen to in between. A read may bring 8,000, and those that are
broken take 20 microseconds each."""


class Received:
    """Notifications that wait for ``receive()``."""

    def __init__(self) -> None:
        self.items: deque[Message | Held] = deque()
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
    pool: ThreadPool | CallerRuns
    caller_runs: CallerRuns | None
    channel: Channel
    closing: Closing
    notifications: deque[Served]
    notifying: bool
    send_gate: SendGate
    flow: Flow
    _payload: Item | None
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
            Request: self._request_received,
            Notification: self._notification_received,
            Response: self._response_received,
            ErrorResponse: self._error_received,
            Progress: self._progress_received,
            Credit: self._credit_received,
            Cancel: self._cancel_received,
            Junk: self._junk_received,
            events.ReplyFailed: self._reply_failed,
            events.ItemFailed: self._item_failed,
            events.Late: self._late_reply,
            events.Violation: self._violation_received,
            events.Mismatch: self._mismatched,
            events.Skipped: self._skipped,
            events.PeerSkipped: self._peer_skipped,
            events.Rejected: self._rejected,
        }

    def _apply(self) -> None:
        """Apply what was read, frame by frame; as the leader.

        An interrupt, such as Ctrl-C, may come out at any call in here. Then the frame in work
        stays the first, and is applied once more by whoever comes next: see ``Connection``.
        """
        connection, junk, rules = self.connection, self._junk, self._rules
        items, receive = connection.items, connection.receive
        left = _BURST
        while items:
            decoded = connection.current
            if decoded is None:
                decoded = connection.decode()
            self._payload = items[0]
            if junk.waits and type(decoded) is not Junk:
                junk.end_line()
            try:
                event = receive(decoded)
                if event is not None:
                    rules[type(event)](event)
            except Exception as error:
                if interrupt_in(error) is not None:
                    raise
                # Such as an id that can't be hashed, of a serializer of the user's own:
                # whatever one frame does, the next ones are read.
                self._report_soon(with_traceback_as_text(error))
            self._frames_received += 1
            connection.applied()
            self._payload = None
            left -= 1
            if not left:
                left = _BURST
                self.pool.expire_due()

    def _request_received(self, request: Request) -> None:
        served: Served | None = self.connection.step
        if served is None:
            served = self._admit(request)
            self.connection.step = served
        if served is None or served.entered:
            return
        # In the place of the envelope; one step, as the one in Engine.answer.
        self.connection.served[request.id] = served
        self.pool.submit_read(served)

    def _admit(self, request: Request) -> Served | None:
        """Return what handles a request; refuse it if there are too many."""
        if self.closing.refuses_requests:
            self._refuse_request(request, closed_refusal(request.id))
            return None
        served_now = self.connection.served
        flow = self.flow
        most = flow.limits.waiting_requests
        if len(served_now) > most and self.pool.waiting_tasks() >= most:
            error = OverloadedError(f"the peer has {most:,} requests waiting; try again later")
            self._refuse_request(request, refusal_of(request.id, error, "overloaded"))
            return None
        held = flow.hold(Kind.REQUEST, request, self._payload, len(served_now))
        if held is not None and flow.is_too_much(held):
            flow.release(held)
            error = OverloadedError(
                f"the peer holds {flow.total:,} bytes, and this request of {held.size:,} does not "
                "fit beside them (Limits.held_bytes there); try again later"
            )
            self._refuse_request(request, refusal_of(request.id, error, "overloaded"))
            return None
        handlers = self.host.request_handlers(type(request.message))
        served = Served(self, request, handlers, request.id, request.timeout, request.window)  # type: ignore[arg-type]
        if held is not None:
            served.hold(held)
        return served

    def _refuse_request(self, request: Request, answer: Any) -> None:
        with self.lock:
            self.connection.served.pop(request.id, None)
        self._send_control(answer)

    def _notification_received(self, notification: Notification) -> None:
        served: Served | None = self.connection.step
        if served is None:
            self.connection.step = served = self._told(notification)
        self._enter_notification(served, notification, self._payload)

    def _take_notification(self, notification: Notification) -> None:
        """Take one that was made here."""
        self._enter_notification(self._told(notification), notification, None)

    def _told(self, notification: Notification) -> Served:
        handlers = self.host.message_handlers(type(notification.message))
        return Served(self, notification, handlers, None, None, 0)  # type: ignore[arg-type]

    def _enter_notification(
        self, served: Served, notification: Notification, payload: Item | None
    ) -> None:
        flow = self.flow
        # One without a handler must not overtake those in work.
        is_kept = not (served.handlers or served.entered or self.notifying)
        kind = Kind.RECEIVED if is_kept else Kind.NOTIFICATION
        if not served.entered and served.held is None:
            waiting = len(self._received.items if is_kept else self.notifications)
            held = flow.hold(kind, notification, payload, waiting)
            if held is not None:
                served.hold(held)
        if is_kept:
            self.keep(served, type(notification.message).__wire_name__)
            return
        with self.lock:
            if not served.entered:
                served.entered = True
                self.notifications.append(served)
            if not self.notifying:
                self.notifying = True
                self.pool.submit_locked(NotificationsJob(self))  # type: ignore[arg-type]
            waiting = len(self.notifications)
            if flow.are_many_locked(waiting):
                # A handler that waits for the peer must not wait for itself, up to a point.
                for_peer = bool(self.pool.blocked or self.channel.handlers_waiting)
                flow.too_many_wait_locked(waiting, for_peer)
                if self.caller_runs is None:
                    self.send_gate.arrived_locked(flow.level_locked(waiting))

    def keep(self, served: Served, name: str) -> None:
        """Keep a notification that no handler took, of this wire name, for ``receive()``."""
        received, flow = self._received, self.flow
        held = served.held
        if held is not None:
            flow.move(held, Kind.RECEIVED)
        kept: Any = served.message if held is None else held
        served.entered = True
        received.items.append(kept)
        most = flow.limits.unreceived
        while len(received.items) > most or (held is not None and flow.has_too_much_received):
            try:
                oldest = received.items.popleft()
            except IndexError:
                break  # it was received meanwhile
            if type(oldest) is Held:
                flow.release(oldest)
            self._dropped += 1
            if self._dropped == 1:
                self._warn_of_dropping(name)
        for lock in tuple(received.wakers):
            wake(lock)

    def _warn_of_dropping(self, name: str) -> None:
        text = (
            f"more than {self.flow.limits.unreceived:,} notifications, or "
            f"{self.flow.bound // 4:,} bytes of them, wait for receive() or a handler: the oldest "
            "are dropped (session.stats counts them); register a handler with "
            f"@session.on_message, for one of {name}"
        )
        self.pool.submit(CallJob(lambda: self.host.warn(text), self.report))

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

    def _response_received(self, response: Response) -> None:
        call: Call = response.call
        if call.items is not None:
            self.end_call(call, response.value, None)
            return
        call.settle(response.value, None)
        if call.future is not None and call.future.has_callbacks():
            self.pool.submit(CallbacksJob(call.future, self.report))

    def _error_received(self, response: ErrorResponse) -> None:
        self.end_call(response.call, None, error_from(response))

    def _reply_failed(self, event: events.ReplyFailed) -> None:
        release_frames(event.error)
        self.end_call(event.call, None, event.error)

    def end_call(self, call: Call, value: Any, error: BaseException | None) -> None:
        """Set a request's outcome, behind the items that have arrived for ``on_progress``."""
        if call.items is not None and call.items.passes_on_reply:
            call.items.replied(value, error)
        else:
            self.settle(call, value, error)

    def settle(self, call: Call, value: Any, error: BaseException | None) -> None:
        """Set a request's outcome; the callbacks of its future run in the pool."""
        future = call.future
        if call.settle(value, error) and future is not None and future.has_callbacks():
            self.pool.submit(CallbacksJob(future, self.report))

    def _progress_received(self, progress: Progress) -> None:
        call: Call = progress.call
        assert call.items is not None
        flow = self.flow
        held = flow.hold(Kind.ITEM, progress, self._payload, len(call.items.waiting))
        if held is not None:
            progress.call = None  # which holds the item: nothing but the item is to be held
        # Holding what is too much would let the peer fill our memory; dropping it would make a
        # hole.
        if held is not None and flow.is_too_much(held):
            flow.release(held)
            error = ProtocolError(
                f"{len(call.items.waiting):,} items of request {call.id!r} wait, and one more of "
                f"{held.size:,} bytes is too much: {flow.total:,} bytes are held (Limits."
                "held_bytes); take items sooner, or ask for fewer of them ahead (window=)"
            )
        elif call.items.arrived(progress.item if held is None else held, progress):
            return
        else:
            if held is not None:
                flow.release(held)
            error = ProtocolError(
                f"the peer sent more items for request {call.id!r} than it was granted"
            )
        self.cancel(call)
        self.settle(call, None, error)

    def _item_failed(self, event: events.ItemFailed) -> None:
        release_frames(event.error)
        self.cancel(event.call)  # or its handler would wait for credit that nobody grants
        self.end_call(event.call, None, event.error)

    def _credit_received(self, credit: Credit) -> None:
        served = self.connection.served.get(credit.id)
        if served is not None:
            served.granted(credit.count, credit)

    def _cancel_received(self, cancel: Cancel) -> None:
        served = self.connection.served.get(cancel.id)
        if served is not None:
            self.cancel_served(served)

    def cancel_served(self, served: Served) -> None:
        """Tell a handler that nobody waits for its answer."""
        self.call_soon(served.cancel())

    def call_soon(self, callbacks: list[Callable[[], object]]) -> None:
        """Call what ``on_cancel`` was given."""
        if callbacks:
            self.pool.submit_offloaded(CallJob(lambda: self._call(callbacks), self.report))

    def _call(self, callbacks: list[Callable[[], object]]) -> None:
        for callback in callbacks:
            try:
                callback()
            except BaseException as error:
                self.report(error)

    def _late_reply(self, event: events.Late) -> None:
        self._late += 1

    def _junk_received(self, junk: Junk) -> None:
        self._frames_received -= 1  # it is none
        if self._junk.add(junk.data):
            with self.lock:
                self._deadlines.add(self._junk.due, self._junk)
                self.pool.deadline_added(self._junk.due)

    def _take_junk(self, line: str) -> None:
        self._take_notification(Notification(LogMessage(line, "junk")))

    def _violation_received(self, event: events.Violation) -> None:
        self._fault(event.error)

    def _fault(self, error: Exception) -> None:
        """Report a fault of the peer's."""
        self._unreadable += 1
        self._report_soon(error)

    def _mismatched(self, event: events.Mismatch) -> None:
        self._fault(event.error)
        if event.answer is not None:
            self._send_control(event.answer)
        for call in self.take_calls():
            self.end_call(call, None, SerializationError(str(event.error)))

    def _skipped(self, event: events.Skipped) -> None:
        self._fault(event.error)
        self._send_control(event.answer)

    def _peer_skipped(self, event: events.PeerSkipped) -> None:
        message: Any = event.notification.message
        why = escaped(str(message.message))  # before they leave the table, for it may fail
        with self.lock:
            # One without a size is small, and no peer skips that.
            calls = [c for c in self._calls.values() if c.size and str(c.size) == event.length]
            for call in calls:
                del self._calls[call.id]
        for call in calls:
            error = ProtocolError(f"{call.name} was not read by the peer: {why}")
            self.end_call(call, None, error)
        if not calls:
            self._notification_received(event.notification)

    def _rejected(self, event: events.Rejected) -> None:
        self._send_control(event.answer)
