"""The peer: settings and handlers that its sessions share."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from ._arguments import check_message, check_notification, checked_timeout, checked_whole
from ._forks import forgets, look_for_fork, renew
from ._patches import check_patches
from ._registering import Registering
from ._signals import let_through
from ._threads import make_thread, start_thread
from .engine.lifetimes import track
from .engine.options import Options
from .engine.poller import usable_cpus
from .engine.transport import TransportAdapter
from .exceptions import IpcError, SessionClosedError
from .limits import Limits
from .messages import Message
from .protocol.envelopes import IdGenerator
from .serializers.base import MessageSerializer
from .session import IpcSession, ProcessSession
from .transports._command import StderrOption
from .transports.base import Transport

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

__all__ = ["IpcPeer"]

S = TypeVar("S", bound=IpcSession)

_SPIN = 100e-6
"""Seconds. More than it takes the other side to wake up and turn a message round: with
less, two sides that both sleep would never find out that spinning pays."""

_MAX_FRAME = (1 << 32) - 1
"""Bytes: the frame's length has 32 bits."""


class IpcPeer(Registering):
    """Makes sessions, and holds what they share.

    Handlers that are registered here serve every session, after the session's own. A peer keeps
    its sessions from their start to their end, so a server need not hold them itself.

    Args:
        serializer: turns messages into bytes; by default a ``NativeMessageSerializer``,
            for Python on both sides.
        timeout: seconds for which a request waits for its reply by default; ``None``:
            for ever.
        id_generator: called for the id of each request; by default each session counts.
        max_frame_size: bytes of the largest message, both ways.
        handler_threads: handlers that may run at the same time in one session.
        spin: seconds to look for input again and again before sleeping, where that has
            paid off lately; 0: never. Off by itself where one CPU is usable only.
        session_type: the class of sessions.
        tracebacks: tell the other side the traceback of what a handler raised, with its
            paths, source lines and chained causes; ``False``: its type and text alone.
        limits: of what each session holds in memory; see :class:`Limits` for the defaults.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    def __init__(
        self,
        serializer: MessageSerializer | None = None,
        *,
        timeout: float | None = 30.0,
        id_generator: IdGenerator | None = None,
        max_frame_size: int = 256 << 20,
        handler_threads: int = 8,
        spin: float = _SPIN,
        session_type: type[IpcSession] = IpcSession,
        tracebacks: bool = True,
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        if serializer is None:
            from .serializers.native import NativeMessageSerializer

            serializer = NativeMessageSerializer()
        _check_serializer(serializer)
        if id_generator is not None and not callable(id_generator):
            raise TypeError(f"id_generator must be callable, not {id_generator!r}")
        checked_whole("max_frame_size", max_frame_size, 1024, _MAX_FRAME)
        checked_whole("handler_threads", handler_threads, 1, 1 << 16)
        if not (isinstance(session_type, type) and issubclass(session_type, IpcSession)):
            raise TypeError(f"session_type must be a subclass of IpcSession, not {session_type!r}")
        if limits is not None and not isinstance(limits, Limits):
            raise TypeError(f"limits must be a streamipc.Limits, not {limits!r}")
        spin = checked_timeout(spin)
        self._timeout = None if timeout is None else checked_timeout(timeout)
        self._options = Options(
            serializer=serializer,
            next_id=id_generator,
            max_frame_size=max_frame_size,
            handler_threads=handler_threads,
            spin=spin if usable_cpus() > 1 else 0.0,
            tracebacks=bool(tracebacks),
            limits=Limits() if limits is None else limits,
        )
        self._session_type = session_type
        self._lock = threading.RLock()  # guards the three below
        self._sessions: weakref.WeakSet[IpcSession] = weakref.WeakSet()
        self._kept: set[IpcSession] = set()  # those that were started and have not ended
        self._closed = False
        forgets(self)

    @property
    def options(self) -> Options:
        """The settings of its sessions."""
        return self._options

    @property
    def timeout(self) -> float | None:
        """Seconds for which a request waits by default; ``None``: for ever."""
        return self._timeout

    @property
    def session_type(self) -> type[IpcSession]:
        """The class of its sessions."""
        return self._session_type

    # Making sessions.

    # Each takes ``serializer`` and ``max_frame_size`` for its one session; see the class.

    def create_stdio_session(
        self,
        *,
        serializer: MessageSerializer | None = None,
        max_frame_size: int | None = None,
    ) -> IpcSession:
        """Make a session of this process's own standard input and output.

        From now on, and until it is closed, ``print()`` and everything else that writes
        to standard output goes to standard error, line by line, and reading standard input
        finds its end: neither can disturb the session. Once the peer is gone it stays so.

        If standard input is the terminal that this process was started from, say on standard
        error that it is to be started by its parent; Ctrl-C and Ctrl-D end the session.

        A process of :mod:`multiprocessing` that imports this script gets a session with
        nobody: handlers are registered, notifications go nowhere, ``serve_forever()`` closes it.

        Args:
            serializer: for this session; ``None``: the peer's.
            max_frame_size: bytes, for this session; ``None``: the peer's.

        Raises:
            RuntimeError: a session has them already, or had them until its peer was gone.
            OSError: they are closed.
        """
        self._check_open()
        self._check_type()
        options = self._options_for(serializer, max_frame_size)
        from .transports.stdio import NobodysTransport, open_stdio

        transport = open_stdio()
        session = self._make(self._session_type, transport, options)
        if isinstance(transport, NobodysTransport):
            # It may have seen the end already, which is no reason for the import to fail.
            session.notify = _tell_nobody  # type: ignore[method-assign]
        return session

    def create_command_session(
        self,
        args: str | bytes | os.PathLike[str] | Iterable[str | bytes | os.PathLike[str]],
        *,
        cwd: str | bytes | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stderr: StderrOption = "forward",
        serializer: MessageSerializer | None = None,
        max_frame_size: int | None = None,
        **popen_options: Any,
    ) -> ProcessSession:
        """Start a child and make a session of its standard input and output.

        Args:
            args: the command, as for :class:`subprocess.Popen`: a list of its words.
            cwd: its working directory.
            env: its environment; ``None``: ours.
            stderr: ``"forward"``: passed on to ours, the last lines are kept for errors;
                a callable gets each line, except in sessions without threads; ``None``,
                a file, a descriptor, ``PIPE`` and ``DEVNULL`` as for ``Popen``.
            serializer: for this session; ``None``: the peer's.
            max_frame_size: bytes, for this session; ``None``: the peer's.
            popen_options: further options of ``Popen``.

        Raises:
            OSError: it can't be started (``FileNotFoundError``, ``PermissionError``, …).
            TypeError, ValueError: the command is empty, an option is not the caller's, or
                ``stderr`` means nothing, or is ``STDOUT``, where frames are.
            RuntimeError: this process was started by the very module whose import starts a
                child here: that would go on without end.
        """
        self._check_open()
        options = self._options_for(serializer, max_frame_size)
        from .transports.process import start_process

        if not self._session_type._threads:
            if stderr == "forward":
                stderr = None  # nobody would pass it on: the child gets ours itself
            elif callable(stderr):
                raise ValueError(
                    "a session without threads has nobody to read the child's standard error: "
                    "leave stderr out, or use IpcSession"
                )
        transport = start_process(
            args,
            cwd=cwd,
            env=None if env is None else dict(env),
            stderr=stderr,
            **popen_options,
        )
        return self._create_process_session(transport, options)

    def create_process_session(
        self,
        process: subprocess.Popen[bytes],
        *,
        serializer: MessageSerializer | None = None,
        max_frame_size: int | None = None,
    ) -> ProcessSession:
        """Make a session of a child that was started with pipes as stdin and stdout.

        The session owns the child from now on: closing it ends the child.

        Args:
            process: with ``stdin=PIPE`` and ``stdout=PIPE`` and without text mode.
            serializer: for this session; ``None``: the peer's.
            max_frame_size: bytes, for this session; ``None``: the peer's.

        Raises:
            TypeError: it is in text mode.
            ValueError: it lacks a pipe, or a session has it already.
        """
        self._check_open()
        options = self._options_for(serializer, max_frame_size)
        from .transports.process import wrap_process

        return self._create_process_session(wrap_process(process), options)

    def create_stream_session(
        self,
        write: Any,
        read: Any,
        read2: Any = None,
        *,
        serializer: MessageSerializer | None = None,
        max_frame_size: int | None = None,
    ) -> IpcSession:
        """Make a session of any two streams of bytes.

        The session owns them from now on, and closes them when it is closed.

        Args:
            write: where to write: a file object, a socket, a file descriptor, ….
            read: where to read from; may be the same as ``write``.
            read2: where else to read from, such as a child's standard error.
            serializer: for this session; ``None``: the peer's.
            max_frame_size: bytes, for this session; ``None``: the peer's.

        Raises:
            TypeError, ValueError: a stream has the wrong mode, or is none.
        """
        self._check_open()
        self._check_type()
        options = self._options_for(serializer, max_frame_size)
        from .transports.streams import open_streams

        return self._make(self._session_type, open_streams(write, read, read2), options)

    def create_session(
        self,
        transport: Transport,
        *,
        serializer: MessageSerializer | None = None,
        max_frame_size: int | None = None,
    ) -> IpcSession:
        """Make a session of a transport of your own; see ``streamipc.Transport``.

        Args:
            transport: the session owns it from now on.
            serializer: for this session; ``None``: the peer's.
            max_frame_size: bytes, for this session; ``None``: the peer's.

        Raises:
            TypeError: it lacks a method.
        """
        self._check_open()
        options = self._options_for(serializer, max_frame_size)
        for method in ("read_into", "write", "close_write", "close"):
            if not callable(getattr(transport, method, None)):
                raise TypeError(f"a transport needs the method {method}(): {transport!r} has none")
        self._check_type()
        return self._make(self._session_type, transport, options)

    def _options_for(
        self, serializer: MessageSerializer | None, max_frame_size: int | None
    ) -> Options:
        """Return the settings of one session."""
        if serializer is None and max_frame_size is None:
            return self._options
        if serializer is not None:
            _check_serializer(serializer)
        if max_frame_size is not None:
            checked_whole("max_frame_size", max_frame_size, 1024, _MAX_FRAME)
        return self._options.replaced(serializer, max_frame_size)

    def _create_process_session(self, transport: Any, options: Options) -> ProcessSession:
        try:
            return self._make(self._session_type.for_processes(), transport, options)
        except BaseException:
            transport.shutdown(0)
            raise

    def _make(self, session_type: type[S], transport: Transport, options: Options) -> S:
        try:
            if options is self._options:  # a subclass of the user's may know no third argument
                session = session_type(self, transport)
            else:
                session = session_type(self, transport, options)
        except BaseException:  # such as "too many open files"
            transport.close()
            raise
        self._add(session)
        return session

    def _check_type(self) -> None:
        if issubclass(self._session_type, ProcessSession):
            raise TypeError(
                f"the session_type {self._session_type.__name__} is for child processes alone: "
                "derive it from IpcSession to use it for other sessions too"
            )

    def _add(self, session: IpcSession) -> None:
        with self._lock:
            closed = self._closed
            if not closed:
                self._sessions.add(session)
        if closed:
            session.close()
            raise IpcError("the peer is closed")
        track(session._engine.shutdown, session._engine)

    def _check_open(self) -> None:
        look_for_fork()
        check_patches()
        if self._closed:
            raise IpcError("the peer is closed: make a new IpcPeer")

    @staticmethod
    def adapter_of(transport: Transport) -> TransportAdapter:
        """Return what an engine uses: the transport, and what stands before one that blocks."""
        adapter = TransportAdapter(transport)
        if adapter.pollable:
            return adapter
        from .transports.pump import pumped

        return TransportAdapter(transport, pumped(transport))

    def keep(self, session: IpcSession) -> None:
        """Keep a session alive that is being started: its handlers may be all that uses it."""
        self._kept.add(session)  # one step: a start holds the engine's lock, and takes no other

    def caller_runs(self) -> Sequence[Any]:
        """Return what sessions without threads that run have instead, if they are several."""
        if len(self._kept) < 2:  # asked before each wait of a session without threads
            return ()
        found = (session._engine.caller_runs for session in tuple(self._kept))
        return [one for one in found if one is not None]

    def tick(self, timeout: float | None = 0) -> bool:
        """Serve all sessions without threads: read what there is, and run what came of it.

        For a :class:`SyncIpcSession` alone there is its own ``tick()``. A wait in one session of a
        peer serves its others too.

        Args:
            timeout: seconds to wait for input if there is nothing to do; ``None``: as long as it
                takes.

        Returns:
            Whether there was anything to do; ``False`` also where no such session is open.
        """
        seconds = None if timeout is None else checked_timeout(timeout)
        engines = []
        for session in self.sessions:
            if not session._threads:
                try:
                    session.start()
                except SessionClosedError:
                    continue
                engines.append(session._engine)
        found = [engine.caller_runs for engine in engines if engine.caller_runs is not None]
        served = [one.serve() for one in found]
        if any(served):
            return True
        found = [one for one in found if one.may_be_read()]
        if not found:
            return False
        return found[0].tick_any(found, None if seconds is None else time.monotonic() + seconds)

    def forget(self, session: IpcSession) -> None:
        """Take a session that has ended off the lists."""
        with self._lock:
            self._sessions.discard(session)
            self._kept.discard(session)

    def forget_after_fork(self) -> None:
        """Go on without the sessions, in a forked process: they are the parent's."""
        renew(self._lock)
        self._registries.forget_after_fork()
        self._sessions.clear()
        self._kept.clear()

    def __repr__(self) -> str:
        # No lock is taken: it may be a finalizer, or a signal's handler, that looks.
        serializer = type(self._options.serializer).__name__
        state = "closed" if self._closed else "open"
        return f"<{type(self).__name__} {serializer}, sessions: {len(self._sessions)}, {state}>"

    # All sessions.

    @property
    def sessions(self) -> list[IpcSession]:
        """The sessions that are alive, in no particular order."""
        look_for_fork()
        with self._lock:
            sessions = list(self._sessions)
        return [session for session in sessions if not session.closed]

    def broadcast(self, message: Message, timeout: float = 1.0) -> dict[IpcSession, Exception]:
        """Send a notification to all live sessions.

        A session that fails, or whose peer does not read, does not keep the message from
        the others.

        Args:
            message: what to tell.
            timeout: seconds in which it must be out to all of them. A session that takes longer
                is among the failures, and is not waited for again before its peer reads on.

        Returns:
            The exceptions, by session; empty if all went well.

        Raises:
            TypeError: it is no message, or a :class:`Request`.
        """
        check_notification(message, "broadcast")
        deadline = time.monotonic() + checked_timeout(timeout)
        failures: dict[IpcSession, Exception] = {}
        steps: list[tuple[IpcSession, Callable[[float], object]]] = []
        for session in self.sessions:
            try:
                if getattr(session.notify, "__func__", None) is IpcSession.notify:
                    steps.append((session, session._engine.notifier.begin(message)))
                else:  # a session type of the user's own
                    steps.append((session, partial(_notify, session.notify, message)))
            except Exception as error:
                let_through(error)
                failures[session] = error
        for number, (session, finish) in enumerate(steps):
            # A share for each: those that take none of it leave theirs to the next ones, and one
            # that is stuck does not take the time of all.
            now = time.monotonic()
            share = max(0.0, deadline - now) / (len(steps) - number)
            try:
                finish(now + share)
            except Exception as error:
                let_through(error)
                failures[session] = error
        return failures

    def close(self, timeout: float = 5) -> None:
        """Close all sessions; no more can be made.

        They are closed side by side, sessions without threads one after the other.

        Args:
            timeout: seconds for each, as in :meth:`IpcSession.close`.
        """
        timeout = checked_timeout(timeout)
        look_for_fork()
        with self._lock:
            self._closed = True
            sessions = list(self._sessions)
        # One of them may be running this very code in a handler: its close() returns at
        # once, but only on this thread.
        here = []
        threads = []
        for session in sessions:
            if not session._threads or session._engine.shutdown.is_needed_here():
                here.append(session)
                continue
            thread = make_thread(session.close, timeout, name="streamipc-closing", daemon=False)
            try:
                start_thread(thread)
            except RuntimeError as error:  # can't start new thread: one after the other, then
                let_through(error)
                here.append(session)
            else:
                threads.append(thread)
        for session in here:
            session.close(timeout)
        for thread in threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _check_serializer(serializer: Any) -> None:
    if isinstance(serializer, type) or not (
        hasattr(serializer, "encode") and hasattr(serializer, "decode")
    ):
        raise TypeError(f"serializer needs the methods encode and decode: {serializer!r}")


def _notify(notify: Callable[..., object], message: Message, deadline: float) -> None:
    """Call what a session type of the user's own has for ``notify``, in time if it lets us."""
    try:
        inspect.signature(notify).bind(message, timeout=0.0)
    except (TypeError, ValueError):
        notify(message)
    else:
        notify(message, timeout=max(0.0, deadline - time.monotonic()))


def _tell_nobody(message: Message, *_: Any, **__: Any) -> None:
    check_message(message, "notify")
