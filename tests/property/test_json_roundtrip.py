"""Any value that the JSON serializer takes comes back equal, of the same types."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import json
import pathlib
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Progress, Request, Response
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()

TEXT = st.text()  # Hypothesis makes no halves of surrogate pairs
OFFSETS = st.integers(-86_399, 86_399).map(lambda s: dt.timezone(dt.timedelta(seconds=s)))
ZONES = st.one_of(st.none(), st.just(dt.timezone.utc), OFFSETS)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    TEXT,
    st.binary(),
    st.binary().map(bytearray),
    st.complex_numbers(allow_nan=False),
    st.datetimes(timezones=ZONES),
    st.dates(),
    st.times(timezones=st.one_of(st.none(), OFFSETS)),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.lists(st.sampled_from(["a", "..", "b c"])).map(lambda parts: pathlib.Path(*parts)),
)
HASHABLE = st.recursive(
    SCALARS.filter(lambda value: not isinstance(value, bytearray)),
    lambda inner: st.one_of(st.lists(inner).map(tuple), st.frozensets(inner)),
    max_leaves=4,
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.lists(inner).map(collections.deque),
        st.sets(HASHABLE),
        st.frozensets(HASHABLE),
        st.dictionaries(TEXT, inner),
        st.dictionaries(st.sampled_from(["$type", "$", "$date", "a"]), inner),
        st.dictionaries(HASHABLE, inner),
    ),
    max_leaves=12,
)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Pair(NamedTuple):
    a: int
    b: Decimal


@dataclass
class Point:
    x: float
    y: float | None


class Item(Message):
    name: str
    price: Decimal
    tags: set[str] = field(default_factory=set)


class Extra(Item):
    why: str = ""


class Order(Message):
    id: uuid.UUID | int
    items: list[Item]
    by_day: dict[dt.date, tuple[Item, ...]]
    colors: frozenset[Color]
    pair: Pair | None
    point: Point | Item | str | dt.datetime | None
    data: bytes
    wait: dt.timedelta
    any: Any
    child: Order | None = None


DECIMALS = st.decimals(allow_nan=False)
ITEMS = st.one_of(
    st.builds(Item, TEXT, DECIMALS, st.sets(TEXT)),
    st.builds(Extra, TEXT, DECIMALS, st.sets(TEXT), TEXT),
)
FLOATS = st.floats(allow_nan=False)


def orders(child: Any) -> Any:
    return st.builds(
        Order,
        st.one_of(st.uuids(), st.integers()),
        st.lists(ITEMS, max_size=3),
        st.dictionaries(st.dates(), st.lists(ITEMS, max_size=2).map(tuple), max_size=2),
        st.frozensets(st.sampled_from(Color)),
        st.none() | st.builds(Pair, st.integers(), DECIMALS),
        st.one_of(
            st.none(), TEXT, st.datetimes(), ITEMS, st.builds(Point, FLOATS, st.none() | FLOATS)
        ),
        st.binary(),
        st.timedeltas(),
        PLAIN,
        child,
    )


ORDERS = orders(st.none() | orders(st.none()))


def same(made: Any, value: Any) -> bool:
    """Say whether two values are equal, and of the same types all the way down."""
    if type(made) is not type(value) or made != value:
        return False
    if isinstance(value, dict):
        # Equal keys of different types, such as 1 and True, can't be in one dictionary.
        kinds = {key: type(key) for key in value}
        return all(kinds[key] is type(key) and same(made[key], value[key]) for key in made)
    if isinstance(value, (list, tuple, collections.deque)):
        return all(map(same, made, value))
    if isinstance(value, (set, frozenset)):
        kinds = {item: type(item) for item in value}
        return all(kinds[item] is type(item) for item in made)
    if isinstance(value, (Message, Point)):
        return all(same(vars(made)[name], vars(value)[name]) for name in vars(value))
    return isinstance(value, float) is False or str(made) == str(value)


def carry(envelope: Any) -> Any:
    (payload,) = SERIALIZER.encode(envelope)
    json.loads(bytes(payload), parse_constant=refuse)  # what others would read
    return SERIALIZER.decode(memoryview(payload))


def refuse(name: str) -> Any:
    raise AssertionError(name)


@given(PLAIN)
def test_plain_value_comes_back_as_it_was(value: Any) -> None:
    assert same(carry(Response(1, value)).value, value)
    assert same(carry(Progress("x", [value])).item, [value])


@given(ORDERS)
def test_typed_message_comes_back_as_it_was(order: Order) -> None:
    assert same(carry(Notification(order)).message, order)


@given(ORDERS)
def test_message_in_a_plain_reply_comes_back_as_it_was(order: Order) -> None:
    assert same(carry(Response(1, {"a": (order,)})).value, {"a": (order,)})


@given(
    st.one_of(st.integers(0, 2**64 - 1), st.text(min_size=1, max_size=60)),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.dictionaries(TEXT, TEXT, min_size=1),
    st.integers(0, 2**32 - 1),
)
def test_header_comes_back_as_it_was(
    key: int | str, timeout: float | None, metadata: dict[str, str] | None, window: int
) -> None:
    request = Request(key, Item("a", Decimal(1)), timeout, metadata, window)
    assert carry(request) == request
