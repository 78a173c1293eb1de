"""What the connection says of envelopes that it refuses, and to whom."""

from __future__ import annotations

from typing import Any

import pytest

from streamipc import (
    ErrorMessage,
    JsonMessageSerializer,
    LogMessage,
    Message,
    ProtocolError,
    SerializationError,
)
from streamipc.protocol.connection import Connection
from streamipc.protocol.envelopes import (
    MAX_METADATA,
    MAX_WINDOW,
    Cancel,
    Envelope,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)
from streamipc.protocol.events import (
    ItemFailed,
    Late,
    Rejected,
    Violation,
)
from streamipc.protocol.framing import MAGIC

MESSAGE = LogMessage("hello")
TOO_MUCH = {"key": "v" * (MAX_METADATA - 2)}
TOO_MUCH_TEXT = "has 65,537 characters; at most 65,536 are taken"


class Call:
    """Stands for a future."""

    def __init__(self, wants_items: bool) -> None:
        self.items = [] if wants_items else None


class Large(Message, wire_name="tests.Large"):
    text: str


@pytest.fixture
def connection() -> Connection:
    return Connection(JsonMessageSerializer(), 1 << 20)


def only(connection: Connection, sent: Envelope | str) -> Any:
    """Return the one event that an envelope, or the text of a payload, becomes."""
    if isinstance(sent, str):
        data = MAGIC + len(sent).to_bytes(4, "big") + sent.encode()
    else:
        data = b"".join(bytes(part) for part in connection.encode(sent))
    (decoded,) = connection.feed(data)
    return connection.receive(decoded)


def test_what_both_sides_count_on_stays_as_it_is() -> None:
    """The README promises these numbers; a peer may be of another version, or language."""
    assert (MAX_WINDOW, MAX_METADATA) == (2**31 - 1, 65_536)


def test_a_connection_reads_as_many_streams_as_it_was_made_for() -> None:
    one, two = (Connection(JsonMessageSerializer(), 4096, *sources) for sources in ((), (2,)))

    assert len(two.get_buffer(1)) > 0
    with pytest.raises(IndexError):
        one.get_buffer(1)


def test_a_request_with_too_much_metadata_is_told_so_on_both_sides(connection: Connection) -> None:
    event = only(connection, Request(7, MESSAGE, metadata=TOO_MUCH))

    text = f"the metadata of request 7 {TOO_MUCH_TEXT}"
    assert type(event) is Rejected
    assert (type(event.error), str(event.error)) == (ProtocolError, text)
    assert event.answer == ErrorResponse(7, ErrorMessage(text, "ProtocolError"), "protocol")
    assert connection.served == {}


def test_a_notification_with_too_much_metadata_is_named(connection: Connection) -> None:
    event = only(connection, Notification(MESSAGE, TOO_MUCH))

    assert type(event) is Violation
    assert str(event.error) == f"the metadata of notification streamipc.LogMessage {TOO_MUCH_TEXT}"


UNREADABLE_REQUEST = '{"kind":"request","id":7,"type":"no.such","body":{}}'
UNREADABLE_ITEM = '{"kind":"progress","id":7,"type":"no.such","body":{}}'


def test_a_request_that_cant_be_read_is_told_why(connection: Connection) -> None:
    event = only(connection, UNREADABLE_REQUEST)

    assert type(event) is Rejected
    assert "no.such" in str(event.error)
    assert event.answer.error == ErrorMessage(str(event.error), "SerializationError")


def test_a_request_that_cant_be_read_and_has_the_id_of_another_is_not_answered(
    connection: Connection,
) -> None:
    assert type(only(connection, Request(7, MESSAGE))) is Request
    event = only(connection, UNREADABLE_REQUEST)

    assert type(event) is Violation
    assert str(event.error) == "the peer used the request id 7 twice at a time"
    assert list(connection.served) == [7]


