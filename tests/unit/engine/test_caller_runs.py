"""Whoever waits reads, runs the jobs and looks at the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from reader_bench import ReaderBench

from streamipc import LogMessage
from streamipc.engine.caller_runs import CallerRuns
from streamipc.engine.calls import Call
from streamipc.engine.deadlines import Deadlines
from streamipc.engine.flow import Reason
from streamipc.engine.leader import Leader


class Awaited:
    def __init__(self, ready: Callable[[], bool]) -> None:
        self.wakers: list[Any] = []
        self.ready = ready


class Job:
    is_offloaded = is_background = is_handler = by_io_thread = False

    def __init__(self, run: Callable[[], object]) -> None:
        self._run = run

    def took(self, seconds: float) -> None: ...

    def run(self) -> None:
        self._run()


class Bench(ReaderBench):
    """A CallerRuns with a reader, and nothing else of an engine."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Any, Any] = {}
        self.deadlines = Deadlines(self.calls)
        self.expired: list[Any] = []
        self.flushes = 0
        self.seen: list[str] = []
        self.runs = CallerRuns(
            self.lock,
            self.reader,
            Leader(self.reader, self.wakeup, 0.0),
            self.flow,
            self.deadlines,
            self.expire,
            self.flush,
        )

    def take(self, text: str) -> None:
        self.runs.submit(Job(lambda: self.seen.append(text)))

    def expire(self, calls: list[Any]) -> None:
        self.expired += calls
        for call in calls:
            del self.calls[call.id]

    def flush(self) -> None:
        self.flushes += 1

    def ask(self, seconds: float) -> Any:
        call = Call(None, len(self.calls) + 1, LogMessage("x"))
        with self.lock:
            self.calls[call.id] = call
            self.deadlines.add(time.monotonic() + seconds, call)
            self.runs.deadline_added(time.monotonic() + seconds)
        return call

    def until(self, count: int) -> Awaited:
        return Awaited(lambda: len(self.seen) >= count)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def test_a_thread_that_waits_reads_and_runs(bench: Bench) -> None:
    bench.write("one")
    bench.write("two")

    assert bench.runs.wait(bench.until(2), soon())
    assert bench.seen == ["one", "two"]
    assert bench.flushes >= 1
    assert bench.runs.leader.thread is None


def test_a_wait_that_is_over_has_looked_once(bench: Bench) -> None:
    assert not bench.runs.wait(bench.until(1), time.monotonic())
    bench.write("one")

    assert bench.runs.wait(bench.until(1), time.monotonic())


def test_a_tick_reads_without_waiting(bench: Bench) -> None:
    assert not bench.runs.tick(time.monotonic())
    bench.write("one")

    assert bench.runs.tick(time.monotonic())
    assert bench.seen == ["one"]


def test_a_tick_does_not_wait_when_there_is_work(bench: Bench) -> None:
    bench.runs.submit(Job(lambda: bench.seen.append("work")))

    assert bench.runs.tick(soon(60))
    assert bench.seen == ["work"]


def test_looking_reads_and_runs_nothing(bench: Bench) -> None:
    bench.write("one")
    bench.runs.look()

    assert bench.seen == []
    assert bench.runs.waiting_tasks() == 1
    assert bench.runs.leader.thread is None


def test_deadlines_pass_while_a_thread_waits(bench: Bench) -> None:
    late = bench.ask(0.02)
    bench.ask(60)

    assert bench.runs.wait(Awaited(lambda: bench.expired == [late]), soon())


def test_a_nearer_deadline_wakes_the_thread_that_reads(bench: Bench) -> None:
    bench.ask(60)
    started = threading.Event()
    awaited = Awaited(lambda: started.set() or bool(bench.expired))  # type: ignore[func-returns-value]
    thread = threading.Thread(target=bench.runs.wait, args=(awaited, soon(20)))
    thread.start()
    assert started.wait(10)
    bench.ask(0.02)
    thread.join(10)

    assert not thread.is_alive()
    assert len(bench.expired) == 1


def test_a_job_that_waits_runs_the_next_on_top_of_itself(bench: Bench) -> None:
    def outer() -> None:
        assert bench.runs.runs_here()
        assert bench.runs.wait(bench.until(1), soon())
        assert (bench.runs.running, bench.runs.blocked) == (1, 0)
        bench.seen.append("outer")

    bench.runs.submit(Job(outer))
    bench.write("inner")
    bench.runs.run_tasks()

    assert bench.seen == ["inner", "outer"]
    assert (bench.runs.running, bench.runs.blocked) == (0, 0)
    assert not bench.runs.runs_here()


