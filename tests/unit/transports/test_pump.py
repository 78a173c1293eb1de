"""What blocks, behind sockets that can be polled."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamipc.transports import pipe
from streamipc.transports.pipe import FdTransport
from streamipc.transports.pump import BUFFER, CHUNK, PumpedTransport, pumped

LONG = 30

MOST = 8 * BUFFER + 2 * CHUNK
"""More than one direction holds, whatever the system makes of the size that it is asked for."""


class Medium:
    """A transport of the user's own: what it gives and what it takes is said by the test."""

    def __init__(self) -> None:
        self.incoming: queue.Queue[bytes | BaseException] = queue.Queue()
        self.taken: list[memoryview] = []
        self.calls: list[str] = []
        self.may_write = threading.Event()
        self.may_write.set()
        self.in_write = threading.Event()
        self.most = 1 << 30
        self.error: BaseException | None = None
        self.close_error: Exception | None = None

    def read_into(self, buffer: memoryview) -> int:
        data = self.incoming.get()
        if isinstance(data, BaseException):
            raise data
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: memoryview) -> int:
        self.in_write.set()
        assert self.may_write.wait(LONG)
        if self.error is not None:
            raise self.error
        self.taken.append(data[: self.most])
        return len(self.taken[-1])

    def close_write(self) -> None:
        self.calls.append("close_write")
        if self.close_error is not None:
            raise self.close_error

    def close(self) -> None:
        self.calls.append("close")
        self.incoming.put(b"")
        self.may_write.set()

    @property
    def data(self) -> bytes:
        return b"".join(self.taken)


@pytest.fixture
def medium() -> Medium:
    return Medium()


@pytest.fixture
def make(medium: Medium) -> Iterator[Callable[..., PumpedTransport]]:
    """Start a pump before the medium, or what the test gives; it is closed with the test."""
    made: list[PumpedTransport] = []

    def start(transport: Any = medium, on_write_failure: Any = None) -> PumpedTransport:
        made.append(pumped(transport))
        made[-1].start_pump(on_write_failure)
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture(params=[None, 1e-6], ids=["", "switching-fast"])
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    before = sys.getswitchinterval()
    if request.param is not None:
        sys.setswitchinterval(request.param)
    yield
    sys.setswitchinterval(before)


def is_ready(fd: int, events: int, seconds: float = LONG) -> bool:
    poller = select.poll()
    poller.register(fd, events)
    return bool(poller.poll(seconds * 1000))


def read_when_there(transport: PumpedTransport, source: int = 0) -> bytes:
    buffer = memoryview(bytearray(CHUNK))
    assert is_ready(transport.read_fds[source], select.POLLIN)
    return bytes(buffer[: transport.read_into(buffer, source)])


def fill(transport: PumpedTransport) -> int:
    """Write until there is no room, and none comes within a moment; return how many bytes."""
    count = 0
    while count < MOST:
        written = transport.write_some([memoryview(b"x" * 10_000)])
        count += written
        if not (written or is_ready(transport.write_fd, select.POLLOUT, 0.2)):
            break
    return count


# Inward


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize(
    "error", [OSError("the cable broke"), ConnectionResetError("reset"), ZeroDivisionError("bug")]
)
def test_what_came_before_an_error_is_read_before_it(
    medium: Medium, make: Any, error: Exception
) -> None:
    for last in (b"all of it", error):
        medium.incoming.put(last)
    transport = make()

    assert read_when_there(transport) == b"all of it"
    with pytest.raises(type(error)) as caught:
        read_when_there(transport)
    assert caught.value is error


def test_an_exception_that_would_end_a_thread_ends_the_stream(medium: Medium, make: Any) -> None:
    medium.incoming.put(SystemExit("enough"))

    with pytest.raises(RuntimeError, match="SystemExit: enough"):
        read_when_there(make())


@pytest.mark.parametrize("nothing", [BlockingIOError(), InterruptedError()])
def test_a_read_that_has_nothing_to_say_is_tried_again(
    medium: Medium, make: Any, nothing: OSError
) -> None:
    for one in (nothing, b"something", b""):
        medium.incoming.put(one)
    transport = make()

    assert read_when_there(transport) == b"something"
    assert read_when_there(transport) == b""


