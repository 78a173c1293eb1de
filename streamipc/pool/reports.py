"""What the user is told of workers: events, the log, and counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .._log import log_error, log_warning
from .._signals import let_through
from .children import Child
from .contracts import WorkerInfo
from .turns import Action

__all__ = ["Counts", "Reports", "info_of"]


class Counts:
    """What was counted in this process; see :class:`PoolStats`."""

    def __init__(self) -> None:
        self.done = self.timed_out = self.lost = self.retried = 0
        self.started = self.died = self.killed = self.retired = 0


class Reports:
    """Tells events to the user's function, and the bad ones to the log.

    Args:
        name: of the pool.
        on_event: the user's function; ``None``: there is none.
    """

    def __init__(self, name: str, on_event: Callable[[str, WorkerInfo], object] | None) -> None:
        self._name = name
        self._on_event = on_event
        self._waiting: deque[tuple[str, WorkerInfo, str]] = deque()

    def add(self, event: str, worker: Child, text: str = "") -> None:
        """Tell of an event soon.

        Args:
            event: its name.
            worker: that it is about.
            text: for the log; empty: nothing is logged.
        """
        self._waiting.append((event, info_of(worker), text))

    def has_work(self) -> bool:
        """Tell whether there is an event that nobody was told of."""
        return bool(self._waiting)

    def take(self) -> list[Action]:
        """See :class:`Source`."""
        waiting, self._waiting = self._waiting, deque()
        return [(self._tell, event) for event in waiting]

    def _tell(self, event: str, info: WorkerInfo, text: str) -> None:
        if text:
            log_warning(f"pool {self._name!r}: {text}")
        if self._on_event is None:
            return
        try:
            self._on_event(event, info)
        except Exception as error:
            let_through(error)
            log_error(f"pool {self._name!r}: on_event failed for {event!r}", error)


def info_of(worker: Any) -> WorkerInfo:
    """Return a snapshot of a worker."""
    return WorkerInfo(
        worker.pid,
        worker.state.value,
        len(worker.jobs),
        worker.done,
        worker.began,
        worker.error,
    )
