"""The members of a pool: who takes whose place, and what becomes of jobs when nobody is left."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from calls import make_future
from handover import (
    LONG,
    Caller,
    Eventually,
    Held,
    Hold,
    Quick,
    io_thread_sleeps,
    send_io_thread_to_sleep,
)
from shared_messages import Echo, Note

from streamipc import IpcPeer, RequestContext, SessionClosedError
from streamipc.engine import thread_pool
from streamipc.engine.tasks import CallbacksTask, CallTask
from streamipc.transports import pipe
from streamipc.transports.pipe import FdTransport

Sides = tuple[Any, Any, Held]


@pytest.fixture
def sides(connected: Callable[..., tuple[Any, Any]]) -> Iterator[Sides]:
    """Two sessions, of which the right one's pool is looked at."""
    left, right = connected()
    held = Held(left, right)
    left.start()
    yield left, right, held
    held.release_all()


class Bug(Exception):
    """What nobody foresaw."""


def fail(*_: object) -> Any:
    raise Bug("a bug")


# A thread fails.


def in_the_midst_of_a_read(engine: Any) -> None:
    engine.reader.take_ended = fail


def between_two_jobs(engine: Any) -> None:
    engine.pool.io_thread._flush_some = fail


@pytest.mark.parametrize("where", [in_the_midst_of_a_read, between_two_jobs])
def test_an_io_thread_that_fails_ends_the_session_with_what_it_failed_of(
    sides: Sides, eventually: Eventually, where: Callable[[Any], None]
) -> None:
    left, right, held = sides
    said: list[BaseException] = []
    right.on_exception(said.append)
    right.start()
    pending = right.request(Hold("pending"))
    held.wait_until_entered("pending")
    where(right._engine)
    # It may have failed before, on its way to sleep or of the first of the two.
    with contextlib.suppress(SessionClosedError):
        left.notify(Note())
        left.request(Quick())

    # A caller that waits for the reply now might read in the I/O thread's place.
    assert right._engine.shutdown.closed.wait(LONG)
    with pytest.raises(SessionClosedError, match=r"to .*Hold; the session failed \(Bug: a bug"):
        pending.result(LONG)
    assert {str(error) for error in said} == {"a bug"}  # each thread that tried
    # The end waits a second for the threads: one that is stopped for longer is gone later.
    eventually(lambda: not right._engine.pool._threads)
    assert right._engine.leader.thread is None


@pytest.mark.parametrize("standby", ["stands by", "is on its way"])
def test_the_standby_takes_the_place_of_an_io_thread_that_fails(
    sides: Sides, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, standby: str
) -> None:
    left, right, held = sides
    pool = right._engine.pool
    failed, told = threading.Event(), threading.Event()
    arrived = threading.Event()
    add_current = thread_pool.add_current

    @right.on_exception
    def tell(error: Bug) -> None:
        failed.set()
        assert told.wait(LONG)

    def add_current_later(thread: Any) -> None:
        add_current(thread)
        if thread.pool is pool and len(pool._threads) == 2:
            assert standby == "stands by" or failed.wait(LONG)
            arrived.set()

    monkeypatch.setattr(thread_pool, "add_current", add_current_later)
    right.start()
    eventually(lambda: pool.io_thread.thread is not None)
    flush = pool.io_thread._flush_some
    failing: list[threading.Thread] = []  # the first I/O thread, or who took it for stuck

    def fail_once() -> None:
        pool.io_thread._flush_some = flush
        failing.append(threading.current_thread())
        if standby == "stands by":
            eventually(lambda: pool.io_thread.standby is not None)
            assert arrived.wait(LONG)
        fail()

    pool.io_thread._flush_some = fail_once
    asked = left.request(Quick())
    assert failed.wait(LONG)
    eventually(lambda: getattr(pool.io_thread.thread, "thread", None) not in (None, *failing))
    with pool._lock:  # under which the one becomes the other, in two steps
        assert pool.io_thread.standby is not pool.io_thread.thread

    # Everything goes on under the new one, which has a standby of its own.
    blocks = left.request(Hold("blocks"))
    held.wait_until_entered("blocks")
    assert left.request(Quick("goes on")).result(LONG) == "goes on"
    held.release("blocks")
    assert blocks.result(LONG) == "reply to blocks"
    told.set()
    assert right._engine.shutdown.closed.wait(LONG)
    assert asked.done()


