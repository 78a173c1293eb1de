"""File descriptors as a transport: pipes, sockets, terminals.

The engine knows this class: a transport that shows its descriptors can be polled, so a
caller may read for itself, no thread is stuck in a read at the end, and a write never
blocks longer than its deadline. Before any other transport stands one of these (``pump.py``).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import repeat, starmap
from operator import itemgetter
from typing import Any, Protocol

from .._forks import forgets, steady
from .._signals import Ignoring, consume, let_through
from ._sigpipe import SIGPIPE, SigpipeHeldBack, disposition_of

__all__ = ["Closable", "FdTransport", "can_poll", "is_broken", "make_raw", "release_after_fork"]

_IOV_MAX = 64
"""Buffers handed to one writev(2); Linux allows 1,024, POSIX guarantees 16."""

_PIPE_SIZE = 1 << 20
"""Bytes. What F_SETPIPE_SZ is asked for: the default of /proc/sys/fs/pipe-max-size, and
the size from which on larger pipes no longer raised throughput where it was measured."""

_MOST_AT_ONCE = 1 << 17
"""Bytes. A read holds the pipe's lock, so while one empties a whole large pipe the other
side can't fill it; in pieces of this size the two copy at the same time."""

_TERMINAL_STEP = 256
"""Bytes. What a terminal takes without blocking once poll(2) says that it is writable:
the kernel keeps room in units of 256 (``tty_buffer_space_avail``)."""

_CLOSED = (1 << 31) - 1
"""Stands for a descriptor that was closed. None has this number, and unlike -1 every
system call takes it, poll too, and says that it is not open: a thread that comes late
gets an OSError, never somebody else's file."""

_first = itemgetter(0)


def is_broken(fd: int) -> bool:
    """Tell whether nobody can read any more what is written there."""
    import select

    poll = select.poll()
    poll.register(fd, 0)  # POLLERR and POLLHUP are always reported (poll(2))
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


_END_OF_STREAM = (errno.EIO, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)
"""A terminal whose other side closed gives EIO where a pipe gives 0 (Linux pty(7))."""


class Closable(Protocol):
    """An object that owns a descriptor and closes it."""

    def close(self) -> object:
        """Close the descriptor."""
        ...


