"""What sessions and peers do at their edges: dropped, too late, closed meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from shared_messages import Echo

from streamipc import (
    IpcError,
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    ProcessSession,
    SessionClosedError,
)


def make_session(peer: IpcPeer) -> IpcSession:
    """A session with itself."""
    reading, writing = os.pipe()
    return peer.create_stream_session(writing, reading)


def test_a_session_that_was_dropped_is_not_there_for_its_handlers() -> None:
    sessions = [make_session(IpcPeer())]
    host, ended = sessions[0]._engine.host, sessions[0]._engine.shutdown.closed
    with pytest.warns(ResourceWarning, match="unclosed"):
        sessions.clear()

    with pytest.raises(SessionClosedError, match="dropped"):
        host.session()
    assert ended.wait(10)


def test_a_session_that_was_dropped_before_it_starts_is_kept_by_nobody() -> None:
    peer = IpcPeer()
    sessions = [make_session(peer)]
    engine = sessions[0]._engine
    with pytest.warns(ResourceWarning, match="unclosed"):
        sessions.clear()

    engine.host.started()

    assert peer.sessions == []
    assert list(peer.caller_runs()) == []
    assert engine.shutdown.closed.wait(10)


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "fails in the midst"])
def test_on_close_calls_what_says_nothing_of_itself_once_with_the_session(fails: bool) -> None:
    class Odd:
        __signature__ = object()  # inspect takes no such

        def __init__(self) -> None:
            self.calls: list[object] = []

        def __call__(self, session: object) -> None:
            self.calls.append(session)
            if fails:
                raise TypeError("in the midst")

    session = make_session(IpcPeer())
    errors: list[BaseException] = []
    session.on_exception(errors.append)
    odd = Odd()
    session.on_close(odd)

    session.close()

    assert [str(error) for error in errors] == ["in the midst"] * fails
    assert odd.calls == [session]


def test_on_close_calls_a_builtin_that_tells_nothing_about_itself_with_the_session() -> None:
    session = make_session(IpcPeer())
    errors: list[BaseException] = []
    session.on_exception(errors.append)
    session.on_close(max)

    session.close()

    assert [str(error) for error in errors] == ["'IpcSession' object is not iterable"]


def test_a_session_says_how_many_requests_are_pending(
    connected: Callable[..., tuple[IpcSession, IpcSession]],
) -> None:
    left, right = connected()
    go_on = threading.Event()
    right.on_request(Echo)(lambda msg: go_on.wait(10))
    right.start()
    assert left.pending == 0
    futures = [left.request(Echo()) for _ in range(3)]
    assert left.pending == left.stats.pending == 3
    assert right.pending == 0

    go_on.set()
    assert [future.result(10) for future in futures] == [True] * 3
    assert left.pending == 0


def test_a_session_says_why_it_has_ended_as_often_as_it_is_asked(
    connected: Callable[..., tuple[IpcSession, IpcSession]],
) -> None:
    left, right = connected()
    assert left.closed_error is None
    over = threading.Event()
    right.on_close(over.set)
    right.start()
    assert right.closed_error is None
    left.close()
    assert over.wait(10)

    for session, what in ((left, "this side closed"), (right, "the peer closed")):
        with pytest.raises(SessionClosedError) as raised:
            session.request(Echo())
        errors = [session.closed_error for _ in range(2)]
        for error in errors:
            assert isinstance(error, SessionClosedError)
            assert what in str(error)
            assert str(error) in str(raised.value)
        assert errors[0] is not errors[1]


@pytest.mark.usefixtures("exit_status_is_waited_for")
def test_a_session_says_how_its_child_has_ended(echo_child: list[str]) -> None:
    session = IpcPeer().create_command_session(echo_child)
    over = threading.Event()
    session.on_close(over.set)
    session.start()
    session.kill()
    assert over.wait(10)

    error = session.closed_error
    assert error is not None
    assert (error.returncode, error.signal) == (-9, "SIGKILL")
    session.close()


def test_the_repr_of_a_peer_says_what_it_has() -> None:
    class Peer(IpcPeer):
        pass

    peer = Peer(JsonMessageSerializer())
    assert repr(peer) == "<Peer JsonMessageSerializer, sessions: 0, open>"
    session = make_session(peer)
    assert repr(peer) == "<Peer JsonMessageSerializer, sessions: 1, open>"
    with peer._lock:  # as where a signal's handler looks
        assert "sessions: 1" in repr(peer)
    session.close()
    peer.close()
    assert repr(peer) == "<Peer JsonMessageSerializer, sessions: 0, closed>"


def test_on_close_that_comes_too_late_raises_what_its_function_raises() -> None:
    session = make_session(IpcPeer())
    session.close()

    with pytest.raises(ZeroDivisionError):
        session.on_close(lambda: 1 / 0)


def test_a_session_that_is_made_while_its_peer_closes_is_closed() -> None:
    made: list[IpcSession] = []

    class Shutdown(IpcSession):
        def __init__(self, peer: IpcPeer, transport: Any) -> None:
            super().__init__(peer, transport)
            peer.close()
            made.append(self)

    with pytest.raises(IpcError, match="the peer is closed"):
        make_session(IpcPeer(session_type=Shutdown))
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
