"""The forms that single values have in JSON, and those a peer can't have meant."""

# ruff: noqa: UP045 - the old spellings are tested too

from __future__ import annotations

import collections
import collections.abc
import datetime as dt
import enum
import json
import math
import os
import pathlib
import types
import typing
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple, Optional, TypedDict, Union

import pytest
from bare_interpreter import printed
from json_fields import Fields

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Response
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()
DAY = dt.date(2024, 5, 1)


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Gap(enum.Enum):
    """NaN equals nothing, so it is no value to find a member by."""

    NONE = math.nan
    ONE = 1.0


class High(enum.IntFlag):
    """Without the lowest bit."""

    B = 2
    C = 4


class Size(tuple, enum.Enum):  # type: ignore[type-arg]
    SMALL = (1, 2)


class Text(str):
    __slots__ = ()


@dataclass
class Point:
    x: int


class Pair(NamedTuple):
    x: int


class Film(TypedDict):
    title: str


Plain = collections.namedtuple("Plain", "a b")  # noqa: PYI024 - without annotations on purpose


class Palette(Message):
    """Makes the classes that it names known to both sides."""

    color: Optional[Color] = None
    point: Optional[Point] = None
    film: Optional[Film] = None
    size: Optional[Size] = None


class Knot(Message):
    more: list[Knot]


fields = Fields(__name__)
holder, write, read = fields.holder, fields.write, fields.read


WRITTEN: list[tuple[Any, Any, Any]] = [
    # A fraction of a second has room in a float up to 2**31 seconds.
    (dt.timedelta, dt.timedelta(seconds=2**31 - 1, microseconds=1), 2**31 - 1 + 1e-6),
    (dt.timedelta, dt.timedelta(seconds=2**31, microseconds=1), "2147483648.000001"),
    (dt.timedelta, dt.timedelta(seconds=2**31), 2.0**31),
    (dt.timedelta, dt.timedelta(seconds=-(2**31) + 1, microseconds=1), -(2**31) + 1 + 1e-6),
    (dt.timedelta, dt.timedelta(seconds=-(2**31), microseconds=1), "-2147483647.999999"),
    # Only what is written as a text can be a key.
    (dict[dt.timedelta, int], {dt.timedelta(1): 1}, [[86400.0, 1]]),
    (dict[complex, int], {1j: 1}, [[[0.0, 1.0], 1]]),
    (type(pathlib.Path()), pathlib.Path("a"), "a"),
    (Gap, Gap.NONE, "NONE"),
    (Gap, Gap.ONE, "ONE"),
    (High, High.B | High.C, 6),
    (collections.OrderedDict, collections.OrderedDict(a=(1,)), {"a": {"$tuple": [1]}}),
    (collections.defaultdict, collections.defaultdict(None, a=1), {"a": 1}),
    (dict[int, Any], {1: (2,)}, {"1": {"$tuple": [2]}}),
    (Plain, Plain(1, (2,)), {"a": 1, "b": {"$tuple": [2]}}),
    # What an abstract class leaves open has a tag.
    (collections.abc.Hashable, 5, 5),
    (collections.abc.Hashable, "a", "a"),
    (collections.abc.Hashable, (1,), {"$tuple": [1]}),
    (collections.abc.Hashable, DAY, {"$date": "2024-05-01"}),
    (collections.abc.Hashable, Color.RED, {"$enum": f"{__name__}.Color", "value": "red"}),
    (collections.abc.Hashable, Size.SMALL, {"$enum": f"{__name__}.Size", "value": "SMALL"}),
    # In a union.
    (Union[pathlib.PurePath, str], pathlib.PurePath("a"), {"$purepath": "a"}),
    (Union[pathlib.Path, str], pathlib.Path("a"), {"$path": "a"}),
    (Union[collections.abc.Sequence[int], tuple[int]], (1,), {"$tuple": [1]}),
    (Union[collections.abc.Sequence[int], tuple[int, ...]], (1,), {"$tuple": [1]}),
    (Union[collections.abc.Sequence[int], tuple], (1,), {"$tuple": [1]}),
    (Union[dict[tuple[int, int], str], int], {(1, 2): "a"}, [[[1, 2], "a"]]),
    (
        Union[collections.OrderedDict[str, int], dict[str, int]],
        collections.OrderedDict(a=1),
        {"$map": [["a", 1]]},
    ),
    (Union[collections.OrderedDict[str, int], dict[str, int]], {"a": 1}, {"a": 1}),
    (Union[Film, int], 5, 5),
    (Union[list[int], set[int]], {1}, {"$set": [1]}),
    (Union[list[int], collections.abc.Set[int]], {1}, {"$set": [1]}),
    (Union[list[int], collections.abc.MutableSet[int]], {1}, {"$set": [1]}),
    (Union[list[int], collections.deque[int]], collections.deque([1]), {"$deque": [1]}),
    (Union[dt.date, Literal["2024-05-01"]], "2024-05-01", "2024-05-01"),
    (Union[dt.date, Literal["2024-05-01"]], DAY, {"$date": "2024-05-01"}),
    (Union[Level, float], Level.LOW, {"$enum": f"{__name__}.Level", "value": 1}),
    (Union[Level, float], 1.0, 1.0),
]


