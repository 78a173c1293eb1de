"""Objects that read and write, but show no descriptor, as a transport."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from .._signals import Ignoring, let_through
from ._sigpipe import SIGPIPE, SigpipeHeldBack, disposition_of

__all__ = ["FileReader", "FileTransport", "FileWriter"]

_LOCKING = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)
"""Their ``close()`` waits for a ``read()`` or ``write()`` that another thread is in."""


class FileTransport:
    """A pair of objects with blocking methods.

    Reads with the first that the object has of ``readinto1``, ``read1``, ``readinto``,
    ``read``, ``recv_into``; ``read(n)`` must return what there is rather than wait for
    all of ``n`` bytes. Writes with ``write`` and ``flush``, or ``send``.

    What it can't do: a read or write that blocks ends early only if closing the object
    ends it. A session calls it on threads of their own (``pump.py``), so senders respect
    their deadlines all the same.

    Args:
        write: the object frames go to.
        read: the object frames come from; may be the same.
        prefix: bytes that come before the first that ``read`` gives.
    """

    def __init__(self, write: Any, read: Any, prefix: bytes = b"") -> None:
        self._reader = FileReader(read, prefix)
        self._writer = FileWriter(write)
        self._same = write is read

    def read_into(self, buffer: memoryview, /) -> int:
        """See :meth:`Transport.read_into`."""
        return self._reader.read_into(buffer)

    def write(self, data: memoryview, /) -> int:
        """See :meth:`Transport.write`."""
        return self._writer.write(data)

    def close_write(self) -> None:
        """Close the object written to, unless it is also read from."""
        if not self._same:
            self._writer.close()
        else:
            self._writer.shut_down()

    def close(self) -> None:
        """Close both objects."""
        if not self._same:
            self._writer.close()
        self._reader.close()


class _Half:
    """One direction: calls a method of the object, and closes it without a deadlock."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._busy = False  # inside a call; written before _closed is read
        self._closed = False

    def close(self) -> None:
        """Close the object; twice is fine."""
        if self._closed:
            return
        self._closed = True
        file = self._file
        if self._busy and isinstance(file, _LOCKING):
            # The object's own lock is taken. Closing what is below it ends the call, if
            # anything does; the thread that is in it closes the rest.
            file = file.raw
        elif self._busy and isinstance(file, io.BufferedRWPair):
            return
        _close_quietly(file)

    def _call(self, method: Callable[[Any], Any], argument: Any) -> Any:
        if self._closed:
            raise OSError("the stream is closed")
        self._busy = True
        try:
            # A close() that came in between leaves the rest to us: see below.
            return method(argument)
        except (OSError, EOFError):
            raise
        except Exception as error:
            let_through(error)
            # The contract of a transport knows OSError alone.
            raise OSError(f"{self._file!r} failed: {type(error).__name__}: {error}") from error
        finally:
            self._busy = False
            if self._closed:
                _close_quietly(self._file)


class FileReader(_Half):
    """The direction from the peer.

    Args:
        file: the object to read from.
        prefix: bytes that come first.
    """

    def __init__(self, file: Any, prefix: bytes = b"") -> None:
        super().__init__(file)
        self._prefix = prefix
        self._name = _pick_method(file)
        self._method = getattr(file, self._name)
        self._fills_buffer = self._name in ("readinto1", "readinto", "recv_into")

    def read_into(self, buffer: memoryview) -> int:
        """Block until bytes have arrived; see :meth:`Transport.read_into`."""
        if self._prefix:
            data, self._prefix = self._prefix[: len(buffer)], self._prefix[len(buffer) :]
            buffer[: len(data)] = data
            return len(data)
        try:
            got = self._call(self._method, buffer if self._fills_buffer else len(buffer))
        except EOFError:
            return 0
        if self._fills_buffer and isinstance(got, int):
            return got
        if got is None:
            raise OSError(
                f"{self._file!r} is non-blocking and has no descriptor to wait for; make it block"
            )
        if not isinstance(got, (bytes, bytearray, memoryview)) or len(got) > len(buffer):
            raise OSError(f"{self._name}() of {self._file!r} returned {_describe(got)}")
        buffer[: len(got)] = got
        return len(got)


class FileWriter(_Half):
    """The direction to the peer.

    Args:
        file: the object to write to.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self._write = file.write if hasattr(file, "write") else file.send
        self._flush: Callable[[], Any] | None = getattr(file, "flush", None)
        # Objects of the io module copy what they are given. Others may keep it, and
        # then need bytes of their own.
        self._copies = type(file).__module__ in ("_io", "io", "socket")

    def write(self, data: memoryview) -> int:
        """Block until the object took bytes; see :meth:`Transport.write`."""
        if disposition_of(SIGPIPE):
            count: int | None = self._call(self._write_and_flush, data)
        else:
            with SigpipeHeldBack():
                count = self._call(self._write_and_flush, data)
        return count if count is not None else len(data)

    def shut_down(self) -> None:
        """End this direction of a socket that is also read from."""
        if hasattr(self._file, "shutdown"):
            with Ignoring(OSError):
                self._file.shutdown(1)  # SHUT_WR, of all platforms

    def _write_and_flush(self, data: memoryview) -> Any:
        count = self._write(data if self._copies else bytes(data))
        if count is None and isinstance(self._file, io.RawIOBase):
            raise OSError(
                f"{self._file!r} is non-blocking and has no descriptor to wait for; make it block"
            )
        if self._flush is not None:
            self._flush()
        return count


def _pick_method(file: Any) -> str:
    for name in ("readinto1", "read1", "readinto", "read", "recv_into"):
        method = getattr(type(file), name, None) or getattr(file, name, None)
        # The base classes of io define all of them, to raise UnsupportedOperation.
        inherited = (
            getattr(base, name, None) for base in (io.BufferedIOBase, io.RawIOBase, io.IOBase)
        )
        if callable(method) and not any(method is one for one in inherited):
            return name
    raise TypeError(f"{file!r} has no method to read bytes with")


def _describe(got: object) -> str:
    if isinstance(got, (bytes, bytearray, memoryview)):
        return f"{len(got):,} bytes, more than it was asked for"
    return f"{type(got).__name__}, not bytes"


def _close_quietly(file: Any) -> None:
    close = getattr(file, "close", None)
    if close is not None:
        # What was written has been flushed; there is nothing to lose and nobody to tell.
        with Ignoring(Exception), SigpipeHeldBack():
            close()
