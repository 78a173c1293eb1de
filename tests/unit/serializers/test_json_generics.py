"""Generic messages, forward references, inheritance, recursion, redefinition."""

# ruff: noqa: UP045 - the old spelling is tested too

from __future__ import annotations

import json
import sys
import threading
import typing
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Generic, NamedTuple, Optional, TypeVar

import pytest

from streamipc.exceptions import SerializationError
from streamipc.messages import Message, Request
from streamipc.protocol.envelopes import Notification, Response
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()
T = TypeVar("T")
K = TypeVar("K")


def send(message: Any) -> tuple[Any, Any]:
    """Return a message as it arrives, and its fields as JSON."""
    (payload,) = SERIALIZER.encode(Notification(message))
    arrived: Any = SERIALIZER.decode(memoryview(payload))
    assert type(arrived.message) is type(message)
    return arrived.message, json.loads(bytes(payload))["body"]


class Page(Message, Generic[T]):
    items: list[T]
    next: Optional[Page[T]] = None


class Book(Message):
    pages: Page[Decimal]


class DatePage(Page[date]):
    title: str = ""


class Both(Message, Generic[K, T]):
    key: K
    value: T


class Swapped(Both[T, K], Generic[K, T]):
    pass


class Uses(Message):
    swapped: Swapped[int, date]
    open: Swapped


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class DateBox(Box[date]):
    pass


class Boxes(Message):
    one: Box[Decimal]
    two: DateBox
    three: Box


def test_arguments_of_a_generic_message_count() -> None:
    book = Book(Page([Decimal(1)], Page([Decimal(2)])))

    arrived, data = send(book)

    assert arrived == book
    assert data["pages"] == {"items": ["1"], "next": {"items": ["2"], "next": None}}
    with pytest.raises(
        SerializationError, match=r"^body\.pages\.next\.items\[0\]: expected Decimal"
    ):
        send(Book(Page([Decimal(1)], Page([3]))))  # type: ignore[list-item]


def test_generic_message_by_itself_takes_anything() -> None:
    page = Page([Decimal(1), "a", (2,)])

    arrived, data = send(page)

    assert arrived == page
    assert data["items"] == [{"$decimal": "1"}, "a", {"$tuple": [2]}]


def test_arguments_given_by_a_subclass_count() -> None:
    page = DatePage([date(2024, 1, 1)], None, "t")

    arrived, data = send(page)

    assert arrived == page
    assert data == {"items": ["2024-01-01"], "next": None, "title": "t"}


def test_variables_are_followed_through_bases() -> None:
    uses = Uses(Swapped(date(2024, 1, 1), 5), Swapped(date(2024, 1, 1), 5))

    arrived, data = send(uses)

    assert arrived == uses
    assert data["swapped"] == {"key": "2024-01-01", "value": 5}
    assert data["open"] == {"key": {"$date": "2024-01-01"}, "value": 5}


def test_generic_dataclasses() -> None:
    boxes = Boxes(Box(Decimal(1)), DateBox(date(2024, 1, 1)), Box((1,)))

    arrived, data = send(boxes)

    assert arrived == boxes
    assert data == {
        "one": {"content": "1"},
        "two": {"content": "2024-01-01"},
        "three": {"content": {"$tuple": [1]}},
    }


class Tree(Message):
    value: int
    children: list[Tree] = field(default_factory=list)


def test_tree_of_messages() -> None:
    tree = Tree(1, [Tree(2, [Tree(3)]), Tree(4)])
    assert send(tree)[0] == tree
    tree.children[0].children[0].value = "x"  # type: ignore[assignment]
    with pytest.raises(SerializationError, match=r"^body\.children\[0\]\.children\[0\]\.value: "):
        send(tree)


class Ping(Message):
    pong: Optional[Pong] = None


class Pong(Message):
    ping: Optional[Ping] = None


def test_messages_that_name_each_other() -> None:
    message = Ping(Pong(Ping()))
    assert send(message)[0] == message


# Each of its names is a text on purpose: quotes inside of a type that is evaluated.
Json = typing.Union[None, bool, int, float, str, typing.List["Json"], typing.Dict[str, "Json"]]  # noqa: UP006


class Document(Message):
    root: Json


