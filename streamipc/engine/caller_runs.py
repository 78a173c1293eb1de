"""A session without threads: whoever waits reads, and runs the handlers as well.

``CallerRuns`` stands in the place of the thread pool. Nothing happens between calls: frames are
read, tasks are run and deadlines are looked at only while a thread is inside ``result()``,
``receive()``, ``tick()``, ``serve_forever()`` or ``close()``. Two things read without
running anything: a thread that waits for room to write, because the other side may be
waiting for the same; and a handler that asks whether it is cancelled.

The rules of leadership hold (``leader.py``): a thread that has read leaves it before it runs what
came of it. It does so because what it waits for counts as ready
while there is work (``_Work``). Several threads of the user's may wait at once; one
leads, and before it runs a task it wakes another, which then leads or takes the next task.

The sessions without threads of one peer serve each other: whoever waits for one of them also
looks at the descriptors of those that nobody reads, and at their deadlines.

A task that waits in turn (a handler's nested request) reads and runs other tasks on top of
itself. It counts as blocked meanwhile, so that reading does not pause for its sake.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .._signals import begin_with, interrupt_in
from .leader import Awaited, Leader
from .waiters import Waiters

if TYPE_CHECKING:
    from .channel import Channel
    from .deadlines import Deadlines
    from .flow import Flow
    from .incoming import IncomingRequest
    from .poller import Ready
    from .pool_thread import Task
    from .reader import Reader

__all__ = ["CallerRuns"]

_LOOK_AGAIN = 0.01
"""Seconds between two looks at whether the thread that reads has gone."""


class _Ended:
    """Ready once the session has ended."""

    def __init__(self, ended: Callable[[], bool]) -> None:
        self.wakers: list[Any] = []
        self.ready = ended


class _AnyRead:
    """Ready after a read in one of several sessions, or the end of one."""

    def __init__(self, readers: list[Reader]) -> None:
        self.wakers: list[Any] = []
        self._before = [(reader, reader.reads) for reader in readers]

    def ready(self) -> bool:
        # No generator: what a signal's handler raises as that is closed would be lost.
        return any([reader.reads != reads or reader.ended for reader, reads in self._before])


class CallerRuns:
    """Queues tasks for the threads that wait; has the methods of ``ThreadPool``.

    Args:
        lock: the engine's.
        reader: the session's.
        leader: the session's.
        flow: tells whether reading pauses.
        deadlines: of pending requests.
        expire: called with the futures whose time is over.
        flush: writes out what tasks have queued.
        others: returns those of the peer's other sessions without threads.
    """

    def __init__(
        self,
        lock: threading.RLock,
        reader: Reader,
        leader: Leader,
        flow: Flow,
        deadlines: Deadlines,
        expire: Callable[[list[Any]], None],
        flush: Callable[[], None],
        others: Callable[[], Sequence[CallerRuns]] = tuple,
    ) -> None:
        self._lock = lock
        self._reader = reader
        self._flow = flow
        self._deadlines = deadlines
        self._expire = expire
        self._flush = flush
        self.leader = leader
        leader.set_successor(self, self._wait_for_input)
        self._tasks: deque[Task] = deque()
        self._here = threading.local()
        self._due: float | None = None  # no pending deadline is earlier
        self._quiet = Waiters(lock)  # notified when a task has ended
        self.running = 0  # tasks that run and are not blocked
        self.blocked = 0
        self._handlers = 0  # tasks that run and are handlers, blocked or not
        self.dropped: deque[Any] = deque()  # futures that nobody holds any more
        self._interrupts: dict[int, BaseException] = {}  # by thread: raised inside a task of its
        self._others = others
        self._also_polled: Sequence[int] = ()  # descriptors of others that the leader looks at
        self._others_have_input = False

    def start(self) -> None:
        """Have threads that wait in other sessions look at this one too; none is started."""
        self._call_leaders_of_others()

    def stop(self) -> None:
        """Do nothing: there is nobody to stop."""

    def forget_after_fork(self) -> None:
        """Drop, in a forked child, what waits to run."""
        self._tasks.clear()
        self.dropped.clear()

    def join(self, end: float) -> None:
        """Do nothing: there is nobody to wait for."""

    def deadline_added(self, deadline: float) -> None:
        """Wake, with the lock held, a thread that would sleep past ``deadline``."""
        if self._due is None or deadline < self._due:
            self._due = deadline
            if self.leader.thread is not None:
                self.leader.wake()
            else:
                self._wake_leaders_of_others()

    def submit(self, task: Task) -> None:
        """Queue a task."""
        with self._lock:
            self.submit_locked(task)
            self._wake_other_leader()  # asleep, perhaps, and the one to run it

    submit_offloaded = submit

    def submit_writing(self, task: Task) -> None:
        """Queue a task that writes what is left; one at the end of the queue does for many."""
        for last in tuple(self._tasks)[-1:]:  # another thread may take it meanwhile
            if type(last) is type(task):
                return
        self.submit(task)

    def submit_read(self, task: IncomingRequest) -> None:
        """Queue a task that the leader has just read."""
        task.entered = True
        self._tasks.append(task)

    def submit_locked(self, task: Task) -> None:
        """Queue a task, with the lock held."""
        self._tasks.append(task)

    def waiting_tasks(self) -> int:
        """Return how many tasks wait to run."""
        return len(self._tasks)

    def drop(self, future: Any) -> None:
        """Have a future cancelled by whoever works next; for the garbage collector."""
        self.dropped.append(future)
        # This thread may hold any lock; the one that waking the other takes may be held twice.
        self._wake_other_leader()

    def _wake_other_leader(self) -> None:
        if self.leader.thread not in (None, threading.get_ident()):
            self.leader.wake()

    def may_read_on(self) -> None:
        """Do nothing: the thread that has ended the pause looks for input next."""

    def work_arrived(self) -> None:
        """Do nothing: who has read leaves leadership and runs it, see ``_Work``."""

    def take_over(self) -> None:
        """Have a follower lead, if nobody does."""
        if self.leader.thread is None:
            self.leader.notify()

    def expire_due(self) -> None:
        """Do nothing in the midst of a burst: who has read looks at the clock next."""

    def drop_tasks(self) -> list[Task]:
        """Take out and return what waits to run."""
        with self._lock:
            dropped = list(self._tasks)
            self._tasks.clear()
        return dropped

    def runs_here(self) -> bool:
        """Tell whether the calling thread is inside a task."""
        return getattr(self._here, "depth", 0) > 0

    def handlers_running(self) -> int:
        """Return, with the lock held, how many handlers run, those that wait included."""
        return self._handlers

    def wait_until_quiet(self, end: float | None) -> bool:
        """Run what waits; return whether no task runs in another thread either."""
        self.run_tasks()
        return self._quiet.wait_for(
            lambda: not self.running + self.blocked or self.runs_here(), end
        )

    def run_tasks(self) -> None:
        """Run what is queued, and fail what is over its time; serve other sessions first."""
        self._others_have_input = False
        for other in self._others():
            other.serve(self.take_over)
        self._run_own_tasks()

    def _run_own_tasks(self) -> None:
        while self.dropped:
            self.dropped.popleft().cancel()
        self._expire_due()
        while self._tasks:  # again: the flush may have waited for room, and read meanwhile
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
            self._run_own_tasks()
        return has_work or self._reader.reads != reads

    def may_be_read(self) -> bool:
        """Tell whether nobody reads this session, and one may."""
        return self.leader.thread is None and self.leader.may_lead()

    def _fds_of_others(self) -> list[int]:
        # In this order: who leaves another meanwhile finds that it is not looked at.
        self._also_polled = ()
        fds = [fd for other in self._others() if other.may_be_read() for fd in other._reader.fds]
        self._also_polled = fds
        return fds

    def _call_leaders_of_others(self) -> None:
        """Have threads that wait in other sessions look at this one too, if nobody reads it now."""
        if self.may_be_read():
            self._wake_leaders_of_others(unless_polled=self._reader.first_fd)

    def _wake_leaders_of_others(self, unless_polled: int | None = None) -> None:
        me = threading.get_ident()
        for other in self._others():
            if other.leader.thread in (None, me) or unless_polled in other._also_polled:
                continue
            other.leader.wake()

    def _wait_for_input(self, timeout: float | None) -> Ready:
        """Wait, as the leader; come back as well if others have input, or a deadline has passed."""
        with self._lock:
            dues = [other._due for other in self._others()]
            dues.append(self._deadlines.earliest())
        due = min((due for due in dues if due is not None), default=None)
        if due is not None:
            left = max(0.0, due - time.monotonic())
            timeout = left if timeout is None else min(left, timeout)
        poller = self._reader.poller
        found, self._others_have_input = poller.wait_with(self._fds_of_others(), timeout)
        return found

    def _run_queued(self) -> None:
        me = threading.get_ident()
        self._here.depth = getattr(self._here, "depth", 0) + 1
        try:
            while self._run_next():
                if self._interrupts:
                    self.raise_interrupt()
        except BaseException as error:
            if me in self._interrupts:  # a second signal has taken the place of that one
                first = self._interrupts[me]
                if error.__context__ is None:  # nearly always; no call, behind which a third comes
                    error.__context__ = first
                else:
                    begin_with(first, error)
                del self._interrupts[me]
            raise
        finally:
            self._here.depth -= 1
        self._flush()

    def _run_next(self) -> bool:
        """Run what is first; return ``False`` if there is nothing."""
        task: Task | None = None
        try:
            with self._lock:
                if not self._tasks:
                    return False
                # An interrupt may come behind the call, and not before.
                task = self._tasks[0]
                self.running += 1
                self._handlers += task.is_handler
                self._tasks.popleft()
            self.leader.notify()
            task.run()
            return True
        except BaseException as error:
            if task is not None and not task.has_begun and interrupt_in(error) is not None:
                self._tasks.appendleft(task)  # whoever comes next runs it
            raise
        finally:
            if task is not None:
                with self._lock:
                    self.running -= 1
                    self._handlers -= task.is_handler
                    self._quiet.notify_all()

    def interrupted(self, error: BaseException) -> None:
        """Note what a signal has raised inside a task: it comes out of the wait of this thread."""
        me = threading.get_ident()
        first = self._interrupts.get(me)
        if first is not None:
            begin_with(first, error)
        self._interrupts[me] = error

    def raise_interrupt(self) -> None:
        """Raise what a signal has raised inside a task that this thread has run, if one has."""
        me = threading.get_ident()
        error = self._interrupts.get(me)
        if error is not None:
            try:
                self._flush()
            finally:
                # An interrupt may come behind the call, and not before: it has the error as its
                # context then.
                try:
                    self._interrupts.pop(me, None)
                finally:
                    raise error

    def wait(self, awaited: Awaited, end: float | None) -> bool:
        """Wait as ``Leader.wait`` does, and work meanwhile."""
        flow = self._flow
        in_task = self.runs_here()
        if in_task:
            with self._lock:
                self.running -= 1
                self.blocked += 1
                flow.blocked_locked(self.blocked)
                flow.handler_waits_locked()
        try:
            while True:
                if in_task and awaited.ready():
                    return True  # what else there is to run need not run on top of us
                self.run_tasks()
                if awaited.ready():
                    return True
                if end is not None and time.monotonic() >= end:
                    # What is awaited may be there, and nobody has looked.
                    self.look()
                    self.run_tasks()
                    return awaited.ready()
                # Also comes back when there is a task, or a deadline has passed.
                self.leader.wait(_Work(awaited, self._has_work), end)
        finally:
            with self._lock:
                if in_task:
                    self.running += 1
                    self.blocked -= 1
                    flow.blocked_locked(self.blocked)
            self.take_over()
            self._call_leaders_of_others()

    def look(self) -> None:
        """Read what is there now, unless another thread reads; run nothing."""
        led: bool | None = True
        try:
            led = self.leader.lead(self._look)
        finally:
            if led:
                self._leave()

    def _look(self) -> bool:
        reader = self._reader
        if reader.is_open():
            if reader.is_busy:
                reader.clean()
            fds = reader.poller.ready()
            if fds:
                reader.read(fds)
        return True

    def _leave(self) -> None:
        """See to it that somebody reads on, if anybody waits: who did leads no more."""
        self.take_over()
        self._call_leaders_of_others()

    def wait_for_room(self, channel: Channel, timeout: float | None) -> bool:
        """Wait until there is room to write; read meanwhile if nobody else does.

        Nobody else would, and two sides that wait for room both wait for ever. What is
        read is kept, however much it is: running handlers here would have them write
        into the middle of what is being written.

        Returns:
            ``False`` if the time was over first.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            room: bool | None = True
            try:
                room = self.leader.lead(self._read_or_wait_for_room, channel, left)
            finally:
                if room is not None:
                    self._leave()
            if room is None:  # the thread that reads may go, and leave reading to us
                left = _LOOK_AGAIN if left is None else min(left, _LOOK_AGAIN)
                room, _ = channel.poll(left)
            if room:
                return True
            if end is not None and time.monotonic() >= end:
                return False

    def _read_or_wait_for_room(self, channel: Channel, timeout: float | None) -> bool | None:
        reader = self._reader
        if not reader.may_be_drained():
            return None
        room, has_input = channel.poll(timeout, reader.first_fd)
        if has_input:
            if reader.is_busy:
                reader.clean()
            reader.read([(reader.first_fd, 0)])
        return room

    def tick(self, end: float | None) -> bool:
        """Wait for one read, or work; return whether there was any."""
        reads = self._reader.reads
        if self._has_work():  # of what was read by the way, while writing for one
            self.run_tasks()
            self.look()
            self.run_tasks()
            return True
        self.tick_any([self], end)
        self.run_tasks()
        return self._reader.reads != reads

    def tick_any(self, all_of_them: list[CallerRuns], end: float | None) -> bool:
        """Wait until there was a read in one of these, or work; tell whether there was any."""
        return self.wait(_AnyRead([one._reader for one in all_of_them]), end)

    def wait_for_end(self, ended: Callable[[], bool], end: float | None) -> bool:
        """Read and work until the session has ended."""
        return self.wait(_Ended(ended), end)

    def _has_work(self) -> bool:
        # Takes no lock: followers are asked while another thread leads.
        if self._others_have_input or self._has_own_work():
            return True
        return any([other._has_own_work() for other in self._others()])

    def _has_own_work(self) -> bool:
        due = self._due
        return bool(self._tasks or self.dropped) or (due is not None and due <= time.monotonic())

    def _expire_due(self) -> None:
        while True:
            with self._lock:
                expired = self._deadlines.expire(time.monotonic())
                self._due = self._deadlines.earliest()
            if not expired:
                return
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
