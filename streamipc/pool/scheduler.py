"""Who gets which request, and when a worker is started, killed, replaced or given up.

These are decisions alone (Sans-I/O): no thread, lock, clock, process or session. Whoever has news
calls a method with the time, and then does what stands in the four queues:

* ``to_send``: jobs, each of which is to be sent to its ``worker``;
* ``to_start``: workers whose process is to be started;
* ``to_end``: workers that are to be ended: killed if ``is_killed``, else closed softly;
* ``to_fail``: jobs that no worker will have, each with the reason.

Doing one of these twice is harmless for all but ``to_send``, whose jobs say whether they are sent.

The truth is ``job.worker``, ``job.has_ended`` and ``worker.state``; all else follows from these. An
exception of a signal's handler may come between any two lines. Then :meth:`Scheduler.mend`, called
before the next method, brings the rest in line with them, and the call that was cut short is made
again: each method may be.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from enum import Enum

from .backoff import Backoff
from .jobs import Job, State, Worker

__all__ = ["Reason", "Scheduler"]

_NEVER = float("inf")

_MOST_REFUSALS = 3
"""A worker that holds too much refuses a request. So often another one, or the same, is asked."""

_TAKING = (State.READY, State.RETIRING)

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
        self._down_since = 0.0  # since when nobody takes requests
        self._count = 0  # jobs so far
        self._started = 0  # workers so far

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
        if any(worker.state in (*_TAKING, State.STARTING) for worker in self.workers):
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
        self._let_wait(job, now, in_front=False)
        self._staff(now)

    def over(self, job: Job, worker: Worker, now: float) -> None:
        """A worker is done with a job, and has answered it."""
        if job.worker is not worker:
            return
        job.has_ended = True
        worker.done += 1
        if self.backoff.row and worker.done == 1:
            self.backoff.proved()
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
        job.refusals += 1
        if job.refusals > _MOST_REFUSALS + len(self.workers):
            self.drop(job, now)
            return False
        self._give_back(job, now)
        return True

    def lost(self, job: Job, worker: Worker, now: float) -> bool:
        """A worker has died with a job, and may have started it.

        Returns:
            Whether another one is to have it.
        """
        if job.worker is not worker:
            return not job.has_ended
        if job.has_ended or job.retries <= 0 or self.is_closing:
            self.drop(job, now)
            return False
        job.retries -= 1
        self._give_back(job, now)
        return True

    def _give_back(self, job: Job, now: float) -> None:
        worker = job.worker
        job.is_sent = False
        job.worker = None
        if worker is not None:
            worker.jobs.pop(job, None)
            self._feed(worker, now)
        self._let_wait(job, now, in_front=True)
        self._feed_all(now)
        if self.waiting and self.is_down(now):
            self._fail_waiting(Reason.UNAVAILABLE)
        self._staff(now)

    def _let_wait(self, job: Job, now: float, in_front: bool) -> None:
        if in_front:
            self.waiting.appendleft(job)
        else:
            self.waiting.append(job)
        if job.deadline is not None:
            heapq.heappush(self._deadlines, (job.deadline, job.number, job))
            self._remind(job.deadline)
        if not self.taking():
            self._remind(max(job.since, self._down_since) + self._wait)

    def _release(self, job: Job, now: float) -> None:
        """A job is over: its worker, or its place among those that wait, is free."""
        worker = job.worker
        if worker is None:
            if job in self._jobs:
                try:
                    self.waiting.remove(job)
                except ValueError:
                    pass
                self._jobs.pop(job, None)
            return
        worker.jobs.pop(job, None)
        self._jobs.pop(job, None)
        job.worker = None
        self._feed(worker, now)

    def _fail(self, job: Job, reason: Reason) -> None:
        self.to_fail.append((job, reason))
        job.has_ended = True
        self._jobs.pop(job, None)

    def _fail_waiting(self, reason: Reason) -> None:
        while self.waiting:
            self._fail(self.waiting[0], reason)
            self.waiting.popleft()

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
        while self.waiting and self._has_room(worker):
            job = self.waiting[0]
            if not job.has_ended:
                self._give(job, worker)
            self.waiting.popleft()
        if worker.given >= self._retiring_at and worker.state in _TAKING:
            self._wear_out(worker, now)
        if worker.jobs:
            return
        if worker.state is State.READY:
            self._idle[worker] = None
        elif worker.state is State.DRAINING:
            self._end(worker)

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
        self._staff(now)

    def start_one(self, now: float) -> None:
        """Have one worker at least."""
        self._target = max(self._target, min(1, self.size))
        self._staff(now)

    def ready(self, worker: Worker, now: float) -> None:
        """A worker has started, and takes requests."""
        if worker.state is not State.STARTING or worker not in self.workers:
            return
        worker.state = State.READY
        if self._max_lifetime is not None:
            worker.retire_at = now + self._max_lifetime
            self._remind(worker.retire_at)
        self._feed(worker, now)
        self._balance(now)

    def gone(self, worker: Worker, now: float) -> None:
        """A worker has died, was ended, or could not be started.

        What it has not answered is told by :meth:`lost` and :meth:`take_back`.
        """
        if worker not in self.workers:
            return
        was_wanted = worker.state not in (State.DRAINING, State.ENDING)
        if was_wanted and (
            worker.state is State.STARTING
            or self.backoff.is_early(now - worker.started, worker.done)
        ):
            self.backoff.died(now)
        elif was_wanted and worker.done == 0:
            self.backoff.proved()
        worker.state = State.ENDING
        self._idle.pop(worker, None)
        self.workers.pop(worker, None)
        if not self.taking():
            self._down_since = now
            self._remind(now + self._wait)
        for job in [*worker.jobs]:
            if job.has_ended:
                self._release(job, now)
            elif not job.is_sent:
                self._give_back(job, now)
        self._give_up_rolling()
        if self.waiting and self.is_down(now):
            self._fail_waiting(Reason.UNAVAILABLE)
        self._staff(now)
        self._balance(now)

    def resize(self, size: int, now: float) -> None:
        """Have another number of workers at the most."""
        was_started = self._target > 0
        self.size = size
        self._target = size if was_started else 0
        surplus = [*self.workers]
        surplus.sort(key=lambda worker: (worker.state is not State.STARTING, len(worker.jobs)))
        counted = [worker for worker in surplus if worker.state in _COUNTED]
        for worker in counted[: max(0, len(counted) - size)]:
            self._drain(worker)
        self._staff(now)
        self._balance(now)

    def restart(self, now: float) -> None:
        """Replace all workers, one after the other; each new one is ready first."""
        self._rolling = deque(worker for worker in self.workers if worker.state in _COUNTED)
        self._balance(now)

    def close(self, now: float) -> None:
        """Take no new jobs; those that wait, and those that run, go on."""
        self.is_closing = True
        self._rolling.clear()

    def abort(self, now: float) -> None:
        """Fail what waits."""
        self.is_closing = True
        self._fail_waiting(Reason.CLOSED)

    def end_all(self, now: float) -> None:
        """End all workers, whatever they have."""
        for worker in self.workers:
            if worker.state is not State.ENDING:
                self._end(worker)

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
        if worker.given >= (self._most or _NEVER):
            self._drain(worker)
        elif worker.state is State.READY:
            self._retire(worker)
        else:
            return
        self._staff(now)

    def _retire(self, worker: Worker) -> None:
        worker.state = State.RETIRING
        self._idle.pop(worker, None)

    def _drain(self, worker: Worker) -> None:
        """Have a worker take no more, and end when it is done."""
        worker.state = State.DRAINING
        self._idle.pop(worker, None)
        if not worker.jobs:
            self._end(worker)

    def _end(self, worker: Worker) -> None:
        worker.state = State.ENDING
        self._idle.pop(worker, None)
        self.to_end.append(worker)

    def _staff(self, now: float) -> None:
        """Start workers, as far as there are too few and it is allowed."""
        counts = [worker.state for worker in self.workers if worker.state in _COUNTED]
        starting = counts.count(State.STARTING)
        lacking = len(self.waiting) - starting * self._per_worker
        while lacking > 0 and self._target < self.size:
            if self._target >= len(counts):
                self._target += 1
            lacking -= self._per_worker
        most = min(self._target, self.size)
        if len(counts) >= most or (self.is_closing and not self.waiting):
            return
        if self.backoff.row:
            if self.backoff.is_exhausted and not self.waiting:
                return
            if self.backoff.pause(now) > 0:
                self._remind(self.backoff.not_before)
                return
            # One that tries whether it goes again.
            most = min(most, len(counts) - starting + 1)
        for _ in range(most - len(counts)):
            self._started += 1
            worker = self._make_worker(self._started, now)
            self.to_start.append(worker)
            self.workers[worker] = None

    def _balance(self, now: float) -> None:
        """Let those go that are replaced; then begin with the next one."""
        while True:
            retiring = [one for one in self.workers if one.state is State.RETIRING]
            if retiring and self.taking() > min(self._target, self.size):
                self._drain(retiring[0])
            elif not retiring and self._rolling:
                worker = self._rolling[0]
                if worker.state is State.STARTING:
                    return  # until it is ready
                self._rolling.popleft()
                if worker.state is State.READY:
                    self._retire(worker)
                    self._staff(now)
            else:
                return

    def _give_up_rolling(self) -> None:
        """Keep the old workers: the new ones die."""
        if not self.backoff.is_exhausted:
            return
        self._rolling.clear()
        for worker in self.workers:
            if worker.state is State.RETIRING and worker.given < self._retiring_at:
                worker.state = State.READY
                if not worker.jobs:
                    self._idle[worker] = None

    # Time.

    def look(self, now: float) -> None:
        """Do what is due; set ``soonest`` anew."""
        self.soonest = _NEVER
        self._fail_late(now)
        for worker in [*self.workers]:
            self._look_at(worker, now)
        if self.waiting and not self.taking():
            until = max(self.waiting[0].since, self._down_since) + self._wait
            if now >= until:
                self._fail_waiting(Reason.UNAVAILABLE)
            else:
                self._remind(until)
        self._feed_all(now)
        self._staff(now)
        self._balance(now)

    def _look_at(self, worker: Worker, now: float) -> None:
        kill_at = min((at for at in worker.jobs.values() if at is not None), default=_NEVER)
        if worker.state is State.ENDING:
            return
        if now >= kill_at:
            worker.is_killed = True
            self._end(worker)
        else:
            self._remind(kill_at)
        if worker.state is State.READY and worker.retire_at is not None:
            if now >= worker.retire_at:
                self._retire(worker)
            else:
                self._remind(worker.retire_at)

    def _fail_late(self, now: float) -> None:
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] <= now or not _waits(deadlines[0][2])):
            job = deadlines[0][2]
            if _waits(job) and job in self._jobs:
                self._fail(job, Reason.LATE)
                if job in self.waiting:
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
            if job.has_ended and job.worker is None:
                del self._jobs[job]
        waiting = [job for job in self._jobs if job.worker is None]
        self.waiting = deque(sorted(waiting, key=lambda job: job.number))
        self._deadlines = [
            (job.deadline, job.number, job) for job in waiting if job.deadline is not None
        ]
        heapq.heapify(self._deadlines)
        for worker in self.workers:
            have = {job: worker.jobs.get(job) for job in self._jobs if job.worker is worker}
            worker.jobs = have
        self.to_send = deque(
            job for job in self._jobs if job.worker is not None and not job.is_sent
        )
        self._idle = {
            worker: None
            for worker in self.workers
            if worker.state is State.READY and not worker.jobs
        }
        self.to_end = deque(worker for worker in self.workers if worker.state is State.ENDING)
        self.soonest = 0.0  # look() sets it


def _rank(worker: Worker) -> tuple[bool, int]:
    return (worker.state is State.RETIRING, len(worker.jobs))


def _waits(job: Job) -> bool:
    return job.worker is None and not job.has_ended
