"""Envelopes that break the rules, written by hand: the session says so and goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from long_messages import PATIENCE, Blob, Count, Step

from streamipc import (
    IpcPeer,
    JsonMessageSerializer,
    NativeMessageSerializer,
    ProtocolError,
    RequestContext,
    SerializationError,
)
from streamipc.protocol.connection import Connection
from streamipc.protocol.envelopes import (
    MAX_METADATA,
    MAX_WINDOW,
    Cancel,
    Credit,
    Envelope,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)

SERIALIZERS = [NativeMessageSerializer, JsonMessageSerializer]


class ByHand:
    """The other side of a session: sends and receives single envelopes."""

    def __init__(self, serializer: Any) -> None:
        self.connection = Connection(serializer, 1 << 24)
        self.serializer = serializer
        self.read_fd, theirs_out = os.pipe()
        theirs_in, self.write_fd = os.pipe()
        self.peer = IpcPeer(serializer)
        self.session = self.peer.create_stream_session(theirs_out, theirs_in)
        self.reported: list[BaseException] = []
        self._report = threading.Condition()
        self.session.on_exception(self._take_report)
        self._decoded: list[Any] = []

    def _take_report(self, error: BaseException) -> None:
        with self._report:
            self.reported.append(error)
            self._report.notify_all()

    def reports(self, count: int) -> list[str]:
        with self._report:
            assert self._report.wait_for(lambda: len(self.reported) >= count, timeout=10)
            return [str(error) for error in self.reported]

    def send(self, envelope: Envelope) -> None:
        data = b"".join(bytes(part) for part in self.connection.encode(envelope))
        while data:
            data = data[os.write(self.write_fd, data) :]

    def send_payload(self, payload: bytes) -> None:
        os.write(self.write_fd, b"\xf3\x4a\x9d\xe2" + len(payload).to_bytes(4, "big") + payload)

    def next(self) -> Any:
        while not self._decoded:
            data = os.read(self.read_fd, 1 << 16)
            assert data, "the session has ended"
            self._decoded += self.connection.feed(data)
        return self._decoded.pop(0)

    def is_alive(self) -> bool:
        """Ask, and be answered: the session goes on behind what was sent."""
        self.send(Request(987_654, Blob(b"abc")))
        while True:
            envelope = self.next()
            if type(envelope) is Response and envelope.id == 987_654:
                return envelope.value == 3  # type: ignore[no-any-return]


@contextmanager
def by_hand(serializer: Any) -> Iterator[ByHand]:
    other = ByHand(serializer)
    other.session.on_request(Blob)(lambda msg: len(msg.data))
    other.session.start()
    try:
        yield other
    finally:
        os.close(other.write_fd)
        other.session.close()
        os.close(other.read_fd)


@pytest.fixture(params=SERIALIZERS, ids=["native", "json"])
def other(request: pytest.FixtureRequest) -> Iterator[ByHand]:
    with by_hand(request.param()) as other:
        yield other


@pytest.fixture
def json() -> Iterator[ByHand]:
    """For what can be written as text more easily."""
    with by_hand(JsonMessageSerializer()) as other:
        yield other


def test_progress_after_the_reply_is_late(other: ByHand) -> None:
    items: list[Any] = []
    future = other.session.request(Count(1), on_progress=items.append)
    asked = other.next()
    other.send(Progress(asked.id, 1))
    other.send(Response(asked.id, "done"))
    other.send(Progress(asked.id, 2))
    other.send(Response(asked.id, "again"))
    other.send(ErrorResponse(asked.id, _error(), "handler"))

    assert other.is_alive()
    assert future.result(timeout=10) == "done"
    assert items == [1]
    assert other.session.stats.late == 3
    assert other.reported == []


def _error() -> Any:
    from streamipc import ErrorMessage

    return ErrorMessage("late", "ValueError")


@pytest.mark.parametrize("envelope", [Credit(99, 5), Cancel(99), Cancel("unknown"), Credit("x", 1)])
def test_credit_and_cancel_for_an_unknown_request_are_ignored(
    other: ByHand, envelope: Envelope
) -> None:
    other.send(envelope)

    assert other.is_alive()
    assert other.reported == []


@pytest.mark.parametrize("envelope", [Credit(1, 5), Cancel(1)])
def test_credit_and_cancel_for_a_finished_request_are_ignored(
    other: ByHand, envelope: Envelope
) -> None:
    other.send(Request(1, Blob(b"ab")))
    assert other.next() == Response(1, 2)
    other.send(envelope)

    assert other.is_alive()
    assert other.reported == []


def test_a_request_that_is_cancelled_twice_is_cancelled(other: ByHand) -> None:
    started, ended = threading.Event(), threading.Event()
    called: list[int] = []

    @other.session.on_request
    def count(msg: Count, context: RequestContext) -> None:
        cancelled = threading.Event()
        context.on_cancel(lambda: called.append(1))
        context.on_cancel(cancelled.set)
        started.set()
        assert cancelled.wait(10)
        ended.set()

    other.send(Request(1, Count(1)))
    assert started.wait(10)
    other.send(Cancel(1))
    other.send(Cancel(1))

    assert other.is_alive()
    assert ended.wait(10)
    assert called == [1]


@pytest.mark.parametrize("count", [0, -1, -(2**31), MAX_WINDOW + 1, 2**32 - 1])
@pytest.mark.parametrize("known", [True, False])
def test_credit_of_a_wrong_amount_is_reported(json: ByHand, count: int, known: bool) -> None:
    @json.session.on_request
    def handler(msg: Count) -> Iterator[int]:
        yield from range(10)

    if known:
        json.send(Request(5, Count(1), window=1))
        assert json.next() == Progress(5, 0)
    json.send_payload(b'{"kind":"credit","id":5,"count":%d}' % count)

    assert str(count) in json.reports(1)[0].replace(",", "")
    assert json.is_alive()
    if known:
        json.send(Credit(5, 1))
        assert json.next() == Progress(5, 1)
        json.send(Cancel(5))


def test_huge_credit_lets_nobody_send_more_than_the_window(other: ByHand) -> None:
    yielded: list[int] = []

    @other.session.on_request
    def count(msg: Count) -> Iterator[int]:
        for number in range(msg.n):
            yielded.append(number)
            yield number

    other.send(Request(5, Count(1000), window=4))
    for _ in range(50):
        other.send(Credit(5, MAX_WINDOW))
    assert [other.next().item for _ in range(4)] == [0, 1, 2, 3]
    # Each credit fills the window at the most; none is saved up.
    assert len(yielded) <= 4 + 50 * 4 + 1
    other.send(Cancel(5))
    assert other.is_alive()


@pytest.mark.parametrize("window", [-1, MAX_WINDOW + 1, 2**40])
def test_a_window_of_a_wrong_size_is_refused(json: ByHand, window: int) -> None:
    json.send_payload(
        b'{"kind":"request","id":5,"type":"long_messages.Count","window":%d,"body":{"n":1}}'
        % window
    )
    answer = json.next()

    assert type(answer) is ErrorResponse
    assert answer.id == 5
    assert answer.code in ("protocol", "serialization")
    assert json.is_alive()


def test_a_duplicate_request_id_is_reported_and_the_first_is_answered(other: ByHand) -> None:
    started, release = threading.Event(), threading.Event()
    runs: list[int] = []

    @other.session.on_request
    def count(msg: Count) -> int:
        runs.append(msg.n)
        started.set()
        assert release.wait(10)
        return msg.n

    other.send(Request(1, Count(10)))
    assert started.wait(10)
    other.send(Request(1, Count(20)))
    assert "request id 1 twice" in other.reports(1)[0]
    assert other.is_alive()
    release.set()

    assert other.next() == Response(1, 10)
    other.send(Request(1, Blob(b"the id is free again")))
    assert other.next() == Response(1, 20)
    assert runs == [10]


def test_a_duplicate_id_of_a_request_that_cant_be_read_is_reported_too(json: ByHand) -> None:
    """An answer to it would look like the answer to the first."""
    go = threading.Event()

    @json.session.on_request
    def count(msg: Count) -> int:
        assert go.wait(10)
        return msg.n

    json.send(Request(5, Count(1)))
    json.send_payload(b'{"kind":"request","id":5,"type":"no.Such","body":{}}')
    assert "5 twice" in json.reports(1)[0]
    go.set()

    assert json.next() == Response(5, 1)
    assert json.is_alive()


def test_an_item_for_a_plain_request_is_reported_and_the_reply_arrives(other: ByHand) -> None:
    future = other.session.request(Count(1))
    asked = other.next()
    assert asked.window == 0
    other.send(Progress(asked.id, "unwanted"))
    assert "takes none" in other.reports(1)[0]
    other.send(Response(asked.id, "reply"))

    assert future.result(timeout=10) == "reply"


def test_a_plain_reply_to_a_stream_is_its_end(other: ByHand) -> None:
    with other.session.stream(Count(1)) as stream:
        other.send(Response(other.next().id, "reply"))
        assert list(stream) == []
        assert stream.result(timeout=10) == "reply"


@pytest.mark.parametrize("how", ["stream", "on_progress"])
def test_more_items_than_were_granted_fail_the_request(other: ByHand, how: str) -> None:
    """They would fill our memory."""
    hold, items = threading.Event(), []
    if how == "stream":
        stream = other.session.stream(Count(1), window=3)
        future = stream.future
    else:

        def callback(item: Any) -> None:
            assert hold.wait(10)
            items.append(item)

        future = other.session.request(Count(1), on_progress=callback, window=3)
    asked = other.next()
    for number in range(10):
        other.send(Progress(asked.id, number))

    with pytest.raises(ProtocolError, match="more items"):
        future.result(timeout=10)
    assert other.next() == Cancel(asked.id)
    if how == "stream":
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ProtocolError, match="more items"):
            next(stream)
    hold.set()
    assert other.is_alive()


@pytest.mark.parametrize("how", ["stream", "on_progress"])
def test_an_item_that_cant_be_read_ends_the_request_on_both_sides(json: ByHand, how: str) -> None:
    """The handler would wait for credit without end: nobody takes the items that follow."""
    items: list[Any] = []
    if how == "stream":
        stream = json.session.stream(Count(1))
        future = stream.future
    else:
        future = json.session.request(Count(1), on_progress=items.append)
    asked = json.next()
    json.send(Progress(asked.id, 1))
    json.send_payload(b'{"kind":"progress","id":%d,"type":"no.Such","body":{}}' % asked.id)

    with pytest.raises(SerializationError, match=r"no\.Such"):
        future.result(timeout=10)
    assert json.next() == Cancel(asked.id)
    assert (items or [next(stream)]) == [1]
    json.send(Progress(asked.id, 2))
    assert json.is_alive()


def test_an_item_that_cant_be_read_for_a_plain_request_is_reported(json: ByHand) -> None:
    future = json.session.request(Count(1))
    asked = json.next()
    json.send_payload(b'{"kind":"progress","id":%d,"type":"no.Such","body":{}}' % asked.id)
    assert "no.Such" in json.reports(1)[0]
    json.send(Response(asked.id, "reply"))

    assert future.result(timeout=10) == "reply"


def test_metadata_that_is_too_big_is_refused(other: ByHand) -> None:
    metadata = {"key": "v" * MAX_METADATA}
    other.send(Request(1, Blob(b"abc"), metadata=metadata))
    answer = other.next()

    assert (answer.id, answer.code) == (1, "protocol")
    assert "metadata" in answer.error.message
    other.send(Notification(Step(1), metadata))
    assert "metadata" in other.reports(1)[0]
    other.send(Notification(Step(2)))
    assert other.session.receive(timeout=10) == Step(2)
    assert other.is_alive()


@pytest.mark.parametrize("metadata", ["5", '"text"', "[1]", '{"a":1}', '{"a":null}', '{"a":["b"]}'])
def test_metadata_of_the_wrong_type_is_refused(json: ByHand, metadata: str) -> None:
    text = '{"kind":"request","id":1,"type":"long_messages.Count","metadata":%s,"body":{"n":1}}'
    json.send_payload((text % metadata).encode())
    answer = json.next()

    assert (answer.id, answer.code) == (1, "serialization")
    assert "metadata" in answer.error.message
    assert json.is_alive()


def test_a_request_with_no_time_left_is_not_started(other: ByHand) -> None:
    started: list[int] = []
    other.session.on_request(Count)(lambda msg: started.append(msg.n))
    other.send(Request(1, Count(1), timeout=0.0))
    answer = other.next()

    assert (answer.id, answer.code) == (1, "timeout")
    assert started == []
    assert other.is_alive()


def test_a_deadline_reaches_the_handler_of_a_caller_that_never_cancels(other: ByHand) -> None:
    """Callers say so at their deadline, but one may be stopped, or be in no hurry."""
    called: list[str] = []

    @other.session.on_request
    def count(msg: Count, context: RequestContext) -> str:
        over = threading.Event()
        context.on_cancel(lambda: called.append("first"))
        context.on_cancel(over.set)
        assert over.wait(10)
        assert context.cancelled
        return "too late"

    for id_, timeout in enumerate(PATIENCE):
        other.send(Request(id_, Count(1), timeout))
        answer = other.next()
        assert (answer.id, answer.code) == (id_, "timeout")
        if called:
            break

    assert called == ["first"]
    other.send(Cancel(id_))
    assert other.is_alive()
    assert called == ["first"]


@pytest.mark.parametrize("timeout", [1e12, 1e300])
def test_a_timeout_longer_than_any_lock_can_wait_is_for_ever(other: ByHand, timeout: float) -> None:
    @other.session.on_request
    def count(msg: Count, context: RequestContext) -> Iterator[bool]:
        yield context.time_remaining() > 1e6
        yield True

    other.send(Request(1, Count(1), timeout, window=1))
    assert other.next() == Progress(1, True)
    assert other.is_alive()
    other.send(Credit(1, 1))

    assert other.next() == Progress(1, True)
    assert other.next() == Response(1, None)


def test_a_reply_to_what_was_cancelled_is_late(other: ByHand) -> None:
    future = other.session.request(Count(1))
    asked = other.next()
    future.cancel()
    assert other.next() == Cancel(asked.id)
    other.send(Response(asked.id, "too late"))

    assert other.is_alive()
    assert other.session.stats.late == 1
