"""What handlers return and raise at the edges of what they may."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from handover import LONG, Eventually
from shared_messages import Echo, Note

from streamipc import RemoteError, RequestCancelledError, RequestContext
from streamipc.engine import serving
from streamipc.protocol.envelopes import Request


@pytest.fixture
def sides(connected: Callable[..., tuple[Any, Any]]) -> tuple[Any, Any]:
    left, right = connected()
    right.start()
    return left, right


def test_a_generator_for_notifications_runs_to_its_end_although_nobody_takes_its_items(
    sides: tuple[Any, Any],
) -> None:
    left, right = sides
    seen: list[int] = []
    done = threading.Event()

    @right.on_message
    def handle(msg: Note) -> Any:
        for number in range(msg.number):
            seen.append(number)
            yield number
        done.set()

    left.notify(Note(number=3))

    assert done.wait(LONG)
    assert seen == [0, 1, 2]


def test_an_exception_whose_traceback_cant_be_shown_is_told_without(
    sides: tuple[Any, Any],
) -> None:
    left, right = sides

    class Odd(Exception):
        @property
        def __cause__(self) -> Any:
            raise ValueError("no cause")

        @__cause__.setter
        def __cause__(self, cause: Any) -> None: ...

    @right.on_request
    def handle(msg: Echo) -> Any:
        raise Odd("what went wrong")

    with pytest.raises(RemoteError, match="what went wrong") as caught:
        left.request(Echo()).result(LONG)
    assert caught.value.remote_type.endswith("Odd")
    assert caught.value.remote_traceback == ""


def test_what_is_awaitable_and_no_coroutine_is_refused_too(sides: tuple[Any, Any]) -> None:
    left, right = sides

    class Later:
        def __await__(self) -> Any:
            yield

    right.on_request(Echo)(lambda msg: Later())

    with pytest.raises(RemoteError, match="returned a coroutine, and streamipc has no event loop"):
        left.request(Echo()).result(LONG)


def test_threads_of_a_handler_that_need_its_lock_at_the_same_time_get_the_same(
    sides: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = sides
    creation = serving._creation
    called: list[str] = []

    class Overtaken:
        """Another thread registers its callback after we have looked for the lock."""

        def __init__(self, context: RequestContext) -> None:
            self._context = context

        def __enter__(self) -> None:
            monkeypatch.setattr(serving, "_creation", creation)
            other = threading.Thread(
                target=lambda: self._context.on_cancel(lambda: called.append("the other's"))
            )
            other.start()
            other.join()
            creation.acquire()

        def __exit__(self, *_: object) -> None:
            creation.release()

    entered, cancelled = threading.Event(), threading.Event()

    @right.on_request
    def handle(msg: Echo, context: RequestContext) -> None:
        monkeypatch.setattr(serving, "_creation", Overtaken(context))
        context.on_cancel(lambda: called.append("ours"))
        context.on_cancel(cancelled.set)
        entered.set()
        assert cancelled.wait(LONG)

    future = left.request(Echo())
    assert entered.wait(LONG)
    future.cancel()

    assert cancelled.wait(LONG)
    assert called == ["the other's", "ours"]


def test_a_thread_that_waits_for_credit_is_told_when_its_handler_returns(
    sides: tuple[Any, Any], eventually: Eventually
) -> None:
    left, right = sides
    outcome: queue.SimpleQueue[str] = queue.SimpleQueue()

    @right.on_request
    def handle(msg: Echo, ctx: RequestContext) -> str:
        def send() -> None:
            try:
                while True:
                    ctx.progress("item")
            except RequestCancelledError as error:
                outcome.put(str(error))

        threading.Thread(target=send).start()
        eventually(lambda: ctx._served.wakers)  # the caller takes none
        return "done"

    stream = left.stream(Echo(), window=1)

    assert "its handler has returned" in outcome.get(timeout=LONG)
    assert stream.result(LONG) == "done"


def test_a_request_that_never_needed_a_lock_has_none_to_renew_after_a_fork() -> None:
    engine: Any = None
    served = serving.Served(engine, Request(1, Echo()), (), 1, None, 0)

    served.forget_after_fork()

    assert served._lock is None


def test_a_request_without_a_handler_has_none_to_be_slow() -> None:
    engine: Any = None
    served = serving.Served(engine, Request(1, Echo()), (), 1, None, 0)

    served.took(10.0)

    assert not served.is_slow