@pytest.mark.parametrize(("annotation", "value", "written"), WRITTEN, ids=lambda c: str(c)[-50:])
def test_value_has_its_form_and_comes_back(annotation: Any, value: Any, written: Any) -> None:
    fields.assert_form(annotation, value, written)


NOON = dt.datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=dt.timezone.utc)

READ: list[tuple[Any, Any, Any]] = [
    *[(dt.datetime, f"2024-05-01T12:00:00.123456{zone}", NOON) for zone in ("Z", "z", "+00:00")],
    *[(dt.time, f"12:00:00.123456{zone}", NOON.timetz()) for zone in ("Z", "z", "+00:00")],
    (dt.timedelta, 1, dt.timedelta(seconds=1)),
    (dt.timedelta, "90", dt.timedelta(seconds=90)),
    (dt.timedelta, "90.5", dt.timedelta(seconds=90, milliseconds=500)),
    (dt.timedelta, "-0.000001", dt.timedelta(microseconds=-1)),
    (dt.timedelta, "86399999999999.999999", dt.timedelta.max),
    # An integer of JSON is what other languages write for a float without a fraction.
    (Union[Level, float], 1, 1.0),
    (dict[int, Any], {"1": 2}, {1: 2}),
]


@pytest.mark.parametrize(("annotation", "data", "value"), READ, ids=lambda case: str(case)[-50:])
def test_form_of_another_language_is_read(annotation: Any, data: Any, value: Any) -> None:
    made = read(annotation, data)

    assert made == value
    assert type(made) is type(value)


