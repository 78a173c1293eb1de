"""The messages of both sides.

The names on the wire are given, because the parent imports this file as part of a package
and the children as a module beside them.
"""

from __future__ import annotations

from typing import Any

from streamipc import Message, Request


class Answer(Message, wire_name="bench.Answer"):
    number: int
    text: str


class Ask(Request[Answer], wire_name="bench.Ask"):
    """The small message; the same two values go to every library."""

    number: int
    text: str


class Tell(Message, wire_name="bench.Tell"):
    """A notification; they are numbered from 0."""

    number: int
    text: str


class Expect(Request[None], wire_name="bench.Expect"):
    """So many notifications are about to come."""

    count: int


class Told(Request[tuple[int, bool]], wire_name="bench.Told"):
    """How many notifications were handled, and whether they came in order.

    Answered when all are handled that were expected: a request may overtake notifications.
    """


class Count(Request[int], wire_name="bench.Count"):
    """A stream of small items, ``limit`` of them."""

    limit: int


class Weigh(Request[int], wire_name="bench.Weigh"):
    """Something large; the reply is its size in bytes."""

    data: Any


class GiveBack(Request[Any], wire_name="bench.GiveBack"):
    """Something large; the reply is the same."""

    data: Any


class Run(Request[Any], wire_name="bench.Run"):
    """A function of :mod:`functions` by name, and its arguments."""

    name: str
    arguments: tuple[Any, ...]


class Trace(Request[None], wire_name="bench.Trace"):
    """Start to watch the memory in use."""


class Peak(Request[int], wire_name="bench.Peak"):
    """How many bytes more than at :class:`Trace` were in use at the most."""


class Sleep(Request[None], wire_name="bench.Sleep"):
    seconds: float


class Hold(Request[None], wire_name="bench.Hold"):
    """A request that is never answered."""


class CallBack(Request[list[float]], wire_name="bench.CallBack"):
    """Ask the parent for so many seconds, from the handler; returns what each call took."""

    seconds: float


class Go(Message, wire_name="bench.Go"):
    """Tells the child's main thread to ask the parent for so many seconds."""

    seconds: float


class Measured(Message, wire_name="bench.Measured"):
    """What each call took that the child's main thread made, in seconds."""

    took: list[float]
