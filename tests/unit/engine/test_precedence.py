"""Who may send a notification while very many wait for their handlers."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from streamipc import LogMessage, RequestContext
from streamipc.engine import precedence
from streamipc.engine.precedence import CROWDED_AT, Precedence
from streamipc.engine.serving import Served
from streamipc.handlers import current
from streamipc.protocol.envelopes import Notification

BYTES = 1000
LONG = 20


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Precedence:
    """Return what is crowded, and takes nobody for stuck."""
    monkeypatch.setattr(precedence, "_NO_PROGRESS", LONG)
    crowd = Precedence(threading.Lock(), BYTES)
    crowd.arrived_locked(CROWDED_AT, 0)
    return crowd


def notification() -> Served:
    return Served(None, Notification(LogMessage("x"), None), (), None, None, 0)  # type: ignore[arg-type]


@contextmanager
def handling(handled: Any) -> Iterator[None]:
    token = current.set(handled)
    try:
        yield
    finally:
        current.reset(token)


class Waiters:
    """Threads that give way, one after the other."""

    def __init__(self, crowd: Precedence, eventually: Callable[..., None], count: int) -> None:
        self.gone: list[int] = []
        self._eventually = eventually
        self.threads = []
        for number in range(count):
            thread = threading.Thread(target=self._give_way, args=(crowd, number))
            self.threads.append(thread)
            thread.start()
            eventually(lambda bells=number + 1: len(crowd._bells.hung) == bells)

    def _give_way(self, crowd: Precedence, number: int) -> None:
        crowd.give_way()
        self.gone.append(number)

    def wait_for(self, gone: list[int]) -> None:
        self._eventually(lambda: len(self.gone) >= len(gone))
        assert sorted(self.gone) == gone

    def join(self) -> None:
        for thread in self.threads:
            thread.join(LONG)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("waiting", "size", "crowded"),
    [(CROWDED_AT - 1, BYTES, False), (CROWDED_AT, 0, True), (1, BYTES + 1, True)],
)
def test_it_is_crowded_by_the_number_that_wait_or_by_their_bytes(
    waiting: int, size: int, crowded: bool
) -> None:
    crowd = Precedence(threading.Lock(), BYTES)
    crowd.arrived_locked(waiting, size)
    crowd.arrived_locked(1, 0)
    assert crowd.crowded is crowded


@pytest.mark.parametrize(
    ("waiting", "size", "crowded"),
    [
        (CROWDED_AT // 2, BYTES // 2, False),
        (CROWDED_AT // 2 + 1, 0, True),
        (0, BYTES // 2 + 1, True),
    ],
)
def test_it_is_crowded_until_half_of_them_are_handled(
    crowd: Precedence, waiting: int, size: int, crowded: bool
) -> None:
    crowd.burst_handled_locked(waiting, size)
    assert crowd.crowded is crowded


def test_nobody_gives_way_unless_it_is_crowded() -> None:
    crowd = Precedence(threading.Lock(), BYTES)
    crowd.give_way()
    crowd.burst_handled_locked(CROWDED_AT, BYTES)
    assert not crowd.crowded


def test_one_goes_on_for_each_burst_that_is_handled_and_first_who_came_first(
    crowd: Precedence, eventually: Callable[..., None]
) -> None:
    waiters = Waiters(crowd, eventually, 3)
    for count in (1, 2):
        with crowd._lock:
            crowd.burst_handled_locked(CROWDED_AT, 0)
        waiters.wait_for([0, 1][:count])
    with crowd._lock:
        crowd.burst_handled_locked(CROWDED_AT // 2, 0)
    waiters.join()
    assert waiters.gone == [0, 1, 2]


def test_all_go_on_when_the_session_ends(
    crowd: Precedence, eventually: Callable[..., None]
) -> None:
    waiters = Waiters(crowd, eventually, 2)
    with crowd._lock:
        crowd.end_locked()
    waiters.join()
    crowd.arrived_locked(CROWDED_AT, BYTES + 1)
    crowd.give_way()


@pytest.mark.parametrize("kind", [RequestContext, lambda served: served])
def test_the_handler_of_the_notification_in_work_gives_way_to_nobody(
    crowd: Precedence, kind: Callable[[Served], Any]
) -> None:
    crowd.handled = notification()
    with handling(kind(crowd.handled)):
        crowd.give_way()


@pytest.mark.parametrize("handled", [True, False])
def test_what_runs_for_another_message_gives_way(
    crowd: Precedence, eventually: Callable[..., None], handled: bool
) -> None:
    """One that is handled by another session, or was: code that its handler has left."""
    crowd.handled = notification() if handled else None
    other = notification()

    def give_way() -> None:
        with handling(other):
            crowd.give_way()

    thread = threading.Thread(target=give_way)
    thread.start()
    eventually(lambda: crowd._bells.hung)
    with crowd._lock:
        crowd.burst_handled_locked(CROWDED_AT, 0)
    thread.join(LONG)
    assert not thread.is_alive()


def test_one_goes_on_when_a_handler_makes_no_progress_and_not_before(
    crowd: Precedence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler may be waiting for the very thread that gives way."""
    monkeypatch.setattr(precedence, "_NO_PROGRESS", 0.01)
    looked: list[Served] = []

    class Watched(Precedence):
        @property
        def handled(self) -> Served:  # type: ignore[override]
            looked.append(self.handled_one)
            if len(looked) < 9:  # looked at twice in each round
                self.handled_one = notification()
            return looked[-1]

        @handled.setter
        def handled(self, served: Served) -> None:
            self.handled_one = served

    crowd = Watched(threading.Lock(), BYTES)
    crowd.arrived_locked(CROWDED_AT, 0)
    start = time.monotonic()
    crowd.give_way()

    assert len(looked) == 10
    assert time.monotonic() - start >= 0.05
    assert crowd._bells.hung == []


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows has no such signal")
def test_an_interrupt_takes_the_bell_down(
    crowd: Precedence, eventually: Callable[..., None]
) -> None:
    main = threading.get_ident()

    def interrupt() -> None:
        eventually(lambda: crowd._bells.hung)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        crowd.give_way()
    thread.join(LONG)
    assert crowd._bells.hung == []
    assert not crowd._lock.locked()
