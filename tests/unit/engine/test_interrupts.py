"""An interrupt at each place of a call loses nothing of other requests, and the session goes on."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from calls import make_future
from interrupting import interrupted_at, signals_raise
from shared_messages import Add, Echo, Fail, Note

from streamipc import (
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    LogMessage,
    RemoteError,
    RequestTimeoutError,
    SerializationError,
    SessionClosedError,
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


HANDLING = tuple(
    f"streamipc/{name}.py"
    for name in (
        "futures",
        "engine/caller_runs",
        "engine/errors",
        "engine/flow",
        "engine/inbox",
        "engine/incoming",
        "engine/progress",
        "engine/responder",
        "engine/send_gate",
        "engine/tasks",
        "engine/writer",
    )
)

LARGE = "x" * 5_000
"""More than may be held without being charged."""


class Worked:
    """A session without threads, whose other side asks, notifies and answers."""

    def __init__(self, session: Any, other: Any) -> None:
        self.session, self.other = session, other
        self.seen: list[object] = []
        self.answered: list[Any] = []

        @session.on_request(Echo)
        def answer(msg: Echo) -> object:
            self.seen.append(msg.value)
            return msg.value

        @session.on_message(Note)
        def handle(msg: Note) -> None:
            self.seen.append(msg.number)

        @session.on_message(LogMessage)
        def pass_on(msg: LogMessage) -> object:
            self.seen.append(msg.message)
            return NotImplemented

        @other.on_request(Add)
        def generate(msg: Add) -> Iterator[object]:
            yield from range(msg.a)
            return msg.b

        other.start()

    def asked(self) -> list[object]:
        self.answered.append(self.other.request(Echo("asked"), timeout=20))
        return ["asked"]

    def notified(self) -> list[object]:
        for number in range(3):
            self.other.notify(Note(LARGE, number))
        return [0, 1, 2]

    def passed_on(self) -> list[object]:
        """The handler leaves it to receive()."""
        self.other.notify(LogMessage("passed on"))
        return ["passed on"]

    def streamed(self) -> list[object]:
        message = Add(5, 6)
        self.session.request(message, on_progress=self.seen.append, window=1, timeout=20)
        return [0, 1, 2, 3, 4]

    def called_back(self) -> list[object]:
        future = self.session.request(Add(0, 0), timeout=20)
        for number in range(3):
            future.add_done_callback(lambda future, number=number: self.seen.append(number))
        return [0, 1, 2]

    def work(self, expected: list[object]) -> None:
        """Until all has been seen, nobody waits any more, and nothing is held."""
        end = time.monotonic() + 10
        while not self.is_done(expected) and time.monotonic() < end:
            self.session.tick(0.05)

    def received(self) -> list[str]:
        taken: list[str] = []
        with suppress(RequestTimeoutError):
            while True:
                taken.append(self.session.receive(0).message)
        return taken

    def is_done(self, expected: list[object]) -> bool:
        waits = self.session.pending or not all(one.done() for one in self.answered)
        return len(self.seen) >= len(expected) and not (waits or self.session._engine.flow.total)


@pytest.fixture
def worked() -> Iterator[Worked]:
    (a, b), (c, d) = os.pipe(), os.pipe()
    with IpcPeer(session_type=SyncIpcSession) as peer, IpcPeer() as other:
        yield Worked(peer.create_stream_session(b, c), other.create_stream_session(d, a))


@pytest.mark.parametrize("what", ["asked", "notified", "passed_on", "streamed", "called_back"])
def test_an_interrupt_anywhere_around_a_handler_comes_out_and_loses_nothing(
    worked: Worked, what: str
) -> None:
    """A session without threads runs it on the thread that waits."""
    for k in range(1, 3000):
        expected = getattr(worked, what)()
        interrupted = interrupted_at(k, HANDLING, partial(worked.work, expected))
        worked.work(expected)

        assert worked.seen == expected, f"interrupted at {k}"
        if what == "passed_on":
            # Not if the interrupt came before the handler's answer was noted: it counts as taken.
            assert worked.received() in ([], ["passed on"])[not interrupted :]
        for future in worked.answered:
            error = future.exception(0)
            assert error is None or type(error) is RemoteError
        assert worked.is_done(expected)
        worked.seen.clear()
        worked.answered.clear()
        if not interrupted:
            break
    assert k > 30


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no such signal")
@pytest.mark.parametrize("what", ["asked", "notified", "streamed", "called_back"])
def test_what_a_signals_handler_raises_in_a_handler_comes_out_and_the_rest_goes_on(
    worked: Worked, what: str
) -> None:
    def handler(number: int, frame: Any) -> None:
        raise SoftTimeLimit

    class Seen(list[object]):
        def append(self, item: object) -> None:
            super().append(item)
            if len(self) == 1:
                signal.raise_signal(signal.SIGALRM)

    worked.seen = Seen()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        expected = getattr(worked, what)()
        with pytest.raises(SoftTimeLimit):
            worked.work(expected)
        worked.work(expected)
    finally:
        signal.signal(signal.SIGALRM, before)

    assert worked.seen == expected
    assert worked.is_done(expected)
    for future in worked.answered:  # its caller is told
        assert isinstance(future.exception(0), RemoteError)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no such signal")
def test_a_handler_that_makes_an_error_of_its_own_of_it_has_dealt_with_it(worked: Worked) -> None:
    def handler(number: int, frame: Any) -> None:
        raise SoftTimeLimit

    @worked.session.on_request(Fail)
    def fail(msg: Fail) -> None:
        try:
            signal.raise_signal(signal.SIGALRM)
        except SoftTimeLimit:
            raise ValueError("too slow") from None

    before = signal.signal(signal.SIGALRM, handler)
    try:
        worked.answered.append(worked.other.request(Fail(), timeout=20))
        worked.work([])
    finally:
        signal.signal(signal.SIGALRM, before)

    assert "too slow" in str(worked.answered[0].exception(0))


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no such signal")
@pytest.mark.parametrize("where", ["on_exception", "logging"])
def test_what_a_signals_handler_raises_while_an_error_is_reported_comes_out(
    worked: Worked, where: str
) -> None:
    with signals_raise(SoftTimeLimit) as interrupt:
        if where == "on_exception":
            worked.session.on_exception(lambda error: interrupt())
        else:
            handler = logging.Handler()
            handler.emit = lambda record: interrupt()  # type: ignore[method-assign]
            logging.getLogger("streamipc").addHandler(handler)
        worked.session.on_message(Note)(lambda msg: 1 / 0)
        worked.other.notify(Note())
        try:
            with pytest.raises(SoftTimeLimit):
                worked.session.serve_forever()
        finally:
            if where == "logging":
                logging.getLogger("streamipc").removeHandler(handler)

    worked.answered.append(worked.other.request(Echo(1), timeout=20))
    worked.work([1])


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no such signal")
def test_of_two_that_come_within_one_request_the_first_is_told_by_the_second(
    worked: Worked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ends the handler, the other the answer that says so."""
    responder = worked.session._engine.responder
    answer = responder.answer
    with signals_raise(SoftTimeLimit) as interrupt:

        def interrupted(*arguments: Any) -> None:
            monkeypatch.undo()
            interrupt()
            answer(*arguments)

        monkeypatch.setattr(responder, "answer", interrupted)
        worked.session.on_request(Fail)(lambda msg: interrupt())
        worked.answered.append(worked.other.request(Fail(), timeout=20))
        with pytest.raises(SoftTimeLimit) as caught:
            worked.work([])

    assert isinstance(caught.value.__context__, SoftTimeLimit)
    assert caught.value.__context__ is not caught.value
    worked.work([])
    failure = worked.answered[0].exception(0)
    assert isinstance(failure, RemoteError)
    assert not failure.remote_traceback


