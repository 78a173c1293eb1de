"""What goes out: requests, notifications, answers, and what the peer may need to know."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .._forks import at_home, look_for_fork
from ..exceptions import (
    IpcError,
    ProtocolError,
    RequestCancelledError,
    RequestTimeoutError,
    SessionClosedError,
)
from ..protocol.envelopes import Cancel, Credit, ErrorResponse, Notification, Request
from ..protocol.framing import HEADER_SIZE
from .calls import CANCELLED, Call
from .jobs import WriteJob
from .lifetimes import park_at_exit
from .serving import Served, error_frame
from .writer import HIGH_WATER, Writer, WriteTimeoutError

if TYPE_CHECKING:
    from ..messages import Message
    from ..protocol.connection import Connection
    from ..protocol.envelopes import RequestId
    from ..serializers.base import Buffer
    from .caller_runs import CallerRuns
    from .closing import Closing
    from .deadlines import Deadlines
    from .flow import Flow
    from .send_gate import SendGate
    from .thread_pool import ThreadPool

__all__ = ["Sending"]

_MOMENT = 0.01
"""Seconds: more than a thread needs that has taken a reply and not settled its call yet."""

_ALWAYS_TAKEN = 1 << 10
"""Bytes: the least ``max_frame_size``, so that no smaller frame is too large for a peer."""


class Sending:
    """The part of :class:`~streamipc.engine.engine.Engine` that sends."""

    lock: threading.Lock
    connection: Connection
    flow: Flow
    notifications: deque[Served]
    writer: Writer
    pool: ThreadPool | CallerRuns
    closing: Closing
    send_gate: SendGate
    start: Callable[[], None]
    encode: Callable[[Any], list[Buffer]]
    """Returns the frame of an envelope."""
    report: Callable[[BaseException], None]
    _guarded: bool
    check_caller: Callable[[], None]
    is_foreign: Callable[[], bool]
    _next_id: Callable[[], RequestId]
    _calls: dict[RequestId, Any]
    _deadlines: Deadlines
    _started: bool
    _refusal: Callable[[], SessionClosedError] | None
    _stalled_at: int | None
    _expire: Callable[..., None]
    wait: Callable[[Any, float | None], bool]
    failing: Callable[[], None]
    _report_soon: Callable[[Exception], None]

    def request(
        self,
        message: Message,
        timeout: float | None,
        metadata: Mapping[str, str] | None = None,
        keeps: object = None,
        window: int = 0,
        prepare: Callable[[Call], Any] | None = None,
    ) -> Call:
        """Send a request.

        Args:
            message: what to ask.
            timeout: seconds, or ``None`` for no limit.
            metadata: goes along.
            keeps: what must live as long as the request is pending.
            window: items that the peer may send before it is granted more.
            prepare: called with the call before a reply can come.
        """
        return self._send_request(message, timeout, metadata, keeps, window, prepare, True)

    def call(
        self, message: Message, timeout: float | None, metadata: Mapping[str, str] | None = None
    ) -> Any:
        """Send a request, wait for the reply, and return it.

        It needs no future, and whoever waits sees to the deadline himself.
        """
        call = self._send_request(message, timeout, metadata, None, 0, None, False)
        outcome = call.outcome
        try:
            while not (outcome or self.wait(call, call.deadline) or outcome):
                self._expire([call])
                if not outcome:  # another thread has the reply, and is about to say so
                    self.wait(call, time.monotonic() + _MOMENT)
        except BaseException:
            self.give_up(call)
            raise
        value, error = outcome[0]
        if error is None:
            return value
        self.failing()
        try:
            raise error
        finally:
            del error, outcome, call  # or the traceback and this frame would keep each other alive

    def _send_request(
        self,
        message: Message,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        keeps: object,
        window: int,
        prepare: Callable[[Call], Any] | None,
        timed: bool,
    ) -> Call:
        """Enter a request, and send it; with ``timed`` we see to its deadline."""
        if not at_home[0] or self._guarded:
            self.check_caller()
        if self._refusal is not None or not self._started:
            self._start_for(message)
        id = self._next_id()  # noqa: A001
        frame = self.encode(Request(id, message, timeout, metadata, window))
        deadline = None if timeout is None else time.monotonic() + timeout
        call = Call(self, id, message, timeout, deadline, keeps)  # type: ignore[arg-type]  # the engine
        call.frame = frame
        if len(frame) > 1 or len(frame[0]) > _ALWAYS_TAKEN:
            call.size = sum(map(len, frame)) - HEADER_SIZE
        if prepare is not None:
            prepare(call)
        refused = False
        try:
            with self.lock:
                refused = self._refusal is not None
                if id in self._calls:
                    raise ProtocolError(
                        f"the id generator gave {id!r}, the id of a pending request"
                    )
                if not refused:
                    self._calls[id] = call
                    if timed and deadline is not None:
                        self._deadlines.add(deadline, call)
                        self.pool.deadline_added(deadline)
            if not refused:
                try:
                    # Large buffers are the caller's own: they are written before it goes on.
                    self.writer.send(frame, deadline, HIGH_WATER if len(frame) == 1 else 0)
                except WriteTimeoutError as late:
                    self._expire([call], known_to_peer=not late.withdrawn)
                except SessionClosedError:
                    pass  # the session is about to end, and the call with it
        except BaseException:
            self.give_up(call)  # an interrupt, such as Ctrl-C: nobody will have the call
            raise
        if refused:
            # Raises; not above, since the error waits for the child's exit status.
            self._start_for(message)
        return call

    def give_up(self, call: Call) -> None:
        """Cancel a request whose reply nobody wants any more."""
        if call.future is not None:
            call.future.cancel()
        else:
            call.settle(None, CANCELLED)
            self.cancel(call)

    def notify(
        self,
        message: Message,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send a notification; return once it is with the operating system."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if not at_home[0] or self._guarded:
            self.check_caller()
        if self._refusal is not None or not self._started:
            self._start_for(message)
        frame = self.encode(Notification(message, metadata))
        self._send_notification(message, frame, deadline)

    def _send_notification(
        self, message: Message, frame: list[Buffer], deadline: float | None
    ) -> None:
        if self.send_gate.closed and not self.send_gate.wait(deadline):
            raise _not_in_time(message, withdrawn=True)
        try:
            self.writer.send(frame, deadline)
        except SessionClosedError:
            park_at_exit()
            raise _not_sent(message, self.closing.error()) from None
        except WriteTimeoutError as late:
            raise _not_in_time(message, late.withdrawn) from None

    def begin_to_notify(self, message: Message) -> Callable[[float], None]:
        """Queue a notification if nothing waits, and write of it what there is room for.

        Returns:
            What sees it out, up to a deadline in :func:`time.monotonic` seconds; it raises as
            :meth:`notify`.

        Raises:
            RequestTimeoutError: the peer has read nothing since another one was not sent in time.
        """
        if not at_home[0] or self._guarded:
            self.check_caller()
        if self._refusal is not None or not self._started:
            self._start_for(message)
        frame = self.encode(Notification(message))
        writer = self.writer
        if self._stalled_at == writer.bytes_sent:
            writer.flush_some()  # without threads nobody else tries
            if self._stalled_at == writer.bytes_sent and not writer.is_idle():
                raise _not_in_time(message, withdrawn=True)
        offered = writer.is_idle()
        if offered:
            writer.offer(frame)

        def finish(deadline: float) -> None:
            try:
                if offered:
                    self._see_out(message, frame, deadline)
                else:
                    self._send_notification(message, frame, deadline)
            except RequestTimeoutError:
                self._stalled_at = writer.bytes_sent
                raise

        return finish

    def _see_out(self, message: Message, frame: list[Buffer], deadline: float) -> None:
        """Wait until a notification that was offered is with the operating system."""
        if self.send_gate.closed:
            self.send_gate.wait(deadline)
        if not self.writer.see_out(frame, deadline):
            raise _not_in_time(message, withdrawn=False)
        if frame and self.writer.is_broken():
            park_at_exit()
            raise _not_sent(message, self.closing.error())

    def cancel(self, call: Call) -> None:
        """Forget a request and tell the peer."""
        if not self.is_foreign() and self._calls.get(call.id) is call:
            # In this order: one who is interrupted does it again.
            if not self.writer.withdraw(call.frame):
                self._send_control(Cancel(call.id))
            self._forget(call)

    def _forget(self, call: Call) -> bool:
        """Take a request off the table; tell whether it stood there, and has no reply yet."""
        id_ = call.id
        with self.lock:  # no other request enters under its id meanwhile
            known = self._calls.get(id_) is call
            return known and self._calls.pop(id_, None) is not None  # the reply may be faster

    def credit(self, call: Call, count: int) -> None:
        """Grant the peer ``count`` more items of a request."""
        if not self.is_foreign():
            self._send_control(Credit(call.id, count))

    def send_item(self, served: Served, frame: list[Buffer]) -> None:
        """Send a progress item; blocks while the stream is full."""
        if not at_home[0]:
            look_for_fork()  # then the writer is broken by now
        try:
            self.writer.send(frame)
        except SessionClosedError:
            error = self.closing.error()
            if self.is_foreign():
                raise error from None
            # Its Cancel has not been read yet, if there is one.
            raise RequestCancelledError(
                f"the caller of request {served.id!r} is gone: {error}"
            ) from error

    def answer(self, served: Served, frame: list[Buffer]) -> None:
        """Send the answer to a request, unless nobody waits for one any more.

        The I/O thread queues it if more is to be answered, and never waits for room.

        Args:
            served: the request.
            frame: empty: there is no answer.
        """
        if not at_home[0]:  # the handler has forked: the parent answers
            look_for_fork()
            return
        # One step: of several who would answer, the one that takes it off the table does.
        wanted = self.connection.served.pop(served.id, None) is served  # type: ignore[arg-type]
        if not (frame and wanted) or served.cancelled:
            return
        if not served.by_io_thread:
            try:
                self.writer.send(frame)
            except SessionClosedError:
                pass  # nobody is there to read it
        elif self.pool.more_is_coming():  # type: ignore[union-attr]  # the I/O thread is a pool's
            self.writer.queue(frame)
        else:
            self.writer.offer(frame)

    def _send_control(self, envelope: Any) -> None:
        """Send what the peer may need to know; never blocks, never raises."""
        try:
            if isinstance(envelope, ErrorResponse):
                frame = error_frame(self.encode, envelope)
            else:
                frame = self.encode(envelope)
        except IpcError as error:  # a serializer of the user's own
            self._report_soon(error)
        else:
            size = len(frame[0])
            self.writer.offer(frame)
            # If not, the peer sends what must be refused, and does not read the refusals.
            if frame and self.flow.refusal_waits(frame, size):
                self._backlog()  # a thread that writes already may end without a word

    def _backlog(self) -> None:
        """Have somebody write what is left, who may wait for room."""
        until = self.closing.until()
        if until is not None and time.monotonic() >= until:
            return  # the session's time for its end is over, and with it what is left
        self.pool.submit_writing(WriteJob(self._flush_backlog, self.report))

    def _go_on_reading(self) -> None:
        """Lift the pause: who waits for room may wait for a peer that waits for us."""
        with self.lock:
            self.flow.room_is_awaited_locked(len(self.notifications))

    def _write_out(self) -> None:
        """Write what is queued; where the session is closing, no longer than that may take."""
        self.writer.flush(self.closing.until())

    def _flush_backlog(self) -> None:
        self._write_out()
        self.flow.written()

    def _start_for(self, message: Message) -> None:
        try:
            self.start()
        except SessionClosedError as error:
            raise _not_sent(message, error, executed=False) from None


def _not_in_time(message: Message, withdrawn: bool) -> RequestTimeoutError:
    fate = "was not sent" if withdrawn else "was not sent as a whole in time, and goes on"
    return RequestTimeoutError(f"{type(message).__wire_name__} {fate}: the peer does not read")


def _not_sent(
    message: Message, error: SessionClosedError, executed: bool | None = None
) -> SessionClosedError:
    """Have the error of a session that has ended say what was not sent, or not as a whole."""
    name = getattr(type(message), "__wire_name__", type(message).__name__)
    error.args = (f"{name} was not sent; {error}",)
    error.executed = executed
    return error
