"""Control frames: what the peer may need to know, sent by whoever comes to know it.

Whoever that is may be reading, so nothing here waits and nothing raises. What there is no room for
is written by a task, which may wait. Owns nothing: the queue is the writer's, what the peer does
not read of its refusals is counted by ``flow``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..exceptions import IpcError
from ..protocol.envelopes import ErrorResponse
from .error_answers import error_frame
from .tasks import WriteTask

if TYPE_CHECKING:
    from ..serializers.base import Buffer
    from .caller_runs import CallerRuns
    from .errors import ErrorReports
    from .flow import Flow
    from .thread_pool import ThreadPool
    from .writer import Writer

__all__ = ["ControlSender"]


class ControlSender:
    """See the module's text.

    Args:
        encode: returns the frame of an envelope.
        writer: takes the frames.
        flow: counts those that wait.
        pool: runs the task that may wait for room.
        errors: told where an envelope can't be sent.
        until: returns when the session, which is closing, is to be done; ``None``: no limit.
    """

    def __init__(
        self,
        encode: Callable[[Any], list[Buffer]],
        writer: Writer,
        flow: Flow,
        pool: ThreadPool | CallerRuns,
        errors: ErrorReports,
        until: Callable[[], float | None],
    ) -> None:
        self._encode = encode
        self._writer = writer
        self._flow = flow
        self._pool = pool
        self._errors = errors
        self._until = until

    def send(self, envelope: Any) -> None:
        """Send an envelope; never blocks, never raises."""
        try:
            if isinstance(envelope, ErrorResponse):
                frame = error_frame(self._encode, envelope)
            else:
                frame = self._encode(envelope)
        except IpcError as error:  # a serializer of the user's own
            self._errors.report_soon(error)
        else:
            size = len(frame[0])
            self._writer.offer(frame)
            # If not, the peer sends what must be refused, and does not read the refusals.
            if frame and self._flow.refusal_waits(frame, size):
                self.write_backlog()  # a thread that writes already may end without a word

    def write_backlog(self) -> None:
        """Have somebody write what is left, who may wait for room."""
        until = self._until()
        if until is not None and time.monotonic() >= until:
            return  # the session's time for its end is over, and with it what is left
        self._pool.submit_writing(WriteTask(self._flush_backlog, self._errors.report))

    def flush(self) -> None:
        """Write what is queued; where the session is closing, no longer than that may take."""
        self._writer.flush(self._until())

    def _flush_backlog(self) -> None:
        self.flush()
        self._flow.written()
