"""What goes out while the peer does not read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from handover import LONG, Eventually
from interrupting import interrupted_at
from shared_messages import Echo, Note

from streamipc import (
    IpcPeer,
    IpcSession,
    Limits,
    ProtocolError,
    RequestContext,
    RequestTimeoutError,
    SerializationError,
    SessionClosedError,
    SyncIpcSession,
)
from streamipc.engine.flow import Kind, Reason
from streamipc.protocol.connection import Connection
from streamipc.protocol.envelopes import (
    Cancel,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)
from streamipc.protocol.events import ItemFailed
from streamipc.serializers.native import NativeMessageSerializer

MOST = Limits().waiting_notifications


class RawPeer:
    """The other side of a session: bare pipes, read when the test says so."""

    def __init__(self, session_type: type[IpcSession] = IpcSession) -> None:
        read, self.write_fd = os.pipe()
        self.read_fd, write = os.pipe()
        self.session: Any = IpcPeer(session_type=session_type).create_stream_session(write, read)
        self.connection = Connection(NativeMessageSerializer(), 1 << 26)

    def frame(self, envelope: Any) -> bytes:
        return b"".join(self.connection.encode(envelope))

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.write_fd, view) :]

    def read_until(self, last: type, count: int) -> list[Any]:
        """Read until ``count`` envelopes of a type have come; return all."""
        got: list[Any] = []
        while sum(type(one) is last for one in got) < count:
            got += self.connection.feed(os.read(self.read_fd, 1 << 20))
        return got

    def close(self) -> None:
        os.close(self.write_fd)
        self.session.close(timeout=0)
        os.close(self.read_fd)


@pytest.fixture
def raw() -> Iterator[RawPeer]:
    peer = RawPeer()
    yield peer
    peer.close()


REFUSAL = 500
"""Bytes, and a few more: of a long name it shows only the start."""


def unknown_request(number: int) -> bytes:
    """A request of a type that nobody knows, by so long a name that REFUSAL bytes answer it."""
    name = b"nowhere." + b"X" * 200
    payload = struct.pack(">BBHHHIQd", 1, 0, 0, len(name), 0, 0, number, 1e9) + name + b"N."
    return b"\xf3\x4a\x9d\xe2" + struct.pack(">I", len(payload)) + payload


knows_pipes = pytest.mark.skipif(
    not hasattr(fcntl, "F_GETPIPE_SZ"), reason="what a pipe holds is known on Linux only"
)


def room_of(raw: RawPeer) -> int:
    """Return what the pipe to the peer holds."""
    return fcntl.fcntl(raw.read_fd, fcntl.F_GETPIPE_SZ)


def accepted(writer: Any) -> int:
    """Return how many frames were sent, or wait."""
    return int(writer.frames_sent) + len(writer._queue)


def notify_until_stuck(session: Any, size: int, eventually: Eventually) -> threading.Thread:
    """Return a thread that waits for room for its notification."""
    thread = threading.Thread(target=lambda: session.notify(Note("x" * size)))
    thread.start()
    eventually(lambda: session._engine.channel.waiting)
    return thread


def test_a_peer_that_does_not_read_refusals_is_not_read_until_it_does(
    raw: RawPeer, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = raw.session
    session.start()
    most = 1 << 20
    session._engine.flow.refusal_bytes = most
    count = 2 * most // REFUSAL + 400
    writing = threading.Thread(
        target=lambda: [raw.write(unknown_request(number)) for number in range(count)]
    )
    writing.start()
    writer = session._engine.writer
    eventually(lambda: session._engine.flow.paused)
    assert most // 2 < writer.backlog < 2 * most

    refusals = raw.read_until(ErrorResponse, count)
    writing.join(LONG)

    assert [refusal.id for refusal in refusals] == list(range(count))
    eventually(lambda: not session._engine.flow.paused)
    raw.write(raw.frame(Request(7, Echo("unhandled"), None)))
    assert raw.read_until(ErrorResponse, 1)[0].code == "unhandled"


@knows_pipes
def test_refusals_that_the_peer_has_read_count_no_more_although_some_always_wait(
    raw: RawPeer, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = raw.session
    session.start()
    session._engine.flow.refusal_bytes = 8 * REFUSAL  # twelve are sent, three wait
    writer = session._engine.writer

    sent = 0
    for _ in range(4):
        writing = notify_until_stuck(session, room_of(raw) + 1000, eventually)
        sent += 1
        for number in range(3):
            raw.write(unknown_request(number))
            sent += 1
            eventually(lambda: accepted(writer) == sent)  # noqa: B023
        raw.read_until(ErrorResponse, 3)
        writing.join(LONG)


def test_one_who_reads_while_it_waits_for_room_is_still_the_only_one_to_write(
    eventually: Eventually,
) -> None:
    """Without threads; what it reads must be refused, which is nothing to be written past it."""
    raw = RawPeer(SyncIpcSession)
    session = raw.session
    session.start()
    engine = session._engine
    texts = ["x" * (4 << 20), "y" * (4 << 20)]
    threads = [threading.Thread(target=session.notify, args=(Note(text),)) for text in texts]
    threads[0].start()
    eventually(lambda: engine.channel.waiting)
    raw.write(unknown_request(1))
    eventually(lambda: accepted(engine.writer) == 2)

    threads[1].start()
    eventually(lambda: len(engine.writer._sleepers) == 2)  # for its turn
    got = raw.read_until(Notification, 2)

    for thread in threads:
        thread.join(LONG)
    assert [one.message.text for one in got if type(one) is Notification] == texts
    assert [one.id for one in got if type(one) is ErrorResponse] == [1]
    raw.close()


@pytest.mark.parametrize("timeout", [None, LONG])
def test_an_interrupt_of_one_who_has_entered_its_request_leaves_none_pending(
    raw: RawPeer, timeout: float | None
) -> None:
    session = raw.session
    session.start()
    engine = session._engine
    outgoing = engine.outgoing
    lock = engine.lock

    class Interrupted:
        """Ctrl-C comes as the lock is left."""

        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            outgoing.lock = lock
            lock.release()
            raise KeyboardInterrupt

    outgoing.lock = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        session.request(Echo(), timeout=timeout)

    assert session.stats.pending == 0


def test_an_interrupt_of_one_whose_request_was_not_written_in_time_leaves_none_pending(
    raw: RawPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = raw.session
    session.start()

    outgoing = session._engine.outgoing
    expire = outgoing.expire

    def interrupt(*arguments: Any, **options: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            expire(*arguments, **options)
            return
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(outgoing, "expire", interrupt)
    with pytest.raises(KeyboardInterrupt):
        session.request(Echo("x" * (8 << 20)), timeout=0.05)

    assert session.stats.pending == 0


@knows_pipes
def test_refusals_that_another_thread_has_written_by_the_way_end_the_pause(
    raw: RawPeer, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = raw.session
    session.start()
    room = room_of(raw)
    flow = session._engine.flow
    flow.refusal_bytes = room // 8
    writing = notify_until_stuck(session, room + room // 2, eventually)
    writer = session._engine.writer
    number = 0
    while not session._engine.flow.paused:
        raw.write(unknown_request(number))
        number += 1
        # One that came while the thread that reads made up its mind is read later.
        eventually(
            lambda count=1 + number: accepted(writer) == count or session._engine.flow.paused
        )

    # All that is left finds room at once, behind the notification.
    os.set_blocking(raw.read_fd, False)

    def is_drained() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(raw.read_fd, room)
        return writer.backlog == 0

    eventually(is_drained)
    writing.join(LONG)

    eventually(lambda: not session._engine.flow.paused)


@pytest.mark.parametrize("overfull", [False, True])
def test_a_handler_that_waits_for_room_has_reading_go_on(
    raw: RawPeer, eventually: Eventually, overfull: bool
) -> None:
    """The peer may read nothing before it has written what it has to say.

    Also where so many waited that it must not go on, and one less does.
    """
    session = raw.session
    may_answer, stuck = threading.Event(), threading.Event()
    if overfull:
        session._engine.flow.most_notifications = MOST

    @session.on_message
    def handle(msg: Note) -> None:
        if msg.number == 0:
            assert may_answer.wait(LONG)
        if msg.number == overfull:
            session.notify(Note("x" * (4 << 20)))
            stuck.set()

    session.on_request(Echo)(lambda msg: msg.value)
    session.start()
    flow, channel = session._engine.flow, session._engine.channel
    raw.write(b"".join(raw.frame(Notification(Note(number=n))) for n in range(MOST + 1)))
    eventually(lambda: session._engine.flow.paused)
    assert (Reason.OVERFULL in flow.reasons) is overfull
    raw.write(raw.frame(Request(1, Echo("read although the handler waits"), None)))
    may_answer.set()
    eventually(lambda: channel.handlers_waiting)

    eventually(lambda: not session._engine.flow.paused)
    assert not stuck.is_set()
    answers = raw.read_until(Response, 1)
    assert [one.value for one in answers if type(one) is Response] == [
        "read although the handler waits"
    ]
    assert stuck.wait(LONG)


def test_a_notification_that_gives_way_for_too_long_is_not_sent(connected: Any) -> None:
    left, right = connected()
    right.start()
    left.start()
    left._engine.send_gate.closed = True
    with pytest.raises(RequestTimeoutError, match="Note"):
        left.notify(Note(), timeout=0.05)
    left._engine.send_gate.closed = False
    left.notify(Note("sent"))
    assert right.receive(timeout=LONG) == Note("sent")


def test_a_broadcast_by_another_real_thread_is_refused_where_gevent_has_patched(
    connected: Any,
) -> None:
    peer = IpcPeer()
    left, _ = connected(peer)
    left.start()
    lifecycle = left._engine.lifecycle
    lifecycle.is_open, lifecycle.patches.greenlets = False, True  # and it is nobody's thread
    failures = peer.broadcast(Note())
    lifecycle.patches.greenlets = False
    assert type(failures[left]) is RuntimeError
    assert "made by another thread" in str(failures[left])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_copy_takes_the_items_that_had_come_and_grants_none(connected: Any) -> None:
    left, right = connected()

    @right.on_request
    def count(msg: Echo, context: RequestContext) -> None:
        for number in range(2):
            context.progress(number)
        assert go_on.wait(LONG)

    go_on = threading.Event()
    right.start()
    stream = left.stream(Echo(), window=2)
    assert next(stream) == 0
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(SessionClosedError):
            list(stream)
            os._exit(2)
        left._engine.outgoing.credit(
            stream._future, 1
        )  # for what a thread of the copy's took meanwhile
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    go_on.set()
    assert list(stream) == [1]


def test_a_reply_that_is_taken_as_the_time_runs_out_is_returned(
    raw: RawPeer, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads it has taken the request off the table, and is about to say what has come."""
    session = raw.session
    session.start()
    outgoing = session._engine.outgoing
    expire = outgoing.expire
    settling: list[threading.Thread] = []

    def settle(call: Any) -> None:
        eventually(lambda: call.wakers)
        call.settle("in time", None)

    def be_overtaken(call: Any) -> None:
        if not settling:
            del outgoing._calls[call.id]
            settling.append(threading.Thread(target=settle, args=(call,)))
            settling[0].start()
            expire(call)

    monkeypatch.setattr(outgoing, "expire", be_overtaken)
    monkeypatch.setattr("streamipc.engine.outgoing._MOMENT", LONG)
    assert session.call(Echo(), timeout=0.05) == "in time"
    settling[0].join(LONG)


