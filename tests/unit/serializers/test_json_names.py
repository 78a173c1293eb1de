"""Names in annotations that are not defined, or not yet, and what a type statement means."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import date
from typing import Any, Generic, TypeVar, Union

import pytest
from json_fields import Fields

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Response
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()
T = TypeVar("T")


class Base(Message):
    pass


class Box(Base, Generic[T]):
    value: T


class Twice(Message):
    first: Nowhere = None  # type: ignore[name-defined]  # noqa: F821
    second: Nowhere = None  # type: ignore[name-defined]  # noqa: F821


fields = Fields(__name__)


def there_and_back(message: Message) -> Any:
    payload = b"".join(SERIALIZER.encode(Notification(message)))
    return SERIALIZER.decode(memoryview(payload)).message  # type: ignore[union-attr]


def read(cls: Any, data: Any) -> Any:
    payload = json.dumps({"kind": "notification", "type": cls.__wire_name__, "body": data})
    return SERIALIZER.decode(memoryview(payload.encode())).message  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["Scope", "Codec", "Mapping", "typing"])
def test_a_name_of_the_library_is_none_of_the_program(name: str) -> None:
    with pytest.raises(SerializationError, match=rf"^body\.v: can't resolve '{name}' in the anno"):
        fields.write(name, 1)


def test_a_name_that_is_not_defined_is_told_with_each_of_its_fields() -> None:
    for name in ("first", "second"):
        with pytest.raises(SerializationError, match=rf"^body\.{name}: .* of .*Twice\.{name}: def"):
            read(Twice, {name: 1})


def test_self_beside_a_name_that_is_defined_later_is_the_class_of_the_message(
    module: Callable[[str, str], Any],
) -> None:
    new = module(
        "json_late_names",
        "from __future__ import annotations\n"
        "from typing_extensions import Self\n"
        "from streamipc.messages import Message\n"
        "class Link(Message):\n"
        "    following: list[Self] | Late\n"
        "class LongLink(Link):\n"
        "    pass\n",
    )
    link = new.LongLink([new.LongLink([])])
    with pytest.raises(SerializationError, match=r"^body\.following: can't resolve 'Late' in the"):
        there_and_back(link)

    new.Late = int

    assert there_and_back(link) == link
    assert there_and_back(new.LongLink(5)) == new.LongLink(5)


@pytest.mark.parametrize("annotation", [Union[Base, Box[date]], Union[Box[date], Base]], ids=str)
def test_of_two_members_of_a_union_the_one_that_is_named_says_what_its_fields_are(
    annotation: Any,
) -> None:
    data = {"$type": f"{__name__}.Box", "value": "2024-05-01"}

    assert fields.write(annotation, Box(date(2024, 5, 1))) == data
    assert fields.read(annotation, data) == Box(date(2024, 5, 1))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements are new in Python 3.12")
def test_a_type_statement_may_take_any_number_of_types(module: Callable[[str, str], Any]) -> None:
    new = module(
        "json_type_numbers",
        "from datetime import date\n"
        "from streamipc.messages import Message\n"
        "type Row[T, *Others] = list[T]\n"
        "class Uses(Message):\n    row: Row[date, int, str]\n",
    )
    message = new.Uses([date(2024, 5, 1)])

    assert there_and_back(message) == message
    assert read(new.Uses, {"row": ["2024-05-01"]}) == message


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements are new in Python 3.12")
def test_a_type_statement_that_grows_without_end_spoils_its_message_alone(
    module: Callable[[str, str], Any],
) -> None:
    new = module(
        "json_growing_type",
        "import enum\n"
        "from streamipc.messages import Message\n"
        "type Nest[T] = T | list[Nest[list[T]]]\n"
        "class Color(enum.Enum):\n    RED = 'red'\n"
        "class Grows(Message):\n    v: Nest[int]\n"
        "class Paints(Message):\n    v: Color\n",
    )
    with pytest.raises(SerializationError, match="nested too deeply"):
        there_and_back(new.Grows(1))

    payload = b"".join(SERIALIZER.encode(Response(1, new.Color.RED)))
    assert SERIALIZER.decode(memoryview(payload)) == Response(1, new.Color.RED)
