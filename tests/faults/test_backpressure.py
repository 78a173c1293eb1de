"""Whoever is faster waits: memory stays bounded, nobody hangs, and it all goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from shared_messages import Echo, Note

from streamipc import (
    IpcPeer,
    Limits,
    LogMessage,
    OverloadedError,
    RequestTimeoutError,
    SessionClosedError,
)
from streamipc.engine.flow import Kind, Reason
from streamipc.engine.writer import HIGH_WATER

MOST_REQUESTS = Limits().waiting_requests
MOST_NOTIFICATIONS = Limits().waiting_notifications

STOP = float(os.environ.get("STREAMIPC_TEST_STOP", "1"))
"""Seconds for which a peer stops reading; the suite's own is short."""


def pause(pid: int, on: bool) -> None:
    """Stop a child, or let it go on."""
    os.kill(pid, signal.SIGSTOP if on else signal.SIGCONT)


class Load:
    """Eight threads that ask, half of them with much, until told to stop."""

    def __init__(self, session: Any, size: int) -> None:
        self._session = session
        self._size = size
        self._over = threading.Event()
        self.answered = 0
        self.timed_out = 0
        self.late = 0.0
        self.wrong: list[Any] = []
        self._lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(n,)) for n in range(8)]
        for thread in self.threads:
            thread.start()

    def _run(self, number: int) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            value = f"{number} {count} " + "x" * (self._size if number % 2 else 1000)
            start = time.monotonic()
            try:
                reply = self._session.request(Echo(value), timeout=0.3).result()
            except RequestTimeoutError:
                took = time.monotonic() - start
                with self._lock:
                    self.timed_out += 1
                    self.late = max(self.late, took - 0.3)
            except Exception as error:
                self.wrong.append(error)
                return
            else:
                with self._lock:
                    self.answered += 1
                if reply != value:
                    self.wrong.append(reply)

    def stop(self) -> None:
        self._over.set()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        assert not self.wrong, self.wrong


