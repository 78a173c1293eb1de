"""Unions: who gets a tag, and whose an untagged value is."""

# ruff: noqa: PYI051, UP006, UP035, UP045 - the old spellings are tested too

from __future__ import annotations

import datetime as dt
import enum
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Dict, List, Literal, NamedTuple, NewType, Optional, TypedDict, Union

import pytest
from json_fields import Fields

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()
DAY = dt.date(2024, 5, 1)


MaybeDay = NewType("MaybeDay", Optional[dt.date])  # type: ignore[valid-newtype]
DayOrNumber = NewType("DayOrNumber", Union[dt.date, int])  # type: ignore[valid-newtype]
MaybeDayOrNumber = NewType("MaybeDayOrNumber", Union[dt.date, int, None])  # type: ignore[valid-newtype]


class Color(enum.Enum):
    RED = "red"


class Size(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Point:
    x: int


@dataclass
class Spot:
    x: int


class Pair(NamedTuple):
    x: int


class Film(TypedDict):
    title: str


class Book(TypedDict):
    title: str
    pages: int


class Animal(Message):
    name: str


class Dog(Animal):
    tricks: int = 0


class Stone(Message):
    name: str
    weight: float


class Leaf(Message):
    n: int


class Node(Message):
    left: Union[Node, Leaf]
    right: Optional[Union[Node, Leaf]] = None


class Tip(TypedDict):
    n: int


class Fork(TypedDict):
    left: Union[Fork, Tip]
    right: Union[Fork, Tip]


class Twin(Message):
    left: Union[Twin, Leaf]


fields = Fields(__name__)
holder, write, read = fields.holder, fields.write, fields.read


WRITTEN: list[tuple[Any, Any, Any]] = [
    # Alone in its kind of JSON value: no tag.
    (Union[int, dt.date], DAY, "2024-05-01"),
    (Union[Decimal, float], Decimal("1.5"), "1.5"),
    (Union[Animal, int], Animal("a"), {"name": "a"}),
    (Union[set[int], str], {1}, [1]),
    (Union[Color, int], Color.RED, "red"),
    (int | None | str, None, None),
    (int | str, "1", "1"),
    (int | float, 1.0, 1.0),
    (int | float, 1, 1),
    (float | int, 1, 1),
    (float | str, 2.5, 2.5),
    (bool | int, True, True),
    (bool | int, 1, 1),
    # Text is text, others that are written as text have a tag.
    (Union[dt.date, str], DAY, {"$date": "2024-05-01"}),
    (Union[dt.date, str], "2024-05-01", "2024-05-01"),
    (Union[dt.date, dt.datetime], dt.datetime(2024, 5, 1), {"$datetime": "2024-05-01T00:00:00"}),
    (Union[bytes, str], b"a", {"$bytes": "YQ=="}),
    (Union[Color, str], Color.RED, {"$enum": f"{__name__}.Color", "value": "red"}),
    (Union[Color, Size], Size.RED, {"$enum": f"{__name__}.Size", "value": "red"}),
    (Union[Level, int], Level.LOW, {"$enum": f"{__name__}.Level", "value": 1}),
    (Union[Level, int], 1, 1),
    (Union[dt.timedelta, int], dt.timedelta(1), {"$timedelta": 86400.0}),
    (Union[complex, list[int]], 1j, {"$complex": [0.0, 1.0]}),
    # The same with arrays.
    (Union[list[int], tuple[int, ...]], (1,), {"$tuple": [1]}),
    (Union[list[int], tuple[int, ...]], [1], [1]),
    (Union[tuple[int, int], tuple[int]], (1,), {"$tuple": [1]}),
    (Union[list[int], list[str]], ["a"], ["a"]),
    (Union[list[int], list[str]], [1], [1]),
    (Union[set[int], frozenset[int]], frozenset({1}), {"$frozenset": [1]}),
    # And with objects.
    (
        Union[Animal, Stone],
        Stone("a", 1.5),
        {"$type": f"{__name__}.Stone", "name": "a", "weight": 1.5},
    ),
    (Union[Animal, Dog], Dog("a"), {"$type": f"{__name__}.Dog", "name": "a", "tricks": 0}),
    (Union[Animal, dict[str, str]], Animal("a"), {"$type": f"{__name__}.Animal", "name": "a"}),
    (Union[Animal, dict[str, str]], {"name": "a"}, {"name": "a"}),
    (Union[Animal, dict[str, str]], {"$type": "a"}, {"$map": [["$type", "a"]]}),
    (Union[int, dict[str, int]], {"$set": 1}, {"$map": [["$set", 1]]}),
    (Union[dict[int, str], dict[str, str]], {1: "a"}, {"$map": [[1, "a"]]}),
    (Union[dict[int, str], dict[str, str]], {"1": "a"}, {"1": "a"}),
    (Union[Dict[str, int], Dict[str, str]], {"a": "b"}, {"a": "b"}),
    (Union[Mapping, int], {1: 2}, {"$map": [[1, 2]]}),
    (Union[dict, Animal], {"a": 2}, {"a": 2}),
    (Union[Point, Spot], Spot(1), {"$type": f"{__name__}.Spot", "x": 1}),
    (Union[Point, Pair], Pair(1), {"$type": f"{__name__}.Pair", "x": 1}),
    (
        Union[Film, Book],
        {"title": "a", "pages": 1},
        {"$type": f"{__name__}.Book", "title": "a", "pages": 1},
    ),
    (Union[Film, int], {"title": "a"}, {"title": "a"}),
    # Literals are plain.
    (Union[Literal["auto"], int], "auto", "auto"),
    (Union[Literal["auto"], dt.date], DAY, {"$date": "2024-05-01"}),
    (Union[Literal["auto"], str], "b", "b"),
    (Union[Literal[b"x", "a"], str], b"x", {"$bytes": "eA=="}),
    (Union[Literal[Color.RED], str], Color.RED, {"$enum": f"{__name__}.Color", "value": "red"}),
    (Union[Literal[Color.RED, 1], str], 1, 1),
    # A union behind a name is one with the union around it.
    (Union[MaybeDay, str], DAY, {"$date": "2024-05-01"}),
    (Union[MaybeDay, str], None, None),
    (Union[MaybeDayOrNumber, str], 5, 5),
    (Union[DayOrNumber, str], DAY, {"$date": "2024-05-01"}),
    # What is open is always tagged.
    (Union[Message, int], Animal("a"), {"$type": f"{__name__}.Animal", "name": "a"}),
    (Union[int, Any], (1,), {"$tuple": [1]}),
    (Union[float, str], math.inf, {"$float": "inf"}),
    (Union[int, None, List["Union[int, str]"]], [1, "a"], [1, "a"]),
]


@pytest.mark.parametrize(("annotation", "value", "written"), WRITTEN, ids=lambda c: str(c)[-60:])
def test_member_of_a_union_comes_back_as_it_was(annotation: Any, value: Any, written: Any) -> None:
    fields.assert_form(annotation, value, written)


READ: list[tuple[Any, Any, Any]] = [
    # A peer need not tag what only one member can be.
    (Union[dt.date, Decimal], "2024-05-01", DAY),
    (Union[dt.date, Decimal], "1.5", Decimal("1.5")),
    (Union[dt.date, int], {"$date": "2024-05-01"}, DAY),
    (Union[Animal, Stone], {"name": "a"}, Animal("a")),
    (Union[Animal, Stone], {"name": "a", "weight": 1}, Stone("a", 1.0)),
    (Union[Animal, int], {"$type": f"{__name__}.Animal", "name": "a"}, Animal("a")),
    (Union[tuple[int], tuple[int, int]], [1, 2], (1, 2)),
    (Union[set[int], tuple[str, ...]], ["a"], ("a",)),
    # A message of a subclass may stand wherever its base is named.
    (Animal, {"$type": f"{__name__}.Dog", "name": "a", "tricks": 1}, Dog("a", 1)),
    (Optional[Animal], {"$type": f"{__name__}.Dog", "name": "a", "tricks": 1}, Dog("a", 1)),
    (Union[Animal, Stone], {"$type": f"{__name__}.Dog", "name": "a"}, Dog("a")),
    (Message, {"$type": f"{__name__}.Dog", "name": "a"}, Dog("a")),
]


@pytest.mark.parametrize(("annotation", "data", "value"), READ, ids=lambda case: str(case)[-60:])
def test_value_of_a_peer_finds_its_member(annotation: Any, data: Any, value: Any) -> None:
    made = read(annotation, data)

    assert made == value
    assert type(made) is type(value)


def test_value_of_a_subclass_keeps_its_class() -> None:
    data = write(List[Animal], [Animal("a"), Dog("b", 2)])

    assert data == [{"name": "a"}, {"$type": f"{__name__}.Dog", "name": "b", "tricks": 2}]
    assert read(List[Animal], data) == [Animal("a"), Dog("b", 2)]


def test_value_of_a_subclass_keeps_its_class_beside_what_looks_the_same() -> None:
    annotation = Union[Animal, Stone]

    data = write(annotation, Dog("b", 2))

    assert data == {"$type": f"{__name__}.Dog", "name": "b", "tricks": 2}
    assert read(annotation, data) == Dog("b", 2)


REFUSED: list[tuple[Any, Any, str]] = [
    (Union[int, str], 1.5, "body.v: expected int | str, got 1.5"),
    (Union[int, str], None, "body.v: expected int | str, got null"),
    (Union[int, Animal, None], "x", f'body.v: expected int | {__name__}.Animal | None, got "x"'),
    (Union[int, str], {"$date": "2024-05-01"}, "body.v: expected int | str, got an object"),
    (Union[Animal, Stone], {"nme": "a"}, f"body.v: expected {__name__}.Animal | {__name__}.Stone"),
    (Union[Animal, Stone], {"$type": f"{__name__}.Leaf", "n": 1}, "body.v: expected"),
    (Union[Animal, int], {"name": 1}, "body.v.name: expected str, got 1"),
    (Union[Animal, Stone], {"name": "a", "weight": "x"}, 'body.v.weight: expected float, got "x"'),
    (Union[list[int], int], [1, "a"], 'body.v[1]: expected int, got "a"'),
    (Union[dt.date, str], {"$date": "x"}, 'body.v: expected date, got "x"'),
    (Union[dt.date, str], {"$date": "2024-05-01", "a": 1}, "body.v: an object with"),
    (Union[Color, Size], {"$enum": f"{__name__}.Color"}, 'body.v: expected {"$enum"'),
    (Union[Color, Size], {"$enum": "os.system", "value": 1}, "body.v: expected Color | Size"),
    (Union[int, dict[str, int]], {"$map": [["a", 1]], "b": 1}, "body.v: an object with"),
    (Optional[int], "x", 'body.v: expected int | None, got "x"'),
    (Animal, {"$type": f"{__name__}.Stone", "name": "a", "weight": 1}, "body.v: expected"),
    (Animal, {"$type": 5}, "body.v: expected"),
    (Union[Message, int], {"$type": "no.Such"}, "body.v: expected"),
]


@pytest.mark.parametrize(("annotation", "data", "text"), REFUSED, ids=lambda case: str(case)[-60:])
def test_value_that_no_member_takes_is_refused(annotation: Any, data: Any, text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        read(annotation, data)
    assert str(caught.value).startswith(text)


def test_sender_is_told_which_members_there_are() -> None:
    with pytest.raises(SerializationError, match=r"^body\.v: expected int \| date, got 'x'"):
        write(Union[int, dt.date], "x")
    with pytest.raises(SerializationError, match=r"^body\.v: expected int \| date, got None"):
        write(Union[int, dt.date], None)
    with pytest.raises(SerializationError, match=r"^body\.v: expected int \| None, got 'x'"):
        write(Optional[int], "x")
    with pytest.raises(SerializationError, match=r"^body\.v: expected list\[int\] \| list\[str\]"):
        write(Union[List[int], List[str]], [None])
    with pytest.raises(SerializationError, match=r"^body\.v: JSON can't carry a value of"):
        write(Union[int, Callable[[], None]], len)


def test_subclass_that_is_no_message_is_refused() -> None:
    class Near(Point):
        pass

    with pytest.raises(SerializationError) as caught:
        write(Point, Near(1))
    assert str(caught.value).startswith(
        f"body.v: expected {__name__}.Point, got its subclass {__name__}.{Near.__qualname__}, "
        "which is no Message: the other side could not tell; make it a Message or name it in the "
        "annotation"
    )


def test_deep_unions_without_tags_take_no_exponential_time() -> None:
    data: Any = {"n": "not an int"}
    for _ in range(100):
        data = {"left": data}
    started = time.monotonic()
    with pytest.raises(SerializationError):
        read(Union[Twin, Leaf], data)
    nested: Any = "x"
    for _ in range(100):
        nested = [nested]
    with pytest.raises(SerializationError):
        read(Deep, nested)
    assert time.monotonic() - started < 10


Deep = Union[set["Deep"], frozenset["Deep"], tuple["Deep", ...], int]  # type: ignore[misc]


def test_tree_of_unions_comes_back() -> None:
    tree = Node(Node(Leaf(1), Leaf(2)), Leaf(3))
    assert read(Node, write(Node, tree)) == tree


def test_dictionaries_of_a_tree_are_told_apart_by_their_keys_at_any_depth() -> None:
    tree: Any = {"n": 0}
    for number in range(20):
        tree = {"left": tree, "right": {"n": number}}

    assert read(Fork, write(Fork, tree)) == tree


class Ordered(Message, wire_name="unions.Ordered"):
    of: OrderedDict | Point | None = None  # type: ignore[type-arg]


def test_a_dictionary_of_another_class_in_a_union_is_tagged_and_keeps_its_order() -> None:
    value = Ordered(OrderedDict([("b", 1), ("a", [2])]))
    payload = b"".join(SERIALIZER.encode(Notification(value)))
    assert b'"of":{"$map":[["b",1],["a",[2]]]}' in payload

    got: Any = SERIALIZER.decode(memoryview(payload))
    assert type(got.message.of) is OrderedDict
    assert list(got.message.of.items()) == [("b", 1), ("a", [2])]
