"""Who may send a notification while very many wait for their handlers."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from shared_messages import Echo, Note

from streamipc import Limits, LogMessage, RequestContext
from streamipc.engine import send_gate
from streamipc.engine.flow import REACH
from streamipc.engine.incoming import IncomingRequest
from streamipc.engine.send_gate import SendGate
from streamipc.handlers import current
from streamipc.protocol.envelopes import Notification

LONG = 20

MOST = REACH * Limits().waiting_notifications
CLOSES_AT = MOST // 2
STRICT_AT = MOST * 3 // 4


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> SendGate:
    """Return what is closed, and takes nobody for stuck."""
    monkeypatch.setattr(send_gate, "_NO_PROGRESS", LONG)
    monkeypatch.setattr(send_gate, "_LONGEST", LONG)
    gate = SendGate(threading.RLock(), MOST)
    gate.arrived_locked(CLOSES_AT)
    return gate


def notification() -> IncomingRequest:
    return IncomingRequest(None, Notification(LogMessage("x"), None), (), None, None, 0)  # type: ignore[arg-type]


@contextmanager
def handling(handled: Any) -> Iterator[None]:
    token = current.set(handled)
    try:
        yield
    finally:
        current.reset(token)


class Watched(SendGate):
    """Shows another notification as the one that is handled each time that it is looked at."""

    def __init__(self, changes: int) -> None:
        self.looks = 0
        self._changes = changes
        self._shown: IncomingRequest | None = None
        super().__init__(threading.RLock(), MOST)

    @property
    def handled(self) -> IncomingRequest | None:  # type: ignore[override]
        self.looks += 1
        if self.looks <= self._changes:
            self._shown = notification()
        return self._shown

    @handled.setter
    def handled(self, served: IncomingRequest | None) -> None:
        self._shown = served


class Waiters:
    """Threads that give way, one after the other."""

    def __init__(self, gate: SendGate, eventually: Callable[..., None], count: int) -> None:
        self.gone: list[int] = []
        self._eventually = eventually
        self.threads = []
        for number in range(count):
            thread = threading.Thread(target=self._wait, args=(gate, number))
            self.threads.append(thread)
            thread.start()
            eventually(lambda sleeping=number + 1: len(gate._waiters.sleeping) == sleeping)

    def _wait(self, gate: SendGate, number: int) -> None:
        gate.wait()
        self.gone.append(number)

    def wait_for(self, gone: list[int]) -> None:
        self._eventually(lambda: len(self.gone) >= len(gone))
        assert sorted(self.gone) == gone

    def join(self) -> None:
        for thread in self.threads:
            thread.join(LONG)
            assert not thread.is_alive()


@pytest.mark.parametrize(("waiting", "closed"), [(CLOSES_AT - 1, False), (CLOSES_AT, True)])
def test_it_is_closed_by_the_number_that_wait(waiting: int, closed: bool) -> None:
    gate = SendGate(threading.RLock(), MOST)
    gate.arrived_locked(waiting)
    gate.arrived_locked(1)
    assert gate.closed is closed


@pytest.mark.parametrize(
    ("waiting", "closed"), [(CLOSES_AT // 2, False), (CLOSES_AT // 2 + 1, True)]
)
def test_it_is_closed_until_half_of_them_are_handled(
    gate: SendGate, waiting: int, closed: bool
) -> None:
    gate.burst_handled_locked(waiting)
    assert gate.closed is closed


def test_nobody_gives_way_unless_it_is_closed() -> None:
    gate = SendGate(threading.RLock(), MOST)
    gate.wait()
    gate.handled = notification()
    gate.burst_handled_locked(CLOSES_AT)
    assert not gate.closed
    assert gate.handled is None


def test_one_goes_on_for_each_burst_that_is_handled_and_first_who_came_first(
    eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they look, in between, whether there is progress."""
    monkeypatch.setattr(send_gate, "_NO_PROGRESS", 0.005)
    monkeypatch.setattr(send_gate, "_LONGEST", 3 * LONG)
    gate = Watched(changes=1_000_000)
    gate.arrived_locked(CLOSES_AT)
    waiters = Waiters(gate, eventually, 3)
    for count in (1, 2):
        eventually(lambda looked=gate.looks: gate.looks > looked + 20)
        with gate._lock:
            gate.burst_handled_locked(CLOSES_AT)
        waiters.wait_for([0, 1][:count])
    with gate._lock:
        gate.burst_handled_locked(CLOSES_AT // 2)
    waiters.join()
    assert waiters.gone == [0, 1, 2]
    assert gate._waiters.sleeping == []


def test_all_go_on_when_the_session_ends(gate: SendGate, eventually: Callable[..., None]) -> None:
    waiters = Waiters(gate, eventually, 2)
    with gate._lock:
        gate.end_locked()
    waiters.join()
    gate.arrived_locked(CLOSES_AT)
    assert not gate.closed


@pytest.mark.parametrize("kind", [RequestContext, lambda served: served])
def test_a_handler_gives_way_to_nobody_be_it_of_another_session(
    gate: SendGate, kind: Callable[[IncomingRequest], Any]
) -> None:
    gate.handled = notification()
    with handling(kind(notification())):
        gate.wait()


def test_what_a_handler_has_left_behind_gives_way(
    gate: SendGate, eventually: Callable[..., None]
) -> None:
    gate.handled = other = notification()
    other.over = True

    def wait() -> None:
        with handling(other):
            gate.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: gate._waiters.sleeping)
    with gate._lock:
        gate.burst_handled_locked(CLOSES_AT)
    thread.join(LONG)
    assert not thread.is_alive()


