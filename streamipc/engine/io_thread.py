"""The I/O thread, which leads when no caller does, and its standby.

The I/O thread is the permanent leader of ``leader.py``: it sees to it that the session is read,
fails requests whose time is over, and runs inline tasks itself, because to hand them to another
thread costs more than they do. It is a duty of one of the pool's threads (``thread_pool.py``), and
may pass from one to another.

While it runs a task, a *standby* looks every ``TICK`` seconds whether that is still the same one.
If so it becomes the I/O thread, and takes over leading and everything else that is queued; the
task is noted as slow, so that the next one like it is offloaded at once.

The invariant:

    While the session lives there is one I/O thread. It is looking, or it runs a task and a
    standby looks at it, no less often than every ``TICK`` seconds. It does nothing else
    that may block: above all it never waits for room to write.

It looks in one of three ways: it leads; or, while no caller leads, it polls the descriptors
without leading, so that a caller may lead at any time; or, while callers come and go, it naps for
a ``TICK`` at a time. When a caller leads for long it polls as well, and finds that caller leading
when there is input. So it depends on nobody to tell it that leadership is free.

The engine's lock guards everything here, but for what only the I/O thread touches.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..handlers import SLOW_SECONDS
from .leader import TICK, Leader
from .poller import SpinPolicy
from .waiters import wake

if TYPE_CHECKING:
    from .deadlines import Deadlines
    from .poller import Poller, Ready, Wakeup
    from .pool_thread import PoolThread, Task
    from .reader import Reader

__all__ = ["IoThread", "Pool"]

_REPLIES_ONLY = 8
"""Reads in a row without a request, or a crowd, after which callers may lead again. A reply that
the I/O thread reads costs a lone caller twice the time; a request that a caller reads costs a
switch between threads."""

_CROWD = 3
"""So many callers that wait at once are served best by the I/O thread, which reads for several of
them at a time. Of two, each is read for best by itself: 1.4 switches between threads a call where
the I/O thread takes 2.1."""


class Pool(Protocol):
    """What the I/O thread asks of the pool that it belongs to, with the lock held."""

    stopping: bool
    spawning_fails: bool
    """No thread could be had the last time: the I/O thread runs everything itself."""

    def may_run(self, task: Task, /) -> bool:
        """Tell whether the limits let one more such task run."""
        ...

    def offload(self, task: Task, /) -> None:
        """Queue a task for other threads."""
        ...

    def has_offloaded(self) -> bool:
        """Tell whether tasks wait for other threads."""
        ...

    def next_offloaded(self) -> Task | None:
        """Take out a task that waits for a thread which can't be had."""
        ...

    def call_threads(self) -> None:
        """Have somebody run what waits."""
        ...

    def spread(self, tasks: list[Task], /) -> None:
        """Queue background tasks, for as many threads as may be."""
        ...

    def started(self, thread: PoolThread, task: Task, /) -> None:
        """Count a task that begins."""
        ...

    def ended(self, thread: PoolThread, task: Task, /) -> None:
        """Count one that is over."""
        ...

    def idle_or_new_thread(self) -> PoolThread | None:
        """Return a thread without a duty, awake; ``None``: there is none to be had."""
        ...