def resident(pid: int) -> int:
    """Return the bytes that a process has in memory."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def queued(session: Any) -> int:
    """Return the bytes that wait to be written."""
    queue = session._engine.writer._queue
    return sum(len(part) for frame in list(queue) for part in list(frame))


def test_a_child_that_stops_reading_under_load_bounds_everything(
    echo_child: list[str], eventually: Any
) -> None:
    with IpcPeer() as peer:
        session = peer.create_command_session(echo_child)
        other = peer.create_command_session(echo_child)
        assert other.request(Echo("warm")).result(timeout=20) == "warm"
        load = Load(session, size=200_000)
        try:
            eventually(lambda: load.answered > 200, timeout=60)
            before, child_before = resident(os.getpid()), resident(session.pid)
            pause(session.pid, True)
            end = time.monotonic() + STOP
            while time.monotonic() < end or load.timed_out < 8 or not queued(session):
                # The other session answers all the while.
                assert other.request(Echo("y"), timeout=10).result() == "y"
            assert queued(session) <= HIGH_WATER + 8 * 201_000
            assert resident(os.getpid()) - before < 32 << 20
            assert resident(session.pid) - child_before < 32 << 20
        finally:
            pause(session.pid, False)
        answered = load.answered
        eventually(lambda: load.answered > answered + 200, timeout=60)
        load.stop()
        assert load.late < 5
        assert session.stats.pending == 0


@pytest.fixture
def deaf() -> Iterator[Any]:
    """A session whose other side reads nothing before the test is over."""
    incoming, theirs_out = os.pipe()
    theirs_in, outgoing = os.pipe()
    session = IpcPeer().create_stream_session(theirs_out, theirs_in)
    yield session
    os.close(outgoing)
    session.close(timeout=0)
    os.close(incoming)


def test_requests_that_time_out_unsent_leave_nothing_in_the_queue(deaf: Any) -> None:
    stuck = threading.Thread(target=tell, args=(deaf, "x" * (1 << 20)))
    stuck.start()
    end = time.monotonic() + 10
    while not deaf._engine.channel.waiting:
        assert time.monotonic() < end
        time.sleep(0.002)

    def ask() -> None:
        for _ in range(1000):
            with pytest.raises(RequestTimeoutError):
                deaf.request(LogMessage("y" * 1000), timeout=0.0005).result()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Neither the frames that were taken back nor a Cancel for each: one goes out where the sender
    # and whoever keeps deadlines do it at the same moment.
    assert len(deaf._engine.writer._queue) < 1000
    assert queued(deaf) < 1 << 16
    deaf.close(timeout=0)
    stuck.join(10)
    assert not stuck.is_alive()


def test_a_request_that_is_cancelled_unsent_is_not_sent(
    deaf: Any, eventually: Callable[..., None]
) -> None:
    stuck = threading.Thread(target=tell, args=(deaf, "x" * (1 << 20)))
    stuck.start()
    eventually(lambda: deaf._engine.channel.waiting, timeout=10)
    before = queued(deaf)
    futures = [deaf.request(LogMessage("y" * 1000)) for _ in range(10)]
    assert queued(deaf) > before + 10_000
    assert all(future.cancel() for future in futures)
    assert queued(deaf) == before  # neither a request nor its Cancel
    deaf.close(timeout=0)
    stuck.join(10)
    assert not stuck.is_alive()


def tell(session: Any, text: str) -> None:
    with contextlib.suppress(SessionClosedError):
        session.notify(LogMessage(text))


@pytest.fixture
def slow(connected: Any) -> Iterator[Any]:
    """Two sessions, and the permits that their handlers of notifications need for each."""
    sessions = connected()
    permits = (threading.Semaphore(0), threading.Semaphore(0))
    over = threading.Event()

    def serve(session: Any, permit: threading.Semaphore) -> None:
        @session.on_message(Note)
        def handle(msg: Any) -> None:
            while not over.is_set() and not permit.acquire(timeout=0.05):
                pass

        session.start()

    for session, permit in zip(sessions, permits, strict=True):
        serve(session, permit)
    yield sessions, permits
    over.set()


def waiting(session: Any) -> int:
    return int(session._engine.inbox.waiting)


def test_two_sides_that_flood_each_other_both_wait(slow: Any, eventually: Any) -> None:
    sessions, permits = slow
    sent = [0, 0]
    over = threading.Event()

    def flood(number: int) -> None:
        while not over.is_set():
            sessions[number].notify(Note("x" * 100))
            sent[number] += 1

    def allow(count: int) -> None:
        for permit in permits:
            permit.release(count)

    threads = [threading.Thread(target=flood, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        for session in sessions:
            eventually(lambda s=session: s._engine.flow.paused and s._engine.channel.waiting)
            # What one read brought after the limit was reached is kept; no more is read.
            assert MOST_NOTIFICATIONS <= waiting(session) < MOST_NOTIFICATIONS + 1000
        before = list(sent)
        allow(5000)
        eventually(lambda: sent[0] > before[0] + 500 and sent[1] > before[1] + 500)
    finally:
        over.set()
        allow(1_000_000)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


def test_notifications_are_all_handled_however_slowly(connected: Any) -> None:
    left, right = connected()
    seen: list[int] = []
    done = threading.Event()

    @right.on_message
    def handle(msg: Note) -> None:
        if msg.number % 500 == 0:
            time.sleep(0.002)
        seen.append(msg.number)
        if msg.number == 9_999:
            done.set()

    right.start()
    for number in range(10_000):
        left.notify(Note(number=number))
    assert done.wait(200)
    assert seen == list(range(10_000))
    assert right.stats.dropped == 0


def test_handlers_of_notifications_that_ask_while_very_many_wait_are_answered(
    connected: Any,
) -> None:
    left, right = connected()
    answers: list[Any] = []
    done = threading.Event()

    @right.on_request
    def answer(msg: Echo) -> Any:
        return msg.value

    @left.on_message
    def handle(msg: Note) -> None:
        # The reply stands behind all the notifications that were sent before it.
        answers.append(left.request(Echo(msg.number), timeout=200).result())
        if len(answers) == 3000:
            done.set()

    left.start()
    right.start()
    for number in range(3000):
        right.notify(Note(number=number))
    assert done.wait(200)
    assert answers == list(range(3000))


def test_a_handler_that_waits_does_not_lift_the_pause_for_ever(
    connected: Any, most_notifications: Any, eventually: Any
) -> None:
    most_notifications(3000)
    left, right = connected()
    leave = threading.Event()
    outcomes: list[Any] = []

    @right.on_request
    def answer(msg: Echo) -> Any:
        leave.wait(20)
        return msg.value

    @left.on_message
    def handle(msg: Note) -> None:
        if not outcomes:
            outcomes.append(None)
            outcomes[0] = left.request(Echo("nested"), timeout=20).exception()

    asked, may_wait = threading.Event(), threading.Event()

    @left.on_request
    def ask_back(msg: Echo) -> None:
        asked.set()
        assert may_wait.wait(20)
        with pytest.raises(CancelledError):
            left.request(Echo("later"), timeout=20).result()

    left.start()
    right.start()
    ends = right.request(Echo(), timeout=None)
    assert asked.wait(20)
    sent = [0]

    def flood() -> None:
        for _ in range(20_000):
            right.notify(Note("x" * 100))
            sent[0] += 1

    flooder = threading.Thread(target=flood)
    flooder.start()
    eventually(lambda: Reason.OVERFULL in left._engine.flow.reasons and left._engine.flow.paused)
    assert 3000 <= waiting(left) < 4000
    assert sent[0] < 20_000
    # Nor does another that begins to wait now.
    may_wait.set()
    eventually(lambda: left._engine.pool.blocked == 2)
    assert left._engine.flow.paused
    # Nested requests can't be answered while their session does not read: they are cancelled.
    for call in list(left._engine.connection.calls.values()):
        left._engine.outgoing.unwanted.append(call)
    left._engine.outgoing.give_up_unwanted()
    leave.set()
    flooder.join(20)
    assert not flooder.is_alive()
    eventually(lambda: not waiting(left))
    assert ends.result(20) is None


def test_requests_beyond_those_that_may_wait_are_refused(connected: Any, eventually: Any) -> None:
    left, right = connected(right=IpcPeer(handler_threads=1))
    leave = threading.Event()
    entered = threading.Event()

    @right.on_request
    def hold(msg: Echo) -> Any:
        entered.set()
        assert leave.wait(250)
        return msg.value

    right.start()
    first = left.request(Echo(-1), timeout=None)
    assert entered.wait(10)
    futures = [left.request(Echo(n), timeout=None) for n in range(MOST_REQUESTS + 50)]
    # One or two may run, or be on their way.
    eventually(lambda: sum(future.done() for future in futures[-50:]) >= 48, timeout=200)
    for future in futures[-50:]:
        if future.done():
            with pytest.raises(OverloadedError, match="try again later"):
                future.result(0)
    leave.set()
    assert first.result(timeout=20) == -1
    assert [f.result(timeout=60) for f in futures[:1000]] == list(range(1000))
    assert futures[MOST_REQUESTS - 2].result(timeout=60) == MOST_REQUESTS - 2


def test_large_requests_beyond_what_may_wait_are_refused(connected: Any) -> None:
    size = 1 << 20
    left, right = connected(
        right=IpcPeer(handler_threads=1, max_frame_size=size, limits=Limits(held_bytes=4 * size))
    )
    leave = threading.Event()
    entered = threading.Event()

    @right.on_request(Echo)
    def hold(msg: Any) -> Any:
        entered.set()
        assert leave.wait(60)
        return len(msg.value)

    right.start()
    first = left.request(Echo(b"x"), timeout=None)
    assert entered.wait(10)
    half = b"x" * (size // 2)
    futures = [left.request(Echo(half), timeout=None) for _ in range(20)]
    refused = futures[8:]
    for future in refused[2:]:
        assert isinstance(future.exception(timeout=20), OverloadedError)
    assert left.request(Echo(b"small"), timeout=None)  # may wait still
    leave.set()
    assert first.result(timeout=20) == 1
    assert [future.result(timeout=20) for future in futures[:7]] == [len(half)] * 7
    assert left.request(Echo(half)).result(timeout=20) == len(half)
    assert right._engine.flow.total == 0


def test_large_notifications_pause_reading_before_they_are_many(slow: Any, eventually: Any) -> None:
    (left, right), (_, permit) = slow
    right._engine.flow.bound = 4 << 20
    sent = [0]

    def flood() -> None:
        for _ in range(40):
            left.notify(Note("x" * 200_000))
            sent[0] += 1

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        eventually(lambda: right._engine.flow.paused)
        assert waiting(right) < 10
        assert sent[0] < 20
        permit.release(20)
        eventually(lambda: sent[0] >= 20)
    finally:
        permit.release(1000)
        flooder.join(20)
    assert not flooder.is_alive()
    eventually(
        lambda: not right._engine.flow.held[Kind.NOTIFICATION] and not right._engine.flow.paused
    )