RECEIVED: list[tuple[Any, Any, str]] = [
    (float, {"a": 1}, 'expected float, got an object with "a"'),
    (float, {"$float": "nan", "a": 1}, 'expected {"$float": "nan"}, "inf" or "-inf"'),
    (Optional[float], {"$float": "1"}, 'expected {"$float": "nan"}, "inf" or "-inf"'),
    (dict[float, int], {"1_0": 1}, 'expected float, got "1_0"'),
    *[(dt.datetime, text, f'expected datetime, got "{text}"') for text in ("", "Z", "z", "ZZ")],
    *[(dt.time, text, f'expected time, got "{text}"') for text in ("", "Z", "z")],
    *[
        (dt.timedelta, text, f'expected timedelta, got "{text}"')
        for text in ("1e5", "1.1234567", "1" * 16, "1_0", "NaN", "+1", ".5", "")
    ],
    (tuple[str, str], "ab", 'expected tuple[str, str], got "ab"'),
    (tuple[()], [1], "expected tuple[()], got an array of 1"),
    (tuple, 1, "expected tuple, got 1"),
    (list, 1, "expected list, got 1"),
    (dict[int, Any], 1, "expected dict[int, Any], got 1"),
    (dict[Any, int], [[1]], "expected a pair [key, value], got an array of 1"),
    (dict[Any, int], [[1, 2, 3]], "expected a pair [key, value], got an array of 3"),
    (dict[tuple[int], int], {"a": 1}, "expected dict[tuple[int], int] as an array of pairs, got"),
    (dict[Level, int], {"3": 1}, 'expected Level, got "3"'),
    (High, 1, "expected High (an integer of the bits 0x6), got 1"),
    (Any, {"$map": ["ab"]}, 'expected a pair [key, value], got "ab"'),
    (Any, {"$set": [], "a": 1}, 'an object with a tag has no other keys, got an object with'),
    (
        Any,
        {"$enum": [], "value": 1},
        "unknown enumeration an array of 0: no message that is defined in this process has it in "
        "its annotations",
    ),
    (Any, {"$enum": f"{__name__}.Point", "value": 1}, "unknown enumeration"),
    (Any, {"$enum": f"{__name__}.Color", "a": 1}, f'expected {{"$enum": "{__name__}.Color", "val'),
    (Any, {"$enum": f"{__name__}.Color", "value": "red", "a": 1}, 'expected {"$enum": '),
    (Point, {"$type": "x"}, f'expected {__name__}.Point, got $type "x"'),
    (Optional[Knot], {"more": [5]}, f"expected {__name__}.Knot, got 5"),
    (Union[Knot, int], {"mor": 1}, f"unknown field of {__name__}.Knot"),
    (
        Union[Literal[Color.RED], str],
        {"$enum": f"{__name__}.Color", "value": "blue"},
        'expected Color ("red"), got "blue"',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "data", "text"), RECEIVED, ids=lambda case: str(case)[-50:])
