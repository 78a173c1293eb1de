"""This process's own standard input and output as a transport."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from .._environment import ANSWERS_CANCELLED
from .._forks import steady
from .._signals import Ignoring, let_through
from ._standard import LineByLine, check_open, flush_output, take_read_ahead
from ._terminal import Keys, is_by_hand, is_in_foreground, say_what_this_is
from .pipe import FdTransport, is_broken, make_raw

if TYPE_CHECKING:
    from .base import Transport

__all__ = ["NobodysTransport", "StdioTransport", "TerminalTransport", "open_stdio"]

_lock = threading.RLock()  # guards _taken, and fds 0 and 1 while they are exchanged
_taken = ""  # why there can be no session now

_IN_USE = (
    "standard input and output already belong to a session of this process; "
    "use that session, or close it first"
)
_OVER = (
    "standard input and output belonged to a session of this process that is over; "
    "a process has one, unless it closes it while its peer is there"
)


def open_stdio() -> Transport:
    """Take standard input and output for a session; closing it puts them back.

    Meanwhile fd 0 reads the null device and fd 1 writes to standard error, line by line, so
    that ``print()``, C libraries and child processes can't damage the stream or take bytes
    from it. What ``sys.stdin`` and its buffer have read ahead belongs to the session.

    A terminal is put into raw mode. The one that this process was started from waits for that
    until the session starts, and its keys still work until a frame arrives.

    On Windows reads and writes block: see :class:`FdTransport`.

    In a process of :mod:`multiprocessing` that imports its parent's script, it is a
    :class:`NobodysTransport` instead: the standard input and output of that process are not
    those that the script is written for.

    Raises:
        RuntimeError: they already belong to a session, or belonged to one whose peer is gone.
        OSError: one of them is closed.
    """
    if _is_import_of_multiprocessing():
        return NobodysTransport()
    return TerminalTransport() if is_by_hand(0) else StdioTransport()


class NobodysTransport(FdTransport):
    """Has nobody on the other side: the stream has ended, and what is written is dropped.

    A script that serves without a ``__main__`` guard is run by each process that a pool of
    ``multiprocessing`` starts with spawn or forkserver. It comes by the session, past it, and
    does what it was started for. An error would end it, and the pool would start the next one.
    """

    goes_with_peer = True
    has_nobody = True
    """There is nothing to serve."""

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
        self.answers_cancelled = os.environ.get(ANSWERS_CANCELLED) == "1"
        with steady, _lock:
            if _taken:
                raise RuntimeError(_taken)
            check_open(0, sys.stdin, sys.__stdin__, "standard input")
            check_open(1, sys.stdout, sys.__stdout__, "standard output")
            flush_output()
            self._lines = LineByLine()
            self._stays_redirected = False
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
                self._lines.begin()
                data = take_read_ahead()
                if data:
                    self.prefix = {0: data}
            except BaseException:
                self._lines.end()
                self._put_back()
                super().close()
                raise
            _taken = _IN_USE

    def _take_terminal(self, fd: int) -> None:
        # One that we do not read: it shows frames, but Ctrl-C must work, and raw it would not.
        if not is_by_hand(fd):
            super()._take_terminal(fd)

    def session_starts(self) -> None:
        """See to what the program has put in place of ``sys.stdout`` since."""
        with steady, _lock:
            if self._copies is not None:
                self._lines.begin()

    def close_write(self) -> None:
        """Do nothing: standard output stays open, because :meth:`close` puts it back.

        The peer sees the end of the stream when this process ends.
        """

    def stay_redirected(self) -> None:
        """Have :meth:`close` put back nothing that leads to the peer.

        The peer is gone, or has not agreed to the end: what the program prints last is not
        for it, and must not fail for want of a reader. Takes no lock: signal handlers call this.
        """
        self._stays_redirected = True
        copies = self._copies
        if copies is not None and self._leads_to_peer(copies[1]):
            self._spare_output()  # now: some are told of the end before the session is closed

    def close(self) -> None:
        """Put standard input and output back and close the private copies."""
        global _taken
        with steady, _lock:
            if self._copies is not None:
                # What was printed meanwhile was meant for standard error.
                flush_output()
                if self._leads_to_peer(self._copies[1]):
                    self._leave_redirected(self._copies[1])
                    _taken = _OVER
                else:
                    self._lines.end()
                    self._put_back()
                    _taken = ""
        super().close()

    def _leads_to_peer(self, fd: int) -> bool:
        """Tell whether what is printed must not go there any more."""
        try:
            mode = os.fstat(fd).st_mode
        except OSError as error:
            let_through(error)
            return False  # somebody has closed it
        stream = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        return (self._stays_redirected and stream) or self._is_broken(fd)

    def _leave_redirected(self, stream: int) -> None:
        self._copies = None
        self._spare_output()
        if not self._is_broken(stream):
            # As long as this process lives: the peer takes the end of the stream for its end.
            self._open_fds.pop(stream, None)

    def _spare_output(self) -> None:
        """Have what is printed go nowhere if standard error had the same reader."""
        if self._is_broken(2):
            _point_to_null(1)

    def _is_broken(self, fd: int) -> bool:
        """Tell whether writing there fails because the reader is gone."""
        return self.pollable and is_broken(fd)

    def _put_back(self) -> None:
        for number, copy in enumerate(self._copies or ()):
            with Ignoring(OSError):
                os.dup2(copy, number)
        self._copies = None

    def close_after_fork(self) -> None:
        """Close the private copies; the forked process keeps fds 0 and 1 as they are."""
        global _lock
        _lock = threading.RLock()  # the thread that held it may not exist here
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


class TerminalTransport(StdioTransport):
    """Standard input is the terminal that this process was started from.

    Says so. The terminal is left as it is until the session starts, and its keys work until a
    frame arrives.
    """

    def __init__(self) -> None:
        super().__init__()
        self._keys: Keys | None = None
        self._cook: Callable[[], object]
        say_what_this_is()

    def session_starts(self) -> None:
        """Put the terminal into raw mode."""
        super().session_starts()
        with steady, self._lock:
            fd = self.read_fds[0]
            if fd in self._open_fds and is_in_foreground(fd):
                self._keys = Keys(fd)
                self._cook = make_raw(fd)
                self._restores.append(self._cook)

    def read_into(self, buffer: memoryview, source: int = 0) -> int:
        """Read; do what keys stand for that are pressed before the first frame."""
        count = super().read_into(buffer, source)
        if self._keys is None:
            return count
        key = self._keys.pressed(bytes(buffer[:count]))
        if key is None:
            return count
        self._keys = None
        if key < 0:
            return count
        self._cook()  # it is typed by hand, and the terminal's own keys work from now on
        if key:
            os.killpg(os.getpgrp(), key)
            # What was typed is nobody's message. (To hand it out would run code made of a text, as
            # that of a dataclass is; then CPython forgets that it was Ctrl-C that ended it.)
            self.read_logs[source].clear()
            raise BlockingIOError
        self.read_logs[source][:] = [0]
        return 0


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


def _point_to_null(fd: int) -> None:
    try:
        null = os.open(os.devnull, os.O_RDWR)
    except OSError as error:
        let_through(error)
        return  # no descriptor is left
    try:
        os.dup2(null, fd)
    finally:
        os.close(null)
