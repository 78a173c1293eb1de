"""One session's machinery: builds its parts, which do the work; starts it, waits, counts.

Owns the steps of the start, guarded by ``_starting``; each stays until it is done, and may be done
again. What else changes belongs to a part: each opens with what it owns, under which lock, and what
is true of it at any moment. A part gets what it needs when it is made. Where two need each other,
the one that is made first gets a function of this file that asks the other.

A call out: ``Outgoing.call`` encodes it and enters it in the table, ``Writer.send`` writes it. Then
``Engine.wait`` and ``Leader.wait`` lead, or follow: ``Reader.read``, ``Dispatcher.apply``,
``Outgoing.try_reply``, ``Call.settle``.

A call in: whoever leads does ``Reader.read``, ``Dispatcher.apply``, ``Responder.request_received``
and ``submit_read`` of the pool. Then the I/O thread, or another one of the pool, does
``IncomingRequest.run``: the handler, ``Responder.answer``, ``Writer.offer`` or ``Writer.send``.

The lock (``Engine.lock``) guards the deadlines, the thread pool, the engine's own state, and who
enters the table of our calls. It is held for a few microseconds at a time, but while a thread is
started; never during input, output, encoding, decoding, a handler or a callback. The writer has a
lock of its own and never takes this one while it holds it; nor the other way round. Each lock that
guards anything may be taken again by its holder: a finalizer may come at any moment. So no step
under one trusts what it saw before its last call; and who holds one waits for nothing
(``reentry.py``).
"""

from __future__ import annotations

import _thread
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._forks import at_home, renew
from .._signals import interrupt_in, let_through
from ..messages import LogMessage
from ..protocol import events
from ..protocol.connection import Connection
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
from .channel import Channel
from .contracts import Host, Stats
from .control import ControlSender
from .deadlines import Deadlines, Reminder
from .dispatcher import Dispatcher
from .errors import ErrorReports
from .faults import Faults
from .flow import Flow
from .inbox import Inbox
from .io_thread import IoThread
from .junk import JunkLines
from .late import LateAnswers
from .leader import Leader
from .lifecycle import Lifecycle
from .lifetimes import park_at_exit
from .notifier import Notifier
from .outgoing import Outgoing
from .poller import Poller, two_wakeups
from .pool_thread import current_pool_thread
from .reader import Reader
from .reentry import Reentry
from .responder import Responder
from .send_gate import SendGate
from .shutdown import Shutdown
from .thread_pool import ThreadPool
from .writer import Writer

if TYPE_CHECKING:
    from .caller_runs import CallerRuns
    from .options import Options
    from .transport import TransportAdapter

__all__ = ["Engine"]


