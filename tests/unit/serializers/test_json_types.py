"""Every type that an annotation can name comes back as it was."""

# ruff: noqa: UP006, UP045, PYI061 - the old spellings are among what is tested

from __future__ import annotations

import collections
import collections.abc
import datetime as dt
import enum
import json
import math
import pathlib
import sys
import typing
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, NewType, Optional, Union

import pytest

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Response
from streamipc.serializers.json import JsonMessageSerializer

if sys.version_info >= (3, 11):
    from typing import LiteralString, NotRequired, Required, TypedDict
else:
    from typing_extensions import LiteralString, NotRequired, Required, TypedDict

SERIALIZER = JsonMessageSerializer()


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Name(str, enum.Enum):
    """What StrEnum is on Python 3.11."""

    ANN = "ann"


class Shape(enum.Enum):
    """By name, because tuples are not plain."""

    DOT = (0, 0)
    LINE = (0, 1)


class Mixed(enum.Enum):
    NUMBER = 1
    TEXT = "1"
    TRUTH = True  # an alias of NUMBER, as 1 == True


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    A = 1
    B = 2


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass(frozen=True)
class Key:
    a: int
    b: str


@dataclass
class Slotted:
    __slots__ = ("n",)
    n: int


class Pair(NamedTuple):
    first: int
    second: Optional[Decimal] = None


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Loose(TypedDict, total=False):
    a: int
    b: Required[dt.date]


class Item(Message):
    name: str
    price: Decimal = Decimal(0)


class Frozen(Message, frozen=True):
    n: int


UserId = NewType("UserId", int)
T = typing.TypeVar("T")

UTC = dt.timezone.utc
CEST = dt.timezone(dt.timedelta(hours=2))
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")

