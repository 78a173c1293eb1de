"""What is told of a value that the native serializer can't send: where it stands, what helps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .._shown import escaped, reason, shown
from .._signals import let_through
from ..exceptions import SerializationError
from ._native_admitted import NotAdmittedError
from ._where import Step, find_fault, items_of

__all__ = ["located", "refusal"]

_PLAIN = frozenset((list, tuple, dict, set, frozenset))

_REMEMBERED = frozenset((list, dict, set))
"""Pickle remembers these before it writes what is in them, so they may hold themselves."""

_LONGEST = 40
"""Steps of a path that are shown."""


def located(
    root: Any, reduce: Callable[[Any], Any], error: Exception
) -> tuple[str, Exception | None] | None:
    """Return the path to what can't be sent in ``root``, and the reason; ``None``: unknown.

    Args:
        root: the value that was refused with ``error``.
        reduce: takes an object apart for the pickler, or raises.
        error: what writing it has raised.
    """

    def parts_of(value: Any) -> Iterable[tuple[Step, Any]]:
        if type(value) in _PLAIN:
            return items_of(value)
        return _parts(value, reduce(value))

    try:
        found = find_fault(
            root, parts_of, _REMEMBERED if isinstance(error, RecursionError) else None
        )
    except Exception as failure:  # the value itself, or one that changes while it is looked at
        let_through(failure)
        return None
    if found is None:
        return None
    steps, fault = found
    path = [_shown_step(step) for step in steps]
    if len(path) > _LONGEST:
        path[_LONGEST // 2 : -_LONGEST // 2] = ["…"]
    return "".join(path), fault


def _shown_step(step: Step) -> str:
    kind, place = step
    if kind == ".":
        return f".{escaped(str(place), 60)}"
    return f"[{shown(place, 40)}]" if kind == "[" else kind


def _parts(value: Any, reduced: Any) -> Iterator[tuple[Step, Any]]:
    """Yield what an object holds, by what it was taken apart into."""
    if type(reduced) is str:  # a builder, which is written by its name
        return
    builder, args = reduced
    kind = builder.name
    if kind in ("message", "record"):
        for name, item in args[1].items():
            yield (".", name), item
    elif kind == "namedtuple":
        for name, item in zip(type(value)._fields, args[1], strict=True):
            yield (".", name), item
    elif kind == "object":
        yield from _parts_of_object(*args)
    else:
        # The items of a deque, an OrderedDict and the like; the zone of a datetime.
        for part in args:
            if type(part) in _PLAIN:
                yield from items_of(part)
            else:
                yield ("", None), part


def _parts_of_object(
    _name: str, _call: bool, args: Any, kwargs: Any, state: Any, items: Any, pairs: Any
) -> Iterator[tuple[Step, Any]]:
    for place, item in enumerate(args):
        yield (f".args[{place}]", None), item
    states = state if type(state) is tuple and len(state) == 2 else (state,)
    for part in (kwargs, *states):
        if type(part) is dict:
            for name, item in part.items():
                yield (".", name), item
        else:
            yield (".__getstate__()", None), part
    for place, item in enumerate(items or ()):
        yield ("[", place), item
    for key, item in pairs or ():
        yield ("[", key), item


def refusal(
    where: str, error: Exception | None, can_allow: Callable[[type, Any], bool]
) -> SerializationError:
    """Return what the sender is told.

    Args:
        where: the value stands.
        error: the reason; ``None``: the value is inside of itself.
        can_allow: tells whether an object could be sent if its class were allowed.
    """
    if error is None:
        return SerializationError(f"{where} contains itself: it would take no end to write")
    if isinstance(error, RecursionError):
        return SerializationError(f"{where} nests too deeply, or contains itself")
    if isinstance(error, NotAdmittedError):
        return SerializationError(
            f"{where}: {error}{_advice(type(error.obj), error.obj, can_allow)}"
        )
    if isinstance(error, SerializationError):
        return SerializationError(f"{where}: {error}")
    return SerializationError(f"{where} can't be sent: {reason(error)}")


_UNKNOWN = ": it is not among the types that the native serializer knows to be safe. "


def _advice(cls: type, obj: Any, can_allow: Callable[[type, Any], bool]) -> str:
    """Return what helps; nothing that would not."""
    tzinfo = getattr(sys.modules.get("datetime"), "tzinfo", None)
    if tzinfo is not None and isinstance(obj, tzinfo):
        return (
            f"{_UNKNOWN}Use zoneinfo.ZoneInfo or datetime.timezone for the time zone, or send the "
            "time as .astimezone(datetime.timezone.utc)"
        )
    if hasattr(cls, "__next__"):
        return f"{_UNKNOWN}Send a list of its items, or stream them"
    if not can_allow(cls, obj):
        return (
            f"{_UNKNOWN}It can't be taken apart and built again in another process: send what the "
            "other side needs of it, as a message or plain values"
        )
    if _is_importable(cls):
        return (
            f"{_UNKNOWN}NativeMessageSerializer(allow=[{cls.__qualname__}]) on both sides admits it"
        )
    return (
        f"{_UNKNOWN}Define its class at the top of a module that both sides import, and give it "
        "to allow= of NativeMessageSerializer on both sides"
    )


def _is_importable(cls: type) -> bool:
    """Tell whether a class can be written down by its name, as in ``allow=[Name]``."""
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None) if name.isidentifier() else None
    return found is cls
