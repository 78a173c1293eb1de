"""Bad data and bad values: each error names the path, what was expected and what came."""

# ruff: noqa: E501 - one case to a line

from __future__ import annotations

import collections
import datetime as dt
import enum
import json
import pathlib
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple, NoReturn, TypedDict, Union

import pytest
from json_fields import Fields

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Progress, Response
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Number(enum.IntEnum):
    ONE = 1


class Bits(enum.IntFlag):
    A = 1


class Array:
    """Looks like one of numpy's."""

    def tolist(self) -> list[int]:
        return []


@dataclass
class Point:
    x: int
    y: int = 0


class Pair(NamedTuple):
    first: int
    second: int = 0


class Film(TypedDict):
    title: str


Tagged = TypedDict("Tagged", {"$type": str, "n": int}, total=False)


class Item(Message):
    name: str
    price: Decimal = Decimal(0)


class Order(Message):
    items: list[Item]


holder = Fields(__name__).holder


def read(cls: Any, data: Any) -> Any:
    body = data if isinstance(data, str) else json.dumps(data)
    payload = f'{{"kind":"notification","type":"{cls.__wire_name__}","body":{body}}}'
    return SERIALIZER.decode(memoryview(payload.encode()))


RECEIVED: list[tuple[Any, Any, str]] = [
    (int, "x", 'expected int, got "x"'),
    (int, True, "expected int, got true"),
    (int, 1.0, "expected int, got 1.0"),
    (int, None, "expected int, got null"),
    (int, [1], "expected int, got an array of 1"),
    (int, {}, "expected int, got an empty object"),
    (int, {"a": 1}, 'expected int, got an object with "a"'),
    (float, "1", 'expected float, got "1"'),
    (float, True, "expected float, got true"),
    (float, 10**400, "expected float, got an integer beyond its range"),
    (float, {"$float": "1"}, 'expected {"$float": "nan"}'),
    (bool, 1, "expected bool, got 1"),
    (str, 1, "expected str, got 1"),
    (str, ["a" * 99], "expected str, got an array of 1"),
    (type(None), 0, "expected None, got 0"),
    (complex, [1], "expected complex, got an array of 1"),
    (Decimal, "x", 'expected Decimal, got "x"'),
    (Decimal, 1.5, "expected Decimal, got 1.5"),
    (Decimal, "1_0", 'expected Decimal, got "1_0"'),
    (uuid.UUID, "x", 'expected UUID, got "x"'),
    (bytes, "?", 'expected bytes, got "?"'),
    (bytes, "é", 'expected bytes, got "é"'),
    (dt.datetime, "yesterday", 'expected datetime, got "yesterday"'),
    (dt.date, "2024-05-01T00:00:00", 'expected date, got "2024-05-01T00:00:00"'),
    (dt.time, "25:00", 'expected time, got "25:00"'),
    (dt.timedelta, "1h", 'expected timedelta, got "1h"'),
    (dt.timedelta, 1e300, "expected timedelta, got 1e+300"),
    (dt.timedelta, True, "expected timedelta, got true"),
    (pathlib.Path, 1, "expected Path, got 1"),
    (Color, "green", 'expected Color ("red", "blue"), got "green"'),
    (Color, ["red"], 'expected Color ("red", "blue"), got an array of 1'),
    (Rights, 4, "expected Rights (an integer of the bits 0x3), got 4"),
    (Rights, -1, "expected Rights (an integer of the bits 0x3), got -1"),
    (Rights, True, "expected Rights (an integer of the bits 0x3), got true"),
    (Literal["a", 1], "b", "expected Literal['a', 1], got \"b\""),
    (Literal[1], True, "expected Literal[1], got true"),
    (Literal["a"], ["a"], "expected Literal['a'], got an array of 1"),
    (list[int], 1, "expected list[int], got 1"),
    (list[int], {"a": 1}, 'expected list[int], got an object with "a"'),
    (tuple[int, str], [1], "expected tuple[int, str], got an array of 1"),
    (set[int], "x", 'expected set[int], got "x"'),
    (set, [[1]], "an item is not hashable, so it can't be in a set"),
    (dict[str, int], [1], "expected dict[str, int], got an array of 1"),
    (
        dict[tuple[int], int],
        {"a": 1},
        'expected dict[tuple[int], int] as an array of pairs, got an object with "a"',
    ),
    (dict[Any, int], [[[], 1]], "the key is not hashable"),
    (dict[Any, int], [[1, 1], [1, 2]], "the key 1 occurs twice"),
    (dict[Any, int], [1], "expected a pair [key, value], got 1"),
    (dict[Decimal, int], {"1": 1, "1.0": 1}, "two keys have the same value"),
    (dict, 1, "expected dict, got 1"),
    (Point, 1, f"expected {__name__}.Point, got 1"),
    (Pair, [1, 2], f"expected {__name__}.Pair, got an array of 2"),
    (Film, None, f"expected {__name__}.Film, got null"),
    (Item, "x", f'expected {__name__}.Item, got "x"'),
    (Message, {"a": 1}, 'expected streamipc.messages.Message, got an object with "a"'),
    (Any, {"$date": "x"}, 'expected date, got "x"'),
    (Any, {"$nope": 1}, 'unknown tag "$nope"'),
    (Any, {"$set": 1}, "expected an array, got 1"),
    (Any, {"$set": [[]]}, "an item is not hashable, so it can't be in a set"),
    (Any, {"$set": [], "a": 1}, "an object with a tag has no other keys"),
    (Any, {"$map": 1}, "expected an array of pairs, got 1"),
    (Any, {"$map": [[[], 1]]}, "the key is not hashable"),
    (Any, {"$map": [[1, 1], [1, 1]]}, "a key occurs twice"),
    (Any, {"$map": [[1]]}, "expected a pair [key, value]"),
    (Any, {"$type": 1}, "expected the name of a type in $type, got 1"),
    (Any, {"$enum": 1, "value": 1}, "unknown enumeration 1"),
    (Callable[[], None], 1, "expected"),
    (NoReturn, None, "expected typing.NoReturn, got null"),
    (dict[Color, int], {"green": 1}, "expected Color"),
    (dict[Number, int], {"3": 1}, "expected Number, got"),
    (dict[float, int], {"1_0": 1}, "expected float, got"),
    (dict[bool, int], {"1": 1}, 'expected bool ("true" or "false"), got "1"'),
    (dict[int, int], {"01": 1}, 'expected int, got "01"'),
    (
        Union[Literal[Color.RED], str],
        {"$enum": f"{__name__}.Color", "value": "blue"},
        'expected Literal[<Color.RED: \'red\'>], got an object with "$enum", "value" (in ',
    ),
]


