"""Values that can't be sent: the error says where they stand and what helps, and is short."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import enum
import gc
import io
import re
import socket
import threading
import traceback
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Progress, Request, Response
from streamipc.serializers.json import JsonMessageSerializer
from streamipc.serializers.native import NativeMessageSerializer

NATIVE = NativeMessageSerializer()
JSON = JsonMessageSerializer()
BOTH = pytest.mark.parametrize("serializer", [NATIVE, JSON], ids=["native", "json"])


class Note(Message, wire_name="unsendable.Note"):
    value: Any = None


@dataclass
class Spot:
    x: Any


class Pair(NamedTuple):
    first: Any
    second: Any = 0


class Known(Message, wire_name="unsendable.Known"):
    spot: Spot | None = None
    pair: Pair | None = None
    notes: list[Note] | None = None


class Box:
    """May be allowed."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Boxes(list):  # type: ignore[type-arg]
    """May be allowed too."""


class Lone(enum.Enum):
    A = 1


class Zone(dt.tzinfo):
    """As those of pytz: taken apart, it names a function."""

    def utcoffset(self, when: Any) -> dt.timedelta:
        return dt.timedelta(hours=1)

    def __reduce__(self) -> Any:
        return print, ()


LOCK = threading.Lock()


def refused(serializer: Any, value: Any) -> SerializationError:
    message = value if isinstance(value, Message) else Note(value)
    with pytest.raises(SerializationError) as caught:
        serializer.encode(Notification(message))
    return caught.value


PLACES: list[tuple[Any, str, str]] = [
    # The value, where it is for the native serializer, and for JSON.
    (LOCK, "unsendable.Note.value", "body.value"),
    ({"a": [1, {"b": LOCK}]}, "unsendable.Note.value['a'][1]['b']", "body.value.a[1].b"),
    ([0, (1, [LOCK])], "unsendable.Note.value[1][1][0]", "body.value[1][1][0]"),
    ({"a b": LOCK}, "unsendable.Note.value['a b']", 'body.value["a b"]'),
    ({5: [LOCK]}, "unsendable.Note.value[5][0]", "body.value[0][1][0]"),
    ({(1, LOCK): 5}, "unsendable.Note.value.keys()[0][1]", "body.value[0][0][1]"),
    ({LOCK}, "unsendable.Note.value{…}", "body.value[0]"),
    (collections.deque([0, LOCK]), "unsendable.Note.value[1]", "body.value[1]"),
    (Note([Note([1, LOCK])]), "unsendable.Note.value[0].value[1]", "body.value[0].value[1]"),
    (Known(Spot([LOCK])), "unsendable.Known.spot.x[0]", "body.spot.x[0]"),
    (Known(None, Pair(1, [LOCK])), "unsendable.Known.pair.second[0]", "body.pair.second[0]"),
    (
        Known(None, None, [Note(1), Note(LOCK)]),
        "unsendable.Known.notes[1].value",
        "body.notes[1].value",
    ),
    ([Spot(1), Pair(LOCK)], "unsendable.Note.value[1].first", "body.value[1].first"),
    ({"x\ny": LOCK}, r"unsendable.Note.value['x\ny']", r'body.value["x\ny"]'),
    ([[0] * 100_000, LOCK], "unsendable.Note.value[1]", "body.value[1]"),
]


@pytest.mark.parametrize(("value", "native", "json"), PLACES, ids=lambda case: f"{case!s:.40}")
def test_the_place_inside_of_the_value_is_told(value: Any, native: str, json: str) -> None:
    assert str(refused(NATIVE, value)).startswith(f"{native}: _thread.lock object can't be sent: ")
    assert str(refused(JSON, value)).startswith(f"{json}: JSON can't carry a value of _thread.lock")


def test_the_place_inside_of_what_only_the_native_serializer_takes_apart_is_told() -> None:
    allowing = NativeMessageSerializer(allow=[Box, Boxes, ValueError])
    for value, path in (
        (collections.OrderedDict(a=LOCK), "['a']"),
        (collections.defaultdict(list, {1: [LOCK]}), "[1][0]"),
        (Box([LOCK]), ".inner[0]"),
        (Boxes([0, LOCK]), "[1]"),
        (ValueError("x", LOCK), ".args[1]"),
        ([slice(0, LOCK)], "[0]"),
        ([slice(0, [LOCK])], "[0][0]"),
    ):
        text = str(refused(allowing, value))
        assert text.startswith(f"unsendable.Note.value{path}: _thread.lock object can't be sent")


