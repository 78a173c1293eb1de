"""Bytes to payloads and back, with bytes literals alone."""

from __future__ import annotations

import mmap
import random

import feeding
import pytest
from decoding import Decoder
from hypothesis import given
from hypothesis import strategies as st

from streamipc import ProtocolError
from streamipc.protocol.framing import MAGIC, Junk, Oversized, encode_frame

HELLO = b"\xf3\x4a\x9d\xe2\x00\x00\x00\x05hello"
EMPTY = b"\xf3\x4a\x9d\xe2\x00\x00\x00\x00"


def decoder(max_frame_size: int = 1 << 20, is_payload: object = True) -> Decoder:
    return Decoder(max_frame_size, lambda head: bool(is_payload), lambda head, size: 0)


def feed(frames: Decoder, data: bytes, step: int = 1 << 20) -> list[object]:
    """Feed ``data`` in pieces; return payloads as bytes, junk as ``("junk", bytes)``."""
    return joined([plain(item) for item in feeding.feed(frames, data, step)])


def plain(item: object) -> object:
    if isinstance(item, Junk):
        return ("junk", item.data)
    if isinstance(item, Oversized):
        return ("oversized", item.length)
    return bytes(item)  # type: ignore[call-overload]


def joined(found: list[object]) -> list[object]:
    """Join junk that stands side by side: how it is cut depends on how the bytes came."""
    result: list[object] = []
    for item in found:
        if isinstance(item, tuple) and item[0] == "junk" and result:
            last = result[-1]
            if isinstance(last, tuple) and last[0] == "junk":
                result[-1] = ("junk", last[1] + item[1])
                continue
        result.append(item)
    return result


def test_a_frame_is_the_magic_the_length_and_the_payload() -> None:
    assert encode_frame([b"hello"], 1 << 20) == [HELLO]
    assert feed(decoder(), HELLO) == [b"hello"]


def test_an_empty_payload_is_a_frame_too() -> None:
    assert encode_frame([b""], 1 << 20) == [EMPTY]
    assert encode_frame([], 1 << 20) == [EMPTY]
    assert feed(decoder(), EMPTY + HELLO) == [b"", b"hello"]


def test_small_pieces_are_joined_and_large_ones_are_not_copied() -> None:
    large = bytearray(100_000)

    assert encode_frame([b"he", memoryview(b"llo")], 1 << 20) == [HELLO]
    header, first, second = encode_frame([b"x", large], 1 << 20)
    assert bytes(header) == MAGIC + (100_001).to_bytes(4, "big")
    assert bytes(first) == b"x"
    assert isinstance(second, memoryview)
    assert second.obj is large


def test_a_view_of_wide_items_counts_its_bytes() -> None:
    from array import array

    wide = memoryview(array("d", [1.0, 2.0]))

    (frame,) = encode_frame([wide, b""], 1 << 20)
    assert bytes(frame) == MAGIC + (16).to_bytes(4, "big") + wide.tobytes()


@pytest.mark.parametrize("payload", [[b"x" * 2001], [b"x" * 1001, b"x" * 1000]])
def test_a_payload_larger_than_allowed_is_refused_before_it_is_sent(payload: list[bytes]) -> None:
    with pytest.raises(ProtocolError) as caught:
        encode_frame(payload, 2000)
    assert str(caught.value) == (
        "the message takes 2,001 bytes and max_frame_size is 2,000: raise it on both sides "
        "(IpcPeer(max_frame_size=...)), or send the message in parts"
    )
    assert encode_frame([b"x" * 2000], 2000)


@pytest.mark.parametrize("cut", range(1, len(HELLO + EMPTY + HELLO)))
def test_frames_are_found_however_the_stream_is_cut(cut: int) -> None:
    stream = HELLO + EMPTY + HELLO
    frames = decoder()

    assert feed(frames, stream[:cut]) + feed(frames, stream[cut:]) == [b"hello", b"", b"hello"]
    assert [plain(item) for item in frames.finished()] == []