def test_recursive_alias() -> None:
    document = Document({"a": [1, {"$b": [None, 1.5, "x"]}]})
    arrived, data = send(document)
    assert arrived == document
    assert data["root"]["a"][1] == {"$map": [["$b", [None, 1.5, "x"]]]}
    with pytest.raises(SerializationError, match=r"^body\.root\.a\[0\]: expected bool \| int"):
        send(Document({"a": [object()]}))  # type: ignore[list-item]


def test_recursive_alias_is_resolved_by_many_threads_at_once() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    failed: list[BaseException] = []
    try:
        for _ in range(20):

            class Shared(Message):
                root: Json

            message = Shared([{"a": [[1, None], "x"]}] * 3)
            barrier = threading.Barrier(4)

            def work(message: Any = message, barrier: Any = barrier) -> None:
                try:
                    barrier.wait()
                    assert send(message)[0] == message
                except BaseException as error:
                    failed.append(error)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []


class Node(NamedTuple):
    value: int
    next: Optional[Node] = None


class Chain(Message):
    first: Node


def test_recursive_named_tuple() -> None:
    chain = Chain(Node(1, Node(2)))
    assert send(chain)[0] == chain


class Nested(Message):
    class Inner(Message):
        n: int

    inner: Inner
    more: list[Nested.Inner]


def test_class_inside_of_a_class() -> None:
    message = Nested(Nested.Inner(1), [Nested.Inner(2)])
    assert send(message)[0] == message


class Clash(Message):
    """Its defaults have the names of types."""

    date: Optional[date] = None
    Decimal: Optional[Decimal] = None


def test_field_with_the_name_of_its_type() -> None:
    message = Clash(date(2024, 1, 1), Decimal(1))
    assert send(message)[0] == message


def test_messages_of_a_function_find_each_other() -> None:
    class Outer(Message):
        inner: list[Within]

    class Within(Message):
        n: int

    assert send(Outer([Within(1)]))[0] == Outer([Within(1)])


def test_annotations_are_read_where_they_were_written(module: Any) -> None:
    base = module(
        "json_base_module",
        "from __future__ import annotations\n"
        "from datetime import date as Day\n"
        "from streamipc.messages import Message\n"
        "class Dated(Message):\n"
        "    day: Day\n"
        "    later: list[Later]\n"
        "class Later(Message):\n"
        "    n: int\n",
    )

    class Sub(base.Dated):  # type: ignore[misc, name-defined]
        extra: Decimal = Decimal(0)

    message = Sub(date(2024, 1, 1), [base.Later(1)], Decimal(2))
    assert send(message)[0] == message


def test_name_that_is_not_defined_is_told_with_its_class_and_field(module: Any) -> None:
    late = module(
        "json_late_module",
        "from __future__ import annotations\n"
        "from streamipc.messages import Message\n"
        "class Early(Message):\n"
        "    n: int\n"
        "    late: list[Late] | None = None\n",
    )
    with pytest.raises(SerializationError) as caught:
        send(late.Early(1))
    assert str(caught.value).startswith(
        "body.late: can't resolve 'Late' in the annotation 'list[Late] | None' of "
        "json_late_module.Early.late: define or import it in the module 'json_late_module'"
    )

    exec("class Late(Message):\n    n: int\n", vars(late))
    assert send(late.Early(1, [late.Late(2)]))[0] == late.Early(1, [late.Late(2)])


def test_annotation_that_makes_no_sense_spoils_its_field_alone() -> None:
    class Odd(Message):
        n: int
        odd: int + 1 = 0  # type: ignore[valid-type]  # noqa: RUF100

    with pytest.raises(SerializationError, match=r"^body\.odd: can't resolve .*TypeError"):
        send(Odd(1))


def test_class_defined_anew_takes_the_place_of_the_old_one() -> None:
    def define(annotation: Any) -> Any:
        return type(Message)(
            "Again",
            (Message,),
            {
                "__annotations__": {"v": annotation},
                "__module__": __name__,
                "__qualname__": "Again",
            },
        )

    old = define(int)
    assert send(old(1))[1] == {"v": 1}
    new = define(Decimal)
    assert send(new(Decimal(1)))[1] == {"v": "1"}
    assert type(send(new(Decimal(1)))[0]) is new


def test_redefinition_does_not_pile_up() -> None:
    from streamipc.serializers import _json_records

    def define() -> Any:
        class Piled(Message):
            n: int

        return Piled

    send(define()(1))
    before = len(_json_records._records)
    for _ in range(50):
        send(define()(1))
    assert len(_json_records._records) == before


