"""What becomes of each frame that was read: envelope -> action.

Owns the count of what has come. The leader calls :meth:`Dispatcher.apply`, so
there is one thread at a time, and no lock. None of the actions may block or call the user's code:
what would is queued as a task.

Invariant: a frame stays first in ``Connection.frames`` until its action is done. An interrupt, such
as Ctrl-C, may come out at any call in here; whoever comes next applies the frame once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .._signals import interrupt_in
from ..exceptions import with_traceback_as_text
from ..protocol.framing import Junk

if TYPE_CHECKING:
    from ..protocol.connection import Connection
    from .junk import JunkLines

__all__ = ["Dispatcher"]

_BURST = 128
"""Frames after which deadlines are seen to in between. A read may bring 8,000, and those that are
broken take 20 microseconds each."""

_LATE = 0.05
"""Seconds by which a deadline may have been noticed late."""


class Dispatcher:
    """See the module's text.

    Args:
        connection: what was read, decoded.
        actions: for each kind of event, what is called with it.
        short_cuts: for a kind of envelope, what applies the most frequent of that kind at once, and
            returns ``False`` for others.
        junk: bytes between frames.
        report_soon: told where an action fails.
        look_at_clock: fails requests whose time is over, in the midst of a burst.
    """

    def __init__(
        self,
        connection: Connection,
        actions: Mapping[type, Callable[[Any], object]],
        short_cuts: Mapping[type, Callable[[Any], bool]],
        junk: JunkLines,
        report_soon: Callable[[Exception], object],
        look_at_clock: Callable[[], object],
    ) -> None:
        self._connection = connection
        self._actions = actions
        self._short_cuts = short_cuts
        self._junk = junk
        self._report_soon = report_soon
        self._look_at_clock = look_at_clock
        self._count = 0  # of frames, and of pieces of junk

    @property
    def frames_received(self) -> int:
        """How many have come."""
        return self._count - self._junk.pieces

    def apply(self) -> None:
        """Apply what was read, frame by frame; as the leader."""
        connection, junk, actions = self._connection, self._junk, self._actions
        frames, receive, short_cut = connection.frames, connection.receive, self._short_cuts.get
        while frames:
            decoded = connection.current
            if decoded is None:
                decoded = connection.decode()
            if junk.waits and type(decoded) is not Junk:
                junk.end_line()
            try:
                short = short_cut(type(decoded))
                if short is None or not short(decoded):
                    event = receive(decoded)
                    if event is not None:
                        actions[type(event)](event)
            except Exception as error:
                if interrupt_in(error) is not None:
                    raise
                # Such as an id that can't be hashed, of a serializer of the user's own:
                # whatever one frame does, the next ones are read.
                self._report_soon(with_traceback_as_text(error))
            self._count = count = self._count + 1
            # As Connection.applied() does: this is run for each frame.
            connection.current = connection.note = None
            frames.popleft()
            if not count % _BURST:
                self._look_at_clock()

    def came_instead(self, seconds: float) -> str:
        """Return what to say of the junk that has come in so many seconds, to a late request."""
        # Where nothing else has come at all, what stood there before the request counts too.
        since = time.monotonic() - seconds - _LATE if self.frames_received else 0.0
        return self._junk.seen.text(since, self._connection.unfinished())
