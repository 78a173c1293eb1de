"""The crew: the threads that belong to a session, and who of them does what.

Theory of operation
-------------------

Each member of the crew has one duty at a time:

* the *watcher* (exactly one, from the start) sees to it that the session is read, as
  ``reading.py`` describes, fails requests whose time is over, and runs quick handlers
  itself, because a hand-over to another thread costs more than they do;
* the *standby* (at most one, and one exists whenever the watcher runs a handler) looks
  every ``TICK`` seconds whether the watcher still runs the same handler. If so it takes
  over the watch, and with it reading and everything else that is queued; the handler is
  noted as slow, so that next time it is given to a worker at once;
* *workers* run slow handlers, up to ``limit`` at a time, and errands: callbacks of the
  user's, and writing. Errands have a limit of their own, for they must get done while
  all handlers are stuck: ``on_cancel`` is there to set such a handler free. And one may
  write beyond that limit, for callbacks may be stuck until something is written;
* the rest sleep, and end after ``IDLE_SECONDS``.

The invariant:

    While the session lives there is one watcher. It is looking, or it runs a job and a
    standby looks at it, no less often than every ``TICK`` seconds. It does nothing else
    that may block: above all it never waits for room to write.

    A job in a queue is known to somebody: a quick one to the watcher, which is awake or
    was roused; another to a worker that was rung or hired, or to every worker that is
    busy, each of which looks again when it is done.

Where no thread can be had, the watcher runs everything itself (``_alone``): slower, and
with nobody looking at it, but nothing is lost.

A handler that waits for something of the session's (a nested reply, credit for a stream)
does not count against ``limit``. So two processes can call each other deeper than that; each
level costs one thread that sleeps, and ``Limits.blocked_handlers`` says how many may.

The engine's lock guards everything here. A member sleeps on its own lock, ``Member.bell``;
whoever gives it something to do changes its duty or a queue under the engine's lock and
then rings. A bell rung too often only makes its member look once more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._threads import make_thread, start_thread
from .bells import Bells
from .reading import Reader
from .staff import IDLE_SECONDS, Job, Member, keep_own_seat, leave_seat, take_seat, working_member
from .tasks import WriteTask as WriteJob
from .watching import Watching

if TYPE_CHECKING:
    from .deadlines import Deadlines
    from .incoming import IncomingRequest as Served
    from .polling import Inlet, Wakeup

__all__ = ["Crew"]


class Crew(Watching):
    """The threads of one session.

    Args:
        lock: the engine's.
        reader: whose role the watcher sees to.
        deadlines: of pending requests.
        inlet: the watcher's own, to poll while it does not hold the role.
        wakeup: ends that poll.
        limit: jobs that workers and the watcher run at the same time.
        name: of the threads.
        expire: called with the futures whose time is over.
        flush_some: writes what jobs have queued, as far as there is room.
        is_clogged: tells whether the peer does not read what we write.
        crashed: called when a member fails for a reason of nobody's foreseeing.
    """

    def __init__(
        self,
        lock: threading.Lock,
        reader: Reader,
        deadlines: Deadlines,
        inlet: Inlet,
        wakeup: Wakeup,
        limit: int,
        name: str,
        expire: Callable[[list[Any]], None],
        flush_some: Callable[[], None],
        is_clogged: Callable[[], bool],
        crashed: Callable[[BaseException], None],
    ) -> None:
        self._lock = lock
        self._reader = reader
        self._deadlines = deadlines
        self._inlet = inlet
        self._wakeup = wakeup
        self._limit = limit
        self._name = name
        self._expire = expire
        self._flush_some = flush_some
        self._is_clogged = is_clogged
        self._crashed = crashed
        self._quick: deque[Job] = deque()  # for the watcher
        self._slow: deque[Job] = deque()  # for workers
        self._errands: deque[Job] = deque()  # for workers too
        self._members: dict[Member, None] = {}
        self._idle: list[Member] = []
        self._watcher: Member | None = None
        self._standby: Member | None = None
        self._ticking = False  # the standby looks every TICK
        self._alone = False  # the last hiring failed
        self.running = 0  # jobs that run and are not blocked
        self.blocked_jobs = 0
        self._on_errands = 0  # members that run one; they count as running as well
        self._stopping = False
        self._quiet = Bells(lock)  # rung when the last job has ended
        reader.wake_watcher = self._wake_watcher
        reader.work_arrived = self._work_arrived
        reader.look_at_clock = self._expire_due

    # From outside.

    def start(self) -> None:
        """Start the watcher; again, if starting it was interrupted."""
        with self._lock:
            # Whether one that has not begun is going to can't be told: an interrupt within start()
            # may have kept it from that, or have it die before it comes to our code.
            for member in list(self._members):
                if not member.began:
                    del self._members[member]
            if not self._members:
                self._hire()

    def submit(self, job: Job) -> None:
        """Queue a job; run it here if the crew is gone."""
        with self._lock:
            stopped = self._stopping
            if not stopped:
                self.submit_locked(job)
        if stopped:
            job.run()

    def submit_read(self, job: Served) -> None:
        """Queue a job that the holder of the reading role has just read.

        It sees to quick ones itself: the watcher looks for them after each read, a caller
        by ``work_arrived``, and who leaves the role by ``wake_watcher``. So they cost no lock.
        """
        if job.is_slow:
            with self._lock:
                # Noted in the step that does it: the one who reads may be interrupted.
                job.entered = True
                self._slow.append(job)
                self._call_worker()
        else:
            job.entered = True
            self._quick.append(job)

    def more_is_coming(self) -> bool:
        """Tell whether the watcher has more to run before it flushes."""
        return bool(self._quick)

    def submit_locked(self, job: Job) -> None:
        """As :meth:`submit`, with the lock held, and while the session lives."""
        watcher = self._watcher
        if job.is_slow:
            self._give_to_worker(job)
            return
        self._quick.append(job)
        if watcher is not None and (watcher.sleeps_until != 0.0 or watcher.polling):
            self._rouse(watcher)

    def submit_and_wake(self, job: Job) -> None:
        """Queue a job for a worker; run it here if the crew is gone."""
        with self._lock:
            stopped = self._stopping
            if not stopped:
                self._give_to_worker(job)
        if stopped:
            job.run()

    def submit_writing(self, job: WriteJob) -> None:
        """As :meth:`submit_and_wake`, before everything else; one of them is enough."""
        with self._lock:
            stopped = self._stopping
            if not stopped and not (self._errands and type(self._errands[0]) is WriteJob):
                self._errands.appendleft(job)
                self._call_errand_runner()
        if stopped:
            job.run()

    def deadline_added(self, deadline: float) -> None:
        """See to it, with the lock held, that someone is awake at ``deadline``."""
        watcher = self._watcher
        if watcher is not None and (
            watcher.sleeps_until is None or deadline < watcher.sleeps_until
        ):
            self._rouse(watcher)

    def jobs(self) -> int:
        """Return, with the lock held, how many jobs run or wait to run."""
        return self.running + self.blocked_jobs + self.waiting_jobs()

    def waiting_jobs(self) -> int:
        """Return how many jobs wait to run."""
        return len(self._quick) + len(self._slow) + len(self._errands)

    def handlers_running(self) -> int:
        """Return, with the lock held, how many handlers run, those that wait included."""
        return sum(m.job is not None and m.job.is_handler for m in self._members)

    def wait_until_quiet(self, end: float | None) -> bool:
        """Wait until no job runs or waits, but for the caller's; return whether it is so."""
        own = self.runs_here()  # it closes the session itself where no thread can be had for it
        return self._quiet.wait_for(lambda: self.jobs() <= own, end)

    def drop_jobs(self) -> list[Job]:
        """Take out and return what waits to run."""
        with self._lock:
            dropped = [*self._quick, *self._slow, *self._errands]
            self._quick.clear()
            self._slow.clear()
            self._errands.clear()
            self._quiet.ring()
        return dropped

    def runs_here(self) -> bool:
        """Tell whether the calling thread is running one of this crew's jobs."""
        member = working_member()
        return member is not None and member.crew is self

    def stop(self) -> None:
        """Tell all members to end once they are done with what they do."""
        with self._lock:
            self._stopping = True
            for member in self._members:
                self._rouse(member)

    def forget_after_fork(self) -> None:
        """Have the thread that forked, if it is a member, end once its job has returned."""
        keep_own_seat()
        self._stopping = True
        self._quick.clear()
        self._slow.clear()
        self._errands.clear()
        self._idle.clear()

    def join(self, end: float) -> None:
        """Wait for the members' threads, at most until ``end``."""
        me = threading.current_thread()
        for member in tuple(self._members):
            if member.thread is not me and member.thread.ident is not None:
                member.thread.join(max(0.0, end - time.monotonic()))

    # A member's life.

    def _hire(self) -> Member | None:
        member = Member(self)
        member.thread = make_thread(self._work, member, name=self._name)
        self._members[member] = None
        try:
            start_thread(member.thread)
        except (RuntimeError, MemoryError):  # no new thread: the members there are must do
            del self._members[member]
            if not self._members:
                raise
            self._alone = True
            if self._watcher is not None:
                self._rouse(self._watcher)  # it may sleep, and has to run what we would have
            return None
        if self._alone:
            self._alone = False
            # The watcher leaves to others again what nobody was called for.
            for _ in range(2 * self._limit):
                self._call_workers()
                if self._alone:
                    break
        return member

    def _work(self, me: Member) -> None:
        with self._lock:
            if me not in self._members:
                return  # its start was interrupted, and another one was started in its place
            me.began = True
        take_seat(me)
        try:
            while self._next_duty(me):
                pass
        except BaseException as error:
            with self._lock:
                if self._reader.holder == threading.get_ident():
                    self._reader.holder = None
                if me.job is not None:
                    self._ended(me.job)
                self._leave(me)
                if self._watcher is None and self._members and not self._stopping:
                    self._promote()  # the end may take as long as ``on_exception`` does
            self._crashed(error)
        finally:
            leave_seat()

    def _next_duty(self, me: Member) -> bool:
        """Do one duty; return ``False`` to end."""
        with self._lock:
            if self._stopping or me not in self._members:
                self._leave(me)
                return False
            job = None
            duty = self._watch
            if self._watcher is None or self._watcher is me:
                self._watcher = me
                self._call_workers()  # it may have been rung for what waits there
            elif self._standby is me:
                duty = self._stand_by
            elif self._errands and self._may_run_errand(self._errands[0]):
                job = me.job = self._errands.popleft()
                self._started(job)
            elif self._slow and self._may_run():
                job = me.job = self._slow.popleft()
                self._started(job)
            elif self._standby is None:
                self._standby = me
                duty = self._stand_by
            else:
                self._idle.append(me)
                duty = self._idle_away
        if job is None:
            duty(me)
        else:
            start = time.perf_counter()
            job.run()
            job.took(time.perf_counter() - start)
            self._flush_some()  # never wait here: what is stuck may be other threads' frames
            with self._lock:
                me.job = None
                self._ended(job)
        return True

    def _leave(self, me: Member) -> None:
        self._members.pop(me, None)
        if self._watcher is me:
            self._watcher = None
        if self._standby is me:
            self._standby = None

    def _idle_away(self, me: Member) -> None:
        rung = me.bell.acquire(timeout=IDLE_SECONDS)
        with self._lock:
            if me in self._idle:
                self._idle.remove(me)
                if not rung:
                    self._leave(me)

    def _expire_due(self) -> None:
        with self._lock:
            expired = self._deadlines.expire(time.monotonic())
        if expired:
            self._expire(expired)

    # Blocking inside a job.

    def enter_wait(self, job: Job) -> None:
        """``job``, of this thread, is going to wait for something of the session's."""
        with self._lock:
            self.running -= 1
            self._on_errands -= job.is_errand
            self.blocked_jobs += 1
            reader = self._reader
            reader.flow.blocked_locked(self.blocked_jobs)
            reader.flow.handler_waits_locked()
            watcher = self._watcher
            if watcher is not None and watcher.thread is threading.current_thread():
                reader.crew_reads = False  # it is the one to read, for its own reply
            else:
                self._wake_watcher()
            self._call_workers()

    def leave_wait(self, job: Job) -> None:
        """It has waited."""
        with self._lock:
            self.running += 1
            self._on_errands += job.is_errand
            self.blocked_jobs -= 1
            self._reader.flow.blocked_locked(self.blocked_jobs)
