"""The threads that stand by a child: its standard error is read, its death is seen.

With poll and pidfd (Linux 5.3) one thread sleeps in one ``poll()`` for both; nothing is
asked at intervals. Without pidfd (macOS) a second thread blocks in ``Popen.wait()``.
Without poll (Windows) one thread blocks in ``Popen.wait()`` and one reads standard error
until the last process that holds it open has ended; neither can be stopped before.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from itertools import chain, starmap
from typing import IO, TYPE_CHECKING

from .._events import Event
from .._forks import steady
from .._signals import Ignoring, consume, interrupt_in, let_through
from .._threads import make_thread, start_thread
from ._stderr import StderrSink
from .pipe import can_poll, release_after_fork

if TYPE_CHECKING:
    from ._exit import ExitStatus

__all__ = ["ChildWatcher", "wait_for_exit"]

_CHUNK = 1 << 16

_LAST = (-1,)
"""Which element a list's ``pop`` is to take."""

_LAST_LINES = 0.05
"""Seconds to read what a dead child left on standard error. It is there already; the
bound is for a grandchild that writes on."""


class _Duty:
    """What one thread is to do, once, however often a thread was started for it.

    Who was interrupted while he started a thread can't tell whether it runs. So he starts another
    one: the first to append itself to ``_takers`` does it, the other nothing.
    """

    def __init__(self, name: str, do: Callable[[], None]) -> None:
        self.name = name
        self._do = do
        self._takers: list[threading.Thread | None] = []

    def run(self) -> None:
        """Do it, on this thread, unless another one has."""
        me = threading.current_thread()
        self._takers.append(me)
        if self._takers[0] is me:
            self._do()

    def drop(self) -> None:
        """Have nobody do it, unless a thread has begun to."""
        self._takers.append(None)

    def is_taken(self) -> bool:
        """Tell whether a thread does it, or nobody is to."""
        return bool(self._takers)

    @property
    def thread(self) -> threading.Thread | None:
        """The thread that does it; ``None``: nobody does."""
        return self._takers[0] if self._takers else None


