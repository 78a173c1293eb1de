"""What may stand in the keys of a JSON envelope, to the last value, and what is told otherwise."""

from __future__ import annotations

import datetime as dt
import enum
import json
import pathlib
from typing import Any

import pytest

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
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()


class Line(Message, wire_name="tests.Line"):
    text: str


class Bits(enum.IntFlag):
    """``IntFlag`` itself keeps whatever bits it gets."""

    A = 1
    B = 4


class Bitten(Message, wire_name="tests.Bitten"):
    bits: Bits
    keys: dict[Bits, bool] | None = None
    truths: dict[bool, int] | None = None
    numbers: dict[int, int] | None = None


def decode(text: str) -> Any:
    return SERIALIZER.decode(memoryview(text.encode()))


def encode(envelope: Envelope) -> str:
    return b"".join(SERIALIZER.encode(envelope)).decode()


@pytest.mark.parametrize(
    "envelope",
    [
        Cancel(0),
        Cancel(2**64 - 1),
        Cancel("x"),
        Cancel("x" * 255),
        Cancel("é" * 127 + "x"),
        Credit(1, 0),
        Credit(1, 1),
        Credit(1, 2**32 - 1),
        Request(1, Line("a"), window=1),
        Request(1, Line("a"), window=2**32 - 1),
        Request(1, Line("a"), timeout=0),
        Request(1, Line("a"), timeout=1e-9),
        Request(1, Line("a"), metadata={"": ""}),
    ],
)
def test_an_envelope_at_its_bounds_comes_back(envelope: Envelope) -> None:
    assert decode(encode(envelope)) == envelope


def test_what_an_envelope_leaves_out_may_also_be_written() -> None:
    text = '{"kind":"request","id":1,"type":"tests.Line","window":0,"timeout":2,"body":{"text":""}}'
    assert decode(text) == Request(1, Line(""), timeout=2.0, window=0)


HALF = "a text with half of a surrogate pair is not Unicode"
FINITE = "timeout: expected seconds as a finite number, got "


