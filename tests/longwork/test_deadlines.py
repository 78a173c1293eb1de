"""Deadlines travel with requests, as time that remains."""

from __future__ import annotations

import contextlib
import contextvars
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from long_child import deep_below
from long_messages import PATIENCE, AskBack, Blob, Context, Step, Stubborn

from streamipc import (
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    RemoteError,
    RequestContext,
    RequestTimeoutError,
    current_request,
)


def remaining() -> float:
    context = current_request()
    assert context is not None
    return context.time_remaining()


@pytest.mark.parametrize("timeout", [5.0, 1000, 12.5])
def test_the_remaining_time_goes_with_the_request(session: IpcSession, timeout: float) -> None:
    context = session.call(Context(), timeout)

    assert context["deadline"]
    assert timeout - 5 < context["remaining"] <= timeout


def test_the_default_timeout_goes_with_it_too(child: Callable[..., list[str]]) -> None:
    peer = IpcPeer(JsonMessageSerializer(), timeout=77)
    with peer.create_command_session(child("json")) as session:
        assert 60 < session.call(Context())["remaining"] <= 77


def test_no_timeout_is_no_deadline(session: IpcSession) -> None:
    context = session.call(Context(), timeout=None)

    assert not context["deadline"]
    assert context["remaining"] == math.inf


def test_a_request_within_a_handler_defaults_to_what_remains(session: IpcSession) -> None:
    """The child's own default, 30 seconds, is longer."""

    @session.on_request
    def context(msg: Context) -> float:
        return remaining()

    left = session.call(AskBack(), timeout=10)

    assert 0 < left <= 10


def test_a_request_within_a_handler_does_not_wait_longer_than_the_peers_default(
    session: IpcSession,
) -> None:
    @session.on_request
    def context(msg: Context) -> float:
        return remaining()

    assert 20 < session.call(AskBack(), timeout=1000) <= 30
    assert 20 < session.call(AskBack(), timeout=None) <= 30


def test_what_outlives_the_handler_outlives_its_deadline(connected: Callable[..., Any]) -> None:
    """A thread that runs in a copy of the handler's context, once the handler has returned."""
    left, right = connected()
    answered = threading.Event()
    asked: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @right.on_request
    def stubborn(msg: Stubborn, context: RequestContext) -> str:
        def work() -> None:
            assert answered.wait(30)
            while context.time_remaining():
                time.sleep(0.001)
            asked.put(context.session.request(Context()))

        threading.Thread(target=contextvars.copy_context().run, args=(work,)).start()
        return "started"

    left.on_request(Context)(lambda msg: deep_below())
    right.start()
    for timeout in PATIENCE:
        with contextlib.suppress(RequestTimeoutError):
            assert left.call(Stubborn("one"), timeout) == "started"
            break
    answered.set()

    assert 25 < asked.get(timeout=30).result(timeout=10)["remaining"] <= 30


def test_a_handler_may_give_another_timeout(session: IpcSession) -> None:
    @session.on_request
    def context(msg: Context) -> float:
        return remaining()

    assert 50 < session.call(AskBack(timeout=60), timeout=10) <= 60


def test_the_deadline_of_the_outer_request_ends_the_inner_one(session: IpcSession) -> None:
    asked, cancelled = threading.Event(), threading.Event()

    @session.on_request
    def context(msg: Context, context: RequestContext) -> None:
        asked.set()
        context.on_cancel(cancelled.set)
        assert cancelled.wait(30)

    for timeout in PATIENCE:
        with pytest.raises(RequestTimeoutError):
            session.request(AskBack(), timeout=timeout).result()
        if asked.is_set():
            break
    assert cancelled.wait(30)


def test_a_request_whose_time_is_over_before_it_starts_is_not_started(
    connected: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    left, right = connected(None, IpcPeer(handler_threads=1))
    running, release = threading.Event(), threading.Event()
    started: list[str] = []

    @right.on_request
    def stubborn(msg: Stubborn) -> None:
        started.append(msg.name)
        running.set()
        assert release.wait(30)

    right.start()
    first = left.request(Stubborn("first"))
    assert running.wait(10)
    late = [left.request(Stubborn("late"), timeout=0.02) for _ in range(10)]
    for future in late:
        with pytest.raises(RequestTimeoutError):
            future.result()
    left.notify(Step(1))
    right.receive(timeout=10)  # by now it has read all that came before
    release.set()
    first.result(timeout=10)
    assert left.request(Stubborn("last")).result(timeout=10) is None

    assert started == ["first", "last"]


def test_a_timeout_of_zero_is_not_started(session: IpcSession) -> None:
    with pytest.raises(RequestTimeoutError):
        session.call(Blob(b"x"), timeout=0)
    assert session.call(Blob(b"x")) == 1


def test_a_nested_timeout_is_the_handlers_error_to_the_caller(session: IpcSession) -> None:
    release = threading.Event()

    @session.on_request
    def context(msg: Context) -> None:
        assert release.wait(30)

    try:
        with pytest.raises(RemoteError, match="RequestTimeoutError"):
            session.call(AskBack(timeout=0.05), timeout=20)
    finally:
        release.set()


def test_a_thousand_deadlines_pass_one_after_the_other(session: IpcSession) -> None:
    futures = [
        session.request(Stubborn("never ends"), timeout=0.05 + number % 10 / 100)
        for number in range(1000)
    ]
    for future in futures:
        assert isinstance(future.exception(timeout=20), RequestTimeoutError)

    assert session.stats.pending == 0
    session.kill()  # type: ignore[attr-defined]
