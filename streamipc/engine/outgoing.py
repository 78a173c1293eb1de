"""Requests of this side's, from their sending to their end.

Owns the table of our calls (``Connection.calls``), in which nobody else enters anything, and the
calls whose reply is there and not yet through ``on_progress``, which stand in no table.

The engine's lock guards who enters the table, and the deadlines. Leaving the table takes no lock:
it is one step on a dict, and of several who would, for a reply, a cancellation or a deadline, one
gets the call.

Invariant: a call that stands in the table gets an outcome, by its reply, its deadline, a
cancellation or the end; one that has left it has one, or whoever took it off gives it one. Who may
be interrupted settles first and takes off the table afterwards: doing both twice is harmless. A
call that somebody gives up who was interrupted stands among the ``unwanted`` until that is done:
a second signal may cut it short, and then whoever asks next does it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .._forks import at_home
from ..exceptions import (
    ProtocolError,
    RequestTimeoutError,
    SessionClosedError,
    release_frames,
)
from ..protocol.connection import error_from
from ..protocol.envelopes import Cancel, Credit, Request
from ..protocol.framing import HEADER_SIZE
from .calls import CANCELLED, Call
from .flow import FEW, SMALL, Held, Kind
from .footprint import ATOMS
from .lifetimes import park_at_exit
from .tasks import CallbacksTask
from .writer import HIGH_WATER, WriteTimeoutError

if TYPE_CHECKING:
    from ..messages import Message
    from ..protocol import events
    from ..protocol.connection import Connection
    from ..protocol.envelopes import ErrorResponse, Progress, RequestId, Response
    from .caller_runs import CallerRuns
    from .control import ControlSender
    from .deadlines import Deadlines
    from .errors import ErrorReports
    from .flow import Flow
    from .late import LateAnswers
    from .lifecycle import Lifecycle
    from .thread_pool import ThreadPool
    from .writer import Writer

__all__ = ["Outgoing"]

_MOMENT = 0.01
"""Seconds: more than a thread needs that has taken a reply and not settled its call yet."""

_ALWAYS_TAKEN = 1 << 10
"""Bytes: the least ``max_frame_size``, so that no smaller frame is too large for a peer."""

_FEW_ITEMS = 256
"""Small items that wait and are not charged, of all streams that are open."""

_NOT_READ = 1 << 20
"""Bytes that wait for room from which on the peer is no longer told what it will see itself."""


class Outgoing:
    """See the module's text. It is the ``Owner`` of its calls.

    Args:
        control: sends what the peer is to know of a request.
        pool: runs the callbacks of futures.
        wait: waits until something is ready, or a time; tells whether it is.
        drop: cancels a future that nobody holds any more.
        check_awaitable: raises if nobody would read while a coroutine waits.
        came_instead: says what else has come in so many seconds.
    """

    def __init__(
        self,
        *,
        lock: threading.RLock,
        connection: Connection,
        deadlines: Deadlines,
        next_id: Callable[[], RequestId],
        lifecycle: Lifecycle,
        writer: Writer,
        control: ControlSender,
        flow: Flow,
        pool: ThreadPool | CallerRuns,
        errors: ErrorReports,
        late_answers: LateAnswers,
        wait: Callable[[Any, float | None], bool],
        drop: Callable[[Any], None],
        check_awaitable: Callable[[], None],
        came_instead: Callable[[float], str],
    ) -> None:
        self.lock = lock
        self.flow = flow
        self.pool = pool
        self.report = errors.report
        self.wait = wait
        self.drop = drop
        self.check_awaitable = check_awaitable
        self._connection = connection
        self._encode = connection.encode
        self._calls = connection.calls
        self._deadlines = deadlines
        self._next_id = next_id
        self._lifecycle = lifecycle
        self._writer = writer
        self._write = writer.send
        self._control = control
        self._came_instead = came_instead
        self._late_answers = late_answers
        self._completing: set[Call] = set()
        self._replied: Call | None = None  # off the table, and not settled yet
        self.unwanted: deque[Call] = deque()

    # Asking.

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
        return self._send(message, timeout, metadata, keeps, window, prepare)

    def call(
        self, message: Message, timeout: float | None, metadata: Mapping[str, str] | None = None
    ) -> Any:
        """Send a request, wait for the reply, and return it.

        It needs no future, and whoever waits sees to the deadline himself.
        """
        call = self._send(message, timeout, metadata, timed=False)
        outcome = call.outcome
        try:
            while not (outcome or self.wait(call, call.deadline)):
                self.expire(call)
                if not outcome:  # another thread has the reply, and is about to say so
                    self.wait(call, time.monotonic() + _MOMENT)
        except BaseException:
            self.unwanted.append(call)  # the first call in here always happens
            self.give_up_unwanted()
            raise
        value, error = outcome[0]
        if error is None:
            return value
        park_at_exit()
        try:
            raise error
        finally:
            del error, outcome, call  # or the traceback and this frame would keep each other alive

    def _send(
        self,
        message: Message,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        keeps: object = None,
        window: int = 0,
        prepare: Callable[[Call], Any] | None = None,
        timed: bool = True,
    ) -> Call:
        """Enter a request, and send it; with ``timed`` we see to its deadline."""
        lifecycle = self._lifecycle
        if not (at_home[0] and lifecycle.is_open):
            lifecycle.enter(message)  # starts the session, or raises
        if self.unwanted:
            self.give_up_unwanted()
        id = self._next_id()  # noqa: A001
        frame = self._encode(Request(id, message, timeout, metadata, window))
        deadline = None if timeout is None else time.monotonic() + timeout
        call = Call(self, id, message, timeout, deadline, keeps)
        call.frame = frame
        if len(frame) > 1 or len(frame[0]) > _ALWAYS_TAKEN:
            call.size = sum(map(len, frame)) - HEADER_SIZE
        if prepare is not None:
            prepare(call)
        refused = False
        try:
            with self.lock:
                refused = lifecycle.refusal is not None
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
                    self._write(frame, deadline, HIGH_WATER if len(frame) == 1 else 0)
                except WriteTimeoutError as late:
                    self.expire(call, known_to_peer=not late.withdrawn)
                except SessionClosedError:
                    pass  # the session is about to end, and the call with it
        except BaseException:
            self.unwanted.append(call)  # an interrupt, such as Ctrl-C: nobody will have the call
            self.give_up_unwanted()
            raise
        if refused:
            # Raises; not above, since the error waits for the child's exit status.
            lifecycle.enter(message)
        return call

    # Giving up.

    def give_up_unwanted(self) -> None:
        """Cancel the requests whose replies nobody wants any more."""
        unwanted = self.unwanted
        for call in unwanted.copy():
            self.settle(call, None, CANCELLED)
            if call.outcome[0][1] is CANCELLED:
                self.cancel(call)
            else:
                self._late_answers.tell(call.id)
            with suppress(ValueError):  # another thread was at it as well
                unwanted.remove(call)

    def cancel(self, call: Call) -> None:
        """Forget a request and tell the peer."""
        if not self._lifecycle.is_forked() and self._calls.get(call.id) is call:
            # In this order: one who is interrupted does it again.
            if not self._writer.withdraw(call.frame):
                self._control.send(Cancel(call.id))
            else:
                self._late_answers.tell(call.id)
            self._forget(call)

    def expire(self, call: Call, known_to_peer: bool = True) -> None:
        """Fail a request whose time is over, and tell the peer if it will have heard of it."""
        if not (self._calls.get(call.id) is call or call.lingers):
            return
        assert call.timeout is not None
        error = RequestTimeoutError(
            f"no reply to {call.name} (request {call.id!r}) "
            f"within {call.timeout:g} s{self._came_instead(call.timeout)}"
        )
        try:
            known = self._forget(call)
            if not (known or call.lingers):
                return  # the reply was faster
            # Where the peer has not read for long, cancels would pile up. It knows the
            # deadlines of what it has read, and will see those of what it is going to read.
            heard = known and known_to_peer and not self._writer.withdraw(call.frame)
            if not heard and known:
                self._late_answers.tell(call.id)
            elif heard and self._writer.backlog <= _NOT_READ:
                self._control.send(Cancel(call.id))
            self.settle(call, None, error)
        except BaseException:  # an interrupt: nobody else would find the call
            call.outcome.append((None, error))  # comes before a second one could
            self.settle(call, None, error)
            raise

    def _forget(self, call: Call) -> bool:
        """Take a request off the table; tell whether it stood there, and has no reply yet."""
        id_ = call.id
        with self.lock:  # no other request enters under its id meanwhile
            known = self._calls.get(id_) is call
            return known and self._calls.pop(id_, None) is not None  # the reply may be faster

    def credit(self, call: Call, count: int) -> None:
        """Grant the peer ``count`` more items of a request."""
        if not self._lifecycle.is_forked():
            self._control.send(Credit(call.id, count))

    # What is read, by whoever reads: see ``dispatcher.py``.

    def try_reply(self, response: Response) -> bool:
        """Take the reply of a call without items, as most are; tell whether it is one.

        Whoever is interrupted in here does it again: see ``Dispatcher.apply``.
        """
        id_ = response.id
        call = self._calls.get(id_)
        if call is None:
            call = self._replied
            if call is None or call.id != id_:
                return False
        elif call.items is not None:
            return False
        self._replied = call
        self._calls.pop(id_, None)
        self.settle(call, response.value, None)
        self._replied = None
        return True

    def try_item(self, progress: Progress) -> bool:
        """Take an item as most are, small, where few wait; tell whether it is one."""
        connection = self._connection
        call: Call | None = self._calls.get(progress.id)
        items = None if call is None else call.items
        payload = connection.frames[0]
        if (
            items is None
            or connection.note is not None  # somebody was interrupted
            or type(payload) is not memoryview
            or len(payload) >= SMALL
        ):
            return False
        item = progress.item
        # Those of all streams share what is for others than texts and numbers.
        few = FEW if type(item) in ATOMS else _FEW_ITEMS // (len(self._calls) or 1)
        if len(items.waiting) >= few:
            return False
        connection.note = progress
        return items.arrived(item, progress)

    def response_received(self, response: Response) -> None:
        """The reply of another, whose call has left the table."""
        self.end(response.call, response.value, None)

    def error_received(self, response: ErrorResponse) -> None:
        """The same, if it is an error."""
        self.end(response.call, None, error_from(response))

    def reply_failed(self, event: events.ReplyFailed) -> None:
        """The same, if it can't be read."""
        release_frames(event.error)
        self.end(event.call, None, event.error)

    def progress_received(self, progress: Progress) -> None:
        """An item of a request that takes some."""
        call: Call = progress.call
        assert call.items is not None
        flow, connection = self.flow, self._connection
        # What the item is known by if it comes once more. Nothing but ``held`` is to keep a large
        # one: that folds it.
        mark: Progress | Held | None = connection.note
        if mark is None:
            waiting = len(call.items.waiting)
            held = flow.hold(Kind.ITEM, progress, connection.frames[0], waiting)
            mark = connection.note = progress if held is None else held
        held = mark if isinstance(mark, Held) else None
        kept = progress.item if held is None else held
        if held is not None:
            flow.charge(held)
            progress.call = None
        # Holding what is too much would let the peer fill our memory; dropping it would make a
        # hole.
        if held is not None and flow.is_too_much(held):
            flow.release(held)
            error = ProtocolError(
                f"{len(call.items.waiting):,} items of request {call.id!r} wait, and one more of "
                f"{held.size:,} bytes is too much: {flow.total:,} bytes are held (Limits."
                "held_bytes); take items sooner, or ask for fewer of them ahead (window=)"
            )
        elif call.items.arrived(kept, mark):
            return
        else:
            if held is not None:
                flow.release(held)
            error = ProtocolError(
                f"the peer sent more items for request {call.id!r} than it was granted"
            )
        self.settle(call, None, error)
        self.cancel(call)

    def item_failed(self, event: events.ItemFailed) -> None:
        """The same, if it can't be read."""
        release_frames(event.error)
        self.end(event.call, None, event.error)
        self.cancel(event.call)  # or its handler would wait for credit that nobody grants

    def fail_skipped(self, length: str, why: str) -> bool:
        """Fail the requests of so many bytes, as the peer says it; tell whether there were any."""
        # One without a size is small, and no peer skips that.
        calls = [c for c in self._calls.copy().values() if c.size and str(c.size) == length]
        for call in calls:
            self.end(call, None, ProtocolError(f"{call.name} was not read by the peer: {why}"))
            self._forget(call)
        return bool(calls)

    # Outcomes.

    def end(self, call: Call, value: Any, error: BaseException | None) -> None:
        """Set a request's outcome, behind the items that have arrived for ``on_progress``."""
        if call.items is not None and call.items.passes_on_reply:
            call.items.replied(value, error)
        else:
            self.settle(call, value, error)

    def settle(self, call: Call, value: Any, error: BaseException | None) -> None:
        """Set a request's outcome; the callbacks of its future run on the pool."""
        call.settle(value, error)
        if call.future is not None:
            self._run_callbacks(call)

    def _run_callbacks(self, call: Call) -> None:
        """Have those of a future run, once it shows the outcome; and let go of it."""
        future = call.future
        if future is not None and future.has_callbacks():
            self.pool.submit(CallbacksTask(future, self.report))
        call.future = None

    def completes_later(self, call: Call) -> None:
        """Note a call whose reply waits behind its items, until it completes."""
        self._completing.add(call)

    def complete(self, call: Call, value: Any, error: BaseException | None) -> None:
        """Set the outcome of such a call."""
        self.settle(call, value, error)
        self._completing.discard(call)

    # The end.

    @property
    def pending(self) -> int:
        """How many requests wait for their reply."""
        return len(self._calls)

    def streams(self) -> list[Call]:
        """Return the requests in flight that take items."""
        with self.lock:
            return [call for call in list(self._calls.values()) if call.items]

    def fail_pending(self, error_of: Callable[[Call], BaseException]) -> None:
        """Fail all that is pending. May be done again, or twice at once."""
        replied = () if self._replied is None else (self._replied,)  # by one who was interrupted
        for call in (*list(self._calls.values()), *replied):
            self.end(call, None, error_of(call))
            self._calls.pop(call.id, None)

    def fail_completing(self, error_of: Callable[[Call], BaseException]) -> None:
        """Fail what waits for an ``on_progress`` that is stuck, when no deadline will."""
        for call in list(self._completing):
            self.complete(call, None, error_of(call))

    def forget_after_fork(self, reason: Callable[[], SessionClosedError]) -> None:
        """Fail all, in a forked child, where nobody will read a reply."""
        self.unwanted.clear()
        calls = list(self._calls.values())
        self._calls.clear()
        for call in calls:
            call.abandon_after_fork(reason())
