"""A leader on a real pipe, threads that call it, and gates that stop them on their way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from reader_bench import ReaderBench

from streamipc import LogMessage
from streamipc.engine.calls import Call
from streamipc.engine.leader import Leader
from streamipc.futures import ResponseFuture

__all__ = ["LONG", "Bench", "Caller", "Gate"]

LONG = 30.0
"""Seconds after which a test has failed rather than go on waiting."""


class Gate:
    """Stops a thread at a place of its way until it is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def pass_through(self) -> None:
        self._reached.set()
        assert self._open.wait(LONG), "nobody opened the gate"

    def is_reached(self) -> bool:
        return self._reached.is_set()

    def wait_until_reached(self) -> None:
        assert self._reached.wait(LONG), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


class Wakers(list[Any]):
    """The wakers of a future, with a gate where one who was woken takes his lock out."""

    gate: Gate | None = None

    def remove(self, lock: Any) -> None:
        super().remove(lock)
        if self.gate is not None:
            self.gate.pass_through()


class Reply(Call):
    """A call that the bench settles when a notification with its name is read."""

    wakers: Wakers
    on_look: Callable[[], None] | None = None

    def ready(self) -> bool:
        ready = super().ready()
        if self.on_look is not None:
            self.on_look()
        return ready


class Caller:
    """A thread that waits for a reply."""

    def __init__(self, bench: Bench, name: str, timeout: float | None) -> None:
        self.reply = Reply(bench, name, LogMessage(name))  # type: ignore[arg-type]
        self.reply.wakers = Wakers()
        self.future: Any = ResponseFuture(self.reply)
        self.outcome: object = None
        self.thread = threading.Thread(target=self._run, args=(timeout,), daemon=True)

    def _run(self, timeout: float | None) -> None:
        try:
            self.outcome = self.future.result(timeout)
        except BaseException as error:
            self.outcome = error

    def returned(self) -> object:
        self.thread.join(LONG)
        assert not self.thread.is_alive(), "the caller waits for ever"
        return self.outcome


class Bench(ReaderBench):
    """A leader on a pipe. The test plays the I/O thread, and counts how often it has to lead.

    What it reads are names of callers, to whom it is the reply.
    """

    def __init__(self) -> None:
        super().__init__()
        self.leader = Leader(self.reader, self.wakeup, 0.0)
        self.leader.set_successor(self)
        self.taken_over = threading.Semaphore(0)
        self.on_read: Callable[[], None] | None = None
        self.callers: dict[str, Caller] = {}
        self.on_dispatch: Callable[[], None] | None = None
        self.end: list[Exception | None] = []

    # The owner of the futures.

    def wait(self, awaited: Any, end: float | None) -> bool:
        return self.leader.wait(awaited, end)

    def failing(self) -> None: ...

    # The successor.

    def work_arrived(self) -> None:
        if self.on_read is not None:
            self.on_read()

    def take_over(self) -> None:
        if self.leader.followers:
            self.leader.prefer(io_thread=True)
        self.taken_over.release()

    def take_over_and_read(self) -> None:
        """Do what the I/O thread does then: lead, and read once."""
        assert self.taken_over.acquire(timeout=LONG), "nobody has asked for it"
        while self.leader.lead(self._read_when_ready) is None:
            time.sleep(0.0002)

    def _read_when_ready(self) -> bool:
        self.reader.read(self.reader.poller.wait(LONG))
        return True

    # What the test says.

    def caller(self, name: str, timeout: float | None = None) -> Caller:
        """Return a caller that has not come yet."""
        caller = self.callers[name] = Caller(self, name, timeout)
        return caller

    def reads(self, name: str, timeout: float | None = None) -> Caller:
        """Return a caller that sleeps as the leader."""
        caller = self.caller(name, timeout)
        caller.thread.start()
        self.until(lambda: self.is_led_by(caller) and len(caller.reply.wakers) == 1)
        return caller

    def times_out_while_it_reads(self, name: str) -> tuple[Caller, Gate]:
        """Return a caller whose time is over, and which leads until its gate opens."""
        for timeout in (0.05, 1.0, 10.0):
            caller, gate = self.caller(name, timeout), Gate()
            caller.reply.wakers.gate = gate
            caller.thread.start()
            self.until(lambda c=caller, g=gate: g.is_reached() or not c.thread.is_alive())
            if gate.is_reached():
                return caller, gate
            # On a busy machine its time was over before it came to read.
        raise AssertionError(f"{name} never came to read")

    def waits(self, name: str, timeout: float | None = None) -> Caller:
        """Return a caller that sleeps while another leads."""
        caller = self.caller(name, timeout)
        caller.thread.start()
        self.until(lambda: self.is_listed(caller) and len(caller.reply.wakers) == 1)
        return caller

    def is_led_by(self, caller: Caller) -> bool:
        return self.leader.thread == caller.thread.ident

    def is_listed(self, caller: Caller) -> bool:
        return any(one is caller.reply for one in self.leader.followers.copy().values())

    def answer(self, *names: str) -> None:
        """Write the replies, all of them at once."""
        self.write(*names)

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + LONG
        while not condition():
            assert time.monotonic() < end, "it never came to that"
            time.sleep(0.0002)

    # What the reader does.

    def apply(self) -> None:
        if self.on_dispatch is not None:
            self.on_dispatch()
        super().apply()

    def take(self, text: str) -> None:
        self.callers[text].reply.settle(f"reply to {text}", None)

    def on_end(self, error: Exception | None) -> None:
        self.end.append(error)
        for caller in self.callers.values():
            caller.reply.settle(None, EOFError())

    def close(self) -> None:
        self.reader.drain_only()
        for caller in self.callers.values():
            caller.reply.settle(None, EOFError())
        self.wakeup.set()
        for caller in self.callers.values():
            if caller.thread.ident is not None:
                caller.thread.join(LONG)
        super().close()
