"""Recognises that the peer uses another serializer than we do.

The payloads of the two that come with the library can be told apart by their first bytes. A side
that gets one of the other kind can't read what it is asked, and the other side could not read an
error in return. But any payload of ours shows the other side, in the same way, what is wrong. So
a foreign request is answered with a notification, which nobody answers in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..messages import ErrorMessage
from .envelopes import Cancel, Notification, Request

if TYPE_CHECKING:
    from ..serializers.base import Buffer, MessageSerializer

__all__ = ["format_of", "is_request", "notice", "own_formats"]

_JSON = "JSON"
_NATIVE = "native"

_SEEN = 512
"""Bytes of a payload that are looked at."""

_NATIVE_HEADER = 28
"""Bytes of the native header. It starts with the kind, from 1 to 7, and flags below 8."""

_NATIVE_REQUEST = 1


def format_of(payload: Buffer) -> str | None:
    """Return the name of the format that a payload seems to have, if it is a known one."""
    head = bytes(memoryview(payload)[:_SEEN])
    if head.lstrip(b" \t\r\n")[:1] == b"{":
        return _JSON
    if len(head) >= _NATIVE_HEADER and 1 <= head[0] <= 7 and head[1] < 8:
        return _NATIVE
    return None


def is_request(payload: Buffer) -> bool:
    """Tell whether a payload of a known format is a request."""
    head = bytes(memoryview(payload)[:_SEEN])
    if format_of(head) == _NATIVE:
        return head[0] == _NATIVE_REQUEST
    return b'"kind":"request"' in head.translate(None, b" \t\r\n")


def own_formats(serializer: MessageSerializer) -> set[str | None]:
    """Return what :func:`format_of` says of payloads that a serializer writes.

    Of several, for one of the user's own may look like ours, and some of its payloads be too
    short for that.
    """
    envelopes = (Cancel(0), Request(0, ErrorMessage("x" * _NATIVE_HEADER)))
    return {format_of(b"".join(serializer.encode(envelope))) for envelope in envelopes}


def notice(text: str) -> Notification:
    """Return what to send in answer to a foreign request."""
    return Notification(ErrorMessage(text, "SerializationError"))
