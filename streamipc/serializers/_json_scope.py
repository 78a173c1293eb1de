"""Annotations: where their names are looked up, and which classes have which.

:func:`typing.get_type_hints` is not used, because it resolves all annotations of a class
or none, through and through. Here each one is resolved when it is first needed, one level
at a time: so a recursive alias ends, a name that can't be resolved spoils its own field
alone, and the error can say which.
"""

from __future__ import annotations

import builtins
import sys
import typing
from collections.abc import Mapping
from typing import Any

from .. import messages
from .._signals import let_through
from ._json_codec import Bad, Codec, type_name

__all__ = ["Scope", "Unresolved", "own_annotations"]


class Unresolved(Bad):
    """A name in an annotation is not defined, or not yet."""


def own_annotations(cls: type) -> Mapping[str, Any]:
    """Return the annotations that stand in the body of ``cls`` itself."""
    if sys.version_info >= (3, 14):  # pragma: no cover - not a version that is tested
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    # Of a class they are never inherited, since Python 3.10; built-in classes have none.
    made: Mapping[str, Any] = getattr(cls, "__annotations__", {})
    return made


class Scope:
    """The place where annotations of one class stand.

    Args:
        home: the class in whose body they are written.
        target: the class whose fields they describe: ``home`` or a subclass of it.
        bindings: what the type variables of ``home`` stand for.
    """

    __slots__ = ("_names", "bindings", "field", "home", "named", "target")

    def __init__(self, home: type, target: type, bindings: Mapping[Any, Codec]) -> None:
        self.home = home
        self.target = target
        self.bindings = bindings
        self.field = ""
        self.named: dict[Any, Codec] = {}
        self._names = _Names(home)

    def child(self, bindings: Mapping[Any, Codec]) -> Scope:
        """Return the same place with other variables: inside of a generic alias."""
        made = Scope(self.home, self.target, {**self.bindings, **bindings})
        made.field = self.field
        made.named = self.named
        return made

    def settled(self, field: str) -> Scope:
        """Return the same place for one thread: without what another is looking at."""
        made = Scope(self.home, self.target, self.bindings)
        made.field = field
        made.named = {key: codec for key, codec in self.named.copy().items() if not codec.is_lazy}
        return made

    def evaluate(self, annotation: str | typing.ForwardRef) -> Any:
        """Return what the text of an annotation means.

        The text is part of the program, never of a message.

        Raises:
            Unresolved: a name is not defined.
        """
        names: Mapping[str, Any] = self._names
        if isinstance(annotation, str):
            text = annotation
        else:
            text = annotation.__forward_arg__
            module = sys.modules.get(annotation.__forward_module__ or "")
            if module is not None:
                names = {**vars(module)}
        try:
            return eval(text.strip(), {"__builtins__": builtins}, names)
        except Exception as error:
            let_through(error)
            what = f"{error.name!r}" if isinstance(error, NameError) and error.name else repr(text)
            why = "" if isinstance(error, NameError) else f" ({type(error).__name__}: {error})"
            field = f".{self.field}" if self.field else ""
            raise Unresolved(
                f"can't resolve {what} in the annotation {text!r} of {type_name(self.home)}{field}"
                f"{why}: define or import it in the module {self.home.__module__!r}, outside of "
                "functions and of TYPE_CHECKING"
            ) from None


class _Names(dict[str, Any]):
    """The names that an annotation in the body of a class can use, nearest first.

    Those of the module stand before those of the class, as in :func:`typing.get_type_hints`:
    in ``date: date = None`` the annotation means the type, not the default.
    """

    def __init__(self, home: type) -> None:
        super().__init__()
        self._home = home

    def __missing__(self, name: str) -> Any:
        home = self._home
        for parameter in getattr(home, "__type_params__", ()):
            if parameter.__name__ == name:
                return parameter
        prefix, local, _ = home.__qualname__.rpartition("<locals>.")
        if local:
            found = _message_beside(home, f"{prefix}{local}{name}")
            if found is not None:
                return found
        module = messages.names_beside(home) or vars(builtins)
        if name in module:
            return module[name]
        if name in home.__dict__:
            return home.__dict__[name]
        if name == home.__name__:
            return home
        raise KeyError(name)


def _message_beside(home: type, qualname: str) -> type | None:
    """Return the message class that is defined in the same function as ``home``.

    The names of a function are gone when it has returned, but messages are registered.
    """
    for cls in list(messages._registry.values()):
        if cls.__qualname__ == qualname and cls.__module__ == home.__module__:
            return cls
    return None