def test_a_request_is_refused_by_a_session_that_is_closed_as_it_is_made(connected: Any) -> None:
    """Such as by the caller's own generator of ids."""
    numbers = iter(range(100))

    def next_id() -> int:
        if closes:
            left.close()
        return next(numbers)

    closes = False
    left, right = connected(IpcPeer(id_generator=next_id))
    right.on_request(Echo)(lambda msg: msg.value)
    right.start()
    assert left.call(Echo("taken"), timeout=LONG) == "taken"
    closes = True
    with pytest.raises(SessionClosedError, match="Echo was not sent; this side closed") as caught:
        left.call(Echo("refused"), timeout=LONG)

    assert caught.value.executed is False
    assert left.stats.pending == 0


@pytest.mark.parametrize("size", [10, 100_000])
def test_an_item_more_than_was_granted_ends_the_request_and_is_held_no_more(
    raw: RawPeer, size: int
) -> None:
    session = raw.session
    stream = session.stream(Echo(), window=2)
    id_ = raw.read_until(Request, 1)[0].id
    raw.write(b"".join(raw.frame(Progress(id_, "x" * size)) for _ in range(3)))

    with pytest.raises(ProtocolError, match=r"more items for request \d+ than it was granted"):
        stream.future.result(LONG)  # takes none of them
    assert raw.read_until(Cancel, 1)[0].id == id_
    stream.close()
    del stream
    flow = session._engine.flow
    flow.charge(flow.hold(Kind.ITEM, Progress(id_, "x" * 10_000), None, 0))  # counts anew
    assert flow.held[Kind.ITEM] < 50_000


