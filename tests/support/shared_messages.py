"""Messages that tests and their children share."""

from __future__ import annotations

from typing import Any

from streamipc import Message, Request

__all__ = ["Add", "Echo", "Fail", "Greeting", "Note", "SayHello"]


class Greeting(Message):
    text: str


class SayHello(Request[Greeting]):
    name: str


class Echo(Request[Any]):
    """Answered with ``value`` as it is."""

    value: Any = None


class Add(Request[int]):
    a: int
    b: int


class Fail(Request[None]):
    """Answered with a ``ValueError`` of this text."""

    text: str = "on purpose"


class Note(Message):
    """A notification."""

    text: str = ""
    number: int = 0
