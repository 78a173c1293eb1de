"""This process's own standard input and output as a transport."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading

from .._forks import steady
from ._sigpipe import SigpipeHeldBack
from .pipe import FdTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from .base import Transport

__all__ = ["NobodysTransport", "StdioTransport", "open_stdio"]

_lock = threading.Lock()  # guards _taken, and fds 0 and 1 while they are exchanged
_taken = False


def open_stdio() -> Transport:
    """Take standard input and output for a session; closing it puts them back.

    Meanwhile fd 0 reads the null device and fd 1 writes to standard error, so that
    ``print()``, C libraries and child processes can't damage the stream or take bytes
    from it. What ``sys.stdin.buffer`` has read ahead belongs to the session; what was
    read ahead through ``sys.stdin`` itself, as text, is lost to it.

    On Windows reads and writes block: see :class:`FdTransport`.

    In a process of :mod:`multiprocessing` that imports its parent's script, it is a
    :class:`NobodysTransport` instead: the standard input and output of that process are not
    those that the script is written for.

    Raises:
        RuntimeError: they already belong to a session.
        OSError: one of them is closed.
    """
    if _is_import_of_multiprocessing():
        return NobodysTransport()
    return StdioTransport()


class NobodysTransport(FdTransport):
    """Has nobody on the other side: the stream has ended, and what is written is dropped.

    A script that serves without a ``__main__`` guard is run by each process that a pool of
    ``multiprocessing`` starts with spawn or forkserver. It comes by the session, past it, and
    does what it was started for. An error would end it, and the pool would start the next one.
    """

    goes_with_peer = True

    def __init__(self) -> None:
        with steady:
            read_fd = os.open(os.devnull, os.O_RDONLY)
            try:
                super().__init__(read_fd, os.open(os.devnull, os.O_WRONLY))
            except BaseException:
                os.close(read_fd)
                raise


class StdioTransport(FdTransport):
    """See :func:`open_stdio`."""

    goes_with_peer = True
    """This process is there for the one that started it, and ends with that."""

    def __init__(self) -> None:
        global _taken
        with steady, _lock:
            if _taken:
                raise RuntimeError(
                    "standard input and output already belong to a session of this process; "
                    "use that session, or close it first"
                )
            _check_open(0, sys.__stdin__, "standard input")
            _check_open(1, sys.__stdout__, "standard output")
            _flush_output()
            copies: list[int] = []
            try:
                copies.append(_copy_above_stderr(0))
                copies.append(_copy_above_stderr(1))
                super().__init__(copies[0], copies[1])
            except BaseException:
                for fd in copies:
                    os.close(fd)
                raise
            # Shut down, a socket would be of no use to those who get it back.
            self._sockets.clear()
            self._copies: tuple[int, int] | None = (copies[0], copies[1])
            try:
                _redirect()
                self._take_read_ahead()
            except BaseException:
                self._put_back()
                super().close()
                raise
            _taken = True

    def _take_read_ahead(self) -> None:
        """Keep what ``sys.stdin.buffer`` has read; fd 0 is the null device by now.

        So an empty buffer gives nothing, and takes nothing from the pipe: what is not
        read from there when the session ends is still there afterwards.
        """
        buffer = getattr(sys.__stdin__, "buffer", None)
        if isinstance(buffer, io.BufferedReader):
            data = buffer.read(len(buffer.peek()))
            if data:
                self.prefix = {0: data}

    def close_write(self) -> None:
        """Do nothing: standard output stays open, because :meth:`close` puts it back.

        The peer sees the end of the stream when this process ends.
        """

    def close(self) -> None:
        """Put standard input and output back and close the private copies."""
        global _taken
        with steady, _lock:
            if self._copies is not None:
                # What was printed meanwhile was meant for standard error.
                _flush_output()
                self._put_back()
                _taken = False
        super().close()

    def _put_back(self) -> None:
        copies, self._copies = self._copies, None
        for number, copy in enumerate(copies or ()):
            try:
                os.dup2(copy, number)
            except OSError:
                pass

    def close_after_fork(self) -> None:
        """Close the private copies; the forked process keeps fds 0 and 1 as they are."""
        global _lock
        _lock = threading.Lock()  # the thread that held it may not exist here
        self._copies = None
        super().close_after_fork()


def _is_import_of_multiprocessing() -> bool:
    """Tell whether this process is multiprocessing's, and what calls us is an import in it."""
    process: Any = sys.modules.get("multiprocessing.process")
    if process is None:
        return False
    # The latter holds while spawn prepares the process: it imports the parent's script then.
    inheriting = getattr(process.current_process(), "_inheriting", False)
    if process.parent_process() is None and not inheriting:
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__":
            return True
        frame = frame.f_back
    return False


def _check_open(fd: int, file: Any, name: str) -> None:
    # None: it was closed when Python started, and its number may be another file by now.
    closed = file is None or file.closed
    if not closed:
        try:
            os.fstat(fd)
        except OSError:
            closed = True
    if closed:
        raise OSError(
            errno.EBADF, f"{name} (fd {fd}) is closed; start this process with a pipe there"
        )


def _flush_output() -> None:
    for file in {id(file): file for file in (sys.stdout, sys.__stdout__)}.values():
        # Not an io object, closed, or the reader is gone: nothing to do about it here.
        try:
            with SigpipeHeldBack():
                file.flush()  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):
            pass


def _copy_above_stderr(fd: int) -> int:
    """Duplicate ``fd``, not inheritable, to a number that is not 0, 1 or 2.

    A standard descriptor that is closed would be filled by the copy, and everyone who
    writes to standard error would write into the stream.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        return os.dup(fd)
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _redirect() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(null, 0)
        # sys.__stderr__ is None: fd 2 was closed at the start, and may be any file. Was it
        # closed since then, the null device has its number: the lowest that is free.
        os.dup2(null if sys.__stderr__ is None else 2, 1)
    finally:
        os.close(null)
