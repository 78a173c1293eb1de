"""Sessions over every kind of stream, and over a transport of the user's own."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shared_messages import Add, Echo, Note

from streamipc import (
    IpcPeer,
    IpcSession,
    LogMessage,
    RequestContext,
    RequestTimeoutError,
    SessionClosedError,
)

Pair = tuple[IpcSession, IpcSession]


def serve(session: IpcSession) -> None:
    session.on_request(Echo)(lambda msg: msg.value)
    session.on_request(Add)(lambda msg: msg.a + msg.b)
    session.start()


def raw_pipes() -> tuple[Any, Any]:
    (a, b), (c, d) = os.pipe(), os.pipe()
    return (b, c), (d, a)


def unbuffered_files() -> tuple[Any, Any]:
    (one, two), (three, four) = raw_pipes()
    return (
        (os.fdopen(one, "wb", buffering=0), os.fdopen(two, "rb", buffering=0)),
        (os.fdopen(three, "wb", buffering=0), os.fdopen(four, "rb", buffering=0)),
    )


def buffered_files() -> tuple[Any, Any]:
    (one, two), (three, four) = raw_pipes()
    return (
        (os.fdopen(one, "wb"), os.fdopen(two, "rb")),
        (os.fdopen(three, "wb"), os.fdopen(four, "rb")),
    )


def sockets() -> tuple[Any, Any]:
    left, right = socket.socketpair()
    return (left, left), (right, right)


def tcp_sockets() -> tuple[Any, Any]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        right, _ = server.accept()
    return (left, left), (right, right)


def socket_files() -> tuple[Any, Any]:
    ends = []
    for end in socket.socketpair():
        ends.append((end.makefile("wb"), end.makefile("rb")))
        end.close()
    return ends[0], ends[1]


def socket_file_pairs() -> tuple[Any, Any]:
    ends = []
    for end in socket.socketpair():
        both = end.makefile("rwb")
        ends.append((both, both))
        end.close()
    return ends[0], ends[1]


def terminal() -> tuple[Any, Any]:
    import pty

    master, slave = pty.openpty()
    return (master, master), (slave, slave)


class Methods:
    """A file object that shows no descriptor."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write

    def read(self, size: int) -> bytes:
        return os.read(self._read, min(size, 1000)) if self._read >= 0 else b""

    def write(self, data: bytes) -> int:
        return os.write(self._write, data[:1000])

    def flush(self) -> None: ...

    def close(self) -> None:
        for fd in (self._read, self._write):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._read = self._write = -1


KINDS: list[Callable[[], tuple[Any, Any]]] = [
    raw_pipes,
    unbuffered_files,
    buffered_files,
    sockets,
    tcp_sockets,
    socket_files,
    socket_file_pairs,
]
if os.name == "posix":
    KINDS.append(terminal)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    left, right = request.param()
    sessions = (
        IpcPeer().create_stream_session(*left),
        IpcPeer().create_stream_session(*right),
    )
    yield sessions
    for session in sessions:
        session.close(timeout=2)


def test_requests_and_notifications_pass_both_ways(pair: Pair) -> None:
    for session in pair:
        serve(session)
    for asking, other in (pair, pair[::-1]):
        assert [asking.request(Add(n, n)).result(timeout=10) for n in range(20)] == [
            2 * n for n in range(20)
        ]
        text = "0123456789" * 30_000
        assert asking.request(Echo(text)).result(timeout=20) == text
        asking.notify(Note("x", 7))
        assert other.receive(timeout=10) == Note("x", 7)


def test_bytes_of_every_value_pass_unchanged(pair: Pair) -> None:
    asking, answering = pair
    serve(answering)
    data = bytes(range(256)) * 20

    assert asking.request(Echo(data)).result(timeout=10) == data


def test_closing_one_side_ends_the_other(pair: Pair) -> None:
    left, right = pair
    serve(left)
    serve(right)
    assert left.request(Echo(1)).result(timeout=10) == 1
    closed = threading.Event()
    right.on_close(closed.set)
    left.close()

    assert closed.wait(10)
    with pytest.raises(SessionClosedError):
        right.request(Echo())


def test_threads_share_a_stream(pair: Pair, in_threads: Any) -> None:
    for session in pair:
        serve(session)

    def work(number: int) -> None:
        asking = pair[number % 2]
        for n in range(25):
            assert asking.request(Echo((number, n))).result() == (number, n)

    in_threads(6, work)


