"""Each hand-over of the reading role, forced: real pipe, real threads, chosen interleaving."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from reading_bench import Bench, Caller, Gate

from streamipc import RequestTimeoutError
from streamipc.engine.flow import Reason
from streamipc.engine.reading import Waiter


class Interrupted(BaseException):
    """What Ctrl-C does to a thread, at the line chosen by the test."""


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def gate_before(bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str) -> Gate:
    """Return a gate that whoever takes this step of the reader's has to pass first."""
    gate, original = Gate(), getattr(bench.reader, step)

    def gated(*arguments: Any) -> Any:
        gate.pass_through()
        return original(*arguments)

    monkeypatch.setattr(bench.reader, step, gated)
    return gate


def gate_at_the_look_with_a_waker(caller: Caller) -> Gate:
    """Return a gate at the last look before the sleep, not one of those before."""
    gate = Gate()

    def stop() -> None:
        if caller.reply.wakers:
            caller.reply.on_look = None
            gate.pass_through()

    caller.reply.on_look = stop
    return gate


# A caller leaves.


def test_a_caller_that_leaves_names_one_that_waits_as_the_next_holder(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    bench.answer("first")
    assert first.returned() == "reply to first"
    assert bench.is_held_by(second)
    bench.answer("second")
    assert second.returned() == "reply to second"


def test_the_role_goes_from_caller_to_caller_until_the_last_wakes_the_watcher(
    bench: Bench,
) -> None:
    bench.reads("0")
    for number in range(1, 6):
        bench.waits(str(number))
    for number in range(6):
        assert not bench.watcher_woken.acquire(blocking=False)
        bench.answer(str(number))
        assert bench.callers[str(number)].returned() == f"reply to {number}"
    assert bench.watcher_was_woken()
    assert bench.reader.holder is None
    assert not bench.reader.waiting


def test_a_caller_that_leaves_alone_wakes_the_watcher(bench: Bench) -> None:
    only = bench.reads("only")
    bench.answer("only")
    assert only.returned() == "reply to only"
    assert bench.watcher_was_woken()
    assert bench.reader.holder is None


def test_nobody_slips_in_between_a_gift_and_the_one_who_got_it(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    second.reply.wakers.gate = gate = Gate()
    bench.answer("first")
    first.returned()
    gate.wait_until_reached()  # woken by the gift, and not yet come round to it
    third = bench.waits("third")
    assert bench.is_held_by(second)
    second.reply.wakers.gate = None
    gate.open()
    bench.answer("second")
    assert second.returned() == "reply to second"
    bench.answer("third")
    assert third.returned() == "reply to third"


# A reply is read by another caller.


def test_a_caller_whose_reply_another_read_returns_while_that_one_reads_on(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    bench.answer("second")
    assert second.returned() == "reply to second"
    assert bench.is_held_by(first)
    assert not bench.reader.waiting
    bench.answer("first")
    assert first.returned() == "reply to first"


def test_all_replies_in_one_read_end_all_waits(bench: Bench) -> None:
    callers = [bench.reads("a"), bench.waits("b"), bench.waits("c")]
    bench.answer("c", "a", "b")
    assert [caller.returned() for caller in callers] == [f"reply to {name}" for name in "abc"]
    assert bench.watcher_was_woken()
    assert bench.reader.holder is None


def test_the_role_is_not_given_to_one_whose_reply_is_there(bench: Bench) -> None:
    first, second, third = bench.reads("first"), bench.waits("second"), bench.waits("third")
    second.reply.wakers.gate = gate = Gate()
    bench.answer("second")
    gate.wait_until_reached()  # on its way out, and still on the list
    assert bench.is_listed(second)
    bench.answer("first")
    first.returned()
    assert bench.is_held_by(third)
    gate.open()
    assert second.returned() == "reply to second"
    bench.answer("third")
    assert third.returned() == "reply to third"


# A caller times out.


def test_a_caller_that_times_out_while_it_reads_gives_the_role_on(bench: Bench) -> None:
    first, gate = bench.times_out_while_it_reads("first")
    second = bench.waits("second")
    gate.open()
    assert isinstance(first.returned(), RequestTimeoutError)
    assert bench.is_held_by(second)
    bench.answer("first", "second")
    assert second.returned() == "reply to second"
    assert first.reply.ready()  # late for the wait, not for the request


def test_a_caller_that_times_out_while_it_reads_alone_wakes_the_watcher(bench: Bench) -> None:
    only = bench.caller("only", timeout=0.01)
    only.thread.start()
    assert isinstance(only.returned(), RequestTimeoutError)
    assert bench.watcher_was_woken()
    assert bench.reader.holder is None


def test_a_caller_that_times_out_while_another_reads_leaves_the_list(bench: Bench) -> None:
    first = bench.reads("first")
    second = bench.caller("second", timeout=0.01)
    second.thread.start()
    assert isinstance(second.returned(), RequestTimeoutError)
    assert not bench.reader.waiting
    assert bench.is_held_by(first)
    bench.answer("first")
    first.returned()
    assert bench.watcher_was_woken()  # rather than nobody: the gift would have been lost


@pytest.mark.parametrize("another_waits", [True, False])
def test_a_gift_in_the_moment_of_the_own_timeout_is_passed_on(
    bench: Bench, another_waits: bool
) -> None:
    first = bench.reads("first")
    second = bench.caller("second", timeout=0.01)
    second.reply.wakers.gate = gate = Gate()
    second.thread.start()
    gate.wait_until_reached()  # its time is over, and it is still on the list
    third = bench.waits("third") if another_waits else None
    bench.answer("first")
    first.returned()
    assert bench.is_held_by(second)
    second.reply.wakers.gate = None
    gate.open()
    assert isinstance(second.returned(), RequestTimeoutError)
    if third is None:
        assert bench.watcher_was_woken()
        assert bench.reader.holder is None
    else:
        assert bench.is_held_by(third)
        bench.answer("third")
        assert third.returned() == "reply to third"


@pytest.mark.parametrize("another_waits", [True, False])
def test_a_gift_in_the_moment_of_the_own_reply_is_passed_on(
    bench: Bench, another_waits: bool
) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    third = bench.waits("third") if another_waits else None
    second.reply.wakers.gate = gate = Gate()
    bench.answer("first")
    first.returned()
    gate.wait_until_reached()
    assert bench.is_held_by(second)
    second.reply.settle("settled elsewhere", None)
    second.reply.wakers.gate = None
    gate.open()
    assert second.returned() == "settled elsewhere"
    if third is None:
        assert bench.watcher_was_woken()
        assert bench.reader.holder is None
    else:
        assert bench.is_held_by(third)
        bench.answer("third")
        assert third.returned() == "reply to third"


# Wake-ups that come between a check and a sleep.


def test_ready_after_the_last_look_and_before_the_waker_is_there_ends_the_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.reads("first")
    gate = gate_before(bench, monkeypatch, "_sleep")
    second = bench.caller("second")
    second.thread.start()
    gate.wait_until_reached()
    assert not second.reply.wakers
    bench.answer("second")  # the first caller reads it, and finds nobody to wake
    bench.until(second.future.done)
    gate.open()
    assert second.returned() == "reply to second"
    assert bench.is_held_by(first)


def test_ready_after_the_very_last_look_and_before_the_sleep_ends_the_wait(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.caller("second")
    gate = gate_at_the_look_with_a_waker(second)
    second.thread.start()
    gate.wait_until_reached()
    bench.answer("second")
    bench.until(second.future.done)
    gate.open()
    assert second.returned() == "reply to second"
    assert bench.is_held_by(first)


def test_a_gift_after_the_last_look_and_before_the_sleep_is_taken(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.reads("first")
    gate = gate_before(bench, monkeypatch, "_sleep")
    second = bench.caller("second")
    second.thread.start()
    gate.wait_until_reached()
    bench.answer("first")
    first.returned()
    assert bench.is_held_by(second)
    gate.open()
    bench.answer("second")
    assert second.returned() == "reply to second"
    assert bench.watcher_was_woken()


@pytest.mark.parametrize("waker_is_there", [True, False])
def test_ready_before_the_holder_sleeps_ends_its_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, waker_is_there: bool
) -> None:
    caller = bench.caller("caller")
    if waker_is_there:
        gate = gate_at_the_look_with_a_waker(caller)
    else:
        gate = gate_before(bench, monkeypatch, "_wait_for_input")
    caller.thread.start()
    gate.wait_until_reached()
    caller.reply.settle("settled elsewhere", None)
    gate.open()
    assert caller.returned() == "settled elsewhere"
    assert bench.watcher_was_woken()


def test_a_holder_that_sleeps_is_woken_when_its_future_is_settled_elsewhere(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    first.reply.settle("settled elsewhere", None)
    assert first.returned() == "settled elsewhere"
    assert bench.is_held_by(second)
    bench.answer("second")
    assert second.returned() == "reply to second"


def test_a_wake_up_that_comes_too_late_costs_the_next_holder_one_look(bench: Bench) -> None:
    bench.wakeup.set()
    bench.wakeup.set()
    caller = bench.reads("caller")
    poll = select.poll()
    poll.register(bench.wakeup.fileno(), select.POLLIN)
    bench.until(lambda: not poll.poll(0))  # it sleeps, rather than look again and again
    bench.answer("caller")
    assert caller.returned() == "reply to caller"


# Interrupts.


def test_an_interrupt_of_the_one_who_got_the_role_passes_it_on(bench: Bench) -> None:
    first, second, third = bench.reads("first"), bench.waits("second"), bench.waits("third")

    def interrupt() -> None:
        if bench.is_held_by(second) and threading.get_ident() == second.thread.ident:
            second.reply.on_look = None
            raise Interrupted

    second.reply.on_look = interrupt
    bench.answer("first")
    first.returned()
    assert isinstance(second.returned(), Interrupted)
    assert bench.is_held_by(third)
    bench.answer("third")
    assert third.returned() == "reply to third"


def test_an_interrupt_on_the_way_to_sleep_leaves_nobody_on_the_list(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.reads("first")

    def interrupted(waiter: Waiter, end: float | None) -> bool:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(bench.reader, "_sleep", interrupted)
        second = bench.caller("second")
        second.thread.start()
        assert isinstance(second.returned(), Interrupted)
    assert not bench.reader.waiting
    third = bench.waits("third")
    bench.answer("first")
    first.returned()
    assert bench.is_held_by(third)
    bench.answer("third")
    assert third.returned() == "reply to third"


def test_an_interrupt_in_the_sleep_takes_waker_and_name_off_their_lists(bench: Bench) -> None:
    bench.reads("first")
    second = bench.caller("second")

    def interrupt() -> None:
        if second.reply.wakers:
            second.reply.on_look = None
            raise Interrupted

    second.reply.on_look = interrupt
    second.thread.start()
    assert isinstance(second.returned(), Interrupted)
    assert not second.reply.wakers
    assert not bench.reader.waiting


def test_an_interrupt_of_one_who_leaves_before_it_chose_leaves_the_role_to_one_that_waits(
    bench: Bench,
) -> None:
    first, second = bench.reads("first"), bench.waits("second")

    def interrupt() -> None:
        if threading.get_ident() == first.thread.ident:
            second.reply.on_look = None
            raise Interrupted

    second.reply.on_look = interrupt
    bench.answer("first")
    assert isinstance(first.returned(), Interrupted)
    bench.answer("second")
    assert second.returned() == "reply to second"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_of_one_who_wakes_the_next_holder_leaves_it_the_role(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    first, second = bench.reads("first"), bench.waits("second")

    def interrupted(lock: Any) -> None:
        monkeypatch.undo()
        if moment == "after":
            lock.release()
        raise Interrupted

    monkeypatch.setattr("streamipc.engine.reading.wake", interrupted)
    bench.answer("first")
    assert isinstance(first.returned(), Interrupted)
    bench.answer("second")
    assert second.returned() == "reply to second"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_of_one_who_wakes_the_watcher_leaves_the_role_free_and_the_watcher_awake(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    first = bench.reads("first")
    wake_watcher = bench.reader.wake_watcher

    def interrupted() -> None:
        monkeypatch.undo()
        if moment == "after":
            wake_watcher()
        raise Interrupted

    monkeypatch.setattr(bench.reader, "wake_watcher", interrupted)
    bench.answer("first")
    assert isinstance(first.returned(), Interrupted)
    assert bench.reader.holder is None
    assert bench.watcher_was_woken()


def test_an_interrupt_while_bytes_are_applied_leaves_them_to_the_next(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")

    def interrupt() -> None:
        bench.on_dispatch = None
        raise Interrupted

    bench.on_dispatch = interrupt
    bench.answer("first", "second")
    assert isinstance(first.returned(), Interrupted)

    assert second.returned() == "reply to second"
    assert first.reply.ready()
    assert bench.end == []


# Reading is left to others, or to nobody.


def test_a_caller_that_read_requests_leaves_the_role_to_the_crew(bench: Bench) -> None:
    first = bench.reads("first")
    second = bench.waits("second")

    def requests_came() -> None:
        bench.reader.crew_reads = True

    bench.reader.work_arrived = requests_came
    third = bench.waits("third")
    bench.answer("third")
    third.returned()
    assert bench.watcher_was_woken()
    bench.until(lambda: bench.is_listed(first) and bench.is_listed(second))
    assert bench.reader.holder is None
    # The watcher takes it, reads the one reply, and finds out that it was quiet for long.
    with bench.lock:
        bench.reader.holder = threading.get_ident()
    bench.answer("first")
    bench.reader.read_source()
    assert first.returned() == "reply to first"
    bench.reader.crew_reads = False
    bench.reader.leave()
    assert bench.is_held_by(second)
    bench.reader.work_arrived = lambda: None
    bench.answer("second")
    assert second.returned() == "reply to second"


@pytest.mark.parametrize("reason", ["paused", "draining", "crew_reads"])
def test_a_holder_that_is_told_to_leaves_the_role_and_waits_on(bench: Bench, reason: str) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    with bench.lock:
        setattr(bench.reader.flow if reason == "paused" else bench.reader, reason, True)
    bench.reader.wake_holder()
    assert bench.watcher_was_woken()
    bench.until(lambda: bench.is_listed(first))
    assert bench.reader.holder is None
    assert bench.is_listed(second)
    with bench.lock:
        bench.reader.holder = threading.get_ident()
        setattr(bench.reader.flow if reason == "paused" else bench.reader, reason, False)
    bench.reader.leave()
    bench.until(lambda: bench.is_held_by(second))  # it was on the list first
    bench.answer("second", "first")
    assert first.returned() == "reply to first"
    assert second.returned() == "reply to second"


def test_one_who_gets_the_role_when_reading_pauses_gives_it_back(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    second.reply.wakers.gate = gate = Gate()
    bench.answer("first")
    first.returned()
    gate.wait_until_reached()
    with bench.lock:
        bench.reader.flow.pause_locked(Reason.NOTIFICATIONS)
    second.reply.wakers.gate = None
    gate.open()
    assert bench.watcher_was_woken()
    bench.until(lambda: bench.is_listed(second))
    assert bench.reader.holder is None


# The stream ends.


def test_the_end_of_the_stream_ends_all_waits_whoever_read_it(bench: Bench) -> None:
    callers = [bench.reads("a"), bench.waits("b"), bench.waits("c")]
    os.close(bench.write_fd)
    bench.write_fd = -1
    assert all(isinstance(caller.returned(), EOFError) for caller in callers)
    assert bench.end == [None]
    assert bench.reader.holder is None
    assert not bench.reader.waiting


def test_nobody_reads_a_stream_that_has_ended(bench: Bench) -> None:
    os.close(bench.write_fd)
    bench.write_fd = -1
    bench.reader.read_source()
    late = bench.waits("late")
    assert bench.reader.holder is None
    assert bench.end == [None]
    late.reply.settle("settled elsewhere", None)
    assert late.returned() == "settled elsewhere"


def test_the_end_of_the_stream_finds_a_gift_under_way(bench: Bench) -> None:
    first, second, third = bench.reads("first"), bench.waits("second"), bench.waits("third")
    second.reply.wakers.gate = gate = Gate()
    bench.answer("first")
    os.close(bench.write_fd)
    bench.write_fd = -1
    first.returned()
    gate.wait_until_reached()
    second.reply.wakers.gate = None
    gate.open()
    assert isinstance(second.returned(), EOFError)
    assert isinstance(third.returned(), EOFError)
    assert bench.end == [None]


def test_the_end_of_the_stream_finds_a_holder_whose_time_is_over(bench: Bench) -> None:
    first, gate = bench.times_out_while_it_reads("first")
    second = bench.waits("second")
    assert bench.is_held_by(first)
    os.close(bench.write_fd)
    bench.write_fd = -1
    first.reply.wakers.gate = None
    gate.open()
    assert isinstance(first.returned(), RequestTimeoutError | EOFError)
    assert isinstance(second.returned(), EOFError)


def test_bytes_that_another_process_has_taken_meanwhile_are_not_missed(bench: Bench) -> None:
    """A poll had reported them: the descriptor may be open elsewhere as well."""
    bench.reader.holder = threading.get_ident()
    bench.reader.read([(bench.read_fd, select.POLLIN)])
    bench.reader.leave()
    assert bench.end == []

    caller = bench.reads("reply")
    bench.answer("reply")
    assert caller.returned() == "reply to reply"
