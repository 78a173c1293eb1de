"""What travels: one class for each kind of envelope, and the ids of requests.

An envelope is a message plus what the protocol needs to know about it. Serializers
turn envelopes into payloads and back; the connection turns them into events. They are
plain records: no thread, no lock, no file descriptor, no clock.

Each direction of a session has its own ids: the side that makes a request chooses the
id, and ``Response``, ``ErrorResponse`` and ``Progress`` carry it back, while ``Cancel``
and ``Credit`` carry it forth. So both sides may use the same number at the same time.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .._shown import shown
from ..messages import ErrorMessage, Message

__all__ = [
    "Cancel",
    "CounterIdGenerator",
    "Credit",
    "Envelope",
    "ErrorResponse",
    "Notification",
    "PidHrtimeRequestIdGenerator",
    "Progress",
    "Request",
    "RequestId",
    "Response",
    "fault_of",
]

RequestId = int | str
"""An integer from 0 to 2**64-1, or a text of 1 to 255 bytes in UTF-8."""

MAX_METADATA = 1 << 16
"""Characters that the keys and values of one envelope's metadata may have together."""

MAX_WINDOW = 2**31 - 1
"""Largest window of a request, and largest count of a credit."""

IdGenerator = Callable[[], RequestId]
"""Called once for each request; must be thread-safe, and should not repeat an id in a session.

The late answer to a request that was cancelled would be taken for that to a new one of its id.
"""


class _Record:
    """Equality and ``repr`` for the envelopes; they are never hashed."""

    __slots__: tuple[str, ...] = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class Request(_Record):
    """A message that wants a reply.

    Args:
        id: unique among the requests of this side that are not finished.
        message: the message.
        timeout: seconds that remain until the caller gives up; ``None``: no limit.
            Relative, so that the clocks of the two sides are never compared.
        metadata: text to text, handed to the handler as it is.
        window: how many progress items the caller takes before it grants more;
            0: it takes none.
    """

    __slots__ = ("id", "message", "metadata", "timeout", "window")

    def __init__(
        self,
        id: RequestId,  # noqa: A002 - the protocol's own word
        message: Message,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        window: int = 0,
    ) -> None:
        self.id = id
        self.message = message
        self.timeout = timeout
        self.metadata = metadata
        self.window = window


class _ForCall(_Record):
    """What a connection that has received it finds the request of ours for: its ``call``."""

    __slots__ = ("call",)
    call: Any


class Response(_ForCall):
    """The reply to a request: a Message, or any value that the serializer carries."""

    __slots__ = ("id", "value")

    def __init__(self, id: RequestId, value: Any) -> None:  # noqa: A002
        self.id = id
        self.value = value


class ErrorResponse(_ForCall):
    """The request failed.

    Args:
        id: of the request.
        error: what happened, as the caller will see it.
        code: which exception the caller gets; see :data:`ERROR_CODES`.
    """

    __slots__ = ("code", "error", "id")

    def __init__(self, id: RequestId, error: ErrorMessage, code: str = "handler") -> None:  # noqa: A002
        self.id = id
        self.error = error
        self.code = code


ERROR_CODES = (
    "handler",  # the handler raised -> RemoteError
    "unhandled",  # nobody takes this type -> UnhandledRequestError
    "serialization",  # request or reply can't be read or written -> SerializationError
    "overloaded",  # too many requests wait -> OverloadedError
    "cancelled",  # the handler gave up after a Cancel -> RequestCancelledError
    "timeout",  # the request's time was over before it started -> RequestTimeoutError
    "protocol",  # frame, window or metadata too large -> ProtocolError
    "closed",  # the peer is closing and takes no new requests -> SessionClosedError
)
"""The codes of an :class:`ErrorResponse` and the exception each becomes."""


class Notification(_Record):
    """A message that wants no reply."""

    __slots__ = ("message", "metadata")

    def __init__(self, message: Message, metadata: Mapping[str, str] | None = None) -> None:
        self.message = message
        self.metadata = metadata


