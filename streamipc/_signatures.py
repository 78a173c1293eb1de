"""Reads the signatures of handlers, without :mod:`inspect` where they are plain functions.

Importing that module takes as long as a third of a child's start.
"""

from __future__ import annotations

import sys
from types import FunctionType, MethodType, UnionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Parameter",
    "Parameters",
    "check_function",
    "is_class",
    "members_of",
    "name_of",
    "parameters_of",
    "resolve",
]

# The flags of code objects that inspect names CO_...
_VARARGS = 0x04
_COROUTINE = 0x80
_ASYNC_GENERATOR = 0x200


class Parameter:
    """A parameter that may be given by position.

    Attributes:
        name: what the function calls it.
        annotation: as it is written; ``None``: there is none.
        is_required: it has no default.
    """

    __slots__ = ("annotation", "is_required", "name")

    def __init__(self, name: str, annotation: Any, is_required: bool) -> None:
        self.name = name
        self.annotation = annotation
        self.is_required = is_required


class Parameters:
    """What a signature says.

    Attributes:
        positional: the parameters that may be given by position, in order.
        rest: it takes any number of further ones: ``*args``.
        needs_keywords: it has parameters that must be given by name.
    """

    __slots__ = ("needs_keywords", "positional", "rest")

    def __init__(self, positional: list[Parameter], rest: bool, needs_keywords: bool) -> None:
        self.positional = positional
        self.rest = rest
        self.needs_keywords = needs_keywords


def parameters_of(function: Any) -> Parameters | None:
    """Return the parameters that a caller has to give; ``None``: it doesn't tell."""
    plain, skipped = _plain(function)
    if plain is None:
        return _inspected(function)
    code = plain.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    keywords = names[code.co_argcount :]
    required = code.co_argcount - len(plain.__defaults__ or ())
    annotation = plain.__annotations__.get
    return Parameters(
        [
            Parameter(names[number], annotation(names[number]), number < required)
            for number in range(skipped, code.co_argcount)
        ],
        bool(code.co_flags & _VARARGS),
        any(name not in (plain.__kwdefaults__ or ()) for name in keywords),
    )


def _plain(function: Any) -> tuple[FunctionType | None, int]:
    """Return the function whose code tells all, and how many arguments are given already."""
    plain, skipped = function, 0
    if type(function) is MethodType:
        plain, skipped = function.__func__, 1
    if (
        type(plain) is not FunctionType
        or plain.__dict__  # such as __wrapped__ and __signature__
        or plain.__code__.co_argcount < skipped
        or sys.version_info >= (3, 14)  # annotations may not be readable yet
    ):
        return None, 0
    return plain, skipped


def _inspected(function: Any) -> Parameters | None:
    import inspect

    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return None
    empty = inspect.Parameter.empty
    return Parameters(
        [
            Parameter(p.name, None if p.annotation is empty else p.annotation, p.default is empty)
            for p in parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ],
        any(p.kind is p.VAR_POSITIONAL for p in parameters),
        any(p.kind is p.KEYWORD_ONLY and p.default is empty for p in parameters),
    )


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
            f"{kind}: {name_of(function)} is a method that no object is bound to yet, so it would "
            f"get the message as its first parameter: register it once there is an object, such "
            f"as by session.{kind}(self.{name}) in __init__()"
        )
    if not callable(function):
        raise TypeError(f"{kind} takes a function or a type, not {function!r}")
    if _is_coroutine_function(function):
        raise TypeError(
            f"{kind}: {name_of(function)} is a coroutine function, and streamipc has no event "
            "loop to run it in: write a plain function; it runs on a thread of its own and may "
            "block, or call asyncio.run() in it"
        )


def _is_unbound(function: Any) -> bool:
    """Tell whether it is a method as its class has it, decorated in the class body for one."""
    owner = str(getattr(function, "__qualname__", "")).rpartition(".")[0]
    if not owner or owner.endswith("<locals>") or getattr(function, "__self__", None) is not None:
        return False
    parameters = parameters_of(function)
    first = parameters.positional[:1] if parameters is not None else []
    return any(p.name in ("self", "cls") and p.annotation is None for p in first)


def _is_coroutine_function(function: Any) -> bool:
    plain, _ = _plain(function)
    if plain is not None:
        return bool(plain.__code__.co_flags & (_COROUTINE | _ASYNC_GENERATOR))
    import inspect

    call = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004
    return any(
        inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate)
        for candidate in (function, call)
    )


def resolve(annotation: Any, function: Any) -> Any:
    """Return an annotation without quotes in it, or the error that one gave, as NameError."""
    if annotation is None or is_class(annotation):
        return annotation
    if isinstance(annotation, str):
        found = _evaluate(annotation, function)
        # It may have quotes of its own, inside of those that __future__.annotations gave it.
        return found if found == annotation else resolve(found, function)
    if isinstance(annotation, NameError):
        return annotation
    if isinstance(annotation, UnionType) and all(map(is_class, annotation.__args__)):
        return annotation
    import typing

    if isinstance(annotation, typing.ForwardRef):
        return resolve(annotation.__forward_arg__, function)
    if isinstance(annotation, typing.TypeVar):
        bound = resolve(annotation.__bound__, function)
        return annotation if bound is annotation.__bound__ else bound
    members = members_of(annotation)
    if members:
        parts = [resolve(part, function) for part in members]
        errors = [part for part in parts if isinstance(part, NameError)]
        return errors[0] if errors else typing.Union[tuple(parts)]
    return annotation


def members_of(annotation: Any) -> tuple[Any, ...]:
    """Return what a union is made of; empty: it is none."""
    if isinstance(annotation, UnionType):
        return annotation.__args__
    typing = sys.modules.get("typing")
    if typing is not None and typing.get_origin(annotation) is typing.Union:
        return typing.get_args(annotation)  # type: ignore[no-any-return]
    return ()


def is_class(annotation: Any) -> bool:
    """Tell whether it is a class; to ``isinstance``, Python 3.10 says that list[int] is one."""
    return issubclass(type(annotation), type)


def _evaluate(annotation: str, function: Any) -> Any:
    """Return what an annotation in quotes names, or the error that it gave, as NameError."""
    plain = _plain(function)[0] or _innermost(function)
    namespace = dict(getattr(plain, "__globals__", {}))
    # Classes defined inside a function stand in the frame that is registering.
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith("streamipc."):
        frame = frame.f_back
    namespace.update(frame.f_locals)
    if isinstance(plain, FunctionType):
        for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True):
            try:
                namespace[name] = cell.cell_contents
            except ValueError:
                pass  # a name that is given its value later
    try:
        return eval(annotation, namespace)
    except Exception as error:
        return NameError(f"{type(error).__name__}: {error}")


def _innermost(function: Any) -> Any:
    """Return the function that a decorated, partial or callable object calls in the end."""
    import functools
    import inspect

    plain = inspect.unwrap(function)
    while isinstance(plain, functools.partial):
        plain = inspect.unwrap(plain.func)
    if not inspect.isroutine(plain):
        plain = type(plain).__call__
    return getattr(plain, "__func__", plain)


def name_of(function: Any) -> str:
    """Return the function's name for the text of an error."""
    return f"{getattr(function, '__qualname__', function)!s}()"
