"""Bytes between frames, cut into lines: what a child prints that does not know of us."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

__all__ = ["PATIENCE", "JunkLines"]

PATIENCE = 0.1
"""Seconds for which a line waits for its end. A print() may come in two writes."""

_MOST_LINES = 1 << 10
"""Lines into which the junk of one read is cut; the rest is handed out as it is."""

_LONGEST_LINE = 1 << 16
"""Bytes that wait for the end of their line."""


class JunkLines:
    """Cuts junk into lines.

    It stands among the futures whose deadlines are kept, while a line waits for its end, and looks
    like one whose reply is there and which is not done (see ``deadlines.py``).

    Args:
        lock: the engine's; guards the beginning of a line.
        take: called with each line.

    Attributes:
        count: bytes of junk so far.
        waits: the beginning of a line whose end has not come yet.
    """

    id = None
    on_reply = True

    def __init__(self, lock: threading.Lock, take: Callable[[str], object]) -> None:
        self._lock = lock
        self._take = take
        self.waits = b""
        self.count = 0

    def add(self, data: bytes) -> bool:
        """Take bytes; return whether a line waits for its end that did not wait before."""
        self.count += len(data)
        with self._lock:
            waited = bool(self.waits)
            *lines, last = (self.waits + data).split(b"\n", _MOST_LINES)
            if len(lines) == _MOST_LINES or len(last) > _LONGEST_LINE:
                lines.append(last)
                last = b""
            self.waits = last
        for line in lines:
            self._hand_out(line)
        return bool(last) and not (waited and not lines)

    def ready(self) -> bool:
        """Tell whether nothing waits."""
        return not self.waits

    def end_line(self) -> None:
        """Hand out what there is of a line: a frame follows it, or nothing, or it took too long."""
        with self._lock:
            line, self.waits = self.waits, b""
        if line:
            self._hand_out(line)

    def _hand_out(self, line: bytes) -> None:
        self._take(line.removesuffix(b"\r").decode("utf-8", "replace"))
