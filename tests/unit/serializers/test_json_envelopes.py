"""The bytes of each envelope, and what becomes of bytes that are none."""

# ruff: noqa: E501 - one case to a line

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from bare_interpreter import printed

from streamipc.exceptions import SerializationError
from streamipc.messages import ErrorMessage, LogMessage, Message
from streamipc.protocol.envelopes import (
    ERROR_CODES,
    Cancel,
    Credit,
    Envelope,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
)
from streamipc.serializers.base import MessageSerializer
from streamipc.serializers.json import JsonMessageSerializer
from streamipc.serializers.native import NativeMessageSerializer

SERIALIZER = JsonMessageSerializer()


class SayHello(Message, wire_name="envelopes.SayHello"):
    name: str


class Anything(Message, wire_name="envelopes.Anything"):
    value: Any = None


def encode(envelope: Any) -> str:
    (payload,) = SERIALIZER.encode(envelope)
    return bytes(payload).decode()


def decode(payload: Any) -> Envelope:
    data = payload.encode() if isinstance(payload, str) else payload
    return SERIALIZER.decode(memoryview(data))


WIRE: list[tuple[Envelope, str]] = [
    (
        Request(1, SayHello("Riki"), timeout=30.0),
        '{"kind":"request","id":1,"type":"envelopes.SayHello","timeout":30.0,"body":{"name":"Riki"}}',
    ),
    (
        Request("12.5", SayHello("é"), metadata={"a": "ü"}, window=16),
        '{"kind":"request","id":"12.5","type":"envelopes.SayHello","metadata":{"a":"ü"},'
        '"window":16,"body":{"name":"é"}}',
    ),
    (
        Request(2**64 - 1, Anything(), timeout=0.0),
        '{"kind":"request","id":18446744073709551615,"type":"envelopes.Anything",'
        '"timeout":0.0,"body":{"value":null}}',
    ),
    (
        Response(1, SayHello("a")),
        '{"kind":"response","id":1,"type":"envelopes.SayHello","body":{"name":"a"}}',
    ),
    (Response(0, None), '{"kind":"response","id":0,"body":null}'),
    (Response(1, [1, (2,)]), '{"kind":"response","id":1,"body":[1,{"$tuple":[2]}]}'),
    (
        ErrorResponse(1, ErrorMessage("no", "ValueError", "Traceback"), "handler"),
        '{"kind":"error","id":1,"code":"handler",'
        '"body":{"message":"no","type":"ValueError","traceback":"Traceback"}}',
    ),
    (
        Notification(LogMessage("hi"), {"k": "v"}),
        '{"kind":"notification","type":"streamipc.LogMessage","metadata":{"k":"v"},'
        '"body":{"message":"hi","level":"info"}}',
    ),
    (
        Notification(SayHello("x")),
        '{"kind":"notification","type":"envelopes.SayHello","body":{"name":"x"}}',
    ),
    (Progress(1, "50 %"), '{"kind":"progress","id":1,"body":"50 %"}'),
    (
        Progress(1, SayHello("a")),
        '{"kind":"progress","id":1,"type":"envelopes.SayHello","body":{"name":"a"}}',
    ),
    (Credit(1, 16), '{"kind":"credit","id":1,"count":16}'),
    (Cancel("x\"y"), '{"kind":"cancel","id":"x\\"y"}'),
]  # fmt: skip


@pytest.mark.parametrize(("envelope", "text"), WIRE, ids=lambda case: str(case)[:40])
def test_envelope_has_these_bytes(envelope: Envelope, text: str) -> None:
    assert encode(envelope) == text
    assert decode(text) == envelope


@pytest.mark.parametrize(("envelope", "text"), WIRE, ids=lambda case: str(case)[:40])
def test_order_of_keys_white_space_and_unknown_keys_do_not_matter(
    envelope: Envelope, text: str
) -> None:
    data = dict(reversed(json.loads(text).items()), later="x", more={"$type": 5})
    assert decode(f" \r\n\t{json.dumps(data, indent=2)}\n") == envelope


@pytest.mark.parametrize("code", ERROR_CODES)
def test_every_error_code_comes_back(code: str) -> None:
    envelope = ErrorResponse(1, ErrorMessage("m"), code)
    assert decode(encode(envelope)) == envelope


def test_error_may_leave_out_what_it_does_not_know() -> None:
    assert decode('{"kind":"error","id":1,"body":{"message":"m"}}') == ErrorResponse(
        1, ErrorMessage("m"), "handler"
    )
    assert decode('{"kind":"error","id":1,"code":"of_later","body":{"message":"m"}}') == (
        ErrorResponse(1, ErrorMessage("m"), "handler")
    )


