"""Streams: what a handler yields, as it yields it, with bounded memory on both sides."""

from __future__ import annotations

import gc
import queue
import threading
import traceback
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from long_messages import PATIENCE, Blob, Count, Report, Step, WaitFor

from streamipc import IpcSession, RemoteError, RequestTimeoutError, SessionClosedError


@pytest.mark.parametrize("window", [1, 2, 3, 16, 5000])
def test_items_come_in_order_and_then_the_reply(session: IpcSession, window: int) -> None:
    with session.stream(Count(1000), window=window) as stream:
        assert list(stream) == [Step(number) for number in range(1000)]
        assert stream.result() == 1000


def test_a_stream_without_items_has_its_reply(session: IpcSession) -> None:
    """A plain reply to a stream: nothing was yielded."""
    with session.stream(Blob(b"four")) as stream:
        assert list(stream) == []
        assert stream.result() == 4


def test_result_throws_away_what_was_not_taken(session: IpcSession) -> None:
    with session.stream(Count(500), window=4) as stream:
        assert next(stream) == Step(0)
        assert stream.result(timeout=30) == 500
        assert list(stream) == []


def test_an_exception_after_the_third_item_is_raised_after_the_third_item(
    session: IpcSession,
) -> None:
    items = []
    with session.stream(Count(10, fail_after=3)) as stream:
        with pytest.raises(RemoteError, match="on purpose"):
            items.extend(stream)  # keeps what came before the exception
        assert items == [Step(0), Step(1), Step(2)]
        with pytest.raises(RemoteError, match="on purpose"):
            stream.result()
        with pytest.raises(RemoteError, match="on purpose"):
            next(stream)


def test_the_remote_traceback_is_the_cause_of_an_exception_in_a_stream(
    session: IpcSession,
) -> None:
    stream = session.stream(Count(10, fail_after=3))
    with pytest.raises(RemoteError) as raised:
        list(stream)

    assert "long_child.py" in str(raised.value.__cause__)
    assert "IndexError" not in "".join(traceback.format_exception(raised.value))
    with pytest.raises(RemoteError) as raised:
        stream.result()
    assert "long_child.py" in str(raised.value.__cause__)


@pytest.mark.parametrize("taken", [1, 16, 100])
def test_leaving_the_loop_early_closes_the_remote_generator(
    session: IpcSession, taken: int
) -> None:
    with session.stream(Count(10**9, name="left")) as stream:
        for _ in range(taken):
            next(stream)

    session.call(WaitFor("left closed"), timeout=30)
    assert stream.future.cancelled()
    with pytest.raises(CancelledError):
        stream.result()


def test_what_a_generator_raises_as_it_is_closed_is_reported_where_it_runs(
    connected: Callable[..., tuple[IpcSession, IpcSession]],
) -> None:
    asking, answering = connected()
    reported: queue.Queue[Exception] = queue.Queue()

    @answering.on_request
    def count(msg: Count) -> Iterator[int]:
        try:
            yield from range(msg.n)
        finally:
            raise OSError("the clean-up failed")

    @answering.on_exception
    def failed(error: Exception) -> None:
        reported.put(error)

    answering.start()
    with asking.stream(Count(10**9)) as stream:
        assert next(stream) == 0

    assert str(reported.get(timeout=10)) == "the clean-up failed"
    assert asking.stream(Count(0)).future.exception(timeout=10) is not None  # as ever
    assert reported.empty()


def test_a_stream_that_is_dropped_closes_the_remote_generator(session: IpcSession) -> None:
    for _, item in zip(range(3), session.stream(Count(10**9, name="dropped")), strict=False):
        assert isinstance(item, Step)
    gc.collect()

    session.call(WaitFor("dropped closed"), timeout=30)


def test_the_collector_may_drop_a_stream_while_locks_are_held(session: IpcSession) -> None:
    """The garbage collector runs in the middle of anything, on a thread that holds locks."""
    stream = session.stream(Count(10**9, name="collected"))
    next(stream)
    engine = session._engine
    turn = engine.writer.turn
    with engine.lock:
        turn[0] = []  # as of another thread
        del stream
        gc.collect()
        turn.clear()

    session.call(WaitFor("collected closed"), timeout=30)


