"""Bytes for a frame decoder, in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoding import Decoder

if TYPE_CHECKING:
    from streamipc.protocol.framing import Frame

__all__ = ["feed"]


def feed(frames: Decoder, data: bytes, step: int) -> list[Frame]:
    """Feed ``data``, at most ``step`` bytes at a time; return what that completes."""
    found: list[Frame] = []
    while data:
        buffer = frames.get_buffer()
        count = min(len(buffer), len(data), step)
        buffer[:count] = data[:count]
        data = data[count:]
        found += frames.received(count)  # while we still hold the buffer, as a reader does
    return found
