"""What becomes of a child's standard error: passed on, and its end kept."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress

from .._log import log_error
from ._sigpipe import SIGPIPE, SigpipeHeldBack, disposition_of

__all__ = ["StderrSink", "quoted"]

_TAIL_BYTES = 8 << 10
_TAIL_LINES = 20

_PENDING = 256 << 10
"""Bytes that wait while our standard error takes none; what comes on top is dropped, so
that neither the child nor our memory pays for a terminal that somebody has stopped."""

_LONGEST_LINE = 64 << 10
"""Bytes. A line without an end is handed to the callback in pieces of this size."""


class StderrSink:
    """Takes the bytes of a child's standard error; never blocks on our own.

    Used by one thread; :attr:`tail` may be read from any.

    Args:
        forward: pass the bytes on to our fd 2.
        on_line: called with each line, without its end.
        label: names the child in the note about dropped bytes.
    """

    def __init__(self, forward: bool, on_line: Callable[[str], object] | None, label: str) -> None:
        # None: fd 2 was closed when Python started, and may be any file by now.
        self._forward = forward and sys.__stderr__ is not None
        self._on_line = on_line
        self._label = label
        self._kept = b""
        self._line = b""
        self._waiting = bytearray()
        self._dropped = 0
        self._step = 0

    @property
    def tail(self) -> str:
        """The last lines: 20 of them and 8 KiB at most, without the last line's end."""
        lines = self._kept.decode("utf-8", "backslashreplace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    @property
    def wants_to_write(self) -> bool:
        """Whether bytes wait for our standard error to take them."""
        return bool(self._waiting)

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        # One assignment: a reader of the tail sees the old bytes or the new ones.
        self._kept = (self._kept + data)[-_TAIL_BYTES:]
        if self._on_line is not None:
            self._feed_lines(data)
        if self._forward:
            space = _PENDING - len(self._waiting)
            self._waiting += data[:space]
            self._dropped += max(0, len(data) - space)
            self.write_waiting()

    def finish(self) -> None:
        """No more bytes come: hand over a last line that has no end."""
        if self._line:
            line, self._line = self._line, b""
            self._call(line)

    def write_waiting(self) -> None:
        """Pass on what our standard error takes now."""
        if disposition_of(SIGPIPE):
            self._write_waiting()
        else:
            with SigpipeHeldBack():
                self._write_waiting()

    def _write_waiting(self) -> None:
        try:
            while self._waiting and _writable(2):
                # In steps that don't block once poll said that there is room.
                self._step = self._step or _step_of(2)
                del self._waiting[: os.write(2, self._waiting[: self._step])]
            if self._dropped and not self._waiting:
                count, self._dropped = self._dropped, 0
                self._waiting += f"[streamipc: {count:,} bytes of {self._label} lost]\n".encode()
        except BlockingIOError:
            pass
        except OSError:
            # Closed, or a full disk behind it: the child must not suffer for it.
            self._waiting.clear()
            self._dropped = 0

    def _feed_lines(self, data: bytes) -> None:
        lines = (self._line + data).split(b"\n")
        self._line = lines.pop()
        for line in lines:
            self._call(line)
        while len(self._line) > _LONGEST_LINE:
            piece, self._line = self._line[:_LONGEST_LINE], self._line[_LONGEST_LINE:]
            self._call(piece)

    def _call(self, line: bytes) -> None:
        assert self._on_line is not None
        try:
            self._on_line(line.removesuffix(b"\r").decode("utf-8", "backslashreplace"))
        except BaseException as error:  # SystemExit too: it would end the watching thread
            log_error(f"the callback for the standard error of {self._label} failed", error)


def quoted(tail: str, *, printable: bool = False) -> str:
    """Return the end of a text that quotes the last lines, if there are any.

    Args:
        tail: the lines.
        printable: escape what could have a terminal, or the reader of a log, see something
            else.
    """
    if not tail:
        return ""
    if printable:
        tail = "".join(
            char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in tail
        )
    indented = "\n".join(f"    {line}" for line in tail.splitlines())
    return f"; the last lines of its standard error:\n{indented}"


def _writable(fd: int) -> bool:
    try:
        import select

        poller = select.poll()
    except AttributeError:  # pragma: no cover - Windows
        return True
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(0))


def _step_of(fd: int) -> int:
    """How many bytes ``fd`` takes without blocking when poll says that it is writable."""
    if os.isatty(fd):
        return 256
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return 1 << 16
    with suppress(ImportError, AttributeError):
        import select

        return select.PIPE_BUF
    return 512  # pragma: no cover - Windows
