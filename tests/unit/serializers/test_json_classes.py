"""Classes in annotations: which are known by name, and where their names are looked up."""

# ruff: noqa: UP006, UP045 - the old spellings are tested too

from __future__ import annotations

import enum
import json
import sys
import typing
from collections.abc import Callable
from typing import Annotated, Any, Generic, NamedTuple, NewType, Optional, TypeVar, Union

import pytest
import typing_extensions
from json_fields import Fields
from typing_extensions import ReadOnly

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Request, Response
from streamipc.serializers.json import JsonMessageSerializer

if sys.version_info >= (3, 11):
    from typing import NotRequired, Required, Self, TypedDict
else:
    from typing_extensions import NotRequired, Required, Self, TypedDict

SERIALIZER = JsonMessageSerializer()


T = TypeVar("T")


class Item(Message):
    n: int


class Animal(Message):
    name: str


class Dog(Animal):
    tricks: int = 0


class Shape(Message, abstract=True):
    """Has no name of its own on the wire."""


class Circle(Shape):
    radius: float


class Figure(Message, abstract=True):
    """Has no name of its own on the wire either, but a field."""

    corners: int


class Square(Figure):
    side: float


class Own:
    """Names that the typing module has too."""

    class Self(Message):
        n: int

    class Final(Message):
        n: int

    class LiteralString(Message):
        n: int


class Row(tuple):  # type: ignore[type-arg]
    __slots__ = ()


class Table(dict):  # type: ignore[type-arg]
    pass


class Node:
    """Looks like a class of the ``ast`` module."""

    _fields = ("n",)
    __required_keys__ = frozenset({"n"})


class Hidden(enum.Enum):
    """No message names it outside of a tuple."""

    A = 1


class Hides(Message):
    pair: tuple[int, Hidden] = (0, Hidden.A)


class Film(TypedDict):
    title: str
    year: NotRequired[int]
    maker: Annotated[NotRequired[str], "nobody knows"]


class Book(TypedDict, total=False):
    title: Required[str]
    pages: int


class Link(Message):
    following: Optional[Self] = None


class LongLink(Link):
    n: int = 0


class Frozen(typing_extensions.TypedDict):
    title: str
    year: ReadOnly[NotRequired[int]]


class LostDict(TypedDict):
    maker: Nowhere  # type: ignore[name-defined]  # noqa: F821


class LostTuple(NamedTuple):
    maker: Nowhere  # type: ignore[name-defined]  # noqa: F821


class Page(Message, Generic[T]):
    items: list[T]
    following: Optional[Self] = None


class NumberPage(Page[int]):
    number: int = 0


class LatePage(Page["Nowhere"]):  # type: ignore[name-defined]
    pass


Ids = NewType("Ids", typing.List["Item"])


holder = Fields(__name__).holder


def send(message: Message) -> tuple[Any, Any]:
    """Return a message as it arrives, and its fields as JSON."""
    (payload,) = SERIALIZER.encode(Notification(message))
    arrived: Any = SERIALIZER.decode(memoryview(payload))
    return arrived.message, json.loads(bytes(payload))["body"]


def read(cls: Any, data: Any) -> Any:
    payload = json.dumps({"kind": "notification", "type": cls.__wire_name__, "body": data})
    envelope: Any = SERIALIZER.decode(memoryview(payload.encode()))
    return envelope.message


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (typing.List["Item"], [Item(1)]),
        (Annotated[typing.List["Item"], "some"], [Item(1)]),
        (typing.Final["Item"], Item(1)),
        (Ids, [Item(1)]),
        (typing.Tuple["Item", ...], (Item(1),)),
        (typing.Tuple["Item", int], (Item(1), 2)),
        (typing.Dict["str", "Item"], {"a": Item(1)}),
        (typing.Dict["int", "Item"], {1: Item(1)}),
        (tuple["Item", ...], (Item(1),)),
    ],
    ids=str,
)
def test_a_text_inside_of_a_type_is_a_name_of_the_module(annotation: Any, value: Any) -> None:
    cls = holder(annotation)

    assert send(cls(value))[0] == cls(value)


@pytest.mark.parametrize("cls", [Own.Self, Own.Final, Own.LiteralString])
def test_a_class_may_have_a_name_of_the_typing_module(cls: Any) -> None:
    made = holder(cls)

    assert send(made(cls(1)))[1] == {"v": {"n": 1}}
    assert type(send(made(cls(1)))[0].v) is cls


