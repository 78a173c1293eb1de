"""One request of the peer's, or one notification: runs its handlers and sends what they return.

Owns what its caller still grants and whether he waits at all, and the callbacks of ``on_cancel``;
a lock of its own guards these, made when first needed, and is never held while anything is called.

Invariant: whatever a handler does, the caller gets exactly one answer, or knows that it asked for
none any more: a value, a remote error with its traceback, or an error that says why there
is no value. No exception of a handler reaches the thread that runs it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol

from .._forks import forkable_lock, renew
from .._signals import interrupt_in, is_interrupt, let_through
from ..exceptions import (
    IpcError,
    OverloadedError,
    ProtocolError,
    RequestCancelledError,
    RequestTimeoutError,
    SerializationError,
    UnhandledRequestError,
)
from ..handlers import Handler, current, current_request
from ..messages import ErrorMessage, Message
from ..protocol.envelopes import ErrorResponse, Notification, Progress, Request, RequestId, Response
from .error_answers import ErrorReturned, error_frame, error_message_from
from .waiters import wake_all

if TYPE_CHECKING:
    from ..serializers.base import Buffer
    from .flow import Flow, Held

__all__ = ["Answering", "IncomingRequest"]

_LONGEST = 1e8
"""Seconds: three years. Locks and poll(2) refuse numbers not much larger."""


class Answering(Protocol):
    """What an incoming request asks of who sends the answers."""

    flow: Flow
    tracebacks: bool
    """Whether the peer is told the traceback of what a handler raised."""

    def session(self) -> Any:
        """Return the session, which handlers may ask for."""
        ...

    def encode(self, envelope: Any, /) -> list[Buffer]:
        """Return the frame of an envelope."""
        ...

    def send_item(self, served: IncomingRequest, frame: list[Buffer], /) -> None:
        """Send a frame; blocks while the stream is full."""
        ...

    def answer(self, served: IncomingRequest, frame: list[Buffer], /) -> None:
        """Send the final answer, unless there was one."""
        ...

    def answer_again(self, served: IncomingRequest, frame: list[Buffer], /) -> None:
        """Do what is left of it, after an interrupt."""
        ...

    def wait(self, awaited: Any, end: float | None, /) -> bool:
        """Wait; see ``Leader.wait``."""
        ...

    def look(self) -> None:
        """Without threads: read what is there."""
        ...

    def report(self, error: BaseException, /) -> None:
        """Hand an error that no caller gets to ``on_exception``, or to the log."""
        ...

    def remind(self, served: IncomingRequest, /) -> None:
        """Call what :meth:`IncomingRequest.take_callbacks` returns when its deadline has passed."""
        ...


class IncomingRequest:
    """One request of the peer's, or one notification, while it is being handled.

    A request is itself what the pool runs.

    ``_lock`` guards ``credit``, ``_no_more_credit``, ``cancelled``, ``wakers`` and
    ``_callbacks``; it is never held while anything is called.

    Attributes:
        cancelled: the caller, or the end of the session, cancelled it.
        cancelled_by_caller: the former.
    """

    # What most requests never change stands here, so that making one costs little.
    id: RequestId | None = None
    deadline: float | None = None
    window = credit = 0
    is_background = False
    is_handler = True
    by_io_thread = False
    has_begun = False  # a handler was called
    was_taken = False  # a notification: a handler did not pass it on
    cancelled = cancelled_by_caller = False
    _no_more_credit = False
    entered = False  # it stands, or stood, in the queue for its handler
    is_kept = False  # the same, in that for receive()
    _mark: object = None
    held: Held | None = None  # the memory that it takes, if that counts
    _stalled = False  # the caller has taken no item for too long
    over = False  # the handler has returned
    reminder: object = None
    wakers: Any = ()
    _callbacks: list[Callable[[], object]] | None = None
    _lock: Any = None

    def __init__(
        self,
        responder: Answering,
        envelope: Request | Notification,
        handlers: tuple[Handler, ...],
        id: RequestId | None = None,  # noqa: A002
        timeout: float | None = None,
        window: int = 0,
    ) -> None:
        self._responder = responder
        self.message: Message = envelope.message
        self.metadata: Mapping[str, str] | None = envelope.metadata
        self.handlers = handlers
        if id is None:
            return
        self.id = id
        if timeout is not None:
            self.deadline = time.monotonic() + min(timeout, _LONGEST)
        if window:
            self.window = self.credit = window
        if handlers and handlers[0].inline:
            # It needs no handler thread, so it waits for none.
            self.is_background = True

    def hold(self, held: Held) -> None:
        """Keep the message as ``held`` alone, which may fold it until it runs."""
        self.held = held
        self.message = None  # type: ignore[assignment]
        self.metadata = None

    def _begin(self) -> OverloadedError | None:
        """Have the message at hand; return why it can't be handled, if so."""
        flow = self._responder.flow
        held = self.held
        if held is not None:
            envelope: Any = flow.begin(held)
            if envelope is None:
                return OverloadedError(
                    f"a message of {held.size:,} bytes takes more memory than there is for it "
                    "(Limits.held_bytes of the side that was to handle it)"
                )
            self.message = envelope.message
            self.metadata = envelope.metadata
        if flow.handlers_full and self.id is not None:
            return OverloadedError(
                f"the peer has {flow.limits.blocked_handlers:,} handlers that wait for this side "
                "(Limits.blocked_handlers there); try again later"
            )
        return None

    @property
    def session(self) -> Any:
        """The session that the message came by."""
        return self._responder.session()

    def ready(self) -> bool:
        """Tell whether an item may be sent, or never will be."""
        return self.credit > 0 or self._no_more_credit or self.over or self.is_cancelled()

    def is_cancelled(self) -> bool:
        """Tell whether nobody waits for the answer, be it for the deadline alone."""
        if self.cancelled or self._stalled:
            return True
        return self.deadline is not None and time.monotonic() >= self.deadline

    def granted(self, count: int, mark: object = None) -> None:
        """The caller takes ``count`` more items.

        Args:
            count: items.
            mark: what says so, which counts once.
        """
        with _lock_of(self):
            # A peer that grants without end gains nothing: it never holds more than
            # it asked for at first.
            credit = min(self.credit + count, self.window)
            if mark is None or self._mark is not mark:
                self.credit, self._mark = credit, mark
        self._wake()

    def end_credit(self) -> None:
        """The caller's direction has ended: it can grant nothing any more."""
        with _lock_of(self):
            self._no_more_credit = True
        self._wake()

    def cancel(self) -> list[Callable[[], object]]:
        """Mark the request as cancelled; return the callbacks to be called for it."""
        self.cancelled = True
        callbacks = self.take_callbacks()
        self._wake()
        return callbacks

    def take_callbacks(self) -> list[Callable[[], object]]:
        """Return what :meth:`on_cancel` was given, once."""
        with _lock_of(self):
            callbacks, self._callbacks = self._callbacks or [], None
        return callbacks

    def asks_cancelled(self) -> bool:
        """As :meth:`is_cancelled`, for the handler: without threads, look for news first."""
        if not self.is_cancelled():
            self._responder.look()
        return self.is_cancelled()

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Register a callback; call it now if the request is cancelled already."""
        with _lock_of(self):
            waits = not self.is_cancelled()
            first = waits and self._callbacks is None
            if waits:
                self._callbacks = [*(self._callbacks or ()), callback]
        if waits:
            if first and self.deadline is not None:
                self._responder.remind(self)
            return
        try:
            callback()
        except Exception as error:
            self._responder.report(error)

    def progress(self, item: Any) -> None:
        """Send an item if the caller takes any; see ``RequestContext.progress``."""
        if self.window == 0 or self.id is None:
            return
        frame = self._responder.encode(Progress(self.id, item))
        stalled_at: float | None = None
        while True:
            if self._stalled:
                raise self._stall_error()
            if self.asks_cancelled():
                raise RequestCancelledError(f"request {self.id!r} was cancelled by its caller")
            if self.over:  # a thread of the handler's: nobody will grant it anything any more
                raise RequestCancelledError(
                    f"request {self.id!r} takes no more items: its handler has returned"
                )
            with _lock_of(self):
                if self.credit > 0:
                    self.credit -= 1
                    break
                if self._no_more_credit:
                    raise RequestCancelledError(
                        f"the caller of request {self.id!r} can take no more items: it is closing "
                        "the session"
                    )
                self.wakers = self.wakers or []
            if stalled_at is None:
                stall = self._responder.flow.limits.stream_stall
                stalled_at = time.monotonic() + (_LONGEST if stall is None else stall)
            end = stalled_at if self.deadline is None else min(self.deadline, stalled_at)
            self._responder.wait(self, end)
            if time.monotonic() >= stalled_at:
                self._stalled = not self.ready()
        self._responder.send_item(self, frame)

    def _stall_error(self) -> RequestCancelledError:
        return RequestCancelledError(
            f"the caller of request {self.id!r} has taken no item for "
            f"{self._responder.flow.limits.stream_stall:g} s (Limits.stream_stall of the side that "
            "sends them)"
        )

    def forget_after_fork(self) -> None:
        """Renew the lock, in a forked child."""
        if self._lock is not None:
            renew(self._lock)

    def _wake(self) -> None:
        wake_all(self.wakers)

    # Running, by the pool.

    @property
    def is_offloaded(self) -> bool:
        """Whether its handler was slow lately, so that it is offloaded."""
        return bool(self.handlers) and self.handlers[0].is_slow and not self.is_background

    def took(self, seconds: float) -> None:
        """Learn how long the handler takes."""
        if self.handlers:
            self.handlers[0].took(seconds)

    def run(self) -> None:
        """Run the handlers and send the answer."""
        try:
            # One that nobody waits for any more leaves the table, and nothing is sent.
            frame = [] if self.cancelled else self.run_request()
        except BaseException as error:  # an interrupt: what the handler raises does not come out
            if not self.has_begun:
                raise
            self._responder.report(error)
            frame = self._error_frame(error, "handler", traceback=False)
        try:
            if self.held is not None:  # before the caller sends the next one
                self._responder.flow.release(self.held)
            self._responder.answer(self, frame)
        except BaseException:
            self.has_begun = True  # it is not to be run once more, though no handler was called
            if self.held is not None:
                self._responder.flow.release(self.held)
            self._responder.answer_again(self, frame)
            raise

    def run_request(self) -> list[Buffer]:
        """Run the handlers; return the frame of the answer."""
        assert self.id is not None
        deadline = self.deadline
        if deadline is not None and time.monotonic() >= deadline:
            return self._late_frame("its time was over before a handler could start")
        if self.held is not None or self._responder.flow.handlers_full:
            try:
                refusal = self._begin()
            except Exception as error:  # a serializer of the user's own
                let_through(error)
                return self._error_frame(error, "serialization")
            if refusal is not None:
                return self._error_frame(refusal, "overloaded")
        try:
            try:  # with context variables that are this request's own
                value = copy_context().run(self._ask_handlers)
            finally:
                self.over = True
                if self.wakers:  # a thread of the handler's waits to send
                    self._wake()
        except BaseException as error:
            # SystemExit and KeyboardInterrupt too: a handler does not end the process.
            return self._frame_of_failure(error)
        if self.cancelled:
            return []  # Responder.answer would drop it
        if deadline is not None and time.monotonic() >= deadline:
            # Too late for the caller too, whether or not it has looked at its clock yet:
            # our deadline is the later one.
            return self._late_frame("its time was over before the handler was done")
        if value is NotImplemented:
            return self._error_frame(UnhandledRequestError(self._unhandled()), "unhandled")
        try:
            return self._responder.encode(Response(self.id, value))
        except ProtocolError as error:
            return self._error_frame(error, "protocol")
        except IpcError as error:
            return self._error_frame(_explained(error, self.message), "serialization")

    def _frame_of_failure(self, error: BaseException) -> list[Buffer]:
        if not self.has_begun and interrupt_in(error) is not None:
            self.over = False
            raise error  # whoever comes next runs it
        interrupted = is_interrupt(error)  # in the main thread: it is meant for whoever waits there
        if interrupted:
            self._responder.report(error)
        if self.cancelled:
            return []  # as above
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return self._late_frame("its time was over while the handler ran")
        if self._stalled:
            return self._error_frame(self._stall_error(), "cancelled")
        return self._error_frame(error, "handler", traceback=not interrupted)

    def run_notification(self) -> None:
        """Run all handlers, whatever one of them raises; note whether one took the message."""
        try:
            refusal = None if self.held is None else self._begin()
            if refusal is not None:
                raise refusal
            taken = copy_context().run(self._tell_handlers)
        except BaseException as error:
            if not self.has_begun and interrupt_in(error) is not None:
                raise  # whoever comes next does it
            self.was_taken = self.over = True
            self._responder.report(error)
        else:
            self.was_taken, self.over = taken, True

    def _ask_handlers(self) -> Any:
        """Call the handlers in order until one does not return ``NotImplemented``."""
        current.set(self)
        for handler in self.handlers:
            if handler.second:
                value = self._call(handler)
            else:  # nearly always: not one call more for it
                self.has_begun = True
                value = handler.function(self.message)
                if type(value) is not handler.plain_type:
                    value = self._resolve(value, handler)
            if value is not NotImplemented:
                return value
        return NotImplemented

    def _tell_handlers(self) -> bool:
        """Call each handler; return whether one took the message."""
        current.set(self)
        taken = False
        for handler in self.handlers:
            try:
                if handler.second:
                    value = self._call(handler)
                else:  # as above
                    self.has_begun = True
                    value = handler.function(self.message)
                    if type(value) is not handler.plain_type:
                        value = self._resolve(value, handler)
                if value is not NotImplemented:
                    taken = True
            except BaseException as error:
                if not self.has_begun and interrupt_in(error) is not None:
                    raise  # see run_notification()
                self._responder.report(error)
                taken = True
        return taken

    def _call(self, handler: Handler) -> Any:
        """Call a handler that takes the context, or the session, as well."""
        second = current_request() if handler.second == "context" else self.session
        self.has_begun = True  # nothing comes between this and the handler's first line
        value = handler.function(self.message, second)
        return value if type(value) is handler.plain_type else self._resolve(value, handler)

    def _resolve(self, value: Any, handler: Handler) -> Any:
        """Run a generator, refuse a coroutine; remember a type that is neither, nor an error."""
        if hasattr(value, "__next__") and hasattr(value, "throw"):
            value = self._exhaust(value)
            if not isinstance(value, ErrorMessage):
                return value
        if hasattr(value, "__await__"):
            return _refuse_coroutine(value, handler)
        if isinstance(value, ErrorMessage):
            if self.id is None:
                return None
            raise ErrorReturned(value)
        handler.plain_type = type(value)
        return value

    def _exhaust(self, generator: Any) -> Any:
        """Send what a generator yields; return what it returns."""
        try:
            while True:
                try:
                    item = next(generator)
                except StopIteration as stop:
                    return stop.value
                if self.id is None:
                    continue
                if self.is_cancelled():
                    raise RequestCancelledError(f"request {self.id!r} was cancelled by its caller")
                self.progress(item)
        except RequestCancelledError:
            self._close_unheard(generator)
            raise
        finally:
            # GeneratorExit at its yield, so that its finally blocks run here and now.
            generator.close()

    def _close_unheard(self, generator: Any) -> None:
        """Close a generator whose caller has gone: no answer will tell of its failure."""
        try:
            generator.close()
        except Exception as error:
            self._responder.report(error)

    def _late_frame(self, text: str) -> list[Buffer]:
        return self._error_frame(RequestTimeoutError(text), "timeout")

    def _error_frame(self, error: BaseException, code: str, traceback: bool = True) -> list[Buffer]:
        """Return the frame of an error; empty if there is no way to send it.

        Without a traceback if a signal has raised it: it says nothing about the handler, and the
        standard library, which ignores errors while it formats one, would ignore a second signal.
        """
        assert self.id is not None
        traceback = traceback and self._responder.tracebacks
        answer = ErrorResponse(self.id, error_message_from(error, traceback), code)
        try:
            return error_frame(self._responder.encode, answer)
        except IpcError as failure:  # a serializer of the user's own
            failure.__cause__ = error
            self._responder.report(failure)
            return []

    def _unhandled(self) -> str:
        name = type(self.message).__wire_name__
        if self.handlers:
            return f"every handler of {name} passed it on (returned NotImplemented)"
        return f"the peer has no handler for {name}: it must register one with @session.on_request"


def _explained(error: IpcError, message: Message) -> SerializationError:
    return SerializationError(f"the reply to {type(message).__wire_name__} can't be sent: {error}")


def _refuse_coroutine(value: Any, handler: Handler) -> Any:
    if hasattr(value, "close"):
        value.close()  # or Python warns that it was never awaited
    raise TypeError(
        f"{getattr(handler.function, '__qualname__', handler.function)} returned a coroutine, and "
        "streamipc has no event loop to run it in: write a plain function, or call asyncio.run()"
    )


_creation = forkable_lock()  # guards the creation of the lock of a IncomingRequest


def _lock_of(served: IncomingRequest) -> Any:
    """Return the lock of a request, made when first needed: most never need one."""
    lock = served._lock
    if lock is None:
        new = threading.RLock()  # not under the lock, as ResponseFuture's condition
        with _creation:
            lock = served._lock
            if lock is None:
                lock = served._lock = new
    return lock
