"""Whatever a peer writes, the error about it is one short line, and cheap to make."""

from __future__ import annotations

import collections
import enum
import json
import pickle
import traceback
import tracemalloc
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from native_payloads import MODULE, call, decode, header
from pickles import text as short_text

from streamipc.exceptions import SerializationError
from streamipc.messages import Message, message_type
from streamipc.serializers.json import JsonMessageSerializer
from streamipc.serializers.native import NativeMessageSerializer

LINE = "x\n2026-01-01 00:00:00 CRITICAL root login\x1b[2J\u2028\u2029\x85\u202e\x7f\x9b"
LONG = "y\n" * 40_000


class Shade(enum.Enum):
    DARK = "dark"


class Bits(enum.Flag):
    A = 1


@dataclass
class Spot:
    x: int = 0


class Pair(collections.namedtuple("Pair", "a b")):  # noqa: PYI024 - it has fields, that's all
    pass


class Stranger(Message, wire_name="tests.Stranger"):
    n: int = 0
    shade: Shade | None = None
    bits: Bits | None = None
    spot: Spot | None = None
    pair: Pair | None = None
    any: Any = None
    table: dict[str, int] | None = None
    pairs: dict[Any, int] | None = None
    word: Literal["a"] | int = 0
    either: Spot | Shade | int = 0
    list: list[int] | dict[str, int] | None = None


class Touchy:
    """Shows what the peer sent when it fails."""

    def __setstate__(self, state: Any) -> None:
        raise KeyError(state)


def is_fit_for_a_log(error: SerializationError) -> None:
    assert str(error).isprintable()
    assert len(str(error)) < 4000
    told = "".join(traceback.format_exception(error))
    assert "\n2026" not in told
    assert "y\ny" not in told


def json_refused(payload: Any) -> None:
    data = payload if isinstance(payload, str) else json.dumps(payload)
    with pytest.raises(SerializationError) as caught:
        JsonMessageSerializer().decode(memoryview(data.encode()))
    is_fit_for_a_log(caught.value)


@pytest.mark.parametrize("said", [LINE, LONG], ids=["line", "long"])
def test_json_quotes_what_a_peer_says_on_one_short_line(said: str) -> None:
    def note(body: Any, **more: Any) -> dict[str, Any]:
        return {"kind": "notification", "type": "tests.Stranger", "body": body, **more}

    nested: Any = {"n": said}
    for _ in range(50):
        nested = {said: nested}
    for payload in (
        said,
        f'{{"kind":"{said!r}',
        {"kind": said},
        {"kind": {said: said}},
        {"kind": "request", "id": said * 9, "type": "tests.Stranger", "body": {}},
        {"kind": "request", "id": {said: 1}},
        {"kind": "request", "id": 1, "type": said, "body": {}},
        {"kind": "request", "id": 1, "type": said + "." + said, "body": {}},
        {"kind": "request", "id": 1, "type": [said], "body": {}},
        {"kind": "request", "id": 1, "type": "tests.Stranger", "timeout": said, "body": {}},
        {"kind": "request", "id": 1, "type": "tests.Stranger", "window": said, "body": {}},
        {"kind": "credit", "id": 1, "count": said},
        {"kind": "error", "id": said * 9, "code": said, "body": {}},
        {"kind": "response", "id": 1, "type": said},
        {"kind": "response", "id": 1, "body": {"$type": said}},
        {"kind": "response", "id": 1, "body": {"$enum": said, "value": 1}},
        {"kind": "response", "id": 1, "body": {f"${said}": 1}},
        {"kind": "response", "id": 1, "body": {"$date": said}},
        {"kind": "response", "id": 1, "body": {"$date": 1, said: 1}},
        f'{{"kind":"response","id":1,"body":{{{json.dumps(said)}:1,{json.dumps(said)}:2}}}}',
        {"kind": "response", "id": 1, "body": {said: "\ud800"}},
        {"kind": "response", "id": 1, "body": {said: nested, "\ud800": 1}},
        {"kind": "response", "id": 1, "body": nested | {"a": {"$date": said}}},
        note({}, metadata=said),
        note({}, metadata={said: 1}),
        note({}, metadata={"a": [said]}),
        note({said: 1}),
        note(said),
        note({"n": said}),
        note({"n": {said: said}}),
        note({"n": [said]}),
        note({"shade": said}),
        note({"bits": said}),
        note({"spot": {said: 1}}),
        note({"spot": {"$type": said}}),
        note({"pair": {said: 1}}),
        note({"any": {said: {said: {"$map": [[said, 1], [said, 2]]}}}}),
        note({"table": {said: said}}),
        note({"pairs": [[said, 1], [said, 2]]}),
        note({"word": said}),
        note({"either": said}),
        note({"either": {"$type": said}}),
        note({"either": {"$enum": said, "value": said}}),
        note({"list": said}),
        note({"list": {said: said}}),
    ):
        json_refused(payload)