@pytest.mark.parametrize(
    ("item", "few"), [("text", 1024), (7, 1024), ((), 256), (Echo("text"), 256)]
)
def test_small_items_that_few_wait_for_cost_no_accounting(
    raw: RawPeer, eventually: Eventually, item: Any, few: int
) -> None:
    session = raw.session
    stream = session.stream(Echo(), window=2000)
    id_ = raw.read_until(Request, 1)[0].id
    flow = session._engine.flow
    raw.write(b"".join([raw.frame(Progress(id_, item))] * few))
    eventually(lambda: len(stream._items.waiting) == few)
    assert flow.total == 0

    raw.write(b"".join([raw.frame(Progress(id_, item))] * 10))
    eventually(lambda: len(stream._items.waiting) == few + 10)
    assert flow.total > 0

    raw.write(raw.frame(Response(id_, None)))
    assert list(stream) == [item] * (few + 10)
    assert flow.total == 0


def test_the_items_of_several_streams_that_cost_no_accounting_are_no_more_than_of_one(
    raw: RawPeer, eventually: Eventually
) -> None:
    session = raw.session
    streams = [session.stream(Echo(), window=2000) for _ in range(4)]
    first, *_ = raw.read_until(Request, 4)
    raw.write(b"".join([raw.frame(Progress(first.id, ()))] * 64))
    eventually(lambda: len(streams[0]._items.waiting) == 64)
    assert session._engine.flow.total == 0

    raw.write(raw.frame(Progress(first.id, ())))
    eventually(lambda: session._engine.flow.total > 0)