def test_missing_body_of_a_plain_reply_is_none() -> None:
    assert decode('{"kind":"response","id":1}') == Response(1, None)


def test_null_stands_for_what_is_absent() -> None:
    text = (
        '{"kind":"request","id":1,"type":"envelopes.SayHello","timeout":null,"metadata":null,'
        '"body":{"name":"a"}}'
    )
    assert decode(text) == Request(1, SayHello("a"))
    assert decode('{"kind":"response","id":1,"type":null,"body":2}') == Response(1, 2)


def test_serializer_keeps_the_contract() -> None:
    assert isinstance(SERIALIZER, MessageSerializer)


def test_payload_may_be_any_part_of_any_buffer() -> None:
    payload = bytearray(b"xx" + encode(Credit(1, 2)).encode() + b"yy")
    assert SERIALIZER.decode(memoryview(payload)[2:-2]) == Credit(1, 2)


BODY = '"type":"envelopes.SayHello","body":{"name":"a"}'

BAD: list[tuple[Any, str, Envelope | None]] = [
    ("", "this is not JSON: both sides must use the same serializer", None),
    ("null", "this is not JSON", None),
    ("[1]", "this is not JSON", None),
    ("\ufeff{}", "this is not JSON", None),
    (b"\x80\x05\x95", "this is not JSON: both sides must use the same serializer", None),
    ("{}", "kind: expected one of request, response, error, ", None),
    ('{"kind":"nope","id":1}', 'kind: expected one of request, response, error, notification, progress, credit, cancel, got "nope"', None),
    ('{"kind":["request"],"id":1}', "kind: expected one of", None),
    ('{"kind":"request",' + BODY + "}", "id: missing (required for the kind 'request')", None),
    ('{"kind":"request","id":-1,' + BODY + "}", "id: expected an integer from 0 to 2**64-1", None),
    ('{"kind":"request","id":18446744073709551616,' + BODY + "}", "id: expected an integer", None),
    ('{"kind":"request","id":true,' + BODY + "}", "id: expected an integer", None),
    ('{"kind":"request","id":1.0,' + BODY + "}", "id: expected an integer", None),
    ('{"kind":"request","id":"",' + BODY + "}", "id: expected an integer", None),
    ('{"kind":"cancel","id":"' + "é" * 128 + '"}', "id: expected an integer", None),
    ('{"kind":"request","id":1,"body":{}}', "type: expected the name of a message type, got none", Request(1, None)),
    ('{"kind":"request","id":1,"type":5,"body":{}}', "type: expected the name of a message type, got 5", Request(1, None)),
    ('{"kind":"request","id":"q","type":"no.Such","body":{}}', "unknown message type 'no.Such': no Message class", Request("q", None)),
    ('{"kind":"request","id":1,"type":"os.system","body":{}}', "unknown message type 'os.system'", Request(1, None)),
    ('{"kind":"request","id":1,"type":"envelopes.SayHello"}', "body: missing (the fields of envelopes.SayHello)", Request(1, None)),
    ('{"kind":"request","id":1,"type":"envelopes.SayHello","body":{}}', "body.name: missing (required by envelopes.SayHello)", Request(1, None)),
    ('{"kind":"response","id":1,"type":"envelopes.SayHello","body":{"name":"a","extra":1}}', "body.extra: unknown field of envelopes.SayHello", Response(1, None)),
    ('{"kind":"progress","id":1,"body":{"$x":1}}', 'body: unknown tag "$x"', Progress(1, None)),
    ('{"kind":"notification","type":"envelopes.SayHello","body":5}', "body: expected envelopes.SayHello, got 5", Notification(None)),
    ('{"kind":"request","id":1,"timeout":"x",' + BODY + "}", 'timeout: expected seconds, got "x"', Request(1, None)),
    ('{"kind":"request","id":1,"timeout":true,' + BODY + "}", "timeout: expected seconds, got true", Request(1, None)),
    ('{"kind":"request","id":1,"timeout":1e999,' + BODY + "}", "timeout: expected a finite number", Request(1, None)),
    ('{"kind":"request","id":1,"timeout":1' + "0" * 400 + "," + BODY + "}", "body: can't be read: OverflowError", Request(1, None)),
    ('{"kind":"request","id":1,"metadata":["a"],' + BODY + "}", "metadata: expected an object, got an array", Request(1, None)),
    ('{"kind":"request","id":1,"metadata":{"a":1},' + BODY + "}", 'metadata["a"]: expected text, got 1', Request(1, None)),
    ('{"kind":"request","id":1,"window":-1,' + BODY + "}", "window: expected an integer from 0 to 2**31-1, got -1", Request(1, None)),
    ('{"kind":"request","id":1,"window":1.5,' + BODY + "}", "window: expected an integer", Request(1, None)),
    ('{"kind":"credit","id":1}', "count: expected an integer from 0 to 2**31-1, got none", Credit(1, 0)),
    ('{"kind":"credit","id":1,"count":-5}', "count: expected an integer from 0", Credit(1, 0)),
    ('{"kind":"credit","id":1,"count":18446744073709551616}', "count: expected an integer from 0", Credit(1, 0)),
    ('{"kind":"credit","id":1,"count":true}', "count: expected an integer from 0", Credit(1, 0)),
    ('{"kind":"error","code":"handler"}', "id: missing", None),
    # Not JSON, but the kind and the id can be read, as they come first.
    ('{"kind":"request","id":7,"body":{"a":1,"a":2}}', 'the payload is not valid JSON: the key "a" occurs twice', Request(7, None)),
    ('{"kind":"request","id":7,"id":8,' + BODY + "}", 'the payload is not valid JSON: the key "id" occurs twice', Request(7, None)),
    ('{"kind":"request","id":"é\\n","body":NaN}', "the payload is not valid JSON: NaN is not JSON", Request("é\n", None)),
    ('{"kind":"response","id":7,"body":-Infinity}', "the payload is not valid JSON: -Infinity is not JSON", Response(7, None)),
    ('{ "kind" : "response" , "id" : 7 , "body":[1,}', "the payload is not valid JSON: ", Response(7, None)),
    ('{"kind":"cancel","id":7}}', "the payload is not valid JSON: more text follows", Cancel(7)),
    ('{"kind":"cancel","id":7} x', "the payload is not valid JSON: more text follows", Cancel(7)),
    (' \n{"kind":"cancel","id":7', "the payload is not valid JSON: Expecting ',' delimiter", None),
    (' \n{"kind":"cancel","id":7} x', "the payload is not valid JSON: more text follows", Cancel(7)),
    ('{"kind":"response","id":7,"body":"\\ud800"}', "the payload is not valid JSON: body holds half of a surrogate", Response(7, None)),
    ('{"kind":"response","id":7,"body":[{"\\udfff":1}]}', "the payload is not valid JSON: a key in body[0] holds half", Response(7, None)),
    (b'{"kind":"response","id":7,"body":"\xed\xa0\x80"}', "the payload is not valid JSON: byte 34 is not UTF-8", Response(7, None)),
    (b'{"kind":"response","id":7,"body":"\xff"}', "the payload is not valid JSON: byte 34 is not UTF-8", Response(7, None)),
    ('{"kind":"response","id":7,"body":"\x01"}', "the payload is not valid JSON: Invalid control character", Response(7, None)),
    ('{"kind":"response","id":7,"body":' + "[" * 200_000 + "]" * 200_000 + "}", "the payload is not valid JSON: nested too deeply", Response(7, None)),
    ('{"kind":"response","id":7,"body":' + '{"a":' * 200_000 + "1" + "}" * 200_000 + "}", "the payload is not valid JSON: nested too deeply", Response(7, None)),
    ('{"kind":"response","id":7,"body":' + "9" * 5000 + "}", "the payload is not valid JSON: ValueError: Exceeds the limit", Response(7, None)),
    ('{"kind":"notification","body":[}', "the payload is not valid JSON", Notification(None)),
    ('{"kind":"nope","id":7,"body":[}', "the payload is not valid JSON", None),
    ('{"kind":"request","body":[}', "the payload is not valid JSON", None),
    ('{"kind":"request","id":99999999999999999999,"body":[}', "the payload is not valid JSON", None),
    ('{"kind":"request","id":"\\x","body":[}', "the payload is not valid JSON", None),
    ('{"id":7,"kind":"request","body":[}', "the payload is not valid JSON", Request(7, None)),
    ('{"id":7,"body":[}', "the payload is not valid JSON", None),
    ('{"kind":"request","id":12', "the payload is not valid JSON", None),
    ('{"kind":"request","id":12,"type":"a', "the payload is not valid JSON", Request(12, None)),
    ("{", "the payload is not valid JSON", None),
    ('{"kind":', "the payload is not valid JSON", None),
]  # fmt: skip


