"""Which handler takes which message, and what a handler may know about its request."""

from __future__ import annotations

import functools
import inspect
import math
import sys
import threading
import time
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Union

from .exceptions import RequestCancelledError
from .messages import Message

if TYPE_CHECKING:
    from .engine.serving import Served
    from .protocol.envelopes import RequestId
    from .session import IpcSession

__all__ = ["Handler", "HandlerRegistry", "RequestContext", "current_request"]


MessageTypes = Union[type[Message], types.UnionType]
"""What ``@session.on_request(...)`` may be given: a message class, or ``A | B``."""

ExceptionTypes = Union[type[BaseException], types.UnionType]
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
        return math.inf if deadline is None else max(0.0, deadline - time.monotonic())

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
        with self._lock:
            kept = tuple(handler for handler in self._handlers if handler.function != function)
            if len(kept) == len(self._handlers):
                raise ValueError(f"{_name(function)} is not registered with {self._kind}")
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
        first, second = _parameters(function, self._kind)
        taken = first if target is None else target
        types = self._types(taken)
        if not types and taken is not None and not _is_any(taken, self._base):
            raise TypeError(
                f"{self._kind}: the first parameter of {_name(function)} is annotated "
                f"{taken!r}, which is not a {self._base.__name__} type"
            )
        with self._lock:
            self._handlers = (*self._handlers, Handler(function, types, second, inline))
            self._by_type = {}

    def _types(self, annotation: Any) -> tuple[type, ...]:
        return _types_of(annotation, self._base)


def check_function(function: Any, kind: str) -> None:
    """Refuse what can't be called here.

    Raises:
        TypeError: it is no function, or a coroutine function.
    """
    if not callable(function):
        raise TypeError(f"{kind} takes a function or a type, not {function!r}")
    call = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004
    for candidate in (function, call):
        if inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate):
            raise TypeError(
                f"{kind}: {_name(function)} is a coroutine function, and streamipc has no event "
                "loop to run it in: write a plain function; it runs on a thread of its own and may "
                "block, or call asyncio.run() in it"
            )


def _parameters(function: Any, kind: str) -> tuple[Any, str]:
    """Return the first parameter's annotation (or None) and what the second one is."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return None, ""  # a builtin that tells nothing about itself
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    required = [p for p in positional if p.default is p.empty]
    rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not (positional or rest) or len(required) > 2 or keywords:
        raise TypeError(
            f"{kind}: {_name(function)} must take the message, and if it likes the context, "
            "as positional parameters, and no other that is required"
        )
    if not positional:
        return None, ""
    first = positional[0].annotation
    first = _resolve(first, function)
    if isinstance(first, NameError):
        raise TypeError(
            f"{kind}: the annotation {positional[0].annotation!r} of {_name(function)} can't "
            f"be resolved ({first}); register with the type, as in @session.{kind}(MyMessage)"
        ) from first
    if first is inspect.Parameter.empty:
        first = None
    return first, _second(positional[1], function) if len(positional) > 1 else ""


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _second(parameter: inspect.Parameter, function: Any) -> str:
    """Return what a handler's second parameter is to be given."""
    annotation = parameter.annotation
    resolved = _resolve(annotation, function)
    if not isinstance(resolved, NameError):
        parts = [part for part in typing.get_args(resolved) if part is not type(None)]
        annotation = parts[0] if _is_union(resolved) and len(parts) == 1 else resolved
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
    return "context" if is_context or parameter.default is parameter.empty else ""


def _resolve(annotation: Any, function: Any) -> Any:
    """Return an annotation without quotes in it, or the error that one gave, as NameError."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        found = _evaluate(annotation, function)
        # It may have quotes of its own, inside of those that __future__.annotations gave it.
        return found if found == annotation else _resolve(found, function)
    if isinstance(annotation, typing.TypeVar):
        bound = _resolve(annotation.__bound__, function)
        return annotation if bound is annotation.__bound__ else bound
    if _is_union(annotation):
        parts = [_resolve(part, function) for part in typing.get_args(annotation)]
        errors = [part for part in parts if isinstance(part, NameError)]
        return errors[0] if errors else Union[tuple(parts)]
    return annotation


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


def _evaluate(annotation: str, function: Any) -> Any:
    """Return what an annotation in quotes names, or the error that it gave, as NameError."""
    plain = inspect.unwrap(function)
    while isinstance(plain, functools.partial):
        plain = inspect.unwrap(plain.func)
    if not inspect.isroutine(plain):
        plain = type(plain).__call__
    plain = getattr(plain, "__func__", plain)
    namespace = dict(getattr(plain, "__globals__", {}))
    # Classes defined inside a function stand in the frame that is registering.
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith("streamipc."):
        frame = frame.f_back
    namespace.update(frame.f_locals)
    if inspect.isfunction(plain):
        for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True):
            with suppress(ValueError):  # a name that is given its value later
                namespace[name] = cell.cell_contents
    try:
        return eval(annotation, namespace)
    except Exception as error:
        return NameError(f"{type(error).__name__}: {error}")


def _types_of(annotation: Any, base: type) -> tuple[type, ...]:
    """Return the types that an annotation names; empty: any."""
    if annotation is None or annotation is base or annotation is Any:
        return ()
    origin = typing.get_origin(annotation)
    if _is_union(annotation):
        parts = [_types_of(part, base) for part in typing.get_args(annotation)]
        return tuple(cls for part in parts for cls in part) if all(parts) else ()
    if isinstance(annotation, typing.TypeVar):
        return _types_of(annotation.__bound__, base)
    cls = origin or annotation
    if isinstance(cls, type) and issubclass(cls, base):
        return (cls,)
    return ()


def _is_any(annotation: Any, base: type) -> bool:
    """Tell whether an annotation without types means any message, rather than a mistake."""
    if annotation in (base, Any, object) or isinstance(annotation, typing.TypeVar):
        return True
    if _is_union(annotation):
        return base in typing.get_args(annotation)
    return False


def _is_type(target: Any) -> bool:
    return isinstance(target, type) or typing.get_origin(target) is not None


def _name(function: Any) -> str:
    return f"{getattr(function, '__qualname__', function)!s}()"
