"""What every codec is made of, and the error that finds its way up.

A codec knows one annotation: how its values are written as plain JSON values, and read
back. Codecs are built once per annotation and call each other; nothing on the way asks
an annotation again.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from .._shown import shown
from ..messages import Message, default_wire_name, wire_name_of
from ._json_text import located, quote, told

__all__ = ["Bad", "Codec", "describe", "expected", "has_tag", "type_name", "unexpected"]

NOTHING: frozenset[type] = frozenset()


class Bad(Exception):
    """A value does not fit. Each container adds its step while this passes through.

    So the path costs nothing as long as all is well. It never leaves the serializer.
    """

    def __init__(self, text: str, *steps: str | int) -> None:
        super().__init__(text)
        self.text = text
        self.steps: list[str | int] = list(steps)

    def is_as(self, other: Bad) -> bool:
        """Say whether the other one tells the same."""
        return self.text == other.text and self.steps == other.steps

    def again(self) -> Bad:
        """Return the same error, to be raised at another time: with steps of its own."""
        return type(self)(self.text, *self.steps)

    def located(self, root: str) -> str:
        """Return the text behind its path, which starts with ``root``."""
        return f"{located(root, self.steps)}: {self.text}"


class Codec(ABC):
    """How the values of one annotation are written and read.

    Attributes:
        name: of the type, for error texts.
        cls: the class that values have at run time, if it is one.
        exact: if a value's class is this one, it is written and read as it is.
        shapes: the classes of the plain values that :meth:`decode` reads.
        plain: in a union, written without a tag, even where others have its shapes.
        tag: what marks a value in a union where its shape alone does not; empty where
            the methods below have their own way.
    """

    __slots__ = ("cls", "exact", "name", "plain", "shapes", "tag")

    is_lazy = False
    """Whether it only stands for another codec, which is found when it is needed."""

    def __init__(
        self,
        name: str,
        cls: type | None = None,
        *,
        exact: type | None = None,
        shapes: Iterable[type] = NOTHING,
        plain: bool = False,
        tag: str = "",
    ) -> None:
        self.name = name
        self.cls = cls
        self.exact = exact
        self.shapes = frozenset(shapes)
        self.plain = plain
        self.tag = tag

    @abstractmethod
    def encode(self, value: Any) -> Any:
        """Return ``value`` as a plain value. Raises: Bad."""
        ...

    @abstractmethod
    def decode(self, data: Any) -> Any:
        """Return the value that ``data`` stands for. Raises: Bad."""
        ...

    def encode_untagged(self, value: Any) -> Any:
        """Return ``value`` as a plain value that can't be taken for a tagged object of another."""
        return self.encode(value)

    def accepts(self, value: Any) -> bool:
        """Say whether ``value`` is meant for this member of a union, at first sight."""
        return isinstance(value, self.cls) if self.cls is not None else False

    def claims(self, data: dict[str, Any]) -> bool:
        """Say whether a tagged object is one of this codec's."""
        return self.tag in data

    def wrap(self, value: Any) -> Any:
        """Return ``value`` as a tagged object."""
        return {self.tag: self.encode(value)}

    def unwrap(self, data: dict[str, Any]) -> Any:
        """Return the value of a tagged object that has this codec's tag."""
        if len(data) != 1:
            raise Bad(f"an object with {quote(self.tag)} has no other keys")
        return self.decode(data[self.tag])

    def text_key(self) -> Codec | None:
        """Return the codec by which values are the keys of objects, if they can be."""
        return None

    def children(self) -> Iterable[Codec]:
        """Return the codecs that this one calls."""
        return ()


def has_tag(data: Iterable[str]) -> bool:
    """Say whether an object with these keys could be taken for a tagged one."""
    return any(key[:1] == "$" for key in data)


def type_name(cls: type) -> str:
    """Return the name of a class as error texts and tags have it."""
    if issubclass(cls, Message) and "__wire_name__" in cls.__dict__:
        return wire_name_of(cls)
    return cls.__qualname__ if cls.__module__ == "builtins" else default_wire_name(cls)


def unexpected(name: str, value: Any) -> Bad:
    """Return the error of a sender whose ``value`` is not what the annotation says."""
    return Bad(f"expected {name}, got {shown(value, 60)}")


def expected(name: str, data: Any) -> Bad:
    """Return the error of a receiver whose ``data`` is not what the annotation says."""
    return Bad(f"expected {name}, got {describe(data)}")


def describe(data: Any) -> str:
    """Return a plain value as the peer wrote it, or what it is where that is long."""
    if isinstance(data, str):
        return told(data)
    if isinstance(data, list):
        return f"an array of {len(data)}"
    if isinstance(data, dict):
        if not data:
            return "an empty object"
        keys = ", ".join(told(key[:30]) for key in itertools.islice(data, 4))
        return f"an object with {keys}{', …' if len(data) > 4 else ''}"
    if data is None or isinstance(data, bool):
        return {None: "null", True: "true", False: "false"}[data]
    if type(data) is int and data.bit_length() > 16_384:
        return shown(data)
    return repr(data)[:60]
