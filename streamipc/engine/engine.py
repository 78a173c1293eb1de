"""One session's machinery: joins protocol, reading, writing, threads and deadlines.

The lock (``Engine.lock``) guards the deadlines, the thread pool, the engine's own
state, and who enters a table of the connection. Leaving a table takes no lock: it is one
step on a dict, and of several who would, for a reply, a cancellation or a deadline, one gets
the entry. The lock is held for a few microseconds at a time, never during input, output,
encoding, decoding, a handler or a callback. The writer has a lock of its own and never takes
this one while it holds it; nor the other way round.
"""

from __future__ import annotations

import _thread
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._forks import at_home, look_for_fork, renew
from .._patches import Patches
from .._signals import interrupt_in
from ..exceptions import (
    RequestTimeoutError,
    SessionClosedError,
    release_frames,
)
from ..messages import Message
from ..protocol.connection import Connection
from ..protocol.envelopes import (
    Cancel,
)
from .channel import Channel
from .closing import Closing
from .contracts import Host, Stats
from .deadlines import Deadlines, Reminder
from .dispatching import Dispatching, Received
from .flow import Flow, Held
from .jobs import CallJob
from .junk import JunkLines
from .lifetimes import park_at_exit
from .poller import Poller, two_wakeups
from .pool_thread import current_pool_thread
from .reader import Reader
from .send_gate import SendGate
from .sending import Sending
from .serving import Served
from .thread_pool import ThreadPool
from .waiters import wake
from .writer import Writer

if TYPE_CHECKING:
    from ..protocol.framing import Item
    from ..session import IpcSession
    from ..transports.base import Transport
    from .caller_runs import CallerRuns
    from .calls import Call
    from .options import Options

__all__ = ["Engine"]

_LATE = 0.05
"""Seconds by which a deadline may have been noticed late."""

_NOT_READ = 1 << 20
"""Bytes that wait for room from which on the peer is no longer told what it will see itself."""


