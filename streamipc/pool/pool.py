"""Worker pools: what a user holds to have child processes at hand."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Literal, NoReturn, TypeVar

from .._arguments import (
    DEFAULT,
    check_message,
    check_notification,
    checked_metadata,
    checked_timeout,
    checked_whole,
    checked_window,
    seconds_for,
)
from .._forks import at_home, forgets, look_for_fork
from .._registering import Registering
from .._signals import let_through
from ..engine.calls import Call
from ..exceptions import IpcError, RequestTimeoutError
from ..futures import ResponseStream
from ..handlers import ExceptionTypes, MessageTypes
from ..messages import Message, Request
from ..peer import IpcPeer
from ..session import IpcSession
from ..sync import SyncIpcSession
from .backoff import Backoff
from .children import Child, Launcher
from .contracts import PoolStats, WorkerInfo
from .futures import PoolFuture
from .local import LocalPool
from .mapping import Replies
from .scheduler import Scheduler
from .streams import PoolStream
from .tickets import CallTicket, RequestTicket

if sys.version_info >= (3, 11):
    from typing import Self, overload
else:
    from typing_extensions import Self, overload

__all__ = ["WorkerPool"]

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

Command = (
    str
    | bytes
    | os.PathLike[str]
    | Iterable[str | bytes | os.PathLike[str]]
    | Callable[[], IpcSession]
)
"""What starts a worker."""

_CHECK = 5.0
"""Seconds for a worker to show that it is well."""


class WorkerPool:
    """Child processes that are there when they are asked, and come back when they die.

    Make one at module level: nothing is started before it is used. Each process that uses it,
    forked or not, has workers of its own.

    ::

        words = WorkerPool(python_command("-m", "shop.words"), size=2)
        words.call(SayHello("Riki"), timeout=5).text

    A request is given to the worker that has least to do, ``per_worker`` at a time; the others
    wait, in order. It ends exactly once: with the reply, with the handler's error, with
    :class:`RequestTimeoutError` (then its handler is cancelled, and ``kill_grace`` seconds later
    the worker is killed, if it has not stopped), with :class:`WorkerLostError`, or with
    :class:`WorkersUnavailableError`. It is given to one worker only, unless that has certainly not
    started it, or ``retries`` allows it.

    Args:
        command: as for :meth:`IpcPeer.create_command_session`; or a callable that returns a new
            session, such as one that connects: then a lost connection is made anew.
        size: workers at the most.
        per_worker: requests that a worker has at the same time. With more than one, those beside
            a request that takes too long are lost with it.
        peer: makes the sessions; by default one with the default settings.
        name: for logs, errors and threads; by default the last word of the command.
        ready: a request that a new worker must answer before anybody gets it.
        start_timeout: seconds for that.
        wait: seconds that a request waits while there is no worker at all.
        kill_grace: seconds for a handler to end after its request has: then the worker is killed.
        retries: how often a request is given to another worker if the one that had it died.
        max_requests: after so many a worker is replaced; ``None``: never.
        max_lifetime: seconds after which a worker is replaced; ``None``: never.
        backoff: seconds of the first and the longest pause between starts of workers that die
            before they have answered anything. The first such death costs no pause.
        max_early_deaths: so many of them in a row, and workers are started for those who ask only.
        max_waiting: requests that may wait; then ``request()`` blocks.
        stderr: as for :meth:`IpcPeer.create_command_session`; or a ``logging.Logger``, which
            gets each line as a record.
        on_event: called with ``"started"``, ``"ready"``, ``"died"``, ``"retired"`` or
            ``"unavailable"`` and a :class:`WorkerInfo`, for metrics. It is called on the thread
            that looks after the workers, so it must not block.

    With ``IpcPeer(session_type=SyncIpcSession)`` there is no thread. ``call()``, ``stream()``,
    ``map()`` and what looks after the workers work; workers are started, looked after and killed
    while a thread is in one of these. ``request()`` does not: nobody would see to its future.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    def __init__(
        self,
        command: Command,
        *,
        size: int = 1,
        per_worker: int = 1,
        peer: IpcPeer | None = None,
        name: str | None = None,
        ready: Message | None = None,
        start_timeout: float = 10.0,
        wait: float = 5.0,
        kill_grace: float = 1.0,
        retries: int = 0,
        max_requests: int | None = None,
        max_lifetime: float | None = None,
        backoff: tuple[float, float] = (0.1, 30.0),
        max_early_deaths: int = 5,
        max_waiting: int = 10_000,
        stderr: Any = "forward",
        on_event: Callable[[str, WorkerInfo], object] | None = None,
    ) -> None:
        self._local_pool: LocalPool | None = None
        self._is_closed = False
        if not callable(command) and not isinstance(command, (str, bytes, os.PathLike)):
            command = [*command]
        if peer is not None and not isinstance(peer, IpcPeer):
            raise TypeError(f"peer must be an IpcPeer, not {peer!r}")
        if ready is not None:
            check_message(ready, "WorkerPool")
        if on_event is not None and not callable(on_event):
            raise TypeError(f"on_event must be callable, not {on_event!r}")
        first, longest = map(checked_timeout, backoff)
        self._command = command
        self._peer = peer
        self._name = name or _name_of(command)
        self._ready = ready
        self._stderr = stderr
        self._on_event = on_event
        self._size = checked_whole("size", size, 0)
        self._per_worker = checked_whole("per_worker", per_worker, 1)
        self._retries = checked_whole("retries", retries, 0)
        self._max_waiting = checked_whole("max_waiting", max_waiting, 1)
        self._max_requests = (
            None if max_requests is None else checked_whole("max_requests", max_requests, 1)
        )
        self._max_lifetime = None if max_lifetime is None else checked_timeout(max_lifetime)
        self._start_timeout = checked_timeout(start_timeout)
        self._wait = checked_timeout(wait)
        self._kill_grace = checked_timeout(kill_grace)
        self._backoff = (first, longest, checked_whole("max_early_deaths", max_early_deaths, 1))
        self._handlers: list[Callable[[IpcSession], object]] = []
        forgets(self)

    # The pool of this process.

    def _here(self) -> LocalPool:
        """Return the pool of this process; nothing is started by that."""
        if not at_home[0]:
            look_for_fork()
        local = self._local_pool
        if local is None:
            # Made now, with its locks: gevent may have patched them since the import.
            made = self._make()
            local = self.__dict__["_local_pool"] = self._local_pool or made
        return local

    def _make(self) -> LocalPool:
        peer = self._peer if self._peer is not None else IpcPeer()
        scheduler = Scheduler(
            self._size,
            Backoff(*self._backoff),
            per_worker=self._per_worker,
            kill_grace=self._kill_grace,
            wait=self._wait,
            max_requests=self._max_requests,
            max_lifetime=self._max_lifetime,
            make_worker=Child,
        )
        launcher = Launcher(
            self._command,
            peer,
            stderr=self._stderr,
            ready=self._ready,
            start_timeout=self._start_timeout,
        )
        return LocalPool(
            self._name,
            peer,
            scheduler,
            launcher,
            has_threads=not issubclass(peer.session_type, SyncIpcSession),
            on_event=self._on_event,
            prepare=partial(_register_all, self._handlers),  # which does not hold the pool
        )

    def _open(self) -> LocalPool:
        local = self._here()
        if self._is_closed or local.is_closed:
            raise local.staff.closed_error()
        return local

    def forget_after_fork(self) -> None:
        """Begin anew in a forked process: the workers are the parent's."""
        self._local_pool = None

    # Asking.

    @overload
    def request(
        self,
        message: Request[R],
        timeout: float | None = DEFAULT,
        on_progress: Callable[[Any], object] | None = None,
        *,
        retries: int | None = None,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> PoolFuture[R]: ...
    @overload
    def request(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        on_progress: Callable[[Any], object] | None = None,
        *,
        retries: int | None = None,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> PoolFuture[Any]: ...
    def request(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        on_progress: Callable[[Any], object] | None = None,
        *,
        retries: int | None = None,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> PoolFuture[Any]:
        """Ask a worker; return the future of the reply.

        Blocks while ``max_waiting`` requests wait.

        Args:
            message: what to ask.
            timeout: seconds from now until the request fails with :class:`RequestTimeoutError`,
                also while it waits for a worker; ``None``: never. By default the peer's
                ``timeout``, or inside a handler what remains of its request's, if less.
            on_progress: called with each item that the handler sends before its reply. After a
                retry it may get the first ones again.
            retries: as for the pool, for this request alone.
            metadata: text that the handler sees as ``ctx.metadata``.
            window: items that the handler may be ahead of ``on_progress``.

        Raises:
            RequestTimeoutError: too many requests waited, all that time.
            SessionClosedError: the pool is closed.
        """
        local = self._open()
        if not local.has_threads:
            raise TypeError(
                "request() needs a thread that sees to the future: in a pool of sessions without "
                "threads use call(), or map()"
            )
        ticket = RequestTicket(*self._asked(message, "request", timeout, retries, metadata))
        if on_progress is None:
            ticket.options = None
        else:
            ticket.options = {"on_progress": on_progress, "window": checked_window(window)}
        if len(local.scheduler.waiting) >= self._max_waiting:
            self._wait_for_room(local, ticket)
        # A pool that nobody holds closes its workers: so the record of the request holds it.
        ticket.call = Call(local.owner, ticket, message, timeout=ticket.timeout, keeps=self)  # type: ignore[arg-type]
        future: PoolFuture[Any] = PoolFuture(ticket.call)
        try:
            local.requests.submit(ticket)
        except BaseException:  # an interrupt: nobody will have the future
            local.requests.give_up(ticket)
            raise
        return future

    def _wait_for_room(self, local: LocalPool, ticket: RequestTicket) -> None:
        def has_room() -> bool:
            return len(local.scheduler.waiting) < self._max_waiting or local.is_closed

        if not local.wait_until(has_room, ticket.deadline):
            raise RequestTimeoutError(
                f"{ticket.name} was not sent within {ticket.timeout:g} s: {self._max_waiting:,} "
                f"requests wait in the pool {self._name!r} (max_waiting)"
            )

    def _asked(
        self,
        message: Message,
        method: str,
        timeout: float | None,
        retries: int | None,
        metadata: Mapping[str, str] | None,
    ) -> tuple[Message, float | None, int, Mapping[str, str] | None]:
        """Return what a ticket is made of."""
        if not isinstance(message, Message):
            check_message(message, method)
        return (
            message,
            seconds_for(timeout, self._here().peer.timeout),
            self._retries if retries is None else checked_whole("retries", retries, 0),
            checked_metadata(metadata) if metadata else None,
        )

    @overload
    def call(
        self,
        message: Request[R],
        timeout: float | None = DEFAULT,
        *,
        retries: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> R: ...
    @overload
    def call(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        *,
        retries: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any: ...
    def call(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        *,
        retries: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask a worker, wait, and return the reply: ``request(message, timeout).result()``."""
        local = self._open()
        ticket = CallTicket(*self._asked(message, "call", timeout, retries, metadata))
        return local.call(
            ticket,
            lambda session: session.call(message, ticket.seconds_left(), metadata=metadata),
        )

    @overload
    def stream(
        self,
        message: Request[R],
        timeout: float | None = DEFAULT,
        *,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> PoolStream[R]: ...
    @overload
    def stream(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        *,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> PoolStream[Any]: ...
    def stream(
        self,
        message: Message,
        timeout: float | None = DEFAULT,
        *,
        metadata: Mapping[str, str] | None = None,
        window: int = 16,
    ) -> PoolStream[Any]:
        """Ask a worker; return what the handler yields, as it yields it, as an iterator.

        Blocks until there is a worker for it. A stream is never given to a second one.

        Args:
            message: what to ask.
            timeout: seconds for the whole stream, from now; as in :meth:`request`.
            metadata: as in :meth:`request`.
            window: items that the handler may be ahead of the iteration.

        Raises:
            As :meth:`PoolFuture.result`.
        """
        local = self._open()
        checked_window(window)
        ticket = CallTicket(*self._asked(message, "stream", timeout, 0, metadata))

        def ask(session: IpcSession) -> ResponseStream[Any]:
            stream = session.stream(
                message, ticket.seconds_left(), metadata=metadata, window=window
            )
            worker: Any = ticket.worker
            ticket.inner = stream.future
            stream.future.add_done_callback(
                lambda inner: local.requests.stream_ended(ticket, worker, inner)
            )
            return stream

        return PoolStream(local.stream(ticket, ask), self)

    @overload
    def map(
        self,
        messages: Iterable[Request[R]],
        *,
        timeout: float | None = DEFAULT,
        ordered: bool = True,
        window: int | None = None,
        return_exceptions: Literal[False] = False,
        retries: int | None = None,
    ) -> Replies[R]: ...
    @overload
    def map(
        self,
        messages: Iterable[Request[R]],
        *,
        timeout: float | None = DEFAULT,
        ordered: bool = True,
        window: int | None = None,
        return_exceptions: bool,
        retries: int | None = None,
    ) -> Replies[R | Exception]: ...
    @overload
    def map(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = DEFAULT,
        ordered: bool = True,
        window: int | None = None,
        return_exceptions: bool = False,
        retries: int | None = None,
    ) -> Replies[Any]: ...
    def map(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = DEFAULT,
        ordered: bool = True,
        window: int | None = None,
        return_exceptions: bool = False,
        retries: int | None = None,
    ) -> Replies[Any]:
        """Ask many things; return an iterator over the replies.

        The first messages are sent before it returns; further ones are taken from ``messages``
        as replies are taken, so both may be endless.

        Args:
            messages: what to ask.
            timeout: seconds for each of them, as in :meth:`request`.
            ordered: replies come in the order of the messages; else as they are there.
            window: messages that are on their way, or whose replies wait to be taken; by default
                four for each worker, and at least 16.
            return_exceptions: give the error of a request in the place of its reply. Otherwise it
                is raised, the rest is cancelled, and nothing comes after it.
            retries: as in :meth:`request`.
        """
        local = self._open()
        if window is None:
            window = max(4 * self._size * self._per_worker, 16)

        def ask(message: Message) -> Future[Any]:
            return self.request(message, timeout, retries=retries)

        def ask_now(message: Message) -> Future[Any]:
            future: Future[Any] = Future()
            try:
                future.set_result(self.call(message, timeout, retries=retries))
            except Exception as error:
                let_through(error)
                future.set_exception(error)
            return future

        return Replies(
            messages,
            ask if local.has_threads else ask_now,
            ordered=ordered,
            window=checked_window(window) if local.has_threads else 1,
            return_exceptions=return_exceptions,
        )

    def broadcast(self, message: Message, timeout: float = 1.0) -> dict[WorkerInfo, Exception]:
        """Send a notification to all workers that have started.

        One that fails, or does not read, does not keep the message from the others.

        Args:
            message: what to tell.
            timeout: seconds in which it must be out to all of them.

        Returns:
            The exceptions, by worker; empty if all went well.

        Raises:
            TypeError: it is no message, or a :class:`Request`.
        """
        check_notification(message, "broadcast")
        return self._open().broadcast(message, checked_timeout(timeout))

    # Handlers, which each worker's session gets.

    @overload
    def on_request(
        self, target: MessageTypes | None = None, /, *, inline: bool = ...
    ) -> Callable[[F], F]: ...
    @overload
    def on_request(self, target: F, /, *, inline: bool = ...) -> F: ...
    def on_request(self, target: Any = None, /, *, inline: bool = False) -> Any:
        """Register a handler for the requests of workers; see :meth:`IpcSession.on_request`."""
        return self._register("on_request", target, inline=inline)

    @overload
    def on_message(self, target: MessageTypes | None = None, /) -> Callable[[F], F]: ...
    @overload
    def on_message(self, target: F, /) -> F: ...
    def on_message(self, target: Any = None, /) -> Any:
        """Register a handler for workers' notifications; see :meth:`IpcSession.on_message`."""
        return self._register("on_message", target)

    @overload
    def on_exception(self, target: ExceptionTypes | None = None, /) -> Callable[[F], F]: ...
    @overload
    def on_exception(self, target: F, /) -> F: ...
    def on_exception(self, target: Any = None, /) -> Any:
        """Register a handler for what no caller gets; see :meth:`IpcSession.on_exception`."""
        return self._register("on_exception", target)

    def _register(self, kind: str, target: Any, **options: Any) -> Any:
        found = getattr(Registering(), kind)(target, **options)  # raises if it can't be a handler
        if found is not target:  # a decorator for certain types

            def decorate(function: F) -> F:
                getattr(Registering(), kind)(target, **options)(function)
                self._add(lambda session: getattr(session, kind)(target, **options)(function))
                return function

            return decorate
        self._add(lambda session: getattr(session, kind)(target, **options))
        return target

    def _add(self, register: Callable[[IpcSession], object]) -> None:
        self._handlers.append(register)
        look_for_fork()
        local = self._local_pool
        if local is not None:
            for _, session in local.sessions():
                register(session)

    # Looking after the workers.

    def start(self) -> Self:
        """Start all workers, in the background; return the pool."""
        local = self._open()
        local.turns.post(local.scheduler.start_all)
        return self

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Start all workers, and wait until they are ready.

        Args:
            timeout: seconds to wait at the most; ``None``: as long as it takes.

        Returns:
            Whether all of them are.

        Raises:
            WorkersUnavailableError: they die as soon as they are started.
        """
        self.start()
        local = self._open()
        scheduler = local.scheduler
        until = None if timeout is None else time.monotonic() + checked_timeout(timeout)

        def is_settled() -> bool:
            return (
                scheduler.taking() >= scheduler.size
                or scheduler.is_down(time.monotonic())
                or local.is_closed
            )

        local.wait_until(is_settled, until)
        if scheduler.is_down(time.monotonic()) and scheduler.size:
            raise local.staff.unavailable_error("")
        return scheduler.taking() >= scheduler.size

    def check(self, timeout: float = _CHECK) -> bool:
        """Tell whether a worker is there and answers, or can be had; raises nothing.

        It is asked the pool's ``ready`` request, if there is one.

        Args:
            timeout: seconds to wait at the most.
        """
        try:
            local = self._open()
            if self._ready is not None:
                self.call(self._ready, timeout)
                return True
            if local.scheduler.taking() == 0:
                local.turns.post(local.scheduler.start_one)
            scheduler = local.scheduler

            def is_settled() -> bool:
                return scheduler.taking() > 0 or scheduler.is_down(time.monotonic())

            local.wait_until(is_settled, time.monotonic() + checked_timeout(timeout))
            return scheduler.taking() > 0
        except (IpcError, OSError) as error:
            let_through(error)
            return False

    def resize(self, size: int) -> None:
        """Have another number of workers at the most, in this process and those forked from it.

        Those that are too many end when they have answered what they have.
        """
        self._size = checked_whole("size", size, 0)
        local = self._open()
        local.turns.post(local.scheduler.resize, self._size)

    def restart(self) -> None:
        """Replace all workers, one after the other, in the background.

        Each new one is ready before the old one takes no more. If the new ones die at once, the old
        ones stay.
        """
        local = self._open()
        local.turns.post(local.scheduler.restart)

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all that was asked so far is over.

        Args:
            timeout: seconds to wait at the most; ``None``: as long as it takes.

        Returns:
            Whether it is.
        """
        local = self._here()
        last = local.scheduler.last_number
        until = None if timeout is None else time.monotonic() + checked_timeout(timeout)
        return local.wait_until(lambda: local.scheduler.are_over(last), until)

    def close(self, timeout: float = 5) -> None:
        """Take no more; see what was asked to its end, and end the workers. May be called twice.

        Args:
            timeout: seconds for all of this. What is not over by then fails, and workers that
                have not exited get SIGTERM, and soon after SIGKILL.
        """
        timeout = checked_timeout(timeout)
        look_for_fork()
        self._is_closed = True
        local = self._local_pool
        if local is not None:
            local.close(timeout)
            if self._peer is None:
                local.peer.close(0)

    @property
    def workers(self) -> list[WorkerInfo]:
        """The workers of this process."""
        return self._here().infos()

    @property
    def stats(self) -> PoolStats:
        """A snapshot of the counters of this process."""
        return self._here().stats()

    @property
    def name(self) -> str:
        """The pool's name."""
        return self._name

    @property
    def size(self) -> int:
        """How many workers there may be."""
        return self._size

    @property
    def closed(self) -> bool:
        """Whether it takes no more."""
        return self._is_closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.drain()  # as an executor does: each request has its own time
        self.close()

    def __del__(self) -> None:
        local = getattr(self, "_local_pool", None)
        if local is None or not at_home[0] or self._is_closed:
            return
        try:
            if local.scheduler.workers:
                warnings.warn(
                    f"unclosed {self!r}: use 'with', or call close()", ResourceWarning, source=self
                )
        finally:  # the warning may have been made an error
            local.abandon()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"size={self._size}"
        return f"<{type(self).__name__} {self._name!r} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} belongs to this process and can't be sent to another "
            "(pickled): make one at module level, and import it there"
        )


def _register_all(handlers: list[Callable[[IpcSession], object]], session: IpcSession) -> None:
    for register in handlers:
        register(session)


def _name_of(command: Any) -> str:
    """Return a name for people: the last word of a command, or a function's name."""
    if callable(command):
        return str(getattr(command, "__name__", type(command).__name__))
    words = [command] if isinstance(command, (str, bytes, os.PathLike)) else command
    return os.path.basename(os.fsdecode(words[-1])) if words else "workers"