def test_an_item_that_is_applied_twice_comes_once(raw: RawPeer) -> None:
    """By one who was interrupted behind it, and by whoever comes next."""
    session = raw.session
    stream = session.stream(Echo(), window=8)
    id_ = raw.read_until(Request, 1)[0].id
    take, received = session._engine.outgoing.try_item, session._engine.outgoing.progress_received
    seen: list[Any] = []

    def again(progress: Any) -> None:
        received(session._engine.connection.receive(progress))
        seen.append(progress.item)

    def twice(progress: Any) -> None:
        received(progress)
        again(progress)

    def small_twice(progress: Any) -> bool:
        if not take(progress):
            return False
        assert not take(progress)
        again(progress)
        return True

    session._engine.dispatcher._actions[Progress] = twice
    session._engine.dispatcher._short_cuts[Progress] = small_twice
    for item in ("small", "x" * 100_000):
        raw.write(raw.frame(Progress(id_, item)))
    raw.write(raw.frame(Response(id_, "end")))

    assert list(stream) == ["small", "x" * 100_000]
    assert stream.result(LONG) == "end"
    assert seen == ["small", "x" * 100_000]
    assert session._engine.flow.total == 0


ENDS: dict[str, Callable[[Any, Any], object]] = {
    "late": lambda outgoing, future: outgoing.expire(future._call),
    "cancelled": lambda outgoing, future: future.cancel(),
    "unreadable item": lambda outgoing, future: outgoing.item_failed(
        ItemFailed(future._call, SerializationError("unreadable"))
    ),
    "too large": lambda outgoing, future: outgoing.fail_skipped("2000", "too large"),
}


@pytest.mark.parametrize("way", ENDS)
def test_a_call_has_an_outcome_or_stands_in_the_table_wherever_an_interrupt_comes(
    raw: RawPeer, way: str
) -> None:
    """Or nobody would ever end it: a call is found by way of the table."""
    session = raw.session
    session.start()
    outgoing = session._engine.outgoing
    k, interrupted = 0, True
    while interrupted:
        k += 1
        stream = session.stream(Echo(), timeout=LONG)
        future = stream.future
        future.add_done_callback(lambda future: None)
        call = future._call
        call.size = 2000
        files = ("engine/outgoing.py", "engine/calls.py", "engine/control.py", "futures.py")
        interrupted = interrupted_at(k, files, partial(ENDS[way], outgoing, future))
        assert call.outcome or outgoing._calls.get(call.id) is call, f"interrupted at {k}"
        ENDS[way](outgoing, future)  # whoever comes next
        assert future.done()
    assert k > 3
    assert outgoing.pending == 0


def test_an_interrupt_of_one_who_sends_the_request_of_a_stream_leaves_none_pending(
    raw: RawPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = raw.session
    session.start()
    outgoing = session._engine.outgoing
    write = outgoing._write

    def interrupted(*arguments: Any) -> None:
        monkeypatch.undo()
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(outgoing, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.stream(Echo())

    assert session.stats.pending == 0
    assert [type(one) for one in raw.read_until(Cancel, 1)] == [Request, Cancel]