class Progress(_ForCall):
    """One item of a request that is still running: a Message or any value."""

    __slots__ = ("id", "item")

    def __init__(self, id: RequestId, item: Any) -> None:  # noqa: A002
        self.id = id
        self.item = item


class Credit(_Record):
    """The caller has taken ``count`` items and will take as many more."""

    __slots__ = ("count", "id")

    def __init__(self, id: RequestId, count: int) -> None:  # noqa: A002
        self.id = id
        self.count = count


class Cancel(_Record):
    """The caller no longer wants the reply."""

    __slots__ = ("id",)

    def __init__(self, id: RequestId) -> None:  # noqa: A002
        self.id = id


Envelope = Request | Response | ErrorResponse | Notification | Progress | Credit | Cancel


def fault_of(envelope: object) -> str | None:
    """Return what is wrong with an envelope that a serializer of the user's own made, if anything.

    A text about the id starts with ``id``. Whether ids repeat, and how large windows, counts and
    metadata may be, is the connection's to say.
    """
    kind = type(envelope)
    if kind is not Notification and kind in _KINDS:
        id_ = envelope.id  # type: ignore[attr-defined]
        if isinstance(id_, str):
            good = 1 <= len(id_.encode("utf-8", "surrogatepass")) <= 255
        else:
            good = type(id_) is int and 0 <= id_ < 1 << 64
        if not good:
            return f"id is {shown(id_)}, not a number from 0 to 2**64-1 or a text of 1 to 255 bytes"
    if kind is Request or kind is Notification:
        if not isinstance(envelope.message, Message):  # type: ignore[attr-defined]
            return f"message is a {type(envelope.message).__name__}"  # type: ignore[attr-defined]
        if not _is_metadata(envelope.metadata):  # type: ignore[attr-defined]
            return "metadata maps not text to text"
    if isinstance(envelope, Request):
        if envelope.timeout is not None and not _is_number(envelope.timeout):
            return f"timeout is {shown(envelope.timeout)}, not seconds of at least 0"
        if type(envelope.window) is not int:
            return f"window is {shown(envelope.window)}, no whole number"
    elif isinstance(envelope, Credit) and type(envelope.count) is not int:
        return f"count is {shown(envelope.count)}, no whole number"
    elif isinstance(envelope, ErrorResponse):
        if not isinstance(envelope.error, ErrorMessage):
            return f"error is a {type(envelope.error).__name__}, not an ErrorMessage"
        if not isinstance(envelope.code, str):
            return f"code is a {type(envelope.code).__name__}, no text"
    return None


_KINDS = {Request, Response, ErrorResponse, Notification, Progress, Credit, Cancel}


def _is_metadata(metadata: Any) -> bool:
    if metadata is None:
        return True
    try:
        return all(isinstance(text, str) for item in metadata.items() for text in item)
    except (AttributeError, TypeError):
        return False


def _is_number(seconds: Any) -> bool:
    return type(seconds) in (int, float) and seconds >= 0


class CounterIdGenerator:
    """Numbers 1, 2, 3, …: the default, unique within one session's side.

    ``next`` on :func:`itertools.count` is one C call, so it needs no lock.
    """

    def __init__(self) -> None:
        self._next = itertools.count(1).__next__

    def __call__(self) -> int:
        """Return the next number."""
        return self._next()


class PidHrtimeRequestIdGenerator:
    """Texts ``"<process id>.<nanoseconds>"``: unique across the processes of a machine.

    The clock is :func:`time.perf_counter_ns`; where it does not move between two calls
    the next value is used instead, so that an id never repeats in one process.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards _last
        self._last = 0

    def __call__(self) -> str:
        """Return the next id."""
        with self._lock:
            now = self._last = max(time.perf_counter_ns(), self._last + 1)
        return f"{os.getpid()}.{now}"
