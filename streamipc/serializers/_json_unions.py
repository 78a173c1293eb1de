"""Codecs of Optional and Union.

A member of a union is written as it would be alone if nothing else in the union is
written as the same kind of JSON value. Where that is not so, plain types (text, numbers,
lists, dictionaries with text keys) still are, and the others get a tag. Reading takes
tags first; a value without one belongs to the plain type of its kind, and only if there
is none to the first other member that takes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from ._json_codec import Bad, Codec, expected, unexpected

__all__ = ["Optional", "Union"]

_MAX_TRIES = 4
"""How deep attempts may stand inside attempts: each level can double the time."""


class _Attempts(threading.local):
    depth = 0
    given_up = False
    """Whether one of them would have stood too deep."""


_attempts = _Attempts()


class Optional(Codec):
    """A type or ``None``."""

    __slots__ = ("_inner",)

    nullable = True

    def __init__(self, inner: Codec) -> None:
        super().__init__(f"{inner.name} | None")
        self._inner = inner

    def encode(self, value: Any) -> Any:
        if value is None or type(value) is self._inner.exact:
            return value
        try:
            return self._inner.encode(value)
        except Bad as bad:
            self._widen(bad)
            raise

    def decode(self, data: Any) -> Any:
        if data is None or type(data) is self._inner.exact:
            return data
        try:
            return self._inner.decode(data)
        except Bad as bad:
            self._widen(bad)
            raise

    def _widen(self, bad: Bad) -> None:
        """Say in the error that ``None`` would have been fine as well."""
        head = f"expected {self._inner.name}, got "
        if not bad.steps and bad.text.startswith(head):
            bad.text = f"expected {self.name}, got {bad.text[len(head) :]}"

    def children(self) -> Iterable[Codec]:
        return (self._inner,)


class Union(Codec):
    """One of several types."""

    __slots__ = ("_by_shape", "_members", "_tagged", "nullable")

    def __init__(self, members: Sequence[Codec], nullable: bool) -> None:
        names = [member.name for member in members] + ["None"] * nullable
        super().__init__(" | ".join(names), shapes={s for m in members for s in m.shapes})
        self._members = tuple(members)
        self.nullable = nullable
        self._tagged = {
            id(member)
            for member in members
            if not member.plain
            and any(other.shapes & member.shapes for other in members if other is not member)
        }
        self._by_shape = {shape: self._best(shape) for shape in self.shapes}

    def _best(self, shape: type) -> list[Codec]:
        """Return the members that an untagged value of this kind may belong to."""
        fitting = [member for member in self._members if shape in member.shapes]
        ranks: list[Callable[[Codec], bool]] = [
            # float reads integers as well, but an integer is first of all an int.
            lambda member: member.plain and (member.exact in (None, shape)),
            lambda member: member.plain,
        ]
        for rank in ranks:
            best = [member for member in fitting if rank(member)]
            if best:
                return best
        return fitting

    def encode(self, value: Any) -> Any:
        if value is None and self.nullable:
            return None
        members = [member for member in self._members if member.accepts(value)]
        if len(members) > 1:
            members = [m for m in members if m.cls is type(value)] or members
        if len(members) == 1:
            return self._encode_as(members[0], value)
        made = self._attempt(members, lambda member: self._encode_as(member, value))
        if made is _attempts:
            raise unexpected(self.name, value)
        return made

    def _encode_as(self, member: Codec, value: Any) -> Any:
        if id(member) in self._tagged:
            return member.wrap(value)
        made = member.encode(value)
        if type(made) is dict and member.tag == "$map" and has_tag(made):
            return member.wrap(value)
        return made

    def decode(self, data: Any) -> Any:
        if data is None and self.nullable:
            return None
        if type(data) is dict and has_tag(data):
            members = [member for member in self._members if member.claims(data)]
            if "$type" in data:
                # Of a class and its base, the one that is named; of two bases, either.
                named = [member for member in members if member.name == data["$type"]]
                members = [*named, *members][:1]
            return self._first(members, data, lambda member: member.unwrap(data))
        members = self._by_shape.get(type(data), [])
        if len(members) > 1 and type(data) is dict:
            # By the keys, at one look: trying one after the other at each level of a tree
            # would take time without end.
            members = [member for member in members if suits(member, data)]
        return self._first(members, data, lambda member: member.decode(data))

    def _first(self, members: Sequence[Codec], data: Any, decode: Callable[[Codec], Any]) -> Any:
        if len(members) == 1:
            return decode(members[0])
        made = self._attempt(members, decode)
        if made is _attempts:
            raise expected(self.name, data)
        return made

    def _attempt(self, members: Sequence[Codec], action: Callable[[Codec], Any]) -> Any:
        """Return what ``action`` makes of the first member that takes it."""
        if _attempts.depth == 0:
            _attempts.given_up = False
        if members and _attempts.depth >= _MAX_TRIES:
            _attempts.given_up = True
            return _attempts
        _attempts.depth += 1
        try:
            for member in members:
                with suppress(Bad):
                    return action(member)
        finally:
            _attempts.depth -= 1
        if _attempts.given_up:
            raise Bad(f"can't tell which of {self.name} is meant: too many unions in each other")
        return _attempts

    def children(self) -> Iterable[Codec]:
        return self._members


def has_tag(data: dict[str, Any]) -> bool:
    """Say whether ``data`` could be taken for a tagged object."""
    return any(key[:1] == "$" for key in data)


def suits(member: Codec, data: dict[str, Any]) -> bool:
    """Say whether the keys of ``data`` are those that ``member`` has."""
    check = getattr(member, "suits", None)
    return True if check is None else bool(check(data))
