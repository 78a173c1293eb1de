"""The closed vocabulary of what a body may ask the reader to build.

A pickle names a builder as a global of this module and calls it (``STACK_GLOBAL``,
``REDUCE``). The reader never looks such a name up in a module: it takes the builder
from :data:`VOCABULARY`, and nothing else can be named. The name of this module and
those of the builders are part of the format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..exceptions import SerializationError
from ..messages import message_type
from ._native_layout import layout_of

__all__ = ["MODULE", "VOCABULARY", "Builder", "need"]

MODULE = __name__


class Builder:
    """Names a way to rebuild a value; the writer pickles it, the reader calls ``build``.

    Args:
        name: on the wire.
        build: called with what the peer sent. It must check the types of its arguments,
            allocate no more than they take, and change nothing that exists. ``None``:
            a method ``build_<name>`` of :class:`~._native_admitted.Admitted`.
    """

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any] | None) -> None:
        self.name = name
        self.build = build
        VOCABULARY[name] = self
        # The pickler makes sure that what it writes as a global is found here. A function in the
        # place of the attribute could be interrupted by a signal, whose error pickle hides.
        globals()[name] = self

    def __call__(self) -> Any:
        """Never called; without it the pickler would not write ``REDUCE``."""
        raise TypeError(f"builder {self.name!r} is a name, not a function")


VOCABULARY: dict[str, Builder] = {}


def need(value: Any, *types: type) -> Any:
    """Return ``value``, whose exact type must be one of ``types``."""
    if type(value) not in types:
        raise SerializationError(f"a {types[0].__name__} is needed, not a {type(value).__name__}")
    return value


def _build_message(name: object, state: object) -> Any:
    return layout_of(message_type(need(name, str))).build(state)


MESSAGE = Builder("message", _build_message)
ENUM = Builder("enum", None)
FLAG = Builder("flag", None)
RECORD = Builder("record", None)
NAMEDTUPLE = Builder("namedtuple", None)
OBJECT = Builder("object", None)
