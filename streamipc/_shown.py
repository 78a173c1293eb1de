"""Values and texts of a peer in the text of an error: short, on one line, cheap to make.

``f"{value!r:.80}"`` makes the whole ``repr`` before it cuts it: of a tuple that holds another
one twice, which holds another one twice, that is gigabytes for a few hundred bytes. And a text
that stands there as it came may break the line, so that a log shows a line of the peer's making,
or may have a terminal do something.
"""

from __future__ import annotations

import enum
import sys
from typing import Any

from ._signals import let_through

__all__ = ["escaped", "harmless", "name_of_type", "reason", "shown"]

_DEPTH = 3
"""How many containers stand inside each other before only ``…`` is shown."""

_ITEMS = 5
"""How many items of a container are shown."""

_BITS = 256
"""Digits take quadratic time, and beyond 4,300 of them ``repr`` raises."""

_REASON = 300


def escaped(text: str, limit: int = 200) -> str:
    """Return the start of ``text`` with all that is not printable as an escape.

    Not printable are control characters, all line breaks that Unicode knows, what turns the
    direction of writing, and halves of surrogate pairs.

    Args:
        text: exactly of type ``str``.
        limit: characters of it that are shown.
    """
    cut = text if len(text) <= limit else text[:limit]
    if not cut.isprintable():
        cut = "".join([char if char.isprintable() else ascii(char)[1:-1] for char in cut])
    return cut if len(text) <= limit else f"{cut}…"


def shown(value: object, limit: int = 80) -> str:
    """Return about what ``repr`` would, but never long, and with no method of the value called.

    Of what is not built in, or has a type derived from that, it is the name of the type.

    Args:
        value: of any type.
        limit: characters or bytes of each text that are shown.
    """
    try:
        text = _shown(value, limit, _DEPTH)
        return text if len(text) <= 4 * limit else f"{text[: 4 * limit]}…"
    except Exception as failure:  # a class that lies about itself
        let_through(failure)
        return "a value that can't be shown"


def name_of_type(cls: type) -> str:
    """Return module and name of a class, fit for a text."""
    module = "" if cls.__module__ == "builtins" else f"{cls.__module__}."
    return escaped(f"{module}{cls.__qualname__}")


def reason(error: BaseException) -> str:
    """Return the type and the text of an exception that was raised for what a peer sent."""
    args = error.args
    if isinstance(error, UnicodeError) or (
        not isinstance(error, KeyError)  # its text is the repr of the key
        and all(type(arg) in (str, int) for arg in args)
    ):
        try:
            text = str(error)
        except Exception as failure:
            let_through(failure)
            text = "a text that can't be made"
        text = escaped(text, _REASON)
    else:
        text = shown(args[0] if len(args) == 1 else args)
    name = escaped(type(error).__name__)
    return f"{name}: {text}" if text else name


def harmless(error: BaseException) -> BaseException | None:
    """Return ``error`` if its traceback shows nothing that would have to be escaped.

    It is then fit to be the ``__cause__`` of what is raised in its place.
    """
    if error.__cause__ is None and error.__context__ is None:
        text = reason(error)
        # Where something was left out, str() would be long.
        if "…" not in text and text == f"{type(error).__name__}: {error}":
            return error
    return None


def _shown(value: Any, limit: int, depth: int) -> str:
    cls = type(value)
    if value is None or cls in (bool, float, complex):
        return repr(value)
    if cls is int:
        bits = value.bit_length()
        return repr(value) if bits <= _BITS else f"<int of {bits} bits>"
    if cls in (str, bytes, bytearray):
        return repr(value) if len(value) <= limit else f"{value[:limit]!r}…"
    if cls in _BRACKETS:
        return _container(cls, value, limit, depth)
    return _other(cls, value, limit, depth)


_BRACKETS = {list: "[]", tuple: "()", set: "{}", frozenset: "{}", dict: "{}"}


def _container(base: Any, value: Any, limit: int, depth: int) -> str:
    """Return the items of a value whose class is ``base`` or derives from it."""
    size = base.__len__(value)
    first, last = _BRACKETS[base][0], _BRACKETS[base][1]
    if not size:
        return "set()" if base is set else "frozenset()" if base is frozenset else first + last
    if not depth:
        return f"{first}…{last}"
    parts: list[str] = []
    items = base.items(value) if base is dict else base.__iter__(value)
    for item in items:
        if len(parts) == _ITEMS or sum(map(len, parts)) > 2 * limit:
            break
        if base is dict:
            key, item = item
            parts.append(f"{_shown(key, limit, depth - 1)}: {_shown(item, limit, depth - 1)}")
        else:
            parts.append(_shown(item, limit, depth - 1))
    if len(parts) < size:
        parts.append("…")
    elif base is tuple and size == 1:
        parts.append("")
        return f"({parts[0]},)"
    text = f"{first}{', '.join(parts)}{last}"
    return f"frozenset({text})" if base is frozenset else text


def _other(cls: Any, value: Any, limit: int, depth: int) -> str:
    """Return what can be told of a value of any other class."""
    name = name_of_type(cls)
    if isinstance(value, type):
        return f"<class {name_of_type(value)!r}>"
    if isinstance(value, enum.Enum):
        return f"<{name}.{escaped(str(value._name_))}>"
    # Not by the methods of the subclass: those are another's code.
    if isinstance(value, str):
        cut = str.__getitem__(value, slice(limit))
        return f"{name}({cut!r}{'…' if str.__len__(value) > limit else ''})"
    if isinstance(value, (int, float)):
        plain = int.__int__(value) if isinstance(value, int) else float.__float__(value)
        return f"{name}({_shown(plain, limit, depth)})"
    for base in _BRACKETS:
        if isinstance(value, base):
            return f"{name}({_container(base, value, limit, depth)})"
    package = cls.__module__.partition(".")[0]
    if package == "numpy" and hasattr(value, "dtype") and getattr(value, "shape", None) == ():
        # A number; what else has no dimensions is of any size.
        item = value.item() if value.dtype.kind in "biuf" else ...
        if type(item) in (bool, int, float):
            return f"{name}({item!r})"
    if package == "pathlib":
        return f"{cls.__qualname__}({_shown(str(value), limit, depth)})"
    if package in ("datetime", "decimal", "uuid"):
        return _standard(cls, value, name)
    return f"<{name} object>"


def _standard(cls: Any, value: Any, name: str) -> str:
    """Return the repr of a value of one of three modules, if it is that of a short value."""
    known = getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls
    if not known or sys.getsizeof(value) > 200:  # a Decimal of many digits
        return f"<{name} object>"
    zone = getattr(value, "tzinfo", None)
    if zone is not None:
        return f"{value.replace(tzinfo=None)!r:.100} with {name_of_type(type(zone))}"
    if cls.__qualname__ == "timezone":  # it may have a name, of any length
        return f"<{name} object>"
    return repr(value)