def test_self_is_the_class_of_the_message_in_its_base_too() -> None:
    message = LongLink(LongLink(None, 1), 2)

    arrived, data = send(message)

    assert arrived == message
    assert data == {"following": {"following": None, "n": 1}, "n": 2}

    page = NumberPage([1], NumberPage([2]), 3)
    assert send(page)[0] == page


@pytest.mark.parametrize(
    ("base", "value", "written"),
    [
        (Shape, Circle(1.5), {"$type": f"{__name__}.Circle", "radius": 1.5}),
        (Figure, Square(4, 1.5), {"$type": f"{__name__}.Square", "corners": 4, "side": 1.5}),
    ],
    ids=["without fields", "with a field"],
)
def test_an_abstract_message_stands_for_its_subclasses(base: Any, value: Any, written: Any) -> None:
    cls = holder(base)

    arrived, data = send(cls(value))

    assert data["v"] == written
    assert arrived == cls(value)


@pytest.mark.parametrize("value", [Row((1,)), Table(n=1), Node()], ids=lambda v: type(v).__name__)
def test_a_class_that_says_nothing_of_its_fields_is_not_sent(value: Any) -> None:
    cls = type(value)
    with pytest.raises(SerializationError) as caught:
        send(holder(cls)(value))
    assert str(caught.value).startswith(
        f"body.v: JSON can't carry a value of {__name__}.{cls.__name__}"
    )


@pytest.mark.parametrize("value", [(1,), Row((1,)), Table(n=1), Node(), {"n": 1}], ids=str)
def test_only_a_message_is_sent_by_itself(value: Any) -> None:
    for envelope in (Notification(value), Request(1, value)):
        with pytest.raises(SerializationError, match=r"^body: expected a Message, got a value of "):
            SERIALIZER.encode(envelope)


def test_a_class_inside_of_a_tuple_is_known_too() -> None:
    payload = b"".join(SERIALIZER.encode(Response(1, [Hidden.A])))

    assert SERIALIZER.decode(memoryview(payload)) == Response(1, [Hidden.A])


def test_a_type_that_grows_without_end_hides_no_other_class() -> None:
    class Growing(Message, Generic[T]):
        value: T
        following: Optional[Growing[list[T]]] = None

    send(Growing(1))
    payload = b"".join(SERIALIZER.encode(Response(1, [Hidden.A])))
    assert SERIALIZER.decode(memoryview(payload)) == Response(1, [Hidden.A])


def test_what_a_typed_dict_requires_counts_though_its_annotations_are_texts() -> None:
    film = holder(Film)
    assert read(film, {"v": {"title": "a"}}).v == {"title": "a"}
    assert send(film({"title": "a"}))[1] == {"v": {"title": "a"}}

    frozen = holder(Frozen)
    assert read(frozen, {"v": {"title": "a", "year": 1}}).v == {"title": "a", "year": 1}
    assert read(frozen, {"v": {"title": "a"}}).v == {"title": "a"}

    book = holder(Book)
    assert read(book, {"v": {"title": "a"}}).v == {"title": "a"}
    with pytest.raises(SerializationError, match=r"^body\.v\.title: missing \(required by .*Book"):
        read(book, {"v": {"pages": 1}})
    with pytest.raises(SerializationError, match=r"^body\.v\.title: missing \(required by .*Book"):
        send(book({"pages": 1}))


def test_a_value_of_two_members_of_a_union_goes_as_what_it_is() -> None:
    cls = holder(Union[Message, Animal])
    arrived, data = send(cls(Dog("a", 2)))
    assert data["v"] == {"$type": f"{__name__}.Dog", "name": "a", "tricks": 2}
    assert arrived == cls(Dog("a", 2))

    cls = holder(Union[Animal, Dog])
    for name in ("Animal", "Dog"):
        with pytest.raises(SerializationError, match=r"^body\.v\.name: expected str, got 5"):
            read(cls, {"v": {"$type": f"{__name__}.{name}", "name": 5}})


def test_messages_of_an_inner_function_find_each_other() -> None:
    def define() -> Any:
        class Outer(Message):
            inner: list[Within]

        class Within(Message):
            n: int

        return Outer([Within(1)])

    message = define()
    assert send(message)[0] == message


