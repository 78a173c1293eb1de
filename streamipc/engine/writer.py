"""The writer: frames go out whole, in order, and as many as possible at a time.

It owns the queue of frames on their way out, and what is known of how far they are.

A frame is a list of buffers. It stands in the queue until its last byte is with the operating
system; then it leaves the queue and is emptied, in one step. So an empty frame is one that is out
(or was withdrawn), whoever wrote it, and nothing else has to be kept about it.

Flat combining: who sends appends its frame and *tries* to take the turn to write. Whoever has the
turn writes all there is, and looks once more when it has given it back; so a frame is seen by the
one who has the turn, or by its sender. Nobody waits for the turn, which is held for as long as
writes take that do not block: so a finalizer, or a signal's handler, that sends in the midst of it
has its frame written by the very code that it interrupted.

Invariant: the bytes still to be written are those of the frames in the queue, less the first
``sum(log)``. Every write adds what it took to ``log`` in the same call into C
(``FdTransport.write_some``). An interrupt finds that true at any moment, and whoever writes next
goes on from there.

Who has to see its frame out waits: one for room, the others to be woken. A queue that holds
something while there is no room, and nobody waits for any, is *handed over*: ``on_backlog`` was
called. Waits are cut into slices of ``_LOOK``, since an interrupt may have kept somebody from
waking somebody else.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from .._forks import renew
from .._signals import consume, interrupt_in
from ..exceptions import IpcError, SessionClosedError
from .waiters import wake

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..serializers.base import Buffer
    from .channel import Channel

    Frame = list[Buffer]

__all__ = ["HIGH_WATER", "WriteTimeoutError", "Writer"]

HIGH_WATER = 1 << 18
"""Bytes in the queue beyond which a request waits for its turn to be written. Below
them it leaves its frame to whoever writes and goes on."""

_CONGESTED_AT = 1 << 16
"""Bytes that may wait for room before the thread that reads leaves requests to others, each of
which waits for room with its answer."""

_MANY = 1 << 12
"""Frames beyond which their bytes are not added up, for that would be done for each of them."""

_UNCOUNTED = 1 << 40
"""Bytes that stand for more than any mark."""

_JOIN_LIMIT = 1 << 13
"""Bytes of a buffer up to which it is joined with others: a copy costs less than bookkeeping."""

_BATCH = 128
"""Frames for one write."""

_ONCE = (False,)
"""What a lock is given that is tried once."""

_THE = 0
"""The key of the one claim."""

_MOMENT = 0.0005
"""Seconds between two tries to have the turn, where it must be had."""

_LOOK = 0.05
"""Seconds after which one who waits looks whether there is still a reason."""


class WriteTimeoutError(IpcError):
    """The frame was not written in time.

    Args:
        withdrawn: nothing of it will be written.
    """

    def __init__(self, withdrawn: bool) -> None:
        super().__init__("the frame was not written in time")
        self.withdrawn = withdrawn


class _Sleeper:
    """One who waits for its frame to be out while another waits for room."""

    __slots__ = ("frame", "lock")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.lock = threading.Lock()
        self.lock.acquire()


class Writer:
    """Queues frames and writes them.

    :meth:`send` waits until its frame is out: for callers, and handlers on other threads.
    :meth:`offer` never waits: for whoever reads. :meth:`queue` leaves it to the next :meth:`flush`,
    or :meth:`flush_some`, which does not wait: for the answers to a burst.

    Args:
        channel: where bytes go.
        on_backlog: called when bytes are left that there is no room for: somebody who may block
            must call :meth:`flush`.
        on_error: called once with the error that ended writing.
        is_inside: tells whether the caller has interrupted what others need; see ``reentry.py``.
    """

    def __init__(
        self,
        channel: Channel,
        on_backlog: Callable[[], object],
        on_error: Callable[[Exception], object],
        is_inside: Callable[[], bool] = lambda: False,
    ) -> None:
        self._channel = channel
        self._write_some = channel.write_some
        self._log: list[int] = channel.log
        self._on_backlog = on_backlog
        self._on_error = on_error
        self._is_inside = is_inside
        self._queue: deque[Frame] = deque()
        self.turn: dict[int, list[object]] = {}  # to write: the claim of who has it
        self._room = threading.Lock()  # held by the one who waits for room
        self._sleepers: list[_Sleeper] = []
        self._begun: Frame | None = None  # the first in the queue, if a part of it is out
        self._is_full = False  # the last write found no room
        self._broken = False
        self.bytes_sent = 0
        self.frames_sent = 0

    # What waits.

    @property
    def backlog(self) -> int:
        """Bytes queued and not yet written, as far as they are counted."""
        if len(self._queue) > _MANY:
            return _UNCOUNTED
        # A copy is made in one step, and nothing else comes between, as it may with tuple().
        return sum(len(part) for frame in self._queue.copy() for part in frame.copy())

    def is_idle(self) -> bool:
        """Tell whether nothing waits to be written."""
        return not self._queue

    def is_congested(self) -> bool:
        """Tell whether much waits for room: the peer does not read what we write."""
        return self._is_full and self.backlog > _CONGESTED_AT

    def is_all_unread(self, unread: int) -> bool:
        """Tell whether no frame has been read as a whole.

        Args:
            unread: bytes that the peer has not read, and never will.
        """
        if self.turn or self._log:
            return False  # somebody is at it
        return self.frames_sent == 0 or (self._begun is None and unread == self.bytes_sent)

    def is_writing(self) -> bool:
        """Tell whether a thread is inside a write, or waits for room."""
        return bool(self.turn) or self._room.locked()

    def holds(self, frame: Frame) -> bool:
        """Tell whether a frame is in the queue."""
        return any([one is frame for one in self._queue.copy()])

    def is_broken(self) -> bool:
        """Tell whether nothing more can be written."""
        return self._broken

    # Sending.

    def send(
        self,
        frame: Frame,
        deadline: float | None = None,
        tolerated: int = 0,
        stays: bool = False,
    ) -> None:
        """Queue a frame and return once it is with the operating system.

        From code that has interrupted the session's work on this very thread (a finalizer, the
        handler of a signal) it returns without waiting for room: others go on with it.

        Args:
            frame: its buffers, which must not change until they are written.
            deadline: in :func:`time.monotonic` seconds; ``None``: wait as long as it takes.
            tolerated: bytes. While another thread writes, or waits for room, and the queue holds no
                more than this, leave the frame to that thread and return at once.
            stays: an interrupt leaves it in the queue; otherwise it is withdrawn.

        Raises:
            WriteTimeoutError: the deadline passed. A frame of which nothing was written
                is withdrawn; one that was begun will be finished by others.
            SessionClosedError: the stream broke.
        """
        if self._broken:
            raise _broken()
        try:
            self._queue.append(frame)
            if not self._write() and self._queue:
                if frame:
                    self._see_out(frame, deadline, tolerated)
                else:
                    self._hand_over()
        except WriteTimeoutError:
            raise
        except BaseException:
            self._abandon(frame, stays)
            raise
        if self._broken and frame:
            raise _broken()

    def queue(self, frame: Frame) -> None:
        """Queue a frame that a later flush of this thread will write."""
        if not self._broken:
            self._queue.append(frame)

    def offer(self, frame: Frame) -> None:
        """Queue a frame and write what can be written without blocking.

        For the thread that reads, which must never wait for room: what is left is handed over.
        Raises nothing, as :meth:`flush`.
        """
        if not self._broken:
            self._queue.append(frame)
            if not self._write():
                self._hand_over()

    def flush_some(self) -> None:
        """Write what can be written without blocking; hand the rest over."""
        if self._queue and not self._write():
            self._hand_over()

    def flush(self, deadline: float | None = None) -> None:
        """Write everything that is queued; blocks as long as it takes or until ``deadline``.

        Raises nothing: a stream that broke is reported to ``on_error``.
        """
        self._write()
        for frame in [*self._queue.copy()][-1:]:
            self._wait_until_out(frame, deadline)

    def see_out(self, frame: Frame, deadline: float) -> bool:
        """Wait until a frame that was offered is out; return ``False`` if time was over first."""
        self._write()
        return self._wait_until_out(frame, deadline)

    # The end.

    def end(self, deadline: float | None) -> bool:
        """Write everything that is queued, and refuse everything from then on.

        Args:
            deadline: in :func:`time.monotonic` seconds; ``None``: wait as long as it takes.

        Returns:
            ``False`` if something was still to be written at the deadline; nothing is refused then.
        """
        while not self._broken:
            self.flush(deadline)
            if not self._queue:
                self._broken = True  # what is appended from now on is dropped by its sender
            elif _left(deadline) == 0:
                return False
        return True

    def fail(self) -> None:
        """Drop the queue and refuse everything from now on."""
        self._broken = True
        self._write()  # which drops it, or whoever has the turn does
        for sleeper in tuple(self._sleepers):
            wake(sleeper.lock)

    def fail_with(self, error: Exception) -> None:
        """End all writing: a write has failed, here or behind the descriptor."""
        first = not self._broken
        self.fail()
        if first:
            self._on_error(error)

    def forget_after_fork(self) -> None:
        """Write nothing more, in a forked child: what is queued is the parent's to write."""
        self.turn.clear()
        renew(self._room)
        self._log = []  # of a write that the parent goes on with
        self.fail()

    # The turn.

    def _write(self) -> bool:
        """Write as far as there is room, unless another thread is at it, which then does.

        Returns:
            ``False`` if there is no room, so that somebody must wait for it. Also if another thread
            is at it: it may not have room either, and may look away before it sees our frame.
        """
        queue, log, turn = self._queue, self._log, self.turn
        while queue:
            claim: list[object] = []
            room = True
            try:
                if turn.setdefault(_THE, claim) is not claim:
                    return False
                first = queue[0] if len(queue) == 1 and not (log or self._broken) else ()
                if len(first) == 1:  # nearly always; the rest does the same in more steps
                    size = len(first[0])
                    if self._write_some(first) == size and queue:
                        sent, number = self.bytes_sent + size, self.frames_sent + 1
                        self.bytes_sent, self.frames_sent, self._begun = sent, number, None
                        del log[0], first[0]
                        queue.popleft()
                    else:
                        room = self._write_in_turn()
                else:
                    room = self._write_in_turn()
            except (OSError, ValueError) as error:  # ValueError: of a file that was closed
                if log or interrupt_in(error) is not None:
                    raise
                self.fail_with(error)
            finally:
                # No call, and so no interrupt and no other thread, comes before it is done; in
                # Python 3.10 only because a block begins with it.
                try:
                    if turn and turn[_THE] is claim:
                        del turn[_THE]
                finally:
                    pass
            if self._sleepers:
                self._wake_sleepers()
            if not room:
                return False
        return True

    def _write_in_turn(self) -> bool:
        """Write until nothing is left, or there is no room; return ``False`` for the latter."""
        queue, log = self._queue, self._log
        while True:
            if log:
                self._count_written()
            if self._broken:
                queue.clear()
            while queue and not queue[0]:
                queue.popleft()  # was withdrawn
            if not queue:
                self._is_full = False
                return True
            # Not by iterating: others append meanwhile. Only who has the turn takes away.
            frames = [*map(queue.__getitem__, range(min(len(queue), _BATCH)))]
            buffers = [*chain.from_iterable(frames)]
            joined = max(map(len, buffers)) <= _JOIN_LIMIT
            if joined:
                buffers = [b"".join(buffers)]
            count = self._write_some(buffers)
            if not count:
                self._is_full = True
                return False
            if joined and count == len(buffers[0]):
                self._count_whole(frames, count)

    def _count_whole(self, frames: list[Frame], size: int) -> None:
        """As :meth:`_count_written`, for many whole frames."""
        if len(self._queue) < len(frames):
            return  # the session failed meanwhile
        emptied = map(list.clear, islice(iter(self._queue.popleft, None), len(frames)))
        sent, count = self.bytes_sent + size, self.frames_sent + sum(map(bool, frames))
        self.bytes_sent, self.frames_sent, self._begun, self._log[:] = sent, count, None, ()
        consume(emptied)

    def _count_written(self) -> None:
        """Take what is written off the front of the queue.

        CPython lets an interrupt in behind a call or at the turn of a loop, never between stores.
        So each round changes all at once, with its one call at its end.
        """
        queue, log = self._queue, self._log
        while log:
            if not queue:  # the session failed meanwhile
                log.clear()
                return
            written, first = sum(log), queue[0]
            size = sum(map(len, first))
            if written < size:
                rest, sent = _without(first, written), self.bytes_sent + written
                self.bytes_sent, self._begun, first[:] = sent, first, rest
                log.clear()
            else:
                rest_of_log = (written - size,) if written > size else ()
                sent, frames = self.bytes_sent + size, self.frames_sent + bool(first)
                self.bytes_sent, self.frames_sent, self._begun = sent, frames, None
                log[:], first[:] = rest_of_log, ()
                queue.popleft()

    def has_turn_here(self) -> bool:
        """Tell whether this thread has the turn: then we have interrupted it.

        The stack tells. A note of who has it would be there a moment too late.
        """
        turn = self.turn.get(_THE)
        frame = None if turn is None else sys._getframe(1)
        while frame is not None:
            if frame.f_code in _IN_TURN and frame.f_locals.get("claim") is turn:
                return True
            frame = frame.f_back
        return False

    # Waiting.

    def _see_out(self, frame: Frame, deadline: float | None, tolerated: int) -> None:
        """See to a frame that was not written at once."""
        if tolerated and self.is_writing() and self.backlog <= tolerated:
            self._hand_over()  # if they have ended meanwhile
            return
        if self._is_inside():
            # Who waits here may wait for himself. What is the caller's may change meanwhile.
            frame[:] = [bytes(part) for part in frame]
            self._hand_over()
            return
        if not self._wait_until_out(frame, deadline) and not self._broken:
            withdrawn = self._take_back(frame)
            if withdrawn is not None:
                raise WriteTimeoutError(withdrawn)

    def _wait_until_out(self, frame: Frame, deadline: float | None) -> bool:
        """Wait until a frame is out, or nothing can be written; ``False``: time was over first."""
        if not frame:
            return True
        if self.has_turn_here():
            # We have interrupted our own writing, which goes on behind us. What is the caller's
            # may have changed by then.
            frame[:] = [bytes(part) for part in frame]
            return True
        sleeper = _Sleeper(frame)
        try:
            with self._channel.handler_waits():
                self._sleepers.append(sleeper)
                while frame and not self._broken:
                    left = _left(deadline)
                    if left == 0:
                        return False
                    # Who has the turn, for an instant, wakes us, or one of us to wait for room.
                    if self.turn or not self._wait_for_room(frame, left):
                        sleeper.lock.acquire(timeout=_LOOK if left is None else min(left, _LOOK))
                    self._write()
            return True
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
            if self._queue:
                self._hand_over()

    def _wait_for_room(self, frame: Frame, left: float | None) -> bool:
        """Wait for room, unless another thread does; return whether it was ours to wait."""
        taken: list[bool] = []
        try:
            taken.extend(map(self._room.acquire, _ONCE))
            if taken[0] and frame:
                self._channel.wait_for_room(left)
            return taken[0]
        except OSError as error:
            if interrupt_in(error) is not None:
                raise
            self.fail_with(error)
            return True
        finally:
            try:  # as in _write()
                if taken and taken[0]:
                    self._room.release()
            finally:
                pass

    def _wake_sleepers(self) -> None:
        """Wake those whose frames are out."""
        for sleeper in tuple(self._sleepers):
            if not sleeper.frame:
                wake(sleeper.lock)

    def _hand_over(self) -> None:
        """Have somebody wait for room, if nobody does."""
        if not self._queue or self._room.locked() or self.turn or self._broken:
            return
        for sleeper in tuple(self._sleepers):
            if sleeper.frame:
                wake(sleeper.lock)
                return
        self._on_backlog()

    # Taking back.

    def withdraw(self, frame: Frame) -> bool:
        """Have nothing of a frame written; return ``False`` if it is out, or was begun."""
        return bool(frame) and not self.has_turn_here() and self._take_back(frame) is True

    def _take_back(self, frame: Frame) -> bool | None:
        """As :meth:`withdraw`, by its sender; return ``None`` if it is out.

        One that was begun is finished by others, from a copy, for its buffers are its sender's.
        """
        turn, claim = self.turn, list[object]()
        try:
            while turn.setdefault(_THE, claim) is not claim:  # another has it for an instant
                time.sleep(_MOMENT)
            if self._log:
                self._count_written()
            if not frame:
                return None
            if self._begun is frame:
                frame[:] = [bytes(part) for part in frame]
                return False
            frame[:] = ()
            # It equals any other that was withdrawn: one leaves for one that comes. Many would
            # pile up behind a frame that is stuck.
            with suppress(ValueError):
                self._queue.remove([])
            return True
        finally:
            try:  # as in _write()
                if turn and turn[_THE] is claim:
                    del turn[_THE]
            finally:
                pass

    def _abandon(self, frame: Frame, stays: bool) -> None:
        """See to a frame whose sender was interrupted, and to those of others."""
        if frame and not (stays or self.has_turn_here()):
            self._take_back(frame)
        if self._queue:
            self._hand_over()


_IN_TURN = {Writer._write.__code__, Writer._take_back.__code__}
"""Functions that have the turn, by their ``claim``, while they call others."""


def _without(frame: Frame, count: int) -> list[Any]:
    """Return what is left of ``frame`` behind the first ``count`` bytes."""
    rest: list[Any] = list(frame)
    while count >= len(rest[0]):
        count -= len(rest.pop(0))
    if count:
        rest[0] = memoryview(rest[0])[count:]
    return rest


def _broken() -> SessionClosedError:
    return SessionClosedError("the peer no longer reads: the stream is broken")


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
