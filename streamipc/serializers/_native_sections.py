"""The parts of a native payload around its body: header, sections, buffers.

A payload is, in this order, everything big-endian:

=========  ==================================================================
1 byte     kind: 1 request, 2 response, 3 error response, 4 notification,
           5 progress, 6 credit, 7 cancel. JSON never starts so.
1 byte     flags: 1 the id is a text, 2 there is metadata, 4 the only buffer is that of a
           ``bytes`` object
2 bytes    length of the text id in bytes, else 0
2 bytes    length of the wire name in bytes; 0: the body is a plain value
2 bytes    number of out-of-band buffers
4 bytes    window of a request, count of a credit, else 0
8 bytes    id, if it is a number
8 bytes    timeout of a request in seconds as a float; infinity: none
…          the text id; the wire name of the message in the body
4 bytes    length of the metadata, then the metadata as a pickle; only if flagged
8 bytes    length of the body, then 8 bytes for the length of each buffer; only if
           there are buffers
…          the body: pickle protocol 5 of the message's fields, or of the value
…          the buffers, each starting at a multiple of 16 bytes
=========  ==================================================================

The header and the sections before the body are read first, so a body that can't be
read still gets an answer with its id. Buffers stay aligned for the arrays that are
laid over them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from .._shown import shown
from ..exceptions import SerializationError
from ..protocol.envelopes import (
    Cancel,
    Credit,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    RequestId,
)
from ._native_pickle import dumps as _dumps
from ._native_pickle import loads as _loads
from ._native_scan import is_plain
from .base import Buffer

__all__ = [
    "CANCEL",
    "CREDIT",
    "ERROR",
    "HEADER_SIZE",
    "INFINITY",
    "METADATA",
    "NOTIFICATION",
    "PROGRESS",
    "REQUEST",
    "RESPONSE",
    "TEXT_ID",
    "assembled",
    "bad_number",
    "bodiless",
    "flags_of",
    "foreign",
    "joined",
    "pack_header",
    "read_sections",
    "read_text_id",
    "tail_size",
    "text_id",
    "unpack_header",
]

_HEADER = struct.Struct(">BBHHHIQd")
HEADER_SIZE = _HEADER.size
pack_header = _HEADER.pack
unpack_header = _HEADER.unpack_from
_U32 = struct.Struct(">I")
_TWO_SIZES = struct.Struct(">2Q")

REQUEST, RESPONSE, ERROR, NOTIFICATION, PROGRESS, CREDIT, CANCEL = range(1, 8)
TEXT_ID, METADATA, BYTES = 1, 2, 4
INFINITY = float("inf")
_ALIGN = 16
_LARGEST_ID = 2**64 - 1


def text_id(id_: object) -> tuple[bytes, int]:
    """Return text and number of an id that is not an int."""
    if isinstance(id_, str):
        try:
            text = id_.encode()
        except UnicodeEncodeError as error:
            raise SerializationError(f"the request id {shown(id_)} is no valid Unicode") from error
        if 1 <= len(text) <= 255:
            return text, 0
    raise SerializationError(
        f"the request id {shown(id_)} must be an int from 0 to 2**64-1, "
        "or a text of 1 to 255 bytes in UTF-8"
    )


def flags_of(buffers: Sequence[Buffer]) -> int:
    """Return the flags that tell of the buffers."""
    if len(buffers) == 1 and type(memoryview(buffers[0]).obj) is bytes:
        return BYTES
    return 0


def bad_number(id_: object, number: object, timeout: object) -> SerializationError:
    if not (isinstance(id_, int) and 0 <= id_ <= _LARGEST_ID):
        return SerializationError(f"the request id {shown(id_)} must be from 0 to 2**64-1")
    if not (isinstance(number, int) and 0 <= number < 2**32):
        return SerializationError(
            f"window and count must be from 0 to 2**31-1, not {shown(number)}"
        )
    return SerializationError(
        f"the timeout must be seconds as a float or None, not {shown(timeout)}"
    )


def assembled(
    kind: int, id_: RequestId, number: int, body: bytes, buffers: Sequence[Buffer]
) -> Sequence[Buffer]:
    """Return the payload of an envelope without a message."""
    flags = flags_of(buffers) if buffers else 0
    text = b""
    if type(id_) is not int:
        text, id_ = text_id(id_)
        flags |= TEXT_ID
    try:
        header = pack_header(kind, flags, len(text), 0, len(buffers), number, id_, INFINITY)
    except struct.error as error:
        raise bad_number(id_, number, None) from error
    if not (flags or buffers):
        return (header + body,)
    return joined(header, text, b"", None, body, buffers)


def joined(
    header: bytes,
    text: bytes,
    name: bytes,
    metadata: Mapping[str, str] | None,
    body: bytes,
    buffers: Sequence[Buffer],
) -> Sequence[Buffer]:
    parts = [header, text, name]
    if metadata:
        plain = dict(metadata)
        if not all(type(k) is type(v) is str for k, v in plain.items()):
            raise SerializationError(f"metadata must map str to str: {shown(plain)}")
        pickled = _dumps(plain, 5)
        parts += (_U32.pack(len(pickled)), pickled)
    if not buffers:
        parts.append(body)
        return (b"".join(parts),)
    sizes = [len(body)]
    sizes += [memoryview(buffer).nbytes for buffer in buffers]
    parts += (struct.pack(f">{len(sizes)}Q", *sizes), body)
    payload: list[Buffer] = []
    size = sum(map(len, parts))
    small: list[Buffer] = [*parts]
    for buffer, length in zip(buffers, sizes[1:], strict=True):
        padding = -size % _ALIGN
        size += padding + length
        small.append(bytes(padding))
        if length < _JOIN_BELOW:
            small.append(buffer)
        else:
            payload += (b"".join(small), buffer)
            small.clear()
    if small:
        payload.append(b"".join(small))
    return payload


_JOIN_BELOW = 64 * 1024
"""Bytes; a copy of less is cheaper than one more buffer is to write."""


def read_text_id(payload: memoryview, flags: int, size: int) -> Any:
    text = bytes(payload[HEADER_SIZE : HEADER_SIZE + size])
    if not flags & TEXT_ID or len(text) != size or not 1 <= size <= 255:
        raise SerializationError("the payload ends within its header, or its id is malformed")
    try:
        return str(text, "utf-8")
    except UnicodeDecodeError as error:
        raise SerializationError("the request id is no valid UTF-8") from error


def read_sections(
    payload: memoryview, pos: int, flags: int, count: int, envelope: Any, tail: bytes | None
) -> tuple[int, int, Sequence[Buffer]]:
    """Read what stands between wire name and body; set the metadata of ``envelope``.

    If the payload ends before its last buffer, that is ``tail``.

    Returns:
        Where the body starts and ends, and the buffers.
    """
    size = len(payload)
    if flags & ~(TEXT_ID | METADATA | BYTES):
        raise SerializationError(f"unknown flags {flags:#x}: the peer speaks a newer version")
    if flags & METADATA:
        length = _U32.unpack_from(payload, pos)[0]
        pos += 4 + length
        if pos > size or not isinstance(envelope, (Request, Notification)):
            raise SerializationError("the payload ends within its metadata, or may have none")
        envelope.metadata = _read_metadata(payload[pos - length : pos])
    if not count:
        return pos, size, ()
    body, *lengths = struct.unpack_from(f">{count + 1}Q", payload, pos)
    pos += 8 * (count + 1)
    end = at = pos + body
    buffers: list[Buffer] = []
    for length in lengths:
        at += -at % _ALIGN
        buffers.append(payload[at : at + length])
        at += length
    if tail is not None:
        buffers[-1] = tail
        size += len(tail)
    if at != size:
        raise SerializationError(f"the payload has {size} bytes, but its sections need {at}")
    return pos, end, buffers


def tail_size(head: memoryview, size: int) -> int:
    """Return how many bytes at the end of a payload are one ``bytes`` object; 0: none.

    Args:
        head: the first bytes of the payload.
        size: bytes of all of it.
    """
    try:
        _, flags, id_size, name_size, count, *_ = unpack_header(head)
        if count != 1 or not flags & BYTES:
            return 0
        pos = HEADER_SIZE + id_size + name_size
        if flags & METADATA:
            pos += 4 + _U32.unpack_from(head, pos)[0]
        body, length = _TWO_SIZES.unpack_from(head, pos)
    except struct.error:  # it ends before that
        return 0
    at = pos + _TWO_SIZES.size + body
    at += -at % _ALIGN
    return length if at <= len(head) and at + length == size else 0


def _read_metadata(data: memoryview) -> dict[str, str]:
    metadata = _loads(data) if is_plain(data, 0, len(data)) else None
    if type(metadata) is not dict or not all(
        type(key) is type(value) is str for key, value in metadata.items()
    ):
        raise SerializationError("the metadata does not map text to text")
    return metadata


def bodiless(kind: int, id_: RequestId, number: int) -> Any:
    """Return an envelope that is neither request nor response, without its body."""
    if kind == ERROR:
        return ErrorResponse(id_, None)  # type: ignore[arg-type]
    if kind == NOTIFICATION:
        return Notification(None)  # type: ignore[arg-type]
    if kind == PROGRESS:
        return Progress(id_, None)
    if kind == CREDIT:
        return Credit(id_, number)
    return Cancel(id_)


def foreign(payload: memoryview) -> SerializationError:
    start = bytes(payload[:16])
    if start.lstrip()[:1] in (b"{", b"["):
        return SerializationError(
            "this looks like a payload of the JSON serializer: both sides must use the same "
            "serializer (IpcPeer(serializer=...))"
        )
    return SerializationError(
        f"this is no payload of the native serializer ({len(payload)} bytes, starting "
        f"{start!r}): both sides must use the same serializer and a matching version"
    )
