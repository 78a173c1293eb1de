"""Several sessions without threads of one peer: they serve each other."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from shared_messages import Echo, Note

from streamipc import IpcPeer, RequestTimeoutError, SyncIpcSession

Sessions = list[Any]


@pytest.fixture
def pairs() -> Any:
    """Return a peer of sessions without threads, and the sessions' other sides, with threads."""
    with IpcPeer(session_type=SyncIpcSession, timeout=30) as peer, IpcPeer(timeout=30) as others:
        ends = [socket.socketpair() for _ in range(3)]
        ours = [peer.create_stream_session(a, a) for a, _ in ends]
        theirs = [others.create_stream_session(b, b) for _, b in ends]

        @peer.on_request
        def echo(msg: Echo) -> object:
            return msg.value

        for session in ours:
            session.start()
        yield peer, ours, theirs


def test_a_wait_in_one_session_serves_the_others(pairs: Any) -> None:
    _, (waiting, *_rest), (first, second, third) = pairs
    asked = threading.Event()
    answers: list[object] = []

    @first.on_request
    def slow(msg: Echo) -> object:
        assert asked.wait(30)
        return msg.value

    first.start()

    def ask() -> None:
        answers.append(second.call(Echo(2)))
        answers.append(third.call(Echo(3)))
        asked.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert waiting.call(Echo(1)) == 1
    thread.join()
    assert answers == [2, 3]


def test_a_wait_in_one_session_keeps_the_deadlines_of_the_others(pairs: Any) -> None:
    _, (waiting, other, _), (first, second, _) = pairs
    release = threading.Event()

    @first.on_request
    def slow(msg: Echo) -> object:
        assert release.wait(30)
        return msg.value

    @second.on_request
    def never(msg: Echo) -> object:
        release.wait(30)
        return NotImplemented

    first.start()
    second.start()
    late = other.request(Echo(), timeout=0.05)
    late.add_done_callback(lambda _: release.set())

    assert waiting.call(Echo(1)) == 1
    with pytest.raises(RequestTimeoutError):
        late.result(0)


def test_tick_of_the_peer_serves_all_of_its_sessions(
    pairs: Any, eventually: Callable[..., None]
) -> None:
    peer, ours, theirs = pairs
    assert peer.tick() is False
    futures = [session.request(Echo(number)) for number, session in enumerate(theirs)]

    def all_done() -> bool:
        peer.tick(timeout=1)
        return all(future.done() for future in futures)

    eventually(all_done)
    assert [future.result() for future in futures] == [0, 1, 2]
    theirs[2].notify(Note("told"))
    assert peer.tick(timeout=30) is True
    assert ours[2].receive(timeout=0).text == "told"


def test_tick_of_the_peer_waits_for_any_of_its_sessions_and_sees_their_ends(pairs: Any) -> None:
    peer, ours, theirs = pairs
    for session in theirs:
        session.start()
        threading.Timer(0.05, session.close).start()
    while peer.sessions:
        assert peer.tick(timeout=30)
    assert all(session.closed for session in ours)
    assert peer.tick(timeout=30) is False


def test_tick_of_a_peer_without_such_sessions_has_nothing_to_do() -> None:
    with IpcPeer() as peer:
        assert peer.tick(timeout=None) is False


def test_a_handler_that_waits_in_one_session_serves_the_others(pairs: Any) -> None:
    peer, (waiting, *_), (first, second, _) = pairs

    @waiting.on_request
    def ask_back(msg: Echo) -> object:
        return waiting.call(Echo(msg.value + 1))

    @first.on_request
    def look_at_the_other(msg: Echo) -> object:
        return second.call(Echo(msg.value + 1))

    first.start()
    future = first.request(Echo(1))
    while not future.done():
        peer.tick(timeout=1)
    assert future.result() == 3


def test_a_session_that_another_thread_has_read_is_served_again(pairs: Any) -> None:
    _, (first, second, _), (far, other, _) = pairs
    busy = threading.Event()
    other.on_request(Echo)(lambda _: busy.wait(30))
    other.start()
    asking = threading.Thread(target=lambda: second.call(Echo(1)))
    asking.start()
    while second._engine.leader.thread is None:
        time.sleep(0.001)
    serving = threading.Thread(target=first.serve_forever)
    serving.start()
    while first._engine.leader.thread is None:
        time.sleep(0.001)
    time.sleep(0.05)
    busy.set()
    asking.join()
    assert other.request(Echo(2), timeout=20).result() == 2
    far.close()
    serving.join()


def test_a_slow_handler_of_another_session_does_not_delay_a_thread_that_waits(pairs: Any) -> None:
    _, (first, second, _), (far, other, _) = pairs
    answered, asked = threading.Event(), threading.Event()
    slow: list[bool] = []

    @second.on_request
    def wait(msg: Echo) -> object:
        asked.set()
        slow.append(answered.wait(10))
        return msg.value

    @far.on_request
    def answer(msg: Echo) -> object:
        assert asked.wait(30)
        time.sleep(0.05)
        return msg.value

    def ask() -> None:
        first.call(Echo(1))
        answered.set()

    far.start()
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    while not (first._engine.leader.followers and first._engine.leader.thread):
        time.sleep(0.001)
    assert other.call(Echo(2)) == 2
    for thread in threads:
        thread.join()
    assert slow == [True]


def test_a_source_of_another_session_that_has_ended_costs_no_time(pairs: Any) -> None:
    peer, (first, *_), _ = pairs
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    with theirs, peer.create_stream_session(ours, ours, read):
        os.close(write)
        peer.tick(0.1)
        start = time.process_time()
        with pytest.raises(RequestTimeoutError):
            first.receive(timeout=0.5)
        assert time.process_time() - start < 0.1


def test_notifications_that_are_given_up_leave_no_work_behind() -> None:
    ours, theirs = socket.socketpair()
    with theirs, IpcPeer(session_type=SyncIpcSession) as peer:
        session = peer.create_stream_session(ours, ours)
        given_up = 0
        while given_up < 100:
            try:
                session.notify(Note("x" * 50_000), timeout=0)
            except RequestTimeoutError:
                given_up += 1
        assert session._engine.caller_runs is not None
        assert session._engine.caller_runs.waiting_tasks() == 1
