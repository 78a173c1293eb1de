"""What the engine asks of a transport: once, here.

A transport of the user's has the methods of :class:`streamipc.Transport` and no others. Ours can do
more: they see to a child, or to standard output. Whoever has something to ask asks the adapter,
which knows an answer for every transport. It owns nothing that changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..exceptions import SessionClosedError
from ..serializers.base import Buffer

__all__ = ["Endpoint", "TransportAdapter"]


class Endpoint(Protocol):
    """What the engine reads from and writes to: a transport that can be polled."""

    read_fds: tuple[int, ...]
    write_fd: int
    write_log: list[int]
    """The result of the last :meth:`write_some`, also of one that was interrupted."""
    read_logs: tuple[list[int], ...]
    """For each source, the result of the last :meth:`read_into`, likewise."""
    prefix: dict[int, bytes]
    """What was read ahead, by source: no poll reports it."""

    def read_into(self, buffer: memoryview, source: int = 0, /) -> int:
        """Read what is there into ``buffer``; return how many bytes, 0 at the end."""
        ...

    def write_some(self, buffers: Sequence[Buffer], /) -> int:
        """Write what there is room for; return how many bytes."""
        ...

    def close_write(self) -> None:
        """End our direction."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...

    def close_after_fork(self) -> None:
        """Close the copies that a forked process has."""
        ...


class TransportAdapter:
    """A transport, with an answer to all that the engine asks.

    Args:
        transport: moves the bytes.
        endpoint: what stands before one that can't be polled.

    Attributes:
        pollable: whether the transport can be polled.
        goes_with_peer: this process is there for the peer alone.
        has_nobody: there is nothing to serve.
        answers_cancelled: cancelled requests are answered as well.
        session_starts: called when the session starts.
        watch: has a function called when the child is dead; ``None``: there is no child.
        shutdown: ends the child, which has so many seconds; ``None``: likewise.
        look_for_status: reaps a child that is dead.
        closed_error: returns the error for a session that has ended; takes how.
        silent_error: the same where nothing has come from the peer.
        untold_death: says how a child has died; empty if there is nothing to say.
        unread_bytes: bytes that the peer has not read, and never will; ``None``: not known.
        stay_redirected: has ``print()`` stay away from the stream of standard output.
        start_pump: starts what copies to and from a transport that blocks.
        wait_for_pump: waits so many seconds until that has written everything; says if it has.
    """

    def __init__(self, transport: Any, endpoint: Any = None) -> None:
        def ask(name: str, default: Any = _nothing) -> Any:
            return getattr(transport, name, default)

        self.transport = transport
        self.endpoint: Endpoint = transport if endpoint is None else endpoint
        self.pollable = bool(ask("pollable", False))
        self.goes_with_peer = bool(ask("goes_with_peer", False))
        self.has_nobody = bool(ask("has_nobody", False))
        self.answers_cancelled = bool(ask("answers_cancelled", False))
        self.session_starts: Callable[[], object] = ask("session_starts")
        self.watch: Callable[[Callable[[], None]], object] | None = ask("watch", None)
        self.shutdown: Callable[[float], object] | None = ask("shutdown", None)
        self.look_for_status: Callable[[], object] = ask("look_for_status")
        self.closed_error: Callable[[str], SessionClosedError] = ask(
            "closed_error", SessionClosedError
        )
        self.silent_error: Callable[[str], SessionClosedError] = ask(
            "silent_error", self.closed_error
        )
        self.untold_death: Callable[[], str] = ask("untold_death", str)
        self.unread_bytes: Callable[[], int | None] = ask("unread_bytes")
        self.stay_redirected: Callable[[], object] = ask("stay_redirected")
        self.start_pump: Callable[[Callable[[Exception], None]], object] = getattr(
            self.endpoint, "start_pump", _nothing
        )
        self.wait_for_pump: Callable[[float], bool] = getattr(
            self.endpoint, "wait_for_pump", _at_once
        )
        self._close_after_fork: Callable[[], object] = ask("close_after_fork")

    @property
    def is_direct(self) -> bool:
        """Whether the transport is its own endpoint."""
        return self.endpoint is self.transport

    def close_after_fork(self) -> None:
        """Close the copies that a forked process has of everything."""
        self._close_after_fork()
        if not self.is_direct:
            self.endpoint.close_after_fork()


def _nothing(*_: object) -> None:
    pass


def _at_once(seconds: float) -> bool:
    return True
