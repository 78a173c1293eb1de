"""The workers of a pool in one process: starts, ends and replaces them as the scheduler decides."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._signals import let_through
from .._threads import make_thread, start_thread
from ..exceptions import SessionClosedError, WorkerLostError, WorkersUnavailableError
from .children import Child, Launcher
from .jobs import State
from .reports import Counts, Reports
from .scheduler import Scheduler
from .turns import Action, Turns

if TYPE_CHECKING:
    from ..session import IpcSession

__all__ = ["Staff"]

_CLOSING = 5.0
"""Seconds for a worker that is replaced to end by itself; it has nothing to do any more."""


class Staff:
    """See the module's text.

    Args:
        name: of the pool.
        turns: are told what has become of workers.
        scheduler: decides which there are.
        launcher: starts and ends their processes.
        reports: are told as well.
        counts: of the pool.
        prepare: called with a worker and its new session, before that starts.

    Attributes:
        last_error: how the last worker has died that was not to, or why none could be started.
    """

    def __init__(
        self,
        name: str,
        turns: Turns,
        scheduler: Scheduler,
        launcher: Launcher,
        reports: Reports,
        counts: Counts,
        prepare: Callable[[Child, IpcSession], object],
    ) -> None:
        self._name = name
        self._turns = turns
        self._scheduler = scheduler
        self._launcher = launcher
        self._reports = reports
        self._counts = counts
        self._prepare = prepare
        self._dead: deque[Child] = deque()  # their sessions are still to be closed
        self._threads: set[threading.Thread] = set()  # of those that are being started or ended
        self._closing = _CLOSING
        self.last_error: Exception | None = None

    def has_work(self) -> bool:
        """Tell whether a worker is to be started or ended."""
        return bool(self._scheduler.to_start or self._scheduler.to_end or self._dead)

    def take(self) -> list[Action]:
        """See :class:`Source`."""
        scheduler = self._scheduler
        if not (scheduler.to_start or scheduler.to_end or self._dead):
            return []
        actions: list[Action] = []
        while scheduler.to_start:
            worker: Any = scheduler.to_start.popleft()
            if worker in scheduler.workers:
                actions.append((self._in_thread, ("starting", self._start, worker)))
        while scheduler.to_end:
            worker = scheduler.to_end.popleft()
            if worker.session is not None and not worker.is_ending:
                worker.is_ending = True
                if worker.is_killed:
                    actions.append((self._launcher.kill, (worker.session,)))
                actions.append((self._in_thread, ("ending", self._end, worker)))
        while self._dead:
            worker = self._dead.popleft()
            if worker.session is not None and not worker.is_ending:
                worker.is_ending = True
                actions.append((self._in_thread, ("ending", self._end, worker)))
        return actions

    def _in_thread(self, what: str, function: Callable[..., object], *args: Any) -> None:
        if not self._turns.has_threads:
            function(*args)
            return
        thread = make_thread(function, *args, name=f"streamipc-pool-{what}")
        try:
            start_thread(thread)
        except (RuntimeError, MemoryError) as error:  # none to be had
            let_through(error)
            function(*args)
        else:
            self._threads = {one for one in self._threads if one.is_alive()} | {thread}

    # A start.

    def _start(self, worker: Child) -> None:
        session: IpcSession | None = None
        try:
            session = self._launcher.make()
            self._prepare(worker, session)
            with self._turns.lock:
                worker.session = session
                self._counts.started += 1
                is_wanted = worker.state is State.STARTING and worker in self._scheduler.workers
            if not is_wanted:
                self._end(worker)
                return
            self._reports.add("started", worker)
            session.on_close(lambda ended: self._session_ended(worker, ended))
            self._launcher.wait_until_ready(session)
        except Exception as error:
            let_through(error)
            # First of all: the end of the session would tell something else.
            self._turns.post(self.gone, worker, error)
            if session is not None:
                self._launcher.kill(session)
                self._launcher.end(session, 0.0)
        else:
            self._turns.post(self._is_ready, worker)

    def _is_ready(self, worker: Child, now: float) -> None:
        if worker.state is State.STARTING and worker in self._scheduler.workers:
            worker.was_ready = True
            self._scheduler.ready(worker, now)
            self._reports.add("ready", worker)

    # An end.

    def _end(self, worker: Child) -> None:
        """End a worker's process and session, and wait for that."""
        if worker.session is not None:
            is_soft = worker.was_ready and worker.error is None and not worker.is_killed
            self._launcher.end(worker.session, self._closing if is_soft else 0.0)
        self._turns.post(self.gone, worker, None)

    def _session_ended(self, worker: Child, session: IpcSession) -> None:
        # Not under the lock: the exit status may take some ms.
        self._turns.post(self.gone, worker, session.closed_error)

    def gone(self, worker: Child, error: Exception | None, now: float) -> None:
        """A worker takes no more; ``error`` says why. May be called more than once for each."""
        scheduler, counts = self._scheduler, self._counts
        if worker not in scheduler.workers:
            return
        was_wanted = worker.state not in (State.DRAINING, State.ENDING)
        if was_wanted:
            worker.error = self.last_error = error
        scheduler.gone(worker, now)
        if was_wanted:
            counts.died += 1
            self._reports.add("died", worker, self._obituary(worker))
            # The process may live on: it has closed its output, for one.
            self._dead.append(worker)
            if scheduler.is_down(now):
                self._reports.add("unavailable", worker)
        elif worker.is_killed:
            counts.killed += 1
            worker.error = WorkerLostError("it was killed: a request took longer than it might")
            self._reports.add("died", worker, self._obituary(worker))
        else:
            counts.retired += 1
            self._reports.add("retired", worker)

    def _obituary(self, worker: Child) -> str:
        who = "a worker" if worker.pid is None else f"the worker with pid {worker.pid}"
        if worker.is_killed:
            return f"{who} was killed: a request took longer than its timeout and kill_grace"
        backoff = self._scheduler.backoff
        text = f"{who} has died: {worker.error}"
        if worker.session is None:
            text = f"no worker could be started: {worker.error}"
        if backoff.is_exhausted:
            text = (
                f"{text}\n{backoff.row} workers in a row died before they had answered anything: "
                "from now on one is started only when a request asks for it"
            )
        return text

    def unavailable_error(self, what: str) -> WorkersUnavailableError:
        """Return the error for a request that can have no worker."""
        scheduler, last = self._scheduler, self.last_error
        pause = scheduler.backoff.pause(time.monotonic())
        row = scheduler.backoff.row
        if scheduler.size == 0:
            why = "its size is 0"
        elif row:
            why = f"{row} in a row died before they had answered anything"
        else:
            why = "none was ready in time"
        text = f"{what}the pool {self._name!r} has no worker: {why}"
        if pause:
            text = f"{text}; the next one is started in {pause:.1f} s"
        if last is not None:
            text = f"{text}; how the last one ended: {last}"
        error = WorkersUnavailableError(
            text,
            retry_after=pause,
            returncode=getattr(last, "returncode", None),
            signal=getattr(last, "signal", None),
            stderr_tail=getattr(last, "stderr_tail", ""),
        )
        error.__cause__ = last
        return error

    def closed_error(self, what: str = "") -> SessionClosedError:
        """Return the error for a pool that is closed."""
        return SessionClosedError(f"{what}the pool {self._name!r} is closed", executed=False)

    def dismiss(self, timeout: float) -> None:
        """End all workers; ``timeout``: seconds for each to go by itself."""
        self._closing = timeout
        self._turns.post(self._scheduler.end_all)

    def join(self, until: float) -> None:
        """Wait for the threads that start and end workers."""
        for thread in [*self._threads]:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
