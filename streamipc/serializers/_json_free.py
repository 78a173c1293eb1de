"""Values whose type no annotation says: what JSON lacks is written with a tag.

A tagged object has a key that starts with ``$``, and a dictionary with such a key is
written as ``{"$map": [[key, value], …]}``, so the two are never taken for each other.
"""

from __future__ import annotations

import enum
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from ..messages import message_type
from ._json_choices import enum_codec
from ._json_codec import Bad, Codec, describe, expected, has_tag, type_name, unexpected
from ._json_named import class_named, is_named, record_for, record_named
from ._json_records import record_of
from ._json_scalars import FLOAT, from_numpy, scalar_by_tag, scalar_of

__all__ = [
    "FREE",
    "FreeOf",
    "Open",
    "free_decode",
    "free_encode",
    "unsupported",
]

_PLAIN = frozenset([str, int, float, bool, type(None)])


def free_encode(value: Any) -> Any:
    """Return ``value`` as a plain value, with tags where they are needed."""
    cls = type(value)
    if cls in _PLAIN:
        return value
    writer = _writers.get(cls)
    return _encode_other(value) if writer is None else writer(value)


def _list(value: Any) -> list[Any]:
    if type(value) is list and _PLAIN.issuperset(map(type, value)):
        return value
    made: list[Any] = []
    try:
        for item in value:
            made.append(free_encode(item))
    except Bad as bad:
        bad.steps.append(len(made))
        raise
    return made


