"""Whole sessions while leadership moves: who leads is chosen, and then something happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from handover import (
    LONG,
    Ask,
    AskInline,
    Caller,
    Deeper,
    Eventually,
    Held,
    Hold,
    HoldInline,
    Quick,
    holds,
    io_thread_sleeps,
    reads,
    send_io_thread_to_sleep,
    times_out_while_it_reads,
    waiting,
    waits,
)

from streamipc import RequestTimeoutError
from streamipc.engine import io_thread
from streamipc.engine.calls import Call

Sides = tuple[Any, Any, Held]


@pytest.fixture
def sides(connected: Callable[..., tuple[Any, Any]]) -> Iterator[tuple[Any, Any, Held]]:
    """Two sessions, of which the left one's reading is looked at."""
    left, right = connected()
    held = Held(left, right)
    left.start()
    right.start()
    yield left, right, held
    held.release_all()


# Callers among themselves.


def test_all_that_a_leader_leaves_behind_get_their_replies(
    sides: Sides, eventually: Eventually
) -> None:
    left, _, held = sides
    leads = reads(left, "0", eventually)
    callers = [waits(left, str(number), eventually) for number in range(1, 6)]
    for number, caller in enumerate([leads, *callers]):
        assert holds(left, leads) is (number == 0)
        held.release(str(number))
        assert caller.returned() == f"reply to {number}"
    eventually(lambda: left._engine.leader.thread is None)


def test_the_io_thread_leads_for_a_crowd_and_a_lone_caller_for_itself_again(
    sides: Sides, eventually: Eventually
) -> None:
    left, _, _ = sides
    leader = left._engine.leader
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            assert left.call(Quick(), timeout=LONG) == "quick"

    crowd = [threading.Thread(target=ask) for _ in range(5)]
    for thread in crowd:
        thread.start()
    eventually(lambda: leader.prefer_io_thread)
    over.set()
    for thread in crowd:
        thread.join(LONG)
    takes = leader.takes
    eventually(lambda: left.call(Quick(), timeout=LONG) and leader.takes > takes)


def test_of_two_callers_the_one_that_is_left_leads(sides: Sides, eventually: Eventually) -> None:
    left, _, held = sides
    first, second = reads(left, "first", eventually), waits(left, "second", eventually)
    held.release("first")
    assert first.returned() == "reply to first"
    eventually(lambda: holds(left, second))
    held.release("second")
    assert second.returned() == "reply to second"


def test_replies_of_those_who_wait_are_read_by_the_one_who_reads(
    sides: Sides, eventually: Eventually
) -> None:
    left, _, held = sides
    first = reads(left, "first", eventually)
    others = [waits(left, str(number), eventually) for number in range(4)]
    for number in (3, 1, 0, 2):
        held.release(str(number))
        assert others[number].returned() == f"reply to {number}"
        assert holds(left, first)
    held.release("first")
    assert first.returned() == "reply to first"


def test_one_who_times_out_while_it_leads_leaves_none_behind_that_is_not_served(
    sides: Sides, eventually: Eventually
) -> None:
    left, _, held = sides
    first, gate = times_out_while_it_reads(left, "first")
    second = waits(left, "second", eventually)
    gate.opened.set()
    assert isinstance(first.returned(), RequestTimeoutError)
    held.release("first", "second")
    assert second.returned() == "reply to second"
    assert first.future.result(LONG) == "reply to first"


def test_one_who_is_cancelled_while_it_leads_leaves_none_behind_that_is_not_served(
    sides: Sides, eventually: Eventually
) -> None:
    left, _, held = sides
    first, second = reads(left, "first", eventually), waits(left, "second", eventually)
    assert first.future.cancel()
    assert "Cancelled" in type(first.returned()).__name__
    held.release("second")
    assert second.returned() == "reply to second"


