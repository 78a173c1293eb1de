"""Whole sessions while the reading role moves: who reads is chosen, and then something happens."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamipc import IpcPeer, IpcSession, Request, RequestTimeoutError, SessionClosedError

LONG = 10.0
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
        with self._lock:
            names = tuple(self._entered)
        self.release(*names)

    def _hold(self, msg: Any) -> str:
        released = self._event(self._released, msg.name)
        self._event(self._entered, msg.name).set()
        assert released.wait(LONG)
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
        future.wakers = _Wakers()
        future.wakers.gate = self


class _Wakers(list[Any]):
    gate: Gate

    def remove(self, lock: Any) -> None:
        super().remove(lock)
        self.gate.reached.set()
        assert self.gate.opened.wait(LONG)


Eventually = Callable[..., None]


def holds(session: Any, caller: Caller) -> bool:
    return bool(session._engine.reader.holder == caller.thread.ident)


def waiting(session: Any) -> int:
    return len(session._engine.reader.waiting)


def watcher_sleeps(session: Any, polling: bool) -> bool:
    watcher = session._engine.crew._watcher
    return watcher is not None and watcher.sleeps_until != 0.0 and watcher.polling is polling


def send_watcher_to_sleep(session: Any, eventually: Eventually) -> None:
    """Have the watcher see that a caller reads, and sleep until somebody wakes it."""
    session._engine.crew_wakeup.set()
    eventually(lambda: watcher_sleeps(session, polling=False))


@pytest.fixture
def sides(connected: Callable[..., tuple[Any, Any]]) -> Iterator[tuple[Any, Any, Held]]:
    """Two sessions, of which the left one's reading is looked at."""
    left, right = connected()
    held = Held(left, right)
    left.start()
    right.start()
    yield left, right, held
    held.release_all()


Sides = tuple[Any, Any, Held]


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


# Callers among themselves.


def test_callers_pass_the_role_on_in_the_order_in_which_they_came(
    sides: Sides, eventually: Eventually
) -> None:
    left, _, held = sides
    callers = [reads(left, "0", eventually)]
    callers += [waits(left, str(number), eventually) for number in range(1, 6)]
    for number, caller in enumerate(callers):
        assert holds(left, caller)
        held.release(str(number))
        assert caller.returned() == f"reply to {number}"
    eventually(lambda: left._engine.reader.holder is None)


def test_replies_of_those_who_wait_are_read_by_the_one_who_reads(
    sides: Sides, eventually: Eventually
) -> None:
    left, _, held = sides
    first = reads(left, "first", eventually)
    others = [waits(left, str(number), eventually) for number in range(4)]
    for number in (3, 1, 0, 2):
        held.release(str(number))
        assert others[number].returned() == f"reply to {number}"
        assert holds(left, first)
    held.release("first")
    assert first.returned() == "reply to first"


def test_one_who_times_out_while_it_reads_leaves_the_role_to_one_who_waits(
    sides: Sides, eventually: Eventually
) -> None:
    left, _, held = sides
    first = reads(left, "first", eventually, timeout=0.2)
    second = waits(left, "second", eventually)
    assert isinstance(first.returned(), RequestTimeoutError)
    assert holds(left, second)
    held.release("first", "second")
    assert second.returned() == "reply to second"
    assert first.future.result(LONG) == "reply to first"


def test_one_who_is_cancelled_while_it_reads_leaves_the_role_to_one_who_waits(
    sides: Sides, eventually: Eventually
) -> None:
    left, _, held = sides
    first, second = reads(left, "first", eventually), waits(left, "second", eventually)
    assert first.future.cancel()
    assert "Cancelled" in type(first.returned()).__name__
    assert holds(left, second)
    held.release("second")
    assert second.returned() == "reply to second"


# Nobody waits.


