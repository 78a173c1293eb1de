"""Whatever is made of plain data and safe types survives the native serializer."""

from __future__ import annotations

import array
import datetime
import pathlib
import pickle
from collections import Counter, OrderedDict, deque
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from streamipc.exceptions import SerializationError
from streamipc.messages import ErrorMessage, Message
from streamipc.protocol.envelopes import (
    Cancel,
    Credit,
    Envelope,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)
from streamipc.serializers._native_scan import check, is_plain, short_matcher
from streamipc.serializers.native import NativeMessageSerializer

SERIALIZER = NativeMessageSerializer()
MATCH_SHORT = short_matcher()


class Carrier(Message):
    value: Any
    other: Any = None


class FrozenCarrier(Message, frozen=True):
    value: Any


texts = st.text(max_size=20) | st.text("ab", min_size=250, max_size=260)
hashable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.binary(),
    lambda inner: (
        st.tuples(inner, inner)
        | st.lists(inner, max_size=5).map(tuple)
        | st.frozensets(inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
plain = st.recursive(
    hashable | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.tuples(inner, inner, inner)
        | st.dictionaries(hashable, inner)
        | st.sets(hashable)
    ),
)
standard = (
    st.datetimes(timezones=st.none() | st.just(datetime.timezone.utc))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
    | st.complex_numbers(allow_nan=False)
    | st.ip_addresses()
    | st.text("ab/.").map(pathlib.PurePosixPath)
    | st.lists(st.integers(-128, 127)).map(lambda items: array.array("b", items))
    | st.builds(range, st.integers(), st.integers(), st.integers(1))
)
values = st.recursive(
    plain | standard,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(hashable | st.decimals(allow_nan=False) | st.uuids() | st.dates(), inner)
        | st.lists(inner).map(deque)
        | st.dictionaries(texts, inner).map(OrderedDict)
        | st.dictionaries(texts, st.integers()).map(Counter)
        | st.builds(Carrier, inner, inner)
        | st.builds(FrozenCarrier, inner)
    ),
    max_leaves=20,
)


ids = st.integers(0, 2**64 - 1) | st.text(min_size=1).filter(lambda t: 1 <= len(t.encode()) <= 255)
counts = st.integers(0, 2**32 - 1)
messages = st.builds(Carrier, values, values) | st.builds(FrozenCarrier, values)
metadata = st.none() | st.dictionaries(texts, texts, min_size=1)
envelopes: st.SearchStrategy[Envelope] = (
    st.builds(Request, ids, messages, st.none() | st.floats(-1e9, 1e9), metadata, counts)
    | st.builds(Response, ids, values | messages)
    | st.builds(
        ErrorResponse, ids, st.builds(ErrorMessage, texts, texts, texts), st.just("unhandled")
    )
    | st.builds(Notification, messages, metadata)
    | st.builds(Progress, ids, values | messages)
    | st.builds(Credit, ids, counts)
    | st.builds(Cancel, ids)
)


def same_types(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple, deque)):
        return all(map(same_types, a, b))
    if isinstance(a, dict):
        return all(map(same_types, a, b)) and all(map(same_types, a.values(), b.values()))
    return True


@given(envelopes)
def test_an_envelope_comes_back_as_it_was(envelope: Envelope) -> None:
    payload = b"".join(SERIALIZER.encode(envelope))
    assert SERIALIZER.decode(memoryview(payload)) == envelope


@given(values)
def test_a_value_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    payload = b"".join(SERIALIZER.encode(Response(1, value)))
    back = SERIALIZER.decode(memoryview(payload)).value  # type: ignore[union-attr]
    assert back == value
    assert same_types(back, value)


@given(plain)
def test_what_pickle_makes_of_plain_data_passes_the_walk(value: Any) -> None:
    data = pickle.dumps(value, 5)
    check(data)
    if MATCH_SHORT(data):
        assert is_plain(data, 0, len(data))


@given(st.data(), values)
@settings(max_examples=3 * settings.default.max_examples)
def test_damage_raises_nothing_but_serialization_errors(data: st.DataObject, value: Any) -> None:
    payload = bytearray().join(SERIALIZER.encode(Request(1, Carrier(value), 1.0, {"a": "b"})))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    try:
        SERIALIZER.decode(memoryview(payload))
    except SerializationError:
        event("refused")


@given(st.binary())
def test_noise_raises_nothing_but_serialization_errors(noise: bytes) -> None:
    header = b"".join(SERIALIZER.encode(Response(1, None)))[:28]
    for payload in (noise, header + noise, header + b"\x80\x05" + noise + b"."):
        try:
            SERIALIZER.decode(memoryview(payload))
        except SerializationError:
            event("refused")
