"""Whose turn it is: the lock, the inbox, and the supervisor, around a real scheduler."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from interrupting import Interrupt, interrupted_at, signals_raise
from pool_world import half

from streamipc.pool import turns as module
from streamipc.pool.backoff import Backoff
from streamipc.pool.jobs import Job
from streamipc.pool.scheduler import Scheduler
from streamipc.pool.turns import Action, Turns


class Sent:
    """A source that sends jobs; an event tells of each, and on which thread it was done."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.jobs: queue.SimpleQueue[tuple[Job, str]] = queue.SimpleQueue()
        self.others: list[Action] = []

    def has_work(self) -> bool:
        return bool(self.scheduler.to_send or self.others)

    def take(self) -> list[Action]:
        actions, self.others = self.others, []
        while self.scheduler.to_send:
            job = self.scheduler.to_send.popleft()
            job.is_sent = True
            actions.append((self.send, (job,)))
        return actions

    def send(self, job: Job) -> None:
        self.jobs.put((job, threading.current_thread().name))


class Pool:
    """Turns with a worker that is ready."""

    def __init__(self, has_threads: bool = True) -> None:
        self.scheduler = Scheduler(1, Backoff(0.1, 30.0, 5, half), kill_grace=60.0)
        self.turns = Turns("supervisor", self.scheduler, has_threads)
        self.sent = Sent(self.scheduler)
        self.turns.sources.append(self.sent)
        self.turns.post(self.scheduler.start_all)
        self.worker = self.scheduler.to_start.popleft()
        self.turns.post(self.scheduler.ready, self.worker)

    def submit(self, timeout: float | None = None) -> Job:
        job = Job(time.monotonic(), timeout)
        self.turns.post(self.scheduler.submit, job)
        return job

    def over(self, job: Job) -> None:
        self.turns.post(self.scheduler.over, job, self.worker)


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.turns.stop()


def supervisors() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "supervisor"]


def in_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function, name="other")
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


# Who does what.


def test_the_main_thread_leaves_what_was_decided_to_the_supervisor(pool: Pool) -> None:
    job = pool.submit()

    assert pool.sent.jobs.get(timeout=30) == (job, "supervisor")


def test_another_thread_does_what_it_has_decided(pool: Pool) -> None:
    jobs: list[Job] = []

    def submit() -> None:
        with pool.turns.lock:  # or the supervisor may be quicker
            jobs.append(pool.submit())

    in_thread(submit)

    assert pool.sent.jobs.get(timeout=30) == (jobs[0], "other")


def test_a_pool_without_threads_has_the_main_thread_do_it() -> None:
    pool = Pool(has_threads=False)
    job = pool.submit()

    assert pool.sent.jobs.get_nowait() == (job, "MainThread")
    assert supervisors() == []


def test_whoever_takes_its_turn_may_have_something_of_its_own_to_do(pool: Pool) -> None:
    job = Job(time.monotonic())
    told: list[Any] = []

    def mine() -> Action:
        assert pool.scheduler.to_send.pop() is job
        return (told.append, (threading.current_thread().name,))

    with pool.turns.lock:  # or the supervisor may be quicker
        pool.turns.inbox.append((pool.scheduler.submit, (job,)))
        pool.turns.take(mine)

    assert told == ["MainThread"]


def test_nothing_of_its_own_may_be_there(pool: Pool) -> None:
    pool.turns.take(lambda: None)

    assert pool.sent.jobs.empty()


def test_what_a_thread_has_to_do_may_bring_news_which_are_dealt_with_as_well(pool: Pool) -> None:
    done = threading.Event()
    pool.sent.others.append((pool.turns.post, (lambda now: done.set(),)))
    in_thread(pool.turns.take)

    assert done.wait(30)


def test_if_one_thing_fails_the_others_are_done_by_the_next_who_comes(pool: Pool) -> None:
    job = Job(time.monotonic())
    failed: list[BaseException] = []

    def fail() -> None:
        raise MemoryError

    def decide(now: float) -> None:
        pool.scheduler.submit(job, now)
        pool.sent.others.append((fail, ()))

    def post() -> None:
        try:
            with pool.turns.lock:  # or the supervisor may be quicker
                pool.turns.post(decide)
        except MemoryError as error:
            failed.append(error)

    in_thread(post)
    assert len(failed) == 1
    pool.turns.take()

    assert pool.sent.jobs.get(timeout=30) == (job, "supervisor")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_if_the_supervisor_fails_another_one_goes_on(pool: Pool) -> None:
    done = threading.Event()
    first = supervisors()

    def leave() -> None:
        raise SystemExit

    pool.sent.others += [(leave, ()), (done.set, ())]
    pool.turns.take()

    assert done.wait(30)
    assert supervisors() != first


# Finalizers.