# annotation, value, what stands in the body
CASES: list[tuple[Any, Any, Any]] = [
    (int, 7, 7),
    (int, -(2**70), -(2**70)),
    (bool, True, True),
    (float, 1.5, 1.5),
    (float, -0.0, -0.0),
    (str, "Grüße \U0001f600 \x00 \"'", "Grüße \U0001f600 \x00 \"'"),
    (None, None, None),
    (type(None), None, None),
    (complex, 1.5 - 2j, [1.5, -2.0]),
    (bytes, b"\x00\xff", "AP8="),
    (bytes, b"", ""),
    (bytearray, bytearray(b"ab"), "YWI="),
    (Decimal, Decimal("1.10"), "1.10"),
    (Decimal, Decimal("-Infinity"), "-Infinity"),
    (Decimal, Decimal("1E+400"), "1E+400"),
    (uuid.UUID, ID, "12345678-1234-5678-1234-567812345678"),
    (pathlib.Path, pathlib.Path("/a/b"), "/a/b"),
    (pathlib.PurePosixPath, pathlib.PurePosixPath("a/b"), "a/b"),
    (pathlib.PureWindowsPath, pathlib.PureWindowsPath("c:\\b"), "c:\\b"),
    (dt.datetime, dt.datetime(2024, 5, 1, 12, 30), "2024-05-01T12:30:00"),
    (dt.datetime, dt.datetime(2024, 5, 1, 12, tzinfo=UTC), "2024-05-01T12:00:00+00:00"),
    (
        dt.datetime,
        dt.datetime(2024, 5, 1, 12, 0, 0, 5, tzinfo=CEST),
        "2024-05-01T12:00:00.000005+02:00",
    ),
    (dt.date, dt.date(2024, 5, 1), "2024-05-01"),
    (dt.time, dt.time(12, 30, tzinfo=UTC), "12:30:00+00:00"),
    (dt.timedelta, dt.timedelta(seconds=1.5), 1.5),
    (dt.timedelta, -dt.timedelta(days=1, microseconds=1), -86400.000001),
    (dt.timedelta, dt.timedelta.max, "86399999999999.999999"),
    (dt.timedelta, dt.timedelta.min, -86399999913600.0),
    (Color, Color.RED, "red"),
    (Level, Level.HIGH, 2),
    (Name, Name.ANN, "ann"),
    (Shape, Shape.LINE, "LINE"),
    (Mixed, Mixed.NUMBER, 1),
    (Mixed, Mixed.TEXT, "1"),
    (Rights, Rights.READ | Rights.WRITE, 3),
    (Rights, Rights(0), 0),
    (Bits, Bits.A | Bits.B, 3),
    (Point, Point(1, 2), {"x": 1, "y": 2}),
    (Key, Key(1, "b"), {"a": 1, "b": "b"}),
    (Slotted, Slotted(3), {"n": 3}),
    (Item, Item("a", Decimal("2.5")), {"name": "a", "price": "2.5"}),
    (Frozen, Frozen(1), {"n": 1}),
    (Pair, Pair(1, Decimal("1.5")), {"first": 1, "second": "1.5"}),
    (Movie, {"title": "Alien", "year": 1979}, {"title": "Alien", "year": 1979}),
    (Movie, {"title": "Alien"}, {"title": "Alien"}),
    (Loose, {"b": dt.date(2024, 1, 1)}, {"b": "2024-01-01"}),
    (list[int], [1, 2], [1, 2]),
    (list[Decimal], [Decimal(1)], ["1"]),
    (typing.List[Item], [Item("a")], [{"name": "a", "price": "0"}]),
    (list, [1, (2,)], [1, {"$tuple": [2]}]),
    (typing.List, [b"a"], [{"$bytes": "YQ=="}]),
    (tuple[int, str], (1, "a"), [1, "a"]),
    (tuple[()], (), []),
    (typing.Tuple[()], (), []),
    (tuple[dt.date, ...], (dt.date(2024, 1, 1),), ["2024-01-01"]),
    (tuple, (1, {2}), [1, {"$set": [2]}]),
    (typing.Tuple, (1,), [1]),
    (set[int], {1}, [1]),
    (frozenset[str], frozenset({"a"}), ["a"]),
    (set[tuple[int, int]], {(1, 2)}, [[1, 2]]),
    (set, {1.5}, [1.5]),
    (collections.deque[int], collections.deque([1, 2]), [1, 2]),
    (collections.abc.Sequence[int], [1], [1]),
    (collections.abc.Iterable[Item], [Item("a")], [{"name": "a", "price": "0"}]),
    (collections.abc.Set[int], {1}, [1]),
    (typing.Sequence[Color], [Color.RED], ["red"]),
    (dict[str, int], {"a": 1, "$b": 2}, {"a": 1, "$b": 2}),
    (dict[str, Item], {"a": Item("x")}, {"a": {"name": "x", "price": "0"}}),
    (dict[int, str], {1: "a", -2: "b"}, {"1": "a", "-2": "b"}),
    (dict[bool, str], {True: "a"}, {"true": "a"}),
    (dict[float, str], {1.5: "a", math.inf: "b"}, {"1.5": "a", "inf": "b"}),
    (dict[Color, int], {Color.RED: 1}, {"red": 1}),
    (dict[Level, int], {Level.HIGH: 1}, {"2": 1}),
    (dict[Shape, int], {Shape.DOT: 1}, {"DOT": 1}),
    (dict[Mixed, int], {Mixed.NUMBER: 1, Mixed.TEXT: 2}, {"NUMBER": 1, "TEXT": 2}),
    (dict[Rights, int], {Rights.READ | Rights.WRITE: 1}, {"3": 1}),
    (dict[uuid.UUID, int], {ID: 1}, {str(ID): 1}),
    (dict[dt.date, int], {dt.date(2024, 1, 1): 1}, {"2024-01-01": 1}),
    (dict[Decimal, int], {Decimal("1.0"): 1}, {"1.0": 1}),
    (dict[bytes, int], {b"a": 1}, {"YQ==": 1}),
    (dict[Literal["a", "b"], int], {"a": 1}, {"a": 1}),
    (dict[UserId, str], {UserId(1): "a"}, {"1": "a"}),
    (dict[tuple[int, int], str], {(1, 2): "a"}, [[[1, 2], "a"]]),
    (dict[Optional[int], int], {None: 1, 2: 3}, [[None, 1], [2, 3]]),
    (dict[Any, int], {1: 1, "a": 2}, [[1, 1], ["a", 2]]),
    (dict, {1: "a"}, {"$map": [[1, "a"]]}),
    (dict, {"a": (1,)}, {"a": {"$tuple": [1]}}),
    (dict[Any, Any], {"a": 1}, {"a": 1}),
    (typing.Mapping[str, bytes], {"a": b"a"}, {"a": "YQ=="}),
    (collections.OrderedDict[str, int], collections.OrderedDict(a=1), {"a": 1}),
    (collections.Counter[str], collections.Counter("aab"), {"a": 2, "b": 1}),
    (collections.Counter, collections.Counter([1]), [[1, 1]]),
    (dict[Literal[1], int], {1: 1}, [[1, 1]]),
    (dict[Bits, int], {Bits.B: 1}, {"2": 1}),
    (collections.defaultdict[str, int], collections.defaultdict(None, a=1), {"a": 1}),
    (pathlib.PurePath, pathlib.PurePath("a"), "a"),
    (Optional[int], None, None),
    (Optional[dt.date], dt.date(2024, 1, 1), "2024-01-01"),
    (Optional[Item], Item("a"), {"name": "a", "price": "0"}),
    (Optional[dict[str, int]], {"$a": 1}, {"$a": 1}),
    (int | None, 3, 3),
    (Literal["a", 1, None, True], "a", "a"),
    (Literal["a", 1, None, True], True, True),
    (Literal["a", 1, None], None, None),
    (Literal[Color.RED, b"x"], Color.RED, "red"),
    (Literal[Color.RED, b"x"], b"x", "eA=="),
    (UserId, UserId(5), 5),
    (Annotated[int, "unit"], 5, 5),
    (Annotated[list[Decimal], ["not hashable"]], [Decimal(5)], ["5"]),
    (Final[int], 5, 5),
    (Final, (5,), {"$tuple": [5]}),
    (LiteralString, "a", "a"),
    (T, (1,), {"$tuple": [1]}),
    (Any, [1, {"a": None}], [1, {"a": None}]),
    (object, dt.date(2024, 1, 1), {"$date": "2024-01-01"}),
    (Message, Frozen(1), {"$type": f"{__name__}.Frozen", "n": 1}),
]


