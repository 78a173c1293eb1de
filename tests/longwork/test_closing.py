"""Long work that is under way when the session is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from long_messages import Blob, Count, Report, Step
from shared_messages import Echo

from streamipc import (
    IpcPeer,
    RequestCancelledError,
    RequestContext,
    RequestTimeoutError,
    SessionClosedError,
)
from streamipc.engine import closing


def test_a_child_whose_stream_nobody_will_take_exits_by_itself(
    child: Callable[..., list[str]],
) -> None:
    """Its handler waits for credit, which cannot come once our direction is closed."""
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

    @right.on_request
    def report(msg: Report, ctx: RequestContext) -> None:
        try:
            while True:
                ctx.progress("item")
        except RequestCancelledError as error:
            learnt.append(error)
            raise

    right.start()
    stream = left.stream(Report([]), timeout=None, window=window)
    assert next(stream) == "item"

    left.close(timeout=60)
    right.close(timeout=60)

    assert "no more items" in str(learnt[0])


def test_items_taken_while_closing_cost_no_reply(
    connected: Callable[..., tuple[Any, Any]], eventually: Callable[..., None]
) -> None:
    """Taking them grants credit, but our direction is closed: that goes nowhere."""
    left, right = connected()
    may_answer = threading.Event()

    @right.on_request
    def blob(msg: Blob) -> int:
        may_answer.wait(60)
        return len(msg.data)

    @right.on_request
    def count(msg: Count) -> Iterator[Step]:
        for number in range(msg.n):
            yield Step(number)

    right.start()
    answer = left.request(Blob(b"four"))
    stream = left.stream(Count(10**9), window=4)
    assert next(stream) == Step(0)
    closing = threading.Thread(target=left.close, args=(60,))
    closing.start()
    eventually(lambda: right.closed)  # it has seen the end of our direction

    assert [next(stream) for _ in range(3)] == [Step(1), Step(2), Step(3)]

    with pytest.raises(RequestTimeoutError):
        answer.result(timeout=0.5)
    may_answer.set()
    assert answer.result(timeout=30) == 4
    closing.join()


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
    monkeypatch.setattr(closing, "_JOIN", 0.2)
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
