"""What the engine knows of the session it works for."""

from __future__ import annotations

import weakref

from ._log import log_error, log_warning
from ._signatures import parameters_of
from .exceptions import SessionClosedError, text_of
from .handlers import Handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .peer import IpcPeer
    from .session import IpcSession
    from .transports.base import Transport

__all__ = ["SessionHost"]


class SessionHost:
    """What the engine knows of its session; it does not keep the session alive."""

    def __init__(self, session: IpcSession, peer: IpcPeer, transport: Transport) -> None:
        self._session = weakref.ref(session)
        self._own = session._registries
        self._peers = peer._registries
        self._peer = peer
        self._transport = transport

    def session(self) -> IpcSession:
        session = self._session()
        if session is None:
            raise SessionClosedError("the session was dropped without being closed")
        return session

    def request_handlers(self, cls: type) -> tuple[Handler, ...]:
        own = self._own.requests.find(cls)
        return own + self._peers.requests.find(cls) if self._peers.requests else own

    def message_handlers(self, cls: type) -> tuple[Handler, ...]:
        own = self._own.messages.find(cls)
        return own + self._peers.messages.find(cls) if self._peers.messages else own

    def report(self, error: BaseException) -> None:
        cls = type(error)
        try:
            for handler in self._own.exceptions.find(cls) + self._peers.exceptions.find(cls):
                taken = (
                    handler.function(error, self._session())
                    if handler.second
                    else handler.function(error)
                )
                if taken is not NotImplemented:
                    return
        except BaseException as failure:
            log_error("an on_exception handler failed", failure)
        log_error(f"{cls.__name__} in a session: {text_of(error)}", error)

    def warn(self, text: str) -> None:
        log_warning(text)

    def closed_error(self, what: str) -> SessionClosedError:
        describe = getattr(self._transport, "closed_error", None)
        if describe is None:
            return SessionClosedError(what)
        error: SessionClosedError = describe(what)
        return error

    def ended(self) -> None:
        session = self._session()
        if session is not None:
            self._peer.forget(session)
        for function in [*self._own.closes(last=True), *self._peers.closes()]:
            self.call_close(session, function, self.report)

    @staticmethod
    def call_close(
        session: IpcSession | None,
        function: Callable[..., Any],
        report: Callable[[BaseException], None] | None = None,
    ) -> None:
        parameters = parameters_of(function)
        try:
            if parameters is None:
                _call_unreadable(function, session)
            elif any(p.is_required for p in parameters.positional):
                function(session)
            else:
                function()
        except BaseException as error:
            if report is None:
                raise
            report(error)


def _call_unreadable(function: Callable[..., Any], session: IpcSession | None) -> None:
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
