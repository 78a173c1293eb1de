"""The default serializer: a fixed binary header, then a restricted pickle.

The layout of a payload is told in :mod:`~streamipc.serializers._native_sections`: a header and
a few sections that can be read whatever the body holds, then the body, then large binary
data. How a body is kept from doing harm is told in :mod:`~streamipc.serializers._native_scan`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .._shown import escaped, harmless, reason, shown
from ..exceptions import SerializationError
from ..messages import ErrorMessage, Message, message_type
from ..protocol.envelopes import (
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
from . import _native_scan
from ._native_layout import layout_of
from ._native_pickle import dumps as _dumps
from ._native_pickle import loads as _loads
from ._native_sections import (
    CANCEL,
    CREDIT,
    ERROR,
    HEADER_SIZE,
    INFINITY,
    METADATA,
    NOTIFICATION,
    PROGRESS,
    REQUEST,
    RESPONSE,
    TEXT_ID,
    assembled,
    bad_number,
    bodiless,
    flags_of,
    foreign,
    joined,
    pack_header,
    read_sections,
    read_text_id,
    tail_size,
    text_id,
    unpack_header,
)
from .base import Buffer

__all__ = ["NativeMessageSerializer"]

_ATOMS = frozenset((str, int, float, bool, type(None)))
"""Values of exactly these types can be pickled without looking at them."""


_WALKED = 16
"""Small payloads that are read without regular expressions before these are compiled, which
takes some milliseconds."""

_walked = 0


def _walk_at_first(body: memoryview) -> Any:
    """Tell whether a pickle is plain, by walking through it; after a while, step aside.

    Without the bytes of ``STACK_GLOBAL`` and ``NEXT_BUFFER``, what passes names nothing and
    needs nothing else.
    """
    global _match_short, _is_plain, _walked
    if _walked < _WALKED and len(body) < 1024:
        _walked += 1
        data = bytes(body)
        if b"\x93" in data or b"\x97" in data:
            return False
        try:
            _native_scan.check(data)
        except SerializationError:
            return False  # the reader says why
        return True
    _is_plain = _native_scan.is_plain
    _match_short = _native_scan.short_matcher()
    return _match_short(body)


def _not_known(body: memoryview, start: int, end: int) -> bool:
    return False


_match_short: Callable[[memoryview], Any] = _walk_at_first
_is_plain: Callable[[memoryview, int, int], bool] = _not_known


class NativeMessageSerializer:
    """Encodes with pickle protocol 5 and reads it without trusting it.

    These values can be sent, anywhere in a message and nested in each other:

    * messages; None, bool, int, float, complex, str, bytes, bytearray, memoryview;
      list, tuple, dict, set, frozenset, range, slice
    * OrderedDict, Counter, deque, array.array, and defaultdict whose factory is a type
      such as ``list`` or ``int``
    * datetime, date, time, timedelta, timezone, ZoneInfo; Decimal, Fraction; UUID; the
      paths of pathlib; addresses, networks and interfaces of ipaddress
    * numpy arrays, scalars and dtypes without Python objects in them
    * members of Enum classes, dataclasses and NamedTuples that occur in the annotations
      of a message class
    * types given as ``allow``

    Anything else is refused when it is encoded. A reader refuses it too, whatever the
    sender did: nothing is imported or called on a peer's word. Message classes are
    looked up by name among those already defined, and ``__init__`` and
    ``__post_init__`` are not run.

    Bytes of 64 KiB and more that are the value of a field, and the data of numpy arrays,
    are not copied by ``encode``: do not change a bytearray or an array before it is
    sent. An array that arrives lies over the payload itself, and bytes that are the only
    such value of their message were read where they stay: nothing copies them here either.

    Args:
        allow: further types to send and to accept. Enum classes, dataclasses and
            NamedTuples are sent by their fields; of any other type the objects are
            taken apart by ``__reduce_ex__`` and rebuilt from the class given here, so
            both sides must allow it, and its ``__init__``, ``__new__`` and
            ``__setstate__`` will see whatever a peer sends.

    Raises:
        TypeError: an element of ``allow`` is not a class.
        ValueError: two different classes in ``allow`` have the same name.
    """

    def __init__(self, allow: Iterable[type] = ()) -> None:
        if allow != ():
            self._know(allow)

    def __getattr__(self, name: str) -> Any:
        """Import what values need when the first one comes that is not plain."""
        if name not in ("_writer", "_reader"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._know(())
        return self.__dict__[name]

    def _know(self, allow: Iterable[type]) -> None:
        from ._native_values import ValueReader, ValueWriter

        writer = ValueWriter(allow)
        self._reader = ValueReader(writer.admitted)
        self._writer = writer

    def encode(self, envelope: Envelope, /) -> Sequence[Buffer]:
        """Return the payload: one buffer, or several where there is large binary data.

        Raises:
            SerializationError: a value can't be sent; names its type and the field.
        """
        kind = type(envelope)
        if kind is Request:
            request: Any = envelope
            return self._with_message(
                REQUEST,
                request.id,
                request.message,
                request.metadata,
                request.window,
                request.timeout,
            )
        if kind is Response:
            response: Any = envelope
            value = response.value
            if isinstance(value, Message):
                return self._with_message(RESPONSE, response.id, value, None, 0, None)
            return self._with_value(RESPONSE, response.id, value)
        return self._encode_other(envelope)

    def tail_size(self, head: memoryview, size: int, /) -> int:
        """Return how many bytes at the end of a payload are one ``bytes`` object.

        The protocol has these bytes read into such an object, and gives it to
        :meth:`decode` by itself.

        Args:
            head: the first bytes of the payload.
            size: bytes of the whole payload.

        Returns:
            0 if there is no such object, or if ``head`` does not reach up to it.
        """
        if getattr(self.decode, "__func__", None) is not NativeMessageSerializer.decode:
            return 0  # a user's own, which expects the whole
        return tail_size(head, size)

    def decode(self, payload: memoryview, tail: bytes | None = None, /) -> Envelope:
        """Return the envelope that ``payload`` holds.

        Args:
            payload: all of it, or all but ``tail``.
            tail: the end, of the length that :meth:`tail_size` tells.

        Raises:
            SerializationError: the payload can't be read. ``error.envelope`` is the
                envelope without its body, if the parts before the body could be read.
        """
        size = len(payload)
        if size < HEADER_SIZE:
            raise foreign(payload)
        kind, flags, id_size, name_size, count, number, id_, timeout = unpack_header(payload)
        if not 1 <= kind <= 7:
            raise foreign(payload)
        if id_size or flags & TEXT_ID:
            id_ = read_text_id(payload, flags, id_size)
        envelope: Any
        if kind == RESPONSE:
            envelope = Response(id_, None)
        elif kind == REQUEST:
            envelope = Request(id_, None, None, None, number)  # type: ignore[arg-type]
        else:
            envelope = bodiless(kind, id_, number)
        pos = HEADER_SIZE + id_size + name_size
        end = size
        buffers: Sequence[Buffer] = ()
        name = payload[pos - name_size : pos]
        try:
            if flags or count:
                pos, end, buffers = read_sections(payload, pos, flags, count, envelope, tail)
            if kind == REQUEST and timeout != INFINITY:
                if timeout != timeout:
                    raise SerializationError("the timeout of the request is not a number")
                envelope.timeout = timeout
            body = payload[pos:end]
            if name_size == 0:
                return self._fill_plain(envelope, kind, body, buffers)
            cls: Any = message_type(str(name, "utf-8"))
            layout = cls.__streamipc_layout__
            if layout is None or layout.cls is not cls:
                layout = layout_of(cls)
            if _match_short(body) or _is_plain(body, 0, len(body)):
                message = layout.build(_loads(body))
            else:
                message = layout.build(self._reader.read(body, buffers))
            if kind == RESPONSE:
                envelope.value = message
            elif kind in (REQUEST, NOTIFICATION):
                envelope.message = message
            elif kind == PROGRESS:
                envelope.item = message
            else:
                raise SerializationError("the payload names a message type where none belongs")
            return envelope  # type: ignore[no-any-return]
        except SerializationError as error:
            error.envelope = envelope
            raise
        except Exception as error:
            raise _unreadable(error, name, envelope) from harmless(error)

    # Encoding

    def _with_message(
        self,
        kind: int,
        id_: RequestId,
        message: Any,
        metadata: Mapping[str, str] | None,
        number: int,
        timeout: float | None,
    ) -> Sequence[Buffer]:
        if not isinstance(message, Message):
            raise SerializationError(
                f"a {type(message).__qualname__} is no Message: define a subclass of "
                "streamipc.Message and send an instance of it"
            )
        layout = message.__streamipc_layout__
        if layout is None or layout.cls is not type(message):
            layout = layout_of(type(message))
        state = layout.state_of(message)
        buffers: Sequence[Buffer] = ()
        flags = 0
        if _ATOMS.issuperset(map(type, state.values())):
            body = _dumps(state, 5)
        else:
            body, buffers = self._writer.write_fields(layout.name, state)
            flags = flags_of(buffers)
        name = layout.wire
        text = b""
        if type(id_) is not int:
            text, id_ = text_id(id_)
            flags |= TEXT_ID
        if metadata:
            flags |= METADATA
        try:
            header = pack_header(
                kind,
                flags,
                len(text),
                len(name),
                len(buffers),
                number,
                id_,
                INFINITY if timeout is None else timeout,
            )
        except struct.error as error:
            raise bad_number(id_, number, timeout) from error
        if not (flags or buffers):
            return (b"".join((header, name, body)),)
        return joined(header, text, name, metadata, body, buffers)

    def _with_value(self, kind: int, id_: RequestId, value: Any) -> Sequence[Buffer]:
        if isinstance(value, Message):
            return self._with_message(kind, id_, value, None, 0, None)
        buffers: Sequence[Buffer] = ()
        if type(value) in _ATOMS:
            body = _dumps(value, 5)
        else:
            body, buffers = self._writer.write_value(value)
        return assembled(kind, id_, 0, body, buffers)

    def _encode_other(self, envelope: Envelope) -> Sequence[Buffer]:
        if isinstance(envelope, Notification):
            return self._with_message(NOTIFICATION, 0, envelope.message, envelope.metadata, 0, None)
        if isinstance(envelope, Progress):
            return self._with_value(PROGRESS, envelope.id, envelope.item)
        if isinstance(envelope, ErrorResponse):
            error = envelope.error
            texts = {
                "message": error.message,
                "type": error.type,
                "traceback": error.traceback,
                "code": envelope.code,
            }
            wrong = [name for name, text in texts.items() if type(text) is not str]
            if wrong:
                raise SerializationError(
                    f"the fields of an error must be of type str: {wrong[0]} is "
                    f"{shown(texts[wrong[0]])}"
                )
            return assembled(ERROR, envelope.id, 0, _dumps(texts, 5), ())
        if isinstance(envelope, Credit):
            return assembled(CREDIT, envelope.id, envelope.count, b"", ())
        if isinstance(envelope, Cancel):
            return assembled(CANCEL, envelope.id, 0, b"", ())
        raise SerializationError(f"{type(envelope).__qualname__} is no envelope")

    # Decoding

    def _fill_plain(
        self, envelope: Any, kind: int, body: memoryview, buffers: Sequence[Buffer]
    ) -> Envelope:
        """Read a body that is not a message."""
        if kind in (CREDIT, CANCEL):
            if len(body) or buffers:
                raise SerializationError(f"{len(body)} bytes too many after the header")
            return envelope  # type: ignore[no-any-return]
        if kind in (REQUEST, NOTIFICATION):
            raise SerializationError("the payload does not name the type of its message")
        plain = _match_short(body) or _is_plain(body, 0, len(body))
        value = _loads(body) if plain else self._reader.read(body, buffers)
        if kind == RESPONSE:
            envelope.value = value
        elif kind == PROGRESS:
            envelope.item = value
        else:
            if (
                type(value) is not dict
                or value.keys() != _ERROR_FIELDS
                or not all(type(text) is str for text in value.values())
            ):
                raise SerializationError("the error that the peer reports is malformed")
            envelope.code = value.pop("code")
            envelope.error = ErrorMessage(**value)
        return envelope  # type: ignore[no-any-return]


_ERROR_FIELDS = frozenset(("message", "type", "traceback", "code"))


def _unreadable(error: Exception, name: memoryview, envelope: Envelope) -> SerializationError:
    what = type(envelope).__name__.lower()
    if len(name):
        what += f" with {escaped(str(name[:800], 'utf-8', 'replace'))}"
    return SerializationError(
        f"the body of a {what} can't be read: {reason(error)}", envelope=envelope
    )