@pytest.mark.parametrize(("annotation", "data", "text"), RECEIVED, ids=lambda case: str(case)[:50])
def test_receiver_is_told_what_does_not_fit(annotation: Any, data: Any, text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        read(holder(annotation), {"v": data})
    assert f": {text}" in str(caught.value)
    assert str(caught.value).startswith("body.v")
    assert str(caught.value).endswith("Holder)")


SENT: list[tuple[Any, Any, str]] = [
    (int, "x", "expected int, got 'x'"),
    (int, True, "expected int, got True"),
    (int, 1.0, "expected int, got 1.0"),
    (bool, 1, "expected bool, got 1"),
    (str, b"x", "expected str, got b'x'"),
    (float, "1", "expected float, got '1'"),
    (float, 10**400, "expected float, got"),
    (type(None), 1, "expected None, got 1"),
    (Decimal, 1, "expected Decimal, got 1"),
    (bytes, "x", "expected bytes, got 'x'"),
    (dt.date, dt.datetime(2024, 1, 1), "expected date, got datetime.datetime(2024, 1, 1, 0, 0)"),
    (Color, "red", "expected Color, got 'red'"),
    (Rights, 1, "expected Rights, got 1"),
    (Literal["a"], "b", "expected Literal['a'], got 'b'"),
    (Literal["a"], [], "expected Literal['a'], got []"),
    (list[int], (1,), "expected list[int], got (1,)"),
    (list[str], "abc", "expected list[str], got 'abc'"),
    (Sequence[str], "abc", "expected Sequence[str], got 'abc'"),
    (Sequence[str], {"a": 1}, "expected Sequence[str], got {'a': 1}"),
    (tuple[int, str], (1,), "expected tuple[int, str], got (1,)"),
    (set[int], [1], "expected set[int], got [1]"),
    (dict[str, int], [], "expected dict[str, int], got []"),
    (dict[str, int], {1: 1}, "as a key, expected str, got 1"),
    (dict[int, int], {"a": 1}, "as a key, expected int, got 'a'"),
    (dict, [], "expected dict, got []"),
    (Point, {"x": 1}, f"expected {__name__}.Point, got {{'x': 1}}"),
    (Pair, (1, 2), f"expected {__name__}.Pair, got (1, 2)"),
    (Film, [], f"expected {__name__}.Film, got []"),
    (Item, None, f"expected {__name__}.Item, got None"),
    (Message, 1, "expected streamipc.messages.Message, got 1"),
    (Callable[[], None], len, "JSON can't carry a value of builtin_function_or_method"),
    (Any, object(), "JSON can't carry a value of object; make it a Message, or send plain values"),
    (
        Any,
        Point(1),
        f"JSON can't carry a value of {__name__}.Point; make it a Message, or annotate",
    ),
    (type[int], int, "JSON can't carry a value of type"),
    (NoReturn, None, "expected typing.NoReturn, got None"),
    (Bits, Bits(8), "8 has bits that no member of Bits has"),
    (Any, Array(), f"JSON can't carry a value of {__name__}.Array; send its tolist()"),
]


@pytest.mark.parametrize(("annotation", "value", "text"), SENT, ids=lambda case: str(case)[:50])
def test_sender_is_told_what_does_not_fit(annotation: Any, value: Any, text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        SERIALIZER.encode(Notification(holder(annotation)(value)))
    assert str(caught.value).startswith(f"body.v: {text}")
    assert str(caught.value).endswith("Holder)")


PATHS: list[tuple[Any, Any, str]] = [
    (Order, {"items": [{"name": "a"}, {"name": "b", "price": "x"}]}, 'body.items[1].price: expected Decimal, got "x"'),
    (Order, {}, f"body.items: missing (required by {__name__}.Order)"),
    (Order, {"items": [{}]}, f"body.items[0].name: missing (required by {__name__}.Item)"),
    (Order, {"items": [], "extra": 1}, f"body.extra: unknown field of {__name__}.Order"),
    (Order, {"item": []}, f"body.item: unknown field of {__name__}.Order"),
    (Order, {"items": [], "a b": 1}, f'body["a b"]: unknown field of {__name__}.Order'),
    (Order, [], f"body: expected {__name__}.Order, got an array of 0"),
    (Order, {"$type": "x", "items": []}, f'body["$type"]: unknown field of {__name__}.Order'),
    (holder(dict[str, dict[int, bool]]), {"v": {"a b": {"7": 1}}}, 'body.v["a b"]["7"]: expected bool, got 1'),
    (holder(dict[int, int]), {"v": {"x": 1}}, 'body.v.x: expected int, got "x"'),
    (holder(dict[Any, int]), {"v": [["a", "b"]]}, 'body.v[0]: expected int, got "b"'),
    (holder(tuple[int, Point]), {"v": [1, {"x": 1, "y": "b"}]}, 'body.v[1].y: expected int, got "b"'),
    (holder(Pair), {"v": {"first": 1, "second": "b"}}, 'body.v.second: expected int, got "b"'),
    (holder(Pair), {"v": {}}, f"body.v.first: missing (required by {__name__}.Pair)"),
    (holder(Pair), {"v": {"first": 1, "x": 1}}, f"body.v.x: unknown field of {__name__}.Pair"),
    (holder(Film), {"v": {"title": 1}}, "body.v.title: expected str, got 1"),
    (holder(Film), {"v": {}}, f"body.v.title: missing (required by {__name__}.Film)"),
    (holder(Any), {"v": {"a": [{"$tuple": [{"$date": 1}]}]}}, "body.v.a[0][0]: expected date, got 1"),
    (holder(Any), {"v": {"a": {"$map": [[1, 1], [2, {"$x": 1}]]}}}, 'body.v.a[1][1]: unknown tag "$x"'),
    (holder(Any), {"v": [{"$type": "no.Such"}]}, "unknown message type 'no.Such'"),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "data", "text"), PATHS, ids=lambda case: str(case)[:50])
def test_receiver_is_told_where(cls: Any, data: Any, text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        read(_registered(cls), data)
    assert str(caught.value).startswith(text)


def _registered(cls: Any) -> Any:
    """Return ``cls``, which a holder of another case may have replaced in the registry."""
    return holder(cls.__annotations__["v"]) if cls.__name__ == "Holder" else cls


def test_sender_is_told_where() -> None:
    def told(value: Any) -> str:
        with pytest.raises(SerializationError) as caught:
            SERIALIZER.encode(value)
        return str(caught.value)

    bad = object()
    assert told(Notification(Order([Item("a"), Item(1)]))).startswith(  # type: ignore[arg-type]
        "body.items[1].name: expected str, got 1 (in "
    )
    assert told(Notification(holder(dict[str, list[int]])({"a": [1, "b"]}))).startswith(
        "body.v.a[1]: expected int, got 'b'"
    )
    assert told(Notification(holder(tuple[int, Point])((1, Point("b"))))).startswith(  # type: ignore[arg-type]
        "body.v[1].x: expected int"
    )
    assert told(Notification(holder(dict[Any, int])({(1,): "b"}))).startswith("body.v[0]: expected")
    assert told(Notification(holder(Film)({}))).startswith("body.v.title: missing (required by")
    assert told(Notification(holder(Film)({"title": "a", "x": 1}))).startswith(
        "body.v.x: unknown field of"
    )
    assert told(Notification(holder(Film)({"title": 1}))).startswith("body.v.title: expected str")
    assert told(Notification(holder(Tagged)({"$type": "a", "n": 1}))).startswith(
        "body.v[\"$type\"]: JSON can't carry a TypedDict's key of this name"
    )
    assert told(Response(1, [{"a": (1, bad)}])).startswith("body[0].a[1]: JSON can't carry")
    assert told(Progress(1, collections.deque([bad]))).startswith("body[0]: JSON can't carry")
    assert told(Response(1, {1: bad})).startswith("body[0][1]: JSON can't carry")


def test_field_that_was_never_set_is_told() -> None:
    message = Item("a")
    del message.name
    with pytest.raises(SerializationError, match=r"^body\.name: not set \(a field of .*Item\)"):
        SERIALIZER.encode(Notification(message))


def test_values_whose_repr_fails_are_told() -> None:
    class Nasty:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(SerializationError, match=r"^body\.v: expected int, got "):
        SERIALIZER.encode(Notification(holder(int)(Nasty())))
    with pytest.raises(SerializationError, match=r"^body\.v: expected str, got "):
        SERIALIZER.encode(Notification(holder(str)(10**5000)))


def test_surprises_inside_of_a_value_are_told() -> None:
    class Strange(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            raise OSError("gone")

    class Odd(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            raise AttributeError("odd")

    with pytest.raises(SerializationError, match="AttributeError: odd"):
        SERIALIZER.encode(Notification(holder(list[int])(Odd())))
    with pytest.raises(SerializationError, match="OSError: gone") as caught:
        SERIALIZER.encode(Response(1, Strange()))
    assert isinstance(caught.value.__cause__, OSError)


def test_keys_that_become_the_same_text_are_told() -> None:
    class Same(str):
        __slots__ = ()
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            return self is other

    with pytest.raises(SerializationError, match=r"^body\.v: two keys are the same text in JSON"):
        SERIALIZER.encode(Notification(holder(dict[str, int])({Same("a"): 1, Same("a"): 2})))


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="there is no such limit")
def test_a_number_of_very_many_digits_is_told_by_its_size() -> None:
    """Where the program lets them be read at all."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        with pytest.raises(SerializationError, match=r"expected str, got <int of 16610 bits>"):
            read(holder(str), {"v": 10**5000})
    finally:
        sys.set_int_max_str_digits(before)
