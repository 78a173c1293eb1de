"""Messages between the tests of worker pools and their children; imported by both sides."""

from __future__ import annotations

from typing import Any

from streamipc import Message, Request


class Add(Request[int]):
    a: int
    b: int = 1


class Pid(Request[int]):
    pass


class Echo(Request[Any]):
    value: Any


class Fail(Request[None]):
    text: str


class Nap(Request[str]):
    """Sleeps; heeds a cancellation unless it is told not to."""

    seconds: float
    heeds: bool = True


class Spin(Request[str]):
    """Keeps the CPU busy, and heeds nothing."""

    seconds: float


class Die(Request[None]):
    """Dies at once: by a signal, or with an exit status."""

    how: int = -9


class DieOnce(Request[int]):
    """Dies the first time, and leaves a file; then answers the process id."""

    path: str


class Log(Request[int]):
    """Appends a line to a file, sleeps, then answers the process id: shows how often it ran."""

    path: str
    line: str
    seconds: float = 0.0


class Count(Request[int]):
    """Streams the numbers below ``n``; then answers ``n``."""

    n: int
    pause: float = 0.0


class AskBack(Request[str]):
    """Asks the parent for a name, and answers with it."""


class Name(Request[str]):
    pass


class Tell(Request[None]):
    """Notifies the parent."""

    text: str


class Said(Message):
    text: str


class Heard(Request[list[str]]):
    """What this process was notified of."""


class Ready(Request[int]):
    pass
