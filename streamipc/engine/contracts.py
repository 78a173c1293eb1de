"""What an engine and its session know of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from .._registering import Registries
    from ..exceptions import SessionClosedError
    from ..handlers import Handler
    from .caller_runs import CallerRuns

__all__ = ["Host", "Stats"]


class Host(Protocol):
    """What the engine asks of the session that it works for."""

    def session(self) -> Any:
        """Return the session, for handlers that ask for it."""
        ...

    def request_handlers(self, cls: type, /) -> tuple[Handler, ...]:
        """Return the handlers for requests of this type, in order."""
        ...

    def message_handlers(self, cls: type, /) -> tuple[Handler, ...]:
        """Return the handlers for notifications of this type, in order."""
        ...

    def report(self, error: BaseException, /) -> None:
        """Hand an error that no caller gets to ``on_exception``, or to the log."""
        ...

    def warn(self, text: str, /) -> None:
        """Log a warning."""
        ...

    def closed_error(self, what: str, is_silent: bool, /) -> SessionClosedError:
        """Return the error for a session that has ended.

        Args:
            what: how it has, or what failed because of it.
            is_silent: nothing has come from the peer, and not because this side has closed.
        """
        ...

    def caller_runs(self) -> Sequence[CallerRuns]:
        """Return those of the peer's started sessions without threads; may be empty for one."""
        ...

    def hold(self, registries: Registries, /) -> None:
        """Keep the handlers of a session that nobody holds any more, until it has ended."""
        ...

    def started(self) -> None:
        """Learn, under the engine's lock, that the session is being started."""
        ...

    def ended(self, was_closed: bool, /) -> None:
        """Call the ``on_close`` callbacks; ``was_closed``: it ended because this side closed it."""
        ...


class Stats(NamedTuple):
    """A snapshot of a session's counters since it was made."""

    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    pending: int
    """Requests of ours that wait for their reply."""
    running: int
    """Handlers of ours that run, or wait for something of the session's."""
    late: int
    """Replies and items that came after their request had ended here."""
    junk: int
    """Bytes that were no frame."""
    dropped: int
    """Notifications thrown away because nobody took them from ``receive()``."""
    unreadable: int
    """Frames that could not be read, or broke a rule of the protocol."""
