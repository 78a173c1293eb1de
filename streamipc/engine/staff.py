"""The members of a crew and what they are given to do."""

from __future__ import annotations

import threading
from _thread import allocate_lock
from typing import Protocol

__all__ = ["IDLE_SECONDS", "QUICK_RUNS", "SLOW_SECONDS", "Job", "Member"]

IDLE_SECONDS = 10.0
"""How long a thread without work is kept."""

SLOW_SECONDS = 0.001
"""A handler that took longer than this is given to a worker the next time. Half a
``TICK``: what is quicker would hardly be noticed by the standby either."""

QUICK_RUNS = 32
"""Runs in a row below :data:`SLOW_SECONDS` after which a slow handler counts as quick again."""


class Job(Protocol):
    """Something to run; :meth:`run` never raises."""

    @property
    def is_slow(self) -> bool:
        """Whether to give it to a worker rather than to the watcher."""
        ...

    @property
    def is_errand(self) -> bool:
        """Whether it is no handler, and so not to be counted as one."""
        ...

    by_watcher: bool
    """Set while the watcher runs it: it must not wait for room to write its answer."""

    def took(self, seconds: float, /) -> None:
        """Learn from how long it took."""
        ...

    def run(self) -> None:
        """Do it."""
        ...


class Member:
    """One thread of the crew."""

    __slots__ = ("bell", "job", "polling", "runs", "sleeps_until", "thread")

    def __init__(self) -> None:
        self.bell = allocate_lock()
        self.bell.acquire()
        self.job: Job | None = None  # what it runs as the watcher
        self.runs = 0  # jobs run as the watcher
        self.polling = False  # sleeps in a poll rather than on its bell
        self.sleeps_until: float | None = 0.0  # None: until woken; 0.0: it is awake
        self.thread: threading.Thread
