"""Recognises that the peer uses another serializer than we do.

Each of the two that come with the library can tell the other's payloads by their first bytes. A
side that gets such a payload can't read what it is asked, and the other side can't read an error
in return. But any payload of ours shows the other side, in the same way, what is wrong. So a
foreign request is answered with a notification, which nobody answers in turn.
"""

from __future__ import annotations

import re

from ..messages import ErrorMessage
from .envelopes import Cancel, Notification

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..serializers.base import Buffer, MessageSerializer

__all__ = ["JSON", "NATIVE", "format_of", "is_request", "notice", "own_format"]

JSON = "JSON"
NATIVE = "native"

_SEEN = 512
"""Bytes of a payload that are looked at."""

_NATIVE_HEADER = 28
"""Bytes of the native header, which starts with the kind, 1 to 7, and flags below 8."""

_json_request = re.compile(rb'"kind"\s*:\s*"request"')


def format_of(payload: Buffer) -> str | None:
    """Return the name of the format that a payload seems to have, if one is known."""
    head = bytes(memoryview(payload)[:_SEEN])
    if head.lstrip(b" \t\r\n")[:1] == b"{":
        return JSON
    if len(head) >= _NATIVE_HEADER and 1 <= head[0] <= 7 and head[1] < 8:
        return NATIVE
    return None


def is_request(payload: Buffer) -> bool:
    """Tell whether a payload of either format is a request."""
    head = bytes(memoryview(payload)[:_SEEN])
    return head[0] == 1 if format_of(head) == NATIVE else bool(_json_request.search(head))


def own_format(serializer: MessageSerializer) -> str | None:
    """Return the name of the format that a serializer writes, if it is a known one."""
    return format_of(b"".join(serializer.encode(Cancel(0))))


def notice(theirs: str, serializer: MessageSerializer) -> Notification:
    """Return what to send in answer to a request that is of another format."""
    text = (
        f"a request came in {theirs} format, and this side uses {type(serializer).__name__}: both "
        "sides must use the same serializer"
    )
    return Notification(ErrorMessage(text, "SerializationError"))
