"""Who is told when the peer is done with a request that has ended here; what was not executed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from pool_messages import Add, Echo, Nap, Pid, Spin

from streamipc import (
    ErrorMessage,
    IpcPeer,
    RequestTimeoutError,
    SessionClosedError,
    SyncIpcSession,
)
from streamipc.protocol.connection import error_from
from streamipc.protocol.envelopes import ErrorResponse
from streamipc.transports.pipe import FdTransport

CHILD = [sys.executable, str(Path(__file__).resolve().parents[1] / "support" / "pool_child.py")]
ANSWERS = {**os.environ, "STREAMIPC_ANSWERS_CANCELLED": "1"}

Eventually = Callable[..., None]


@pytest.mark.parametrize("heeds", [True, False])
def test_a_child_that_is_told_to_answers_what_was_cancelled(
    peer: IpcPeer, eventually: Eventually, heeds: bool
) -> None:
    late: list[Any] = []
    with peer.create_command_session(CHILD, env=ANSWERS) as session:
        session.on_late(late.append)
        assert session.call(Add(1)) == 2
        future = session.request(Nap(0.3, heeds))
        session.call(Add(1))  # it has got it
        future.cancel()
        with pytest.raises(CancelledError):
            future.result()
        eventually(lambda: late == [future.id])
        timed_out = session.request(Nap(0.3, heeds), timeout=0.1)
        with pytest.raises(RequestTimeoutError) as caught:
            timed_out.result()
        # Or the child's clock was faster, and its answer was in time to be the reply.
        told = [] if caught.value.answered else [timed_out.id]
        eventually(lambda: late == [future.id, *told])


def test_others_answer_nothing(peer: IpcPeer) -> None:
    late: list[Any] = []
    with peer.create_command_session(CHILD) as session:
        session.on_late(late.append)
        future = session.request(Nap(30))
        session.call(Add(1))
        future.cancel()
        session.call(Add(1))
    assert late == []


def test_what_the_peer_never_got_is_told_at_once(
    connected: Callable[..., Any], eventually: Eventually
) -> None:
    """The pipe is full: the request is taken back from the queue."""
    left, _ = connected()  # nobody reads there
    late: list[Any] = []
    left.on_late(late.append)
    first = left.request(Echo(bytes(1 << 22)), timeout=0.2)
    second = left.request(Add(1), timeout=0.2)
    for future in (first, second):
        with pytest.raises(RequestTimeoutError):
            future.result()
    eventually(lambda: second.id in late)


def test_only_a_function_is_told(connected: Callable[..., Any]) -> None:
    left, _ = connected()
    with pytest.raises(TypeError):
        left.on_late(5)


def test_a_grandchild_is_not_told_to_answer_what_was_cancelled(
    script: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, peer: IpcPeer
) -> None:
    monkeypatch.setenv("STREAMIPC_ANSWERS_CANCELLED", "1")
    command = script("""
        import os
        from pool_messages import Echo
        from streamipc import IpcPeer

        session = IpcPeer().create_stdio_session()

        @session.on_request
        def echo(msg: Echo) -> object:
            return os.environ.get("STREAMIPC_ANSWERS_CANCELLED")

        session.serve_forever()
    """)
    with peer.create_command_session(command) as session:
        assert session.call(Echo(0)) is None
    with peer.create_command_session(command, env=dict(os.environ)) as session:
        assert session.call(Echo(0)) == "1"  # the user has said so


def test_a_timeout_that_the_peer_tells_of_says_so() -> None:
    told = error_from(ErrorResponse(1, ErrorMessage("too late", "RequestTimeoutError"), "timeout"))

    assert isinstance(told, RequestTimeoutError)
    assert told.answered is True
    assert RequestTimeoutError("nothing came").answered is False


# What was certainly not executed.


@pytest.mark.parametrize("type_", [None, SyncIpcSession])
def test_what_a_child_never_read_was_not_executed(type_: Any) -> None:
    peer = IpcPeer() if type_ is None else IpcPeer(session_type=type_)
    with peer.create_command_session([*CHILD, "broken"], stderr=None) as session:
        futures = [session.request(Add(1)), session.request(Echo("x" * 1000))]
        for future in futures:
            with pytest.raises(SessionClosedError, match="exited with code 1") as caught:
                future.result()
            assert caught.value.executed is False


def test_what_a_child_may_have_read_is_not_known_to_be_executed(peer: IpcPeer) -> None:
    with peer.create_command_session(CHILD) as session:
        session.call(Add(1))
        future = session.request(Spin(60))
        waiting = session.request(Add(1))
        os.kill(session.pid, signal.SIGKILL)
        for one in (future, waiting):
            with pytest.raises(SessionClosedError) as caught:
                one.result()
            assert caught.value.executed is None


def test_what_another_process_may_still_read_is_not_known_either(peer: IpcPeer) -> None:
    """The child is dead, and has left its standard input to one of its own."""
    source = "import subprocess; subprocess.Popen(['sleep', '2'])"
    command = [sys.executable, "-c", source]
    with peer.create_command_session(command) as session:
        with pytest.raises(SessionClosedError) as caught:
            session.call(Pid())
        assert caught.value.executed is None
        session.close(0)


def test_a_handler_that_ends_after_its_cancellation_is_told_of_once(
    eventually: Eventually,
) -> None:
    class Answering(FdTransport):
        answers_cancelled = True

    here, there = IpcPeer(), IpcPeer()
    may_end = threading.Event()
    late: list[Any] = []

    @there.on_request
    def wait(msg: Nap) -> str:
        may_end.wait(30)
        return "too late"

    to_there, from_here = reversed(os.pipe())
    to_here, from_there = reversed(os.pipe())
    with (
        there.create_session(Answering(from_here, to_here)),
        here.create_stream_session(to_there, from_there) as session,
    ):
        session.on_late(late.append)
        future = session.request(Nap(1))
        eventually(lambda: there.sessions[0].stats.running == 1)
        future.cancel()
        may_end.set()
        eventually(lambda: late == [future.id])
        assert session.stats.late == 1
