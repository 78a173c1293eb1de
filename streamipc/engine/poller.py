"""Waiting for descriptors: the wake-up, and the spinning before a wait.

What can't be polled stands behind a pump (``transports/pump.py``), whose sockets can.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from .._forks import renew, steady

__all__ = [
    "POLLIN",
    "POLLOUT",
    "Poller",
    "Ready",
    "SelectPoller",
    "SpinPolicy",
    "Wakeup",
    "make_poller",
    "milliseconds",
    "two_wakeups",
    "usable_cpus",
]


POLLIN = 1
"""``select.POLLIN``, the same on all systems that have poll(2): no import at each wait."""

POLLOUT = 4
"""``select.POLLOUT``, likewise."""

_LONGEST = 10**9
"""Milliseconds, eleven days: whoever has waited for that long may look around once."""


class Wakeup:
    """A descriptor that becomes readable when :meth:`set` is called from another thread.

    An eventfd on Linux (eventfd(2)), elsewhere a pipe.
    """

    def __init__(self) -> None:
        # Guards the descriptors against close(); set() may interrupt its holder, in a
        # signal handler.
        self._lock = threading.RLock()
        self._closed = False
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._read

    def set(self) -> None:
        """Make the descriptor readable."""
        with self._lock:
            if not self._closed:
                try:
                    os.write(self._write, b"\1\0\0\0\0\0\0\0")
                except BlockingIOError:
                    pass

    def clear(self) -> None:
        """Make it unreadable again."""
        with self._lock:
            if not self._closed:
                try:
                    os.read(self._read, 4096)  # a pipe may hold several calls
                except BlockingIOError:
                    pass

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        with steady, self._lock:
            self._close()

    def close_after_fork(self) -> None:
        """As :meth:`close`, in a forked child."""
        renew(self._lock)
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._read)
            if self._write != self._read:
                os.close(self._write)


def two_wakeups() -> tuple[Wakeup, Wakeup]:
    """Make as many as a session needs, or none if one can't be had."""
    first = Wakeup()
    try:
        return first, Wakeup()
    except BaseException:
        first.close()
        raise