class FdTransport:
    """One or two descriptors to read from and one to write to; it owns them all.

    On Windows, and where ``select.poll`` is missing, :attr:`pollable` is false for other
    descriptors than sockets: reading and writing block, and ``close()`` does not end a
    read that blocks. They are used through a pump, then (``pump.py``).

    Args:
        read_fd: the descriptor frames come from.
        write_fd: the descriptor frames go to; may be the same as ``read_fd`` (a socket,
            a terminal).
        read2_fd: a second descriptor to read from, or ``None``.
        nonblocking: set ``O_NONBLOCK`` on ``write_fd`` until it is closed, so that a
            write can respect a deadline. Only a pipe or a socket gets it. The flag is
            shared by every process that has this descriptor: leave it off for one that
            others write to. Writes are then cut to ``PIPE_BUF``.
        owners: objects that close a descriptor, such as the file object that it came
            from; a descriptor without one is closed by its number.
        prefix: bytes that were read ahead from ``read_fds[source]``, by source.
        on_close: called once, after the descriptors were closed.

    Attributes:
        read_fds: the descriptors to read from; numbers that are not open once closed.
        write_fd: the descriptor to write to; a number that is not open once closed.
        pollable: whether one can wait for these descriptors, by ``poll`` or ``select``.
        written: the result of the last ``write_some``, also where an interrupt kept that
            from returning it; empty: nothing went out.
        arrived: for each source, the result of the last ``read_into``, likewise.
        prefix: bytes that ``read_into`` delivers before it reads ``read_fds[source]``.
            No poll reports them: read every source named here once before the first.
    """

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        read2_fd: int | None = None,
        *,
        nonblocking: bool = True,
        owners: Mapping[int, Sequence[Closable]] | None = None,
        prefix: Mapping[int, bytes] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.read_fds: tuple[int, ...] = (read_fd,) if read2_fd is None else (read_fd, read2_fd)
        self.write_fd = write_fd
        self.prefix = {source: data for source, data in (prefix or {}).items() if data}
        self._owners = dict(owners or {})
        self._on_close = on_close
        self._lock = threading.RLock()  # guards _open_fds
        self._write_end = write_fd
        # Those that are open, each under its number, so that pop() gives it to what closes it.
        self._open_fds = {fd: fd for fd in (*self.read_fds, write_fd)}
        self._restores: list[Callable[[], object]] = []
        modes = {fd: os.fstat(fd).st_mode for fd in self._open_fds}
        self._sockets = {fd for fd, mode in modes.items() if stat.S_ISSOCK(mode)}
        self._socket = _socket_module() if self._sockets else None
        self.pollable = can_poll() or self._sockets == set(self._open_fds)
        for fd, mode in modes.items():
            if stat.S_ISCHR(mode) and os.isatty(fd):
                self._take_terminal(fd)
            elif stat.S_ISFIFO(mode):
                _grow_pipe(fd)
        self.write_log: list[int] = []
        self.read_logs: tuple[list[int], ...] = tuple([] for _ in self.read_fds)
        self._buffers: tuple[list[Any], ...] = tuple([None] for _ in self.read_fds)
        self._to_write: list[Any] = [None]
        self._many_to_write: list[Any] = [()]
        self._prepare_calls()
        self._most = 0  # bytes in one write; 0: any number
        if self.pollable:
            self._set_up_writing(modes[write_fd], nonblocking)
        forgets(self, "close_after_fork")

    def _prepare_calls(self) -> None:
        """Make what reads and writes: each ``next()`` is one call, whose result it also keeps.

        So an interrupt that comes as the call returns finds in ``arrived`` and ``written`` what it
        has done. All of it runs in C.
        """
        self._reads = tuple(
            map(log.append, map(_read_fd, repeat(fd), repeat(buffers)))
            for log, fd, buffers in zip(self.read_logs, self.read_fds, self._buffers, strict=True)
        )
        fd, log = repeat(self.write_fd), self.write_log.append
        self._writes = map(log, map(os.write, fd, map(_first, repeat(self._to_write))))
        self._writes_many = map(log, map(_write_fd, fd, map(_first, repeat(self._many_to_write))))

    def _take_terminal(self, fd: int) -> None:
        self._restores.append(make_raw(fd))

    def _set_up_writing(self, mode: int, nonblocking: bool) -> None:
        if not os.get_blocking(self.write_fd):
            return
        if nonblocking and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            fd = self.write_fd
            os.set_blocking(fd, False)
            self._restores.append(lambda: os.set_blocking(fd, True))
            return
        import select

        self._most = _TERMINAL_STEP if os.isatty(self.write_fd) else select.PIPE_BUF

    def read_into(self, buffer: memoryview, source: int = 0) -> int:
        """Read from ``read_fds[source]``; see :meth:`Transport.read_into`.

        Raises:
            BlockingIOError: nothing is there, and the descriptor does not block.
        """
        log = self.read_logs[source]
        log.clear()
        if source in self.prefix:
            return self._read_prefix(buffer, source)
        if len(buffer) > _MOST_AT_ONCE:
            buffer = buffer[:_MOST_AT_ONCE]
        slot = self._buffers[source]
        slot[0] = buffer
        try:
            next(self._reads[source])
        except OSError as error:
            if log or error.errno not in _END_OF_STREAM:
                raise
            log.append(0)
        slot[0] = None
        return log[0]

    def _read_prefix(self, buffer: memoryview, source: int) -> int:
        data = self.prefix[source]
        count = min(len(data), len(buffer))
        buffer[:count] = data[:count]
        rest = {**self.prefix, source: data[count:]}
        if count == len(data):
            del rest[source]
        self.prefix = rest
        self.read_logs[source].append(count)
        return count

    def write_some(self, buffers: Sequence[memoryview], _held: bool = False) -> int:
        """Write what the descriptor takes now; return how many bytes, 0 if none.

        Raises:
            OSError: the other side is gone.
        """
        if not disposition_of(SIGPIPE) and not _held:
            with SigpipeHeldBack():
                return self.write_some(buffers, True)
        done = self.write_log
        done.clear()
        try:
            if self._most:
                return self._write_step(buffers[0])
            if len(buffers) == 1:
                self._to_write[0] = buffers[0]
                next(self._writes)
            else:
                self._many_to_write[0] = buffers[:_IOV_MAX]
                next(self._writes_many)
        except BlockingIOError:
            return 0
        finally:  # or we would keep what is large
            self._to_write[0] = None
            self._many_to_write[0] = ()
        return done[0]

    def _write_step(self, data: memoryview) -> int:
        """Write to a descriptor that blocks as much as it takes without blocking."""
        if not _wait_writable(self.write_fd, 0):
            return 0
        self.write_log.extend(map(os.write, (self.write_fd,), (data[: self._most],)))
        return self.write_log[0]

    def write(self, data: memoryview) -> int:
        """Block until some bytes are written; see :meth:`Transport.write`."""
        while True:
            count = self.write_some((data,))
            if count or not len(data):
                return count
            _wait_writable(self.write_fd, None)

    def close_write(self) -> None:
        """Close ``write_fd``, or shut down that direction of a socket."""
        with steady, self._lock:
            fd = self._write_end
            if fd not in self._open_fds:
                return
            if fd in self._sockets:
                self._shut_down(fd, both=False)
            if fd in self.read_fds:
                return
            self.write_fd = _CLOSED
            self._prepare_calls()
            self._restore_settings()
            self._close_fd(fd)

    def close(self) -> None:
        """Close all descriptors."""
        with steady, self._lock:
            # Other objects may share a socket (its makefile(), a forked process): only
            # shutting it down tells the peer that this session is over.
            for fd in self._open_fds.keys() & self._sockets:
                self._shut_down(fd, both=True)
            self._restore_settings()
            self._forget_fds()
            for fd in tuple(self._open_fds):
                self._close_fd(fd)
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def _shut_down(self, fd: int, *, both: bool) -> None:
        socket: Any = self._socket
        make = partial(socket.SocketType, fileno=fd)
        ends: list[Any] = []
        try:
            # Kept by the call that makes it: one that an interrupt had us lose would close the
            # descriptor.
            ends.extend(starmap(make, ((),)))
            ends[0].shutdown(socket.SHUT_RDWR if both else socket.SHUT_WR)
        except OSError as error:
            let_through(error)  # the peer is gone already: there is nothing to tell it
        finally:
            if ends:
                ends[0].detach()

    def close_after_fork(self) -> None:
        """Close the copies that a forked child inherited; touches nothing else.

        The lock is replaced: the thread that held it may not exist here. Settings stay as
        they are: the parent shares them and goes on.
        """
        self._lock = threading.RLock()
        fds, self._open_fds = self._open_fds, {}
        self._forget_fds()
        self._on_close = None
        self._restores.clear()
        for fd in fds:
            release_after_fork(fd, owned=bool(self._owners.get(fd)))

    def _forget_fds(self) -> None:
        """Have nothing read or written any more: the numbers may become those of other files."""
        self.read_fds = (_CLOSED,) * len(self.read_fds)
        self.write_fd = _CLOSED
        self._prepare_calls()

    def _restore_settings(self) -> None:
        """Give back blocking mode and terminal settings to others who have these files."""
        while self._restores:
            with Ignoring(OSError):
                self._restores[-1]()
            self._restores.pop()

    def _close_fd(self, fd: int) -> None:
        """Close a descriptor; once more, if that was interrupted."""
        owners = self._owners.get(fd)
        if not owners:
            with Ignoring(OSError):
                # Taken off by the very call that closes it: nothing comes in between.
                consume(map(os.close, map(self._open_fds.pop, (fd,))))
            return
        for owner in owners:
            with Ignoring(OSError), SigpipeHeldBack():  # it may hold bytes that others wrote to it
                owner.close()
        self._open_fds.pop(fd, None)
        self._owners.pop(fd, None)


