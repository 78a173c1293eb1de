"""A session with a child, and the ledger of what was asked, sent, seen and got."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from streamipc import (
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    NativeMessageSerializer,
    RemoteError,
    ResponseFuture,
    ResponseStream,
    SyncIpcSession,
)

from .messages import Ask, Back, Fail, Hold, Note, Post, Report, Tell, Tick
from .processes import ROOT

__all__ = ["TORN", "Bench", "Raised"]

TORN = "in the middle of a write"
"""What the reason says where a session had to end: a part of a frame is out."""

_FDS = Path("/proc/self/fd")


class Raised(NamedTuple):
    """What a signal handler has raised."""

    error: BaseException
    inside: bool
    """Inside a handler of ours, whose own it might be."""


class Bench:
    """One session after the other, each with its own child and a ledger that starts empty.

    Args:
        kind: ``"threads"`` or ``"sync"``.
        serializer: ``"native"`` or ``"json"``.
        patience: seconds after which what has not happened counts as lost.
        crowd: another thread waits for a reply of its own meanwhile.
    """

    session: Any

    def __init__(self, kind: str, serializer: str, patience: float, crowd: bool = False) -> None:
        self.patience = patience
        self._threaded = kind == "threads"
        self._crowd = crowd and self._threaded
        self._peer = IpcPeer(
            JsonMessageSerializer() if serializer == "json" else NativeMessageSerializer(),
            session_type=IpcSession if self._threaded else SyncIpcSession,
            timeout=None,  # what is lost shows
            spin=0,  # or the number of points depends on the time
        )
        self._serializer = serializer
        self._numbers = itertools.count(1)
        self.others = 0
        """Threads that ask all the time."""
        self.torn = 0
        """Sessions that had to end, for a frame was torn in the midst of its bytes."""
        self.handlers: set[CodeType] = set()
        """The code of our own handlers. What is raised in there is theirs, not the engine's."""
        self._unraisable: list[Any] = []
        self.died: list[str] = []
        """Threads that an exception has ended."""
        # A function in C, in the midst of which no signal comes.
        sys.unraisablehook = self._unraisable.append
        threading.excepthook = lambda args: self.died.append(
            f"{args.thread and args.thread.name}: {args.exc_type.__name__} {args.exc_value}"
        )
        self.session = None
        self._before = _held()
        self.renew()

    def renew(self, start: bool = True) -> None:
        """Close the session, if there is one, and make another."""
        if self.session is not None:
            self.session.close(self.patience)
        self.session = None
        self._ticks: list[int] = []
        self._ticks_before = 0
        self.begin()
        gc.collect()
        self._before = _held()
        self.session = self._peer.create_command_session(
            [sys.executable, "-m", f"{__package__}.child", self._serializer],
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C in a terminal is not for it
        )
        self._register()
        self._is_up = start
        if start:
            self.session.call(Ask(0), None)

    def begin(self) -> None:
        """Empty the ledger, but for what the child counts on."""
        self.futures: list[tuple[ResponseFuture[Any], Any]] = []
        self.cancelled: list[ResponseFuture[Any]] = []
        """Requests that were to be cancelled."""
        self.stream: ResponseStream[Any] | None = None
        self.items: list[int] = []
        self.wrong: list[str] = []
        self.reported: list[BaseException] = []
        self.excused = 0
        """Signals that came inside a handler of ours, which may lose what that had."""
        self.sent: list[int] = []
        self.attempted: set[int] = set()
        self.unordered: set[int] = set()
        """Notes that a finalizer has sent in the midst of another one."""
        self._noted: list[int] = []
        self.posted: list[int] = []
        self._posts = 0
        self._waiters: list[threading.Thread] = []
        self._unraisable.clear()
        self.died.clear()

    def _register(self) -> None:
        session, ticks = self.session, self._ticks

        def back(msg: Back) -> int:
            return msg.number

        def ticked(msg: Tick) -> None:
            ticks.append(msg.number)

        def reported(error: Exception) -> None:
            self.reported.append(error)

        session.on_request(back)
        session.on_message(ticked)
        session.on_exception(reported)
        self.handlers = {back.__code__, ticked.__code__, reported.__code__}

    @property
    def dropped(self) -> list[BaseException]:
        """What CPython has dropped, in a ``__del__`` or a callback of a weak reference."""
        return [args.exc_value for args in self._unraisable]

    @property
    def spoiled(self) -> bool:
        """Whether CPython has dropped what a signal handler raised.

        The finalizer that it cut short may have left a request pending.
        """
        return bool(self.dropped)

    # For operations.

    def next(self) -> int:
        """Return a number that was not used before."""
        return next(self._numbers)

    def got(self, value: object, expected: object) -> None:
        """Compare what was got."""
        if value != expected:
            self.wrong.append(f"got {value!r} in place of {expected!r}")

    def notify(self, note: Note) -> None:
        """Send a note, and write it down as attempted before and as sent afterwards."""
        self.attempted.add(note.number)
        self.session.notify(note)
        self.sent.append(note.number)

    def get_error(self) -> None:
        """Have a handler of the child's fail."""
        try:
            self.session.call(Fail(), None)
        except RemoteError:
            pass

    def post(self, count: int) -> None:
        """Have the child post some notifications that no handler takes."""
        for _ in range(count):
            self._posts += 1
            self.session.notify(Post(self._posts))

    def hold(self) -> None:
        """Ask for a reply that comes with the next one, or a little later."""
        number = self.next()
        future = self.session.request(Hold(number), None)
        self.futures.append((future, number))
        if self._crowd:
            waiter = threading.Thread(target=future.exception, daemon=True)
            waiter.start()
            self._waiters.append(waiter)
            time.sleep(0.002)  # for it to get there; earlier or later is as good a test

    # Afterwards.

    def faults_of_signals(self, raised: list[Raised], outcome: BaseException | None) -> list[str]:
        """Return which exceptions did not come out as themselves.

        Args:
            raised: what signal handlers have raised.
            outcome: what came out.
        """
        errors = [one.error for one in raised]
        came_out = _is_in(outcome, errors)
        chain = list(_chain(outcome)) if came_out else []  # of two, one is the other's context
        faults = []
        for one in raised:
            if _is_in(one.error, chain) or _is_in(one.error, self.dropped):
                continue
            if _is_in(one.error, self.reported):
                if not one.inside:
                    faults.append("taken for a handler's")
            elif not one.inside:
                lost = outcome is None or came_out
                faults.append("swallowed" if lost else f"became {type(outcome).__name__}")
        if outcome and not (came_out or faults or any(one.inside for one in raised)):
            faults.append(f"raised {type(outcome).__name__}: {outcome}")
        for error in errors:
            error.__traceback__ = None  # it would keep what the interrupted calls had
        return faults

    def faults(self) -> list[str]:
        """Return what does not hold of a session that is to go on."""
        if self.session.closed:
            reason = str(self.session.closed_error)
            self.torn += TORN in reason
            return self.wrong if TORN in reason else [f"session ended: {reason}"]
        for check in (self._look_at_calls, self._look_at_futures, self._look_at_stream):
            if faults := check():
                return [*self.wrong, *faults]  # what comes behind would say the same
        faults = [*self.wrong, *self._look_at_notes(), *self._look_at_posts()]
        faults.extend(f"a thread died: {text}" for text in self.died)
        if not (self.spoiled or self._within(lambda: self.session.pending <= self.others)):
            faults.append(f"{self.session.pending} pending for ever")
        return faults

    def faults_of_end(self) -> list[str]:
        """Return what does not hold of a session that was closed; close it again."""
        self.session.close(self.patience)
        faults = [*self.wrong, *(f"a thread died: {text}" for text in self.died)]
        faults.extend("a future never ends" for future, _ in self.futures if not future.done())
        if not self.session.closed:
            faults.append("not closed")
        if self.session.returncode is None:
            faults.append("child not reaped")
        if not self._within(lambda: self.session.pending == 0):
            faults.append(f"{self.session.pending} pending for ever")
        left: set[str] = set()

        def is_all_gone() -> bool:
            left.clear()
            left.update(_held() - self._before)
            return not left

        if not self._within(is_all_gone):
            faults.append(f"left behind: {', '.join(sorted(left))}")
        return faults

    def _within(self, condition: Callable[[], bool]) -> bool:
        end = time.monotonic() + self.patience
        while not condition():
            if time.monotonic() > end:
                return False
            if self._threaded or self.session.closed:
                time.sleep(0.001)
            else:
                self.session.tick(0.01)
        return True

    def _look_at_calls(self) -> list[str]:
        faults: list[str] = []

        def ask(who: str) -> None:
            number = self.next()
            # A child that is still starting takes as long as the machine lets it.
            patience = self.patience if self._is_up else None
            try:
                if self.session.call(Ask(number), patience) != number:
                    faults.append(f"{who}: wrong reply")
                self._is_up = True
            except Exception as error:
                faults.append(f"{who}: {type(error).__name__}: {error}")

        ask("next call")
        if self._threaded and not faults:
            thread = threading.Thread(target=ask, args=("call in another thread",), daemon=True)
            thread.start()
            thread.join(2 * self.patience)
            if thread.is_alive():
                faults.append("call in another thread hangs")
        return faults

    def _look_at_futures(self) -> list[str]:
        faults = []
        for future, expected in self.futures:
            try:
                if future.result(self.patience) != expected:
                    faults.append("another request: wrong reply")
            except Exception as error:
                faults.append(f"another request: {type(error).__name__}")
        for future in self.cancelled:
            if not future.cancel() or not future.done():
                faults.append("a second cancel() does nothing")
        for waiter in self._waiters:
            waiter.join(self.patience)
            if waiter.is_alive():
                faults.append("a waiter in another thread hangs")
        return faults

    def _look_at_stream(self) -> list[str]:
        """Take the rest of a stream. The one item that next() was to return may be missing."""
        if self.stream is None:
            return []
        try:
            self.items.extend(item.number for item in self.stream)
            reply = self.stream.result(self.patience)
        except Exception as error:
            return [f"rest of stream: {type(error).__name__}: {error}"]
        faults = _compare("item", self.items, list(range(40)), missing=1)
        return faults if reply == 40 else [*faults, "stream: wrong reply"]

    def _look_at_notes(self) -> list[str]:
        """Compare the notes that the child has got, and the ticks that we have."""
        report = Report([], 0, 0, 0)
        last = self.next()

        def is_all_there() -> bool:
            nonlocal report
            report = self.session.call(Tell(), self.patience)
            self._noted.extend(report.notes)
            told = last in self._noted  # what is late would come before it
            ticks = self._ticks_until(report) + self.excused
            due = report.ticks - self._ticks_before
            return told and ticks >= due and (not report.running or self.spoiled)

        self.notify(Note(last))
        try:
            self._within(is_all_there)
        except Exception as error:
            return [f"report: {type(error).__name__}: {error}"]
        maybe = self.attempted.difference(self.sent)  # interrupted: sent or not, but not twice
        certain = [number for number in self._noted if number not in maybe]
        faults = _compare("note", certain, self.sent, unordered=self.unordered)
        if len(self._noted) != len(set(self._noted)):
            faults.append("note twice")
        number = self._ticks_until(report)
        expected = list(range(self._ticks_before + 1, report.ticks + 1))
        faults += _compare("tick", self._ticks[:number], expected, missing=self.excused)
        del self._ticks[:number]
        self._ticks_before = report.ticks
        if report.running and not self.spoiled:
            faults.append("the child was not told to stop")
        if report.torn or self.session.stats.junk or self.session.stats.unreadable:
            faults.append("unreadable frame")
        self._noted.clear()
        self.sent.clear()
        self.attempted.clear()
        return faults

    def _ticks_until(self, report: Report) -> int:
        """Count the ticks that we had when the child reported; others ask meanwhile."""
        return sum(number <= report.ticks for number in tuple(self._ticks))

    def _look_at_posts(self) -> list[str]:
        """Receive the rest. The one that receive() was to return may be missing."""
        if not self._posts:
            return []
        self.post(1)
        while self._posts not in self.posted:
            try:
                self.posted.append(self.session.receive(self.patience).number)
            except Exception as error:
                return [f"receive: {type(error).__name__}: {error}"]
        return _compare("post", self.posted, list(range(1, self._posts + 1)), missing=1)


def _is_in(error: BaseException | None, errors: Iterable[object]) -> bool:
    return any(error is other for other in errors)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo = [error]
    while todo:
        error = todo.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            yield error
            todo += [error.__cause__, error.__context__]


def _compare(
    what: str,
    seen: list[int],
    expected: list[int],
    missing: int = 0,
    unordered: Collection[int] = (),
) -> list[str]:
    faults = []
    ordered = [number for number in seen if number not in unordered]
    if len(set(expected) - set(seen)) > missing:
        faults.append(f"{what} lost")
    if len(seen) != len(set(seen)):
        faults.append(f"{what} twice")
    if ordered != sorted(ordered):
        faults.append(f"{what} out of order")
    if set(seen) - set(expected):
        faults.append(f"{what} from nowhere")
    return faults


def _held() -> set[str]:
    """Return the threads and descriptors of this process."""
    threads = {f"thread {thread.name}" for thread in threading.enumerate()}
    fds = set()
    for fd in os.listdir(_FDS) if _FDS.exists() else ():
        try:
            fds.add(f"descriptor {fd} of {os.readlink(_FDS / fd)}")
        except OSError:
            pass  # that of the listing
    return threads | fds
