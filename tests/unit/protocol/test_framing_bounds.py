"""Where frames end and buffers are full: to the last byte."""

from __future__ import annotations

import mmap

import pytest
from decoding import Decoder
from interrupting import signals_raise

from streamipc.protocol.framing import MAGIC, Junk, Oversized

HELLO = MAGIC + b"\x00\x00\x00\x05hello"
FIRST, LARGEST, LEAST = 1 << 13, 1 << 16, 1 << 12


def frame(size: int) -> bytes:
    return MAGIC + size.to_bytes(4, "big") + (bytes(range(251)) * (size // 251 + 1))[:size]


def decoder(max_frame_size: int = 1 << 24) -> Decoder:
    return Decoder(max_frame_size, lambda head: True, lambda head, size: 0)


def put(frames: Decoder, data: bytes) -> list[object]:
    """Have ``data`` read at one go; it must fit."""
    frames.get_buffer()[: len(data)] = data
    return [
        item if isinstance(item, (Junk, Oversized)) else bytes(item)
        for item in frames.received(len(data))
    ]  # type: ignore[call-overload]


def feed(frames: Decoder, data: bytes) -> list[object]:
    found: list[object] = []
    while data:
        count = min(len(frames.get_buffer()), len(data))
        assert count, "there is always room for the next bytes"
        found += put(frames, data[:count])
        data = data[count:]
    return found


@pytest.mark.parametrize("size", [n + d for n in (FIRST, LARGEST) for d in range(-17, 18)])
def test_a_frame_that_just_fits_the_buffer_and_one_that_does_not_are_read(size: int) -> None:
    data = frame(size)

    assert feed(decoder(), data + HELLO) == [data[8:], b"hello"]
    assert feed(decoder(), HELLO * 3 + data + HELLO) == [*[b"hello"] * 3, data[8:], b"hello"]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 30])
def test_a_frame_is_not_taken_before_its_last_byte(size: int) -> None:
    data = frame(size)
    for cut in range(1, len(data)):
        frames = decoder()
        assert put(frames, data[:cut]) == []
        assert put(frames, data[cut:]) == [data[8:]]


@pytest.mark.parametrize(("size", "room"), [(8183, FIRST), (8184, LARGEST)])
def test_the_buffer_grows_after_a_single_frame_that_has_filled_it(size: int, room: int) -> None:
    frames = decoder()

    assert put(frames, frame(size)) == [frame(size)[8:]]
    assert len(frames.get_buffer()) == room


@pytest.mark.parametrize(("size", "room"), [(8184, FIRST), (8185, LARGEST), (65_528, LARGEST)])
def test_the_buffer_grows_for_a_frame_that_it_has_no_room_for(size: int, room: int) -> None:
    frames = decoder()
    assert put(frames, frame(size)[:10]) == []
    assert len(frames.get_buffer()) == room - 10


@pytest.mark.parametrize(("size", "large"), [(65_528, False), (65_529, True)])
def test_a_frame_that_the_largest_buffer_has_no_room_for_gets_memory_of_its_own(
    size: int, large: bool
) -> None:
    asked: list[tuple[bytes, int]] = []

    def tail_size(head: memoryview, size: int) -> int:
        asked.append((bytes(head), size))
        return 0

    frames = Decoder(1 << 24, lambda head: True, tail_size)
    data = frame(size)

    assert put(frames, data[:40]) == []
    assert asked == ([(data[8:40], size)] if large else [])
    assert feed(frames, data[40:] + HELLO) == [data[8:], b"hello"]


def test_the_largest_buffer_is_used_again() -> None:
    frames = decoder()
    feed(frames, frame(60_000))
    memory = frames.get_buffer().obj
    for _ in range(3):
        assert len(frames.get_buffer()) == LARGEST
        feed(frames, MAGIC + (LARGEST - 8).to_bytes(4, "big") + bytes(LARGEST - 8))
    assert frames.get_buffer().obj is memory


@pytest.mark.parametrize(
    ("start", "rest", "room"),
    [
        (13, 5, FIRST - 18),  # there is room: nothing moves
        (13, FIRST - LEAST - 13, LEAST),
        (13, FIRST - LEAST - 12, LEAST + 12),  # and now it does
        (0, FIRST - LEAST + 1, LEAST - 1),  # to where it stands already
    ],
)
def test_what_is_left_moves_to_the_front_when_there_is_little_room_behind_it(
    start: int, rest: int, room: int
) -> None:
    frames = decoder()
    assert put(frames, HELLO[:start] + frame(8000)[:rest]) == ([b"hello"] if start else [])
    assert len(frames.get_buffer()) == room
    assert put(frames, frame(8000)[rest : rest + room]) == (
        [frame(8000)[8:]] if rest + room >= 8008 else []
    )


@pytest.mark.parametrize(
    ("before", "junk"),
    [
        (b"", MAGIC[:3] + b"x"),
        (b"", MAGIC[:1] + b"x"),
        (b"", b"junk\x00\x00\x00\x01x"),  # a frame but for its magic
        # The end of the payload and the junk look like a magic.
        (MAGIC + b"\x00\x00\x00\x05hell" + MAGIC[:1], MAGIC[1:2]),
        (MAGIC + b"\x00\x00\x00\x05hel" + MAGIC[:2], MAGIC[2:3]),
    ],
)
def test_junk_is_reported_at_once_and_nothing_else_with_it(before: bytes, junk: bytes) -> None:
    frames = decoder()
    found = put(frames, before + junk)

    (last,) = found[1 if before else 0 :]
    assert isinstance(last, Junk)
    assert last.data == junk
    assert put(frames, HELLO) == [b"hello"]


def test_a_small_frame_that_is_larger_than_allowed_is_reported_with_its_last_byte() -> None:
    for cut in range(1, len(HELLO)):
        frames = decoder(max_frame_size=4)
        assert put(frames, HELLO[:cut]) == []
        (item,) = put(frames, HELLO[cut:])
        assert isinstance(item, Oversized)
        assert (item.length, item.head) == (5, b"hello")
        assert put(frames, MAGIC + bytes(4)) == [b""]


def test_a_frame_without_memory_shows_its_first_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(mmap, "mmap", fail)
    data = frame(2_000_000)
    for shown, start in ((92, 100), (512, 1000)):
        frames = decoder()
        (item,) = put(frames, data[:start])
        assert isinstance(item, Oversized)
        assert (item.length, item.head) == (2_000_000, data[8 : 8 + shown])
        assert feed(frames, data[start:] + HELLO) == [b"hello"]


def test_what_a_signals_handler_raises_is_not_taken_for_a_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The frame is read all the same, by whoever comes next."""
    data = frame(1 << 20)
    frames = decoder()
    with signals_raise(TimeoutError) as interrupt:

        def interrupted(size: int) -> memoryview:
            monkeypatch.undo()
            interrupt()
            raise AssertionError("the handler has raised")

        monkeypatch.setattr("streamipc.protocol.framing.reserve", interrupted)
        begin = len(frames.get_buffer())
        with pytest.raises(TimeoutError):
            put(frames, data[:begin])
    frames.cut()

    assert feed(frames, data[begin:] + HELLO) == [data[8:], b"hello"]
