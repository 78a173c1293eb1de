"""Messages about long work, for tests and their children; ``long_child.py`` answers them."""

from __future__ import annotations

from typing import Any

from streamipc import Message, Request

__all__ = [
    "PATIENCE",
    "AskBack",
    "Blob",
    "Context",
    "Count",
    "Down",
    "Forever",
    "Report",
    "Step",
    "Stubborn",
    "Swap",
    "WaitFor",
]


PATIENCE = (0.2, 2, 20)
"""Seconds to try in turn where a deadline is to pass in the midst of something: on a busy
machine it may pass before that has begun."""


class Step(Message):
    """An item."""

    number: int


class Count(Request[int]):
    """Yields ``Step(0)`` to ``Step(n - 1)``; replies ``n``, or fails after ``fail_after`` items."""

    n: int
    fail_after: int | None = None
    name: str = "count"
    """Says ``<name> closed`` in its ``finally`` if it did not come to its end."""


class Report(Request[str]):
    """Calls ``ctx.progress`` with each of ``items``; replies ``"done"``."""

    items: list[Any]


class Forever(Request[str]):
    """Runs until it is cancelled; says ``<name> started`` and ``<name> cancelled``.

    The first is its only item too, for those who can't ask in the meantime.
    """

    name: str
    how: str = "on_cancel"
    """How it notices: ``on_cancel``, ``cancelled`` or ``raise_if_cancelled``."""


class Stubborn(Request[str]):
    """Says ``<name> started`` and replies when ``<name> may end`` has been said."""

    name: str


class WaitFor(Request[None]):
    """Replies once ``what`` has been said in the child; ``say`` says it."""

    what: str
    say: bool = False


class Context(Request[dict[str, Any]]):
    """Replies what the handler's context knows."""


class AskBack(Request[Any]):
    """The child asks ``Context()`` of the other side and replies what it got.

    With ``inline`` the handler runs on the thread that reads.
    """

    inline: bool = False
    timeout: float | None = None
    """None: the default."""


class Down(Request[int]):
    """Each side asks the other for one less, until 0."""

    depth: int


class Blob(Request[int]):
    """Replies the length."""

    data: bytes


class Swap(Request[int]):
    """The child sends ``count`` blobs of ``size`` bytes before it waits for any reply."""

    size: int
    count: int
