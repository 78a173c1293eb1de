"""What stands at run time for names of :mod:`typing`, which type checkers see instead.

Importing that module takes as long as all that a child needs of this package for its first
reply, most of it for regular expressions. A program that has type variables of its own has
imported it anyway; then the real ``Generic`` is used, see :class:`_Alias`.
"""

from __future__ import annotations

from types import GenericAlias

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["Generic", "Protocol", "TypeVar", "dataclass_transform", "overload"]


def TypeVar(name: str, *_: Any, **__: Any) -> str:  # noqa: N802 - the name that it stands for
    """Return something to put between brackets."""
    return name


def overload(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which the one after the last overload replaces."""
    return function


def dataclass_transform(**_: Any) -> Callable[[type], type]:
    """Return a decorator that changes nothing."""
    return lambda cls: cls


class Protocol:
    """A base class that says nothing."""


class _Alias(GenericAlias):
    """A base class with arguments in brackets: ``class SayHello(Request[Greeting])``."""

    def __mro_entries__(self, bases: Iterable[Any]) -> tuple[Any, ...]:
        if not self.__parameters__:
            return (self.__origin__,)
        # A subclass that has type variables of its own, Request[list[T]], is a generic
        # class like any other.
        from typing import Generic as RealGeneric

        others = (getattr(base, "__origin__", base) for base in bases if base is not self)
        if any(RealGeneric in getattr(other, "__mro__", ()) for other in others):
            return (self.__origin__,)
        return (self.__origin__, RealGeneric)


class Generic:
    """Makes the classes that derive from it directly take arguments in brackets."""

    __slots__ = ()
    if TYPE_CHECKING:
        __parameters__: tuple[Any, ...]
    else:
        __parameters__ = ()  # without an annotation, which get_type_hints() would read

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__parameters__" not in cls.__dict__:  # put there by the real one
            cls.__parameters__ = ()
            for base in cls.__dict__.get("__orig_bases__", ()):
                if getattr(base, "__origin__", None) is Generic:
                    cls.__parameters__ = base.__args__

    def __class_getitem__(cls, arguments: Any) -> Any:
        real = getattr(super(), "__class_getitem__", None)
        if real is not None:
            return real(arguments)
        if cls is not Generic and Generic not in cls.__bases__:
            raise TypeError(f"{cls!r} is not a generic class")
        return _Alias(cls, arguments)
