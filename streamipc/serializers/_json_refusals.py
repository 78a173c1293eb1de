"""What the sender is told of a value that can't be written as JSON: what is wrong, and where."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from .._shown import escaped, reason, shown
from .._signals import let_through
from ..exceptions import SerializationError
from ..messages import Message
from ..protocol.envelopes import Envelope
from ._json_codec import Bad, type_name
from ._json_free import free_encode
from ._json_records import record_of
from ._json_text import find_surrogate, located
from ._where import Step, find_fault, items_of

__all__ = ["unwritable", "with_type"]


def unwritable(envelope: Any, error: Exception) -> SerializationError:
    """Return the sender's error for whatever went wrong when ``envelope`` was written."""
    message = getattr(envelope, "message", None)
    value = getattr(envelope, "value", getattr(envelope, "item", message))
    cls = type(value) if isinstance(value, Message) else None
    where = type_name(cls) if cls is not None else ""
    if isinstance(error, Bad):
        text = error.located("body")
    elif isinstance(error, RecursionError):
        text = _where_it_holds_itself(value)
    elif isinstance(error, UnicodeEncodeError):
        text = f"{_surrogate_path(envelope)}: a text with half of a surrogate pair is not Unicode"
    elif not isinstance(envelope, Envelope):
        text = f"expected an envelope, got {type_name(type(envelope))}"
    else:
        text = f"body: can't be written as JSON: {reason(error)}"
    return SerializationError(with_type(text, where))


def _where_it_holds_itself(value: Any) -> str:
    """Return what is told of a value that is nested without end, or too deeply."""
    try:
        found = find_fault(value, _parts, frozenset())
    except Exception as error:  # it changes while it is looked at
        let_through(error)
        found = None
    if found is None:
        return "body: nested too deeply for JSON, or a container holds itself"
    steps = [
        kind if place is None else place if type(place) in (int, str) else shown(place)
        for kind, place in reversed(found[0])
    ]
    return f"{located('body', steps)} contains itself: JSON has no form for that"


def _parts(value: Any) -> Iterator[tuple[Step, Any]]:
    """Yield what a value holds."""
    if isinstance(value, (dict, list, tuple, set, frozenset, deque)):
        yield from items_of(value)
    else:
        for name in getattr(type(value), "__dataclass_fields__", ()):
            yield (".", name), getattr(value, name, None)


def _surrogate_path(envelope: Any) -> str:
    """Return where the text is that could not be encoded."""
    paths = (_surrogate_in(name, getattr(envelope, name)) for name in envelope.__slots__)
    return next(filter(None, paths), "body")


def _surrogate_in(name: str, value: Any) -> str | None:
    if isinstance(value, Message):
        return find_surrogate(record_of(type(value)).encode(value), "body")
    if name in ("value", "item"):
        return find_surrogate(free_encode(value), "body")
    return find_surrogate(value, name)


def with_type(text: str, name: str) -> str:
    """Return ``text`` with the name of the message that it is about, if it does not say it."""
    told = escaped(name)
    return text if not name or told in text else f"{text} (in {told})"
