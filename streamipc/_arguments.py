"""Checks of what users pass in: a clear error here, or a value that the rest can rely on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .handlers import current, has_returned
from .messages import Message, Request
from .protocol.envelopes import MAX_METADATA, MAX_WINDOW

__all__ = [
    "DEFAULT",
    "check_message",
    "check_notification",
    "checked_metadata",
    "checked_timeout",
    "checked_whole",
    "checked_window",
    "seconds_for",
]


class _Default:
    """Stands for an argument that was not given."""

    def __repr__(self) -> str:
        return "..."


DEFAULT: Any = _Default()


def check_message(message: object, method: str) -> None:
    if not isinstance(message, Message):
        kind = f"the class {message.__name__}" if isinstance(message, type) else repr(message)
        raise TypeError(f"{method}() takes an instance of a Message class, not {kind:.200}")


def check_notification(message: object, method: str) -> None:
    """Refuse what is no message, and a request, whose reply nobody would get."""
    if getattr(type(message), "__wants_reply__", None) is False:
        return
    if isinstance(message, Request):
        raise TypeError(
            f"{method}() gets no reply, and {type(message).__wire_name__} is a Request, which "
            "wants one: use request(), or derive the class from Message"
        )
    check_message(message, method)


def checked_timeout(timeout: Any) -> float:
    """Return a number of seconds; infinity and ``threading.TIMEOUT_MAX`` are too long."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout must be 0 or more seconds, not {timeout!r}")
    return float(min(timeout, _LONGEST))


_LONGEST = 1e8
"""Seconds: three years. Locks and poll(2) refuse numbers not much larger."""


def seconds_for(timeout: float | None, default: float | None) -> float | None:
    """Return a request's time: by default its peer's.

    Or what remains of the request that the calling code handles, if that is less.
    """
    if timeout is not DEFAULT:
        return None if timeout is None else checked_timeout(timeout)
    handled = current.get()
    if handled is None or handled.deadline is None or has_returned(handled):
        return default
    remaining = max(0.0, handled.deadline - time.monotonic())
    return remaining if default is None else min(default, remaining)


def checked_whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number from ``least`` to ``most``, which may be ``None`` for any."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least or (most is not None and value > most):
        range_ = f"{least} or more" if most is None else f"from {least:,} to {most:,}"
        raise ValueError(f"{name} must be {range_}, not {value:,}")
    return value


def checked_window(window: Any) -> int:
    if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= MAX_WINDOW:
        raise ValueError(f"window must be a whole number from 1 to 2**31-1, not {window!r}")
    return window


def checked_metadata(metadata: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return metadata as a dict of its own, or ``None`` if there is none."""
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping of text to text, not {metadata!r:.200}")
    size = 0
    texts: dict[str, str] = {}
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata maps text to text, not {key!r} to {value!r}")
        size += len(key) + len(value)
        # The text itself, of a class derived from str: a serializer carries no other.
        texts[str.__str__(key)] = str.__str__(value)
    if size > MAX_METADATA:
        raise ValueError(f"metadata has {size:,} characters; at most {MAX_METADATA:,} are sent")
    return texts or None