def test_local_dataclass_may_name_itself() -> None:
    @dataclass
    class Link:
        next: Optional[Link] = None

    class Uses(Message):
        link: Any

    class Knows(Message):
        link: Chained

    class Chained(Message):
        first: int
        more: list[Chained]

    assert send(Knows(Chained(1, [Chained(2, [])])))[0].link.more[0].first == 2
    spare = type(Message)(
        "Spare",
        (Message,),
        {"__annotations__": {"v": Link}, "__module__": __name__, "__qualname__": "Spare"},
    )
    assert send(spare(Link(Link())))[0] == spare(Link(Link()))


def test_typed_dict_with_a_name_that_is_not_defined(module: Any) -> None:
    late = module(
        "json_late_dict",
        "from __future__ import annotations\n"
        "import typing\n"
        "from streamipc.messages import Message\n"
        "class Film(typing.TypedDict):\n"
        "    title: typing.Annotated[str, 1]\n"
        "    maker: Maker\n"
        "class Uses(Message):\n"
        "    film: Film\n",
    )
    with pytest.raises(SerializationError, match=r"^body\.film\.maker: can't resolve 'Maker'"):
        send(late.Uses({"title": "a", "maker": 1}))
    late.Maker = str
    assert send(late.Uses({"title": "a", "maker": "b"}))[0].film == {"title": "a", "maker": "b"}


class Ask(Request[Decimal]):
    n: int


def test_reply_type_of_a_request_is_no_field() -> None:
    assert send(Ask(1))[1] == {"n": 1}


def test_nested_generic_reply_comes_back() -> None:
    reply = DatePage([date(2024, 1, 1)])
    (payload,) = SERIALIZER.encode(Response(1, reply))
    arrived: Any = SERIALIZER.decode(memoryview(payload))
    assert arrived.value == reply
    assert type(arrived.value) is DatePage


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements are new in Python 3.12")
def test_type_statements(module: Any) -> None:
    new = module(
        "json_type_statements",
        "from decimal import Decimal\n"
        "from streamipc.messages import Message\n"
        "type Number = int | Decimal\n"
        "type Nest[T] = T | list[Nest[T]]\n"
        "type Plain = None | str | dict[str, Plain]\n"
        "class Modern[T](Message):\n"
        "    number: Number\n"
        "    nest: Nest[Decimal]\n"
        "    plain: Plain | int\n"
        "    own: T\n"
        "class Uses(Message):\n"
        "    modern: Modern[bytes]\n"
        "class Quoted[T](Message):\n"
        "    own: 'list[T]'\n"
        "class UsesQuoted(Message):\n"
        "    quoted: Quoted[bytes]\n",
    )
    assert send(new.UsesQuoted(new.Quoted([b"x"])))[1] == {"quoted": {"own": ["eA=="]}}
    modern = new.Modern(Decimal(1), [Decimal(1), [Decimal(2)]], {"a": {"b": None}}, b"x")
    arrived, data = send(new.Uses(modern))
    assert arrived.modern == modern
    assert data["modern"]["nest"] == ["1", ["2"]]
    assert data["modern"]["own"] == "eA=="


@pytest.mark.skipif(sys.version_info < (3, 11), reason="generic NamedTuple is new in Python 3.11")
def test_generic_named_tuples_and_typed_dicts(module: Any) -> None:
    new = module(
        "json_generic_tuples",
        "from typing import Generic, NamedTuple, Self, TypedDict, TypeVar\n"
        "from decimal import Decimal\n"
        "from streamipc.messages import Message\n"
        "T = TypeVar('T')\n"
        "class Pair(NamedTuple, Generic[T]):\n"
        "    a: T\n"
        "    b: T\n"
        "class Entry(TypedDict, Generic[T]):\n"
        "    value: T\n"
        "class Uses(Message):\n"
        "    pair: Pair[Decimal]\n"
        "    entry: Entry[Decimal]\n"
        "    me: Self | None = None\n",
    )
    message = new.Uses(
        new.Pair(Decimal(1), Decimal(2)),
        {"value": Decimal(3)},
        new.Uses(new.Pair(Decimal(1), Decimal(2)), {"value": Decimal(3)}),
    )
    arrived, data = send(message)
    assert arrived == message
    assert data["pair"] == {"a": "1", "b": "2"}
    assert data["entry"] == {"value": "3"}
