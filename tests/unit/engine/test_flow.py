"""Who is charged how much, what is folded, and why reading pauses."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from typing import Any

import pytest
from shared_messages import Echo, Note

from streamipc import Limits
from streamipc.engine.flow import REACH, Flow, Held, Kind, Reason, size_of
from streamipc.engine.footprint import footprint
from streamipc.protocol.connection import Connection
from streamipc.protocol.envelopes import Notification, Progress, Request
from streamipc.protocol.framing import HEADER_SIZE, Apart
from streamipc.serializers.native import NativeMessageSerializer

MANY = 1000
"""So many wait that everything is charged."""


class Bench:
    """A flow, and what decodes for it."""

    def __init__(self, held_bytes: int = 16 << 20, **limits: Any) -> None:
        self.connection = Connection(NativeMessageSerializer(), 1 << 20)
        self.decoded = 0
        self.resumed = 0
        self.lock = threading.RLock()
        self.flow = Flow(
            self.lock,
            Limits(held_bytes=held_bytes, **limits),
            1024,
            self._decode,
            True,
            self._resume,
        )

    def _decode(self, payload: Any) -> Any:
        self.decoded += 1
        return self.connection.decode_again(payload)

    def _resume(self) -> None:
        assert self.lock._is_owned()  # type: ignore[attr-defined]
        self.resumed += 1

    def hold(self, value: Any, kind: Kind = Kind.REQUEST, waiting: int = MANY) -> Held | None:
        envelope: Any = Request(1, Echo(value), None)
        if kind is Kind.ITEM:
            envelope = Progress(1, value)
        elif kind is not Kind.REQUEST:
            envelope = Notification(Echo(value))
        data = b"".join(map(bytes, self.connection.encode(envelope)))
        payload = memoryview(data)[HEADER_SIZE:]
        return self.charge(
            self.flow.hold(kind, self.connection.decode_again(payload), payload, waiting)
        )

    def charge(self, held: Held | None) -> Held | None:
        if held is not None:
            self.flow.charge(held)
        return held

    def held(self, value: Any, kind: Kind = Kind.REQUEST) -> Held:
        held = self.hold(value, kind)
        assert held is not None
        return held


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_with_a_small_bound_fewer_are_few(bench: Bench) -> None:
    assert bench.hold("x" * 20, waiting=1000) is None
    assert bench.hold("x" * 20, waiting=1100) is not None


def sets(count: int) -> list[Any]:
    return [set() for _ in range(count)]


@pytest.mark.parametrize(
    ("value", "waiting", "counts"),
    [
        ("x" * 20, 0, False),
        ("x" * 1000, 0, False),
        ("x" * 1000, 100, True),
        ("x" * 20, 100, False),
        ("x" * 20, 10_000, False),
        ("x" * 20, 20_000, True),
        ([set() for _ in range(30)], 2000, True),
        ("x" * 5000, 0, True),
    ],
)
def test_what_is_small_among_few_counts_nothing(value: Any, waiting: int, counts: bool) -> None:
    bench = Bench(Limits().held_bytes)

    assert (bench.hold(value, waiting=waiting) is not None) is counts
    assert (bench.flow.total > 0) is counts


def test_what_is_released_counts_no_more_and_once_only(bench: Bench) -> None:
    first, second = bench.held("x" * 1000), bench.held("y" * 1000, Kind.ITEM)
    bench.flow.release(first)
    bench.flow.release(first)

    assert bench.flow.total == bench.flow.held[Kind.ITEM] == second.bytes > 0
    assert bench.flow.take(second).item == "y" * 1000  # type: ignore[union-attr]
    assert bench.flow.total == 0
    assert first.envelope is first.payload is second.envelope is None


def test_what_takes_much_more_than_its_bytes_is_folded_when_more_comes(bench: Bench) -> None:
    held = [bench.held(sets(10_000)) for _ in range(5)]

    assert [one.envelope is None for one in held] == [True, True, True, True, False]
    assert bench.flow.total < held[-1].bytes + 4 * 25_000
    assert bench.decoded == 0

    envelope: Any = bench.flow.begin(held[0])
    assert envelope.message.value == sets(10_000)
    assert bench.decoded == 1
    assert 2_160_000 < held[0].bytes < 2_500_000
    assert held[0].payload is None
    bench.flow.release(held[0])
    assert bench.flow.take(held[1]).message.value == sets(10_000)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.NOTIFICATION])
def test_one_message_after_the_other_is_never_decoded_twice(bench: Bench, kind: Kind) -> None:
    for _ in range(5):
        held = bench.held([n for n in range(50_000)], kind)  # noqa: C416
        assert bench.flow.begin(held) is not None
        bench.flow.release(held)

    assert bench.decoded == 0
    assert bench.flow.total == 0


@pytest.mark.parametrize("kind", [*Kind])
def test_honest_large_values_are_charged_what_they_take(bench: Bench, kind: Kind) -> None:
    numpy = pytest.importorskip("numpy")
    size = 1_000_000
    held = [bench.held(numpy.zeros(size, "u1"), kind), bench.held(bytes(size), kind)]
    more = bench.held("x" * 3000, kind)

    assert [one.envelope is not None for one in held] == [True, True]
    assert all(size <= one.bytes < 1.1 * size for one in held)
    assert not bench.flow.is_too_much(more)


def test_one_that_runs_is_measured_and_not_folded(bench: Bench) -> None:
    running = bench.held(sets(10_000))
    assert bench.flow.begin(running) is not None
    bench.held("x" * 100_000)
    bench.held("x" * 100_000)

    assert running.envelope is not None
    assert 2_160_000 < running.bytes < 2_500_000


def test_what_does_not_fit_beside_the_rest_is_too_much() -> None:
    bench = Bench(held_bytes=2 << 20)
    assert not bench.flow.is_too_much(bench.held("x" * 1_000_000))
    assert not bench.flow.is_too_much(bench.held("x" * 900_000))
    last = bench.held("x" * 900_000)

    assert bench.flow.is_too_much(last)
    assert bench.flow.total > bench.flow.bound
    bench.flow.release(last)
    assert bench.flow.total <= bench.flow.bound


def test_one_that_takes_more_than_all_that_may_be_held_does_not_begin() -> None:
    bench = Bench(held_bytes=2 << 20)
    held = bench.held(sets(20_000))
    assert not bench.flow.is_too_much(held)  # nothing else is there; it is not measured yet

    assert bench.flow.begin(held) is None


def test_the_largest_frame_fits_whatever_the_limit_is() -> None:
    flow = Flow(threading.RLock(), Limits(held_bytes=1 << 20), 100 << 20)

    assert flow.bound > 100 << 20


def test_what_a_finalizer_gives_back_counts_no_more_when_something_comes(bench: Bench) -> None:
    held = bench.held("x" * 100_000, Kind.ITEM)
    with bench.lock:
        bench.flow.give_back(held)
    more = bench.held("x" * 1000)

    assert bench.flow.total == more.bytes


def test_what_moves_counts_where_it_has_gone(bench: Bench) -> None:
    held = bench.held("x" * 100_000, Kind.NOTIFICATION)
    bench.flow.move(held, Kind.RECEIVED)

    assert bench.flow.held[Kind.NOTIFICATION] == 0
    assert bench.flow.held[Kind.RECEIVED] == held.bytes
    bench.flow.release(held)
    bench.flow.move(held, Kind.ITEM)
    assert set(bench.flow.held.values()) == {0}


def test_an_item_does_not_count_the_call_that_it_is_for(bench: Bench) -> None:
    progress = Progress(1, "x" * 1000)
    progress.call = ["x" * 1_000_000]
    held = bench.charge(bench.flow.hold(Kind.ITEM, progress, memoryview(bytes(1100)), MANY))
    assert held is not None
    bench.held("x" * 100_000)
    bench.held("x" * 100_000)

    assert held.bytes < 10_000


def test_the_size_of_a_payload_is_that_of_its_parts() -> None:
    assert size_of(memoryview(bytes(7))) == 7
    assert size_of(Apart(memoryview(bytes(7)), bytes(8))) == 15
    assert size_of(None) == 0


def test_nothing_is_kept_alive_by_what_was_released(bench: Bench) -> None:
    held = [bench.held("x" * 10_000) for _ in range(10)]
    for one in held:
        bench.flow.release(one)
    held.clear()
    gc.collect()

    assert not bench.flow._rough


# The pause.


def test_reading_pauses_while_there_is_a_reason(bench: Bench) -> None:
    with bench.lock:
        bench.flow.pause_locked(Reason.NOTIFICATIONS)
        bench.flow.pause_locked(Reason.REFUSALS)
        bench.flow.resume_locked(Reason.NOTIFICATIONS)
        assert bench.flow.paused
        assert bench.resumed == 0
        bench.flow.resume_locked(Reason.REFUSALS)
        assert not bench.flow.paused
        assert bench.resumed == 1
        bench.flow.resume_locked(Reason.REFUSALS)
        assert bench.resumed == 1


@pytest.mark.parametrize(
    ("reason", "goes_on"),
    [(Reason.NOTIFICATIONS, True), (Reason.REFUSALS, True), (Reason.OVERFULL, False)],
)
def test_a_handler_that_waits_for_the_peer_has_reading_go_on(
    bench: Bench, reason: Reason, goes_on: bool
) -> None:
    with bench.lock:
        bench.flow.pause_locked(reason)
        bench.flow.handler_waits_locked()

    assert bench.flow.paused is not goes_on


def test_one_who_waits_for_room_has_it_go_on_unless_as_many_wait_as_may() -> None:
    flow = Bench(waiting_notifications=10).flow
    with flow._lock:
        flow.pause_locked(Reason.OVERFULL)
        flow.room_is_awaited_locked(10 * REACH)
        assert flow.paused
        flow.room_is_awaited_locked(10 * REACH - 1)
        assert not flow.paused


@pytest.mark.parametrize(
    ("waiting", "for_peer", "reasons"),
    [
        (9, False, set()),
        (10, False, {Reason.NOTIFICATIONS}),
        (10, True, set()),
        (10 * REACH, True, {Reason.OVERFULL}),
    ],
)
def test_notifications_pause_reading_by_their_number(
    waiting: int, for_peer: bool, reasons: set[Reason]
) -> None:
    flow = Bench(waiting_notifications=10).flow
    with flow._lock:
        many = flow.are_many_locked(waiting)
        if many:
            flow.too_many_wait_locked(waiting, for_peer)

    assert many is (waiting >= 10)
    assert flow.reasons == reasons


def test_notifications_pause_reading_by_their_memory() -> None:
    bench = Bench(held_bytes=4 << 20)
    flow = bench.flow

    def arrive(for_peer: bool) -> set[Reason]:
        bench.held("x" * 600_000, Kind.NOTIFICATION)
        with bench.lock:
            if flow.are_many_locked(1):
                flow.too_many_wait_locked(1, for_peer)
        return set(flow.reasons)

    assert arrive(False) == set()
    assert arrive(False) == {Reason.NOTIFICATIONS}
    with bench.lock:
        flow.handler_waits_locked()
    assert [arrive(True) for _ in range(5)][-1] == {Reason.OVERFULL}
    assert flow.level_locked(1) == flow.most_notifications * flow.held[Kind.NOTIFICATION] // (
        4 << 20
    )


@pytest.mark.parametrize(
    ("reason", "waiting", "goes_on"),
    [
        (Reason.NOTIFICATIONS, 6, False),
        (Reason.NOTIFICATIONS, 5, True),
        (Reason.OVERFULL, 5 * REACH + 1, False),
        (Reason.OVERFULL, 5 * REACH, True),
        (Reason.REFUSALS, 0, False),
    ],
)
def test_reading_goes_on_when_half_of_them_are_handled(
    reason: Reason, waiting: int, goes_on: bool
) -> None:
    flow = Bench(waiting_notifications=10).flow
    with flow._lock:
        flow.pause_locked(reason)
        flow.notifications_handled_locked(waiting)

    assert flow.paused is not goes_on


def test_refusals_count_until_they_are_written() -> None:
    flow = Bench(refusal_bytes=1 << 16).flow
    frames: list[list[Any]] = [[b"x"] for _ in range(5)]

    assert [flow.refusal_waits(frame, 20_000) for frame in frames[:3]] == [False] * 3
    frames[0].clear()
    assert not flow.refusal_waits(frames[3], 20_000)
    assert flow.refusal_waits(frames[4], 20_000)
    assert flow.reasons == {Reason.REFUSALS}
    assert not flow.refusal_waits([b"x"], 20_000)  # it is said once
    flow.written()
    assert not flow.paused


def test_handlers_are_full_at_their_bound() -> None:
    flow = Bench(blocked_handlers=2).flow
    with flow._lock:
        for handlers, full in ((1, False), (2, True), (3, True), (1, False)):
            flow.blocked_locked(handlers)
            assert flow.handlers_full is full


def test_a_message_that_is_no_frame_is_charged_what_it_takes(bench: Bench) -> None:
    held = bench.charge(bench.flow.hold(Kind.NOTIFICATION, Notification(Note("x" * 1000)), None, 0))

    assert held is not None
    assert 2000 < held.bytes < 4000


def test_a_payload_that_came_in_two_parts_is_decoded_again_from_both(bench: Bench) -> None:
    data = b"".join(map(bytes, bench.connection.encode(Notification(Echo(b"x" * 900_000)))))
    payload = memoryview(data)[HEADER_SIZE:]
    tail = bench.connection._serializer.tail_size(payload[:512], len(payload))  # type: ignore[attr-defined]
    assert tail
    apart = Apart(payload[:-tail], bytes(payload[-tail:]))

    again: Any = bench.connection.decode_again(apart)
    assert again.message.value == b"x" * 900_000


@pytest.mark.parametrize("kind", [Kind.NOTIFICATION, Kind.RECEIVED])
def test_what_is_no_frame_is_never_folded(kind: Kind) -> None:
    """Such as the lines of a child: there is nothing to decode them from once more."""
    bench = Bench(held_bytes=1 << 20)
    lines = [Notification(Note(f"{number}" * 60_000)) for number in range(9)]
    held = [
        bench.charge(bench.flow.hold(kind, line, None, number)) for number, line in enumerate(lines)
    ]

    assert bench.flow.held[kind] * 4 > bench.flow.bound
    assert [bench.flow.take(one) for one in held] == lines
    assert bench.flow.total == 0


def test_what_a_serializer_of_the_users_own_has_decoded_is_charged_by_its_size() -> None:
    bench = Bench(held_bytes=1 << 20)
    bench.flow._is_known = False
    first, second = (bench.held("x" * 100_000, Kind.NOTIFICATION) for _ in range(2))

    assert second.bytes > 100_000
    assert bench.flow.take(first).message.value == "x" * 100_000  # type: ignore[union-attr]
    assert bench.flow.take(second).message.value == "x" * 100_000  # type: ignore[union-attr]
    assert bench.flow.total == 0


def test_a_large_message_of_few_objects_is_charged_exactly_and_without_a_copy(
    bench: Bench,
) -> None:
    payload = memoryview(bytes(4 << 20))
    envelope = Request(1, Echo([payload[1 << 20 :], "text"]), None)
    tracemalloc.start()
    try:
        held = bench.charge(bench.flow.hold(Kind.REQUEST, envelope, payload, 0))
        assert held is not None
        assert bench.flow.begin(held) is envelope
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()
    assert 3 << 20 < held.bytes < (3 << 20) + 10_000


@pytest.mark.parametrize("overtaken_by", ["begin", "release"])
def test_one_that_begins_or_ends_while_it_is_measured_is_not_folded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, overtaken_by: str
) -> None:
    first = bench.held(sets(10_000))

    def overtaken(carried: Any, limit: int, *most: int) -> int:
        monkeypatch.undo()
        getattr(bench.flow, overtaken_by)(first)  # by the thread of its handler
        return footprint(carried, limit, *most)

    monkeypatch.setattr("streamipc.engine.flow.footprint", overtaken)
    second = bench.held("x" * 100_000)

    if overtaken_by == "begin":
        assert first.envelope.message.value == sets(10_000)  # type: ignore[union-attr]
        bench.flow.release(first)
    assert bench.decoded == 0
    assert bench.flow.total == second.bytes
