"""When pending requests are over: a heap that stays as small as what is pending.

Most requests are answered long before their deadline, so their entries die in the heap.
At 100,000 requests a second and 30 seconds each, waiting for them to come up would hold
three million dead entries. So the heap is rebuilt whenever more than half of it is dead:
each rebuild costs what has been added since the last one, a constant for each request.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..futures import ResponseFuture
    from ..protocol.envelopes import RequestId
    from .serving import Served

__all__ = ["Deadlines", "Reminder"]

_push = heapq.heappush

_SLACK = 64
"""Dead entries that are always tolerated, so that small heaps are never rebuilt."""


class Reminder:
    """Stands among the futures for a request that we serve and that has ``on_cancel``.

    Its caller says so when it gives up, but may be stopped, or in no hurry. To
    :class:`Deadlines` it looks like a future whose reply is there and which is not done.
    """

    id = None
    on_reply = True

    def __init__(self, served: Served) -> None:
        self.served = served

    def ready(self) -> bool:
        """Tell whether there is nothing to remind of any more."""
        return self.served.over or self.served.cancelled


class Deadlines:
    """The deadlines of the calls in ``calls``. Not thread-safe: the engine's lock guards it.

    Args:
        calls: the table of pending requests; an entry is dead once its future has left.
    """

    def __init__(self, calls: dict[RequestId, ResponseFuture[Any]]) -> None:
        self._calls = calls
        self._heap: list[tuple[float, int, Any]] = []
        self._order = itertools.count().__next__  # so that futures are never compared

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline: float, future: ResponseFuture[Any] | Reminder) -> None:
        """Enter a future that already stands in ``calls``, or a reminder."""
        heap = self._heap
        _push(heap, (deadline, self._order(), future))
        if len(heap) > 2 * len(self._calls) + _SLACK:
            pending = self._calls.get
            # As _is_pending says, without the calls: this is run once for each request.
            heap[:] = [e for e in heap if pending(e[2].id) is e[2] or is_lingering(e[2])]
            heapq.heapify(heap)

    def earliest(self) -> float | None:
        """Return the earliest deadline of a pending request, or ``None``."""
        heap = self._heap
        while heap and not self._is_pending(heap[0][2]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def expire(self, now: float) -> list[Any]:
        """Take out and return the pending futures, and reminders, whose time is over."""
        expired = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            future = heapq.heappop(heap)[2]
            if self._is_pending(future):
                expired.append(future)
        return expired

    def _is_pending(self, future: ResponseFuture[Any]) -> bool:
        return self._calls.get(future.id) is future or is_lingering(future)


def is_lingering(future: ResponseFuture[Any]) -> bool:
    """Tell whether the reply is there but ``on_progress`` has not seen all items yet."""
    return future.on_reply is not None and not future.ready()
