"""What the fuzzer sends: good frames of all kinds, and what can be done to them."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import pickletools
import random
import uuid
import zoneinfo
from collections import Counter, OrderedDict, deque
from typing import Any

from streamipc import (
    ErrorMessage,
    JsonMessageSerializer,
    LogMessage,
    Message,
    NativeMessageSerializer,
)
from streamipc.protocol.envelopes import (
    Cancel,
    Credit,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)
from streamipc.serializers._native_builders import MODULE, VOCABULARY

MAGIC = b"\xf3\x4a\x9d\xe2"


class Color(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Leaf(Message, frozen=True):
    number: int = 0
    color: Color = Color.RED
    access: Access | None = None


class Wide(Message):
    text: str
    leaf: Leaf
    leaves: list[Leaf]
    table: dict[str, int | None]
    when: datetime.datetime
    money: decimal.Decimal
    key: uuid.UUID
    where: pathlib.Path
    data: bytes
    anything: Any = None


def envelopes() -> list[Any]:
    """Return envelopes of all kinds, with values of all types."""
    leaf = Leaf(5, Color.RED, Access.READ | Access.WRITE)
    zone = datetime.timezone(datetime.timedelta(hours=2))
    when = datetime.datetime(2024, 2, 29, 12, 30, 1, 5, zone)
    rich: list[Any] = [
        decimal.Decimal("1.50"), uuid.UUID(int=7), when, when.date(), when.timetz(), zone,
        datetime.timedelta(1, 2, 3), pathlib.PurePosixPath("/a/b"), {1, 2}, frozenset("ab"),
        deque([1, 2], 5), 2**80, -1, 1.5, 1 + 2j, b"bytes", bytearray(b"array"), (1, (2, (3,))),
        OrderedDict(a=1), {(1, 2): "pair"}, leaf, [leaf, leaf], None, True, "\u20ac" * 50,
    ]  # fmt: skip
    native_only = [
        range(3), slice(1, 2), fractions.Fraction(1, 3), zoneinfo.ZoneInfo("UTC"),
        ipaddress.ip_address("::1"),
        memoryview(b"view"), Color.RED, Access.WRITE, Counter("aab"),
    ]  # fmt: skip
    wide = Wide(
        "text", leaf, [leaf, Leaf()], {"a": 1, "b": None}, when, decimal.Decimal("2.5"),
        uuid.UUID(int=1), pathlib.Path("/x"), b"\0\1" * 20, {"k": [1, "x", None]},
    )  # fmt: skip
    return [
        Request(3, wide, 1.5, {"traceparent": "00-1"}, 16),
        Request("text-id", leaf),
        Request(1, LogMessage("do")),
        Notification(wide, {"a": "b"}),
        Notification(LogMessage("tell", "debug")),
        Response(1, rich),
        Response(2, wide),
        Response("text-id", None),
        Response(2**64 - 1, {"k": [1.5, "x"], "l": [{}, [], ""]}),
        ErrorResponse(2, ErrorMessage("no", "ValueError", "Traceback"), "handler"),
        ErrorResponse(2, ErrorMessage("no"), "overloaded"),
        Progress(1, rich[:5]),
        Progress("text-id", leaf),
        Credit(3, 16),
        Cancel("text-id"),
        *(Response(2, value) for value in rich),
        *(Progress(9, value) for value in native_only),
    ]


SERIALIZERS: dict[str, Any] = {"native": NativeMessageSerializer(), "json": JsonMessageSerializer()}


def payloads(serializer: Any) -> list[bytes]:
    """Return what a serializer makes of them, and large data out of band."""
    made = []
    for envelope in envelopes():
        try:
            made.append(b"".join(serializer.encode(envelope)))
        except Exception:  # JSON has no word for it
            assert serializer is SERIALIZERS["json"]
    made.append(b"".join(serializer.encode(Response(1, b"x" * 70_000))))
    blob = Request("text-id", LogMessage(b"x" * 80_000), 1.5, {"a": "b"})  # type: ignore[arg-type]
    if serializer is SERIALIZERS["native"]:  # which leaves types to the checkers
        made.append(b"".join(serializer.encode(blob)))
    try:
        import numpy
    except ImportError:
        return made
    if serializer is SERIALIZERS["native"]:
        array = numpy.arange(12, dtype="f4").reshape(3, 4)
        values = [array, array.T, numpy.float64(2), array.dtype, numpy.array(["a", "bc"])]
        values.append(numpy.zeros(2, [("a", "i4"), ("b", "M8[s]")]))
        made += [b"".join(serializer.encode(Response(2, value))) for value in values]
    return made


def frame(payload: bytes) -> bytes:
    return MAGIC + len(payload).to_bytes(4, "big") + payload


# Doing harm. Each takes a source of randomness and bytes, and returns bytes.

OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]

PICKLED = [
    *OPCODES, b"\x80\x05", b"h\x00", b"K\x07", b"\x8c\x01a", b"C\x02ab", b"\x8a\x01\x01",
    b"cos\nsystem\n", b"(S'id'\nios\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"\x82\x01",
    b"X\xff\xff\xff\x7f", b"\x96" + b"\xff" * 7 + b"\0", b"r\xff\xff\xff\x7f", b"\x95" + bytes(8),
    *(
        b"\x8c" + bytes([len(MODULE)]) + MODULE.encode() + b"\x8c" + bytes([len(name)])
        + name.encode() + b"\x93" for name in VOCABULARY
    ),
]  # fmt: skip

WRITTEN = [
    token.encode() for token in (
        "[" * 300, "{\"a\":" * 200, "]",
        "}", ",", ":", "\"", "null", "true", "-", "1e999", "1e-999",
        "9" * 400, "9" * 5000, "-0", "0.1e", "NaN", "Infinity", "-Infinity", "\\ud800", "\\udc00",
        "\\u0000", "\\", "\"kind\":\"request\",", "\"id\":1,", "\"id\":1.0,", "\"id\":true,",
        "\"id\":-1,", "\"id\":18446744073709551616,", "\"type\":\"os.system\",", "\"$type\":",
        "{\"$decimal\":\"1e999999999\"}", "{\"$decimal\":\"NaN\"}", "{\"$timedelta\":1e300}",
        "{\"$datetime\":\"9999-99-99\"}", "{\"$bytes\":\"=\"}", "{\"$map\":[[[],1]]}",
        "{\"$set\":[[]]}", "{\"$enum\":\"os\",\"value\":1}", "{\"$type\":\"streamipc.Message\"}",
        "{\"$complex\":[1]}", "{\"$uuid\":\"\"}", "{\"$path\":\"\\u0000\"}", "{\"$float\":\"x\"}",
    )
]  # fmt: skip
WRITTEN += [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\0"]


def mutated(rng: random.Random, data: bytes, tokens: list[bytes]) -> bytes:
    """Return ``data`` with a few changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(8)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind == 2:
            del changed[at : at + rng.randint(1, 9)]
        elif kind == 3:
            changed[at:at] = rng.choice(tokens)
        elif kind == 4:
            token = rng.choice(tokens)
            changed[at : at + len(token)] = token
        elif kind == 5:  # a number somewhere
            number = rng.choice((0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63))
            size = rng.choice((1, 2, 4, 8))
            order = rng.choice(("big", "little"))
            changed[at : at + size] = (number & (256**size - 1)).to_bytes(size, order)
        elif kind == 6:
            stop = at + rng.randint(1, 40)
            changed[at:at] = bytes(changed[at:stop]) * rng.choice((1, 1, 2, 50))
        else:
            del changed[at:]
    return bytes(changed)


