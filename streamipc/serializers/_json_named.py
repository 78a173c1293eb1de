"""Classes that a peer may name, though they are no messages.

Only messages are registered. But an enumeration, a dataclass or a NamedTuple that stands in
the annotations of a message is as well known to both sides as the message is.
"""

from __future__ import annotations

import enum
from contextlib import suppress
from typing import Any

from .. import messages
from ..messages import Message
from ._json_codec import Codec, type_name
from ._json_records import Record, record_of

__all__ = ["class_named", "is_named", "record_for", "record_named"]


class _Named:
    """The enumerations and plain record classes in the annotations of messages, by name.

    Only messages are registered, but a class that a message of this process names in its
    annotations is as well known as the message is. Looked for when one is first met, and
    again when messages have been defined since.
    """

    def __init__(self) -> None:
        self._seen: list[type[Message]] = []
        self._classes: dict[str, type] = {}

    def get(self, name: str) -> type | None:
        """Return the class of that name."""
        known = list(messages._registry.values())
        if known != self._seen:
            self._classes = _reachable(known)
            self._seen = known
        return self._classes.get(name)


def _reachable(known: list[type[Message]]) -> dict[str, type]:
    found: dict[str, type] = {}
    seen: set[int] = set()
    waiting: list[Codec] = [record_of(cls) for cls in known]
    # What lies nearest comes first, so that a class without end takes no other's place. The
    # list keeps all of them: an id() is only good while its object lives.
    for codec in waiting:
        if id(codec) in seen:
            continue
        seen.add(id(codec))
        cls = codec.cls
        if cls is not None and (isinstance(codec, Record) or issubclass(cls, enum.Enum)):
            found[type_name(cls)] = cls
        # A generic class whose variables grow without end is followed no further.
        if len(seen) < 10_000:
            # A type statement that grows without end can't be built: its message says so.
            with suppress(RecursionError):
                waiting.extend(codec.children())
    return found


_named = _Named()


def class_named(name: str) -> type | None:
    """Return the enumeration or record class of that name, if a message names it."""
    return _named.get(name)


def is_named(cls: type) -> bool:
    """Say whether a message names ``cls`` in its annotations."""
    return _named.get(type_name(cls)) is cls


def record_for(cls: type) -> Record | None:
    """Return the codec by which values of ``cls`` can be sent anywhere, or ``None``."""
    if issubclass(cls, Message):
        return record_of(cls)
    if hasattr(cls, "__dataclass_fields__") or (issubclass(cls, tuple) and hasattr(cls, "_fields")):
        return record_of(cls) if is_named(cls) else None
    return None


def record_named(name: Any) -> Record | None:
    """Return the codec of a class by its name on the wire; imports nothing."""
    if type(name) is not str:
        return None
    cls: type | None = messages._registry.get(name)
    if cls is None:
        cls = _named.get(name)
        if cls is None or issubclass(cls, (enum.Enum, dict)):
            return None
    return record_of(cls)
