"""A peer that breaks the rules on purpose, and without end: the session goes on."""

from __future__ import annotations

import copyreg
import itertools
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamipc import (
    ErrorMessage,
    IpcPeer,
    JsonMessageSerializer,
    LogMessage,
    NativeMessageSerializer,
    ProtocolError,
    RequestContext,
    SerializationError,
)
from streamipc.protocol.connection import Connection
from streamipc.protocol.envelopes import (
    Cancel,
    Credit,
    ErrorResponse,
    Progress,
    Request,
    Response,
)

FUZZ = Path(__file__).parent / "fuzz.py"


class Foe:
    """The other side of ``session``: says what it likes, and hears frames."""

    def __init__(self, peer: IpcPeer) -> None:
        self.serializer = peer.options.serializer
        self._incoming, theirs_out = os.pipe()
        theirs_in, self._outgoing = os.pipe()
        self.session = peer.create_stream_session(theirs_out, theirs_in)
        self._connection = Connection(self.serializer, 1 << 28)
        self._heard: list[Any] = []
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.on_cancel: Callable[[], object] = int
        self.session.on_request(self._answer)

    def _answer(self, msg: LogMessage, context: RequestContext) -> LogMessage:
        if msg.message == "hold":
            context.on_cancel(self.on_cancel)
            self.entered.set()
            assert self.leave.wait(20)
        return msg

    def frame(self, *envelopes: Any) -> bytes:
        """Return the bytes of envelopes."""
        frames: list[Any] = []
        for envelope in envelopes:
            frames += self._connection.encode(envelope)
        return b"".join(frames)

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._outgoing, data) :]

    def say(self, *envelopes: Any) -> None:
        self.write(self.frame(*envelopes))

    def hear(self) -> Any:
        """Return the next envelope."""
        while not self._heard:
            data = os.read(self._incoming, 1 << 16)
            assert data, "the stream ended"
            self._heard += self._connection.feed(data)
        return self._heard.pop(0)

    def answers(self, text: str) -> bool:
        """Send a request; tell whether its reply comes, passing by everything else."""
        self.say(Request(text, LogMessage(text)))
        while True:
            heard = self.hear()
            if getattr(heard, "id", None) == text:
                return bool(heard == Response(text, LogMessage(text)))

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for what can't be waited for."""
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.002)

    def wait_until_idle(self) -> None:
        """Wait until no thread of the session's runs anything, background tasks included."""
        assert self.session._engine.pool.wait_until_quiet(time.monotonic() + 20)

    def close(self) -> None:
        if self._outgoing >= 0:
            os.close(self._outgoing)
            self.session.close(timeout=5)
            os.close(self._incoming)
            self._outgoing = -1


@pytest.fixture(params=["native", "json"])
def foe(request: Any) -> Iterator[Foe]:
    serializer = NativeMessageSerializer() if request.param == "native" else JsonMessageSerializer()
    foe = Foe(IpcPeer(serializer, handler_threads=2))
    yield foe
    foe.close()


@pytest.fixture
def errors(foe: Foe) -> list[BaseException]:
    errors: list[BaseException] = []
    foe.session.on_exception(errors.append)
    return errors


def test_random_bytes_through_the_protocol_and_a_session() -> None:
    # The whole is: python -m tests.faults.fuzz --cases 1000000 --live 10000
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--cases", "1000", "--live", "100"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1,000 cases, 100 live")


def test_replies_that_nobody_asked_for_are_counted(foe: Foe, errors: list[Any]) -> None:
    foe.session.start()
    foe.say(*(Response(number, "take this") for number in range(1000)))
    foe.say(ErrorResponse("x", ErrorMessage("no")), Progress(5, "this"), Progress("y", None))
    assert foe.answers("still there")
    assert foe.session.stats.late == 1003
    assert not errors


def test_a_reply_that_comes_again_is_late(foe: Foe) -> None:
    future = foe.session.request(LogMessage("once"))
    asked = foe.hear()
    foe.say(Response(asked.id, 1), Response(asked.id, 2), Response(asked.id, 3))
    assert future.result(timeout=10) == 1
    assert foe.answers("after them")
    assert foe.session.stats.late == 2


def test_an_id_that_is_used_a_thousand_times_is_answered_once(foe: Foe, errors: list[Any]) -> None:
    foe.session.start()
    foe.say(Request(7, LogMessage("hold")))
    assert foe.entered.wait(10)
    foe.say(*(Request(7, LogMessage(f"again {number}")) for number in range(1000)))
    assert foe.answers("in between")
    foe.leave.set()
    assert foe.hear() == Response(7, LogMessage("hold"))
    assert foe.session.stats.unreadable == 1000
    assert all(isinstance(error, ProtocolError) for error in errors)


def test_thousands_of_cancels_cancel_once(foe: Foe, errors: list[Any]) -> None:
    cancelled: list[str] = []

    foe.on_cancel = lambda: cancelled.append("once")
    foe.session.start()
    foe.say(Request(7, LogMessage("hold")))
    assert foe.entered.wait(10)
    # Thirty thousand here: more of them are the same again.
    cancels = foe.frame(Cancel(7), *(Cancel(number) for number in range(100, 199))) * 300
    foe.write(cancels)
    assert foe.answers("still there")
    foe.leave.set()
    assert foe.answers("and now")
    foe.wait_until_idle()
    assert cancelled == ["once"]
    assert not errors


