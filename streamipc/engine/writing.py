"""The writer: frames go out whole, in order, and as many as possible at a time.

Invariant: bytes leave in the order in which frames were queued, and at most one thread
(the *flusher*) writes at a time. Whoever queues a frame while nobody flushes becomes the
flusher. While it writes, others only add to the queue: what they add goes out with its
next ``writev``. A flusher whose own frame is out passes the flushing on to a thread that
still waits for its own, if there is one, and otherwise finishes the queue.

A queue that nobody flushes is either empty or *handed over*: ``on_backlog`` was called
after the last look at it, and whoever answers that call will flush.

The lock guards the queue, the counters and the flusher's mark. It is never held during a
write or a wait for room, and nothing else is locked under it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .._forks import renew
from ..exceptions import IpcError, SessionClosedError
from .bells import Bells
from .queueing import Frame, FrameQueue

if TYPE_CHECKING:
    from ..serializers.base import Buffer
    from .outlets import PolledOutlet

__all__ = ["WriteTimeoutError", "Writer"]

HIGH_WATER = 1 << 18
"""Bytes in the queue beyond which a request waits for its turn to be written. Below
them it leaves its frame to the flusher and goes on."""

_BATCH = 64
"""Frames for one ``writev``."""


class WriteTimeoutError(IpcError):
    """The frame was not written in time.

    Args:
        withdrawn: nothing of it will be written.
    """

    def __init__(self, withdrawn: bool) -> None:
        super().__init__("the frame was not written in time")
        self.withdrawn = withdrawn


class Writer(FrameQueue):
    """Queues frames and writes them.

    Args:
        outlet: where bytes go.
        on_backlog: called without the lock when bytes are left and no thread is writing:
            somebody who may block must call :meth:`flush`.
        on_error: called once, without the lock, with the error that ended writing.
    """

    def __init__(
        self,
        outlet: PolledOutlet,
        on_backlog: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        super().__init__()
        self._outlet = outlet
        self._on_backlog = on_backlog
        self._on_error = on_error
        # Guarded by the queue's lock:
        self._moved = Bells(self._lock)  # bytes went out, or flushing is free
        self._flusher = 0  # identifier of the thread that writes; 0: nobody does
        self._waiting = 0  # threads in _wait_for_turn
        self._in_flight = 0  # up to which byte a write is going on; 0: none is

    def send(
        self, buffers: Sequence[Buffer], deadline: float | None = None, tolerated: int = 0
    ) -> None:
        """Queue a frame and return once it is with the operating system.

        Args:
            buffers: of the frame; must not change until they are written.
            deadline: in :func:`time.monotonic` seconds; ``None``: wait as long as it takes.
            tolerated: bytes. While another thread writes and the queue holds no more than
                this, leave the frame to that thread and return at once.

        Raises:
            WriteTimeoutError: the deadline passed. A frame of which nothing was written
                is withdrawn; one that was begun will be finished by others.
            SessionClosedError: the stream broke.
        """
        me = threading.get_ident()
        frame: Frame | None = None
        end = 0
        try:
            with self._lock:
                if self._broken:
                    raise _broken()
                if len(buffers) == 1 and not (self._flusher or self._queue or self._batch):
                    self._flusher = me
                    end = self._in_flight = self._queued = self._queued + len(buffers[0])
                    self.frames_sent += 1
                else:
                    frame = self._append(buffers)
                    if self._flusher and self._queued - self._flushed <= tolerated:
                        return
                    if not self._flusher:
                        self._flusher = me
            if frame is None:
                frame = self._write_past_queue(buffers[0], end)
                if frame is None:
                    return
            elif self._flusher != me:
                self._wait_for_turn(frame.end, deadline)
            if self._flusher == me:
                self._flush(deadline, frame.end, may_block=True)
            if self._flushed < frame.end or self._broken:
                self._give_up(frame)
        finally:
            # Also when interrupted, by Ctrl-C for one: somebody must write the rest.
            if self._flusher == me:
                try:
                    self._hand_over()
                except BaseException:
                    self._hand_over_again()
                    raise
            elif frame is not None and self._queue:
                self._leave_wait()

    def offer(self, buffers: Sequence[Buffer]) -> int:
        """Queue a frame and write what can be written without blocking.

        For the thread that reads, which must never wait for room: what is left goes to
        ``on_backlog``. Raises nothing, as :meth:`flush`.

        Returns:
            The number of the byte behind its last one: it is out when so many are sent.
        """
        me = threading.get_ident()
        end = mark = 0
        if self._flusher == me:  # we read while we wait for room, without threads
            with self._lock:
                return self._append(buffers).end
        try:
            with self._lock:
                idle = not (self._flusher or self._queue or self._batch or self._broken)
                if idle and len(buffers) == 1:
                    self._flusher = me
                    mark = end = self._in_flight = self._queued = self._queued + len(buffers[0])
                    self.frames_sent += 1
                else:
                    mark = self._append(buffers).end
            if end:
                self._write_past_queue(buffers[0], end)
            else:
                self.flush_some()
            return mark
        except SessionClosedError:
            return mark  # said to on_error
        finally:
            if self._flusher == me:
                try:
                    self._hand_over()
                except BaseException:
                    self._hand_over_again()
                    raise

    def flush_some(self) -> None:
        """Write what can be written without blocking; hand the rest over."""
        if not (self._queue or self._batch):
            return
        me = threading.get_ident()
        try:
            with self._lock:
                self._seal_batch()
                if self._flusher:
                    return
                self._flusher = me
                mark = self._queued
            self._flush(None, mark, may_block=False)
        finally:
            if self._flusher == me:
                try:
                    self._hand_over()
                except BaseException:
                    self._hand_over_again()
                    raise

    def flush(self, deadline: float | None = None) -> None:
        """Write everything that is queued; blocks as long as it takes or until ``deadline``.

        Raises nothing: a stream that broke is reported to ``on_error``.
        """
        if not (self._queue or self._batch):
            return
        me = threading.get_ident()
        try:
            with self._lock:
                self._seal_batch()
                mark = self._queued
                if not self._flusher:
                    self._flusher = me
            if self._flusher != me:
                self._wait_for_turn(mark, deadline)
            if self._flusher == me:
                self._flush(deadline, mark, may_block=True)
        finally:
            if self._flusher == me:
                try:
                    self._hand_over()
                except BaseException:
                    self._hand_over_again()
                    raise
            else:
                self._leave_wait()

    def is_writing(self) -> bool:
        """Tell whether a thread is inside a write, or about to be."""
        return self._flusher != 0

    def is_broken(self) -> bool:
        """Tell whether nothing more can be written."""
        return self._broken

    def end(self, deadline: float | None) -> bool:
        """Write everything that is queued, and refuse everything from then on.

        Args:
            deadline: in :func:`time.monotonic` seconds; ``None``: wait as long as it takes.

        Returns:
            ``False`` if a thread was still writing at the deadline; nothing is refused then.
        """
        while True:
            self.flush(deadline)
            left = _left(deadline)
            with self._lock:
                if not (self._flusher or self._queue or self._batch):
                    self._broken = True
                    return True
                if left == 0:
                    return False
                if not self._flusher:
                    continue
                bell = self._moved.hang()
                self._waiting += 1
            try:
                bell.acquire(timeout=-1 if left is None else left)
            finally:
                with self._lock:
                    self._waiting -= 1

    def fail(self) -> None:
        """Drop the queue and refuse everything from now on."""
        with self._lock:
            self._broken = True
            self._queue.clear()
            self._batch.clear()
            self._batched = self._undropped = 0
            self._flushed = self._queued
            self._moved.ring()

    def forget_after_fork(self) -> None:
        """Write nothing more, in a forked child: what is queued is the parent's to write."""
        renew(self._lock)
        self._flusher = 0
        self.fail()

    def _write_past_queue(self, data: Buffer, end: int) -> Frame | None:
        """Write, as the flusher of an empty queue, a frame that is not in it.

        Nearly every frame goes this way, and it costs half of the way through the queue.

        Returns:
            ``None`` if that was all. Otherwise we are still the flusher, and the frame,
            or what is left of it, stands first in the queue.
        """
        try:
            written = self._outlet.write_some((data,))
            with self._lock:
                if written == len(data) and not self._queue:
                    # In this order: an interrupt can come behind the call.
                    self._flushed, self._in_flight, self._flusher = end, 0, 0
                    self._outlet.forget_written()
                    if self._waiting:
                        self._moved.ring()
                    return None
            return self._count_past_queue(data, end, written)
        except BaseException as error:
            if not self._in_flight:  # Ctrl-C, after what was written is counted
                with self._lock:
                    if self._waiting:
                        self._moved.ring()
                raise
            failure = self._failure(error)
            if failure is error:
                self._count_past_queue(data, end, self._outlet.written())
            raise failure from failure.__cause__

    def _count_past_queue(self, data: Buffer, end: int, written: int) -> Frame | None:
        """Count what was written, and queue what was not; see :meth:`_write_past_queue`."""
        with self._lock:
            left = len(data) - written
            frame = Frame([memoryview(data)[written:]], end)
            frame.started = written > 0
            # Stores and one call: an interrupt comes before them all, or behind them.
            if left and not self._broken:
                self._flushed, self._in_flight = end - left, 0
                self._queue.appendleft(frame)
            else:
                self._flushed, self._in_flight = end, 0
            self._outlet.forget_written()
            if self._queue and not left:
                self._drop_written()
            if not (left or self._queue):
                if self._waiting:
                    self._moved.ring()
                self._flusher = 0
                return None
        return frame

    def _write(self, buffers: Sequence[Buffer]) -> int:
        """Write some bytes, as the flusher; whatever goes wrong ends all writing.

        Raises:
            SessionClosedError: the stream is broken.
        """
        try:
            return self._outlet.write_some(buffers)
        except BaseException as error:
            raise self._failure(error) from None

    def _failure(self, error: BaseException) -> BaseException:
        """Return what to raise for an error of a write: itself if writing may go on.

        Otherwise the error ends all writing.
        """
        if isinstance(error, OSError):
            self.fail_with(error)
            return _broken(error)
        return error  # an interrupt, such as Ctrl-C; it is known what went out

    def _wait_for_turn(self, mark: int, deadline: float | None) -> None:
        """Wait until flushing is free, and take it, unless it is no longer needed."""
        me = threading.get_ident()
        bell = None
        counted = False
        with self._outlet.handler_waits():
            try:
                while True:
                    left = _left(deadline)
                    with self._lock:
                        wanted = self._flushed < mark and not self._broken
                        if not (wanted and self._flusher) or left == 0:
                            if wanted and not self._flusher:
                                self._flusher = me
                            self._waiting, counted = self._waiting - counted, False
                            self._moved.take_down(bell)
                            return
                        bell = self._moved.hang()
                        self._waiting, counted = self._waiting + (not counted), True
                    bell.acquire(timeout=-1 if left is None else left)
            finally:
                if counted:  # an interrupt
                    with self._lock:
                        self._waiting -= 1

    def _give_up(self, frame: Frame) -> None:
        """Say why a frame is not out; withdraw it if nothing of it is."""
        with self._lock:
            if self._broken:
                raise _broken()
            if self._flushed >= frame.end:
                return
            withdrawn = not frame.started and frame.end > self._in_flight
            if withdrawn:
                self._withdraw(frame, in_write=bool(self._in_flight))
        self._leave_wait()
        raise WriteTimeoutError(withdrawn)

    def _leave_wait(self) -> None:
        """Hand the queue over if the flushing was passed to a thread that did not want it."""
        with self._lock:
            stuck = bool(self._queue) and not self._flusher and not self._waiting
        if stuck:
            self._on_backlog()

    def _flush(self, deadline: float | None, mark: int, *, may_block: bool) -> None:
        """Write as the flusher, up to ``mark`` at least.

        We may still be the flusher when this returns: then some of the queue is left.
        """
        while True:
            with self._lock:
                batch = self._next_batch(mark, may_block)
            if batch is None:
                return
            try:
                written = self._write(batch)
                self._written(written)
            except SessionClosedError:
                return  # said to on_error; senders see that the stream is broken
            except BaseException:
                if self._in_flight:  # as in _write_past_queue
                    self._written(self._outlet.written())
                raise
            if not written:
                if not may_block or self._flushed >= mark:
                    return
                try:
                    if not self._outlet.wait_for_room(_left(deadline)):
                        return
                except OSError as error:
                    self.fail_with(error)
                    return

    def _next_batch(self, mark: int, may_block: bool) -> list[memoryview] | None:
        """Return what to write next; ``None``: enough is written."""
        queue = self._queue
        if not queue or (self._waiting and self._flushed >= mark):
            if self._waiting:
                self._moved.ring()
            self._flusher = 0  # last: until then an interrupt has us hand over
            return None
        if not may_block and self._flushed >= mark:
            return None  # what others go on adding is theirs to write
        frame = queue[0]
        if len(queue) == 1:
            self._in_flight = frame.end
            return frame.views
        batch: list[memoryview] = []
        for frame in queue:
            batch += frame.views
            if len(batch) >= _BATCH:
                break
        self._in_flight = frame.end
        return batch

    def _written(self, count: int) -> None:
        with self._lock:
            # One step: an interrupt finds these bytes in flight, or still to be dropped.
            self._undropped, self._in_flight = count, 0
            self._outlet.forget_written()
            self._drop_written()
            if count and self._waiting:
                self._moved.ring()

    def _hand_over(self) -> None:
        with self._lock:
            if self._undropped:  # an interrupt came
                self._drop_written()
            # So it is, unless an interrupt came before a frame past the queue was written.
            first = self._queue[0] if self._queue else None
            left_of_first = 0 if first is None else sum(map(len, first.views))
            end = self._queued - self._batched if first is None else first.end
            if self._waiting:
                self._moved.ring()
            self._flushed, self._in_flight, self._flusher = end - left_of_first, 0, 0
            left = bool(self._queue) and not self._waiting
        if left:
            self._on_backlog()

    def _hand_over_again(self) -> None:
        """Do what an interrupt, such as Ctrl-C, has kept us from doing."""
        if self._flusher == threading.get_ident():
            self._hand_over()
        else:
            self._leave_wait()

    def fail_with(self, error: Exception) -> None:
        """End all writing: a write has failed, here or behind the descriptor."""
        with self._lock:
            first, self._broken = not self._broken, True
            if self._flusher == threading.get_ident():
                self._flusher = 0
        self.fail()
        if first:
            self._on_error(error)


def _broken(cause: BaseException | None = None) -> SessionClosedError:
    error = SessionClosedError("the peer no longer reads: the stream is broken")
    error.__cause__ = cause
    return error


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
