"""Who gets which request, and when a worker is started, killed, replaced or given up.

These are decisions alone (Sans-I/O): no thread, lock, clock, process or session. Whoever has news
calls a method with the time, and then does what stands in the four queues:

* ``to_send``: jobs, each of which is to be sent to its ``worker``;
* ``to_start``: workers whose process is to be started;
* ``to_end``: workers that are to be ended: killed if ``is_killed``, else closed softly;
* ``to_fail``: jobs that no worker will have, each with the reason.

Doing one of these twice is harmless for all but ``to_send``, whose jobs say whether they are sent.

The truth is ``job.worker``, ``job.has_ended`` and ``worker.state``; all else follows from these. An
exception of a signal's handler may come behind any call. Then :meth:`Scheduler.mend`, called before
the next method, brings the rest in line with them, and the call that was cut short is made again:
each method may be. What it does not do again, :meth:`Scheduler.look` does, which is due then. What
must not come apart is stored without a call in between, or with one call behind it.
"""

from __future__ import annotations

import heapq
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum

from .backoff import Backoff
from .jobs import Job, State, Worker

__all__ = ["Reason", "Scheduler"]

_NEVER = float("inf")

_MOST_REFUSALS = 3
"""A worker that holds too much refuses a request. So often another one, or the same, is asked."""

_MOST_STALE = 64
"""Deadlines of jobs that wait no more, beside as many as do: then they are looked for."""

_TAKING = (State.READY, State.RETIRING)

_LEAVING = (State.RETIRING, State.DRAINING)

_COUNTED = (State.STARTING, State.READY)


class Reason(Enum):
    """Why no worker will have a job."""

    CLOSED = "closed"
    """The pool takes no more."""
    LATE = "late"
    """Its time was over before it was sent."""
    UNAVAILABLE = "unavailable"
    """There is no worker, and none can be had soon."""


