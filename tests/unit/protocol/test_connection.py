"""The rules of the connection, row by row: bytes in, events out."""

from __future__ import annotations

from typing import Any

import pytest

from streamipc import (
    ErrorMessage,
    JsonMessageSerializer,
    LogMessage,
    Message,
    NativeMessageSerializer,
    OverloadedError,
    ProtocolError,
    RemoteError,
    RequestCancelledError,
    RequestTimeoutError,
    SerializationError,
    SessionClosedError,
    UnhandledRequestError,
)
from streamipc.protocol.connection import Connection, error_from, refusal_of
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
from streamipc.protocol.events import Late, Rejected, ReplyFailed, Skipped, Violation
from streamipc.protocol.framing import MAGIC, Junk

MESSAGE = LogMessage("hello")


class Call:
    """Stands for a future."""

    def __init__(self, wants_items: bool = False) -> None:
        self.items = [] if wants_items else None


def frame(text: bytes | str) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return MAGIC + len(data).to_bytes(4, "big") + data


@pytest.fixture
def connection() -> Connection:
    return Connection(JsonMessageSerializer(), 4096)


def events_of(connection: Connection, data: bytes) -> list[Any]:
    events = [connection.receive(item) for item in connection.feed(data)]
    return [event for event in events if event is not None]


def only(connection: Connection, envelope: Envelope | bytes) -> Any:
    """Return the one event that an envelope, or a frame, becomes."""
    data = (
        envelope
        if isinstance(envelope, bytes)
        else b"".join(bytes(part) for part in connection.encode(envelope))
    )
    (event,) = events_of(connection, data)
    return event


REQUEST = frame(
    '{"kind":"request","id":7,"type":"streamipc.LogMessage","body":{"message":"hello"}}'
)


# Request


def test_a_request_enters_the_table(connection: Connection) -> None:
    event = only(connection, REQUEST)

    assert type(event) is Request
    assert event == Request(7, MESSAGE)
    assert connection.served == {7: event}


def test_a_request_whose_id_is_there_is_a_violation_and_the_first_stays(
    connection: Connection,
) -> None:
    first = only(connection, REQUEST)
    event = only(connection, REQUEST)

    assert type(event) is Violation
    assert "request id 7 twice" in str(event.error)
    assert connection.served[7] is first


def test_an_id_may_be_used_again_once_it_is_answered(connection: Connection) -> None:
    only(connection, REQUEST)
    del connection.served[7]

    assert type(only(connection, REQUEST)) is Request


def test_both_sides_may_use_the_same_id(connection: Connection) -> None:
    call = connection.calls[7] = Call()

    assert type(only(connection, REQUEST)) is Request
    assert only(connection, Response(7, "x")).call is call


@pytest.mark.parametrize("window", [-1, MAX_WINDOW + 1])
def test_a_request_with_an_impossible_window_is_answered_with_an_error(window: int) -> None:
    class Serializer:
        def encode(self, envelope: Any) -> list[bytes]:
            return [b""]

        def decode(self, payload: memoryview) -> Any:
            return Request(7, MESSAGE, window=window)

    event = only(Connection(Serializer(), 4096), frame("x"))

    assert type(event) is Rejected
    assert event.answer.id == 7
    assert event.answer.code == "protocol"
    text = f"window of request 7 is {window}, not from 0 to 2**31-1"
    assert str(event.error) == text
    assert event.answer.error == ErrorMessage(text, "ProtocolError")


# Response, Error


def test_a_response_ends_the_call_it_belongs_to(connection: Connection) -> None:
    call = connection.calls[1] = Call()
    other = connection.calls[2] = Call()
    event = only(connection, Response(1, "value"))

    assert type(event) is Response
    assert (event.call, event.value) == (call, "value")
    assert connection.calls == {2: other}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("handler", RemoteError),
        ("unhandled", UnhandledRequestError),
        ("serialization", SerializationError),
        ("overloaded", OverloadedError),
        ("cancelled", RequestCancelledError),
        ("timeout", RequestTimeoutError),
        ("protocol", ProtocolError),
        ("closed", SessionClosedError),
    ],
)
def test_an_error_ends_the_call_with_the_exception_of_its_code(
    connection: Connection, code: str, expected: type
) -> None:
    call = connection.calls[1] = Call()
    error = ErrorResponse(1, ErrorMessage("why", "ValueError", "Traceback …"), code)
    event = only(connection, error)

    assert type(event) is ErrorResponse
    assert event.call is call
    assert type(error_from(event)) is expected
    assert "why" in str(error_from(event))
    assert connection.calls == {}


def test_a_remote_error_carries_type_and_traceback(connection: Connection) -> None:
    connection.calls[1] = Call()
    error = ErrorResponse(1, ErrorMessage("why", "app.Oops", "Traceback of the peer"))
    remote: Any = error_from(only(connection, error))

    assert remote.remote_type == "app.Oops"
    assert remote.remote_message == "why"
    assert remote.remote_traceback == "Traceback of the peer"
    assert "Traceback of the peer" in str(remote.__cause__)


