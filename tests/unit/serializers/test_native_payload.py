"""The bytes of a native payload, and payloads whose parts do not fit together."""

from __future__ import annotations

import array
import pickle
import struct
from typing import Any

import pytest
from native_payloads import SERIALIZER, decode, header, refused, with_buffers

from streamipc.exceptions import SerializationError
from streamipc.messages import ErrorMessage, Message
from streamipc.protocol.envelopes import (
    Cancel,
    Credit,
    Envelope,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)


class Note(Message, wire_name="tests.Note"):
    text: str


NOTE = pickle.dumps({"text": "x"}, 5)
ERROR = {"message": "m", "type": "t", "traceback": "b", "code": "handler"}


METADATA = pickle.dumps({"k": "v"}, 5)

BYTES: list[tuple[Envelope, list[bytes]]] = [
    (Request(7, Note("x")), [header(1, name_size=10, id_=7), b"tests.Note", NOTE]),
    (
        Request("seven", Note("x"), 1.5, {"k": "v"}, 3),
        [
            header(1, flags=3, id_size=5, name_size=10, number=3, timeout=1.5),
            b"seventests.Note",
            struct.pack(">I", len(METADATA)),
            METADATA,
            NOTE,
        ],
    ),
    (Response(7, 5), [header(2, id_=7), pickle.dumps(5, 5)]),
    (Response(7, [1]), [header(2, id_=7), pickle.dumps([1], 5)]),
    (Response(7, Note("x")), [header(2, name_size=10, id_=7), b"tests.Note", NOTE]),
    (
        ErrorResponse(7, ErrorMessage("m", "t", "b"), "handler"),
        [header(3, id_=7), pickle.dumps(ERROR, 5)],
    ),
    (Notification(Note("x")), [header(4, name_size=10), b"tests.Note", NOTE]),
    (Progress(7, 5), [header(5, id_=7), pickle.dumps(5, 5)]),
    (
        Progress("seven", Note("x")),
        [header(5, flags=1, id_size=5, name_size=10), b"seventests.Note", NOTE],
    ),
    (Credit(7, 9), [header(6, number=9, id_=7)]),
    (Cancel(2**64 - 1), [header(7, id_=2**64 - 1)]),
    (Cancel("x"), [header(7, flags=1, id_size=1), b"x"]),
    (Cancel("x" * 255), [header(7, flags=1, id_size=255), b"x" * 255]),
]  # fmt: skip


@pytest.mark.parametrize(("envelope", "parts"), BYTES, ids=lambda part: type(part).__name__)
def test_an_envelope_has_these_bytes(envelope: Envelope, parts: list[bytes]) -> None:
    assert b"".join(SERIALIZER.encode(envelope)) == b"".join(parts)
    assert decode(*parts) == envelope


def test_buffers_stand_behind_the_body_at_multiples_of_sixteen() -> None:
    large = bytes(range(250)) * 300, bytearray(70_001), bytes(65_536)
    payload = b"".join(SERIALIZER.encode(Response(7, [memoryview(part) for part in large])))
    size, *sizes = struct.unpack_from(">4Q", payload, 28)

    assert payload[:28] == header(2, id_=7, buffers=3)
    assert sizes == [75_000, 70_001, 65_536]
    at = 28 + 32 + size
    for part in large:
        padding = -at % 16
        assert payload[at : at + padding] == bytes(padding)
        at += padding
        assert payload[at : at + len(part)] == part
        at += len(part)
    assert at == len(payload)


def test_from_64_kib_on_a_buffer_is_a_part_of_its_own() -> None:
    np = pytest.importorskip("numpy")

    def parts(*sizes: int) -> list[int]:
        value = [np.zeros(size, "b") for size in sizes]
        return [memoryview(part).nbytes for part in SERIALIZER.encode(Response(7, value))]

    assert len(parts(65_535)) == 1
    assert parts(65_536)[1:] == [65_536]
    small, large, rest = parts(100, 65_536, 100)
    assert (large, rest) == (65_536, 100)
    assert small % 16 == 0
    assert parts(65_537, 65_536)[1:] == [65_537, 15, 65_536]


def test_small_bytes_stay_in_the_pickle() -> None:
    def buffers(size: int) -> list[int]:
        notes = (
            Request(7, Note(bytes(size))),
            Response(7, bytes(size)),
            Response(7, bytearray(size)),
            Response(7, memoryview(bytes(size))),
            Response(7, array.array("b", bytes(size))),
        )  # type: ignore[arg-type]
        return [
            struct.unpack_from(">H", b"".join(SERIALIZER.encode(envelope)), 6)[0]
            for envelope in notes
        ]

    assert buffers(100) == [0] * 5
    assert buffers(65_535) == [0] * 5
    assert buffers(65_536) == [1] * 5


