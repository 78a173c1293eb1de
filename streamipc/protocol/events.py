"""What happens in a connection: one class for each event that bytes from the peer become.

:meth:`~streamipc.protocol.connection.Connection.receive` returns them; its module tells which
envelope becomes which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .envelopes import Envelope
from .framing import Junk

if TYPE_CHECKING:
    from ..exceptions import IpcError
    from .envelopes import ErrorResponse, Notification, Request, RequestId

__all__ = [
    "CancelReceived",
    "CreditReceived",
    "Decoded",
    "Event",
    "ItemFailed",
    "JunkReceived",
    "LateReply",
    "Mismatch",
    "NotificationReceived",
    "PeerSkipped",
    "ProgressReceived",
    "Rejected",
    "ReplyReceived",
    "RequestReceived",
    "Skipped",
    "Undecodable",
    "ViolationReceived",
]


class RequestReceived:
    """The peer asks; ``request`` stands in ``served`` until it is answered."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


class NotificationReceived:
    """The peer tells."""

    __slots__ = ("notification",)

    def __init__(self, notification: Notification) -> None:
        self.notification = notification


class ReplyReceived:
    """``call`` is over: with ``value``, or with ``error`` if that is not ``None``."""

    __slots__ = ("call", "error", "value")

    def __init__(self, call: Any, value: Any, error: IpcError | None = None) -> None:
        self.call = call
        self.value = value
        self.error = error


class ProgressReceived:
    """``call`` has one more item."""

    __slots__ = ("call", "item")

    def __init__(self, call: Any, item: Any) -> None:
        self.call = call
        self.item = item


class ItemFailed:
    """An item of ``call`` can't be read; the call stays until it is cancelled."""

    __slots__ = ("call", "error")

    def __init__(self, call: Any, error: IpcError) -> None:
        self.call = call
        self.error = error


class CreditReceived:
    """The peer takes ``count`` more items of the request ``id``."""

    __slots__ = ("count", "id")

    def __init__(self, id: RequestId, count: int) -> None:  # noqa: A002
        self.id = id
        self.count = count


class CancelReceived:
    """The peer no longer wants the reply to the request ``id``."""

    __slots__ = ("id",)

    def __init__(self, id: RequestId) -> None:  # noqa: A002
        self.id = id


class LateReply:
    """A reply, or an item, to a request that has ended here."""

    __slots__ = ("id",)

    def __init__(self, id: RequestId) -> None:  # noqa: A002
        self.id = id


class JunkReceived:
    """Bytes between frames."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class ViolationReceived:
    """The peer broke a rule; the session goes on."""

    __slots__ = ("error",)

    def __init__(self, error: IpcError) -> None:
        self.error = error


class Mismatch:
    """The peer uses another serializer; ``answer`` tells it so, if it wants an answer."""

    __slots__ = ("answer", "error")

    def __init__(self, error: IpcError, answer: Notification | None) -> None:
        self.error = error
        self.answer = answer


class Skipped:
    """A frame was too large, and it is not known what it was; ``answer`` tells its length."""

    __slots__ = ("answer", "error")

    def __init__(self, error: IpcError, answer: Notification) -> None:
        self.error = error
        self.answer = answer


class PeerSkipped:
    """The peer has skipped our frames of ``length`` (a text), as ``notification`` says."""

    __slots__ = ("length", "notification")

    def __init__(self, length: str, notification: Notification) -> None:
        self.length = length
        self.notification = notification


class Rejected:
    """A request was refused before it became one; ``answer`` tells the peer why."""

    __slots__ = ("answer", "error")

    def __init__(self, answer: ErrorResponse, error: IpcError) -> None:
        self.answer = answer
        self.error = error


Event = (
    RequestReceived
    | NotificationReceived
    | ReplyReceived
    | ProgressReceived
    | ItemFailed
    | CreditReceived
    | CancelReceived
    | LateReply
    | JunkReceived
    | ViolationReceived
    | Mismatch
    | Skipped
    | PeerSkipped
    | Rejected
)


class Undecodable:
    """Stands between decoding and :meth:`Connection.receive` for a payload that failed.

    Args:
        error: why.
        envelope: what its header tells of it, if that could be read.
        length: bytes of a payload that was skipped.
    """

    __slots__ = ("envelope", "error", "length")

    def __init__(
        self, error: IpcError, envelope: Envelope | None = None, length: int | None = None
    ) -> None:
        self.error = error
        self.envelope = envelope
        self.length = length


Decoded = Envelope | Junk | Undecodable
