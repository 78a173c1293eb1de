"""Unions inside of unions: the work grows as the bytes do, for every shape of a union."""

from __future__ import annotations

import abc
import contextlib
import enum
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, Union, runtime_checkable

import pytest

from streamipc.exceptions import SerializationError
from streamipc.messages import Message, Request
from streamipc.protocol.envelopes import Notification
from streamipc.serializers import _json_unions
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()


class Color(enum.Enum):
    RED = "red"


class Expr(Message, abstract=True):
    pass


class Neg(Expr, wire_name="linear.Neg"):
    of: Expr | int = 0


class Holds(Message, wire_name="linear.Holds"):
    of: Union[Message, str] = ""


class Asks(Request[int], wire_name="linear.Asks"):
    of: Request[Any] | int = 0


class Shape(abc.ABC):  # noqa: B024 - nothing but a name for others
    pass


class Square(Message, Shape, wire_name="linear.Square"):
    of: Shape | Color | int = 0


@runtime_checkable
class Valued(Protocol):
    of: Any


class Valuable(Message, wire_name="linear.Valuable"):
    of: Valued | Expr | int = 0


class Hidden(Protocol):
    def hide(self) -> None: ...


class Hides(Message, wire_name="linear.Hides"):
    of: Hidden | Expr | int = 0

    def hide(self) -> None: ...


class Wide(Message, wire_name="linear.Wide"):
    of: Message | Expr | Shape | Valued | int = 0


@dataclass
class Left:
    of: Left | Right | int = 0


@dataclass
class Right:
    of: Left | Right | int = 0


class Up(NamedTuple):
    of: Any = 0


class Film(TypedDict):
    of: Film | Book | int


class Book(TypedDict, total=False):
    of: Film | Book | int
    pages: int


Lists = Union[list["Lists"], list[int], int]  # type: ignore[misc]
Nested = Union[list["Nested"], dict[str, "Nested"], int, None]  # type: ignore[misc]
Dollars = Union[dict[str, "Dollars"], list["Dollars"], int]  # type: ignore[misc]
Sets = Union[set["Sets"], frozenset["Sets"], tuple["Sets", ...], int]  # type: ignore[misc]
Pairs = Union[tuple["Pairs", int], tuple["Pairs", str], int]  # type: ignore[misc]
Maps = Union[dict[int, "Maps"], dict[str, "Maps"], int]  # type: ignore[misc]
Keyed = Union[Literal["a"], tuple["Keyed", ...], list["Keyed"], int]  # type: ignore[misc]
Inner = Union[list["Outer"], int, None]
Outer = Union["Inner", dict[str, "Outer"], str]  # type: ignore[misc]


class Sheet(Message, wire_name="linear.Sheet"):
    dataclasses: Left | Right | int = 0
    films: Film | Book | int = 0
    lists: Lists = 0
    nested: Nested = 0
    dollars: Dollars = 0
    sets: Sets = 0
    pairs: Pairs = 0
    maps: Maps = 0
    keyed: Keyed = 0
    outer: Outer = None
    up: Union[Up, Left, int] = 0
    free: dict | int = 0  # type: ignore[type-arg]


class Freely(Message, wire_name="linear.Freely"):
    of: dict | int = 0  # type: ignore[type-arg]


def chain(step: Callable[[Any], Any], depth: int, last: Any = 0) -> Any:
    made = last
    for _ in range(depth):
        made = step(made)
    return made