def test_news_of_a_finalizer_in_the_midst_of_a_decision_are_dealt_with_by_the_outer_call(
    pool: Pool,
) -> None:
    order: list[str] = []

    def outer(now: float) -> None:
        order.append("outer begins")
        pool.turns.post(lambda now: order.append("finalizer"))
        order.append("outer ends")

    pool.turns.post(outer)

    assert order == ["outer begins", "outer ends", "finalizer"]
    assert not pool.turns.inbox


def test_news_of_a_finalizer_after_the_decision_are_dealt_with_before_the_call_returns(
    pool: Pool,
) -> None:
    order: list[str] = []

    def mine() -> None:
        pool.turns.post(lambda now: order.append("finalizer"))
        order.append("mine")

    pool.turns.take(mine)
    with pool.turns.lock:
        assert order == ["mine", "finalizer"]


# Interrupts.


def test_what_an_interrupt_cuts_short_stays_in_the_inbox_and_the_supervisor_goes_on(
    pool: Pool,
) -> None:
    calls: list[str] = []
    done = threading.Event()
    job = pool.submit()  # something is in hand

    with signals_raise(Interrupt) as raise_signal:

        def decide(now: float) -> None:
            calls.append(threading.current_thread().name)
            if len(calls) == 1:
                raise_signal()
            done.set()

        with pytest.raises(Interrupt):
            pool.turns.post(decide)

    assert done.wait(30)
    assert calls[0] == "MainThread"
    assert set(calls[1:]) == {"supervisor"}
    pool.over(job)


def test_after_an_interrupt_the_next_who_comes_mends_the_scheduler_and_goes_on(pool: Pool) -> None:
    job, other = Job(time.monotonic()), Job(time.monotonic())
    with pool.turns.lock, signals_raise(Interrupt) as raise_signal:

        def torn(now: float) -> None:
            pool.scheduler.submit(job, now)
            pool.scheduler.to_send.clear()
            pool.worker.jobs.clear()
            raise_signal()

        with pytest.raises(Interrupt):
            pool.turns.post(torn)
        pool.turns.inbox.clear()
        pool.turns.post(pool.scheduler.submit, other)

        assert [*pool.scheduler.to_send] == [job]
        assert [*pool.worker.jobs] == [job]
        assert [*pool.scheduler.waiting] == [other]
    assert pool.sent.jobs.get(timeout=30) == (job, "supervisor")


def test_an_interrupt_anywhere_in_a_turn_loses_no_request(pool: Pool) -> None:
    files = tuple(f"streamipc/pool/{name}.py" for name in ("turns", "scheduler", "jobs"))
    for place in range(1, 10_000):
        job = Job(time.monotonic())

        def submit(job: Job = job) -> None:
            pool.turns.post(pool.scheduler.submit, job)

        came = interrupted_at(place, files, submit)
        if came and job.number == 0:
            pool.turns.inbox.append((pool.scheduler.give_up, (job,)))
        pool.turns.take()
        if job.number:
            assert pool.sent.jobs.get(timeout=30)[0] is job
            pool.over(job)
        assert pool.turns.wait_until(lambda: pool.scheduler.is_quiet, time.monotonic() + 30)
        if not came:
            break
    assert place > 20
    assert pool.turns._watchers == {}


def test_an_interrupt_while_the_supervisor_is_started_leaves_one_all_the_same() -> None:
    files = ("streamipc/pool/turns.py",)
    for place in range(1, 1000):
        pool = Pool.__new__(Pool)
        pool.scheduler = Scheduler(1, Backoff(0.1, 30.0, 5, half))
        pool.turns = Turns("supervisor", pool.scheduler, True)
        ran = threading.Event()
        came = interrupted_at(place, files, pool.turns.take)
        pool.turns.sources.append(_Once(ran))
        pool.turns.take()
        assert ran.wait(30)
        pool.turns.stop()
        if not came:
            break
    assert place > 5