@pytest.mark.parametrize(("payload", "text", "header"), BAD, ids=lambda case: str(case)[:40])
def test_bad_payload_is_told_and_still_answered(
    payload: Any, text: str, header: Envelope | None
) -> None:
    with pytest.raises(SerializationError) as caught:
        decode(payload)
    assert str(caught.value).startswith(text)
    assert caught.value.envelope == header
    assert len(str(caught.value)) < 1000


def test_deep_values_that_parse_but_can_not_be_built_are_told() -> None:
    # Deeper than Python calls may go, where the parser in C has more room.
    body = '{"$tuple":[' * 340 + "]}" * 340
    with pytest.raises(SerializationError, match=r"^body: nested too deeply") as caught:
        decode('{"kind":"response","id":7,"body":' + body + "}")
    assert caught.value.envelope == Response(7, None)


def test_native_payload_is_told_apart() -> None:
    payload = b"".join(NativeMessageSerializer().encode(Request(1, SayHello("a"))))
    with pytest.raises(SerializationError) as caught:
        decode(payload)
    assert str(caught.value) == (
        "this is not JSON: both sides must use the same serializer "
        f"(the payload starts with {payload[:12]!r})"
    )


UNSENDABLE: list[tuple[Any, str]] = [
    (Request(-1, SayHello("a")), "id: expected an integer from 0 to 2**64-1"),
    (Request(2**64, SayHello("a")), "id: expected an integer"),
    (Request(True, SayHello("a")), "id: expected an integer"),
    (Request("", SayHello("a")), "id: expected an integer"),
    (Cancel("é" * 128), "id: expected an integer"),
    (Cancel(None), "id: expected an integer"),  # type: ignore[arg-type]
    (Request(1, SayHello("a"), timeout=float("inf")), "timeout: expected seconds as a finite"),
    (Request(1, SayHello("a"), timeout="1"), "timeout: expected seconds"),  # type: ignore[arg-type]
    (Request(1, SayHello("a"), window=-1), "window: expected an integer from 0 to 2**31-1"),
    (Request(1, SayHello("a"), metadata={"a": 1}), "metadata['a']: expected text to text, got 1"),  # type: ignore[dict-item]
    (Credit(1, 2**64), "count: expected an integer"),
    (Credit(1, 1.5), "count: expected an integer"),  # type: ignore[arg-type]
    (ErrorResponse(1, ErrorMessage("a"), "nope"), "code: expected one of handler, unhandled"),
    (ErrorResponse(1, ErrorMessage(5)), "body.message: expected str, got 5"),  # type: ignore[arg-type]
    (Request(1, "text"), "body: expected a Message, got a value of str"),  # type: ignore[arg-type]
    (Request(1, SayHello), "body: expected a Message"),  # type: ignore[arg-type]
    (Notification(5), "body: expected a Message, got a value of int"),  # type: ignore[arg-type]
    (Notification({"a": 1}), "body: expected a Message, got a value of dict"),  # type: ignore[arg-type]
    (Notification(SayHello("\ud800")), "body.name: a text with half of a surrogate pair"),
    (Notification(Anything([1, {"a": "\udc00"}])), "body.value[1].a: a text with half of"),
    (Notification(Anything({"\udc00": 1})), "a key in body.value: a text with half of"),
    (Notification(SayHello("a"), {"a": "\ud800"}), "metadata.a: a text with half of"),
    (Cancel("\ud800"), "id: a text with half of"),
    (Response(1, "\ud800"), "body: a text with half of"),
    (Response(1, 10**5000), "body: can't be written as JSON: ValueError: Exceeds the limit"),
    ("no envelope", "expected an envelope, got str"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("envelope", "text"),
    UNSENDABLE,
    ids=lambda case: str(case)[:40] if isinstance(case, str) else type(case).__name__,
)
def test_envelope_that_can_not_be_sent_is_told(envelope: Any, text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        encode(envelope)
    assert str(caught.value).startswith(text)


def test_value_that_holds_itself_is_told() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for envelope, text in (
        (Response(1, loop), r"^body\[0\] contains itself: JSON has no form for that$"),
        (Notification(Anything(loop)), r"^body\.value\[0\] contains itself: JSON has no form"),
        (Response(1, deep), r"^body: nested too deeply for JSON, or a container holds itself"),
    ):
        with pytest.raises(SerializationError, match=text):
            encode(envelope)


def test_many_threads_may_use_one_serializer() -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(300):
                envelope = Request(step, Anything([number, (step, {"n": number})]))
                assert decode(encode(envelope)) == envelope
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_importing_the_library_does_not_load_what_json_needs() -> None:
    code = (
        "import sys, streamipc.serializers.json\n"
        "heavy = {'json', 'decimal', 'uuid', 'pathlib', 'datetime', 'base64'}\n"
        "before = set(sys.modules) & heavy\n"
        "streamipc.serializers.json.JsonMessageSerializer()\n"
        "after = set(sys.modules) & heavy\n"
        "print(sorted(before), sorted(after - {'json'}))\n"
    )
    assert printed(code) == ["[] []"]
