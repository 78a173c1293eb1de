"""The watcher's duty, and the standby's, who looks after it.

The watcher sees to it that the session is read, and runs what is quick. ``crew.py`` tells
more of both, and which invariant they keep.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..handlers import SLOW_SECONDS
from .calling import Calling
from .reading import TICK

if TYPE_CHECKING:
    from .deadlines import Deadlines
    from .polling import Inlet, Ready
    from .staff import Job, Member

__all__ = ["Watching"]

_REPLIES_ONLY = 8
"""Reads in a row without a request after which callers may read for themselves again. A
reply that the watcher reads costs them twice the time; a request that they read costs a
hand-over."""


class Watching(Calling):
    """The part of :class:`~streamipc.engine.crew.Crew` that watcher and standby run."""

    _deadlines: Deadlines
    _flush_some: Callable[[], None]
    _is_clogged: Callable[[], bool]
    _expire_due: Callable[[], None]

    # The watcher.

    def _watch(self, me: Member) -> None:
        """Be the watcher until another has taken over, or the session ends."""
        reader = self._reader
        takes, reads = reader.takes, reader.reads
        while True:
            with self._lock:
                if self._stopping or self._watcher is not me:
                    return
                free = reader.holder is None
                open_ = reader.is_open()
                work = bool(self._quick or (self._alone and (self._slow or self._errands)))
                callers = takes != reader.takes or (not free and reads != reader.reads)
                takes, reads = reader.takes, reader.reads
                if work or (callers and not reader.crew_reads) or self._alone:
                    me.sleeps_until = 0.0  # callers come and go: look every TICK
                else:
                    me.sleeps_until = self._deadlines.earliest()
                    me.polling = free and open_
                left_over = free and open_ and reader.is_busy
                if left_over:
                    me.polling, me.sleeps_until = False, 0.0
                polling, until = me.polling, me.sleeps_until
            if left_over:
                self._finish_reading()
            elif work:
                if not self._run_quick(me):
                    return
            elif self._sleep_as_watcher(me, polling, until) and not self._serve(me):
                return
            self._expire_due()

    def _finish_reading(self) -> None:
        """Apply what a caller has read who was interrupted."""
        reader = self._reader
        with self._lock:
            if reader.holder is not None:
                return
            reader.holder = threading.get_ident()
        try:
            reader.clean()
        finally:
            reader.leave()

    def _sleep_as_watcher(self, me: Member, polling: bool, until: float | None) -> bool:
        """Sleep; return whether there is input and the role is ours to read it."""
        reader = self._reader
        inlet = self._inlet
        start = time.monotonic()
        if polling:
            fds = inlet.wait(None if until is None else max(0.0, until - start))
            if not fds:
                self._wakeup.clear()
        else:
            timeout = TICK if until == 0.0 else -1
            if until:
                timeout = max(0.0, until - start)
            me.bell.acquire(timeout=timeout)
            fds = inlet.ready() if reader.holder is None else []
        with self._lock:
            me.polling = False
            me.sleeps_until = 0.0
            if not fds or reader.holder is not None or self._watcher is not me:
                return False
            if not reader.is_open():
                return False
            reader.holder = threading.get_ident()
            if polling:
                slept = time.monotonic() - start
                reader.crew_spin.slept(slept)
                if slept > TICK:
                    reader.crew_reads = False  # it was quiet for long: callers may read again
            return True

    def _serve(self, me: Member) -> bool:
        """Read, and run what is quick, as long as there is something; leave the role.

        Returns:
            ``False`` if another has taken over the watch.
        """
        reader = self._reader
        inlet = self._inlet
        here = threading.get_ident()
        look_at_clock = time.monotonic() + TICK
        without_work = 0
        while not self._stopping and reader.is_open():
            ready = inlet.spin(reader.crew_spin) if reader.crew_spin.active else None
            if not ready:
                ready = self._linger(me, inlet)
                if not ready:
                    break
            reader.read(ready)
            # Also one that a caller has read to its end: it was reported once more here.
            for fd in reader.take_ended():
                inlet.forget(fd)
            if self._quick or (self._alone and (self._slow or self._errands)):
                if not self._run_quick(me):
                    return False
                if reader.holder != here:
                    return True  # a caller reads now
                without_work = 0
            elif reader.crew_reads:
                without_work += 1
                if without_work == _REPLIES_ONLY:
                    with self._lock:
                        reader.crew_reads = False
            elif reader.waiting:
                break
            if time.monotonic() > look_at_clock:
                self._expire_due()
                look_at_clock = time.monotonic() + TICK
        reader.leave()
        return True

    def _linger(self, me: Member, inlet: Inlet) -> Ready:
        """Wait for input for a moment, and keep the role meanwhile; return what can be read.

        In a steady exchange the next request comes soon. Leaving the role and taking it
        again costs as much as the request itself, and while the crew reads no caller wants
        it. The moment is a ``TICK``, so whatever else wants us waits no longer than it
        would wait for a watcher that is awake; a new job rouses us.
        """
        reader = self._reader
        if not reader.crew_reads:
            return inlet.ready()
        me.polling = True
        # Seen now, or its submitter sees that we poll: see ``Crew.submit_locked``.
        if self._quick or self._stopping:
            me.polling = False
            return inlet.ready()
        start = time.monotonic()
        ready = inlet.wait(TICK)
        me.polling = False
        if ready:
            reader.crew_spin.slept(time.monotonic() - start)
        else:
            self._wakeup.clear()
        return ready

    def _run_quick(self, me: Member) -> bool:
        """Run what is quick, with the reading role given up; take that again if it is free.

        Returns:
            ``False`` if another has taken over the watch.
        """
        reader = self._reader
        here = threading.get_ident()
        with self._lock:
            had_role = reader.holder == here
            if had_role:
                reader.holder = None
                reader.crew_reads = True
            if self._standby is None or not self._ticking:
                self._have_standby()
            job = self._next_quick(me)
        start = time.monotonic()
        look_at_clock = start + TICK
        while job is not None:
            job.run()
            now = time.monotonic()
            if now - start > SLOW_SECONDS:
                job.took(now - start)
            if now > look_at_clock:
                self._expire_due()
                look_at_clock = now + TICK
            start = now
            flushed = not self._quick
            if flushed:
                self._flush_some()  # the end of a burst: its answers go out together
            with self._lock:
                me.job = None
                self._ended(job)
                if self._watcher is not me:
                    return False
                job = self._next_quick(me) if self._quick or self._alone else None
                over = job is None and flushed and not self._stopping
                if over and had_role and reader.holder is None:
                    reader.holder = here
                    return True
        self._flush_some()
        with self._lock:  # nobody takes over from one who runs no job
            if had_role and reader.holder is None and not self._stopping:
                reader.holder = here
        return True

    def _next_quick(self, me: Member) -> Job | None:
        """Return the next job that is still quick; pass on what is not, or not now.

        If the peer does not read our answers, more of them must wait for room, which is
        nothing that a watcher does.
        """
        job: Job
        while self._quick:
            job = self._quick.popleft()
            may_run = self._may_run_errand(job) if job.is_errand else self._may_run()
            free = may_run and self._standby is not None and not self._is_clogged()
            if self._alone or (free and not job.is_slow):
                return self._start_as_watcher(me, job)
            self._give_to_worker(job)
        if self._alone and self._errands:
            return self._start_as_watcher(me, self._errands.popleft())
        if self._alone and self._slow:
            return self._start_as_watcher(me, self._slow.popleft())
        return None

    def _start_as_watcher(self, me: Member, job: Job) -> Job:
        self._started(job)
        job.by_watcher = True
        me.runs += 1
        me.job = job
        return job

    # The standby.

    def _stand_by(self, me: Member) -> None:
        """Look at the watcher until it is stuck; then take its place."""
        seen: tuple[Member, int] | None = None
        idle_ticks = 0
        while True:
            with self._lock:
                if self._watcher is me:  # promoted
                    break
                if self._stopping or self._standby is not me:
                    return
                watcher = self._watcher
                assert watcher is not None  # one that leaves has another in its place
                now_seen = (watcher, watcher.runs)
                if watcher.job is not None and now_seen == seen:
                    self._take_over(me, watcher.job)
                    break
                idle_ticks = 0 if watcher.job is not None or now_seen != seen else idle_ticks + 1
                seen = now_seen
                self._ticking = idle_ticks < 2
                timeout = TICK if self._ticking else -1
            me.bell.acquire(timeout=timeout)
        self._flush_some()  # what the old watcher had left for the end of its burst
        self._expire_due()
        self._watch(me)

    def _take_over(self, me: Member, stuck: Job) -> None:
        self._watcher = me
        self._standby = None
        self._ticking = False
        stuck.took(TICK)
        if stuck.is_errand:
            self._hand_out(type(stuck))

    def _hand_out(self, kind: type) -> None:
        """Give errands like the one that got stuck to workers, lest each takes 2 ms more."""
        quick = [*self._quick]
        self._quick.clear()
        for job in quick:
            if type(job) is kind:
                self._errands.append(job)
            else:
                self._quick.append(job)
        for _ in range(min(len(self._errands), self._limit)):
            self._call_errand_runner()
