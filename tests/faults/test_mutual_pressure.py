"""Both sides write more than the pipes hold: whoever waits to write has its side read on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shared_messages import Echo, Note

from streamipc import IpcPeer, Limits, Request, RequestContext, SerializationError, messages
from streamipc.engine.flow import Reason
from streamipc.transports import pipe

LONG = 60
"""Seconds. Only a fault takes that long."""
MUCH = 8 << 20
"""Bytes: more than both directions hold."""


class Floods:
    """Two sessions, each of which gets more notifications than may wait, and reads no more.

    Each runs one handler at a time; that of the first notification returns when told to.
    """

    def __init__(self, sessions: tuple[Any, Any], eventually: Callable[..., None]) -> None:
        self.sessions = sessions
        self._eventually = eventually
        self._entered = threading.Semaphore(0)
        self._go_on = threading.Event()
        self.first_handler: Callable[[RequestContext], object] = lambda _: None
        self.threads: list[threading.Thread] = []
        for session in sessions:
            session.on_message(self._handle)
            session.start()

    def _handle(self, msg: Note, context: RequestContext) -> None:
        if msg.number == 0:
            self._entered.release()
            assert self._go_on.wait(LONG)
            self.first_handler(context)

    def begin(self) -> None:
        for session in self.sessions:
            session.notify(Note(number=0))
        for _ in self.sessions:
            assert self._entered.acquire(timeout=LONG)

    def pause_both(self, finally_send: Callable[[Any], object] = lambda _: None) -> None:
        def flood(session: Any) -> None:
            for number in range(Limits().waiting_notifications + 100):
                session.notify(Note(number=1 + number))
            finally_send(session)

        for session in self.sessions:
            self.threads.append(threading.Thread(target=flood, args=(session,)))
            self.threads[-1].start()
        for session in self.sessions:
            self._eventually(lambda engine=session._engine: engine.flow.paused)

    def go_on(self) -> None:
        self._go_on.set()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(LONG)
            assert not thread.is_alive()


@pytest.fixture(params=["polled", "pumped"])
def floods(
    connected: Any, eventually: Any, request: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Floods]:
    with monkeypatch.context() as patch:
        if request.param == "pumped":
            patch.setattr(pipe, "can_poll", lambda: False)
        sessions = connected(IpcPeer(handler_threads=1), IpcPeer(handler_threads=1))
    floods = Floods(sessions, eventually)
    yield floods
    floods.go_on()
    for session in sessions:
        session.close(timeout=0)  # one that is stuck has nothing to wait for
    floods.join()


def test_replies_that_wait_for_room_on_both_sides_do_not_keep_either_from_reading(
    floods: Floods,
) -> None:
    """The thread that sends a reply takes the place of the notifications' handler."""
    for session in floods.sessions:
        session.on_request(Echo)(lambda msg: b"x" * MUCH)
    floods.begin()
    futures = [session.request(Echo(), timeout=None) for session in floods.sessions]
    floods.pause_both()
    floods.go_on()

    assert [len(future.result(LONG)) for future in futures] == [MUCH] * 2
    floods.join()


def test_handlers_that_wait_for_their_turn_on_both_sides_do_not_keep_either_from_reading(
    floods: Floods, eventually: Any
) -> None:
    """The one that writes is no handler's thread, and may wait while nothing is read."""
    notified = threading.Semaphore(0)

    def notify(context: RequestContext) -> None:
        context.session.notify(Note(number=-1))
        notified.release()

    floods.first_handler = notify
    floods.begin()
    floods.pause_both(finally_send=lambda session: session.notify(Note("x" * MUCH)))
    for session in floods.sessions:
        eventually(lambda writer=session._engine.writer: writer.backlog > MUCH // 2)
    floods.go_on()

    for _ in floods.sessions:
        assert notified.acquire(timeout=LONG)
    floods.join()


class Removed(Request[int]):
    """Known to nobody once it is made."""


def test_refusals_on_both_sides_do_not_keep_either_from_reading(
    connected: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is five times as long as what it refuses, and both pipes are full of that."""
    sessions = connected()
    asked = Removed()
    monkeypatch.delitem(messages._registry, Removed.__wire_name__)
    futures: list[Any] = []
    for session in sessions:
        session.start()
        session._engine.flow.pause_locked(Reason.NOTIFICATIONS)

    def flood(session: Any) -> None:
        for _ in range(25_000):
            futures.append(session.request(asked, timeout=None))

    threads = [threading.Thread(target=flood, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for session in sessions:
        eventually(lambda engine=session._engine: engine.channel.waiting)
    for session in sessions:
        session._engine.inbox.room_is_awaited()

    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    for future in futures:
        with pytest.raises(SerializationError, match="unknown message type"):
            future.result(LONG)


def test_a_callback_that_is_stuck_does_not_keep_an_answer_from_being_written(
    connected: Any,
) -> None:
    """It may wait for what the peer does once it has the answer."""
    asking, answering = connected(IpcPeer(), IpcPeer(handler_threads=1))
    asking.on_request(Echo)(lambda msg: msg.value)
    answering.on_request(Echo)(lambda msg: b"x" * MUCH)
    asking.start()
    stuck, go_on = threading.Event(), threading.Event()

    def callback(_: object) -> None:
        stuck.set()
        assert go_on.wait(2 * LONG)

    answering.request(Echo()).add_done_callback(callback)
    assert stuck.wait(LONG)
    try:
        assert len(asking.request(Echo()).result(LONG)) == MUCH
    finally:
        go_on.set()


@pytest.mark.parametrize("kind", ["notify", "broadcast"])
def test_notifications_whose_handlers_notify_back_get_through_on_both_sides(
    connected: Any, most_notifications: Callable[[int], None], kind: str
) -> None:
    """More are sent than both sides take; the handlers' own are among many threads'."""
    most_notifications(3000)
    peers = IpcPeer(), IpcPeer()
    sessions = connected(*peers)
    count, threads_each = 5000, 4
    expected = 2 * count * threads_each
    handled, done = [0, 0], [threading.Event(), threading.Event()]

    def serve(index: int, session: Any) -> None:
        @session.on_message
        def handle(msg: Note) -> None:
            if msg.number:
                session.notify(Note(number=msg.number - 1))
            handled[index] += 1
            if handled[index] == expected:
                done[index].set()

    for index, session in enumerate(sessions):
        serve(index, session)
        session.start()

    def flood(peer: IpcPeer, session: Any) -> None:
        send = session.notify if kind == "notify" else peer.broadcast
        for _ in range(count):
            send(Note(number=1))

    threads = [
        threading.Thread(target=flood, args=(peer, session))
        for peer, session in zip(peers, sessions, strict=True)
        for _ in range(threads_each)
    ]
    for thread in threads:
        thread.start()
    try:
        assert all(event.wait(3 * LONG) for event in done)
    finally:
        for session in sessions:
            session.close(timeout=0 if not all(event.is_set() for event in done) else LONG)
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive()
