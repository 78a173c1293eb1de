"""Where the writer's bytes go: a transport, as the writer sees it."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from .._forks import renew
from ..handlers import current
from .polling import Wakeup, milliseconds
from .staff import working_member

if TYPE_CHECKING:
    from ..serializers.base import Buffer
    from ..transports.base import Transport

__all__ = ["BlockingOutlet", "Outlet", "PolledOutlet"]

_LOOK = 0.05
"""Seconds after which one who can't be woken looks around."""


class Outlet(Protocol):
    """What the writer asks of each of them."""

    @property
    def blocks(self) -> bool:
        """Whether :meth:`write_some` may block, for want of a better way."""
        ...

    def write_some(self, buffers: Sequence[Buffer], /) -> int:
        """Write without blocking; return how many bytes went out, 0 if there is no room."""
        ...

    def wait_for_room(self, timeout: float | None, /) -> bool:
        """Wait until there is room; return ``False`` when the time was over first."""
        ...

    def handler_waits(self) -> AbstractContextManager[None]:
        """Return what to enter while waiting to write: reading goes on for a handler's sake."""
        ...

    def written(self) -> int | None:
        """Return how many bytes a write that was interrupted has written, if known."""
        ...

    def forget_written(self) -> object:
        """What :meth:`written` would return is counted: return 0 until the next write."""
        ...


class _Waits:
    """Counts the handlers that wait to write; entered by each of them while it waits.

    The peer may be waiting to write as well. So a handler that waits must not keep us from
    reading: neither one that sends, nor a thread that sends what one has returned.
    """

    def __init__(self, on_wait: Callable[[], None]) -> None:
        self.lock = threading.Lock()  # guards handlers
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
    member = working_member()
    return member is not None and member.job is not None and member.job.is_handler


class PolledOutlet:
    """A transport whose descriptor can be polled: a write never blocks by itself.

    Args:
        transport: with ``write_fd`` and ``write_some``.
        on_wait: called by a handler that is going to wait.
    """

    blocks = False

    def __init__(self, transport: Any, on_wait: Callable[[], None]) -> None:
        self.write_some = transport.write_some
        self._written: list[int] = transport.written
        self.log = self._written
        self.forget_written: Callable[[], object] = transport.written.clear
        self._transport = transport
        self._lock = threading.Lock()  # guards _wakeup, _aborted and waiting
        self._wakeup: Wakeup | None = None  # most sessions never wait for room
        self._aborted = False
        self.waiting = 0  # threads that wait for room
        self._waits = _Waits(on_wait)
        self.waits: Callable[[float | None], bool] | None = None
        """Waits in our place, with :meth:`poll`, where the one who waits must also read."""

    def wait_for_room(self, timeout: float | None) -> bool:
        """Wait until there is room; return ``False`` when the time was over first.

        Raises:
            OSError: the session has ended meanwhile.
        """
        with self._lock:
            self.waiting += 1
        try:
            with self.handler_waits():
                if self.waits is not None:
                    return self.waits(timeout)
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
        return self._waits if self.waits is not None or _is_handlers() else _NO_HANDLER

    def poll(self, timeout: float | None, read_fd: int = -1) -> tuple[bool, bool]:
        """Wait for room, or input; return whether there is room, and whether input.

        Args:
            timeout: seconds.
            read_fd: where input comes from; -1: don't look.

        Raises:
            OSError: the session has ended meanwhile.
        """
        import select

        with self._lock:
            self._check_aborted()
            wakeup = self._wakeup_fd()
        # A new poll object each time: this is rare, and several threads may be here.
        poll = select.poll()
        write_fd = self._transport.write_fd
        poll.register(write_fd, select.POLLOUT)
        if wakeup >= 0:
            poll.register(wakeup, select.POLLIN)
        if read_fd == write_fd:  # a socket
            poll.register(read_fd, select.POLLIN | select.POLLOUT)
        elif read_fd >= 0:
            poll.register(read_fd, select.POLLIN)
        found = dict(poll.poll(milliseconds(timeout)) if wakeup >= 0 else self._look(poll, timeout))
        self._check_aborted()
        room = found.get(write_fd, 0) & ~select.POLLIN
        return bool(room), bool(found.get(read_fd, 0) & ~select.POLLOUT)

    def _wakeup_fd(self) -> int:
        """Return, with the lock held, what :meth:`abort` makes readable; -1: none is to be had."""
        if self._wakeup is None:
            try:
                self._wakeup = Wakeup()
            except OSError:  # EMFILE, for one, which is no reason to end a session that has all
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

    def written(self) -> int | None:
        """Return what the last, interrupted, write has written; ``None``: unknown."""
        return sum(self._written)

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


class BlockingOutlet:
    """A transport that can only be written to by blocking.

    Args:
        transport: whose ``write`` blocks.
        on_wait: called by a handler that is going to wait.
    """

    blocks = True

    def __init__(self, transport: Transport, on_wait: Callable[[], None]) -> None:
        self._transport = transport
        self._waits = _Waits(on_wait)

    def write_some(self, buffers: Sequence[Buffer]) -> int:
        """Write some of the first buffer, blocking as long as the transport does."""
        with self.handler_waits():
            return self._transport.write(memoryview(buffers[0]))

    @property
    def handlers_waiting(self) -> int:
        """How many handlers are in a write, or wait for their turn."""
        return self._waits.handlers

    def handler_waits(self) -> AbstractContextManager[None]:
        """Return what to enter while waiting."""
        return self._waits if _is_handlers() else _NO_HANDLER

    def wait_for_room(self, timeout: float | None) -> bool:
        """Return at once: the next write will wait."""
        return True

    def written(self) -> int | None:
        """Return that it is unknown what an interrupted write has written."""
        return None

    def forget_written(self) -> None:
        """Do nothing: it is unknown."""

    def abort(self) -> None:
        """Do nothing: closing the transport ends a write that blocks."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def close_after_fork(self) -> None:
        """Renew the lock, in a forked child."""
        renew(self._waits.lock)
