"""A job of the scheduler's together with what is asked, and with whoever waits for the answer.

There are two kinds. A :class:`RequestTicket` is sent by whoever finds it a worker, and has a
future. A :class:`CallTicket` is the turn of a thread that waits for a worker, and then asks it
itself.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..engine.calls import Call
from .futures import settle
from .jobs import Job

if TYPE_CHECKING:
    from ..futures import ResponseFuture
    from ..messages import Message
    from .children import Child

__all__ = ["CallTicket", "RequestTicket", "Ticket"]


class Sender(Protocol):
    """Sends requests."""

    def send(self, ticket: RequestTicket, worker: Child, /) -> None:
        """Send one."""
        ...


class Ticket(Job):
    """See the module's text.

    Args:
        message: that is asked.
        timeout: seconds from now; ``None``: no limit.
        retries: see :class:`Job`.
        metadata: for the handler.

    Attributes:
        inner: the session's future of the answer; ``None``: it was not sent.
        was_sent: to a worker that has died with it.
    """

    __slots__ = ("inner", "message", "metadata", "timeout", "was_sent")

    def __init__(
        self,
        message: Message,
        timeout: float | None,
        retries: int,
        metadata: Mapping[str, str] | None,
    ) -> None:
        super().__init__(time.monotonic(), timeout, retries)
        self.message = message
        self.timeout = timeout
        self.metadata = metadata
        self.inner: ResponseFuture[Any] | None = None
        self.was_sent = False

    def __repr__(self) -> str:
        return str(self.number)

    @property
    def inner_id(self) -> Any:
        """The session's id of the request; ``None``: it was not sent."""
        return None if self.inner is None else self.inner.id

    def seconds_left(self) -> float | None:
        """Return what is left of its time, at least 0; ``None``: there is no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def name(self) -> str:
        """The wire name of its message."""
        return type(self.message).__wire_name__

    def send(self, sender: Sender, worker: Child) -> None:
        """Have it sent to the worker that it was given to."""

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Tell whoever waits for it."""

    def abandon_after_fork(self, error: BaseException) -> None:
        """Fail in a forked process, where nobody answers it."""


class RequestTicket(Ticket):
    """Has a future.

    Attributes:
        call: what the future shows; set before anybody else has the ticket.
        options: of ``IpcSession.request()`` beside message, time and metadata.
    """

    __slots__ = ("call", "options")
    call: Call
    options: dict[str, Any] | None

    def send(self, sender: Sender, worker: Child) -> None:
        """Send it."""
        sender.send(self, worker)

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Give the future its outcome."""
        settle(self.call, value, error)

    def abandon_after_fork(self, error: BaseException) -> None:
        """Fail."""
        self.call.abandon_after_fork(error)


class CallTicket(Ticket):
    """Is the turn of a thread that waits.

    Attributes:
        error: why it gets no worker, or no other one; ``None``: it has one, or waits.
    """

    __slots__ = ("_news", "error")

    def __init__(
        self,
        message: Message,
        timeout: float | None,
        retries: int,
        metadata: Mapping[str, str] | None,
    ) -> None:
        super().__init__(message, timeout, retries, metadata)
        self.error: BaseException | None = None
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()

    def send(self, sender: Sender, worker: Child) -> None:
        """Tell the thread that it is its turn."""
        self._news.put(None)

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Tell the thread that it waits in vain."""
        self.error = error
        self._news.put(None)

    def wait(self, seconds: float | None) -> bool:
        """Wait for news, which are either ``worker`` or ``error``; tell whether they came."""
        try:
            self._news.get(timeout=seconds)
        except queue.Empty:
            return False
        return True