def test_a_session_that_does_not_read_bounds_what_is_read_for_it(make: Any) -> None:
    class Endless(Medium):
        given = 0

        def read_into(self, buffer: memoryview) -> int:
            if "close" in self.calls:
                return 0
            self.given += len(buffer)
            return len(buffer)

    endless = Endless()
    transport = make(endless)
    assert is_ready(transport.read_fds[0], select.POLLIN)
    before = 0
    while before != endless.given:
        before = endless.given
        time.sleep(0.2)

    assert endless.given < MOST
    assert read_when_there(transport)


# Outward


@pytest.mark.usefixtures("switching")
def test_all_that_was_written_goes_out_before_the_end_does(
    medium: Medium, make: Any, write_all: Any
) -> None:
    medium.most = 30_000
    transport = make()
    data = os.urandom(1 << 20)
    write_all(transport, data)
    transport.close_write()

    assert transport.wait_for_pump(LONG)
    assert medium.calls == ["close_write"]
    assert medium.data == data


def test_a_transport_may_keep_what_it_is_given(medium: Medium, make: Any, write_all: Any) -> None:
    transport = make()
    for number in range(20):
        write_all(transport, bytes([number]) * 1000)
    transport.close_write()

    assert transport.wait_for_pump(LONG)
    assert medium.data == b"".join(bytes([number]) * 1000 for number in range(20))


def test_a_transport_that_is_slow_bounds_the_sender_and_stops_no_reader(
    medium: Medium, make: Any
) -> None:
    medium.may_write.clear()
    transport = make()

    assert 0 < fill(transport) < MOST
    assert medium.in_write.wait(LONG)
    assert fill(transport) < MOST  # for what the thread has taken meanwhile
    assert transport.write_some([memoryview(b"no room")]) == 0
    medium.incoming.put(b"read meanwhile")
    assert read_when_there(transport) == b"read meanwhile"
    transport.close_write()
    assert not transport.wait_for_pump(0.01)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("error", [BrokenPipeError("gone"), ZeroDivisionError("bug")])
def test_a_write_that_fails_is_reported_before_it_is_seen(
    medium: Medium, make: Any, error: Exception
) -> None:
    medium.error = error
    told: queue.Queue[tuple[Exception, bool]] = queue.Queue()
    made: list[PumpedTransport] = []

    def tell(failure: Exception) -> None:
        sees_nothing = not is_ready(made[0].write_fd, 0, 0)  # no POLLHUP, no POLLERR
        told.put((failure, sees_nothing))

    made.append(pumped(medium))
    assert made[0].write_some([memoryview(b"lost")])  # it waits for the start
    made[0].start_pump(tell)

    assert told.get(timeout=LONG) == (error, True)
    assert made[0].wait_for_pump(LONG)
    with pytest.raises(OSError, match="Broken pipe"):
        made[0].write_some([memoryview(b"x")])
    medium.incoming.put(b"reading goes on")
    assert read_when_there(made[0]) == b"reading goes on"
    made[0].close()


def test_a_write_that_fails_with_nobody_to_tell_ends_the_thread(medium: Medium, make: Any) -> None:
    medium.error = BrokenPipeError("gone")
    transport = make()
    transport.write(memoryview(b"lost"))

    assert transport.wait_for_pump(LONG)
    assert is_ready(transport.write_fd, 0)  # POLLHUP


def test_a_failure_to_end_the_stream_is_reported_as_one_to_write_is(
    medium: Medium, make: Any
) -> None:
    medium.close_error = ValueError("was closed already")
    told: queue.Queue[Exception] = queue.Queue()
    transport = make(medium, told.put)
    transport.close_write()

    assert told.get(timeout=LONG) is medium.close_error
    assert transport.wait_for_pump(LONG)


# The end


def sockets_held() -> int:
    held = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one of the listing itself
            held += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    return held


