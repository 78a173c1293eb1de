"""The pool of one process: its parts, put together.

A :class:`WorkerPool` makes one when it is first used, and another one in each process that is
forked from there: nothing of this is shared with the parent.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .._forks import forgets
from .._signals import let_through
from .._threads import make_thread, start_thread
from ..engine.lifetimes import before_exit, park_at_exit
from ..exceptions import SessionClosedError
from .children import Child, Launcher
from .contracts import PoolStats, WorkerInfo
from .futures import Owner
from .reports import Counts, Reports, info_of
from .requests import Requests
from .scheduler import Scheduler
from .staff import Staff
from .tickets import CallTicket
from .turns import Turns

if TYPE_CHECKING:
    from ..messages import Message
    from ..peer import IpcPeer
    from ..session import IpcSession

__all__ = ["LocalPool", "close_all"]

T = TypeVar("T")

_TICK = 0.05
"""Seconds between two looks for a worker, where sessions have no threads."""

_pools: weakref.WeakSet[LocalPool] = weakref.WeakSet()


class LocalPool:
    """See the module's text.

    Args:
        name: of the pool.
        peer: makes the sessions.
        scheduler: decides.
        launcher: starts and ends processes.
        has_threads: whether sessions have threads.
        on_event: the user's function for events.
        prepare: registers the pool's handlers with a new session.
    """

    def __init__(
        self,
        name: str,
        peer: IpcPeer,
        scheduler: Scheduler,
        launcher: Launcher,
        *,
        has_threads: bool,
        on_event: Callable[[str, WorkerInfo], object] | None,
        prepare: Callable[[IpcSession], object],
    ) -> None:
        self.peer = peer
        self.scheduler = scheduler
        self.has_threads = has_threads
        self._counts = Counts()
        self._prepare_session = prepare
        self.turns = Turns(f"streamipc-pool-{name}", scheduler, has_threads)
        reports = Reports(name, on_event)
        self.staff = Staff(
            name, self.turns, scheduler, launcher, reports, self._counts, self._prepare
        )
        self.requests = Requests(self.turns, scheduler, self.staff, self._counts)
        self.owner = Owner(self.requests.cancel)
        self.turns.sources += [self.requests, self.staff]
        self.turns.supervised.append(reports)
        self._is_closed = False
        _pools.add(self)
        forgets(self)

    def _prepare(self, worker: Child, session: IpcSession) -> None:
        session.on_late(lambda id: self.requests.came_late(worker, id))  # noqa: A006
        self._prepare_session(session)

    # Waiting for a worker, and asking it.

    def call(self, ticket: CallTicket, question: Callable[[IpcSession], T]) -> T:
        """Wait for a worker, ask it, and return its answer.

        Args:
            ticket: the turn of the calling thread; new.
            question: called with the session of the worker.
        """
        answers: list[T] = []
        try:
            self._ask(ticket, question, answers)
        finally:
            # Also if an interrupt has come. Another one may, but not before this.
            self.turns.inbox.append((self.requests.finish, (ticket, ticket.worker, answers)))
            self.turns.take()
        return answers[0]

    def stream(self, ticket: CallTicket, question: Callable[[IpcSession], T]) -> T:
        """Likewise for a stream, which keeps the worker until it ends."""
        streams: list[T] = []
        try:
            self._ask(ticket, question, streams)
            return streams[0]
        except BaseException:
            self.turns.inbox.append((self.requests.finish, (ticket, ticket.worker, ())))
            self.turns.take()
            raise

    def _ask(
        self, ticket: CallTicket, question: Callable[[IpcSession], T], answers: list[T]
    ) -> None:
        """Wait for a worker, and ask it; ask another one where that is allowed."""
        self.turns.check_wait()
        self.requests.submit(ticket)
        while not answers:
            worker = self._wait_for_worker(ticket)
            try:
                # The answer is kept in the same step in which it is there.
                answers.extend(map(question, (worker.session,)))  # type: ignore[arg-type]
            except Exception as error:
                let_through(error)
                self.requests.failed(ticket, worker, error)

    def _wait_for_worker(self, ticket: CallTicket) -> Child:
        while not ticket.wait(None if self.has_threads else 0.0):
            if not self.peer.tick(_TICK):
                time.sleep(0.001)
            self.turns.take()
        if ticket.error is not None:
            park_at_exit()
            raise ticket.error
        worker: Any = ticket.worker
        return worker  # type: ignore[no-any-return]

    # What is asked of all workers.

    def infos(self) -> list[WorkerInfo]:
        """Return a snapshot of each worker."""
        with self.turns.lock:
            return [info_of(worker) for worker in self.scheduler.workers]

    def stats(self) -> PoolStats:
        """Return a snapshot of the counters."""
        scheduler, counts = self.scheduler, self._counts
        with self.turns.lock:
            return PoolStats(
                size=scheduler.size,
                workers=scheduler.taking(),
                waiting=len(scheduler.waiting),
                running=scheduler.running,
                done=counts.done,
                timed_out=counts.timed_out,
                lost=counts.lost,
                retried=counts.retried,
                started=counts.started,
                died=counts.died,
                killed=counts.killed,
                retired=counts.retired,
            )

    def sessions(self) -> list[tuple[Child, IpcSession]]:
        """Return the workers that have a session, with it."""
        with self.turns.lock:
            workers: list[Any] = [*self.scheduler.workers]
        return [(worker, worker.session) for worker in workers if worker.session is not None]

    def broadcast(self, message: Message, timeout: float) -> dict[WorkerInfo, Exception]:
        """Notify all workers that have a session; return what went wrong."""
        until = time.monotonic() + timeout
        failures: dict[WorkerInfo, Exception] = {}
        sessions = self.sessions()
        for number, (worker, session) in enumerate(sessions):
            # A share for each: one that is stuck does not take the time of all.
            share = max(0.0, until - time.monotonic()) / (len(sessions) - number)
            try:
                session.notify(message, share)
            except Exception as error:
                let_through(error)
                failures[info_of(worker)] = error
        return failures

    # The end.

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more."""
        return self.scheduler.is_closing

    def close(self, timeout: float) -> None:
        """Take nothing more; see what is asked to its end, then end the workers.

        Args:
            timeout: seconds for all of this. From a thread of the pool's, such as that of
                ``on_event``, it returns at once, and does it behind that.
        """
        if self.turns.is_supervisor():
            start_thread(make_thread(self.close, timeout, name="streamipc-pool-closing"))
            return
        until = time.monotonic() + timeout
        self.turns.post(self.scheduler.close)
        self.wait_until(lambda: self.scheduler.is_quiet, until - timeout * 0.2)
        self.end(max(0.0, until - time.monotonic()))

    def end(self, timeout: float) -> None:
        """Fail what is left, and end the workers."""
        until = time.monotonic() + timeout
        self.turns.post(self.scheduler.abort)
        self.staff.dismiss(timeout)
        self.wait_until(lambda: not self.scheduler.workers, until + 3)
        self.turns.stop()
        self.staff.join(until + 3)

    def abandon(self) -> None:
        """Nobody holds the pool any more; called by a finalizer, so it waits for nothing."""
        self.turns.post(self._abandon)

    def _abandon(self, now: float) -> None:
        self.scheduler.abort(now)
        self.scheduler.end_all(now)

    def wait_until(self, predicate: Callable[[], bool], until: float | None) -> bool:
        """Wait until a predicate is true, which is asked under the lock; see :class:`Turns`."""
        if self.has_threads:
            return self.turns.wait_until(predicate, until)
        while True:
            self.turns.take()
            if predicate():
                return True
            now = time.monotonic()
            if until is not None and now >= until:
                return False
            if not self.peer.tick(_TICK if until is None else min(_TICK, until - now)):
                time.sleep(0.001)

    def forget_after_fork(self) -> None:
        """Let go of everything, in a forked process: the workers are the parent's."""
        _pools.discard(self)
        self.turns.forget_after_fork()
        error = SessionClosedError(
            "this request belongs to the process from which this one was forked"
        )
        tickets: list[Any] = [*self.scheduler.jobs()]
        for ticket in tickets:
            ticket.abandon_after_fork(error)


def close_all() -> None:
    """Start no more workers: the interpreter ends, and the sessions of all are about to."""
    for pool in list(_pools):
        pool.turns.post(pool.scheduler.let_go)


before_exit.append(close_all)
