"""ResponseFuture by itself: a concurrent.futures.Future that waits by way of its owner."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import sys
import threading
import time
import traceback
from collections import deque
from typing import Any

import pytest
from calls import make_future
from interrupting import Interrupt, interrupted_at
from shared_messages import Greeting

from streamipc import (
    LogMessage,
    RemoteError,
    RequestTimeoutError,
    SerializationError,
    SessionClosedError,
    UnhandledRequestError,
)
from streamipc.engine.calls import Call
from streamipc.futures import ResponseFuture, ResponseStream


class Owner:
    """Stands for the engine: waiting waits for a plain event."""

    def __init__(self) -> None:
        self.waits: list[float | None] = []
        self.cancelled: list[Any] = []
        self.unwanted: deque[Any] = deque()
        self.granted = 0
        self.on_wait: Any = lambda: None

    def wait(self, awaited: Any, end: float | None) -> bool:
        self.waits.append(end)
        self.on_wait()
        return bool(awaited.ready())

    def cancel(self, call: Any) -> None:
        self.cancelled.append(call)

    def give_up_unwanted(self) -> None: ...

    def credit(self, call: Any, count: int) -> None:
        self.granted += count

    def drop(self, future: Any) -> None: ...

    def check_awaitable(self) -> None: ...


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def future(owner: Owner) -> ResponseFuture[str]:
    return make_future(owner, 7, LogMessage("ask"))


def test_it_is_a_future_of_the_standard_library(future: ResponseFuture[str]) -> None:
    assert isinstance(future, concurrent.futures.Future)
    assert future.id == 7
    assert future.request == LogMessage("ask")
    assert not future.done()
    assert not future._call.ready()


def test_a_reply_that_is_there_is_returned_without_waiting(
    future: ResponseFuture[str], owner: Owner
) -> None:
    assert future._call.settle("reply", None)

    assert future.result() == "reply"
    assert future.exception() is None
    assert owner.waits == []


def test_an_error_is_raised_and_returned(future: ResponseFuture[str]) -> None:
    error = ValueError("x")
    future._call.settle(None, error)

    with pytest.raises(ValueError, match="x"):
        future.result()
    assert future.exception() is error


def _depth(error: BaseException) -> int:
    return len(list(traceback.walk_tb(error.__traceback__)))


ERRORS = [
    RemoteError("no", "ValueError", "Traceback of the other side"),
    SessionClosedError("gone", returncode=-9, signal="SIGKILL", stderr_tail="last words"),
    RequestTimeoutError("late"),
    SerializationError("unreadable"),
    UnhandledRequestError("nobody"),
    ValueError("of somebody else's"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_traceback_of_an_error_does_not_grow_each_time_it_is_raised(
    future: ResponseFuture[str], error: Exception
) -> None:
    future._call.settle(None, error)
    stream: ResponseStream[str] = ResponseStream(future, window=1)

    async def ask() -> str:
        return await future

    async def iterate() -> list[Any]:
        return [item async for item in stream]

    for call in (
        future.result,
        lambda: next(stream),
        stream.result,
        lambda: asyncio.run(ask()),
        lambda: asyncio.run(iterate()),
    ):
        depths = []
        for _ in range(20):
            with pytest.raises(type(error)) as caught:
                call()
            depths.append(_depth(caught.value))
        assert len(set(depths)) == 1, depths
    if not isinstance(error, ValueError):
        assert _depth(error) == 0


@pytest.mark.parametrize("error", ERRORS[:-1], ids=lambda error: type(error).__name__)
def test_what_is_raised_says_all_that_the_error_says(
    future: ResponseFuture[str], error: Exception
) -> None:
    error.__dict__["__notes__"] = ["a note"]  # add_note(), from Python 3.11 on
    future._call.settle(None, error)
    with pytest.raises(type(error)) as caught:
        future.result()
    raised = caught.value

    assert raised is not error
    assert future.exception() is future.exception() is error
    assert (type(raised), str(raised), raised.args) == (type(error), str(error), error.args)
    assert vars(raised) == vars(error)
    assert raised.__cause__ is error.__cause__
    assert raised.__suppress_context__ == error.__suppress_context__
    vars(raised)["__notes__"].append("another")
    assert vars(error).pop("__notes__") == ["a note"]


def test_threads_that_raise_the_same_outcome_have_each_a_traceback_of_their_own(
    future: ResponseFuture[str],
) -> None:
    future._call.settle(None, RemoteError("no", "ValueError"))
    start = threading.Barrier(4)
    seen: list[set[str]] = []

    def ask(names: set[str]) -> None:
        start.wait()
        for _ in range(300):
            try:
                future.result()
            except RemoteError as error:
                names.update(f.f_code.co_name for f, _ in traceback.walk_tb(error.__traceback__))
                names.add(str(_depth(error)))

    def thread(number: int) -> None:
        # A function of its own, so that its name tells the thread in a traceback.
        scope: dict[str, Any] = {"ask": ask, "names": (names := set())}
        exec(f"def thread_{number}(): ask(names)", scope)
        scope[f"thread_{number}"]()
        seen.append(names)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=thread, args=(number,)) for number in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    finally:
        sys.setswitchinterval(before)

    assert seen == [{"ask", "result", "2"}] * 4


def test_a_forgotten_result_is_named(future: ResponseFuture[str]) -> None:
    for _ in range(2):
        with pytest.raises(AttributeError, match=r"no attribute 'text': .* call result\(\)") as one:
            future.text  # type: ignore[attr-defined]  # noqa: B018
        assert (one.value.name, one.value.obj) == ("text", future)
        future._call.settle(Greeting("hello"), None)
    with pytest.raises(AttributeError, match=r"iterate over it .* call result\(\)"):
        ResponseStream(future, 1).text  # type: ignore[attr-defined]  # noqa: B018


def test_protocols_that_look_for_private_names_find_what_they_would(
    future: ResponseFuture[str],
) -> None:
    for thing in (future, ResponseStream(future, 1), ResponseFuture.__new__(ResponseFuture)):
        for name in ("__deepcopy__", "_asyncio_future_blocking", "__wrapped__", "_private"):
            assert not hasattr(thing, name)
            with pytest.raises(AttributeError, match=rf"no attribute '{name}'$"):
                getattr(thing, name)
        inspect.unwrap(thing)  # type: ignore[arg-type]
        assert not hasattr(thing, "text")
        assert repr(thing)
        dir(thing)
    future._call.settle("reply", None)


def test_its_repr_says_what_it_is_of_and_how_it_stands(owner: Owner) -> None:
    one, other, third = (make_future(owner, n, LogMessage("x")) for n in (7, "a", 9))
    stream = ResponseStream(other, window=4)
    assert repr(one) == "<ResponseFuture of streamipc.LogMessage, request 7: pending>"
    one._call.settle(Greeting("hello"), None)
    assert repr(one) == "<ResponseFuture of streamipc.LogMessage, request 7: returned Greeting>"

    other._call.items.arrived("item")  # type: ignore[misc]
    assert repr(stream) == (
        "<ResponseStream of streamipc.LogMessage, request 'a': pending, 1 items not taken>"
    )
    other._call.settle(None, RemoteError("x"))
    assert repr(stream) == (
        "<ResponseStream of streamipc.LogMessage, request 'a': raised RemoteError, "
        "1 items not taken>"
    )
    third.cancel()
    assert repr(third) == "<ResponseFuture of streamipc.LogMessage, request 9: cancelled>"


@pytest.mark.parametrize("method", ["result", "exception"])
def test_waiting_is_left_to_the_owner(
    future: ResponseFuture[str], owner: Owner, method: str
) -> None:
    owner.on_wait = lambda: future._call.settle("reply", None)

    assert getattr(future, method)() in ("reply", None)
    assert owner.waits == [None]


@pytest.mark.parametrize("method", ["result", "exception"])
def test_a_bounded_wait_says_that_the_request_goes_on(
    future: ResponseFuture[str], method: str
) -> None:
    with pytest.raises(RequestTimeoutError, match=r"LogMessage \(request 7\) within 0.5 s; the"):
        getattr(future, method)(timeout=0.5)
    assert not future.done()
    assert future._call.settle("late", None)
    assert future.result() == "late"


def test_the_first_outcome_stays(future: ResponseFuture[str]) -> None:
    assert future._call.settle("first", None)
    assert not future._call.settle("second", None)
    assert future.result() == "first"


def test_cancelling_tells_the_owner_once(future: ResponseFuture[str], owner: Owner) -> None:
    assert future.cancel()
    assert future.cancel()

    assert owner.cancelled == [future._call]
    assert future.cancelled()
    assert not future._call.settle("late", None)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()


def test_a_reply_that_is_there_cant_be_cancelled(future: ResponseFuture[str], owner: Owner) -> None:
    future._call.settle("reply", None)

    assert not future.cancel()
    assert owner.cancelled == []


def test_settling_leaves_the_callbacks_to_others(future: ResponseFuture[str]) -> None:
    called: list[object] = []
    future.add_done_callback(called.append)
    future._call.settle("reply", None)

    assert called == []
    assert future.has_callbacks()
    future.run_callbacks()
    assert called == [future]


def test_a_callback_that_comes_too_late_is_called_at_once(future: ResponseFuture[str]) -> None:
    called: list[object] = []
    future._call.settle("reply", None)
    future.add_done_callback(called.append)

    assert called == [future]


def test_wait_and_as_completed_see_replies_errors_and_cancellations(owner: Owner) -> None:
    futures = [make_future(owner, n, LogMessage("x")) for n in range(3)]

    def settle() -> None:
        futures[0]._call.settle("reply", None)
        futures[1]._call.settle(None, ValueError("x"))
        futures[2].cancel()

    thread = threading.Thread(target=settle)
    thread.start()
    done = set(concurrent.futures.as_completed(futures, timeout=10))
    thread.join()

    assert done == set(futures)
    assert concurrent.futures.wait(futures, timeout=10).done == set(futures)


def test_sleepers_are_woken_by_every_end(owner: Owner) -> None:
    for end in (lambda f: f._call.settle("x", None), lambda f: f.cancel()):
        future = make_future(owner, 1, LogMessage("x"))
        lock = threading.Lock()
        lock.acquire()
        future._call.wakers.append(lock)
        end(future)
        assert not lock.locked()


def test_awaiting_without_asyncio_is_an_error(
    future: ResponseFuture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "asyncio", raising=False)
    with pytest.raises(RuntimeError, match="asyncio"):
        future.__await__()


def test_it_can_be_awaited(future: ResponseFuture[str]) -> None:
    async def ask() -> str:
        threading.Timer(
            0.01, lambda: (future._call.settle("reply", None), future.run_callbacks())
        ).start()
        return await future

    assert asyncio.run(ask()) == "reply"


def test_waiting_for_the_result_of_an_endless_stream_is_bounded(
    future: ResponseFuture[str], owner: Owner
) -> None:
    """There is always one more item, so the wait for an item never runs out of time."""
    stream = ResponseStream(future, window=1)
    owner.on_wait = lambda: future._call.items.arrived("item")  # type: ignore[misc]

    for timeout in (0.01, 1, 10):  # a busy machine may take it all for the first item
        owner.waits.clear()
        expected = rf"LogMessage \(request 7\) within {timeout} s; the"
        with pytest.raises(RequestTimeoutError, match=expected):
            stream.result(timeout=timeout)
        if len(owner.waits) > 1:
            break
    assert len(owner.waits) > 1


def test_an_item_that_comes_as_the_wait_for_the_result_ends_is_not_lost(
    future: ResponseFuture[str], owner: Owner
) -> None:
    """If it were, its credit would be too, and the peer would wait for it for ever."""
    stream = ResponseStream(future, window=1)
    owner.on_wait = lambda: future._call.items.arrived("item") and time.sleep(0.02)  # type: ignore[misc]
    with pytest.raises(RequestTimeoutError):
        stream.result(timeout=0.01)
    assert owner.granted == 0

    owner.on_wait = lambda: future._call.settle("reply", None)
    assert stream.result() == "reply"
    assert owner.granted == 1


def test_threads_that_need_the_condition_at_the_same_time_get_the_same(
    future: ResponseFuture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = threading.Condition
    found_by_the_other: list[Any] = []

    def overtaken() -> threading.Condition:
        """Another thread takes the condition after we have looked, and before we have it."""
        monkeypatch.setattr(threading, "Condition", make)
        other = threading.Thread(target=lambda: found_by_the_other.append(future._condition))
        other.start()
        other.join()
        return make()

    monkeypatch.setattr(threading, "Condition", overtaken)

    assert [future._condition] == found_by_the_other


def test_an_outcome_that_comes_while_the_condition_is_made_is_seen(
    future: ResponseFuture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = threading.Condition

    def overtaken() -> threading.Condition:
        future._call.settle("reply", None)
        return make()

    monkeypatch.setattr(threading, "Condition", overtaken)
    called: list[object] = []
    future.add_done_callback(called.append)

    assert called == [future]
    assert concurrent.futures.wait([future], timeout=0).done == {future}


def test_an_interrupt_as_the_condition_is_made_costs_nothing(
    future: ResponseFuture[str],
) -> None:
    class Interrupting:
        """A call to which nobody can be told, the first time."""

        outcome: tuple[()] = ()

        def __setattr__(self, name: str, value: object) -> None:
            raise KeyboardInterrupt

    call = future._call
    future._call = Interrupting()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        future.add_done_callback(print)
    future._call = call

    called: list[object] = []
    future.add_done_callback(called.append)
    call.settle("reply", None)
    future.run_callbacks()

    assert called == [future]


def test_callbacks_are_called_once_though_a_call_is_settled_twice(
    future: ResponseFuture[str],
) -> None:
    """As by one who was interrupted and by the one who came next."""
    called: list[object] = []

    def fail(done: object) -> None:
        called.append("fail")
        raise ValueError("of a callback")

    future.add_done_callback(fail)
    future.add_done_callback(called.append)
    future._call.settle("reply", None)
    future.run_callbacks()
    future.run_callbacks()

    assert called == ["fail", future]


def test_an_item_that_comes_while_a_coroutine_begins_to_wait_is_taken(
    future: ResponseFuture[str],
) -> None:
    stream = ResponseStream(future, window=4)

    class Listeners(list[Any]):
        def append(self, listener: Any) -> None:
            super().append(listener)
            future._call.items.arrived("item")  # type: ignore[misc]

    stream._items.listeners = listeners = Listeners()

    assert asyncio.run(asyncio.wait_for(stream.__anext__(), 10)) == "item"
    assert not listeners


def test_garbage_that_settles_futures_may_be_collected_while_a_condition_is_made(
    owner: Owner, future: ResponseFuture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a session without threads that is dropped with a request pending."""
    other: ResponseFuture[str] = make_future(owner, 8, LogMessage("ask"))
    make = threading.Condition

    def collect_and_make() -> threading.Condition:
        monkeypatch.setattr(threading, "Condition", make)
        other._call.settle("collected", None)
        return make()

    asking = threading.Thread(target=future.done, daemon=True)
    monkeypatch.setattr(threading, "Condition", collect_and_make)
    asking.start()
    asking.join(10)

    assert not asking.is_alive()
    assert other.result(0) == "collected"


