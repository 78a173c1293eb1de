"""The event that signals can't break."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from interrupting import interrupted_at

from streamipc._events import Event


def test_waiting_for_what_is_set_takes_no_time() -> None:
    event = Event()
    event.set()
    event.set()
    assert event.is_set()
    assert event.wait(0)
    assert event.wait()


def test_waiting_ends_with_the_time() -> None:
    event = Event()
    start = time.monotonic()
    assert not event.wait(0.02)
    assert time.monotonic() - start >= 0.02
    assert not event.wait(-1)
    assert not event.is_set()


def test_all_who_wait_are_woken(eventually: Callable[..., None]) -> None:
    for _ in range(50):
        event = Event()
        woken: list[bool] = []
        threads = [threading.Thread(target=lambda: woken.append(event.wait(20))) for _ in range(5)]  # noqa: B023
        for thread in threads:
            thread.start()
        event.set()
        for thread in threads:
            thread.join(20)
        assert woken == [True] * 5
        assert not event._waiters


def test_an_interrupt_anywhere_in_wait_leaves_it_as_it_was() -> None:
    event = Event()
    k = 1
    while interrupted_at(k, ("_events.py",), lambda: event.wait(0.001)):
        k += 1
    assert k > 4
    thread = threading.Timer(0.01, event.set)
    thread.start()
    assert event.wait(20)
    thread.join()
