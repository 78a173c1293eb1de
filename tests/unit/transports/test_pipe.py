from __future__ import annotations

import errno
import os
import pty
import select
import socket
import termios
import threading

import pytest

from streamipc.transports.base import Transport
from streamipc.transports.pipe import FdTransport, release_after_fork


@pytest.fixture
def pipes():
    """A transport, and the two descriptors of its peer."""
    read_fd, peer_write = os.pipe()
    peer_read, write_fd = os.pipe()
    transport = FdTransport(read_fd, write_fd)
    open_fds = {peer_write, peer_read}

    def close_peer(fd):
        open_fds.discard(fd)
        os.close(fd)

    yield transport, peer_read, peer_write, close_peer
    transport.close()
    for fd in open_fds:
        os.close(fd)


def test_it_is_a_transport(pipes):
    assert isinstance(pipes[0], Transport)


def test_bytes_pass_both_ways(pipes, read_some, write_all):
    transport, peer_read, peer_write, _ = pipes
    os.write(peer_write, b"ping")
    assert read_some(transport) == b"ping"
    write_all(transport, b"pong")
    assert os.read(peer_read, 100) == b"pong"


def test_many_buffers_go_out_in_one_write(pipes):
    transport, peer_read, _, _ = pipes
    parts = [memoryview(b"%d;" % number) for number in range(10)]
    assert transport.write_some(parts) == 20
    assert os.read(peer_read, 100) == b"0;1;2;3;4;5;6;7;8;9;"


def test_more_buffers_than_one_call_takes_are_written_in_part(pipes):
    transport, peer_read, _, _ = pipes
    written = transport.write_some([memoryview(b"x")] * 1000)
    assert 0 < written < 1000
    assert os.read(peer_read, 2000) == b"x" * written


def test_a_full_pipe_takes_nothing_and_does_not_block(pipes):
    transport, _, _, _ = pipes
    block = memoryview(bytes(1 << 16))
    while transport.write_some((block,)):
        pass
    assert transport.write_some((block, block)) == 0


def test_write_waits_until_a_full_pipe_takes_bytes(pipes):
    transport, peer_read, _, _ = pipes
    block = memoryview(bytes(1 << 16))
    total = 0
    while count := transport.write_some((block,)):
        total += count
    written = []
    writer = threading.Thread(target=lambda: written.append(transport.write(memoryview(b"end"))))
    writer.start()
    received = b""
    while not received.endswith(b"end"):
        received += os.read(peer_read, 1 << 20)
    writer.join()
    assert written == [3]
    assert len(received) == total + 3


def test_closing_the_write_side_ends_the_peers_reading_only(pipes, read_some):
    transport, peer_read, peer_write, _ = pipes
    transport.close_write()
    transport.close_write()
    assert os.read(peer_read, 1) == b""
    os.write(peer_write, b"still here")
    assert read_some(transport) == b"still here"


def test_the_end_of_the_peers_stream_reads_as_zero(pipes, read_some):
    transport, _, peer_write, close_peer = pipes
    close_peer(peer_write)
    assert read_some(transport) == b""


def test_writing_to_a_peer_that_is_gone_raises(pipes):
    transport, peer_read, _, close_peer = pipes
    close_peer(peer_read)
    with pytest.raises(BrokenPipeError):
        transport.write_some((memoryview(b"x"),))


def test_after_close_nothing_is_read_or_written_under_an_old_number(pipes, read_some):
    transport, _, _, _ = pipes
    transport.close()
    transport.close()
    poll = select.poll()
    for fd in (*transport.read_fds, transport.write_fd):
        poll.register(fd)
    assert {event for _, event in poll.poll()} == {select.POLLNVAL}
    with pytest.raises(OSError):
        read_some(transport)
    with pytest.raises(OSError):
        transport.write_some((memoryview(b"x"),))


def test_on_close_is_called_once():
    calls = []
    transport = FdTransport(*os.pipe(), on_close=lambda: calls.append(1))
    transport.close()
    transport.close()
    assert calls == [1]


def test_pipes_are_made_larger_and_writing_does_not_block(pipes):
    import fcntl

    transport, _, _, _ = pipes
    if fcntl.fcntl(transport.write_fd, fcntl.F_GETPIPE_SZ) != 1 << 20:
        # The pipes of a user may be at their common limit, which we share with others.
        with pytest.raises(PermissionError):
            fcntl.fcntl(transport.write_fd, fcntl.F_SETPIPE_SZ, 1 << 20)
    assert not os.get_blocking(transport.write_fd)
    assert os.get_blocking(transport.read_fds[0])


def test_blocking_mode_is_given_back_to_others_who_have_the_pipe():
    read_fd, write_fd = os.pipe()
    other = os.dup(write_fd)
    transport = FdTransport(read_fd, write_fd)
    assert not os.get_blocking(other)
    transport.close()
    assert os.get_blocking(other)
    os.close(other)


def test_a_pipe_that_was_non_blocking_stays_so():
    read_fd, write_fd = os.pipe()
    other = os.dup(write_fd)
    os.set_blocking(write_fd, False)
    FdTransport(read_fd, write_fd).close()
    assert not os.get_blocking(other)
    os.close(other)


