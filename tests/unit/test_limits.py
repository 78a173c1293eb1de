"""The bounds that a user can set, and what happens at those that no other test fills."""

from __future__ import annotations

import dataclasses
import inspect
import queue
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from shared_messages import Echo, Note

from streamipc import (
    IpcPeer,
    Limits,
    OverloadedError,
    ProtocolError,
    RequestCancelledError,
    RequestTimeoutError,
    SyncIpcSession,
)

LONG = 30.0

Connect = Callable[..., tuple[Any, Any]]


def names() -> list[str]:
    return [field.name for field in dataclasses.fields(Limits)]


@pytest.mark.parametrize("name", names())
def test_each_field_stands_in_the_table_with_its_default(name: str) -> None:
    default = getattr(Limits(), name)
    said = f"{default >> 20} MiB" if name.endswith("_bytes") else f"{default:,.0f}"

    text = inspect.cleandoc(Limits.__doc__ or "")
    assert re.search(rf"^``{name}`` +{said} ", text, re.MULTILINE)
    assert re.search(rf"^    {name}: ", text, re.MULTILINE)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("value", ["1", True, 1.5j])
def test_a_field_of_the_wrong_type_is_named(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"Limits\.{name} must be"):
        Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("value", [0, -1, 1 << 60])
def test_a_field_that_is_out_of_range_is_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"Limits\.{name} must be .*{value}|{value:,}"):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_bytes_must_be_a_sensible_number_of_them() -> None:
    with pytest.raises(ValueError, match="from 65,536 to"):
        Limits(held_bytes=1000)


def test_limits_are_given_by_name_and_do_not_change() -> None:
    with pytest.raises(TypeError):
        Limits(1 << 20)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().unreceived = 1  # type: ignore[misc]


def test_strict_limits_are_lower_each_and_may_be_changed() -> None:
    for name in names():
        assert getattr(Limits.strict(), name) < getattr(Limits(), name)
    assert Limits.strict(unreceived=7) == dataclasses.replace(Limits.strict(), unreceived=7)
    assert Limits(stream_stall=None).stream_stall is None


@pytest.mark.parametrize("limits", [{"held_bytes": 1}, 5, Limits])
def test_a_peer_takes_limits_alone(limits: Any) -> None:
    with pytest.raises(TypeError, match=r"limits must be a streamipc\.Limits"):
        IpcPeer(limits=limits)


def test_a_session_with_settings_of_its_own_has_the_limits_of_its_peer(connected: Connect) -> None:
    limits = Limits.strict()
    left, right = connected(IpcPeer(limits=limits))
    options = left.peer.options.replaced(None, 1 << 20)

    assert options.limits is limits
    assert left._engine.flow.limits is limits
    assert right._engine.flow.limits == Limits()


def test_what_waits_for_receive_is_counted_in_bytes_and_the_oldest_goes(connected: Connect) -> None:
    limits = Limits(held_bytes=4 << 20)
    left, right = connected(right=IpcPeer(limits=limits, max_frame_size=1 << 20))
    right.on_request(Echo)(lambda msg: msg.value)
    right.start()
    for number in range(20):
        left.notify(Note("x" * 200_000, number))
    assert left.call(Echo("all are there")) == "all are there"

    kept = [right.receive(timeout=0).number for _ in range(20 - right.stats.dropped)]
    with pytest.raises(RequestTimeoutError):
        right.receive(timeout=0)

    assert kept == [*range(20 - len(kept), 20)]
    assert 4 <= len(kept) <= 5
    assert right.stats.dropped == 20 - len(kept)
    assert right._engine.flow.total == 0


def test_no_more_handlers_than_these_wait_for_the_peer(connected: Connect) -> None:
    left, right = connected(right=IpcPeer(handler_threads=2, limits=Limits(blocked_handlers=5)))

    @right.on_request
    def count(msg: Echo) -> Any:
        yield from range(100)
        return msg.value

    right.start()
    streams = [left.stream(Echo(n), timeout=None, window=1) for n in range(50)]
    for stream in streams[20:]:
        with pytest.raises(OverloadedError, match=r"5 handlers that wait.*blocked_handlers"):
            stream.future.result(LONG)
    # Those that wait go on when their items are taken, and others may come then.
    done = [stream.result(LONG) for stream in streams[:5]]
    assert done == [*range(5)]
    assert left.stream(Echo("again")).result(LONG) == "again"


def test_two_sides_call_each_other_as_deep_as_handlers_may_wait(connected: Connect) -> None:
    limits = Limits(blocked_handlers=10)
    left, right = connected(*(IpcPeer(handler_threads=2, limits=limits) for _ in range(2)))

    def down_of(session: Any) -> Callable[[Echo], int]:
        return lambda msg: 1 + session.call(Echo(msg.value - 1)) if msg.value else 0

    left.on_request(Echo)(down_of(left))
    right.on_request(Echo)(down_of(right))
    right.start()

    assert left.call(Echo(19)) == 19
    with pytest.raises(Exception, match="OverloadedError: the peer has 10 handlers that wait"):
        left.call(Echo(25))
    assert left.call(Echo(19)) == 19


