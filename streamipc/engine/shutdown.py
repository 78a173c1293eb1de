"""How a session ends.

There are two ways in, and one way out:

* *we close*: nothing new is taken; handlers in flight finish and answer; queued bytes go
  out; our direction closes; the peer has until the time is over to answer what we asked,
  and to close its own; a child has until then to exit, and is then made to;
* *the stream ends*, or breaks, or the child dies: what had arrived is delivered, then
  pending requests fail; handlers in flight finish and answer, for the peer may have
  closed only its own direction; if it is gone altogether they are cancelled. Notifications
  that had arrived are handled all the same, one after the other, unless one gets stuck.

The way out is ``_finish``, for one thread at a time: it sees the above through,
stops the pool, and closes descriptors when no thread can be using them any more.

Owns who has claimed the end, who is at it and until when it may take, under the engine's lock; and
the last steps of the end, which belong to the one who is at it. Each stays until it is done.

Invariant: whoever claims the end sees to it that somebody goes on with it if he is interrupted, and
who closes the session goes on with what nobody else is at. So ``ended`` and ``closed`` are set in
the end, each after what its text says.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .._events import Event
from .._signals import interrupt_in, let_through
from .._threads import make_thread, start_thread
from .incoming import IncomingRequest
from .poller import make_poller
from .reentry import is_on_stack
from .tasks import CallTask

if TYPE_CHECKING:
    from ..exceptions import SessionClosedError
    from .caller_runs import CallerRuns
    from .calls import Call
    from .channel import Channel
    from .contracts import Host
    from .errors import ErrorReports
    from .inbox import Inbox
    from .junk import JunkLines
    from .leader import Leader
    from .lifecycle import Lifecycle
    from .outgoing import Outgoing
    from .reader import Reader
    from .reentry import Reentry
    from .responder import Responder
    from .thread_pool import ThreadPool
    from .transport import TransportAdapter
    from .writer import Writer

__all__ = ["Shutdown"]

_SLICE = 0.05
"""Seconds between two looks at whether the peer is gone, while handlers finish."""

_CANCELLED_HANDLERS = 0.5
"""Seconds for handlers to notice that they are cancelled, once the peer is gone; and for the
handler of each notification that had arrived."""

_JOIN = 1.0
"""Seconds to wait for the pool's threads; one that runs a handler without end stays."""

_JOIN_STUCK = 0.05
"""The same where handlers were given up: they have had their time to notice, and a child
whose parent is gone is to go within a second."""

_EXITED = 0.03
"""Seconds for the end of the stream to arrive after the child's death. It is there at
once, unless another process holds the pipe open."""

_FOR_THE_CHILD = 0.2
"""Part of the time that is left for the peer's end when streams in flight have had theirs."""

_LONGEST = 1e6
"""Seconds, eleven days: poll(2) does not take much more."""

_BROKEN = 0.1
"""Seconds for the end of the stream to arrive after writing has failed."""