class Engine(Sending, Dispatching):
    """See the module's text. One for each session.

    Args:
        transport: moves the bytes; the engine owns it.
        endpoint: the transport itself, if it can be polled, or what stands before it.
        options: settings.
        host: the session's side.
        name: of the threads.
        threads: ``False``: whoever waits reads and runs handlers; see ``caller_runs.py``.

    Raises:
        ValueError: the transport blocks, and there are no threads to wait for it.
    """

    def __init__(
        self,
        transport: Transport,
        endpoint: Any,
        options: Options,
        host: Host,
        name: str,
        threads: bool = True,
    ) -> None:
        self.transport = transport
        self.endpoint = endpoint
        self.host = host
        self._options = options
        self._next_id = options.next_id or itertools.count(1).__next__
        self.patches = Patches()
        self.lock = threading.Lock()
        if endpoint is not transport and not threads:
            raise ValueError(
                "a session without threads needs a transport that can be polled (pipes, sockets, "
                "terminals on a POSIX system), for threads copy from and to any other; use "
                "IpcSession for this one"
            )
        fds: tuple[int, ...] = endpoint.read_fds
        self.connection = Connection(options.serializer, options.max_frame_size, len(fds))
        self.encode = self.connection.encode
        self._calls = self.connection.calls
        self._deadlines = Deadlines(self._calls)
        self.leader_wakeup, self.io_wakeup = two_wakeups()
        self.flow = Flow(
            self.lock,
            options.limits,
            options.max_frame_size,
            self.connection.decode_again,
            self.connection.is_ours,
            self._may_read_on,
        )
        self.reader = Reader(
            self.connection,
            endpoint.read_into,
            fds,
            self.leader_wakeup,
            endpoint.arrived,
            self._apply,
            self._stream_ended,
            self.flow,
        )
        waits = None if threads else self._wait_for_room
        self.channel = Channel(endpoint, self._go_on_reading, waits)
        self.writer = Writer(self.channel, self._backlog, self._write_failed)
        self.pool: ThreadPool | CallerRuns
        self.caller_runs: CallerRuns | None = None
        if threads:
            self.pool = ThreadPool(
                self.lock,
                self.reader,
                self.flow,
                self._deadlines,
                Poller(fds, self.io_wakeup.fileno()),
                self.io_wakeup,
                self.leader_wakeup,
                options.spin,
                options.handler_threads,
                name,
                self._expire,
                self.writer.flush_some,
                self.writer.is_above_high_water,
                self._pool_failed,
            )
        else:
            from .caller_runs import CallerRuns

            self.pool = self.caller_runs = CallerRuns(
                self.lock,
                self.reader,
                self.flow,
                self._deadlines,
                self.leader_wakeup,
                options.spin,
                self._expire,
                self._write_out,
                self._other_caller_runs,
            )
        self.leader = self.pool.leader
        self.closing = Closing(self)
        self.lingering: set[Call] = set()
        """Whose reply is there, but not yet through ``on_progress``: it stands in no table."""
        self._pid = os.getpid()
        self._foreign = False  # see forget_after_fork()
        self._guarded = self.patches.greenlets  # or foreign: each use is to be checked
        self._begun = False  # starting it
        self._started = False  # and ended doing so
        self._starting = threading.RLock()  # held while it is started; guards _steps
        self._steps = deque(
            (
                self._announce_start,
                self._read_prefix,
                self._start_transport,
                self.pool.start,
                self._watch_child,
            )
        )
        """What is still to be done to start it; each may be done again."""
        self._refusal: Callable[[], SessionClosedError] | None = None
        self._received = Received()
        self.notifications: deque[Served] = deque()
        self.notifying = False  # a NotificationsJob is queued or runs
        self.notifications_are_slow = False
        self.tracebacks = options.tracebacks
        self.send_gate = SendGate(self.lock, self.flow.most_notifications)
        self._payload: Item | None = None  # of what is applied
        self._reports = 0  # that wait for on_exception, or are in it
        self._reports_are_left_out = False
        self._frames_received = 0
        self._stalled_at: int | None = None  # bytes sent when a broadcast had no time left
        self._late = 0
        self._junk = JunkLines(self.lock, self._take_junk)
        self._unreadable = 0
        self._dropped = 0
        self._rules = self._make_rules()

    def check_caller(self) -> None:
        """Notice a fork that Python has not seen, and a thread that must not come here.

        Every way in from the user's code comes by here before it takes a lock, which the fork
        may have left locked for ever.

        Raises:
            RuntimeError: see ``_patches.py``.
        """
        if not at_home[0]:
            look_for_fork()
        if self.patches.greenlets:
            self.patches.check_thread()

    # Life.

    def start(self) -> None:
        """Start reading; a second call does nothing.

        Raises:
            SessionClosedError: the session has ended.
        """
        self.check_caller()
        if self._refusal is not None:
            park_at_exit()
            raise self._refusal()
        if threading.Lock is not self.patches.lock:
            self.patches.check_lock()
        with self._starting:
            while self._steps and not self._started:
                if self.closing.refuses_requests:  # this side has closed it meanwhile
                    raise self.closing.error()
                try:
                    self._steps[0]()
                except BaseException as error:
                    if interrupt_in(error) is None:
                        park_at_exit(error)
                        self.closing.abandon()  # no thread, or no descriptor, is left for it
                    raise  # an interrupt, such as Ctrl-C: whoever comes next goes on with it
                self._steps.popleft()
            self._started = True

    def _announce_start(self) -> None:
        with self.lock:
            if self._refusal is not None:
                raise self._refusal()
            self._begun = True
            self.host.started()

    def _start_transport(self) -> None:
        getattr(self.transport, "session_starts", _nothing)()
        start_pump = getattr(self.endpoint, "start_pump", None)
        if start_pump is not None:
            start_pump(self._pump_failed)

    def _watch_child(self) -> None:
        watch = getattr(self.transport, "watch", None)
        if watch is not None and self.caller_runs is None:
            watch(self.closing.child_exited)

    @property
    def started(self) -> bool:
        """Whether :meth:`start` was called, or something else that starts it."""
        return self._begun

    @property
    def refusal(self) -> Callable[[], SessionClosedError] | None:
        """Makes the error for whoever uses the session now; ``None`` while it is open."""
        return self._refusal

    def refuse(self, reason: Callable[[], SessionClosedError]) -> bool:
        """Take no new requests from now on; return whether this is the first call."""
        with self.lock:
            first = self._refusal is None
            if first:
                self._refusal = reason
            self.send_gate.end_locked()
        return first

    def stats(self) -> Stats:
        """Return the counters."""
        self.check_caller()
        writer = self.writer
        with self.lock:
            running = self.pool.handlers_running()
        return Stats(
            frames_sent=writer.frames_sent,
            frames_received=self._frames_received,
            bytes_sent=writer.bytes_sent,
            bytes_received=self.reader.bytes_received,
            pending=len(self._calls),
            running=running,
            late=self._late,
            junk=self._junk.count,
            dropped=self._dropped,
            unreadable=self._unreadable,
        )

    # Futures.

    def drop(self, future: Any) -> None:
        """Cancel a future that nobody holds any more.

        The garbage collector calls this, in the middle of anything: this very thread may
        hold any lock. Starting a bare thread takes none.
        """
        if self.caller_runs is not None:
            self.caller_runs.drop(future)
            return
        try:
            _thread.start_new_thread(future.cancel, ())
        except (RuntimeError, MemoryError):
            pass  # no thread to be had; its deadline ends it, or the interpreter does

    def check_awaitable(self) -> None:
        """Raise if nobody would read while a coroutine waits."""
        if self.caller_runs is not None and not self.closing.ended.is_set():
            raise RuntimeError(
                "a SyncIpcSession reads only while it is called, so awaiting would never end: "
                "use IpcSession in asyncio"
            )

    def failing(self) -> None:
        """A thread is going to raise the outcome of a request."""
        park_at_exit()

    def look(self) -> None:
        """Without threads: read what is there, for a handler that asks for news."""
        if self.caller_runs is not None:
            self.caller_runs.look()

    # Waiting.

    def wait(self, awaited: Any, end: float | None) -> bool:
        """Wait until ``awaited`` is ready or the time is over; return whether it is ready."""
        if not at_home[0] or self._guarded:
            self.check_caller()
            if self._foreign:
                raise self.closing.error()
        if threading.Lock is not self.patches.lock:
            self.patches.check_lock()
        if self.caller_runs is not None:
            ready = self.caller_runs.wait(awaited, end)
            if self.reader.ended:
                park_at_exit()
            return ready
        thread = current_pool_thread()
        if thread is None:
            ready = self.leader.wait(awaited, end)
            if self.reader.ended:
                park_at_exit()
            return ready
        task = thread.task
        assert task is not None
        thread.pool.enter_wait(task)
        try:
            return self.leader.wait(awaited, end)
        finally:
            thread.pool.leave_wait(task)

    def _other_caller_runs(self) -> list[CallerRuns]:
        """Return those of the peer's other sessions that have no thread either."""
        return [
            one.caller_runs
            for one in self.host.engines()
            if one is not self and one.caller_runs is not None
        ]

    def tick(self, timeout: float | None) -> bool:
        """Without threads: read once and run what came of it; tell whether there was input."""
        assert self.caller_runs is not None
        return self.caller_runs.tick(None if timeout is None else time.monotonic() + timeout)

    def serve(self, stop: Callable[[], bool]) -> None:
        """Without threads: read and work until the session is over, or ``stop`` says so."""
        assert self.caller_runs is not None
        ended = self.closing.ended.is_set
        self.caller_runs.wait_for_end(lambda: ended() or stop(), None)
        self.caller_runs.run_tasks()

    def receive(self, timeout: float | None) -> Message:
        """Return the next notification that no handler took."""
        self.check_caller()
        received = self._received
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            ended = received.ended  # asked before: the last may come with the end, after our look
            try:
                item = received.items.popleft()
            except IndexError:
                pass  # or another thread has taken what woke us
            else:
                if isinstance(item, Held):
                    return self.flow.take(item).message  # type: ignore[union-attr]
                return item
            if ended:
                park_at_exit()
                raise self.closing.error()
            if self._refusal is None or not self._started:
                try:
                    self.start()
                except SessionClosedError:
                    if not self._begun:
                        raise  # otherwise it has ended just now, and the last may have come
            if not self.wait(received, end):
                raise RequestTimeoutError(f"no notification came within {timeout:g} s")

    # Time.

    def remind(self, served: Served) -> None:
        """Call what ``on_cancel`` was given when the deadline of a request has passed."""
        assert served.deadline is not None
        served.reminder = reminder = Reminder(served)
        with self.lock:
            self._deadlines.add(served.deadline, reminder)
            self.pool.deadline_added(served.deadline)

    def _expire(self, calls: list[Any], known_to_peer: bool = True) -> None:
        """Fail requests whose time is over, and tell the peer if it will have heard of them."""
        for call in calls:
            if isinstance(call, Reminder):
                self.call_soon(call.callbacks())
                continue
            if call is self._junk:
                if time.monotonic() >= self._junk.due:  # not so for a line before this one
                    self._junk.end_line()
                continue
            known = self._forget(call)
            if not (known or call.lingers):
                continue
            error = RequestTimeoutError(
                f"no reply to {call.name} (request {call.id!r}) "
                f"within {call.timeout:g} s{self._came_instead(call.timeout)}"
            )
            # Where the peer has not read for long, cancels would pile up. It knows the
            # deadlines of what it has read, and will see those of what it is going to read.
            heard = known and known_to_peer and not self.writer.withdraw(call.frame)
            if heard and self.writer.backlog <= _NOT_READ:
                self._send_control(Cancel(call.id))
            self.settle(call, None, error)

    def _came_instead(self, seconds: float) -> str:
        # Where nothing else has come at all, what stood there before the request counts too.
        since = time.monotonic() - seconds - _LATE if self._frames_received else 0.0
        return self._junk.seen.text(since, self.connection.unfinished())

    # The end.

    def session(self) -> IpcSession:
        """Return the session, for handlers that ask for it."""
        return self.host.session()

    def report(self, error: BaseException) -> None:
        """Hand an error that no caller gets to the session."""
        if self.caller_runs is not None and isinstance(error, KeyboardInterrupt):
            self.caller_runs.interrupted = True  # Ctrl-C was meant for the thread that waits
            return
        self.host.report(error)

    def _report_soon(self, error: Exception) -> None:
        """As :meth:`report`, for the thread that reads: the user's code runs elsewhere."""
        most = self.flow.limits.waiting_errors
        if self._reports >= most:
            if not self._reports_are_left_out:
                self._reports_are_left_out = True
                text = (
                    f"more than {most:,} errors wait for on_exception: those that come now "
                    "are only counted (session.stats.unreadable)"
                )
                self.pool.submit(CallJob(lambda: self.host.warn(text), self.report))
            return
        with self.lock:
            self._reports += 1
        release_frames(error)
        self.pool.submit(CallJob(lambda: self._report_waiting(error), self.report))

    def _report_waiting(self, error: Exception) -> None:
        try:
            self.report(error)
        finally:
            with self.lock:
                self._reports -= 1

    def _may_read_on(self) -> None:
        self.pool.may_read_on()

    def _wait_for_room(self, timeout: float | None) -> bool:
        assert self.caller_runs is not None
        return self.caller_runs.wait_for_room(self.channel, timeout)

    def _stream_ended(self, error: Exception | None) -> None:
        self.closing.stream_ended(error)

    def _pool_failed(self, error: BaseException) -> None:
        """A thread of the pool has failed: the session can't be relied on any more."""
        self.closing.failed(error)

    def _write_failed(self, error: Exception) -> None:
        self.closing.write_failed(error)

    def _pump_failed(self, error: Exception) -> None:
        """A transport that blocks has raised when it was written to, or told of the end."""
        if self.writer.is_broken() and not isinstance(error, OSError):
            self._report_soon(error)  # a mistake in its close_write(): nothing else will say it
        self.writer.fail_with(error)

    def take_calls(self) -> list[Call]:
        """Take out and return all pending requests."""
        with self.lock:
            calls = list(self._calls.values())
            self._calls.clear()
        return calls

    def end_receiving(self) -> None:
        """Have ``receive()`` raise once what is there has been taken."""
        self._junk.end_line()
        self._received.ended = True
        for lock in tuple(self._received.wakers):
            wake(lock)

    def is_foreign(self) -> bool:
        """Tell whether this is a copy in a forked process."""
        if at_home[0]:
            return self._foreign
        look_for_fork()
        # Asked by a finalizer, in the midst of it, that may come before our turn.
        return self._foreign or os.getpid() != self._pid

    def forget_after_fork(self) -> None:
        """Make this copy, in a forked child, inert: also for the thread that has forked.

        That may be one of the pool's, in a handler: it must find its way out.
        """
        pid = self._pid
        self._foreign = self._guarded = True

        def reason() -> SessionClosedError:
            return SessionClosedError(
                f"this session belongs to process {pid}, from which this one (pid {os.getpid()}) "
                "was forked: make a session of your own here"
            )

        self._refusal = reason
        renew(self.lock)
        renew(self._starting)
        self.closing.forget_after_fork()
        self.writer.forget_after_fork()
        self.pool.forget_after_fork()
        getattr(self.transport, "close_after_fork", _nothing)()
        if self.endpoint is not self.transport:
            self.endpoint.close_after_fork()
        self.io_wakeup.close_after_fork()
        self.leader_wakeup.close_after_fork()
        self.channel.close_after_fork()
        for call in self.take_calls():
            call.abandon_after_fork(reason())
        for served in list(self.connection.served.values()):
            if isinstance(served, Served):  # not so while it is on its way from the reader
                served.forget_after_fork()
        self.notifications.clear()
        self._received.items.clear()
        self._received.ended = True

    def _read_prefix(self) -> None:
        """Read what was read ahead of the session: no poll reports it."""
        if not getattr(self.endpoint, "prefix", None):
            return

        def read() -> None:
            for source in list(self.endpoint.prefix):
                while source in self.endpoint.prefix:
                    self.reader.read_source(source)

        self.leader.lead(read)


def _nothing() -> None:
    pass