def _dict(value: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str or key[:1] == "$":
            return {"$map": _list_of_pairs(value)}
        try:
            made[key] = free_encode(item)
        except Bad as bad:
            bad.steps.append(key)
            raise
    return made


def _list_of_pairs(value: Any) -> list[Any]:
    made: list[Any] = []
    try:
        for pair in value.items():
            made.append(_list(pair))
    except Bad as bad:
        bad.steps.append(len(made))
        raise
    return made


_writers: dict[type, Callable[[Any], Any]] = {
    list: _list,
    dict: _dict,
    tuple: lambda value: {"$tuple": _list(value)},
    set: lambda value: {"$set": _list(value)},
    frozenset: lambda value: {"$frozenset": _list(value)},
    deque: lambda value: {"$deque": _list(value)},
}


def _encode_other(value: Any) -> Any:
    cls = type(value)
    if isinstance(value, enum.Enum):
        if is_named(cls):
            return enum_codec(cls).wrap(value)
        raise Bad(
            f"JSON can't carry the enumeration {type_name(cls)} where no annotation names it: "
            "annotate the field with it, or send its value"
        )
    record = record_for(cls)
    if record is not None:
        return record.wrap(value)
    # A subclass of a plain type arrives as the plain type.
    if isinstance(value, (str, int, float)):
        # Not str(value) and the like: those would ask the methods of the subclass.
        if isinstance(value, str):
            return str.__str__(value)
        return int.__int__(value) if isinstance(value, int) else float.__float__(value)
    plain = from_numpy(value)
    if plain is not None:
        return plain
    for base in cls.__mro__:
        scalar = scalar_of(base)
        if scalar is not None:
            # Only standard classes get here, so this can't keep a class of the user alive.
            _writers[base] = scalar.wrap
        if base in _writers:
            return _writers[base](value)
    raise uncarried(cls)


def uncarried(cls: type) -> Bad:
    """Return the error for a value of a class that JSON can't carry here."""
    if hasattr(cls, "__dataclass_fields__"):
        hint = "make it a Message, or annotate the field with it"
    elif hasattr(cls, "tolist"):
        hint = "send its tolist(), or use the native serializer"
    elif hasattr(cls, "__next__"):
        hint = "send a list of its items, or stream them"
    elif cls is not object and str(cls.__module__).partition(".")[0] in sys.stdlib_module_names:
        hint = "send what the other side needs of it, as a message or plain values"
    else:
        hint = "make it a Message, or send plain values"
    return Bad(f"JSON can't carry a value of {type_name(cls)}; {hint}")


def free_decode(data: Any) -> Any:
    """Return the value that ``data`` and its tags stand for."""
    cls = type(data)
    if cls is list:
        if _PLAIN.issuperset(map(type, data)):
            return data
        return _items(data)
    if cls is not dict:
        return data
    if has_tag(data):
        return _tagged(data)
    made = {}
    key = ""
    try:
        for key, item in data.items():
            made[key] = item if type(item) in _PLAIN else free_decode(item)
    except Bad as bad:
        bad.steps.append(key)
        raise
    return made


def _items(data: Any) -> list[Any]:
    if type(data) is not list:
        raise expected("an array", data)
    made: list[Any] = []
    try:
        for item in data:
            made.append(free_decode(item))
    except Bad as bad:
        bad.steps.append(len(made))
        raise
    return made


def _tagged(data: dict[str, Any]) -> Any:
    if "$type" in data:
        record = record_named(data["$type"])
        if record is None:
            name = data["$type"]
            if type(name) is str:
                message_type(name)  # says in its error what to import
            raise expected("the name of a type in $type", name)
        return record.unwrap(data)
    if "$enum" in data:
        name = data["$enum"]
        cls = class_named(name) if type(name) is str else None
        if cls is None or not issubclass(cls, enum.Enum):
            raise Bad(
                f"unknown enumeration {describe(name)}: no message that is defined in this "
                "process has it in its annotations"
            )
        return enum_codec(cls).unwrap(data)
    if len(data) != 1:
        raise Bad(f"an object with a tag has no other keys, got {describe(data)}")
    ((tag, inner),) = data.items()
    if tag == "$float":
        return FLOAT.decode(data)
    if tag == "$map":
        return _from_pairs(inner)
    reader = _readers.get(tag)
    if reader is not None:
        try:
            return reader(_items(inner))
        except TypeError:
            raise Bad(f"an item is not hashable, so it can't be in a {tag[1:]}") from None
    scalar = scalar_by_tag(tag)
    if scalar is None:
        raise Bad(f"unknown tag {describe(tag)}")
    return scalar.decode(inner)


def _from_pairs(data: Any) -> dict[Any, Any]:
    if type(data) is not list:
        raise expected("an array of pairs", data)
    made: dict[Any, Any] = {}
    for place, pair in enumerate(data):
        try:
            if type(pair) is not list or len(pair) != 2:
                raise expected("a pair [key, value]", pair)
            key, item = _items(pair)
            try:
                made[key] = item
            except TypeError:
                raise Bad("the key is not hashable") from None
        except Bad as bad:
            bad.steps.append(place)
            raise
    if len(made) != len(data):
        raise Bad("a key occurs twice")
    return made


_readers: dict[str, Callable[[list[Any]], Any]] = {
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$deque": deque,
}


# -- codecs ----------------------------------------------------------------------------


class Free(Codec):
    """``Any``, ``object``, and type variables that nothing is known of."""

    __slots__ = ()

    def encode(self, value: Any) -> Any:
        return free_encode(value)

    def decode(self, data: Any) -> Any:
        return free_decode(data)


FREE = Free("Any")


class FreeOf(Codec):
    """A dictionary without a word on its keys and values.

    Args:
        make: turns a ``dict`` into such a value; ``None``: a ``dict`` is what is wanted.
    """

    __slots__ = ("_make",)

    def __init__(self, name: str, cls: type, make: Callable[[Any], Any] | None) -> None:
        super().__init__(name, cls, shapes=[dict], plain=make is None, tag="$map")
        self._make = make

    def encode(self, value: Any) -> Any:
        if isinstance(value, self.cls or object):
            return _dict(value)
        raise unexpected(self.name, value)

    def decode(self, data: Any) -> Any:
        made = {} if data == [] else free_decode(data)  # PHP writes an empty object so
        if type(made) is dict:
            return made if self._make is None else self._make(made)
        raise expected(self.name, data)

    def wrap(self, value: Any) -> Any:
        return {"$map": _list_of_pairs(value)}

    def unwrap(self, data: dict[str, Any]) -> Any:
        return self.decode(data)


class Open(Codec):
    """Any other class: ``Message`` itself, a Protocol, an abstract class, and the like.

    What fits is a value of a subclass that comes back as itself when it has a tag.
    """

    __slots__ = ()

    def accepts(self, value: Any) -> bool:
        try:
            return isinstance(value, self.cls or object)
        except TypeError:  # a Protocol that is not runtime_checkable
            return True

    def encode(self, value: Any) -> Any:
        if not self.accepts(value):
            raise unexpected(self.name, value)
        cls = type(value)
        # Not a subclass of a plain type, which would arrive as the plain type.
        if cls in _PLAIN or cls in _writers or record_for(cls) or scalar_of(cls) or is_named(cls):
            return free_encode(value)
        raise uncarried(cls)

    def decode(self, data: Any) -> Any:
        made = free_decode(data)
        if self.accepts(made):
            return made
        raise expected(self.name, data)

    def claims(self, data: dict[str, Any]) -> bool:
        # By the tag alone. To read the value, and then again once it is claimed, takes twice
        # as long at each level of a tree.
        if not getattr(self.cls, "_is_protocol", False):
            cls = _class_in(data)
            return cls is not None and issubclass(cls, self.cls or object)
        try:
            return self.accepts(_hollow(data))
        except Bad:
            return False

    def unwrap(self, data: dict[str, Any]) -> Any:
        return self.decode(data)


def _class_in(data: dict[str, Any]) -> type | None:
    """Return the class of the value that a tagged object stands for, if it can be one."""
    if "$type" in data:
        record = record_named(data["$type"])
        return None if record is None else record.cls
    if "$enum" in data:
        name = data["$enum"]
        cls = class_named(name) if type(name) is str else None
        return cls if cls is not None and issubclass(cls, enum.Enum) else None
    if len(data) != 1:
        return None
    (tag,) = data
    known = _CLASSES.get(tag)
    if known is not None:
        return known
    scalar = scalar_by_tag(tag)
    return None if scalar is None else scalar.cls


_CLASSES: dict[str, type] = {
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$deque": deque,
    "$map": dict,
    "$float": float,
}


def _hollow(data: dict[str, Any]) -> Any:
    """Return a value of the class in a tag, with nothing in it: a protocol asks an instance.

    Raises:
        Bad: there is none.
    """
    cls = _class_in(data)
    if cls is None:
        raise Bad("no class that is known here")
    if "$type" in data:
        return record_of(cls).hollow()
    if "$enum" in data:
        for member in cls.__members__.values():  # type: ignore[attr-defined]
            return member
        raise Bad("an enumeration without members")
    return cls() if cls in _CLASSES.values() else free_decode(data)  # the latter holds nothing


class _Nobody:
    """Has no instances."""


def unsupported(annotation: Any) -> Codec:
    """Return the codec of an annotation that no value fits, as far as is known here."""
    return Open(str(annotation), _Nobody)
