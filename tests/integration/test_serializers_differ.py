"""Two sides that do not use the same serializer, and serializers of the user's own."""

from __future__ import annotations

import pickle
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shared_messages import Echo, Note

import streamipc
from streamipc import (
    ErrorMessage,
    IpcError,
    IpcPeer,
    JsonMessageSerializer,
    NativeMessageSerializer,
    ProtocolError,
    SerializationError,
    SyncIpcSession,
)
from streamipc.envelopes import (
    Cancel,
    ErrorResponse,
    Notification,
    Request,
    message_type,
    wire_name_of,
)

Pair = Callable[..., tuple[Any, Any]]


class Hold(streamipc.Request[bool]):
    text: str


BOTH_WAYS = pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (JsonMessageSerializer, NativeMessageSerializer),
        (NativeMessageSerializer, JsonMessageSerializer),
    ],
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return a function that connects two sessions; the second one answers ``Echo``."""
    peers: list[IpcPeer] = []

    def connect(mine: Any, theirs: Any, sync: bool = False, **options: Any) -> tuple[Any, Any]:
        kind = {"session_type": SyncIpcSession} if sync else {}
        peers.extend([IpcPeer(mine, timeout=60, **kind), IpcPeer(theirs, timeout=60, **options)])
        ends = socket.socketpair()
        here, there = (
            peer.create_stream_session(end, end) for peer, end in zip(peers[-2:], ends, strict=True)
        )

        @there.on_request
        def echo(msg: Echo) -> object:
            return msg.value

        there.start()
        return here, there

    yield connect
    for peer in peers:
        peer.close()


@BOTH_WAYS
@pytest.mark.parametrize("sync", [False, True], ids=["threads", "no threads"])
def test_every_request_fails_with_the_reason(
    pair: Pair, ours: type, theirs: type, sync: bool
) -> None:
    here, _ = pair(ours(), theirs(), sync)
    for _ in range(3):
        with pytest.raises(SerializationError, match="both sides must use the same serializer"):
            here.call(Echo(1))


@BOTH_WAYS
def test_a_stream_and_all_that_is_pending_fail_with_the_reason(
    pair: Pair, ours: type, theirs: type
) -> None:
    here, _ = pair(ours(), theirs())
    stream = here.stream(Echo(1))
    futures = [here.request(Echo(number), on_progress=print) for number in range(5)]
    with pytest.raises(SerializationError, match="same serializer"):
        list(stream)
    errors = [future.exception(timeout=30) for future in futures]

    assert all(type(error) is SerializationError for error in errors)
    assert len({id(error) for error in errors}) == len(errors)


@BOTH_WAYS
def test_the_asked_side_reports_it_too(
    pair: Pair, ours: type, theirs: type, eventually: Callable[..., None]
) -> None:
    here, there = pair(ours(), theirs())
    reported: list[BaseException] = []
    there.on_exception(reported.append)
    here.notify(Note())
    eventually(lambda: reported)

    assert "must use the same serializer" in str(reported[0])
    assert there.stats.unreadable == 1


def test_damage_after_a_good_frame_fails_no_request(pair: Pair) -> None:
    here, there = pair(NativeMessageSerializer(), NativeMessageSerializer())
    assert here.call(Echo(1)) == 1
    bad = [b"\xf3\x4a\x9d\xe2\x00\x00\x00\x02{]"]
    there._engine.writer.send(bad)
    assert here.call(Echo(2)) == 2
    assert here.stats.unreadable == 1


def test_one_session_of_a_peer_may_have_another_serializer_and_frame_size() -> None:
    ends = socket.socketpair()
    with IpcPeer() as ours, IpcPeer(JsonMessageSerializer()) as theirs:
        here = ours.create_stream_session(
            ends[0], ends[0], serializer=JsonMessageSerializer(), max_frame_size=2048
        )
        there = theirs.create_stream_session(ends[1], ends[1])
        there.on_request(Echo)(lambda msg: msg.value)
        there.start()
        assert here.call(Echo("x"), timeout=30) == "x"
        with pytest.raises(ProtocolError, match="max_frame_size is 2,048"):
            here.call(Echo("x" * 3000))


@pytest.mark.parametrize(
    "settings",
    [{"serializer": JsonMessageSerializer}, {"serializer": 1}, {"max_frame_size": 10}],
)
def test_settings_of_one_session_are_checked(settings: dict[str, Any]) -> None:
    here, there = socket.socketpair()
    with IpcPeer() as peer, pytest.raises((TypeError, ValueError)):
        peer.create_stream_session(here, here, **settings)
    here.close()
    there.close()


# Serializers of the user's own


class Bad(NativeMessageSerializer):
    """Spoils the envelopes of requests for ``Echo`` whose value names an attribute."""

    spoilt: Any = 30.0

    def decode(self, payload: memoryview, /, *rest: Any) -> Any:
        envelope: Any = super().decode(payload, *rest)
        if type(envelope) is Request and envelope.message.value in ("id", *envelope.__slots__):
            setattr(envelope, envelope.message.value, self.spoilt)
        return envelope


@pytest.mark.parametrize("attribute", ["metadata", "timeout", "window", "message"])
@pytest.mark.parametrize("spoilt", ["text", b"bytes", -1.5], ids=str)
def test_a_bad_envelope_costs_one_answered_request(
    pair: Pair, attribute: str, spoilt: object
) -> None:
    serializer = Bad()
    serializer.spoilt = spoilt
    here, _ = pair(NativeMessageSerializer(), serializer)
    with pytest.raises(SerializationError, match=f"bad Request: {attribute}"):
        here.call(Echo(attribute))
    assert here.call(Echo("good")) == "good"


def test_a_bad_code_of_an_error_fails_its_request(pair: Pair) -> None:
    class BadCode(NativeMessageSerializer):
        def decode(self, payload: memoryview, /, *rest: Any) -> Any:
            envelope: Any = super().decode(payload, *rest)
            if type(envelope) is ErrorResponse:
                envelope.code = []
            return envelope

    here, there = pair(BadCode(), NativeMessageSerializer())
    there.on_request(Note)(lambda _: 1 / 0)
    with pytest.raises(SerializationError, match="bad ErrorResponse: code is a list, no text"):
        here.request(Note(number=1)).result(timeout=30)


def test_an_id_that_cant_be_looked_up_is_reported_and_the_next_frames_are_read(
    pair: Pair, eventually: Callable[..., None]
) -> None:
    class NoKey(str):
        __slots__ = ()

        def __hash__(self) -> int:
            raise ValueError("no hash")

    class BadId(NativeMessageSerializer):
        def decode(self, payload: memoryview, /, *rest: Any) -> Any:
            envelope: Any = super().decode(payload, *rest)
            if type(envelope) is Request and envelope.message.value == "bad":
                envelope.id = NoKey("x")
            return envelope

    here, there = pair(NativeMessageSerializer(), BadId())
    reported: list[BaseException] = []
    there.on_exception(reported.append)
    lost = here.request(Echo("bad"))
    assert here.call(Echo("good")) == "good"
    eventually(lambda: reported)
    assert [str(error) for error in reported] == ["no hash"]
    lost.cancel()


def test_a_bad_word_of_a_skipped_frame_loses_no_request(pair: Pair) -> None:
    class NoText(NativeMessageSerializer):
        def decode(self, payload: memoryview, /, *rest: Any) -> Any:
            envelope: Any = super().decode(payload, *rest)
            if type(envelope) is Notification:
                envelope.message.message = 5
            return envelope

    here, there = pair(NoText(), NativeMessageSerializer())
    told = threading.Event()
    there.on_request(Hold)(lambda _: told.wait(30))
    small, large = here.request(Hold("")), here.request(Hold("x" * 5000))
    for size in (0, large._call.size):
        there.notify(
            ErrorMessage("skipped", "ProtocolError"), metadata={"streamipc.skipped": str(size)}
        )
    with pytest.raises(ProtocolError, match="Hold was not read by the peer: 5"):
        large.result(timeout=30)
    told.set()
    assert small.result(timeout=30) is True


def test_a_serializer_that_looks_like_ours_is_not_taken_for_it(pair: Pair) -> None:
    class KindFirst:
        """Its short payloads look like none of ours, the others like native ones."""

        def encode(self, envelope: Any) -> list[bytes]:
            return [b"\1\0", b"" if type(envelope) is Cancel else pickle.dumps(envelope)]

        def decode(self, payload: memoryview) -> Any:
            envelope = pickle.loads(payload[2:])
            if type(envelope) is Notification:
                raise ValueError("can't read this one")
            return envelope

    here, there = pair(KindFirst(), KindFirst())
    there.notify(Note(number=1))
    assert here.call(Echo("good")) == "good"


@pytest.mark.parametrize("spoilt", [None, 1.5, "", -1, True, 1 << 64, "x" * 256, []], ids=str)
def test_a_bad_id_costs_a_request_and_the_session_lives(pair: Pair, spoilt: object) -> None:
    serializer = Bad()
    serializer.spoilt = spoilt
    here, there = pair(NativeMessageSerializer(), serializer)
    reported: list[BaseException] = []
    there.on_exception(reported.append)
    lost = here.request(Echo("id"))
    assert here.call(Echo("good")) == "good"
    assert not lost.done()
    lost.cancel()


class Compressed:
    """Hides everything of a payload: nothing can be found in the beginning of one."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def encode(self, envelope: Any) -> list[bytes]:
        return [zlib.compress(b"".join(map(bytes, self.inner.encode(envelope))), 0)]

    def decode(self, payload: memoryview) -> Any:
        return self.inner.decode(memoryview(zlib.decompress(payload)))


