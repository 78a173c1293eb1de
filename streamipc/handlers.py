"""Which handler takes which message, and what a handler may know about its request."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import time
import typing
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import FunctionType, SimpleNamespace, UnionType
from typing import Any, Protocol, TypeVar, Union

import streamipc

from ._forks import look_for_fork, renew
from ._signals import let_through
from .exceptions import RequestCancelledError
from .messages import Message
from .protocol.envelopes import RequestId

__all__ = ["Handler", "HandlerRegistry", "RequestContext", "current_request"]


MessageTypes = type[Message] | UnionType
"""What ``@session.on_request(...)`` may be given: a message class, or ``A | B``."""

ExceptionTypes = type[BaseException] | UnionType
"""What ``@session.on_exception(...)`` may be given."""


class Handled(Protocol):
    """One message of the peer's, while it is being handled, as the engine has it."""

    id: RequestId | None
    metadata: Mapping[str, str] | None
    deadline: float | None
    over: bool
    """The handler has returned."""

    @property
    def session(self) -> streamipc.IpcSession:
        """The session that it came by."""
        ...

    def asks_cancelled(self) -> bool:
        """Tell whether nobody waits for the answer."""
        ...

    def on_cancel(self, callback: Callable[[], object], /) -> None:
        """Have ``callback`` called when nobody does any more."""
        ...

    def progress(self, item: Any, /) -> None:
        """Send an item."""
        ...


class RequestContext:
    """What a handler may know about, and do with, the message it handles.

    A handler gets it as its second parameter, and :func:`current_request` gives it to
    code further down. For a notification ``request_id`` is ``None``, nobody can cancel
    it, and ``progress`` goes nowhere.
    """

    __slots__ = ("_served",)

    def __init__(self, served: Handled) -> None:
        self._served = served

    @property
    def session(self) -> streamipc.IpcSession:
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


current: ContextVar[RequestContext | Handled | None] = ContextVar(
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


def has_returned(handled: RequestContext | Handled) -> bool:
    """Tell whether its handler has returned, and left code that runs in a copy of its context."""
    return (handled._served if isinstance(handled, RequestContext) else handled).over


SLOW_SECONDS = 0.001
"""A handler that took longer than this runs on another thread than the I/O thread the next time.
Half of the engine's ``TICK``: what is quicker would hardly be noticed by the standby either."""

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
        self.is_slow = False  # learnt: it is offloaded to a thread that does not read
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
        self._lock = threading.RLock()
        self.handlers: tuple[Handler, ...] = ()
        self._by_type: dict[type, tuple[Handler, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self.handlers)

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
        if (
            target is not None
            and not _is_any(target, self._base)
            and not _types_of(target, self._base)
        ):
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
            kept = tuple(handler for handler in self.handlers if handler.function != function)
            if len(kept) == len(self.handlers):
                raise ValueError(f"{_name_of(function)} is not registered with {self._kind}")
            self.handlers = kept
            self._by_type = {}

    def find(self, cls: type) -> tuple[Handler, ...]:
        """Return the handlers that take instances of ``cls``, in order of registration."""
        by_type = self._by_type
        found = by_type.get(cls)
        if found is None:
            found = by_type[cls] = tuple(
                handler
                for handler in self.handlers
                if not handler.types or issubclass(cls, handler.types)
            )
        return found

    def _add(self, function: Any, target: Any, inline: bool) -> None:
        check_function(function, self._kind)
        first, second = _arguments(function, self._kind)
        taken = first if target is None else target
        types = _types_of(taken, self._base)
        if not types and not _is_any(taken, self._base):
            raise TypeError(
                f"{self._kind}: the first parameter of {_name_of(function)} is annotated "
                f"{taken!r}, which is not a {self._base.__name__} type"
            )
        look_for_fork()
        with self._lock:
            self.handlers = (*self.handlers, Handler(function, types, second, inline))
            self._by_type = {}


# Signatures


def signature_of(function: Any) -> inspect.Signature | None:
    """Return what ``function`` takes; ``None``: a function in C that doesn't tell."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def positional_of(signature: inspect.Signature) -> list[inspect.Parameter]:
    """Return the parameters that may be given by position, in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in signature.parameters.values() if parameter.kind in kinds]


def check_function(function: Any, kind: str) -> None:
    """Raise if ``function`` can't be a handler.

    Args:
        function: what was given.
        kind: the decorator's name, for the text.

    Raises:
        TypeError: it can't be called, or is a coroutine function or a method of no object.
    """
    if isinstance(function, classmethod) or (callable(function) and _is_unbound(function)):
        name = getattr(function, "__name__", "handler")
        raise TypeError(
            f"{kind}: {_name_of(function)} is a method that no object is bound to yet, so it would "
            f"get the message as its first parameter: register it once there is an object, such "
            f"as by session.{kind}(self.{name}) in __init__()"
        )
    if not callable(function):
        raise TypeError(f"{kind} takes a function or a type, not {function!r}")
    if _is_coroutine_function(function):
        raise TypeError(
            f"{kind}: {_name_of(function)} is a coroutine function, and streamipc has no event "
            "loop to run it in: write a plain function; it runs on a thread of its own and may "
            "block, or call asyncio.run() in it"
        )


def _is_unbound(function: Any) -> bool:
    """Tell whether it is a method as its class has it, decorated in the class body for one."""
    owner = str(getattr(function, "__qualname__", "")).rpartition(".")[0]
    if not owner or owner.endswith("<locals>") or getattr(function, "__self__", None) is not None:
        return False
    signature = signature_of(function)
    first = positional_of(signature)[:1] if signature is not None else []
    return any(p.name in ("self", "cls") and p.annotation is p.empty for p in first)


def _is_coroutine_function(function: Any) -> bool:
    call = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004
    return any(
        inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate)
        for candidate in (function, call)
    )


