"""The end of a session, where something is in its way."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from handover import LONG, Caller, Eventually, Held, Hold, Quick
from shared_messages import Echo, Note

from streamipc import IpcPeer, RequestContext, SessionClosedError, SyncIpcSession
from streamipc.transports.pipe import FdTransport

Sides = tuple[Any, Any, Held]


@pytest.fixture
def sides(connected: Callable[..., tuple[Any, Any]]) -> Iterator[Sides]:
    left, right = connected()
    held = Held(left, right)
    yield left, right, held
    held.release_all()


def stop_on_its_way(session: Any) -> tuple[threading.Event, threading.Event]:
    """Have the next request wait between the table and its handler, on the thread that reads."""
    reached, opened = threading.Event(), threading.Event()
    host = session._engine.host
    find = host.request_handlers

    def find_later(cls: type) -> Any:
        host.request_handlers = find
        reached.set()
        assert opened.wait(LONG)
        return find(cls)

    host.request_handlers = find_later
    return reached, opened


class Receiving:
    def __init__(self, session: Any) -> None:
        self._session = session

    def result(self, timeout: float | None) -> Any:
        return self._session.receive(timeout)


ASKS = """
    import threading
    from handover import Hold, Quick
    from streamipc import IpcPeer

    session = IpcPeer().create_stdio_session()
    session.on_request(Quick)(lambda msg: threading.Event().wait(60))
    session.request(Hold("of the child"))
    session.serve_forever()
"""


def test_a_child_that_dies_while_its_request_is_being_dispatched_is_not_waited_for(
    script: Callable[..., list[str]], eventually: Eventually
) -> None:
    """The thread that reads may be kept by a serializer or a message class of the user's."""
    session: Any = IpcPeer().create_command_session(script(ASKS))
    held = Held(session)
    reached, opened = stop_on_its_way(session)
    pending = session.request(Quick())
    assert reached.wait(LONG)
    session.kill()
    outcome = Caller(pending, timeout=None)

    assert isinstance(outcome.returned(), SessionClosedError)
    eventually(lambda: session._engine.shutdown._gone_by is not None)  # handlers are cancelled
    opened.set()
    session.close()
    assert session._engine.shutdown.closed.wait(LONG)
    held.release_all()


def test_a_transport_that_fails_to_close_keeps_nothing_else_from_being_closed() -> None:
    class Failing(FdTransport):
        def close(self) -> None:
            super().close()
            raise RuntimeError("can't be closed twice")

    read, write = os.pipe()
    session = IpcPeer().create_session(Failing(read, write))
    said: list[str] = []
    session.on_exception(lambda error: said.append(str(error)))
    session.on_close(lambda: said.append("closed"))
    session.start()

    session.close()

    assert said == ["can't be closed twice", "closed"]
    assert session._engine.shutdown.closed.is_set()


def test_what_comes_while_the_session_closes_can_still_be_received(
    sides: Sides, eventually: Eventually
) -> None:
    left, right, held = sides
    right.start()
    left.request(Hold("in flight"))
    held.wait_until_entered("in flight")
    closing = threading.Thread(target=right.close, args=(LONG,))
    closing.start()
    eventually(lambda: right._engine.lifecycle.refusal)
    with pytest.raises(SessionClosedError):
        right.request(Quick())
    receiver = Caller(Receiving(right))
    eventually(lambda: right._engine.inbox._received.wakers)
    left.notify(Note("last"))

    assert receiver.returned() == Note("last")
    held.release("in flight")
    closing.join(LONG)
    assert not closing.is_alive()


def test_one_who_waits_for_a_notification_while_another_reads_is_told_of_the_end(
    sides: Sides, eventually: Eventually
) -> None:
    left, right, held = sides
    right.start()
    reads = Caller(left.request(Hold("reads")))
    eventually(lambda: left._engine.leader.thread == reads.thread.ident)
    receives = Caller(Receiving(left))
    eventually(lambda: len(left._engine.leader.followers) == 1)
    assert left._engine.leader.thread == reads.thread.ident
    held.wait_until_entered("reads")
    left._engine.adapter.transport.close_write()
    right._engine.adapter.transport.close_write()

    assert isinstance(receives.returned(), SessionClosedError)
    assert isinstance(reads.returned(), SessionClosedError)


def no_thread_to_close(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> threading.Event:
    """No thread can be had for the end of a session; the event tells that one was wanted."""
    start = threading.Thread.start
    refused = threading.Event()

    def start_others(thread: threading.Thread) -> None:
        if thread.name == "streamipc-closing":
            refused.set()
            raise error("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_others)
    return refused


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_session_ends_although_there_is_no_thread_to_see_it_out(
    connected: Callable[..., tuple[Any, Any]],
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    left, right = connected()
    left.start()
    refused = no_thread_to_close(monkeypatch, error)
    right.close()

    assert refused.wait(LONG)
    assert left._engine.shutdown.closed.wait(LONG)
    left.close()


def test_a_handler_that_has_to_close_the_session_itself_does_not_wait_for_itself(
    echo_child: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = IpcPeer().create_command_session(echo_child)
    refused = no_thread_to_close(monkeypatch, RuntimeError)
    session.on_message(Note)(lambda msg: session.close())
    session.notify(Note("comes back"))

    assert session._engine.shutdown.closed.wait(LONG)
    assert refused.is_set()
    assert session.returncode == 0  # as the end of its input has it, not SIGTERM
    session.close()


def test_a_session_without_threads_sees_a_stream_to_its_end_that_a_callback_takes() -> None:
    go_on = threading.Event()
    (a, b), (c, d) = os.pipe(), os.pipe()
    with IpcPeer(session_type=SyncIpcSession) as peer, IpcPeer() as other:
        left = peer.create_stream_session(b, c)
        right = other.create_stream_session(d, a)

        @right.on_request
        def count(msg: Echo, context: RequestContext) -> Any:
            for number in range(100):
                context.progress(number)
                if number == 10:
                    assert go_on.wait(LONG)
            return "done"

        right.start()
        items: list[Any] = []

        def take(item: Any) -> None:
            items.append(item)
            if item == 10:
                timer.start()

        timer = threading.Timer(0.2, go_on.set)  # when the session has looked a few times
        future = left.request(Echo(), on_progress=take)
        left.close(timeout=LONG)
        timer.join()

        assert future.result(timeout=0) == "done"
        assert items == list(range(100))
