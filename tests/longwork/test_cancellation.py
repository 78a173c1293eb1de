"""Cancellation: every way to lose interest reaches the handler."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, as_completed, wait
from typing import Any

import pytest
from long_messages import PATIENCE, Blob, Context, Count, Forever, Step, Stubborn, WaitFor

from streamipc import (
    IpcPeer,
    IpcSession,
    RequestCancelledError,
    RequestContext,
    RequestTimeoutError,
)

HOW = ["on_cancel", "cancelled", "raise_if_cancelled"]


@pytest.mark.parametrize("how", HOW)
def test_cancelling_reaches_the_handler(session: IpcSession, how: str) -> None:
    future = session.request(Forever("one", how))
    session.call(WaitFor("one started"))

    assert future.cancel()
    session.call(WaitFor("one cancelled"))
    assert future.cancelled()
    assert future.done()
    with pytest.raises(CancelledError):
        future.result()


@pytest.mark.parametrize("how", HOW)
def test_a_deadline_that_passes_reaches_the_handler(session: IpcSession, how: str) -> None:
    for timeout in PATIENCE:
        started = threading.Event()
        future = session.request(
            Forever("one", how), timeout, on_progress=lambda _, started=started: started.set()
        )
        with pytest.raises(RequestTimeoutError):
            future.result()
        if started.is_set():
            break
    session.call(WaitFor("one cancelled"))


@pytest.mark.parametrize("how", HOW)
def test_leaving_a_stream_reaches_the_handler(session: IpcSession, how: str) -> None:
    with session.stream(Forever("one", how)):
        session.call(WaitFor("one started"))

    session.call(WaitFor("one cancelled"))


@pytest.mark.parametrize("how", HOW)
def test_the_end_of_the_session_reaches_the_handler(
    connected: Callable[..., Any], how: str
) -> None:
    left, right = connected()
    started, cancelled = threading.Event(), threading.Event()

    @right.on_request
    def forever(msg: Forever, context: RequestContext) -> None:
        noticed = threading.Event()
        if msg.how == "on_cancel":
            context.on_cancel(noticed.set)
        started.set()
        try:
            while not noticed.wait(0.001 if msg.how != "on_cancel" else 20):
                if msg.how == "raise_if_cancelled":
                    context.raise_if_cancelled()
                elif context.cancelled:
                    break
        finally:
            cancelled.set()

    right.start()
    future = left.request(Forever("one", how))
    assert started.wait(10)
    left.close(timeout=0.1)

    assert cancelled.wait(10)
    assert future.exception(timeout=10) is not None


def test_a_queued_request_that_is_cancelled_or_late_never_starts(
    connected: Callable[..., Any],
) -> None:
    left, right = connected(None, IpcPeer(handler_threads=1))
    started: list[str] = []
    running, release = threading.Event(), threading.Event()

    @right.on_request
    def stubborn(msg: Stubborn) -> str:
        started.append(msg.name)
        running.set()
        assert release.wait(30)
        return msg.name

    right.start()
    futures = [left.request(Stubborn("0"))]
    assert running.wait(30)
    futures += [left.request(Stubborn(str(number))) for number in range(1, 20)]
    for future in futures[1::2]:
        assert future.cancel()
    late = left.request(Stubborn("late"), timeout=0.05)
    with pytest.raises(RequestTimeoutError):
        late.result()
    left.notify(Step(1))
    right.receive(timeout=10)  # by now it has read all that came before
    release.set()

    kept = [future.result(timeout=30) for future in futures[0::2]]
    assert kept == started == [str(number) for number in range(0, 20, 2)]


def test_a_handler_that_ignores_it_costs_its_thread_and_nothing_else(
    session: IpcSession, eventually: Callable[..., None]
) -> None:
    futures = [session.request(Stubborn(f"number {number}")) for number in range(4)]
    for number in range(4):
        session.call(WaitFor(f"number {number} started"))
    for future in futures:
        assert future.cancel()
    started = time.monotonic()
    assert session.request(Blob(b"abc")).result(timeout=30) == 3
    assert time.monotonic() - started < 25

    before = session.stats
    for number in range(4):
        session.call(WaitFor(f"number {number} may end", say=True))
        session.call(WaitFor(f"number {number} ended"))
    assert session.call(Blob(b"abc")) == 3
    # The late replies were dropped there: nine frames came, for nine calls.
    assert session.stats.frames_received == before.frames_received + 9
    assert all(future.cancelled() for future in futures)


def test_on_cancel_works_while_every_handler_thread_is_taken(
    connected: Callable[..., Any],
) -> None:
    left, right = connected(None, IpcPeer(handler_threads=1))
    started, freed = threading.Event(), threading.Event()

    @right.on_request
    def forever(msg: Forever, context: RequestContext) -> None:
        context.on_cancel(freed.set)
        started.set()
        assert freed.wait(30)

    right.start()
    future = left.request(Forever("only"))
    assert started.wait(10)
    queued = left.request(Forever("queued"))
    assert queued.cancel()
    future.cancel()

    assert freed.wait(10)


def test_on_cancel_is_called_at_once_when_it_is_too_late(connected: Callable[..., Any]) -> None:
    left, right = connected()
    started, called = threading.Event(), threading.Event()

    @right.on_request
    def forever(msg: Forever, context: RequestContext) -> None:
        started.set()
        while not context.cancelled:
            time.sleep(0.001)
        context.on_cancel(called.set)

    right.start()
    future = left.request(Forever("one"))
    assert started.wait(10)
    future.cancel()

    assert called.wait(10)


def test_a_callback_of_on_cancel_that_raises_is_reported(
    connected: Callable[..., Any],
) -> None:
    left, right = connected()
    started, reported, other = threading.Event(), threading.Event(), threading.Event()

    @right.on_exception
    def report(error: LookupError) -> None:
        reported.set()

    def fail() -> None:
        raise LookupError("in on_cancel")

    @right.on_request
    def forever(msg: Forever, context: RequestContext) -> None:
        context.on_cancel(fail)
        context.on_cancel(other.set)
        started.set()
        assert other.wait(10)

    right.start()
    future = left.request(Forever("one"))
    assert started.wait(10)
    future.cancel()

    assert other.wait(10)
    assert reported.wait(10)


def test_a_callback_of_on_cancel_that_raises_at_once_is_reported_too(
    connected: Callable[..., Any],
) -> None:
    left, right = connected()
    started, ended = threading.Event(), threading.Event()
    reported: list[BaseException] = []
    right.on_exception(reported.append)

    def fail() -> None:
        raise LookupError("in on_cancel")

    @right.on_request
    def forever(msg: Forever, context: RequestContext) -> None:
        started.set()
        while not context.cancelled:
            time.sleep(0.001)
        context.on_cancel(fail)  # raises nothing here, as it would not a moment earlier
        ended.set()

    right.start()
    future = left.request(Forever("one"))
    assert started.wait(10)
    future.cancel()

    assert ended.wait(10)
    assert [str(error) for error in reported] == ["in on_cancel"]


def test_on_cancel_is_not_called_for_a_request_that_is_answered(
    connected: Callable[..., Any],
) -> None:
    left, right = connected()
    called: list[int] = []

    @right.on_request
    def blob(msg: Blob, context: RequestContext) -> int:
        context.on_cancel(lambda: called.append(1))
        return 0

    right.start()
    future = left.request(Blob(b""))
    assert future.result(timeout=10) == 0
    assert not future.cancel()
    left.close()

    assert called == []


def test_progress_raises_once_the_request_is_cancelled(connected: Callable[..., Any]) -> None:
    left, right = connected()
    raised = threading.Event()

    @right.on_request
    def count(msg: Count, context: RequestContext) -> None:
        try:
            while True:
                context.progress(1)
        except RequestCancelledError:
            raised.set()

    right.start()
    with left.stream(Count(1)) as stream:
        next(stream)

    assert raised.wait(10)


def test_cancelled_futures_behave_as_concurrent_futures_says(session: IpcSession) -> None:
    futures = [session.request(Forever(str(number))) for number in range(5)]
    quick = session.request(Blob(b"abc"))
    called: list[Any] = []
    futures[0].add_done_callback(called.append)
    waiting = threading.Thread(target=wait, args=(futures,))
    waiting.start()

    assert wait([*futures, quick], return_when=FIRST_COMPLETED).done == {quick}
    for future in futures:
        assert future.cancel()
        assert future.cancel()  # again
        assert not future.running()
        with pytest.raises(CancelledError):
            future.exception()
    waiting.join(10)
    assert not waiting.is_alive()
    assert set(as_completed([*futures, quick], timeout=10)) == {*futures, quick}
    assert called == [futures[0]]
    assert not quick.cancel()


def test_cancelling_wakes_a_thread_that_waits(session: IpcSession) -> None:
    future = session.request(Forever("one"))
    seen: list[str] = []
    waiting = threading.Event()

    def wait_for_it() -> None:
        waiting.set()
        try:
            future.result(timeout=30)
        except CancelledError:
            seen.append("cancelled")

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    assert waiting.wait(10)
    session.call(WaitFor("one started"))
    future.cancel()
    thread.join(10)

    assert seen == ["cancelled"]


def test_many_threads_cancel_one_future_and_it_is_cancelled_once(session: IpcSession) -> None:
    for round in range(20):  # noqa: A001
        future = session.request(Forever(str(round)))
        called: list[Any] = []
        future.add_done_callback(called.append)
        barrier = threading.Barrier(4)
        results: list[bool] = []

        def cancel(
            barrier: threading.Barrier = barrier,
            future: Any = future,
            results: list[bool] = results,
        ) -> None:
            barrier.wait(10)
            results.append(future.cancel())

        threads = [threading.Thread(target=cancel) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert results == [True] * 4
        assert called == [future]


def test_cancelling_races_with_replies_and_each_future_has_one_end(session: IpcSession) -> None:
    ends = []
    for _ in range(300):
        future = session.request(Blob(b"abc"))
        if future.cancel():
            ends.append("cancelled")
            assert future.cancelled()
        else:
            assert future.result() == 3
    assert session.call(Context())["deadline"]
    assert session.stats.pending == 0
