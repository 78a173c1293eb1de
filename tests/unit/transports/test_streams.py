from __future__ import annotations

import gzip
import io
import multiprocessing.connection
import os
import pty
import queue
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

import pytest

from streamipc.transports import _readahead
from streamipc.transports.files import FileTransport
from streamipc.transports.pipe import FdTransport
from streamipc.transports.streams import open_streams


@pytest.fixture
def sockets():
    ours, theirs = socket.socketpair()
    ours.settimeout(None)
    theirs.settimeout(10)
    yield ours, theirs
    ours.close()
    theirs.close()


def raw_descriptors(ours):
    return os.dup(ours.fileno()), os.dup(ours.fileno())


def one_raw_descriptor(ours):
    fd = os.dup(ours.fileno())
    return fd, fd


def socket_itself(ours):
    return ours, ours


def buffered_makefiles(ours):
    return ours.makefile("wb"), ours.makefile("rb")


def unbuffered_makefiles(ours):
    return ours.makefile("wb", buffering=0), ours.makefile("rb", buffering=0)


def makefile_for_both(ours):
    pair = ours.makefile("rwb")
    return pair, pair


def socket_and_makefile(ours):
    return ours, ours.makefile("rb")


def fdopen_buffered(ours):
    return os.fdopen(os.dup(ours.fileno()), "wb"), os.fdopen(os.dup(ours.fileno()), "rb")


def fdopen_unbuffered(ours):
    file = os.fdopen(os.dup(ours.fileno()), "r+b", buffering=0)
    return file, file


def connection(ours):
    both = multiprocessing.connection.Connection(os.dup(ours.fileno()))
    return both, both


@pytest.mark.parametrize(
    "ends_of",
    [
        raw_descriptors,
        one_raw_descriptor,
        socket_itself,
        buffered_makefiles,
        unbuffered_makefiles,
        makefile_for_both,
        socket_and_makefile,
        fdopen_buffered,
        fdopen_unbuffered,
        connection,
    ],
)
def test_bytes_pass_and_half_a_close_reaches_the_peer(
    sockets, ends_of, read_all, write_all, read_some
):
    ours, theirs = sockets
    write, read = ends_of(ours)
    transport = open_streams(write, read)
    assert isinstance(transport, FdTransport)
    if ends_of is not socket_itself:
        ours.close()
    theirs.sendall(b"question")
    assert read_some(transport) == b"question"
    write_all(transport, b"answer")
    transport.close_write()
    assert theirs.makefile("rb").read() == b"answer"
    theirs.close()
    os.set_blocking(transport.read_fds[0], True)
    assert read_all(transport) == b""
    transport.close()
    for file in (write, read):
        if not isinstance(file, int):
            assert file.closed if hasattr(file, "closed") else file.fileno() == -1


def test_a_number_and_an_object_for_the_same_descriptor_are_closed_once(sockets):
    ours, _ = sockets
    transport = open_streams(ours.fileno(), ours)
    transport.close()
    assert ours.fileno() == -1


def test_the_pipes_of_a_child_are_streams(read_all, write_all):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        transport = open_streams(child.stdin, child.stdout)
        write_all(transport, b"through the cat")
        transport.close_write()
        assert read_all(transport) == b"through the cat"
        transport.close()


def test_a_terminal_is_a_stream(read_some, write_all):
    master, slave = pty.openpty()
    ours = open_streams(master, master)
    theirs = open_streams(os.fdopen(slave, "r+b", buffering=0), os.dup(slave))
    write_all(ours, b"\r\n\x03")
    received = b""
    while len(received) < 3:  # the kernel carries them over in pieces of its own
        received += read_some(theirs)
    assert received == b"\r\n\x03"
    theirs.close()
    ours.close()


def test_a_regular_file_can_be_read_and_written(tmp_path, read_all, write_all):
    (tmp_path / "in").write_bytes(b"recorded")
    transport = open_streams((tmp_path / "out").open("wb"), (tmp_path / "in").open("rb"))
    assert read_all(transport) == b"recorded"
    write_all(transport, b"answers")
    transport.close()
    assert (tmp_path / "out").read_bytes() == b"answers"


