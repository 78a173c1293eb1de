"""A large ``bytes`` object at the end of a frame is read where it will stay."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest
from decoding import Decoder
from feeding import feed
from native_payloads import header, with_buffers

from streamipc.messages import Message
from streamipc.protocol.connection import Connection
from streamipc.protocol.envelopes import Envelope, Notification, Request, Response
from streamipc.protocol.framing import MAGIC, Apart, Junk
from streamipc.serializers.native import NativeMessageSerializer

LARGE = bytes(range(256)) * 400  # 100 KiB and some


class Blob(Message, wire_name="tests.Blob"):
    data: Any
    more: Any = None


def frame(payload: bytes) -> bytes:
    return MAGIC + len(payload).to_bytes(4, "big") + payload


def behind_ten(head: memoryview, size: int) -> int:
    return size - 10 if len(head) >= 10 else 0


def decoder() -> Decoder:
    return Decoder(1 << 24, lambda head: True, behind_ten)


@pytest.mark.parametrize("step", [17, 18, 19, 1000, 1 << 20])
def test_what_stands_behind_the_head_comes_as_bytes(step: int) -> None:
    frames = decoder()
    first, second = feed(frames, frame(LARGE) + frame(LARGE[::-1]), step)

    for item, whole in ((first, LARGE), (second, LARGE[::-1])):
        # A read may end anywhere: if the head was cut through, the frame comes as one.
        parts = (item.head, item.tail) if isinstance(item, Apart) else (item[:10], item[10:])
        assert b"".join(parts) == whole
    assert type(first) is (memoryview if step == 17 else Apart)
    assert [bytes(item) for item in feed(frames, frame(b"small"), step)] == [b"small"]


def test_what_came_as_bytes_can_not_be_written_any_more() -> None:
    frames = decoder()
    data = frame(LARGE)
    feed(frames, data[:-1], 1000)
    buffer = frames.get_buffer()  # as a reader holds it
    buffer[:] = data[-1:]

    (item,) = frames.received(1)
    assert isinstance(item, Apart)
    assert item.tail == LARGE[10:]
    with pytest.raises(ValueError, match="released"):
        buffer[:] = b"x"


def test_no_copy_is_made() -> None:
    size = 5_000_000
    frames = decoder()
    start = frame(bytes(size))[:1000]
    assert feed(frames, start, 1000) == []

    tracemalloc.start()
    (item,) = feed(frames, memoryview(bytes(size))[len(start) - 8 :], size)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert type(item.tail) is bytes
    assert len(item.tail) == size - 10
    assert peak < 1.1 * size  # what is fed, and nothing else


def test_of_a_frame_that_is_cut_off_the_beginning_is_shown() -> None:
    frames = decoder()
    assert feed(frames, frame(LARGE)[:300], 100) == []

    (rest,) = frames.finished()
    assert isinstance(rest, Junk)
    assert rest.data == LARGE[:292]
    assert [bytes(item) for item in feed(frames, frame(b"small"), 100)] == [b"small"]

    assert feed(frames, frame(LARGE)[:3000], 100) == []
    (rest,) = frames.finished()
    assert isinstance(rest, Junk)
    assert rest.data == LARGE[:512]


def test_an_announced_size_reserves_no_memory_that_is_not_filled() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frames = Decoder(1 << 32, lambda head: True, behind_ten)
    data = MAGIC + (4_000_000_000).to_bytes(4, "big") + b"x" * 5000
    assert feed(frames, data, 5000) == []
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert after - before < 200_000  # KiB


# The native serializer


def connection(serializer: Any = None) -> Connection:
    return Connection(serializer or NativeMessageSerializer(), 1 << 24)


@pytest.mark.parametrize("step", [1, 60, 100, 5000, 1 << 20])
@pytest.mark.parametrize(
    "envelope",
    [
        Request(7, Blob(LARGE), 3.5, None, 2),
        Request("a text", Blob(LARGE, "more"), None, {"key": "value"}),
        Notification(Blob(LARGE), {"key": "x" * 500}),
        Response(7, LARGE),
        Response(7, [memoryview(LARGE)]),
        Response(7, Blob(LARGE, LARGE[1:])),
        Response(7, Blob(bytearray(LARGE))),
        Response(7, Blob([LARGE])),
    ],
    ids=lambda envelope: f"{type(envelope).__name__}",
)
def test_envelopes_arrive_as_they_were_sent(envelope: Envelope, step: int) -> None:
    here, there = connection(), connection()
    data = b"".join(here.encode(envelope)) * 2
    found: list[Any] = []
    for start in range(0, len(data), step):
        found += there.feed(data[start : start + step])

    assert found == [envelope, envelope]
    if type(envelope) is Response and type(envelope.value) is bytes:
        assert [type(item.value) for item in found] == [bytes, bytes]


def test_the_bytes_are_the_object_that_was_read_into() -> None:
    serializer = NativeMessageSerializer()
    payload = b"".join(serializer.encode(Response(7, Blob(LARGE, "more"))))
    size = serializer.tail_size(memoryview(payload)[:200], len(payload))
    tail = payload[-size:]

    assert tail == LARGE
    back: Any = serializer.decode(memoryview(payload)[:-size], tail)
    assert back.value.data is tail


@pytest.mark.parametrize(
    "envelope",
    [
        Response(7, LARGE),
        Response("a text", LARGE),
        Response("a text", Blob(LARGE)),
        Request(7, Blob(LARGE, "more"), 3.5, {"key": "value", "other": "x" * 300}),
        Request("a text", Blob(LARGE, "more"), None, {"key": "value"}),
    ],
    ids=range(5),
)
def test_they_are_found_behind_whatever_stands_before_them(envelope: Envelope) -> None:
    serializer = NativeMessageSerializer()
    payload = b"".join(serializer.encode(envelope))
    start = len(payload) - len(LARGE)
    head = memoryview(payload)[:start]

    assert serializer.tail_size(head, len(payload)) == len(LARGE)
    assert serializer.tail_size(memoryview(payload)[: start + 9], len(payload)) == len(LARGE)
    assert serializer.tail_size(head[:-1], len(payload)) == 0
    assert serializer.decode(head, LARGE) == envelope


def test_the_connection_has_them_read_so() -> None:
    data = b"".join(connection().encode(Response(7, bytes(900_000))))
    there = connection()
    tracemalloc.start()
    (decoded,) = there.feed(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert decoded == Response(7, bytes(900_000))
    assert peak < 1_100_000  # the bytes once, and the buffer


@pytest.mark.parametrize(
    "value", [bytearray(LARGE), Blob(LARGE, LARGE), memoryview(bytearray(LARGE)), LARGE[:1000]]
)
def test_anything_else_is_read_as_a_whole(value: Any) -> None:
    serializer = NativeMessageSerializer()
    payload = b"".join(serializer.encode(Response(7, value)))
    assert serializer.tail_size(memoryview(payload), len(payload)) == 0


def flagged(size: int, body: bytes = b"", *, flags: int = 4, buffers: int = 1) -> bytes:
    """Return a payload up to its buffer, which is announced to have ``size`` bytes."""
    head = header(2, flags=flags, buffers=buffers) + struct.pack(">2Q", len(body), size) + body
    return head + bytes(-len(head) % 16)


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"", 100_000),
        (flagged(100_000)[:27], 100_048),
        (flagged(100_000)[:43], 100_048),
        (flagged(100_000)[:47], 100_048),  # what fills it up is not whole
        (flagged(100_000, b"x" * 30)[:60], 100_080),  # nor is the body
        (flagged(100_000), 100_049),
        (flagged(100_000), 100_047),
        (flagged(2**64 - 1), 100_047),
        (flagged(100_000, flags=0), 100_048),
        (flagged(100_000, flags=2), 100_048),
        (flagged(100_000, flags=6), 100_048),  # its metadata are said to be longer
        (flagged(100_000, buffers=2), 100_048),
        (flagged(100_000, buffers=0), 100_048),
    ],
)
def test_what_does_not_fit_has_no_bytes_at_its_end(head: bytes, size: int) -> None:
    assert NativeMessageSerializer().tail_size(memoryview(head), size) == 0


def test_what_fits_has_them() -> None:
    serializer = NativeMessageSerializer()
    assert serializer.tail_size(memoryview(flagged(100_000)), 100_048) == 100_000
    assert serializer.tail_size(memoryview(flagged(100_000, b"x" * 5)), 100_064) == 100_000


def test_bytes_that_are_claimed_and_none_are_read_like_any_other_buffer() -> None:
    """The flag is the peer's word: it says where to read to, and nothing of what it is."""
    body = with_buffers(2, NativeMessageSerializer().encode(Response(7, None))[0][28:], LARGE)
    hostile = bytes([body[0], 4]) + body[2:]
    decoded: Any = connection().feed(frame(hostile))
    assert [item.value for item in decoded] == [None]


