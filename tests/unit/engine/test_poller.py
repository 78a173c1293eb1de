"""Wake-ups, polling, and when spinning is tried."""

from __future__ import annotations

import os
import select
import threading
import time

import pytest

from streamipc.engine.poller import (
    POLLIN,
    POLLOUT,
    Poller,
    SelectPoller,
    SpinPolicy,
    Wakeup,
    make_poller,
    milliseconds,
    usable_cpus,
)


@pytest.fixture(params=["eventfd", "pipe"])
def wakeup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Wakeup:
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("only Linux has eventfd")
    return Wakeup()


@pytest.fixture(params=["poll", "select"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "select":
        monkeypatch.delattr(select, "poll")


@pytest.mark.usefixtures("way")
def test_a_wakeup_ends_a_wait_and_can_be_cleared(wakeup: Wakeup) -> None:
    inlet = Poller((), wakeup.fileno())
    assert inlet.wait(0) == []
    threading.Timer(0.01, wakeup.set).start()
    start = time.monotonic()
    assert inlet.wait(30) == []
    assert time.monotonic() - start < 10
    for _ in range(3):
        wakeup.set()
    assert inlet.wait(30) == []
    wakeup.clear()
    wakeup.clear()
    start = time.monotonic()
    inlet.wait(0.02)
    assert time.monotonic() - start >= 0.02
    wakeup.close()


def test_a_closed_wakeup_touches_nobody_elses_descriptor(wakeup: Wakeup) -> None:
    number = wakeup.fileno()
    wakeup.close()
    wakeup.close()
    read, write = os.pipe()
    wakeup.set()
    wakeup.clear()
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    assert number >= 0
    os.close(read)
    os.close(write)


@pytest.mark.usefixtures("way")
def test_input_is_found_and_a_forgotten_descriptor_is_not_polled() -> None:
    wakeup = Wakeup()
    (one, one_in), (two, two_in) = os.pipe(), os.pipe()
    inlet = Poller((one, two), wakeup.fileno())
    assert inlet.ready() == []
    os.write(one_in, b"x")
    os.write(two_in, b"x")
    both = sorted([(one, POLLIN), (two, POLLIN)])
    assert sorted(inlet.ready()) == sorted(inlet.wait(10)) == both
    inlet.forget(one)
    assert inlet.ready() == inlet.wait(10) == inlet.spin(SpinPolicy(0)) == [(two, POLLIN)]
    for fd in (one, one_in, two, two_in):
        os.close(fd)
    wakeup.close()


def test_without_a_length_there_is_no_spinning() -> None:
    policy = SpinPolicy(0)
    for _ in range(100):
        policy.slept(0.0)
    assert not policy.active


def test_spinning_starts_after_short_sleeps_and_ends_when_it_fails() -> None:
    policy = SpinPolicy(0.001)
    assert not policy.active
    for _ in range(100):
        policy.slept(1.0)
    assert not policy.active
    for _ in range(100):
        policy.slept(0.0001)
    assert policy.active
    for _ in range(100):
        policy.failed()
    assert not policy.active


def test_spinning_that_mostly_succeeds_goes_on() -> None:
    policy = SpinPolicy(0.001)
    for _ in range(100):
        policy.slept(0.0001)
    for _ in range(50):
        for _ in range(9):
            policy.succeeded()
        policy.failed()
    assert policy.active


def test_what_spinning_wastes_grows_rarer_the_more_often_it_was_wrong() -> None:
    policy = SpinPolicy(0.001)
    spins = 0
    for _ in range(10_000):
        if policy.active:
            spins += 1
            policy.failed()
        else:
            policy.slept(0.0001)
    assert spins < 200


@pytest.mark.parametrize(
    ("seconds", "expected"), [(None, None), (0, 0), (0.0001, 1), (1.5, 1501), (1e12, 10**9)]
)
def test_seconds_are_rounded_up_to_what_poll_takes(
    seconds: float | None, expected: float | None
) -> None:
    assert milliseconds(seconds) == expected


def test_at_least_one_cpu_is_usable() -> None:
    assert usable_cpus() >= 1


def test_setting_a_wakeup_never_blocks_however_often_nobody_looks(wakeup: Wakeup) -> None:
    inlet = Poller((), wakeup.fileno())
    for _ in range(10_000):  # more than a pipe holds
        wakeup.set()
    assert inlet._wait.poll(0)
    for _ in range(20):
        wakeup.clear()

    assert not inlet._wait.poll(0)
    wakeup.close()


@pytest.mark.usefixtures("way")
def test_room_and_input_are_told_apart() -> None:
    read, write = os.pipe()
    poller = make_poller()
    poller.register(read, POLLIN | POLLOUT)
    poller.register(write, POLLIN | POLLOUT)
    assert poller.poll(0) == [(write, POLLOUT)]
    os.write(write, b"x")
    assert sorted(poller.poll(None)) == sorted([(read, POLLIN), (write, POLLOUT)])
    poller.unregister(read)
    assert poller.poll(10_000) == [(write, POLLOUT)]
    with pytest.raises(KeyError):
        poller.unregister(read)
    for fd in (read, write):
        os.close(fd)


def test_select_is_not_asked_about_nothing() -> None:
    read, write = os.pipe()
    poller = SelectPoller()
    assert poller.poll(None) == []
    poller.register(write, 0)
    os.close(read)
    assert poller.poll(None) == [], "the errors that poll() reports by itself are not seen"
    os.close(write)


@pytest.mark.usefixtures("way")
def test_a_descriptor_may_be_forgotten_twice() -> None:
    wakeup = Wakeup()
    read, write = os.pipe()
    inlet = Poller((read,), wakeup.fileno())
    os.write(write, b"x")

    inlet.forget(read)
    inlet.forget(read)

    assert inlet.ready() == []
    os.close(read)
    os.close(write)
    wakeup.close()
