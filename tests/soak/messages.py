"""What the two sides of the soak say to each other, and the payloads that they check.

A payload belongs to its key: its bytes are cut from a pool at a place that the key gives,
and its checksum covers the key. One that is damaged, cut short, or meant for somebody else
does not pass.
"""

from __future__ import annotations

import random
import zlib

from streamipc import Message, Request

__all__ = [
    "LARGEST",
    "Begin",
    "Die",
    "Down",
    "Fail",
    "Finish",
    "Flow",
    "Hold",
    "Piece",
    "Report",
    "Swap",
    "Told",
    "piece",
]

LARGEST = 8 << 20
"""Bytes of the largest payload."""

_PLACES = 1 << 16
_POOL = random.Random(0).randbytes(LARGEST + _PLACES)


class Piece(Message):
    """A payload and what it is checked by."""

    key: str
    data: bytes
    checksum: int

    def fault(self, key: str, size: int | None = None) -> str:
        """Say what is wrong with it, if it is to be the payload of ``key``."""
        if self.key != key:
            return f"payload of {self.key!r} in the place of {key!r}'s"
        if size is not None and len(self.data) != size:
            return f"payload of {key!r} has {len(self.data)} bytes, not {size}"
        if _checksum(key, self.data) != self.checksum:
            return f"payload of {key!r}, {len(self.data)} bytes, is damaged"
        return ""


def piece(key: str, size: int) -> Piece:
    """Return the payload of ``key``."""
    start = zlib.crc32(key.encode()) % _PLACES
    data = _POOL[start : start + size]
    return Piece(key, data, _checksum(key, data))


def _checksum(key: str, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(key.encode()))


class Swap(Request[Piece]):
    """Replied to with the payload of ``key + "<"``, of ``size`` bytes, after a pause."""

    key: str
    piece: Piece
    size: int
    pause: float = 0.0


class Flow(Request[int]):
    """Yields the payloads of ``key.0``, ``key.1``, … of ``size`` bytes; replies ``count``."""

    key: str
    count: int
    size: int


class Down(Request[str]):
    """Each side asks the other for one less, until 0; replies ``key`` and the way."""

    key: str
    depth: int


class Hold(Request[None]):
    """Runs until it is cancelled."""

    key: str


class Fail(Request[None]):
    """Fails with a ``ValueError`` whose text is the key."""

    key: str


class Told(Message):
    """A notification: the sender's first, second, …."""

    sender: str
    number: int
    piece: Piece


class Begin(Request[None]):
    """The child starts traffic of its own."""

    seed: str
    workers: int


class Report(Message):
    """What one side counted, found and uses since the last report."""

    counts: dict[str, int]
    longest: dict[str, float]
    """Seconds, by what took them."""
    problems: list[str]
    told: dict[str, int]
    """Notifications sent, by sender."""
    rss: int
    """Bytes, when at rest."""
    blocks: int
    """Blocks of memory that Python has allocated, when at rest."""
    descriptors: int
    threads: int


class Finish(Request[Report]):
    """The child ends its traffic; ``told`` is what it should have been told by then."""

    told: dict[str, int]


class Die(Message):
    """The child ends at once, by ``os._exit(3)``."""
