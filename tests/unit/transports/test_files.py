from __future__ import annotations

import io
import os
import queue
import socket
import threading

import pytest

from streamipc.transports.base import Transport
from streamipc.transports.files import FileReader, FileTransport, FileWriter


class Sink:
    def __init__(self):
        self.calls = []

    def write(self, data):
        self.calls.append(("write", data))
        return len(data)

    def flush(self):
        self.calls.append("flush")

    def close(self):
        self.calls.append("close")


def read_with(file, size=100):
    buffer = memoryview(bytearray(size))
    return bytes(buffer[: FileReader(file).read_into(buffer)])


def test_it_is_a_transport():
    assert isinstance(FileTransport(io.BytesIO(), io.BytesIO()), Transport)


def test_a_write_is_flushed_and_the_bytes_are_the_objects_own():
    sink = Sink()
    data = bytearray(b"abc")
    assert FileWriter(sink).write(memoryview(data)) == 3
    data[:] = b"xyz"
    assert sink.calls == [("write", b"abc"), "flush"]


def test_a_write_that_returns_none_took_everything():
    sink = Sink()
    sink.write = lambda data: None
    assert FileWriter(sink).write(memoryview(b"abc")) == 3


def test_closing_by_halves_closes_the_write_object_alone():
    sink, source = Sink(), io.BytesIO(b"still there")
    transport = FileTransport(sink, source)
    transport.close_write()
    transport.close_write()
    assert sink.calls == ["close"]
    buffer = memoryview(bytearray(20))
    assert transport.read_into(buffer) == 11
    with pytest.raises(OSError, match="the stream is closed"):
        transport.write(memoryview(b"x"))
    transport.close()
    transport.close()
    assert source.closed
    assert sink.calls == ["close"]


def test_closing_by_halves_leaves_an_object_for_both_directions_open():
    file = io.BytesIO(b"abc")
    transport = FileTransport(file, file)
    transport.close_write()
    assert not file.closed
    transport.close()
    assert file.closed


def test_a_socket_is_used_by_its_own_methods_and_closed_by_halves():
    ours, theirs = socket.socketpair()
    transport = FileTransport(ours, ours)
    theirs.sendall(b"question")
    buffer = memoryview(bytearray(20))
    assert transport.read_into(buffer) == 8
    assert transport.write(memoryview(b"answer")) == 6
    transport.close_write()
    assert theirs.makefile("rb").read() == b"answer"
    transport.close()
    assert ours.fileno() == -1
    theirs.close()


class OnlyRead:
    def read(self, size):
        return b"read"[:size]


class OnlyReadinto(io.RawIOBase):
    def readable(self):
        return True

    def readinto(self, buffer):
        buffer[:7] = b"readint"
        return 7


class OnlyRawRead(io.RawIOBase):
    def read(self, size=-1):
        return b"raw read"


class OnlyRead1(io.BufferedIOBase):
    def read1(self, size=-1):
        return b"read1"


class OnlyBufferedRead(io.BufferedIOBase):
    def read(self, size=-1):
        return b"buffered read"


