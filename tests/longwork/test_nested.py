"""Calls within calls, in handlers of every kind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from long_child import register
from long_messages import AskBack, Blob, Context, Count, Down

from streamipc import IpcPeer, IpcSession, Limits

DEEP = Limits(blocked_handlers=1000)


def down(msg: Down, session: IpcSession) -> int:
    return 1 + session.request(Down(msg.depth - 1)).result() if msg.depth else 0


@pytest.mark.parametrize("depth", [1, 2, 3, 10, 200])
def test_two_processes_call_each_other_to_any_depth(
    child: Callable[..., list[str]], depth: int
) -> None:
    peer = IpcPeer(handler_threads=2, timeout=60, limits=DEEP)
    peer.on_request(down)
    with peer.create_command_session(child("2")) as session:
        assert session.call(Down(depth)) == depth


@pytest.mark.parametrize("inline", [False, True])
def test_depth_mixes_with_ordinary_traffic_of_eight_threads(
    child: Callable[..., list[str]], inline: bool
) -> None:
    peer = IpcPeer(handler_threads=2, timeout=60, limits=DEEP)
    peer.on_request(inline=inline)(down)
    errors: list[BaseException] = []
    with peer.create_command_session(child("2")) as session:

        def traffic(number: int) -> None:
            try:
                for length in range(30):
                    assert session.call(Blob(b"x" * length)) == length
                    if length % 10 == number:
                        assert session.call(Down(number)) == number
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=traffic, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        assert session.call(Down(200)) == 200
        for thread in threads:
            thread.join()

    assert errors == []


def test_many_deep_calls_at_a_time(child: Callable[..., list[str]]) -> None:
    peer = IpcPeer(handler_threads=2, timeout=60, limits=DEEP)
    peer.on_request(down)
    with peer.create_command_session(child("2")) as session:
        futures = [session.request(Down(20)) for _ in range(10)]

        assert [future.result() for future in futures] == [20] * 10


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("theirs", [False, True])
def test_an_inline_handler_may_ask_and_wait(session: IpcSession, ours: bool, theirs: bool) -> None:
    @session.on_request(inline=ours)
    def context(msg: Context) -> int:
        return session.call(Blob(b"abc"))

    for _ in range(20):
        assert session.call(AskBack(inline=theirs)) == 3


def test_an_inline_handler_runs_on_the_thread_that_reads(connected: Callable[..., Any]) -> None:
    left, right = connected()
    threads: set[str] = set()

    @right.on_request(inline=True)
    def blob(msg: Blob) -> int:
        threads.add(threading.current_thread().name)
        return len(msg.data)

    right.start()
    for _ in range(50):
        assert left.call(Blob(b"x")) == 1

    assert len(threads) == 1
    assert threads.pop().startswith("streamipc-")


def test_an_inline_handler_that_takes_long_delays_nothing(connected: Callable[..., Any]) -> None:
    left, right = connected()
    running, release = threading.Event(), threading.Event()

    @right.on_request(inline=True)
    def stuck(msg: Count) -> str:
        running.set()
        assert release.wait(30)
        return "done"

    @right.on_request
    def blob(msg: Blob) -> int:
        return len(msg.data)

    right.start()
    future = left.request(Count(1))
    assert running.wait(10)
    assert [left.call(Blob(b"x" * n), timeout=10) for n in range(50)] == list(range(50))
    assert not future.done()
    release.set()
    assert future.result(timeout=10) == "done"


def test_a_handler_may_stream_from_its_caller(connected: Callable[..., Any]) -> None:
    left, right = connected(IpcPeer(handler_threads=1), IpcPeer(handler_threads=1))
    register(left)

    @right.on_request
    def ask(msg: AskBack, session: IpcSession) -> int:
        with session.stream(Count(100), window=2) as stream:
            return sum(1 for _ in stream)

    right.start()

    assert [future.result(10) for future in [left.request(AskBack()) for _ in range(5)]] == [
        100
    ] * 5


def test_two_sessions_call_through_each_other(connected: Callable[..., Any]) -> None:
    """A asks B on one session, whose handler asks A on another."""
    left, right = connected(IpcPeer(handler_threads=1), IpcPeer(handler_threads=1))
    back_left, back_right = connected(IpcPeer(handler_threads=1), IpcPeer(handler_threads=1))

    @right.on_request
    def there(msg: Down) -> int:
        return 1 + back_right.call(Down(msg.depth - 1)) if msg.depth else 0

    @back_left.on_request
    def here(msg: Down) -> int:
        return 1 + left.call(Down(msg.depth - 1)) if msg.depth else 0

    right.start()
    back_left.start()

    assert left.call(Down(30), timeout=20) == 30
