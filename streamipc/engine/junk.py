"""What came instead of a frame, for the error of a request that nobody has answered.

Where a terminal stands between the two sides (``ssh -tt``), it echoes what is sent and damages
it; a child that is no session prints its usage. All that the caller would see is silence.
"""

from __future__ import annotations

import time
from collections import deque

from ..protocol.framing import MAGIC

__all__ = ["JunkSeen"]

_PIECES = 16
"""How many are remembered: the last ones."""

_QUOTED = 100
"""Bytes of a piece that are."""

_ECHO = MAGIC + b"^"
"""How a terminal shows our own frame: the zeros of its length as ``^@^@``."""


class JunkSeen:
    """Remembers bytes that were no frame. The thread that reads adds, any other asks."""

    def __init__(self) -> None:
        self._bytes = 0
        self._pieces: deque[tuple[float, int, bytes]] = deque(maxlen=_PIECES)

    def add(self, data: bytes) -> None:
        """Remember that ``data`` came now."""
        self._pieces.append((time.monotonic(), self._bytes, data[:_QUOTED]))
        self._bytes += len(data)

    def text(self, since: float, unfinished: bytes) -> str:
        """Return what to say of it in an error; empty if there was none.

        Args:
            since: in :func:`time.monotonic` seconds.
            unfinished: what came last and is no frame, most likely.
        """
        pieces = [piece for piece in tuple(self._pieces) if piece[0] >= since]
        count = len(unfinished)
        first = unfinished[:_QUOTED]
        if pieces:
            count += self._bytes - pieces[0][1]
            first = pieces[0][2]
        if not count:
            return ""
        text = f"; instead came {count:,} bytes that are no frame, beginning with {first!r}"
        if first.startswith(_ECHO):
            text += (
                ": it looks as if a terminal stood between the two sides and sent back what it "
                "was sent; use pipes (ssh without -t)"
            )
        return text
