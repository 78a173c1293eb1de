"""Any two byte streams as a transport."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Union

from .._forks import steady
from .._signals import Ignoring, let_through
from ._readahead import flush_pending, raw_of_pair, take_read_ahead
from .base import Transport
from .files import FileReader, FileTransport
from .pipe import Closable, FdTransport
from .pump import Inflow, PumpedTransport, abandon

__all__ = ["ReadStream", "WriteStream", "open_streams"]


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


class _ReadsInto(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...


class _Writes(Protocol):
    def write(self, data: Any, /) -> object: ...


ReadStream = Union[int, _HasFileno, _Reads, _ReadsInto]
"""What bytes can be read from: a descriptor, a socket, a binary file object."""

WriteStream = Union[int, _HasFileno, _Writes]
"""What bytes can be written to: a descriptor, a socket, a binary file object."""


def open_streams(
    write: WriteStream, read: ReadStream, read2: ReadStream | None = None
) -> Transport:
    """Make a transport of streams that are already open; it owns them from now on.

    Raw descriptors, sockets and what :func:`open`, :func:`os.fdopen`, ``makefile()`` and
    :class:`subprocess.Popen` give are used by their descriptor, so that nothing blocks
    for ever; what a buffered reader has read ahead is kept, and what a buffered writer
    holds is written first. A terminal is put into raw mode until the transport is
    closed. Other objects are used by their own methods, which block.

    Args:
        write: the stream to the peer.
        read: the stream from the peer; may be the same object.
        read2: a second stream from the peer, or ``None``. If it or ``read`` shows no
            descriptor, a thread copies from it into a socket.

    Raises:
        TypeError: a stream is open in text mode, or is no stream.
        ValueError: a stream is closed, or is not open in the direction needed.
        OSError: a descriptor is not open.
    """
    out = _resolve(write, "write")
    sources = [_resolve(read, "read")]
    if read2 is not None:
        sources.append(_resolve(read2, "read2"))
        if read2 is read or (sources[0].fd is not None and sources[0].fd == sources[1].fd):
            raise ValueError("read and read2 are the same stream")
        if out.fd is None:
            raise ValueError(
                f"with read2, write needs a file descriptor, and {write!r} shows none; "
                "use a pipe or a socket"
            )
    with Ignoring(OSError):  # the peer is gone: the session will see it
        flush_pending(write)
    prefix = {
        number: take_read_ahead(source.file)
        for number, source in enumerate(sources)
        if source.fd is not None
    }
    if out.fd is None or (read2 is None and sources[0].fd is None):
        return FileTransport(
            _as_file(out, "wb"),
            out.file if read is write else _as_file(sources[0], "rb"),
            prefix.get(0, b""),
        )
    readers = {
        number: FileReader(source.file)
        for number, source in enumerate(sources)
        if source.fd is None
    }
    if not readers:
        return FdTransport(*_descriptors(out, sources), owners=_owners(out, sources), prefix=prefix)
    return _pumped(out, sources, readers, prefix)


def _pumped(
    out: _End, sources: list[_End], readers: dict[int, FileReader], prefix: dict[int, bytes]
) -> Transport:
    """Make a transport that copies from ``readers``, by source."""
    inflows: dict[int, Inflow] = {}
    with steady:
        try:
            for number, reader in readers.items():
                inflows[number] = Inflow(reader.read_into)
                sources[number] = _End(inflows[number].near_fd, None, ())
            transport = PumpedTransport(
                _descriptors(out, sources),
                inflows,
                None,
                lambda: _close_all(readers.values()),
                owners=_owners(out, sources),
                prefix=prefix,
            )
        except BaseException:
            abandon(inflows.values())
            raise
    try:
        transport.start_pump()
    except BaseException:
        # "can't start new thread": half a stream is none.
        transport.close()
        raise
    return transport


def _close_all(readers: Iterable[FileReader]) -> None:
    for reader in readers:
        reader.close()


class _End:
    """One stream: its descriptor if it may be used bare, the object, what closes it."""

    __slots__ = ("fd", "file", "owners")

    def __init__(self, fd: int | None, file: Any, owners: Sequence[Any]) -> None:
        self.fd = fd
        self.file = file
        self.owners: Sequence[Closable] = owners


def _resolve(stream: Any, name: str) -> _End:
    if isinstance(stream, int) and not isinstance(stream, bool):
        _check_descriptor(stream, name)
        return _End(stream, None, ())
    encoding = getattr(stream, "encoding", None)
    if isinstance(stream, io.TextIOBase) or isinstance(encoding, str):
        raise TypeError(f"{name}: {stream!r} is open in text mode; open it in binary mode ('b')")
    if getattr(stream, "closed", False) is True:
        raise ValueError(f"{name}: {stream!r} is closed")
    may = getattr(stream, "writable" if name == "write" else "readable", None)
    if isinstance(stream, io.IOBase) and callable(may) and not may():
        direction = "writing" if name == "write" else "reading"
        raise ValueError(f"{name}: {stream!r} is not open for {direction}")
    fd = _bare_descriptor(stream, name)
    if fd is not None:
        _check_descriptor(fd, name)
        return _End(fd, stream, [stream] if hasattr(stream, "close") else ())
    methods = ("write", "send") if name == "write" else ("read", "read1", "readinto", "recv_into")
    if isinstance(stream, type) or not any(callable(getattr(stream, m, None)) for m in methods):
        raise TypeError(
            f"{name}: expected a file descriptor, a socket or a binary file object, "
            f"not {type(stream).__name__}"
        )
    return _End(None, stream, ())


def _bare_descriptor(stream: Any, name: str) -> int | None:
    """Find the descriptor through which the very bytes of ``stream`` pass.

    Having a ``fileno()`` is not enough: a GzipFile and an SSLSocket have one, but the
    bytes there are others.
    """
    socket = sys.modules.get("socket")  # not imported: then it is no socket
    if socket is not None and isinstance(stream, socket.socket):
        return _socket_descriptor(stream, name)
    if isinstance(stream, io.BufferedRWPair):
        raw = raw_of_pair(stream, name == "write")
    else:
        raw = stream.raw if type(stream) in _BUFFERED else stream
    if type(raw) is io.FileIO:
        return raw.fileno()
    if socket is not None and type(raw) is socket.SocketIO:
        return _socket_descriptor(raw._sock, name)
    if os.name == "posix" and not hasattr(stream, "read") and not hasattr(stream, "write"):
        # Such as multiprocessing.connection.Connection: nothing but a descriptor.
        fileno: Any = getattr(stream, "fileno", None)
        if fileno is not None and not isinstance(stream, type):
            number: int = fileno()
            return number
    return None


_BUFFERED = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)


def _socket_descriptor(sock: Any, name: str) -> int | None:
    import socket

    if any(
        getattr(type(sock), method, None) is not getattr(socket.socket, method)
        for method in ("recv", "recv_into", "send", "fileno")
    ):
        # TLS needs both directions for either, and its objects bear one call at a time.
        raise TypeError(
            f"{name}: {type(sock).__name__} changes the bytes on their way; put a plain "
            "socket pair between, or write a transport of your own"
        )
    if sock.fileno() < 0:
        raise ValueError(f"{name}: {sock!r} is closed")
    if os.name == "nt":  # pragma: no cover - os.read takes no socket on Windows
        return None
    return int(sock.fileno())


def _check_descriptor(fd: int, name: str) -> None:
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        let_through(error)
        raise OSError(error.errno, f"{name}: file descriptor {fd} is not open") from None
    if stat.S_ISDIR(mode):
        raise ValueError(f"{name}: file descriptor {fd} is a directory")
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        return
    access = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
    if access == (os.O_RDONLY if name == "write" else os.O_WRONLY):
        direction = "writing" if name == "write" else "reading"
        raise ValueError(f"{name}: file descriptor {fd} is not open for {direction}")


def _descriptors(out: _End, sources: Sequence[_End]) -> tuple[int, int, int | None]:
    return _known(sources[0].fd), _known(out.fd), sources[1].fd if len(sources) == 2 else None


def _owners(out: _End, sources: Sequence[_End]) -> dict[int, list[Closable]]:
    """Which objects close which descriptor, each object once."""
    owners: dict[int, list[Closable]] = {}
    for end in (out, *sources):
        known = owners.setdefault(_known(end.fd), [])
        known.extend(owner for owner in end.owners if all(owner is not one for one in known))
    return owners


def _as_file(end: _End, mode: str) -> Any:
    return end.file if end.file is not None else os.fdopen(_known(end.fd), mode, buffering=0)


def _known(fd: int | None) -> int:
    assert fd is not None
    return fd
