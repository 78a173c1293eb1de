"""A transport that blocks, behind sockets that can be polled.

The engine polls descriptors, so that a caller may read for itself, a write respects its deadline
and nothing is stuck at the end. A transport of the user's own, or an object without a descriptor,
can't be polled. So a thread reads from it and writes into a socket pair, and another thread reads
from a second pair and writes to it. The engine has the near ends.

Theory of operation
-------------------

Each direction is a *flow*: a socket pair used one way, and a thread that owns the far end. It
alone uses that end, and closes it when it is done. The invariants:

* Inward, the near end sees the end of the stream after the last byte that the transport gave, and
  ``failure`` is set before that. So whoever reads the end knows why.
* Outward, a byte that was written to the near end goes to the transport, unless writing to that
  fails or ``close()`` comes first. ``ended`` is set after the transport was told of the end, or
  ``failure`` was set and reported. The near end breaks after that: nobody sees a broken pipe
  before the reason is known.
* Each direction holds what fits into the pair, and a chunk in the thread's hands. So a transport
  that is slow bounds the sender, and a session that does not read bounds the peer.
* A thread that was started ends once its near end is closed and the transport's call returns. A
  call that nothing ends keeps a daemon thread and its far end.
* Each flow is started once or given up once: whoever takes the only item of ``_tickets`` does it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .._events import Event
from .._forks import steady
from .._patches import check_sockets
from .._threads import make_thread, start_thread
from .pipe import FdTransport, release_after_fork

if TYPE_CHECKING:
    from .base import Transport
    from .pipe import Closable

__all__ = ["Inflow", "Outflow", "PumpedTransport", "abandon", "pumped"]

CHUNK = 1 << 17
"""Bytes that are copied at a time, as many as the engine reads at a time."""

BUFFER = 1 << 17
"""Bytes. The size that is asked for; Linux doubles it, and its bookkeeping takes a part. Large
messages were slower with half of it; with twice of it they gained a fifth, for twice the memory."""

_JOIN = 1.0
"""Seconds for the threads to end once the transport is closed."""

_RETRY = 0.001
"""Seconds before a transport is asked again that had nothing to say and did not wait."""


class _Flow:
    """One direction.

    Attributes:
        near_fd: the engine's end, which whoever makes the flow must close.
        failure: what the transport raised.
        ended: set when the thread will do nothing more.
    """

    def __init__(self) -> None:
        import socket

        check_sockets()
        with steady:
            near, self._far = socket.socketpair()
            for end in (near, self._far):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            self.near_fd = near.detach()
        self._no_signal = getattr(socket, "MSG_NOSIGNAL", 0)  # see _sigpipe.py
        self.failure: Exception | None = None
        self.ended = Event()
        self._tickets = [1]
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; a second call does nothing, nor does one after :meth:`give_up`.

        Raises:
            RuntimeError: no thread can be started.
        """
        if not self._take_ticket():
            return
        thread = make_thread(self._run, name="streamipc-pump")
        try:
            start_thread(thread)
        except BaseException:
            self._end()
            raise
        self._thread = thread

    def give_up(self) -> None:
        """Release the far end, unless a thread was started for it."""
        if self._take_ticket():
            self._end()

    def join(self, end: float) -> None:
        """Wait for the thread, at most until ``end``."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, end - time.monotonic()))

    def close_after_fork(self) -> None:
        """Close the far end in a forked process, where the thread does not exist."""
        self._tickets.clear()
        fd = self._far.detach()
        if fd >= 0:
            release_after_fork(fd, owned=False)

    def _take_ticket(self) -> bool:
        try:
            self._tickets.pop()  # one step: of several threads one gets it
        except IndexError:
            return False
        return True

    def _end(self) -> None:
        with steady:
            self._far.close()
        self.ended.set()

    def _run(self) -> None:
        try:
            self._copy()
        except BaseException as error:
            self._fail(error)
        finally:
            self._end()

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, Exception):  # SystemExit, for one: it must not end a caller
            error = RuntimeError(f"{type(error).__name__}: {error}")
        self.failure = error

    def _copy(self) -> None:
        """Copy until the end of the stream; what is raised is the failure."""


class Inflow(_Flow):
    """From a transport to the engine.

    Args:
        read_into: see :meth:`Transport.read_into`.
    """

    def __init__(self, read_into: Callable[[memoryview], int]) -> None:
        super().__init__()
        self._read_into = read_into

    def _copy(self) -> None:
        buffer = memoryview(bytearray(CHUNK))
        while True:
            try:
                count = self._read_into(buffer)
            except (BlockingIOError, InterruptedError):
                time.sleep(_RETRY)
                continue
            if not count:
                return
            try:
                self._far.sendall(buffer[:count], self._no_signal)
            except OSError:
                return  # the near end is closed


class Outflow(_Flow):
    """From the engine to a transport.

    Args:
        write: see :meth:`Transport.write`.
        close_write: called after the last byte.
    """

    def __init__(
        self, write: Callable[[memoryview], int], close_write: Callable[[], object]
    ) -> None:
        super().__init__()
        self._write = write
        self._close_write = close_write
        self.on_failure: Callable[[Exception], None] | None = None
        """Called on the thread with ``failure``."""
        self.is_closing = False
        """The transport is being closed: nothing more goes to it."""

    def _copy(self) -> None:
        # Each chunk is an object of its own: a transport may keep what it is given.
        while data := self._far.recv(CHUNK):
            left = memoryview(data)
            while left:
                if self.is_closing:
                    return
                left = left[self._write(left) :]
        if not self.is_closing:
            self._close_write()

    def _fail(self, error: BaseException) -> None:
        super()._fail(error)
        if self.on_failure is not None and self.failure is not None:
            self.on_failure(self.failure)


class PumpedTransport(FdTransport):
    """The near ends of flows, perhaps beside descriptors that need none.

    Args:
        fds: as for :class:`FdTransport`: to read from, to write to, and a second one to read
            from or ``None``.
        inflows: whose near ends are among these, by source.
        outflow: whose near end is the one to write to.
        close: of what the flows copy from and to.
        owners: as for :class:`FdTransport`.
        prefix: as for :class:`FdTransport`.
    """

    def __init__(
        self,
        fds: tuple[int, int, int | None],
        inflows: Mapping[int, Inflow],
        outflow: Outflow | None,
        close: Callable[[], object],
        *,
        owners: Mapping[int, Sequence[Closable]] | None = None,
        prefix: Mapping[int, bytes] | None = None,
    ) -> None:
        self._inflows = dict(inflows)
        self._outflow = outflow
        self._flows: list[_Flow] = [*inflows.values()]
        if outflow is not None:
            self._flows.append(outflow)
        self._close_rest = close
        super().__init__(*fds, owners=owners, prefix=prefix, on_close=self._close_flows)

    def start_pump(self, on_write_failure: Callable[[Exception], None] | None = None) -> None:
        """Start the threads; those that run already go on.

        Args:
            on_write_failure: called once, on a thread of ours, with what the transport raised
                when it was written to.

        Raises:
            RuntimeError: no thread can be started.
        """
        if self._outflow is not None:
            self._outflow.on_failure = on_write_failure
        for flow in self._flows:
            flow.start()

    def wait_for_pump(self, timeout: float) -> bool:
        """Wait until the transport has what was written before :meth:`close_write`.

        Args:
            timeout: seconds.

        Returns:
            Whether it has, or writing has failed.
        """
        return self._outflow is None or self._outflow.ended.wait(timeout)

    def read_into(self, buffer: memoryview, source: int = 0) -> int:
        """As :meth:`FdTransport.read_into`; raises what the transport has raised at its end."""
        count = super().read_into(buffer, source)
        inflow = None if count else self._inflows.get(source)
        if inflow is not None and inflow.failure is not None:
            raise inflow.failure
        return count

    def close(self) -> None:
        """Close the near ends, then what the flows copy from and to."""
        if self._outflow is not None:
            self._outflow.is_closing = True
        super().close()

    def _close_flows(self) -> None:
        """Close the transport, once the near ends are closed; wait a second for the threads."""
        for flow in self._flows:
            flow.give_up()
        try:
            self._close_rest()
        finally:
            end = time.monotonic() + _JOIN
            for flow in self._flows:
                flow.join(end)

    def close_after_fork(self) -> None:
        """Close the copies of all ends that a forked process inherited."""
        super().close_after_fork()
        for flow in self._flows:
            flow.close_after_fork()


def pumped(transport: Transport) -> PumpedTransport:
    """Return what stands before a transport that can't be polled.

    Raises:
        OSError: no descriptor is left.
        RuntimeError: gevent has patched threads and not sockets.
    """
    # Where poll(2) is missing an FdTransport comes here, and may have a second source.
    two = isinstance(transport, FdTransport) and len(transport.read_fds) == 2
    read_into: Any = transport.read_into
    flows: list[Any] = []
    with steady:
        try:
            flows.append(Outflow(transport.write, transport.close_write))
            flows.append(Inflow(read_into))
            if two:
                flows.append(Inflow(partial(read_into, source=1)))
            out, first, *more = flows
            fds = (first.near_fd, out.near_fd, more[0].near_fd if more else None)
            return PumpedTransport(fds, dict(enumerate(flows[1:])), out, transport.close)
        except BaseException:
            abandon(flows)
            raise


def abandon(flows: Iterable[_Flow]) -> None:
    """Release both ends of flows that no transport has taken."""
    for flow in flows:
        flow.give_up()
        os.close(flow.near_fd)
