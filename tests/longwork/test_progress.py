"""Progress: items arrive in order, and all of them before the result."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from long_messages import Count, Report, Step

from streamipc import (
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    RemoteError,
    RequestCancelledError,
    RequestContext,
    RequestTimeoutError,
    SessionClosedError,
)

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.mark.parametrize("window", [1, 2, 16, 1000])
def test_a_generator_yields_progress_and_returns_the_reply(
    session: IpcSession, window: int
) -> None:
    items: list[Any] = []
    future = session.request(Count(100), on_progress=items.append, window=window)

    assert future.result(timeout=30) == 100
    assert items == [Step(number) for number in range(100)]


def test_all_items_are_there_when_the_result_is_set(session: IpcSession) -> None:
    for _ in range(20):
        items: list[Any] = []
        seen: list[int] = []
        future = session.request(Count(10), on_progress=items.append)
        future.add_done_callback(lambda _, items=items, seen=seen: seen.append(len(items)))  # type: ignore[misc]
        future.result(timeout=30)

        assert len(items) == 10
        assert set(seen) <= {10}


def test_any_handler_may_send_any_value_as_progress(session: IpcSession) -> None:
    items: list[Any] = []
    sent = [1, "two", [3.0, None], {"four": b"4"}, Step(5)]
    future = session.request(Report(sent), on_progress=items.append)

    assert future.result(timeout=30) == "done"
    assert items == sent


def test_progress_passes_through_json(child: Callable[..., list[str]]) -> None:
    items: list[Any] = []
    with IpcPeer(JsonMessageSerializer()).create_command_session(child("json")) as session:
        counted = session.request(Count(50), on_progress=items.append)
        assert counted.result(timeout=30) == 50
        with session.stream(Report([1, "two", {"three": 3}])) as stream:
            rest = list(stream)

    assert items == [Step(number) for number in range(50)]
    assert rest == [1, "two", {"three": 3}]


def test_a_caller_without_on_progress_gets_the_reply_alone(session: IpcSession) -> None:
    before = session.stats.frames_received

    assert session.request(Count(1000)).result(timeout=30) == 1000
    assert session.stats.frames_received == before + 1


def test_the_callback_runs_in_a_copy_of_the_callers_context(session: IpcSession) -> None:
    seen: list[str] = []

    def callback(item: Any) -> None:
        seen.append(variable.get())
        variable.set("changed by the callback")

    variable.set("the caller's")
    future = session.request(Count(2), on_progress=callback)
    variable.set("changed later")
    future.result(timeout=30)

    assert seen == ["the caller's", "changed by the callback"]
    assert variable.get() == "changed later"


def test_a_callback_that_raises_is_reported_once_and_the_request_goes_on(
    session: IpcSession,
) -> None:
    reported: list[BaseException] = []
    calls: list[Any] = []
    session.on_exception(reported.append)

    def callback(item: Any) -> None:
        calls.append(item)
        raise LookupError("in on_progress")

    future = session.request(Count(100), on_progress=callback, window=4)

    assert future.result(timeout=30) == 100
    assert [str(error) for error in reported] == ["in on_progress"]
    assert calls == [Step(0)]


def test_a_slow_callback_bounds_the_handler(connected: Callable[..., Any]) -> None:
    left, right = connected()
    yielded = 0
    first, go_on = threading.Event(), threading.Event()

    @right.on_request
    def count(msg: Count) -> Iterator[int]:
        nonlocal yielded
        for number in range(msg.n):
            yielded += 1
            yield number
        return msg.n

    right.start()

    def callback(item: Any) -> None:
        first.set()
        assert go_on.wait(30)

    future = left.request(Count(500), on_progress=callback, window=8)
    assert first.wait(30)
    assert left.request(Report([]), timeout=30).exception(timeout=30) is not None  # not delayed

    assert yielded <= 8 + 1
    go_on.set()
    assert future.result(timeout=30) == 500


def test_a_callback_may_ask_and_wait(session: IpcSession) -> None:
    counted: list[int] = []
    future = session.request(
        Count(20), on_progress=lambda item: counted.append(session.call(Count(item.number)))
    )

    assert future.result(timeout=30) == 20
    assert counted == list(range(20))


def test_a_callback_that_is_stuck_does_not_outlive_the_deadline(session: IpcSession) -> None:
    stuck = threading.Event()
    future = session.request(Count(1), timeout=0.3, on_progress=lambda item: stuck.wait(30))
    try:
        with pytest.raises(RequestTimeoutError):
            future.result(timeout=10)
    finally:
        stuck.set()


def test_a_callback_that_is_stuck_does_not_outlive_the_session(
    connected: Callable[..., Any],
) -> None:
    """The reply is there, but not all items are passed on, and there will be no deadline."""
    left, right = connected()
    stuck, release = threading.Event(), threading.Event()

    @right.on_request
    def report(msg: Report, context: RequestContext) -> str:
        for item in msg.items:
            context.progress(item)
        return "done"

    def callback(item: object) -> None:
        stuck.set()
        assert release.wait(30)

    right.start()
    future = left.request(Report([1, 2]), on_progress=callback, timeout=None)
    assert stuck.wait(10)
    left.close(timeout=0.1)

    with pytest.raises(SessionClosedError, match="on_progress"):
        future.result(timeout=10)
    release.set()


def test_no_item_is_passed_on_after_the_end(session: IpcSession) -> None:
    """Of a request that was cancelled between two items."""
    items: list[Any] = []
    cancelled = threading.Event()

    def callback(item: Any) -> None:
        items.append(item)
        future.cancel()
        cancelled.set()

    started = threading.Event()
    future = session.request(
        Count(10_000), on_progress=lambda item: started.wait(30) and callback(item)
    )
    started.set()
    assert cancelled.wait(30)
    session.call(Count(1))

    assert items == [Step(0)]


def test_the_end_of_the_session_comes_after_the_items(
    session: Any, eventually: Callable[..., None]
) -> None:
    """What the child had written before its death is still passed on."""
    items: list[object] = []

    def callback(item: object) -> None:
        if not items:
            eventually(lambda: session.stats.frames_received == before + 5)
            session.kill()
            eventually(lambda: session.closed)
        items.append(item)

    before = session.stats.frames_received
    future = session.request(Count(10**9), on_progress=callback, window=5)
    with pytest.raises(SessionClosedError):
        future.result(timeout=10)

    assert items == [Step(number) for number in range(5)]


def test_an_error_comes_after_the_items(session: IpcSession) -> None:
    items: list[Any] = []
    future = session.request(Count(10, fail_after=3), on_progress=items.append)

    with pytest.raises(RemoteError, match="on purpose"):
        future.result(timeout=30)
    assert items == [Step(0), Step(1), Step(2)]


def test_stuck_handlers_do_not_delay_replies_and_callbacks(connected: Callable[..., Any]) -> None:
    """Neither ``on_progress`` nor ``add_done_callback`` needs a handler's thread."""
    left, right = connected(IpcPeer(handler_threads=1), IpcPeer(handler_threads=1))
    stuck, release = threading.Event(), threading.Event()

    @left.on_request
    def block(msg: Report) -> None:
        stuck.set()
        assert release.wait(30)

    @right.on_request
    def report(msg: Report, context: RequestContext) -> str:
        for item in msg.items:
            context.progress(item)
        return "done"

    blocked = right.request(Report([]))
    left.start()
    assert stuck.wait(30)
    items: list[Any] = []
    called = threading.Event()
    future = left.request(Report([1, 2]), on_progress=items.append)
    future.add_done_callback(lambda _: called.set())
    try:
        assert future.result(timeout=10) == "done"
        assert called.wait(10)
        assert items == [1, 2]
        assert not blocked.done()
    finally:
        release.set()
    assert blocked.result(timeout=30) is None


def test_progress_from_a_thread_ends_with_the_handler(connected: Callable[..., Any]) -> None:
    """Nobody grants credit for a request that is answered: waiting for it would never end."""
    left, right = connected()
    sent = threading.Event()
    errors: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    @right.on_request
    def report(msg: Report, context: RequestContext) -> str:
        def work() -> None:
            try:
                while True:
                    context.progress("item")
                    sent.set()
            except RequestCancelledError as error:
                errors.put(error)

        threading.Thread(target=work).start()
        assert sent.wait(10)
        return "done"

    right.start()
    stream = left.stream(Report([]), window=1, timeout=None)

    assert "its handler has returned" in str(errors.get(timeout=10))
    assert list(stream) == ["item"]
    assert stream.result(timeout=10) == "done"


@pytest.mark.parametrize("window", [0, -1, 2**31, True, 1.5, "16"])
def test_a_window_that_is_none_is_refused(session: IpcSession, window: Any) -> None:
    with pytest.raises(ValueError, match="window"):
        session.request(Count(1), on_progress=print, window=window)
    with pytest.raises(ValueError, match="window"):
        session.stream(Count(1), window=window)
