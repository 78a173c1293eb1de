"""Where the writer's bytes go: a transport, as the writer sees it."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from .._forks import renew
from .._signals import let_through
from ..handlers import current
from .poller import POLLIN, POLLOUT, Wakeup, make_poller, milliseconds
from .pool_thread import current_pool_thread

if TYPE_CHECKING:
    from ..serializers.base import Buffer

__all__ = ["Channel"]

_LOOK = 0.05
"""Seconds after which one who can't be woken looks around."""


class _Waits:
    """Counts the handlers that wait to write; entered by each of them while it waits.

    The peer may be waiting to write as well. So a handler that waits must not keep us from
    reading: neither one that sends, nor a thread that sends what one has returned.
    """

    def __init__(self, on_wait: Callable[[], None]) -> None:
        self.lock = threading.RLock()  # guards handlers
        self.handlers = 0
        self._on_wait = on_wait

    def __enter__(self) -> None:
        with self.lock:
            self.handlers += 1
        try:
            self._on_wait()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.handlers -= 1


class _NoHandler:
    """Entered by a thread that is no handler's."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


_NO_HANDLER = _NoHandler()


def _is_handlers() -> bool:
    """Tell whether the calling thread runs a handler, or sends what one has returned."""
    if current.get() is not None:
        return True
    thread = current_pool_thread()
    return thread is not None and thread.task is not None and thread.task.is_handler


class Channel:
    """The descriptor to write to, which is polled: a write never blocks by itself.

    Args:
        endpoint: with ``write_fd`` and ``write_some``.
        on_wait: called by a handler that is going to wait.
        waits: waits in our place, with :meth:`poll`, where the one who waits must also read.
    """

    def __init__(
        self,
        endpoint: Any,
        on_wait: Callable[[], None],
        waits: Callable[[float | None], bool] | None = None,
    ) -> None:
        self.write_some: Callable[[Sequence[Buffer]], int] = endpoint.write_some
        self.log: list[int] = endpoint.write_log  # what the last write took
        self._endpoint = endpoint
        self._lock = threading.RLock()  # guards _wakeup, _aborted and waiting
        self._wakeup: Wakeup | None = None  # most sessions never wait for room
        self._aborted = False
        self.waiting = 0  # threads that wait for room
        self._waits = _Waits(on_wait)
        self._waits_for_room = waits

    def wait_for_room(self, timeout: float | None) -> bool:
        """Wait until there is room; return ``False`` when the time was over first.

        Raises:
            OSError: the session has ended meanwhile.
        """
        with self._lock:
            self.waiting += 1
        try:
            with self.handler_waits():
                if self._waits_for_room is not None:
                    return self._waits_for_room(timeout)
                return self.poll(timeout)[0]
        finally:
            with self._lock:
                self.waiting -= 1

    @property
    def handlers_waiting(self) -> int:
        """How many handlers wait for room, or for their turn."""
        return self._waits.handlers

    def handler_waits(self) -> AbstractContextManager[None]:
        """Return what to enter while waiting; without threads everyone counts as a handler."""
        everyone = self._waits_for_room is not None
        return self._waits if everyone or _is_handlers() else _NO_HANDLER

    def poll(self, timeout: float | None, read_fd: int = -1) -> tuple[bool, bool]:
        """Wait for room, or input; return whether there is room, and whether input.

        Args:
            timeout: seconds.
            read_fd: where input comes from; -1: don't look.

        Raises:
            OSError: the session has ended meanwhile.
        """
        with self._lock:
            self._check_aborted()
            wakeup = self._wakeup_fd()
        # A new poll object each time: this is rare, and several threads may be here.
        poll = make_poller()
        write_fd = self._endpoint.write_fd
        poll.register(write_fd, POLLOUT)
        if wakeup >= 0:
            poll.register(wakeup, POLLIN)
        if read_fd == write_fd:  # a socket
            poll.register(read_fd, POLLIN | POLLOUT)
        elif read_fd >= 0:
            poll.register(read_fd, POLLIN)
        found = dict(poll.poll(milliseconds(timeout)) if wakeup >= 0 else self._look(poll, timeout))
        self._check_aborted()
        room = found.get(write_fd, 0) & ~POLLIN
        return bool(room), bool(found.get(read_fd, 0) & ~POLLOUT)

    def _wakeup_fd(self) -> int:
        """Return, with the lock held, what :meth:`abort` makes readable; -1: none is to be had."""
        if self._wakeup is None:
            try:
                self._wakeup = Wakeup()
            except OSError as error:  # EMFILE: no reason to end a session that has all it needs
                let_through(error)
                return -1
        return self._wakeup.fileno()

    def _look(self, poll: Any, timeout: float | None) -> list[tuple[int, int]]:
        """Poll, and look now and then whether the session has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LOOK if end is None else max(0.0, min(_LOOK, end - time.monotonic()))
            found: list[tuple[int, int]] = poll.poll(milliseconds(left))
            if found or left < _LOOK or self._aborted:
                return found

    def _check_aborted(self) -> None:
        if self._aborted:
            raise OSError(errno.EPIPE, "the session has ended")

    def abort(self) -> None:
        """Have everyone who waits for room give up."""
        with self._lock:
            self._aborted = True
            if self._wakeup is not None:
                self._wakeup.set()

    def close(self) -> None:
        """Release the descriptor; nobody waits any more."""
        if self._wakeup is not None:
            self._wakeup.close()

    def close_after_fork(self) -> None:
        """As :meth:`close`, in a forked child."""
        renew(self._lock)
        renew(self._waits.lock)
        if self._wakeup is not None:
            self._wakeup.close_after_fork()
