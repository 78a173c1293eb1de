"""The kinds of traffic in the midst of which children die; both sides run them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from long_messages import Count, Down, Step
from shared_messages import Echo, Note

from streamipc import IpcSession, ResponseFuture

__all__ = ["LOADS", "Load", "register"]

Ask = Callable[..., "ResponseFuture[Any]"]


def register(target: Any) -> None:
    """Answer the messages of all loads; ``target`` is a session or a peer."""

    @target.on_request
    def echo(msg: Echo) -> object:
        return msg.value

    @target.on_request
    def count(msg: Count) -> Iterator[Step]:
        for number in range(msg.n):
            yield Step(number)
        return msg.n

    @target.on_request
    def down(msg: Down, session: IpcSession) -> int:
        return 1 + session.request(Down(msg.depth - 1)).result() if msg.depth else 0

    @target.on_request
    def note(msg: Note) -> int:
        return msg.number


class Load(NamedTuple):
    """One kind of load."""

    name: str
    make: Callable[[], tuple[Any, Any]]
    """Makes a request, and what its reply must be."""
    streams: bool = False
    most: int = 4
    """Requests in flight for each thread."""

    def ask_once(self, session: IpcSession, timeout: float = 60) -> None:
        """Ask once and check the reply."""
        message, expected = self.make()
        if self.streams:
            with session.stream(message, timeout=timeout) as stream:
                assert [item.number for item in stream] == list(range(message.n))
                assert stream.result() == expected
        else:
            assert session.request(message, timeout=timeout).result() == expected


def _small() -> tuple[Any, Any]:
    value = random.randrange(1 << 40)
    return Echo(value), value


def _stream() -> tuple[Any, Any]:
    n = random.randrange(200)
    return Count(n), n


def _large() -> tuple[Any, Any]:
    # Of one byte value: what is mixed up, cut or shifted does not compare equal.
    value = bytes([random.randrange(256)]) * random.randrange(1 << 14, 1 << 20)
    return Echo(value), value


def _nested() -> tuple[Any, Any]:
    depth = random.randrange(1, 12)
    return Down(depth), depth


LOADS = {
    load.name: load
    for load in (
        Load("requests", _small, most=8),
        Load("streams", _stream, streams=True, most=1),
        Load("payloads", _large, most=2),
        Load("nested", _nested, most=2),
    )
}