def test_an_id_that_is_a_text_must_be_flagged_and_there() -> None:
    body = pickle.dumps(5, 5)
    text = "ends within its header, or its id is malformed"
    for parts in (
        (header(2, flags=1), body),
        (header(2, flags=1, id_=7), body),
        (header(2, id_size=2), b"ab", body),
        (header(7, flags=1, id_size=2), b"a"),
        (header(7, flags=1, id_size=256), b"a" * 256),
    ):
        assert refused(text, *parts) is None
    assert decode(header(7, flags=1, id_size=1), b"a") == Cancel("a")
    assert refused("no valid UTF-8", header(7, flags=1, id_size=1), b"\xff") is None


@pytest.mark.parametrize("flags", [8, 12, 16, 32, 64, 128, 255 - 1])
def test_a_flag_of_a_later_version_is_refused(flags: int) -> None:
    assert refused(f"unknown flags {flags:#x}", header(2, flags=flags, id_=7), NOTE) == Response(
        7, None
    )


def with_metadata(
    kind: int, metadata: bytes, *, size: int | None = None, name: bytes = b"tests.Note"
) -> list[bytes]:
    length = len(metadata) if size is None else size
    return [
        header(kind, flags=2, name_size=len(name), id_=7 if kind != 4 else 0),
        name,
        struct.pack(">I", length),
        metadata,
    ]


def test_metadata_belongs_to_requests_and_notifications_and_lies_inside() -> None:
    text = "ends within its metadata, or may have none"
    assert decode(*with_metadata(1, METADATA), NOTE) == Request(7, Note("x"), metadata={"k": "v"})
    assert decode(*with_metadata(4, METADATA), NOTE) == Notification(Note("x"), {"k": "v"})
    assert refused(text, *with_metadata(2, METADATA), NOTE) == Response(7, None)
    assert refused(text, *with_metadata(7, METADATA, name=b"")) == Cancel(7)
    assert refused(text, *with_metadata(1, METADATA, size=len(METADATA) + 1)) is not None
    assert (
        refused("can't be read", header(1, flags=2, name_size=10), b"tests.Note", b"\0\0")
        is not None
    )
    # It may end where the payload ends; then the body is what is missing.
    refused("malformed|can't be read", *with_metadata(1, METADATA))


@pytest.mark.parametrize(
    "metadata",
    [None, [("k", "v")], {"k": 1}, {1: "v"}, {b"k": b"v"}, {"k": None, "a": "b"}, "k", ("k", "v")],
    ids=repr,
)
def test_metadata_that_does_not_map_text_to_text_is_refused(metadata: Any) -> None:
    for kind in (1, 4):
        envelope = refused(
            "metadata does not map text", *with_metadata(kind, pickle.dumps(metadata, 5)), NOTE
        )
        assert envelope.metadata is None  # type: ignore[union-attr]


def test_metadata_is_plain_data_and_nothing_else() -> None:
    for rich in (pickle.dumps(complex(1), 5), pickle.dumps({"k": print}, 5), b"\x80\x05", b""):
        refused("metadata does not map text", *with_metadata(1, rich), NOTE)


@pytest.mark.parametrize("metadata", [{"k": 1}, {1: "v"}, {b"k": b"v"}, {"a": "b", "k": None}])
def test_metadata_that_does_not_map_text_to_text_is_not_sent(metadata: Any) -> None:
    for envelope in (Request(7, Note("x"), metadata=metadata), Notification(Note("x"), metadata)):
        with pytest.raises(SerializationError, match="metadata must map str to str"):
            SERIALIZER.encode(envelope)


TWO = b"\x80\x05\x97\x97\x86."  # a tuple of the two buffers


def test_the_sections_must_fill_the_payload() -> None:
    payload = with_buffers(2, TWO, b"abc", b"defgh")
    assert [bytes(part) for part in decode(payload).value] == [b"abc", b"defgh"]

    def resized(*sizes: int) -> bytes:
        return payload[:28] + struct.pack(">3Q", *sizes) + payload[52:]

    length = len(payload)
    for sizes in (
        (6, 3, 4),
        (6, 3, 6),
        (6, 3, 2**64 - 1),
        (2**63, 3, 5),
        (6 + 16, 3, 5),
        (0, 0, 0),
    ):
        assert refused(
            f"the payload has {length} bytes, but its sections need ", resized(*sizes)
        ) == Response(7, None)
    for shorter in (payload[:-1], payload + b"\0", payload[:60]):
        assert refused("its sections need", shorter) == Response(7, None)
    for end in (28, 36, 51):
        assert refused("can't be read: error", payload[:end]) == Response(7, None)


