"""Each move of leadership, forced: real pipe, real threads, chosen interleaving."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from interrupting import interrupted_at
from leader_bench import LONG, Bench, Caller, Gate

from streamipc import RequestTimeoutError
from streamipc.engine.flow import Reason


class Interrupted(BaseException):
    """What Ctrl-C does to a thread, at the line chosen by the test."""


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def gate_before(bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str) -> Gate:
    """Return a gate that whoever takes this step of the leader's has to pass first."""
    gate, original = Gate(), getattr(bench.leader, step)

    def gated(*arguments: Any) -> Any:
        gate.pass_through()
        return original(*arguments)

    monkeypatch.setattr(bench.leader, step, gated)
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


# Leadership itself.


def test_one_thread_leads_at_a_time_and_does_not_lead_inside_of_itself(bench: Bench) -> None:
    def work() -> list[object]:
        threads: list[object] = [bench.leader.thread]
        other = threading.Thread(
            target=lambda: threads.append(bench.leader.lead(lambda: "another thread"))
        )
        other.start()
        other.join()
        threads.append(bench.leader.lead(lambda: "the same thread"))
        return [*threads, bench.leader.thread]

    me = threading.get_ident()
    assert bench.leader.lead(work) == [me, None, None, me]
    assert bench.leader.thread is None


def test_an_error_of_what_is_done_leaves_leadership_free(bench: Bench) -> None:
    def work() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        bench.leader.lead(work)
    assert bench.leader.thread is None


@pytest.mark.parametrize("leads", [True, False])
def test_an_interrupt_anywhere_leaves_leadership_free_and_nobody_registered(
    bench: Bench, leads: bool
) -> None:
    files = ("streamipc/engine/leader.py", "streamipc/engine/reader.py")
    bench.leader.prefer(io_thread=not leads)
    reply = bench.caller("reply").reply
    has_slept = False

    def note_sleep() -> None:
        nonlocal has_slept
        has_slept = has_slept or bool(reply.wakers)

    reply.on_look = note_sleep
    k = 1
    while True:
        reply.outcome.clear()
        has_slept = False
        if leads:
            bench.answer("reply")
        end = time.monotonic() + (LONG if leads else 0.005)
        interrupted = interrupted_at(k, files, partial(bench.leader.wait, reply, end))
        assert bench.leader.thread is None
        assert not bench.leader.followers
        assert not reply.wakers
        bench.leader.lead(bench.reader.clean)
        bench.leader.lead(bench.reader.drain)
        assert reply.ready() is leads
        if interrupted:
            k += 1
        elif has_slept or leads:
            break
        # Otherwise its time was over before it came to sleep, on a busy machine: once more.
    assert k > 10


def test_leadership_is_had_when_the_one_who_leads_has_left(bench: Bench) -> None:
    first = bench.reads("first")
    led: list[object] = []
    waiting = threading.Thread(
        target=bench.leader.lead_when_free, args=(lambda: led.append(bench.leader.thread),)
    )
    waiting.start()
    bench.answer("first")
    first.returned()
    waiting.join()
    assert led == [waiting.ident]


def test_one_that_waits_for_leadership_inside_of_it_gives_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamipc.engine.leader._PATIENCE", 0.02)
    led: list[object] = []
    bench.leader.lead(bench.leader.lead_when_free, lambda: led.append("inside"))
    assert not led


# A client leader leaves.