def test_what_an_interrupted_caller_has_read_is_answered_although_the_next_one_reads_on(
    sides: Sides, eventually: Eventually
) -> None:
    left, right, held = sides
    first, second = reads(left, "first", eventually), waits(left, "second", eventually)
    send_io_thread_to_sleep(left, eventually)
    successor = left._engine.pool.io_thread
    see_to_it = successor.work_arrived

    def interrupt() -> None:  # Ctrl-C, behind the read
        successor.work_arrived = see_to_it
        raise KeyboardInterrupt

    successor.work_arrived = interrupt
    asked = right.request(Quick("answered"))

    assert isinstance(first.returned(), KeyboardInterrupt)
    assert asked.result(LONG) == "answered"
    held.release("second")
    assert second.returned() == "reply to second"


@pytest.mark.parametrize("timeout", [LONG, None])
@pytest.mark.parametrize("waits_already", [True, False])
def test_a_reply_on_its_way_to_another_outlives_an_interrupt_of_the_one_who_reads(
    sides: Sides,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    timeout: float | None,
    waits_already: bool,
) -> None:
    left, _, held = sides
    first = reads(left, "first", eventually)
    second = left.request(Hold("second"), timeout=timeout)
    if waits_already:
        caller = Caller(second, None)
        eventually(lambda: waiting(left) == 1)
    settle = Call.settle

    def interrupt(call: Call, value: Any, error: Any) -> bool:
        """Ctrl-C, between taking the request off the table and giving it its outcome."""
        monkeypatch.setattr(Call, "settle", settle)
        assert call is second._call
        assert call.id not in left._engine.connection.calls
        raise KeyboardInterrupt

    monkeypatch.setattr(Call, "settle", interrupt)
    held.release("second")
    assert isinstance(first.returned(), KeyboardInterrupt)
    if not waits_already:
        caller = Caller(second, None)

    assert caller.returned() == "reply to second"


# Nobody waits.


@pytest.mark.parametrize("how", ["timeout", "cancel", "reply"])
def test_a_reply_is_read_when_the_only_reader_has_left_and_the_io_thread_slept(
    sides: Sides, eventually: Eventually, how: str
) -> None:
    left, _, held = sides
    done = threading.Event()
    wanted = left.request(Hold("wanted"))
    wanted.add_done_callback(lambda _: done.set())
    if how == "timeout":
        caller, gate = times_out_while_it_reads(left, "caller")
    else:
        caller = reads(left, "caller", eventually)
    send_io_thread_to_sleep(left, eventually)
    if how == "timeout":
        gate.opened.set()
    elif how == "cancel":
        caller.future.cancel()
    elif how == "reply":
        held.release("caller")
    caller.returned()
    held.release("wanted")
    assert done.wait(LONG)
    assert wanted.result(0) == "reply to wanted"


def test_a_reply_that_nobody_waits_for_is_read_by_the_io_thread(
    sides: Sides, eventually: Eventually
) -> None:
    left, _, held = sides
    done = threading.Event()
    wanted = left.request(Hold("wanted"))
    wanted.add_done_callback(lambda _: done.set())
    eventually(lambda: io_thread_sleeps(left))
    held.release("wanted")
    assert done.wait(LONG)
    assert wanted.result(0) == "reply to wanted"


def test_a_request_is_answered_while_a_caller_reads_and_the_io_thread_sleeps(
    sides: Sides, eventually: Eventually
) -> None:
    left, right, held = sides
    caller = reads(left, "caller", eventually)
    send_io_thread_to_sleep(left, eventually)
    for number in range(20):
        assert right.request(Quick(str(number))).result(LONG) == str(number)
    held.release("caller")
    assert caller.returned() == "reply to caller"


