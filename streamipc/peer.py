"""The peer: settings and handlers that its sessions share."""

from __future__ import annotations

import threading
import weakref
from functools import partial

from ._arguments import check_message, checked_timeout
from ._forks import forgets, renew
from ._registering import Registering
from .engine.lifetimes import track
from .engine.options import Options
from .engine.polling import usable_cpus
from .exceptions import IpcError
from .messages import Message
from .session import IpcSession, ProcessSession

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import subprocess
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Any, TypeVar

    from typing_extensions import Self

    from .protocol.envelopes import IdGenerator
    from .serializers.base import MessageSerializer
    from .transports.base import Transport
    from .transports.process import StderrOption
else:
    from ._typing import TypeVar

__all__ = ["IpcPeer"]

F = TypeVar("F", bound="Callable[..., Any]")
S = TypeVar("S", bound=IpcSession)

_SPIN = 100e-6
"""Seconds. More than it takes the other side to wake up and turn a message round: with
less, two sides that both sleep would never find out that spinning pays."""

_MAX_FRAME = (1 << 32) - 1
"""Bytes: the frame's length has 32 bits."""


class IpcPeer(Registering):
    """Makes sessions, and holds what they share.

    Handlers that are registered here serve every session, after the session's own.

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
    ) -> None:
        super().__init__()
        if serializer is None:
            from .serializers.native import NativeMessageSerializer

            serializer = NativeMessageSerializer()
        elif not (hasattr(serializer, "encode") and hasattr(serializer, "decode")):
            raise TypeError(f"serializer needs the methods encode and decode: {serializer!r}")
        if id_generator is not None and not callable(id_generator):
            raise TypeError(f"id_generator must be callable, not {id_generator!r}")
        _check_whole("max_frame_size", max_frame_size, 1024, _MAX_FRAME)
        _check_whole("handler_threads", handler_threads, 1, 1 << 16)
        if not (isinstance(session_type, type) and issubclass(session_type, IpcSession)):
            raise TypeError(f"session_type must be a subclass of IpcSession, not {session_type!r}")
        spin = checked_timeout(spin)
        self._timeout = None if timeout is None else checked_timeout(timeout)
        self._options = Options(
            serializer=serializer,
            next_id=id_generator,
            max_frame_size=max_frame_size,
            handler_threads=handler_threads,
            spin=spin if usable_cpus() > 1 else 0.0,
        )
        self._session_type = session_type
        self._lock = threading.Lock()  # guards _sessions and _closed
        self._sessions: weakref.WeakSet[IpcSession] = weakref.WeakSet()
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

    # Making sessions.

    def create_stdio_session(self) -> IpcSession:
        """Make a session of this process's own standard input and output.

        From now on, and until it is closed, ``print()`` and everything else that writes
        to standard output goes to standard error, and reading standard input finds its
        end: neither can disturb the session.

        A process of :mod:`multiprocessing` that imports this script gets a session with
        nobody: handlers are registered, notifications go nowhere, ``serve_forever()`` returns.

        Raises:
            RuntimeError: a session has them already.
            OSError: they are closed.
        """
        self._check_open()
        self._check_type()
        from .transports.stdio import NobodysTransport, open_stdio

        transport = open_stdio()
        session = self._make(self._session_type, transport)
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
            popen_options: further options of ``Popen``.

        Raises:
            OSError: it can't be started (``FileNotFoundError``, ``PermissionError``, …).
            TypeError, ValueError: the command is empty, an option is not the caller's, or
                ``stderr`` means nothing, or is ``STDOUT``, where frames are.
            RuntimeError: this process was started by the very module whose import starts a
                child here: that would go on without end.
        """
        self._check_open()
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
        return self._create_process_session(transport)

    def create_process_session(self, process: subprocess.Popen[bytes]) -> ProcessSession:
        """Make a session of a child that was started with pipes as stdin and stdout.

        The session owns the child from now on: closing it ends the child.

        Args:
            process: with ``stdin=PIPE`` and ``stdout=PIPE`` and without text mode.

        Raises:
            TypeError: it is in text mode.
            ValueError: it lacks a pipe, or a session has it already.
        """
        self._check_open()
        from .transports.process import wrap_process

        return self._create_process_session(wrap_process(process))

    def create_stream_session(self, write: Any, read: Any, read2: Any = None) -> IpcSession:
        """Make a session of any two streams of bytes.

        The session owns them from now on, and closes them when it is closed.

        Args:
            write: where to write: a file object, a socket, a file descriptor, ….
            read: where to read from; may be the same as ``write``.
            read2: where else to read from, such as a child's standard error.

        Raises:
            TypeError, ValueError: a stream has the wrong mode, or is none.
        """
        self._check_open()
        self._check_type()
        from .transports.streams import open_streams

        return self._make(self._session_type, open_streams(write, read, read2))

    def create_session(self, transport: Transport) -> IpcSession:
        """Make a session of a transport of your own; see ``streamipc.Transport``."""
        self._check_open()
        for method in ("read_into", "write", "close_write", "close"):
            if not callable(getattr(transport, method, None)):
                raise TypeError(f"a transport needs the method {method}(): {transport!r} has none")
        self._check_type()
        return self._make(self._session_type, transport)

    def _create_process_session(self, transport: Any) -> ProcessSession:
        try:
            # Who has a child asks it something. Here the import takes no time of its own, for
            # the child is starting; and an interrupted import, such as Ctrl-C makes of one in
            # the first request, would keep CPython's lock on the module for this thread: all
            # other threads that ask would wait for ever.
            from . import futures  # noqa: F401

            return self._make(self._session_type.for_processes(), transport)
        except BaseException:
            transport.shutdown(0)
            raise

    def _make(self, session_type: type[S], transport: Transport) -> S:
        try:
            session = session_type(self, transport)
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
        track(session._engine)

    def _check_open(self) -> None:
        if self._closed:
            raise IpcError("the peer is closed: make a new IpcPeer")

    def forget(self, session: IpcSession) -> None:
        """Take a session that has ended off the list."""
        with self._lock:
            self._sessions.discard(session)

    def forget_after_fork(self) -> None:
        """Go on without the sessions, in a forked process: they are the parent's."""
        renew(self._lock)
        self._registries.forget_after_fork()
        self._sessions.clear()

    # All sessions.

    @property
    def sessions(self) -> list[IpcSession]:
        """The sessions that are alive, in no particular order."""
        with self._lock:
            sessions = list(self._sessions)
        return [session for session in sessions if not session.closed]

    def broadcast(self, message: Message) -> dict[IpcSession, Exception]:
        """Send a notification to all live sessions.

        A session that fails, or whose peer does not read, does not keep the message from
        the others. Blocks, as ``notify`` does, until it is out to all of them.

        Returns:
            The exceptions, by session; empty if all went well.
        """
        check_message(message, "broadcast")
        failures: dict[IpcSession, Exception] = {}
        steps: list[tuple[IpcSession, Callable[[], object]]] = []
        for session in self.sessions:
            try:
                if getattr(session.notify, "__func__", None) is IpcSession.notify:
                    session._engine.begin_to_notify(message)
                    steps.append((session, session._engine.finish_notifying))
                else:  # a session type of the user's own
                    steps.append((session, partial(session.notify, message)))
            except Exception as error:
                failures[session] = error
        for session, finish in steps:
            try:
                finish()
            except Exception as error:
                failures[session] = error
        return failures

    def close(self, timeout: float = 5) -> None:
        """Close all sessions; no more can be made.

        They are closed side by side, sessions without threads one after the other.

        Args:
            timeout: seconds for each, as in :meth:`IpcSession.close`.
        """
        timeout = checked_timeout(timeout)
        with self._lock:
            self._closed = True
            sessions = list(self._sessions)
        # One of them may be running this very code in a handler: its close() returns at
        # once, but only on this thread.
        here = []
        threads = []
        for session in sessions:
            if not session._threads or session._engine.crew.runs_here():
                here.append(session)
                continue
            thread = threading.Thread(
                target=session.close, args=(timeout,), name="streamipc-closing"
            )
            try:
                thread.start()
            except RuntimeError:  # can't start new thread: one after the other, then
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


def _tell_nobody(message: Message, *_: Any, **__: Any) -> None:
    check_message(message, "notify")


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least:,} to {most:,}, not {value:,}")
