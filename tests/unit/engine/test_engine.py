"""A session's start, and what is dropped while something is missing."""

from __future__ import annotations

import _thread
import contextlib
import gc
import os
import subprocess
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from handover import LONG
from long_messages import PATIENCE
from shared_messages import Echo, Note

from streamipc import IpcPeer, RequestTimeoutError, SessionClosedError
from streamipc.engine.deadlines import Reminder
from streamipc.engine.incoming import IncomingRequest
from streamipc.protocol.envelopes import Request
from streamipc.transports.pipe import FdTransport


def test_what_was_read_ahead_of_the_session_belongs_to_it(script: Callable[..., list[str]]) -> None:
    command = script("""
        import os, sys
        from shared_messages import Echo, Note
        from streamipc import IpcPeer
        from streamipc.protocol.connection import Connection
        from streamipc.protocol.envelopes import Notification
        from streamipc.serializers.native import NativeMessageSerializer

        encode = Connection(NativeMessageSerializer(), 1 << 20).encode
        notes = [part for n in (1, 2) for part in encode(Notification(Note(number=n)))]
        os.write(1, b"".join([b"a banner\\n", *notes]))
        session = IpcPeer().create_stdio_session()
        session.on_request(Echo)(lambda msg: msg.value)
        session.serve_forever()
    """)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"a banner\n"

    with IpcPeer().create_process_session(process) as session:
        assert [session.receive(LONG).number for _ in range(2)] == [1, 2]
        assert session.request(Echo("on")).result(LONG) == "on"
        assert session.stats.junk == 0


def test_a_session_that_is_closed_while_it_starts_says_so() -> None:
    class ClosedMeanwhile(FdTransport):
        """The start asks for what was read ahead; another thread closes the session then."""

        session: Any = None

        @property
        def prefix(self) -> dict[int, bytes]:
            if self.session is not None:
                session, self.session = self.session, None
                session.close()
            return {}

        @prefix.setter
        def prefix(self, value: dict[int, bytes]) -> None: ...

    read, write = os.pipe()
    transport = ClosedMeanwhile(read, write)
    session = IpcPeer().create_session(transport)
    transport.session = session

    with pytest.raises(SessionClosedError, match="this side closed the session"):
        session.start()
    assert session.closed


@pytest.mark.parametrize("moment", ["a look at what is there", "a start"])
def test_what_comes_with_the_end_is_received_whatever_receive_was_doing(
    connected: Callable[..., tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    left, right = connected()
    left.start()
    engine = left._engine

    def the_end_comes() -> None:
        monkeypatch.undo()
        right.notify(Note("last words"))
        right.close()
        assert engine.shutdown.ended.wait(LONG)

    if moment == "a start":

        def start() -> None:
            the_end_comes()
            engine.start()

        monkeypatch.setattr(engine.lifecycle, "start", start)
    else:

        class Looked(deque[Any]):
            def popleft(self) -> Any:
                try:
                    return super().popleft()
                except IndexError:
                    if not engine.shutdown.ended.is_set():
                        the_end_comes()
                    raise

        engine.inbox._received.items = Looked()

    assert left.receive(LONG) == Note("last words")
    with pytest.raises(SessionClosedError, match="the peer closed the connection"):
        left.receive(LONG)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_stream_dropped_where_no_thread_can_be_had_is_left_to_its_deadline(
    connected: Callable[..., tuple[Any, Any]],
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    left, right = connected()
    right.on_request(Echo)(lambda msg: (yield from iter(int, 1)))
    right.start()
    refused: list[object] = []

    def fail(function: object, _: object) -> int:
        refused.append(function)
        raise error("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", fail)
    for timeout in PATIENCE:
        stream = left.stream(Echo(), timeout=timeout)
        with contextlib.suppress(RequestTimeoutError):
            assert next(stream) == 0
        future = stream.future
        del stream
        gc.collect()
        if refused:  # on a busy machine its time may have been over before it was dropped
            break

    assert refused == [future.cancel]
    assert isinstance(future.exception(LONG), TimeoutError)


def test_a_reminder_of_a_request_that_is_gone_reminds_nobody(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    """It went between the look at the clock and now."""
    left, _ = connected()
    engine = left._engine
    said: list[BaseException] = []
    left.on_exception(said.append)
    called: list[str] = []
    served = IncomingRequest(engine.responder, Request(1, Note(), None), (), 1, None, 0)
    served.on_cancel(lambda: called.append("called"))
    gone, there = Reminder(served), weakref.ref(served)
    del served
    gc.collect()
    assert there() is None

    engine._expire([gone])

    assert (called, said) == ([], [])


def test_a_reply_that_is_faster_than_the_deadline_stays_and_the_peer_hears_nothing(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    """It came in after its deadline was taken out, and before the request was forgotten."""
    left, right = connected()
    right.on_request(Echo)(lambda msg: msg.value)
    right.start()
    future = left.request(Echo("in time"), timeout=LONG)
    assert future.result(LONG) == "in time"
    sent = left.stats.frames_sent
    left._engine._expire([future._call])

    assert future.result() == "in time"
    assert left.stats.frames_sent == sent
