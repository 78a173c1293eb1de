"""Which handler takes which message, and what a handler may know about its request."""

from __future__ import annotations

import sys
import threading
import time
from contextvars import ContextVar
from types import UnionType

from ._forks import look_for_fork, renew
from ._signatures import (
    check_function,
    is_class,
    members_of,
    name_of,
    parameters_of,
    resolve,
)
from .exceptions import RequestCancelledError
from .messages import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ._signatures import Parameter
    from .engine.serving import Served
    from .protocol.envelopes import RequestId
    from .session import IpcSession

__all__ = ["Handler", "HandlerRegistry", "RequestContext", "current_request"]


MessageTypes = type[Message] | UnionType
"""What ``@session.on_request(...)`` may be given: a message class, or ``A | B``."""

ExceptionTypes = type[BaseException] | UnionType
"""What ``@session.on_exception(...)`` may be given."""


class RequestContext:
    """What a handler may know about, and do with, the message it handles.

    A handler gets it as its second parameter, and :func:`current_request` gives it to
    code further down. For a notification ``request_id`` is ``None``, nobody can cancel
    it, and ``progress`` goes nowhere.
    """

    __slots__ = ("_served",)

    def __init__(self, served: Served) -> None:
        self._served = served

    @property
    def session(self) -> IpcSession:
        """The session that the message came by."""
        return self._served.session

    @property
    def request_id(self) -> RequestId | None:
        """The request's id, chosen by the caller's side; ``None`` for a notification."""
        return self._served.id

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the sender gave as ``metadata``; empty if nothing."""
        return self._served.metadata or {}

    @property
    def deadline(self) -> float | None:
        """When the caller gives up, in :func:`time.monotonic` seconds of this process.

        ``None``: never.
        """
        return self._served.deadline

    def time_remaining(self) -> float:
        """Return the seconds until the caller gives up: ``inf`` for never, at least 0."""
        deadline = self._served.deadline
        return float("inf") if deadline is None else max(0.0, deadline - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the reply any more.

        So it is once the caller cancelled, its deadline passed, or the session ended.
        """
        return self._served.asks_cancelled()

    def raise_if_cancelled(self) -> None:
        """Raise if nobody waits for the reply any more.

        Raises:
            RequestCancelledError: so it is.
        """
        if self._served.asks_cancelled():
            raise RequestCancelledError(f"request {self.request_id!r} was cancelled by its caller")

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` when the request is cancelled; at once if it already is.

        Several are called one after the other, in the order in which they were given.
        It is called from a thread of the session and should be quick; what it raises
        goes to ``on_exception``.
        """
        self._served.on_cancel(callback)

    def progress(self, item: Any) -> None:
        """Send ``item`` to the caller, if it takes any (``on_progress`` or ``stream``).

        Blocks while the caller has as many items as it is ready to hold.

        Args:
            item: a Message, or any value that the serializer carries.

        Raises:
            RequestCancelledError: the request was cancelled, or its handler has returned.
            SerializationError: the item can't be represented.
        """
        self._served.progress(item)


current: ContextVar[RequestContext | Served | None] = ContextVar(
    "streamipc.current_request", default=None
)
"""What the calling code handles; see :func:`current_request`, which makes the context of a
request that had no need of one yet."""


def current_request() -> RequestContext | None:
    """Return the context of the request that the calling code handles, or ``None``."""
    handled = current.get()
    if handled is None or isinstance(handled, RequestContext):
        return handled
    context = RequestContext(handled)
    current.set(context)
    return context


def has_returned(handled: RequestContext | Served) -> bool:
    """Tell whether its handler has returned, and left code that runs in a copy of its context."""
    return (handled._served if isinstance(handled, RequestContext) else handled).over


SLOW_SECONDS = 0.001
"""A handler that took longer than this is given to a worker the next time. Half of the
engine's ``TICK``: what is quicker would hardly be noticed by the standby either."""

QUICK_RUNS = 32
"""Runs in a row below :data:`SLOW_SECONDS` after which a slow handler counts as quick again."""


class Handler:
    """A function of the user's, with what its signature says about it.

    Args:
        function: called with the message, and a second argument if it takes one.
        types: message types it takes; empty: any.
        second: ``""``, ``"context"`` or ``"session"``: what the second argument is.
        inline: run it on the thread that reads, however long it took before.
    """

    __slots__ = ("function", "inline", "is_slow", "plain_type", "quick_runs", "second", "types")

    def __init__(
        self, function: Callable[..., Any], types: tuple[type, ...], second: str, inline: bool
    ) -> None:
        self.function = function
        self.types = types
        self.second = second
        self.inline = inline
        self.is_slow = False  # learnt: give it to a worker instead of the thread that reads
        self.quick_runs = 0  # since it last was slow
        self.plain_type: type | None = None  # of what it last returned: no generator

    def took(self, seconds: float) -> None:
        """Learn how long it takes: one slow run makes it slow, many quick ones quick again."""
        if seconds > SLOW_SECONDS:
            self.is_slow = True
            self.quick_runs = 0
        elif self.is_slow:
            self.quick_runs += 1
            if self.quick_runs >= QUICK_RUNS:
                self.is_slow = False


class HandlerRegistry:
    """An ordered list of handlers, looked up by message type.

    Registering and looking up may happen at the same time in different threads: the
    list is replaced as a whole, never changed in place. ``_lock`` guards the replacing.

    Args:
        base: what handlers of this registry take: ``Message`` or ``BaseException``.
        kind: the decorator's name, for error texts.
    """

    def __init__(self, base: type, kind: str) -> None:
        self._base = base
        self._kind = kind
        self._lock = threading.Lock()
        self._handlers: tuple[Handler, ...] = ()
        self._by_type: dict[type, tuple[Handler, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._handlers)

    def forget_after_fork(self) -> None:
        """Renew the lock, in a forked process."""
        renew(self._lock)

    def register(self, target: Any = None, *, inline: bool = False) -> Callable[..., Any]:
        """Serve as the decorator, in each of its forms.

        Args:
            target: the function, a type or union of types, or nothing.
            inline: see :class:`Handler`.

        Raises:
            TypeError: ``target`` is neither, or its signature can't be a handler's.
        """
        if target is not None and not _is_type(target):
            self._add(target, None, inline)
            return target  # type: ignore[no-any-return]
        if target is not None and not _is_any(target, self._base) and not self._types(target):
            raise TypeError(f"{self._kind}: {target!r} is not a {self._base.__name__} type")

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            self._add(function, target, inline)
            return function

        return decorate

    def remove(self, function: Callable[..., Any]) -> None:
        """Take back every registration of ``function``.

        Raises:
            ValueError: it is not registered here.
        """
        look_for_fork()
        with self._lock:
            kept = tuple(handler for handler in self._handlers if handler.function != function)
            if len(kept) == len(self._handlers):
                raise ValueError(f"{name_of(function)} is not registered with {self._kind}")
            self._handlers = kept
            self._by_type = {}

    def find(self, cls: type) -> tuple[Handler, ...]:
        """Return the handlers that take instances of ``cls``, in order of registration."""
        by_type = self._by_type
        found = by_type.get(cls)
        if found is None:
            found = by_type[cls] = tuple(
                handler
                for handler in self._handlers
                if not handler.types or issubclass(cls, handler.types)
            )
        return found

    def _add(self, function: Any, target: Any, inline: bool) -> None:
        check_function(function, self._kind)
        first, second = _arguments(function, self._kind)
        taken = first if target is None else target
        types = self._types(taken)
        if not types and taken is not None and not _is_any(taken, self._base):
            raise TypeError(
                f"{self._kind}: the first parameter of {name_of(function)} is annotated "
                f"{taken!r}, which is not a {self._base.__name__} type"
            )
        look_for_fork()
        with self._lock:
            self._handlers = (*self._handlers, Handler(function, types, second, inline))
            self._by_type = {}

    def _types(self, annotation: Any) -> tuple[type, ...]:
        return _types_of(annotation, self._base)


def _arguments(function: Any, kind: str) -> tuple[Any, str]:
    """Return the first parameter's annotation (or None) and what the second one is."""
    parameters = parameters_of(function)
    if parameters is None:
        return None, ""  # a builtin that tells nothing about itself
    positional = parameters.positional
    required = [parameter for parameter in positional if parameter.is_required]
    if not (positional or parameters.rest) or len(required) > 2 or parameters.needs_keywords:
        raise TypeError(
            f"{kind}: {name_of(function)} must take the message, and if it likes the context, "
            "as positional parameters, and no other that is required"
        )
    if not positional:
        return None, ""
    first = resolve(positional[0].annotation, function)
    if isinstance(first, NameError):
        raise TypeError(
            f"{kind}: the annotation {positional[0].annotation!r} of {name_of(function)} can't "
            f"be resolved ({first}); register with the type, as in @session.{kind}(MyMessage)"
        ) from first
    return first, _second(positional[1], function) if len(positional) > 1 else ""


def _second(parameter: Parameter, function: Any) -> str:
    """Return what a handler's second parameter is to be given."""
    annotation = parameter.annotation
    resolved = resolve(annotation, function)
    if not isinstance(resolved, NameError):
        parts = [part for part in members_of(resolved) if part is not type(None)]
        annotation = parts[0] if len(parts) == 1 else resolved
    if isinstance(annotation, str):
        # A name imported for type checkers alone: go by what it says.
        is_session = annotation.rpartition(".")[2].endswith("Session")
        is_context = annotation.rpartition(".")[2] == RequestContext.__name__
    else:
        bases = [cls.__name__ for cls in getattr(annotation, "__mro__", ())]
        is_session = "IpcSession" in bases
        is_context = annotation is RequestContext
    if is_session:
        return "session"
    # A parameter with a default is the handler's own business, unless it says otherwise.
    return "context" if is_context or parameter.is_required else ""


def _types_of(annotation: Any, base: type) -> tuple[type, ...]:
    """Return the types that an annotation names; empty: any."""
    if annotation is None or annotation is base or _is_typing_any(annotation):
        return ()
    if is_class(annotation):
        return (annotation,) if issubclass(annotation, base) else ()
    members = members_of(annotation)
    if members:
        parts = [_types_of(part, base) for part in members]
        return tuple(cls for part in parts for cls in part) if all(parts) else ()
    import typing

    if isinstance(annotation, typing.TypeVar):
        return _types_of(annotation.__bound__, base)
    cls = typing.get_origin(annotation)
    if isinstance(cls, type) and issubclass(cls, base):
        return (cls,)
    return ()


def _is_any(annotation: Any, base: type) -> bool:
    """Tell whether an annotation without types means any message, rather than a mistake."""
    if annotation is base or annotation is object or _is_typing_any(annotation):
        return True
    if is_class(annotation):
        return False
    import typing

    return isinstance(annotation, typing.TypeVar) or base in members_of(annotation)


def _is_typing_any(annotation: Any) -> bool:
    # Who has not imported typing can't have written its Any.
    typing = sys.modules.get("typing")
    return typing is not None and annotation is typing.Any


def _is_type(target: Any) -> bool:
    if is_class(target) or isinstance(target, UnionType):
        return True
    typing = sys.modules.get("typing")
    return typing is not None and typing.get_origin(target) is not None
