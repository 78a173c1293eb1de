"""Payloads of allowed types only, made to take more than they give: each is refused."""

from __future__ import annotations

import enum
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamipc import JsonMessageSerializer, Message, NativeMessageSerializer, SerializationError
from streamipc.protocol.envelopes import Response
from streamipc.serializers._native_builders import MODULE

NATIVE = NativeMessageSerializer()
JSON = JsonMessageSerializer()


FOLDER = Path(__file__).parent


class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2
    FOUR = 4


class HasBits(Message):
    bits: Bits


def response(body: bytes) -> memoryview:
    return memoryview(struct.pack(">BBHHHIQd", 2, 0, 0, 0, 0, 0, 1, 0.0) + body)


def text(value: str) -> bytes:
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def builder(name: str) -> bytes:
    return text(MODULE) + text(name) + b"\x93"


START = b"\x80\x05"
LONG = 1 << 20

SHARED = {
    "bytearray": (b"B" + struct.pack("<I", LONG) + bytes(LONG), b"\x85"),
    "decimal": (b"X" + struct.pack("<I", LONG) + b"9" * LONG, b"\x85"),
    "deque": (b"](" + b"N" * (LONG // 8) + b"e", b"N\x86"),
    "counter": (b"}(" + b"".join(b"J%bN" % n.to_bytes(4, "little") for n in range(32_768)) + b"u",
                b"\x85"),
}  # fmt: skip
"""By builder: a long value, and what makes its arguments of it."""


@pytest.mark.parametrize("name", SHARED)
def test_a_long_value_is_not_copied_again_and_again(name: str) -> None:
    value, arguments = SHARED[name]
    again = b"h\x00h\x01" + arguments + b"R"
    body = START + b"(" + builder(name) + b"\x94" + value + b"\x94" + again * 400 + b"t."
    NATIVE.decode(
        response(START + builder("complex") + b"G" + bytes(8) + b"G" + bytes(8) + b"\x86R.")
    )
    tracemalloc.start()
    try:
        with pytest.raises(SerializationError, match="copied too often"):
            NATIVE.decode(response(body))
        assert tracemalloc.get_traced_memory()[1] < 32 * LONG
    finally:
        tracemalloc.stop()


def test_a_shared_buffer_is_not_copied_again_and_again() -> None:
    again = b"h\x00h\x01\x85R"
    body = START + b"(" + builder("bytes") + b"\x94\x97\x94" + again * 1000 + b"t."
    head = struct.pack(">BBHHHIQd", 2, 0, 0, 0, 1, 0, 1, 0.0)
    sections = struct.pack(">QQ", len(body), LONG) + body
    padding = bytes(-(len(head) + len(sections)) % 16)
    payload = head + sections + padding + bytes(LONG)
    with pytest.raises(SerializationError, match="copied too often"):
        NATIVE.decode(memoryview(payload))
    once = payload.replace(again * 1000, again + b"0" * 5994)  # POP would leave too little
    with pytest.raises(SerializationError, match="malformed"):
        NATIVE.decode(memoryview(once))


def test_values_that_are_shared_and_short_are_read() -> None:
    value: Any = [bytearray(b"x" * 100)] * 1000 + [{"key" * 50: n} for n in range(1000)]
    payload = b"".join(NATIVE.encode(Response(1, value)))
    assert NATIVE.decode(memoryview(payload)) == Response(1, value)


def test_large_values_are_read_however_many() -> None:
    value: Any = [memoryview(bytes([n]) * 100_000) for n in range(50)]
    value += [bytearray(b"x" * 5000) for _ in range(500)]
    payload = b"".join(NATIVE.encode(Response(1, value)))
    assert NATIVE.decode(memoryview(payload)) == Response(1, value)


NESTED = """
from test_hostile_payloads import NATIVE, START, builder, response
from streamipc import SerializationError

before, after = {around!r}
body = START + builder({name!r}) + b"\\x94"
body += (b"h\\0" + before) * 200_000 + b"N" + (after + b"R") * 200_000
try:
    NATIVE.decode(response(body + b"."))
except SerializationError as error:
    print(error)
"""

AROUND = {"slice": (b"", b"NN\x87"), "deque": (b"](", b"eN\x86"), "defaultdict": (b"N}N", b"s\x86")}
"""By builder: what stands before and behind a value to make arguments of it."""


@pytest.mark.parametrize("name", AROUND)
def test_values_that_would_be_freed_by_deep_recursion_are_not_built(name: str) -> None:
    # In a process of its own: this would be a segmentation fault.
    code = NESTED.format(name=name, around=AROUND[name])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "too deeply" in done.stdout or "too often" in done.stdout


def test_values_that_nest_as_deeply_as_they_can_be_sent_are_read() -> None:
    value: Any = None
    for _ in range(100):
        value = slice(value, None, None)
    payload = b"".join(NATIVE.encode(Response(1, value)))
    assert NATIVE.decode(memoryview(payload)) == Response(1, value)


def flag(number: int) -> memoryview:
    arguments = text(f"{__name__}.Bits") + b"J" + struct.pack("<i", number) + b"\x86"
    return response(START + builder("flag") + arguments + b"R.")


def test_bits_without_a_member_are_not_remembered_for_ever() -> None:
    assert NATIVE.decode(flag(5)) == Response(1, Bits.ONE | Bits.FOUR)
    before = len(Bits._value2member_map_)
    for number in (8, 16, 15, -1, -2, 1 << 30):
        with pytest.raises(SerializationError, match="bits"):
            NATIVE.decode(flag(number))
    assert len(Bits._value2member_map_) == before
    with pytest.raises(SerializationError, match="bits that no member"):
        NATIVE.encode(Response(1, Bits(8)))
    all_but_one = b"".join(NATIVE.encode(Response(1, ~Bits.ONE)))
    assert NATIVE.decode(memoryview(all_but_one)) == Response(1, Bits.TWO | Bits.FOUR)


ONLOOKER = """
import sys
from test_hostile_payloads import {steps}
looking = False
seen = []

def look(event, args):
    if looking and event.partition(".")[0] in ("import", "compile", "open", "exec"):
        seen.append((event, args))

sys.addaudithook(look)
steps = {steps}()
next(steps)
looking = True
next(steps, None)
looking = False
assert not seen, seen
"""


def quietly(steps: Any) -> None:
    """Run a generator of this module; after its ``yield`` nothing may be imported or opened."""
    done = subprocess.run(
        [sys.executable, "-c", ONLOOKER.format(steps=steps.__name__)],
        cwd=FOLDER, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def zone(key: str) -> memoryview:
    return response(START + builder("zone_info") + text(key) + b"\x85R.")


def look_up_zones() -> Iterator[None]:
    with pytest.raises(SerializationError):
        NATIVE.decode(zone("Nowhere"))
    yield
    for key in ("Nowhere/At_All", "os", "tzdata", "zoneinfo/Europe", "posixrules/x"):
        with pytest.raises(SerializationError, match="no time zone"):
            NATIVE.decode(zone(key))


def test_the_name_of_a_time_zone_imports_nothing() -> None:
    quietly(look_up_zones)


def read_a_dtype() -> Iterator[None]:
    import numpy

    array = numpy.zeros(1, [("a", "<f8"), ("b", "<M8[25s]", (2,)), ("c", "|S3")])
    for value in (array, array[0], numpy.str_("x"), numpy.timedelta64(5)):
        payload = b"".join(NATIVE.encode(Response(1, value)))
        assert NATIVE.decode(memoryview(payload)).value == value  # type: ignore[union-attr]
    yield
    for spec in (
        ",",
        "(1)f8",
        "f8,(2,3)f8",
        "(" * 100 + "1" + ")" * 100 + "f8",
        "f8\0",
        "<M8[x",
    ):
        for name, rest in (("numpy_dtype", b"\x85"), ("numpy_array", b")" + text("C") + b"C\0t")):
            mark = b"(" if rest[-1:] == b"t" else b""
            with pytest.raises(SerializationError, match="malformed"):
                NATIVE.decode(response(START + builder(name) + mark + text(spec) + rest + b"R."))


def test_the_dtype_of_an_array_is_not_compiled() -> None:
    pytest.importorskip("numpy", reason="numpy is not installed")
    quietly(read_a_dtype)


def read_ids() -> Iterator[None]:
    with pytest.raises(SerializationError):
        JSON.decode(memoryview(b"{"))
    yield
    for start in (b"\0", b"\0\0", b"a\0\0\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800"):
        payload = b'{"kind":"request","id":"' + start + b'","body":['
        with pytest.raises(SerializationError, match="not valid JSON"):
            JSON.decode(memoryview(payload))


def test_the_id_in_a_payload_that_is_no_json_imports_no_codec() -> None:
    quietly(read_ids)


def test_an_id_that_is_no_text_is_left_out_of_the_answer() -> None:
    payload = b'{"kind":"request","id":"\\ud800","body":['
    with pytest.raises(SerializationError) as caught:
        JSON.decode(memoryview(payload))
    assert caught.value.envelope is None
