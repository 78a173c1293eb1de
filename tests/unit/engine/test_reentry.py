"""What may interrupt the engine on its own thread, and what it is refused there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from shared_messages import Echo

from streamipc import IpcPeer, IpcSession, LogMessage, ProcessSession, SyncIpcSession


@pytest.fixture(params=[IpcSession, SyncIpcSession])
def session(request: pytest.FixtureRequest, echo_child: list[str]) -> Iterator[ProcessSession]:
    with IpcPeer(session_type=request.param) as peer:
        yield peer.create_command_session(echo_child)


def test_a_wait_with_the_engines_lock_held_is_refused(session: Any) -> None:
    session.call(Echo("start"))
    future = session.request(Echo("behind"))

    with session._engine.lock, pytest.raises(RuntimeError, match="would wait for itself"):
        session.call(Echo("within"))

    assert future.result(5) == "behind"
    assert session.pending == 0


def test_a_wait_of_the_thread_that_leads_is_refused(session: Any) -> None:
    session.call(Echo("start"))
    refused: list[str] = []
    asked: list[Any] = []

    def wait_within() -> bool:
        asked.append(session.request(Echo("later")))  # nobody reads the reply while we lead
        with pytest.raises(RuntimeError) as refusal:
            asked[0].result()
        refused.append(str(refusal.value))
        return True

    while not session._engine.leader.lead(wait_within):
        pass  # the I/O thread leads just now

    assert asked[0].result(5) == "later"
    assert refused[0].startswith("this thread reads for the session")


def test_a_wait_of_the_thread_that_writes_is_refused(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.call(Echo("start"))
    writer = session._engine.writer
    write_some, refused = writer._write_some, []

    def interrupted_write(buffers: Any) -> Any:
        monkeypatch.undo()
        with pytest.raises(RuntimeError) as refusal:
            session.call(Echo("within"))
        refused.append(str(refusal.value))
        return write_some(buffers)

    monkeypatch.setattr(writer, "_write_some", interrupted_write)

    assert session.call(Echo("outer")) == "outer"
    assert refused[0].startswith("this thread writes a message")


def test_a_notification_within_is_sent_behind_and_does_not_wait(session: Any) -> None:
    session.call(Echo("start"))

    with session._engine.lock:
        session.notify(LogMessage("x" * 1_000_000))  # more than the pipe takes

    assert session.call(Echo("next")) == "next"
    assert session._engine.writer.is_idle()


def test_close_within_returns_and_happens_behind(session: Any) -> None:
    session.call(Echo("start"))

    with session._engine.lock:
        session.close()
        assert not session._engine.shutdown.has_closed()
    session.close()

    assert session._engine.shutdown.has_closed()
    assert session.returncode == 0


def test_a_thread_of_the_sessions_own_without_a_task_does_not_wait(echo_child: list[str]) -> None:
    with IpcPeer() as peer:
        session = peer.create_command_session(echo_child)
        session.call(Echo("start"))
        engine, refused = session._engine, threading.Event()
        expire_due = engine.pool.io_thread.expire_due

        def expire_and_wait() -> None:
            engine.pool.io_thread.expire_due = expire_due
            with pytest.raises(RuntimeError, match="one of the session's own"):
                session.call(Echo("within"))
            refused.set()

        engine.pool.io_thread.expire_due = expire_and_wait  # called by the I/O thread
        engine.io_wakeup.set()

        assert refused.wait(10)
        assert session.call(Echo("next")) == "next"
