"""What is interrupted. Each function prepares an operation and returns it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from streamipc import RequestTimeoutError, SyncIpcSession

from .messages import Ask, Blob, Items, Never, Note

if TYPE_CHECKING:
    from .bench import Bench

__all__ = ["ENDING", "FRESH", "OPERATIONS", "SPECIAL", "STARTING", "SYNC_ONLY"]

Operation = Callable[[], Any]


def call(bench: Bench) -> Operation:
    number = bench.next()
    message = Ask(number)
    return lambda: bench.got(bench.session.call(message, None), number)


def request(bench: Bench) -> Operation:
    number = bench.next()
    message = Ask(number)

    def run() -> None:
        future = bench.session.request(message, None)
        bench.futures.append((future, number))
        bench.got(future.result(), number)

    return run


def nested(bench: Bench) -> Operation:
    """The child asks back, and a handler of ours answers."""
    number = bench.next()
    message = Ask(number, back=True)
    return lambda: bench.got(bench.session.call(message, None), number)


def large(bench: Bench) -> Operation:
    """More than a pipe holds."""
    message = Blob(b"x" * 3_000_000)
    return lambda: bench.got(bench.session.call(message, None), 3_000_000)


def stream(bench: Bench) -> Operation:
    message = Items(40)  # more than the window

    def run() -> None:
        items = bench.stream = bench.session.stream(message, None)
        for item in items:
            bench.items.append(item.number)
        bench.got(items.result(), 40)

    return run


def stream_left(bench: Bench) -> Operation:
    message = Items(1_000_000)

    def run() -> None:
        with bench.session.stream(message, None) as items:
            for item in items:
                if item.number == 3:
                    break

    return run


def notify(bench: Bench) -> Operation:
    notes = [Note(bench.next()) for _ in range(2)]

    def run() -> None:
        for note in notes:
            bench.notify(note)

    return run


def receive(bench: Bench) -> Operation:
    bench.post(2)

    def run() -> None:
        for _ in range(2):
            bench.posted.append(bench.session.receive(None).number)

    return run


def tick(bench: Bench) -> Operation:
    bench.post(1)
    session = bench.session
    assert isinstance(session, SyncIpcSession)

    def run() -> None:
        before = session.stats.frames_received
        while not session.tick(0.1) and session.stats.frames_received == before:
            pass  # a finalizer may have read it

    return run


def cancel(bench: Bench) -> Operation:
    future = bench.session.request(Never(), None)
    bench.cancelled.append(future)
    return lambda: bench.got(future.cancel(), True)


def expire(bench: Bench) -> Operation:
    message = Never()

    def run() -> None:
        try:
            bench.session.call(message, 0.02)
        except RequestTimeoutError:
            return
        bench.got("a reply", "none")

    return run


def wait(bench: Bench) -> Operation:
    """Two waits of ``result()`` that are too short."""
    future = bench.session.request(Never(), None)
    bench.cancelled.append(future)

    def run() -> None:
        for _ in range(2):
            try:
                future.result(0.002)
            except RequestTimeoutError:
                pass
        future.cancel()

    return run


def served(bench: Bench) -> Operation:
    """What happens on threads of the session's: the child asks back while nobody waits."""
    number = bench.next()
    future = bench.session.request(Ask(number, back=True), None)
    bench.futures.append((future, number))

    def run() -> None:
        end = time.monotonic() + bench.patience
        while not future.done() and time.monotonic() < end:
            time.sleep(0.001)

    return run


def overflow(bench: Bench) -> Operation:
    """More than wait for receive(): the session logs a warning."""
    bench.post(1100)
    session = bench.session

    def run() -> None:
        end = time.monotonic() + bench.patience
        while not session.stats.dropped and time.monotonic() < end:
            session.tick(0.1) if isinstance(session, SyncIpcSession) else time.sleep(0.001)
        bench.got(session.stats.dropped > 0, True)
        bench.posted += range(1, 1100)
        while session.receive(bench.patience).number != 1100:
            pass
        bench.posted.append(1100)

    return run


def careless(bench: Bench) -> Operation:
    """Swallows what interrupts it, and says that it has sent what it has not."""
    note = Note(bench.next())

    def run() -> None:
        bench.sent.append(note.number)
        try:
            bench.notify(note)
        except Exception:
            pass

    return run


def start(bench: Bench) -> Operation:
    return bench.session.start  # type: ignore[no-any-return]


def close(bench: Bench) -> Operation:
    number = bench.next()
    bench.futures.append((bench.session.request(Ask(number), None), number))
    return lambda: bench.session.close(bench.patience)


OPERATIONS: dict[str, Callable[[Bench], Operation]] = {
    made.__name__: made
    for made in (
        call,
        request,
        nested,
        large,
        stream,
        stream_left,
        notify,
        receive,
        tick,
        cancel,
        expire,
        wait,
        served,
        overflow,
        careless,
        start,
        close,
    )
}

SPECIAL = frozenset({"served", "overflow", "careless"})
"""Those that a sweep is not for, unless it is asked for them."""

SYNC_ONLY = frozenset({"tick"})

FRESH = frozenset({"start", "close", "overflow"})
"""Those that a session does only once."""

STARTING = frozenset({"start"})
"""Those before which the session is not started."""

ENDING = frozenset({"close"})
"""Those after which the session is over."""