@pytest.mark.parametrize("how", ["timeout", "cancel", "reply"])
def test_a_reply_is_read_when_the_only_reader_has_left_and_the_watcher_slept(
    sides: Sides, eventually: Eventually, how: str
) -> None:
    left, _, held = sides
    done = threading.Event()
    wanted = left.request(Hold("wanted"))
    wanted.add_done_callback(lambda _: done.set())
    caller = reads(left, "caller", eventually, timeout=0.3 if how == "timeout" else LONG)
    send_watcher_to_sleep(left, eventually)
    if how == "cancel":
        caller.future.cancel()
    elif how == "reply":
        held.release("caller")
    caller.returned()
    held.release("wanted")
    assert done.wait(LONG)
    assert wanted.result(0) == "reply to wanted"


def test_a_reply_that_nobody_waits_for_is_read_by_the_watcher(
    sides: Sides, eventually: Eventually
) -> None:
    left, _, held = sides
    done = threading.Event()
    wanted = left.request(Hold("wanted"))
    wanted.add_done_callback(lambda _: done.set())
    eventually(lambda: watcher_sleeps(left, polling=True))
    held.release("wanted")
    assert done.wait(LONG)
    assert wanted.result(0) == "reply to wanted"


def test_a_request_is_answered_while_a_caller_reads_and_the_watcher_sleeps(
    sides: Sides, eventually: Eventually
) -> None:
    left, right, held = sides
    caller = reads(left, "caller", eventually)
    send_watcher_to_sleep(left, eventually)
    for number in range(20):
        assert right.request(Quick(str(number))).result(LONG) == str(number)
    held.release("caller")
    assert caller.returned() == "reply to caller"


# A handler blocks the thread that reads.


@pytest.mark.parametrize("kind", [Hold, HoldInline])
@pytest.mark.parametrize("a_caller_reads", [True, False])
def test_all_goes_on_while_a_handler_blocks_the_thread_that_reads(
    sides: Sides, eventually: Eventually, kind: Any, a_caller_reads: bool
) -> None:
    left, right, held = sides
    caller = reads(left, "caller", eventually) if a_caller_reads else None
    for name in ("once", "twice"):  # the first time it is not known to be slow
        blocked = right.request(kind(name))
        held.wait_until_entered(name)
        assert right.request(Quick()).result(LONG) == "quick"
        assert left.request(Quick()).result(LONG) == "quick"
        assert not blocked.done()
    if caller is not None:
        held.release("caller")
        assert caller.returned() == "reply to caller"
    held.release("once", "twice")
    assert blocked.result(LONG) == "reply to twice"


@pytest.mark.parametrize("kind", [Ask, AskInline])
@pytest.mark.parametrize("callers", [0, 1, 3])
def test_a_handler_on_the_thread_that_reads_waits_for_a_nested_reply(
    sides: Sides, eventually: Eventually, kind: Any, callers: int
) -> None:
    left, right, held = sides
    others = [reads(left, "0", eventually)] if callers else []
    others += [waits(left, str(number), eventually) for number in range(1, callers)]
    for nested in ("nested", "nested again"):
        outer = right.request(kind(nested))
        held.wait_until_entered(nested)
        # While it waits, a request comes that must not be read behind its back.
        assert right.request(Quick()).result(LONG) == "quick"
        assert left.request(Quick()).result(LONG) == "quick"
        held.release(nested)
        assert outer.result(LONG) == f"reply to {nested}"
    for number, caller in enumerate(others):
        held.release(str(number))
        assert caller.returned() == f"reply to {number}"


def test_the_nested_reply_comes_when_the_one_who_read_for_it_has_left(
    sides: Sides, eventually: Eventually
) -> None:
    left, right, held = sides
    caller = reads(left, "caller", eventually, timeout=0.5)
    outer = right.request(AskInline("nested"))
    held.wait_until_entered("nested")
    assert isinstance(caller.returned(), RequestTimeoutError)
    held.release("nested")
    assert outer.result(LONG) == "reply to nested"
    held.release("caller")


