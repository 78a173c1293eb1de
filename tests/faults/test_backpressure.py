"""Whoever is faster waits: memory stays bounded, nobody hangs, and it all goes on."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from shared_messages import Echo

from streamipc import (
    IpcPeer,
    LogMessage,
    RequestTimeoutError,
    SessionClosedError,
)
from streamipc.engine.writing import HIGH_WATER

STOP = float(os.environ.get("STREAMIPC_TEST_STOP", "1"))
"""Seconds for which a peer stops reading; the suite's own is short."""


def pause(pid: int, on: bool) -> None:
    """Stop a child, or let it go on."""
    import signal

    os.kill(pid, signal.SIGSTOP if on else signal.SIGCONT)


class Load:
    """Eight threads that ask, tell and stream by turns, until told to stop."""

    def __init__(self, session: Any, size: int) -> None:
        self._session = session
        self._value = "x" * size
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
            value = f"{number} {count} {self._value}"
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
    return sum(len(view) for frame in list(queue) for view in frame.views)


def test_a_child_that_stops_reading_under_load_bounds_everything(
    echo_child: list[str], eventually: Any
) -> None:
    with IpcPeer() as peer:
        session = peer.create_command_session(echo_child)
        other = peer.create_command_session(echo_child)
        assert other.request(Echo("warm")).result(timeout=20) == "warm"
        load = Load(session, size=1000)
        try:
            eventually(lambda: load.answered > 200)
            before, child_before = resident(os.getpid()), resident(session.pid)
            pause(session.pid, True)
            end = time.monotonic() + STOP
            while time.monotonic() < end:
                # The other session answers all the while.
                assert other.request(Echo("y"), timeout=10).result() == "y"
            assert load.timed_out >= 8
            assert queued(session) <= HIGH_WATER + 8 * 1200
            assert resident(os.getpid()) - before < 32 << 20
            assert resident(session.pid) - child_before < 32 << 20
        finally:
            pause(session.pid, False)
        answered = load.answered
        eventually(lambda: load.answered > answered + 200, timeout=20)
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
    while not deaf._engine.outlet.waiting:
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
    # Neither the frames that were taken back nor a Cancel for each.
    assert len(deaf._engine.writer._queue) < 2000
    assert queued(deaf) < (1 << 20) + HIGH_WATER
    deaf.close(timeout=0)
    stuck.join(10)
    assert not stuck.is_alive()


def tell(session: Any, text: str) -> None:
    with contextlib.suppress(SessionClosedError):
        session.notify(LogMessage(text))
