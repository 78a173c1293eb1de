"""The first small payloads are read without regular expressions, to the same result."""

from __future__ import annotations

import subprocess
import sys

import pytest
from bare_interpreter import printed

PROGRAM = """
import datetime, pickle, sys
from streamipc import Message, NativeMessageSerializer, SerializationError
from streamipc.protocol.envelopes import Notification, Response
from streamipc.serializers import native

class Carrier(Message, wire_name="tests.first.Carrier"):
    value: object

serializer = NativeMessageSerializer()
values = [
    None, 1, -2**70, 1.5, "text", b"bytes", [1, [2, "x"]], (1, (2, 3)), {"a": {1, 2}},
    "\\x93\\x97",
    datetime.date(2020, 1, 2), bytes(70_000), bytearray(70_000), [Carrier(1)],
    ((((1,),),),),
]
payloads = [b"".join(serializer.encode(Response(1, value))) for value in values]
payloads += [b"".join(serializer.encode(Notification(Carrier(value)))) for value in values]
head = b"".join(serializer.encode(Response(1, None)))[:-4]
payloads += [
    head + body
    for body in (
        b"", b".", b"junk", b"\\x80\\x05N", b"\\x80\\x05N.N.", b"\\x80\\x05cos\\nsystem\\n.",
        b"\\x80\\x05\\x8c\\x02os\\x8c\\x06system\\x93.", b"\\x80\\x05\\x97.",
        b"\\x80\\x05]K\\x01b.",
        b"\\x80\\x05X\\xff\\xff\\xff\\x7fabc.", b"\\x80\\x04N.", pickle.dumps(Exception, 5),
    )
]

def read(payload):
    try:
        return repr(serializer.decode(memoryview(bytearray(payload))))
    except SerializationError as error:
        return f"refused: {error}"

def walked(payload):
    native._walked = 0
    native._match_short, native._is_plain = native._walk_at_first, native._not_known
    return read(payload)

first = [walked(payload) for payload in payloads]
for _ in range(native._WALKED):
    read(payloads[0])
assert native._match_short is not native._walk_at_first
later = [read(payload) for payload in payloads]
for payload, one, other in zip(payloads, first, later):
    assert one == other, (payload[:80], one[:200], other[:200])
print(len(first), sum(text.startswith("refused") for text in first))
"""


def test_the_first_payloads_are_read_as_the_later_ones() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["42", "12"]


NEEDED = """
import sys
from streamipc import Message, NativeMessageSerializer
from streamipc.protocol.envelopes import Notification, Response
from streamipc.serializers import _native_scan, native

class Carrier(Message, wire_name="tests.first.Carrier"):
    value: object

serializer = NativeMessageSerializer()
first = native._match_short

def read(value, count):
    for envelope in (Response(1, value), Notification(Carrier(value))) * (count // 2):
        serializer.decode(memoryview(b"".join(serializer.encode(envelope))))
    if native._match_short is not first or _native_scan._match_untupled:
        print("expressions", end="")
    print(" full reader" if "streamipc.serializers._native_values" in sys.modules else "")
"""


@pytest.mark.parametrize("value", ["'x'", "'x' * 900"], ids=["small", "less than 1 KiB"])
def test_the_first_16_small_payloads_need_neither_expressions_nor_the_full_reader(
    value: str,
) -> None:
    assert printed(NEEDED + f"read({value}, 0); read({value}, 16); read({value}, 2)") == [
        "",
        "",
        "expressions",
    ]


def test_a_large_payload_is_worth_the_expressions_at_once() -> None:
    assert printed(NEEDED + "read('x' * 1100, 2)") == ["expressions"]
