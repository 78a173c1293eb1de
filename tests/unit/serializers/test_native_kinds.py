"""Types of the user's own are rebuilt only as what they are."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import native_payloads
import pytest

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Response
from streamipc.serializers.native import NativeMessageSerializer

T = TypeVar("T")


class Color(enum.Enum):
    RED = 1


class Even(enum.IntFlag):
    TWO = 2
    FOUR = 4


class Pair(NamedTuple):
    x: int
    y: int = 0


@dataclass
class Box(Generic[T]):
    item: T


class Nothing:
    pass


class Changeling:
    """Makes something else of any argument."""

    def __new__(cls, *args: Any) -> Any:
        return list(args) if args else object.__new__(cls)

    def __reduce__(self) -> Any:
        return Changeling, ()


class Holder(Message):
    color: Color | None = None
    even: Even | None = None
    pair: Pair | None = None
    box: Box[int] | None = None


SERIALIZER = NativeMessageSerializer(allow=[Nothing, Changeling])


def there_and_back(value: Any) -> Any:
    payload = b"".join(SERIALIZER.encode(Response(1, value)))
    return SERIALIZER.decode(memoryview(payload)).value  # type: ignore[union-attr]


def call(name: str, cls: type, *args: Any) -> Any:
    """Have the reader call a builder with the name of a class, as a peer would."""
    class_name = f"{__name__}.{cls.__qualname__}"
    return native_payloads.call(name, class_name, *args, serializer=SERIALIZER)


BUILDERS: dict[str, tuple[Any, ...]] = {
    "enum": ("RED",),
    "flag": (2,),
    "record": ({"item": 1},),
    "namedtuple": ((1, 2),),
    "object": (True, (), {}, None, None, None),
}
KINDS: dict[type, str] = {
    Color: "enum",
    Even: "enum flag",
    Pair: "namedtuple",
    Box: "record",
    Nothing: "object",
}


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("name", BUILDERS)
def test_a_class_is_built_by_the_builder_of_its_kind_alone(name: str, cls: type) -> None:
    if name in KINDS[cls].split() and (name, cls) != ("enum", Even):
        assert type(call(name, cls, *BUILDERS[name])) is cls
    else:
        text = "is not allowed here|is no Flag|has no member"
        with pytest.raises(SerializationError, match=text):
            call(name, cls, *BUILDERS[name])


@pytest.mark.parametrize("values", [(), (1,), (1, 2, 3)])
def test_a_named_tuple_has_all_of_its_fields(values: tuple[int, ...]) -> None:
    with pytest.raises(SerializationError, match=r"Pair needs the fields x, y"):
        call("namedtuple", Pair, values)
    with pytest.raises(SerializationError, match="a tuple is needed, not a list"):
        call("namedtuple", Pair, list(values))


def test_an_allowed_class_may_not_make_something_else() -> None:
    assert type(there_and_back(Changeling())) is Changeling
    with pytest.raises(SerializationError, match="Changeling made a list of its arguments"):
        call("object", Changeling, True, (None,), {}, None, None, None)


def test_a_generic_dataclass_is_known_by_its_name_with_arguments() -> None:
    assert there_and_back([Box(1)]) == [Box(1)]


@pytest.mark.parametrize("value", [1, 8, 6 | 8])
def test_bits_that_no_member_has_are_refused_by_the_sender(value: int) -> None:
    with pytest.raises(SerializationError, match=f"{value} has bits that no member of .*Even has"):
        SERIALIZER.encode(Response(1, Even(value)))