def test_a_leader_that_leaves_a_follower_behind_has_the_io_thread_take_over(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    bench.answer("first")
    assert first.returned() == "reply to first"
    bench.answer("second")
    bench.take_over_and_read()
    assert second.returned() == "reply to second"


def test_followers_stay_with_the_io_thread_until_all_have_left(bench: Bench) -> None:
    first = bench.reads("0")
    others = [bench.waits(str(number)) for number in range(1, 6)]
    bench.answer("0")
    assert first.returned() == "reply to 0"
    assert bench.leader.takes == 1
    for number, other in enumerate(others, 1):
        bench.answer(str(number))
        bench.taken_over.release()
        bench.take_over_and_read()
        assert other.returned() == f"reply to {number}"
    assert bench.leader.takes == 1
    assert bench.leader.thread is None
    assert not bench.leader.followers


def test_a_leader_that_leaves_alone_disturbs_nobody(bench: Bench) -> None:
    only = bench.reads("only")
    bench.answer("only")
    assert only.returned() == "reply to only"
    assert not bench.taken_over.acquire(blocking=False)
    assert bench.leader.thread is None


def test_one_follower_is_woken_to_lead_and_it_is_one_whose_wait_is_not_over(bench: Bench) -> None:
    over, waits, waits_too = (bench.caller(name).reply for name in ("over", "waits", "waits too"))
    over.settle("there", None)
    locks = {reply: threading.Lock() for reply in (over, waits, waits_too)}
    for reply, lock in locks.items():
        lock.acquire()
        bench.leader.followers[lock] = reply
    bench.leader.notify()
    assert [lock.locked() for lock in locks.values()] == [True, False, True]
    bench.leader.followers.clear()


def test_a_follower_that_is_woken_leads(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    bench.answer("first")
    first.returned()
    assert bench.is_listed(second)
    bench.leader.prefer(io_thread=False)
    bench.leader.notify()
    bench.until(lambda: bench.is_led_by(second))
    bench.answer("second")
    assert second.returned() == "reply to second"


# A reply is read by another caller.


def test_a_caller_whose_reply_another_read_returns_while_that_one_reads_on(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    bench.answer("second")
    assert second.returned() == "reply to second"
    assert bench.is_led_by(first)
    assert not bench.leader.followers
    bench.answer("first")
    assert first.returned() == "reply to first"


def test_all_replies_in_one_read_end_all_waits(bench: Bench) -> None:
    callers = [bench.reads("a"), bench.waits("b"), bench.waits("c")]
    bench.answer("c", "a", "b")
    assert [caller.returned() for caller in callers] == [f"reply to {name}" for name in "abc"]
    assert bench.leader.thread is None
    assert not bench.leader.followers


# A caller times out.


def test_a_caller_that_times_out_while_it_leads_leaves_the_other_to_the_io_thread(
    bench: Bench,
) -> None:
    first, gate = bench.times_out_while_it_reads("first")
    second = bench.waits("second")
    gate.open()
    assert isinstance(first.returned(), RequestTimeoutError)
    bench.answer("first", "second")
    bench.take_over_and_read()
    assert second.returned() == "reply to second"
    assert first.reply.ready()  # late for the wait, not for the request


def test_a_caller_that_times_out_while_it_leads_alone_leaves_leadership_free(
    bench: Bench,
) -> None:
    only = bench.caller("only", timeout=0.01)
    only.thread.start()
    assert isinstance(only.returned(), RequestTimeoutError)
    assert bench.leader.thread is None


def test_a_caller_that_times_out_while_another_leads_leaves_the_list(bench: Bench) -> None:
    first = bench.reads("first")
    second = bench.caller("second", timeout=0.01)
    second.thread.start()
    assert isinstance(second.returned(), RequestTimeoutError)
    assert not bench.leader.followers
    assert bench.is_led_by(first)
    bench.answer("first")
    first.returned()
    assert not bench.taken_over.acquire(blocking=False)


# Wake-ups that come between a check and a sleep.


def test_ready_after_the_last_look_and_before_the_waker_is_there_ends_the_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.reads("first")
    gate = gate_before(bench, monkeypatch, "_follow")
    second = bench.caller("second")
    second.thread.start()
    gate.wait_until_reached()
    assert not second.reply.wakers
    bench.answer("second")  # the first caller reads it, and finds nobody to wake
    bench.until(second.future.done)
    gate.open()
    assert second.returned() == "reply to second"
    assert bench.is_led_by(first)


def test_ready_after_the_very_last_look_and_before_the_sleep_ends_the_wait(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.caller("second")
    gate = gate_at_the_look_with_a_waker(second)
    second.thread.start()
    gate.wait_until_reached()
    bench.answer("second")
    bench.until(second.future.done)
    gate.open()
    assert second.returned() == "reply to second"
    assert bench.is_led_by(first)


def test_leadership_that_is_left_before_a_follower_registers_is_taken_by_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.reads("first")
    gate = gate_before(bench, monkeypatch, "_follow")
    second = bench.caller("second")
    second.thread.start()
    gate.wait_until_reached()
    bench.answer("first")
    first.returned()
    assert not bench.taken_over.acquire(blocking=False)  # nobody was seen
    gate.open()
    bench.until(lambda: bench.is_led_by(second))
    bench.answer("second")
    assert second.returned() == "reply to second"


def test_leadership_that_is_left_while_a_follower_looks_for_the_last_time_is_not_lost(
    bench: Bench,
) -> None:
    first, second = bench.reads("first"), bench.caller("second")
    gate = gate_at_the_look_with_a_waker(second)
    second.thread.start()
    gate.wait_until_reached()
    bench.answer("first")
    first.returned()
    gate.open()
    bench.answer("second")
    bench.take_over_and_read()  # it was seen
    assert second.returned() == "reply to second"


@pytest.mark.parametrize("waker_is_there", [True, False])
def test_ready_before_the_leader_sleeps_ends_its_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, waker_is_there: bool
) -> None:
    caller = bench.caller("caller")
    if waker_is_there:
        gate = gate_at_the_look_with_a_waker(caller)
    else:
        gate = gate_before(bench, monkeypatch, "_sleep_as_leader")
    caller.thread.start()
    gate.wait_until_reached()
    caller.reply.settle("settled elsewhere", None)
    gate.open()
    assert caller.returned() == "settled elsewhere"
    assert bench.leader.thread is None


def test_a_leader_that_sleeps_is_woken_when_its_future_is_settled_elsewhere(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    first.reply.settle("settled elsewhere", None)
    assert first.returned() == "settled elsewhere"
    bench.answer("second")
    bench.take_over_and_read()
    assert second.returned() == "reply to second"


def test_a_wake_up_that_comes_too_late_costs_the_next_leader_one_look(bench: Bench) -> None:
    bench.wakeup.set()
    bench.wakeup.set()
    caller = bench.reads("caller")
    poll = select.poll()
    poll.register(bench.wakeup.fileno(), select.POLLIN)
    bench.until(lambda: not poll.poll(0))  # it sleeps, rather than look again and again
    bench.answer("caller")
    assert caller.returned() == "reply to caller"


# Interrupts.


def test_an_interrupt_of_a_leader_leaves_its_followers_to_the_io_thread(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")

    def interrupt() -> None:
        if threading.get_ident() == first.thread.ident:
            first.reply.on_look = None
            raise Interrupted

    first.reply.on_look = interrupt
    bench.leader.wake()
    assert isinstance(first.returned(), Interrupted)
    assert bench.leader.thread is None
    bench.answer("second")
    bench.take_over_and_read()
    assert second.returned() == "reply to second"


def test_an_interrupt_on_the_way_to_sleep_leaves_nobody_on_the_list(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.reads("first")

    def interrupted(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(bench.leader, "_follow", interrupted)
        second = bench.caller("second")
        second.thread.start()
        assert isinstance(second.returned(), Interrupted)
    assert not bench.leader.followers
    third = bench.waits("third")
    bench.answer("first")
    first.returned()
    bench.answer("third")
    bench.take_over_and_read()
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
    assert not bench.leader.followers


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_of_one_who_hands_over_leaves_leadership_free_and_handed_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    take_over = bench.take_over

    def interrupted() -> None:
        monkeypatch.undo()
        if moment == "after":
            take_over()
        raise Interrupted

    monkeypatch.setattr(bench, "take_over", interrupted)
    bench.answer("first")
    assert isinstance(first.returned(), Interrupted)
    assert bench.leader.thread is None
    bench.answer("second")
    bench.take_over_and_read()
    assert second.returned() == "reply to second"


def test_an_interrupt_while_bytes_are_applied_leaves_them_to_the_next(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")

    def interrupt() -> None:
        bench.on_dispatch = None
        raise Interrupted

    bench.on_dispatch = interrupt
    bench.answer("first", "second")
    assert isinstance(first.returned(), Interrupted)
    assert bench.reader.is_busy
    bench.leader.lead(bench.reader.clean)

    assert second.returned() == "reply to second"
    assert first.reply.ready()
    assert bench.end == []


# Reading is left to others, or to nobody.


def test_a_caller_that_read_requests_leaves_leadership_to_the_io_thread(bench: Bench) -> None:
    first = bench.reads("first")
    second = bench.waits("second")
    bench.on_read = lambda: bench.leader.prefer(io_thread=True)
    third = bench.waits("third")
    bench.answer("third")
    third.returned()
    bench.until(lambda: bench.is_listed(first) and bench.is_listed(second))
    assert bench.leader.thread is None
    # The I/O thread leads, reads the one reply, and finds out that it was quiet for long.
    bench.answer("first")
    bench.take_over_and_read()
    assert first.returned() == "reply to first"
    bench.on_read = None
    bench.leader.prefer(io_thread=False)
    bench.leader.notify()
    bench.until(lambda: bench.is_led_by(second))
    bench.answer("second")
    assert second.returned() == "reply to second"


@pytest.mark.parametrize("reason", ["paused", "prefers the I/O thread"])
def test_a_leader_that_is_told_to_leaves_and_waits_on(bench: Bench, reason: str) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    with bench.lock:
        if reason == "paused":
            bench.flow.pause_locked(Reason.NOTIFICATIONS)
        else:
            bench.leader.prefer(io_thread=True)
    bench.leader.wake()
    bench.until(lambda: bench.is_listed(first))
    assert bench.leader.thread is None
    assert bench.is_listed(second)
    with bench.lock:
        bench.flow.resume_locked(Reason.NOTIFICATIONS)
    bench.leader.prefer(io_thread=False)
    bench.leader.notify()
    bench.until(lambda: bench.is_led_by(second))  # it was on the list first
    bench.answer("second", "first")
    assert first.returned() == "reply to first"
    assert second.returned() == "reply to second"


def test_a_leader_leaves_a_session_that_is_about_to_end_and_waits_on(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    bench.reader.drain_only()
    bench.leader.wake()
    bench.until(lambda: bench.is_listed(first))
    assert bench.leader.thread is None
    bench.answer("second", "first")
    bench.leader.lead(bench.reader.drain)
    assert first.returned() == "reply to first"
    assert second.returned() == "reply to second"


def test_a_follower_that_is_woken_while_reading_pauses_sleeps_on(bench: Bench) -> None:
    first, second = bench.reads("first"), bench.waits("second")
    bench.answer("first")
    first.returned()
    with bench.lock:
        bench.flow.pause_locked(Reason.NOTIFICATIONS)
    looks: list[int] = []
    second.reply.on_look = lambda: looks.append(1)
    bench.leader.notify()
    bench.until(lambda: len(looks) >= 2 and bench.is_listed(second))
    assert bench.leader.thread is None


# The stream ends.


def test_the_end_of_the_stream_ends_all_waits_whoever_read_it(bench: Bench) -> None:
    callers = [bench.reads("a"), bench.waits("b"), bench.waits("c")]
    bench.end_stream()
    assert all(isinstance(caller.returned(), EOFError) for caller in callers)
    assert bench.end == [None]
    assert bench.leader.thread is None
    assert not bench.leader.followers


def test_nobody_reads_a_stream_that_has_ended(bench: Bench) -> None:
    bench.end_stream()
    bench.reader.read_source()
    late = bench.waits("late")
    assert bench.leader.thread is None
    assert bench.end == [None]
    late.reply.settle("settled elsewhere", None)
    assert late.returned() == "settled elsewhere"


def test_the_end_of_the_stream_finds_a_leader_whose_time_is_over(bench: Bench) -> None:
    first, gate = bench.times_out_while_it_reads("first")
    second = bench.waits("second")
    assert bench.is_led_by(first)
    bench.end_stream()
    first.reply.wakers.gate = None
    gate.open()
    assert isinstance(first.returned(), RequestTimeoutError | EOFError)
    bench.take_over_and_read()
    assert isinstance(second.returned(), EOFError)


def test_bytes_that_another_process_has_taken_meanwhile_are_not_missed(bench: Bench) -> None:
    """A poll had reported them: the descriptor may be open elsewhere as well."""
    bench.leader.lead(bench.reader.read, [(bench.read_fd, select.POLLIN)])
    assert bench.end == []

    caller = bench.reads("reply")
    bench.answer("reply")
    assert caller.returned() == "reply to reply"
