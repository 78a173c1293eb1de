"""What the native serializer says of what it refuses, word for word."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zoneinfo
from pathlib import Path
from typing import Any

import pytest
from native_payloads import SERIALIZER, decode, header, with_buffers

from streamipc.exceptions import SerializationError
from streamipc.messages import ErrorMessage, Message
from streamipc.protocol.envelopes import Cancel, Credit, ErrorResponse, Request, Response
from streamipc.serializers._native_builders import MODULE
from streamipc.serializers.native import NativeMessageSerializer


class Said(Message, wire_name="tests.Said"):
    x: Any
    y: Any = None


class Failing:
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ValueError("some reason")


class Naming:
    def __reduce_ex__(self, protocol: Any) -> Any:
        return int, ("5",)


ALLOWING = NativeMessageSerializer(allow=[Failing, Naming])


def without_its_field() -> Said:
    said = Said(1)
    del said.x
    return said


def deep() -> list[Any]:
    items: list[Any] = []
    for _ in range(100_000):
        items = [items]
    return items


def released() -> memoryview:
    view = memoryview(b"x")
    view.release()
    return view


def zone_without_a_key() -> Any:
    counts = struct.pack(">6I", 0, 0, 0, 0, 1, 4)  # one type of local time, of four characters
    file = b"TZif" + bytes(16) + counts + bytes(6) + b"UTC\0"
    return zoneinfo.ZoneInfo.from_file(io.BytesIO(file))


UNKNOWN = (
    "it is not among the types that the native serializer knows to be safe. "
    "NativeMessageSerializer(allow=[{}]) on both sides admits it"
)
ID = "must be an int from 0 to 2**64-1, or a text of 1 to 255 bytes in UTF-8"
SENT: list[tuple[Any, str]] = [
    (
        Request(1, "x"),
        "a str is no Message: define a subclass of streamipc.Message and send an instance of it",
    ),
    (Cancel(1.5), f"the request id 1.5 {ID}"),
    (Cancel(""), f"the request id '' {ID}"),
    (Request("\ud800", Said(1)), r"the request id '\ud800' is no valid Unicode"),
    (Cancel(-1), "the request id -1 must be from 0 to 2**64-1"),
    (Request(2**64, Said(1)), f"the request id {2**64} must be from 0 to 2**64-1"),
    (
        Request(2**64 - 1, Said(1), 2.0, {}, -1),
        "window and count must be from 0 to 2**31-1, not -1",
    ),
    (Credit(1, 2**32), f"window and count must be from 0 to 2**31-1, not {2**32}"),
    (Request(1, Said(1), "soon"), "the timeout must be seconds as a float or None, not 'soon'"),
    (Request(1, Said(1), None, {"k": 1}), "metadata must map str to str: {'k': 1}"),
    (
        ErrorResponse(1, ErrorMessage(5)),
        "the fields of an error must be of type str: message is 5",
    ),
    ("an envelope", "str is no envelope"),
    (
        Response(1, without_its_field()),
        "tests.Said.x has no value: the object was not fully initialised, or the field was deleted",
    ),
    (Response(1, deep()), "a value of type list nests too deeply, or contains itself"),
    (Response(1, Said(deep())), "tests.Said.x nests too deeply, or contains itself"),
    (
        Response(1, Said(Failing())),
        f"tests.Said.x: __reduce_ex__ of {__name__}.Failing failed: ValueError: some reason",
    ),
    (
        Response(1, Naming()),
        f"a value of type Naming: {__name__}.Naming can't be sent: its __reduce__ names "
        "<class 'int'>, but only the class itself may be called to rebuild an object",
    ),
    (
        Response(1, object()),
        "a value of type object: object object can't be sent: " + UNKNOWN.format("object"),
    ),
    (
        Response(1, Said(Path)),
        "tests.Said.x: Path (type) can't be sent: functions and classes do not travel",
    ),
    (
        Response(1, released()),
        "a value of type memoryview can't be sent: ValueError: "
        "operation forbidden on released memoryview object",
    ),
    (
        Response(1, zone_without_a_key()),
        "a value of type ZoneInfo: a ZoneInfo without a key can't be sent: make it by its name",
    ),
]


@pytest.mark.parametrize(("envelope", "text"), SENT, ids=range(len(SENT)))
def test_the_sender_is_told(envelope: Any, text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        ALLOWING.encode(envelope)
    assert str(caught.value) == text


def called(name: str, *args: Any) -> bytes:
    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    return b"\x80\x05" + text(MODULE) + text(name) + b"\x93" + pickle.dumps(args, 5)[2:-1] + b"R."


def message(body: bytes) -> bytes:
    return header(2, id_=7, name_size=10) + b"tests.Said" + body


SAID = pickle.dumps({"x": 1, "y": 2}, 5)
NUMPY = "a dtype of numpy is malformed"
READ: list[tuple[bytes, str]] = [
    (
        header(2, flags=1, id_size=2) + b"a",
        "the payload ends within its header, or its id is malformed",
    ),
    (header(7, flags=1, id_size=1) + b"\xff", "the request id is no valid UTF-8"),
    (header(2, flags=8), "unknown flags 0x8: the peer speaks a newer version"),
    (header(2, flags=2) + bytes(4), "the payload ends within its metadata, or may have none"),
    (
        header(1, flags=2) + struct.pack(">I", 4) + pickle.dumps(5, 5),
        "the metadata does not map text to text",
    ),
    (
        with_buffers(2, b"\x80\x05N.", b"abc") + b"x",
        "the payload has 52 bytes, but its sections need 51",
    ),
    (
        header(1, timeout=float("nan"), name_size=10) + b"tests.Said" + SAID,
        "the timeout of the request is not a number",
    ),
    (
        header(3, name_size=10) + b"tests.Said" + SAID,
        "the payload names a message type where none belongs",
    ),
    (header(1) + SAID, "the payload does not name the type of its message"),
    (header(7) + b"xy", "2 bytes too many after the header"),
    (header(3) + SAID, "the error that the peer reports is malformed"),
    (message(pickle.dumps([1], 5)), "tests.Said: the fields are a list"),
    (
        message(pickle.dumps({"x": 1, "z": 2}, 5)),
        "tests.Said has no field 'z': the other side defines it differently; both sides "
        "must use the same version of the class",
    ),
    (message(pickle.dumps({"y": 1}, 5)), "tests.Said.x: missing, and the field has no default"),
    (header(2) + b"\x80\x05NN", "the pickle in the body is malformed"),
    (
        header(2) + b"\x80\x05\x8c\x02os\x8c\x06system\x93.",
        "os.system is not allowed: a body names no functions or classes; the sender must "
        "use NativeMessageSerializer, with allow=[...] for types of its own",
    ),
    (
        header(2) + called("enum", "no.such", "A"),
        "no.such is not allowed here: import the module that defines it and the message "
        "that uses it, or admit it by NativeMessageSerializer(allow=[...])",
    ),
    (header(2) + called("complex", 1, 2.0), "a float is needed, not a int"),
    (header(2) + called("datetime", 1), "a datetime needs nine values"),
    (header(2) + called("numpy_dtype", 5), NUMPY),
    (header(2) + called("numpy_dtype", [5]), NUMPY),
    (header(2) + called("numpy_dtype", "O"), "numpy data may not hold Python objects"),
    (
        header(2) + called("numpy_array", "u1", (-1,), "C", b""),
        "the shape of a numpy array is malformed",
    ),
    (
        header(2) + called("numpy_array", "u1", (1,), "K", b"x"),
        "the order of a numpy array is neither C nor F",
    ),
    (
        b'{"kind": "request", "id": 1}',
        "this looks like a payload of the JSON serializer: both sides must use the same "
        "serializer (IpcPeer(serializer=...))",
    ),
    (
        b"junk",
        "this is no payload of the native serializer (4 bytes, starting b'junk'): both "
        "sides must use the same serializer and a matching version",
    ),
]


@pytest.mark.parametrize(("payload", "text"), READ, ids=range(len(READ)))
def test_the_receiver_is_told(payload: bytes, text: str) -> None:
    if "numpy" in text:
        pytest.importorskip("numpy")
    with pytest.raises(SerializationError) as caught:
        decode(payload)
    assert str(caught.value) == text


def test_of_what_numpy_holds_and_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    np = pytest.importorskip("numpy")
    with pytest.raises(SerializationError) as caught:
        SERIALIZER.encode(Response(1, np.array([object()])))
    assert str(caught.value) == (
        "a value of type ndarray: numpy data of dtype object can't be sent: only numbers, texts, "
        "times and records of these can"
    )
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(SerializationError) as caught:
        decode(header(2) + called("numpy_dtype", "u1"))
    assert str(caught.value) == "the body holds a numpy array, but numpy can't be imported here"
