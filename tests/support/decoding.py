"""A frame decoder that gives what it has found to whoever fed it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from streamipc.protocol.framing import FrameDecoder

__all__ = ["Decoder"]


class Decoder(FrameDecoder):
    """Returns what it finds."""

    def __init__(
        self,
        max_frame_size: int,
        is_payload: Callable[[bytes], bool],
        tail_size: Callable[[memoryview, int], int],
    ) -> None:
        self.found: deque[Any] = deque()
        super().__init__(max_frame_size, is_payload, tail_size, self.found)

    def received(self, count: int) -> list[Any]:
        """Return what ``count`` bytes in the buffer complete."""
        self.buffer_updated([count])
        return self._taken()

    def finished(self) -> list[Any]:
        """Return what the end of the stream leaves behind."""
        self.finish()
        return self._taken()

    def _taken(self) -> list[Any]:
        taken = list(self.found)
        self.found.clear()
        return taken
