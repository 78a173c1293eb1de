"""What a value takes in memory, as far as it matters."""

from __future__ import annotations

import array
import pickle
import sys
from collections import OrderedDict, deque
from typing import Any

import pytest
from shared_messages import Note

from streamipc import JsonMessageSerializer, NativeMessageSerializer
from streamipc.engine.footprint import densest, footprint
from streamipc.protocol.envelopes import Response

MUCH = 1 << 40

numpy = pytest.importorskip("numpy")


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("x" * 1000, 1000, 1100),
        ([set() for _ in range(1000)], 220_000, 240_000),
        ({n: str(n) * 100 for n in range(1000)}, 300_000, 500_000),
        (({"key": "x" * 10_000},), 10_000, 11_000),
        (deque([b"x" * 10_000]), 10_000, 12_000),
        (OrderedDict(a=bytearray(10_000)), 10_000, 11_000),
        (array.array("d", bytes(80_000)), 80_000, 90_000),
        (Note("x" * 10_000), 10_000, 11_000),
        (memoryview(bytes(10_000)), 10_000, 11_000),
        ([frozenset((1, 2)), (None, True), 3.5], 100, 1000),
    ],
)
def test_it_is_what_the_parts_take(value: Any, least: int, most: int) -> None:
    assert least <= footprint(value, MUCH) <= most


@pytest.mark.parametrize("make", [numpy.zeros, lambda n: numpy.frombuffer(bytes(8 * n))])
def test_an_array_counts_whether_or_not_it_lies_over_memory_of_others(make: Any) -> None:
    assert 80_000 <= footprint([make(10_000)], MUCH) < 200_000


def test_what_is_referred_to_many_times_counts_once() -> None:
    shared = ["x" * 1000]
    nested: Any = shared
    for _ in range(60):
        nested = [nested, nested]

    assert footprint(nested, MUCH) < 20_000
    assert footprint(["male"] * 100_000, MUCH) < sys.getsizeof([None] * 100_000) + 5000


def test_a_value_that_holds_itself_is_measured_too() -> None:
    value: list[Any] = []
    value.append(value)

    assert footprint(value, MUCH) < 200


def test_classes_and_functions_are_the_programs_own() -> None:
    assert footprint([Note, footprint, sys, print, [].append], MUCH) < 500


def test_measuring_stops_at_the_limit() -> None:
    class Bomb(list[Any]):
        looked = 0

        def __sizeof__(self) -> int:
            Bomb.looked += 1
            return 1000

    assert footprint([Bomb() for _ in range(100_000)], 50_000) > 50_000
    assert Bomb.looked < 10_000


@pytest.mark.parametrize("serializer", [JsonMessageSerializer(), NativeMessageSerializer()])
@pytest.mark.parametrize(
    "item",
    [
        list,
        dict,
        tuple,
        set,
        frozenset,
        deque,
        OrderedDict,
        lambda: [None],
        lambda: (1,),
        lambda: (1, 2, 3, 4),
        lambda: {"a": 1},
        lambda: 1000,
        lambda: 1e9,
        lambda: 2.0,
        lambda: "\u0100",
        lambda: "\U00010100",
        lambda: "text of some length",
        lambda: b"ab",
        lambda: 1 << 100,
        lambda: Note("x"),
    ],
)
def test_no_payload_comes_out_at_more_than_the_most(serializer: Any, item: Any) -> None:
    value = [item() for _ in range(2000)]
    payload = b"".join(map(bytes, serializer.encode(Response(1, value))))
    decoded = serializer.decode(memoryview(payload))

    assert footprint(decoded.value, MUCH) <= densest(memoryview(payload))


@pytest.mark.parametrize(
    "opcode", [b"]", b"}", b"\x8f", b")", b"N\x85", b"(\x91", b"(t", b"(l", b"(d"]
)
def test_no_pickle_does_either(opcode: bytes) -> None:
    payload = b"\x80\x05](" + opcode * 10_000 + b"e."

    assert footprint(pickle.loads(payload), MUCH) <= densest(memoryview(payload))


def test_text_is_not_taken_for_containers() -> None:
    text = b"It is told that bold old dodos riot about a tidbit of oil, and do it a lot. " * 1000

    assert densest(memoryview(text)) < 30 * len(text)
