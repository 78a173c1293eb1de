"""A simulated world for the decisions of a worker pool: processes, callers, and a clock.

It does with :class:`Scheduler` what the threads and sessions of a pool do, in an order that the
test picks: each step may come late, and in between others may. ``check()`` says what must be so at
any time. It holds nothing but plain objects, so that pickle can copy it.
"""

from __future__ import annotations

from typing import Any

from interrupting import interrupted_at

from streamipc.pool.backoff import Backoff
from streamipc.pool.jobs import Job, State, Worker
from streamipc.pool.scheduler import Reason, Scheduler

__all__ = ["FakeJob", "FakeWorker", "World"]

TAKING = (State.READY, State.RETIRING)
COUNTED = (State.STARTING, State.READY)
NEVER = float("inf")

DECISIONS = tuple(f"streamipc/pool/{name}.py" for name in ("backoff", "jobs", "scheduler"))


def half() -> float:
    return 0.5


class FakeJob(Job):
    """A request with what has become of it.

    Attributes:
        outcome: "ok", "cancelled", "late", "lost", "refused", or a :class:`Reason`.
        ends: how often the scheduler has had it end.
        owed: workers that were sent it and have not shown what became of it.
        sent_to: all of them.
        excused: those that were lost with it, or refused it.
    """

    def __init__(self, now: float, timeout: float | None, retries: int) -> None:
        super().__init__(now, timeout, retries)
        self.allowed = retries
        self.outcome: Any = None
        self.failed: list[Reason] = []
        self.sent_to: list[FakeWorker] = []
        self.excused = 0
        self.losses = 0

    def __repr__(self) -> str:
        return f"<job {self.number} {self.outcome} of {self.worker} sent={self.is_sent}>"


class FakeWorker(Worker):
    """A worker with its process."""

    def __init__(self, number: int, now: float) -> None:
        super().__init__(number, now)
        self.is_started = False  # somebody has taken it from to_start
        self.is_up = False
        self.is_told_to_end = False
        self.has_gone = False  # and the scheduler was told
        self.held: list[FakeJob] = []  # that its process has, and has not answered

    def __repr__(self) -> str:
        return f"<worker {self.number} {self.state.value}>"


