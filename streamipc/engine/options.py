"""Settings of a session, shared by all sessions of a peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..limits import Limits
    from ..protocol.envelopes import IdGenerator
    from ..serializers.base import MessageSerializer

__all__ = ["Options"]


class Options:
    """What :class:`~streamipc.IpcPeer` was given, checked; it does not change.

    Args:
        serializer: turns messages into bytes.
        next_id: makes the ids of requests; ``None``: each session counts.
        max_frame_size: bytes.
        handler_threads: handlers that may run at the same time.
        spin: seconds to look for input before sleeping.
        tracebacks: tell the peer the tracebacks of handlers.
        limits: of what is held in memory.
    """

    __slots__ = (
        "handler_threads",
        "limits",
        "max_frame_size",
        "next_id",
        "serializer",
        "spin",
        "tracebacks",
    )

    def __init__(
        self,
        *,
        serializer: MessageSerializer,
        next_id: IdGenerator | None,
        max_frame_size: int,
        handler_threads: int,
        spin: float,
        tracebacks: bool,
        limits: Limits,
    ) -> None:
        self.serializer = serializer
        self.next_id = next_id
        self.max_frame_size = max_frame_size
        self.handler_threads = handler_threads
        self.spin = spin
        self.tracebacks = tracebacks
        self.limits = limits

    def replaced(self, serializer: MessageSerializer | None, max_frame_size: int | None) -> Options:
        """Return these settings with others for one session; ``None``: as they are."""
        return Options(
            serializer=self.serializer if serializer is None else serializer,
            next_id=self.next_id,
            max_frame_size=self.max_frame_size if max_frame_size is None else max_frame_size,
            handler_threads=self.handler_threads,
            spin=self.spin,
            tracebacks=self.tracebacks,
            limits=self.limits,
        )
