"""Which values the native serializer carries, and how large ones travel."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import sys
import threading
import uuid
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import pytest

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Request, Response
from streamipc.serializers.native import NativeMessageSerializer

SERIALIZER = NativeMessageSerializer()


class Color(enum.Enum):
    RED = "r"
    GREEN = "g"
    ROUGE = "r"  # noqa: PIE796


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Stray(enum.Enum):
    A = 1


class ByLiteral(enum.Enum):
    A = 1


class ByNewType(enum.Enum):
    A = 1


class ByTypeVar(enum.Enum):
    A = 1


class ByTypedDict(enum.Enum):
    A = 1


Alias = NewType("Alias", ByNewType)
T = TypeVar("T", bound=ByTypeVar)


class Row(TypedDict):
    cell: ByTypedDict


class Point(NamedTuple):
    x: int
    y: int = 0


Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024


@dataclass
class Line:
    start: Point
    color: Color = Color.RED


@dataclass(frozen=True)
class Node:
    children: list[Node] = field(default_factory=list)


class Drawing(Message):
    lines: list[Line]
    by_level: Mapping[Level, Access | None]
    pair: Pair
    tree: Node | None = None
    literal: Literal[ByLiteral.A] = ByLiteral.A
    alias: Alias | None = None
    row: Row | None = None


class Holder(Message, Generic[T]):
    item: T


class Anything(Message):
    value: Any


def there_and_back(value: Any, serializer: NativeMessageSerializer = SERIALIZER) -> Any:
    payload = b"".join(serializer.encode(Response(1, value)))
    return serializer.decode(memoryview(payload)).value  # type: ignore[union-attr]


UTC = datetime.timezone.utc
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin") if zoneinfo.available_timezones() else UTC

VALUES = [
    None, True, False, 0, 1, -1, 255, 256, 65_536, -(2**31), 2**31, 2**63, -(2**200), 2**5000,
    0.0, -1.5, float("inf"), 1e300, 1 + 2j, "", "text", "ü" * 40, "x" * 255, "x" * 256,
    "😀" * 70_000,
    "\ud800", b"", b"bytes", b"x" * 300, b"x" * 70_000, bytearray(b"ba"), bytearray(70_000),
    [], [1, [2, []]], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((((),), 1), 2),
    tuple(range(3000)),
    {}, {"a": {"b": 1}}, {(1, 2): {(3, (4, "x")): 5}}, {None: 1, 2: 3, b"4": 5.0},
    set(), {1, 2}, {(1, 2), (1, (2, 3))}, frozenset(), frozenset({1, frozenset({2})}),
    list(range(3000)), [1.5] * 3000, ["text"] * 3000, [("AAPL", 1.5)] * 3000, [{"a": 1}] * 10,
    [[str(i), i, (i, str(i)), None] for i in range(3000)], {i: str(i) * 30 for i in range(3000)},
    range(5), range(10, 0, -2), slice(1, None, 2),
    collections.OrderedDict([("b", 1), ("a", 2)]), collections.Counter("hello"),
    collections.deque([1, 2], maxlen=3), collections.deque(),
    collections.defaultdict(list, {"a": [1]}),
    collections.defaultdict(None, {"a": 1}),
    datetime.date(2024, 2, 29), datetime.time(1, 2, 3, 4), datetime.time(1, tzinfo=UTC, fold=1),
    datetime.datetime(2024, 2, 29, 1, 2, 3, 4),
    datetime.datetime(2024, 10, 27, 2, fold=1, tzinfo=BERLIN),
    datetime.datetime.max.replace(tzinfo=UTC), datetime.timedelta(-1, 2, 3), datetime.timedelta.max,
    UTC, datetime.timezone(datetime.timedelta(hours=2)),
    datetime.timezone(-datetime.timedelta(1, 60, 1) / 2, "x"),
    BERLIN, decimal.Decimal("1.10"), decimal.Decimal("-Infinity"), decimal.Decimal("1E+999999"),
    fractions.Fraction(-3, 7), uuid.UUID(int=2**100 + 1),
    pathlib.Path("/a/b c"), pathlib.PurePosixPath("a/../b"), pathlib.PureWindowsPath("C:\\x\\y"),
    pathlib.Path("."),
    ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"),
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_network("fe80::/64"), ipaddress.ip_interface("10.1.2.3/8"),
    ipaddress.ip_interface("fe80::1/64"),
    array.array("d", [1.5, 2.5]), array.array("i"),
    array.array("w" if sys.version_info >= (3, 13) else "u", "text"),
    array.array("q", range(20_000)),
    Color.RED, Color.ROUGE, Level.HIGH, Access.READ, Access.READ | Access.WRITE, Access(0),
    ByLiteral.A, ByNewType.A, ByTypeVar.A, ByTypedDict.A,
    Point(1), Pair([1], "x"), Line(Point(1, 2), Color.GREEN), Node([Node(), Node([Node()])]),
    Drawing([Line(Point(1))], {Level.LOW: None, Level.HIGH: Access.WRITE}, Pair(1, 2), Node([])),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{value!r:.60}")
def test_a_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    for wrapped in (value, [value, value], {"key": (value,)}):
        back = there_and_back(wrapped)
        assert back == wrapped
        assert type(back) is type(wrapped)
    back = there_and_back(Anything(value)).value
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, datetime.datetime):
        assert (back.tzinfo, back.fold) == (value.tzinfo, value.fold)
    if isinstance(value, collections.deque):
        assert back.maxlen == value.maxlen
    if isinstance(value, collections.defaultdict):
        assert back.default_factory is value.default_factory


def test_values_that_are_not_equal_to_themselves_come_back() -> None:
    assert there_and_back(float("nan")) != there_and_back(float("nan"))
    assert there_and_back(decimal.Decimal("NaN123")).as_tuple().digits == (1, 2, 3)


def test_an_enum_member_is_the_receivers_own() -> None:
    assert there_and_back(Color.GREEN) is Color.GREEN
    assert there_and_back({Level.LOW: 1}) == {Level.LOW: 1}


def test_every_element_of_a_mixed_message_list_comes_back() -> None:
    value = [Anything(i) if i % 2 else Color.RED for i in range(5000)]
    assert there_and_back(value) == value


@pytest.mark.parametrize(
    "value",
    [
        type("MyInt", (int,), {})(5),
        type("MyDict", (dict,), {})(),
        type("MyStr", (str,), {})("x"),
        collections.defaultdict(lambda: 1),
        collections.UserDict(),
        Stray.A,
        object(),
        type("date", (), {"__module__": "datetime"})(),
        (i for i in range(3)),
        ValueError("x"),
        sys,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_other_types_are_refused_by_the_sender(value: Any) -> None:
    with pytest.raises(SerializationError, match="can't be sent"):
        there_and_back([value])


def test_a_time_zone_without_a_name_is_refused() -> None:
    path = next(Path(folder) / "UTC" for folder in zoneinfo.TZPATH if Path(folder, "UTC").exists())
    with path.open("rb") as file:
        zone = zoneinfo.ZoneInfo.from_file(file)
    with pytest.raises(SerializationError, match="ZoneInfo without a key"):
        there_and_back(zone)


def test_what_refuses_to_be_taken_apart_is_the_cause() -> None:
    class Stubborn:
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise ZeroDivisionError("no")

    with pytest.raises(SerializationError, match=r"Anything\.value: .*Stubborn.*no") as caught:
        NativeMessageSerializer(allow=[Stubborn]).encode(Notification(Anything(Stubborn())))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# Types of the user's own


class Plain:
    def __init__(self, x: Any) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]


class WithSlots:
    __slots__ = ("a", "b")

    def __init__(self, a: Any) -> None:
        self.a = a


class WithState(Plain):
    def __getstate__(self) -> Any:
        return [self.x]

    def __setstate__(self, state: Any) -> None:
        (self.x,) = state


class ByCall(Plain):
    def __reduce__(self) -> Any:
        return ByCall, (self.x,)


class ByKeywords(Plain):
    def __new__(cls, *, x: Any) -> ByKeywords:  # noqa: PYI034
        return super().__new__(cls)

    def __init__(self, *, x: Any) -> None:
        super().__init__(x)

    def __getnewargs_ex__(self) -> Any:
        return (), {"x": 1}


class MyList(list[Any]):
    pass


class MyDict(dict[Any, Any]):
    pass


class MyInt(int):
    pass


class ByFunction(Plain):
    def __reduce__(self) -> Any:
        return print, ("called",)


ALLOWING = NativeMessageSerializer(
    allow=[
        Plain, WithSlots, WithState, ByCall, ByKeywords, MyList, MyDict, MyInt, ByFunction, Stray,
        ZeroDivisionError,
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [Plain({"a": Plain(1)}), WithState(5), ByCall((1, 2)), ByKeywords(x=3), MyList([1, [2]]),
     MyDict(a=MyInt(5)), MyInt(7), Stray.A],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_an_allowed_type_comes_back(value: Any) -> None:
    back = there_and_back([value], ALLOWING)[0]
    assert back == value
    assert type(back) is type(value)


def test_an_allowed_type_with_slots_comes_back() -> None:
    back = there_and_back(WithSlots([1]), ALLOWING)
    assert back.a == [1]
    assert not hasattr(back, "b")


def test_an_allowed_exception_comes_back() -> None:
    assert there_and_back(ZeroDivisionError("x", 1), ALLOWING).args == ("x", 1)


def test_an_allowed_type_that_names_a_function_is_refused() -> None:
    with pytest.raises(SerializationError, match="only the class itself may be called"):
        there_and_back(ByFunction(1), ALLOWING)


def test_a_type_that_only_the_sender_allows_is_refused_by_the_receiver() -> None:
    payload = b"".join(ALLOWING.encode(Request(3, Anything(Plain(1)))))
    with pytest.raises(SerializationError, match=r"Plain is not allowed.*allow=") as caught:
        SERIALIZER.decode(memoryview(payload))
    assert caught.value.envelope == Request(3, None)  # type: ignore[arg-type]


def test_allow_takes_only_classes_with_different_names() -> None:
    with pytest.raises(TypeError, match="allow takes classes"):
        NativeMessageSerializer(allow=[print])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="two different classes"):
        NativeMessageSerializer(allow=[type("Same", (), {}), type("Same", (), {})])
    assert NativeMessageSerializer(allow=[Plain, Plain])


def test_an_annotation_that_cannot_be_resolved_does_not_hide_the_others() -> None:
    class Local(enum.Enum):
        A = 1

    globals()["Global"] = enum.Enum("Global", "A", module=__name__)

    class Half(Message):
        unknown: Local
        known: Global  # type: ignore[name-defined]  # noqa: F821

    assert there_and_back(globals()["Global"].A) is globals()["Global"].A
    with pytest.raises(SerializationError, match="allow="):
        there_and_back(Local.A)
    assert there_and_back(Local.A, NativeMessageSerializer(allow=[Local])) is Local.A


# Large data


def test_large_bytes_leave_without_a_copy() -> None:
    data = b"x" * 1_000_000
    buffers = SERIALIZER.encode(Request(1, Anything(data)))
    assert any(isinstance(part, memoryview) and part.obj is data for part in buffers)
    assert sum(map(len, buffers)) < len(data) + 500
    back = SERIALIZER.decode(memoryview(b"".join(buffers)))
    assert back.message.value == data  # type: ignore[union-attr]
    assert type(back.message.value) is bytes  # type: ignore[union-attr]


def test_large_bytes_as_a_reply_leave_without_a_copy() -> None:
    data = bytearray(100_000)
    buffers = SERIALIZER.encode(Response(1, data))
    assert any(isinstance(part, memoryview) and part.obj is data for part in buffers)


def test_a_memoryview_arrives_over_the_payload() -> None:
    data = memoryview(bytearray(range(256)) * 1000)
    payload = bytearray().join(SERIALIZER.encode(Response(1, data)))
    back = SERIALIZER.decode(memoryview(payload)).value  # type: ignore[union-attr]
    assert back == data
    assert back.obj is payload
    assert not back.readonly


def test_memoryviews_keep_their_shape() -> None:
    numbers = memoryview(array.array("d", range(6))).cast("B").cast("d", [2, 3])
    back = there_and_back(numbers)
    assert (back.tolist(), back.format) == (numbers.tolist(), "d")
    assert there_and_back(memoryview(b"abcdef")[::2]).tobytes() == b"ace"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements are new in Python 3.12")
def test_a_type_alias_that_names_itself_is_looked_through_once() -> None:
    namespace: dict[str, Any] = {"Message": Message, "__name__": __name__}
    text = (
        "import enum\n"
        "type Tree = dict[str, Tree] | list[Tree] | Shade\n"
        "class Shade(enum.Enum):\n"
        "    DARK = 'dark'\n"
        "class Forest(Message, wire_name='tests.Forest'):\n"
        "    tree: Tree\n"
    )
    exec(compile(text, "<forest>", "exec", dont_inherit=True), namespace)
    forest = namespace["Forest"]({"a": [namespace["Shade"].DARK]})

    assert there_and_back(forest) == forest
    with pytest.raises(SerializationError, match="Event"):
        there_and_back(threading.Event())


def test_values_that_stand_far_apart_may_be_the_same_object() -> None:
    """Pickle names the 257th value that it remembers in another way than those before."""
    texts = [f"text {number}" for number in range(300)]
    value = [decimal.Decimal("1.5"), texts, texts[::-1]]

    got = there_and_back(value)

    assert got == value
    assert all(one is other for one, other in zip(got[1], reversed(got[2]), strict=True))
