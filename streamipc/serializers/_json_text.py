"""JSON text to plain Python values and back, stricter than :mod:`json` by default.

Reading refuses what :mod:`json` would let pass: a key that occurs twice in one object
(parsers differ in which one they take), ``NaN`` and ``Infinity`` (not JSON), half of a
surrogate pair (not Unicode text), bytes after the value. Writing produces none of these.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from json import encoder
from typing import Any

from .._shown import escaped

__all__ = ["NotJsonError", "dumps", "find_surrogate", "located", "quote", "read", "told", "write"]


class NotJsonError(ValueError):
    """The bytes are not a JSON object, or not one that is accepted here."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; refuse a key that occurs twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise NotJsonError(f"the key {told(key[:60])} occurs twice in one object")
    return made


def _no_constant(name: str) -> Any:
    raise NotJsonError(f'{name} is not JSON; write {{"$float": "nan"}}, "inf" or "-inf"')


_decoder: Any = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_scan = _decoder.scan_once


def read(payload: memoryview) -> tuple[dict[str, Any], str]:
    """Return the object that ``payload`` holds, and its text.

    Raises:
        NotJsonError: it holds something else.
        RecursionError: it is nested too deeply.
    """
    try:
        text = str(payload, "utf-8")
    except UnicodeDecodeError as error:
        raise NotJsonError(f"byte {error.start} is not UTF-8") from None
    try:
        value, end = _scan(text, 0)
    except (StopIteration, json.JSONDecodeError):
        value, end = None, -1
    if end != len(text):  # white space around it, or no JSON; rare
        text = text.strip(" \t\n\r")
        value = _read_exactly(text)
    if type(value) is not dict:
        raise NotJsonError("a payload is one JSON object, which starts with {")
    # Raw surrogates are no UTF-8, so only an escape can have brought one in.
    if "\\u" in text:
        _check_escapes(value)
    return value, text


def _read_exactly(text: str) -> Any:
    """Return the value that all of ``text`` holds."""
    try:
        value, end = _scan(text, 0)
    except StopIteration as stop:
        raise NotJsonError(f"a value is missing at character {stop.value}") from None
    except json.JSONDecodeError as error:
        raise NotJsonError(f"{error.msg} at character {error.pos}") from None
    if end != len(text):
        raise NotJsonError(f"more text follows the object at character {end}")
    return value


def _check_escapes(value: Any) -> None:
    """Refuse halves of surrogate pairs anywhere in ``value``."""
    where = find_surrogate(value)
    if where is not None:
        raise NotJsonError(f"{where or 'the object'} holds half of a surrogate pair")


def find_surrogate(value: Any, root: str = "") -> str | None:
    """Return where the first text is that is not Unicode, or ``None``.

    Args:
        value: made of plain values.
        root: what the path starts with; empty: with the first key.
    """
    steps = _steps_to_surrogate(value)
    if steps is None:
        return None
    places = [place for place in steps if place is not None]
    if not root and places:
        root = escaped(str(places.pop())[:60])
    path = located(root, places)
    return f"a key in {path or 'the object'}" if None in steps else path


def _steps_to_surrogate(value: Any) -> list[str | int | None] | None:
    """Return the steps to such a text, the last one first; first of all ``None`` for a key.

    The path is made of them when one was found: making it on the way takes as long again for
    each level.
    """
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, str):
        return None if _is_unicode(value) else []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for place, item in items:
        if type(place) is str and not _is_unicode(place):
            return [None]
        found = _steps_to_surrogate(item)
        if found is not None:
            found.append(place)
            return found
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def located(root: str, steps: Sequence[str | int]) -> str:
    """Return the path that starts with ``root`` and goes on with ``steps``, the last one first."""
    path = [root]
    for place in reversed(steps):
        path.append(f"[{place}]" if isinstance(place, int) else step(place))
    if len(path) > 40:
        path[20:-20] = ["…"]
    return "".join(path)


quote = encoder.encode_basestring
"""A text as a JSON string, in quotes."""


def told(text: str) -> str:
    """Return a text of the peer's, in quotes, as it can stand in the text of an error."""
    return escaped(quote(text if len(text) <= 60 else f"{text[:57]}…"), 400)


def step(key: str) -> str:
    """Return what stands for a key in a path."""
    key = key[:60]
    return f".{escaped(key)}" if key.isidentifier() else f"[{told(key)}]"


_encoder = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
)

# What _encoder.encode() makes anew at each call, made once: for a small message that takes
# longer than its use. It is an optional part of CPython, and unknown to typeshed.
_make_chunks: Any = getattr(encoder, "c_make_encoder", None)
_chunks = _make_chunks and _make_chunks(
    None, _encoder.default, quote, None, ":", ",", False, False, False
)


def dumps(value: Any) -> str:
    """Return ``value``, made of plain values alone, as JSON."""
    if _chunks is None:
        return _encoder.encode(value)
    return "".join(_chunks(value, 0))


def write(value: Any) -> str:
    """Return ``value``, made of plain values and floats that JSON may lack, as JSON."""
    try:
        return dumps(value)
    except ValueError:
        return dumps(_without_nan(value))


def _without_nan(value: Any) -> Any:
    """Put tags in the place of the floats that JSON lacks.

    They are so rare that nobody looks for them before the encoder has stumbled.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value
