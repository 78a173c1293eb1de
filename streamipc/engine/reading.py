"""The reading role: which thread reads, and how the role moves.

Theory of operation
-------------------

One thread at a time reads from the transport: the *holder* of the reading role. Reading
means: wait for input, read it, decode it, apply it to the connection, and hand on what
came of it. Three kinds of threads may hold the role:

* a *caller*, a thread inside ``result()`` or another wait: it reads for itself, so its
  reply costs no hand-over between threads at all;
* the *watcher*, the one member of the crew (``crew.py``) that sees to it that somebody
  reads when no caller does;
* nobody, for a moment: then the watcher looks every 2 ms (``TICK``), or polls the
  descriptors itself without holding the role.

The invariant, which every method below keeps:

    If the role is free, the watcher is awake, or will be within ``TICK`` seconds, or
    waits for the very descriptors that the role is about. If it is held, its holder
    reads, or will leave it before it does anything that may block on other work.

From it follow the rules of each hand-over:

1. A caller that leaves while other callers wait gives the role to one of them at once,
   by name (``holder`` is set to that thread before it can look), so that no third thread
   can slip in and no reply lies unread until a tick.
2. A caller whose reply was read by someone else is woken by its own future, and takes
   itself off the list of waiters. So is one that sleeps as the holder, when its future
   is done for another reason: its deadline, a cancellation, the end. If the role was
   given to it in the same moment, it passes the role on before it returns: a gift is
   never dropped.
3. A caller that leaves while nobody waits wakes the watcher if that sleeps without
   polling (``asleep``), as it does while a caller holds the role for long.
4. No handler, no callback and no write that may block runs while its thread holds the
   role. What was read is queued first, then the role is left, then the work is done.
5. Where the stream has ended, the role is nobody's and everybody's: waits end by the
   futures that the end has failed.

Who should hold it follows the traffic. Replies are read best by the callers who wait for
them, requests by the crew that answers them. So a read that brought requests sets
``crew_reads``, and callers then leave the role to the crew; the watcher clears it when it
had to sleep for longer than a moment, or has read nothing but replies a few times in a row.

Reading pauses (``flow.paused``, see ``flow.py``) while more notifications wait for their handlers
than the session is willing to hold: the stream fills, and the sender blocks. It goes on when half
of them are handled, or when a handler itself waits for something that must be read, or to
write to a peer that may do the same; the latter two no more when very many wait.

The engine's lock guards ``holder``, ``waiting``, ``takes`` and ``crew_reads``;
``reads`` belongs to the holder.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .._signals import interrupt_in
from .bells import wake
from .polling import Inlet, Ready, SpinPolicy, Wakeup

if TYPE_CHECKING:
    from ..protocol.connection import Connection
    from .flow import Flow

__all__ = ["TICK", "Awaited", "Reader"]

TICK = 0.002
"""Seconds: the longest time for which input may lie unread because the role is free."""


_MOST_THERE = 16 << 20
"""Bytes, more than a pipe or socket holds: a process that has inherited the stream may
write to it without end."""


_HOLDING = {
    ("reading.py", "wait"),
    ("solo.py", "look"),
    ("solo.py", "wait_for_room"),
    ("shutdown.py", "_force_end"),
    ("engine.py", "_read_prefix"),
    ("watching.py", "_watch"),
}
"""Functions of the engine that hold the role while they call others."""


class Awaited(Protocol):
    """What a thread can wait for with :meth:`Reader.wait`."""

    @property
    def wakers(self) -> list[Any]:
        """Locks to release when it becomes ready."""
        ...

    def ready(self) -> bool:
        """Tell whether the wait is over; called from any thread, must not block."""
        ...


class Waiter:
    """A caller that sleeps, until what it waits for is ready or it is given the role."""

    __slots__ = ("awaited", "lock", "thread")

    def __init__(self, awaited: Awaited, thread: int) -> None:
        self.awaited = awaited
        self.thread = thread
        self.lock = threading.Lock()
        self.lock.acquire()


class _Bell:
    """Wakes a caller that sleeps as the holder of the role, in the guise of a lock."""

    __slots__ = ("release",)

    def __init__(self, wakeup: Wakeup) -> None:
        self.release = wakeup.set


class Reader:
    """Reads for one session.

    Args:
        lock: the engine's.
        connection: what the bytes are decoded by.
        read_into: of the transport, called with a buffer and the source's number.
        fds: to poll, one for each source.
        wakeup: ends the holder's sleep.
        spin: seconds to look again and again before sleeping.
        logs: for each source, in which ``read_into`` leaves its result.
        apply: applies what was read; called by the holder of the role.
        on_end: called by the holder of the role when the stream has ended.
        flow: tells whether reading pauses.
    """

    # What few sessions change stands here. CPython reads the attributes of an object with more
    # than thirty of its own more slowly, and 1.4 % of a round trip was lost to that.
    others_have_input = False

    def __init__(
        self,
        lock: threading.Lock,
        connection: Connection,
        read_into: Callable[..., int],
        fds: tuple[int, ...],
        wakeup: Wakeup,
        spin: float,
        logs: Sequence[list[int]],
        apply: Callable[[], None],
        on_end: Callable[[Exception | None], None],
        flow: Flow,
    ) -> None:
        self.flow = flow
        self._lock = lock
        self._connection = connection
        self._read_into = read_into
        self._sources = {fd: number for number, fd in enumerate(fds)}
        self.first_fd = fds[0]
        self._logs = logs
        self._apply = apply
        self._on_end = on_end
        self._inlet = Inlet(fds, wakeup.fileno())
        self._wakeup = wakeup
        self._bell = _Bell(wakeup)
        self._caller_spin = SpinPolicy(spin)
        self.crew_spin = SpinPolicy(spin)
        self.fds = fds
        self.holder: int | None = None  # the identifier of a thread
        self.waiting: dict[Waiter, None] = {}
        self.takes = 0  # how often a caller took the role
        self.reads = 0
        self.bytes_received = 0
        self.crew_reads = False
        self.is_busy = False  # somebody reads, or was interrupted in the midst of it
        self.draining = False  # the session is ending: only closing.py reads
        self._ended_fds: list[int] = []  # which the watcher's inlet does not know yet
        self.ended = False
        self.wake_watcher: Callable[[], None] = _nothing
        """Wakes the watcher if it is asleep; called with the lock held."""
        self.work_arrived: Callable[[], None] = _nothing
        """Called by a caller after a read, without the lock: the crew may have work."""
        self.look_at_clock: Callable[[], None] = _nothing
        """Fails requests whose time is over; called by the holder, in the midst of a burst."""
        self.others: Callable[[], list[int]] | None = None
        """Descriptors of other sessions, which the holder looks at too while it sleeps."""
        self.next_deadline: Callable[[], float | None] | None = None
        """When the holder must look at the clock, in a session without threads."""

    # Waiting, as a caller.

    def wait(self, awaited: Awaited, end: float | None) -> bool:
        """Wait until ``awaited`` is ready; read meanwhile if the role is free.

        Args:
            awaited: what to wait for; was not ready a moment ago.
            end: in :func:`time.monotonic` seconds, or ``None`` for no limit.

        Returns:
            Whether it is ready; ``False`` means that the time was over.
        """
        me = threading.get_ident()
        waiter = None
        self.leave_if_forgotten()
        try:
            while True:
                with self._lock:
                    mine = self.holder is None and self.callers_may_read()
                    if mine:
                        self.holder = me
                        self.takes += 1
                    elif not awaited.ready():
                        waiter = waiter or Waiter(awaited, me)
                        self.waiting[waiter] = None
                ready = False
                if mine or (waiter and self._sleep(waiter, end)):
                    if mine or self.callers_may_read():  # not so, perhaps, since the gift
                        ready = self._read_for(awaited, end)
                    with self._lock:
                        self.leave_locked()
                if ready or awaited.ready():
                    return True
                if end is not None and time.monotonic() >= end:
                    return False
        finally:
            # Left over only when interrupted, by Ctrl-C for one, at any line above.
            if self.holder == me or (waiter and waiter in self.waiting):
                with self._lock:
                    if waiter:
                        self.waiting.pop(waiter, None)
                    if self.holder == me:
                        self.leave_locked()
                self.work_arrived()  # with what we have read, perhaps, and not told of

    def leave_if_forgotten(self) -> None:
        """Leave a role that an interrupt, in the midst of leaving it, has kept this thread from.

        A signal's handler, or a finalizer, that comes from within the reading finds it held too.
        """
        if self.holder != threading.get_ident():
            return
        frame = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if (os.path.basename(code.co_filename), code.co_name) in _HOLDING:
                return
            frame = frame.f_back  # type: ignore[assignment]
        self.leave()

    def callers_may_read(self) -> bool:
        """Tell whether a caller may take or keep the role."""
        return not (self.crew_reads or self.flow.paused or self.draining or self.ended)

    def is_open(self) -> bool:
        """Tell whether the crew may read."""
        return not (self.flow.paused or self.draining or self.ended)

    def _sleep(self, waiter: Waiter, end: float | None) -> bool:
        """Sleep until woken or ``end``; return whether the role was given to us."""
        wakers = waiter.awaited.wakers
        wakers.append(waiter.lock)
        try:
            # Ready since we looked: whoever made it so may have seen no waker.
            if not waiter.awaited.ready():
                waiter.lock.acquire(timeout=-1 if end is None else _left(end))
        finally:
            wakers.remove(waiter.lock)
            with self._lock:
                self.waiting.pop(waiter, None)
                mine = self.holder == waiter.thread
        return mine

    def _read_for(self, awaited: Awaited, end: float | None) -> bool:
        """Read, holding the role, until ``awaited`` is ready or there is a reason to leave.

        Returns:
            Whether it is ready, as far as is known.
        """
        inlet = self._inlet
        policy = self._caller_spin
        if self.is_busy:
            self.clean()
            self.work_arrived()
            if awaited.ready():
                return True
        while True:
            fds = inlet.spin(policy) if policy.active else None
            if not fds:
                left = None if end is None else _left(end)
                if left == 0:
                    return False
                fds = self._wait_for_input(awaited, left)
            if fds:
                self.read(fds)
                self.work_arrived()
            if awaited.ready():
                return True
            if not self.callers_may_read():
                return False

    def _wait_for_input(self, awaited: Awaited, timeout: float | None) -> Ready:
        """Wait for input, or until another thread has made ``awaited`` ready."""
        wakers = awaited.wakers
        wakers.append(self._bell)
        try:
            # Ready since we looked: whoever made it so may have seen no waker.
            if awaited.ready():
                return []
            start = time.monotonic()
            if self.next_deadline is not None:
                timeout = self._until_deadline(start, timeout)
            if self.others is None:
                fds = self._inlet.wait(timeout)
            else:
                fds, self.others_have_input = self._inlet.wait_with(self.others(), timeout)
        finally:
            wakers.remove(self._bell)
        if fds:
            self._caller_spin.slept(time.monotonic() - start)
        else:
            self._wakeup.clear()
        return fds

    def _until_deadline(self, now: float, timeout: float | None) -> float | None:
        assert self.next_deadline is not None
        with self._lock:
            deadline = self.next_deadline()
        if deadline is None:
            return timeout
        left = max(0.0, deadline - now)
        return left if timeout is None else min(left, timeout)

    # Reading, as the holder.

    def read(self, ready: Ready) -> None:
        """Read from the descriptors that are ready, once each, and dispatch what came."""
        self.reads += 1
        for fd, _ in ready:
            self.read_source(self._sources[fd])

    def read_source(self, source: int = 0) -> None:
        """Read from one source and apply what came.

        What somebody who was interrupted has read and not applied comes first.
        """
        connection = self._connection
        log = self._logs[source]
        self.is_busy = True
        try:
            if not log:
                self._read_into(connection.buffers[source](), source)
            if log[0]:
                self.bytes_received += log[0]
                connection.arrived[source](log)
            else:
                self._source_ended(source, None)
        except (BlockingIOError, InterruptedError) as error:
            if interrupt_in(error) is not None:
                raise
        except Exception as error:
            # OSError, or ValueError of a file object that was closed, or a bug in a
            # transport of the user's own.
            if interrupt_in(error) is not None:
                raise
            self._source_ended(source, error)
        if connection.items:
            self._apply()
        self.is_busy = False

    def clean(self) -> None:
        """Apply what somebody has read who was interrupted; as the holder of the role."""
        self._connection.cut_rest()
        for source, log in enumerate(self._logs):
            if log:
                self.read_source(source)
        if self._connection.items:
            self._apply()
        self.is_busy = False

    def look(self) -> Ready:
        """Return what can be read now, or after a spin if the crew's policy says so."""
        return self._inlet.spin(self.crew_spin)

    def wake_holder(self) -> None:
        """Have the holder of the role, if it sleeps, look around."""
        self._wakeup.set()

    def drain(self) -> None:
        """Read what is there now, holding the role; for a stream that is about to end."""
        enough = self.bytes_received + _MOST_THERE
        while not self.ended and self.bytes_received < enough:
            fds = self._inlet.ready()
            if not fds:
                return
            self.read(fds)

    def take_ended(self) -> list[int]:
        """Return the descriptors that have ended and that the caller must forget."""
        if not self._ended_fds:
            return self._ended_fds
        ended, self._ended_fds = self._ended_fds, []
        return ended

    def leave(self) -> None:
        """Give the role to a caller that waits; wake the watcher if there is none."""
        with self._lock:
            self.leave_locked()

    def leave_locked(self) -> None:
        """As :meth:`leave`, with the lock held.

        An interrupt, such as Ctrl-C, may come at any call in here. So the role changes hands
        last, when whoever is to have it is awake: until then it is ours to leave once more.
        """
        if self.waiting and self.callers_may_read():
            for waiter in self.waiting:
                if not waiter.awaited.ready():
                    wake(waiter.lock)
                    del self.waiting[waiter]
                    self.holder = waiter.thread
                    self.takes += 1
                    return
        self.wake_watcher()
        self.holder = None

    def _source_ended(self, source: int, error: Exception | None) -> None:
        self._connection.end(source)
        if self._connection.items:
            self._apply()
        if source == 0:
            self._on_end(error)
            self.ended = True
        else:
            fd = next(fd for fd, number in self._sources.items() if number == source)
            self._inlet.forget(fd)
            self._ended_fds.append(fd)
            self.fds = tuple(other for other in self.fds if other != fd)
        self._logs[source].clear()  # last: until then whoever comes next does it again


def _left(end: float) -> float:
    return max(0.0, end - time.monotonic())


def _nothing() -> None:
    pass