def test_the_place_in_a_plain_reply_is_told() -> None:
    for envelope in (Response(1, {"a": [LOCK]}), Progress(1, {"a": [LOCK]})):
        with pytest.raises(SerializationError, match=r"^value\['a'\]\[0\]: _thread\.lock object"):
            NATIVE.encode(envelope)
        with pytest.raises(SerializationError, match=r"^body\.a\[0\]: JSON can't carry a value"):
            JSON.encode(envelope)
    with pytest.raises(SerializationError, match=r"^a value of type lock: _thread\.lock object"):
        NATIVE.encode(Response(1, LOCK))


def generator() -> Iterator[int]:
    yield 1


class WithLock:
    def __init__(self) -> None:
        self.lock = threading.Lock()


def local() -> Any:
    class Inside:
        pass

    return Inside()


def test_only_advice_that_can_be_followed_is_given() -> None:
    with socket.socket() as sock:
        for value in (LOCK, generator(), sock, io.StringIO(), threading.Event(), WithLock(),
                      local(), iter([1]), types.SimpleNamespace(a=LOCK), Zone(), weakref.ref(Box),
                      threading.current_thread(), map(str, [1]), LOCK.acquire, Box,
                      type("Europe/Berlin", (Box,), {})(1)):  # fmt: skip
            for serializer in (NATIVE, JSON):
                text = str(refused(serializer, [value]))
                assert "[0]: " in text
                assert "allow=[" not in text
    for value, name in ((Box(1), "Box"), (Boxes(), "Boxes"), (Lone.A, "Lone"), (object(), "object"),
                        (ValueError("x"), "ValueError")):  # fmt: skip
        text = str(refused(NATIVE, [value]))
        assert re.findall(r"allow=\[(.*?)\]", text) == [name]
        allowing = NativeMessageSerializer(allow=[type(value)])
        assert allowing.encode(Response(1, [value]))


def test_each_kind_of_value_has_advice_of_its_own() -> None:
    for value, native, json in (
        (generator(), "Send a list of its items, or stream them", "send a list of its items"),
        (local(), "at the top of a module that both sides import", "make it a Message"),
        (Zone(), "Use zoneinfo.ZoneInfo or datetime.timezone", "make it a Message"),
        (LOCK, "send what the other side needs of it", "send what the other side needs of it"),
        (Box, "functions and classes do not travel", ""),
    ):
        assert native in str(refused(NATIVE, [value]))
        assert json in str(refused(JSON, [value]))


def test_a_time_with_a_foreign_zone_is_told() -> None:
    for when in (dt.datetime(2024, 5, 1, tzinfo=Zone()), dt.time(1, tzinfo=Zone())):
        text = str(refused(NATIVE, [when]))
        assert text.startswith("unsendable.Note.value[0]: ")
        assert "Zone object can't be sent: it is not among" in text
        assert text.endswith("or send the time as .astimezone(datetime.timezone.utc)")


def test_the_zone_of_pytz_is_told() -> None:
    pytz = pytest.importorskip("pytz")
    text = str(refused(NATIVE, {"a": dt.datetime.now(pytz.timezone("Europe/Berlin"))}))
    assert text.startswith("unsendable.Note.value['a']: ")
    assert "allow=" not in text
    assert JSON.encode(Response(1, dt.datetime.now(pytz.timezone("Europe/Berlin"))))


@BOTH
def test_the_error_has_one_short_traceback(serializer: Any) -> None:
    for value in (LOCK, [LOCK], {"a": [Note(LOCK)]}, generator(), "\ud800" if serializer is JSON
                  else [LOCK], loop()):  # fmt: skip
        error = refused(serializer, value)
        assert error.__cause__ is None
        assert error.__context__ is None
        told = traceback.format_exception(error)
        assert sum("Traceback" in line for line in told) == 1
        assert len(told) < 10