def made_up(rng: random.Random, payload: bytes, tokens: list[bytes]) -> bytes:
    """Return a good beginning and a body of nothing but words of the language."""
    if payload[:1] == b"{":
        start = payload[: rng.choice((1, 20, 40))]
    else:
        start = payload[:28] + (b"\x80\x05" if payload[4:6] == b"\0\0" else b"")
    body = b"".join(rng.choice(tokens) for _ in range(rng.randint(1, 25)))
    return start + body + rng.choice((b".", b"}", b""))


def deep(rng: random.Random, payload: bytes, tokens: list[bytes]) -> bytes:
    """Return one word of the language, a great many times."""
    start = payload[: rng.choice((1, 28, 40))]
    token = rng.choice(tokens)
    count = min(rng.choice((10, 1000, 6000)), (15 << 10) // len(token) + 1)
    return (start + token * count)[: 15 << 10]


class Corpus:
    """The good frames of one serializer, and what can be done to them."""

    def __init__(self, name: str) -> None:
        self.serializer = SERIALIZERS[name]
        self.payloads = payloads(self.serializer)
        self.tokens = PICKLED if name == "native" else WRITTEN

    def stream(self, rng: random.Random) -> bytes:
        """Return the bytes of a case."""
        return b"".join(self._part(rng) for _ in range(rng.choice((1, 1, 2, 4))))

    def _part(self, rng: random.Random) -> bytes:
        payload = rng.choice(self.payloads)
        kind = rng.randrange(12)
        if kind < 5:
            return frame(mutated(rng, payload, self.tokens))
        if kind == 5:
            return mutated(rng, frame(payload), self.tokens)
        if kind == 6:
            other = rng.choice(self.payloads)
            return frame(
                payload[: rng.randrange(len(payload))] + other[rng.randrange(len(other)) :]
            )
        if kind == 7:
            return rng.randbytes(rng.choice((1, 8, 100, 3000)))
        if kind == 8:
            return frame(made_up(rng, payload, self.tokens))
        if kind == 9:
            return frame(deep(rng, payload, self.tokens))
        if kind == 10:  # a frame whose length is a lie
            length = rng.choice(
                (0, 1, len(payload) + 9, 5000, 16 << 10, 1 << 20, rng.getrandbits(32))
            )
            return MAGIC + length.to_bytes(4, "big") + payload
        return MAGIC[: rng.randint(1, 4)] * rng.randint(1, 300) + frame(payload)