def test_the_envelopes_without_a_body_have_no_buffers_either() -> None:
    for kind, envelope in ((6, Credit(7, 0)), (7, Cancel(7))):
        assert refused("too many after the header", with_buffers(kind, b"", b"abc")) == envelope
        assert refused("1 bytes too many", header(kind, id_=7), b"x") == envelope
        assert refused("3 bytes too many", with_buffers(kind, b"xyz", b"")) == envelope


@pytest.mark.parametrize(
    "error",
    [
        {"message": "m"},
        {**ERROR, "more": "x"},
        {**ERROR, "message": 1},
        {**ERROR, "code": None},
        {key: value for key, value in ERROR.items() if key != "code"},
        list(ERROR),
        None,
    ],
)
def test_an_error_has_four_texts_and_nothing_else(error: Any) -> None:
    assert refused(
        "the error that the peer reports is malformed", header(3, id_=7), pickle.dumps(error, 5)
    ) == ErrorResponse(7, None)  # type: ignore[arg-type]


def test_a_body_that_cannot_be_read_names_its_envelope_and_its_message() -> None:
    bad = b"\x80\x05\x8c\x01\xff."  # a text that is no UTF-8
    refused("^the body of a response can't be read: UnicodeDecodeError: ", header(2, id_=7), bad)
    envelope = refused(
        r"^the body of a request with tests\.Note can't be read: UnicodeDecodeError: ",
        header(1, name_size=10, id_=7), b"tests.Note", bad,
    )  # fmt: skip
    assert envelope == Request(7, None)  # type: ignore[arg-type]
    refused(
        "^the body of a request with \ufffdx can't be read: UnicodeDecodeError: ",
        header(1, name_size=2, id_=7), b"\xffx", NOTE,
    )  # fmt: skip


def test_what_is_out_of_bounds_is_named() -> None:
    for envelope, told in (
        (Request(7, Note("x"), timeout="soon"), "float or None, not 'soon'$"),  # type: ignore[arg-type]
        (Request(7, Note("x"), window=-1), r"from 0 to 2\*\*31-1, not -1$"),
        (Request(7, Note("x"), window=2**32), "not 4294967296$"),
        (Request(7, Note("x"), window=None), "not None$"),  # type: ignore[arg-type]
        (Credit(7, 2**32), "not 4294967296$"),
        (Credit(7, 1.5), "not 1.5$"),  # type: ignore[arg-type]
        (Request(0, Note("x"), window=-1), "^window and count must be"),
        (Request(2**64 - 1, Note("x"), window=-1), "^window and count must be"),
        (Request(7, Note("x"), "soon", window=2**32 - 1), "^the timeout must be seconds"),  # type: ignore[arg-type]
        (Request(-1, Note("x")), r"the request id -1 must be from 0 to 2\*\*64-1$"),
        (Cancel(2**64), "the request id 18446744073709551616 must be"),
        (Cancel(1.5), "the request id 1.5 must be an int"),  # type: ignore[arg-type]
        (Cancel("\ud800"), "is no valid Unicode"),
    ):
        with pytest.raises(SerializationError, match=told):
            SERIALIZER.encode(envelope)  # type: ignore[arg-type]


def test_a_payload_of_something_else_is_told_apart() -> None:
    for start in (b'{"kind":', b"[1]", b' \n\t{"kind": 1}', b"  ["):
        refused("looks like a payload of the JSON serializer", start + b" " * 40)
    shown = "b'" + r"\\x00" + r"\{" * 15 + "'"
    refused(
        rf"no payload of the native serializer \(43 bytes, starting {shown}\): both sides must",
        b"\0" + b"{" * 42,
    )
    refused("no payload of the native serializer", b" " * 15 + b"x{" + b" " * 40)
    for kind in (0, 8):
        refused("no payload of the native serializer", header(kind), NOTE)
    assert refused("no payload of the native serializer", header(7, id_=7)[:-1]) is None


def test_an_attribute_that_is_not_there_is_told() -> None:
    with pytest.raises(
        AttributeError, match="'NativeMessageSerializer' object has no attribute 'x'"
    ):
        SERIALIZER.x  # type: ignore[attr-defined]  # noqa: B018


def test_a_subclass_is_read_as_itself_though_only_its_base_was_met() -> None:
    class Base(Message, wire_name="tests.Base"):
        a: int

    class Sub(Message, wire_name="tests.Sub"):
        a: int
        b: int = 2

    payload = b"".join(SERIALIZER.encode(Response(7, Sub(1, 3))))
    SERIALIZER.encode(Notification(Base(1)))

    class Sub(Base, wire_name="tests.Sub"):  # type: ignore[no-redef]
        b: int = 2

    back = decode(payload).value
    assert (type(back), back.a, back.b) == (Sub, 1, 3)
