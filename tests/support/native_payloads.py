"""Native payloads written by hand."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import pytest

from streamipc.exceptions import SerializationError
from streamipc.protocol.envelopes import Envelope
from streamipc.serializers._native_builders import MODULE
from streamipc.serializers.native import NativeMessageSerializer

SERIALIZER = NativeMessageSerializer()
INFINITY = float("inf")


def header(
    kind: int,
    *,
    flags: int = 0,
    id_size: int = 0,
    name_size: int = 0,
    buffers: int = 0,
    number: int = 0,
    id_: int = 0,
    timeout: float = INFINITY,
) -> bytes:
    return struct.pack(">BBHHHIQd", kind, flags, id_size, name_size, buffers, number, id_, timeout)


def decode(*parts: bytes) -> Any:
    return SERIALIZER.decode(memoryview(b"".join(parts)))


def refused(text: str, *parts: bytes) -> Envelope | None:
    with pytest.raises(SerializationError, match=text) as caught:
        decode(*parts)
    return caught.value.envelope


def with_buffers(kind: int, body: bytes, *buffers: bytes, name: bytes = b"") -> bytes:
    head = header(kind, buffers=len(buffers), id_=7, name_size=len(name)) + name
    payload = head + struct.pack(f">{1 + len(buffers)}Q", len(body), *map(len, buffers)) + body
    for buffer in buffers:
        payload += bytes(-len(payload) % 16) + buffer
    return payload


def call(name: str, *args: Any, serializer: NativeMessageSerializer = SERIALIZER) -> Any:
    """Have the reader call a builder, as a peer would; return what it builds."""

    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    body = b"\x80\x05" + text(MODULE) + text(name) + b"\x93" + pickle.dumps(args, 5)[2:-1] + b"R."
    payload = header(2, id_=1, timeout=0.0) + body
    return serializer.decode(memoryview(payload)).value  # type: ignore[union-attr]
