"""Codecs of types that list their values: Enum, Flag and Literal."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from ._json_codec import Bad, Codec, describe, expected, type_name, unexpected
from ._json_scalars import BOOL, FLOAT, INT, NONE, STR

__all__ = ["PLAIN_LITERALS", "LiteralCodec", "enum_codec"]

_PLAIN_VALUES = (str, int, float, bool)


class _Named(Codec):
    """What is tagged with the name of its class."""

    __slots__ = ("_type",)

    def __init__(self, cls: type[enum.Enum], shapes: Iterable[type]) -> None:
        super().__init__(cls.__qualname__, cls, shapes=shapes)
        self._type = type_name(cls)

    def claims(self, data: dict[str, Any]) -> bool:
        return data.get("$enum") == self._type

    def wrap(self, value: Any) -> Any:
        return {"$enum": self._type, "value": self.encode(value)}

    def unwrap(self, data: dict[str, Any]) -> Any:
        if len(data) != 2 or "value" not in data:
            raise Bad(f'expected {{"$enum": "{self._type}", "value": …}}')
        return self.decode(data["value"])


class EnumCodec(_Named):
    """Members by value, or by name if a value is not plain."""

    __slots__ = ("_by_name", "_members")

    def __init__(self, cls: type[enum.Enum]) -> None:
        by_name = not all(
            # Not NaN, which equals nothing, and not None, which Optional has taken.
            type(member._value_) in _PLAIN_VALUES and member._value_ == member._value_
            for member in cls
        )
        members: dict[Any, enum.Enum] = {}
        for name, member in cls.__members__.items():
            value = name if by_name else member._value_
            members[type(value), value] = member
        super().__init__(cls, {shape for shape, _ in members})
        self._by_name = by_name
        self._members = members

    def encode(self, value: Any) -> Any:
        if not isinstance(value, self.cls or object):
            raise unexpected(self.name, value)
        member: Any = value
        return member._name_ if self._by_name else member._value_

    def decode(self, data: Any) -> Any:
        # Not by calling the class: that would run a _missing_() on what the peer says.
        if type(data) in self.shapes:
            member = self._members.get((type(data), data))
            if member is not None:
                return member
        known = ", ".join([describe(value) for _, value in self._members][:8])
        more = ", …" if len(self._members) > 8 else ""
        raise expected(f"{self.name} ({known}{more})", data)

    def text_key(self) -> Codec | None:
        if self.shapes == {str}:
            return self
        return _EnumKey(self)


class _EnumKey(Codec):
    """Members as the keys of objects: integers by their digits, others by name."""

    __slots__ = ("_codec", "_members")

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec.name)
        self._codec = codec
        by_digits = codec.shapes == {int}
        self._members: dict[str, Any] = {
            str(int(member.value)) if by_digits else name: member
            for name, member in getattr(codec.cls, "__members__", {}).items()
        }

    def encode(self, value: Any) -> Any:
        written = self._codec.encode(value)
        return str(int(written)) if self._codec.shapes == {int} else value._name_

    def decode(self, data: Any) -> Any:
        try:
            return self._members[data]
        except KeyError:
            raise expected(self.name, data) from None


class FlagCodec(_Named):
    """Flags by their integer, which may be any combination of the members."""

    __slots__ = ("_mask",)

    def __init__(self, cls: type[enum.Flag]) -> None:
        super().__init__(cls, [int])
        self._mask = 0
        for member in cls.__members__.values():
            self._mask |= max(member._value_, 0)  # a member of -1 means all that there are

    def encode(self, value: Any) -> Any:
        if not isinstance(value, self.cls or object):
            raise unexpected(self.name, value)
        member: Any = value
        number = member._value_
        if number < 0:  # such a member, or ~Bits.A of an IntFlag on Python 3.10
            number &= self._mask
        if number & ~self._mask:
            raise Bad(f"{number} has bits that no member of {self.name} has")
        return int(number)

    def decode(self, data: Any) -> Any:
        # Bits without a member are refused: enum would remember each such number for ever.
        if type(data) is int and not data & ~self._mask and self.cls is not None:
            with suppress(ValueError):
                return self.cls(data)
        raise expected(f"{self.name} (an integer of the bits {self._mask:#x})", data)

    def text_key(self) -> Codec | None:
        return _FlagKey(self)


class _FlagKey(Codec):
    __slots__ = ("_codec",)

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec.name)
        self._codec = codec

    def encode(self, value: Any) -> Any:
        return str(self._codec.encode(value))

    def decode(self, data: Any) -> Any:
        key = INT.text_key()
        return self._codec.decode(key.decode(data) if key is not None else data)


_enums: dict[tuple[str, str], Codec] = {}
"""The class of that module and name that was met last; one defined anew takes its place."""


def enum_codec(cls: type[enum.Enum]) -> Codec:
    """Return the codec of an enumeration."""
    key = (cls.__module__, cls.__qualname__)
    codec = _enums.get(key)
    if codec is None or codec.cls is not cls:
        codec = FlagCodec(cls) if issubclass(cls, enum.Flag) else EnumCodec(cls)
        _enums[key] = codec
    return codec


class LiteralCodec(Codec):
    """One of the values that the annotation lists."""

    __slots__ = ("_codecs", "_types", "_values")

    def __init__(self, values: tuple[Any, ...], codecs: list[Codec]) -> None:
        self._values: dict[Any, Any] = {}
        self._codecs: dict[Any, Codec] = {}
        for value, codec in zip(values, codecs, strict=True):
            data = codec.encode(value)
            self._values.setdefault((type(data), data), value)
            self._codecs.setdefault((type(value), value), codec)
        self._types = frozenset(map(type, values))
        super().__init__(
            f"Literal[{', '.join(map(repr, values))}]",
            shapes={cls for cls, _ in self._values},
            plain=all(codec.plain for codec in codecs),
        )

    def accepts(self, value: Any) -> bool:
        # The type first: hashing a value of another type may take as long as it is large.
        return type(value) in self._types and (type(value), value) in self._codecs

    def encode(self, value: Any) -> Any:
        if not self.accepts(value):
            raise unexpected(self.name, value)
        return self._codecs[type(value), value].encode(value)

    def decode(self, data: Any) -> Any:
        if type(data) in self.shapes and (type(data), data) in self._values:
            return self._values[type(data), data]
        raise expected(self.name, data)

    def claims(self, data: dict[str, Any]) -> bool:
        return any(codec.claims(data) for codec in self.children() if not codec.plain)

    def wrap(self, value: Any) -> Any:
        codec = self._codecs[type(value), value]
        return codec.encode(value) if codec.plain else codec.wrap(value)

    def unwrap(self, data: dict[str, Any]) -> Any:
        for codec in self.children():
            if not codec.plain and codec.claims(data):
                made = codec.unwrap(data)
                if self.accepts(made):
                    return made
        raise expected(self.name, data)

    def text_key(self) -> Codec | None:
        return self if self.shapes == {str} else None

    def children(self) -> list[Codec]:
        return list({id(codec): codec for codec in self._codecs.values()}.values())


PLAIN_LITERALS: dict[type, Codec] = {
    str: STR,
    int: INT,
    bool: BOOL,
    float: FLOAT,
    type(None): NONE,
}