@pytest.mark.parametrize(
    "late", [Response(1, "x"), ErrorResponse(1, ErrorMessage("x")), Progress(1, "x")]
)
def test_a_reply_to_no_request_is_late(connection: Connection, late: Envelope) -> None:
    event = only(connection, late)

    assert type(event) is Late
    assert event.id == 1


def test_a_second_reply_is_late(connection: Connection) -> None:
    connection.calls[1] = Call()
    only(connection, Response(1, "x"))

    assert type(only(connection, Response(1, "y"))) is Late


# Progress


def test_progress_reaches_a_call_that_wants_it(connection: Connection) -> None:
    call = connection.calls[1] = Call(wants_items=True)
    event = only(connection, Progress(1, "item"))

    assert type(event) is Progress
    assert (event.call, event.item) == (call, "item")
    assert connection.calls == {1: call}


def test_progress_that_nobody_asked_for_is_a_violation(connection: Connection) -> None:
    call = connection.calls[1] = Call()
    event = only(connection, Progress(1, "item"))

    assert type(event) is Violation
    assert connection.calls == {1: call}


# Credit, Cancel


def test_credit_and_cancel_reach_a_request_that_is_served(connection: Connection) -> None:
    only(connection, REQUEST)
    credit = only(connection, Credit(7, 3))
    cancel = only(connection, Cancel(7))

    assert type(credit) is Credit
    assert (credit.id, credit.count) == (7, 3)
    assert type(cancel) is Cancel
    assert cancel.id == 7
    assert 7 in connection.served


@pytest.mark.parametrize("envelope", [Credit(9, 1), Cancel(9)])
def test_credit_and_cancel_that_crossed_the_reply_are_ignored(
    connection: Connection, envelope: Envelope
) -> None:
    data = b"".join(bytes(part) for part in connection.encode(envelope))

    assert events_of(connection, data) == []


@pytest.mark.parametrize("count", [0, -1, MAX_WINDOW + 1])
@pytest.mark.parametrize("served", [True, False])
def test_credit_that_is_not_positive_is_a_violation(count: int, served: bool) -> None:
    class Serializer:
        def encode(self, envelope: Any) -> list[bytes]:
            return [b""]

        def decode(self, payload: memoryview) -> Any:
            return Credit(7, count)

    connection = Connection(Serializer(), 4096)
    if served:
        connection.served[7] = object()

    assert type(only(connection, frame("x"))) is Violation


# Notification


def test_a_notification_is_one(connection: Connection) -> None:
    event = only(connection, Notification(MESSAGE, {"a": "b"}))

    assert type(event) is Notification
    assert event == Notification(MESSAGE, {"a": "b"})


# What can't be read


def test_bytes_between_frames_are_junk(connection: Connection) -> None:
    junk, request = events_of(connection, b"printed\n" + REQUEST)

    assert type(junk) is Junk
    assert junk.data == b"printed\n"
    assert type(request) is Request


@pytest.mark.parametrize("payload", [b"", b"garbage", b"\xff" * 100, b"[]", b'{"kind":"dance"}'])
@pytest.mark.parametrize("serializer", [JsonMessageSerializer, NativeMessageSerializer])
def test_a_payload_that_means_nothing_is_a_violation(serializer: type, payload: bytes) -> None:
    connection = Connection(serializer(), 4096)
    good = b"".join(map(bytes, serializer().encode(Cancel(1))))
    assert events_of(connection, frame(good)) == []
    event = only(connection, frame(payload))

    assert type(event) is Violation
    assert isinstance(event.error, SerializationError)


@pytest.mark.parametrize("body", ['"type":"no.such","body":{}', '"type":"streamipc.LogMessage"'])
def test_a_request_that_cant_be_read_is_answered(connection: Connection, body: str) -> None:
    event = only(connection, frame(f'{{"kind":"request","id":7,{body}}}'))

    assert type(event) is Rejected
    assert event.answer.id == 7
    assert event.answer.code == "serialization"
    assert connection.served == {}


def test_a_notification_that_cant_be_read_is_a_violation(connection: Connection) -> None:
    event = only(connection, frame('{"kind":"notification","type":"no.such","body":{}}'))

    assert type(event) is Violation
    assert "no.such" in str(event.error)


def test_a_reply_that_cant_be_read_fails_its_call(connection: Connection) -> None:
    call = connection.calls[1] = Call()
    event = only(connection, frame('{"kind":"response","id":1,"type":"no.such","body":{}}'))

    assert type(event) is ReplyFailed
    assert event.call is call
    assert isinstance(event.error, SerializationError)
    assert connection.calls == {}