def test_an_interrupted_cancellation_wakes_who_waits(
    owner: Owner, future: ResponseFuture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(cancelled: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, "cancel", interrupt)
    asleep = threading.Lock()
    asleep.acquire()
    future._call.wakers.append(asleep)

    with pytest.raises(KeyboardInterrupt):
        future.cancel()

    assert future.cancelled()
    assert not asleep.locked()


def test_a_reply_that_comes_in_the_midst_of_a_cancellation_counts(owner: Owner) -> None:
    class Overtaken(Call):
        def settle(self, value: Any, error: BaseException | None) -> bool:
            super().settle("reply", None)  # by the thread that reads
            return super().settle(value, error)

    future: Any = ResponseFuture(Overtaken(owner, 7, LogMessage("ask")))  # type: ignore[arg-type]

    assert not future.cancel()
    assert future.result(0) == "reply"
    assert owner.cancelled == []


def test_an_item_that_arrives_twice_with_one_mark_counts_once(
    future: ResponseFuture[str],
) -> None:
    """Whoever brought it was interrupted, and another brings it again."""
    stream = ResponseStream(future, window=2)
    mark = object()

    assert [future._call.items.arrived(item, mark) for item in ("a", "a")] == [True, True]  # type: ignore[union-attr]
    assert [future._call.items.arrived(item) for item in ("b", "c")] == [True, False]  # type: ignore[union-attr]
    assert [next(stream), next(stream)] == ["a", "b"]


def test_a_stream_that_could_not_be_made_is_dropped_without_a_word() -> None:
    with pytest.raises(TypeError):
        ResponseStream()  # type: ignore[call-arg]


def test_an_interrupt_on_the_way_into_the_condition_leaves_it_unlocked(
    future: ResponseFuture[str],
) -> None:
    """Entering a ``threading.Condition`` is Python code: it may end behind its taking the lock."""
    condition = future._condition
    came_out = 0
    for k in range(1, 30):
        with contextlib.suppress(Interrupt):
            came_out += interrupted_at(k, ("threading.py", "_base.py"), future.done)
        free: list[bool] = []
        other = threading.Thread(target=lambda free=free: free.append(condition.acquire(timeout=5)))
        other.start()
        other.join()
        assert free == [True]
        condition._at_fork_reinit()  # type: ignore[attr-defined]
    assert came_out > 0
