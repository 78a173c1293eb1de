"""The queue of frames on their way out, and the count of the bytes that are through.

Bytes are numbered from the start of the session, and a frame knows the number of its end.
So whether a frame is out is one comparison, whoever wrote it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..serializers.base import Buffer

__all__ = ["Frame", "FrameQueue"]

CLOGGED_AT = 1 << 16
"""Bytes of answers that may wait for room before the watcher leaves requests to workers,
each of which waits for room with its answer."""

_JOIN_LIMIT = 1 << 13
"""Bytes of a frame up to which it is joined with others rather than written beside them."""

_WITHDRAWN = 256
"""Withdrawn frames after which the queue is cleared of them."""


class Frame:
    """One frame in the queue; withdrawn if it has no views left."""

    __slots__ = ("end", "started", "views")

    def __init__(self, views: list[memoryview], end: int) -> None:
        self.views = views
        self.end = end  # number of the byte behind its last one, counted from the start
        self.started = False


class FrameQueue:
    """The part of :class:`~streamipc.engine.writing.Writer` that keeps the queue.

    Methods whose names start with an underscore are called with the lock held.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._queue: deque[Frame] = deque()
        self._batch: list[Buffer] = []  # small frames behind the queue, to become one
        self._batched = 0  # bytes in it
        self._withdrawn = 0  # frames withdrawn since the queue was last cleared of them
        self._queued = 0  # bytes ever queued
        self._flushed = 0  # bytes ever written
        self._undropped = 0  # bytes written that still stand in the queue
        self._broken = False
        self.frames_sent = 0

    @property
    def bytes_sent(self) -> int:
        """Bytes written so far."""
        return self._flushed

    @property
    def backlog(self) -> int:
        """Bytes queued and not yet written."""
        return self._queued - self._flushed

    def is_clogged(self) -> bool:
        """Tell whether much waits for room: the peer does not read what we write."""
        return self._queued - self._flushed - self._batched > CLOGGED_AT

    def queue(self, buffers: Sequence[Buffer]) -> None:
        """Queue a frame that a later flush of this thread will write.

        Frames of one small buffer are joined by then: bookkeeping for each would cost
        more than the copy.
        """
        with self._lock:
            if len(buffers) == 1 and len(buffers[0]) <= _JOIN_LIMIT and not self._broken:
                self._batch.append(buffers[0])
                self._batched += len(buffers[0])
                self._queued += len(buffers[0])
                self.frames_sent += 1
            else:
                self._append(buffers)

    def _append(self, buffers: Sequence[Buffer]) -> Frame:
        self._seal_batch()
        views = [memoryview(part) for part in buffers]
        self._queued += sum(map(len, views))
        self.frames_sent += 1
        frame = Frame(views, self._queued)
        if not self._broken:
            self._queue.append(frame)
        return frame

    def _seal_batch(self) -> None:
        """Make one frame of the small ones that were queued, with the lock held."""
        if self._batch:
            joined = self._batch[0] if len(self._batch) == 1 else b"".join(self._batch)
            self._batch.clear()
            self._batched = 0
            self._queue.append(Frame([memoryview(joined)], self._queued))

    def _withdraw(self, frame: Frame, in_write: bool) -> None:
        """Have nothing of a frame written; whoever is in a write will drop it from the queue."""
        frame.views = []
        if not in_write:
            self._drop_written()
        self._withdrawn += 1
        if self._withdrawn > _WITHDRAWN:
            self._clear_withdrawn()

    def _clear_withdrawn(self) -> None:
        """Leave one of several withdrawn frames in a row: its end stands for theirs.

        A peer that does not read for long would have them pile up behind the frame that
        is stuck.
        """
        self._withdrawn = 0
        frames = list(self._queue)
        self._queue.clear()
        for frame in frames:
            if self._queue and not (frame.views or self._queue[-1].views):
                self._queue.pop()
            self._queue.append(frame)

    def _drop_written(self) -> None:
        """Take written bytes, and withdrawn frames, off the front of the queue.

        CPython lets an interrupt in behind a call or at the turn of a loop, never between
        stores. So whenever one comes, all of this is true, and another call goes on with it.
        """
        queue = self._queue
        while queue:
            frame = queue[0]
            if frame.views:
                left = frame.end - self._flushed
                if self._undropped < left:
                    if self._undropped:
                        rest = _without(frame.views, self._undropped)
                        frame.started, frame.views = True, rest
                        self._flushed, self._undropped = self._flushed + self._undropped, 0
                    return
                self._undropped -= left
            # A withdrawn frame counts as written, so that the marks of later ones stay true.
            self._flushed = frame.end
            queue.popleft()


def _without(views: list[memoryview], count: int) -> list[memoryview]:
    """Return ``views`` without the first ``count`` bytes."""
    rest = list(views)
    while count >= len(rest[0]):
        count -= len(rest.pop(0))
    if count:
        rest[0] = rest[0][count:]
    return rest
