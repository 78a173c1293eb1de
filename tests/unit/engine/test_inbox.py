"""Notifications wait for their handlers, whatever interrupts the thread that reads them."""

from __future__ import annotations

import os
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from interrupting import interrupted_at
from shared_messages import Note

from streamipc import IpcPeer, Limits, LogMessage, NativeMessageSerializer, SyncIpcSession
from streamipc.engine.dispatcher import Dispatcher
from streamipc.engine.flow import Flow, Held, Kind
from streamipc.engine.inbox import Inbox
from streamipc.engine.junk import JunkLines
from streamipc.engine.send_gate import SendGate
from streamipc.handlers import HandlerRegistry
from streamipc.messages import Message
from streamipc.protocol.connection import Connection
from streamipc.protocol.envelopes import Notification

READING = ("streamipc/engine/dispatcher.py", "streamipc/engine/inbox.py", "test_inbox.py")
HANDLING = ("streamipc/engine/inbox.py",)


class Pool:
    """Takes tasks, and runs them when told."""

    blocked = 0

    def __init__(self) -> None:
        self.tasks: deque[Any] = deque()

    def submit_locked(self, task: Any) -> None:
        self.tasks.append(task)

    def waiting_tasks(self) -> int:
        return len(self.tasks)

    def run(self) -> None:
        while self.tasks:
            self.tasks.popleft().run()


class Reading:
    """What reads notifications, and keeps the numbers of those that were handled."""

    def __init__(self, has_threads: bool = True) -> None:
        lock: Any = threading.RLock()
        self.seen: list[int] = []
        self.errors: list[BaseException] = []
        self.pool: Any = Pool()
        self.connection = Connection(NativeMessageSerializer(), 1 << 20)
        registry = HandlerRegistry(Message, "on_message")
        registry.register(Note)(lambda msg: self.seen.append(msg.number))
        self.warnings: list[str] = []
        self.flow = Flow(lock, Limits(held_bytes=1 << 20))
        nobody: Any = SimpleNamespace(
            handlers_waiting=0, report=self.errors.append, warn_soon=self.warnings.append
        )
        self.inbox = Inbox(
            lock=lock,
            connection=self.connection,
            lifecycle=nobody,
            host=SimpleNamespace(message_handlers=registry.find),  # type: ignore[arg-type]
            flow=self.flow,
            send_gate=SendGate(lock, 1000),
            pool=self.pool,
            channel=nobody,
            errors=nobody,
            responder=nobody,
            wait=lambda awaited, end: False,
            has_threads=has_threads,
        )
        junk = JunkLines(lock, lambda line: None, lambda due, lines: None)
        actions = {Notification: self.inbox.notification_received}
        short_cuts = {Notification: self.inbox.try_notification}
        self.dispatcher = Dispatcher(
            self.connection, actions, short_cuts, junk, self.errors.append, lambda: None
        )

    def read(self, *numbers: int) -> None:
        for number in numbers:
            self.read_message(Note(number=number))

    def read_message(self, message: Message) -> None:
        frame = b"".join(self.connection.encode(Notification(message)))
        while frame:
            buffer = self.connection.get_buffer()
            count = min(len(buffer), len(frame))
            buffer[:count], frame = frame[:count], frame[count:]
            self.connection.buffer_updated[0]([count])


def test_an_interrupt_of_one_who_reads_loses_no_notification_and_repeats_none() -> None:
    interrupted, place = True, 0
    while interrupted:
        place += 1
        reading = Reading()
        reading.read(1, 2)
        interrupted = interrupted_at(place, READING, reading.dispatcher.apply)
        reading.dispatcher.apply()  # by whoever comes next
        reading.pool.run()
        reading.read(3)
        reading.dispatcher.apply()
        reading.pool.run()

        assert reading.seen == [1, 2, 3], place
        assert reading.inbox.waiting == 0
        assert reading.errors == []
    assert place > 10


def test_one_task_too_many_handles_nothing_while_another_does() -> None:
    """One who was interrupted may have submitted it, and does so again."""
    reading = Reading()
    reading.read(1)
    reading.dispatcher.apply()
    (task,) = reading.pool.tasks
    reading.pool.tasks.append(task)
    begun, go_on = threading.Event(), threading.Event()
    append = reading.seen.append

    class Seen(list[int]):
        def append(self, number: int) -> None:
            begun.set()
            assert go_on.wait(30)
            append(number)

    first, reading.seen = reading.seen, Seen()
    running = threading.Thread(target=reading.pool.tasks.popleft().run)
    running.start()
    assert begun.wait(30)
    reading.read(2)
    reading.dispatcher.apply()
    reading.pool.tasks.popleft().run()
    assert first == []
    go_on.set()
    running.join(30)
    reading.seen = first
    reading.pool.run()

    assert first == [1, 2]


def test_an_interrupt_of_one_who_handles_without_threads_keeps_no_later_one_waiting() -> None:
    interrupted, place = True, 0
    while interrupted:
        place += 1
        reading = Reading(has_threads=False)
        reading.read(1, 2)
        reading.dispatcher.apply()
        interrupted = interrupted_at(place, HANDLING, reading.pool.run)
        reading.read(3)
        reading.dispatcher.apply()
        reading.pool.run()

        assert reading.seen[-1] == 3, place
        assert reading.seen == sorted(set(reading.seen))
        assert reading.inbox.waiting == 0
    assert place > 10
    assert reading.seen == [1, 2, 3]


def test_one_that_is_being_received_is_not_looked_for_as_the_oldest_is_dropped() -> None:
    """It counts until whoever receives it has come so far as to say so."""
    reading = Reading()
    flow, items = reading.flow, reading.inbox._received.items
    reading.read_message(LogMessage("x" * 100_000))
    reading.dispatcher.apply()
    taken = items.popleft()
    assert isinstance(taken, Held)
    others = flow.hold(Kind.REQUEST, Notification(Note("x" * (1 << 20))), None, 0)
    assert others is not None
    flow.charge(others)
    assert flow.total > flow.bound
    reading.read_message(LogMessage("y" * 100_000))
    reading.dispatcher.apply()

    assert (len(items), reading.inbox.dropped, len(reading.warnings)) == (0, 1, 1)
    assert flow.take(taken) == Notification(LogMessage("x" * 100_000))
    assert flow.held[Kind.RECEIVED] == 0
    assert reading.errors == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_handler_that_forks_and_returns_leaves_the_rest_to_the_parent() -> None:
    (a, b), (c, d) = os.pipe(), os.pipe()
    connection = Connection(NativeMessageSerializer(), 1 << 20)
    for number in range(3):
        os.write(d, b"".join(connection.encode(Notification(Note(number=number)))))
    seen: list[int] = []
    pids: list[int] = []
    with IpcPeer(session_type=SyncIpcSession) as peer:
        session: Any = peer.create_stream_session(b, c)

        @session.on_message
        def handle(msg: Note) -> None:
            seen.append(msg.number)
            if not pids:
                pids.append(os.fork())

        try:
            while len(seen) < 3 and session.tick(30):
                pass
        finally:
            if pids == [0]:
                os._exit(seen != [0])
        assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
        assert seen == [0, 1, 2]
    os.close(a)
    os.close(d)