class Shutdown:
    """Ends one session.

    Args:
        lifecycle: told that nothing is taken any more.
        reader: reads what is there to the end.
        leader: has it read.
        junk: handed out to the last byte.
        writer: writes what is left.
        channel: has those who wait for room give up.
        pool: runs handlers, which are waited for, and is stopped.
        reentry: tells whether the caller has interrupted what others need.
        caller_runs: the same where there are no threads.
        outgoing: our requests, which are waited for.
        responder: the peer's, which are cancelled.
        inbox: notifications, which are waited for.
        descriptors: close what the session has beside the transport's own.
    """

    def __init__(
        self,
        *,
        lock: threading.RLock,
        lifecycle: Lifecycle,
        host: Host,
        adapter: TransportAdapter,
        reader: Reader,
        leader: Leader,
        junk: JunkLines,
        writer: Writer,
        channel: Channel,
        pool: ThreadPool | CallerRuns,
        caller_runs: CallerRuns | None,
        reentry: Reentry,
        outgoing: Outgoing,
        responder: Responder,
        inbox: Inbox,
        errors: ErrorReports,
        descriptors: Sequence[Callable[[], object]],
    ) -> None:
        self._lock = lock
        self._lifecycle = lifecycle
        self._adapter = adapter
        self._endpoint = adapter.endpoint
        self._reader = reader
        self._leader = leader
        self._junk = junk
        self._writer = writer
        self._channel = channel
        self._pool = pool
        self._caller_runs = caller_runs
        self._reentry = reentry
        self._outgoing = outgoing
        self._responder = responder
        self._inbox = inbox
        self._errors = errors
        self.ended = Event()
        """Nothing more will be read, and pending requests have failed."""
        self.closed = Event()
        """All is released."""
        self._claimed = 0  # by which thread; guarded by the engine's lock
        self._finisher: int | None = None  # identifier of the thread in _finish
        self._steps: deque[Callable[[], object]] = deque(
            (
                channel.abort,
                self._apply_what_was_read,
                lambda: self._end("this side closed the session"),
                self._stop_threads,
                self._run_leftovers,
                inbox.drop_waiting,
                self._fail_completing,
                lambda: self._endpoint.close(),
                *descriptors,
                lambda: host.ended(lifecycle.is_closing),
                lambda: self.closed.set(),
            )
        )  # of the release; each leaves when it is done
        self._leftovers: deque[Any] = deque()  # tasks of the pool's that nobody has run
        self._is_releasing = False
        self._by: float | None = None  # when _finish is to be done waiting, as was asked
        self._gone_by: float | None = None  # the same, since the peer is gone
        self._gave_up = False  # on handlers, although they had time to notice the end

    def wait_until_closed(self) -> None:
        """Wait for the end of everything; the main thread's signals are seen meanwhile."""
        # A signal that comes just as a wait begins is looked at when the wait is over: CPython
        # checks for signals, may then wait for the GIL, and goes to sleep without a second
        # look. That is likely in the first moments, when other threads are starting too.
        for seconds in (0.05, 0.5, 5.0):
            if self.closed.wait(seconds):
                return
        self.closed.wait()

    def has_closed(self) -> bool:
        """Tell whether all is released."""
        return self.closed.is_set()

    # Ways in.

    def hang_up(self, what: str) -> None:
        """Take nothing more, and close our direction; ``what`` says why."""
        self._lifecycle.refuse(what)
        self.leave_output()
        try:
            self._endpoint.close_write()
        except Exception as error:  # of a transport of the user's own
            let_through(error)

    def close(self, timeout: float) -> None:
        """Close gracefully; return when it is done.

        From a thread that the session itself needs for that (a handler's, a callback's), or that
        is in the midst of it and was interrupted by the caller, return at once and let it happen.
        """
        if self._lifecycle.is_forked():
            return
        timeout = min(timeout, _LONGEST)
        end = time.monotonic() + timeout
        self._lifecycle.is_closing = True
        self._lifecycle.refuse("this side closed the session")
        here = self.is_needed_here()
        try:
            if not self._claim():
                self._wait_for_other(timeout, end, here)
            elif here:
                self._start_thread(self._close, end)
            else:
                self._close(end)
        except BaseException:
            self._go_on_behind(self._close, end)
            raise

    def is_needed_here(self) -> bool:
        """Tell whether the calling thread must go on for the session to end."""
        return (
            self._pool.runs_here()
            or self._reentry.is_inside()
            or self._finisher == threading.get_ident()
            or is_on_stack(_ENDING, self, 3)
        )

    def _wait_for_other(self, timeout: float, end: float, here: bool) -> None:
        """Have the one who ends the session be done by ``end``, and wait for it."""
        self._by = end if self._by is None else min(self._by, end)
        if not here:
            if self._caller_runs is not None:
                self._caller_runs.run_tasks()
            self._finish(end)  # it may have been interrupted
            self.closed.wait(timeout + 2 * _JOIN)
            self._shut_down_child(end)

    def _go_on_behind(self, target: Any, *args: Any) -> None:
        """Have another thread do what this one was to do, and was kept from by an interrupt."""
        if self._claimed == threading.get_ident() and not self.closed.is_set():
            self._start_thread(target, *args)

    def abandon(self) -> None:
        """Nobody holds the session any more: end it without waiting for anything."""
        if self._caller_runs is None or self._leader.thread == threading.get_ident():
            # Without threads this one reads, and settles the last future that held the
            # session: it runs what is queued once it leads no more.
            self._start_thread(self.close, 0.0)
        else:
            self.close(0.0)  # nobody would come to run a task

    def forget_after_fork(self) -> None:
        """Make a copy in a forked child count as closed."""
        self._claimed = -1
        self._finisher = None  # does not exist here
        self.ended = Event()
        self.closed = Event()
        self.ended.set()
        self.closed.set()

    def stream_ended(self, error: Exception | None) -> None:
        """The reader saw the end of the stream; it calls this itself."""
        what = "the peer closed the connection"
        if error is not None:
            said = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            what = f"reading failed ({said})"
        self.leave_output()
        try:
            self._end(what)
        except BaseException:
            self._end(what)  # an interrupt: without threads nobody else may come to do it
            raise

    def write_failed(self, error: Exception) -> None:
        """The writer could not write; any thread calls this."""
        said = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        text = f"the peer no longer reads, or writing failed ({said})"
        self._start_thread(self._force_end, text, _BROKEN)

    def failed(self, error: BaseException) -> None:
        """Something that nobody foresaw; any thread calls this."""
        self._errors.report(error)
        self._by = time.monotonic() + _JOIN  # who would run what waits may be gone
        text = f"the session failed ({type(error).__name__}: {error})"
        self._start_thread(self._force_end, text, 0.0)

    def child_exited(self) -> None:
        """The child is dead; the thread that watches it calls this."""
        self._force_end("the session is over", _EXITED)

    # The end of reading.

    def leave_output(self) -> None:
        """Have ``print()`` stay away from the stream of standard output, if ours is that."""
        self._adapter.stay_redirected()

    def _end(self, what: str) -> None:
        """Fail what is pending; have the rest seen to. May be done again, or twice at once."""
        if self.ended.is_set() and self._claimed:
            return
        self._lifecycle.refuse(what)

        executed: list[bool | None] = []  # of all, once the first is asked for

        def error_of(call: Call) -> SessionClosedError:
            # This waits for a child that is dying: until then it may hold what it has not read.
            error = self._lifecycle.closed_error(f"no reply to {call.name}; {what}")
            if not executed:
                unread = self._adapter.unread_bytes()
                known = unread is not None and self._writer.is_all_unread(unread)
                executed.append(False if known else None)
            error.executed = executed[0]
            return error

        self._outgoing.fail_pending(error_of)
        self._junk.end_line()
        self._inbox.end_receiving()
        self._responder.end_credit()
        self._reader.end()
        self.ended.set()
        try:
            if self._claim():
                self._start_thread(self._finish, None)
        except BaseException:
            self._go_on_behind(self._finish, None)
            raise

    def _force_end(self, what: str, patience: float) -> None:
        """End reading although the stream has not ended: deliver what is there first."""
        if self.ended.wait(patience):
            return
        self._reader.drain_only()
        self._channel.abort()
        self._leader.wake()
        self._leader.lead_when_free(self._reader.drain)
        self._end(what)

    # The way out.

    def _claim(self) -> bool:
        """Return whether it is for the caller to end the session: for one thread, once."""
        with self._lock:
            if not self._claimed:
                self._claimed = threading.get_ident()
                return True
            return False

    def _start_thread(self, target: Any, *args: Any) -> None:
        if self._caller_runs is not None:
            self._caller_runs.submit(CallTask(lambda: target(*args), self._errors.report))
            return
        try:
            start_thread(make_thread(target, *args, name="streamipc-closing"))
        except (RuntimeError, MemoryError) as error:  # none to be had, or the interpreter ends
            let_through(error)
            target(*args)

    def _close(self, end: float) -> None:
        """Close from our side; then see the child off."""
        try:
            self._finish(end)
        finally:
            self._shut_down_child(end)

    def _finish(self, end: float | None) -> None:
        """End everything, unless another thread is at it.

        Args:
            end: :func:`time.monotonic` seconds until which to wait for handlers, and for
                the peer; ``None``: the stream has ended, and handlers have all the time.
        """
        me, entered = threading.get_ident(), False
        try:
            with self._lock:
                if self._finisher is not None or self.closed.is_set():
                    return  # another is at it: whoever was interrupted does not know
                self._finisher, self._claimed, entered = me, me, True
            if self._by is None:
                self._by = end
            if self._lifecycle.begun and not self._is_releasing:
                self._finish_gracefully()
        finally:
            if entered:
                try:
                    self._release()
                finally:
                    # A second signal may have kept us from it: then another is to do it. And a
                    # later thread may get the same identifier.
                    self._finisher = None

    def _finish_gracefully(self) -> None:
        self._wait_for_handlers()
        self._wait_for_streams()
        if self._writer.end(self.until()):
            # Otherwise somebody else's frame is stuck: closing would pull the descriptor,
            # whose number may be another file's a moment later, from under its write.
            self._endpoint.close_write()
            self._wait_for_pump()
        if self.ended.is_set():
            # Whoever watches the child goes with the transport: reap it before.
            self._adapter.look_for_status()
            return
        until = self.until()
        left = 0.0 if until is None else max(0.0, until - time.monotonic())
        shutdown, outgoing = self._adapter.shutdown, self._outgoing
        if self._caller_runs is not None:
            if shutdown is not None or outgoing.pending:
                self._caller_runs.wait_for_end(self.ended.is_set, time.monotonic() + left)
        elif shutdown is not None:
            shutdown(left)  # the pool reads meanwhile
            self.ended.wait(_EXITED + _BROKEN)
        else:
            end = time.monotonic() + left
            # Some media can't be closed by halves, and some peers don't mind the end.
            while outgoing.pending and time.monotonic() < end:
                if self.ended.wait(_SLICE):
                    break

    def _wait_for_pump(self) -> None:
        """See what was written through to a transport that blocks, and to its end."""
        while not self._adapter.wait_for_pump(_SLICE):
            until = self.until()  # again: close() may set it meanwhile
            if until is not None and time.monotonic() >= until:
                return

    def _wait_for_streams(self) -> None:
        """See streams in flight to their ends, for which credit must still go out.

        Those that are not at their ends when the time is over fail, and so do those from which
        nobody takes items any more.
        """
        outgoing = self._outgoing
        until = self.until()
        if until is not None:  # a child is to have some time for its own end
            until -= (until - time.monotonic()) * _FOR_THE_CHILD
        while not self.ended.is_set():
            streams = outgoing.streams()
            over = until is not None and time.monotonic() >= until
            left = [stream for stream in streams if over or not self._is_taken_from(stream)]
            for stream in left:
                text = f"{stream.name} was cut off; this side closed the session"
                outgoing.end(stream, None, self._lifecycle.closed_error(text))
                outgoing.cancel(stream)
            if len(left) == len(streams):
                return
            if self._caller_runs is None:
                self.ended.wait(_SLICE)
            else:
                self._caller_runs.wait_for_end(self.ended.is_set, time.monotonic() + _SLICE)

    def _is_taken_from(self, stream: Any) -> bool:
        """Tell whether another thread takes the items of a stream, or a callback does.

        The interpreter knows all threads, :mod:`threading` the greenlets that gevent has made of
        them. Any other greenlet is seen while it waits.
        """
        items = stream.items
        if items.passes_on_reply:
            return True
        me = threading.get_ident()
        return items.taker not in (None, me) and (
            bool(stream.wakers)
            or items.taker in sys._current_frames()
            or any(one.ident == items.taker for one in threading.enumerate())
        )

    def _wait_for_handlers(self) -> None:
        # Whoever is there for the peer goes with it.
        sees_through = not self._adapter.goes_with_peer
        waiting = 0
        while True:
            now = time.monotonic()
            if self._gone_by is None:
                if self._peer_is_gone():
                    self._responder.cancel_all()
                    self._gone_by = now + _CANCELLED_HANDLERS
            elif sees_through and self._inbox.waiting < waiting:
                self._gone_by = now + _CANCELLED_HANDLERS
            waiting = self._inbox.waiting
            until = self.until()
            if until is not None and now >= until:
                break
            slice_end = now + _SLICE
            if self._pool.wait_until_quiet(slice_end if until is None else min(slice_end, until)):
                return
        self._gave_up = self._gone_by is not None
        self._responder.cancel_all()

    def until(self) -> float | None:
        """Return when to be done waiting; ``None``: there is no limit."""
        return min((by for by in (self._by, self._gone_by) if by is not None), default=None)

    def _peer_is_gone(self) -> bool:
        """Tell whether nobody can read what we write: then no answer is wanted either."""
        fd = self._endpoint.write_fd
        if not self.ended.is_set() or fd < 0:
            return False
        poll = make_poller()
        poll.register(fd, 0)  # POLLERR and POLLHUP are always reported (poll(2))
        return bool(poll.poll(0))

    def _release(self) -> None:
        """Stop the threads and close the descriptors, in this order."""
        self._is_releasing = True
        try:
            self._take_steps()
        except BaseException:
            self._take_steps()  # an interrupt: the rest has to be done all the same
            raise

    def _take_steps(self) -> None:
        """Take what is left of the last steps, each of which may be taken again."""
        steps = self._steps
        while steps:
            try:
                steps[0]()
            except Exception as error:  # a transport of the user's own, for one
                if interrupt_in(error) is not None:
                    raise
                self._errors.report(error)
            steps.popleft()

    def _apply_what_was_read(self) -> None:
        """See to what a thread has read that was interrupted, unless somebody leads and has."""
        if self._reader.is_busy:
            self._leader.lead(self._reader.clean)

    def _stop_threads(self) -> None:
        """See to it that nobody uses the descriptors any more."""
        self._leader.wake()
        self._pool.stop()
        self._leader.lead_when_free(_nothing)
        end = time.monotonic() + _JOIN
        while self._writer.is_writing() and time.monotonic() < end:
            time.sleep(0.0005)  # it was told to give up
        self._pool.join(time.monotonic() + _JOIN_STUCK if self._gave_up else end)
        self._writer.fail()

    def _run_leftovers(self) -> None:
        """Run the user's callbacks that nobody else will call any more."""
        until = None if self._by is None else time.monotonic() + _JOIN
        leftovers = self._leftovers
        leftovers.extend(self._pool.drop_tasks())
        while leftovers:
            task = leftovers[0]
            in_time = until is None or time.monotonic() < until
            if not (isinstance(task, IncomingRequest) or task.has_begun) and (
                in_time or not getattr(task, "may_be_left", False)
            ):
                task.run()
            if self._caller_runs is not None:
                self._caller_runs.raise_interrupt()
            leftovers.popleft()

    def _fail_completing(self) -> None:
        """Fail what waits for a stuck ``on_progress``: there are no more deadlines to do it."""
        text = "the session ended before on_progress had taken all items of the reply"
        self._outgoing.fail_completing(lambda _: self._lifecycle.closed_error(text))

    def _shut_down_child(self, end: float) -> None:
        """End a child that still lives, once its pipes are closed."""
        shutdown = self._adapter.shutdown
        if shutdown is not None:
            shutdown(max(0.0, end - time.monotonic()))


_ENDING = {
    function.__code__
    for function in (Shutdown.close, Shutdown._end, Shutdown._force_end, Shutdown._finish)
}


def _nothing() -> None:
    pass