# What makes a tree of that depth.
TREES: dict[str, Callable[[int], Message]] = {
    "abstract base": lambda n: chain(Neg, n + 1),
    "Message": lambda n: chain(Holds, n + 1, ""),
    "Request": lambda n: chain(Asks, n + 1),
    "abc": lambda n: chain(Square, n + 1),
    "protocol": lambda n: chain(Valuable, n + 1),
    "protocol that can't be asked": lambda n: chain(Hides, n + 1),
    "five at a time": lambda n: chain(Wide, n + 1),
    "dataclasses": lambda n: Sheet(dataclasses=chain(lambda x: Left(Right(x)), n // 2)),
    "typed dicts": lambda n: Sheet(films=chain(lambda x: Book(of=Film(of=x)), n // 2)),
    "lists of either": lambda n: Sheet(lists=chain(lambda x: [x], n)),
    "list or dict": lambda n: Sheet(nested=chain(lambda x: [{"a": x}], n // 2)),
    "keys with a dollar": lambda n: Sheet(dollars=chain(lambda x: {"$a": x}, n)),
    "sets and tuples": lambda n: Sheet(sets=chain(lambda x: (frozenset([x]),), n // 2)),
    "tuples of one length": lambda n: Sheet(pairs=chain(lambda x: (x, "a"), n)),
    "dicts of either": lambda n: Sheet(maps=chain(lambda x: {1: {"$b": x}}, n // 2)),
    "a literal": lambda n: Sheet(keyed=chain(lambda x: ([x],), n // 2)),
    "unions behind names": lambda n: Sheet(outer=chain(lambda x: [{"a": x}], n // 2)),
    "any dict": lambda n: Sheet(free=chain(lambda x: {"$a": Freely({"$b": x})}, n // 2)),
}


def calls(action: Callable[[], Any]) -> int:
    """Return how many functions were called."""
    count = 0

    def see(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


@pytest.fixture(autouse=True)
def collector_stays_out_of_it() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def encoded(message: Message) -> bytes:
    return b"".join(bytes(part) for part in SERIALIZER.encode(Notification(message)))


def decoded(payload: bytes) -> Any:
    return SERIALIZER.decode(memoryview(payload)).message  # type: ignore[union-attr]


@pytest.mark.parametrize("name", TREES)
def test_a_tree_of_any_depth_takes_work_in_proportion_both_ways(name: str) -> None:
    work: dict[int, tuple[int, int]] = {}
    for depth in (2, 8, 16, 32, 60):
        tree = TREES[name](depth)
        payload = encoded(tree)
        assert decoded(payload) == tree
        work[depth] = (
            calls(lambda tree=tree: encoded(tree)),
            calls(lambda payload=payload: decoded(payload)),
        )
    for way in (0, 1):
        small = work[16][way] - work[8][way]
        large = work[60][way] - work[32][way]
        assert large <= small * 28 / 8 * 1.2 + 20, work


def test_each_message_of_a_tree_is_made_once() -> None:
    made: list[str] = []

    class Counted(Expr, wire_name="linear.Counted"):
        of: Message | Expr | str = ""

        def __new__(cls, *args: Any) -> Any:
            made.append("")
            return object.__new__(cls)

    payload = encoded(chain(Counted, 60, ""))
    made.clear()
    decoded(payload)
    assert len(made) == 60


@pytest.mark.parametrize(
    ("field", "step", "last"),
    [
        ("dataclasses", '{"of":%s}', '"x"'),
        ("dataclasses", '{"of":%s}', "1"),
        ("films", '{"of":%s}', '"x"'),
        ("films", '{"of":%s}', "1"),
        ("lists", "[%s]", '"x"'),
        ("lists", "[%s]", "1"),
        ("sets", "[%s]", '"x"'),
        ("sets", "[[1,%s]]", "1"),
        ("pairs", '[%s,"a"]', '"x"'),
        ("pairs", '[%s,"a"]', "1"),
        ("maps", '{"1":%s}', '"x"'),
        ("maps", '{"1":%s}', "1"),
        ("nested", '[{"a":%s}]', '"x"'),
        ("outer", '[{"a":[%s]}]', "1.5"),
        ("up", '{"of":%s}', '{"$date":"x"}'),
    ],
)
def test_what_has_no_tags_takes_work_in_proportion_too(field: str, step: str, last: str) -> None:
    """Whether it can be read or not: each member has to be tried."""
    work: dict[int, int] = {}
    for depth in (8, 16, 32, 60):
        body = chain(lambda x: step % x, depth, last)
        payload = f'{{"kind":"notification","type":"linear.Sheet","body":{{"{field}":{body}}}}}'

        def read(payload: str = payload) -> None:
            with contextlib.suppress(SerializationError):
                decoded(payload.encode())

        read()
        work[depth] = calls(read)
    assert work[60] - work[32] <= (work[16] - work[8]) * 28 / 8 * 1.2 + 20, work


def test_a_value_that_no_member_takes_is_refused_in_proportion() -> None:
    work: dict[int, int] = {}
    for depth in (8, 16, 32, 60):
        value = chain(lambda x: [x], depth, "x")

        def write(value: Any = value) -> None:
            with pytest.raises(SerializationError, match=r"^body\.lists: expected list\["):
                encoded(Sheet(lists=value))

        write()
        work[depth] = calls(write)
    assert work[60] - work[32] <= (work[16] - work[8]) * 28 / 8 * 1.2 + 50, work


def test_what_a_text_is_read_as_is_not_shared() -> None:
    class Texts(Message, wire_name="linear.Texts"):
        v: list[list[bytearray | Color]] | list[list[bytearray | Color] | int]

    body = '[["",""],["",""],1]'
    payload = f'{{"kind":"notification","type":"linear.Texts","body":{{"v":{body}}}}}'
    (one, other), (third, fourth), _ = decoded(payload.encode()).v
    assert len({id(one), id(other), id(third), id(fourth)}) == 4


def test_a_value_that_was_tried_in_vain_is_not_kept() -> None:
    class Kept(list):  # type: ignore[type-arg]
        pass

    value = Kept(["x"])
    left = weakref.ref(value)
    with pytest.raises(SerializationError):
        encoded(Sheet(lists=[[value]]))
    del value
    assert left() is None


def test_what_all_members_say_is_told_with_its_place() -> None:
    with pytest.raises(SerializationError, match=r"^body\.of\.of: expected .*, got <obj"):
        encoded(Wide(Holds(object())))  # type: ignore[arg-type]


@runtime_checkable
class Coloured(Protocol):
    name: str


class Ribbon(NamedTuple):
    name: str = "red"


class Nothing(enum.Enum):
    pass


class Drawn(Message, wire_name="linear.Drawn"):
    """Names the classes, so that a peer may too."""

    of: Coloured | int = 0
    known: Color | Ribbon | Nothing | None = None


def test_a_protocol_claims_members_of_enums_and_named_tuples_too() -> None:
    for value in (Color.RED, Ribbon("blue")):
        assert decoded(encoded(Drawn(value))) == Drawn(value)
    for tag in (f'{{"$enum":"{__name__}.Nothing","value":1}}', '{"$tuple":[]}', '{"$date":"x"}'):
        payload = f'{{"kind":"notification","type":"linear.Drawn","body":{{"of":{tag}}}}}'
        with pytest.raises(SerializationError, match=r"^body\.of: expected .*Coloured \| int"):
            decoded(payload.encode())


def test_a_protocol_claims_what_has_its_attributes() -> None:
    tree = Valuable(Neg(Neg(1)))
    assert decoded(encoded(tree)) == tree
    for body in (
        '{"$type":"no.Such"}',
        '{"$enum":"no.Such","value":1}',
        '{"$nope":1}',
        '{"$date":"x"}',
        '{"$tuple":[],"a":1}',
        '{"$set":[1]}',
        '{"$enum":5}',
    ):
        payload = f'{{"kind":"notification","type":"linear.Valuable","body":{{"of":{body}}}}}'
        with pytest.raises(SerializationError, match=r"^body\.of: expected"):
            decoded(payload.encode())


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_an_attempt_that_is_cut_short_leaves_nothing(way: str) -> None:
    """A handler of a signal may raise anywhere, also where the attempt is cleaned up."""
    payload = encoded(Sheet(lists=[[1]]))
    lines = 0
    for stop in range(10_000):
        lines = 0

        def see(frame: Any, event: str, arg: Any, stop: int = stop) -> Any:
            nonlocal lines
            if frame.f_code.co_name != "_try" or event != "line":
                return see
            lines += 1
            if lines in (stop, stop + 3):  # and again, in what cleans up
                raise KeyboardInterrupt
            return see

        value: Any = [[1]]
        before = sys.gettrace()
        sys.settrace(see)
        try:
            if way == "encode":
                encoded(Sheet(lists=value))
            else:
                decoded(payload)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert _json_unions._attempts.depth == 0
        assert _json_unions._attempts.results == {}
        assert _json_unions._trying == set()
        value[0][0] = 2
        assert b"[[2]]" in encoded(Sheet(lists=value))
        if lines < stop:
            break
    assert 10 < lines < 1000


class Bits(enum.Flag):
    """Is interrupted when a combination is looked up."""

    A = 1
    B = 2

    @classmethod
    def _missing_(cls, value: object) -> Any:
        raise KeyboardInterrupt


class Interrupts(Message, wire_name="linear.Interrupts"):
    of: Any = 0
    bits: Bits = Bits.A


class Asked(dict[str, Any]):
    """Is interrupted when it is written."""

    def items(self) -> Any:
        raise KeyboardInterrupt


@pytest.fixture
def left_over() -> Iterator[None]:
    """An attempt of this thread, as an interrupt of what cleans up after it leaves it."""
    _json_unions._trying.add(threading.get_ident())
    _json_unions._attempts.depth = 1
    _json_unions._attempts.results[1, 2] = (None, None, None)
    yield
    assert _json_unions._attempts.depth == 0
    assert _json_unions._attempts.results == {}
    assert _json_unions._trying == set()


@pytest.mark.usefixtures("left_over")
def test_an_interrupt_while_a_message_is_written_is_one_and_leaves_nothing() -> None:
    with pytest.raises(KeyboardInterrupt):
        encoded(Interrupts(Asked(a=1)))
    assert b'"of":1' in encoded(Interrupts(1))


@pytest.mark.usefixtures("left_over")
def test_an_interrupt_while_a_message_is_read_is_one_and_leaves_nothing() -> None:
    payload = encoded(Interrupts()).replace(b'"bits":1', b'"bits":3')
    with pytest.raises(KeyboardInterrupt):
        decoded(payload)
