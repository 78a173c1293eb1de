"""Bytes between frames: what a child prints that does not know of us.

They are handed out in lines. And the error of a request that nobody has answered tells what came
instead: where a terminal stands between the two sides (``ssh -tt``), it echoes what is sent and
damages it; a child that is no session prints its usage. All that the caller would see is silence.

Owns the beginning of a line whose end has not come, guarded by the engine's lock: whoever takes it
away hands it out. And what came lately, which the thread that reads adds to and any other looks at.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from ..protocol.framing import MAGIC, Junk

__all__ = ["PATIENCE", "JunkLines", "JunkSeen"]

PATIENCE = 0.1
"""Seconds for which a line waits for its end. A print() may come in two writes."""

_MOST_LINES = 1 << 10
"""Lines into which the junk of one read is cut; the rest is handed out as it is."""

_LONGEST_LINE = 1 << 16
"""Bytes that wait for the end of their line."""

_PIECES = 16
"""How many are remembered: the last ones."""

_QUOTED = 100
"""Bytes of a piece that are."""

_ECHO = MAGIC + b"^"
"""How a terminal shows our own frame: the zeros of its length as ``^@^@``."""


class JunkLines:
    """Cuts junk into lines.

    It stands among the calls whose deadlines are kept, while a line waits for its end.

    Args:
        lock: the engine's; guards the beginning of a line.
        take: called with each line.
        remind_locked: has :meth:`time_is_over` called at a time; called with the lock held.

    Attributes:
        count: bytes of junk so far.
        pieces: in which they came.
        waits: the beginning of a line whose end has not come yet.
        due: in :func:`time.monotonic` seconds, when it is handed out without.
        seen: what came lately, for errors.
    """

    id = None

    def __init__(
        self,
        lock: threading.RLock,
        take: Callable[[str], object],
        remind_locked: Callable[[float, JunkLines], object],
    ) -> None:
        self._lock = lock
        self._take = take
        self._remind_locked = remind_locked
        self.waits = b""
        self.due = 0.0
        self.count = 0
        self.pieces = 0
        self.seen = JunkSeen()

    def received(self, junk: Junk) -> None:
        """Take bytes, in the place of a frame; by whoever reads: see ``dispatcher.py``."""
        data = junk.data
        self.count += len(data)
        self.pieces += 1
        self.seen.add(data)
        with self._lock:
            waited = bool(self.waits)
            *lines, last = (self.waits + data).split(b"\n", _MOST_LINES)
            if len(lines) == _MOST_LINES or len(last) > _LONGEST_LINE:
                lines.append(last)
                last = b""
            self.waits = last
            if last and (lines or not waited):
                self.due = time.monotonic() + PATIENCE
                self._remind_locked(self.due, self)
        for line in lines:
            self._hand_out(line)

    @property
    def lingers(self) -> bool:
        """Whether a line waits."""
        return bool(self.waits)

    def end_line(self) -> None:
        """Hand out what there is of a line: a frame follows it, or nothing, or it took too long."""
        with self._lock:
            line, self.waits = self.waits, b""
        if line:
            self._hand_out(line)

    def time_is_over(self) -> None:
        """A line has waited for its end for long enough, unless that was one before this one."""
        if time.monotonic() >= self.due:
            self.end_line()

    def _hand_out(self, line: bytes) -> None:
        self._take(line.removesuffix(b"\r").decode("utf-8", "replace"))


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