def test_a_job_that_waits_has_reading_go_on(bench: Bench) -> None:
    bench.flow.pause_locked(Reason.NOTIFICATIONS)
    bench.write("one")
    bench.runs.submit(Job(lambda: bench.runs.wait(bench.until(1), soon())))
    bench.runs.run_tasks()

    assert bench.seen == ["one"]


def test_a_thread_in_a_job_lets_another_read(bench: Bench) -> None:
    inside, release = threading.Event(), threading.Event()

    def block() -> None:
        inside.set()
        assert release.wait(20)

    reader = threading.Thread(target=bench.runs.wait, args=(bench.until(1), soon(20)))
    bench.runs.submit(Job(block))
    blocked = threading.Thread(target=bench.runs.run_tasks)
    blocked.start()
    assert inside.wait(10)
    reader.start()
    bench.write("one")
    reader.join(10)
    try:
        assert bench.seen == ["one"]
        assert not bench.runs.wait_until_quiet(time.monotonic() + 0.01)
    finally:
        release.set()
        blocked.join(10)
    assert bench.runs.wait_until_quiet(soon())


def test_two_threads_that_wait_for_different_things_both_get_theirs(bench: Bench) -> None:
    threads = [
        threading.Thread(target=bench.runs.wait, args=(bench.until(count), soon(20)))
        for count in (1, 2, 3, 3)
    ]
    for thread in threads:
        thread.start()
    for text in ("one", "two", "three"):
        bench.write(text)
    for thread in threads:
        thread.join(10)

    assert not any(thread.is_alive() for thread in threads)
    assert sorted(bench.seen) == ["one", "three", "two"]


def test_futures_that_were_dropped_are_cancelled(bench: Bench) -> None:
    class Future:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    future = Future()
    bench.runs.drop(future)
    bench.runs.run_tasks()

    assert future.cancelled


def test_an_interrupted_job_interrupts_the_thread_that_waits(bench: Bench) -> None:
    def interrupted() -> None:
        bench.runs.interrupted(KeyboardInterrupt())

    bench.runs.submit(Job(interrupted))
    bench.runs.submit(Job(lambda: bench.seen.append("next")))
    with pytest.raises(KeyboardInterrupt):
        bench.runs.wait(bench.until(1), soon())
    assert not bench.runs.runs_here()

    assert bench.runs.wait(bench.until(1), soon())


def test_jobs_that_wait_can_be_dropped(bench: Bench) -> None:
    job = Job(lambda: None)
    bench.runs.submit(job)

    assert bench.runs.drop_tasks() == [job]
    assert bench.runs.waiting_tasks() == 0


def reads(bench: Bench, count: int) -> threading.Thread:
    """Return a thread that reads until so many messages have been seen."""
    thread = threading.Thread(target=bench.runs.wait, args=(bench.until(count), soon()))
    thread.start()
    end = soon()
    while bench.runs.leader.thread != thread.ident:
        assert time.monotonic() < end
        time.sleep(0.001)
    return thread


def test_a_job_wakes_the_thread_that_reads(bench: Bench) -> None:
    thread = reads(bench, 1)

    bench.runs.submit(Job(lambda: bench.seen.append(f"job on {threading.get_ident()}")))

    thread.join(10)
    assert not thread.is_alive()
    assert bench.seen == [f"job on {thread.ident}"]


def test_looking_leaves_leadership_to_the_thread_that_leads(bench: Bench) -> None:
    thread = reads(bench, 1)

    bench.runs.look()

    assert bench.runs.leader.thread == thread.ident
    bench.write("one")
    thread.join(10)
    assert bench.seen == ["one"]


class Interrupted(BaseException):
    """What Ctrl-C does to a thread."""


def test_a_follower_that_is_woken_and_does_not_lead_wakes_another(
    bench: Bench, eventually: Callable[..., None]
) -> None:
    followers = bench.runs.leader.followers
    armed = threading.Event()

    def interrupt() -> bool:
        if armed.is_set() and threading.current_thread() is second:
            raise Interrupted
        return False

    def wait_and_be_interrupted() -> None:
        with pytest.raises(Interrupted):
            bench.runs.wait(Awaited(interrupt), soon(20))

    first = reads(bench, 1)
    second = threading.Thread(target=wait_and_be_interrupted)
    third = threading.Thread(target=bench.runs.wait, args=(bench.until(2), soon(20)))
    second.start()
    eventually(lambda: len(followers) == 1)
    third.start()
    eventually(lambda: len(followers) == 2)
    armed.set()
    bench.write("one")
    first.join(10)
    second.join(10)
    eventually(lambda: bench.runs.leader.thread == third.ident)
    bench.write("two")
    third.join(10)
    assert not any(thread.is_alive() for thread in (first, second, third))
    assert bench.seen == ["one", "two"]