def test_what_a_buffered_reader_has_read_ahead_is_kept(read_some):
    read_fd, peer_write = os.pipe()
    unused, write_fd = os.pipe()
    reader = os.fdopen(read_fd, "rb")
    os.write(peer_write, b"hello line\nframe one")
    assert reader.readline() == b"hello line\n"
    transport = open_streams(write_fd, reader)
    assert transport.prefix == {0: b"frame one"}
    assert os.get_blocking(read_fd)
    os.write(peer_write, b"frame two")
    assert read_some(transport) == b"frame one"
    assert read_some(transport) == b"frame two"
    transport.close()
    os.close(unused)
    os.close(peer_write)


@pytest.mark.parametrize("mode", ["rb", "rwb"])
def test_what_a_sockets_file_has_read_ahead_is_kept(sockets, mode, read_some):
    ours, theirs = sockets
    ours.settimeout(30)
    file = ours.makefile(mode)
    theirs.sendall(b"hello line\nframe one")
    assert file.readline() == b"hello line\n"
    transport = open_streams(ours, file)
    assert ours.gettimeout() == 30
    assert read_some(transport) == b"frame one"
    transport.close()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the parts of a pair are visible there")
def test_under_a_profiler_a_pair_is_used_by_its_methods(sockets, read_some):
    ours, theirs = sockets
    file = ours.makefile("rwb")
    sys.setprofile(lambda frame, event, arg: None)
    try:
        transport = open_streams(file, file)
    finally:
        sys.setprofile(None)
    assert isinstance(transport, FileTransport)
    theirs.sendall(b"still works")
    assert read_some(transport) == b"still works"
    transport.close()


def test_an_empty_buffered_reader_does_not_block(sockets):
    ours, _ = sockets
    transport = open_streams(ours, ours.makefile("rb"))
    assert transport.prefix == {}
    transport.close()


def test_reading_ahead_from_a_broken_stream_is_no_error():
    master, slave = pty.openpty()
    os.close(slave)
    unused, write_fd = os.pipe()
    transport = open_streams(write_fd, os.fdopen(master, "rb"))
    assert transport.prefix == {}
    transport.close()
    os.close(unused)


def test_what_a_buffered_writer_holds_goes_out_first(sockets, write_all):
    ours, theirs = sockets
    file = ours.makefile("wb")
    file.write(b"preamble ")
    transport = open_streams(file, ours)
    write_all(transport, b"frame")
    assert theirs.recv(100)[:9] == b"preamble "
    transport.close()


def test_a_buffered_writer_over_a_full_non_blocking_pipe_is_waited_for(read_all):
    peer_read, write_fd = os.pipe()
    own_read, unused = os.pipe()
    os.set_blocking(write_fd, False)
    writer = os.fdopen(write_fd, "wb", buffering=1 << 18)
    writer.write(bytes(1 << 18))
    received = []

    def receive():
        with os.fdopen(peer_read, "rb") as reader:
            received.append(reader.read())

    thread = threading.Thread(target=receive)
    thread.start()
    open_streams(writer, own_read).close()
    thread.join()
    assert received == [bytes(1 << 18)]
    os.close(unused)


def test_a_pair_over_a_full_non_blocking_socket_is_waited_for(sockets, monkeypatch):
    ours, theirs = sockets
    ours.settimeout(0)
    while True:
        try:
            ours.send(bytes(1 << 16))
        except BlockingIOError:
            break
    raw = socket.SocketIO(ours, "rw")
    file = io.BufferedRWPair(raw, raw)
    file.write(b"the end")
    received = []
    thread = threading.Thread(target=lambda: received.append(theirs.makefile("rb").read()))
    wait_writable = _readahead._wait_writable

    def read_once_it_is_waited_for(fd):
        if thread.ident is None:
            thread.start()
        wait_writable(fd)

    monkeypatch.setattr(_readahead, "_wait_writable", read_once_it_is_waited_for)
    transport = open_streams(file, file)
    transport.close_write()
    thread.join()
    assert received[0].endswith(b"the end")
    transport.close()


