"""JSON as other languages write it: what can only mean one thing is taken."""

from __future__ import annotations

import collections
import json
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import pytest

from streamipc.exceptions import SerializationError
from streamipc.messages import ErrorMessage, Message, Request
from streamipc.protocol import envelopes
from streamipc.protocol.connection import Connection
from streamipc.protocol.envelopes import MAX_WINDOW, Credit, ErrorResponse, Notification, Response
from streamipc.protocol.events import Rejected
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()


class Ping(Request[None], wire_name="elsewhere.Ping"):
    pass


class Loose(Message, wire_name="elsewhere.Loose"):
    n: int = 5


class Strict(Message, wire_name="elsewhere.Strict"):
    n: int


@dataclass
class Spot:
    x: int = 1


class Pair(NamedTuple):
    a: int = 1


class Film(TypedDict, total=False):
    title: str


class Empties(Message, wire_name="elsewhere.Empties"):
    spot: Spot | None = None
    pair: Pair | None = None
    film: Film | None = None
    ping: Ping | None = None
    strict: Strict | None = None
    table: dict[str, int] | None = None
    pairs: dict[tuple[int, int], int] | None = None
    free: dict | None = None  # type: ignore[type-arg]
    ordered: collections.OrderedDict[str, int] | None = None
    items: list[int] | None = None
    many: set[int] | None = None
    fixed: tuple[int, int] | None = None
    either: list[int] | dict[str, int] | None = None
    any: Any = None


def decode(data: Any) -> Any:
    return SERIALIZER.decode(memoryview(json.dumps(data).encode()))


def note(name: str, **more: Any) -> Any:
    return decode({"kind": "notification", "type": f"elsewhere.{name}", **more}).message


def test_null_stands_for_every_key_that_may_be_absent() -> None:
    absent: dict[str, Any] = {"kind": "request", "id": 1, "type": "elsewhere.Loose"}
    null = dict.fromkeys(("timeout", "metadata", "window", "body"))
    assert decode(absent | null) == decode(absent) == envelopes.Request(1, Loose())
    assert decode({"kind": "response", "id": 1, "type": None, "body": None}) == Response(1, None)
    nothing = {"type": None, "traceback": None}
    assert decode(
        {"kind": "error", "id": 1, "code": None, "body": {"message": "m", **nothing}}
    ) == ErrorResponse(1, ErrorMessage("m"))
    for needed in ({"kind": "credit", "id": 1, "count": None}, {"kind": "cancel", "id": None}):
        with pytest.raises(SerializationError, match=r"^(count|id): expected"):
            decode(needed)


@pytest.mark.parametrize("more", [{}, {"body": None}, {"body": []}, {"body": {}}], ids=str)
def test_a_message_that_needs_no_fields_needs_no_body(more: Any) -> None:
    assert note("Ping", **more) == Ping()
    assert note("Loose", **more) == Loose(5)
    with pytest.raises(SerializationError, match=r"^body(\.n)?: (missing|expected)") as caught:
        note("Strict", **more)
    assert "elsewhere.Strict" in str(caught.value)


def test_a_reply_that_is_such_a_message_needs_none_either() -> None:
    assert decode({"kind": "response", "id": 1, "type": "elsewhere.Ping"}) == Response(1, Ping())


@pytest.mark.parametrize("body", [[1], "", 0, False, [[]]], ids=str)
def test_what_is_no_empty_object_is_refused(body: Any) -> None:
    with pytest.raises(SerializationError, match=r"^body: expected elsewhere\.Loose, got"):
        note("Loose", body=body)


def test_an_empty_object_and_an_empty_array_are_taken_for_each_other() -> None:
    message = note(
        "Empties",
        body={
            "spot": [], "pair": [], "film": [], "ping": [], "table": [], "pairs": {}, "free": [],
            "ordered": [], "items": {}, "many": {}, "either": [], "any": [],
        },
    )  # fmt: skip
    assert message == Empties(
        Spot(), Pair(), {}, Ping(), None, {}, {}, {}, collections.OrderedDict(), [], set(), None,
        [], [],
    )  # fmt: skip
    assert type(message.ordered) is collections.OrderedDict
    assert note("Empties", body={"either": {}, "any": {}}) == Empties(either={}, any={})
    for field, empty in (("strict", []), ("fixed", {}), ("table", ""), ("items", 0)):
        with pytest.raises(SerializationError, match=rf"^body\.{field}: expected"):
            note("Empties", body={field: empty})


