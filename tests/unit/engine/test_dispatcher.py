"""What becomes of an event that something has overtaken, or that nobody understands."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from handover import LONG, Caller, Eventually, Held, Hold, Quick
from interrupting import signals_raise
from shared_messages import Echo, Note

from streamipc import IpcPeer, JsonMessageSerializer, SerializationError, SyncIpcSession
from streamipc.protocol.envelopes import Cancel, Credit, Request, Response

Sides = tuple[Any, Any, Held]


@pytest.fixture
def sides(connected: Callable[..., tuple[Any, Any]]) -> Iterator[Sides]:
    left, right = connected()
    held = Held(left, right)
    right.start()
    yield left, right, held
    held.release_all()


class UnhashableIds(JsonMessageSerializer):
    """Reads the ids of requests for ``Quick`` as lists."""

    def decode(self, payload: memoryview, /) -> Any:
        envelope: Any = super().decode(payload)
        if type(envelope) is Request and type(envelope.message) is Quick:
            envelope.id = [envelope.id]
        return envelope


def test_one_frame_that_makes_no_sense_keeps_no_other_from_being_read(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    left, right = connected(
        IpcPeer(serializer=JsonMessageSerializer()), IpcPeer(serializer=UnhashableIds())
    )
    said: list[BaseException] = []
    told = threading.Event()
    right.on_exception(lambda error: (said.append(error), told.set()))
    right.on_request(Echo)(lambda msg: msg.value)
    right.start()

    left.request(Quick())
    assert left.request(Echo("next")).result(LONG) == "next"

    assert told.wait(LONG)
    assert [type(error) for error in said] == [SerializationError]
    assert "id is" in str(said[0])


@pytest.mark.parametrize("envelope", [Cancel, lambda id: Credit(id, 1)])  # noqa: A006
def test_what_is_for_a_request_that_was_answered_a_moment_ago_is_for_nobody(
    sides: Sides, eventually: Eventually, envelope: Callable[[Any], Any]
) -> None:
    left, right, held = sides
    future = left.request(Hold("it"))
    held.wait_until_entered("it")
    connection = right._engine.connection
    receive = connection.receive
    overtaken: list[Any] = []

    def receive_and_be_overtaken(decoded: Any) -> Any:
        event = receive(decoded)
        if type(decoded) in (Cancel, Credit):
            assert event is not None
            held.release("it")
            eventually(lambda: future.id not in connection.served)
            overtaken.append(event)
        return event

    connection.receive = receive_and_be_overtaken
    left._engine.control.send(envelope(future.id))

    assert future.result(LONG) == "reply to it"
    assert left.request(Quick("on")).result(LONG) == "on"
    assert len(overtaken) == 1
    assert right.stats.junk == 0


def test_cancelling_what_waits_for_its_progress_alone_tells_the_peer_nothing(
    sides: Sides, eventually: Eventually
) -> None:
    """The reply is there: the peer has forgotten the request."""
    left, right, _ = sides
    entered, leave = threading.Event(), threading.Event()

    @right.on_request
    def echo(msg: Echo) -> Any:
        yield msg.value
        return "reply"

    def on_progress(item: Any) -> None:
        entered.set()
        assert leave.wait(LONG)

    future = left.request(Echo("item"), on_progress=on_progress)
    assert entered.wait(LONG)
    eventually(lambda: left.stats.pending == 0)
    sent = left.stats.frames_sent

    assert future.cancel()
    assert left.stats.frames_sent == sent
    leave.set()
    assert left.request(Quick("on")).result(LONG) == "on"


@pytest.mark.parametrize("who", ["a caller", "the I/O thread"])
def test_the_end_of_a_second_stream_is_forgotten_by_all_whoever_read_it(
    eventually: Eventually, who: str
) -> None:
    """A poll reports an end again and again: who goes on polling it uses the CPU up."""
    to_right, from_left = reversed(os.pipe())
    to_left, from_right = reversed(os.pipe())
    second, second_in = os.pipe()
    left: Any = IpcPeer().create_stream_session(to_right, from_right, second)
    right: Any = IpcPeer().create_stream_session(to_left, from_left)
    held = Held(right)
    came: queue.SimpleQueue[Any] = queue.SimpleQueue()
    left.on_message(came.put)
    left.start()
    right.start()
    reader = left._engine.reader
    if who == "a caller":
        caller = Caller(left.request(Hold("it")))
        held.wait_until_entered("it")
        eventually(lambda: left._engine.leader.thread == caller.thread.ident)
        os.close(second_in)
        eventually(lambda: reader._ended_fds == [second])
        held.release("it")
        assert caller.returned() == "reply to it"
    else:
        os.write(second_in, b"printed")
        os.close(second_in)
        assert came.get(timeout=LONG).message == "printed"
    # The I/O thread looks again after this one, and then at no descriptor that has ended.
    right.notify(Note("read by the I/O thread"))
    assert came.get(timeout=LONG) == Note("read by the I/O thread")
    eventually(lambda: not reader._ended_fds)
    left.close()
    right.close()
    for poller in (reader.poller, left._engine.pool.io_thread._poller):
        known = dict(poller._now.poll(0))  # all that are closed by now, if it knows them
        assert reader.first_fd in known
        assert second not in known


def test_what_a_signals_handler_raises_while_a_reply_is_applied_comes_out_as_itself() -> None:
    """It is not told as the fault of a frame, which is applied by whoever comes next."""
    (a, b), (c, d) = os.pipe(), os.pipe()
    with IpcPeer(session_type=SyncIpcSession) as peer, IpcPeer() as other:
        right = other.create_stream_session(d, a)
        right.on_request(Echo)(lambda msg: msg.value)
        right.start()
        session = peer.create_stream_session(b, c)
        reported: list[BaseException] = []
        session.on_exception(reported.append)
        first = session.request(Echo("first"), timeout=LONG)
        short_cuts = session._engine.dispatcher._short_cuts
        reply = short_cuts[Response]
        with signals_raise(TimeoutError) as interrupt:

            def interrupted(response: Response) -> bool:
                short_cuts[Response] = reply
                interrupt()
                return True

            short_cuts[Response] = interrupted
            with pytest.raises(TimeoutError, match="of a signal's handler"):
                first.result(LONG)

        assert not first.done()
        assert first.result(LONG) == "first"
        assert session.call(Echo("next"), timeout=LONG) == "next"
        assert reported == []
