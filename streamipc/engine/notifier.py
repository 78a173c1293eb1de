"""Notifications of this side's.

Owns ``_stalled_at``: how many bytes were sent when a broadcast had no time left. Until more are
sent nothing is tried again. No lock: each of its stores stands by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .._forks import at_home
from ..exceptions import RequestTimeoutError, SessionClosedError
from ..protocol.envelopes import Notification
from .lifecycle import not_sent
from .lifetimes import park_at_exit
from .writer import WriteTimeoutError

if TYPE_CHECKING:
    from ..messages import Message
    from ..protocol.connection import Connection
    from ..serializers.base import Buffer
    from .lifecycle import Lifecycle
    from .send_gate import SendGate
    from .writer import Writer

__all__ = ["Notifier"]


class Notifier:
    """See the module's text.

    Args:
        send_gate: says who may send now.
        writer: takes the frames.
    """

    def __init__(
        self,
        connection: Connection,
        lifecycle: Lifecycle,
        send_gate: SendGate,
        writer: Writer,
    ) -> None:
        self._encode = connection.encode
        self._lifecycle = lifecycle
        self._send_gate = send_gate
        self._writer = writer
        self._write = writer.send
        self._stalled_at: int | None = None

    def notify(
        self,
        message: Message,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send a notification; return once it is with the operating system."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if not (at_home[0] and self._lifecycle.is_open):
            self._lifecycle.enter(message)
        self._send(message, self._encode(Notification(message, metadata)), deadline)

    def begin(self, message: Message) -> Callable[[float], None]:
        """Queue a notification if nothing waits, and write of it what there is room for.

        Returns:
            What sees it out, up to a deadline in :func:`time.monotonic` seconds; it raises as
            :meth:`notify`.

        Raises:
            RequestTimeoutError: the peer has read nothing since another one was not sent in time.
        """
        if not (at_home[0] and self._lifecycle.is_open):
            self._lifecycle.enter(message)
        frame = self._encode(Notification(message))
        writer = self._writer
        if self._stalled_at == writer.bytes_sent:
            writer.flush_some()  # without threads nobody else tries
            if self._stalled_at == writer.bytes_sent and not writer.is_idle():
                raise _not_in_time(message, withdrawn=True)
        offered = writer.is_idle()
        if offered:
            writer.offer(frame)

        def finish(deadline: float) -> None:
            try:
                if offered:
                    self._see_out(message, frame, deadline)
                else:
                    self._send(message, frame, deadline)
            except RequestTimeoutError:
                self._stalled_at = writer.bytes_sent
                raise

        return finish

    def _send(self, message: Message, frame: list[Buffer], deadline: float | None) -> None:
        if self._send_gate.closed and not self._send_gate.wait(deadline):
            raise _not_in_time(message, withdrawn=True)
        try:
            self._write(frame, deadline)
        except SessionClosedError:
            park_at_exit()
            raise not_sent(message, self._lifecycle.error()) from None
        except WriteTimeoutError as late:
            raise _not_in_time(message, late.withdrawn) from None

    def _see_out(self, message: Message, frame: list[Buffer], deadline: float) -> None:
        """Wait until a notification that was offered is with the operating system."""
        if self._send_gate.closed:
            self._send_gate.wait(deadline)
        if not self._writer.see_out(frame, deadline):
            raise _not_in_time(message, withdrawn=False)
        if frame and self._writer.is_broken():
            park_at_exit()
            raise not_sent(message, self._lifecycle.error())


def _not_in_time(message: Message, withdrawn: bool) -> RequestTimeoutError:
    fate = "was not sent" if withdrawn else "was not sent as a whole in time, and goes on"
    return RequestTimeoutError(f"{type(message).__wire_name__} {fate}: the peer does not read")