def test_an_error_leaves_the_stream_and_closes_the_remote_generator(session: IpcSession) -> None:
    with (  # noqa: PT012 - the two statements are the point
        pytest.raises(ZeroDivisionError),
        session.stream(Count(10**9, name="failed")) as stream,
    ):
        next(stream)
        raise ZeroDivisionError

    session.call(WaitFor("failed closed"), timeout=30)


def test_an_iteration_that_is_cancelled_does_not_look_complete(session: IpcSession) -> None:
    stream = session.stream(Count(10**9))
    next(stream)
    stream.cancel()

    with pytest.raises(CancelledError):
        list(stream)


def test_a_deadline_ends_the_stream_and_the_remote_generator(session: IpcSession) -> None:
    for timeout in PATIENCE:
        last: deque[Any] = deque(maxlen=1)
        with pytest.raises(RequestTimeoutError):
            last.extend(session.stream(Count(10**9, name="late"), timeout=timeout))
        if last:
            break

    session.call(WaitFor("late closed"), timeout=30)


def test_the_end_of_the_session_ends_the_stream(session: Any) -> None:
    stream = session.stream(Count(10**9))
    next(stream)
    session.kill()

    with pytest.raises(SessionClosedError):
        for _ in stream:
            pass


def test_a_slow_consumer_holds_back_the_handler(connected: Callable[..., Any]) -> None:
    left, right = connected()
    yielded = 0

    @right.on_request
    def count(msg: Count) -> Iterator[int]:
        nonlocal yielded
        for number in range(msg.n):
            yielded += 1
            yield number

    @right.on_request
    def blob(msg: Blob) -> int:
        return len(msg.data)

    right.start()
    with left.stream(Count(1000)) as stream:
        for taken, _ in enumerate(stream, 1):
            if taken % 50 == 0:
                assert left.call(Blob(b"")) == 0  # has read all that could come
                assert yielded <= taken + 16 + 1
    assert yielded == 1000


def test_a_stream_that_nobody_reads_delays_nothing(session: IpcSession) -> None:
    with session.stream(Count(10**6)) as slow, session.stream(Count(2000)) as quick:
        next(slow)
        assert sum(1 for _ in quick) == 2000
        futures = [session.request(Blob(b"x" * 1000)) for _ in range(500)]
        assert [future.result(timeout=30) for future in futures] == [1000] * 500


def test_many_streams_at_a_time_do_not_mix(session: IpcSession) -> None:
    counts: dict[int, list[Step]] = {}

    def consume(n: int) -> None:
        with session.stream(Count(n), window=1 + n % 5) as stream:
            counts[n] = list(stream)

    threads = [threading.Thread(target=consume, args=(n,)) for n in range(100, 120)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counts == {n: [Step(number) for number in range(n)] for n in range(100, 120)}


def test_a_long_stream_takes_constant_memory(session: IpcSession) -> None:
    with session.stream(Count(50_000), timeout=100) as stream:
        for _ in range(1000):
            next(stream)
        tracemalloc.start()
        try:
            rest = sum(1 for _ in stream)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert rest == 49_000
    assert peak < 1_000_000


def test_an_item_that_cant_be_sent_fails_the_request(connected: Callable[..., Any]) -> None:
    left, right = connected()

    @right.on_request
    def count(msg: Count) -> Iterator[object]:
        yield 1
        yield object()

    right.start()
    with left.stream(Count(1)) as stream:
        assert next(stream) == 1
        with pytest.raises(RemoteError, match="SerializationError"):
            next(stream)


def test_two_windows_of_one_session_are_independent(session: IpcSession) -> None:
    with session.stream(Count(100), window=1) as one, session.stream(Count(100), window=50) as two:
        assert [item for pair in zip(one, two, strict=True) for item in pair] == [
            Step(number) for number in range(100) for _ in range(2)
        ]


def test_progress_and_streams_of_one_handler_look_the_same(session: IpcSession) -> None:
    items = list(range(40))
    seen: list[Any] = []
    with session.stream(Report(items)) as stream:
        assert list(stream) == items
        assert stream.result() == "done"
    assert session.request(Report(items), on_progress=seen.append).result() == "done"
    assert seen == items