def test_a_request_too_large_for_the_other_side_says_so_although_its_id_is_hidden(
    pair: Pair,
) -> None:
    serializer = Compressed(JsonMessageSerializer())
    here, there = pair(serializer, serializer, max_frame_size=4096)
    large = here.request(Echo("x" * 5000))
    same = here.request(Echo("y" * 5000))
    other = here.request(Echo("small"))
    for future in (large, same):
        with pytest.raises(ProtocolError, match="max_frame_size is 4,096"):
            future.result(timeout=30)
    assert other.result(timeout=30) == "small"
    assert there.stats.unreadable == 2


def test_a_notification_too_large_is_told_of_as_a_message(pair: Pair) -> None:
    serializer = Compressed(NativeMessageSerializer())
    here, _ = pair(serializer, serializer, max_frame_size=4096)
    here.notify(Note("x" * 5000))
    told = here.receive(timeout=30)

    assert isinstance(told, ErrorMessage)
    assert "skipped a frame" in told.message


def test_envelopes_are_public() -> None:
    envelope = streamipc.envelopes.Notification(Note("x"))

    assert isinstance(envelope, Notification)
    assert message_type(wire_name_of(Note)) is Note


def test_any_error_of_decode_is_one_of_ours(pair: Pair) -> None:
    class Broken(NativeMessageSerializer):
        def decode(self, payload: memoryview, /, *rest: Any) -> Any:
            raise ZeroDivisionError

    here, there = pair(NativeMessageSerializer(), Broken())
    reported: list[BaseException] = []
    there.on_exception(reported.append)
    future = here.request(Echo(1), timeout=1)
    with pytest.raises(IpcError):
        future.result(timeout=30)
    assert type(reported[0]) is SerializationError
    assert "ZeroDivisionError" in str(reported[0])
