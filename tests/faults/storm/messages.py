"""What the storm and its child say to each other."""

from __future__ import annotations

from streamipc import Message, Request

__all__ = [
    "Ask",
    "Back",
    "Blob",
    "Fail",
    "Hold",
    "Item",
    "Items",
    "Never",
    "Note",
    "Post",
    "Report",
    "Tell",
    "Tick",
]


class Ask(Request[int]):
    """Answered with its number, behind one ``Tick``; lets each ``Hold`` of a lower number go.

    With ``back``, the child first asks ``Back`` of the side that asked.
    """

    number: int
    back: bool = False


class Back(Request[int]):
    """Asked by the child; answered with its number."""

    number: int


class Hold(Request[int]):
    """Answered with its number when an ``Ask`` of a higher one comes."""

    number: int


class Blob(Request[int]):
    """Answered with the length of its data."""

    data: bytes


class Fail(Request[int]):
    """Answered with an error of a long text."""


class Items(Request[int]):
    """Yields the first ``count`` numbers as ``Item``; replies ``count``."""

    count: int


class Item(Message):
    """One item of a stream."""

    number: int


class Never(Request[int]):
    """Answered when it is cancelled."""


class Note(Message):
    """A numbered notification to the child, which keeps its number."""

    number: int


class Post(Message):
    """Asks for a notification that no handler takes; is one itself on its way back."""

    number: int


class Tick(Message):
    """A numbered notification from the child: 1, 2, 3 and so on."""

    number: int


class Tell(Request["Report"]):
    """Asks for what the child has seen since it was last asked."""


class Report(Message):
    """What the child has seen."""

    notes: list[int]
    ticks: int
    """Number of the last ``Tick`` sent."""
    running: int
    """Handlers of ``Never`` and ``Items`` that run."""
    torn: int
    """Bytes and frames that it could not read."""
