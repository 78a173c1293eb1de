"""Whatever the bytes are: an envelope or a SerializationError, and nothing else."""

from __future__ import annotations

import datetime as dt
import enum
import json
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamipc.exceptions import SerializationError
from streamipc.messages import ErrorMessage, Message
from streamipc.protocol.envelopes import (
    Cancel,
    Credit,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()


class Color(enum.Enum):
    RED = "red"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Leaf(Message):
    n: int = 0
    f: float = 0.0


class Wide(Message):
    text: str
    day: dt.date | dt.datetime | str
    wait: dt.timedelta
    money: Decimal | None
    key: uuid.UUID
    where: Path
    data: bytes
    color: Color | int
    rights: Rights
    items: list[Leaf | None]
    table: dict[int, set[str]] | dict[str, tuple[int, ...]]
    pairs: dict[tuple[int, int], complex]
    either: Leaf | Wide | None
    any: Any = None


WIDE = Wide(
    "é\n",
    dt.date(2024, 5, 1),
    dt.timedelta(seconds=1.5),
    Decimal("1.5"),
    uuid.UUID(int=5),
    Path("a/b"),
    b"abc",
    Color.RED,
    Rights.READ,
    [Leaf(1), None],
    {1: {"a"}},
    {(1, 2): 1j},
    Leaf(2),
    [{"$a": (1, {2}, Decimal(1), dt.time(1), float("nan"), Leaf())}, {1: b"x"}],
)
ENVELOPES: list[Any] = [
    Request(1, WIDE, 30.0, {"a": "b"}, 16),
    Response("x", [WIDE, Color.RED]),
    ErrorResponse(2, ErrorMessage("a", "b", "c"), "timeout"),
    Notification(WIDE),
    Progress(3, WIDE.any),
    Credit(4, 5),
    Cancel(6),
]
PAYLOADS = [bytes(SERIALIZER.encode(envelope)[0]) for envelope in ENVELOPES]
PARTS = [
    *[b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"-", b"1e999"],
    *[b'"$type"', b'"$date"', b'"$map":[[1,1]]', b'{"$enum":1}', b"\xff", b"\\ud800", b"9" * 99],
]


def try_to_decode(payload: bytes) -> None:
    """Decode; what comes out can be sent on, or it is a SerializationError."""
    try:
        envelope = SERIALIZER.decode(memoryview(payload))
    except SerializationError:
        return
    (again,) = SERIALIZER.encode(envelope)
    SERIALIZER.decode(memoryview(again))


@given(st.sampled_from(PAYLOADS), st.data())
def test_mutated_payloads(payload: bytes, data: st.DataObject) -> None:
    changed = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed)))
        length = data.draw(st.integers(0, 6))
        part = data.draw(st.one_of(st.sampled_from(PARTS), st.binary(max_size=3)))
        changed[place : place + length] = part
    try_to_decode(bytes(changed))


@given(st.sampled_from(PAYLOADS), st.data())
def test_truncated_payloads(payload: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(SerializationError):
        SERIALIZER.decode(memoryview(payload[:cut]))


@given(st.binary())
def test_random_bytes(payload: bytes) -> None:
    try_to_decode(payload)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.sampled_from(["red", "2024-05-01", "1.5", "AA==", str(uuid.UUID(int=1)), "nan"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner),
        st.dictionaries(
            st.one_of(
                st.text(max_size=3),
                st.sampled_from(
                    [
                        *["$type", "$enum", "value", "$map", "$set", "$tuple", "$float", "$date"],
                        *["$datetime", "$time", "$timedelta", "$decimal", "$uuid", "$path"],
                        *["$bytes", "$complex", "$deque", "n", "f", "text", "either"],
                    ]
                ),
            ),
            inner,
        ),
    ),
    max_leaves=8,
)
PLACES = list(json.loads(PAYLOADS[3])["body"])


@given(st.sampled_from(PLACES), VALUES)
def test_any_json_in_any_field(place: str, value: Any) -> None:
    payload = json.loads(PAYLOADS[3])
    payload["body"][place] = value
    try_to_decode(json.dumps(payload).encode("utf-8", "surrogatepass"))


@given(VALUES, VALUES)
def test_any_json_in_a_plain_reply(body: Any, key: Any) -> None:
    try_to_decode(json.dumps({"kind": "response", "id": 1, "body": body}).encode())
    try_to_decode(json.dumps({"kind": "request", "id": key, "type": key, "body": body}).encode())


@given(
    st.sampled_from(
        ["kind", "id", "type", "body", "timeout", "metadata", "window", "code", "count"]
    ),
    VALUES,
    st.sampled_from(PAYLOADS),
)
def test_any_json_in_any_key_of_the_envelope(key: str, value: Any, payload: bytes) -> None:
    data = json.loads(payload)
    data[key] = value
    try_to_decode(json.dumps(data).encode())


def test_nothing_was_imported_on_the_way() -> None:
    for name in ("os.path.join", "this", "antigravity", "streamipc.peer.IpcPeer"):
        for text in ('"type":"%s","body":{}', '"body":{"$type":"%s"}', '"body":{"$enum":"%s"}'):
            try_to_decode(('{"kind":"response","id":1,' + text % name + "}").encode())
    assert "this" not in sys.modules
    assert "antigravity" not in sys.modules
