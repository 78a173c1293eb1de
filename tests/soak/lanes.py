"""A lane: one child after the other, or one for ever, and the traffic with it."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from streamipc import IpcPeer, ProcessSession, SessionClosedError

from .checks import Usage
from .messages import Begin, Die, Finish, Report
from .side import LIMIT, Side
from .traffic import Traffic

__all__ = ["Lane", "Totals"]

ROOT = Path(__file__).resolve().parents[2]

WORKERS = 3
"""Threads that make traffic, on each side of each session."""

_ENDING = 15.0
"""Seconds after the death of a child within which all that waits for it has ended, on a
machine that is busy with other things."""

_SHOWN = 50
"""Problems that are kept in full."""

_EXIT_STATUS = {"drain": 0, "close": 0, "kill": -signal.SIGKILL, "exit": 3}
"""By how a child is ended."""


class Totals:
    """What was counted and found since the start."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.longest: dict[str, float] = {}
        self.problems: list[str] = []

    def add(self, who: str, report: Report) -> None:
        self.counts.update(report.counts)
        for what, seconds in report.longest.items():
            self.took(what, seconds)
        for text in report.problems:
            self.problem(f"{who}: {text}")

    def took(self, what: str, seconds: float) -> None:
        self.longest[what] = max(seconds, self.longest.get(what, 0.0))

    def problem(self, text: str) -> None:
        if len(self.problems) < _SHOWN:
            self.problems.append(text)


class Lane:
    """One session at a time.

    Args:
        name: for what is printed.
        peer: makes the sessions.
        arguments: of the child.
        totals: where everything is booked.
    """

    def __init__(self, name: str, peer: IpcPeer, arguments: list[str], totals: Totals) -> None:
        self.name = name
        self._peer = peer
        self._arguments = arguments
        self._totals = totals
        self._session: ProcessSession
        self._side: Side
        self._traffic: Traffic

    def open(self) -> None:
        """Start a child."""
        self._session = self._peer.create_command_session(
            [sys.executable, "-m", f"{__package__}.child", *self._arguments], cwd=ROOT
        )
        self._side = Side(self._session)
        self._totals.counts["children"] += 1

    def begin(self, seed: str) -> None:
        """Let the traffic begin on both sides."""
        self._session.call(Begin(f"{seed}/{self.name}/child", WORKERS), timeout=LIMIT)
        self._traffic = Traffic(self._side, f"{seed}/{self.name}/parent", WORKERS)

    def rest(self) -> Usage | None:
        """Let all traffic come to its end, and compare the books; return the child's usage."""
        if not self._stop():
            return None
        try:
            report = self._session.call(Finish(self._side.told), timeout=5 * LIMIT)
        except Exception as error:
            self._totals.problem(f"{self.name}: the child did not come to rest: {error!r}")
            self._dump()
            return None
        self._side.finish(report.told)
        self._side.balance()
        for who, books in (("child", report), ("parent", self._side.report())):
            cut_off = books.counts.get("interrupted", 0) + books.counts.get("refused", 0)
            if cut_off:
                self._totals.problem(f"{self.name}, {who}: {cut_off} requests were cut off")
            self._totals.add(f"{self.name}, {who}", books)
        return Usage(report.rss, report.blocks, report.descriptors, report.threads)

    def end(self, how: str) -> None:
        """End the child, and check what that leaves behind.

        Args:
            how: ``"drain"``: at rest; ``"close"``: gracefully under full traffic; ``"kill"``
                and ``"exit"``: suddenly.
        """
        self._totals.counts[f"ended by {how}"] += 1
        start = time.monotonic()
        if how == "drain":
            self.rest()
        elif how == "kill":
            self._session.kill()
        elif how == "exit":
            # It may be dead before other threads' frames, written with this one, are counted.
            with suppress(SessionClosedError):
                self._session.notify(Die())
        if how in ("kill", "exit"):
            self._session.process.wait()
            start = time.monotonic()
            self._stop()
            took = time.monotonic() - start
            self._totals.took("death", took)
            if took > _ENDING:
                self._totals.problem(f"{self.name}: {how} was noticed {took:.1f} s late")
        self._session.close(timeout=30)
        if how == "close":
            self._totals.took("close", time.monotonic() - start)
            self._stop()
            self._side.balance()
            lost = self._side.counted("swaps interrupted")
            if lost:
                self._totals.problem(f"{self.name}: close() lost {lost} replies")
        self._check_end(how)

    def _check_end(self, how: str) -> None:
        status, tail = self._session.returncode, self._session.stderr_tail
        if status != _EXIT_STATUS[how]:
            self._totals.problem(f"{self.name}: exit status {status} by {how}; {tail!r}")
        if "PROBLEM" in tail or "Traceback" in tail:
            self._totals.problem(f"{self.name}: the child said {tail!r}")
        self._side.balance(cut_off=how in ("kill", "exit"))
        self._totals.add(f"{self.name}, parent", self._side.report())

    def _stop(self) -> bool:
        if self._traffic.stop():
            return True
        self._dump()
        return False

    def _dump(self) -> None:
        """Show what every thread of both processes does."""
        import faulthandler

        faulthandler.dump_traceback(all_threads=True)
        if self._session.returncode is None:
            self._session.process.send_signal(signal.SIGUSR1)
            time.sleep(1)  # for it to print