def test_a_buffered_writer_whose_peer_is_gone_is_no_error_yet():
    peer_read, write_fd = os.pipe()
    own_read, unused = os.pipe()
    writer = os.fdopen(write_fd, "wb")
    writer.write(b"lost")
    os.close(peer_read)
    open_streams(writer, own_read).close()
    assert writer.closed
    os.close(unused)


def test_two_read_streams_are_told_apart(read_some):
    (first, to_first), (second, to_second) = os.pipe(), os.pipe()
    unused, write_fd = os.pipe()
    transport = open_streams(write_fd, first, os.fdopen(second, "rb"))
    os.write(to_first, b"one")
    os.write(to_second, b"two")
    assert read_some(transport, 1) == b"two"
    assert read_some(transport, 0) == b"one"
    transport.close()
    for fd in (to_first, to_second, unused):
        os.close(fd)


class QueueFile:
    """A stream of the user's own: no descriptor, and closing it ends a read."""

    def __init__(self):
        self.queue = queue.Queue()
        self.written = []
        self.closed = False

    def read(self, size):
        return self.queue.get(timeout=30)[:size]

    def write(self, data):
        self.written.append(data)

    def close(self):
        self.closed = True
        self.queue.put(b"")


def test_a_second_stream_without_a_descriptor_is_copied_from(read_some):
    first, to_first = os.pipe()
    unused, write_fd = os.pipe()
    second = QueueFile()
    transport = open_streams(write_fd, first, second)
    second.queue.put(b"from the queue")
    assert read_some(transport, 1) == b"from the queue"
    os.write(to_first, b"from the pipe")
    assert read_some(transport, 0) == b"from the pipe"
    transport.close()
    assert second.closed
    os.close(to_first)
    os.close(unused)


def test_the_end_of_a_copied_stream_is_passed_on(read_all):
    first, to_first = os.pipe()
    unused, write_fd = os.pipe()
    transport = open_streams(write_fd, first, io.BytesIO(bytes(300_000)))
    assert read_all(transport, 1) == bytes(300_000)
    transport.close()
    os.close(to_first)
    os.close(unused)


def test_an_error_of_a_copied_stream_is_passed_on():
    second, to_second = os.pipe()
    unused, write_fd = os.pipe()
    broken = QueueFile()
    transport = open_streams(write_fd, broken, second)
    broken.queue.put("no bytes")
    with pytest.raises(OSError, match="returned str, not bytes"):
        transport.read_into(memoryview(bytearray(10)))
    transport.close()
    os.close(to_second)
    os.close(unused)


def test_no_thread_for_copying_is_an_error_that_leaves_nothing_behind(monkeypatch):
    first, to_first = os.pipe()
    unused, write_fd = os.pipe()

    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        open_streams(write_fd, first, QueueFile())
    os.close(to_first)
    os.close(unused)


def test_when_the_transport_cant_be_made_the_streams_stay_with_their_owner(monkeypatch):
    first, to_first = os.pipe()
    unused, write_fd = os.pipe()

    def fail(*args, **kwargs):
        raise OSError("no")

    monkeypatch.setattr("streamipc.transports.streams.PumpedTransport", fail)
    with pytest.raises(OSError, match="no"):
        open_streams(write_fd, first, QueueFile())
    for fd in (first, to_first, unused, write_fd):
        os.close(fd)


def test_objects_without_a_descriptor_are_used_by_their_methods(read_some, write_all):
    file = QueueFile()
    transport = open_streams(file, file)
    assert isinstance(transport, FileTransport)
    file.queue.put(b"question")
    assert read_some(transport) == b"question"
    write_all(transport, b"answer")
    assert file.written == [b"answer"]
    transport.close()
    assert file.closed


def test_a_descriptor_and_an_object_can_be_mixed(read_some):
    read_fd, peer_write = os.pipe()
    os.write(peer_write, b"ping")
    file = QueueFile()
    transport = open_streams(file, read_fd)
    assert read_some(transport) == b"ping"
    transport.close()
    assert file.closed
    os.close(peer_write)