@pytest.mark.parametrize("kind", ["response", "progress"])
def test_a_late_reply_that_cant_be_read_is_late(connection: Connection, kind: str) -> None:
    event = only(connection, frame(f'{{"kind":"{kind}","id":1,"type":"no.such","body":{{}}}}'))

    assert type(event) is Late


@pytest.mark.parametrize("serializer", [JsonMessageSerializer, NativeMessageSerializer])
def test_an_oversized_request_is_answered(serializer: type) -> None:
    large = Connection(serializer(), 1 << 20)
    small = Connection(serializer(), 4096)
    data = b"".join(bytes(p) for p in large.encode(Request(7, LogMessage("x" * 10_000))))
    event, following = events_of(small, data + frame("?"))

    assert type(event) is Rejected
    assert event.answer.id == 7
    assert event.answer.code == "protocol"
    assert "max_frame_size is 4,096" in str(event.error)
    assert type(following) is Violation


@pytest.mark.parametrize("serializer", [JsonMessageSerializer, NativeMessageSerializer])
def test_an_oversized_reply_fails_its_call(serializer: type) -> None:
    large = Connection(serializer(), 1 << 20)
    small = Connection(serializer(), 4096)
    call = small.calls[7] = Call()
    event = only(small, b"".join(bytes(p) for p in large.encode(Response(7, "x" * 10_000))))

    assert type(event) is ReplyFailed
    assert event.call is call
    assert isinstance(event.error, ProtocolError)


def test_what_the_end_leaves_behind_is_junk(connection: Connection) -> None:
    assert connection.feed(REQUEST[:20]) == []
    (event,) = [connection.receive(item) for item in connection.finish()]

    assert type(event) is Junk
    assert event.data == REQUEST[:20]


def test_each_source_is_decoded_by_itself() -> None:
    connection = Connection(JsonMessageSerializer(), 4096, sources=2)
    assert connection.feed(REQUEST[:10], 0) == []
    assert [type(item) for item in connection.feed(REQUEST, 1)] == [Request]
    assert [type(item) for item in connection.feed(REQUEST[10:], 0)] == [Request]


# A serializer of the user's own


class Broken:
    """A user's serializer with a mistake in it."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def encode(self, envelope: Any) -> Any:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    decode = encode


def test_an_exception_of_a_users_decode_is_a_violation_that_names_it() -> None:
    event = only(Connection(Broken(ZeroDivisionError("oops")), 4096), frame("x"))

    assert type(event) is Violation
    assert "ZeroDivisionError" in str(event.error)
    assert isinstance(event.error.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("result", [None, "text", MESSAGE, [], object()])
def test_a_users_decode_that_returns_no_envelope_is_a_violation(result: Any) -> None:
    event = only(Connection(Broken(result), 4096), frame("x"))

    assert type(event) is Violation
    assert type(result).__name__ in str(event.error)


def test_an_exception_of_a_users_encode_is_a_serialization_error() -> None:
    connection = Connection(Broken(ZeroDivisionError("oops")), 4096)

    with pytest.raises(SerializationError, match=r"ZeroDivisionError while encoding .*LogMessage"):
        connection.encode(Notification(MESSAGE))


def test_a_message_larger_than_allowed_is_refused_by_encode(connection: Connection) -> None:
    with pytest.raises(ProtocolError, match="max_frame_size"):
        connection.encode(Notification(LogMessage("x" * 5000)))


def test_the_same_bytes_in_every_cut_are_the_same_events() -> None:
    stream = b"noise" + REQUEST + frame("garbage") + REQUEST.replace(b"7", b"8")
    expected = ["Junk", "Request", "Violation", "Request"]
    for cut in range(len(stream)):
        connection = Connection(JsonMessageSerializer(), 4096)
        events = events_of(connection, stream[:cut]) + events_of(connection, stream[cut:])
        names = [type(event).__name__ for event in events]
        if names[:2] == ["Junk", "Junk"]:
            names.pop(0)
        assert names == expected, cut


class Empty(Message):
    pass


@pytest.mark.parametrize("serializer", [JsonMessageSerializer, NativeMessageSerializer])
@pytest.mark.parametrize(
    "envelope",
    [
        Request(1, Empty(), 2.5, {"a": "b"}, 3),
        Request("text id", MESSAGE),
        Response(2**64 - 1, [1, "two", None]),
        ErrorResponse(1, ErrorMessage("a", "b", "c"), "closed"),
        Notification(MESSAGE, None),
        Progress(1, {"a": 1}),
        Credit(1, 5),
        Cancel("x" * 255),
    ],
    ids=lambda envelope: type(envelope).__name__,
)
def test_every_envelope_passes_through_both_serializers(
    serializer: type, envelope: Envelope
) -> None:
    connection = Connection(serializer(), 4096)
    data = b"".join(bytes(part) for part in connection.encode(envelope))

    assert connection.feed(data) == [envelope]


class Careless:
    """A serializer of the user's own, which does not expect half a payload."""

    def encode(self, envelope: Envelope) -> list[bytes]:
        return [b"whole" if isinstance(envelope, Request) else b"x" * 4000]

    def decode(self, payload: Any) -> Envelope:
        if bytes(payload) != b"whole":
            raise ValueError("half a payload")
        return Request(1, MESSAGE)