def test_an_item_that_cant_be_read_is_told_to_who_wants_it(connection: Connection) -> None:
    call = connection.calls[7] = Call(wants_items=True)
    event = only(connection, UNREADABLE_ITEM)

    assert type(event) is ItemFailed
    assert event.call is call
    assert isinstance(event.error, SerializationError)
    assert "no.such" in str(event.error)
    assert connection.calls == {7: call}


def test_an_item_that_cant_be_read_and_nobody_wants_is_a_violation(connection: Connection) -> None:
    call = connection.calls[7] = Call(wants_items=False)
    event = only(connection, UNREADABLE_ITEM)

    assert type(event) is Violation
    assert "no.such" in str(event.error)
    assert connection.calls == {7: call}


def test_an_item_that_cant_be_read_may_be_late(connection: Connection) -> None:
    event = only(connection, UNREADABLE_ITEM)

    assert type(event) is Late
    assert event.id == 7


def test_broken_payloads_among_others_are_told_one_by_one(connection: Connection) -> None:
    text = UNREADABLE_REQUEST
    data = (MAGIC + len(text).to_bytes(4, "big") + text.encode()) * 2

    events: list[Any] = [connection.receive(item) for item in connection.feed(data)]
    assert [type(event) for event in events] == [Rejected, Rejected]
    assert all("no.such" in str(event.error) for event in events)


@pytest.mark.parametrize(
    ("envelope", "name"),
    [
        (Request(1, Large("x" * 1000)), "tests.Large"),
        (Notification(Large("x" * 1000)), "tests.Large"),
        (Response(1, Large("x" * 1000)), "tests.Large"),
        (Progress(1, Large("x" * 1000)), "tests.Large"),
        (Response(1, "x" * 1000), "the reply"),
        (Progress(1, "x" * 1000), "the item"),
        (ErrorResponse(1, ErrorMessage("x" * 1000)), "the error"),
        (Cancel("x" * 255), "Cancel"),
    ],
)
def test_what_is_too_large_to_be_sent_is_named(envelope: Envelope, name: str) -> None:
    with pytest.raises(ProtocolError, match=rf"^{name}: the message takes [\d,]+ bytes and"):
        Connection(JsonMessageSerializer(), 100).encode(envelope)


def test_what_the_serializer_refuses_to_send_is_raised_as_it_is(connection: Connection) -> None:
    with pytest.raises(SerializationError, match=r"^body: JSON can't carry a value of object"):
        connection.encode(Response(1, object()))


def test_a_payload_in_two_parts_that_cant_be_decoded_is_told_of() -> None:
    class Serializer(JsonMessageSerializer):
        def tail_size(self, head: memoryview, size: int) -> int:
            return size - 1000

        def decode(self, payload: memoryview, tail: bytes = b"") -> Any:
            if tail:
                raise ValueError(f"{len(tail):,} bytes of no use")
            return super().decode(payload)

    event = only(Connection(Serializer(), 1 << 20), Notification(Large("x" * 200_000)))

    assert type(event) is Violation
    assert "decode() of the serializer failed: " in str(event.error)
    assert "bytes of no use" in str(event.error)


def test_a_request_that_has_entered_is_passed_on_once_more_and_is_no_duplicate(
    connection: Connection,
) -> None:
    """By whoever goes on for one who was interrupted, with what that one has made of it."""
    request = only(connection, Request(7, MESSAGE))
    connection.note = connection.served[7] = object()

    assert connection.receive(request) is request


def test_a_name_that_cant_be_found_is_given_by_the_kind_of_envelope(
    connection: Connection,
) -> None:
    for envelope, name in (
        (Response(1, object()), "the reply"),
        (Progress(1, object()), "the item"),
    ):
        with pytest.raises(SerializationError) as caught:
            Connection(Failing(), 1 << 20).encode(envelope)
        assert str(caught.value) == f"KeyError while encoding {name}: 'x'"


class Failing(JsonMessageSerializer):
    def encode(self, envelope: Any) -> Any:
        raise KeyError("x")