def test_file_objects_without_a_descriptor(in_threads: Any) -> None:
    (a, b), (c, d) = os.pipe(), os.pipe()
    left = IpcPeer().create_stream_session(Methods(-1, b), Methods(c, -1))
    right = IpcPeer().create_stream_session(Methods(-1, d), Methods(a, -1))
    serve(left)
    serve(right)

    def work(number: int) -> None:
        for n in range(25):
            assert (left, right)[number % 2].request(Echo(n)).result(timeout=20) == n

    in_threads(6, work)
    with pytest.raises(TimeoutError):
        left.request(Echo(), timeout=0).result()
    left.close(timeout=2)
    right.close(timeout=2)


def test_a_second_stream_is_read_too() -> None:
    (a, b), (c, d), (e, f) = os.pipe(), os.pipe(), os.pipe()
    session = IpcPeer().create_stream_session(b, c, e)
    with session, os.fdopen(f, "wb", buffering=0) as second:
        other = IpcPeer().create_stream_session(d, a)
        serve(other)
        assert session.request(Echo(1)).result(timeout=10) == 1
        second.write(b"a warning on standard error")
        message = session.receive(timeout=10)
        assert message == LogMessage("a warning on standard error", "junk")
        second.close()
        # The end of the second stream is not the end of the session.
        assert session.request(Echo(2)).result(timeout=10) == 2
        other.close()


@pytest.mark.skipif(os.name != "posix", reason="there is no pty module on Windows")
def test_a_child_in_a_terminal(script: Any) -> None:
    import pty
    import subprocess

    command = script("""
        import os
        from shared_messages import Echo
        from streamipc import IpcPeer
        session = IpcPeer().create_stream_session(1, 0)
        session.on_request(Echo)(lambda msg: [msg.value, os.isatty(0)])
        session.serve_forever()
    """)
    master, slave = pty.openpty()
    session = IpcPeer().create_stream_session(master, master)
    child = subprocess.Popen(command, stdin=slave, stdout=slave)
    os.close(slave)
    try:
        with session:
            text = "\x03\x04\r\n\x00" * 200
            assert session.request(Echo(text)).result(timeout=20) == [text, True]
    finally:
        child.terminate()
        child.wait(10)


# A transport of the user's own


class Pipe:
    """A user's transport: two queues."""

    def __init__(self, incoming: queue.Queue[bytes], outgoing: queue.Queue[bytes]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._rest = b""
        self.closed = 0
        self.closed_write = 0

    def read_into(self, buffer: memoryview) -> int:
        if not self._rest:
            self._rest = self._incoming.get()
        count = min(len(buffer), len(self._rest), 100)
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def write(self, data: memoryview) -> int:
        self._outgoing.put(bytes(data[:1000]))
        return min(len(data), 1000)

    def close_write(self) -> None:
        self.closed_write += 1
        self._outgoing.put(b"")

    def close(self) -> None:
        self.closed += 1
        self._incoming.put(b"")


@pytest.mark.usefixtures("switching")
def test_a_transport_of_the_users_own(in_threads: Any) -> None:
    one: queue.Queue[bytes] = queue.Queue()
    two: queue.Queue[bytes] = queue.Queue()
    transports = Pipe(one, two), Pipe(two, one)
    left, right = (IpcPeer().create_session(transport) for transport in transports)
    serve(left)
    serve(right)

    def work(number: int) -> None:
        for n in range(30):
            assert (left, right)[number % 2].request(Echo((number, n))).result(timeout=20) == (
                number,
                n,
            )

    in_threads(6, work)
    text = "x" * 50_000
    assert left.request(Echo(text)).result(timeout=20) == text
    with pytest.raises(TimeoutError):
        left.request(Echo(), timeout=0.0).result()
    go = threading.Event()
    right.on_request(Note)(lambda msg: go.wait(20))
    with pytest.raises(TimeoutError):
        left.request(Note(), timeout=0.05).result()
    go.set()
    left.close(timeout=2)
    right.close(timeout=2)
    assert all(transport.closed for transport in transports)
    assert all(transport.closed_write for transport in transports)


class Breaking(Pipe):
    """Fails when it is told to."""

    error: Exception | None = None

    def read_into(self, buffer: memoryview) -> int:
        count = super().read_into(buffer)
        if self.error:
            raise self.error
        return count


@pytest.mark.parametrize("error", [OSError("the cable broke"), ConnectionResetError("reset")])
def test_an_error_of_a_transport_ends_the_session_and_says_why(error: Exception) -> None:
    incoming: queue.Queue[bytes] = queue.Queue()
    transport = Breaking(incoming, queue.Queue())
    session = IpcPeer().create_session(transport)
    future = session.request(Echo())
    transport.error = error
    incoming.put(b"x")

    with pytest.raises(SessionClosedError, match=f"reading failed .*{error}"):
        future.result(timeout=10)
    session.close()


def test_an_error_of_a_transport_that_is_no_oserror_ends_the_session_too() -> None:
    incoming: queue.Queue[bytes] = queue.Queue()
    transport = Breaking(incoming, queue.Queue())
    session = IpcPeer().create_session(transport)
    future = session.request(Echo())
    transport.error = ZeroDivisionError("a mistake in the transport")
    incoming.put(b"x")

    with pytest.raises(SessionClosedError, match="a mistake in the transport"):
        future.result(timeout=10)
    session.close()


class Unwritable(Pipe):
    """Fails to write, and never has anything to read."""

    def __init__(self, error: Exception) -> None:
        super().__init__(queue.Queue(), queue.Queue())
        self.error = error

    def write(self, data: memoryview) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError("gone"), ZeroDivisionError("a mistake")])
