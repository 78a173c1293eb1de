"""What a caller of a pool holds: the future of a reply.

It is that of a session, whose record of the request (``engine/calls.py``) knows no session: it is
settled by whoever has the outcome, be it the reply of a session, or that there is no worker.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .._forks import look_for_fork
from ..engine.calls import CANCELLED, Call
from ..exceptions import RequestTimeoutError
from ..futures import ResponseFuture

__all__ = ["Owner", "PoolFuture", "settle"]

R = TypeVar("R")


class PoolFuture(ResponseFuture[R], Generic[R]):
    """The reply to a request, once it is there: a :class:`concurrent.futures.Future`.

    As a :class:`ResponseFuture`. It ends exactly once, whatever happens to the workers: its
    ``result()`` may also raise :class:`WorkerLostError` or :class:`WorkersUnavailableError`.

    ``cancel()`` takes the request off the queue, or tells its handler to stop. One that does not
    stop within the pool's ``kill_grace`` is killed with its worker.
    """

    # What the base class does under its lock, which costs more.

    def done(self) -> bool:
        """Tell whether it is over."""
        look_for_fork()
        return bool(self._call.outcome)

    def cancelled(self) -> bool:
        """Tell whether it was cancelled."""
        return self.done() and self._call.outcome[0][1] is CANCELLED

    def running(self) -> bool:
        """Tell whether a worker has the request."""
        ticket: Any = self._call.id
        return bool(ticket.is_sent) and not self.done()

    def not_in_time(self, timeout: float | None) -> RequestTimeoutError:
        """Return the error for a wait that is over while the request goes on."""
        return RequestTimeoutError(
            f"no reply to {type(self.request).__name__} within {timeout:g} s; the request itself "
            "goes on"
        )

    @property
    def id(self) -> int:
        """The number of the request in its pool."""
        ticket: Any = self._call.id
        return int(ticket.number)


class Owner:
    """What the record of a request asks of its pool; see ``engine/calls.py``.

    Args:
        cancel: called with the ticket of a request whose future was cancelled.

    Attributes:
        unwanted: requests that were cancelled by somebody who was interrupted.
    """

    def __init__(self, cancel: Callable[[Any], object]) -> None:
        self._cancel = cancel
        self.unwanted: deque[Call] = deque()
        self.flow: Any = None  # is for streams

    def wait(self, awaited: Any, end: float | None) -> bool:
        """Wait until ``awaited`` is ready, at most until ``end``."""
        look_for_fork()
        # No Condition: an interrupt has its wait() raise a RuntimeError of its own.
        waker = threading.Lock()
        waker.acquire()
        awaited.wakers.append(waker)
        try:
            # Whoever settles it from here on sees us.
            left = -1.0 if end is None else max(0.0, end - time.monotonic())
            waker.acquire(timeout=0.0 if awaited.ready() else left)
        finally:
            awaited.wakers.remove(waker)
        return bool(awaited.ready())

    def cancel(self, call: Call) -> None:
        """Give a request up."""
        self._cancel(call.id)

    def give_up_unwanted(self) -> None:
        """Give those up whose canceller was interrupted."""
        while self.unwanted:
            self.cancel(self.unwanted[0])
            self.unwanted.popleft()

    def credit(self, call: Call, count: int) -> None:
        """Is for streams."""

    def drop(self, future: Any) -> None:
        """Is for streams."""

    def check_awaitable(self) -> None:
        """Whoever awaits it need not read."""


def settle(call: Call, value: Any, error: BaseException | None) -> None:
    """Give a request its outcome, unless it has one; call what was given for that."""
    call.settle(value, error)
    future = call.future
    if future is not None:
        future.run_callbacks()
        call.future = None