STREAMS = [
    (b"junk" + HELLO, [("junk", b"junk"), b"hello"]),
    (HELLO + b"junk" + HELLO, [b"hello", ("junk", b"junk"), b"hello"]),
    (HELLO + b"\n", [b"hello", ("junk", b"\n")]),
    # Half a magic, then a whole one.
    (b"\xf3\x4a" + HELLO, [("junk", b"\xf3\x4a"), b"hello"]),
    (b"\xf3\xf3\xf3" + HELLO, [("junk", b"\xf3\xf3\xf3"), b"hello"]),
    (b"\xf3\x4a\x9d\x00" + HELLO, [("junk", b"\xf3\x4a\x9d\x00"), b"hello"]),
    # The magic inside of a payload means nothing.
    (MAGIC + b"\0\0\0\x0d" + HELLO + HELLO, [HELLO, b"hello"]),
    # A large frame in memory of its own, between small ones.
    (
        HELLO + MAGIC + (200_000).to_bytes(4, "big") + b"L" * 200_000 + HELLO,
        [b"hello", b"L" * 200_000, b"hello"],
    ),
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 8, 9, 64, 4096, 1 << 20])
@pytest.mark.parametrize("number", range(len(STREAMS)))
def test_the_decoder_goes_on_behind_junk(number: int, step: int) -> None:
    stream, expected = STREAMS[number]
    if step < 64 and len(stream) > 1000:
        stream, expected = stream.replace(b"L" * 200_000, b"L" * 70_000), [*expected]
        stream = stream.replace((200_000).to_bytes(4, "big"), (70_000).to_bytes(4, "big"))
        expected[1] = b"L" * 70_000
    frames = decoder()

    assert joined(feed(frames, stream, step) + [plain(i) for i in frames.finished()]) == expected


def test_an_oversized_frame_is_skipped_and_the_next_one_is_read() -> None:
    stream = MAGIC + (5_000).to_bytes(4, "big") + b"B" * 5_000 + HELLO

    for step in (1, 100, 1 << 20):
        assert feed(decoder(1024), stream, step) == [("oversized", 5_000), b"hello"]


def test_an_oversized_frame_shows_its_first_bytes() -> None:
    frames = decoder(1024)
    data = MAGIC + (5_000).to_bytes(4, "big") + bytes(range(256)) * 4
    frames.get_buffer()[: len(data)] = data

    (item,) = frames.received(len(data))
    assert isinstance(item, Oversized)
    assert item.head == (bytes(range(256)) * 2)


def test_an_announced_length_that_is_damage_does_not_swallow_good_frames() -> None:
    damage = MAGIC + b"\xff\xff\xff\xff" + b"printed by somebody " * 30
    frames = decoder(1024, is_payload=False)

    assert feed(frames, damage + HELLO) == [("junk", damage), b"hello"]


def test_an_oversized_frame_at_the_end_of_the_shared_buffer_is_still_recognised() -> None:
    # The frame before it ends so near the end of the buffer that the head does not fit.
    first = MAGIC + (65_500).to_bytes(4, "big") + b"f" * 65_500
    second = MAGIC + (2_000_000).to_bytes(4, "big") + b"s" * 2_000_000
    assert feed(decoder(100_000), first + second + HELLO) == [
        b"f" * 65_500,
        ("oversized", 2_000_000),
        b"hello",
    ]


@pytest.mark.parametrize("size", [1, 4, 7, 8, 12])
def test_what_the_end_cuts_off_is_junk(size: int) -> None:
    frames = decoder()

    assert feed(frames, HELLO[:size]) == []
    assert [plain(item) for item in frames.finished()] == [("junk", HELLO[:size])]
    assert [plain(item) for item in frames.finished()] == []


def test_of_a_large_frame_that_is_cut_off_the_beginning_is_shown() -> None:
    frames = decoder()
    assert feed(frames, MAGIC + (500_000).to_bytes(4, "big") + b"x" * 100_000) == []

    (rest,) = frames.finished()
    assert isinstance(rest, Junk)
    assert rest.data == b"x" * 512


def test_a_payload_keeps_its_bytes_while_the_next_ones_arrive() -> None:
    frames = decoder()
    frames.get_buffer()[: len(HELLO)] = HELLO
    (payload,) = frames.received(len(HELLO))

    feed(frames, b"\0" * 60_000)
    assert bytes(payload) == b"hello"  # type: ignore[arg-type]