def test_the_nested_reply_comes_after_a_request_that_no_thread_can_be_had_for(
    sides: Sides, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right, held = sides
    start = threading.Thread.start

    def start_if_not_of_the_left_crew(thread: Any) -> None:
        if getattr(thread._target, "__self__", None) is left._engine.crew:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_not_of_the_left_crew)
    outer = right.request(Ask("nested"))
    held.wait_until_entered("nested")
    reads = left._engine.reader.reads
    queued = right.request(Quick())
    eventually(lambda: left._engine.reader.reads > reads)  # the request is queued
    held.release("nested")
    assert outer.result(LONG / 2) == "reply to nested"
    assert queued.result(LONG) == "quick"


def test_two_sides_ask_each_other_on_their_reading_threads(sides: Sides) -> None:
    left, right, _ = sides
    futures = [side.request(Deeper(6)) for side in (left, right) for _ in range(2)]
    assert [future.result(LONG) for future in futures] == [6, 6, 6, 6]


# The session ends in each state.


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
            # It waits for the crew to end, which the test's handlers do later.
            self._closing = threading.Thread(target=self.session.close, args=(0.1,))
            self._closing.start()
        elif self._how == "the child dies":
            self.session.kill()
        else:
            self._hang_up()

    def wait_until_end_is_seen(self, eventually: Eventually) -> None:
        """Wait until it has begun, as far as that can be while the role is held."""
        engine = self.session._engine
        if self._how == "we close":
            eventually(lambda: engine.closing.refuses_requests)
        elif self._how == "the child dies":
            eventually(lambda: engine.reader.draining)

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
    """See that everybody is told, and that nobody is left with the role."""
    for caller in callers:
        outcome = caller.returned()
        assert isinstance(outcome, SessionClosedError), outcome
    line.held.release_all()
    assert line.session._engine.closing.closed.wait(LONG)
    assert line.session._engine.reader.holder is None
    assert not line.session._engine.reader.waiting


@pytest.mark.parametrize("others", [0, 3])
def test_the_session_ends_while_a_caller_reads(
    line: Callable[[bool], Line], eventually: Eventually, others: int
) -> None:
    silent = line(False)
    callers = [reads(silent.session, "reads", eventually)]
    callers += [waits(silent.session, str(number), eventually) for number in range(others)]
    silent.end()
    all_waits_end(silent, callers)


@pytest.mark.parametrize("watcher_slept", [True, False])
def test_the_session_ends_while_the_role_is_free_and_nobody_is_there(
    line: Callable[[bool], Line], eventually: Eventually, watcher_slept: bool
) -> None:
    silent = line(False)
    done = threading.Event()
    future = silent.session.request(Hold("lost"))
    future.add_done_callback(lambda _: done.set())
    if watcher_slept:
        caller = reads(silent.session, "caller", eventually, timeout=0.1)
        send_watcher_to_sleep(silent.session, eventually)
        assert isinstance(caller.returned(), RequestTimeoutError)
    else:
        eventually(lambda: watcher_sleeps(silent.session, polling=True))
    silent.end()
    assert done.wait(LONG)
    all_waits_end(silent, [Caller(future)])


def test_the_session_ends_while_the_role_is_being_given(
    line: Callable[[bool], Line], eventually: Eventually
) -> None:
    silent = line(False)
    first = reads(silent.session, "first", eventually)
    future = silent.session.request(Hold("second"))
    gate = Gate(future)
    second = Caller(future)
    eventually(lambda: waiting(silent.session) == 1)
    third = waits(silent.session, "third", eventually)
    first.future.cancel()
    assert gate.reached.wait(LONG)
    assert holds(silent.session, second)
    silent.end()
    silent.wait_until_end_is_seen(eventually)
    gate.opened.set()
    all_waits_end(silent, [second, third])


def test_the_session_ends_while_one_who_timed_out_still_has_the_role(
    line: Callable[[bool], Line], eventually: Eventually
) -> None:
    silent = line(False)
    future = silent.session.request(Hold("first"))
    gate = Gate(future)
    first = Caller(future, timeout=0.05)
    assert gate.reached.wait(LONG)
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
