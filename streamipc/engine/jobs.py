"""What the pool runs: each job wraps one piece of the user's code, and never raises."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._forks import at_home, look_for_fork
from ..handlers import SLOW_SECONDS

if TYPE_CHECKING:
    from .calls import Listener
    from .engine import Engine

__all__ = ["CallJob", "CallbacksJob", "NotificationsJob", "WriteJob"]

_BURST = 64
"""Notifications handled before the next duty gets a turn."""


class NotificationsJob:
    """Handles the notifications that wait, one after the other, in the order sent.

    There is at most one such job for a session: ``Engine.notifying`` says so.
    """

    __slots__ = ("_engine", "by_io_thread")
    is_background = False
    is_handler = True

    def __init__(self, engine: Engine) -> None:
        self.by_io_thread = False
        self._engine = engine

    @property
    def is_offloaded(self) -> bool:
        """Whether handling notifications was slow lately."""
        return self._engine.notifications_are_slow

    def took(self, seconds: float) -> None:
        """Learn how long a burst takes; :meth:`run` measures each notification itself."""
        if seconds > _BURST * SLOW_SECONDS:
            self._engine.notifications_are_slow = True

    def run(self) -> None:
        """Handle a burst of them."""
        try:
            self._handle_some()
        finally:  # also when interrupted, without threads: there is no other job for the rest
            self._leave_rest()

    def _handle_some(self) -> None:
        engine = self._engine
        waiting = engine.notifications
        for _ in range(_BURST):
            try:
                served = waiting.popleft()
            except IndexError:
                break
            engine.send_gate.handled = served
            start = time.perf_counter()
            taken = served.run_notification()
            if not at_home[0]:  # the handler has forked: the rest is the parent's
                look_for_fork()
                break
            if not taken:
                engine.keep(served, type(served.message).__wire_name__)
            elif served.held is not None:
                engine.flow.release(served.held)
            if time.perf_counter() - start > SLOW_SECONDS:
                engine.notifications_are_slow = True

    def _leave_rest(self) -> None:
        engine = self._engine
        waiting = engine.notifications
        with engine.lock:
            flow = engine.flow
            engine.send_gate.burst_handled_locked(flow.level_locked(len(waiting)))
            flow.notifications_handled_locked(len(waiting))
            if waiting:
                engine.pool.submit_locked(self)
            else:
                engine.notifying = False


class CallbacksJob:
    """Calls what was given to ``add_done_callback``."""

    __slots__ = ("_future", "_report", "by_io_thread")
    is_offloaded = False
    is_background = True
    is_handler = False

    def __init__(self, future: Listener, report: Callable[[BaseException], None]) -> None:
        self.by_io_thread = False
        self._future = future
        self._report = report

    def took(self, seconds: float) -> None:
        """Learn nothing: the callbacks of another future are other callbacks."""

    def run(self) -> None:
        """Call them; concurrent.futures logs what an ``Exception`` in them says."""
        try:
            self._future.run_callbacks()
        except BaseException as error:
            self._report(error)


class CallJob:
    """Calls a function without arguments."""

    __slots__ = ("_function", "_report", "by_io_thread")
    is_offloaded = False
    is_background = True
    is_handler = False

    def __init__(
        self, function: Callable[[], object], report: Callable[[BaseException], None]
    ) -> None:
        self.by_io_thread = False
        self._function = function
        self._report = report

    def took(self, seconds: float) -> None:
        """Learn nothing."""

    def run(self) -> None:
        """Call it."""
        try:
            self._function()
        except BaseException as error:
            self._report(error)


class WriteJob(CallJob):
    """Writes what is left, and may wait for room, for want of which all others may be stuck."""

    __slots__ = ()
