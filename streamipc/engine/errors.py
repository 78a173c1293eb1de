"""Errors that no caller gets: they go to ``on_exception``, or to the log.

Owns how many of them wait; the engine's lock guards the number. No more than
``Limits.waiting_errors`` do, and no error goes to the user's code on the thread that reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._signals import is_interrupt
from ..exceptions import release_frames
from .tasks import CallTask

if TYPE_CHECKING:
    import threading

    from .caller_runs import CallerRuns
    from .contracts import Host
    from .thread_pool import ThreadPool

__all__ = ["ErrorReports"]


class ErrorReports:
    """See the module's text.

    Args:
        pool: runs what is the user's code.
        caller_runs: the same where there are no threads.
        most: errors that may wait.
    """

    def __init__(
        self,
        lock: threading.RLock,
        host: Host,
        pool: ThreadPool | CallerRuns,
        caller_runs: CallerRuns | None,
        most: int,
    ) -> None:
        self._lock = lock
        self._host = host
        self._pool = pool
        self._caller_runs = caller_runs
        self._most = most
        self._waiting = 0  # for on_exception, or in it
        self._some_are_left_out = False

    def report(self, error: BaseException) -> None:
        """Hand an error to the session."""
        runs = self._caller_runs
        if runs is None:
            self._host.report(error)
            return
        # What a signal has raised is meant for the thread that waits.
        if is_interrupt(error):
            runs.interrupted(error)
            return
        try:
            self._host.report(error)
        except BaseException as interrupt:
            runs.interrupted(interrupt)

    def report_soon(self, error: Exception) -> None:
        """As :meth:`report`, for the thread that reads: the user's code runs elsewhere."""
        if self._waiting >= self._most:
            if not self._some_are_left_out:
                self._some_are_left_out = True
                self.warn_soon(
                    f"more than {self._most:,} errors wait for on_exception: those that come now "
                    "are only counted (session.stats.unreadable)"
                )
            return
        with self._lock:
            self._waiting += 1
        release_frames(error)
        self._pool.submit(CallTask(lambda: self._report_waiting(error), self.report))

    def warn_soon(self, text: str) -> None:
        """Log a warning, elsewhere than on the thread that reads."""
        self._pool.submit(CallTask(lambda: self._host.warn(text), self.report))

    def _report_waiting(self, error: Exception) -> None:
        try:
            self.report(error)
        finally:
            with self._lock:
                self._waiting -= 1