def test_a_transport_that_cant_write_ends_the_session_and_says_why(error: Exception) -> None:
    session = IpcPeer().create_session(Unwritable(error))
    said = rf"writing failed \({type(error).__name__}: {error}\)"

    with pytest.raises(SessionClosedError, match=said):
        session.request(Echo()).result(timeout=10)
    with pytest.raises(SessionClosedError, match=said):
        session.notify(Note())
    session.close(timeout=1)


class Hesitant(Pipe):
    """Takes nothing every other time."""

    def __init__(self, incoming: queue.Queue[bytes], outgoing: queue.Queue[bytes]) -> None:
        super().__init__(incoming, outgoing)
        self.calls = 0

    def write(self, data: memoryview) -> int:
        self.calls += 1
        return super().write(data) if self.calls % 2 else 0


def test_a_transport_that_sometimes_takes_nothing_is_asked_again() -> None:
    one: queue.Queue[bytes] = queue.Queue()
    two: queue.Queue[bytes] = queue.Queue()
    transports = Hesitant(one, two), Pipe(two, one)
    left, right = (IpcPeer().create_session(transport) for transport in transports)
    serve(right)
    text = "x" * 10_000

    assert [left.request(Echo(text)).result(timeout=20) for _ in range(5)] == [text] * 5
    assert transports[0].calls >= 100
    left.close(timeout=2)
    right.close(timeout=2)


def test_notifications_over_a_transport_of_the_users_own_are_handled_in_order() -> None:
    one: queue.Queue[bytes] = queue.Queue()
    two: queue.Queue[bytes] = queue.Queue()
    left, right = (IpcPeer().create_session(pipe) for pipe in (Pipe(one, two), Pipe(two, one)))
    seen: queue.SimpleQueue[int] = queue.SimpleQueue()
    right.on_message(Note)(lambda msg: seen.put(msg.number))
    right.start()

    for number in range(200):
        left.notify(Note(number=number))

    assert [seen.get(timeout=20) for _ in range(200)] == list(range(200))
    left.close(timeout=2)
    right.close(timeout=2)


class Stuck(Pipe):
    """A write takes what it is given when the test says so; a read is ended by the test alone."""

    def __init__(self, incoming: queue.Queue[bytes], outgoing: queue.Queue[bytes]) -> None:
        super().__init__(incoming, outgoing)
        self.may_write = threading.Event()
        self.in_write = threading.Event()

    def write(self, data: memoryview) -> int:
        self.in_write.set()
        assert self.may_write.wait(60)
        if self.closed:
            raise OSError("was closed")
        return super().write(data)

    def close(self) -> None:
        self.closed += 1
        self.may_write.set()


def test_a_write_to_a_transport_that_takes_nothing_respects_its_deadline() -> None:
    incoming: queue.Queue[bytes] = queue.Queue()
    transport = Stuck(incoming, queue.Queue())
    session = IpcPeer().create_session(transport)
    start = time.monotonic()
    with pytest.raises(RequestTimeoutError, match="the peer does not read"):
        session.notify(Note("x" * 3_000_000), timeout=0.1)
    with pytest.raises(RequestTimeoutError):
        session.request(Echo(), timeout=0.1).result()
    assert time.monotonic() - start < 20

    session.close(timeout=0.1)
    assert time.monotonic() - start < 20
    assert session.closed
    incoming.put(b"")


