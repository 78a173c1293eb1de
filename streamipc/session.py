"""Sessions: what a user holds to talk to another process."""

from __future__ import annotations

import itertools
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import streamipc

from ._arguments import (
    DEFAULT,
    check_message,
    check_notification,
    checked_metadata,
    checked_timeout,
    checked_window,
    seconds_for,
)
from ._host import SessionHost
from ._registering import Registering
from ._signals import let_through
from ._terminating import OnSigterm
from ._threads import make_thread, start_thread
from .engine.contracts import Stats
from .engine.engine import Engine
from .engine.options import Options
from .exceptions import SessionClosedError
from .futures import ResponseFuture, ResponseStream
from .handlers import check_function
from .messages import Message, Request
from .transports.base import Transport

if sys.version_info >= (3, 11):
    from typing import Self, overload
else:
    from typing_extensions import Self, overload

if TYPE_CHECKING:
    from .transports.process import ProcessTransport

__all__ = ["IpcSession", "ProcessSession"]

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

_numbers = itertools.count(1)


class IpcSession(Registering):
    """One conversation with one other process. Thread-safe throughout.

    Made by the ``create_...`` methods of :class:`IpcPeer`. It reads nothing until it is
    started, by ``start()``, ``with``, ``serve_forever()``, or the first message sent, so
    that no message can arrive before its handler is registered.
    """

    _threads = True
    _request_is_overridden = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._request_is_overridden = cls.request is not IpcSession.request

    def __init__(
        self, peer: streamipc.IpcPeer, transport: Transport, options: Options | None = None
    ) -> None:
        self._peer = peer
        super().__init__()
        adapter = peer.adapter_of(transport)
        try:
            self._engine = Engine(
                adapter,
                options or peer.options,
                SessionHost(self, peer, adapter),
                f"streamipc-{next(_numbers)}",
                self._threads,
            )
        except BaseException:  # such as "too many open files"
            adapter.endpoint.close()
            raise
        self._outgoing = self._engine.outgoing

    # Sending.

    @overload
    def request(
        self,
        message: Request[R],
        timeout: float | None = DEFAULT,
        on_progress: Callable[[Any], object] | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> ResponseFuture[R]: ...
    @overload
    def request(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        on_progress: Callable[[Any], object] | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> ResponseFuture[Any]: ...
    def request(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        on_progress: Callable[[Any], object] | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> ResponseFuture[Any]:
        """Ask; return the future of the reply.

        Args:
            message: what to ask.
            timeout: seconds until the request fails with :class:`RequestTimeoutError`,
                whether or not anyone waits; ``None``: never. By default the peer's
                ``timeout``, or inside a handler what remains of its request's, if less.
            on_progress: called with each item that the handler sends before its reply,
                in order and before the future is done, on a thread of the session's.
            metadata: text that the handler sees as ``ctx.metadata``.
            window: items that the handler may be ahead of ``on_progress``.

        Raises:
            SerializationError: the message can't be sent as it is; nothing was sent.
            ProtocolError: it is larger than ``max_frame_size``; nothing was sent.
            SessionClosedError: the session has ended.
        """
        if not isinstance(message, Message):
            check_message(message, "request")
        timeout = seconds_for(timeout, self._peer._timeout)
        if metadata:
            metadata = checked_metadata(metadata)
        outgoing = self._outgoing
        if on_progress is None:
            call = outgoing.request(message, timeout, metadata, self)
            return ResponseFuture(call)
        from .engine.progress import ProgressCalls

        callback = on_progress
        call = outgoing.request(
            message,
            timeout,
            metadata,
            self,
            checked_window(window),
            lambda call: ProgressCalls(outgoing, call, callback, window),
        )
        return ResponseFuture(call)

    @overload
    def call(
        self,
        message: Request[R],
        timeout: float | None = DEFAULT,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> R: ...
    @overload
    def call(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> Any: ...
    def call(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask, wait, and return the reply: ``request(message, timeout).result()``."""
        if self._request_is_overridden:
            future = self.request(message, timeout, metadata=metadata)
            try:
                return future.result()
            except BaseException:
                future.cancel()  # does nothing unless it was the wait that failed
                raise
        if not isinstance(message, Message):
            check_message(message, "call")
        timeout = seconds_for(timeout, self._peer._timeout)
        if metadata:
            metadata = checked_metadata(metadata)
        return self._outgoing.call(message, timeout, metadata)

    @overload
    def stream(
        self,
        message: Request[R],
        timeout: float | None = DEFAULT,
        *,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> ResponseStream[R]: ...
    @overload
    def stream(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        *,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> ResponseStream[Any]: ...
    def stream(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        *,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> ResponseStream[Any]:
        """Ask; return what the handler yields, as it yields it, as an iterator.

        Args:
            message: what to ask.
            timeout: seconds for the whole stream; as in :meth:`request`.
            metadata: as in :meth:`request`.
            window: items that the handler may be ahead of the iteration.

        Raises:
            As :meth:`request`.
        """
        check_message(message, "stream")
        checked_window(window)
        streams: list[ResponseStream[Any]] = []
        self._outgoing.request(
            message,
            seconds_for(timeout, self._peer._timeout),
            checked_metadata(metadata),
            self,
            window,
            lambda call: streams.append(ResponseStream(ResponseFuture(call), window)),
        )
        return streams[0]

    def notify(
        self,
        message: Message,
        timeout: float | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Tell; return once the bytes are with the operating system.

        If the transport blocks (one of your own, a stream without a descriptor), they are on their
        way to it then.

        Blocks while the peer does not keep up; and while very many notifications wait for the
        handlers of this side, a second as a rule, unless a handler sends it.

        Args:
            message: what to tell.
            timeout: seconds to wait at the most; ``None``: as long as it takes.
            metadata: text that the handler sees as ``ctx.metadata``.

        Raises:
            SerializationError: the message can't be sent as it is; nothing was sent.
            ProtocolError: it is larger than ``max_frame_size``; nothing was sent.
            RequestTimeoutError: the peer did not read it in time. Nothing was sent, or the text
                says that the rest will be, for a message can't be taken back when it is begun.
            SessionClosedError: the session has ended.
            TypeError: it is no message, or a :class:`Request`.
        """
        check_notification(message, "notify")
        seconds = None if timeout is None else checked_timeout(timeout)
        self._engine.notifier.notify(message, checked_metadata(metadata), seconds)

    def receive(self, timeout: float | None = None) -> Message:
        """Return the next notification that no handler took; wait for one if need be.

        Up to ``Limits.unreceived`` wait for it (1,024), or a quarter of ``Limits.held_bytes``; then
        the oldest is dropped, counted and logged once.

        Args:
            timeout: seconds to wait at the most; ``None``: as long as it takes.

        Raises:
            RequestTimeoutError: none came in time.
            SessionClosedError: the session has ended, and none is left.
        """
        return self._engine.inbox.receive(None if timeout is None else checked_timeout(timeout))

    # Handlers; the decorators are those of Registering.

    def on_close(self, target: F, /) -> F:
        """Register a function to be called once the session has ended.

        It is called with the session if it has a parameter; at once if it is too late.
        """
        if not self._registries.add_close(target):
            SessionHost.call_close(self, target)
        return target

    def on_late(self, target: F, /) -> F:
        """Register a function to be told when the peer is done with a request that has ended here.

        Its time was over, it was cancelled, or whoever asked was interrupted. The peer is done with
        it when it has answered, or if it never got it. Other peers than the workers of a pool do
        not answer what was cancelled, unless they are written to do so.

        The function is called with the request's ``id``, as the future has it, and maybe twice.
        """
        check_function(target, "on_late")
        self._engine.late_answers.add_listener(target)
        return target

    # Life cycle.

    def start(self) -> Self:
        """Start reading; further calls do nothing.

        Raises:
            SessionClosedError: the session has ended.
        """
        self._engine.start()
        return self

    def serve_forever(self) -> None:
        """Start, and return when the peer is gone and running handlers have finished.

        Handlers run on threads of the session's; this one sleeps. Ctrl-C is raised here. In a
        session of this process's own standard input and output it prints no traceback if
        nobody catches it, for the parent gets it too.

        In the main thread, SIGTERM ends it as :meth:`close` does: no new requests are
        taken, handlers in flight have 5 seconds to finish and answer, then this returns.
        A second SIGTERM ends the process, and so does the first where the peer has hung
        up already. A handler of your own for SIGTERM is left alone.
        """
        if self._has_nobody():
            self.close()
            return
        # From before the first request can come: whoever was heard is answered.
        with OnSigterm(self._close_soon, self._is_child()):
            try:
                self._engine.start()
            except SessionClosedError:
                pass
            self._engine.shutdown.wait_until_closed()

    def _is_child(self) -> bool:
        """Tell whether the other side is the parent of this process."""
        return self._engine.adapter.goes_with_peer

    def _has_nobody(self) -> bool:
        """Tell whether this is the session of a process of ``multiprocessing``.

        What that is to do comes behind ``serve_forever()``, which leaves no trace in it: no
        thread, which the forkserver would fork beside, and not for a moment a handler of
        SIGTERM. With that a pool ends its workers, also those that are just being started,
        and it waits for ever for one that has taken it for the end of a session.
        """
        return self._engine.adapter.has_nobody

    def _close_soon(self) -> bool:
        if self._engine.shutdown.ended.is_set():
            return False
        self._engine.shutdown.leave_output()  # the peer did not ask for this
        try:
            start_thread(make_thread(self.close, name="streamipc-closing"))
        except RuntimeError as error:  # can't start new thread
            let_through(error)
            return False
        return True

    def close(self, timeout: float = 5) -> None:
        """End the session gracefully; may be called twice, and from any thread.

        No new requests are taken, handlers in flight finish and answer, queued bytes go
        out, our direction is closed, and replies that are still to come are waited for.
        From a handler or a callback, or a finalizer that interrupts the session's own work, it
        returns before the end, which happens behind it.

        Args:
            timeout: seconds for all of this. A child that has not exited by then gets
                SIGTERM, and soon after SIGKILL; it is always reaped.
        """
        self._engine.shutdown.close(checked_timeout(timeout))

    @property
    def closed(self) -> bool:
        """Whether the session has ended, or is ending, for whatever reason."""
        return self._engine.lifecycle.is_forked() or self._engine.lifecycle.refusal is not None

    @property
    def closed_error(self) -> SessionClosedError | None:
        """Why the session has ended, or is ending: what ``request()`` would raise; else ``None``.

        For the exit status of a child that has ended just now it may wait, up to 80 ms.
        """
        self._engine.lifecycle.is_forked()  # a copy in a forked process says that it is one
        refusal = self._engine.lifecycle.refusal
        return None if refusal is None else refusal()

    @property
    def pending(self) -> int:
        """How many requests of this side wait for their reply."""
        self._engine.lifecycle.is_forked()  # a copy in a forked process has none
        return self._outgoing.pending

    @property
    def stats(self) -> Stats:
        """A snapshot of the session's counters."""
        return self._engine.stats()

    @property
    def peer(self) -> streamipc.IpcPeer:
        """The peer that made this session."""
        return self._peer

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is None or engine.lifecycle.is_forked() or not self._needs_closing():
            return
        try:
            warnings.warn(
                f"unclosed {self!r}: use 'with', or call close()", ResourceWarning, source=self
            )
        finally:  # the warning may have been made an error
            engine.host.hold(self._registries)
            engine.shutdown.abandon()

    def __repr__(self) -> str:
        state = (
            "closed" if self.closed else "open" if self._engine.lifecycle.begun else "not started"
        )
        return f"<{type(self).__name__} {self._about()}{state}>"

    def _about(self) -> str:
        return ""

    def _needs_closing(self) -> bool:
        return self._engine.lifecycle.refusal is None

    @classmethod
    def for_processes(cls) -> type[ProcessSession]:
        """Return the class of sessions with child processes that goes with this one."""
        if issubclass(cls, ProcessSession):
            return cls
        if cls is IpcSession:
            return ProcessSession
        return types.new_class(cls.__name__, (cls, ProcessSession))


class ProcessSession(IpcSession):
    """A session with a child process, which it ends and reaps when it is closed."""

    _engine: Engine

    @property
    def _transport(self) -> ProcessTransport:
        self._engine.lifecycle.is_forked()  # a copy in a forked process leaves the child alone
        return self._engine.adapter.transport  # type: ignore[no-any-return]

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The child."""
        return self._transport.process

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status as in :class:`subprocess.Popen`; ``None`` while the child runs.

        Also ``None`` where somebody else took the status: SIGCHLD is ignored, or other code
        of this process waits for all children. :attr:`closed` is true then.
        """
        return self._transport.returncode

    @property
    def stderr_tail(self) -> str:
        """The last lines that the child wrote to its standard error."""
        return self._transport.stderr_tail

    @property
    def closed(self) -> bool:
        """Whether the session has ended, or is ending, or the child is dead.

        What a dead child had written can still be received.
        """
        return super().closed or self._transport.has_ended

    def terminate(self) -> None:
        """Ask the child to end (SIGTERM)."""
        self._transport.terminate()

    def kill(self) -> None:
        """End the child (SIGKILL)."""
        self._transport.kill()

    def _about(self) -> str:
        return f"pid={self.pid} "

    def _needs_closing(self) -> bool:
        if self._engine.lifecycle.refusal is None:
            return True
        # The child may outlive the session: it has closed its output, for one.
        return not self._engine.lifecycle.is_closing and not self._transport.has_ended