def release_after_fork(fd: int, *, owned: bool) -> None:
    """Let go of a descriptor in a forked child.

    Args:
        fd: the descriptor.
        owned: an object here will close this number some day, and its own lock may be
            held for ever. The number must stay taken until then, or that object would
            close somebody else's file: the null device takes the place.
    """
    if owned:
        try:
            null = os.open(os.devnull, os.O_RDWR)
        except OSError:
            pass  # no descriptor left; closing is better than holding the pipe open
        else:
            os.dup2(null, fd, inheritable=False)
            os.close(null)
            return
    try:
        os.close(fd)
    except OSError:
        pass


def can_poll() -> bool:
    """Whether this platform can wait for several pipes at once; if not, then for sockets."""
    import select

    # Windows has no poll at all, and its select takes sockets only.
    return os.name == "posix" and hasattr(select, "poll")


def _wait_writable(fd: int, timeout: float | None) -> bool:
    """Wait until ``fd`` takes bytes or is broken; ``timeout`` in milliseconds."""
    import select

    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(timeout))


if hasattr(os, "readv"):
    _read_fd: Any = os.readv
    _write_fd: Any = os.writev
else:  # pragma: no cover - Windows

    def _read_windows(fd: int, buffers: Sequence[memoryview]) -> int:
        buffer = buffers[0]
        data = os.read(fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _write_windows(fd: int, buffers: Sequence[memoryview]) -> int:
        return os.write(fd, buffers[0])

    _read_fd, _write_fd = _read_windows, _write_windows


def _socket_module() -> Any:
    """Import what closing needs now: then there may be no descriptor to do it with."""
    import socket

    return socket


def make_raw(fd: int) -> Callable[[], object]:
    """Have the terminal pass all bytes unchanged; return what undoes it."""
    try:
        import termios
        import tty
    except ImportError:  # pragma: no cover - Windows
        return lambda: None
    before: list[Any] = termios.tcgetattr(fd)
    # TCSANOW: the default, TCSAFLUSH, throws away what has already arrived.
    tty.setraw(fd, termios.TCSANOW)

    def restore() -> None:
        try:
            termios.tcsetattr(fd, termios.TCSANOW, before)
        except termios.error:
            pass  # the other side is gone

    return restore


def _grow_pipe(fd: int) -> None:
    """Ask for a larger pipe; a descriptor that is none, or a limit, is fine too."""
    try:
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    except (ImportError, AttributeError, OSError) as error:
        let_through(error)
