"""The contract between the protocol and a serializer: two methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Union, runtime_checkable

import streamipc

__all__ = ["Buffer", "MessageSerializer"]

Buffer = Union[bytes, bytearray, memoryview]
"""What a payload is made of: contiguous bytes."""


@runtime_checkable
class MessageSerializer(Protocol):
    """Turns envelopes into payloads and back.

    Implement these two methods to bring a format of your own::

        IpcPeer(serializer=MySerializer())

    Both are called from several threads at once.
    """

    def encode(self, envelope: streamipc.envelopes.Envelope, /) -> Sequence[Buffer]:
        """Return the payload as one or more buffers, to be sent one after the other.

        Large buffers are written as they are, never copied together. What is returned
        must not change afterwards.

        Raises:
            SerializationError: a value can't be represented; names the value's type and
                where it stands.
        """
        ...

    def decode(self, payload: memoryview, /) -> streamipc.envelopes.Envelope:
        """Return the envelope that ``payload`` holds.

        The view is over memory that belongs to this payload alone and stays valid for
        as long as something refers to it, so that a result may keep slices of it.

        Raises:
            SerializationError: the payload can't be read. Where its header could be
                read, ``error.envelope`` is the envelope with its body set to ``None``:
                a request is then answered with the error, and a reply fails its future.
        """
        ...