class SpinPolicy:
    """Decides whether to look again and again for a moment before going to sleep.

    Sleeping and being woken costs about 20 microseconds; looking costs one. So spinning
    pays when what is awaited comes within a few tens of microseconds, and is waste when
    it does not, above all where other processes want the CPU on which it spins.

    The policy learns from what happened. Spinning goes on while it mostly succeeds and
    stops when it does not. It is tried again after sleeps so short that spinning would
    have caught them, and the more of them are asked for the more often that went wrong:
    what spinning wastes stays a small part of the time, whatever the traffic.

    One thread at a time uses a policy: the leader.

    Args:
        seconds: how long one spin lasts at the most; 0: never spin.
    """

    _CREDIT = 8
    """How many points a run of good spins can save up."""

    _LOSS = 3
    """Points that a bad spin costs; a good one gains one."""

    _LONGEST_PAUSE = 4096
    """Short sleeps that are asked for at the most before spinning is tried again."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.active = False
        self._credit = 0
        self._pause = 1  # short sleeps to see before the next try
        self._short_sleeps = 0

    def succeeded(self) -> None:
        """Note a spin that ended with input."""
        if self._credit < self._CREDIT:
            self._credit += 1
            if self._credit == self._CREDIT:
                self._pause = 1

    def failed(self) -> None:
        """Note a spin that ended without."""
        self._credit -= self._LOSS
        if self._credit < 0:
            self.active = False
            self._short_sleeps = 0
            self._pause = min(2 * self._pause, self._LONGEST_PAUSE)

    def slept(self, seconds: float) -> None:
        """Note how long a sleep was that ended with input."""
        # A sleep includes the wake-up, so one of twice the limit would have been caught.
        if seconds < 2 * self.seconds:
            self._short_sleeps += 1
            if self._short_sleeps >= self._pause:
                self.active = True
                self._credit = self._LOSS - 1


Ready = list[tuple[int, int]]
"""Descriptors that can be read, each with its event mask, as ``poll`` returns them."""


class Poller:
    """Polls the descriptors of one session.

    A ``poll`` object can't be used by two threads at once, so client leaders and the I/O thread
    have one each.

    Args:
        fds: to read from.
        wakeup: readable when the one who waits should look around.
    """

    def __init__(self, fds: Sequence[int], wakeup: int) -> None:
        self._now = make_poller()
        self._wait = make_poller()
        for fd in fds:
            self._now.register(fd, POLLIN)
            self._wait.register(fd, POLLIN)
        self._wait.register(wakeup, POLLIN)
        self._woken = make_poller()
        self._woken.register(wakeup, POLLIN)
        self._wakeup = wakeup

    def forget(self, fd: int) -> None:
        """Stop polling a descriptor that has ended; twice is the same as once."""
        try:
            self._now.unregister(fd)
            self._wait.unregister(fd)
        except KeyError:
            pass

    def ready(self) -> Ready:
        """Return the descriptors that can be read now."""
        found: Ready = self._now.poll(0)
        return found

    def wait(self, timeout: float | None) -> Ready:
        """Return the descriptors that can be read, after at most ``timeout`` seconds.

        The result is empty when the time is over or the wake-up came.
        """
        found: Ready = self._wait.poll(milliseconds(timeout))
        if len(found) == 1 and found[0][0] != self._wakeup:
            return found
        return [one for one in found if one[0] != self._wakeup]

    def wait_for_wakeup(self, timeout: float | None) -> None:
        """Wait for the wake-up alone, for at most ``timeout`` seconds."""
        self._woken.poll(milliseconds(timeout))

    def wait_with(self, others: Sequence[int], timeout: float | None) -> tuple[Ready, bool]:
        """As :meth:`wait`, but come back for input on other descriptors too.

        Returns:
            Our descriptors that can be read, and whether there is input on one of the others.
        """
        for fd in others:
            self._wait.register(fd, POLLIN)
        try:
            found = self._wait.poll(milliseconds(timeout))
        finally:
            for fd in others:
                self._wait.unregister(fd)
        ours = [one for one in found if one[0] != self._wakeup and one[0] not in others]
        return ours, any([fd in others for fd, _ in found])

    def spin(self, policy: SpinPolicy) -> Ready:
        """Return the descriptors that can be read now, or after a spin of an active policy."""
        poll = self._now.poll
        found: Ready = poll(0)
        if not found:
            clock = time.monotonic
            stop = clock() + policy.seconds
            while not found:
                if clock() >= stop:
                    policy.failed()
                    return []
                found = poll(0)
            policy.succeeded()
        return found


class SelectPoller:
    """What ``select.poll()`` returns, made of select(2): Windows has no poll, and only sockets.

    It reports no errors by themselves, as ``POLLHUP`` does.
    """

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def register(self, fd: int, mask: int) -> None:
        """Look at ``fd``; the last mask given for it counts."""
        self._masks[fd] = mask

    def unregister(self, fd: int) -> None:
        """Look at it no more.

        Raises:
            KeyError: it is not looked at.
        """
        del self._masks[fd]

    def poll(self, timeout: float | None) -> Ready:
        """Wait for at most so many milliseconds; return what is ready, and how."""
        import select

        masks = [*self._masks.items()]
        inputs = [fd for fd, mask in masks if mask & POLLIN]
        outputs = [fd for fd, mask in masks if mask & POLLOUT]
        if not (inputs or outputs):  # select() on Windows refuses that
            return []
        seconds = None if timeout is None else timeout / 1000
        readable, writable, _ = select.select(inputs, outputs, (), seconds)
        found = [(fd, POLLIN * (fd in readable) | POLLOUT * (fd in writable)) for fd, _ in masks]
        return [one for one in found if one[1]]


def make_poller() -> Any:
    """Return a ``poll`` object, or what does the same where there is none."""
    import select

    return select.poll() if hasattr(select, "poll") else SelectPoller()


def milliseconds(timeout: float | None) -> float | None:
    """Return seconds as poll(2) wants them."""
    if not timeout:
        return timeout
    # Rounded up, or the last one would be spent busy; and no more than an int holds.
    return min(int(timeout * 1000) + 1, _LONGEST)


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):  # pragma: no branch - macOS, Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover - macOS, Windows
