"""Bytes to payloads and back.

A frame is the four bytes ``F3 4A 9D E2``, the payload's length as a 32-bit big-endian
integer, and the payload: the frame of stream-ipc 1.0 for PHP. Bytes that are no frame
are reported as junk, and the decoder goes on at the next magic.

The decoder hands out the buffer that bytes are to be read into. Small frames are cut
out of one buffer that is used again and again. A frame that is larger gets memory of its
own, of exactly its size, so that the bytes are read where they will stay. If it ends with
what will be a ``bytes`` object, that part becomes one without another copy.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Union

from .._signals import interrupt_in
from ..exceptions import ProtocolError
from .memory import ReservedBytes, reserve

if TYPE_CHECKING:
    from ..serializers.base import Buffer

__all__ = ["HEADER_SIZE", "MAGIC", "Apart", "FrameDecoder", "Junk", "Oversized", "encode_frame"]

Frame = Union[memoryview, "Apart", "Junk", "Oversized"]
"""What a stream of bytes is cut into; a memoryview is a whole payload."""

MAGIC = b"\xf3\x4a\x9d\xe2"
_MAGIC_NUMBER = int.from_bytes(MAGIC, "big")
_HEADER = struct.Struct(">II")
HEADER_SIZE = _HEADER.size
_pack_header = _HEADER.pack
_unpack_header = _HEADER.unpack_from

_FIRST_BUFFER = 1 << 13
"""Bytes of the shared buffer at first: idle sessions are many, and their messages small."""

_LARGEST_BUFFER = 1 << 16
"""Bytes that it grows to when a read fills it: the default capacity of a Linux pipe, so
that one read can empty it."""

_LEAST_READ = 1 << 12
"""Bytes of room behind the data that are worth a read; with less, the data moves."""

_JOIN_LIMIT = 1 << 16
"""Bytes up to which a frame of several buffers is joined: a copy of this size costs less
than the bookkeeping of writing the pieces."""

_HEAD_SIZE = 512
"""Bytes of a frame that is too large which are kept to find its id: more than the
largest header of either serializer in ordinary use."""

_CARET = ord("^")
"""How the length of an echoed frame begins: a terminal shows its zeros as ``^@``. To wait for
more of it would hold back the reply behind it. A frame of that size would have 1.6 GB."""


class Apart:
    """A payload that came in two parts.

    Args:
        head: its beginning.
        tail: the rest, an object of its own.
    """

    __slots__ = ("head", "tail")

    def __init__(self, head: memoryview, tail: bytes) -> None:
        self.head = head
        self.tail = tail


class Junk:
    """Bytes that are no frame."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Oversized:
    """A frame that was skipped because it is larger than allowed, or than can be held now.

    Args:
        length: bytes of its payload, as announced.
        head: the first bytes of the payload.
        reason: why there is no memory for it; ``None``: it is larger than allowed.
    """

    __slots__ = ("head", "length", "reason")

    def __init__(self, length: int, head: bytes, reason: Exception | None = None) -> None:
        self.length = length
        self.head = head
        self.reason = reason


def encode_frame(payload: Sequence[Buffer], max_frame_size: int) -> list[Buffer]:
    """Return the buffers of a frame; a small one is a single ``bytes`` object.

    Raises:
        ProtocolError: the payload is larger than ``max_frame_size`` bytes.
    """
    if len(payload) == 1 and len(body := payload[0]) <= _JOIN_LIMIT <= max_frame_size:
        return [_pack_header(_MAGIC_NUMBER, len(body)) + body]
    # A memoryview counts its items, not its bytes, unless they are single bytes.
    views = [memoryview(part).cast("B") for part in payload]
    length = sum(map(len, views))
    if length > max_frame_size:
        raise ProtocolError(
            f"the message takes {length:,} bytes and max_frame_size is {max_frame_size:,}: "
            "raise it on both sides (IpcPeer(max_frame_size=...)), or send the message in parts"
        )
    header = _pack_header(_MAGIC_NUMBER, length)
    if length <= _JOIN_LIMIT:
        return [b"".join([header, *views])]
    return [header, *views]


