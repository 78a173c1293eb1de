"""What a child that is going to die leaves for its parent: memory that outlives it.

A file that both map: when the child died, if it did so by itself, and the ids of the replies
that it had handed to the operating system completely.
"""

from __future__ import annotations

import mmap
import struct
import time

from streamipc import NativeMessageSerializer

__all__ = ["Journal"]

_SIZE = 1 << 20
_HEAD = struct.Struct("<dQ")  # when it died (time.monotonic), how many replies
_ID = struct.Struct("<Q")
_FRAME_HEAD = 8


class Journal:
    """One child's journal.

    Args:
        path: of a file; made by the parent with ``create``.
        create: whether to make it.
    """

    def __init__(self, path: str, create: bool = False) -> None:
        with open(path, "w+b" if create else "r+b") as file:
            if create:
                file.truncate(_SIZE)
            self._memory = mmap.mmap(file.fileno(), _SIZE)
        self._decode = NativeMessageSerializer().decode
        self._count = 0
        self._partial = bytearray()

    def close(self) -> None:
        self._memory.close()

    # The child writes.

    def dies_now(self) -> None:
        _, count = _HEAD.unpack_from(self._memory)
        _HEAD.pack_into(self._memory, 0, time.monotonic(), count)

    def wrote(self, data: bytes) -> None:
        """Note which replies are complete now that ``data`` has been written."""
        self._partial += data
        while len(self._partial) >= _FRAME_HEAD:
            end = _FRAME_HEAD + int.from_bytes(self._partial[4:_FRAME_HEAD], "big")
            if len(self._partial) < end:
                break
            envelope = self._decode(memoryview(bytes(self._partial[_FRAME_HEAD:end])))
            del self._partial[:end]
            if type(envelope).__name__ == "Response":
                self._note(envelope.id)  # type: ignore[union-attr]

    def _note(self, id: object) -> None:  # noqa: A002
        assert isinstance(id, int)
        place = _HEAD.size + self._count * _ID.size
        if place + _ID.size <= _SIZE:
            # The id first: whoever reads believes the count.
            _ID.pack_into(self._memory, place, id)
            self._count += 1
            died, _ = _HEAD.unpack_from(self._memory)
            _HEAD.pack_into(self._memory, 0, died, self._count)

    # The parent reads.

    @property
    def died(self) -> float:
        """When the child died, on the clock that all processes share; 0: unknown."""
        died: float = _HEAD.unpack_from(self._memory)[0]
        return died

    @property
    def replies(self) -> list[int]:
        """Ids of the requests that were answered completely."""
        count = _HEAD.unpack_from(self._memory)[1]
        return [
            _ID.unpack_from(self._memory, _HEAD.size + number * _ID.size)[0]
            for number in range(count)
        ]