ENDING = tuple(
    f"streamipc/engine/{name}.py"
    for name in (
        "caller_runs",
        "engine",
        "inbox",
        "lifecycle",
        "outgoing",
        "reader",
        "responder",
        "shutdown",
        "tasks",
    )
)


def ask(session: Any) -> None:
    with suppress(SessionClosedError):
        session.call(Echo("unanswered"), timeout=20)


def close(session: Any) -> None:
    session.close(0)


@pytest.mark.parametrize("session_type", [IpcSession, SyncIpcSession])
@pytest.mark.parametrize(("act", "stream_ends"), [(ask, True), (close, True), (close, False)])
def test_an_interrupt_anywhere_in_the_end_leaves_nobody_waiting(
    act: Callable[[Any], None], stream_ends: bool, session_type: Any
) -> None:
    """And nothing behind: conftest looks for threads and descriptors."""
    k, interrupted = 0, True
    while interrupted:
        k += 1
        (a, b), (c, d) = os.pipe(), os.pipe()
        with IpcPeer(session_type=session_type) as peer:
            session = peer.create_stream_session(d, a)
            pending = session.request(Echo("pending"), timeout=20)
            if stream_ends:
                os.close(b)
            interrupted = interrupted_at(k, ENDING, partial(act, session))

            if not stream_ends:  # it may have been interrupted before it had any effect
                session.close(0)
            with pytest.raises(SessionClosedError):
                pending.result(20)
            session.close(1)
            assert session.closed, f"interrupted at {k}"
            assert not session.pending
        if not stream_ends:
            os.close(b)
        os.close(c)
    assert k > 5