def test_a_buffered_reader_mixed_with_an_object_keeps_what_it_read_ahead(read_some):
    read_fd, peer_write = os.pipe()
    reader = os.fdopen(read_fd, "rb")
    os.write(peer_write, b"line\nrest")
    assert reader.readline() == b"line\n"
    transport = open_streams(QueueFile(), reader)
    assert read_some(transport) == b"rest"
    transport.close()
    os.close(peer_write)


def test_a_descriptor_that_carries_other_bytes_is_not_used_bare(tmp_path, read_all):
    with gzip.open(tmp_path / "file.gz", "wb") as file:
        file.write(b"unpacked")
    transport = open_streams(QueueFile(), gzip.GzipFile(tmp_path / "file.gz"))
    assert read_all(transport) == b"unpacked"
    transport.close()


def test_a_temporary_file_is_used_by_its_methods(read_all):
    file = tempfile.NamedTemporaryFile("w+b")  # noqa: SIM115 - the transport closes it
    file.write(b"content")
    file.seek(0)
    transport = open_streams(QueueFile(), file)
    assert read_all(transport) == b"content"
    transport.close()
    assert not os.path.exists(file.name)


def test_a_tls_socket_is_refused_because_one_call_at_a_time_is_not_enough(sockets):
    ours, _ = sockets
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with context.wrap_socket(ours, do_handshake_on_connect=False) as tls:
        with pytest.raises(TypeError, match="write: SSLSocket changes the bytes"):
            open_streams(tls, tls)
        with tls.makefile("rb") as file, pytest.raises(TypeError, match="read: SSLSocket"):
            open_streams(1, file)


@pytest.mark.parametrize("name", ["write", "read", "read2"])
def test_text_mode_is_refused_by_the_name_of_the_argument(name):
    with open(os.devnull, "r+b", buffering=0) as good, open(os.devnull) as bad:
        arguments = {"write": good, "read": good, name: bad}
        with pytest.raises(TypeError, match=rf"^{name}: .* is open in text mode; open it in bin"):
            open_streams(**arguments)
    with pytest.raises(TypeError, match=r"write: .* text mode"):
        open_streams(io.StringIO(), 0)


def test_a_stream_of_the_wrong_direction_is_refused():
    with open(os.devnull, "rb") as reader, open(os.devnull, "wb") as writer:
        with pytest.raises(ValueError, match=r"^write: .* is not open for writing"):
            open_streams(reader, reader)
        with pytest.raises(ValueError, match=r"^read: .* is not open for reading"):
            open_streams(writer, writer)
        with pytest.raises(
            ValueError, match=r"^write: file descriptor \d+ is not open for writing"
        ):
            open_streams(reader.fileno(), reader)
        with pytest.raises(ValueError, match=r"^read: file descriptor \d+ is not open for reading"):
            open_streams(writer.fileno(), writer.fileno())


def test_a_closed_stream_is_refused(sockets):
    ours, theirs = sockets
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match=rf"read: file descriptor {reader} is not open"):
        open_streams(theirs, reader)
    ours.close()
    with pytest.raises(ValueError, match=r"^write: .* is closed"):
        open_streams(ours, theirs)
    file = io.BytesIO()
    file.close()
    with pytest.raises(ValueError, match=r"^read: .* is closed"):
        open_streams(theirs, file)


@pytest.mark.parametrize("bad", [None, "path", b"path", True, object(), io.BytesIO, 1.5])
def test_what_is_no_stream_is_refused(bad):
    with pytest.raises(TypeError, match=r"^write: expected a file descriptor, a socket or"):
        open_streams(bad, 0)


def test_a_directory_is_refused(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(ValueError, match="is a directory"):
        open_streams(1, fd)
    os.close(fd)


def test_the_same_stream_twice_is_refused(sockets):
    ours, _ = sockets
    with pytest.raises(ValueError, match="read and read2 are the same stream"):
        open_streams(ours, ours, ours.fileno())
    file = QueueFile()
    with pytest.raises(ValueError, match="read and read2 are the same stream"):
        open_streams(ours, file, file)


def test_two_read_streams_need_a_write_stream_with_a_descriptor(sockets):
    with pytest.raises(ValueError, match="with read2, write needs a file descriptor"):
        open_streams(QueueFile(), sockets[0], sockets[1])