def test_closing_ends_calls_that_block_and_leaves_nothing(medium: Medium, make: Any) -> None:
    medium.may_write.clear()
    before = sockets_held()
    transport = make()
    fill(transport)
    assert medium.in_write.wait(LONG)
    assert sockets_held() == before + 4
    transport.close()

    assert sockets_held() == before
    assert not [one for one in threading.enumerate() if one.name == "streamipc-pump"]
    transport.close()
    assert medium.calls == ["close"]


def test_a_read_that_nothing_ends_keeps_its_thread_until_it_returns(
    make: Any, eventually: Any
) -> None:
    class Deaf(Medium):
        def close(self) -> None:
            self.calls.append("close")

    deaf = Deaf()
    before = sockets_held()
    transport = make(deaf)
    start = time.monotonic()
    transport.close()

    assert time.monotonic() - start < 10
    assert sockets_held() == before + 1
    (thread,) = [one for one in threading.enumerate() if one.name == "streamipc-pump"]
    assert thread.daemon
    deaf.incoming.put(b"too late")
    thread.join(LONG)
    assert sockets_held() == before


def test_a_transport_may_close_the_pump_itself(make: Any, eventually: Any) -> None:
    class Shutdown(Medium):
        def read_into(self, buffer: memoryview) -> int:
            count = super().read_into(buffer)
            made[0].close()
            return count

    closing = Shutdown()
    made = [make(closing)]
    closing.incoming.put(b"close")

    eventually(lambda: "close" in closing.calls and not made[0]._flows[1]._thread.is_alive())


@pytest.mark.usefixtures("switching")
def test_a_start_and_an_end_at_the_same_time_leave_nothing() -> None:
    before = sockets_held()
    for _ in range(30):
        medium = Medium()
        transport = pumped(medium)
        starting = threading.Thread(target=transport.start_pump)
        starting.start()
        transport.close()
        starting.join(LONG)
        medium.close()  # a read that began after the close
        for flow in transport._flows:
            assert flow.ended.wait(LONG)
            flow.join(time.monotonic() + LONG)
        assert sockets_held() == before


def test_a_second_start_starts_nothing(make: Any) -> None:
    transport = make()
    transport.start_pump()

    names = [one.name for one in threading.enumerate()]
    assert names.count("streamipc-pump") == 2


@pytest.mark.parametrize("beyond", [0, 1])
def test_no_thread_for_copying_leaves_nothing_behind(
    medium: Medium, monkeypatch: pytest.MonkeyPatch, beyond: int
) -> None:
    before = sockets_held()
    transport = pumped(medium)
    left = [beyond]
    start = threading.Thread.start

    def start_some(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        transport.start_pump()
    transport.close()

    assert sockets_held() == before


@pytest.mark.parametrize("n", [1, 2])
def test_no_descriptor_for_it_leaves_nothing_behind(
    medium: Medium, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    before = sockets_held()
    made: list[int] = []
    real = socket.socketpair

    def make_some() -> Any:
        made.append(1)
        if len(made) == n:
            raise OSError(24, "Too many open files")
        return real()

    monkeypatch.setattr(socket, "socketpair", make_some)
    with pytest.raises(OSError, match="Too many open files"):
        pumped(medium)

    assert sockets_held() == before


def test_descriptors_that_cant_be_polled_are_pumped_from_all_their_sources(
    monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    (one, to_one), (two, to_two), (from_out, out) = os.pipe(), os.pipe(), os.pipe()
    with monkeypatch.context() as patch:
        patch.setattr(pipe, "can_poll", lambda: False)
        inner = FdTransport(one, out, two, prefix={0: b"read ahead"})
        assert not inner.pollable
        transport = make(inner)
    assert transport.pollable
    assert read_when_there(transport, 0) == b"read ahead"
    os.write(to_two, b"second")
    assert read_when_there(transport, 1) == b"second"
    transport.write(memoryview(b"out"))
    assert os.read(from_out, 10) == b"out"
    for fd in (to_one, to_two):
        os.close(fd)
    assert read_when_there(transport, 0) == read_when_there(transport, 1) == b""
    transport.close()
    assert os.read(from_out, 10) == b""
    os.close(from_out)