def test_what_was_sent_reaches_a_slow_transport_before_it_is_closed() -> None:
    incoming: queue.Queue[bytes] = queue.Queue()
    outgoing: queue.Queue[bytes] = queue.Queue()
    transport = Stuck(incoming, outgoing)
    session = IpcPeer().create_session(transport)
    for number in range(50):
        session.notify(Note("x" * 1000, number))
    sent = session.stats.bytes_sent
    assert sent > 50_000
    assert transport.in_write.wait(20)
    closing = threading.Thread(target=session.close, args=(60,))
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    assert not transport.closed
    incoming.put(b"")
    transport.may_write.set()
    closing.join(60)

    assert not closing.is_alive()
    pieces = [outgoing.get_nowait() for _ in range(outgoing.qsize())]
    assert pieces[-1] == b"", "the end comes last"
    assert len(b"".join(pieces)) == sent


@pytest.mark.parametrize("error", [OSError("not connected"), ZeroDivisionError("a mistake")])
def test_a_transport_that_fails_to_end_its_direction_is_closed_and_its_mistake_reported(
    error: Exception,
) -> None:
    class Unending(Pipe):
        def close_write(self) -> None:
            raise error

    transport = Unending(queue.Queue(), queue.Queue())
    session = IpcPeer().create_session(transport)
    reported: list[Exception] = []
    session.on_exception(reported.append)
    session.notify(Note())
    session.close(timeout=20)

    assert session.closed
    assert transport.closed
    assert reported == ([] if isinstance(error, OSError) else [error])


def test_closing_twice_hurries_a_session_whose_peer_has_ended_and_takes_nothing() -> None:
    """The first end has no limit of its own: handlers have all the time to answer."""
    incoming: queue.Queue[bytes] = queue.Queue()
    transport = Stuck(incoming, queue.Queue())
    session = IpcPeer().create_session(transport)
    session.notify(Note())
    assert transport.in_write.wait(20)
    incoming.put(b"")
    assert session._engine.shutdown.ended.wait(20)
    start = time.monotonic()
    session.close(timeout=0.2)

    assert time.monotonic() - start < 20
    assert transport.closed


def test_handlers_are_cancelled_once_a_transport_can_be_neither_read_nor_written() -> None:
    one: queue.Queue[bytes] = queue.Queue()
    two: queue.Queue[bytes] = queue.Queue()

    class Dying(Pipe):
        def write(self, data: memoryview) -> int:
            raise BrokenPipeError("nobody is there")

    left = IpcPeer().create_session(Pipe(one, two))
    right = IpcPeer().create_session(Dying(two, one))
    entered = threading.Event()
    cancelled = threading.Event()

    @right.on_request
    def hold(msg: Echo, ctx: RequestContext) -> object:
        ctx.on_cancel(cancelled.set)
        entered.set()
        assert cancelled.wait(60)
        return None

    right.start()
    left.request(Echo())
    assert entered.wait(20)
    two.put(b"")  # the end of what is read
    assert right._engine.shutdown.ended.wait(20)
    assert not cancelled.is_set()
    right._engine.writer.offer([b"whatever is written fails"])

    assert cancelled.wait(60)
    left.close(timeout=0)
    right.close(timeout=0)


def test_where_poll_is_missing_sessions_wait_by_select(
    monkeypatch: pytest.MonkeyPatch, in_threads: Any
) -> None:
    monkeypatch.delattr(select, "poll")
    (a, b), (c, d) = os.pipe(), os.pipe()
    ours, theirs = socket.socketpair()
    pairs = [
        (IpcPeer().create_stream_session(b, c), IpcPeer().create_stream_session(d, a)),
        (
            IpcPeer().create_stream_session(ours, ours),
            IpcPeer().create_stream_session(*[theirs] * 2),
        ),
    ]
    for left, right in pairs:
        serve(left)
        serve(right)
        text = "x" * 3_000_000
        assert left.request(Echo(text)).result(timeout=20) == text

        def work(number: int, pair: Pair = (left, right)) -> None:
            for n in range(25):
                assert pair[number % 2].request(Echo(n)).result(timeout=20) == n

        in_threads(6, work)
        gone = threading.Event()
        right.on_close(gone.set)
        left.close()
        assert gone.wait(20)
        right.close()
