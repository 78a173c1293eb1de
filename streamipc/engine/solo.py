"""A session without threads: whoever waits reads, and runs the handlers as well.

It stands in the place of the crew. Nothing happens between calls: frames are read, jobs
are run and deadlines are looked at only while a thread is inside ``result()``,
``receive()``, ``tick()``, ``serve_forever()`` or ``close()``. Two things read without
running anything: a thread that waits for room to write, because the other side may be
waiting for the same; and a handler that asks whether it is cancelled.

The rules of the reading role hold (``reading.py``): a thread that has read leaves the
role before it runs what came of it. It does so because what it waits for counts as ready
while there is work (``_Work``). Several threads of the user's may wait at once; one
reads, and before it runs a job it wakes another, which then reads or takes the next job.

The sessions without threads of one peer serve each other: whoever waits for one of them also
looks at the descriptors of those that nobody reads, and at their deadlines.

A job that waits in turn (a handler's nested request) reads and runs other jobs on top of
itself. It counts as blocked meanwhile, so that reading does not pause for its sake.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .bells import Bells, wake
from .reading import Awaited, Reader

if TYPE_CHECKING:
    from .deadlines import Deadlines
    from .incoming import IncomingRequest as Served
    from .outlets import PolledOutlet
    from .staff import Job

__all__ = ["Solo"]

_LOOK_AGAIN = 0.01
"""Seconds between two looks at whether the thread that reads has gone."""


class _Ended:
    """Ready once the session has ended."""

    def __init__(self, ended: Callable[[], bool]) -> None:
        self.wakers: list[Any] = []
        self.ready = ended


class _Once:
    """Ready after one read."""

    def __init__(self, reader: Reader) -> None:
        self.wakers: list[Any] = []
        self._reader = reader
        self._reads = reader.reads

    def ready(self) -> bool:
        return self._reader.reads != self._reads or self._reader.ended


class _AnyRead:
    """Ready after a read in one of several sessions, or the end of one."""

    def __init__(self, readers: list[Reader]) -> None:
        self.wakers: list[Any] = []
        self._before = [(reader, reader.reads) for reader in readers]

    def ready(self) -> bool:
        return any(reader.reads != reads or reader.ended for reader, reads in self._before)


class Solo:
    """Queues jobs for the threads that wait; has the methods of ``Crew``.

    Args:
        lock: the engine's.
        reader: the session's.
        deadlines: of pending requests.
        expire: called with the futures whose time is over.
        flush: writes out what jobs have queued.
        others: returns those of the peer's other sessions without threads.
    """

    def __init__(
        self,
        lock: threading.Lock,
        reader: Reader,
        deadlines: Deadlines,
        expire: Callable[[list[Any]], None],
        flush: Callable[[], None],
        others: Callable[[], Sequence[Solo]] = tuple,
    ) -> None:
        self._lock = lock
        self._reader = reader
        self._deadlines = deadlines
        self._expire = expire
        self._flush = flush
        self._jobs: deque[Job] = deque()
        self._here = threading.local()
        self._due: float | None = None  # no pending deadline is earlier
        self._quiet = Bells(lock)  # rung when a job has ended
        self.running = 0  # jobs that run and are not blocked
        self.blocked_jobs = 0
        self._handlers = 0  # jobs that run and are handlers, blocked or not
        self.dropped: deque[Any] = deque()  # futures that nobody holds any more
        self.interrupted = False  # by Ctrl-C, inside a job
        self._others = others
        self._also_polled: Sequence[int] = ()  # descriptors of others that the holder looks at
        reader.next_deadline = self._next_deadline
        reader.others = self._fds_of_others

    def start(self) -> None:
        """Have threads that wait in other sessions look at this one too; none is started."""
        self._call_holders_of_others()

    def stop(self) -> None:
        """Do nothing: there is nobody to stop."""

    def forget_after_fork(self) -> None:
        """Drop, in a forked child, what waits to run."""
        self._jobs.clear()
        self.dropped.clear()

    def join(self, end: float) -> None:
        """Do nothing: there is nobody to wait for."""

    def deadline_added(self, deadline: float) -> None:
        """Wake, with the lock held, a thread that would sleep past ``deadline``."""
        if self._due is None or deadline < self._due:
            self._due = deadline
            if self._reader.holder is not None:
                self._reader.wake_holder()
            else:
                self._wake_holders_of_others()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        with self._lock:
            self.submit_locked(job)
            if self._reader.holder not in (None, threading.get_ident()):
                self._reader.wake_holder()  # asleep, perhaps, and the one to run it

    submit_and_wake = submit

    def submit_writing(self, job: Job) -> None:
        """Queue a job that writes what is left; one at the end of the queue does for many."""
        for last in tuple(self._jobs)[-1:]:  # another thread may take it meanwhile
            if type(last) is type(job):
                return
        self.submit(job)

    def submit_read(self, job: Served) -> None:
        """Queue a job that the holder of the reading role has just read."""
        job.entered = True
        self._jobs.append(job)

    def submit_locked(self, job: Job) -> None:
        """Queue a job, with the lock held."""
        self._jobs.append(job)

    def waiting_jobs(self) -> int:
        """Return how many jobs wait to run."""
        return len(self._jobs)

    def drop(self, future: Any) -> None:
        """Have a future cancelled by whoever works next; for the garbage collector."""
        self.dropped.append(future)
        # This thread may hold any lock; the one that rousing the other takes may be held twice.
        if self._reader.holder not in (None, threading.get_ident()):
            self._reader.wake_holder()

    def drop_jobs(self) -> list[Job]:
        """Take out and return what waits to run."""
        with self._lock:
            dropped = list(self._jobs)
            self._jobs.clear()
        return dropped

    def runs_here(self) -> bool:
        """Tell whether the calling thread is inside a job."""
        return getattr(self._here, "depth", 0) > 0

    def handlers_running(self) -> int:
        """Return, with the lock held, how many handlers run, those that wait included."""
        return self._handlers

    def wait_until_quiet(self, end: float | None) -> bool:
        """Run what waits; return whether no job runs in another thread either."""
        self.run_jobs()
        return self._quiet.wait_for(
            lambda: not self.running + self.blocked_jobs or self.runs_here(), end
        )

    def run_jobs(self) -> None:
        """Run what is queued, and fail what is over its time; serve other sessions first."""
        self._reader.others_have_input = False
        for other in self._others():
            other.serve(self._let_another_read)
        self._run_own_jobs()

    def _let_another_read(self) -> None:
        """Have another thread that waits for this session read it: a job of others comes first."""
        with self._lock:
            if self._reader.holder is None:
                self._wake_another()

    def _run_own_jobs(self) -> None:
        while self.dropped:
            self.dropped.popleft().cancel()
        self._expire_due()
        while self._jobs:  # again: the flush may have waited for room, and read meanwhile
            self._run_queued()

    def serve(self, before_work: Callable[[], None] | None = None) -> bool:
        """Read what is there and run what waits; return whether there was anything."""
        reads = self._reader.reads
        if self.may_be_read():
            self.look()
        has_work = self._has_own_work()
        if has_work:
            if before_work is not None:
                before_work()
            self._run_own_jobs()
        return has_work or self._reader.reads != reads

    def may_be_read(self) -> bool:
        """Tell whether nobody reads this session, and one may."""
        return self._reader.holder is None and self._reader.callers_may_read()

    def _fds_of_others(self) -> list[int]:
        # In this order: who leaves a role meanwhile finds that it is not looked at.
        self._also_polled = ()
        fds = [fd for other in self._others() if other.may_be_read() for fd in other._reader.fds]
        self._also_polled = fds
        return fds

    def _call_holders_of_others(self) -> None:
        """Have threads that wait in other sessions look at this one too, if nobody reads it now."""
        if self.may_be_read():
            self._wake_holders_of_others(unless_polled=self._reader.first_fd)

    def _wake_holders_of_others(self, unless_polled: int | None = None) -> None:
        me = threading.get_ident()
        for other in self._others():
            if other._reader.holder not in (None, me) and unless_polled not in other._also_polled:
                other._reader.wake_holder()

    def _next_deadline(self) -> float | None:
        """Return, with the lock held, when the holder must look at the clock."""
        dues = [other._due for other in self._others()]
        dues.append(self._deadlines.earliest())
        return min((due for due in dues if due is not None), default=None)

    def _run_queued(self) -> None:
        self._here.depth = getattr(self._here, "depth", 0) + 1
        try:
            while (job := self._next_job()) is not None:
                try:
                    job.run()
                finally:
                    with self._lock:
                        self.running -= 1
                        self._handlers -= job.is_handler
                        self._quiet.ring()
                if self.interrupted:
                    self.interrupted = False
                    self._flush()
                    raise KeyboardInterrupt
        finally:
            self._here.depth -= 1
        self._flush()

    def _next_job(self) -> Job | None:
        with self._lock:
            if not self._jobs:
                return None
            job = self._jobs.popleft()
            self.running += 1
            self._handlers += job.is_handler
            self._wake_another()
            return job

    def _wake_another(self) -> None:
        """Have another thread that waits, if there is one, look at what is to be done."""
        for waiter in self._reader.waiting:
            wake(waiter.lock)
            return

    def wait(self, awaited: Awaited, end: float | None) -> bool:
        """Wait as ``Reader.wait`` does, and work meanwhile."""
        reader = self._reader
        in_job = self.runs_here()
        if in_job:
            with self._lock:
                self.running -= 1
                self.blocked_jobs += 1
                reader.flow.blocked_locked(self.blocked_jobs)
                reader.flow.handler_waits_locked()
        try:
            while True:
                if in_job and awaited.ready():
                    return True  # what else there is to run need not run on top of us
                self.run_jobs()
                if awaited.ready():
                    return True
                if end is not None and time.monotonic() >= end:
                    # What is awaited may be there, and nobody has looked.
                    self.look()
                    self.run_jobs()
                    return awaited.ready()
                # Also comes back when there is a job, or a deadline has passed.
                reader.wait(_Work(awaited, self._has_work), end)
        finally:
            with self._lock:
                if in_job:
                    self.running += 1
                    self.blocked_jobs -= 1
                    reader.flow.blocked_locked(self.blocked_jobs)
                if reader.holder is None:
                    self._wake_another()
            self._call_holders_of_others()

    def look(self) -> None:
        """Read what is there now, unless another thread reads; run nothing."""
        reader, me = self._reader, threading.get_ident()
        reader.leave_if_forgotten()
        if reader.holder == me:
            return
        try:
            with self._lock:
                if reader.holder is not None or not reader.is_open():
                    return
                reader.holder = me
            if reader.is_busy:
                reader.clean()
            fds = reader.look()
            if fds:
                reader.read(fds)
        finally:
            if reader.holder == me:  # also when interrupted, by Ctrl-C for one
                reader.leave()
                self._call_holders_of_others()

    def read_while_full(self, outlet: PolledOutlet) -> None:
        """Have threads that wait for room in ``outlet`` read meanwhile.

        Nobody else would, and two sides that wait for room both wait for ever. What is
        read is kept, however much it is: running handlers here would have them write
        into the middle of what is being written.
        """
        reader = self._reader

        def wait_for_room(timeout: float | None) -> bool:
            end = None if timeout is None else time.monotonic() + timeout
            me = threading.get_ident()
            while True:
                left = None if end is None else max(0.0, end - time.monotonic())
                had_role = reader.holder == me
                try:
                    with self._lock:
                        mine = reader.holder is None and not (reader.draining or reader.ended)
                        if mine:
                            reader.holder = me
                    if not mine:  # the thread that reads may go, and leave reading to us
                        left = _LOOK_AGAIN if left is None else min(left, _LOOK_AGAIN)
                    room, has_input = outlet.poll(left, reader.first_fd if mine else -1)
                    if has_input:
                        if reader.is_busy:
                            reader.clean()
                        reader.read([(reader.first_fd, 0)])
                finally:
                    if reader.holder == me and not had_role:
                        reader.leave()
                        self._call_holders_of_others()
                if room:
                    return True
                if end is not None and time.monotonic() >= end:
                    return False

        outlet.waits = wait_for_room

    def tick(self, end: float | None) -> bool:
        """Wait for one read, or work; return whether there was any."""
        reads = self._reader.reads
        if self._has_work():  # of what was read by the way, while writing for one
            self.run_jobs()
            self.look()
            self.run_jobs()
            return True
        self.wait(_Once(self._reader), end)
        self.run_jobs()
        return self._reader.reads != reads

    def tick_any(self, solos: list[Solo], end: float | None) -> bool:
        """Wait until there was a read in one of these, or work; tell whether there was any."""
        return self.wait(_AnyRead([solo._reader for solo in solos]), end)

    def wait_for_end(self, ended: Callable[[], bool], end: float | None) -> bool:
        """Read and work until the session has ended."""
        return self.wait(_Ended(ended), end)

    def _has_work(self) -> bool:
        # Takes no lock: the thread that passes the role on asks this while it holds it.
        if self._reader.others_have_input or self._has_own_work():
            return True
        return any(other._has_own_work() for other in self._others())

    def _has_own_work(self) -> bool:
        due = self._due
        return bool(self._jobs or self.dropped) or (due is not None and due <= time.monotonic())

    def _expire_due(self) -> None:
        with self._lock:
            expired = self._deadlines.expire(time.monotonic())
            self._due = self._deadlines.earliest()
        if expired:
            self._expire(expired)


class _Work:
    """Ready when what is awaited is, or when there is something to do first."""

    __slots__ = ("_awaited", "_has_work", "wakers")

    def __init__(self, awaited: Awaited, has_work: Callable[[], bool]) -> None:
        self._awaited = awaited
        self._has_work = has_work
        self.wakers = awaited.wakers

    def ready(self) -> bool:
        return self._awaited.ready() or self._has_work()