def test_a_serializer_that_fails_on_half_a_payload_has_its_length_told() -> None:
    connection = Connection(Careless(), 1024, 1)
    data = MAGIC + (5000).to_bytes(4, "big") + bytes(5000) + frame(b"whole")
    buffer = connection.get_buffer(0)
    buffer[: len(data)] = data

    connection.buffer_updated[0]([len(data)])
    found = [connection.receive(item) for item in connection._decode_all()]

    assert isinstance(found[0], Skipped)
    assert "skipped a frame of 5,000 bytes" in str(found[0].error)
    assert found[0].answer.metadata == {"streamipc.skipped": "5000"}
    assert isinstance(found[-1], Request)
    assert found[-1] == Request(1, MESSAGE)


# Bounds and texts


def plain(number: int, **options: Any) -> bytes:
    return b"".join(
        bytes(part)
        for part in Connection(NativeMessageSerializer(), 1 << 20).encode(
            Request(number, MESSAGE, **options)
        )
    )


@pytest.fixture
def native() -> Connection:
    return Connection(NativeMessageSerializer(), 1 << 20)


def test_the_largest_window_and_the_largest_grant_are_taken(connection: Connection) -> None:
    request = only(connection, Request(7, MESSAGE, window=MAX_WINDOW))
    credit = only(connection, Credit(7, MAX_WINDOW))

    assert (type(request), type(credit)) == (Request, Credit)
    assert (credit.id, credit.count) == (7, MAX_WINDOW)


def test_a_refusal_says_what_is_wrong_to_both_sides() -> None:
    refusal = refusal_of(7, ProtocolError("what is wrong"), "protocol")

    assert refusal == ErrorResponse(7, ErrorMessage("what is wrong", "ProtocolError"), "protocol")


def test_an_impossible_grant_is_named(connection: Connection) -> None:
    only(connection, REQUEST)
    event = only(connection, Credit(7, 0))

    assert type(event) is Violation
    assert "granted 0 items for request 7, not from 1 to 2**31-1" in str(event.error)


def test_an_item_that_nobody_wants_is_named(connection: Connection) -> None:
    connection.calls[7] = Call(wants_items=False)
    event = only(connection, Progress(7, "item"))

    assert type(event) is Violation
    assert "an item for request 7, which takes none" in str(event.error)


@pytest.mark.parametrize(("size", "kind"), [(0, Request), (1, Rejected)])
def test_metadata_counts_keys_and_values(native: Connection, size: int, kind: type) -> None:
    metadata = {"key": "v" * (MAX_METADATA - 3 + size)}

    assert type(only(native, Request(1, MESSAGE, metadata=metadata))) is kind


def test_metadata_of_a_notification_may_be_as_large(native: Connection) -> None:
    fits = Notification(MESSAGE, {"key": "v" * (MAX_METADATA - 3)})
    large = Notification(MESSAGE, {"key": "v" * (MAX_METADATA - 2)})

    event = only(native, fits)
    assert type(event) is Notification
    assert event.metadata == fits.metadata
    assert type(only(native, large)) is Violation


def test_a_late_reply_that_cant_be_read_keeps_its_id(connection: Connection) -> None:
    event = only(connection, frame('{"kind":"response","id":9,"type":"no.such","body":{}}'))

    assert event.id == 9


def test_what_is_fed_may_be_larger_than_the_buffer(native: Connection) -> None:
    data = b"".join(plain(number) for number in range(3000))

    found = events_of(native, data)

    assert [event.id for event in found] == list(range(3000))


def test_what_one_read_brings_is_decoded_one_by_one_and_in_order() -> None:
    connection = Connection(JsonMessageSerializer(), 1 << 20)
    told = [b'{"kind":"cancel","id":%d}' % number for number in range(1000)]
    data = b"".join(MAGIC + len(text).to_bytes(4, "big") + text for text in told)
    connection.get_buffer()[: 1 << 13] = data[: 1 << 13]
    connection.buffer_updated[0]([1 << 13])

    assert len(connection.frames) > 200
    decoded = [connection.decode()]
    assert connection.decode() == decoded[0], "it stands there until it is applied"
    connection.applied()
    decoded += connection._decode_all()
    decoded += connection.feed(data[1 << 13 :])
    assert [envelope.id for envelope in decoded] == list(range(1000))  # type: ignore[union-attr]
