"""The child: answers everything that ``messages.py`` has, and keeps what it is told."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

from streamipc import IpcPeer, JsonMessageSerializer, NativeMessageSerializer, RequestContext

from .messages import (
    Ask,
    Back,
    Blob,
    Fail,
    Hold,
    Item,
    Items,
    Never,
    Note,
    Post,
    Report,
    Tell,
    Tick,
)

serializer = JsonMessageSerializer() if "json" in sys.argv[1:] else NativeMessageSerializer()
session = IpcPeer(serializer, handler_threads=32, timeout=None).create_stdio_session()

turn = threading.Condition()  # guards what follows
asked = 0
ticks = 0
notes: list[int] = []
running = 0


@session.on_request
def ask(msg: Ask) -> int:
    global asked, ticks
    number = session.call(Back(msg.number)) if msg.back else msg.number
    with turn:
        ticks += 1
        session.notify(Tick(ticks))
        asked = max(asked, msg.number)
        turn.notify_all()
    return number


@session.on_request
def hold(msg: Hold) -> int:
    with turn:
        turn.wait_for(lambda: asked > msg.number)
    return msg.number


@session.on_request
def blob(msg: Blob) -> int:
    return len(msg.data)


@session.on_request
def fail(msg: Fail) -> int:
    raise ValueError("as was asked for" * 100)


@session.on_request
def items(msg: Items) -> Iterator[Item]:
    global running
    with turn:
        running += 1
    try:
        yield from map(Item, range(msg.count))
    finally:
        with turn:
            running -= 1
    return msg.count  # type: ignore[return-value]


@session.on_request
def never(msg: Never, context: RequestContext) -> int:
    global running
    cancelled = threading.Event()
    context.on_cancel(cancelled.set)
    with turn:
        running += 1
    cancelled.wait()
    with turn:
        running -= 1
    return 0


@session.on_message
def note(msg: Note) -> None:
    with turn:
        notes.append(msg.number)


@session.on_message
def post(msg: Post) -> None:
    session.notify(msg)


@session.on_request
def tell(msg: Tell) -> Report:
    stats = session.stats
    with turn:
        seen, notes[:] = notes[:], []
        return Report(seen, ticks, running, stats.junk + stats.unreadable)


session.serve_forever()