class ChildWatcher:
    """Watches one child on the thread ``streamipc-child-<pid>``.

    Standard error is read while the child lives, and what it left is read once it is
    dead. A grandchild that still holds it open is not waited for: nobody reads what it
    writes after that, and its writes fail once the watcher is closed.

    Args:
        process: the child.
        status: reaps it.
        stderr: our end of its standard error, which the watcher closes, or ``None``.
        sink: takes the bytes of standard error.
        read_ahead: bytes of it that were read already.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        status: ExitStatus,
        stderr: IO[bytes] | None,
        sink: StderrSink,
        read_ahead: bytes = b"",
    ) -> None:
        self.done = Event()  # the child is reaped and its last lines are kept
        self._process = process
        self._status = status
        self._stderr = stderr
        self._stderr_fd = -1 if stderr is None else stderr.fileno()
        self._sink = sink
        self._read_ahead = read_ahead
        self._on_exit: Callable[[], None] | None = None
        self._asked: Callable[[], None] | None = None
        self._duties: list[_Duty] = []  # the last one is to watch
        self.started = False
        """Whether :meth:`start` has come to its end."""
        self._lock = threading.RLock()  # guards the five below
        self._running = False
        self._close_stderr_at_end = False
        self._wake_fds: list[int] = []  # to poll, and to write to; may be the same
        self._pidfd: list[int] = []  # one, or none
        self._stopping = False
        self._exited = False

    def start(self, on_exit: Callable[[], None]) -> None:
        """Start to watch; ``on_exit`` is called once, on the watching thread.

        If what a signal's handler raises comes out, a second call goes on with it.

        Raises:
            RuntimeError: no thread can be started, or this is not the first callback.
            OSError: no file descriptor is left.
        """
        if self.started:
            if on_exit == self._asked:
                return  # whoever was interrupted behind it asks again
            raise RuntimeError("the child is being watched already")
        with self._lock:
            if self._stopping:
                return  # another thread has closed it meanwhile, and standard error with it
            self._running = True
        self._on_exit = self._asked = on_exit
        try:
            if not self._duties:
                self._prepare()
            for duty in self._duties:
                if not duty.is_taken():
                    start_thread(make_thread(duty.run, name=duty.name))
        except BaseException as error:
            if interrupt_in(error) is None:
                for duty in self._duties:
                    duty.drop()
                self._duties = []
                self._release()
                self._end_running()
            raise
        self.started = True

    def _prepare(self) -> None:
        """Make the descriptors that are needed, and say what threads are to do."""
        self._exited = self._status.look()
        name = f"streamipc-child-{self._process.pid}"
        if not can_poll():
            to_end = _Duty(f"{name}-stderr", self._read_to_end)
            self._duties = [to_end, _Duty(name, self._wait_without_poll)]
            return
        # Each note is made by the very call into C that opens what it is of: an interrupt can't
        # come in between.
        with steady:
            if not self._wake_fds:
                if hasattr(os, "eventfd"):
                    self._wake_fds.extend(
                        map(os.eventfd, (0,), (os.EFD_CLOEXEC | os.EFD_NONBLOCK,))
                    )
                else:
                    self._wake_fds.extend(chain.from_iterable(starmap(os.pipe, ((),))))
            if not self._exited and not self._pidfd:
                _open_pidfd(self._process.pid, self._pidfd)
        duties = [_Duty(name, self._run)]
        if not self._pidfd and not self._exited:
            duties.insert(0, _Duty(f"{name}-wait", self._wait))
        self._duties = duties

    def close(self, timeout: float = 1.0) -> None:
        """End the thread and close our end of standard error; does not end the child.

        ``on_exit`` is not called any more, unless it is being called.

        Args:
            timeout: seconds to wait for the thread; it may be in ``on_exit`` or in a
                callback. If that takes longer, the thread closes what it uses itself.
        """
        self._stopping = True
        self._wake()
        for duty in self._duties:
            duty.drop()
        if self._duties:
            watching = self._duties[-1].thread
            # A thread that waits for the child itself ends with the child.
            if watching not in (None, threading.current_thread()) and (can_poll() or self._exited):
                watching.join(timeout)
            # What has not begun will not: nobody else does what is done at its end.
            if can_poll() and watching is None:
                self._release()
            if self._duties[-1 if can_poll() else 0].thread is None:
                self._end_running()
        else:
            self._end_running()
        with self._lock:
            self._close_stderr_at_end = self._running
            running = self._running
        if not running:
            self._close_stderr()

    def close_after_fork(self) -> None:
        """Close the descriptors in a forked child; the thread does not exist there."""
        for fd in {*self._wake_fds, *self._pidfd}:
            release_after_fork(fd, owned=False)
        self._wake_fds.clear()
        self._pidfd.clear()
        self._lock = threading.RLock()  # the thread that held it may not exist here
        self._running = False
        self._duties.clear()
        self.started = False
        if self._stderr is not None and not self._stderr.closed:
            release_after_fork(self._stderr_fd, owned=True)

    def _run(self) -> None:
        try:
            stderr_open = self._watch()
            self._read_last_lines(stderr_open)
            if self._exited:
                self._report_exit()
        finally:
            self._release()
            self._end_running()

    def _watch(self) -> bool:
        """Sleep until the child is dead or :meth:`close` was called, reading meanwhile.

        Returns whether standard error is still open.
        """
        import select

        poller = select.poll()
        for fd in (self._wake_fds[0], *self._pidfd):
            poller.register(fd, select.POLLIN)
        stderr_open = self._stderr_fd >= 0
        if stderr_open:
            poller.register(self._stderr_fd, select.POLLIN)
            os.set_blocking(self._stderr_fd, False)
        self._sink.feed(self._read_ahead)
        forwarding = False
        while not self._stopping and not self._exited:
            if self._sink.wants_to_write is not forwarding:
                forwarding = not forwarding
                if forwarding:
                    poller.register(2, select.POLLOUT)
                else:
                    poller.unregister(2)
            ready = {fd for fd, _ in poller.poll()}
            if forwarding and 2 in ready:
                self._sink.write_waiting()
            if stderr_open and self._stderr_fd in ready and self._read_stderr() == 0:
                stderr_open = False
                poller.unregister(self._stderr_fd)
            if not ready.isdisjoint(self._pidfd):
                self._exited = True
        return stderr_open

    def _read_last_lines(self, stderr_open: bool) -> None:
        deadline = time.monotonic() + _LAST_LINES
        while stderr_open and (self._read_stderr() or 0) > 0 and time.monotonic() < deadline:
            pass
        self._sink.finish()

    def _read_stderr(self) -> int | None:
        """Take what is there; returns how many bytes, 0 at the end, None if none yet."""
        try:
            data = os.read(self._stderr_fd, _CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return 0
        self._sink.feed(data)
        return len(data)

    def _report_exit(self) -> None:
        # The child is dead: this returns at once, also while a wait() of the user's
        # holds the lock of the Popen object.
        self._status.reap()
        self.done.set()
        on_exit, self._on_exit = self._on_exit, None
        if on_exit is not None and not self._stopping:
            on_exit()

    def _wait(self) -> None:
        self._status.wait()
        self._exited = True
        self._wake()

    def _wait_without_poll(self) -> None:
        self._status.wait()
        self._exited = True
        reading = self._duties[0].thread
        if reading is not None:
            reading.join(_LAST_LINES)
        self._report_exit()

    def _read_to_end(self) -> None:
        try:
            self._sink.feed(self._read_ahead)
            while self._stderr_fd >= 0 and self._read_stderr():
                pass
            self._sink.finish()
        finally:
            self._end_running()

    def _end_running(self) -> None:
        with self._lock:
            self._running = False
            close = self._close_stderr_at_end
        if close:
            self._close_stderr()

    def _wake(self) -> None:
        with self._lock:  # so that the number can't be another file by now
            if self._wake_fds:
                with Ignoring(OSError):
                    os.write(self._wake_fds[-1], b"\1\0\0\0\0\0\0\0")

    def _release(self) -> None:
        with steady, self._lock:
            for fds in (self._wake_fds, self._pidfd):
                while fds:
                    # Taken off by the very call that closes it: an interrupt neither has it left
                    # open nor closed twice.
                    consume(map(os.close, map(fds.pop, _LAST)))

    def _close_stderr(self) -> None:
        if self._stderr is not None:
            with steady, Ignoring(OSError):
                self._stderr.close()


def wait_for_exit(process: subprocess.Popen[bytes], status: ExitStatus, timeout: float) -> bool:
    """Wait for the child's end and reap it, without asking at intervals where possible.

    Args:
        process: the child.
        status: reaps it.
        timeout: seconds.

    Returns:
        Whether it has ended.
    """
    if status.look():
        return True
    pidfd: list[int] = []
    try:
        if can_poll():
            _open_pidfd(process.pid, pidfd)
        if not pidfd:
            return _look_until(status, time.monotonic() + timeout)
        import select

        poller = select.poll()
        poller.register(pidfd[0], select.POLLIN)
        if not poller.poll(max(0.0, timeout) * 1000):
            return False
    finally:
        try:
            consume(map(os.close, map(pidfd.pop, _LAST)) if pidfd else ())
        finally:  # an interrupt may have come behind map()
            consume(map(os.close, pidfd))
    status.reap()
    return True


def _look_until(status: ExitStatus, end: float) -> bool:
    """Look at intervals that grow to 50 ms, as ``Popen.wait(timeout)`` does."""
    pause = 0.0005
    while not status.look():
        left = end - time.monotonic()
        if left <= 0:
            return False
        pause = min(pause * 2, left, 0.05)
        time.sleep(pause)
    return True


def _open_pidfd(pid: int, into: list[int]) -> None:
    """Add a descriptor that is readable once the process has ended, if one can be had."""
    try:
        into.extend(map(os.pidfd_open, (pid,)))
    except (AttributeError, OSError) as error:
        let_through(error)
        # no Linux, an old kernel, a sandbox; no descriptor left; reaped already
