"""Fields, defaults and buffers of native payloads, and what is told of those that are refused."""

from __future__ import annotations

import pickle
from dataclasses import field
from typing import Any

import pytest
from native_payloads import SERIALIZER, decode, header, refused, with_buffers
from pickles import START, text

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Response
from streamipc.serializers import _native_builders
from streamipc.serializers.native import NativeMessageSerializer


class Thing(Message, wire_name="tests.Thing"):
    value: Any


class Empty(Message, slots=True, wire_name="tests.Empty"):
    pass


class Defaulted(Message, wire_name="tests.Defaulted"):
    a: int
    b: str = "default"


class Made(Message, wire_name="tests.Made"):
    a: int
    b: list[int] = field(default_factory=list)


def test_a_message_with_slots_and_without_fields_comes_back() -> None:
    assert decode(*SERIALIZER.encode(Response(7, Empty()))) == Response(7, Empty())


@pytest.mark.parametrize(("cls", "default"), [(Defaulted, "default"), (Made, [])])
def test_what_the_sender_left_out_has_its_default_or_is_missed(cls: Any, default: Any) -> None:
    name = cls.__wire_name__.encode()

    def read(fields: dict[str, Any]) -> Any:
        return decode(header(2, name_size=len(name), id_=7), name, pickle.dumps(fields, 5)).value

    assert read({"a": 1}) == cls(1, default)
    with pytest.raises(SerializationError, match=r"\.a: missing, and the field has no default"):
        read({"b": default})
    with pytest.raises(SerializationError, match="has no field 'c', 'd', 'e', 'f', 'g': the other"):
        read({"a": 1, **dict.fromkeys("cdefgh")})


class Stubborn:
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ZeroDivisionError("no")


def test_the_cause_of_a_refusal_is_what_was_raised_inside() -> None:
    allowing = NativeMessageSerializer(allow=[Stubborn])
    for envelope in (Response(7, [Stubborn()]), Notification(Thing(Stubborn()))):
        with pytest.raises(SerializationError, match="ZeroDivisionError: no") as caught:
            allowing.encode(envelope)
        assert type(caught.value.__cause__) is ZeroDivisionError
    for envelope in (Response(7, [object()]), Notification(Thing(object()))):
        with pytest.raises(SerializationError, match="object object can't be sent") as caught:
            allowing.encode(envelope)
        assert caught.value.__cause__ is caught.value.__context__ is None


def test_buffers_are_not_copied_again_and_again() -> None:
    def copies(count: int) -> bytes:
        copy = text(_native_builders.MODULE) + text("bytearray") + b"\x93h\x00\x85R"
        return START + b"(\x97\x94" + copy * count + b"t."

    large = bytes(300_000)
    assert len(decode(with_buffers(2, copies(5), large)).value) == 6
    assert refused("copied too often", with_buffers(2, copies(7), large)) == Response(7, None)


def test_a_memoryview_in_the_order_of_fortran_comes_back() -> None:
    np = pytest.importorskip("numpy")
    array = np.asfortranarray(np.arange(20_000.0).reshape(100, 200))

    back = decode(*SERIALIZER.encode(Response(7, memoryview(array)))).value

    assert back.tolist() == array.tolist()


def test_a_builder_that_does_not_exist_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nobody'"):
        _native_builders.nobody  # noqa: B018