def test_a_serializer_made_of_the_native_one_gets_the_whole_payload() -> None:
    seen: list[int] = []

    class Counting(NativeMessageSerializer):
        def decode(self, payload: memoryview, *rest: Any) -> Envelope:
            seen.append(len(payload))
            return super().decode(payload, *rest)

    data = b"".join(connection().encode(Response(7, LARGE)))
    assert connection(Counting()).feed(data) == [Response(7, LARGE)]
    assert seen == [len(data) - 8]


class PassingOn:
    """A serializer around the native one, of the kind that passes on what it does not define."""

    def __init__(self) -> None:
        self.inner = NativeMessageSerializer()

    def decode(self, payload: memoryview) -> Envelope:
        return self.inner.decode(payload)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def with_decode_replaced() -> NativeMessageSerializer:
    serializer = NativeMessageSerializer()
    original = serializer.decode
    serializer.decode = lambda payload: original(payload)  # type: ignore[method-assign, assignment, misc]
    return serializer


@pytest.mark.parametrize("serializer", [PassingOn(), with_decode_replaced()], ids=type)
def test_a_decode_around_the_native_one_gets_the_whole_payload(serializer: Any) -> None:
    data = b"".join(connection().encode(Response(7, LARGE)))
    assert connection(serializer).feed(data) == [Response(7, LARGE)]
