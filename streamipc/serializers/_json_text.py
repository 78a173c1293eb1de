"""JSON text to plain Python values and back, stricter than :mod:`json` by default.

Reading refuses what :mod:`json` would let pass: a key that occurs twice in one object
(parsers differ in which one they take), ``NaN`` and ``Infinity`` (not JSON), half of a
surrogate pair (not Unicode text), bytes after the value. Writing produces none of these.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from json import encoder
from typing import Any

__all__ = ["NotJsonError", "dumps", "quote", "read", "step", "write"]


class NotJsonError(ValueError):
    """The bytes are not a JSON object, or not one that is accepted here."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; refuse a key that occurs twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise NotJsonError(f"the key {quote(key[:60])} occurs twice in one object")
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


def find_surrogate(value: Any, path: str = "") -> str | None:
    """Return the path of the first text that is not Unicode, or ``None``."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return path
    elif isinstance(value, dict):
        for key, item in value.items():
            inner = f"{path}{step(key)}" if path else key[:60]
            if find_surrogate(key) is not None:
                return f"a key in {path or 'the object'}"
            found = find_surrogate(item, inner)
            if found is not None:
                return found
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            found = find_surrogate(item, f"{path}[{index}]")
            if found is not None:
                return found
    return None


quote = encoder.encode_basestring
"""A text as a JSON string, in quotes."""


def step(key: str) -> str:
    """Return what stands for a key in a path."""
    return f".{key[:60]}" if key.isidentifier() else f"[{quote(key[:60])}]"


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
