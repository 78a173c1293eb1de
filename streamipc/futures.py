"""What a caller holds: the future of a reply, and the stream of items before it."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from operator import attrgetter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._forks import at_home, look_for_fork
from ._signals import let_through
from .engine.calls import CANCELLED, Call
from .engine.flow import Held
from .engine.lifetimes import park_at_exit
from .engine.waiters import wake_all
from .exceptions import RequestTimeoutError, fresh
from .messages import Message
from .protocol.envelopes import RequestId

__all__ = ["ResponseFuture", "ResponseStream"]

R = TypeVar("R")

# The states of concurrent.futures.Future: names that the standard library has kept since
# 3.2 and that its own executors use across modules.
_PENDING = "PENDING"
_FINISHED = "FINISHED"
_CANCELLED = "CANCELLED_AND_NOTIFIED"

_log = logging.getLogger("concurrent.futures")
"""Where that says what a callback has raised."""


class _Condition(threading.Condition):
    """One that the handler of a signal can't have locked for ever.

    Entering the block is one call into C. In the base class it is a function in Python, and what
    interrupts that, behind its taking the lock, leaves it with nobody who would give it back.
    """

    __enter__: Any = property(attrgetter("_lock.__enter__"))
    __exit__: Any = property(attrgetter("_lock.__exit__"))


def _make_condition() -> threading.Condition:
    made = threading.Condition()
    made.__class__ = _Condition
    return made


class ResponseFuture(Future[R], Generic[R]):
    """The reply to a request, once it is there: a :class:`concurrent.futures.Future`.

    ``wait()``, ``as_completed()`` and ``add_done_callback()`` work as with any other.
    It fails with :class:`RequestTimeoutError` at the request's deadline, whether or not
    anyone waits for it, and with :class:`SessionClosedError` when the session ends.
    """

    # What concurrent.futures asks for, as it stands until somebody has asked: see _condition.
    _state: str = _PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _made_condition: threading.Condition | None = None

    def __init__(self, call: Call) -> None:
        # Not Future.__init__: few ask for what that makes. And the call does not know of us until
        # somebody does, or the two would be garbage that only the collector finds.
        self._call = call

    @property
    def id(self) -> RequestId:
        """The request's id."""
        return self._call.id

    @property
    def request(self) -> Message:
        """The message that was sent."""
        return self._call.message

    if not TYPE_CHECKING:

        @property
        def _condition(self):
            """What concurrent.futures takes whenever it looks at a future's state, or watches it.

            Until then nobody but us has looked, and the outcome of the call is all there is.
            """
            if not at_home[0]:
                look_for_fork()
            made = self._made_condition
            if made is None:
                made = self.__dict__.setdefault("_made_condition", _make_condition())
            call = self._call
            if self._state == _PENDING:
                # In this order: whoever settles the call sees us, or we see the outcome. He also
                # lets go of us, for only he knows when the callbacks are on their way.
                if not call.outcome:
                    call.future = self
                if call.outcome:
                    self.mirror()
            return made

    def result(self, timeout: float | None = None) -> R:
        """Return the reply; wait for it if need be.

        Args:
            timeout: seconds to wait at the most. It bounds this call only: the request
                stays alive until its own deadline.

        Raises:
            What :meth:`exception` returns, as a copy with a traceback of its own:
            RequestTimeoutError: the reply was not there in time.
            RemoteError: the handler raised.
            UnhandledRequestError, SerializationError, OverloadedError, ProtocolError,
            SessionClosedError: what its name says.
            concurrent.futures.CancelledError: the future was cancelled.
        """
        outcome = self._call.outcome or self._wait(timeout)
        value, error = outcome[0]
        if error is None:
            return value  # type: ignore[no-any-return]
        park_at_exit()
        try:
            raise CancelledError if error is CANCELLED else fresh(error)
        finally:
            # Or the traceback and this frame would keep each other alive.
            del self, outcome, value, error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what :meth:`result` would raise, or ``None``; waits in the same way.

        It is the same object each time.
        """
        error = (self._call.outcome or self._wait(timeout))[0][1]
        if error is CANCELLED:
            raise CancelledError
        return error

    def _wait(self, timeout: float | None) -> list[tuple[Any, BaseException | None]]:
        """Wait for the outcome, and return it."""
        call = self._call
        if not call.owner.wait(call, _end_of(timeout)):
            raise self.not_in_time(timeout)
        return call.outcome

    def not_in_time(self, timeout: float | None) -> RequestTimeoutError:
        """Return the error for a wait that is over while the request goes on."""
        return RequestTimeoutError(
            f"no reply to {type(self.request).__name__} (request {self.id!r}) within "
            f"{timeout:g} s; the request itself goes on"
        )

    def cancel(self) -> bool:
        """Cancel the request: forget the reply, and tell the peer's handler to stop.

        Returns:
            ``False`` if the reply is already there.
        """
        call = self._call
        if call.outcome:
            return call.outcome[0][1] is CANCELLED
        try:
            first = call.settle(None, CANCELLED)
            if not first:
                return call.outcome[0][1] is CANCELLED
            call.owner.cancel(call)
        except BaseException:
            if call.outcome and call.outcome[0][1] is CANCELLED:
                # An interrupt, such as Ctrl-C, came in the midst of it: nobody else goes on. The
                # first call in here always happens.
                call.owner.unwanted.append(call)
                call.owner.give_up_unwanted()
            raise
        self._invoke_callbacks()
        call.future = None
        return True

    # What the call that it shows asks of it.

    def mirror(self) -> None:
        """Take over the outcome of the call; once is enough.

        As ``set_result`` and ``set_exception``, less the callbacks: those are the user's code, and
        this is called by the thread that reads.
        """
        value, error = self._call.outcome[0]
        condition = self._made_condition
        assert condition is not None
        with condition:
            if self._state != _PENDING:
                return
            self._result = value
            self._exception = None if error is CANCELLED else error
            self._state = _CANCELLED if error is CANCELLED else _FINISHED
            for waiter in self._waiters:
                if error is CANCELLED:
                    waiter.add_cancelled(self)
                elif error is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            condition.notify_all()

    def has_callbacks(self) -> bool:
        """Tell whether there are callbacks that :meth:`run_callbacks` would call."""
        return "_done_callbacks" in self.__dict__ and bool(self._done_callbacks)

    def run_callbacks(self) -> None:
        """Call what ``add_done_callback`` was given; after an interrupt, what is left of that.

        As the base class does, which would log what the handler of a signal has raised.
        """
        callbacks = self.__dict__.get("_done_callbacks")
        while callbacks:
            # Nothing comes between these and the first line of the callback.
            callback = callbacks[0]
            del callbacks[0]
            try:
                callback(self)
            except Exception as error:
                let_through(error)
                _log.exception("exception calling callback for %r", self)

    _invoke_callbacks = run_callbacks

    def renew_after_fork(self) -> None:
        """Replace the locks, in a forked child, where nobody will read the reply."""
        # The old ones may be locked for ever, and as_completed() may go on with its own.
        self._made_condition = _make_condition()
        for waiter in self._waiters:
            waiter.event = threading.Event()
            waiter.lock = threading.Lock()

    def __await__(self) -> Generator[Any, None, R]:
        """Wait from a coroutine: ``await session.request(msg)`` in a running asyncio loop.

        The loop is the caller's; cancelling the task cancels the request.
        """
        asyncio = sys.modules.get("asyncio")
        if asyncio is None:
            raise RuntimeError("a ResponseFuture can be awaited from asyncio only")
        self._call.owner.check_awaitable()
        return self._awaited(asyncio.wrap_future(self))

    def _awaited(self, wrapped: Any) -> Generator[Any, None, R]:
        try:
            return (yield from wrapped.__await__())  # type: ignore[no-any-return]
        except BaseException as error:
            if error is not self._exception:
                raise
            error.__traceback__ = None  # asyncio has begun one
        return self.result()  # raises, but not what others raise too

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description()}>"

    def description(self) -> str:
        """Return what it is of and how it stands."""
        call = self.__dict__.get("_call")
        if call is None:
            return "of nothing yet"
        name = type(call.message).__wire_name__
        value, error = call.outcome[0] if call.outcome else (None, None)
        if not call.outcome:
            said = "pending"
        elif error is CANCELLED:
            said = "cancelled"
        elif error is not None:
            said = f"raised {type(error).__name__}"
        else:
            said = f"returned {type(value).__name__}"
        return f"of {name}, request {call.id!r}: {said}"

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name in ("_waiters", "_done_callbacks"):
                return self.__dict__.setdefault(name, [])
            raise _no_attribute(self, name, "call result(), which waits for the reply")

    if TYPE_CHECKING:
        # Attributes of concurrent.futures.Future that the type stubs leave out.
        _waiters: list[Any]
        _done_callbacks: list[Any]


class _Items:
    """The items of one stream that have arrived: what the call knows of its stream.

    It does not refer to the stream, so that dropping that is noticed.
    """

    passes_on_reply = False
    taker: int | None = None

    def __init__(self, wakers: list[Any], window: int) -> None:
        self.waiting: deque[Any] = deque()
        self.listeners: list[Callable[[], None]] = []  # of coroutines
        self.allowed = window  # items that the peer may have sent since the start
        self._count = 0  # items that it has sent
        self._mark: object = None  # what brought the last one
        self._wakers = wakers

    def arrived(self, item: Any, mark: object = None) -> bool:
        """Add an item if it is allowed; called by the thread that reads.

        Args:
            item: the item.
            mark: what brought it; one and the same counts once, for it may come twice.
        """
        if mark is None or self._mark is not mark:
            if self._count >= self.allowed:
                return False
            count = self._count + 1
            self._count, self._mark = count, mark
            self.waiting.append(item)
        if self._wakers:
            wake_all(self._wakers)
        self.ended()
        return True

    def replied(self, value: Any, error: BaseException | None) -> None:
        """Is not called: whoever takes the items sees the outcome behind them himself."""

    def ended(self) -> None:
        """Tell coroutines that there is something new, be it the end."""
        for listener in tuple(self.listeners):
            listener()


class ResponseStream(Generic[R]):
    """What a handler yields, as it yields it, and then its reply.

    Iterate over it, in one thread; leave the ``with`` block early, or drop the stream,
    and the handler is told to stop. The peer sends at most ``window`` items that were not
    yet taken.
    """

    def __init__(self, future: ResponseFuture[R], window: int) -> None:
        self._future = future
        self._owner = future._call.owner
        self._call = call = future._call
        self._window = window
        self._items = _Items(call.wakers, window)
        self._owed = 0  # items taken and not yet granted anew
        self.wakers = call.wakers
        call.items = self._items

    @property
    def future(self) -> ResponseFuture[R]:
        """The future of the reply."""
        return self._future

    def __repr__(self) -> str:
        waiting = len(self._items.waiting)
        return f"<{type(self).__name__} {self._future.description()}, {waiting} items not taken>"

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            advice = "iterate over it for the items, and call result() for the reply behind them"
            raise _no_attribute(self, name, advice)

    def ready(self) -> bool:
        """Tell whether an item, or the end, is there."""
        return bool(self._items.waiting) or bool(self._call.outcome)

    def result(self, timeout: float | None = None) -> R:
        """Return the handler's reply; items not yet taken are thrown away.

        Args:
            timeout: seconds to wait at the most.

        Raises:
            As :meth:`ResponseFuture.result`.
        """
        end = _end_of(timeout)
        self._items.taker = threading.get_ident()
        while not self._call.outcome:
            self._throw_away()
            self._owner.wait(self, end)
            # The time, rather than what wait() says: there may always be one more item.
            if end is not None and time.monotonic() >= end and not self._call.outcome:
                raise self._future.not_in_time(timeout)
        self._drop_items()
        return self._future.result()

    def _drop_items(self) -> None:
        waiting = self._items.waiting
        while waiting:
            item = waiting.popleft()
            if type(item) is Held:
                self._owner.flow.give_back(item)

    def cancel(self) -> bool:
        """Cancel the request; see :meth:`ResponseFuture.cancel`.

        A thread that iterates gets what had arrived, and then ``CancelledError``.
        """
        return self._future.cancel()

    close = cancel

    def __iter__(self) -> ResponseStream[R]:
        return self

    def __next__(self) -> Any:
        self._items.taker = threading.get_ident()
        if not self.ready():
            self._owner.wait(self, None)
        return self._take(StopIteration)

    def __enter__(self) -> ResponseStream[R]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        call = getattr(self, "_call", None)
        if call is not None:
            if not call.outcome:
                self._owner.drop(self._future)
            self._drop_items()

    def __aiter__(self) -> ResponseStream[R]:
        return self

    async def __anext__(self) -> Any:
        """Return the next item, from a coroutine in a running asyncio loop."""
        import asyncio

        self._owner.check_awaitable()
        self._items.taker = threading.get_ident()
        loop = asyncio.get_running_loop()
        while not self.ready():
            arrival: asyncio.Future[None] = loop.create_future()

            def listener(arrival: asyncio.Future[None] = arrival) -> None:
                with suppress(RuntimeError):  # the loop was closed under its tasks
                    loop.call_soon_threadsafe(_set_once, arrival)

            self._items.listeners.append(listener)
            try:
                if not self.ready():
                    await arrival
            except asyncio.CancelledError:
                self.cancel()
                raise
            finally:
                self._items.listeners.remove(listener)
        return self._take(StopAsyncIteration)

    def _take(self, end: type[Exception]) -> Any:
        """Return the next item; raise what ended the stream, or ``end``."""
        try:
            item = self._items.waiting.popleft()
        except IndexError:
            pass
        else:
            self._taken()
            return self._owner.flow.take(item).item if type(item) is Held else item  # type: ignore[union-attr]
        # Out here, where no "from None" is needed: it would take the remote traceback away.
        self._future.result(0)  # raises, also if cancelled: the end would look like the whole
        raise end

    def _taken(self) -> None:
        """Count one item as taken; grant more when half of the window is used up."""
        self._owed += 1
        if self._owed * 2 >= self._window and not self._call.outcome:
            owed, self._owed = self._owed, 0
            self._items.allowed += owed
            self._owner.credit(self._call, owed)

    def _throw_away(self) -> None:
        while self._items.waiting:
            item = self._items.waiting.popleft()
            if type(item) is Held:
                self._owner.flow.give_back(item)
            self._taken()


def _no_attribute(thing: object, name: str, advice: str) -> AttributeError:
    """Return the error for an attribute that is looked for here and may be the reply's."""
    text = f"{type(thing).__name__!r} object has no attribute {name!r}"
    if not name.startswith("_"):  # or code looks for a protocol, such as that of copying
        text = f"{text}: it stands for a reply that may be still to come; {advice}"
    return AttributeError(text, name=name, obj=thing)


def _set_once(arrival: Any) -> None:
    if not arrival.done():
        arrival.set_result(None)


def _end_of(timeout: float | None) -> float | None:
    """Return when a wait is over; years and infinity are for ever, locks refuse them."""
    return None if timeout is None or timeout > 1e8 else time.monotonic() + timeout
