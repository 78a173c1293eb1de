"""Long work that is under way when the session is closed."""

from __future__ import annotations

import _thread
import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from long_messages import Count, Report, Step
from shared_messages import Echo

from streamipc import (
    IpcPeer,
    RequestCancelledError,
    RequestContext,
    SessionClosedError,
)
from streamipc.engine import shutdown


def test_a_child_whose_stream_nobody_will_take_exits_by_itself(
    child: Callable[..., list[str]],
) -> None:
    """The thread that took from it is the one that closes the session."""
    session = IpcPeer().create_command_session(child())
    stream = session.stream(Count(10**9), timeout=None)
    assert next(stream) == Step(0)

    session.close(timeout=60)

    assert session.returncode == 0


@pytest.mark.parametrize("window", [1, 16])
def test_a_handler_learns_that_nobody_can_take_more_items(
    connected: Callable[..., tuple[Any, Any]], window: int
) -> None:
    left, right = connected()
    learnt: list[BaseException] = []
    has_learnt = threading.Event()

    @right.on_request
    def report(msg: Report, ctx: RequestContext) -> None:
        try:
            while True:
                ctx.progress("item")
        except RequestCancelledError as error:
            learnt.append(error)
            has_learnt.set()
            raise

    right.start()
    stream = left.stream(Report([]), timeout=None, window=window)
    assert next(stream) == "item"

    left.close(timeout=60)
    right.close(timeout=60)

    # Neither side waits for a handler that was cancelled before.
    assert has_learnt.wait(30)
    # The latter where the pipe was found broken before the Cancel was read.
    assert re.search("cancelled by its caller|the caller of request 1 is gone", str(learnt[0]))


@pytest.mark.parametrize("window", [1, 16])
def test_a_stream_in_flight_comes_to_its_end_while_its_session_closes(
    connected: Callable[..., tuple[Any, Any]], window: int
) -> None:
    left, right = connected()

    @right.on_request
    def count(msg: Count) -> Iterator[Step]:
        for number in range(msg.n):
            yield Step(number)
        return msg.n

    right.start()
    begun = threading.Event()
    taken: list[Step] = []
    replies: list[int] = []

    def take() -> None:
        with left.stream(Count(100), window=window) as stream:
            for item in stream:
                taken.append(item)
                begun.set()
                time.sleep(0.001)
            replies.append(stream.result())

    taking = threading.Thread(target=take)
    taking.start()
    assert begun.wait(30)
    left.close(timeout=60)
    taking.join()

    assert taken == [Step(number) for number in range(100)]
    assert replies == [100]


def _take(stream: Any, taken: list[Step]) -> None:
    for item in stream:
        taken.append(item)
        time.sleep(0.05)


def _take_in_coroutine(stream: Any, taken: list[Step]) -> None:
    async def take() -> None:
        async for item in stream:
            taken.append(item)

    asyncio.run(take())


@pytest.mark.parametrize(
    ("start", "take"),
    [
        pytest.param(lambda run: threading.Thread(target=run).start(), _take, id="thread"),
        pytest.param(
            lambda run: threading.Thread(target=run).start(), _take_in_coroutine, id="coroutine"
        ),
        pytest.param(
            lambda run: _thread.start_new_thread(run, ()),
            lambda stream, taken: taken.extend(stream),
            id="a thread that threading knows not",
        ),
        pytest.param(
            lambda run: _thread.start_new_thread(run, ()),
            _take,
            id="such a one, which does not wait all the time",
        ),
    ],
)
def test_a_stream_of_which_little_was_taken_comes_to_its_end_too(
    connected: Callable[..., tuple[Any, Any]], start: Any, take: Any
) -> None:
    left, right = connected()
    closing = threading.Event()

    @right.on_request
    def count(msg: Count) -> Iterator[Step]:
        for number in range(msg.n):
            yield Step(number)
            if number == 3:
                assert closing.wait(30)
                time.sleep(0.2)

    right.start()
    stream = left.stream(Count(6), window=100)
    taken: list[Step] = []
    while len(stream._items.waiting) < 4:
        time.sleep(0.001)
    done = threading.Lock()
    done.acquire()

    def run() -> None:
        try:
            take(stream, taken)
        except SessionClosedError:
            pass
        finally:
            done.release()

    start(run)
    while stream._items.waiting:
        time.sleep(0.001)
    closing.set()
    left.close(timeout=60)
    assert done.acquire(timeout=30)
    assert taken == [Step(number) for number in range(6)]


def test_on_progress_gets_all_items_while_its_session_closes(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    left, right = connected()

    @right.on_request
    def count(msg: Count) -> Iterator[Step]:
        for number in range(msg.n):
            yield Step(number)
        return msg.n

    right.start()
    taken: list[Step] = []
    future = left.request(Count(100), on_progress=taken.append, window=2)
    left.close(timeout=60)

    assert future.result(timeout=0) == 100
    assert len(taken) == 100


def test_a_stream_that_does_not_end_in_time_fails_for_this_sides_close(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    left, right = connected()

    @right.on_request
    def count(msg: Count) -> Iterator[Step]:
        for number in range(msg.n):
            yield Step(number)

    right.start()
    begun = threading.Event()
    ended: list[BaseException] = []

    def take() -> None:
        try:
            for _ in left.stream(Count(10**9)):
                begun.set()
        except SessionClosedError as error:
            ended.append(error)

    taking = threading.Thread(target=take)
    taking.start()
    assert begun.wait(30)
    left.close(timeout=0.5)
    taking.join()

    assert "this side closed the session" in str(ended[0])


def test_a_child_that_goes_on_asking_sees_that_we_close(script: Callable[..., list[str]]) -> None:
    """Each of its requests is refused, so somebody of ours is writing all the time."""
    command = script("""
        import threading

        from shared_messages import Echo
        from streamipc import IpcPeer, SessionClosedError

        session = IpcPeer().create_stdio_session()

        def ask():
            while not session.closed:
                try:
                    session.call(Echo())
                except SessionClosedError:
                    pass

        for _ in range(4):
            threading.Thread(target=ask).start()
        session.serve_forever()
    """)
    peer = IpcPeer()

    @peer.on_request
    def echo(msg: Echo) -> None:
        asked.set()

    for _ in range(10):
        asked = threading.Event()
        session = peer.create_command_session(command).start()
        assert asked.wait(60)

        session.close(timeout=30)

        assert session.returncode == 0


def test_closing_does_not_wait_for_all_that_on_progress_has_still_to_take(
    connected: Callable[..., tuple[Any, Any]],
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutdown, "_JOIN", 0.2)
    left, right = connected(IpcPeer(handler_threads=1), IpcPeer())
    taken: list[object] = []
    entered, go_on = threading.Event(), threading.Event()

    @right.on_request
    def report(msg: Report, ctx: RequestContext) -> None:
        ctx.progress("item")

    def stuck(item: object) -> None:
        entered.set()
        assert go_on.wait(30)

    def slow(item: object) -> None:
        taken.append(item)
        time.sleep(0.02)

    right.start()
    held = left.request(Report([1]), on_progress=stuck)
    assert entered.wait(30)
    futures = [held, *(left.request(Report([1]), on_progress=slow) for _ in range(500))]
    eventually(lambda: left.stats.pending == 0)

    left.close(timeout=0)
    go_on.set()

    assert len(taken) < 500
    with pytest.raises(SessionClosedError, match="before on_progress had taken all items"):
        futures[-1].result(timeout=0)
