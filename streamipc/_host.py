"""What the engine knows of the session it works for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ._forks import forgets
from ._log import LogLimit, log_error, log_warning
from ._registering import Registering, Registries
from ._signals import interrupt_in
from .engine.lifetimes import is_exiting
from .exceptions import SessionClosedError, text_of
from .handlers import Handler, positional_of, signature_of

if TYPE_CHECKING:
    from .engine.caller_runs import CallerRuns
    from .engine.transport import TransportAdapter

__all__ = ["SessionHost"]


class Peer(Protocol):
    """What a session's peer does with it."""

    _registries: Registries

    def keep(self, session: Any, /) -> None:
        """Keep it alive: it is being started."""
        ...

    def forget(self, session: Any, /) -> None:
        """Let it go: it has ended."""
        ...

    def caller_runs(self) -> Sequence[CallerRuns]:
        """Return those of its sessions without threads."""
        ...


class SessionHost:
    """What the engine knows of its session; it keeps neither that nor the peer alive.

    Else the thread that reads would: it knows the engine, and the peer keeps its sessions. Nor does
    it keep the session's handlers, which mostly are functions that use the session.
    """

    def __init__(self, session: Registering, peer: Peer, adapter: TransportAdapter) -> None:
        self._session = weakref.ref(session)
        self._own = weakref.ref(session._registries)
        self._held: Registries | None = None  # those of a session that nobody holds any more
        self._peers = peer._registries
        self._peer = weakref.ref(peer)
        self._adapter = adapter
        self._limit = LogLimit()
        forgets(self._limit)
        self._unsaid = ["that the end makes handlers fail"]  # taken out once it was logged

    def session(self) -> Any:
        session = self._session()
        if session is None:
            raise SessionClosedError("the session was dropped without being closed")
        return session

    def hold(self, registries: Registries) -> None:
        """Keep the handlers of a session that is going: it has still to be ended."""
        self._held = registries

    def _handlers(self) -> Registries:
        return self._own() or self._held or Registries()

    def request_handlers(self, cls: type) -> tuple[Handler, ...]:
        own = (self._own() or self._handlers()).requests.find(cls)
        theirs = self._peers.requests
        return own + theirs.find(cls) if theirs.handlers else own

    def message_handlers(self, cls: type) -> tuple[Handler, ...]:
        own = (self._own() or self._handlers()).messages.find(cls)
        theirs = self._peers.messages
        return own + theirs.find(cls) if theirs.handlers else own

    def report(self, error: BaseException) -> None:
        cls = type(error)
        try:
            for handler in self._handlers().exceptions.find(cls) + self._peers.exceptions.find(cls):
                taken = (
                    handler.function(error, self._session())
                    if handler.second
                    else handler.function(error)
                )
                if taken is not NotImplemented:
                    return
        except BaseException as failure:
            if interrupt_in(failure) is not None:
                raise
            log_error("an on_exception handler failed", failure)
        if getattr(error, "_ended", None) is self._unsaid:
            # Hundreds of notifications may wait whose handlers notify back.
            self._log_ended(error)
            return
        left_out = self._limit.admit((cls, _place_of(error)))
        if left_out is None:
            return
        more = f" ({left_out:,} more like it were not logged)" if left_out else ""
        log_error(f"{cls.__name__} in a session: {text_of(error)}{more}", error)

    def _log_ended(self, error: BaseException) -> None:
        try:
            self._unsaid.pop()  # one step: of several threads one logs it
        except IndexError:
            return
        log_warning(
            f"a handler failed because its session has ended ({text_of(error)}): "
            "further failures for this reason are not logged"
        )

    def warn(self, text: str) -> None:
        log_warning(text)

    def closed_error(self, what: str, is_silent: bool) -> SessionClosedError:
        describe = self._adapter.silent_error if is_silent else self._adapter.closed_error
        error = describe(what)
        # This session's, for report().
        error._ended = self._unsaid  # type: ignore[attr-defined]
        return error

    def started(self) -> None:
        session, peer = self._session(), self._peer()
        if session is not None and peer is not None:
            peer.keep(session)

    def caller_runs(self) -> Sequence[CallerRuns]:
        peer = self._peer()
        return () if peer is None else peer.caller_runs()

    def ended(self, was_closed: bool) -> None:
        session, peer = self._session(), self._peer()
        if session is not None and peer is not None:
            peer.forget(session)
        left_out = self._limit.left_out()
        if left_out:
            log_warning(f"{left_out:,} more errors of a session that has ended were not logged")
        for function in [*self._handlers().closes(last=True), *self._peers.closes()]:
            self.call_close(session, function, self.report)
        # Behind the callbacks: one that has asked for ``session.closed_error`` knows.
        if session is not None and peer is not None and not (was_closed or is_exiting()):
            self._log_death()

    def _log_death(self) -> None:
        """Log how a child died that we did not end, where no error has told anybody."""
        text = self._adapter.untold_death()
        if text:
            log_warning(text)

    @staticmethod
    def call_close(
        session: object,
        function: Callable[..., Any],
        report: Callable[[BaseException], None] | None = None,
    ) -> None:
        signature = signature_of(function)
        try:
            if signature is None:
                _call_unreadable(function, session)
            elif any(p.default is p.empty for p in positional_of(signature)):
                function(session)
            else:
                function()
        except BaseException as error:
            if report is None:
                raise
            report(error)


def _place_of(error: BaseException) -> object:
    """Return the line where an error was raised."""
    traceback = error.__traceback__
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code, traceback.tb_lineno


def _call_unreadable(function: Callable[..., Any], session: object) -> None:
    """Call a function that doesn't tell what it takes, such as ``set.discard`` or ``set.clear``."""
    try:
        function(session)
    except TypeError as error:
        trace = error.__traceback__
        if trace is None or trace.tb_next is not None:
            raise  # in the midst of it
        refusal = error
    else:
        return
    # Written in C, so that there is no frame of its own: it takes no argument, as a rule.
    try:
        function()
    except TypeError:
        raise refusal from None
