"""The writer, over real pipes and over channels that take little at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from interrupting import interrupted_at, signals_raise

from streamipc import SessionClosedError
from streamipc.engine.channel import Channel
from streamipc.engine.writer import HIGH_WATER, Writer, WriteTimeoutError
from streamipc.transports.pipe import FdTransport


class Slow:
    """Takes up to ``most`` bytes at a time, and none while ``gate`` is shut."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.log: list[int] = []
        self.most = most
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Semaphore(0)
        self.data = bytearray()
        self.error: Exception | None = None

    def write_some(self, buffers: Sequence[Any]) -> int:
        if self.error is not None:
            raise self.error
        if not self.gate.is_set():
            return 0
        assert not self.log, "nobody has counted the last write"
        joined = b"".join(bytes(part) for part in buffers)[: self.most]
        self.log.extend(map(self._take, (joined,)))
        return len(joined)

    def _take(self, data: bytes) -> int:
        self.data += data
        return len(data)

    def handler_waits(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def wait_for_room(self, timeout: float | None) -> bool:
        self.waiting.release()
        return self.gate.wait(timeout)


class Rig:
    """A writer that notes what it says."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.backlogs: list[int] = []
        self.errors: list[Exception] = []
        self.backlog_came = threading.Semaphore(0)
        self.writer = Writer(channel, self._backlog, self.errors.append)

    def _backlog(self) -> None:
        self.backlogs.append(self.writer.backlog)
        self.backlog_came.release()


@pytest.fixture
def slow() -> Rig:
    return Rig(Slow())


def test_a_frame_goes_out_whole(slow: Rig) -> None:
    slow.writer.send([b"one"])
    slow.writer.send([b"two", bytearray(b"three"), memoryview(b"four")])

    assert bytes(slow.channel.data) == b"onetwothreefour"
    assert slow.writer.bytes_sent == 15
    assert slow.writer.frames_sent == 2
    assert slow.writer.backlog == 0


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_partial_writes_lose_nothing(most: int) -> None:
    rig = Rig(Slow(most))
    for n in range(20):
        rig.writer.send([b"head%d" % n, b"body" * n])
        rig.writer.send([b"single%d" % n])

    assert bytes(rig.channel.data) == b"".join(
        b"head%d" % n + b"body" * n + b"single%d" % n for n in range(20)
    )
    assert rig.writer.backlog == 0


def test_what_is_queued_goes_out_with_the_next_flush_in_order(slow: Rig) -> None:
    for n in range(200):
        slow.writer.queue([b"%03d" % n])
    assert not slow.channel.data
    assert slow.writer.backlog == 600
    slow.writer.flush()

    assert bytes(slow.channel.data) == b"".join(b"%03d" % n for n in range(200))
    assert slow.writer.backlog == 0
    slow.writer.flush()


def test_very_many_frames_count_as_much_without_being_added_up(slow: Rig) -> None:
    writer = slow.writer
    slow.channel.gate.clear()
    for n in range(5000):
        writer.queue([b"%04d" % n])
    writer.flush_some()

    assert writer.backlog > 1 << 30
    assert writer.is_congested()
    slow.channel.gate.set()
    writer.flush()
    assert bytes(slow.channel.data) == b"".join(b"%04d" % n for n in range(5000))
    assert writer.backlog == 0


def test_what_is_queued_goes_out_before_what_is_sent(slow: Rig) -> None:
    slow.writer.queue([b"first"])
    slow.writer.send([b"second"])

    assert bytes(slow.channel.data) == b"firstsecond"


def test_the_reading_thread_never_waits_for_room(slow: Rig) -> None:
    slow.channel.gate.clear()
    slow.writer.offer([b"answer"])

    assert slow.backlogs == [6]
    slow.channel.gate.set()
    slow.writer.flush()
    assert bytes(slow.channel.data) == b"answer"


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[Any]]:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_what_others_add_goes_out_with_the_flushers_next_write(slow: Rig) -> None:
    slow.channel.gate.clear()
    thread, outcome = in_thread(lambda: slow.writer.send([b"first"]))
    assert slow.channel.waiting.acquire(timeout=10)
    slow.writer.send([b"second"], tolerated=HIGH_WATER)
    slow.writer.offer([b"third"])
    assert slow.backlogs == []
    slow.channel.gate.set()
    thread.join(10)

    assert outcome == [None]
    assert bytes(slow.channel.data) == b"firstsecondthird"


def test_above_high_water_a_sender_waits_for_its_turn(slow: Rig) -> None:
    slow.channel.gate.clear()
    first, _ = in_thread(lambda: slow.writer.send([b"x" * HIGH_WATER]))
    assert slow.channel.waiting.acquire(timeout=10)
    second, outcome = in_thread(lambda: slow.writer.send([b"second"], tolerated=HIGH_WATER))
    second.join(0.05)
    assert second.is_alive()
    slow.channel.gate.set()
    first.join(10)
    second.join(10)

    assert outcome == [None]
    assert bytes(slow.channel.data) == b"x" * HIGH_WATER + b"second"


def test_a_frame_of_which_nothing_was_written_is_withdrawn_at_its_deadline(slow: Rig) -> None:
    slow.channel.gate.clear()
    with pytest.raises(WriteTimeoutError):
        slow.writer.send([b"withdrawn"], time.monotonic() + 0.01)
    with pytest.raises(WriteTimeoutError):
        slow.writer.send([b"with", b"drawn"], time.monotonic())
    slow.channel.gate.set()
    slow.writer.send([b"sent"])
    slow.writer.flush()

    assert bytes(slow.channel.data) == b"sent"
    assert slow.writer.backlog == 0


def test_a_frame_that_was_begun_is_finished_by_others() -> None:
    class Once(Slow):
        def write_some(self, buffers: Sequence[Any]) -> int:
            count = super().write_some(buffers)
            self.gate.clear()
            return count

    rig = Rig(Once(most=3))
    with pytest.raises(WriteTimeoutError):
        rig.writer.send([b"begun"], time.monotonic() + 0.01)
    assert rig.backlogs == [2]
    rig.channel.gate.set()
    rig.channel.most = 100
    rig.writer.flush()

    assert bytes(rig.channel.data) == b"begun"


def test_a_frame_behind_another_is_withdrawn_from_the_middle(slow: Rig) -> None:
    slow.channel.gate.clear()
    first, _ = in_thread(lambda: slow.writer.send([b"first"]))
    assert slow.channel.waiting.acquire(timeout=10)
    middle, outcome = in_thread(lambda: slow.writer.send([b"gone"], time.monotonic() + 0.05))
    middle.join(10)
    last, last_outcome = in_thread(lambda: slow.writer.send([b"last"]))
    slow.channel.gate.set()
    first.join(10)
    last.join(10)

    assert isinstance(outcome[0], WriteTimeoutError)
    assert last_outcome == [None]
    assert bytes(slow.channel.data) == b"firstlast"
    assert slow.writer.backlog == 0


def test_a_broken_stream_fails_everyone_and_is_reported_once(slow: Rig) -> None:
    slow.channel.gate.clear()
    threads = [in_thread(lambda: slow.writer.send([b"x" * 10])) for _ in range(4)]
    assert slow.channel.waiting.acquire(timeout=10)
    slow.channel.error = BrokenPipeError(errno.EPIPE, "Broken pipe")
    slow.channel.gate.set()
    for thread, outcome in threads:
        thread.join(10)
        assert isinstance(outcome[0], SessionClosedError)

    assert [type(error) for error in slow.errors] == [BrokenPipeError]
    with pytest.raises(SessionClosedError, match="no longer reads"):
        slow.writer.send([b"x"])
    slow.writer.queue([b"x"])
    slow.writer.offer([b"x"])
    slow.writer.flush()
    assert slow.errors == slow.errors[:1]


def test_after_fail_everything_is_refused_and_sleepers_wake(
    slow: Rig, eventually: Callable[..., None]
) -> None:
    slow.channel.gate.clear()
    first, first_outcome = in_thread(lambda: slow.writer.send([b"first"]))
    assert slow.channel.waiting.acquire(timeout=10)
    second, second_outcome = in_thread(lambda: slow.writer.send([b"second"]))
    eventually(lambda: len(slow.writer._sleepers) == 2)
    slow.writer.fail()
    second.join(10)
    slow.channel.gate.set()
    first.join(10)

    assert isinstance(second_outcome[0], SessionClosedError)
    assert first_outcome[0] is None or isinstance(first_outcome[0], SessionClosedError)
    with pytest.raises(SessionClosedError):
        slow.writer.send([b"x"])
    assert slow.writer.backlog == 0


def test_the_end_waits_for_who_is_writing_and_refuses_what_comes_later(
    slow: Rig, eventually: Callable[..., None]
) -> None:
    slow.channel.gate.clear()
    sending, outcome = in_thread(lambda: slow.writer.send([b"first"]))
    assert slow.channel.waiting.acquire(timeout=10)
    slow.writer.queue([b"second"])
    ending, ended = in_thread(lambda: slow.writer.end(time.monotonic() + 30))
    eventually(lambda: len(slow.writer._sleepers) == 2)
    slow.channel.gate.set()
    sending.join(10)
    ending.join(10)

    assert outcome == [None]
    assert ended == [True]
    assert bytes(slow.channel.data) == b"firstsecond"
    slow.writer.offer([b"third"])
    with pytest.raises(SessionClosedError):
        slow.writer.send([b"fourth"])
    assert bytes(slow.channel.data) == b"firstsecond"
    assert slow.errors == []


def test_the_end_does_not_wait_past_its_deadline(slow: Rig) -> None:
    slow.channel.gate.clear()
    sending, outcome = in_thread(lambda: slow.writer.send([b"first"]))
    assert slow.channel.waiting.acquire(timeout=10)

    assert slow.writer.end(time.monotonic() + 0.01) is False

    slow.channel.gate.set()
    sending.join(10)
    assert outcome == [None]
    slow.writer.send([b"second"])
    assert bytes(slow.channel.data) == b"firstsecond"


# Real pipes


@pytest.fixture(params=["non-blocking", "stepwise"])
def pipe(request: pytest.FixtureRequest) -> Iterator[tuple[Rig, int]]:
    incoming, outgoing = os.pipe()
    unused, _unused = os.pipe()
    transport = FdTransport(unused, outgoing, nonblocking=request.param == "non-blocking")
    channel = Channel(transport, lambda: None)
    rig = Rig(channel)
    yield rig, incoming
    channel.abort()
    transport.close()
    channel.close()
    for fd in (incoming, _unused):
        os.close(fd)


@pytest.fixture(params=[None, 1e-6], ids=["", "switching-fast"])
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    before = sys.getswitchinterval()
    if request.param is not None:
        sys.setswitchinterval(request.param)
    yield
    sys.setswitchinterval(before)


def read_exactly(fd: int, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = os.read(fd, min(1 << 14, count - len(data)))
        assert piece
        data += piece
    return bytes(data)


@pytest.mark.usefixtures("switching")
def test_frames_of_many_threads_arrive_whole_and_in_each_threads_order(
    pipe: tuple[Rig, int],
) -> None:
    rig, incoming = pipe
    writer = rig.writer
    stop = threading.Event()

    def flush_backlogs() -> None:
        while not stop.is_set():
            if rig.backlog_came.acquire(timeout=0.01):
                writer.flush()

    def frame(number: int, n: int) -> list[bytes]:
        size = (n * 977 + number * 131) % 20_000
        body = bytes([number]) * size
        return [b"%c%05d%06d" % (number, n, size), body]

    def send(number: int) -> None:
        for n in range(40):
            parts = frame(number, n)
            if n % 5 == 0:
                parts = [b"".join(parts)]
            if n % 4 == 0:
                writer.send(parts, tolerated=HIGH_WATER)
            elif n % 4 == 1:
                writer.offer(parts)
            elif n % 4 == 2:
                writer.queue(parts)
                writer.flush()
            else:
                writer.send(parts)

    total = sum(12 + len(frame(number, n)[1]) for number in range(6) for n in range(40))
    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    flusher = threading.Thread(target=flush_backlogs)
    for thread in [*threads, flusher]:
        thread.start()
    data = read_exactly(incoming, total)
    for thread in threads:
        thread.join(20)
    stop.set()
    flusher.join(20)

    seen: dict[int, list[int]] = {number: [] for number in range(6)}
    while data:
        number, n, size = data[0], int(data[1:6]), int(data[6:12])
        body, data = data[12 : 12 + size], data[12 + size :]
        assert body == bytes([number]) * size
        seen[number].append(n)
    assert all(numbers == list(range(40)) for numbers in seen.values())
    assert writer.backlog == 0
    assert writer.frames_sent == 240


@pytest.mark.usefixtures("switching")
def test_deadlines_in_a_full_pipe_withdraw_whole_frames_only() -> None:
    incoming, outgoing = os.pipe()
    unused, _unused = os.pipe()
    transport = FdTransport(unused, outgoing)
    channel = Channel(transport, lambda: None)
    rig = Rig(channel)
    sent: list[int] = []

    def send(number: int) -> None:
        for n in range(30):
            name = number * 1000 + n
            try:
                rig.writer.send(
                    [b"%06d" % name, b"%06d" % 50_000, b"x" * 50_000], time.monotonic() + 0.002 * n
                )
                sent.append(name)
            except WriteTimeoutError:
                pass

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    arrived: list[int] = []
    done = threading.Event()

    def read() -> None:
        while True:
            head = os.read(incoming, 12)
            if not head:
                return
            head += read_exactly(incoming, 12 - len(head)) if len(head) < 12 else b""
            if head[:6] == b"theend":
                done.set()
                return
            assert read_exactly(incoming, int(head[6:])) == b"x" * 50_000
            arrived.append(int(head[:6]))
            time.sleep(0.001)

    reader = threading.Thread(target=read)
    reader.start()
    for thread in threads:
        thread.join(30)
    rig.writer.send([b"theend", b"theend"])
    assert done.wait(20)
    reader.join(20)
    transport.close()
    channel.close()
    os.close(incoming)
    os.close(_unused)

    assert set(sent) <= set(arrived)  # one that was begun is finished though it was late
    assert len(arrived) == len(set(arrived))
    for number in range(4):
        own = [name for name in arrived if name // 1000 == number]
        assert own == sorted(own)


def test_who_begins_to_wait_for_room_after_the_end_is_told_at_once() -> None:
    incoming, outgoing = os.pipe()
    unused, _unused = os.pipe()
    transport = FdTransport(unused, outgoing)
    channel = Channel(transport, lambda: None)
    channel.abort()
    with pytest.raises(OSError, match="the session has ended"):
        channel.wait_for_room(None)
    assert channel.waiting == 0
    transport.close()
    channel.close()
    os.close(incoming)
    os.close(_unused)


def test_closing_ends_a_wait_for_room() -> None:
    incoming, outgoing = os.pipe()
    unused, _unused = os.pipe()
    transport = FdTransport(unused, outgoing)
    channel = Channel(transport, lambda: None)
    rig = Rig(channel)
    thread, outcome = in_thread(lambda: rig.writer.send([b"x", bytes(4 << 20)]))
    read_exactly(incoming, 10)
    channel.abort()
    thread.join(10)
    assert isinstance(outcome[0], SessionClosedError)
    assert len(rig.errors) == 1
    transport.close()
    channel.close()
    os.close(incoming)
    os.close(_unused)


def finishes(thread: threading.Thread) -> bool:
    thread.join(10)
    return not thread.is_alive()


def test_a_write_that_fails_once_all_was_given_up_is_no_news() -> None:
    class Failing(Slow):
        def write_some(self, buffers: Sequence[Any]) -> int:
            rig.writer.fail()
            raise BrokenPipeError

    rig = Rig(Failing())

    with pytest.raises(SessionClosedError):
        rig.writer.send([b"first"])
    assert rig.errors == []


def test_a_flush_that_finds_no_room_until_its_deadline_hands_over(slow: Rig) -> None:
    slow.channel.gate.clear()
    slow.writer.queue([b"waits"])

    slow.writer.flush(time.monotonic() + 0.01)

    assert slow.backlogs == [5]
    assert not slow.writer.is_writing()
    slow.channel.gate.set()
    slow.writer.flush()
    assert bytes(slow.channel.data) == b"waits"


def test_the_end_takes_along_what_is_queued_behind_its_last_flush(slow: Rig) -> None:
    writer = slow.writer
    flush = writer.flush

    def flush_and_be_overtaken(deadline: float | None = None) -> None:
        flush(deadline)
        if not slow.channel.data:
            writer.queue([b"in time"])

    writer.flush = flush_and_be_overtaken  # type: ignore[method-assign]

    assert writer.end(time.monotonic() + 30)
    assert bytes(slow.channel.data) == b"in time"
    with pytest.raises(SessionClosedError):
        writer.send([b"late"])


# Interrupts


class Interrupted(BaseException):
    """What Ctrl-C does to a thread."""


FILES = ("engine/writer.py", "transports/pipe.py", "engine/channel.py")


def rest_of(read: int) -> bytes:
    os.set_blocking(read, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(read, 1 << 20)
    return b""


@pytest.mark.parametrize("queued", [0, 1, 3])
@pytest.mark.parametrize("parts", [[b"<first>"], [b"<fi", b"rst>"]])
def test_an_interrupt_anywhere_in_a_write_sends_nothing_twice_and_loses_nothing_of_others(
    queued: int, parts: list[bytes]
) -> None:
    before = b"".join(b"<queued %d>" % number for number in range(queued))
    for k in range(1, 1000):
        read, write = os.pipe()
        transport = FdTransport(read, write)
        rig = Rig(Channel(transport, lambda: None))
        writer = rig.writer
        for number in range(queued):
            writer.queue([b"<queued %d>" % number])
        interrupted = interrupted_at(k, FILES, lambda: writer.send([*parts]))  # noqa: B023
        assert not writer.is_writing()
        assert queued or writer.is_idle() or rig.backlogs, "nobody knows of what is left"
        writer.send([b"<second>"])
        writer.send([b"<third>", b"<in two parts>"])

        after = b"<second><third><in two parts>"
        # Interrupted early enough, the first one is not sent; never is it sent twice.
        expected = [before + b"<first>" + after, *([before + after] if interrupted else [])]
        assert rest_of(read) in expected, k
        assert writer.is_idle()
        assert writer.frames_sent in (queued + 2, queued + 3)
        transport.close()
        if not interrupted:
            break
    assert k > 10


@pytest.mark.parametrize("method", ["offer", "flush_some", "send"])
def test_an_interrupt_of_one_who_finds_no_room_leaves_writing_to_others(method: str) -> None:
    for k in range(1, 1000):
        rig = Rig(Slow())
        writer = rig.writer
        rig.channel.gate.clear()

        def act(writer: Writer = writer) -> None:
            with contextlib.suppress(WriteTimeoutError):
                if method == "send":
                    writer.send([b"first"], time.monotonic() + 0.001)
                elif method == "offer":
                    writer.offer([b"first"])
                else:
                    writer.queue([b"first"])
                    writer.flush_some()

        interrupted = interrupted_at(k, FILES, act)
        rig.channel.gate.set()
        thread, _ = in_thread(lambda: writer.send([b"second"]))  # noqa: B023
        thread.join(10)
        assert not thread.is_alive()
        assert not writer.is_writing()
        assert bytes(rig.channel.data) in (b"firstsecond", b"second")
        assert writer.is_idle()
        if not interrupted:
            break
    assert k > 10


def test_an_interrupted_sender_leaves_the_others_their_frames(
    slow: Rig, eventually: Callable[..., None]
) -> None:
    """Whatever it was about to do for them is done, if somewhat later."""
    for k in range(1, 1000):
        rig = Rig(Slow())
        writer = rig.writer
        rig.channel.gate.clear()
        others = [in_thread(lambda: writer.send([b"other"]))[0] for _ in range(2)]  # noqa: B023
        eventually(lambda: len(writer._sleepers) == 2)  # noqa: B023
        threading.Timer(0.003, rig.channel.gate.set).start()
        interrupted = interrupted_at(k, FILES, lambda: writer.send([b"mine"]))  # noqa: B023
        rig.channel.gate.set()
        for other in others:
            other.join(10)
            assert not other.is_alive()
        writer.flush()
        assert bytes(rig.channel.data) in (b"otherothermine", b"otherother")
        if not interrupted:
            break
    assert k > 10


@pytest.mark.parametrize("written", [b"", b"first"])
def test_what_a_signals_handler_raises_in_a_write_does_not_break_the_stream(written: bytes) -> None:
    """A TimeoutError is an OSError, as that of a broken pipe is."""
    read, write = os.pipe()
    transport = FdTransport(read, write)
    rig = Rig(Channel(transport, lambda: None))
    writer = rig.writer
    write_some = writer._write_some

    with signals_raise(TimeoutError) as interrupt:

        def interrupted(buffers: Sequence[Any]) -> int:
            writer._write_some = write_some
            count = write_some(buffers) if written else 0
            interrupt()
            return count

        writer._write_some = interrupted
        with pytest.raises(TimeoutError):
            writer.send([b"first"])
    writer.send([b"second"])

    assert rest_of(read) == written + b"second"
    assert rig.errors == []
    transport.close()


def test_what_a_signals_handler_raises_in_a_wait_for_room_does_not_break_the_stream(
    slow: Rig,
) -> None:
    slow.channel.gate.clear()
    with signals_raise(TimeoutError) as interrupt:
        slow.channel.wait_for_room = lambda timeout: interrupt()
        with pytest.raises(TimeoutError):
            slow.writer.send([b"first"])
    slow.channel.gate.set()
    slow.writer.send([b"second"])

    assert bytes(slow.channel.data) == b"second"
    assert not slow.writer.is_writing()
    assert slow.errors == []


def test_an_interrupt_of_a_handler_that_is_going_to_wait_for_room_leaves_nobody_waiting() -> None:
    read, write = os.pipe()
    transport = FdTransport(read, write)

    def interrupted() -> None:
        raise Interrupted

    channel = Channel(transport, interrupted, lambda timeout: True)
    rig = Rig(channel)
    with pytest.raises(Interrupted):
        rig.writer.send([b"x" * (8 << 20)])

    assert channel.handlers_waiting == 0
    assert channel.waiting == 0
    assert rig.writer._sleepers == []
    assert rig.backlogs  # a part of it is out: somebody else must write the rest
    received = bytearray()
    while not rig.writer.is_idle():
        received += rest_of(read)
        rig.writer.flush_some()
    received += rest_of(read)
    assert received == b"x" * (8 << 20)
    transport.close()


def test_an_interrupt_of_one_who_withdraws_leaves_a_frame_that_is_sent_whole_or_not_at_all(
    slow: Rig,
) -> None:
    for k in range(1, 1000):
        rig = Rig(Slow())
        frame: list[Any] = [b"withdrawn"]
        rig.writer.queue(frame)
        files = (*FILES, "contextlib.py")
        interrupted = interrupted_at(k, files, lambda: rig.writer.withdraw(frame))  # noqa: B023
        is_gone = not frame
        rig.writer.send([b"next"])

        assert bytes(rig.channel.data) == (b"" if is_gone else b"withdrawn") + b"next", k
        assert rig.writer.is_idle()
        if not interrupted:
            break
    assert is_gone
    assert k > 5


# Code that comes in the midst of it


class Finalized(bytes):
    """A buffer whose end runs code."""

    at_end: Callable[[], object] = staticmethod(lambda: None)

    def __del__(self) -> None:
        self.at_end()


def test_what_is_sent_in_the_midst_of_a_write_goes_out_behind_it(slow: Rig) -> None:
    writer = slow.writer
    array = bytearray(b"third")

    class Reentrant(Slow):
        entered = False

        def write_some(self, buffers: Sequence[Any]) -> int:
            if not self.entered:
                self.entered = True
                writer.offer([b"second"])
                writer.send([array])
                array[:] = b"XXXXX"  # it is ours again
            return super().write_some(buffers)

    writer = Rig(channel := Reentrant()).writer
    writer.send([b"first"])

    assert bytes(channel.data) == b"firstsecondthird"
    assert writer.is_idle()


def test_the_end_of_a_buffer_may_send(slow: Rig) -> None:
    writer = slow.writer
    buffer = Finalized(b"first")
    buffer.at_end = lambda: writer.send([b"second"])  # type: ignore[method-assign]
    frame = [buffer]
    del buffer
    writer.send(frame)  # type: ignore[arg-type]

    assert bytes(slow.channel.data) == b"firstsecond"
    assert writer.frames_sent == 2


def test_a_frame_that_goes_out_as_its_time_runs_out_was_in_time(slow: Rig) -> None:
    writer = slow.writer
    take_back = writer._take_back

    def overtaken(frame: Any) -> bool | None:
        slow.channel.gate.set()
        writer.flush()
        return take_back(frame)

    slow.channel.gate.clear()
    writer._take_back = overtaken  # type: ignore[method-assign]
    writer.send([b"second"], time.monotonic() + 0.01)
    assert bytes(slow.channel.data) == b"second"
