"""Envelopes and messages through the native serializer, and the payload's header."""

from __future__ import annotations

import json
import struct
import threading
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any, Generic, TypeVar

import pytest

from streamipc import messages
from streamipc.exceptions import SerializationError
from streamipc.messages import ErrorMessage, LogMessage, Message
from streamipc.protocol.envelopes import (
    Cancel,
    Credit,
    Envelope,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)
from streamipc.serializers.base import MessageSerializer
from streamipc.serializers.native import NativeMessageSerializer

SERIALIZER = NativeMessageSerializer()


class SayHello(messages.Request[str]):
    name: str


class Frozen(Message, frozen=True):
    x: int
    y: int = 2


class Slotted(Message, slots=True):
    x: int
    y: list[int] = field(default_factory=list)


class FrozenSlotted(Message, frozen=True, slots=True):
    x: int


class Keywords(Message, kw_only=True):
    x: int
    y: str = "y"


class Child(Slotted):
    z: float = 1.5


T = TypeVar("T")


class Box(Message, Generic[T]):
    item: T


@dataclass(frozen=True)
class Decorated(Message):
    x: int


class Checked(Message):
    runs = 0
    x: int

    def __post_init__(self) -> None:
        type(self).runs += 1


class Computed(Message):
    x: int
    twice: int = field(init=False)

    def __post_init__(self) -> None:
        self.twice = 2 * self.x


class Outer(Message):
    inner: Message
    more: dict[str, list[Message]]


class Anything(Message):
    value: Any


def encoded(envelope: Envelope, serializer: MessageSerializer = SERIALIZER) -> memoryview:
    return memoryview(b"".join(serializer.encode(envelope)))


def there_and_back(envelope: Envelope, serializer: MessageSerializer = SERIALIZER) -> Any:
    return serializer.decode(encoded(envelope, serializer))


def edited(payload: memoryview, offset: int, layout: str, value: Any) -> memoryview:
    data = bytearray(payload)
    struct.pack_into(layout, data, offset, value)
    return memoryview(data)


@pytest.mark.parametrize(
    "envelope",
    [
        Request(1, SayHello("Riki"), timeout=30.0),
        Request(2**64 - 1, SayHello("é" * 1000), None, {"a": "b", "": "ü" * 300}, 2**32 - 1),
        Request("12.34", SayHello("x"), 0.25, {}),
        Request("ü" * 127 + "x", SayHello("x"), 0.0, {"k": "v"}),
        Response(0, None),
        Response("id", {"a": [1, 2.5, None, True, b"x", (1, 2), {3}]}),
        Response(7, SayHello("Riki")),
        ErrorResponse(1, ErrorMessage("text", "ValueError", "line\n" * 200), "unhandled"),
        Notification(LogMessage("hello")),
        Notification(LogMessage("hello"), {"trace": "1"}),
        Progress(3, 5),
        Progress("three", LogMessage("item")),
        Credit(3, 0),
        Credit("three", 2**32 - 1),
        Cancel(3),
        Cancel("three"),
    ],
    ids=lambda envelope: type(envelope).__name__,
)
def test_every_envelope_comes_back_as_it_was(envelope: Envelope) -> None:
    back = there_and_back(envelope)
    if getattr(envelope, "metadata", None) == {}:
        envelope.metadata = None  # type: ignore[union-attr]
    assert back == envelope


def test_it_is_a_message_serializer() -> None:
    assert isinstance(SERIALIZER, MessageSerializer)


def test_a_small_message_is_one_bytes_object() -> None:
    (payload,) = SERIALIZER.encode(Request(1, SayHello("Riki"), timeout=30.0))
    assert type(payload) is bytes


def test_an_infinite_timeout_means_none() -> None:
    assert there_and_back(Request(1, SayHello("x"), float("inf"))).timeout is None


@pytest.mark.parametrize(
    "message",
    [
        Frozen(1),
        Slotted(1, [2]),
        FrozenSlotted(1),
        Keywords(x=1),
        Child(1, [2], 3.5),
        Box(3),
        Box(Box("nested")),
        Decorated(4),
        Computed(2),
        Outer(Frozen(1), {"a": [Slotted(1), Child(5)]}),
    ],
    ids=repr,
)
def test_every_kind_of_message_class_comes_back_as_it_was(message: Message) -> None:
    back = there_and_back(Request(1, message)).message
    assert type(back) is type(message)
    assert back == message


def test_a_frozen_message_is_still_frozen() -> None:
    back = there_and_back(Notification(Frozen(1))).message
    with pytest.raises(FrozenInstanceError):
        back.x = 2


def test_post_init_does_not_run_in_the_receiver() -> None:
    message = Checked(1)
    before = Checked.runs
    assert there_and_back(Notification(message)).message == message
    assert Checked.runs == before