@pytest.fixture
def late_module(module: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
    """As ``module``, of one whose annotations are texts."""
    return lambda name, text: module(name, "from __future__ import annotations\n" + text)


def test_an_inherited_key_is_read_where_it_was_written(late_module: Any) -> None:
    late_module(
        "json_base_dict",
        "from typing import TypedDict\nfrom datetime import date as Day\n"
        "class Dated(TypedDict):\n    day: Day\n",
    )
    late = late_module(
        "json_long_dict",
        "from json_base_dict import Dated\nfrom streamipc.messages import Message\n"
        "class Long(Dated):\n    n: int\n"
        "class Uses(Message):\n    long: Long\n",
    )
    assert read(late.Uses, {"long": {"day": "2024-05-01", "n": 1}}).long["day"].year == 2024


def test_a_module_may_be_gone_when_its_message_is_first_sent(late_module: Any) -> None:
    gone = late_module(
        "json_gone_module",
        "from streamipc.messages import Message\nfrom typing import TypedDict\n"
        "class Number(TypedDict):\n    n: int\n"
        "class Numbers(Message):\n    v: list[int]\n",
    )
    del sys.modules["json_gone_module"]
    assert send(gone.Numbers([1]))[0] == gone.Numbers([1])
    cls = holder(gone.Number)
    assert send(cls({"n": 1}))[0] == cls({"n": 1})


def test_messages_of_a_function_are_those_of_its_module(late_module: Any) -> None:
    text = (
        "from streamipc.messages import Message\n"
        "def define():\n"
        "    class Outer(Message):\n"
        "        inner: Within\n"
        "    class Within(Message):\n"
        "        n: int\n"
        "    return Outer(Within(1))\n"
    )
    for name in ("json_first_twin", "json_second_twin"):
        message = late_module(name, text).define()
        assert type(send(message)[0].inner) is type(message.inner)


@pytest.mark.parametrize("cls", [LostDict, LostTuple])
def test_a_name_that_is_not_defined_is_told_with_its_field(cls: Any) -> None:
    with pytest.raises(SerializationError) as caught:
        read(holder(cls), {"v": {"maker": 1}})
    text = f"can't resolve 'Nowhere' in the annotation 'Nowhere' of {__name__}.{cls.__name__}.maker"
    assert str(caught.value).startswith(f"body.v.maker: {text}: define")


@pytest.mark.parametrize("annotation", [list["Nowhere"], typing.List["Nowhere"]], ids=repr)  # type: ignore[name-defined]  # noqa: F821
def test_a_name_that_is_not_defined_has_itself_in_an_error(annotation: Any) -> None:
    with pytest.raises(SerializationError, match=r"^body\.v: expected list\[Nowhere\], got 5 "):
        read(holder(annotation), {"v": 5})


def test_an_argument_of_a_base_that_is_not_defined_is_told_with_its_class() -> None:
    with pytest.raises(SerializationError) as caught:
        send(LatePage([1]))
    text = f"can't resolve 'Nowhere' in the annotation 'Nowhere' of {__name__}.LatePage: define"
    assert str(caught.value).startswith(f"body.items[0]: {text}")


def test_an_annotation_that_makes_no_sense_is_shown() -> None:
    class Odd(Message):
        n: int + 1 = 0  # type: ignore[valid-type]

    with pytest.raises(SerializationError) as caught:
        send(Odd(1))
    told = str(caught.value)
    assert told.startswith("body.n: can't resolve 'int + 1' in the annotation 'int + 1' of ")
    assert "Odd.n (TypeError: " in told
    assert "outside of functions and of TYPE_CHECKING" in told


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements are new in Python 3.12")
def test_a_name_inside_of_a_type_statement_is_told_with_its_field(late_module: Any) -> None:
    new = late_module(
        "json_type_names",
        "from streamipc.messages import Message\n"
        "type Named[T] = dict[T, list['Missing']]\n"
        "class Uses(Message):\n    names: Named[str]\n",
    )
    with pytest.raises(SerializationError) as caught:
        send(new.Uses({"a": [1]}))
    told = "body.names.a[0]: can't resolve 'Missing' in the annotation 'Missing' of "
    assert str(caught.value).startswith(f"{told}json_type_names.Uses.names: define")
