"""Every request ends in time, whether or not anyone waits for it."""

from __future__ import annotations

import concurrent.futures
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from long_messages import PATIENCE
from shared_messages import Echo, Note, SayHello

from streamipc import (
    IpcPeer,
    IpcSession,
    RequestCancelledError,
    RequestContext,
    RequestTimeoutError,
)

Connected = Callable[..., tuple[IpcSession, IpcSession]]


def test_a_request_fails_at_its_deadline_although_nobody_waits(wire: Any, eventually: Any) -> None:
    start = time.monotonic()
    future = wire.session.request(Echo(), timeout=0.1)
    eventually(future.done)

    assert time.monotonic() - start >= 0.1
    assert isinstance(future.exception(0), RequestTimeoutError)
    assert isinstance(future.exception(0), TimeoutError)
    assert wire.session.stats.pending == 0


def test_callbacks_wait_and_as_completed_see_the_deadline(wire: Any) -> None:
    called = threading.Event()
    futures = [wire.session.request(Echo(), timeout=0.05 * n) for n in (3, 1, 2)]
    futures[0].add_done_callback(lambda f: called.set())

    assert set(concurrent.futures.as_completed(futures, timeout=10)) == set(futures)
    assert called.wait(10)
    assert concurrent.futures.wait(futures, timeout=10).not_done == set()


def test_a_bounded_wait_leaves_the_request_alive(wire: Any) -> None:
    future = wire.session.request(Echo(), timeout=30)
    with pytest.raises(RequestTimeoutError, match="the request itself goes on"):
        future.result(timeout=0.02)
    with pytest.raises(RequestTimeoutError):
        future.exception(timeout=0)
    assert wire.session.stats.pending == 1
    wire.say(kind="response", id=wire.hear()["id"], body="after all")

    assert future.result(timeout=10) == "after all"


def test_a_wait_ends_at_the_requests_own_deadline_if_that_is_earlier(wire: Any) -> None:
    start = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"Echo \(request 1\) within 0.05 s$"):
        wire.session.request(Echo(), timeout=0.05).result(timeout=30)
    assert time.monotonic() - start < 20


def test_the_peers_default_holds_where_nothing_is_given(make_wire: Any) -> None:
    wire = make_wire(timeout=0.05)
    with pytest.raises(RequestTimeoutError, match=r"within 0.05 s"):
        wire.session.request(Echo()).result()
    assert wire.session.peer.timeout == 0.05
    assert make_wire().session.peer.timeout == 30.0


def test_the_deadline_travels_and_no_deadline_does_too(make_wire: Any) -> None:
    wire = make_wire(timeout=None)
    wire.session.request(Echo())
    assert "timeout" not in wire.hear()
    wire.session.request(Echo(), timeout=900)
    assert 800 < wire.hear()["timeout"] <= 900
    wire.session.request(Echo(), timeout=None)
    assert "timeout" not in wire.hear()


@pytest.mark.parametrize(
    "long", [1e6, 3e6, 1e8, 1e12, math.inf, pytest.param(10**400, id="no-float")]
)
def test_the_longest_deadlines_are_fine(connected: Connected, long: float) -> None:
    asking, answering = connected(IpcPeer(timeout=long))
    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()

    for _ in range(3):
        assert asking.request(Echo(1)).result(timeout=10) == 1
        assert asking.request(Echo(1), timeout=long).result(timeout=long) == 1
        future = asking.request(Echo(2), timeout=long)
        assert concurrent.futures.wait([future], timeout=10).done == {future}
    answering.notify(Note())
    assert asking.receive(timeout=long) == Note()
    asking.close(timeout=long)