class World:
    """See the module's text; ``options`` are those of the scheduler."""

    def __init__(
        self, size: int = 2, backoff: tuple[float, float, int] = (0.1, 30.0, 5), **options: Any
    ) -> None:
        self.now = 1000.0
        self.scheduler = Scheduler(size, Backoff(*backoff, half), make_worker=FakeWorker, **options)
        self.per_worker = options.get("per_worker", 1)
        self.max_requests = options.get("max_requests")
        self.wait = options.get("wait", 5.0)
        self.jobs: list[FakeJob] = []
        self.workers: list[FakeWorker] = []  # all that were to be started
        self.sending: list[tuple[FakeJob, FakeWorker]] = []  # claimed, and not sent yet
        self.news: list[tuple[Any, ...]] = []  # of processes, and nobody has told them
        self.interrupt_at = 0  # at which place in the next decision, from 1
        self.is_interrupted = False  # some things may happen twice then
        self.down_since: float | None = self.now

    # What a pool does.

    def decide(self, method: str, *args: Any) -> Any:
        """Call a method of the scheduler, and look if that is due."""
        if self.interrupt_at:
            place, self.interrupt_at = self.interrupt_at, 0
            self.is_interrupted = interrupted_at(
                place, DECISIONS, lambda: self.decide(method, *args)
            )
            if not self.is_interrupted:
                return None
            self.scheduler.mend()
        time = () if method == "mend" else (self.now,)
        result = getattr(self.scheduler, method)(*args, *time)
        self.look_if_due()
        return result

    def look_if_due(self) -> None:
        if self.now >= self.scheduler.soonest:
            self.scheduler.look(self.now)
        if any(worker.state in TAKING for worker in self.scheduler.workers):
            self.down_since = None
        elif self.down_since is None:
            self.down_since = self.now

    def claim(self) -> None:
        """Take what is to be done from the scheduler, as under the lock."""
        scheduler = self.scheduler
        while scheduler.to_send:
            job: Any = scheduler.to_send.popleft()
            if not (job.is_sent or job.has_ended or job.worker is None):
                assert job.worker.state is not State.ENDING, "sent to one that ends"
                job.is_sent = True
                self.sending.append((job, job.worker))
        while scheduler.to_start:
            worker: Any = scheduler.to_start.popleft()
            if worker in scheduler.workers and worker not in self.workers:
                self.workers.append(worker)
        while scheduler.to_end:
            worker = scheduler.to_end.popleft()
            worker.is_told_to_end = True
        while scheduler.to_fail:
            job, reason = scheduler.to_fail.popleft()
            assert job.outcome in (None, "cancelled", reason), f"{job} ends again: {reason}"
            job.failed.append(reason)
            assert len(job.failed) == 1 or self.is_interrupted
            job.outcome = job.outcome or reason

    def send(self, job: FakeJob, worker: FakeWorker) -> None:
        """Do what is to be done with a job that was claimed."""
        self.sending.remove((job, worker))
        assert job.has_ended or len(job.sent_to) == job.excused, f"{job} is with {job.sent_to} too"
        job.sent_to.append(worker)
        if worker.is_up:
            worker.held.append(job)
        elif not job.has_ended:
            self.news += [("gone", worker), ("take_back", job, worker)]

    def tell(self, index: int = 0) -> None:
        """Tell the scheduler of something that has happened."""
        method, *args = self.news.pop(index)
        if method == "gone":
            args[0].has_gone = True
            self.decide("gone", *args)
            return
        job, worker = args
        if method == "over":
            self.decide("over", *args)
            job.outcome = job.outcome or "ok"
            return
        if method == "time out":
            if job.outcome is None:
                job.outcome = "late"
            self.decide("give_up", job)
            return
        if job.outcome is None:
            job.excused += 1
            job.losses += method == "lost"
        if method == "drop":
            self.decide(method, job)
            job.outcome = job.outcome or "lost"
        elif not self.decide(method, job, worker):
            job.outcome = job.outcome or ("lost" if method == "lost" else "refused")
        else:
            assert job.losses <= job.allowed

    # What users do.

    def submit(self, timeout: float | None = None, retries: int = 0) -> FakeJob:
        job = FakeJob(self.now, timeout, retries)
        self.jobs.append(job)
        self.decide("submit", job)
        return job

    def cancel(self, job: FakeJob) -> None:
        if job.outcome is None:
            job.outcome = "cancelled"
            self.decide("give_up", job)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.look_if_due()
        for job in self.jobs:
            if job.deadline is not None and job.deadline <= self.now and job.outcome is None:
                for worker in self.up():
                    if job in worker.held and not self.is_late(job, worker):
                        self.news.append(("time out", job, worker))

    def is_late(self, job: FakeJob, worker: FakeWorker) -> bool:
        """Tell whether its session has given a job up, and the scheduler is yet to be told."""
        return ("time out", job, worker) in self.news

    # What processes do.

    def start(self, worker: FakeWorker, is_ready: bool = True) -> None:
        """A process is there, or can't be had."""
        worker.is_started = True
        if worker.state is not State.STARTING:
            self.news.append(("gone", worker))
        elif is_ready:
            worker.is_up = True
            self.decide("ready", worker)
        else:
            self.news.append(("gone", worker))

    def die(self, worker: FakeWorker, knows: bool = False) -> None:
        """A process ends; ``knows``: that it has not begun with what it has."""
        worker.is_up = False
        self.news.append(("gone", worker))
        for job in worker.held:
            if not (job.has_ended or job.outcome or self.is_late(job, worker)):
                method = "take_back" if knows else "lost"
                if job.number % 4 == 0 and not job.allowed:
                    method = "drop"  # as with a stream that somebody has already
                # A session's end is known before what has become of its requests.
                self.news += [("gone", worker), (method, job, worker)]
        worker.held.clear()

    def answer(self, worker: FakeWorker, job: FakeJob) -> None:
        worker.held.remove(job)
        self.news.append(("over", job, worker))

    def refuse(self, worker: FakeWorker, job: FakeJob) -> None:
        worker.held.remove(job)
        late = job.has_ended or self.is_late(job, worker)
        self.news.append(("over" if late else "take_back", job, worker))

    def to_start(self) -> list[FakeWorker]:
        return [worker for worker in self.workers if not worker.is_started]

    def up(self) -> list[FakeWorker]:
        return [worker for worker in self.workers if worker.is_up]

    def to_die(self) -> list[FakeWorker]:
        """Those that the scheduler has told to end, and that live."""
        return [worker for worker in self.up() if worker.is_told_to_end]

    # All together.

    def act(self, method: str, *args: Any) -> Any:
        """Do something, and all that follows from it but what processes do by themselves."""
        result = getattr(self, method, lambda *args: self.decide(method, *args))(*args)
        self.settle()
        return result

    def settle(self, starts: bool = True) -> None:
        """Do all that there is to do; ``starts``: processes can be started."""
        for _ in range(1000):
            self.claim()
            if self.sending:
                self.send(*self.sending[0])
            elif self.news:
                self.tell()
            elif starts and self.to_start():
                self.start(self.to_start()[0])
            elif self.to_die():
                self.die(self.to_die()[0])
            else:
                return
        raise AssertionError("this goes on for ever")

    def finish(self) -> None:
        """Close the pool; all must be over then."""
        self.settle()
        self.decide("close")
        for worker in self.up():
            for job in worker.held[::2]:
                self.answer(worker, job)
        self.settle()
        self.advance(2.0)
        self.settle()
        self.decide("abort")
        self.decide("end_all")
        self.settle()
        scheduler = self.scheduler
        assert not scheduler.workers, "workers are left"
        assert scheduler.is_quiet, f"jobs are left: {scheduler.jobs()}"
        assert scheduler.running == 0
        assert not scheduler.waiting
        assert all(worker.is_told_to_end or worker.has_gone for worker in self.workers)
        assert [job for job in self.jobs if job.outcome is None] == []
        self.check()

    # What holds at any time.

    def check(self) -> None:
        self.check_jobs()
        self.check_workers()
        self.check_time()

    def check_jobs(self) -> None:
        scheduler = self.scheduler
        known, waiting = set(scheduler.jobs()), set(scheduler.waiting)
        failing = {job for job, _ in scheduler.to_fail}
        on_the_way = {*scheduler.to_send, *(job for job, _ in self.sending)}
        on_the_way |= {news[1] for news in self.news if news[2:]}
        for job in self.jobs:
            held = [worker for worker in self.workers if job in worker.held]
            assert len(held) <= 1, f"{job} is with {held}"
            if job.outcome is not None or job in failing:
                continue
            assert job in known, f"{job} was lost"
            assert not job.has_ended
            assert (job.worker is None) == (job in waiting)
            assert job.worker is None or held == [job.worker] or job in on_the_way, f"{job} hangs"
        assert waiting <= known
        assert len(waiting) == len(scheduler.waiting)
        numbers = [job.number for job in scheduler.waiting]
        assert numbers == sorted(numbers), "out of order"
        assert scheduler.is_quiet == (not known)
        assert scheduler.running == len(known - waiting)
        for job in known:
            assert job.worker is None or job in job.worker.jobs or job.worker.has_gone
        deadlines = len(scheduler._deadlines)
        assert deadlines <= (2 * len(waiting) + 64 if waiting else 0), "jobs that are over are kept"

    def check_workers(self) -> None:
        scheduler = self.scheduler
        workers: list[Any] = [*scheduler.workers]
        states = [worker.state for worker in workers]
        counted = sum(state in COUNTED for state in states)
        starting = states.count(State.STARTING)
        assert counted <= scheduler.size, f"too many: {workers}"
        assert scheduler.taking() == sum(state in TAKING for state in states)
        for worker in workers:
            has_room = worker.state in TAKING and len(worker.jobs) < self.per_worker
            if self.max_requests is not None:
                has_room = has_room and worker.given < self.max_requests
                assert worker.given <= self.max_requests
            assert not (has_room and scheduler.waiting), f"{worker} has room, and some wait"
            assert len(worker.jobs) <= self.per_worker
            if worker.state is State.STARTING:
                assert worker in self.workers or worker in scheduler.to_start
            if worker.state is State.ENDING:
                assert worker.is_told_to_end or worker in scheduler.to_end, f"nobody ends {worker}"
                assert all(job.is_sent for job in worker.jobs), "given to one that ends"
            assert worker.state is not State.DRAINING or worker.jobs, f"{worker} waits for nothing"
            assert (worker in scheduler._idle) == (worker.state is State.READY and not worker.jobs)
        assert {*scheduler._idle} <= {*workers}
        if len(scheduler.waiting) > starting * self.per_worker and counted < scheduler.size:
            row, pause = scheduler.backoff.row, scheduler.backoff.pause(self.now)
            assert row, "some wait, and nobody starts a worker"
            assert starting or pause, "nobody tries"
        assert not (scheduler.waiting and scheduler.is_down(self.now)), "they wait in vain"

    def check_time(self) -> None:
        scheduler = self.scheduler
        due = [job.deadline for job in scheduler.waiting if job.deadline is not None]
        for worker in scheduler.workers:
            if worker.state is not State.ENDING:
                due += [at for at in worker.jobs.values() if at is not None]
            if worker.state is State.READY and worker.retire_at is not None:
                is_kept = scheduler.is_closing or not scheduler._may_try
                if worker not in scheduler._rolling and not is_kept:
                    due.append(worker.retire_at)
        if scheduler.waiting and not scheduler.taking():
            assert self.down_since is not None
            due += [max(job.since, self.down_since) + self.wait for job in scheduler.waiting]
        counted = sum(worker.state in COUNTED for worker in scheduler.workers)
        is_lacking = len(scheduler.waiting) > self.per_worker * counted
        if is_lacking and counted < scheduler.size and scheduler.backoff.pause(self.now):
            due.append(scheduler.backoff.not_before)
        assert scheduler.soonest <= min(due, default=NEVER), "nobody would look in time"
