"""Two connections of the protocol, driven against each other in every order.

No thread, no clock, no descriptor: bytes lie in two pipes, which are lists, and the state
machine decides when some of them arrive, in what cuts, and what each side does next. Held
against DESIGN.md: no request is lost, answered twice or answered with another's reply
(1); every call ends (2); a consumer that does not take bounds the sender (5).
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from streamipc import (
    ErrorMessage,
    IpcError,
    JsonMessageSerializer,
    LogMessage,
    NativeMessageSerializer,
    RemoteError,
)
from streamipc.protocol import connection as events
from streamipc.protocol.connection import Connection
from streamipc.protocol.envelopes import (
    Cancel,
    Credit,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)

OPEN, CANCELLED, TIMED_OUT, CLOSED = "open", "cancelled", "timed out", "closed"


class Call:
    """What a caller holds of its request, and what it has seen of it."""

    def __init__(self, side: Side, id: Any, window: int) -> None:  # noqa: A002
        self.side = side
        self.id = id
        self.window = window
        self.wants_items = window > 0
        self.sent_items = 0  # by the other side
        self.items: list[int] = []
        self.waiting = 0  # items that were not taken
        self.outcomes: list[Any] = []
        self.given_up = OPEN
        self.answered: Any = None  # what the other side sent as its answer

    @property
    def key(self) -> str:
        return f"{self.side.name} {self.id}"


class Served:
    """What the other side holds of a request that it serves."""

    def __init__(self, key: str, id: Any, window: int) -> None:  # noqa: A002
        self.key = key
        self.id = id
        self.window = self.credit = window
        self.items = 0
        self.cancelled = False


class Side:
    """One connection with the tables of its caller and server, and its outgoing pipe."""

    def __init__(self, name: str, serializer: Any) -> None:
        self.name = name
        self.connection = Connection(serializer, 1 << 20)
        self.pipe = bytearray()  # what was written and has not arrived
        self.open = True  # may write
        self.ended = False  # has read the end
        self.notified = 0
        self.notifications: list[int] = []
        self.late = 0
        self.other: Side

    def send(self, envelope: Any) -> None:
        if self.open:
            for part in self.connection.encode(envelope):
                self.pipe += bytes(part)


class TwoConnections(RuleBasedStateMachine):
    """Callers and servers on both sides, doing anything at any time."""

    serializer: Any = NativeMessageSerializer

    calls: Bundle[Call] = Bundle("calls")
    work: Bundle[tuple[Side, Served]] = Bundle("work")

    def __init__(self) -> None:
        super().__init__()
        self.sides = [Side(name, self.serializer()) for name in ("left", "right")]
        self.sides[0].other, self.sides[1].other = self.sides[1], self.sides[0]
        self.all_calls: dict[str, Call] = {}
        self.received: list[str] = []  # keys of the requests that arrived
        self.ids = {side.name: itertools.count(1) for side in self.sides}

    side_numbers = st.integers(0, 1)

    # Callers.

    @rule(target=calls, number=side_numbers, window=st.sampled_from([0, 0, 1, 2, 16]))
    def request(self, number: int, window: int) -> Any:
        side = self.sides[number]
        if not side.open or side.ended:
            return multiple()
        call = Call(side, next(self.ids[side.name]), window)
        self.all_calls[call.key] = call
        side.connection.calls[call.id] = call
        side.send(Request(call.id, LogMessage(call.key), 30.0, {"key": call.key}, window))
        return call

    @rule(call=calls)
    def take_items(self, call: Call) -> None:
        if call.waiting and call.given_up == OPEN:
            count, call.waiting = call.waiting, 0
            call.side.send(Credit(call.id, count))

    @rule(call=consumes(calls), why=st.sampled_from([CANCELLED, TIMED_OUT]))
    def give_up(self, call: Call, why: str) -> None:
        """As the engine does when a future is cancelled, or at its deadline."""
        if call.side.connection.calls.get(call.id) is call:
            del call.side.connection.calls[call.id]
            call.given_up = why
            call.outcomes.append(why)
            call.side.send(Cancel(call.id))

    @rule(number=side_numbers)
    def notify(self, number: int) -> None:
        side = self.sides[number]
        if side.open:
            side.send(Notification(LogMessage("note", str(side.notified))))
            side.notified += 1

    # Bytes on their way.

    @rule(target=work, number=side_numbers, count=st.integers(1, 400) | st.just(1 << 20))
    def deliver(self, number: int, count: int) -> Any:
        side = self.sides[number]
        data = bytes(side.pipe[:count])
        del side.pipe[:count]
        arrived = [self.dispatch(side.other, item) for item in side.other.connection.feed(data)]
        self.see_end(side)
        return multiple(*(found for found in arrived if found is not None))

    def dispatch(self, side: Side, decoded: Any) -> tuple[Side, Served] | None:
        event = side.connection.receive(decoded)
        if type(event) is events.RequestReceived:
            request = event.request
            key = request.message.message
            assert request.metadata == {"key": key}
            self.received.append(key)
            served = Served(key, request.id, request.window)
            side.connection.served[request.id] = served
            return side, served
        if type(event) is events.ReplyReceived:
            assert event.call.given_up == OPEN
            event.call.outcomes.append(event.error if event.error else event.value)
        elif type(event) is events.ProgressReceived:
            event.call.items.append(event.item)
            event.call.waiting += 1
        elif type(event) is events.CreditReceived:
            served = side.connection.served[event.id]
            served.credit = min(served.credit + event.count, served.window)
        elif type(event) is events.CancelReceived:
            side.connection.served[event.id].cancelled = True
        elif type(event) is events.NotificationReceived:
            side.notifications.append(int(event.notification.message.level))
        elif type(event) is events.LateReply:
            side.late += 1
        else:
            assert event is None, f"{side.name} saw {event!r} of a well-behaved peer"
        return None

    def see_end(self, side: Side) -> None:
        """The other side reads the end of the stream: what it waits for fails."""
        if side.open or side.pipe or side.other.ended:
            return
        side.other.ended = True
        assert side.other.connection.finish() == []
        for call in side.other.connection.calls.values():
            call.given_up = CLOSED
            call.outcomes.append(CLOSED)
        side.other.connection.calls.clear()

    # Servers.

    @rule(job=work)
    def send_item(self, job: tuple[Side, Served]) -> None:
        side, served = job
        unanswered = side.connection.served.get(served.id) is served
        if unanswered and served.credit and not served.cancelled and side.open:
            served.credit -= 1
            side.send(Progress(served.id, served.items))
            served.items += 1
            self.all_calls[served.key].sent_items += 1

    @rule(job=consumes(work), fails=st.booleans())
    def answer(self, job: tuple[Side, Served], fails: bool) -> None:
        side, served = job
        if side.connection.served.pop(served.id, None) is not served or served.cancelled:
            return
        if not side.open:
            return
        call = self.all_calls[served.key]
        assert call.answered is None
        call.answered = "failure" if fails else "value"
        if fails:
            side.send(ErrorResponse(served.id, ErrorMessage(served.key, "Oops", "")))
        else:
            side.send(Response(served.id, {"to": served.key, "items": served.items}))

    # The end.

    @precondition(lambda self: len(self.all_calls) > 3)
    @rule(number=side_numbers, sure=st.integers(0, 9))
    def close(self, number: int, sure: int) -> None:
        """Close one direction; rarely, or nothing else would happen."""
        if sure == 0:
            side = self.sides[number]
            side.open = False
            self.see_end(side)

    @initialize()
    def nothing_has_happened(self) -> None:
        assert self.received == []

    # What holds at any time.

    @invariant()
    def no_call_has_two_ends(self) -> None:
        for call in self.all_calls.values():
            assert len(call.outcomes) <= 1
            pending = call.side.connection.calls.get(call.id) is call
            assert pending == (not call.outcomes)

    @invariant()
    def no_request_arrives_twice(self) -> None:
        assert len(set(self.received)) == len(self.received)

    @invariant()
    def each_reply_is_the_calls_own(self) -> None:
        for call in self.all_calls.values():
            for outcome in call.outcomes:
                if isinstance(outcome, dict):
                    # All of its items, in order, before its reply.
                    assert outcome == {"to": call.key, "items": len(call.items)}
                elif isinstance(outcome, IpcError):
                    assert isinstance(outcome, RemoteError)
                    assert outcome.remote_message == call.key

    @invariant()
    def items_come_in_order_and_none_is_made_up(self) -> None:
        for call in self.all_calls.values():
            assert call.items == list(range(len(call.items)))
            assert len(call.items) <= call.sent_items

    @invariant()
    def a_consumer_that_does_not_take_bounds_the_sender(self) -> None:
        for call in self.all_calls.values():
            on_their_way = call.sent_items - len(call.items)
            assert call.waiting <= call.window
            if call.given_up == OPEN:
                assert on_their_way + call.waiting <= call.window

    @invariant()
    def notifications_come_in_order(self) -> None:
        for side in self.sides:
            assert side.notifications == list(range(len(side.notifications)))
            assert len(side.notifications) <= side.other.notified

    def teardown(self) -> None:
        """Let everything arrive, answer everything, and close: then every call has ended."""
        for _ in range(3):
            for side in self.sides:
                self.deliver_all(side)
                for served in list(side.connection.served.values()):
                    self.answer_quietly(side, served)
        for side in self.sides:
            self.deliver_all(side)
        self.each_reply_is_the_calls_own()
        self.no_call_has_two_ends()
        for call in self.all_calls.values():
            there = call.side.other
            if call.side.open and there.open:
                # Nothing was cut off: the request arrived, and has its own answer.
                assert call.key in self.received
                assert call.outcomes
        for side in self.sides:
            side.open = False
            self.see_end(side)
        assert all(len(call.outcomes) == 1 for call in self.all_calls.values())
        for side in self.sides:
            assert side.connection.calls == {}

    def deliver_all(self, side: Side) -> None:
        data = bytes(side.pipe)
        side.pipe.clear()
        for item in side.other.connection.feed(data):
            self.dispatch(side.other, item)
        self.see_end(side)

    def answer_quietly(self, side: Side, served: Served) -> None:
        if side.connection.served.pop(served.id, None) is served and not served.cancelled:
            side.send(Response(served.id, {"to": served.key, "items": served.items}))


class TwoJsonConnections(TwoConnections):
    serializer = JsonMessageSerializer


@pytest.mark.parametrize("machine", [TwoConnections, TwoJsonConnections])
def test_every_interleaving_keeps_the_promises(machine: Any) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine, settings=settings(max_examples=100, stateful_step_count=60, deadline=None)
    )
