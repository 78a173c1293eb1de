"""The JSON serializer: one readable object in a payload, for peers in any language.

The README describes the bytes so that another language can speak them. This file holds
only the public class. What does the work is imported when the first serializer is made,
because most programs use the native one and shall not pay for this:

- ``_json_wire``: envelopes to JSON objects and back;
- ``_json_text``: JSON objects to bytes and back, stricter than :mod:`json`;
- ``_json_records`` and its neighbours: values to JSON and back, by their annotations.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..protocol.envelopes import Envelope
from .base import Buffer

__all__ = ["JsonMessageSerializer"]


class JsonMessageSerializer:
    """Turns envelopes into readable UTF-8 JSON and back.

    The annotations of a message's fields decide how its values are written, and both
    sides check them. Where an annotation leaves the type open (``Any``, ``object``, a
    union, a plain reply), what JSON lacks is written as a tagged object such as
    ``{"$datetime": "2024-05-01T12:00:00"}``, so that it comes back as it was.

    Messages are built without calling ``__init__`` or ``__post_init__``. Message types
    are looked up in the registry of those already defined; nothing is imported or called
    because a peer named it. An instance has no state and may serve many sessions.
    """

    __slots__ = ("_decode", "_encode")

    def __init__(self) -> None:
        from . import _json_wire

        self._encode = _json_wire.encode
        self._decode = _json_wire.decode

    def encode(self, envelope: Envelope, /) -> Sequence[Buffer]:
        """Return the payload: one buffer of UTF-8 JSON.

        Raises:
            SerializationError: a value does not fit its annotation, or has a type that
                JSON can't carry here; the text names its path, such as
                ``body.items[3].price``.
        """
        return (self._encode(envelope),)

    def decode(self, payload: memoryview, /) -> Envelope:
        """Return the envelope that ``payload`` holds.

        Raises:
            SerializationError: the payload is not JSON, breaks the rules of the envelope,
                or its body does not fit the annotations of its message; the text names
                the path. ``error.envelope`` is the envelope without its body where the
                kind and the id could be read.
        """
        return self._decode(payload)
