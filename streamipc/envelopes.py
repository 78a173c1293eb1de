"""What a serializer of your own turns into payloads and back: one class for each kind of envelope.

``encode`` gets one of these and returns bytes, ``decode`` returns one. :func:`wire_name_of` gives
the name under which a message travels, and :func:`message_type` the class of that name among those
that are defined in this process; it imports nothing. See :class:`streamipc.MessageSerializer`.
"""

from __future__ import annotations

from .messages import message_type, wire_name_of
from .protocol.envelopes import (
    ERROR_CODES,
    Cancel,
    Credit,
    Envelope,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    RequestId,
    Response,
)

__all__ = [
    "ERROR_CODES",
    "Cancel",
    "Credit",
    "Envelope",
    "ErrorResponse",
    "Notification",
    "Progress",
    "Request",
    "RequestId",
    "Response",
    "message_type",
    "wire_name_of",
]