def test_a_blocking_pipe_is_written_in_steps_that_do_not_block():
    read_fd, write_fd = os.pipe()
    own_read, peer_write = os.pipe()
    transport = FdTransport(own_read, write_fd, nonblocking=False)
    assert os.get_blocking(write_fd)
    block = memoryview(bytes(1 << 16))
    assert transport.write_some((block, block)) == select.PIPE_BUF
    while transport.write_some((block,)):
        pass
    assert transport.write_some((block,)) == 0
    os.read(read_fd, select.PIPE_BUF)
    assert transport.write(block) == select.PIPE_BUF
    transport.close()
    os.close(read_fd)
    os.close(peer_write)


def test_reading_a_non_blocking_descriptor_says_that_nothing_is_there():
    read_fd, peer_write = os.pipe()
    os.set_blocking(read_fd, False)
    transport = FdTransport(read_fd, os.dup(peer_write))
    with pytest.raises(BlockingIOError):
        transport.read_into(memoryview(bytearray(10)))
    transport.close()
    os.close(peer_write)


def test_two_descriptors_are_read_each_by_its_number(read_some):
    (first, to_first), (second, to_second) = os.pipe(), os.pipe()
    unused, write_fd = os.pipe()
    transport = FdTransport(first, write_fd, second)
    os.write(to_first, b"one")
    os.write(to_second, b"two")
    assert read_some(transport, 1) == b"two"
    assert read_some(transport, 0) == b"one"
    transport.close()
    for fd in (to_first, to_second, unused):
        os.close(fd)


def test_a_prefix_comes_before_what_is_in_the_pipe(read_some):
    read_fd, peer_write = os.pipe()
    transport = FdTransport(read_fd, os.dup(peer_write), prefix={0: b"0123456789", 1: b""})
    assert set(transport.prefix) == {0}
    os.write(peer_write, b"pipe")
    small = memoryview(bytearray(8))
    assert transport.read_into(small) == 8
    assert small == b"01234567"
    assert read_some(transport) == b"89"
    assert transport.prefix == {}
    assert read_some(transport) == b"pipe"
    transport.close()
    os.close(peer_write)


def test_a_socket_is_closed_by_halves(read_all, write_all):
    ours, theirs = socket.socketpair()
    fd = ours.detach()
    transport = FdTransport(fd, fd)
    write_all(transport, b"last words")
    transport.close_write()
    assert theirs.makefile("rb").read() == b"last words"
    theirs.sendall(b"answer")
    theirs.close()
    os.set_blocking(fd, True)
    assert read_all(transport) == b"answer"
    transport.close()


def test_closing_a_socket_tells_the_peer_although_a_copy_is_open():
    ours, theirs = socket.socketpair()
    copy = ours.dup()
    fd = ours.detach()
    FdTransport(fd, fd).close()
    assert theirs.recv(1) == b""
    copy.close()
    theirs.close()


def test_a_connection_reset_by_the_peer_reads_as_the_end(read_some):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    # With a linger time of zero, close() resets the connection: tcp(7), SO_LINGER.
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    fd = ours.detach()
    os.set_blocking(fd, True)
    transport = FdTransport(fd, fd, nonblocking=False)
    assert read_some(transport) == b""
    transport.close_write()  # not connected any more: nobody to tell
    transport.close()


def test_a_terminals_settings_are_put_back():
    master, slave = pty.openpty()
    witness = os.dup(slave)
    before = termios.tcgetattr(witness)
    transport = FdTransport(slave, slave)
    assert termios.tcgetattr(witness) != before
    transport.close()
    assert termios.tcgetattr(witness) == before
    os.close(witness)
    os.close(master)


def test_a_terminal_passes_all_bytes_unchanged(read_some, write_all):
    master, slave = pty.openpty()
    ours, theirs = FdTransport(master, master), FdTransport(slave, slave)
    data = bytes(range(256)) * 20
    received = b""
    for start in range(0, len(data), 512):
        write_all(ours, data[start : start + 512])
        while len(received) < start + 512:
            received += read_some(theirs)
    assert received == data
    write_all(theirs, b"\n\x03\x04")
    received = b""
    while len(received) < 3:
        received += read_some(ours)
    assert received == b"\n\x03\x04"
    theirs.close()
    ours.close()


def test_a_terminal_that_nobody_reads_takes_nothing_and_does_not_block():
    master, slave = pty.openpty()
    peer, transport = FdTransport(slave, slave), FdTransport(master, master)
    block = memoryview(bytes(1 << 16))
    refused = 0
    while refused < 100:  # the kernel carries bytes over in its own time, which makes room
        refused = 0 if transport.write_some((block,)) else refused + 1
    transport.close()
    peer.close()


def test_a_terminal_whose_other_side_closed_reads_as_the_end(read_some):
    master, slave = pty.openpty()
    transport = FdTransport(master, master)
    os.close(slave)
    assert read_some(transport) == b""
    transport.close()