def message_with(annotation: Any) -> type[Message]:
    """Return a message class with one field ``v`` of that type."""
    name = f"Holder_{next(_numbers)}"
    return type(Message)(  # type: ignore[no-any-return]
        name,
        (Message,),
        {"__annotations__": {"v": annotation}, "__module__": __name__, "__qualname__": name},
    )


_numbers = iter(range(10**9))


def send(envelope: Any) -> tuple[Any, Any]:
    """Return the envelope as it arrives, and its JSON."""
    (payload,) = SERIALIZER.encode(envelope)
    return SERIALIZER.decode(memoryview(payload)), json.loads(bytes(payload))


def assert_same(made: Any, value: Any) -> None:
    assert made == value
    assert type(made) is type(value)
    assert repr(made) == repr(value) or isinstance(value, (set, frozenset))


@pytest.mark.parametrize(("annotation", "value", "written"), CASES, ids=lambda case: str(case)[:50])
def test_annotated_value_comes_back_as_it_was(annotation: Any, value: Any, written: Any) -> None:
    cls = message_with(annotation)

    arrived, data = send(Notification(cls(value)))  # type: ignore[call-arg]

    assert data["body"] == {"v": written}
    assert type(arrived.message) is cls
    assert_same(arrived.message.v, value)


# These two can't be an argument of a generic type.
ARGUMENTS = [
    case for case in CASES if "Final" not in str(case[0]) and "hashable" not in str(case[0])
]


@pytest.mark.parametrize(("annotation", "value", "_"), ARGUMENTS, ids=lambda case: str(case)[:50])
def test_annotated_value_comes_back_from_inside_of_containers(
    annotation: Any, value: Any, _: Any
) -> None:
    cls = message_with(typing.Dict[str, typing.List[Optional[annotation]]])  # type: ignore[valid-type]

    arrived, _ = send(Notification(cls({"k": [value, None, value]})))  # type: ignore[call-arg]

    assert_same(arrived.message.v["k"][2], value)