class Scheduler:
    """See the module's text.

    Args:
        size: workers at the most, beside those that are replaced or end.
        per_worker: requests that a worker has at the same time.
        kill_grace: seconds that a handler has to end after its request is over.
        wait: seconds that a request waits while there is no worker at all.
        backoff: says when workers may be started.
        max_requests: that a worker is given; ``None``: any number.
        max_lifetime: seconds after which a worker is replaced; ``None``: never.
        make_worker: called with the number of a new worker and the time.

    Attributes:
        soonest: when :meth:`look` is to be called at the latest, in the seconds of ``now``.
    """

    def __init__(
        self,
        size: int,
        backoff: Backoff,
        *,
        per_worker: int = 1,
        kill_grace: float = 1.0,
        wait: float = 5.0,
        max_requests: int | None = None,
        max_lifetime: float | None = None,
        make_worker: Callable[[int, float], Worker] = Worker,
    ) -> None:
        self.size = size
        self.backoff = backoff
        self._per_worker = per_worker
        self._kill_grace = kill_grace
        self._wait = wait
        self._most = max_requests
        # The new one is started when a tenth is left, so that it is ready in time.
        self._retiring_at = _NEVER if max_requests is None else max(1, max_requests * 9 // 10)
        self._max_lifetime = max_lifetime
        self._make_worker = make_worker
        self.workers: dict[Worker, None] = {}
        self.waiting: deque[Job] = deque()
        self.to_send: deque[Job] = deque()
        self.to_start: deque[Worker] = deque()
        self.to_end: deque[Worker] = deque()
        self.to_fail: deque[tuple[Job, Reason]] = deque()
        self.soonest = _NEVER
        self.is_closing = False
        self._jobs: dict[Job, None] = {}  # all that are not over
        self._idle: dict[Worker, None] = {}  # ready, without a job; the last one is used first
        self._deadlines: list[tuple[float, int, Job]] = []  # of waiting jobs, and of some others
        self._target = 0  # workers that there are to be
        self._rolling: deque[Worker] = deque()  # to be replaced, one after the other
        self._down_since: float | None = None  # since when nobody takes requests
        self._is_aborting = False
        self._is_asked = False  # to start workers, until the next of them dies at once
        self._count = 0  # jobs so far
        self._started = 0  # workers so far
        self._doubted = 0  # workers so far, when one was last counted as part of a crash loop

    # What is asked of it.

    @property
    def is_quiet(self) -> bool:
        """Whether no job waits, and no worker has one."""
        return not self._jobs

    @property
    def is_over(self) -> bool:
        """Whether it is closed, and there is no worker and no job any more."""
        return self.is_closing and not self.workers and not self._jobs

    @property
    def running(self) -> int:
        """How many jobs workers have."""
        return len(self._jobs) - len(self.waiting)

    @property
    def last_number(self) -> int:
        """The number of the newest job."""
        return self._count

    def are_over(self, number: int) -> bool:
        """Tell whether all jobs up to this one are over."""
        return all([job.number > number for job in self._jobs])

    def taking(self) -> int:
        """Return how many workers take requests."""
        return sum(worker.state in _TAKING for worker in self.workers)

    def is_down(self, now: float) -> bool:
        """Tell whether no worker can be had before a pause is over."""
        if any([worker.state in (*_TAKING, State.STARTING) for worker in self.workers]):
            return False
        return self.size == 0 or self.backoff.pause(now) > 0

    # Requests.

    def submit(self, job: Job, now: float) -> None:
        """A new job: it gets a worker, or waits, or fails."""
        if job.has_ended or job in self._jobs:
            return
        if self.is_closing:
            self._fail(job, Reason.CLOSED)
            return
        if job.number == 0:
            self._count += 1
            job.number = self._count
        if not self.waiting:
            worker = self._free_worker()
            if worker is not None:
                self._jobs[job] = None
                self._give(job, worker)
                return
            if self.is_down(now):
                self._fail(job, Reason.UNAVAILABLE)
                return
        self._jobs[job] = None
        self._let_wait(job)
        self._staff(now)
        self._fail_hopeless(now)

    def over(self, job: Job, worker: Worker, now: float) -> None:
        """A worker is done with a job, and has answered it."""
        if job.worker is not worker:
            return
        job.has_ended = True
        if self.backoff.row and worker.done == 0:
            self._prove(now)
        worker.done += 1
        self._release(job, now)

    def drop(self, job: Job, now: float) -> None:
        """A job is over that no worker was sent, or whose worker is gone."""
        job.has_ended = True
        self._release(job, now)

    def give_up(self, job: Job, now: float) -> None:
        """Nobody waits for a job any more: its time is over, or it was cancelled.

        Its worker may be busy with it for ``kill_grace`` seconds; then it is killed.
        """
        job.has_ended = True
        worker = job.worker
        if worker is None or not job.is_sent or worker not in self.workers:
            self._release(job, now)
        elif worker.jobs.get(job) is None:
            worker.jobs[job] = now + self._kill_grace
            self._remind(now + self._kill_grace)

    def take_back(self, job: Job, worker: Worker, now: float) -> bool:
        """A worker certainly has not started a job: another one is to have it.

        Returns:
            ``False``: it was refused too often, and is over.
        """
        if job.worker is not worker:
            return not job.has_ended
        if job.has_ended:
            self._release(job, now)
            return False
        if job.refusals >= _MOST_REFUSALS + len(self.workers):
            self.drop(job, now)
            return False
        job.refusals += 1
        job.is_sent = False
        job.worker = None
        self._wait_again(job, worker, now)
        return True

    def lost(self, job: Job, worker: Worker, now: float) -> bool:
        """A worker has died with a job, and may have started it.

        Returns:
            Whether another one is to have it.
        """
        if job.worker is not worker:
            return not job.has_ended
        # While none can be had it is lost too: "unavailable" would say that it was not sent.
        if job.has_ended or job.retries <= 0 or self.is_closing or self.is_down(now):
            self.drop(job, now)
            return False
        job.retries -= 1
        job.is_sent = False
        job.worker = None
        self._wait_again(job, worker, now)
        return True

    def _take_unsent(self, worker: Worker, now: float) -> None:
        """Take from a worker that ends what nobody has sent to it."""
        for job in [*worker.jobs]:
            if not job.is_sent:
                job.worker = None
                self._wait_again(job, worker, now)

    def _wait_again(self, job: Job, worker: Worker, now: float) -> None:
        """Give a job that a worker had to another one. A worker that has refused it comes last."""
        worker.jobs.pop(job, None)
        self._let_wait(job)
        self._follow(now)
        self._feed(worker, now)

    def _let_wait(self, job: Job) -> None:
        """Put a job among those that wait, in front of those that came after it."""
        waiting = self.waiting
        place = len(waiting)
        if waiting and waiting[-1].number > job.number:  # it waits again
            place = bisect(waiting, job.number, key=_number)
        waiting.insert(place, job)
        if job.deadline is not None:
            heapq.heappush(self._deadlines, (job.deadline, job.number, job))
            self._remind(job.deadline)

    def _forget_deadlines(self) -> None:
        """Let go of jobs that wait no more; most of them, so that it is not done too often."""
        if not self.waiting:
            self._deadlines.clear()
        elif len(self._deadlines) > 2 * len(self.waiting) + _MOST_STALE:
            self._deadlines = _deadlines_of(self.waiting)

    def _release(self, job: Job, now: float) -> None:
        """A job is over: its worker, or its place among those that wait, is free."""
        worker = job.worker
        if worker is None:
            if job in self._jobs:
                self.waiting.remove(job)
                self._jobs.pop(job, None)
                self._forget_deadlines()
            return
        worker.jobs.pop(job, None)
        self._jobs.pop(job, None)
        job.worker = None
        self._feed(worker, now)

    def _fail(self, job: Job, reason: Reason) -> None:
        job.has_ended = True
        self.to_fail.append((job, reason))
        self._jobs.pop(job, None)

    def _fail_waiting(self, reason: Reason) -> None:
        while self.waiting:
            self._fail(self.waiting[0], reason)
            self.waiting.popleft()
        self._forget_deadlines()

    def _fail_hopeless(self, now: float) -> None:
        """Fail what waits, if no worker takes anything, and none can be had soon."""
        if self.taking():
            self._down_since = None
            return
        if self._down_since is None:
            self._down_since = now
        if self.is_down(now):
            self._fail_waiting(Reason.UNAVAILABLE)
        while self.waiting:
            job = self.waiting[0]
            until = max(job.since, self._down_since) + self._wait
            if now < until:
                self._remind(until)
                return
            self._fail(job, Reason.UNAVAILABLE)
            self.waiting.popleft()
            self._forget_deadlines()

    def _give(self, job: Job, worker: Worker) -> None:
        job.worker = worker
        worker.jobs[job] = None
        worker.given += 1
        self._idle.pop(worker, None)
        self.to_send.append(job)

    def _free_worker(self) -> Worker | None:
        """Return the worker that has least to do, if one has room."""
        if self._idle:
            return next(reversed(self._idle))
        best = None
        for worker in self.workers:
            if self._has_room(worker) and (best is None or _rank(worker) < _rank(best)):
                best = worker
        return best

    def _has_room(self, worker: Worker) -> bool:
        return (
            worker.state in _TAKING
            and len(worker.jobs) < self._per_worker
            and (self._most is None or worker.given < self._most)
        )

    def _feed(self, worker: Worker, now: float) -> None:
        """Give a worker what waits, as far as it has room."""
        if worker.given >= self._retiring_at and worker.state in _TAKING:
            self._wear_out(worker, now)
        while self.waiting and self._has_room(worker):
            self._give(self.waiting[0], worker)
            self.waiting.popleft()
        if self._deadlines:
            self._forget_deadlines()
        if worker.jobs:
            return
        if worker.state is State.READY:
            self._idle[worker] = None
        elif worker.state is State.DRAINING:
            self._end(worker, now)

    def _feed_all(self, now: float) -> None:
        while self.waiting:
            worker = self._free_worker()
            if worker is None:
                return
            self._feed(worker, now)

    # Workers.

    def start_all(self, now: float) -> None:
        """Have as many workers as there may be."""
        self._target = self.size
        self._is_asked = True
        self._staff(now)
        self._remind(now)  # old ones may be replaced again

    def start_one(self, now: float) -> None:
        """Have one worker at least."""
        self._target = max(self._target, min(1, self.size))
        self._is_asked = True
        self._staff(now)
        self._remind(now)  # old ones may be replaced again

    def ready(self, worker: Worker, now: float) -> None:
        """A worker has started, and takes requests."""
        if worker.state is not State.STARTING or worker not in self.workers:
            return
        if self._max_lifetime is not None:
            worker.retire_at = now + self._max_lifetime
            self._remind(worker.retire_at)
        worker.state = State.READY
        self._feed(worker, now)
        self._follow(now)

    def gone(self, worker: Worker, now: float) -> None:
        """A worker has died, was ended, or could not be started.

        What it has not answered is told by :meth:`lost` and :meth:`take_back`.
        """
        if worker not in self.workers:
            return
        state = worker.state
        worker.state = State.ENDING
        if state not in (State.DRAINING, State.ENDING):
            self._count_death(worker, state, now)
        self._idle.pop(worker, None)
        for job in [*worker.jobs]:
            if job.has_ended:
                self._release(job, now)
        self._take_unsent(worker, now)
        # At last: until then this does it all when it is called again.
        self.workers.pop(worker, None)
        self._follow(now)

    def _count_death(self, worker: Worker, state: State, now: float) -> None:
        """Learn from a death that nobody has asked for."""
        backoff = self.backoff
        if state is not State.STARTING and not backoff.is_early(now - worker.started, worker.done):
            if worker.done == 0:
                self._prove(now)
        elif worker.number > self._doubted:
            # Of several that were started before one was seen to die, the others tell nothing new.
            self._doubted = self._started
            self._is_asked = False
            backoff.died(now)

    def _prove(self, now: float) -> None:
        """A worker is sound: all that are missing may be started, and old ones be replaced."""
        self.backoff.proved()
        self._remind(now)

    def resize(self, size: int, now: float) -> None:
        """Have another number of workers at the most."""
        was_started = self._target > 0
        self.size = size
        self._target = size if was_started else 0
        surplus = [*self.workers]
        surplus.sort(key=lambda worker: (worker.state is not State.STARTING, len(worker.jobs)))
        counted = [worker for worker in surplus if worker.state in _COUNTED]
        for worker in counted[: max(0, len(counted) - size)]:
            self._drain(worker, now)
        self._follow(now)

    def restart(self, now: float) -> None:
        """Replace all workers, one after the other; each new one is ready first."""
        self._is_asked = True
        self._rolling = deque(worker for worker in self.workers if worker.state in _COUNTED)
        self._balance(now)

    def close(self, now: float) -> None:
        """Take no new jobs; those that wait, and those that run, go on."""
        self.is_closing = True
        self._rolling.clear()

    def abort(self, now: float) -> None:
        """Fail what waits, and what should wait again."""
        self.close(now)
        self._is_aborting = True
        self._fail_waiting(Reason.CLOSED)

    def end_all(self, now: float) -> None:
        """End all workers, whatever they have; to be called after :meth:`abort`."""
        for worker in [*self.workers]:
            if worker.state is not State.ENDING:
                self._end(worker, now)

    def let_go(self, now: float) -> None:
        """Fail what waits, and leave the end of all workers to somebody else."""
        self.abort(now)
        for worker in self.workers:
            worker.state = State.ENDING
        self._idle.clear()

    def jobs(self) -> list[Job]:
        """Return all jobs that are not over."""
        return [*self._jobs]

    def _wear_out(self, worker: Worker, now: float) -> None:
        """Replace a worker that has had as many requests as it is to have, or nearly."""
        leaving = [one for one in self.workers if one.state in _LEAVING]
        if worker.given >= (self._most or _NEVER) and (not worker.jobs or worker in leaving):
            self._drain(worker, now)
        elif worker.state is State.READY and len(leaving) < self.size:
            self._retire(worker)
        else:
            return  # or there would be any number of workers that are busy with their last requests
        self._staff(now)
        self._fail_hopeless(now)

    def _retire(self, worker: Worker) -> None:
        worker.state = State.RETIRING
        self._idle.pop(worker, None)

    def _drain(self, worker: Worker, now: float) -> None:
        """Have a worker take no more, and end when it is done."""
        worker.state = State.DRAINING
        self._idle.pop(worker, None)
        if not worker.jobs:
            self._end(worker, now)

    def _end(self, worker: Worker, now: float, is_killed: bool = False) -> None:
        worker.state, worker.is_killed = State.ENDING, is_killed
        self._idle.pop(worker, None)
        self.to_end.append(worker)
        self._take_unsent(worker, now)

    def _follow(self, now: float) -> None:
        """Do what follows from what the workers are now."""
        if self._is_aborting:
            self._fail_waiting(Reason.CLOSED)
        self._keep_old()
        self._feed_all(now)
        self._staff(now)
        self._balance(now)
        self._fail_hopeless(now)

    @property
    def _may_try(self) -> bool:
        """Whether workers are started although nobody waits for one."""
        return self._is_asked or not self.backoff.is_exhausted

    def _staff(self, now: float) -> None:
        """Start workers, as far as there are too few and it is allowed."""
        states = [worker.state for worker in self.workers]
        starting = states.count(State.STARTING)
        counted = starting + states.count(State.READY)
        lacking = len(self.waiting) - starting * self._per_worker
        if lacking > 0:
            wanted = counted + -(-lacking // self._per_worker)
            self._target = min(max(self._target, wanted), self.size)
        most = min(self._target, self.size)
        if counted >= most or not (self.waiting or self._may_try):
            return
        if self.is_closing and not self.waiting:
            return
        if self.backoff.row:
            if self.backoff.pause(now) > 0:
                self._remind(self.backoff.not_before)
                return
            # One that tries whether it goes again.
            most = min(most, counted - starting + 1)
        for _ in range(most - counted):
            self._started += 1
            worker = self._make_worker(self._started, now)
            self.to_start.append(worker)
            self.workers[worker] = None

    def _balance(self, now: float) -> None:
        """Let those go that are replaced; then begin with the next one."""
        while True:
            retiring = [one for one in self.workers if one.state is State.RETIRING]
            if retiring:
                if self.taking() <= min(self._target, self.size):
                    return
                self._drain(retiring[0], now)
            elif self._rolling and self._may_try:
                worker = self._rolling[0]
                if worker.state is State.STARTING:
                    return  # until it is ready
                if worker.state is State.READY:
                    self._retire(worker)
                    self._staff(now)
                self._rolling.popleft()
            else:
                return

    def _keep_old(self) -> None:
        """Keep the old workers, as many as there may be, when the new ones die."""
        if self._may_try:
            return
        self._rolling.clear()
        room = min(self._target, self.size)
        room -= sum(worker.state in _COUNTED for worker in self.workers)
        for worker in self.workers:
            if room > 0 and worker.state is State.RETIRING and worker.given < self._retiring_at:
                worker.state = State.READY
                room -= 1
                if not worker.jobs:
                    self._idle[worker] = None

    # Time.

    def look(self, now: float) -> None:
        """Do what is due, and what an interrupt has left; set ``soonest`` anew."""
        self.soonest = _NEVER
        self._fail_late(now)
        for worker in [*self.workers]:
            if worker.state is not State.ENDING:
                self._look_at(worker, now)
        self._follow(now)

    def _look_at(self, worker: Worker, now: float) -> None:
        kill_at = min((at for at in worker.jobs.values() if at is not None), default=_NEVER)
        if now >= kill_at:
            self._end(worker, now, is_killed=True)
            return
        self._remind(kill_at)
        if worker.retire_at is not None and worker.state is State.READY and not self.is_closing:
            if now < worker.retire_at:
                self._remind(worker.retire_at)
            elif worker not in self._rolling:
                # Not all that are as old at the same time: that would be twice as many processes.
                self._rolling.append(worker)
        if not worker.jobs:
            self._feed(worker, now)

    def _fail_late(self, now: float) -> None:
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] <= now or not _waits(deadlines[0][2])):
            job = deadlines[0][2]
            if _waits(job):
                self._fail(job, Reason.LATE)
                self.waiting.remove(job)
            heapq.heappop(deadlines)
        if deadlines:
            self._remind(deadlines[0][0])

    def _remind(self, at: float) -> None:
        if at < self.soonest:
            self.soonest = at

    # After an interrupt.

    def mend(self) -> None:
        """Bring all in line with what each job and each worker says."""
        for job in [*self._jobs]:
            if not job.is_sent and job.worker is not None and job.worker.state is State.ENDING:
                job.worker = None
            if job.has_ended and job.worker is None:
                del self._jobs[job]
        waiting = [job for job in self._jobs if job.worker is None]
        self.waiting = deque(sorted(waiting, key=lambda job: job.number))
        self._deadlines = _deadlines_of(waiting)
        for worker in self.workers:
            have = {job: worker.jobs.get(job) for job in self._jobs if job.worker is worker}
            worker.jobs = have
        self.to_send = deque(
            job for job in self._jobs if job.worker is not None and not job.is_sent
        )
        self._idle = {
            worker: None
            for worker in self.workers
            if worker.state is State.READY and not worker.jobs and self._has_room(worker)
        }
        self.to_end = deque(worker for worker in self.workers if worker.state is State.ENDING)
        self.soonest = 0.0  # look() sets it


def _rank(worker: Worker) -> tuple[bool, int]:
    return (worker.state is State.RETIRING, len(worker.jobs))


def _deadlines_of(waiting: Iterable[Job]) -> list[tuple[float, int, Job]]:
    """Return a heap of their deadlines."""
    deadlines = [(job.deadline, job.number, job) for job in waiting if job.deadline is not None]
    heapq.heapify(deadlines)
    return deadlines


def _number(job: Job) -> int:
    return job.number


def _waits(job: Job) -> bool:
    return job.worker is None and not job.has_ended