def test_an_announced_size_reserves_no_memory_that_is_not_filled() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frames = decoder(1 << 32)
    assert feed(frames, MAGIC + (4_000_000_000).to_bytes(4, "big") + b"x" * 5000) == []
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert after - before < 200_000  # KiB


pieces = st.one_of(
    st.binary(max_size=300).map(lambda data: (MAGIC + len(data).to_bytes(4, "big") + data, data)),
    st.binary(min_size=1, max_size=40)
    .filter(lambda data: 0xF3 not in data)
    .map(lambda data: (data, ("junk", data))),
)


@given(st.lists(pieces, max_size=30), st.integers(0, 2**32))
def test_any_mixture_of_frames_and_junk_is_told_apart(
    parts: list[tuple[bytes, object]], seed: int
) -> None:
    stream = b"".join(raw for raw, _ in parts)
    cuts = random.Random(seed)
    frames = decoder()
    found: list[object] = []
    while stream:
        size = cuts.randint(1, 50)
        found += feed(frames, stream[:size])
        stream = stream[size:]
    found += [plain(item) for item in frames.finished()]

    assert joined(found) == joined([expected for _, expected in parts])


@given(st.binary(max_size=2000), st.integers(1, 300))
def test_no_byte_is_lost_whatever_comes(data: bytes, step: int) -> None:
    frames = decoder(64, is_payload=False)
    found = feed(frames, data, step) + [plain(item) for item in frames.finished()]

    assert (
        b"".join(
            item[1] if isinstance(item, tuple) else MAGIC + len(item).to_bytes(4, "big") + item  # type: ignore[arg-type, misc]
            for item in found
        )
        == data
    )


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(12, "Cannot allocate memory"), ImportError("mmap")]
)
def test_a_frame_for_which_there_is_no_memory_is_skipped(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(mmap, "mmap", fail)
    frames = decoder(max_frame_size=1 << 30)
    size = 8 << 20

    assert feed(frames, MAGIC + size.to_bytes(4, "big") + bytes(size) + HELLO) == [
        ("oversized", size),
        b"hello",
    ]


def test_junk_that_stands_side_by_side_is_reported_as_one() -> None:
    frames = decoder(is_payload=False)
    junk = b"print" + MAGIC + b"\xff" * 2000 + MAGIC + b"\xff" * 2000
    data = junk + HELLO
    buffer = frames.get_buffer()
    buffer[: len(data)] = data

    found = [plain(item) for item in frames.received(len(data))]

    assert found == [("junk", junk), b"hello"]


@pytest.mark.parametrize(("size", "buffers"), [(1 << 16, 1), ((1 << 16) + 1, 2)])
def test_a_payload_is_joined_with_its_header_up_to_a_limit(size: int, buffers: int) -> None:
    assert len(encode_frame([bytes(size)], 1 << 16 | 1)) == buffers
    assert len(encode_frame([bytes(size - 1), b"x"], 1 << 16 | 1)) == buffers + (buffers - 1)


def test_a_payload_as_large_as_a_frame_may_be_is_joined_too() -> None:
    assert len(encode_frame([bytes(1 << 16)], 1 << 16)) == 1


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_frame_as_large_as_it_may_be_is_taken(step: int) -> None:
    large = MAGIC + (2000).to_bytes(4, "big") + bytes(2000)
    assert feed(decoder(max_frame_size=2000), large, step) == [bytes(2000)]
    assert feed(decoder(max_frame_size=5), HELLO, step) == [b"hello"]
    assert feed(decoder(max_frame_size=4), HELLO + EMPTY, step) == [("oversized", 5), b""]


def test_junk_is_reported_as_soon_as_it_is_known_to_be_junk() -> None:
    assert feed(decoder(), b"some junk") == [("junk", b"some junk")]
    assert feed(decoder(), b"some junk" + MAGIC[:2]) == [("junk", b"some junk")]


def test_junk_that_looks_like_a_short_frame_but_for_its_magic_is_junk() -> None:
    junk = b"junk\x00\x00\x00\x01x"

    assert feed(decoder(), junk + HELLO) == [("junk", junk), b"hello"]


@pytest.mark.parametrize("step", [1, 100, 500, 1 << 20])
def test_a_frame_that_is_too_large_is_judged_by_a_whole_head(step: int) -> None:
    heads: list[bytes] = []

    def is_payload(head: bytes) -> bool:
        heads.append(head)
        return True

    frames = Decoder(2000, is_payload, lambda head, size: 0)
    data = HELLO * 50 + MAGIC + (3000).to_bytes(4, "big") + b"x" * 3000 + HELLO

    assert feed(frames, data, step) == [b"hello"] * 50 + [("oversized", 3000), b"hello"]
    assert heads == [b"x" * 512]


def test_there_is_always_room_that_is_worth_a_read() -> None:
    frames = decoder()
    data = (HELLO * 9000)[:-1]
    while data:
        buffer = frames.get_buffer()
        assert len(buffer) >= 4096
        count = min(len(data), 1021)
        buffer[:count], data = data[:count], data[count:]
        frames.received(count)


def test_a_kernel_without_huge_pages_gives_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown_advice = 9999
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", unknown_advice, raising=False)
    frames = decoder(max_frame_size=1 << 30)
    payload = random.Random(1).randbytes(8 << 20)

    found = feed(frames, MAGIC + len(payload).to_bytes(4, "big") + payload + HELLO)

    assert found == [payload, b"hello"]


def test_a_frame_inside_of_one_that_is_skipped_is_none_of_its_own() -> None:
    frames = decoder(1024)
    assert feed(frames, MAGIC + (5_000).to_bytes(4, "big") + bytes(1_000)) == [("oversized", 5_000)]

    assert feed(frames, HELLO) == []
    assert feed(frames, HELLO * 2) == []
    assert feed(frames, bytes(4_000 - 3 * len(HELLO)) + HELLO) == [b"hello"]


def test_the_buffer_is_small_until_a_read_fills_it() -> None:
    frames = decoder()
    assert feed(frames, HELLO * 600) == [b"hello"] * 600
    assert len(frames.get_buffer()) == 1 << 13

    assert feed(frames, (HELLO * 631)[: 1 << 13]) == [b"hello"] * 630
    assert len(frames.get_buffer()) >= 1 << 12
    rest = (HELLO * 631)[1 << 13 :]
    assert feed(frames, rest) == [b"hello"]
    assert len(frames.get_buffer()) == 1 << 13

    assert feed(frames, EMPTY * 1024) == [b""] * 1024
    assert len(frames.get_buffer()) == 1 << 16
    assert feed(frames, EMPTY * 8192) == [b""] * 8192
    assert len(frames.get_buffer()) == 1 << 16


# What a terminal makes of a frame


@given(st.integers(1, 64))
def test_a_frame_that_a_terminal_echoes_does_not_hold_back_the_next_one(step: int) -> None:
    echo = MAGIC + b"^@^@^@^Ehello"
    assert feed(decoder(), echo + HELLO, step) == [("junk", echo), b"hello"]


def test_a_frame_that_is_as_large_as_that_is_skipped_as_junk() -> None:
    header = MAGIC + b"^\0\0\0"
    assert feed(decoder(), header + b"x" * 600 + HELLO) == [
        ("junk", header + b"x" * 600),
        b"hello",
    ]


def test_what_waits_to_be_judged_is_shown() -> None:
    frames = decoder(max_frame_size=1024)
    assert frames.unfinished() == b""
    feed(frames, HELLO[:6])
    assert frames.unfinished() == b""
    feed(frames, HELLO[6:10])
    assert frames.unfinished() == b""
    feed(frames, HELLO[10:] + MAGIC + b"\x7f\0\0\0beginning")
    assert frames.unfinished() == MAGIC + b"\x7f\0\0\0beginning"
    feed(frames, b"x" * 600)
    assert frames.unfinished() == b""


def test_a_large_frame_on_its_way_is_not_shown() -> None:
    frames = decoder(max_frame_size=1 << 20)
    feed(frames, MAGIC + (1 << 19).to_bytes(4, "big") + b"beginning")
    assert frames.unfinished() == b""
