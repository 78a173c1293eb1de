"""What a peer's own handlers see, and what is left when they are taken back."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from shared_messages import Echo, Note

from streamipc import (
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    ProtocolError,
    SyncIpcSession,
    UnhandledRequestError,
)

Connected = Callable[..., tuple[IpcSession, IpcSession]]


def test_exceptions_reach_the_sessions_handlers_before_the_peers(connected: Connected) -> None:
    peer = IpcPeer()
    sending, handling = connected(None, peer)
    seen: list[tuple[str, str]] = []
    came = threading.Semaphore(0)

    @peer.on_exception
    def of_peer(error: Exception) -> None:
        seen.append(("peer", str(error)))
        came.release()

    @handling.on_exception
    def of_session(error: LookupError) -> None:
        seen.append(("session", str(error)))
        came.release()

    @handling.on_message
    def note(msg: Note) -> None:
        raise LookupError("lookup") if msg.number else ValueError("value")

    handling.start()
    sending.notify(Note(number=0))
    sending.notify(Note(number=1))
    assert came.acquire(timeout=10)
    assert came.acquire(timeout=10)
    assert seen == [("peer", "value"), ("session", "lookup")]


def test_handlers_that_were_taken_back_are_not_called(
    connected: Connected, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    peer = IpcPeer()
    sending, handling = connected(None, peer)
    called: list[str] = []
    handlers = {
        name: getattr(peer, f"on_{name}")(lambda *_, name=name: called.append(name))
        for name in ("request", "message", "exception")
    }
    handlers["close"] = peer.on_close(lambda: called.append("close"))
    for name, handler in handlers.items():
        getattr(peer, f"off_{name}")(handler)
        with pytest.raises(ValueError, match=f"not registered with on_{name}"):
            getattr(peer, f"off_{name}")(handler)
    own = handling.on_exception(lambda error: called.append("own"))
    handling.off_exception(own)
    handling.on_message(Note)(lambda msg: 1 / 0)
    handling.start()
    with pytest.raises(UnhandledRequestError):
        sending.request(Echo()).result(timeout=10)
    with caplog.at_level(logging.ERROR, "streamipc"):
        sending.notify(Note())
        eventually(lambda: "ZeroDivisionError" in caplog.text)
    handling.close()
    assert called == []


def test_a_handler_given_with_its_type_by_the_peer(connected: Connected) -> None:
    peer = IpcPeer()
    asking, answering = connected(None, peer)

    @peer.on_request(Echo, inline=True)
    def echo(msg: Any) -> Any:
        return msg.value

    answering.start()
    assert asking.request(Echo(1)).result(timeout=10) == 1


def test_stats_count_frames_and_bytes_both_ways(connected: Connected, eventually: Any) -> None:
    asking, answering = connected()
    answering.on_request(Echo)(lambda msg: [msg.value, answering.stats.running])
    answering.start()
    assert asking.request(Echo("x")).result(timeout=10) == ["x", 1]
    asking.notify(Note())
    assert answering.receive(timeout=10) == Note()
    # A reply may be here before whoever sent it has booked it.
    eventually(lambda: answering.stats.bytes_sent and not answering.stats.running)

    ours, theirs = asking.stats, answering.stats
    assert (ours.frames_sent, ours.frames_received) == (2, 1)
    assert (theirs.frames_sent, theirs.frames_received) == (1, 2)
    assert ours.bytes_sent == theirs.bytes_received > 0
    assert ours.bytes_received == theirs.bytes_sent > 0
    assert ours.pending == theirs.running == ours.late == ours.junk == ours.dropped == 0


def test_stats_count_running_handlers_and_not_what_else_the_threads_do(
    connected: Connected,
) -> None:
    asking, answering = connected()
    answering.on_request(Echo)(lambda msg: answering.stats.running)
    asking.on_request(Echo)(lambda msg: msg.value)
    asking.start()
    called, go_on = threading.Event(), threading.Event()

    def callback(future: Any) -> None:
        called.set()
        go_on.wait(10)

    answering.request(Echo(1)).add_done_callback(callback)
    assert called.wait(10)
    assert answering.stats.running == 0
    assert asking.request(Echo(1)).result(timeout=10) == 1
    go_on.set()


def test_sessions_end_with_their_peer_and_are_kept_by_whoever_holds_them() -> None:
    (a, b), (c, d) = os.pipe(), os.pipe()
    with IpcPeer() as peer:
        left = peer.create_stream_session(b, c)
        right = peer.create_stream_session(d, a)
        right.on_request(Echo)(lambda msg: msg.value)
        right.start()
        assert left.peer is peer
        assert left.request(Echo(1)).result(timeout=10) == 1
    assert left.closed
    assert right.closed


def pair_of(peer: IpcPeer, other: IpcPeer) -> tuple[Any, Any]:
    (a, b), (c, d) = os.pipe(), os.pipe()
    return peer.create_stream_session(b, c), other.create_stream_session(d, a)


def test_a_session_with_a_serializer_of_its_own_has_the_peers_frame_size() -> None:
    (a, b), (c, d) = os.pipe(), os.pipe()
    with IpcPeer(max_frame_size=2048) as peer, IpcPeer(JsonMessageSerializer()) as other:
        left = peer.create_stream_session(b, c, serializer=JsonMessageSerializer())
        right = other.create_stream_session(d, a)
        right.on_request(Echo)(lambda msg: msg.value)
        right.start()
        assert left.call(Echo("x"), timeout=30) == "x"
        with pytest.raises(ProtocolError, match="max_frame_size is 2,048"):
            left.call(Echo("x" * 3000))


def test_a_tick_of_a_peer_whose_sessions_have_threads_does_nothing() -> None:
    with IpcPeer() as peer, IpcPeer() as other:
        left, right = pair_of(peer, other)
        right.on_request(Echo)(lambda msg: msg.value)
        right.start()
        assert not peer.tick(None)
        assert left.call(Echo(1), timeout=30) == 1
        assert not peer.tick(None)


def test_a_tick_passes_by_a_session_that_ends_while_it_starts_another(
    eventually: Callable[..., None],
) -> None:
    class Jealous(SyncIpcSession):
        """Closes the others when it starts."""

        def start(self) -> None:
            super().start()
            for session in peer.sessions:
                if session is not self:
                    session.close(timeout=0)

    with IpcPeer(session_type=Jealous) as peer, IpcPeer() as other:
        sessions = [pair_of(peer, other) for _ in range(2)]
        got: list[object] = []
        for mine, theirs in sessions:
            mine.on_message(Note)(got.append)
            theirs.start()
        peer.tick()

        (left,) = [pair for pair in sessions if not pair[0].closed]
        left[1].notify(Note("still served"))
        eventually(lambda: peer.tick(0) or got)
        eventually(lambda: peer.tick(0) is False and got)
    assert got == [Note("still served")]
