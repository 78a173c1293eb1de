"""Items reach the callback one at a time, in order, and the reply comes last."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from typing import Any

import pytest
from calls import make_future

from streamipc import LogMessage
from streamipc.engine.progress import ProgressCalls

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Engine:
    """Records what a ProgressCalls asks for; its pool runs tasks when told."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pool = self
        self.tasks: deque[Any] = deque()
        self.credits: list[int] = []
        self.reported: list[BaseException] = []

    def submit_locked(self, task: Any) -> None:
        assert self.lock._is_owned()  # type: ignore[attr-defined]
        self.tasks.append(task)

    def credit(self, call: Any, count: int) -> None:
        self.credits.append(count)

    def completes_later(self, call: Any) -> None: ...

    def settle(self, call: Any, value: Any, error: BaseException | None) -> None:
        call.settle(value, error)

    complete = settle

    def report(self, error: BaseException) -> None:
        self.reported.append(error)

    def run(self) -> None:
        while self.tasks:
            self.tasks.popleft().run()


@pytest.fixture
def engine() -> Engine:
    return Engine()


def request(engine: Engine, callback: Any, window: int = 4) -> Any:
    future = make_future(None, 1, LogMessage("x"))  # type: ignore[arg-type]
    ProgressCalls(engine, future._call, callback, window)  # type: ignore[arg-type]
    return future


def test_nothing_is_called_on_the_thread_that_reads(engine: Engine) -> None:
    items: list[Any] = []
    future = request(engine, items.append)
    future._call.items.arrived(1)
    future._call.items.replied("reply", None)

    assert items == []
    assert not future.done()
    assert len(engine.tasks) == 1  # one task for all that is there


def test_items_come_in_order_and_before_the_reply(engine: Engine) -> None:
    seen: list[Any] = []
    future = request(engine, lambda item: seen.append((item, future.done())))
    for number in range(3):
        assert future._call.items.arrived(number)
    future._call.items.replied("reply", None)
    engine.run()

    assert seen == [(0, False), (1, False), (2, False)]
    assert future.result() == "reply"


def test_an_error_comes_last_too(engine: Engine) -> None:
    items: list[Any] = []
    future = request(engine, items.append)
    future._call.items.arrived(1)
    future._call.items.replied(None, KeyError("x"))
    engine.run()

    assert items == [1]
    assert isinstance(future.exception(), KeyError)


def test_items_that_arrive_while_it_runs_belong_to_the_same_run(engine: Engine) -> None:
    items: list[Any] = []

    def callback(item: Any) -> None:
        items.append(item)
        if item < 3:
            future._call.items.arrived(item + 1)

    future = request(engine, callback)
    future._call.items.arrived(1)
    engine.run()

    assert items == [1, 2, 3]
    assert not engine.tasks
    future._call.items.arrived(4)
    assert len(engine.tasks) == 1


@pytest.mark.parametrize(
    ("window", "granted"), [(1, [1] * 6), (2, [1] * 6), (4, [2] * 3), (100, [])]
)
def test_credit_is_granted_when_half_of_the_window_is_used(
    engine: Engine, window: int, granted: list[int]
) -> None:
    future = request(engine, lambda item: None, window)
    for number in range(6):
        assert future._call.items.arrived(number)
        engine.run()

    assert engine.credits == granted


def test_an_item_beyond_the_window_is_not_taken(engine: Engine) -> None:
    items: list[Any] = []
    future = request(engine, items.append, window=2)

    assert [future._call.items.arrived(number) for number in range(4)] == [True, True, False, False]
    engine.run()
    assert items == [0, 1]
    assert [future._call.items.arrived(number) for number in range(3)] == [True, True, False]


def test_a_callback_that_raises_is_reported_once_and_not_called_again(engine: Engine) -> None:
    calls: list[Any] = []

    def callback(item: Any) -> None:
        calls.append(item)
        raise LookupError(item)

    future = request(engine, callback, window=2)
    for number in range(2):
        future._call.items.arrived(number)
    future._call.items.replied("reply", None)
    engine.run()

    assert [str(error) for error in engine.reported] == ["0"]
    assert calls == [0]
    assert engine.credits == [1, 1]  # the handler is not held up
    assert future.result() == "reply"


def test_nothing_is_passed_on_once_the_future_is_done(engine: Engine) -> None:
    items: list[Any] = []
    future = request(engine, items.append)
    future._call.items.arrived(1)
    future._call.settle(None, TimeoutError())
    future._call.items.arrived(2)
    future._call.items.replied("late", None)
    engine.run()

    assert items == []
    assert isinstance(future.exception(), TimeoutError)


def test_the_callback_runs_in_a_copy_of_the_context_of_the_request(engine: Engine) -> None:
    seen: list[str] = []
    token = variable.set("when asked")
    future = request(engine, lambda item: seen.append(variable.get()))
    variable.reset(token)
    future._call.items.arrived(1)
    engine.run()

    assert seen == ["when asked"]
    assert variable.get() == "unset"


def test_an_item_that_arrives_twice_with_one_mark_is_passed_on_once(engine: Engine) -> None:
    """Whoever brought it was interrupted, and another brings it again."""
    seen: list[Any] = []
    future = request(engine, seen.append, window=2)
    mark = object()

    assert [future._call.items.arrived(item, mark) for item in ("a", "a")] == [True, True]
    assert [future._call.items.arrived(item) for item in ("b", "c")] == [True, False]
    engine.run()
    assert seen == ["a", "b"]