@pytest.mark.parametrize(
    ("envelope", "text"),
    [
        (
            Cancel("x" * 256),
            "id: expected an integer from 0 to 2**64-1 or a text of 1 to 255 bytes, "
            f"got '{'x' * 79}",
        ),
        (Credit(1, -1), "count: expected an integer from 0 to 2**31-1, got -1"),
        (Credit(1, True), "count: expected an integer from 0 to 2**31-1, got True"),
        (Request(1, Line("a"), timeout=True), FINITE + "True"),
        (Request(1, Line("a"), timeout=float("nan")), FINITE + "nan"),
        (Request(1, Line("a"), metadata={1: "a"}), "metadata[1]: expected text to text, got 'a'"),
        (Notification(Line("a"), {"a": None}), "metadata['a']: expected text to text, got None"),
        (Response(1, Line(5)), "body.text: expected str, got 5 (in tests.Line)"),
        (Progress(1, Line(5)), "body.text: expected str, got 5 (in tests.Line)"),
        (Notification(Line(5)), "body.text: expected str, got 5 (in tests.Line)"),
        (
            Response(1, [object()]),
            "body[0]: JSON can't carry a value of object; make it a Message, or send plain values",
        ),
        (
            Progress(1, {"a": object()}),
            "body.a: JSON can't carry a value of object; make it a Message, or send plain values",
        ),
        (Response(1, {"a": ["\ud800"]}), f"body.a[0]: {HALF}"),
        (Progress(1, [1, "\ud800"]), f"body[1]: {HALF}"),
        (Response(1, Line("\ud800")), f"body.text: {HALF} (in tests.Line)"),
        (
            ErrorResponse(1, ErrorMessage("m", "t", "\ud800")),
            f"body.traceback: {HALF}",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_into_an_envelope_is_told(envelope: Any, text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        encode(envelope)
    told = str(caught.value)
    assert told == text or (told.startswith(text) and not text.endswith(("values", "Line)")))


def test_a_surprise_inside_of_a_value_is_no_unknown_envelope() -> None:
    class Strange(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            raise KeyError("gone")

    with pytest.raises(SerializationError) as caught:
        encode(Response(1, Strange(a=1)))
    assert str(caught.value) == "body: can't be written as JSON: KeyError: 'gone'"


def test_a_tag_may_be_written_with_an_escape() -> None:
    day = dt.date(2024, 5, 1)
    for key in ("$date", "\\u0024date", "$d\\u0061te"):
        assert decode(f'{{"kind":"response","id":1,"body":{{"{key}":"2024-05-01"}}}}').value == day


@pytest.mark.parametrize("count", [0, 1, 2**31 - 1, 2**32, 2**64 - 1])
def test_a_count_is_read_and_it_is_for_the_connection_to_refuse_it(count: int) -> None:
    text = json.dumps({"kind": "credit", "id": 1, "count": count})
    assert decode(text) == Credit(1, count)


@pytest.mark.parametrize("bits", [2, 3, 8, -1, 2**64, True, 1.0])
def test_bits_that_no_member_has_are_refused(bits: Any) -> None:
    text = '{"kind":"notification","type":"tests.Bitten","body":%s}'
    with pytest.raises(SerializationError, match=r"body\.bits: expected Bits .* the bits 0x5"):
        decode(text % json.dumps({"bits": bits}))
    with pytest.raises(SerializationError, match=r"body\.keys"):
        decode(text % json.dumps({"bits": 0, "keys": {json.dumps(bits): True}}))


def test_keys_that_are_no_texts_come_back() -> None:
    message = Bitten(
        Bits.A | Bits.B, {Bits.A: True, Bits(0): False}, {True: 1, False: 0}, {0: 1, -5: 2}
    )
    assert decode(encode(Notification(message))).message == message
    body = json.loads(encode(Notification(message)))["body"]
    assert list(body["truths"]) == ["true", "false"]


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        (dt.time(1, 2), "$time"),
        (pathlib.Path("a"), "$path"),
        (pathlib.PurePosixPath("a"), "$posixpath"),
        (pathlib.PureWindowsPath("a"), "$windowspath"),
    ],
)
def test_a_value_of_no_annotation_has_the_tag_that_the_manual_says(value: Any, tag: str) -> None:
    text = encode(Response(1, value))

    assert list(json.loads(text)["body"]) == [tag]
    assert decode(text).value == value


COUNT = "count: expected an integer from 0 to 2**31-1"
KINDS = "request, response, error, notification, progress, credit, cancel"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ("{}", f"kind: expected one of {KINDS}, got none"),
        ('{"kind":null}', f"kind: expected one of {KINDS}, got null"),
        ('{"kind":"credit","id":1,"count":-5}', f"{COUNT}, got -5"),
        ('{"kind":"credit","id":1}', f"{COUNT}, got none"),
        ('{"kind":"progress","id":1,"body":{"$x":1}}', 'body: unknown tag "$x"'),
        ('{"kind":"notification","type":5}', "type: expected the name of a message type, got 5"),
    ],
)  # fmt: skip
def test_an_error_about_the_envelope_names_no_message(payload: str, text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        decode(payload)
    assert str(caught.value) == text


def test_an_error_says_what_can_be_sent_and_shows_so_much_of_an_id() -> None:
    for envelope, text in (
        (
            Notification(5),  # type: ignore[arg-type]
            "body: expected a Message, got a value of int; only messages can be sent by themselves",
        ),
        (
            Response("x" * 256, 1),
            "id: expected an integer from 0 to 2**64-1 or a text of 1 to 255 bytes, "
            f"got '{'x' * 80}'…",
        ),
    ):
        with pytest.raises(SerializationError) as caught:
            encode(envelope)
        assert str(caught.value) == text