@BOTH
def test_what_the_program_has_raised_is_the_one_cause(serializer: Any) -> None:
    class Stubborn(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            raise ZeroDivisionError("no")

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise ZeroDivisionError("no")

    allowing = NativeMessageSerializer(allow=[Stubborn]) if serializer is NATIVE else serializer
    error = refused(allowing, [1, Stubborn()])
    assert "ZeroDivisionError: no" in str(error)
    assert type(error.__cause__) is ZeroDivisionError
    assert error.__cause__.__cause__ is error.__cause__.__context__ is None


def loop() -> Any:
    note = Note()
    note.value = (note,)
    return note


def test_what_contains_itself_is_told_with_its_place() -> None:
    text = str(refused(NATIVE, loop()))
    assert text.startswith("unsendable.Note.value[0]")
    assert "contains itself" in text
    assert str(refused(NATIVE, [1, {"a": loop()}])).startswith("unsendable.Note.value[1]['a']")
    deep: list[Any] = []
    deep.append({"a": (1, deep)})
    text = str(refused(JSON, [0, deep]))
    assert text.startswith("body.value[1][0].a[1] contains itself: JSON has no form for that")
    table: dict[str, Any] = {}
    table["x y"] = collections.OrderedDict(b={"c": table})
    assert str(refused(JSON, table)).startswith('body.value["x y"].b.c contains itself')


def test_a_list_that_contains_itself_hides_nothing_behind_it_from_the_native_serializer() -> None:
    ring: list[Any] = []
    ring.append(ring)
    assert NATIVE.encode(Response(1, ring))  # pickle has a form for that
    assert str(refused(NATIVE, [ring, LOCK])).startswith("unsendable.Note.value[1]: _thread.lock")
    note = Note(ring)
    ring.append(note)
    assert NATIVE.encode(Response(1, ring))
    tied = loop()
    tied.value = (ring, tied)
    assert "value[1].value contains itself" in str(refused(NATIVE, tied))


@BOTH
def test_what_is_only_deep_is_told_too(serializer: Any) -> None:
    value: Any = ()
    for _ in range(100_000):
        value = [value]
    assert "too deeply" in str(refused(serializer, value))
    while value:
        value = value.pop()


def test_a_path_without_end_is_cut() -> None:
    value: Any = LOCK
    for _ in range(100):
        value = [value]
    text = str(refused(NATIVE, value))
    assert text.startswith(f"unsendable.Note.value{'[0]' * 19}…{'[0]' * 20}: _thread.lock object")


@BOTH
def test_what_could_not_be_sent_is_not_kept(serializer: Any) -> None:
    gc.collect()
    gc.disable()
    try:
        value = Box(1)
        left = weakref.ref(value)
        with contextlib.suppress(SerializationError):
            serializer.encode(Notification(Note([value])))
        del value
        assert left() is None
    finally:
        gc.enable()


def test_what_changes_while_it_is_looked_at_is_refused_all_the_same() -> None:
    class Moody:
        asked = 0

        def __reduce_ex__(self, protocol: Any) -> Any:
            Moody.asked += 1
            return (Box, ()) if Moody.asked == 1 else (Moody, ())

    text = str(refused(NativeMessageSerializer(allow=[Moody]), [Moody()]))
    assert text.startswith("unsendable.Note")


def test_metadata_that_can_not_be_sent_is_shown_in_short() -> None:
    for serializer in (NATIVE, JSON):
        with pytest.raises(SerializationError) as caught:
            serializer.encode(Request(1, Note(), metadata={"a": [LOCK] * 1000}))  # type: ignore[dict-item]
        assert "metadata" in str(caught.value)
        assert len(str(caught.value)) < 300


def test_a_value_that_can_not_be_looked_through_is_refused_by_json() -> None:
    class Moody(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            raise ZeroDivisionError("no")

    value: Any = Moody([1])
    for _ in range(2000):
        value = [value]
    assert str(refused(JSON, value)).startswith("body: nested too deeply for JSON, or a container")
    while type(value) is list:
        value = value.pop()


def test_a_dict_with_a_factory_is_looked_through() -> None:
    made = collections.defaultdict(list, a=[1, LOCK])
    assert str(refused(NATIVE, [made])).startswith("unsendable.Note.value[0]['a'][1]: ")