def test_closing_by_halves_leaves_a_terminal_open():
    master, slave = pty.openpty()
    transport = FdTransport(master, master)
    transport.close_write()
    assert transport.write_fd == master
    transport.close()
    os.close(slave)


def test_objects_close_their_own_descriptor():
    read_fd, write_fd = os.pipe()
    reader = os.fdopen(read_fd, "rb", buffering=0)
    writer = os.fdopen(write_fd, "wb", buffering=0)
    transport = FdTransport(read_fd, write_fd, owners={read_fd: [reader], write_fd: [writer]})
    transport.close()
    assert reader.closed
    assert writer.closed


def test_a_forked_process_lets_go_and_leaves_the_parents_copy_working(script):
    import subprocess

    source = """
        import os, socket
        from streamipc.transports.pipe import FdTransport, release_after_fork

        (r1, w1), (r2, w2) = os.pipe(), os.pipe()
        reader = os.fdopen(r1, "rb", buffering=0)
        ours = FdTransport(r1, w2, owners={r1: [reader]}, on_close=lambda: print("no"))
        go_read, go_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(w1), os.close(r2), os.close(go_write)
            ours._lock.acquire()  # as if another thread had held it
            ours.close_after_fork()
            ours.close()
            for fd in (*ours.read_fds, ours.write_fd):
                try:
                    os.fstat(fd)
                except OSError:
                    continue
                raise AssertionError
            os.read(go_read, 1)  # lives on
            assert reader.read(1) == b"", "the number now is the null device"
            reader.close()
            os._exit(0)
        ours.write(memoryview(b"works"))
        assert not os.get_blocking(w2)
        assert os.read(r2, 10) == b"works"
        ours.close_write()
        assert os.read(r2, 10) == b"", "the forked process holds the pipe open"
        os.close(go_write)
        assert os.waitpid(pid, 0)[1] == 0
    """
    done = subprocess.run(script(source), capture_output=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_without_poll_it_blocks_and_says_so(monkeypatch):
    monkeypatch.delattr(select, "poll")
    transport = FdTransport(*os.pipe())
    assert not transport.pollable
    assert os.get_blocking(transport.write_fd)
    assert transport.write(memoryview(b"abc")) == 3
    buffer = memoryview(bytearray(10))
    assert transport.read_into(buffer) == 3
    transport.close()


def test_a_large_pipe_is_not_insisted_on(monkeypatch):
    import fcntl

    monkeypatch.delattr(fcntl, "F_SETPIPE_SZ")
    transport = FdTransport(*os.pipe())
    assert fcntl.fcntl(transport.write_fd, fcntl.F_GETPIPE_SZ) < 1 << 20
    transport.close()


def test_writing_waits_for_room(pipes):
    transport, peer_read, _, _ = pipes
    while transport.write_some((memoryview(bytes(4096)),)):
        pass
    reading = threading.Timer(0.05, os.read, (peer_read, 1 << 16))
    reading.start()

    assert transport.write(memoryview(b"more")) == 4
    reading.join()


def test_what_was_read_ahead_from_one_source_is_not_taken_for_anothers(pipes, read_some):
    transport, _, peer_write, _ = pipes
    transport.prefix = {1: b"of another"}
    os.write(peer_write, b"own")

    assert read_some(transport) == b"own"


def test_without_a_spare_descriptor_a_forked_copy_is_closed(monkeypatch):
    reading, writing = os.pipe()

    def fail(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        release_after_fork(writing, owned=True)

    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_descriptor_that_somebody_else_has_closed_is_let_go_of():
    theirs_read, write = os.pipe()
    read, theirs_write = os.pipe()
    transport = FdTransport(read, write)
    os.close(read)
    os.close(write)

    transport.close()

    assert os.read(theirs_read, 1) == b""
    with pytest.raises(BrokenPipeError):
        os.write(theirs_write, b"x")
    os.close(theirs_read)
    os.close(theirs_write)


def test_after_a_fork_nothing_is_read_or_written_under_an_old_number():
    (read_fd, theirs_write), (theirs_read, write_fd) = os.pipe(), os.pipe()
    copy = FdTransport(read_fd, write_fd)
    copy.close_after_fork()
    other_read, other_write = os.pipe()
    os.dup2(other_read, read_fd)  # the numbers are those of another file now
    os.dup2(other_write, write_fd)
    try:
        os.write(other_write, b"for another")
        with pytest.raises(OSError, match="Bad file descriptor"):
            copy.read_into(memoryview(bytearray(64)))
        for buffers in ([b"x"], [b"x", b"y"]):
            with pytest.raises(OSError, match="Bad file descriptor"):
                copy.write_some(buffers)
        assert os.read(other_read, 64) == b"for another"
    finally:
        for fd in {read_fd, write_fd, theirs_read, theirs_write, other_read, other_write}:
            os.close(fd)


def test_a_forked_copy_that_was_closed_already_is_let_go_of():
    read, write = os.pipe()
    os.close(write)

    release_after_fork(write, owned=False)

    assert os.read(read, 1) == b""
    os.close(read)