def test_what_a_peer_can_not_have_meant_is_refused(annotation: Any, data: Any, text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        read(annotation, data)
    assert f": {text}" in str(caught.value)
    assert str(caught.value).startswith("body.v")


Deep = Union[set["Deep"], frozenset["Deep"], tuple["Deep", ...], int]  # type: ignore[misc]


def test_untagged_values_of_unions_in_each_other_are_read_at_any_depth() -> None:
    assert read(Deep, [[[[1]]]]) == ((({1},),),)
    deeper = ((((((1,),),),),),)
    assert read(Deep, write(Deep, deeper)) == deeper
    assert read(Deep, [[[[[[1]]]]]]) == ((((({1},),),),),)
    for wrong, shown in (("x", '"x"'), ([[[["x"]]]], "an array of 1")):
        with pytest.raises(SerializationError, match=rf"^body\.v: expected set\[.*, got {shown} "):
            read(Deep, wrong)


@pytest.mark.parametrize("name", ["int", "list", f"{__name__}.Color", f"{__name__}.Film", "dict"])
def test_only_messages_and_record_classes_can_be_named_as_a_type(name: str) -> None:
    with pytest.raises(SerializationError, match=f"^unknown message type '{name}'"):
        read(Any, {"$type": name, "title": "a"})


SENT: list[tuple[Any, Any, str]] = [
    (float, True, "expected float, got True"),
    (Union[float, str], True, "expected float | str, got True"),
    (tuple[int, str], [1, "a"], "expected tuple[int, str], got [1, 'a']"),
    (dict[str, Any], {1: 2}, "as a key, expected str, got 1"),
    (Text, Text("a"), f"JSON can't carry a value of {__name__}.Text; make it a Message"),
    (collections.abc.Hashable, object(), "JSON can't carry a value of object; make it a Message"),
    (
        collections.abc.Hashable,
        Gap.ONE,
        f"JSON can't carry a value of {__name__}.Gap; make it a Message, or send plain values",
    ),
    (
        Any,
        Gap.ONE,
        f"JSON can't carry the enumeration {__name__}.Gap where no annotation names it: "
        "annotate the field with it, or send its value",
    ),
]


@pytest.mark.parametrize(("annotation", "value", "text"), SENT, ids=lambda case: str(case)[-50:])
def test_what_would_arrive_as_something_else_is_not_sent(
    annotation: Any, value: Any, text: str
) -> None:
    with pytest.raises(SerializationError) as caught:
        write(annotation, value)
    assert str(caught.value).startswith(f"body.v: {text}")


@pytest.mark.skipif(os.name == "nt", reason="Windows has the paths that others lack")
def test_a_path_of_another_system_is_refused() -> None:
    with pytest.raises(SerializationError, match=r"^body\.v: expected WindowsPath, got \"a\""):
        read(pathlib.WindowsPath, "a")


@pytest.mark.parametrize("count", [8, 9])
def test_an_error_lists_eight_members_of_an_enumeration(count: int) -> None:
    many = enum.Enum("many", {f"M{number}": number for number in range(count)})  # type: ignore[misc]
    with pytest.raises(SerializationError) as caught:
        read(many, 99)
    more = ", …" if count > 8 else ""
    known = f"0, 1, 2, 3, 4, 5, 6, 7{more}"
    assert str(caught.value).startswith(f"body.v: expected many ({known}), got 99")


def test_an_enumeration_defined_anew_takes_the_place_of_the_old_one() -> None:
    def define(value: str) -> Any:
        class Again(enum.Enum):
            A = value

        return Again

    for value in ("x", "y"):
        again = define(value)
        assert write(again, again.A) == value
        assert read(again, value) is again.A


def test_an_integer_of_a_subclass_arrives_as_an_integer() -> None:
    class Count(int):
        pass

    payload = b"".join(SERIALIZER.encode(Response(1, [Count(2**60 + 1)])))
    assert json.loads(payload)["body"] == [2**60 + 1]


def test_a_mapping_that_is_no_dict_is_written_as_an_object() -> None:
    proxy = types.MappingProxyType({"a": 1})
    assert write(typing.Mapping[str, int], proxy) == {"a": 1}


def test_a_named_tuple_has_defaults() -> None:
    class Pair2(NamedTuple):
        x: int
        y: Optional[Decimal] = Decimal(7)

    assert read(Pair2, {"x": 1}) == (1, Decimal(7))
    with pytest.raises(SerializationError, match=r"^body\.v\.x: missing"):
        read(Pair2, {"y": None})


TAGGED = [
    {"$datetime": "2024-05-01T12:00:00"},
    {"$decimal": "1.5"},
    {"$uuid": "12345678-1234-5678-1234-567812345678"},
    {"$path": "a"},
]


def test_a_tag_loads_the_standard_module_that_it_needs() -> None:
    """A program that never imported it can be sent such a value all the same."""
    body = json.dumps({"kind": "response", "id": 1, "body": TAGGED})
    code = (
        "import sys\n"
        "from streamipc.protocol.envelopes import Response\n"
        "from streamipc.serializers.json import JsonMessageSerializer\n"
        "serializer = JsonMessageSerializer()\n"
        "class Own:\n"
        "    pass\n"
        "try:\n"
        "    serializer.encode(Response(1, Own()))\n"
        "except Exception as error:\n"
        "    print(error)\n"
        "print(sorted({'decimal', 'uuid', 'pathlib', 'datetime'} & set(sys.modules)))\n"
        f"payload = {body!r}.encode()\n"
        "print([type(item).__name__ for item in serializer.decode(memoryview(payload)).value])\n"
    )
    told, before, made = printed(code)
    assert told.startswith("body: JSON can't carry a value of ")
    assert before == "[]"
    assert made == f"['datetime', 'Decimal', 'UUID', '{type(pathlib.Path()).__name__}']"