class _Once:
    """Has one thing to do: to set an event."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def has_work(self) -> bool:
        return not self.event.is_set()

    def take(self) -> list[Action]:
        return [(self.event.set, ())] if self.has_work() else []


# The supervisor.


def test_the_supervisor_wakes_for_what_is_due(pool: Pool) -> None:
    first, late = pool.submit(), pool.submit(0.05)
    assert pool.turns.wait_until(lambda: late.has_ended, time.monotonic() + 30)

    assert [job for job, _ in pool.scheduler.to_fail] == [late]
    pool.over(first)


def test_the_supervisor_does_not_sleep_if_something_came_while_it_lay_down(pool: Pool) -> None:
    looked: list[bool] = []
    awake = threading.Event()

    class Busy(Sent):
        def has_work(self) -> bool:
            if threading.current_thread().name != "supervisor":
                return False
            looked.append(True)
            if len(looked) > 4:
                awake.set()
            return len(looked) <= 4

    pool.turns.sources.append(Busy(pool.scheduler))
    pool.turns.post(pool.scheduler.look)
    job = pool.submit()

    assert awake.wait(30)
    pool.over(job)


class Bell(queue.SimpleQueue[None]):
    """Tells how long the supervisor is going to sleep."""

    def __init__(self) -> None:
        self.naps: queue.SimpleQueue[float | None] = queue.SimpleQueue()

    def get(self, block: bool = True, timeout: float | None = None) -> None:
        self.naps.put(timeout)
        super().get(block, timeout)


def test_an_idle_supervisor_sleeps_until_somebody_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.02)
    bells: list[Bell] = []

    class Watched(Turns):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._bell = Bell()
            bells.append(self._bell)

    monkeypatch.setitem(globals(), "Turns", Watched)
    pool = Pool()
    naps = bells[0].naps
    try:
        job = pool.submit()
        nap = naps.get(timeout=30)
        while nap is None:  # it slept before
            nap = naps.get(timeout=30)
        assert nap <= 0.02, "a request is in hand"
        pool.over(job)
        while naps.get(timeout=30) is not None:
            pass
        with pytest.raises(queue.Empty):
            naps.get(timeout=0.2)

        pool.over(pool.submit())

        assert naps.get(timeout=30) is not None, "it lingers"
    finally:
        pool.turns.stop()


def test_two_supervisors_both_end(pool: Pool) -> None:
    assert len(supervisors()) == 1
    pool.turns._supervisor = None  # its start was interrupted
    pool.turns.take()
    assert len(supervisors()) == 2
    threads = supervisors()

    pool.turns.stop()

    for thread in threads:
        thread.join(30)
    assert supervisors() == []


def test_no_thread_to_be_had_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    scheduler = Scheduler(1, Backoff(0.1, 30.0, 5))
    turns = Turns("supervisor", scheduler, True)
    with monkeypatch.context() as patched:
        patched.setattr(module, "start_thread", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            turns.take()
    assert supervisors() == []

    turns.take()

    assert len(supervisors()) == 1
    turns.stop()


def test_nothing_is_started_after_stop_and_the_supervisor_itself_can_stop(pool: Pool) -> None:
    stopped = threading.Event()

    def stop() -> None:
        pool.turns.stop()
        stopped.set()

    pool.sent.others.append((stop, ()))
    pool.turns.take()
    assert stopped.wait(30)
    assert pool.turns.wait_until(lambda: not supervisors(), 0.0) in (True, False)

    turns = Turns("supervisor", pool.scheduler, True)
    turns.stop()
    turns.take()
    assert turns._supervisor is None


def test_a_forked_process_gets_a_lock_of_its_own_and_no_supervisor() -> None:
    turns = Turns("supervisor", Scheduler(1, Backoff(0.1, 30.0, 5)), True)
    holds, lets_go = threading.Event(), threading.Event()

    def hold() -> None:
        with turns.lock:
            holds.set()
            lets_go.wait(30)
            turns.lock.acquire()  # the one that was renewed is released by leaving

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert holds.wait(30)
    turns.forget_after_fork()

    turns.take()

    assert supervisors() == []
    lets_go.set()
    thread.join(30)


# Waiting.


def test_waiting_ends_with_what_another_thread_decides(pool: Pool) -> None:
    job = pool.submit()
    timer = threading.Timer(0.05, pool.over, (job,))
    timer.start()

    assert pool.turns.wait_until(lambda: job.has_ended, None)
    timer.join(30)


def test_waiting_ends_when_its_time_is_over(pool: Pool) -> None:
    job = pool.submit()

    assert not pool.turns.wait_until(lambda: job.has_ended, time.monotonic() + 0.02)
    assert not pool.turns.wait_until(lambda: job.has_ended, 0.0)
    pool.over(job)
    assert pool.turns.wait_until(lambda: job.has_ended, 0.0)


def test_many_who_wait_and_go_at_the_same_time_are_all_told(pool: Pool) -> None:
    value = 0
    told: list[bool] = []

    def wait(number: int) -> None:
        told.append(pool.turns.wait_until(lambda: value >= number, time.monotonic() + 60))

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(1, 41)]
    for thread in threads:
        thread.start()
    for number in range(1, 41):

        def count(now: float, number: int = number) -> None:
            nonlocal value
            value = number

        pool.turns.post(count)
    for thread in threads:
        thread.join(60)

    assert told == [True] * 40
    assert pool.turns._watchers == {}


def test_an_interrupt_ends_a_wait(pool: Pool) -> None:
    with signals_raise(Interrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupt):
            pool.turns.wait_until(lambda: False, time.monotonic() + 60)

    assert pool.turns._watchers == {}
