"""When pending requests are over: a heap that stays as small as what is pending.

Most requests are answered long before their deadline, so their entries die in the heap.
At 100,000 requests a second and 30 seconds each, waiting for them to come up would hold
three million dead entries. So the heap is rebuilt whenever more than half of it is dead:
each rebuild costs what has been added since the last one, a constant for each request.
And dead entries hold weak references, for a request that is answered holds its reply.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..protocol.envelopes import RequestId
    from .calls import Call
    from .incoming import IncomingRequest as Served
    from .junk import JunkLines

__all__ = ["Deadlines", "Reminder"]

_push = heapq.heappush
_ref = weakref.ref

_SLACK = 64
"""Dead entries that are always tolerated, so that small heaps are never rebuilt."""


class Reminder:
    """Stands among the calls for a request that we serve and that has ``on_cancel``.

    Its caller says so when it gives up, but may be stopped, or in no hurry. The
    request holds it, not the other way round.
    """

    id = None

    def __init__(self, served: Served) -> None:
        self.served = weakref.ref(served)

    def callbacks(self) -> list[Callable[[], object]]:
        """Return what is to be called now."""
        served = self.served()
        return [] if served is None else served.take_callbacks()

    @property
    def lingers(self) -> bool:
        """Whether there is still something to remind of."""
        served = self.served()
        return not (served is None or served.over or served.cancelled)


class Deadlines:
    """The deadlines of the calls in ``calls``. Not thread-safe: the engine's lock guards it.

    Args:
        calls: the table of pending requests; an entry is dead once its call has left.
    """

    def __init__(self, calls: dict[RequestId, Call]) -> None:
        self._calls = calls
        self._heap: list[tuple[float, int, weakref.ref[Any]]] = []
        self._order = itertools.count().__next__  # so that calls are never compared

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline: float, call: Call | Reminder | JunkLines) -> None:
        """Enter a reminder, a line of junk, or a call that stands in ``calls`` or has left it."""
        heap = self._heap
        if len(heap) >= 2 * len(self._calls) + _SLACK:
            pending = self._calls.get
            # As _is_pending says, without the calls: this is run once for each request.
            heap[:] = [
                entry
                for entry in heap
                if (held := entry[2]()) and (pending(held.id) is held or held.lingers)
            ]
            heapq.heapify(heap)
        _push(heap, (deadline, self._order(), _ref(call)))

    def earliest(self) -> float | None:
        """Return the earliest deadline of a pending request, or ``None``."""
        heap = self._heap
        while heap and not self._is_pending(heap[0][2]()):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def expire(self, now: float) -> list[Any]:
        """Take out and return the pending calls, and reminders, whose time is over."""
        expired = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            call = heapq.heappop(heap)[2]()
            if self._is_pending(call):
                expired.append(call)
        return expired

    def _is_pending(self, call: Any) -> bool:
        if call is None:
            return False
        return self._calls.get(call.id) is call or call.lingers
