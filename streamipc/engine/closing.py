"""How a session ends.

There are two ways in, and one way out:

* *we close*: nothing new is taken; handlers in flight finish and answer; queued bytes go
  out; our direction closes; the peer has until the time is over to answer what we asked,
  and to close its own; a child has until then to exit, and is then made to;
* *the stream ends*, or breaks, or the child dies: what had arrived is delivered, then
  pending requests fail; handlers in flight finish and answer, for the peer may have
  closed only its own direction; if it is gone altogether they are cancelled. Notifications
  that had arrived are handled all the same, one after the other, unless one gets stuck.

The way out is ``_finish``, which one thread enters once: it sees the above through,
stops the pool, and closes descriptors when no thread can be using them any more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._signals import interrupt_in
from .._threads import make_thread, start_thread
from .jobs import CallJob
from .poller import make_poller
from .serving import Served

if TYPE_CHECKING:
    from ..exceptions import SessionClosedError
    from .engine import Engine

__all__ = ["Closing"]

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


class Closing:
    """Ends one session.

    Args:
        engine: whose.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._claimed = 0  # by which thread; guarded by the engine's lock
        self._finisher: int | None = None  # identifier of the thread in _finish
        self._by: float | None = None  # when _finish is to be done waiting, as was asked
        self._gone_by: float | None = None  # the same, since the peer is gone
        self._gave_up = False  # on handlers, although they had time to notice the end
        self.refuses_requests = False
        self.ended = threading.Event()
        """Nothing more will be read, and pending requests have failed."""
        self.closed = threading.Event()
        """All is released."""

    def error(self) -> SessionClosedError:
        """Return the error for whoever uses the session now."""
        refusal = self._engine.refusal
        if refusal is None:
            return self._engine.host.closed_error("the session is ending")
        return refusal()

    def wait_until_closed(self) -> None:
        """Wait for the end of everything; the main thread's signals are seen meanwhile."""
        # A signal that comes just as a wait begins is looked at when the wait is over: CPython
        # checks for signals, may then wait for the GIL, and goes to sleep without a second
        # look. That is likely in the first moments, when other threads are starting too.
        for seconds in (0.05, 0.5, 5.0):
            if self.closed.wait(seconds):
                return
        self.closed.wait()

    # Ways in.

    def close(self, timeout: float) -> None:
        """Close gracefully; return when it is done.

        From a thread that the session itself needs for that (a handler's, a callback's),
        return at once and let it happen.
        """
        engine = self._engine
        if engine.is_foreign():
            return
        timeout = min(timeout, _LONGEST)
        end = time.monotonic() + timeout
        self.refuses_requests = True
        engine.refuse(lambda: engine.host.closed_error("this side closed the session"))
        me = threading.get_ident()
        # A signal handler that interrupts a wait is called by the very thread that must read.
        here = engine.pool.runs_here() or me in (self._finisher, engine.leader.thread)
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

    def _wait_for_other(self, timeout: float, end: float, here: bool) -> None:
        """Have the one who ends the session be done by ``end``, and wait for it."""
        engine = self._engine
        self._by = end if self._by is None else min(self._by, end)
        if not here:
            if engine.caller_runs is not None:
                engine.caller_runs.run_tasks()
            self.closed.wait(timeout + 2 * _JOIN)
            self._shut_down_child(end)

    def _go_on_behind(self, target: Any, *args: Any) -> None:
        """Have another thread do what this one was to do, and was kept from by an interrupt."""
        if self._claimed == threading.get_ident() and not self.closed.is_set():
            self._start_thread(target, *args)

    def abandon(self) -> None:
        """Nobody holds the session any more: end it without waiting for anything."""
        engine = self._engine
        if engine.caller_runs is None or engine.leader.thread == threading.get_ident():
            # Without threads this one reads, and settles the last future that held the
            # session: it runs what is queued once it leads no more.
            self._start_thread(self.close, 0.0)
        else:
            self.close(0.0)  # nobody would come to run a job

    def forget_after_fork(self) -> None:
        """Make a copy in a forked child count as closed."""
        self._claimed = -1
        self.ended = threading.Event()
        self.closed = threading.Event()
        self.ended.set()
        self.closed.set()

    def stream_ended(self, error: Exception | None) -> None:
        """The reader saw the end of the stream; it calls this itself."""
        what = "the peer closed the connection"
        if error is not None:
            said = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            what = f"reading failed ({said})"
        self.leave_output()
        self._end(what)

    def write_failed(self, error: Exception) -> None:
        """The writer could not write; any thread calls this."""
        said = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        text = f"the peer no longer reads, or writing failed ({said})"
        self._start_thread(self._force_end, text, _BROKEN)

    def failed(self, error: BaseException) -> None:
        """Something that nobody foresaw; any thread calls this."""
        self._engine.report(error)
        self._by = time.monotonic() + _JOIN  # who would run what waits may be gone
        text = f"the session failed ({type(error).__name__}: {error})"
        self._start_thread(self._force_end, text, 0.0)

    def child_exited(self) -> None:
        """The child is dead; the thread that watches it calls this."""
        self._force_end("the session is over", _EXITED)

    # The end of reading.

    def leave_output(self) -> None:
        """Have ``print()`` stay away from the stream of standard output, if ours is that."""
        getattr(self._engine.transport, "stay_redirected", _nothing)()

    def _end(self, what: str) -> None:
        """Fail what is pending; have the rest seen to. May be done again, or twice at once."""
        engine = self._engine
        if self.ended.is_set() and self._claimed:
            return
        engine.refuse(lambda: engine.host.closed_error(what))
        for call in list(engine.connection.calls.values()):
            text = f"no reply to {call.name}; {what}"
            engine.end_call(call, None, engine.host.closed_error(text))
            engine.connection.calls.pop(call.id, None)
        engine.end_receiving()
        self._end_credit()
        engine.reader.end()
        self.ended.set()
        try:
            if self._claim():
                self._start_thread(self._finish, None)
        except BaseException:
            self._go_on_behind(self._finish, None)
            raise

    def _end_credit(self) -> None:
        """Wake handlers that wait for credit: nothing that is still to be read grants any."""
        engine = self._engine
        with engine.lock:
            served = list(engine.connection.served.values())
        for request in served:
            if hasattr(request, "end_credit"):
                request.end_credit()

    def _force_end(self, what: str, patience: float) -> None:
        """End reading although the stream has not ended: deliver what is there first."""
        if self.ended.wait(patience):
            return
        engine = self._engine
        engine.reader.drain_only()
        engine.channel.abort()
        engine.leader.wake()
        engine.leader.lead_when_free(engine.reader.drain)
        self._end(what)

    # The way out.

    def _claim(self) -> bool:
        """Return whether it is for the caller to end the session: for one thread, once."""
        with self._engine.lock:
            if not self._claimed:
                self._claimed = threading.get_ident()
                return True
            return False

    def _start_thread(self, target: Any, *args: Any) -> None:
        caller_runs = self._engine.caller_runs
        if caller_runs is not None:
            caller_runs.submit(CallJob(lambda: target(*args), self._engine.report))
            return
        try:
            start_thread(make_thread(target, *args, name="streamipc-closing"))
        except (RuntimeError, MemoryError):  # no thread to be had, or the interpreter ends
            target(*args)

    def _close(self, end: float) -> None:
        """Close from our side; then see the child off."""
        try:
            self._finish(end)
        finally:
            self._shut_down_child(end)

    def _finish(self, end: float | None) -> None:
        """End everything.

        Args:
            end: :func:`time.monotonic` seconds until which to wait for handlers, and for
                the peer; ``None``: the stream has ended, and handlers have all the time.
        """
        engine = self._engine
        with engine.lock:
            if self._finisher is not None or self.closed.is_set():
                return  # another is at it: whoever was interrupted does not know
            self._finisher = threading.get_ident()
        if self._by is None:
            self._by = end
        try:
            if engine.started:
                self._finish_gracefully()
        finally:
            self._release()
            self._finisher = None  # a later thread may get the same identifier

    def _finish_gracefully(self) -> None:
        engine = self._engine
        self._wait_for_handlers()
        self._wait_for_streams()
        if engine.writer.end(self.until()):
            # Otherwise somebody else's frame is stuck: closing would pull the descriptor,
            # whose number may be another file's a moment later, from under its write.
            engine.endpoint.close_write()
            self._wait_for_pump()
        if self.ended.is_set():
            # Whoever watches the child goes with the transport: reap it before.
            getattr(engine.transport, "look_for_status", _nothing)()
            return
        until = self.until()
        left = 0.0 if until is None else max(0.0, until - time.monotonic())
        shutdown = getattr(engine.transport, "shutdown", None)
        if engine.caller_runs is not None:
            if shutdown is not None or engine.connection.calls:
                engine.caller_runs.wait_for_end(self.ended.is_set, time.monotonic() + left)
        elif shutdown is not None:
            shutdown(left)  # the I/O thread reads meanwhile
            self.ended.wait(_EXITED + _BROKEN)
        else:
            end = time.monotonic() + left
            # Some media can't be closed by halves, and some peers don't mind the end.
            while engine.connection.calls and time.monotonic() < end:
                if self.ended.wait(_SLICE):
                    break

    def _wait_for_pump(self) -> None:
        """See what was written through to a transport that blocks, and to its end."""
        wait = getattr(self._engine.endpoint, "wait_for_pump", None)
        while wait is not None and not wait(_SLICE):
            until = self.until()  # again: close() may set it meanwhile
            if until is not None and time.monotonic() >= until:
                return

    def _wait_for_streams(self) -> None:
        """See streams in flight to their ends, for which credit must still go out.

        Those that are not at their ends when the time is over fail, and so do those from which
        nobody takes items any more.
        """
        engine = self._engine
        until = self.until()
        if until is not None:  # a child is to have some time for its own end
            until -= (until - time.monotonic()) * _FOR_THE_CHILD
        while not self.ended.is_set():
            with engine.lock:
                streams = [call for call in engine.connection.calls.values() if call.items]
            over = until is not None and time.monotonic() >= until
            left = [stream for stream in streams if over or not self._is_taken_from(stream)]
            for stream in left:
                engine.cancel(stream)
                text = f"{stream.name} was cut off; this side closed the session"
                engine.end_call(stream, None, engine.host.closed_error(text))
            if len(left) == len(streams):
                return
            if engine.caller_runs is None:
                self.ended.wait(_SLICE)
            else:
                engine.caller_runs.wait_for_end(self.ended.is_set, time.monotonic() + _SLICE)

    def _is_taken_from(self, stream: Any) -> bool:
        """Tell whether another thread takes the items of a stream, or a callback does.

        :mod:`threading` does not know all: not those that C made, nor gevent's greenlets. Such a
        one is seen while it waits.
        """
        items = stream.items
        if items.passes_on_reply:
            return True
        me = threading.get_ident()
        return items.taker not in (None, me) and (
            bool(stream.wakers) or any(one.ident == items.taker for one in threading.enumerate())
        )

    def _wait_for_handlers(self) -> None:
        engine = self._engine
        # Whoever is there for the peer goes with it.
        sees_through = not getattr(engine.transport, "goes_with_peer", False)
        waiting = 0
        while True:
            now = time.monotonic()
            if self._gone_by is None:
                if self._peer_is_gone():
                    self._cancel_handlers()
                    self._gone_by = now + _CANCELLED_HANDLERS
            elif sees_through and len(engine.notifications) < waiting:
                self._gone_by = now + _CANCELLED_HANDLERS
            waiting = len(engine.notifications)
            until = self.until()
            if until is not None and now >= until:
                break
            slice_end = now + _SLICE
            if engine.pool.wait_until_quiet(slice_end if until is None else min(slice_end, until)):
                return
        self._gave_up = self._gone_by is not None
        self._cancel_handlers()

    def until(self) -> float | None:
        """Return when to be done waiting; ``None``: there is no limit."""
        return min((by for by in (self._by, self._gone_by) if by is not None), default=None)

    def _cancel_handlers(self) -> None:
        engine = self._engine
        with engine.lock:
            served = list(engine.connection.served.values())
        for request in served:
            if hasattr(request, "cancel"):
                engine.cancel_served(request)

    def _peer_is_gone(self) -> bool:
        """Tell whether nobody can read what we write: then no answer is wanted either."""
        fd = self._engine.endpoint.write_fd
        if not self.ended.is_set() or fd < 0:
            return False
        poll = make_poller()
        poll.register(fd, 0)  # POLLERR and POLLHUP are always reported (poll(2))
        return bool(poll.poll(0))

    def _release(self) -> None:
        """Stop the threads and close the descriptors, in this order."""
        engine = self._engine
        steps: deque[Callable[[], object]] = deque(
            (
                engine.channel.abort,
                lambda: self._end("this side closed the session"),
                self._stop_threads,
                self._run_leftovers,
                engine.drop_notifications,
                self._end_lingering,
                engine.endpoint.close,
                engine.io_wakeup.close,
                engine.leader_wakeup.close,
                engine.channel.close,
                engine.host.ended,
            )
        )
        try:
            self._take(steps)
        except BaseException:
            self._take(steps)  # an interrupt: the rest has to be done all the same
            raise
        finally:
            self.closed.set()

    def _take(self, steps: deque[Callable[[], object]]) -> None:
        """Take steps, each of which may be taken again, and take off the list what is done."""
        while steps:
            try:
                steps[0]()
            except Exception as error:  # a transport of the user's own, for one
                if interrupt_in(error) is not None:
                    raise
                self._engine.report(error)
            steps.popleft()

    def _stop_threads(self) -> None:
        """See to it that nobody uses the descriptors any more."""
        engine = self._engine
        engine.leader.wake()
        engine.pool.stop()
        engine.leader.lead_when_free(_nothing)
        end = time.monotonic() + _JOIN
        while engine.writer.is_writing() and time.monotonic() < end:
            time.sleep(0.0005)  # it was told to give up
        engine.pool.join(time.monotonic() + _JOIN_STUCK if self._gave_up else end)
        engine.writer.fail()

    def _run_leftovers(self) -> None:
        """Run the user's callbacks that nobody else will call any more."""
        until = None if self._by is None else time.monotonic() + _JOIN
        for job in self._engine.pool.drop_tasks():
            if isinstance(job, Served):
                continue
            if until is None or time.monotonic() < until or not getattr(job, "may_be_left", False):
                job.run()

    def _end_lingering(self) -> None:
        """Fail what waits for a stuck ``on_progress``: there are no more deadlines to do it."""
        engine = self._engine
        text = "the session ended before on_progress had taken all items of the reply"
        for call in list(engine.lingering):
            engine.settle(call, None, engine.host.closed_error(text))
        engine.lingering.clear()

    def _shut_down_child(self, end: float) -> None:
        """End a child that still lives, once its pipes are closed."""
        shutdown = getattr(self._engine.transport, "shutdown", None)
        if shutdown is not None:
            shutdown(max(0.0, end - time.monotonic()))


def _nothing() -> None:
    pass