def test_an_empty_array_is_no_metadata() -> None:
    for metadata in ([], {}, None):
        envelope = decode({"kind": "notification", "type": "elsewhere.Ping", "metadata": metadata})
        assert not envelope.metadata
        assert envelope == Notification(Ping(), envelope.metadata)


NONE = "no message was given"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"message": "m", "type": "T", "traceback": "t"}, ErrorMessage("m", "T", "t")),
        ("it broke", ErrorMessage("it broke")),
        ("", ErrorMessage("")),
        ({"message": ""}, ErrorMessage("")),
        (None, ErrorMessage(NONE)),
        ({}, ErrorMessage(NONE)),
        ([], ErrorMessage(NONE)),
        ({"type": "T"}, ErrorMessage(NONE, "T")),
        ({"message": None, "type": "T"}, ErrorMessage(NONE, "T")),
        ({"message": "m", "line": 5, "file": "a.php", "$type": "x"}, ErrorMessage("m")),
        ({"message": 5}, ErrorMessage("5")),
        ({"message": {"a": ["b" * 500]}}, ErrorMessage("{'a': ['" + "b" * 80 + "'…]}")),
        ({"message": ["x"] * 9, "type": 7}, ErrorMessage("['x', 'x', 'x', 'x', 'x', …]", "7")),
        ({"message": "m", "traceback": ["a", "b"]}, ErrorMessage("m", "", "a\nb")),
        ({"message": "m", "traceback": [["a"]]}, ErrorMessage("m", "", "[['a']]")),
        (503, ErrorMessage("503")),
        (False, ErrorMessage("False")),
    ],
    ids=str,
)
def test_no_form_of_an_error_hides_its_message(body: Any, error: ErrorMessage) -> None:
    assert decode({"kind": "error", "id": 1, "body": body}) == ErrorResponse(1, error)


def test_an_error_may_have_no_body_and_any_code() -> None:
    assert decode({"kind": "error", "id": 1}) == ErrorResponse(1, ErrorMessage(NONE))
    for code in (None, 503, ["x"], {}, "of later"):
        made = decode({"kind": "error", "id": 1, "code": code, "body": "m"})
        assert made == ErrorResponse(1, ErrorMessage("m"), "handler")
    made = decode({"kind": "error", "id": 1, "code": "unhandled", "body": "m"})
    assert made == ErrorResponse(1, ErrorMessage("m"), "unhandled")


@pytest.mark.parametrize("window", [MAX_WINDOW + 1, 2**32 - 1, 2**32, 2**64 - 1])
def test_a_window_that_is_too_large_is_refused_in_one_place(window: int) -> None:
    text = json.dumps({"kind": "request", "id": 1, "type": "elsewhere.Ping", "window": window})
    connection = Connection(SERIALIZER, 4096)
    (decoded,) = connection.feed(b"\xf3\x4a\x9d\xe2" + len(text).to_bytes(4, "big") + text.encode())

    event = connection.receive(decoded)

    assert isinstance(event, Rejected)
    assert event.answer.code == "protocol"
    assert f"is {window}, not from 0 to 2**31-1" in str(event.error)


def test_no_text_names_another_bound_of_a_window() -> None:
    for envelope in (envelopes.Request(1, Ping(), window=-1), Credit(1, 2**64)):
        with pytest.raises(SerializationError, match=r"from 0 to 2\*\*31-1, got"):
            SERIALIZER.encode(envelope)
    with pytest.raises(SerializationError, match=r"^window: .* from 0 to 2\*\*31-1, got 1000"):
        decode({"kind": "request", "id": 1, "type": "elsewhere.Ping", "window": 10**4000})
