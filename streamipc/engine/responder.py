"""Requests of the peer's, from their arrival to their answer.

Owns what stands in the table of them (``Connection.served``): the connection enters the envelope
under its id, and we put what handles it in its place. The leader does so, one at a time. Leaving
the table takes no lock: it is one step on a dict, so of several who would answer a request one
does. The engine's lock is taken to look at all of them.

Invariant: a request that stands in the table is answered, or nobody waits for its answer any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._forks import at_home, look_for_fork
from ..exceptions import OverloadedError, RequestCancelledError, SessionClosedError
from ..protocol.connection import refusal_of
from .deadlines import Reminder
from .error_answers import closed_refusal
from .flow import FEW, SMALL, Kind
from .incoming import IncomingRequest
from .tasks import CallTask
from .writer import HIGH_WATER

if TYPE_CHECKING:
    from ..protocol.connection import Connection
    from ..protocol.envelopes import Cancel, Credit, Request
    from ..serializers.base import Buffer
    from .caller_runs import CallerRuns
    from .contracts import Host
    from .control import ControlSender
    from .errors import ErrorReports
    from .flow import Flow, Held
    from .lifecycle import Lifecycle
    from .thread_pool import ThreadPool
    from .writer import Writer

__all__ = ["Responder"]


class Responder:
    """See the module's text. Each request asks it for what its handler does.

    Args:
        control: sends refusals.
        pool: runs the handlers.
        tracebacks: whether the peer is told those of handlers.
        wait: waits until something is ready, or a time; tells whether it is.
        look: without threads: reads what is there.
    """

    def __init__(
        self,
        *,
        lock: threading.RLock,
        connection: Connection,
        lifecycle: Lifecycle,
        host: Host,
        writer: Writer,
        control: ControlSender,
        flow: Flow,
        pool: ThreadPool | CallerRuns,
        errors: ErrorReports,
        remind_locked: Callable[[float, Reminder], object],
        tracebacks: bool,
        answers_cancelled: bool,
        wait: Callable[[Any, float | None], bool],
        look: Callable[[], None],
    ) -> None:
        self.flow = flow
        self.tracebacks = tracebacks
        self._answers_cancelled = answers_cancelled
        self.session = host.session
        self.encode = connection.encode
        self.wait = wait
        self.look = look
        self.report = errors.report
        self._lock = lock
        self._connection = connection
        self._served = connection.served
        self._remind_locked = remind_locked
        self._lifecycle = lifecycle
        self._host = host
        self._writer = writer
        self._write = writer.send
        self._control = control
        self._pool = pool
        self._submit_read = pool.submit_read

    # What is read, by whoever reads: see ``dispatcher.py``.

    def request_received(self, request: Request) -> None:
        """A request, whose envelope stands in the table."""
        connection = self._connection
        served: IncomingRequest | None = connection.note
        if served is None:
            served = connection.note = self._admit(request)
        if served is None or served.entered:
            return
        if served.held is not None and not self._has_room_for(served.held, request):
            return
        # In the place of the envelope; one step, as the one in answer().
        self._served[request.id] = served
        self._submit_read(served)

    def _admit(self, request: Request) -> IncomingRequest | None:
        """Return what handles a request; refuse it if there are too many."""
        if self._lifecycle.is_closing:
            self._refuse(request, closed_refusal(request.id))
            return None
        count = len(self._served)
        flow = self.flow
        most = flow.limits.waiting_requests
        if count > most and self._pool.waiting_tasks() >= most:
            error = OverloadedError(f"the peer has {most:,} requests waiting; try again later")
            self._refuse(request, refusal_of(request.id, error, "overloaded"))
            return None
        payload = self._connection.frames[0]
        held = None
        # What hold() looks at first, without the call: nearly always.
        if (
            type(payload) is not memoryview
            or len(payload) >= SMALL
            or (count >= FEW and (count >= flow.many or not flow.is_plain(payload)))
        ):
            held = flow.hold(Kind.REQUEST, request, payload, count)
        handlers = self._host.request_handlers(type(request.message))
        served = IncomingRequest(
            self, request, handlers, request.id, request.timeout, request.window
        )
        if held is not None:
            served.hold(held)
        return served

    def _has_room_for(self, held: Held, request: Request) -> bool:
        """Charge a request; refuse it if it is too much."""
        flow = self.flow
        flow.charge(held)
        if not (held.released or flow.is_too_much(held)):
            return True
        flow.release(held)
        error = OverloadedError(
            f"the peer holds {flow.total:,} bytes, and this request of {held.size:,} does not "
            "fit beside them (Limits.held_bytes there); try again later"
        )
        self._refuse(request, refusal_of(request.id, error, "overloaded"))
        return False

    def _refuse(self, request: Request, answer: Any) -> None:
        with self._lock:
            self._served.pop(request.id, None)
        self._control.send(answer)

    def credit_received(self, credit: Credit) -> None:
        """The caller takes more items."""
        served = self._served.get(credit.id)
        if served is not None:
            served.granted(credit.count, credit)

    def cancel_received(self, cancel: Cancel) -> None:
        """The caller waits no more."""
        served = self._served.get(cancel.id)
        if served is not None:
            served.cancelled_by_caller = True
            self.call_soon(served.cancel())

    # What a request asks of us.

    def send_item(self, served: IncomingRequest, frame: list[Buffer]) -> None:
        """Send a progress item; blocks while the stream is full."""
        if not at_home[0]:
            look_for_fork()  # then the writer is broken by now
        try:
            self._write(frame)
        except SessionClosedError:
            error = self._lifecycle.error()
            if self._lifecycle.is_forked():
                raise error from None
            # Its Cancel has not been read yet, if there is one.
            raise RequestCancelledError(
                f"the caller of request {served.id!r} is gone: {error}"
            ) from error

    def answer(self, served: IncomingRequest, frame: list[Buffer]) -> None:
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
        wanted = self._served.pop(served.id, None) is served  # type: ignore[arg-type]
        if not (frame and wanted) or served.cancelled:
            if wanted and served.cancelled_by_caller and self._answers_cancelled:
                self._answer_cancelled(served)
            return
        if not served.by_io_thread:
            try:
                # As a request: see Outgoing._send.
                self._write(frame, None, HIGH_WATER if len(frame) == 1 else 0, stays=True)
            except SessionClosedError:
                pass  # nobody is there to read it
        elif self._pool.more_is_coming():  # type: ignore[union-attr]  # an I/O thread is a pool's
            self._writer.queue(frame)
        else:
            self._writer.offer(frame)

    def _answer_cancelled(self, served: IncomingRequest) -> None:
        """Tell a worker pool that the handler of a request has ended that it had cancelled."""
        assert served.id is not None
        error = RequestCancelledError("the handler has ended")
        self._control.send(refusal_of(served.id, error, "cancelled"))

    def answer_again(self, served: IncomingRequest, frame: list[Buffer]) -> None:
        """Do what is left of :meth:`answer`, which was interrupted."""
        self._served.pop(served.id, None)  # type: ignore[arg-type]
        if frame and not served.cancelled and not self._writer.holds(frame):
            self._writer.offer(frame)

    def remind(self, served: IncomingRequest) -> None:
        """Call what ``on_cancel`` was given when the deadline of a request has passed."""
        assert served.deadline is not None
        served.reminder = reminder = Reminder(served)
        with self._lock:
            self._remind_locked(served.deadline, reminder)

    def call_soon(self, callbacks: list[Callable[[], object]]) -> None:
        """Call what ``on_cancel`` was given."""
        if callbacks:
            self._pool.submit_offloaded(CallTask(lambda: self._call(callbacks), self.report))

    def _call(self, callbacks: list[Callable[[], object]]) -> None:
        for callback in callbacks:
            try:
                callback()
            except BaseException as error:
                self.report(error)

    # The end.

    def end_credit(self) -> None:
        """Wake handlers that wait for credit: nothing that is still to be read grants any."""
        for served in self._in_work():
            served.end_credit()

    def cancel_all(self) -> None:
        """Tell all handlers that nobody waits for their answers."""
        for served in self._in_work():
            self.call_soon(served.cancel())

    def _in_work(self) -> list[IncomingRequest]:
        with self._lock:
            # The others are on their way from the reader.
            return [one for one in list(self._served.values()) if isinstance(one, IncomingRequest)]

    def forget_after_fork(self) -> None:
        """Renew the locks, in a forked child."""
        for served in self._in_work():
            served.forget_after_fork()
