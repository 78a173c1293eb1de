"""Whom the crew calls for what, and the limits of each kind of work.

``crew.py`` tells who the members are and which invariant they keep. All of this is called
with the engine's lock held, but for ``_work_arrived``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .bells import wake
from .reading import Reader
from .staff import Job, Member
from .tasks import WriteTask as WriteJob

if TYPE_CHECKING:
    from .bells import Bells
    from .polling import Inlet, Wakeup

__all__ = ["Calling"]


class Calling:
    """The part of :class:`~streamipc.engine.crew.Crew` that gives its members work."""

    _lock: threading.Lock
    _reader: Reader
    _inlet: Inlet
    _wakeup: Wakeup
    _limit: int
    _quick: deque[Job]
    _slow: deque[Job]
    _errands: deque[Job]
    _members: dict[Member, None]
    _idle: list[Member]
    _watcher: Member | None
    _standby: Member | None
    _ticking: bool
    _alone: bool
    running: int
    blocked_jobs: int
    _on_errands: int
    _stopping: bool
    _quiet: Bells
    _hire: Callable[[], Member | None]

    def _give_to_worker(self, job: Job) -> None:
        if job.is_errand:
            self._errands.append(job)
            self._call_errand_runner()
        else:
            self._slow.append(job)
            self._call_worker()

    def _call_errand_runner(self) -> None:
        """Have somebody run what waits in ``_errands``, if their limit allows it."""
        if not self._may_run_errand(self._errands[0]) or self._stopping:
            return
        if self._idle:
            wake(self._idle.pop().bell)
        elif len(self._members) - self.blocked_jobs < 2 * self._limit + 3:
            self._hire()

    def _call_worker(self) -> None:
        """Have somebody run what waits in ``_slow``, if the limit allows it."""
        if not self._may_run() or self._stopping:
            return
        if self._idle:
            wake(self._idle.pop().bell)
        elif len(self._members) - self.blocked_jobs < self._limit + self._on_errands + 2:
            self._hire()

    def _call_workers(self) -> None:
        if self._errands:
            self._call_errand_runner()
        if self._slow:
            self._call_worker()

    def _may_run(self) -> bool:
        """Tell whether one more handler may run."""
        return self.running - self._on_errands < self._limit

    def _may_run_errand(self, job: Job) -> bool:
        """Tell whether one more errand may run."""
        return self._on_errands < self._limit or type(job) is WriteJob

    def _started(self, job: Job) -> None:
        self.running += 1
        self._on_errands += job.is_errand

    def _ended(self, job: Job) -> None:
        self.running -= 1
        self._on_errands -= job.is_errand
        if self._errands or self._slow:
            self._call_workers()
        if self._quiet.hung and not self.running:
            self._quiet.ring()

    def _rouse(self, member: Member) -> None:
        """Wake a member wherever it sleeps."""
        if member.polling:
            self._wakeup.set()
        else:
            wake(member.bell)

    def _wake_watcher(self) -> None:
        """The role is free: see to it that the watcher is looking (reading.py, rule 3)."""
        watcher = self._watcher
        if watcher is not None and watcher.sleeps_until != 0.0:
            if not watcher.polling:
                wake(watcher.bell)
            elif self._quick or self._reader.is_busy or not self._reader.is_open():
                self._wakeup.set()

    def _work_arrived(self) -> None:
        """A caller has read: if that brought work, the crew takes over."""
        if not self._quick:
            return
        with self._lock:
            self._reader.crew_reads = True
            watcher = self._watcher
            if watcher is not None and watcher.job is not None:
                # It waits inside a handler, perhaps for the very reply that we read for.
                self._promote()
                if self._watcher is watcher:  # no thread is to be had: callers must read on
                    self._reader.crew_reads = False
            elif watcher is not None:
                self._rouse(watcher)

    def _promote(self) -> None:
        """Put another in the place of the watcher, which is busy."""
        self._have_standby()
        successor = self._standby
        if successor is not None:
            self._standby = None
            self._ticking = False
            self._watcher = successor
            wake(successor.bell)

    def _have_standby(self) -> None:
        """See to it, with the lock held, that somebody looks at the watcher."""
        if self._standby is None:
            if self._idle:
                self._standby = self._idle.pop()
                wake(self._standby.bell)
            else:
                self._standby = self._hire()
        elif not self._ticking:
            self._ticking = True
            wake(self._standby.bell)
