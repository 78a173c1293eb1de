"""The session ends, in each way and in each state of leadership."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from handover import (
    LONG,
    Ask,
    AskInline,
    Caller,
    Eventually,
    Gate,
    Held,
    Hold,
    HoldInline,
    holds,
    io_thread_sleeps,
    reads,
    send_io_thread_to_sleep,
    times_out_while_it_reads,
    waits,
)

from streamipc import IpcPeer, RequestTimeoutError, SessionClosedError


class Line:
    """A session whose peer sends back what it gets, or is silent; and a way to end it."""

    def __init__(self, how: str, echoes: bool) -> None:
        self._how = how
        self._hung_up = threading.Event()
        self._relay: threading.Thread | None = None
        self._closing: threading.Thread | None = None
        self._fds: list[int] = []
        self.session: Any
        if how == "the child dies":
            self.session = IpcPeer().create_command_session(ECHO if echoes else SILENT)
        else:
            to_session, self._back = os.pipe()
            self._there, from_session = os.pipe()
            self.session = IpcPeer().create_stream_session(from_session, to_session)
            self._fds = [self._there, self._back]
            if echoes:
                self._relay = threading.Thread(target=self._copy, daemon=True)
                self._relay.start()
        self.held = Held(self.session)
        self.session.start()

    def _copy(self) -> None:
        """Send back what comes, until the session or the test hangs up."""
        os.set_blocking(self._there, False)
        poll = select.poll()
        poll.register(self._there, select.POLLIN)
        while not self._hung_up.is_set():
            if poll.poll(5):
                data = os.read(self._there, 1 << 16)
                if not data:
                    return
                os.write(self._back, data)

    def end(self) -> None:
        if self._how == "we close":
            # It waits for the pool to end, which the test's handlers do later.
            self._closing = threading.Thread(target=self.session.close, args=(0.1,))
            self._closing.start()
        elif self._how == "the child dies":
            self.session.kill()
        else:
            self._hang_up()

    def wait_until_end_is_seen(self, eventually: Eventually) -> None:
        """Wait until it has begun, as far as that can be while somebody leads."""
        engine = self.session._engine
        if self._how == "we close":
            eventually(lambda: engine.lifecycle.is_closing)
        elif self._how == "the child dies":
            eventually(lambda: not engine.reader.may_be_drained())

    def _hang_up(self) -> None:
        self._hung_up.set()
        if self._relay is not None:
            self._relay.join(LONG)
        if self._back in self._fds:
            self._fds.remove(self._back)
            os.close(self._back)

    def close(self) -> None:
        self.held.release_all()
        self.session.close(timeout=2)
        if self._closing is not None:
            self._closing.join(LONG)
        self._hung_up.set()
        if self._relay is not None:
            self._relay.join(LONG)
        for fd in self._fds:
            os.close(fd)


ECHO, SILENT = ["cat"], ["sleep", "60"]
ENDS = ["we close", "the peer ends its stream", "the child dies"]


@pytest.fixture(params=ENDS)
def line(request: pytest.FixtureRequest) -> Iterator[Callable[[bool], Line]]:
    lines: list[Line] = []

    def make(echoes: bool) -> Line:
        lines.append(Line(request.param, echoes))
        return lines[-1]

    yield make
    for line in lines:
        line.close()


def all_waits_end(line: Line, callers: list[Caller]) -> None:
    """See that everybody is told, and that nobody is left leading."""
    for caller in callers:
        outcome = caller.returned()
        assert isinstance(outcome, SessionClosedError), outcome
    line.held.release_all()
    assert line.session._engine.shutdown.closed.wait(LONG)
    # The end waits a second for these threads; one that is stopped for longer may still read.
    line.session._engine.pool.join(time.monotonic() + LONG)
    assert line.session._engine.leader.thread is None
    assert not line.session._engine.leader.followers


@pytest.mark.parametrize("others", [0, 3])
def test_the_session_ends_while_a_caller_reads(
    line: Callable[[bool], Line], eventually: Eventually, others: int
) -> None:
    silent = line(False)
    callers = [reads(silent.session, "reads", eventually)]
    callers += [waits(silent.session, str(number), eventually) for number in range(others)]
    silent.end()
    all_waits_end(silent, callers)


@pytest.mark.parametrize("a_caller_led", [True, False])
def test_the_session_ends_while_nobody_leads_and_nobody_is_there(
    line: Callable[[bool], Line], eventually: Eventually, a_caller_led: bool
) -> None:
    silent = line(False)
    done = threading.Event()
    future = silent.session.request(Hold("lost"))
    future.add_done_callback(lambda _: done.set())
    if a_caller_led:
        caller, gate = times_out_while_it_reads(silent.session, "caller")
        send_io_thread_to_sleep(silent.session, eventually)
        gate.opened.set()
        assert isinstance(caller.returned(), RequestTimeoutError)
    else:
        eventually(lambda: io_thread_sleeps(silent.session))
    silent.end()
    assert done.wait(LONG)
    all_waits_end(silent, [Caller(future)])


def test_the_session_ends_while_one_that_has_led_leaves_the_rest_behind(
    line: Callable[[bool], Line], eventually: Eventually
) -> None:
    silent = line(False)
    future = silent.session.request(Hold("first"))
    gate = Gate(future)
    first = Caller(future)
    eventually(lambda: holds(silent.session, first))
    others = [waits(silent.session, name, eventually) for name in ("second", "third")]
    future.cancel()
    assert gate.reached.wait(LONG)
    silent.end()
    silent.wait_until_end_is_seen(eventually)
    gate.opened.set()
    assert "Cancelled" in type(first.returned()).__name__
    all_waits_end(silent, others)


def test_the_session_ends_while_one_who_timed_out_still_leads(
    line: Callable[[bool], Line], eventually: Eventually
) -> None:
    silent = line(False)
    first, gate = times_out_while_it_reads(silent.session, "first")
    assert holds(silent.session, first)
    second = waits(silent.session, "second", eventually)
    silent.end()
    silent.wait_until_end_is_seen(eventually)
    gate.opened.set()
    assert isinstance(first.returned(), RequestTimeoutError | SessionClosedError)
    all_waits_end(silent, [second])


@pytest.mark.parametrize("kind", [Hold, HoldInline])
@pytest.mark.parametrize("known_to_block", [True, False])
def test_the_session_ends_while_a_handler_blocks_the_thread_that_reads(
    line: Callable[[bool], Line], eventually: Eventually, kind: Any, known_to_block: bool
) -> None:
    echo = line(True)
    callers = []
    for name in ["blocks", "blocks again"][: 1 + known_to_block]:
        callers.append(Caller(echo.session.request(kind(name))))
        echo.held.wait_until_entered(name)
    echo.end()
    all_waits_end(echo, callers)


@pytest.mark.parametrize("kind", [Ask, AskInline])
def test_the_session_ends_while_a_handler_waits_for_a_nested_reply(
    line: Callable[[bool], Line], eventually: Eventually, kind: Any
) -> None:
    echo = line(True)
    caller = Caller(echo.session.request(kind("nested")))
    echo.held.wait_until_entered("nested")
    echo.end()
    all_waits_end(echo, [caller])
