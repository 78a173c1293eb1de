"""Annotations and values at the edges of what the JSON serializer reads and writes."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import sys
import types
from decimal import Decimal
from typing import Any, Generic, Literal, TypeGuard, TypeVar, Union

import pytest
import typing_extensions
from json_fields import Fields

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Response
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()
fields = Fields(__name__)
T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"


class Shape(enum.Enum):
    ROUND = "round"


class Rights(enum.IntFlag):
    READ = 2
    WRITE = 8
    ALL = -1
    CHANGE = -3


class Guarded(Message):
    value: TypeGuard[int]


class Chosen(Message):
    value: Literal[Color.RED, Shape.ROUND] | Literal[b"x"]  # noqa: PYI030


class Listed(Message):
    value: list[int | Color] | list[str]


class Growing(Message, Generic[T]):
    """Names a larger type in each step."""

    value: T
    following: Growing[list[T]] | None = None


Endless = Union[int, "Endless"]  # type: ignore[misc]


class Holder(Message):
    value: Endless


class Plain(Message):
    value: Any = None


class Entry(typing_extensions.TypedDict, Generic[T]):
    value: T


class Labelled(Entry[dt.date], Generic[T]):
    label: T


class Counted(Labelled[Decimal]):
    count: int


class Last(Counted):
    pass


class Log(Message):
    last: Last


def there_and_back(message: Message) -> Any:
    payload = b"".join(SERIALIZER.encode(Notification(message)))
    return SERIALIZER.decode(memoryview(payload)).message  # type: ignore[union-attr]


def test_an_annotation_that_is_no_type_is_refused() -> None:
    with pytest.raises(SerializationError, match="TypeGuard"):
        there_and_back(Guarded(1))


@pytest.mark.parametrize("annotation", [5, typing_extensions.ParamSpec("P").args], ids=str)
def test_what_is_nothing_that_an_annotation_can_be_takes_no_value(annotation: Any) -> None:
    with pytest.raises(SerializationError) as caught:
        fields.write(annotation, 1)
    assert str(caught.value).startswith(f"body.v: expected {annotation}, got 1")


@pytest.mark.parametrize("value", [Color.RED, Shape.ROUND, b"x"])
def test_literals_of_several_enumerations_are_told_apart(value: Any) -> None:
    assert there_and_back(Chosen(value)) == Chosen(value)


@pytest.mark.parametrize("value", [frozenset({1}), 1j, bytearray(b"x")], ids=str)
def test_a_literal_that_json_has_no_form_for_spoils_nothing_else(value: Any) -> None:
    with pytest.raises(SerializationError, match=r"^body\.v: expected typing\.Literal\["):
        fields.write(Literal[value], value)
    # This looks for the name in the annotations of all messages.
    assert SERIALIZER.encode(Response(1, Color.RED))


@pytest.mark.parametrize("value", [[1, Color.RED], ["a", "b"]])
def test_unions_of_lists_are_told_apart_by_what_is_in_them(value: Any) -> None:
    assert there_and_back(Listed(value)) == Listed(value)


def test_a_type_that_grows_without_end_keeps_no_name_from_being_looked_up() -> None:
    there_and_back(Growing[int](1))

    with pytest.raises(SerializationError, match=r"nowhere\.Unknown"):
        SERIALIZER.decode(
            memoryview(b'{"kind":"response","id":1,"body":{"$type":"nowhere.Unknown","a":1}}')
        )


def test_a_key_that_occurs_twice_among_others_is_named() -> None:
    with pytest.raises(SerializationError, match='the key "id" occurs twice'):
        SERIALIZER.decode(memoryview(b'{"kind":"response","id":1,"body":2,"id":3}'))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements are new in Python 3.12")
def test_a_union_that_holds_itself_is_read() -> None:
    names: dict[str, Any] = {"Message": Message}
    exec("type Deep = int | list[Deep]", names)
    deep = names["Deep"]
    holder = type(
        "Holder", (Message,), {"__annotations__": {"value": deep}, "__module__": __name__}
    )

    value = holder([1, [2, [3]]])

    assert there_and_back(value) == value


def test_responses_carry_plain_values() -> None:
    payload = b"".join(SERIALIZER.encode(Response(1, [Plain(1), None])))

    assert SERIALIZER.decode(memoryview(payload)) == Response(1, [Plain(1), None])


def test_a_union_that_is_its_own_member_is_refused() -> None:
    """It says nothing about what it holds, and looking for that would have no end."""
    with pytest.raises(SerializationError, match=r"^body\.value: a union can't be a member of its"):
        there_and_back(Holder(1))


def test_arguments_that_a_typed_dict_gives_to_its_base_count() -> None:
    message = Log({"value": dt.date(2024, 5, 1), "label": Decimal(1), "count": 2})

    (payload,) = SERIALIZER.encode(Notification(message))

    assert json.loads(bytes(payload))["body"] == {
        "last": {"value": "2024-05-01", "label": "1", "count": 2}
    }
    assert there_and_back(message) == message


def test_a_flag_of_all_bits_means_those_that_have_a_member() -> None:
    assert fields.write(Rights, Rights.ALL) == 10
    assert fields.write(Rights, Rights.CHANGE) == 8
    assert fields.read(Rights, 10) is Rights.READ | Rights.WRITE
    for number in (-1, 1, 4):
        with pytest.raises(SerializationError, match=r"^body\.v: expected Rights .* the bits 0xa"):
            fields.read(Rights, number)


def test_a_dictionary_may_say_what_its_keys_are_and_no_more() -> None:
    keyed = types.GenericAlias(dict, (int,))

    assert fields.write(keyed, {1: (2,)}) == {"1": {"$tuple": [2]}}
    assert fields.read(keyed, {"1": {"$tuple": [2]}}) == {1: (2,)}


@pytest.mark.parametrize("text", ["1.2.3", ".", "1e99999999999999999999", "x"])
def test_what_is_no_number_is_none_in_any_context_of_decimals(text: str) -> None:
    with decimal.localcontext(decimal.Context(traps=[])):
        with pytest.raises(SerializationError, match=r"^body\.v: expected Decimal, got "):
            fields.read(Decimal, text)
        assert fields.read(Decimal, "-NaN12").is_nan()


@pytest.mark.parametrize("sign", [1, -1])
def test_how_precise_decimals_are_is_nothing_to_a_time(sign: int) -> None:
    long = sign * dt.timedelta(seconds=2**31, microseconds=500_001)

    with decimal.localcontext(decimal.Context(prec=5)):
        assert fields.read(dt.timedelta, fields.write(dt.timedelta, long)) == long
