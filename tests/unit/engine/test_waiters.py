"""Waiting for a change of what a lock guards, also while Ctrl-C comes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from shared_messages import Echo

from streamipc import IpcPeer, IpcSession, SyncIpcSession
from streamipc.engine.waiters import Waiters

Connected = Callable[..., tuple[IpcSession, IpcSession]]


def test_all_who_wait_are_woken_and_nobody_later() -> None:
    waiters = Waiters(threading.RLock())
    first, second = waiters.add(), waiters.add()
    waiters.notify_all()
    third = waiters.add()

    assert first.acquire(blocking=False)
    assert second.acquire(blocking=False)
    assert not third.acquire(blocking=False)
    assert waiters.sleeping == [third]


def test_who_has_waited_for_longest_is_woken_first() -> None:
    waiters = Waiters(threading.RLock())
    first, second = waiters.add(), waiters.add()
    waiters.notify()

    assert waiters.sleeping == [second]
    assert first.acquire(blocking=False)
    assert not second.acquire(blocking=False)
    waiters.notify()
    waiters.notify()
    assert second.acquire(blocking=False)
    assert waiters.sleeping == []


def test_one_that_was_removed_is_not_woken() -> None:
    waiters = Waiters(threading.RLock())
    waiter = waiters.add()
    waiters.remove(waiter)
    waiters.remove(waiter)
    waiters.remove(None)
    waiters.notify_all()

    assert not waiter.acquire(blocking=False)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows has no such signal")
@pytest.mark.parametrize("kind", [IpcSession, SyncIpcSession])
def test_an_interrupt_of_who_waits_for_handlers_leaves_the_lock_to_its_owner(
    connected: Connected, kind: type[IpcSession]
) -> None:
    asking, answering = connected(None, IpcPeer(session_type=kind))
    entered, go_on = threading.Event(), threading.Event()

    @answering.on_request
    def echo(msg: Echo) -> Any:
        entered.set()
        assert go_on.wait(20)
        return msg.value

    serving = threading.Thread(target=answering.serve_forever)
    serving.start()
    future = asking.request(Echo(1))
    assert entered.wait(10)
    engine: Any = answering._engine
    main = threading.get_ident()
    locked: list[bool] = []

    def interrupt_with_the_lock_held() -> None:
        while not engine.pool._quiet.sleeping:
            time.sleep(0.001)
        with engine.lock:
            engine.pool._quiet.notify_all()
            time.sleep(0.1)  # it wakes, and wants the lock
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.1)
            locked.append(engine.lock._is_owned())

    owner = threading.Thread(target=interrupt_with_the_lock_held)
    owner.start()
    with pytest.raises(KeyboardInterrupt):
        engine.pool.wait_until_quiet(time.monotonic() + 20)
    owner.join(20)
    assert locked == [True]
    go_on.set()
    assert future.result(timeout=10) == 1
    asking.close()
    serving.join(20)
