"""What sessions and peers do at their edges: dropped, too late, closed meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from shared_messages import Echo

from streamipc import IpcError, IpcPeer, IpcSession, ProcessSession, SessionClosedError


def make_session(peer: IpcPeer) -> IpcSession:
    """A session with itself."""
    reading, writing = os.pipe()
    return peer.create_stream_session(writing, reading)


def test_a_session_that_was_dropped_is_not_there_for_its_handlers() -> None:
    sessions = [make_session(IpcPeer())]
    host, ended = sessions[0]._engine.host, sessions[0]._engine.closing.closed
    with pytest.warns(ResourceWarning, match="unclosed"):
        sessions.clear()

    with pytest.raises(SessionClosedError, match="dropped"):
        host.session()
    assert ended.wait(10)


def test_on_close_calls_a_builtin_that_tells_nothing_about_itself_without_the_session() -> None:
    session = make_session(IpcPeer())
    errors: list[BaseException] = []
    session.on_exception(errors.append)
    session.on_close(max)

    session.close()

    assert [str(error).partition(",")[0] for error in errors] == [
        "max expected at least 1 argument"
    ]


def test_on_close_that_comes_too_late_raises_what_its_function_raises() -> None:
    session = make_session(IpcPeer())
    session.close()

    with pytest.raises(ZeroDivisionError):
        session.on_close(lambda: 1 / 0)


def test_a_session_that_is_made_while_its_peer_closes_is_closed() -> None:
    made: list[IpcSession] = []

    class Closing(IpcSession):
        def __init__(self, peer: IpcPeer, transport: Any) -> None:
            super().__init__(peer, transport)
            peer.close()
            made.append(self)

    with pytest.raises(IpcError, match="the peer is closed"):
        make_session(IpcPeer(session_type=Closing))
    assert made[0].closed


def test_a_peer_may_be_closed_by_a_handler(connected: Callable[..., tuple[Any, Any]]) -> None:
    right_peer = IpcPeer()
    left, right = connected(None, right_peer)
    closed = threading.Event()
    right.on_close(closed.set)

    @right.on_request
    def echo(msg: Echo) -> Any:
        right_peer.close()
        return msg.value

    right.start()

    assert left.call(Echo("answered")) == "answered"
    assert closed.wait(30)


def test_a_type_for_child_processes_is_used_as_it_is(echo_child: list[str]) -> None:
    class Named(ProcessSession):
        pass

    with IpcPeer(session_type=Named).create_command_session(echo_child) as session:
        assert type(session) is Named
        assert session.call(Echo(1)) == 1


def test_result_of_a_stream_waits_no_longer_than_it_is_told(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    left, right = connected()
    may_end = threading.Event()

    @right.on_request
    def echo(msg: Echo) -> None:
        may_end.wait(30)

    right.start()
    with left.stream(Echo()) as stream:
        with pytest.raises(TimeoutError):
            stream.result(timeout=0.05)
        may_end.set()
        assert stream.result(timeout=30) is None