PLAIN_REPLIES: list[tuple[Any, Any]] = [
    *[(value, value) for value in (None, True, 7, 1.5, "a", [1, "a", None], {"a": {"b": [1]}})],
    (dt.datetime(2024, 5, 1, 12, tzinfo=UTC), {"$datetime": "2024-05-01T12:00:00+00:00"}),
    (dt.date(2024, 5, 1), {"$date": "2024-05-01"}),
    (dt.time(1, 2), {"$time": "01:02:00"}),
    (dt.timedelta(seconds=2), {"$timedelta": 2.0}),
    (Decimal("1.0"), {"$decimal": "1.0"}),
    (ID, {"$uuid": str(ID)}),
    (pathlib.Path("/a"), {"$path": "/a"}),
    (pathlib.PurePosixPath("a"), {"$posixpath": "a"}),
    (pathlib.PureWindowsPath("a"), {"$windowspath": "a"}),
    (b"a", {"$bytes": "YQ=="}),
    (bytearray(b"a"), {"$bytearray": "YQ=="}),
    (1 + 2j, {"$complex": [1.0, 2.0]}),
    (math.inf, {"$float": "inf"}),
    (-math.inf, {"$float": "-inf"}),
    ((1, (2,)), {"$tuple": [1, {"$tuple": [2]}]}),
    ({1}, {"$set": [1]}),
    (frozenset({1}), {"$frozenset": [1]}),
    (collections.deque([1]), {"$deque": [1]}),
    ({1: 2}, {"$map": [[1, 2]]}),
    ({"$a": 2, "b": b""}, {"$map": [["$a", 2], ["b", {"$bytes": ""}]]}),
    ({(1, 2): None}, {"$map": [[{"$tuple": [1, 2]}, None]]}),
    ([Item("a")], [{"$type": f"{__name__}.Item", "name": "a", "price": "0"}]),
]


@pytest.mark.parametrize(("value", "written"), PLAIN_REPLIES, ids=lambda case: str(case)[:50])
def test_plain_reply_comes_back_as_it_was(value: Any, written: Any) -> None:
    arrived, data = send(Response(1, value))

    assert data == {"kind": "response", "id": 1, "body": written}
    assert_same(arrived.value, value)


def test_a_memoryview_comes_back_as_one() -> None:
    arrived, data = send(Response(1, [memoryview(b"a")]))

    assert data["body"] == [{"$memoryview": "YQ=="}]
    assert type(arrived.value[0]) is memoryview
    assert arrived.value == [b"a"]


def test_nan_is_tagged_wherever_it_stands() -> None:
    cls = message_with(list[float])
    arrived, data = send(Notification(cls([math.nan, 1.0])))  # type: ignore[call-arg]
    assert data["body"] == {"v": [{"$float": "nan"}, 1.0]}
    assert math.isnan(arrived.message.v[0])

    arrived, data = send(Response(1, (complex(math.nan, 0), {"a": math.nan})))
    assert data["body"]["$tuple"][0] == {"$complex": [{"$float": "nan"}, 0.0]}
    assert math.isnan(arrived.value[0].real)
    assert math.isnan(arrived.value[1]["a"])


class Palette(Message):
    main: Color
    point: Optional[Point] = None
    pair: Optional[Pair] = None


def test_enumerations_and_dataclasses_of_messages_are_known_in_plain_replies() -> None:
    value = [Color.RED, Point(1), Pair(2)]

    arrived, data = send(Response(1, value))

    assert data["body"] == [
        {"$enum": f"{__name__}.Color", "value": "red"},
        {"$type": f"{__name__}.Point", "x": 1, "y": 0},
        {"$type": f"{__name__}.Pair", "first": 2, "second": None},
    ]
    assert arrived.value == value
    assert [type(item) for item in arrived.value] == [Color, Point, Pair]


def test_enumeration_of_no_message_is_refused_in_plain_replies() -> None:
    class Unknown(enum.Enum):
        A = 1

    with pytest.raises(SerializationError, match=r"body\[0\]: JSON can't carry the enumeration"):
        send(Response(1, [Unknown.A]))
    with pytest.raises(SerializationError, match="unknown enumeration"):
        SERIALIZER.decode(
            memoryview(b'{"kind":"response","id":1,"body":{"$enum":"http.HTTPStatus","value":200}}')
        )


def test_subclasses_of_plain_types_arrive_as_the_plain_type() -> None:
    class Text(str):
        __slots__ = ()

    arrived, _ = send(
        Response(1, [Text("a"), collections.OrderedDict(a=1), collections.defaultdict(int, b=2)])
    )

    assert arrived.value == ["a", {"a": 1}, {"b": 2}]
    assert [type(item) for item in arrived.value] == [str, dict, dict]