class OnlyRecvInto:
    def recv_into(self, buffer):
        buffer[:4] = b"recv"
        return 4


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (OnlyRead(), b"read"),
        (OnlyReadinto(), b"readint"),
        (OnlyRawRead(), b"raw read"),
        (OnlyRead1(), b"read1"),
        (OnlyBufferedRead(), b"buffered read"),
        (OnlyRecvInto(), b"recv"),
        (io.BytesIO(b"bytes"), b"bytes"),
        (io.BufferedReader(OnlyReadinto()), b"readint"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_method_that_an_object_has_is_used(file, expected):
    assert read_with(file) == expected


def test_an_object_that_cant_be_read_is_refused():
    with pytest.raises(TypeError, match="has no method to read bytes with"):
        FileReader(Sink())


def test_a_prefix_comes_first():
    reader = FileReader(io.BytesIO(b"file"), b"prefix")
    buffer = memoryview(bytearray(4))
    got = b""
    while count := reader.read_into(buffer):
        got += buffer[:count]
    assert got == b"prefixfile"


def raising(error):
    class Raises:
        def read(self, size):
            raise error

    return Raises()


def test_the_end_may_be_an_exception():
    assert read_with(raising(EOFError())) == b""


def test_foreign_exceptions_come_out_as_oserror_with_their_text():
    with pytest.raises(OSError, match="failed: KeyError: 'what'") as caught:
        read_with(raising(KeyError("what")))
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ConnectionResetError):
        read_with(raising(ConnectionResetError()))


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("text", "returned str, not bytes"),
        (bytes(101), "returned 101 bytes, more than it was asked for"),
        (None, "is non-blocking and has no descriptor to wait for; make it block"),
    ],
    ids=["text", "too much", "nothing"],
)
def test_what_no_reader_may_return_is_an_error(result, text):
    file = OnlyRead()
    file.read = lambda size: result
    with pytest.raises(OSError, match=text):
        read_with(file)


def test_a_raw_writer_that_does_not_block_is_an_error():
    class Full(io.RawIOBase):
        def write(self, data):
            return None

    with pytest.raises(OSError, match="is non-blocking and has no descriptor"):
        FileWriter(Full()).write(memoryview(b"x"))


class Waiting(io.RawIOBase):
    """Blocks in every call until it is closed."""

    def __init__(self):
        self.entered = threading.Event()
        self.woken = queue.Queue()

    def readable(self):
        return True

    def writable(self):
        return True

    def readinto(self, buffer):
        self.entered.set()
        self.woken.get(timeout=30)
        return 0

    def write(self, data):
        self.entered.set()
        self.woken.get(timeout=30)
        raise BrokenPipeError

    def close(self):
        super().close()
        self.woken.put(None)


@pytest.mark.parametrize("wrap", [lambda raw: raw, io.BufferedReader])
def test_closing_ends_a_read_that_blocks(wrap):
    raw = Waiting()
    transport = FileTransport(Sink(), wrap(raw))
    results = []

    def read():
        try:
            results.append(transport.read_into(memoryview(bytearray(10))))
        except OSError as error:
            results.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    assert raw.entered.wait(10)
    transport.close()
    thread.join(10)
    assert len(results) == 1
    assert raw.closed


def test_closing_ends_a_write_that_blocks():
    raw = Waiting()
    transport = FileTransport(io.BufferedWriter(raw), io.BytesIO())
    results = []

    def write():
        try:
            results.append(transport.write(memoryview(b"x")))
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert raw.entered.wait(10)
    transport.close()
    thread.join(10)
    assert isinstance(results[0], OSError)
    assert raw.closed


def test_a_pair_that_is_being_read_is_closed_by_the_reader():
    raw = Waiting()
    pair = io.BufferedRWPair(raw, Waiting())
    transport = FileTransport(pair, pair)
    thread = threading.Thread(target=lambda: transport.read_into(memoryview(bytearray(9))))
    thread.start()
    assert raw.entered.wait(10)
    transport.close()
    assert not pair.closed
    raw.woken.put(None)
    thread.join(10)
    assert pair.closed


def test_an_error_while_closing_is_nobodys_business():
    sink = Sink()

    def close():
        raise ValueError("no")

    sink.close = close
    read_fd, write_fd = os.pipe()
    FileTransport(sink, os.fdopen(read_fd, "rb", buffering=0)).close()
    with pytest.raises(OSError):
        os.fstat(read_fd)
    os.close(write_fd)


def test_a_file_without_close_needs_none():
    class Bare:
        def read(self, size):
            return b""

        def write(self, data):
            return len(data)

    transport = FileTransport(Bare(), Bare())
    assert transport.write(memoryview(b"four")) == 4
    transport.close()