@pytest.mark.parametrize("count", [0, 2**31, 2**32 - 1])
def test_credit_out_of_range_is_reported(foe: Foe, errors: list[Any], count: int) -> None:
    foe.session.start()
    foe.say(Credit(1, count), Credit("x", count))
    assert foe.answers("still there")
    foe.until(lambda: len(errors) == 2)
    assert all("granted" in str(error) for error in errors)


def test_errors_that_come_faster_than_they_are_handled_take_no_thread_each(foe: Foe) -> None:
    before = threading.active_count()
    entered = threading.Semaphore(0)

    def stuck(error: BaseException) -> None:
        entered.release()
        assert foe.leave.wait(20)

    foe.session.on_exception(stuck)
    foe.session.start()
    bad = foe.frame(Credit(1, 0))
    for number in range(40):
        foe.write(bad)
        assert foe.answers(f"request {number}")  # so that each is seen by itself
    assert entered.acquire(timeout=10)
    assert threading.active_count() - before <= 2 * 2 + 4  # handler_threads is 2
    foe.leave.set()
    foe.wait_until_idle()


def test_errors_beyond_those_that_may_wait_are_counted_and_said_once(
    foe: Foe, caplog: pytest.LogCaptureFixture
) -> None:
    handled = itertools.count()

    def stuck(error: BaseException) -> None:
        assert foe.leave.wait(20)
        next(handled)

    foe.session.on_exception(stuck)
    foe.session.start()
    foe.write(foe.frame(Credit(1, 0)) * 3000)
    assert foe.answers("still there")
    assert foe.session.stats.unreadable == 3000
    foe.leave.set()
    foe.wait_until_idle()
    assert next(handled) <= 1024 + 1
    said = [record for record in caplog.records if "only counted" in record.getMessage()]
    assert len(said) == 1


def test_refusals_that_nobody_reads_bound_what_is_read(foe: Foe) -> None:
    foe.session.start()
    # Each is refused with an answer that is larger than the question.
    bad = foe.frame(Request(1, LogMessage("x"), None, None, 2**31)) * 1000
    written = threading.Event()
    sent = [0]

    def flood() -> None:
        try:
            for _ in range(15):
                foe.write(bad)
                sent[0] += len(bad)
        finally:
            written.set()

    flooder = threading.Thread(target=flood)
    flooder.start()
    foe.until(lambda: written.is_set() or foe.session._engine.flow.paused)
    assert foe.session._engine.writer.backlog < 2 << 20
    # It goes on where it stopped, once its answers are read.
    heard = 0
    while heard < 15_000:
        heard += isinstance(foe.hear(), ErrorResponse)
    flooder.join()
    assert foe.answers("still there")


def test_deep_and_huge_json_is_refused() -> None:
    serializer = JsonMessageSerializer()
    deep = {
        "lists": b"[" * 1_000_000,
        "objects": b'{"a":' * 1_000_000,
        "closed": b"[" * 500_000 + b"]" * 500_000,
        "mixed": b'[{"a":' * 500_000,
    }
    for name, body in deep.items():
        payload = b'{"kind":"response","id":1,"body":' + body + b"}"
        with pytest.raises(SerializationError) as caught:
            serializer.decode(memoryview(payload))
        assert caught.value.envelope == Response(1, None), name
    for body in (b"9" * 5000, b"-" + b"9" * 1_000_000):
        payload = b'{"kind":"response","id":1,"body":' + body + b"}"
        with pytest.raises(SerializationError) as caught:
            serializer.decode(memoryview(payload))
        assert caught.value.envelope == Response(1, None)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["body", "metadata"])
def test_a_pickle_that_calls_is_refused_whatever_its_protocol(protocol: int, place: str) -> None:
    serializer = NativeMessageSerializer()
    called.clear()
    for value in (
        Calls(),
        [Calls()],
        {"k": (Calls(),)},
        {Calls()},
        NestedCall(),
        WithState(),
        Slots(),
    ):
        data = pickle.dumps(value, protocol)
        called.clear()
        if place == "body":
            payload = struct.pack(">BBHHHIQd", 2, 0, 0, 0, 0, 0, 1, 0.0) + data
        else:
            name = LogMessage.__wire_name__.encode()
            head = struct.pack(">BBHHHIQd", 4, 2, 0, len(name), 0, 0, 0, 0.0)
            fields = pickle.dumps({"message": "x", "level": "info"}, 5)
            payload = head + name + struct.pack(">I", len(data)) + data + fields
        with pytest.raises(SerializationError):
            serializer.decode(memoryview(payload))
        assert not called


called: list[Any] = []


def call(*args: Any) -> int:
    called.append(args)
    return 1


class Calls:
    def __reduce__(self) -> Any:
        return call, (1,)


class NestedCall:
    def __reduce__(self) -> Any:
        return getattr, (Calls(), "__class__"), {"state": Calls()}, iter([Calls()])


class WithState:
    def __getstate__(self) -> Any:
        return {"x": 1}

    def __setstate__(self, state: Any) -> None:
        call(state)


class Slots:
    __slots__ = ("x",)

    def __init__(self) -> None:
        self.x = 1

    def __reduce_ex__(self, protocol: Any) -> Any:
        return copyreg.__newobj__, (Slots,), (None, {"x": Calls()})  # type: ignore[attr-defined]
