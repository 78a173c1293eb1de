"""Reading: what the leader (``leader.py``) does with input, and what becomes of the end of it.

All but :meth:`Reader.is_open`, :meth:`Reader.drain_only` and :meth:`Reader.end` is for the leader
alone: it is called by way of ``Leader.lead``.

Owns the counts of what was read, which sources have ended, and ``is_busy``.

Invariant: what was read and not applied, or only in part, is applied before anything more is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .._signals import interrupt_in
from .poller import Poller, Ready, Wakeup

if TYPE_CHECKING:
    from ..protocol.connection import Connection
    from .flow import Flow

__all__ = ["Reader"]

_MOST_THERE = 16 << 20
"""Bytes, more than a pipe or socket holds: a process that has inherited the stream may
write to it without end."""


class Reader:
    """Reads for one session.

    Args:
        connection: what the bytes are decoded by.
        read_into: of the transport, called with a buffer and the source's number.
        fds: to poll, one for each source.
        wakeup: ends a client leader's sleep.
        logs: for each source, in which ``read_into`` leaves its result.
        apply: applies what was read.
        on_end: called when the stream has ended.
        flow: tells whether reading pauses.

    Attributes:
        poller: of the sources, for client leaders; the I/O thread has one of its own.
        is_busy: somebody reads, or was interrupted in the midst of it.
        ended: the stream has ended, or is not read any more.
    """

    def __init__(
        self,
        connection: Connection,
        read_into: Callable[..., int],
        fds: tuple[int, ...],
        wakeup: Wakeup,
        logs: Sequence[list[int]],
        apply: Callable[[], None],
        on_end: Callable[[Exception | None], None],
        flow: Flow,
    ) -> None:
        self._connection = connection
        self._read_into = read_into
        self._sources = {fd: number for number, fd in enumerate(fds)}
        self._logs = logs
        self._apply = apply
        self._on_end = on_end
        self._flow = flow
        self.poller = Poller(fds, wakeup.fileno())
        self.fds = fds
        self.first_fd = fds[0]
        self.reads = 0
        self.bytes_received = 0
        self.is_busy = False
        self.ended = False
        self._drains_only = False
        self._ended_fds: list[int] = []  # which the I/O thread's poller does not know yet

    def is_open(self) -> bool:
        """Tell whether there is anything to read, and it may be read now."""
        return not (self._flow.paused or self._drains_only or self.ended)

    def may_be_drained(self) -> bool:
        """Tell whether there is anything to read, though it had better wait."""
        return not (self._drains_only or self.ended)

    def drain_only(self) -> None:
        """Have nobody read any more but by :meth:`drain`: the session is about to end."""
        self._drains_only = True

    def end(self) -> None:
        """Have nobody read any more."""
        self.ended = True

    def read(self, ready: Ready) -> None:
        """Read from the descriptors that are ready, once each, and dispatch what came."""
        self.reads += 1
        for fd, _ in ready:
            self.read_source(self._sources[fd])

    def read_source(self, source: int = 0) -> None:
        """Read from one source and apply what came.

        What somebody who was interrupted has read and not applied comes first.
        """
        connection = self._connection
        log = self._logs[source]
        self.is_busy = True
        try:
            if not log:
                self._read_into(connection.get_buffers[source](), source)
            if log[0]:
                self.bytes_received += log[0]
                connection.buffer_updated[source](log)
            else:
                self._source_ended(source, None)
        except (BlockingIOError, InterruptedError) as error:
            if interrupt_in(error) is not None:
                raise
        except Exception as error:
            # OSError, or ValueError of a file object that was closed, or a bug in a
            # transport of the user's own.
            if interrupt_in(error) is not None:
                raise
            self._source_ended(source, error)
        if connection.frames:
            self._apply()
        self.is_busy = False

    def clean(self) -> None:
        """Apply what somebody has read who was interrupted."""
        self._connection.cut_rest()
        for source, log in enumerate(self._logs):
            if log:
                self.read_source(source)
        if self._connection.frames:
            self._apply()
        self.is_busy = False

    def drain(self) -> None:
        """Read what is there now, of a stream that is about to end."""
        enough = self.bytes_received + _MOST_THERE
        while not self.ended and self.bytes_received < enough:
            fds = self.poller.ready()
            if not fds:
                return
            self.read(fds)

    def take_ended(self) -> list[int]:
        """Return the descriptors that have ended and that the caller must forget."""
        if not self._ended_fds:
            return self._ended_fds
        ended, self._ended_fds = self._ended_fds, []
        return ended

    def _source_ended(self, source: int, error: Exception | None) -> None:
        self._connection.end(source)
        if self._connection.frames:
            self._apply()
        if source == 0:
            self._on_end(error)
            self.ended = True
        else:
            fd = next(fd for fd, number in self._sources.items() if number == source)
            self.poller.forget(fd)
            self._ended_fds.append(fd)
            self.fds = tuple(other for other in self.fds if other != fd)
        self._logs[source].clear()  # last: until then whoever comes next does it again