def test_callers_lead_again_when_nothing_but_replies_comes(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So the I/O thread does not give up reading because it was quiet for a moment.
    monkeypatch.setattr(io_thread, "TICK", 0.5)
    left, right, _ = sides
    assert right.request(Quick()).result(LONG) == "quick"
    leader = left._engine.leader
    assert leader.prefer_io_thread
    takes = leader.takes
    for _ in range(30):
        assert left.request(Quick()).result(LONG) == "quick"
    assert not leader.prefer_io_thread
    assert leader.takes > takes


# A handler blocks the thread that reads.


@pytest.mark.parametrize("kind", [Hold, HoldInline])
@pytest.mark.parametrize("a_caller_reads", [True, False])
def test_all_goes_on_while_a_handler_blocks_the_thread_that_reads(
    sides: Sides, eventually: Eventually, kind: Any, a_caller_reads: bool
) -> None:
    left, right, held = sides
    caller = reads(left, "caller", eventually) if a_caller_reads else None
    for name in ("once", "twice"):  # the first time it is not known to be slow
        blocked = right.request(kind(name))
        held.wait_until_entered(name)
        assert right.request(Quick()).result(LONG) == "quick"
        assert left.request(Quick()).result(LONG) == "quick"
        assert not blocked.done()
    if caller is not None:
        held.release("caller")
        assert caller.returned() == "reply to caller"
    held.release("once", "twice")
    assert blocked.result(LONG) == "reply to twice"


def test_an_answer_goes_out_although_the_rest_of_its_burst_went_to_workers(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    left, right = connected()
    held = Held(left)

    @right.on_request
    def hold(msg: Hold) -> str:
        if msg.name == "first":  # the second one is queued as a quick one, behind this
            right._engine.host.request_handlers(Hold)[0].is_slow = True
            return "first"
        return held._hold(msg)

    first, second = left.request(Hold("first")), left.request(Hold("second"))
    right.start()
    held.wait_until_entered("second")
    try:
        assert first.result(LONG / 2) == "first"
    finally:
        held.release("second")
    assert second.result(LONG) == "reply to second"


@pytest.mark.parametrize("kind", [Ask, AskInline])
@pytest.mark.parametrize("callers", [0, 1, 3])
def test_a_handler_on_the_thread_that_reads_waits_for_a_nested_reply(
    sides: Sides, eventually: Eventually, kind: Any, callers: int
) -> None:
    left, right, held = sides
    others = [reads(left, "0", eventually)] if callers else []
    others += [waits(left, str(number), eventually) for number in range(1, callers)]
    for nested in ("nested", "nested again"):
        outer = right.request(kind(nested))
        held.wait_until_entered(nested)
        # While it waits, a request comes that must not be read behind its back.
        assert right.request(Quick()).result(LONG) == "quick"
        assert left.request(Quick()).result(LONG) == "quick"
        held.release(nested)
        assert outer.result(LONG) == f"reply to {nested}"
    for number, caller in enumerate(others):
        held.release(str(number))
        assert caller.returned() == f"reply to {number}"


def test_the_nested_reply_comes_when_the_one_who_read_for_it_has_left(
    sides: Sides, eventually: Eventually
) -> None:
    left, right, held = sides
    caller, gate = times_out_while_it_reads(left, "caller")
    outer = right.request(AskInline("nested"))
    gate.opened.set()
    assert isinstance(caller.returned(), RequestTimeoutError)
    held.wait_until_entered("nested")
    held.release("nested")
    assert outer.result(LONG) == "reply to nested"
    held.release("caller")


def test_the_nested_reply_comes_after_a_request_that_no_thread_can_be_had_for(
    sides: Sides, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right, held = sides
    start = threading.Thread.start

    def start_if_not_of_the_left_pool(thread: Any) -> None:
        if thread.name == left._engine.pool._name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_not_of_the_left_pool)
    outer = right.request(Ask("nested"))
    held.wait_until_entered("nested")
    reads = left._engine.reader.reads
    queued = right.request(Quick())
    eventually(lambda: left._engine.reader.reads > reads)  # the request is queued
    held.release("nested")
    assert outer.result(LONG / 2) == "reply to nested"
    assert queued.result(LONG) == "quick"


def test_two_sides_ask_each_other_on_their_reading_threads(sides: Sides) -> None:
    left, right, _ = sides
    futures = [side.request(Deeper(6)) for side in (left, right) for _ in range(2)]
    assert [future.result(LONG) for future in futures] == [6, 6, 6, 6]