class FrameDecoder:
    """Cuts a stream of bytes into frames.

    Call :meth:`get_buffer`, read into it, call :meth:`buffer_updated`.

    An interrupt, such as Ctrl-C, may come behind any call in here. So each step changes all that
    it changes at once: by stores, of which the last may be one call that adds to ``frames``. What
    has arrived and is not cut yet, ``is_uncut`` says, is cut by the next :meth:`cut`.

    Args:
        max_frame_size: bytes; a larger frame is skipped.
        is_payload: tells from the first bytes of a frame that is too large whether they
            start a payload. If they don't, its header was damage, and skipping what it
            announces would swallow good frames.
        tail_size: tells from the beginning and the length of a large payload how many
            bytes at its end are to be a ``bytes`` object.
        frames: what is found is added here.
    """

    def __init__(
        self,
        max_frame_size: int,
        is_payload: Callable[[bytes], bool],
        tail_size: Callable[[memoryview, int], int],
        frames: deque[Frame],
    ) -> None:
        self._max_frame_size = max_frame_size
        self._max_small = max_frame_size + HEADER_SIZE
        self._is_payload = is_payload
        self._tail_size = tail_size
        self._frames = frames
        self.is_uncut = False
        self._size = _FIRST_BUFFER
        self._memory = bytearray(self._size)
        self._view = memoryview(self._memory)
        self._start = 0  # of what is not yet decoded
        self._end = 0
        self._large: memoryview | None = None  # the frame that has memory of its own
        self._large_size = 0
        self._filled = 0
        self._unfilled: memoryview | None = None  # the part of it handed out last
        self._head: memoryview | None = None  # what came before it, if it is a tail
        self._tail: ReservedBytes | None = None
        self._skip = 0  # bytes of an oversized frame still to come

    def get_buffer(self) -> memoryview:
        """Return the memory for the next bytes; it is never empty."""
        if self._large is not None:
            self._unfilled = self._large[self._filled :]
            return self._unfilled
        if not self._end:
            return self._view
        if self._start == self._end:
            if self._end == self._size < _LARGEST_BUFFER:
                self._grow()  # the last read filled it
            self._start = self._end = 0
            return self._view
        if self._start and self._size - self._end < _LEAST_READ:
            self._move_to_front()
        return self._view[self._end :]

    def buffer_updated(self, log: list[int]) -> None:
        """Cut what was put into the buffer.

        Args:
            log: holds the number of bytes; it is emptied when they are counted.
        """
        count = log[0]
        if self._large is None:
            end = self._end + count
            self._end, self.is_uncut = end, True
        else:
            filled = self._filled + count
            self._filled, self.is_uncut = filled, True
        log.clear()
        self.cut()

    def cut(self) -> None:
        """Add what is complete to ``frames``."""
        if self._large is not None:
            if self._filled == self._large_size:
                self._end_large(self._large)
            self.is_uncut = False
            return
        frames = self._frames
        end = self._end
        if not self._skip:
            memory = self._memory
            start = self._start
            if not start and end >= HEADER_SIZE:
                magic, length = _unpack_header(memory)
                if magic == _MAGIC_NUMBER and length + HEADER_SIZE == end <= self._max_small:
                    # One whole small frame, and nothing else: what nearly always arrives.
                    payload = memoryview(memory[HEADER_SIZE:end])
                    self.is_uncut = False
                    if end < self._size:
                        self._end = 0  # nothing is left, and get_buffer() need not look
                    else:
                        self._start = end
                    frames.append(payload)
                    return
            # Whole small frames, one behind the other: a burst.
            found: list[Frame] = []
            while end - start >= HEADER_SIZE:
                magic, length = _unpack_header(memory, start)
                stop = start + HEADER_SIZE + length
                if magic != _MAGIC_NUMBER or stop > end or length > self._max_frame_size:
                    break
                # A slice of a bytearray is a copy: the payload owns its memory.
                found.append(memoryview(memory[start + HEADER_SIZE : stop]))
                start = stop
            if found:
                self._start = start
                frames.extend(found)
        before = len(frames)
        while self._start < end and self._decode_one(before):
            pass
        self.is_uncut = False

    def finish(self) -> None:
        """Add what is left at the end of the stream, as junk."""
        if self._large is not None:
            rest = bytes(self._large[: min(self._filled, _HEAD_SIZE)])
            if self._head is not None:
                rest = (bytes(self._head) + rest)[:_HEAD_SIZE]
        else:
            rest = bytes(self._memory[self._start : self._end])
        junk = Junk(rest) if rest else None
        self._large = self._unfilled = self._head = self._tail = None
        self._start = self._end = 0
        if junk is not None:
            self._frames.append(junk)

    def unfinished(self) -> bytes:
        """Return what waits for more and announces a frame that is larger than allowed.

        Other threads may ask, for a text: what is read meanwhile may be in it or not.
        """
        rest = bytes(self._memory[self._start : self._end])
        if self._large is not None or self._skip or len(rest) < HEADER_SIZE:
            return b""
        magic, length = _unpack_header(rest)
        return rest if magic == _MAGIC_NUMBER and length > self._max_frame_size else b""

    def _decode_one(self, before: int) -> bool:
        """Decode what stands first; return whether to go on.

        Args:
            before: how many frames were there before this read.
        """
        start = self._start
        available = self._end - start
        if self._skip:
            skipped = min(self._skip, available)
            self._skip, self._start = self._skip - skipped, start + skipped
            return True
        if available < HEADER_SIZE:
            return not MAGIC.startswith(self._memory[start : start + 4][:available]) and (
                self._resynchronise(before)
            )
        magic, length = _unpack_header(self._memory, start)
        if magic != _MAGIC_NUMBER:
            return self._resynchronise(before)
        if length > self._max_frame_size:
            return self._skip_oversized(length, before)
        start += HEADER_SIZE
        end = start + length
        if end <= self._end:
            payload = memoryview(self._memory[start:end])
            self._start = end
            self._frames.append(payload)
            return True
        if length > _LARGEST_BUFFER - HEADER_SIZE:
            self._start_large(start, length)
        elif length > self._size - HEADER_SIZE:
            self._grow()
        return False

    def _start_large(self, start: int, length: int) -> None:
        tail_size = self._tail_size(self._view[start : self._end], length)
        tail: ReservedBytes | None = None
        try:
            if tail_size:
                tail = ReservedBytes(tail_size)
                large = tail.view
            else:
                large = reserve(length)
        except (MemoryError, OSError, ImportError) as reason:
            if interrupt_in(reason) is not None:
                raise
            head = bytes(self._memory[start : self._end][:_HEAD_SIZE])
            oversized = Oversized(length, head, reason)
            self._skip, self._start = length - (self._end - start), self._end
            self._frames.append(oversized)
            return
        begins = None
        if tail_size:
            begins = memoryview(self._memory[start : start + length - tail_size])
            start += length - tail_size
        filled, size = self._end - start, len(large)
        large[:filled] = self._view[start : self._end]
        self._head, self._tail, self._filled, self._large_size = begins, tail, filled, size
        self._large, self._start = large, self._end

    def _end_large(self, large: memoryview) -> None:
        item: Frame = large
        if self._tail is not None:
            assert self._head is not None
            if self._unfilled is not None:
                self._unfilled.release()  # our reader may still hold it
            item = Apart(self._head, self._tail.take())
        self._large = self._unfilled = self._head = self._tail = None
        self._frames.append(item)

    def _skip_oversized(self, length: int, before: int) -> bool:
        start = self._start + HEADER_SIZE
        if length >> 24 == _CARET:
            return self._resynchronise(before)
        if self._end - start < min(length, _HEAD_SIZE):
            return False
        head = bytes(self._memory[start : start + min(length, _HEAD_SIZE)])
        if not self._is_payload(head):
            return self._resynchronise(before)
        oversized = Oversized(length, head)
        self._start, self._skip = start, length
        self._frames.append(oversized)
        return True

    def _move_to_front(self) -> None:
        """Make room behind what is not yet decoded."""
        rest = self._memory[self._start : self._end]
        size = len(rest)
        self._start, self._end, self._memory[:size] = 0, size, rest

    def _grow(self) -> None:
        """Make the shared buffer as large as it gets; what is not yet decoded moves along."""
        rest = self._memory[self._start : self._end]
        size = len(rest)
        memory = bytearray(_LARGEST_BUFFER)
        memory[:size] = rest
        view = memoryview(memory)
        self._memory, self._view, self._size = memory, view, _LARGEST_BUFFER
        self._start, self._end = 0, size

    def _resynchronise(self, before: int) -> bool:
        """Report bytes up to the next magic as junk; return whether to go on."""
        start = self._start
        following = self._memory.find(MAGIC, start + 1, self._end)
        if following < 0:
            following = self._end
            # The last bytes may be the beginning of a magic.
            for size in (3, 2, 1):
                tail = self._memory[max(self._end - size, start + 1) : self._end]
                if tail and MAGIC.startswith(tail):
                    following = self._end - len(tail)
                    break
        data = bytes(self._memory[start:following])
        frames = self._frames
        last = frames[-1] if len(frames) > before else None
        if isinstance(last, Junk):
            junk = Junk(last.data + data)
            self._start, frames[-1] = following, junk
            return True
        junk = Junk(data)
        self._start = following
        frames.append(junk)
        return True
