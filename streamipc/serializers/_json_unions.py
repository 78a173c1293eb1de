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
from typing import Any

from ._json_codec import Bad, Codec, expected, has_tag, unexpected
from ._json_scalars import from_numpy

__all__ = ["Optional", "Union", "forget_attempts"]


class _Attempts(threading.local):
    """What one thread has tried, while a value is tried with one member after the other.

    Without it, a union inside of a union inside of a union … would try each of its members
    again for each member of those around it: a number of times that doubles at each level.
    """

    depth = 0
    """How many attempts stand inside each other."""

    def __init__(self) -> None:
        self.results: dict[tuple[int, int], tuple[Any, Any, Bad | None]] = {}
        """By union and value: the value, so that its id stays its own, and what came of it."""


_attempts = _Attempts()

_trying: set[int] = set()
"""The threads with an attempt: to look here costs less than to look at ``_attempts``."""


def forget_attempts() -> None:
    """Take back what an attempt of this thread has left that was cut short by a signal's handler.

    What it remembers is of values that may be changed before they are written again.
    """
    if _trying:
        _trying.discard(threading.get_ident())
        _attempts.depth = 0
        _attempts.results = {}


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

    __slots__ = ("_by_shape", "_members", "_writers", "nullable")

    def __init__(self, members: Sequence[Codec], nullable: bool) -> None:
        names = [member.name for member in members] + ["None"] * nullable
        super().__init__(" | ".join(names), shapes={s for m in members for s in m.shapes})
        self._members = tuple(members)
        self.nullable = nullable
        self._writers = {id(member): self._writer_of(member) for member in members}
        self._by_shape = {shape: self._best(shape) for shape in self.shapes}

    def _writer_of(self, member: Codec) -> Callable[[Any], Any]:
        """Return what writes the values of a member: with a tag, where another has its shape."""
        others = (other for other in self._members if other is not member)
        if not member.plain and any(other.shapes & member.shapes for other in others):
            return member.wrap
        return member.encode_untagged if member.tag == "$map" else member.encode

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
        if not members:
            plain = from_numpy(value)
            if plain is None:
                raise unexpected(self.name, value)
            return self.encode(plain)
        if len(members) == 1 and not _trying:
            return self._writers[id(members[0])](value)
        return self._try(members, value, "encode")

    def decode(self, data: Any) -> Any:
        if data is None and self.nullable:
            return None
        if type(data) is dict and has_tag(data):
            members = [member for member in self._members if member.claims(data)]
            if "$type" in data:
                # Of a class and its base, the one that is named; of two bases, either.
                named = [member for member in members if member.name == data["$type"]]
                members = [*named, *members][:1]
            action = "unwrap"
        else:
            members = self._by_shape.get(type(data), [])
            if len(members) > 1 and type(data) is dict:
                # By the keys, at one look: trying one after the other takes longer.
                members = [member for member in members if suits(member, data)]
            action = "decode"
        if not members:
            raise expected(self.name, data)
        if len(members) == 1 and not _trying:
            return getattr(members[0], action)(data)
        return self._try(members, data, action)

    def _try(self, members: Sequence[Codec], value: Any, action: str) -> Any:
        """Return what comes of ``value`` with the first member that takes it.

        Args:
            members: at least one; if it is the only one, its error is that of the union.
            value: to write or to read.
            action: ``"encode"``, or the method that reads.
        """
        attempts = _attempts
        # Each list and object is at one place of what is read; a text may be at several, and
        # what is made of it, a bytearray, may be changed at one of them.
        remember = attempts.depth > 0 and (action == "encode" or type(value) in (list, dict))
        key = (id(self), id(value))
        if remember and key in attempts.results:
            _, made, bad = attempts.results[key]
            if bad is not None:
                raise bad.again()
            return made
        failure: Bad | None = None
        agreed = action == "encode" or len(members) == 1
        made = None
        depth = attempts.depth
        try:
            attempts.depth = depth + 1
            _trying.add(threading.get_ident())
            for member in members:
                try:
                    if action == "encode":
                        made = self._writers[id(member)](value)
                    else:
                        made = getattr(member, action)(value)
                    failure = None
                    break
                except Bad as bad:
                    agreed = agreed and (failure is None or failure.is_as(bad))
                    failure = bad
        finally:
            attempts.depth = depth
            if not depth:
                attempts.results = {}
                _trying.discard(threading.get_ident())
        if failure is not None and not agreed:
            failure = (unexpected if action == "encode" else expected)(self.name, value)
        if remember:
            attempts.results[key] = (value, made, failure and failure.again())
        if failure is None:
            return made
        try:
            raise failure
        finally:
            failure = None  # whose traceback has this frame: a cycle, with the value in it

    def children(self) -> Iterable[Codec]:
        return self._members


def suits(member: Codec, data: dict[str, Any]) -> bool:
    """Say whether the keys of ``data`` are those that ``member`` has."""
    check = getattr(member, "suits", None)
    return True if check is None else bool(check(data))