class IoThread:
    """The duties of I/O thread and standby, and who has them.

    Args:
        lock: the engine's.
        reader: to be read.
        leader: whose permanent leader it is.
        deadlines: of pending requests.
        poller: the I/O thread's own.
        wakeup: ends its sleep.
        spin: seconds to look for input before sleeping.
        expire: called with the futures whose time is over.
        flush_some: writes what tasks have queued, as far as there is room.
        is_congested: tells whether the peer does not read what we write.

    Attributes:
        thread: which has the duty.
        standby: which looks at it; at most one.
        inline: tasks for the I/O thread. The leader appends to it without the lock.
        asleep: it is to be woken if it has something to do.
    """

    def __init__(
        self,
        lock: threading.RLock,
        reader: Reader,
        leader: Leader,
        deadlines: Deadlines,
        poller: Poller,
        wakeup: Wakeup,
        spin: float,
        expire: Callable[[list[Any]], None],
        flush_some: Callable[[], None],
        is_congested: Callable[[], bool],
    ) -> None:
        self._lock = lock
        self._pool: Pool
        self._reader = reader
        self._deadlines = deadlines
        self._poller = poller
        self._wakeup = wakeup
        self._expire = expire
        self._flush_some = flush_some
        self._is_congested = is_congested
        self.leader = leader
        leader.set_successor(self)
        self.thread: PoolThread | None = None
        self.standby: PoolThread | None = None
        self.inline: deque[Task] = deque()
        self.asleep = False
        self._sleeps_until: float | None = 0.0  # None: until woken; 0.0: it looks at the clock soon
        self._spin = SpinPolicy(spin)
        self._runs = 0  # tasks that I/O threads have begun
        self._ticking = False  # the standby looks every TICK
        self._look_at_clock = 0.0
        self._replies_only = 0  # reads in a row that brought nothing else, and for no crowd
        self._gives_way = False  # a caller leads, or is about to: look a TICK later

    def set_pool(self, pool: Pool) -> None:
        """Say, before anything starts, whose threads have the duties."""
        self._pool = pool

    # From outside.

    def submit(self, task: Task) -> None:
        """Queue an inline task; with the lock held."""
        self.inline.append(task)
        self.wake()

    def wake(self) -> None:
        """Have the I/O thread, if it is asleep, look around."""
        if self.asleep:
            self._wakeup.set()

    def deadline_added(self, deadline: float) -> None:
        """See to it, with the lock held, that it is awake at ``deadline``."""
        until = self._sleeps_until
        if until is None or deadline < until:
            self.wake()

    def work_arrived(self) -> None:
        """See to what a client leader has read."""
        if self.inline:
            self.take_over()

    def take_over(self) -> None:
        """Lead, and run what there is, or have the standby do it."""
        with self._lock:
            thread = self.thread
            if thread is None:
                return
            leader = self.leader
            followers = len(leader.followers)
            if self.inline or followers + 1 >= _CROWD:
                leader.prefer(io_thread=True)
            elif followers and not (leader.prefer_io_thread or self._reader.is_busy):
                leader.notify()
                return
            if thread.task is None:
                self.wake()
                return
            # It waits inside a handler, perhaps for the very reply that the caller has read for.
            self.promote_standby()
            if self.thread is thread:  # no thread is to be had: callers must read on
                leader.prefer(io_thread=False)
                leader.notify()

    def task_waits(self) -> None:
        """A task of the calling thread is going to wait for input; with the lock held."""
        if self.thread is not None and self.thread.thread is threading.current_thread():
            self.leader.prefer(io_thread=False)  # it is the one to read, for its own reply

    def expire_due(self) -> None:
        """Fail requests whose time is over; also for the leader, in the midst of a burst."""
        with self._lock:
            expired = self._deadlines.expire(time.monotonic())
        if expired:
            self._expire(expired)

    # Who has a duty; with the lock held.

    def duty_of(self, me: PoolThread) -> Callable[[PoolThread], None] | None:
        """Return what a thread that is free has to do here."""
        if self.thread is None or self.thread is me:
            self.thread = me
            self._pool.call_threads()  # it may have been woken for what waits there
            return self._serve
        return self._stand_by if self.standby is me else None

    def standby_duty(self, me: PoolThread) -> Callable[[PoolThread], None] | None:
        """Return the standby's duty, for a thread that nobody needs, if there is no standby."""
        if self.standby is not None:
            return None
        self.standby = me
        return self._stand_by

    def leave(self, me: PoolThread) -> None:
        """Forget a thread that ends."""
        if self.thread is me:
            self.thread = None
        if self.standby is me:
            self.standby = None

    def promote_standby(self) -> None:
        """Put another thread in the place of one that is busy, or gone."""
        self._have_standby()
        successor = self.standby
        if successor is not None:
            self.standby = None
            self._ticking = False
            self.thread = successor
            wake(successor.bell)

    def _have_standby(self) -> None:
        """See to it that somebody looks at the I/O thread."""
        if self.standby is None:
            self.standby = self._pool.idle_or_new_thread()
        elif not self._ticking:
            self._ticking = True
            wake(self.standby.bell)

    # The I/O thread.

    def _serve(self, me: PoolThread) -> None:
        """Be the I/O thread until another has taken over, or the session ends."""
        leader, reader = self.leader, self._reader
        takes, reads = leader.takes, reader.reads
        while True:
            with self._lock:
                if self._pool.stopping or self.thread is not me:
                    return
                led = leader.thread is not None
                callers = takes != leader.takes or (led and reads != reader.reads)
                takes, reads = leader.takes, reader.reads
                left_over = reader.is_busy and not led and reader.is_open()
                work, naps = self._has_work(), False
                if not (work or left_over):
                    naps = self._gives_way or (callers and not leader.prefer_io_thread)
                    naps = naps or self._pool.spawning_fails
                    self._sleeps_until = 0.0 if naps else self._deadlines.earliest()
                    self.asleep = True
            if left_over:
                leader.lead(reader.clean)
                self._let_caller_lead()
            elif work:
                if not self._run_inline(me):
                    return
                if leader.prefer_io_thread and not self._read_and_run(me):
                    return
            elif self._sleep(naps) and not self._read_and_run(me):
                return
            self.expire_due()

    def _has_work(self) -> bool:
        pool = self._pool
        return bool(self.inline or (pool.spawning_fails and pool.has_offloaded()))

    def _sleep(self, naps: bool) -> bool:
        """Sleep; return whether there is input."""
        reader, poller, until = self._reader, self._poller, self._sleeps_until
        start = time.monotonic()
        left = None if until is None else max(0.0, until - start)
        if naps:
            poller.wait_for_wakeup(TICK)
            ready = poller.ready() if self.leader.thread is None else []
        elif not reader.is_open():
            poller.wait_for_wakeup(left)
            ready = []
        else:
            ready = poller.wait(left)
            if ready:
                slept = time.monotonic() - start
                self._spin.slept(slept)
                if slept > TICK:
                    self.leader.prefer(io_thread=False)  # it was quiet for long
        self.asleep = self._gives_way = False
        self._sleeps_until = 0.0
        if not ready:
            self._wakeup.clear()
        return bool(ready)

    def _read_and_run(self, me: PoolThread) -> bool:
        """Read, and run what is inline, as long as something comes soon.

        Returns:
            ``False`` if another has taken over.
        """
        more = self.leader.lead(self._read)
        while more:
            if not self._run_inline(me):
                return False
            more = self.leader.lead(self._read)
        self._gives_way = more is None
        self._let_caller_lead()
        return True

    def _let_caller_lead(self) -> None:
        """Wake one that has come while we led, if it had better lead now."""
        if self.leader.followers and not self.leader.prefer_io_thread:
            self._gives_way = True
            self.leader.notify()

    def _read(self) -> bool:
        """Read, as the leader, as long as something comes soon; return whether it brought work."""
        leader, reader, poller, spin = self.leader, self._reader, self._poller, self._spin
        while not self._pool.stopping and reader.is_open():
            ready = poller.spin(spin) if spin.active else None
            if not ready:
                ready = self._linger()
                if not ready:
                    break
            callers = len(leader.followers)
            reader.read(ready)
            # Also one that a caller has read to its end: it was reported once more here.
            for fd in reader.take_ended():
                poller.forget(fd)
            has_work = self._has_work()
            if has_work or callers >= _CROWD:
                self._replies_only = 0
                leader.prefer(io_thread=True)
                if has_work:
                    return True
            elif leader.prefer_io_thread:
                self._replies_only += 1
                if self._replies_only == _REPLIES_ONLY:
                    self._replies_only = 0
                    leader.prefer(io_thread=False)
            elif leader.followers:
                break
            self._look_at_deadlines(time.monotonic())
        return False

    def _look_at_deadlines(self, now: float) -> None:
        """Fail requests whose time is over, if we looked for them a while ago."""
        if now > self._look_at_clock:
            self._look_at_clock = now + TICK
            self.expire_due()

    def _linger(self) -> Ready:
        """Wait for input for a moment, leading meanwhile; return what can be read.

        In a steady exchange the next request comes soon. To leave leadership and take it
        again costs as much as the request itself, and while the I/O thread is preferred no caller
        wants it. The moment is a ``TICK``, so whatever else wants us waits no longer than it
        would wait for an I/O thread that naps; a new task wakes us.
        """
        if not self.leader.prefer_io_thread:
            return self._poller.ready()
        self.asleep = True
        # Seen now, or its submitter sees that we are asleep.
        if self.inline or self._pool.stopping:
            self.asleep = False
            return self._poller.ready()
        start = time.monotonic()
        ready = self._poller.wait(TICK)
        self.asleep = False
        if ready:
            self._spin.slept(time.monotonic() - start)
        else:
            self._wakeup.clear()
        return ready

    def _run_inline(self, me: PoolThread) -> bool:
        """Run what is inline, not leading.

        Returns:
            ``False`` if another has taken over.
        """
        pool = self._pool
        with self._lock:
            if self.standby is None or not self._ticking:
                self._have_standby()
            task = self._next_inline(me)
        flushed = False
        start = time.monotonic()
        while task is not None:
            task.run()
            now = time.monotonic()
            if now - start > SLOW_SECONDS:
                task.took(now - start)
            if now > self._look_at_clock:  # the test is cheaper than the call
                self._look_at_deadlines(now)
            start = now
            flushed = not self.inline
            if flushed:
                self._flush_some()  # the end of a burst: its answers go out together
            with self._lock:
                pool.ended(me, task)
                if self.thread is not me:
                    return False
                more = self.inline or pool.spawning_fails
                task = self._next_inline(me) if more else None
        if not flushed:
            self._flush_some()
        return True

    def _next_inline(self, me: PoolThread) -> Task | None:
        """Return the next task that is to be run inline; offload what is not, or not now.

        If the peer does not read our answers, more of them must wait for room, which is
        nothing that the I/O thread does.
        """
        pool = self._pool
        while self.inline:
            task = self.inline.popleft()
            if pool.spawning_fails or (
                self.standby is not None
                and not (task.is_offloaded or self._is_congested())
                and pool.may_run(task)
            ):
                break
            pool.offload(task)
        else:
            waiting = pool.next_offloaded() if pool.spawning_fails else None
            if waiting is None:
                return None
            task = waiting
        task.by_io_thread = True
        self._runs += 1
        pool.started(me, task)
        return task

    # The standby.

    def _stand_by(self, me: PoolThread) -> None:
        """Look at the I/O thread until it is stuck; then take its place."""
        seen: tuple[PoolThread, int] | None = None
        idle_ticks = 0
        while True:
            with self._lock:
                if self.thread is me:  # promoted
                    break
                if self._pool.stopping or self.standby is not me:
                    return
                thread = self.thread
                assert thread is not None  # one that leaves has another in its place
                now_seen = (thread, self._runs)
                if thread.task is not None and now_seen == seen:
                    self._take_place(me, thread.task)
                    break
                idle_ticks = 0 if thread.task is not None or now_seen != seen else idle_ticks + 1
                seen = now_seen
                self._ticking = idle_ticks < 2
                timeout = TICK if self._ticking else -1
            me.bell.acquire(timeout=timeout)
        self._flush_some()  # what the old one had left for the end of its burst
        self.expire_due()
        self._serve(me)

    def _take_place(self, me: PoolThread, stuck: Task) -> None:
        self.thread = me
        self.standby = None
        self._ticking = False
        stuck.took(TICK)
        if stuck.is_background:
            # Others like it would each take 2 ms more.
            alike = [task for task in self.inline.copy() if type(task) is type(stuck)]
            for task in alike:
                self.inline.remove(task)
            self._pool.spread(alike)
