"""One side of one session: its handlers, and the ledger of what it sent, got and found."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

from streamipc import (
    IpcSession,
    RemoteError,
    RequestCancelledError,
    RequestContext,
    RequestTimeoutError,
    ResponseFuture,
    SessionClosedError,
)

from .checks import usage
from .messages import Down, Fail, Flow, Hold, Piece, Report, Swap, Told, piece

__all__ = ["ENDS", "LIMIT", "Ended", "Side"]

LIMIT = 60.0
"""Seconds after which a reply counts as lost."""

ENDS = ("replied", "failed", "cancelled", "expired", "interrupted")
"""How a request may end: each does in one of these ways, and once."""

_CUT_OFF = tuple(
    f"{error.__module__}.{error.__qualname__}"
    for error in (SessionClosedError, RequestCancelledError)
)
"""What handlers fail with that still want something of a side that is closing."""

_SHOWN = 20
"""Problems that are kept in full."""


class Ended(Exception):
    """The session is over: there is no more traffic to be had."""


class Side:
    """Answers everything, and keeps the ledger; ``_lock`` guards it."""

    def __init__(self, session: IpcSession) -> None:
        self.session = session
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._longest: dict[str, float] = {}
        self._problems: list[str] = []
        self._handled: set[str] = set()
        self._told: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self._open = 0  # handlers of Flow and Hold that have not ended
        self._changed = threading.Condition(self._lock)
        self._register()

    # The ledger.

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self._counts[what] += number

    def counted(self, what: str) -> int:
        with self._lock:
            return self._counts[what]

    def took(self, what: str, seconds: float) -> None:
        with self._lock:
            self._longest[what] = max(seconds, self._longest.get(what, 0.0))

    def problem(self, text: str) -> None:
        if not text:
            return
        with self._lock:
            self._counts["problems"] += 1
            if len(self._problems) < _SHOWN:
                self._problems.append(text)

    def tell(self, sender: str, size: int) -> None:
        """Send the sender's next notification."""
        number = self._told[sender] + 1  # nobody else counts for this sender
        self.session.notify(Told(sender, number, piece(f"{sender}!{number}", size)))
        self._told[sender] = number
        self.count("notifications")

    def ask(self, make: Any, *args: Any, **options: Any) -> Any:
        """Call ``session.request`` or ``session.stream``; the session may be over."""
        try:
            made = make(*args, timeout=options.pop("timeout", LIMIT), **options)
        except SessionClosedError:
            self.count("refused")
            raise Ended from None
        self.count("requests")
        return made

    def outcome(self, key: str, future: ResponseFuture[Any], *expected: str) -> tuple[str, Any]:
        """Wait for the end of a request and book it; return how it ended, and its value."""
        value: Any = None
        try:
            value = future.result(timeout=2 * LIMIT)
            end = "replied"
        except CancelledError:
            end = "cancelled"
        except RemoteError as error:
            value = error
            # What is nested says so in its text, level by level.
            end = "interrupted" if any(name in str(error) for name in _CUT_OFF) else "failed"
        except RequestTimeoutError:
            end = "expired" if future.done() else "lost"
        except SessionClosedError as error:
            value = error
            end = "interrupted"
        self.count(end)
        if end not in expected and end != "interrupted":
            self.problem(f"{key}: {end} ({value!r}), expected: {' or '.join(expected)}")
        return end, value

    def finish(self, told: dict[str, int]) -> None:
        """Wait until all that the other side has told, and begun, is done with."""
        with self._changed:
            self._changed.wait_for(lambda: +self._taken == told and not self._open, LIMIT)
            if +self._taken != told:
                lost = sum(told.values()) - sum(self._taken.values())
                self._problems.append(f"{lost} notifications are missing: {self._taken} {told}")
                self._counts["problems"] += 1
            if self._open:
                self._problems.append(f"{self._open} handlers were not told of their cancellation")
                self._counts["problems"] += 1

    def balance(self, *, cut_off: bool = False) -> None:
        """Check that every request has ended, and that nothing arrived that nobody sent.

        Args:
            cut_off: the other side died, maybe in the middle of a frame, which is junk then.
        """
        deadline = time.monotonic() + LIMIT
        while self.session.stats.pending and time.monotonic() < deadline:
            time.sleep(0.01)  # replies of handlers' own requests may be on their way
        stats = self.session.stats
        asked, ended = self.counted("requests"), sum(map(self.counted, ENDS))
        if asked != ended:
            self.problem(f"{asked} requests, {ended} ends")
        if stats.pending:
            self.problem(f"{stats.pending} requests are still pending")
        if ((stats.junk or stats.unreadable) and not cut_off) or stats.dropped:
            self.problem(
                f"{stats.junk} bytes of junk, {stats.unreadable} frames that could not be read, "
                f"{stats.dropped} notifications dropped"
            )

    def report(self) -> Report:
        """Return the ledger, and begin a new one."""
        used = usage()
        with self._lock:
            report = Report(
                dict(self._counts), self._longest, self._problems, dict(self._told), *used
            )
            self._counts = Counter()
            self._longest, self._problems = {}, []
            self._handled = set()
            self._taken = Counter()
            self._told = Counter()
        return report

    @property
    def told(self) -> dict[str, int]:
        """Notifications sent, by sender."""
        return dict(self._told)

    # The handlers.

    def _begin(self, key: str) -> None:
        with self._lock:
            twice = key in self._handled
            self._handled.add(key)
        if twice:
            self.problem(f"{key} was handled twice")

    def _opened(self, change: int) -> None:
        with self._changed:
            self._open += change
            self._changed.notify_all()

    def _register(self) -> None:
        session = self.session

        @session.on_request
        def swap(msg: Swap) -> Piece:
            self._begin(msg.key)
            self.problem(msg.piece.fault(msg.key))
            if msg.pause:
                time.sleep(msg.pause)
            self.count("bytes", len(msg.piece.data) + msg.size)
            return piece(f"{msg.key}<", msg.size)

        @session.on_request
        def flow(msg: Flow) -> Iterator[Piece]:
            self._begin(msg.key)
            self._opened(+1)
            try:
                for number in range(msg.count):
                    yield piece(f"{msg.key}.{number}", msg.size)
                return msg.count
            finally:
                self._opened(-1)

        @session.on_request
        def down(msg: Down) -> str:
            self._begin(f"{msg.key}#{msg.depth}")
            if not msg.depth:
                return msg.key
            try:
                future = self.ask(session.request, Down(msg.key, msg.depth - 1))
            except Ended:
                raise SessionClosedError from None
            end, value = self.outcome(msg.key, future, "replied")
            if end == "replied":
                return f"{value}<{msg.depth}"
            raise value if isinstance(value, Exception) else RuntimeError(end)

        @session.on_request
        def hold(msg: Hold, ctx: RequestContext) -> None:
            self._begin(msg.key)
            self._opened(+1)
            try:
                told = threading.Event()
                ctx.on_cancel(told.set)
                while not (told.wait(0.1) or ctx.cancelled):
                    pass
                # At its deadline the caller says so; one that is closing can't any more.
                if not (session.closed or told.wait(LIMIT)):
                    self.problem(f"{msg.key} was not told of its cancellation")
            finally:
                self._opened(-1)

        @session.on_request
        def fail(msg: Fail) -> None:
            self._begin(msg.key)
            raise ValueError(msg.key)

        @session.on_message
        def told(msg: Told) -> None:
            self.problem(msg.piece.fault(f"{msg.sender}!{msg.number}"))
            with self._changed:
                expected = self._taken[msg.sender] + 1
                self._taken[msg.sender] = msg.number
                self._changed.notify_all()
            if msg.number != expected:
                self.problem(f"{msg.sender}: notification {msg.number} came as {expected}")

        @session.on_exception
        def report(error: BaseException) -> None:
            self.problem(f"on_exception: {error!r}")
