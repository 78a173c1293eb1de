"""Fills one queue of a session, or all, with the worst that a peer can send; prints the peak.

It is its own peer, by a socket: what that sends takes next to no memory.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from streamipc import IpcPeer, LogMessage, Message, NativeMessageSerializer, Request

PATIENCE = 1.0
"""Seconds after which a peer whose bytes nobody reads has filled what there is."""

HEADER = struct.Struct(">BBHHHIQd")
REQUEST, NOTIFICATION, PROGRESS = 1, 4, 5


class Ask(Request[int]):
    """Its handler does not return."""

    value: object = None


class Items(Request[int]):
    """What this side asks for."""


class Back(Request[int]):
    """Its handler asks back, and gets no answer."""


class Tell(Message):
    """Its handler does not return."""

    value: object = None


class Kept(Message):
    """It has no handler."""

    value: object = None


def sets(size: int) -> bytes:
    """Return a pickled list of empty sets: 224 bytes of memory for each byte."""
    return b"(" + b"\x8f" * size + b"e"


def ints(size: int) -> bytes:
    """Return a pickled list of numbers: 12 bytes of memory for each, too few to be folded."""
    return b"(" + b"M\x00\x10" * (size // 3) + b"e"


def fields(body: bytes) -> bytes:
    return b"\x80\x05}\x8c\x05value]" + body + b"s."


def frame(kind: int, body: bytes, id: int = 0, cls: type | None = None) -> bytes:  # noqa: A002
    name = b"" if cls is None else cls.__wire_name__.encode()  # type: ignore[attr-defined]
    payload = HEADER.pack(kind, 0, 0, len(name), 0, 0, id, float("inf")) + name + body
    return b"\xf3\x4a\x9d\xe2" + struct.pack(">I", len(payload)) + payload


def worst() -> Iterator[bytes]:
    for _ in range(15):
        yield sets(100_000)
    for _ in range(480):
        yield ints(60_000)


def memory(what: str) -> int:
    """Return megabytes: ``VmRSS``, or ``VmHWM``, which is the most it has been."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{what}:")[1].split()[0]) >> 10


class Foe:
    """Both sides: a session, and the peer that attacks it."""

    def __init__(self) -> None:
        here, self.socket = socket.socketpair()
        self.socket.settimeout(PATIENCE)
        self.session: Any = IpcPeer(timeout=None).create_stream_session(here, here)
        self.forever = threading.Event()
        self.session.on_request(Ask)(lambda msg: self.forever.wait())
        self.session.on_request(Back)(lambda msg: self.session.call(Items(), timeout=None))
        self.session.on_message(Tell)(lambda msg: self.forever.wait())
        self.session.start()
        self.numbers = iter(range(1, 1 << 30))

    def drain(self) -> None:
        """Read what the session writes, from now on."""

        def read() -> None:
            while True:
                try:
                    self.socket.recv(1 << 16)
                except TimeoutError:
                    continue

        threading.Thread(target=read, daemon=True).start()

    def send(self, frames: Iterator[bytes]) -> None:
        try:
            for data in frames:
                self.socket.sendall(data)
        except TimeoutError:
            return  # nobody reads any more
        time.sleep(PATIENCE)

    def requests(self) -> None:
        self.send(frame(REQUEST, fields(body), next(self.numbers), Ask) for body in worst())

    def notifications(self) -> None:
        self.send(frame(NOTIFICATION, fields(body), cls=Tell) for body in worst())

    def received(self) -> None:
        self.send(frame(NOTIFICATION, fields(body), cls=Kept) for body in worst())

    def _ask(self, ask: Callable[[], object], count: int) -> list[int]:
        before = set(self.session._engine.connection.calls)
        self.kept = [ask() for _ in range(count)]
        return [n for n in self.session._engine.connection.calls if n not in before]

    def _send_items(self, ids: list[int]) -> None:
        bodies = [sets(100_000)] + [ints(60_000)] * 24
        self.send(frame(PROGRESS, b"\x80\x05]" + body + b".", n) for body in bodies for n in ids)

    def items(self) -> None:
        self._send_items(self._ask(lambda: self.session.stream(Items(), window=32), 25))

    def progress(self) -> None:
        wait = self.forever.wait
        ask = lambda: self.session.request(Items(), on_progress=lambda _: wait(), window=32)  # noqa: E731
        self._send_items(self._ask(ask, 25))

    def errors(self) -> None:
        self.session.on_exception(lambda error: self.forever.wait())
        body = b"\x80\x05X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"c."
        self.send(frame(NOTIFICATION, body, cls=LogMessage) for _ in range(200))

    def refusals(self) -> None:
        self.send(frame(REQUEST, b"\x80\x05}.", n) for n in range(200_000))

    def lifted(self) -> None:
        """Notifications while a handler waits for us, so that reading goes on."""
        self.send(iter([frame(REQUEST, b"\x80\x05}.", next(self.numbers), Back)]))
        small = frame(NOTIFICATION, fields(sets(40)), cls=Tell) * 100
        self.send(small for _ in range(1000))

    def junk(self) -> None:
        self.session.on_message(LogMessage)(lambda msg: self.forever.wait())
        self.send(iter([frame(REQUEST, b"\x80\x05}.", next(self.numbers), Back)]))
        self.send(b"\n" * (1 << 16) for _ in range(50))

    def all(self) -> None:
        self.session.on_exception(lambda error: self.forever.wait())
        self.items()
        self.errors()
        self.received()
        self.requests()
        self.lifted()
        self.notifications()


def main(queue: str) -> None:
    foe = Foe()
    NativeMessageSerializer().decode(memoryview(frame(NOTIFICATION, fields(sets(3)), cls=Kept)[8:]))
    if queue != "refusals":
        foe.drain()
    before = memory("VmRSS")
    getattr(foe, queue)()
    engine = foe.session._engine
    said = {
        "grown": memory("VmHWM") - before,
        "held": engine.flow.total >> 20,
        "stats": foe.session.stats._asdict(),
        "paused": sorted(reason.name for reason in engine.flow.reasons),
    }
    print(json.dumps(said), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