def test_a_standby_that_sleeps_is_put_in_the_place_of_an_io_thread_that_fails(
    sides: Sides, eventually: Eventually
) -> None:
    left, right, _ = sides
    pool, reader = right._engine.pool, right._engine.reader
    failed, told = threading.Event(), threading.Event()
    places: list[Any] = []
    take_ended = reader.take_ended

    @right.on_exception
    def tell(error: Bug) -> None:
        failed.set()
        assert told.wait(LONG)

    def fail_once() -> None:
        reader.take_ended = take_ended
        eventually(lambda: pool.io_thread.standby is not None)
        places.extend((pool.io_thread.thread, pool.io_thread.standby))
        fail()

    right.start()
    assert left.request(Quick("has them begin")).result(LONG) == "has them begin"
    reader.take_ended = fail_once
    asked = left.request(Quick("read by the first"))

    assert failed.wait(LONG)
    first, standby = places
    eventually(lambda: pool.io_thread.thread is standby)
    assert first not in pool._threads
    assert asked.result(LONG) == "read by the first"
    told.set()
    assert right._engine.shutdown.closed.wait(LONG)


# A thread is stuck.


def test_what_waits_behind_a_callback_that_got_stuck_is_run_by_others(sides: Sides) -> None:
    _, right, _ = sides
    right.start()
    pool, report = right._engine.pool, right._engine.errors.report
    of_its_kind, of_another_kind, done = (threading.Event() for _ in range(3))
    future: Any = make_future(None, 1, Quick())  # type: ignore[arg-type]
    future.add_done_callback(lambda _: of_another_kind.set())
    future._call.settle("reply", None)

    def wait_for_both() -> None:
        pool.submit(CallbacksTask(future, report))
        pool.submit(CallTask(of_its_kind.set, report))
        assert of_its_kind.wait(LONG)
        assert of_another_kind.wait(LONG)
        done.set()

    pool.submit(CallTask(wait_for_both, report))

    assert done.wait(2 * LONG)


# A thread is idle.