def native_refused(function: Any, *args: Any, **options: Any) -> None:
    with pytest.raises(SerializationError) as caught:
        function(*args, **options)
    is_fit_for_a_log(caught.value)


def named(name: bytes, state: Any = None) -> bytes:
    return header(4, name_size=len(name)) + name + pickle.dumps(state, 5)


@pytest.mark.parametrize("said", [LINE, LONG], ids=["line", "long"])
def test_the_native_serializer_quotes_what_a_peer_says_on_one_short_line(said: str) -> None:
    allowing = NativeMessageSerializer(allow=[Touchy])
    here = f"{__name__}."
    native_refused(decode, said.encode())
    native_refused(decode, named(said.encode()[:60_000]))
    native_refused(decode, named(b"\xff\xfe" * 20_000))
    for state in ({said: 1}, said, {(said, said): 1}, {said.encode(): 1}, {said + "a": 1, said: 2}):
        native_refused(decode, named(b"tests.Stranger", state))
    for name, *args in (
        ("message", said, {}),
        ("message", "tests.Stranger", {said: 1}),
        ("enum", said, "A"),
        ("enum", here + "Shade", said),
        ("flag", said, 1),
        ("flag", here + "Bits", 2**100_000),
        ("record", said, {}),
        ("record", here + "Spot", {said: 1}),
        ("record", here + "Spot", {(said, (said,)): 1}),
        ("namedtuple", said, ()),
        ("object", said, True, (), {}, None, None, None),
        ("defaultdict", said, {}),
        ("zone_info", said),
        ("zone_info", "a" * 50_000),
        ("path", said, ""),
        ("address", said, ""),
        ("address", "IPv4Address", said),
        ("address", "IPv6Network", said),
        ("decimal", said),
        ("uuid", said),
        ("fraction", said, 1),
        ("timezone", said),
        ("memoryview", b"", said, [1]),
        ("array", said, 1, b""),
        ("numpy_dtype", said),
        ("numpy_array", [(said, "<i4")], (1,), "C", b""),
    ):
        native_refused(call, name, *args)
    for state in (said, {said: said}, (said, [said])):
        args = (False, (), {}, state, None, None)
        native_refused(call, "object", here + "Touchy", *args, serializer=allowing)
    native_refused(call, "object", here + "Touchy", True, (), {said: 1}, None, None, None,
                   serializer=allowing)  # fmt: skip
    if len(said) < 200:
        for module, name in ((said, "enum"), (MODULE, said)):
            body = b"\x80\x05" + short_text(module) + short_text(name) + b"\x93)R."
            native_refused(decode, header(2, id_=1) + body)


def shared_key() -> Any:
    key: Any = "z" * 200
    for _ in range(17):
        key = (key, key)
    return key


@pytest.mark.parametrize(
    "read",
    [
        lambda key: decode(named(b"tests.Stranger", {key: 1})),
        lambda key: call("record", f"{__name__}.Spot", {key: 1}),
        lambda key: call(
            "object", f"{__name__}.Touchy", False, (), {}, key, None, None,
            serializer=NativeMessageSerializer(allow=[Touchy]),
        ),
    ],
    ids=["a field", "a field of a dataclass", "the state of an object"],
)  # fmt: skip
def test_a_key_that_is_shared_again_and_again_is_not_written_out(read: Any) -> None:
    key = shared_key()
    tracemalloc.start()
    with pytest.raises(SerializationError) as caught:
        read(key)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    is_fit_for_a_log(caught.value)


def test_the_records_of_a_dtype_are_not_written_out() -> None:
    pytest.importorskip("numpy")
    inner = [(f"{number}{'n' * 30_000}", "<i4") for number in range(20)]
    spec = [(f"f{number}", inner) for number in range(200)]
    call("numpy_dtype", spec)  # what numpy needs for it
    tracemalloc.start()
    with pytest.raises(SerializationError, match="does not have 1 bytes") as caught:
        call("numpy_array", spec, (1,), "C", b"x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000  # written out it would be 120 MB
    is_fit_for_a_log(caught.value)


def test_the_name_of_an_unknown_message_is_quoted_and_cut() -> None:
    for said in (LINE, LONG):
        native_refused(message_type, said)
    with pytest.raises(SerializationError, match=r"unknown message type 'a\.B': .* 'a'\) before"):
        message_type("a.B")