class Engine:
    """See the module's text. One for each session.

    Args:
        adapter: of the transport, which the engine owns.
        options: settings.
        host: the session's side.
        name: of the threads.
        threads: ``False``: whoever waits reads and runs handlers; see ``caller_runs.py``.

    Raises:
        ValueError: the transport blocks, and there are no threads to wait for it.
    """

    # Parts that others, which are made before them, ask by way of a function.
    control: ControlSender
    errors: ErrorReports
    inbox: Inbox
    reentry: Reentry
    shutdown: Shutdown

    def __init__(
        self,
        adapter: TransportAdapter,
        options: Options,
        host: Host,
        name: str,
        threads: bool = True,
    ) -> None:
        if not (adapter.is_direct or threads):
            raise ValueError(
                "a session without threads needs a transport that can be polled (pipes, sockets, "
                "terminals on a POSIX system), for threads copy from and to any other; use "
                "IpcSession for this one"
            )
        endpoint = adapter.endpoint
        fds, limits = endpoint.read_fds, options.limits
        self.adapter = adapter
        self.endpoint = endpoint
        self.host = host
        self.lock = lock = threading.RLock()
        self.connection = connection = Connection(
            options.serializer, options.max_frame_size, len(fds)
        )
        self.deadlines = Deadlines(connection.calls)
        self.flow = Flow(
            lock,
            limits,
            options.max_frame_size,
            connection.decode_again,
            connection.is_ours,
            lambda: self.pool.may_read_on(),
        )
        self.send_gate = SendGate(
            lock, self.flow.most_notifications, lambda: self.reentry.is_inside()
        )
        self.lifecycle = Lifecycle(
            lock,
            host,
            self.start,
            lambda: self.reader.bytes_received > 0,
            self.send_gate.end_locked,
        )
        self.junk = JunkLines(
            lock, lambda line: self.inbox.take(LogMessage(line, "junk")), self._remind_locked
        )
        actions: dict[type, Callable[[Any], object]] = {}
        short_cuts: dict[type, Callable[[Any], bool]] = {}
        self.dispatcher = Dispatcher(
            connection,
            actions,
            short_cuts,
            self.junk,
            lambda error: self.errors.report_soon(error),
            lambda: self.pool.expire_due(),
        )
        self.leader_wakeup, self.io_wakeup = two_wakeups()
        self.reader = Reader(
            connection,
            endpoint.read_into,
            fds,
            self.leader_wakeup,
            endpoint.read_logs,
            self.dispatcher.apply,
            lambda error: self.shutdown.stream_ended(error),
            self.flow,
        )
        self.channel = Channel(
            endpoint,
            lambda: self.inbox.room_is_awaited(),
            None if threads else self._wait_for_room,
        )
        self.writer = Writer(
            self.channel,
            lambda: self.control.write_backlog(),
            lambda error: self.shutdown.write_failed(error),
            lambda: self.reentry.is_inside(),
        )
        self.reentry = Reentry(lock, self.writer, lambda: self.leader.thread, lambda: self.pool)
        self.leader = Leader(self.reader, self.leader_wakeup, options.spin, self.reentry.check_wait)
        self.pool: ThreadPool | CallerRuns
        self.caller_runs: CallerRuns | None = None
        if threads:
            io_thread = IoThread(
                lock,
                self.reader,
                self.leader,
                self.deadlines,
                Poller(fds, self.io_wakeup.fileno()),
                self.io_wakeup,
                options.spin,
                self._expire,
                self.writer.flush_some,
                self.writer.is_congested,
            )
            self.pool = ThreadPool(
                lock,
                self.flow,
                io_thread,
                options.handler_threads,
                name,
                self.writer.flush_some,
                lambda error: self.shutdown.failed(error),
            )
        else:
            from .caller_runs import CallerRuns

            self.pool = self.caller_runs = CallerRuns(
                lock,
                self.reader,
                self.leader,
                self.flow,
                self.deadlines,
                self._expire,
                lambda: self.control.flush(),
                self._other_caller_runs,
            )
        self.errors = ErrorReports(lock, host, self.pool, self.caller_runs, limits.waiting_errors)
        self.late_answers = LateAnswers(self.pool, self.errors)
        self.control = ControlSender(
            connection.encode,
            self.writer,
            self.flow,
            self.pool,
            self.errors,
            lambda: self.shutdown.until(),
        )
        self.notifier = Notifier(connection, self.lifecycle, self.send_gate, self.writer)
        self.outgoing = Outgoing(
            lock=lock,
            connection=connection,
            deadlines=self.deadlines,
            next_id=options.next_id or itertools.count(1).__next__,
            lifecycle=self.lifecycle,
            writer=self.writer,
            control=self.control,
            flow=self.flow,
            pool=self.pool,
            errors=self.errors,
            late_answers=self.late_answers,
            wait=self.wait,
            drop=_drop if self.caller_runs is None else self.caller_runs.drop,
            check_awaitable=self._check_awaitable,
            came_instead=self.dispatcher.came_instead,
        )
        self.responder = Responder(
            lock=lock,
            connection=connection,
            lifecycle=self.lifecycle,
            host=host,
            writer=self.writer,
            control=self.control,
            flow=self.flow,
            pool=self.pool,
            errors=self.errors,
            remind_locked=self._remind_locked,
            tracebacks=options.tracebacks,
            answers_cancelled=adapter.answers_cancelled,
            wait=self.wait,
            look=_nothing if self.caller_runs is None else self.caller_runs.look,
        )
        self.inbox = Inbox(
            lock=lock,
            connection=connection,
            lifecycle=self.lifecycle,
            host=host,
            flow=self.flow,
            send_gate=self.send_gate,
            pool=self.pool,
            channel=self.channel,
            errors=self.errors,
            responder=self.responder,
            wait=self.wait,
            has_threads=threads,
        )
        self.faults = Faults(
            self.control, self.errors, self.outgoing, self.inbox, self.late_answers
        )
        short_cuts.update(
            {
                Response: self.outgoing.try_reply,
                Notification: self.inbox.try_notification,
                Progress: self.outgoing.try_item,
            }
        )
        actions.update(
            {
                Request: self.responder.request_received,
                Cancel: self.responder.cancel_received,
                Credit: self.responder.credit_received,
                Response: self.outgoing.response_received,
                ErrorResponse: self.outgoing.error_received,
                Progress: self.outgoing.progress_received,
                events.ReplyFailed: self.outgoing.reply_failed,
                events.ItemFailed: self.outgoing.item_failed,
                Notification: self.inbox.notification_received,
                Junk: self.junk.received,
                events.Late: self.faults.came_late,
                events.Violation: self.faults.broke_a_rule,
                events.Rejected: self.faults.was_rejected,
                events.Mismatch: self.faults.uses_another_serializer,
                events.Skipped: self.faults.was_skipped,
                events.PeerSkipped: self.faults.skipped_ours,
            }
        )
        self.shutdown = Shutdown(
            lock=lock,
            lifecycle=self.lifecycle,
            host=host,
            adapter=adapter,
            reader=self.reader,
            leader=self.leader,
            junk=self.junk,
            writer=self.writer,
            channel=self.channel,
            pool=self.pool,
            caller_runs=self.caller_runs,
            reentry=self.reentry,
            outgoing=self.outgoing,
            responder=self.responder,
            inbox=self.inbox,
            errors=self.errors,
            descriptors=(self.io_wakeup.close, self.leader_wakeup.close, self.channel.close),
        )
        self._starting = threading.RLock()  # held while it is started; guards _steps
        self._steps = deque(
            (
                self.lifecycle.begin,
                self._read_prefix,
                self._start_transport,
                self.pool.start,
                self._watch_child,
            )
        )

    # Life.

    def start(self) -> None:
        """Start reading; a second call does nothing.

        Raises:
            SessionClosedError: the session has ended.
        """
        lifecycle = self.lifecycle
        lifecycle.check_caller()
        if lifecycle.refusal is not None:
            park_at_exit()
            raise lifecycle.refusal()
        if threading.Lock is not lifecycle.patches.lock:
            lifecycle.patches.check_lock()
        with self._starting:
            while self._steps and not lifecycle.started:
                if lifecycle.is_closing:  # this side has closed it meanwhile
                    raise lifecycle.error()
                step = self._steps[0]
                try:
                    step()
                except BaseException as error:
                    if interrupt_in(error) is None:
                        park_at_exit(error)
                        self.shutdown.abandon()  # no thread, or no descriptor, is left for it
                    raise  # an interrupt, such as Ctrl-C: whoever comes next goes on with it
                if self._steps and self._steps[0] is step:  # or a finalizer has come by here
                    self._steps.popleft()
            if not lifecycle.started:
                lifecycle.open()

    def _read_prefix(self) -> None:
        """Read what was read ahead of the session: no poll reports it."""
        if not self.endpoint.prefix:
            return

        def read() -> None:
            for source in list(self.endpoint.prefix):
                while source in self.endpoint.prefix:
                    self.reader.read_source(source)

        self.leader.lead(read)

    def _start_transport(self) -> None:
        self.adapter.session_starts()
        self.adapter.start_pump(self._pump_failed)

    def _watch_child(self) -> None:
        if self.adapter.watch is not None and self.caller_runs is None:
            self.adapter.watch(self.shutdown.child_exited)

    def forget_after_fork(self) -> None:
        """Make this copy, in a forked child, inert: also for the thread that has forked.

        That may be one of the pool's, in a handler: it must find its way out.
        """
        reason = self.lifecycle.forget_after_fork()
        renew(self.lock)
        renew(self._starting)
        self.shutdown.forget_after_fork()
        self.writer.forget_after_fork()
        self.pool.forget_after_fork()
        self.adapter.close_after_fork()
        self.io_wakeup.close_after_fork()
        self.leader_wakeup.close_after_fork()
        self.channel.close_after_fork()
        self.outgoing.forget_after_fork(reason)
        self.responder.forget_after_fork()
        self.inbox.forget_after_fork()

    # Waiting.

    def wait(self, awaited: Any, end: float | None) -> bool:
        """Wait until ``awaited`` is ready or the time is over; return whether it is ready."""
        lifecycle = self.lifecycle
        if not at_home[0] or lifecycle.is_guarded:
            lifecycle.check_caller()
            if lifecycle.is_forked():
                raise lifecycle.error()
        if threading.Lock is not lifecycle.patches.lock:
            lifecycle.patches.check_lock()  # gevent has patched it since
        if self.caller_runs is not None:
            self.reentry.check_wait()
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

    def _check_awaitable(self) -> None:
        """Raise if nobody would read while a coroutine waits."""
        if self.caller_runs is not None and not self.shutdown.ended.is_set():
            raise RuntimeError(
                "a SyncIpcSession reads only while it is called, so awaiting would never end: "
                "use IpcSession in asyncio"
            )

    # What the parts ask of those that are made after them.

    def _wait_for_room(self, timeout: float | None) -> bool:
        assert self.caller_runs is not None
        return self.caller_runs.wait_for_room(self.channel, timeout)

    def _remind_locked(self, due: float, one: Reminder | JunkLines) -> None:
        """Have :meth:`_expire` called with ``one`` when its time is over."""
        self.deadlines.add(due, one)
        self.pool.deadline_added(due)

    def _expire(self, due: list[Any]) -> None:
        """See to those whose time is over."""
        for one in due:
            if isinstance(one, Reminder):
                self.responder.call_soon(one.callbacks())
            elif one is self.junk:
                one.time_is_over()
            else:
                self.outgoing.expire(one)

    def _pump_failed(self, error: Exception) -> None:
        """A transport that blocks has raised when it was written to, or told of the end."""
        if self.writer.is_broken() and not isinstance(error, OSError):
            self.errors.report_soon(error)  # a mistake in close_write(): nothing else will say it
        self.writer.fail_with(error)

    def _other_caller_runs(self) -> list[CallerRuns]:
        """Return those of the peer's other sessions that have no thread either."""
        return [one for one in self.host.caller_runs() if one is not self.caller_runs]

    # Looking.

    def stats(self) -> Stats:
        """Return the counters."""
        self.lifecycle.check_caller()
        with self.lock:
            running = self.pool.handlers_running()
        return Stats(
            frames_sent=self.writer.frames_sent,
            frames_received=self.dispatcher.frames_received,
            bytes_sent=self.writer.bytes_sent,
            bytes_received=self.reader.bytes_received,
            pending=self.outgoing.pending,
            running=running,
            late=self.faults.late,
            junk=self.junk.count,
            dropped=self.inbox.dropped,
            unreadable=self.faults.unreadable,
        )


def _drop(future: Any) -> None:
    """Cancel a future that nobody holds any more.

    The garbage collector calls this, in the middle of anything: this very thread may
    hold any lock. Starting a bare thread takes none.
    """
    try:
        _thread.start_new_thread(future.cancel, ())
    except (RuntimeError, MemoryError) as error:
        let_through(error)
        # Or there is no thread to be had: its deadline ends it, or the interpreter does.


def _nothing() -> None:
    pass
