"""An interrupt at each place of a call loses nothing of other requests, and the session goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from calls import make_future
from interrupting import interrupted_at
from shared_messages import Echo, Note

from streamipc import (
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    SerializationError,
    SyncIpcSession,
)

FILES = tuple(
    f"streamipc/{name}.py"
    for name in (
        "futures",
        "session",
        "engine/caller_runs",
        "engine/calls",
        "engine/control",
        "engine/dispatcher",
        "engine/engine",
        "engine/leader",
        "engine/lifecycle",
        "engine/notifier",
        "engine/outgoing",
        "engine/reader",
        "engine/responder",
        "engine/writer",
        "protocol/connection",
        "protocol/framing",
        "transports/pipe",
    )
)


@pytest.fixture(params=[IpcSession, SyncIpcSession])
def left(request: pytest.FixtureRequest) -> Iterator[Any]:
    (a, b), (c, d) = os.pipe(), os.pipe()
    with IpcPeer(session_type=request.param) as peer, IpcPeer() as other:
        right = other.create_stream_session(d, a)
        right.on_request(Echo)(lambda msg: msg.value)
        right.on_message(Note)(lambda msg: None)
        right.start()
        session = peer.create_stream_session(b, c)
        session.call(Echo("warm"))
        yield session


OPERATIONS: dict[str, Callable[[Any], object]] = {
    "call": lambda session: session.call(Echo("mine")),
    "request": lambda session: session.request(Echo("mine")).result(),
    "notify": lambda session: session.notify(Note()),
    "cancel": lambda session: session.request(Echo("mine")).cancel(),
}


def test_an_interrupt_anywhere_wakes_whoever_else_waits(left: Any) -> None:
    """It may have read the other's reply, and nothing else is going to come."""
    for k in range(1, 3000):
        told: list[object] = []
        waiting = threading.Thread(target=lambda k=k, told=told: told.append(left.call(Echo(k))))
        waiting.start()
        while not (told or left.pending):
            time.sleep(0)
        interrupted = interrupted_at(k, FILES, lambda: left.call(Echo("mine")))
        waiting.join(10)

        assert told == [k], f"interrupted at {k}"
        if not interrupted:
            break
    assert k > 10


def test_whoever_settles_a_call_once_more_tells_all_who_do_not_know() -> None:
    k, interrupted = 0, True
    while interrupted:
        k += 1
        future = make_future(None, 1, Note())  # type: ignore[arg-type]
        call: Any = future._call
        waker = threading.Lock()
        waker.acquire()
        call.wakers.append(waker)
        interrupted = interrupted_at(
            k, ("calls.py", "futures.py"), partial(call.settle, "one", None)
        )
        call.settle("two", None)

        assert waker.acquire(blocking=False), f"interrupted at {k}"
        assert future.done()
        assert future.result(0) in ("one", "two")
    assert k > 3


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_interrupt_anywhere_leaves_a_session_that_works(
    left: Any, operation: str, eventually: Any
) -> None:
    act = OPERATIONS[operation]
    for k in range(1, 3000):
        outstanding = left.request(Echo(k), timeout=20)
        interrupted = interrupted_at(k, FILES, lambda: act(left))

        assert outstanding.result(20) == k
        assert left.call(Echo("next"), timeout=20) == "next"
        if isinstance(left, SyncIpcSession):
            left.tick(0)
        eventually(lambda: not left.pending)
        if not interrupted:
            break
    assert k > 10
    replies: list[object] = []
    asking = threading.Thread(target=lambda: replies.append(left.call(Echo("other"), timeout=20)))
    asking.start()
    asking.join(30)
    assert replies == ["other"]


class SoftTimeLimit(Exception):
    """As Celery's."""


class Interrupted(JsonMessageSerializer):
    """A signal comes in the midst of it, once."""

    at = ""
    wraps = False

    def encode(self, envelope: Any) -> Any:
        self._interrupt("encode")
        return super().encode(envelope)

    def decode(self, payload: memoryview) -> Any:
        self._interrupt("decode")
        return super().decode(payload)

    def _interrupt(self, where: str) -> None:
        if self.at == where:
            self.at = ""
            try:
                signal.raise_signal(signal.SIGALRM)
            except SoftTimeLimit as error:
                if self.wraps:
                    raise SerializationError("wrapped") from error
                raise


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no such signal")
@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("where", ["encode", "decode"])
def test_what_a_signals_handler_raises_in_a_serializer_comes_out_as_itself(
    where: str, wraps: bool
) -> None:
    def handler(number: int, frame: Any) -> None:
        raise SoftTimeLimit

    (a, b), (c, d) = os.pipe(), os.pipe()
    serializer = Interrupted()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with (
            IpcPeer(serializer, session_type=SyncIpcSession) as peer,
            IpcPeer(JsonMessageSerializer()) as other,
        ):
            right = other.create_stream_session(d, a)
            right.on_request(Echo)(lambda msg: msg.value)
            right.start()
            session = peer.create_stream_session(b, c)
            assert session.call(Echo("first")) == "first"
            serializer.at, serializer.wraps = where, wraps
            with pytest.raises(SoftTimeLimit):
                session.call(Echo("interrupted"), timeout=20)
            assert session.call(Echo("next"), timeout=20) == "next"
            assert session.stats.unreadable == 0
    finally:
        signal.signal(signal.SIGALRM, before)
