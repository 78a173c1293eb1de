"""What this side has asked and is not answered yet: one record for each request.

A call has one outcome, the first that anybody gives it: the reply, its deadline, a cancellation,
the end of the session. ``outcome`` is a list to which each of them appends, in one step that
neither another thread nor an interrupt can divide; what stands first counts. All that follows
(in :meth:`Call.settle`) reads it from there, and may be done by anybody, twice as well as once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol

from ..exceptions import RequestCancelledError
from .waiters import wake_all

if TYPE_CHECKING:
    from ..messages import Message
    from ..protocol.envelopes import RequestId
    from ..serializers.base import Buffer
    from .flow import Flow

__all__ = ["CANCELLED", "Call"]

CANCELLED = RequestCancelledError("the request was cancelled here")
"""The error of a call that this side has cancelled; only its identity counts."""


class Owner(Protocol):
    """What a call asks of who made it, for its user."""

    flow: Flow
    """Counts the items that wait."""

    def wait(self, awaited: Any, end: float | None, /) -> bool:
        """Wait until ``awaited`` is ready, at most until ``end``."""
        ...

    unwanted: deque[Call]
    """Those that were given up, by somebody who was interrupted."""

    def give_up_unwanted(self) -> None:
        """Cancel them."""
        ...

    def cancel(self, call: Call, /) -> None:
        """Forget the request and tell the peer."""
        ...

    def credit(self, call: Call, count: int, /) -> None:
        """Grant the peer ``count`` more items."""
        ...

    def drop(self, future: Any, /) -> None:
        """Cancel a future soon; called by the garbage collector, so it takes no lock."""
        ...

    def check_awaitable(self) -> None:
        """Raise if nobody reads while a coroutine waits."""
        ...


class Listener(Protocol):
    """The future of a call, once somebody watches it: ``wait()``, or a callback."""

    def mirror(self) -> None:
        """Show the outcome of the call, if that is not done yet."""

    def has_callbacks(self) -> bool:
        """Tell whether there are callbacks that :meth:`run_callbacks` would call."""
        ...

    def run_callbacks(self) -> None:
        """Call what was given to ``add_done_callback``."""

    def cancel(self) -> object:
        """Cancel the call."""

    def renew_after_fork(self) -> None:
        """Replace the locks, in a forked child."""


class ItemSink(Protocol):
    """Whoever takes the items of a call."""

    @property
    def waiting(self) -> Collection[Any]:
        """Those that nobody has taken yet."""
        ...

    taker: int | None
    """Identifier of the thread that takes items, once that has asked for one."""

    passes_on_reply: bool
    """Whether :meth:`replied` settles the call, behind the items that it has still to pass on."""

    def arrived(self, item: Any, mark: object = None, /) -> bool:
        """Take an item, as it is or ``Held``, one of each mark; tell whether it was allowed."""
        ...

    def replied(self, value: Any, error: BaseException | None, /) -> None:
        """Take the outcome, if ``passes_on_reply``."""

    def ended(self) -> None:
        """Learn that the call is over."""


class Call:
    """One request of ours.

    Args:
        owner: who made it.
        id: of the request.
        message: that was sent.
        timeout: seconds that were given for it, for texts; ``None``: no limit.
        deadline: in :func:`time.monotonic` seconds, or ``None``.
        keeps: what must live as long as the request is pending: its session.

    Attributes:
        frame: the buffers of its request; emptied once they are out.
        outcome: ``(value, error)`` of each end it was given; empty: it is pending.
        wakers: locks of threads that wait for it.
        future: is watched by somebody; ``None``: it need not be told of the outcome.
        items: takes its items; ``None``: none are wanted.
        size: bytes of its payload, unless it is small.
    """

    __slots__ = (
        "__weakref__",
        "deadline",
        "frame",
        "future",
        "id",
        "items",
        "keeps",
        "message",
        "outcome",
        "owner",
        "size",
        "timeout",
        "wakers",
    )

    def __init__(
        self,
        owner: Owner,
        id: RequestId,  # noqa: A002
        message: Message,
        timeout: float | None = None,
        deadline: float | None = None,
        keeps: object = None,
    ) -> None:
        self.owner = owner
        self.id = id
        self.message = message
        self.timeout = timeout
        self.deadline = deadline
        self.keeps = keeps
        self.frame: list[Buffer] = []
        self.outcome: list[tuple[Any, BaseException | None]] = []
        self.wakers: list[Any] = []
        self.future: Listener | None = None
        self.items: ItemSink | None = None
        self.size = 0

    def ready(self) -> bool:
        """Tell whether it is over."""
        return bool(self.outcome)

    @property
    def lingers(self) -> bool:
        """Whether its reply is there, or may be, and ``on_progress`` has not seen all items yet."""
        items = self.items
        return items is not None and items.passes_on_reply and not self.outcome

    @property
    def name(self) -> str:
        """The wire name of its message."""
        return type(self.message).__wire_name__

    def settle(self, value: Any, error: BaseException | None) -> bool:
        """Give it an outcome unless it has one; return whether it was the first.

        The callbacks of its future are the user's code, and are left to whoever may call that.
        """
        mine = (value, error)
        self.outcome.append(mine)
        # Also if it had one: whoever gave it that may have been interrupted before he had told all.
        self.keeps = None
        if self.future is not None:
            self.future.mirror()
        if self.items is not None:
            self.items.ended()
        if self.wakers:
            wake_all(self.wakers)
        return self.outcome[0] is mine

    def abandon_after_fork(self, error: BaseException) -> None:
        """Fail in a forked child, where nobody will read the reply."""
        if self.future is not None:
            self.future.renew_after_fork()
        self.settle(None, error)