def test_subclasses_of_standard_types_arrive_as_the_standard_type() -> None:
    class Day(dt.date):
        pass

    class Moment(dt.datetime):
        pass

    class Ratio(float):
        pass

    arrived, data = send(Response(1, [Day(2024, 5, 1), Moment(2024, 5, 1), Ratio(1.5)]))

    assert data["body"] == [{"$date": "2024-05-01"}, {"$datetime": "2024-05-01T00:00:00"}, 1.5]
    assert [type(item) for item in arrived.value] == [dt.date, dt.datetime, float]


def test_complement_of_a_flag() -> None:
    cls = message_with(Bits)
    arrived, data = send(Notification(cls(~Bits.A)))  # type: ignore[call-arg]
    assert data["body"] == {"v": 2}
    assert arrived.message.v == Bits.B


def test_protocols_take_messages() -> None:
    class HasName(typing.Protocol):
        name: str

    cls = message_with(HasName)
    arrived, _ = send(Notification(cls(Item("a"))))  # type: ignore[call-arg]
    assert arrived.message.v == Item("a")


def test_without_the_encoder_in_c_the_bytes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamipc.serializers import _json_text

    envelopes = [Notification(Item("é", Decimal(1))), Response(1, [math.nan])]
    fast = [SERIALIZER.encode(envelope) for envelope in envelopes]
    monkeypatch.setattr(_json_text, "_chunks", None)
    assert [SERIALIZER.encode(envelope) for envelope in envelopes] == fast


def test_int_enum_in_an_int_field_arrives_as_int() -> None:
    cls = message_with(int)
    arrived, _ = send(Notification(cls(Level.HIGH)))  # type: ignore[call-arg]
    assert_same(arrived.message.v, 2)


def test_float_field_takes_integers() -> None:
    cls = message_with(float)
    arrived, data = send(Notification(cls(3)))  # type: ignore[call-arg]
    assert_same(arrived.message.v, 3.0)
    assert json.dumps(data["body"]) == '{"v": 3.0}'


def test_javascript_dates_are_understood() -> None:
    cls = message_with(dt.datetime)
    body = '{"v":"2024-05-01T12:00:00.000Z"}'
    text = f'{{"kind":"notification","type":"{cls.__wire_name__}","body":{body}}}'
    arrived = SERIALIZER.decode(memoryview(text.encode()))
    assert arrived.message.v == dt.datetime(2024, 5, 1, 12, tzinfo=UTC)  # type: ignore[union-attr]


def test_abstract_annotations_take_what_fits_and_give_plain_containers() -> None:
    cls = message_with(collections.abc.Collection[int])
    for value in ((1, 2), {1, 2}, range(1, 3), collections.deque([1, 2])):
        arrived, _ = send(Notification(cls(value)))  # type: ignore[call-arg]
        assert arrived.message.v == [1, 2]


class Everything(Message):
    seen: ClassVar[int] = 3
    made: int = field(init=False)
    tags: list[str] = field(default_factory=list)
    hidden: Union[str, None] = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.made = 1


def test_fields_are_filled_without_running_the_constructor() -> None:
    message = Everything(["a"])
    message.made = 99

    arrived, data = send(Notification(message))

    assert data["body"] == {"made": 99, "tags": ["a"], "hidden": None}
    assert arrived.message == message
    assert arrived.message.made == 99


def test_missing_fields_get_their_defaults() -> None:
    name = Everything.__wire_name__
    payloads = [
        f'{{"kind":"notification","type":"{name}","body":{{"made":1}}}}'.encode() for _ in "ab"
    ]
    first, second = (SERIALIZER.decode(memoryview(p)).message for p in payloads)  # type: ignore[union-attr]
    assert first.tags == []
    assert first.tags is not second.tags
    assert first.hidden is None


def test_frozen_and_slotted_messages() -> None:
    class Tight(Message, frozen=True, slots=True, kw_only=True):
        a: int
        b: Optional[Decimal] = None

    arrived, _ = send(Notification(Tight(a=1, b=Decimal(2))))
    assert arrived.message == Tight(a=1, b=Decimal(2))