@pytest.mark.parametrize("bad", [-1, math.nan, "1", True])
def test_a_timeout_that_is_none_is_refused(wire: Any, bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout must be"):
        wire.session.request(Echo(), timeout=bad)
    with pytest.raises((TypeError, ValueError), match="timeout must be"):
        IpcPeer(timeout=bad)
    with pytest.raises((TypeError, ValueError), match="timeout must be"):
        wire.session.close(timeout=bad)
    assert wire.silent()


def test_no_time_at_all_is_a_timeout_on_both_sides(connected: Connected) -> None:
    asking, answering = connected()
    called: list[Any] = []
    answering.on_request(Echo)(lambda msg: called.append(msg))
    answering.start()
    for _ in range(10):
        with pytest.raises(RequestTimeoutError):
            asking.request(Echo(), timeout=0).result(timeout=10)
    assert called == []


def test_late_replies_are_dropped_and_counted(wire: Any) -> None:
    future = wire.session.request(Echo(), timeout=0.02)
    with pytest.raises(RequestTimeoutError):
        future.result()
    # Its time may be over before it is written, but it is written all the same.
    heard = {envelope["kind"]: envelope for envelope in (wire.hear(), wire.hear())}
    id_ = heard["request"]["id"]
    assert heard["cancel"] == {"kind": "cancel", "id": id_}
    wire.say(kind="response", id=id_, body="late")
    wire.say(kind="error", id=id_, body={"message": "later"}, code="handler")
    again = wire.session.request(Echo())
    wire.say(kind="response", id=wire.hear()["id"], body="in time")

    assert again.result(timeout=10) == "in time"
    assert wire.session.stats.late == 2
    with pytest.raises(RequestTimeoutError):
        future.result()


def test_the_handler_learns_that_its_time_is_over(connected: Connected) -> None:
    asking, answering = connected()
    outcome: list[Any] = []
    begun, end = threading.Event(), threading.Event()

    @answering.on_request
    def echo(msg: Echo, ctx: RequestContext) -> None:
        begun.set()
        try:
            while True:
                ctx.raise_if_cancelled()
                time.sleep(0.002)
        except RequestCancelledError:
            outcome.append(ctx.cancelled)
            raise
        finally:
            end.set()

    answering.start()
    for timeout in PATIENCE:
        with pytest.raises(RequestTimeoutError):
            asking.request(Echo(), timeout=timeout).result()
        asking.notify(Note())
        answering.receive(timeout=10)  # by now it has read all that came before
        if begun.is_set():
            break
    assert end.wait(10)
    assert set(outcome) == {True}
    assert asking.stats.pending == 0


def test_requests_that_waited_too_long_for_a_thread_are_not_run(connected: Connected) -> None:
    asking, answering = connected(None, IpcPeer(handler_threads=1))
    go = threading.Event()
    run: list[Any] = []
    answering.on_request(Echo)(lambda msg: (run.append(msg.value), go.wait(10)))
    answering.start()
    first = asking.request(Echo("first"))
    late = [asking.request(Echo(n), timeout=0.05) for n in range(5)]
    for future in late:
        with pytest.raises(RequestTimeoutError):
            future.result()
    asking.notify(Note())
    answering.receive(timeout=10)  # by now it has read all that came before
    go.set()
    first.result(timeout=10)
    asking.request(Echo("last")).result(timeout=10)
    assert run == ["first", "last"]


@pytest.mark.usefixtures("switching")
def test_many_deadlines_pass_in_time_from_many_threads(wire: Any, in_threads: Any) -> None:
    # A request and its cancellation, or neither of them: one whose time is over while another
    # thread is about to write it is withdrawn. Nobody would read them else.
    heard: dict[str, list[int]] = {"request": [], "cancel": [], "notification": []}

    def hear() -> None:
        while not heard["notification"]:
            envelope = wire.hear(60)
            heard[envelope["kind"]].append(envelope.get("id"))

    hearing = threading.Thread(target=hear)
    hearing.start()
    lateness: list[float] = []

    def ask(number: int) -> None:
        for n in range(25):
            timeout = 0.001 * (n + number)
            start = time.monotonic()
            with pytest.raises(RequestTimeoutError):
                wire.session.request(Echo(), timeout=timeout).result()
            lateness.append(time.monotonic() - start - timeout)

    in_threads(16, ask)
    wire.session.notify(Note("the last"))
    hearing.join()
    assert len(lateness) == 400
    assert sorted(heard["request"]) == sorted(heard["cancel"])
    assert len(set(heard["request"])) == len(heard["request"]) <= 400
    assert min(lateness) >= 0
    assert max(lateness) < 20
    assert wire.session.stats.pending == 0


def test_the_bookkeeping_of_deadlines_stays_proportional_to_what_is_pending(
    connected: Connected,
) -> None:
    asking, answering = connected()
    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()
    largest = 0
    for _ in range(20):
        for future in [asking.request(Echo(), timeout=1000) for _ in range(100)]:
            future.result(timeout=10)
        largest = max(largest, len(asking._engine.deadlines))

    assert largest <= 2 * 100 + 64 + 1


def slow(_: Any) -> None:
    time.sleep(0.005)


def test_a_crowd_of_slow_callbacks_delays_no_deadline(connected: Connected) -> None:
    asking, answering = connected()
    registered, never = threading.Event(), threading.Event()

    @answering.on_request
    def echo(msg: Echo) -> Any:
        registered.wait(60)
        return msg.value

    answering.on_request(SayHello)(lambda msg: never.wait(60))
    answering.start()
    futures = [asking.request(Echo(number)) for number in range(2_000)]
    for future in futures:
        future.add_done_callback(slow)
    registered.set()
    futures[0].result(timeout=20)
    start = time.monotonic()
    late = asking.request(SayHello("x"), timeout=0.1)

    assert isinstance(late.exception(timeout=20), RequestTimeoutError)
    never.set()
    assert time.monotonic() - start < 8  # the callbacks take 10 s, one after the other


def test_a_crowd_of_slow_reports_delays_neither_deadlines_nor_requests(wire: Any) -> None:
    wire.session.on_exception(slow)
    wire.session.on_request(lambda msg: msg.message)
    wire.session.start()
    wire.write(wire.frame(b"{]") * 3_000)
    start = time.monotonic()
    late = wire.session.request(Echo(), timeout=0.1)

    assert isinstance(late.exception(timeout=20), RequestTimeoutError)
    wire.ask(1, "still there")
    while (heard := wire.hear())["kind"] != "response":
        pass
    assert heard["body"] == "still there"
    assert time.monotonic() - start < 12  # the reports take 15 s, one after the other


def test_a_request_that_is_interrupted_while_it_is_entered_is_not_pending_for_ever(
    wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines = wire.session._engine.deadlines

    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(deadlines, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wire.session.request(Echo(), timeout=0.1)
    assert wire.session.stats.pending == 0


@pytest.mark.parametrize(("was_sent", "frames"), [(False, 0), (True, 2)])
def test_a_request_that_is_interrupted_while_it_is_sent_is_cancelled(
    wire: Any, monkeypatch: pytest.MonkeyPatch, was_sent: bool, frames: int
) -> None:
    outgoing = wire.session._engine.outgoing
    send = outgoing._write

    def interrupted(*args: object) -> None:
        monkeypatch.undo()
        if was_sent:
            send(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(outgoing, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wire.session.request(Echo(), timeout=None)
    assert wire.session.stats.pending == 0
    assert wire.session.stats.frames_sent == frames  # none, or it and its cancellation