def test_attributes_that_are_no_fields_stay_behind() -> None:
    message = SayHello("Riki")
    message.extra = threading.Lock()  # type: ignore[attr-defined]
    back = there_and_back(Notification(message)).message
    assert vars(back) == {"name": "Riki"}


def test_a_field_that_was_deleted_is_named() -> None:
    message = SayHello("Riki")
    del message.name
    with pytest.raises(SerializationError, match=r"SayHello\.name has no value"):
        SERIALIZER.encode(Notification(message))


def test_the_receivers_default_fills_in_for_a_missing_field() -> None:
    class Grows(Message, wire_name="test.Grows"):
        a: int

    payload = encoded(Notification(Grows(1)))

    class Grows(Message, wire_name="test.Grows"):  # type: ignore[no-redef]
        a: int
        b: int = 5
        c: list[int] = field(default_factory=lambda: [6])

    first, second = SERIALIZER.decode(payload), SERIALIZER.decode(payload)
    assert first.message == Grows(1, 5, [6])  # type: ignore[call-arg, union-attr]
    assert first.message.c is not second.message.c  # type: ignore[union-attr]


def test_a_missing_field_without_default_is_named() -> None:
    class Lacks(Message, wire_name="test.Lacks"):
        a: int

    payload = encoded(Request(9, Lacks(1)))

    class Lacks(Message, wire_name="test.Lacks"):  # type: ignore[no-redef]
        a: int
        b: int

    with pytest.raises(SerializationError, match=r"test\.Lacks\.b: missing") as caught:
        SERIALIZER.decode(payload)
    assert caught.value.envelope == Request(9, None)  # type: ignore[arg-type]


def test_an_unknown_field_is_named() -> None:
    class Shrinks(Message, wire_name="test.Shrinks"):
        a: int
        gone: int = 3

    payload = encoded(Notification(Shrinks(1)))

    class Shrinks(Message, wire_name="test.Shrinks"):  # type: ignore[no-redef]
        a: int

    with pytest.raises(SerializationError, match=r"test\.Shrinks has no field 'gone'"):
        SERIALIZER.decode(payload)


def test_a_class_defined_anew_takes_the_place_of_the_old_one() -> None:
    def define() -> Any:
        class Anew(Message, wire_name="test.Anew"):
            a: int

        return Anew

    old = define()
    assert type(there_and_back(Notification(old(1))).message) is old
    new = define()
    back = there_and_back(Notification(old(1))).message
    assert type(back) is new
    assert back == new(1)


