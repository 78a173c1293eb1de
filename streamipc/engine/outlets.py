"""Where the writer's bytes go: a transport, as the writer sees it."""

from __future__ import annotations

import errno
import threading

from .._forks import renew
from ..handlers import current_request
from .polling import Wakeup, milliseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    from ..serializers.base import Buffer
    from ..transports.base import Transport
else:
    from .._typing import Protocol

__all__ = ["BlockingOutlet", "Outlet", "PolledOutlet"]


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

    def written(self) -> int | None:
        """Return how many bytes a write that was interrupted has written, if known."""
        ...

    def forget_written(self) -> object:
        """What :meth:`written` would return is counted: return 0 until the next write."""
        ...


class PolledOutlet:
    """A transport whose descriptor can be polled: a write never blocks by itself.

    Args:
        transport: with ``write_fd`` and ``write_some``.
        on_wait: called by a handler that is going to wait for room.
    """

    blocks = False

    def __init__(self, transport: Any, on_wait: Callable[[], None]) -> None:
        self.write_some = transport.write_some
        self._written: list[int] = transport.written
        self.forget_written: Callable[[], object] = transport.written.clear
        self._transport = transport
        self._lock = threading.Lock()  # guards _wakeup and _aborted
        self._wakeup: Wakeup | None = None  # most sessions never wait for room
        self._aborted = False
        self.waiting = 0  # threads that wait for room
        self.handlers_waiting = 0  # those of them that are inside of a handler
        self._on_wait = on_wait
        self.waits: Callable[[float | None], bool] | None = None
        """Waits in our place, with :meth:`poll`, where the one who waits must also read."""

    def wait_for_room(self, timeout: float | None) -> bool:
        """Wait until there is room; return ``False`` when the time was over first.

        Raises:
            OSError: the session has ended meanwhile.
        """
        in_handler = self.waits is not None or current_request() is not None
        with self._lock:
            self.waiting += 1
            self.handlers_waiting += in_handler
        try:
            if in_handler:
                self._on_wait()
            if self.waits is not None:
                return self.waits(timeout)
            return self.poll(timeout)[0]
        finally:
            with self._lock:
                self.waiting -= 1
                self.handlers_waiting -= in_handler

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
            if self._aborted:
                raise OSError(errno.EPIPE, "the session has ended")
            if self._wakeup is None:
                self._wakeup = Wakeup()
            wakeup = self._wakeup.fileno()
        # A new poll object each time: this is rare, and several threads may be here.
        poll = select.poll()
        write_fd = self._transport.write_fd
        poll.register(write_fd, select.POLLOUT)
        poll.register(wakeup, select.POLLIN)
        if read_fd == write_fd:  # a socket
            poll.register(read_fd, select.POLLIN | select.POLLOUT)
        elif read_fd >= 0:
            poll.register(read_fd, select.POLLIN)
        found = dict(poll.poll(milliseconds(timeout)))
        if self._aborted:
            raise OSError(errno.EPIPE, "the session has ended")
        room = found.get(write_fd, 0) & ~select.POLLIN
        return bool(room), bool(found.get(read_fd, 0) & ~select.POLLOUT)

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
        if self._wakeup is not None:
            self._wakeup.close_after_fork()


class BlockingOutlet:
    """A transport that can only be written to by blocking."""

    blocks = True
    waiting = handlers_waiting = 0

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def write_some(self, buffers: Sequence[Buffer]) -> int:
        """Write some of the first buffer, blocking as long as the transport does."""
        return self._transport.write(memoryview(buffers[0]))

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

    close_after_fork = close
