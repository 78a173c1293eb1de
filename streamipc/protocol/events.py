"""What bytes from the peer become: events.

Mostly the envelope itself is the event. A class here stands for what no envelope says, which is to
say, for what went wrong. :meth:`~streamipc.protocol.connection.Connection.receive` returns them;
its module tells which envelope becomes which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .envelopes import Envelope
from .framing import Junk

if TYPE_CHECKING:
    from ..exceptions import IpcError
    from .envelopes import ErrorResponse, Notification, RequestId

__all__ = [
    "Decoded",
    "Event",
    "ItemFailed",
    "Late",
    "Mismatch",
    "PeerSkipped",
    "Rejected",
    "ReplyFailed",
    "Skipped",
    "Undecodable",
    "Violation",
]


class ReplyFailed:
    """The reply to ``call`` can't be read; the call is over."""

    __slots__ = ("call", "error")

    def __init__(self, call: Any, error: IpcError) -> None:
        self.call = call
        self.error = error


class ItemFailed:
    """An item of ``call`` can't be read; the call stays until it is cancelled."""

    __slots__ = ("call", "error")

    def __init__(self, call: Any, error: IpcError) -> None:
        self.call = call
        self.error = error


class Late:
    """An answer, or an item, to a request that has ended here."""

    __slots__ = ("id", "is_answer")

    def __init__(self, id: RequestId, is_answer: bool = False) -> None:  # noqa: A002
        self.id = id
        self.is_answer = is_answer


class Violation:
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
    Envelope
    | Junk
    | ReplyFailed
    | ItemFailed
    | Late
    | Violation
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