def test_an_unknown_message_type_is_named_and_the_id_is_known() -> None:
    class Hidden(Message, wire_name="elsewhere.Hidden"):
        a: int

    payload = encoded(Request("id", Hidden(1), 5.0, {"a": "b"}, 3))
    del messages._registry["elsewhere.Hidden"]
    with pytest.raises(SerializationError, match=r"elsewhere\.Hidden.*import") as caught:
        SERIALIZER.decode(payload)
    assert caught.value.envelope == Request("id", None, 5.0, {"a": "b"}, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("id_", [-1, 2**64, "", "x" * 256, "ü" * 128, "\ud800", 1.5, None, b"x"])
def test_an_id_outside_the_rules_is_refused(id_: Any) -> None:
    for envelope in (Request(id_, SayHello("x")), Response(id_, 1), Cancel(id_)):
        with pytest.raises(SerializationError, match="request id"):
            SERIALIZER.encode(envelope)


@pytest.mark.parametrize(
    ("envelope", "text"),
    [
        (Credit(1, -1), "from 0 to"),
        (Request(1, SayHello("x"), window=2**32), "from 0 to"),
        (Request(1, SayHello("x"), timeout="soon"), "timeout must be seconds"),  # type: ignore[arg-type]
        (Request(1, SayHello("x"), metadata={"a": 1}), "metadata must map"),  # type: ignore[dict-item]
        (Request(1, "text"), "a str is no Message"),  # type: ignore[arg-type]
        (ErrorResponse(1, ErrorMessage(5)), "type str"),  # type: ignore[arg-type]
        ("no envelope", "no envelope"),
    ],
)
def test_an_envelope_outside_the_rules_is_refused(envelope: Any, text: str) -> None:
    with pytest.raises(SerializationError, match=text):
        SERIALIZER.encode(envelope)


def test_a_payload_of_the_json_serializer_is_recognised() -> None:
    payload = json.dumps({"kind": "request", "id": 1, "type": "x", "body": {}}).encode()
    with pytest.raises(SerializationError, match=r"JSON.*same serializer"):
        SERIALIZER.decode(memoryview(payload))


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x00" * 40, b"\x08" * 40, b"hello, world" * 9])
def test_a_foreign_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(SerializationError, match="no payload of the native serializer"):
        SERIALIZER.decode(memoryview(payload))


def test_a_timeout_that_is_not_a_number_is_refused() -> None:
    payload = edited(encoded(Request(4, SayHello("x"))), 20, ">d", float("nan"))
    with pytest.raises(SerializationError, match="not a number") as caught:
        SERIALIZER.decode(payload)
    assert caught.value.envelope == Request(4, None)  # type: ignore[arg-type]


def test_unknown_flags_are_refused_with_the_id() -> None:
    payload = edited(encoded(Request(4, SayHello("x"))), 1, "B", 0x80)
    with pytest.raises(SerializationError, match="unknown flags") as caught:
        SERIALIZER.decode(payload)
    assert caught.value.envelope == Request(4, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "envelope",
    [
        Request(1, SayHello("Riki")),
        Response(1, b"x" * 100_000),
        ErrorResponse(1, ErrorMessage("x")),
        Credit(1, 1),
        Cancel(1),
    ],
    ids=lambda envelope: type(envelope).__name__,
)
def test_bytes_after_the_end_are_refused(envelope: Envelope) -> None:
    with pytest.raises(SerializationError) as caught:
        SERIALIZER.decode(memoryview(bytes(encoded(envelope)) + b"\x00"))
    assert caught.value.envelope is not None
    assert type(caught.value.envelope) is type(envelope)


def test_a_message_type_where_none_belongs_is_refused() -> None:
    for kind in (3, 6, 7):
        payload = edited(encoded(Request(1, SayHello("x"))), 0, "B", kind)
        with pytest.raises(SerializationError, match="where none belongs"):
            SERIALIZER.decode(payload)


def test_a_request_without_a_message_type_is_refused() -> None:
    payload = edited(encoded(Response(1, {"name": "x"})), 0, "B", 1)
    with pytest.raises(SerializationError, match="does not name the type"):
        SERIALIZER.decode(payload)


def test_an_error_that_is_malformed_is_refused() -> None:
    for value in ({"message": 1}, 5, dict.fromkeys(("message", "type", "traceback", "code"), 1)):
        payload = edited(encoded(Response(1, value)), 0, "B", 3)
        with pytest.raises(SerializationError, match="malformed"):
            SERIALIZER.decode(payload)


def test_fields_that_are_not_those_of_the_class_are_refused() -> None:
    payload = bytes(encoded(Notification(SayHello("x"))))
    start = payload.index(b"\x80\x05")
    for body in (b"\x80\x05N.", b"\x80\x05].", b"\x80\x05}K\x01Ns.", b"\x80\x05)."):
        with pytest.raises(SerializationError):
            SERIALIZER.decode(memoryview(payload[:start] + body))


def test_an_object_that_cannot_be_sent_is_named_with_its_field() -> None:
    with pytest.raises(SerializationError, match=r"Anything\.value\[1\]\['a'\]: _thread\.lock ob"):
        SERIALIZER.encode(Notification(Anything([1, {"a": threading.Lock()}])))
    with pytest.raises(SerializationError, match=r"value of type object: object object can't"):
        SERIALIZER.encode(Response(1, object()))
    with pytest.raises(SerializationError, match=r"functions and classes do not travel"):
        SERIALIZER.encode(Notification(Anything(print)))
    with pytest.raises(SerializationError, match=r"functions and classes do not travel"):
        SERIALIZER.encode(Notification(Anything(int)))


def test_a_message_base_class_cannot_be_sent() -> None:
    with pytest.raises(SerializationError, match="itself can't be sent"):
        SERIALIZER.encode(Notification(Message()))


def test_nesting_too_deep_to_send_is_told() -> None:
    value: list[Any] = []
    for _ in range(200_000):
        value = [value]
    with pytest.raises(SerializationError, match="nests too deeply"):
        SERIALIZER.encode(Notification(Anything(value)))
    while value:
        value = value.pop()


def test_a_message_that_contains_itself_is_refused() -> None:
    message = Anything(None)
    message.value = message
    with pytest.raises(SerializationError, match="contains itself"):
        SERIALIZER.encode(Notification(message))


def test_lists_and_dicts_that_contain_themselves_arrive_so() -> None:
    value: list[Any] = [1]
    value += [value, {"me": value}, (value,)]
    back = there_and_back(Response(1, value)).value
    assert back[1] is back
    assert back[2]["me"] is back
    assert back[3][0] is back


def test_an_object_that_occurs_twice_arrives_as_one() -> None:
    shared = Frozen(1)
    back = there_and_back(Response(1, [shared, shared, [1], "x" * 300])).value
    assert back[0] is back[1]