def test_a_thread_that_nobody_needs_ends_and_another_is_had_when_one_is_needed(
    sides: Sides, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right, held = sides
    monkeypatch.setattr(thread_pool, "IDLE_SECONDS", 0.05)
    right.start()
    pool = right._engine.pool
    names = [str(number) for number in range(4)]
    for _ in range(2):
        futures = [left.request(Hold(name)) for name in names]
        for name in names:
            held.wait_until_entered(name)
        assert len(pool._threads) >= len(names)
        held.release(*names)
        assert [future.result(LONG) for future in futures] == [f"reply to {n}" for n in names]
        eventually(lambda: len(pool._threads) <= 2)  # the I/O thread and its standby
        held._released.clear()
        held._entered.clear()


# Nobody is left.


@pytest.mark.parametrize("how", ["submit", "submit_offloaded", "submit_writing"])
def test_a_job_that_comes_when_the_pool_is_gone_runs_where_it_comes_from(
    sides: Sides, how: str
) -> None:
    _, right, _ = sides
    right.start()
    right.close()
    ran: list[int] = []

    getattr(right._engine.pool, how)(
        CallTask(lambda: ran.append(threading.get_ident()), right._engine.errors.report)
    )

    assert ran == [threading.get_ident()]


def test_handlers_that_return_while_the_end_looks_for_those_that_do_not_disturb_nothing(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right, held = sides
    reported: list[BaseException] = []
    right.on_exception(reported.append)
    right.start()
    names = ["1", "2", "3"]
    for name in names:
        left.request(Hold(name))
        held.wait_until_entered(name)
    with right._engine.pool._lock:  # another thread may be on its way
        threads = [one.thread for one in right._engine.pool._threads]
    is_alive = threading.Thread.is_alive

    def is_alive_until_then(thread: threading.Thread) -> bool:
        if thread in threads and threading.current_thread() not in threads:
            held.release(*names)
            for other in threads:
                other.join(LONG)
        return is_alive(thread)

    monkeypatch.setattr(threading.Thread, "is_alive", is_alive_until_then)
    right.close(timeout=0)

    assert right._engine.shutdown.closed.wait(LONG)
    assert reported == []
    assert right._engine.writer.is_broken()


# No thread can be had.


NO_THREAD = RuntimeError("can't start new thread")


def no_thread_for(
    session: Any,
    monkeypatch: pytest.MonkeyPatch,
    beyond: int = 0,
    error: Exception = NO_THREAD,
) -> None:
    """From now on, no further thread can be had for the session's pool, if it has so many."""
    start = threading.Thread.start
    pool = session._engine.pool

    def start_if_not_of_the_pool(thread: Any) -> None:
        if thread.name == pool._name and len(pool._threads) > beyond:
            raise error
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_not_of_the_pool)


@pytest.mark.parametrize("error", [NO_THREAD, MemoryError()])
def test_without_threads_the_io_thread_passes_items_on(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    left, right, _ = sides
    right.start()
    no_thread_for(right, monkeypatch, error=error)
    items: list[Any] = []

    @left.on_request
    def count(msg: Echo) -> Any:
        yield from range(40)
        return "counted"

    assert right.request(Echo(), on_progress=items.append).result(LONG) == "counted"
    assert items == list(range(40))


def test_without_threads_an_io_thread_that_sleeps_is_woken_for_what_it_must_run_itself(
    sides: Sides, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right, held = sides
    right.start()
    no_thread_for(right, monkeypatch)
    items: list[Any] = []

    @left.on_request
    def count(msg: Echo, context: RequestContext) -> str:
        held._hold(Hold("the first item"))
        context.progress("item")
        return "done"

    caller = Caller(right.request(Echo(), on_progress=items.append, timeout=None), timeout=None)
    held.wait_until_entered("the first item")
    eventually(lambda: right._engine.leader.thread == caller.thread.ident)
    send_io_thread_to_sleep(right, eventually)
    held.release("the first item")

    assert caller.returned() == "done"
    assert items == ["item"]


@pytest.mark.parametrize("count", [1, 3])
def test_what_waits_for_a_thread_is_run_when_the_next_one_that_can_be_had_is_the_standby(
    sides: Sides, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    _, right, _ = sides
    right.start()
    pool = right._engine.pool
    eventually(lambda: io_thread_sleeps(right))
    all_run = threading.Barrier(count + 1)  # each has a thread of its own
    with pool._lock:
        with monkeypatch.context() as patch:
            no_thread_for(right, patch)
            for _ in range(count):
                job = CallTask(lambda: all_run.wait(LONG), right._engine.errors.report)
                pool.offload(job)
        assert pool.io_thread.standby is None

    all_run.wait(LONG)


def test_who_can_have_one_more_thread_and_no_second_runs_the_rest_itself(
    sides: Sides, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, right, _ = sides
    right.start()
    pool = right._engine.pool
    eventually(lambda: io_thread_sleeps(right))
    done = threading.Semaphore(0)
    with pool._lock:
        with monkeypatch.context() as patch:
            no_thread_for(right, patch)
            for _ in range(3):
                pool.offload(CallTask(done.release, right._engine.errors.report))
        no_thread_for(right, monkeypatch, beyond=2)

    assert all(done.acquire(timeout=LONG) for _ in range(3))


def test_a_session_behind_a_pump_answers_with_the_only_thread_that_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (left_reads, right_writes), (right_reads, left_writes) = os.pipe(), os.pipe()
    left = IpcPeer().create_stream_session(left_writes, left_reads)
    with monkeypatch.context() as patch:
        patch.setattr(pipe, "can_poll", lambda: False)
        right: Any = IpcPeer().create_session(FdTransport(right_reads, right_writes))
    right.on_request(Echo)(lambda msg: msg.value)
    (handler,) = right._registries.requests.find(Echo)
    no_thread_for(right, monkeypatch, beyond=1)
    right.start()

    assert left.request(Echo("answered")).result(LONG) == "answered"
    handler.is_slow = True  # offloaded, then, if there were one
    assert left.request(Echo("answered too")).result(LONG) == "answered too"
    assert len(right._engine.pool._threads) == 1
    left.close()
    assert right._engine.shutdown.closed.wait(LONG)


def test_what_is_read_when_no_io_thread_is_left_waits_for_the_end_of_the_session(
    sides: Sides,
) -> None:
    _, right, _ = sides
    right.start()
    right.close()
    pool = right._engine.pool
    assert pool.io_thread.thread is None
    job = CallTask(fail, fail)
    pool.io_thread.inline.append(job)

    pool.io_thread.work_arrived()

    assert pool.drop_tasks() == [job]


def test_a_thread_whose_start_was_interrupted_is_replaced(
    connected: Callable[..., tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can't be told whether it is going to run; if it does, it finds that it is not wanted."""
    left, right = connected()
    right.on_request(Quick)(lambda msg: "reply")
    start_thread = thread_pool.start_thread
    late: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.setattr(thread_pool, "start_thread", start_thread)
        late.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(thread_pool, "start_thread", interrupted)
    with pytest.raises(KeyboardInterrupt):
        right.start()
    right.start()
    (running,) = right._engine.pool._threads
    start_thread(late[0])
    late[0].join(LONG)

    assert left.call(Quick(), timeout=LONG) == "reply"
    assert running.thread is not late[0]
    assert late[0] not in {one.thread for one in right._engine.pool._threads}


def test_a_start_that_was_interrupted_once_the_thread_runs_makes_no_other(
    connected: Callable[..., tuple[Any, Any]], eventually: Eventually
) -> None:
    left, right = connected()
    right.on_request(Quick)(lambda msg: "reply")
    right.start()
    pool = right._engine.pool
    eventually(lambda: all(pool._threads.values()))
    (running,) = pool._threads
    pool.start()

    assert left.call(Quick(), timeout=LONG) == "reply"
    assert running in pool._threads
    assert pool.io_thread.thread is running
