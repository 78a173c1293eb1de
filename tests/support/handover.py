"""Sessions whose handlers answer when told to, and callers who read or wait meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from streamipc import IpcSession, Request

__all__ = [
    "LONG",
    "Ask",
    "AskInline",
    "Caller",
    "Deeper",
    "Eventually",
    "Gate",
    "Held",
    "Hold",
    "HoldInline",
    "Quick",
    "holds",
    "io_thread_sleeps",
    "reads",
    "send_io_thread_to_sleep",
    "times_out_while_it_reads",
    "waiting",
    "waits",
]

LONG = 30.0
"""Seconds after which a test has failed rather than go on waiting."""


class Quick(Request[str]):
    """Answered at once."""

    text: str = "quick"


class Hold(Request[str]):
    """Answered when the test says so."""

    name: str


class HoldInline(Request[str]):
    """The same, on the thread that reads."""

    name: str


class Ask(Request[str]):
    """Its handler asks the other side for ``Hold(name)``."""

    name: str


class AskInline(Request[str]):
    """The same, on the thread that reads."""

    name: str


class Deeper(Request[int]):
    """Each side asks the other, inline, until 0."""

    depth: int


class Held:
    """The handlers of a session, and which of them may answer."""

    def __init__(self, *sessions: IpcSession) -> None:
        self._entered: dict[str, threading.Event] = {}
        self._released: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._all_released = False  # also those whose handlers have not started yet
        for session in sessions:
            session.on_request(Quick)(lambda msg: msg.text)
            session.on_request(Hold)(self._hold)
            session.on_request(HoldInline, inline=True)(self._hold)
            session.on_request(Ask)(self._ask)
            session.on_request(AskInline, inline=True)(self._ask)
            session.on_request(Deeper, inline=True)(self._deeper)

    def wait_until_entered(self, name: str) -> None:
        assert self._event(self._entered, name).wait(LONG), f"nobody handles {name}"

    def release(self, *names: str) -> None:
        for name in names:
            self._event(self._released, name).set()

    def release_all(self) -> None:
        self._all_released = True
        with self._lock:
            names = tuple(self._entered)
        self.release(*names)

    def _hold(self, msg: Any) -> str:
        released = self._event(self._released, msg.name)
        self._event(self._entered, msg.name).set()
        assert self._all_released or released.wait(LONG)
        return f"reply to {msg.name}"

    def _ask(self, msg: Any, session: IpcSession) -> str:
        return session.request(Hold(msg.name)).result(LONG)

    def _deeper(self, msg: Deeper, session: IpcSession) -> int:
        return 1 + session.request(Deeper(msg.depth - 1)).result(LONG) if msg.depth else 0

    def _event(self, events: dict[str, threading.Event], name: str) -> threading.Event:
        with self._lock:
            return events.setdefault(name, threading.Event())


class Caller:
    """A thread that waits for a reply."""

    def __init__(self, future: Any, timeout: float | None = LONG) -> None:
        self.future = future
        self.outcome: object = None
        self.thread = threading.Thread(target=self._run, args=(timeout,), daemon=True)
        self.thread.start()

    def _run(self, timeout: float | None) -> None:
        try:
            self.outcome = self.future.result(timeout)
        except BaseException as error:
            self.outcome = error

    def returned(self) -> object:
        self.thread.join(LONG + 2)
        assert not self.thread.is_alive(), "the caller waits for ever"
        return self.outcome


class Gate:
    """Stops a thread that was woken before it takes its lock out of the wakers."""

    def __init__(self, future: Any) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        future._call.wakers = _Wakers()
        future._call.wakers.gate = self


class _Wakers(list[Any]):
    gate: Gate

    def remove(self, lock: Any) -> None:
        super().remove(lock)
        self.gate.reached.set()
        assert self.gate.opened.wait(LONG)


Eventually = Callable[..., None]


def holds(session: Any, caller: Caller) -> bool:
    return bool(session._engine.leader.thread == caller.thread.ident)


def waiting(session: Any) -> int:
    return len(session._engine.leader.followers)


def io_thread_sleeps(session: Any) -> bool:
    io_thread = session._engine.pool.io_thread
    return io_thread.asleep and io_thread._sleeps_until != 0.0


def send_io_thread_to_sleep(session: Any, eventually: Eventually) -> None:
    """Have the I/O thread see that a caller leads for long, and poll until there is input."""
    session._engine.io_wakeup.set()
    eventually(lambda: io_thread_sleeps(session))


def reads(session: Any, name: str, eventually: Eventually, timeout: float | None = LONG) -> Caller:
    """Return a caller that reads."""
    caller = Caller(session.request(Hold(name)), timeout)
    eventually(lambda: holds(session, caller))
    return caller


def waits(session: Any, name: str, eventually: Eventually, timeout: float | None = LONG) -> Caller:
    """Return a caller that waits while another reads."""
    before = waiting(session)
    caller = Caller(session.request(Hold(name)), timeout)
    eventually(lambda: waiting(session) == before + 1)
    return caller


def times_out_while_it_reads(session: Any, name: str) -> tuple[Caller, Gate]:
    """Return a caller whose time is over, and which leads until its gate is opened."""
    for timeout in (0.1, 1.0, 10.0):
        future = session.request(Hold(name))
        gate = Gate(future)
        caller = Caller(future, timeout)
        while not gate.reached.wait(0.01) and caller.thread.is_alive():
            pass
        if gate.reached.is_set() and holds(session, caller):
            return caller, gate
        # On a busy machine its time was over before it came to read.
        gate.opened.set()
    raise AssertionError(f"{name} never came to read")
