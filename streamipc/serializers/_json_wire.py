"""Envelopes to JSON text and back: which keys each kind has, and their rules.

Keys that are not known here are ignored, so that a later version may add some. The keys
``kind`` and ``id`` are written first: where the rest can't be parsed, they still tell
which request is to be answered with an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

from .._shown import reason, shown
from .._signals import let_through
from ..exceptions import SerializationError
from ..messages import ErrorMessage, Message
from ..protocol.envelopes import (
    ERROR_CODES,
    Cancel,
    Credit,
    Envelope,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    RequestId,
    Response,
)
from ._json_codec import Bad, describe
from ._json_free import free_decode, free_encode
from ._json_records import record_by_name, record_of
from ._json_refusals import unwritable, with_type
from ._json_text import NotJsonError, quote, read, write
from ._json_unions import forget_attempts

__all__ = ["decode", "encode"]

_MAX_ID = 2**64 - 1
_MAX_TEXT_ID = 255
_MAX_COUNT = 2**64 - 1
"""More than what is allowed: the connection refuses that, with the code ``protocol``."""

_COUNT = "expected an integer from 0 to 2**31-1"

# -- writing ---------------------------------------------------------------------------


def encode(envelope: Envelope) -> bytes:
    """Return ``envelope`` as one JSON object in UTF-8."""
    try:
        return _WRITERS[type(envelope)](envelope).encode()
    except SerializationError:
        raise
    except Exception as error:
        forget_attempts()
        let_through(error)
        failure = error
    except BaseException:
        forget_attempts()
        raise
    try:
        # What happened inside is in the text; only a surprise needs its traceback. And not in
        # the except clause: one traceback is enough.
        surprise = not isinstance(failure, (Bad, RecursionError, UnicodeEncodeError))
        raise unwritable(envelope, failure) from (failure if surprise else None)
    finally:
        del failure  # whose traceback has this frame: a cycle, with the value in it


def _request(envelope: Request) -> str:
    message = envelope.message
    record = record_of(type(message))
    text = f'{{"kind":"request","id":{_id_text(envelope.id)}{record.head}'
    if envelope.timeout is not None:
        text += f',"timeout":{_number_text(envelope.timeout)}'
    if envelope.metadata:
        text += f',"metadata":{_metadata_text(envelope.metadata)}'
    if envelope.window:
        text += f',"window":{_count_text(envelope.window, "window")}'
    return f'{text},"body":{write(record.encode(message))}}}'


def _notification(envelope: Notification) -> str:
    message = envelope.message
    record = record_of(type(message))
    text = f'{{"kind":"notification"{record.head}'
    if envelope.metadata:
        text += f',"metadata":{_metadata_text(envelope.metadata)}'
    return f'{text},"body":{write(record.encode(message))}}}'


def _response(envelope: Response) -> str:
    return f'{{"kind":"response","id":{_id_text(envelope.id)}{_value_text(envelope.value)}}}'


def _progress(envelope: Progress) -> str:
    return f'{{"kind":"progress","id":{_id_text(envelope.id)}{_value_text(envelope.item)}}}'


def _error(envelope: ErrorResponse) -> str:
    error = envelope.error
    if envelope.code not in ERROR_CODES:
        raise SerializationError(
            f"code: expected one of {', '.join(ERROR_CODES)}, got {shown(envelope.code)}"
        )
    return (
        f'{{"kind":"error","id":{_id_text(envelope.id)},"code":{quote(envelope.code)},'
        f'"body":{write(record_of(ErrorMessage).encode(error))}}}'
    )


def _credit(envelope: Credit) -> str:
    count = _count_text(envelope.count, "count")
    return f'{{"kind":"credit","id":{_id_text(envelope.id)},"count":{count}}}'


def _cancel(envelope: Cancel) -> str:
    return f'{{"kind":"cancel","id":{_id_text(envelope.id)}}}'


_WRITERS: dict[type, Callable[[Any], str]] = {
    Request: _request,
    Response: _response,
    ErrorResponse: _error,
    Notification: _notification,
    Progress: _progress,
    Credit: _credit,
    Cancel: _cancel,
}


def _value_text(value: Any) -> str:
    if isinstance(value, Message):
        record = record_of(type(value))
        return f'{record.head},"body":{write(record.encode(value))}'
    return f',"body":{write(free_encode(value))}'


def _id_text(id: RequestId) -> str:  # noqa: A002 - the protocol's own word
    if type(id) is int and 0 <= id <= _MAX_ID:
        return str(id)
    _check_id(id, shown)
    return quote(cast(str, id))


def _check_id(id: Any, show: Callable[[Any], str]) -> None:  # noqa: A002
    """Refuse what is no id; integers have been looked at already."""
    if type(id) is str and 1 <= len(id.encode()) <= _MAX_TEXT_ID:
        return
    raise SerializationError(
        f"id: expected an integer from 0 to 2**64-1 or a text of 1 to {_MAX_TEXT_ID} bytes, "
        f"got {show(id)}"
    )


def _number_text(value: float) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float.__repr__(float(value))
    raise SerializationError(f"timeout: expected seconds as a finite number, got {shown(value)}")


def _count_text(value: int, key: str) -> str:
    if type(value) is int and 0 <= value <= _MAX_COUNT:
        return str(value)
    raise SerializationError(f"{key}: {_COUNT}, got {shown(value)}")


def _metadata_text(metadata: Mapping[str, str]) -> str:
    plain = dict(metadata)
    for key, value in plain.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise SerializationError(
                f"metadata[{shown(key)}]: expected text to text, got {shown(value)}"
            )
    return write(plain)


# -- reading ---------------------------------------------------------------------------

_KIND = rb'"kind"\s*:\s*"([a-z]+)"\s*'
_ID = rb'"id"\s*:\s*([0-9]{1,20}|"(?:[^"\\]|\\.){1,255}")\s*'
_HEAD = re.compile(rb"\s*\{\s*" + _KIND + rb"(?:,\s*" + _ID + rb"[,}])?")
_HEAD_ID_FIRST = re.compile(rb"\s*\{\s*" + _ID + rb",\s*" + _KIND + rb"[,}]")


def decode(payload: memoryview) -> Envelope:
    """Return the envelope that is written in ``payload``."""
    try:
        data, text = read(payload)
    except Exception as error:
        let_through(error)
        raise _unreadable(payload, error) from None
    kind = data.get("kind")
    reader = _READERS.get(kind) if type(kind) is str else None
    if reader is None:
        raise SerializationError(
            f"kind: expected one of {', '.join(_READERS)}, got "
            f"{describe(kind) if 'kind' in data else 'none'}"
        )
    try:
        return reader(data, text)
    except Exception as error:
        forget_attempts()
        let_through(error)
        raise _unfit(data, error) from None
    except BaseException:
        forget_attempts()
        raise


def _read_id(data: dict[str, Any]) -> RequestId:
    if "id" not in data:
        raise SerializationError(f"id: missing (required for the kind {data['kind']!r})")
    found = data["id"]
    if type(found) is int and 0 <= found <= _MAX_ID:
        return found
    _check_id(found, describe)
    return cast(str, found)


def _read_message(data: dict[str, Any]) -> Any:
    name = data.get("type")
    if type(name) is not str:
        got = describe(name) if "type" in data else "none"
        raise SerializationError(f"type: expected the name of a message type, got {got}")
    record = record_by_name(name)
    body = data.get("body")
    if body is None and not record.requires_fields():
        body = {}
    elif "body" not in data:
        raise SerializationError(f"body: missing (the fields of {name})")
    return record.decode_fields(body)


def _read_value(data: dict[str, Any], text: str) -> Any:
    if data.get("type") is not None:
        return _read_message(data)
    body = data.get("body")
    if '"$' in text or "\\u" in text:
        return free_decode(body)
    # No key starts with $, so there is no tag, and the value is what was parsed.
    return body


def _read_metadata(data: dict[str, Any]) -> dict[str, str] | None:
    metadata = data.get("metadata")
    if metadata is None or metadata == []:  # an empty object of PHP
        return None
    if type(metadata) is not dict:
        raise SerializationError(f"metadata: expected an object, got {describe(metadata)}")
    for key, value in metadata.items():
        if type(value) is not str:
            raise SerializationError(
                f"metadata[{describe(key)}]: expected text, got {describe(value)}"
            )
    return metadata


def _read_count(data: dict[str, Any], key: str) -> int:
    count = data.get(key)
    if type(count) is int and 0 <= count <= _MAX_COUNT:
        return count
    got = describe(count) if key in data else "none"
    raise SerializationError(f"{key}: {_COUNT}, got {got}")


def _read_request(data: dict[str, Any], text: str) -> Request:
    timeout = data.get("timeout")
    if timeout is not None and type(timeout) is not float:
        if type(timeout) is not int:
            raise SerializationError(f"timeout: expected seconds, got {describe(timeout)}")
        timeout = float(timeout)
    if timeout is not None and not math.isfinite(timeout):
        raise SerializationError("timeout: expected a finite number of seconds")
    return Request(
        _read_id(data),
        _read_message(data),
        timeout,
        _read_metadata(data) if "metadata" in data else None,
        _read_count(data, "window") if "window" in data and data["window"] is not None else 0,
    )


def _read_error(data: dict[str, Any], text: str) -> ErrorResponse:
    id = _read_id(data)  # noqa: A001 - the protocol's own word
    code = data.get("code")
    # A code of a later version, or one that is no text, is an error all the same.
    if type(code) is not str or code not in ERROR_CODES:
        code = "handler"
    return ErrorResponse(id, _read_error_message(data.get("body")), code)


def _read_error_message(body: Any) -> ErrorMessage:
    """Return what went wrong, whatever form a peer has given it.

    Nobody may lose the reason of a failure because it was not written as it should be.
    """
    fields = body if type(body) is dict else {"message": body}
    message, name, traceback = map(fields.get, ("message", "type", "traceback"))
    if type(traceback) is list and all(type(line) is str for line in traceback):
        traceback = "\n".join(traceback)
    return ErrorMessage(
        "no message was given" if message in (None, [], {}) else _as_text(message),
        _as_text(name),
        _as_text(traceback),
    )


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if type(value) is str else shown(value)


_READERS: dict[str, Callable[[dict[str, Any], str], Envelope]] = {
    "request": _read_request,
    "response": lambda data, text: Response(_read_id(data), _read_value(data, text)),
    "error": _read_error,
    "notification": lambda data, _: Notification(_read_message(data), _read_metadata(data)),
    "progress": lambda data, text: Progress(_read_id(data), _read_value(data, text)),
    "credit": lambda data, _: Credit(_read_id(data), _read_count(data, "count")),
    "cancel": lambda data, _: Cancel(_read_id(data)),
}

_NONE: Any = None

# What is left of an envelope whose body can't be read.
_HEADERS: dict[str, Callable[[Any], Envelope]] = {
    "request": lambda key: Request(key, _NONE),
    "response": lambda key: Response(key, None),
    "error": lambda key: ErrorResponse(key, _NONE),
    "progress": lambda key: Progress(key, None),
    "credit": lambda key: Credit(key, 0),
    "cancel": Cancel,
}


def _header(data: dict[str, Any]) -> Envelope | None:
    """Return the envelope without its body, if its kind and id could be read."""
    kind = data["kind"]
    if kind == "notification":
        return Notification(_NONE)
    try:
        return _HEADERS[kind](_read_id(data)) if kind in _HEADERS else None
    except (SerializationError, UnicodeEncodeError):  # half of a surrogate pair in an escape
        return None


def _unreadable(payload: memoryview, error: Exception) -> SerializationError:
    """Return the error for a payload that could not be parsed."""
    start = bytes(payload[:2048])
    if start.lstrip()[:1] != b"{":
        shown = start[:12]
        return SerializationError(
            f"this is not JSON: both sides must use the same serializer (the payload starts "
            f"with {shown!r})"
        )
    if isinstance(error, RecursionError):
        text = "nested too deeply"
    elif isinstance(error, NotJsonError):
        text = str(error)
    else:
        text = reason(error)
    # The whole can't be parsed, but its first two keys may tell whom to answer.
    kind = found = None
    if head := _HEAD.match(start):
        kind, found = head.groups()
    elif head := _HEAD_ID_FIRST.match(start):
        found, kind = head.groups()
    data: dict[str, Any] = {"kind": kind.decode() if kind else ""}
    if found is not None:
        with suppress(ValueError):
            # As text: json would guess at UTF-16 from the bytes, and import its codec.
            data["id"] = json.loads(found.decode())
    return SerializationError(f"the payload is not valid JSON: {text}", envelope=_header(data))


def _unfit(data: dict[str, Any], error: Exception) -> SerializationError:
    """Return the error for an envelope that breaks a rule, with what is left of it."""
    if isinstance(error, Bad):
        text = error.located("body")
    elif isinstance(error, SerializationError):
        text = str(error)
    elif isinstance(error, RecursionError):
        text = "body: nested too deeply"
    else:
        text = f"body: can't be read: {reason(error)}"
    name = data.get("type")
    return SerializationError(
        with_type(text, name if type(name) is str else ""), envelope=_header(data)
    )
