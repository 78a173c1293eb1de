"""What the pool runs: each task wraps one piece of the user's code, and never raises.

There are two more kinds, which own what they run on: ``inbox.py`` and ``progress.py``. A request of
the peer's is itself one (``incoming.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .calls import Listener

__all__ = ["CallTask", "CallbacksTask", "WriteTask"]


class CallbacksTask:
    """Calls what was given to ``add_done_callback``."""

    __slots__ = ("_future", "_report", "by_io_thread")
    has_begun = False  # it goes on where it ended
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
        """Call them; an ``Exception`` in one is logged."""
        while self._future.has_callbacks():
            try:
                self._future.run_callbacks()
            except BaseException as error:
                self._report(error)


class CallTask:
    """Calls a function without arguments."""

    __slots__ = ("_function", "_report", "by_io_thread", "has_begun")
    is_offloaded = False
    is_background = True
    is_handler = False

    def __init__(
        self, function: Callable[[], object], report: Callable[[BaseException], None]
    ) -> None:
        self.by_io_thread = False
        self.has_begun = False
        self._function = function
        self._report = report

    def took(self, seconds: float) -> None:
        """Learn nothing."""

    def run(self) -> None:
        """Call it."""
        try:
            self.has_begun = True
            self._function()
        except BaseException as error:
            self._report(error)


class WriteTask(CallTask):
    """Writes what is left, and may wait for room; all others may be stuck for want of that."""

    __slots__ = ()