@pytest.mark.parametrize("what", ["on_exception", "callback"])
def test_what_the_pool_runs_besides_handlers_gives_way_to_nobody(
    connected: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """They run on threads without which no notification would be handled."""
    monkeypatch.setattr(send_gate, "_NO_PROGRESS", 3 * LONG)
    left, right = connected()
    told = threading.Event()

    @left.on_message
    def fail(msg: Note) -> None:
        raise ValueError

    @left.on_exception
    def tell(error: Exception) -> None:
        left.notify(LogMessage("failed"))

    @right.on_request
    def echo(msg: Echo) -> Any:
        assert go_on.wait(LONG)
        return msg.value

    @right.on_message
    def take(msg: LogMessage) -> None:
        told.set()

    go_on = threading.Event()
    left.start()
    right.start()
    future = left.request(Echo(1))
    left._engine.send_gate.closed = True
    if what == "on_exception":
        right.notify(Note())
    else:
        future.add_done_callback(lambda _: left.notify(LogMessage("done")))
        go_on.set()
    assert told.wait(LONG)
    go_on.set()


def test_one_goes_on_when_a_handler_makes_no_progress_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The handler may be waiting for the very thread that gives way."""
    monkeypatch.setattr(send_gate, "_LONGEST", LONG)
    gate = Watched(changes=9)
    gate.arrived_locked(CLOSES_AT)
    gate._patience = 0.01
    start = time.monotonic()
    gate.wait()

    assert gate.looks == 11  # twice at first and in each of four rounds, and in the last one
    assert time.monotonic() - start >= 0.05
    assert gate._waiters.sleeping == []


def test_what_follows_does_not_wait_for_a_handler_that_is_stuck_and_less_for_the_next(
    gate: SendGate,
) -> None:
    gate._patience = 0.04
    for expected in (0.02, 0.01, 0.01):
        gate.handled = notification()
        gate.wait()
        assert gate._patience == expected
        gate._patience = LONG
        gate.wait()
        gate._patience = expected
    gate.burst_handled_locked(CLOSES_AT)
    assert gate._patience == send_gate._NO_PROGRESS
    assert gate._stuck is send_gate._NOBODY  # the other one holds its message


def test_what_follows_does_not_wait_where_no_handler_has_a_thread(gate: SendGate) -> None:
    """Others have them all, and may wait for the very thread that gives way."""
    gate._patience = 0.01
    gate.wait()
    gate._patience = LONG
    gate.wait()


class Held(SendGate):
    """Lets nobody go on by time until it is told to."""

    held = True

    def _may_go_on(self, *looked_at: Any) -> bool:
        return not self.held and super()._may_go_on(*looked_at)


def test_one_in_a_while_goes_on_where_very_many_wait_and_no_more_be_handlers_stuck_or_slow(
    eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_gate, "_LONGEST", 0.05)
    gate = Held(threading.RLock(), MOST)
    gate._patience = 0.005
    gate.handled = gate._stuck = notification()
    gate.arrived_locked(STRICT_AT)
    waiters = Waiters(gate, eventually, 3)
    start = time.monotonic()
    gate.held = False
    waiters.join()

    assert waiters.gone == [0, 1, 2]
    assert time.monotonic() - start >= 0.1  # two of the pauses between three
    gate.burst_handled_locked(STRICT_AT - 1)
    assert gate.closed
    assert not gate._strict
    gate.burst_handled_locked(STRICT_AT)
    assert gate._strict
    gate.arrived_locked(STRICT_AT - 1)
    assert not gate._strict


def test_nobody_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_gate, "_LONGEST", 0.05)
    gate = Watched(changes=1_000_000)
    gate.arrived_locked(CLOSES_AT)
    gate._patience = 0.02
    start = time.monotonic()
    gate.wait()

    assert 0.05 <= time.monotonic() - start < LONG
    assert gate._waiters.sleeping == []


def test_nobody_waits_longer_than_it_has_time(gate: SendGate) -> None:
    start = time.monotonic()
    assert not gate.wait(start + 0.05)
    assert 0.05 <= time.monotonic() - start < LONG
    assert gate._waiters.sleeping == []


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows has no such signal")
def test_an_interrupt_takes_the_bell_down(gate: SendGate, eventually: Callable[..., None]) -> None:
    main = threading.get_ident()

    def interrupt() -> None:
        eventually(lambda: gate._waiters.sleeping)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        gate.wait()
    thread.join(LONG)
    assert gate._waiters.sleeping == []
    assert not gate._lock._is_owned()
