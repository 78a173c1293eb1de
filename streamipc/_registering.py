"""The decorators that register handlers: the same on a session and on a peer."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from ._forks import look_for_fork, renew
from .handlers import ExceptionTypes, HandlerRegistry, MessageTypes, check_function
from .messages import Message

if sys.version_info >= (3, 11):
    from typing import overload
else:
    from typing_extensions import overload

__all__ = ["Registering", "Registries"]

F = TypeVar("F", bound=Callable[..., Any])


class Registries:
    """The handlers of a session, or of a peer."""

    def __init__(self) -> None:
        self.requests = HandlerRegistry(Message, "on_request")
        self.messages = HandlerRegistry(Message, "on_message")
        self.exceptions = HandlerRegistry(BaseException, "on_exception")
        self._lock = threading.RLock()  # guards the two below
        self._closes: list[Callable[..., Any]] = []
        self._closed = False

    def forget_after_fork(self) -> None:
        """Renew the locks, in a forked process."""
        for registry in (self.requests, self.messages, self.exceptions):
            registry.forget_after_fork()
        renew(self._lock)

    def add_close(self, function: Callable[..., Any]) -> bool:
        """Add a callback for the end of a session; return ``False`` if it is too late."""
        check_function(function, "on_close")
        look_for_fork()
        with self._lock:
            self._closes.append(function)
            return not self._closed

    def remove_close(self, function: Callable[..., Any]) -> None:
        """Remove it again."""
        look_for_fork()
        with self._lock:
            kept = [other for other in self._closes if other != function]
            if len(kept) == len(self._closes):
                raise ValueError(f"{function!r} is not registered with on_close")
            self._closes = kept

    def closes(self, *, last: bool = False) -> list[Callable[..., Any]]:
        """Return the callbacks; after the last call, further ones come too late."""
        with self._lock:
            self._closed = self._closed or last
            return list(self._closes)


class Registering:
    """What a session and a peer have in common: handlers can be registered with both."""

    def __init__(self) -> None:
        self._registries = Registries()

    def __reduce__(self) -> NoReturn:
        # As an argument of a multiprocessing.Process, for one.
        raise TypeError(
            f"a {type(self).__name__} belongs to this process and can't be sent to another "
            "(pickled): make one there"
        )

    @overload
    def on_request(
        self, target: MessageTypes | None = None, /, *, inline: bool = ...
    ) -> Callable[[F], F]: ...
    @overload
    def on_request(self, target: F, /, *, inline: bool = ...) -> F: ...
    def on_request(self, target: Any = None, /, *, inline: bool = False) -> Any:
        """Register a handler for requests; a decorator, with or without a type.

        The handler takes the message types that its first parameter is annotated with,
        or those given here. What it returns is the reply. See the manual for the rest.

        Args:
            target: the handler, or a message type.
            inline: run it on the thread that reads; for what never takes long.

        Raises:
            TypeError: it can't be a handler, such as a coroutine function, or a method
                that is decorated in its class body: no object is bound to it there.
        """
        return self._registries.requests.register(target, inline=inline)

    @overload
    def on_message(self, target: MessageTypes | None = None, /) -> Callable[[F], F]: ...
    @overload
    def on_message(self, target: F, /) -> F: ...
    def on_message(self, target: Any = None, /, *, inline: bool = False) -> Any:
        """Register a handler for notifications; a decorator as :meth:`on_request`.

        All that take a notification's type are called with it, in the order in which they
        were registered, the session's before the peer's. One that returns
        ``NotImplemented`` did not take it: if none does, it is kept for ``receive()``.

        Raises:
            TypeError: as :meth:`on_request`, and for ``inline=True``.
        """
        if inline:
            raise TypeError(
                "on_message: inline=True is for on_request() alone: notifications are handled one "
                "after the other, in the order sent, and never by the thread that reads"
            )
        return self._registries.messages.register(target)

    @overload
    def on_exception(self, target: ExceptionTypes | None = None, /) -> Callable[[F], F]: ...
    @overload
    def on_exception(self, target: F, /) -> F: ...
    def on_exception(self, target: Any = None, /) -> Any:
        """Register a handler for exceptions that no caller gets.

        It is called with the exception, and with the session if it has a second
        parameter. Without one they are logged (``logging.getLogger("streamipc")``).
        """
        return self._registries.exceptions.register(target)

    def on_close(self, target: F, /) -> F:
        """Register a function to be called when a session has ended.

        It is called with the session if it has a parameter.
        """
        self._registries.add_close(target)
        return target

    def off_request(self, function: Callable[..., Any]) -> None:
        """Take back a handler; ``ValueError`` if it is not registered here."""
        self._registries.requests.remove(function)

    def off_message(self, function: Callable[..., Any]) -> None:
        """Take back a handler; ``ValueError`` if it is not registered here."""
        self._registries.messages.remove(function)

    def off_exception(self, function: Callable[..., Any]) -> None:
        """Take back a handler; ``ValueError`` if it is not registered here."""
        self._registries.exceptions.remove(function)

    def off_close(self, function: Callable[..., Any]) -> None:
        """Take back a callback; ``ValueError`` if it is not registered here."""
        self._registries.remove_close(function)
