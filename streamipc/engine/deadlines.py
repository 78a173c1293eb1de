"""When pending requests are over: a heap that stays as small as what is pending.

Most requests are answered long before their deadline, so their entries die in the heap.
At 100,000 requests a second and 30 seconds each, waiting for them to come up would hold
three million dead entries. So the heap is rebuilt whenever more than half of it is dead:
each rebuild costs what has been added since the last one, a constant for each request.
And dead entries hold weak references, for a request that is answered holds its reply.

Whoever is at it may be interrupted behind any call: by what a signal's handler raises, or by a
finalizer that makes a request and comes back in here. So an entry leaves the heap only once it
stands among those that are due, and these only once they are dead; and no step trusts what it saw
before its last call.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections import deque
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

_Entry = tuple[float, int, "weakref.ref[Any]"]

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
        self._heap: list[_Entry] = []
        self._due: deque[_Entry] = deque()  # whose time is over, and that may not be seen to yet
        self._added = 0
        self._order = itertools.count().__next__  # so that calls are never compared

    def __len__(self) -> int:
        return len(self._heap) + len(self._due)

    def add(self, deadline: float, call: Call | Reminder | JunkLines) -> None:
        """Enter a reminder, a line of junk, or a call that stands in ``calls`` or has left it."""
        if len(self._heap) >= 2 * len(self._calls) + _SLACK:
            self._rebuild()
        entry = (deadline, self._order(), _ref(call))
        self._added += 1
        _push(self._heap, entry)

    def _rebuild(self) -> None:
        """Drop what is dead; leave it to the next one if something is added meanwhile."""
        added = self._added
        pending = self._calls.get
        # As _is_pending says, without the calls: this is run once for each request.
        kept = [
            entry
            for entry in self._heap.copy()
            if (held := entry[2]()) and (pending(held.id) is held or held.lingers)
        ]
        heapq.heapify(kept)
        if self._added == added:
            self._heap = kept

    def earliest(self) -> float | None:
        """Return the earliest deadline of a pending request, or ``None``."""
        self._drop_dead()
        if self._due:
            return self._due[0][0]
        while heap := self._heap:
            entry = heap[0]
            if self._is_pending(entry[2]()):
                return entry[0]
            self._take(entry)
        return None

    def expire(self, now: float) -> list[Any]:
        """Return the pending calls, and reminders, whose time is over.

        A call is returned again until it is pending no more; what is none, once.
        """
        due = self._due
        while (heap := self._heap) and heap[0][0] <= now:
            entry = heap[0]
            due.append(entry)
            self._take(entry)
        if not due:
            return []
        expired = []
        for entry in due.copy():
            one: Any = entry[2]()
            if self._is_pending(one):
                expired.append(one)
                if one.id is None and entry in due:
                    due.remove(entry)
        self._drop_dead()
        return expired

    def _take(self, entry: _Entry) -> None:
        """Take an entry off the heap, if it is still the first one."""
        heap = self._heap
        if heap and heap[0] is entry:
            heapq.heappop(heap)

    def _drop_dead(self) -> None:
        due = self._due
        for entry in due.copy():
            if not self._is_pending(entry[2]()) and entry in due:
                due.remove(entry)

    def _is_pending(self, call: Any) -> bool:
        if call is None:
            return False
        return self._calls.get(call.id) is call or call.lingers