def test_a_session_without_threads_has_the_same_bound(connected: Connect) -> None:
    limits = Limits(blocked_handlers=10)
    left, right = connected(
        IpcPeer(session_type=SyncIpcSession, limits=limits), IpcPeer(limits=limits)
    )
    left.on_request(Echo)(lambda msg: 1 + left.call(Echo(msg.value - 1)) if msg.value else 0)
    right.on_request(Echo)(lambda msg: 1 + right.call(Echo(msg.value - 1)) if msg.value else 0)
    right.start()

    assert left.call(Echo(19)) == 19
    with pytest.raises(Exception, match="OverloadedError: the peer has 10 handlers that wait"):
        left.call(Echo(25))


@pytest.mark.parametrize("swallows", [False, True])
def test_a_stream_that_stalls_for_too_long_fails_on_both_sides(
    connected: Connect, swallows: bool
) -> None:
    left, right = connected(right=IpcPeer(limits=Limits(stream_stall=0.2)))
    raised: list[BaseException] = []
    over = threading.Event()

    @right.on_request
    def count(msg: Echo, context: Any) -> Any:
        try:
            while True:
                context.progress("item")
        except RequestCancelledError as error:
            raised.append(error)
            assert context.cancelled
            if swallows:
                return "done all the same"
            raise
        finally:
            over.set()

    right.start()
    stream = left.stream(Echo(), timeout=None, window=2)

    assert over.wait(LONG)
    assert "has taken no item for 0.2 s" in str(raised[0])
    if swallows:
        assert stream.future.result(LONG) == "done all the same"
    else:
        with pytest.raises(RequestCancelledError, match=r"has taken no item for 0\.2 s"):
            stream.future.result(LONG)
    assert right._engine.pool.blocked == 0


def test_a_stream_whose_items_are_taken_now_and_then_does_not_stall(connected: Connect) -> None:
    left, right = connected(right=IpcPeer(limits=Limits(stream_stall=5)))
    right.on_request(Echo)(lambda msg: (n for n in range(6)))
    right.start()

    assert [*left.stream(Echo(), timeout=None, window=1)] == [*range(6)]


def test_items_that_do_not_fit_fail_their_stream_alone(connected: Connect) -> None:
    left, right = connected(IpcPeer(limits=Limits(held_bytes=4 << 20), max_frame_size=1 << 20))

    @right.on_request
    def items(msg: Echo) -> Any:
        for _ in range(16):
            yield "x" * 500_000

    right.start()
    stream = left.stream(Echo(), window=16)

    with pytest.raises(
        ProtocolError, match=r"items of request .* wait.*Limits\.held_bytes.*window="
    ):
        stream.future.result(LONG)
    stream.close()
    del stream
    assert sum(map(len, left.stream(Echo(), window=2))) == 16 * 500_000


@pytest.fixture
def narrow(connected: Connect) -> tuple[Any, Any]:
    """Two sessions that hold some 2 MiB each, and take a frame that is more than that in memory."""
    limits = Limits(held_bytes=1 << 16)
    left, right = connected(*(IpcPeer(limits=limits, max_frame_size=1 << 20) for _ in range(2)))
    return left, right


def bomb() -> list[Any]:
    """Return what takes 13 MB of memory, and 60 KB on the wire."""
    return [set() for _ in range(60_000)]


def test_a_request_that_takes_more_memory_than_may_be_held_is_refused(narrow: Any) -> None:
    left, right = narrow
    right.on_request(Echo)(lambda msg: len(msg.value))
    right.start()

    with pytest.raises(OverloadedError, match=r"takes more memory than there is for it"):
        left.call(Echo(bomb()), timeout=LONG)
    assert left.call(Echo("next"), timeout=LONG) == 4
    assert right._engine.flow.total == 0


def test_a_notification_that_takes_more_is_reported_to_the_side_that_got_it(narrow: Any) -> None:
    left, right = narrow
    errors: queue.Queue[BaseException] = queue.Queue()
    handled: queue.Queue[Any] = queue.Queue()
    right.on_exception(errors.put)
    right.on_message(Note)(lambda msg: handled.put(msg.number))
    right.start()
    left.notify(Note(bomb(), 1))
    left.notify(Note("small", 2))

    assert handled.get(timeout=LONG) == 2
    error = errors.get(timeout=LONG)
    assert isinstance(error, OverloadedError)
    assert "takes more memory than there is for it" in str(error)


def test_an_item_that_takes_more_fails_its_request(
    narrow: Any, eventually: Callable[..., None]
) -> None:
    left, right = narrow

    @right.on_request
    def send(msg: Echo) -> Any:
        yield bomb()
        return "done"

    right.start()
    seen: list[Any] = []
    future = left.request(Echo("large"), timeout=LONG, on_progress=seen.append)
    with pytest.raises(ProtocolError, match=r"takes more memory than there is for it"):
        future.result()
    assert seen == []
    eventually(lambda: left._engine.flow.total == 0)  # a moment after the outcome
