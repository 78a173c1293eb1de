"""Who reads: Leader/Followers, with callers as client leaders.

The pattern is that of *Pattern-Oriented Software Architecture* 2 (Schmidt, Stal, Rohnert and
Buschmann), with client leaders as TAO's ``TAO_Leader_Follower`` has them. One thread at a time,
the *leader*, waits for input, reads it, and applies it. Two kinds of threads lead:

* a *client leader*: a thread inside ``result()``, or another wait, that leads for itself. So the
  reply of a lone caller costs no switch between threads at all;
* the *I/O thread* (``io_thread.py``), whenever no caller does. In a session without threads
  (``caller_runs.py``) there is none.

A caller that finds somebody else leading is a *follower*: it sleeps until its own future wakes it.
If a crowd of callers waits, the I/O thread leads and wakes each of them by its future. Leadership
is never given: whoever looks first while it is free has it.

The invariant:

    Nobody sleeps for leadership. While it is free, the I/O thread polls the descriptors, or looks
    at them within ``TICK`` seconds. Without an I/O thread, one of the followers is awake.

It needs nothing from whoever led: an interrupt that keeps it from telling others that it leads no
more costs nothing but a moment. What follows from it:

1. Leadership is taken and left in :meth:`Leader.lead` alone, which calls what needs it. It is an
   entry in a dict: ``setdefault`` enters it, and names its owner, in one step of C; it is
   taken out without a call, behind which an interrupt might come. So it can neither be kept nor be
   left twice, and a lock is not needed: nobody ever waits for it.
2. No handler, no callback and no write that may block runs inside of it. What was read is queued,
   then leadership is left, then the work is done.
3. A follower registers first and then looks whether leadership is free, or what it waits for ready;
   whoever changes either of them does so first and looks for followers then.
4. A client leader that leaves followers behind wakes somebody to lead: a lone follower, or else the
   I/O thread, in whose place another comes if it is inside a handler. A follower that is woken and
   does not lead costs a moment, since the I/O thread looks; without one it wakes another.
5. Where the stream has ended, nobody leads: waits end by the futures that the end has failed.

Who had better lead follows the traffic. Replies to a lone caller are read best by that caller;
requests, and replies to a crowd, by the I/O thread, which says so (:meth:`Leader.prefer`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .poller import Ready, SpinPolicy, Wakeup
from .waiters import wake

if TYPE_CHECKING:
    from .reader import Reader

__all__ = ["TICK", "Awaited", "Leader", "Successor"]

TICK = 0.002
"""Seconds: the longest time for which input may lie unread because nobody leads."""

_PATIENCE = 1.0
"""Seconds to wait for a leader who was told to leave; it takes microseconds."""

_LOOK_AGAIN = 0.0005
"""Seconds between two looks at whether it has."""

_THE = 0
"""The key of the one entry."""

_T = TypeVar("_T")


class Awaited(Protocol):
    """What a thread can wait for with :meth:`Leader.wait`."""

    @property
    def wakers(self) -> list[Any]:
        """Locks to release when it becomes ready."""
        ...

    def ready(self) -> bool:
        """Tell whether the wait is over; called from any thread, must not block."""
        ...


class Successor(Protocol):
    """Who leads, and works, when no caller does."""

    def work_arrived(self) -> None:
        """See to what a client leader has read, which goes on leading if it may."""
        ...

    def take_over(self) -> None:
        """Lead, or have another thread do it: a client leader has left followers, or work."""
        ...


class _Alarm:
    """Wakes a client leader that sleeps, in the guise of a lock."""

    __slots__ = ("release",)

    def __init__(self, wakeup: Wakeup) -> None:
        self.release = wakeup.set


class Leader:
    """Leadership of one session, and who follows.

    Args:
        reader: to be read by the leader.
        wakeup: ends a client leader's sleep.
        spin: seconds for which a client leader looks again and again before it sleeps.
        check_wait: raises if a caller that is going to sleep would wait for what he has
            interrupted, given whether he leads; see ``reentry.py``.

    Attributes:
        followers: callers that sleep, each by the lock that wakes it.
        prefer_io_thread: callers had better follow.
        takes: how often a caller has led.
    """

    def __init__(
        self,
        reader: Reader,
        wakeup: Wakeup,
        spin: float,
        check_wait: Callable[[bool], object] = lambda leads: None,
    ) -> None:
        self._reader = reader
        self._wakeup = wakeup
        self._alarm = _Alarm(wakeup)
        self._spin = SpinPolicy(spin)
        self._successor: Successor
        self._wait_for_input: Callable[[float | None], Ready] = reader.poller.wait
        self._check_wait = check_wait
        self._claims: dict[int, tuple[int]] = {}
        self.followers: dict[Any, Awaited] = {}
        self.prefer_io_thread = False
        self.takes = 0

    def set_successor(
        self,
        successor: Successor,
        wait_for_input: Callable[[float | None], Ready] | None = None,
    ) -> None:
        """Say, before anybody leads, who does so when no caller does.

        Args:
            successor: that.
            wait_for_input: waits until a source can be read, ``wakeup`` is set, or so many seconds
                have passed; called by client leaders. The reader's poller does, if not given.
        """
        self._successor = successor
        self._wait_for_input = wait_for_input or self._wait_for_input

    # Leading.

    def lead(self, work: Callable[..., _T], *arguments: Any) -> _T | None:
        """Call ``work`` as the leader and return what it returns; ``None``: somebody else leads."""
        claim = (threading.get_ident(),)
        claims = self._claims
        try:
            if claims.setdefault(_THE, claim) is not claim:
                return None
            return work(*arguments)
        finally:
            # No call, and so no interrupt and no other thread, comes before it is done; in Python
            # 3.10 only because a block begins with it.
            try:
                if claims and claims[_THE] is claim:
                    del claims[_THE]
            finally:
                pass

    def lead_when_free(self, work: Callable[[], object]) -> None:
        """Call ``work`` as the leader once the one who leads has left, as it does when woken.

        Give up after a second, for it may be this very thread, which we have interrupted.
        """

        def do_work() -> bool:
            work()
            return True

        end = time.monotonic() + _PATIENCE
        while not self.lead(do_work) and time.monotonic() < end:
            time.sleep(_LOOK_AGAIN)

    @property
    def thread(self) -> int | None:
        """The identifier of the thread that leads."""
        claim = self._claims.get(_THE)
        return None if claim is None else claim[0]

    def wake(self) -> None:
        """Have a client leader, if it sleeps, look around."""
        self._wakeup.set()

    def prefer(self, io_thread: bool) -> None:
        """Have callers leave leadership to the I/O thread, or lead again for themselves."""
        self.prefer_io_thread = io_thread

    def notify(self) -> None:
        """Wake one follower: it may lead. One whose wait is over is on its way already."""
        followers = self.followers.copy()
        for lock, awaited in followers.items():
            if not awaited.ready():
                wake(lock)
                return
        for lock in followers:
            wake(lock)
            return

    # Waiting, as a caller.

    def wait(self, awaited: Awaited, end: float | None) -> bool:
        """Wait until ``awaited`` is ready; lead meanwhile if nobody else does.

        Args:
            awaited: what to wait for; was not ready a moment ago.
            end: in :func:`time.monotonic` seconds, or ``None`` for no limit.

        Returns:
            Whether it is ready; ``False`` means that the time was over.
        """
        try:
            while True:
                ready = None
                if self.may_lead():
                    ready = self.lead(self._lead_for, awaited, end)
                    if ready is not None and self.followers:
                        self._successor.take_over()
                if ready or awaited.ready():
                    return True
                if end is not None and time.monotonic() >= end:
                    return False
                self._follow(awaited, end)
                if awaited.ready():
                    return True
        except BaseException:
            self._successor.take_over()  # also what we have read, perhaps, and not told of
            raise

    def may_lead(self) -> bool:
        """Tell whether a caller may lead, if nobody else does."""
        return not self.prefer_io_thread and self._reader.is_open()

    def _lead_for(self, awaited: Awaited, end: float | None) -> bool:
        """Read until ``awaited`` is ready or there is a reason to leave; return whether it is."""
        reader, spin = self._reader, self._spin
        self.takes += 1
        if reader.is_busy:
            reader.clean()
            self._successor.work_arrived()
            if awaited.ready():
                return True
        while True:
            fds = reader.poller.spin(spin) if spin.active else None
            if not fds:
                left = None if end is None else max(0.0, end - time.monotonic())
                if left == 0:
                    return False
                fds = self._sleep_as_leader(awaited, left)
            if fds:
                reader.read(fds)
                self._successor.work_arrived()
            if awaited.ready():
                return True
            if not self.may_lead():
                return False

    def _sleep_as_leader(self, awaited: Awaited, timeout: float | None) -> Ready:
        """Sleep until there is input, or another thread has made ``awaited`` ready."""
        self._check_wait(True)
        wakers = awaited.wakers
        try:
            wakers.append(self._alarm)
            # Ready since we looked: whoever made it so may have seen no waker.
            if awaited.ready():
                return []
            start = time.monotonic()
            fds = self._wait_for_input(timeout)
        finally:
            if self._alarm in wakers:
                wakers.remove(self._alarm)
        if fds:
            self._spin.slept(time.monotonic() - start)
        else:
            self._wakeup.clear()
        return fds

    def _follow(self, awaited: Awaited, end: float | None) -> None:
        """Sleep until ``awaited`` may be ready, we may lead, or ``end``."""
        followers, wakers = self.followers, awaited.wakers
        lock = threading.Lock()
        lock.acquire()
        try:
            wakers.append(lock)
            followers[lock] = awaited
            if not awaited.ready() and (self._claims or not self.may_lead()):
                self._check_wait(False)
                lock.acquire(timeout=-1 if end is None else max(0.0, end - time.monotonic()))
        finally:
            if lock in followers:
                del followers[lock]
            if lock in wakers:
                wakers.remove(lock)
