"""Two connections of the protocol, driven against each other in every order.

No thread, no clock, no descriptor: bytes lie in two pipes, which are bytearrays, and the
state machine decides when some of them arrive, in what cuts, and what each side does next.
What callers and servers hold are the real things, which count the credit: ``ResponseStream``
here, ``IncomingRequest`` there. Held against DESIGN.md:

1. no request is lost, answered twice, or answered with another's reply;
2. every call ends, a cancellation reaches its handler, and a consumer that takes what there
   is gets all of it: no credit is lost;
5. a consumer that does not take bounds the sender.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from concurrent.futures import CancelledError
from typing import Any

import pytest
from calls import make_future
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from streamipc import (
    ErrorMessage,
    JsonMessageSerializer,
    LogMessage,
    NativeMessageSerializer,
    RemoteError,
    RequestCancelledError,
    RequestTimeoutError,
    ResponseFuture,
    ResponseStream,
    SessionClosedError,
)
from streamipc.engine.flow import Flow
from streamipc.engine.incoming import IncomingRequest
from streamipc.protocol import events
from streamipc.protocol.connection import Connection, error_from
from streamipc.protocol.envelopes import (
    Cancel,
    Credit,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)
from streamipc.protocol.framing import Junk


class Call:
    """What a caller holds of its request, and what it has seen of it."""

    def __init__(self, side: Side, id: int, window: int, planned: int) -> None:  # noqa: A002
        self.side = side
        self.key = f"{side.name} {id}"
        self.window = window
        self.planned = planned  # items that the other side is going to send
        self.future: ResponseFuture[Any] = make_future(side, id, LogMessage(self.key))
        self.stream = ResponseStream(self.future, window) if window else None
        self.arrived = 0  # items
        self.taken: list[Any] = []
        self.granted = 0  # anew, of those taken
        self.replies = 0
        self.cut_off = False  # the request, or its answer, may have been on its way at the end

    @property
    def id(self) -> Any:
        return self.future.id

    @property
    def served(self) -> IncomingRequest | None:
        """What the other side holds of it, as long as it has not answered."""
        return self.side.other.connection.served.get(self.id)

    def take(self, count: int) -> None:
        """Take items as a loop over the stream does; it ends as the future does."""
        for _ in range(count):
            if self.stream is None or not self.stream.ready():
                return
            try:
                self.taken.append(next(self.stream))
            except StopIteration:
                assert self.future.exception() is None
                return
            except CancelledError:
                assert self.future.cancelled()
                return
            except (RemoteError, RequestTimeoutError, SessionClosedError):
                assert self.future.exception() is not None
                return


class Side:
    """One end: a connection, its outgoing pipe, and what the engine does around them."""

    def __init__(self, name: str, serializer: Any) -> None:
        self.name = name
        self.connection = Connection(serializer, 1 << 20)
        self.flow = Flow(threading.Lock())
        self.pipe = bytearray()  # what was written and has not arrived
        self.open = True  # may write
        self.ended = False  # has read the end
        self.calls: dict[str, Call] = {}
        self.received: dict[str, IncomingRequest] = {}  # by the key of the request
        self.answered: dict[str, int] = {}  # how many items stand before the answer
        self.notified = 0
        self.notifications: list[int] = []
        self.other: Side

    def send(self, envelope: Any) -> None:
        self.write(self.encode(envelope))

    def write(self, frame: Any) -> None:
        if self.open:
            for part in frame:
                self.pipe += bytes(part)

    # What a future asks of the engine.

    def wait(self, awaited: Any, end: float | None) -> bool:
        raise AssertionError("nothing here may wait")

    def cancel(self, future: Any) -> None:
        if self.connection.calls.pop(future.id, None) is not None:
            self.send(Cancel(future.id))

    def credit(self, future: Any, count: int) -> None:
        self.calls[f"{self.name} {future.id}"].granted += count
        self.send(Credit(future.id, count))

    def drop(self, future: Any) -> None:
        """Do nothing: the machine is about to be thrown away."""

    def check_awaitable(self) -> None: ...

    # What a served request asks of it.

    def session(self) -> Any: ...

    def look(self) -> None: ...

    def report(self, error: BaseException) -> None:
        raise error

    def encode(self, envelope: Any) -> Any:
        return self.connection.encode(envelope)

    def send_item(self, served: IncomingRequest, frame: Any) -> None:
        self.write(frame)

    def answer(self, served: IncomingRequest, frame: Any) -> None:
        wanted = self.connection.served.pop(served.id, None) is served
        if wanted and not served.cancelled:
            self.write(frame)


ACTS = ("deliver", "deliver", "send_items", "take_items", "answer")


class TwoConnections(RuleBasedStateMachine):
    """Callers and servers on both sides, doing anything at any time."""

    serializer: Any = NativeMessageSerializer

    def __init__(self) -> None:
        super().__init__()
        self.sides = [Side(name, self.serializer()) for name in ("left", "right")]
        self.sides[0].other, self.sides[1].other = self.sides[1], self.sides[0]
        self.ids = {side: itertools.count(1) for side in self.sides}  # the same on both
        self.items: dict[str, int] = {}  # sent, by the key of the request

    side_numbers = st.integers(0, 1)
    indices = st.integers(0, 5)

    @property
    def all_calls(self) -> list[Call]:
        return [call for side in self.sides for call in side.calls.values()]

    def one_of(self, calls: Iterable[Call], index: int) -> list[Call]:
        """Return one of them, or none if there is none."""
        found = list(calls)
        return [found[index % len(found)]] if found else []

    @rule(acts=st.lists(st.tuples(st.sampled_from(ACTS), indices, st.integers(1, 150)), min_size=5))
    def traffic(self, acts: list[tuple[str, int, int]]) -> None:
        """What goes on all the time; in one step, so that there is much of it."""
        for act, index, count in acts:
            getattr(self, act)(index, count)

    # Callers.

    @rule(
        number=side_numbers,
        window=st.sampled_from([0, 1, 2, 3, 16]),
        planned=st.sampled_from([0, 1, 2, 3, 5, 8, 40]),
    )
    def request(self, number: int, window: int, planned: int) -> None:
        side = self.sides[number]
        if not side.open or side.ended:
            return
        call = Call(side, next(self.ids[side]), window, planned)
        side.calls[call.key] = call
        side.connection.calls[call.id] = call.future._call
        call.cut_off = not side.other.open
        side.send(Request(call.id, LogMessage(call.key), 30.0, {"key": call.key}, window))

    def take_items(self, index: int, count: int) -> None:
        live = (c for c in self.all_calls if c.arrived > len(c.taken) or not c.future.done())
        for call in self.one_of(live, index):
            call.take(1 + count % 4)

    @rule(index=indices)
    def cancel(self, index: int) -> None:
        for call in self.one_of(self.all_calls, index):
            pending = not call.future.done()
            assert call.future.cancel() == (pending or call.future.cancelled())

    @rule(index=indices)
    def time_out(self, index: int) -> None:
        """As the engine does at a deadline."""
        for call in self.one_of((c for c in self.all_calls if not c.future.done()), index):
            call.side.cancel(call.future._call)
            assert call.future._call.settle(None, RequestTimeoutError(call.key))

    @rule(number=side_numbers)
    def notify(self, number: int) -> None:
        side = self.sides[number]
        if side.open:
            side.send(Notification(LogMessage("note", str(side.notified))))
            side.notified += 1

    # Bytes on their way.

    def deliver(self, index: int, count: int) -> None:
        side = self.sides[index % 2]
        data = bytes(side.pipe[:count])
        del side.pipe[:count]
        for decoded in side.other.connection.feed(data):
            self.dispatch(side.other, decoded)
        self.see_end(side)

    def dispatch(self, side: Side, decoded: Any) -> None:
        """As ``Dispatching`` does, less the threads."""
        event = side.connection.receive(decoded)
        served: IncomingRequest | None
        if type(event) is Request:
            request = event
            key = request.message.message
            assert request.metadata == {"key": key}
            assert key not in side.received, "a request has arrived twice"
            served = IncomingRequest(side, request, (), request.id, None, request.window)
            side.connection.served[request.id] = side.received[key] = served
        elif type(event) in (Response, ErrorResponse):
            call = self.call_of(side, event.call)
            call.replies += 1
            ended = (
                (None, error_from(event)) if type(event) is ErrorResponse else (event.value, None)
            )
            assert event.call.settle(*ended), "a call has ended twice"
        elif type(event) is Progress:
            assert event.call.items.arrived(event.item), "more items than were granted"
            self.call_of(side, event.call).arrived += 1
        elif type(event) is Credit:
            side.connection.served[event.id].granted(event.count)
        elif type(event) is Cancel:
            side.connection.served[event.id].cancel()
        elif type(event) is Notification:
            side.notifications.append(int(event.message.level))
        elif type(event) is events.Late:
            assert side.calls[f"{side.name} {event.id}"].future.done(), "late, for whom?"
        else:
            assert event is None, f"{side.name} saw {event!r} of a well-behaved peer"

    @staticmethod
    def call_of(side: Side, future: Any) -> Call:
        return side.calls[f"{side.name} {future.id}"]

    def see_end(self, side: Side) -> None:
        """The other side reads the end of the stream: what it waits for fails."""
        if side.open or side.pipe or side.other.ended:
            return
        other = side.other
        other.ended = True
        rest = [other.connection.receive(decoded) for decoded in other.connection.finish()]
        assert all(type(event) is Junk for event in rest)
        for future in other.connection.calls.values():
            assert future.settle(None, SessionClosedError())
        other.connection.calls.clear()

    # Servers.

    def send_items(self, index: int, count: int) -> None:
        for call in self.one_of((c for c in self.all_calls if c.served), index):
            self.send_items_of(call, 1 + count % 8)

    def send_items_of(self, call: Call, count: int) -> None:
        """Have the handler yield up to ``count`` items, as far as it has credit."""
        served = call.served
        if served is not None and not call.window:
            served.progress("for a caller that takes none")
            return
        while served is not None and count and self.items.get(call.key, 0) < call.planned:
            count -= 1
            if not served.ready():
                return
            item = self.items.get(call.key, 0)
            try:
                served.progress(item)
            except RequestCancelledError:
                assert served.cancelled
                return
            self.items[call.key] = item + 1

    def answer(self, index: int, count: int) -> None:
        for call in self.one_of((c for c in self.all_calls if c.served), index):
            self.answer_to(call, fails=count % 2 == 0)

    def answer_to(self, call: Call, fails: bool) -> None:
        there, served = call.side.other, call.served
        assert served is not None
        sent = self.items.get(call.key, 0)
        if not served.cancelled:
            assert call.key not in there.answered
            there.answered[call.key] = sent
        if fails:
            error = ErrorMessage(f"{call.key}: {sent}", "Oops", "")
            there.answer(served, there.encode(ErrorResponse(served.id, error)))
        else:
            there.answer(served, there.encode(Response(served.id, f"{call.key}: {sent}")))

    # The end.

    @precondition(lambda self: len(self.all_calls) > 3)
    @rule(number=side_numbers, sure=st.integers(0, 9), lost=st.just(0) | st.integers(0, 1000))
    def close(self, number: int, sure: int, lost: int) -> None:
        """Close one direction, or die with bytes unwritten; rarely, or little else happens."""
        if sure == 0:
            side = self.sides[number]
            side.open = False
            del side.pipe[max(0, len(side.pipe) - lost) :]
            for call in self.all_calls:
                call.cut_off = True
            self.see_end(side)

    # What holds at any time.

    @invariant()
    def a_call_stands_in_the_table_until_it_has_ended(self) -> None:
        for call in self.all_calls:
            assert (
                call.side.connection.calls.get(call.id) is call.future._call
            ) != call.future.done()
            assert call.replies <= 1

    @invariant()
    def each_reply_is_the_calls_own_and_comes_after_all_items(self) -> None:
        for call in self.all_calls:
            if not call.replies:
                continue
            error = call.future.exception()
            assert error is None or isinstance(error, RemoteError)
            text = call.future.result() if error is None else error.remote_message
            assert text == f"{call.key}: {call.arrived}"
            assert call.arrived == call.side.other.answered[call.key]

    @invariant()
    def items_come_in_order_and_none_is_made_up(self) -> None:
        for call in self.all_calls:
            assert call.taken == list(range(len(call.taken)))
            assert len(call.taken) <= call.arrived <= self.items.get(call.key, 0)

    @invariant()
    def a_consumer_that_does_not_take_bounds_the_sender(self) -> None:
        for call in self.all_calls:
            assert call.granted <= len(call.taken)
            assert self.items.get(call.key, 0) <= len(call.taken) + call.window

    @invariant()
    def notifications_come_in_order(self) -> None:
        for side in self.sides:
            assert side.notifications == list(range(len(side.notifications)))
            assert len(side.notifications) <= side.other.notified

    def teardown(self) -> None:
        """Let everything arrive and be done, and close: then every call has ended."""
        self.deliver_all()
        for call in self.all_calls:
            if not call.cut_off:
                assert call.key in call.side.other.received, "a request was lost"
                if call.future.done() and not call.replies and call.served is not None:
                    assert call.served.cancelled, "a cancellation was lost"
        for _ in range(50):  # more than it takes for 40 items with a window of 1
            for call in self.all_calls:
                self.send_items_of(call, 1 << 20)
            self.deliver_all()
            for call in self.all_calls:
                call.take(1 << 20)
            self.deliver_all()
        for call in self.all_calls:
            if call.window and not (call.cut_off or call.future.done()):
                assert len(call.taken) == call.planned, "credit was lost"
                if call.served:  # less than half of it is yet to be granted
                    assert 2 * call.served.credit > call.window, "credit was lost"
            if call.served:
                self.answer_to(call, fails=False)
        self.deliver_all()
        for call in self.all_calls:
            assert call.future.done() or call.cut_off, "an answer was lost"
        for side in self.sides:
            if side.open:
                assert side.other.ended or len(side.other.notifications) == side.notified
        for side in self.sides:
            side.open = False
            self.see_end(side)
        for check in (
            self.a_call_stands_in_the_table_until_it_has_ended,
            self.each_reply_is_the_calls_own_and_comes_after_all_items,
            self.items_come_in_order_and_none_is_made_up,
            self.a_consumer_that_does_not_take_bounds_the_sender,
        ):
            check()
        assert all(call.future.done() for call in self.all_calls)
        assert [side.connection.served for side in self.sides] == [{}, {}]

    def deliver_all(self) -> None:
        for number in (0, 1):
            self.deliver(number, 1 << 30)


class TwoJsonConnections(TwoConnections):
    serializer = JsonMessageSerializer


@pytest.mark.parametrize("machine", [TwoConnections, TwoJsonConnections])
def test_every_interleaving_keeps_the_promises(machine: Any) -> None:
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=60))