def _arguments(function: Any, kind: str) -> tuple[Any, str]:
    """Return the first parameter's annotation (or ``Any``) and what the second one is."""
    signature = signature_of(function)
    if signature is None:
        return Any, ""
    positional = positional_of(signature)
    others = [p for p in signature.parameters.values() if p not in positional]
    required = [p for p in positional if p.default is p.empty]
    if (
        not (positional or any(p.kind is p.VAR_POSITIONAL for p in others))
        or len(required) > 2
        or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in others)
    ):
        raise TypeError(
            f"{kind}: {_name_of(function)} must take the message, and if it likes the context, "
            "as positional parameters, and no other that is required"
        )
    if not positional:
        return Any, ""
    try:
        first = _resolved(positional[0], function)
    except NameError as error:
        raise TypeError(
            f"{kind}: the annotation {positional[0].annotation!r} of {_name_of(function)} can't "
            f"be resolved ({error}); register with the type, as in @session.{kind}(MyMessage)"
        ) from error
    return first, _second(positional[1], function) if len(positional) > 1 else ""


def _second(parameter: inspect.Parameter, function: Any) -> str:
    """Return what a handler's second parameter is to be given."""
    try:
        annotation = _resolved(parameter, function)
    except NameError:
        annotation = parameter.annotation
    parts = [part for part in _members_of(annotation) if part is not type(None)]
    if len(parts) == 1:
        annotation = parts[0]
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


def _types_of(annotation: Any, base: type) -> tuple[type, ...]:
    """Return the types that an annotation names; empty: any."""
    if annotation is base or annotation is Any:
        return ()
    members = _members_of(annotation)
    if members:
        parts = [_types_of(part, base) for part in members]
        return tuple(cls for part in parts for cls in part) if all(parts) else ()
    cls = typing.get_origin(annotation) or annotation
    return (cls,) if isinstance(cls, type) and issubclass(cls, base) else ()


def _is_any(annotation: Any, base: type) -> bool:
    """Tell whether an annotation without types means any message, rather than a mistake."""
    if annotation is base or annotation is object or annotation is Any:
        return True
    return isinstance(annotation, TypeVar) or base in _members_of(annotation)


def _is_type(target: Any) -> bool:
    return isinstance(target, (type, UnionType)) or typing.get_origin(target) is not None


# Annotations


def _resolved(parameter: inspect.Parameter, function: Any) -> Any:
    """Return the type that a parameter is annotated with; ``Any`` if it is not.

    Only this annotation is looked at: others may name what is imported for type checkers alone.

    Raises:
        NameError: something in it is not defined, or can't be evaluated.
    """
    if parameter.annotation is parameter.empty:
        return Any
    return _resolve(parameter.annotation, *_names_for(function))


def _resolve(annotation: Any, names: dict[str, Any], local_names: dict[str, Any]) -> Any:
    alone: Any = SimpleNamespace(__annotations__={"it": annotation})
    try:
        hint = typing.get_type_hints(alone, names, local_names)["it"]
    except Exception as error:
        let_through(error)
        raise NameError(f"{type(error).__name__}: {error}") from error
    if isinstance(hint, TypeVar) and hint.__bound__ is not None:
        return _resolve(hint.__bound__, names, local_names)
    members = _members_of(hint)
    if members:
        return Union[tuple(_resolve(member, names, local_names) for member in members)]
    return hint


def _names_for(function: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the global and the local names that annotations of ``function`` may use."""
    plain = _innermost(function)
    # Classes defined inside a function stand in the frame that is registering.
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith("streamipc."):
        frame = frame.f_back
    local_names = dict(frame.f_locals)
    if isinstance(plain, FunctionType):
        for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True):
            try:
                local_names[name] = cell.cell_contents
            except ValueError:
                pass  # a name that is given its value later
    return getattr(plain, "__globals__", {}), local_names


def _innermost(function: Any) -> Any:
    """Return the function that a decorated, partial or callable object calls in the end."""
    plain = inspect.unwrap(function)
    while isinstance(plain, functools.partial):
        plain = inspect.unwrap(plain.func)
    if not inspect.isroutine(plain):
        plain = type(plain).__call__
    return getattr(plain, "__func__", plain)


def _members_of(annotation: Any) -> tuple[Any, ...]:
    """Return what a union is made of; empty: it is none."""
    is_union = typing.get_origin(annotation) in (Union, UnionType)
    return typing.get_args(annotation) if is_union else ()


def _name_of(function: Any) -> str:
    """Return the function's name for the text of an error."""
    return f"{getattr(function, '__qualname__', function)!s}()"
