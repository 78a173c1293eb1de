"""How much of a value, a path and a payload stands in the text of an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Response
from streamipc.serializers.json import JsonMessageSerializer

SERIALIZER = JsonMessageSerializer()
NAME = __name__.rpartition(".")[2]
"""Of this module; where it is imported from depends on how the tests are run."""


class Count(Message, wire_name="tests.Count"):
    n: int


class Deep(Message, wire_name="tests.Deep"):
    v: list[Deep] | None = None


class Table(Message, wire_name="tests.Table"):
    v: dict[str, int]


def refused(payload: str) -> str:
    with pytest.raises(SerializationError) as caught:
        SERIALIZER.decode(memoryview(payload.encode()))
    return str(caught.value)


def read(cls: Any, data: Any) -> str:
    body = json.dumps(data)
    return refused(f'{{"kind":"notification","type":"{cls.__wire_name__}","body":{body}}}')


def sent(message: Any) -> str:
    with pytest.raises(SerializationError) as caught:
        SERIALIZER.encode(Notification(message))
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (1.5, "1.5"),
        ("x" * 60, '"' + "x" * 60 + '"'),
        ("x" * 61, '"' + "x" * 57 + '…"'),
        ('a"b', '"a\\"b"'),
        ([], "an array of 0"),
        ({}, "an empty object"),
        ({"a": 1, "b": 2}, 'an object with "a", "b"'),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, 'an object with "a", "b", "c", "d"'),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, 'an object with "a", "b", "c", "d", …'),
        ({"k" * 31: 1}, 'an object with "' + "k" * 30 + '"'),
    ],
    ids=lambda case: f"{case!r:.30}",
)
def test_what_came_is_shown_as_the_peer_wrote_it_or_what_it_is(data: Any, shown: str) -> None:
    assert read(Count, {"n": data}) == f"body.n: expected int, got {shown} (in tests.Count)"


def test_a_long_number_is_cut() -> None:
    text = read(Table, {"v": 10**100})
    assert text.endswith(f"expected dict[str, int], got 1{'0' * 59} (in tests.Table)")


@pytest.mark.parametrize("value", ["x" * 1000, b"x" * 1000], ids=["text", "bytes"])
def test_a_long_value_of_the_sender_is_cut(value: Any) -> None:
    told = sent(Count(value))
    shown = told.removeprefix("body.n: expected int, got ").removesuffix(" (in tests.Count)")
    assert shown == f"{value[:60]!r}…"


def test_of_a_deep_value_of_the_sender_the_outside_is_shown() -> None:
    text = sent(Count([[[[[1]]]]]))  # type: ignore[arg-type]
    assert text == "body.n: expected int, got [[[[…]]]] (in tests.Count)"


def test_a_value_that_cannot_be_shown_is_named_by_its_type() -> None:
    text = sent(Table(10**5000))  # type: ignore[arg-type]  # more digits than Python converts
    assert text == "body.v: expected dict[str, int], got <int of 16610 bits> (in tests.Table)"


def test_a_message_is_named_as_on_the_wire_and_any_other_class_by_its_module() -> None:
    class Named:
        __wire_name__ = "not.a.message"

    with pytest.raises(SerializationError, match=rf"a value of .*{NAME}\..*Named; make it"):
        SERIALIZER.encode(Response(1, Named()))
    assert read(Deep, {"v": 1}).startswith("body.v: expected list[tests.Deep] | None")
    assert f"{NAME}.Count object> (in" in sent(Table({"a": Count(1)}))  # type: ignore[dict-item]


def test_a_step_of_a_path_is_cut() -> None:
    assert read(Table, {"v": {"k" * 61: "x"}}).startswith(f"body.v.{'k' * 60}: expected")
    assert read(Table, {"v": {"-" * 61: "x"}}).startswith(f'body.v["{"-" * 60}"]: expected')
    assert read(Table, {"v": {"k" * 60: "x"}}).startswith(f"body.v.{'k' * 60}: expected")


@pytest.mark.parametrize("depth", [18, 19, 20, 30])
@pytest.mark.parametrize(
    ("data", "last", "told"),
    [
        ({"w": 1}, [".w"], "unknown field of tests.Deep"),
        (5, [], "expected tests.Deep, got 5"),
    ],
    ids=["even", "odd"],
)
def test_the_middle_of_a_long_path_is_left_out(
    depth: int, data: Any, last: list[str], told: str
) -> None:
    steps = ["body", *[".v", "[0]"] * depth, *last]
    for _ in range(depth):
        data = {"v": [data]}
    if len(steps) > 40:
        steps[20:-20] = ["…"]

    assert read(Deep, data) == f"{''.join(steps)}: {told}"


HEAD = '{"kind":"response","id":1,'


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (HEAD + '"body":}', "a value is missing at character 33"),
        (HEAD + '"body":[1,}', "a value is missing at character 36"),
        ("{", "Expecting property name enclosed in double quotes at character 1"),
        (HEAD + '"body":1', "Expecting ',' delimiter at character 34"),
        (HEAD + '"body":1}X', "more text follows the object at character 35"),
        (HEAD + '"body":1}\x0b', "more text follows the object at character 35"),
        (HEAD + '"body":1}\u00a0', "more text follows the object at character 35"),
        (HEAD + '"body":1}\u2028 ', "more text follows the object at character 35"),
        (HEAD + '"b":1,"a":1,"a":2,"a":3,"b":1}', 'the key "a" occurs twice in one object'),
        (HEAD + '"b":{"' + "k" * 61 + '":1,"' + "k" * 61 + '":1}}', f'the key "{"k" * 60}" occurs'),
        (HEAD + '"body":NaN}', 'NaN is not JSON; write {"$float": "nan"}, "inf" or "-inf"'),
        (HEAD + '"body":["\\ud800"]}', "body[0] holds half of a surrogate pair"),
        (HEAD + '"":"\\ud800"}', "the object holds half of a surrogate pair"),
        (HEAD + '"body":{"a b":["\\ud800"]}}', 'body["a b"][0] holds half of a surrogate pair'),
        ('{"\\ud800":1}', "a key in the object holds half of a surrogate pair"),
        (HEAD + '"body":[{"\\ud800":1}]}', "a key in body[0] holds half of a surrogate pair"),
        (HEAD + '"body":{"' + "k" * 61 + '":"\\ud800"}}', f"body.{'k' * 60} holds half"),
        (HEAD + '"' + "k" * 61 + '":"\\ud800"}', f"{'k' * 60} holds half"),
    ],
    ids=lambda case: case[-30:],
)  # fmt: skip
def test_what_is_no_json_is_told_with_its_place(payload: str, text: str) -> None:
    # Python 3.13 has another word for one of these.
    told = refused(payload).replace("Illegal trailing comma before end of array", "")
    assert told.startswith(f"the payload is not valid JSON: {text}")


def test_only_the_white_space_of_json_may_stand_around_the_object() -> None:
    for around in (" ", "\t", "\n", "\r", " \t\n\r"):
        payload = f'{around}{HEAD}"body":1}}{around}'
        assert SERIALIZER.decode(memoryview(payload.encode())) == Response(1, 1)
    for around in ("\x0b", "\x0c", "\u00a0", "\u2028", "X"):
        refused(f'{HEAD}"body":1}}{around}')
        refused(f'{around}{HEAD}"body":1}}')


def test_a_long_list_is_written_whole() -> None:
    value = list(range(300_000))
    payload = b"".join(SERIALIZER.encode(Response(1, value)))

    assert json.loads(payload) == {"kind": "response", "id": 1, "body": value}
    assert SERIALIZER.decode(memoryview(payload)) == Response(1, value)


def test_only_a_surprise_is_given_as_the_cause() -> None:
    class Strange(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            raise OSError("gone")

    loop: list[Any] = []
    loop.append(loop)
    for value, cause in ((object(), None), (loop, None), (Strange(), OSError)):
        with pytest.raises(SerializationError) as caught:
            SERIALIZER.encode(Response(1, value))
        assert type(caught.value.__cause__) is (cause or type(None))
