"""The walk through a pickle before it is loaded: what it refuses, and what loading would cost."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import pytest
from pickles import (
    KNOWN,
    LONGER,
    PLAIN_OPCODES,
    SHORT,
    START,
    TUPLES,
    argument_sizes,
    fillings,
    is_a_run_of_plain_opcodes,
    text,
)

from streamipc.exceptions import SerializationError
from streamipc.serializers._native_scan import check

BUILDER = text("module") + text("name") + b"\x93"
"""Any global will do: the walk leaves it to the reader which names there are."""


def called(arguments: bytes, count: int = 1) -> bytes:
    """Return a call of a builder with 1, 2 or 3 arguments."""
    return BUILDER + arguments + b"\x84\x85\x86\x87"[count : count + 1] + b"R"


def verdict(body: bytes, *buffers: int) -> str:
    try:
        check(START + body + b".", buffers)
    except SerializationError as error:
        return str(error)
    return "passes"


HASHED = "the body has keys or set members that nest too deeply to be hashed"
COPIED = "the body has values that are copied too often"
DEEP = "the body has values that nest too deeply"


@pytest.mark.parametrize("value", SHORT + LONGER + TUPLES, ids=lambda value: f"{value!r:.40}")
def test_the_walk_passes_whatever_pickle_writes(value: Any) -> None:
    for nested in (value, (value, [value]), {"a": {"b": (value, (value,))}}):
        check(pickle.dumps(nested, 5))


@pytest.mark.parametrize("size", [*range(12), 64, 255, 256, 300])
def test_the_walk_takes_as_many_bytes_as_the_unpickler_will_take(size: int) -> None:
    pushes = {name for name in PLAIN_OPCODES if name.startswith(("B", "SHORT", "N", "LONG"))}
    pushes = (pushes | {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "EMPTY_TUPLE", "FRAME"}) - {
        "BINGET", "LONG_BINGET",
    }  # fmt: skip
    for code in (code for code, opcode in KNOWN.items() if opcode.name in pushes):
        for argument in fillings(size):
            run = bytes([code]) + argument
            takes = argument_sizes(code, argument)
            inside = takes is not None and is_a_run_of_plain_opcodes(run)
            assert (verdict(b"N" + run) == "passes") == inside, run


@pytest.mark.parametrize(
    "body",
    [b"a", b"]a", b"e", b"]Ne", b"s", b"}Ns", b"}NNu", b"\x85",
     b"\x86", b"N\x86", b"N(N\x86", b"(N(N\x86tt", b"\x87", b"NN\x87", b"(NN\x87", b"t", b"Nt",
     b"\x91", b"N\x91", b"\x8fN\x90", b"0", b"(0", b"N(0", b"(N(0t", b"1", b"N1", b"R", b"NR",
     b"N)R", b"\x94",
     b"h\x00", b"N\x94h\x01", b"j" + bytes(4), b"N\x94j\x01" + bytes(3), text("m") + b"\x93",
     text("m") + b"(" + text("n") + b"\x93", text("m") + b"]\x93", b"]" + text("n") + b"\x93",
     b"X\x2c\x01\x00\x00" + b"m" * 300 + text("n") + b"\x93", BUILDER + b"]R", BUILDER + b"}R",
     BUILDER + BUILDER + b"\x85R" + b")R", b"\x98", b"]\x98", b"N\x85\x98"],
    ids=repr,
)  # fmt: skip
def test_an_opcode_that_finds_too_little_or_the_wrong_kind_is_refused(body: bytes) -> None:
    assert "passes" not in (verdict(body), verdict(body + b"N"))


@pytest.mark.parametrize(
    "body",
    [b"]Na", b"](NNe", b"](e", b"}NNs", b"}(NNNNu", b"\x8f(NN\x90", b"N\x85", b"NN\x86", b"NNN\x87",
     b"(t", b"(NNNNNt", b"(\x91", b"(NN\x91", b"NN0", b"N(NN1", b"]N\x94ah\x00", b"]\x94h\x00a",
     b"N\x94N\x94j\x01\x00\x00\x00", BUILDER, BUILDER + b")R", BUILDER + b"N\x85R", b"\x97",
     b"\x97\x98", b"C\x01x\x98", b"C\x01x\x94\x98h\x00",
     b"B\x2c\x01\x00\x00" + b"m" * 300 + b"\x98", BUILDER + b"\x94)Rh\x00)R"],
    ids=repr,
)  # fmt: skip
def test_an_opcode_that_finds_what_it_needs_passes(body: bytes) -> None:
    assert verdict(body) == "passes"
    assert verdict(b"(" + body + b"t") == "passes"


@pytest.mark.parametrize("fill", [b"a", b"(%be", b"%bNs", b"(%bNu", b"(%b\x90"])
@pytest.mark.parametrize("target", [b"]", b"}", b"\x8f", b"N", b")", BUILDER + b")R", BUILDER])
def test_a_list_a_dict_and_a_set_are_filled_by_their_own_opcodes_only(
    fill: bytes, target: bytes
) -> None:
    filled = target + (fill.replace(b"%b", b"N") if b"%b" in fill else b"N" + fill)
    own = {b"a": b"]", b"e": b"]", b"s": b"}", b"u": b"}", b"\x90": b"\x8f"}

    assert (verdict(filled) == "passes") == (own[filled[-1:]] == target)


def test_the_pickle_must_start_and_end_as_one_of_protocol_5() -> None:
    check(b"\x80\x05N.")
    for body in (
        b"", b".", b"\x80\x05", b"\x80\x05.", b"\x80\x04N.", b"\x81\x05N.", b"\x80\x05N",
        b"\x80\x05NN", b"N\x80\x05N.", b"\x80\x05N..", b"\x80\x05N.N", b"\x80\x05N0.",
    ):  # fmt: skip
        with pytest.raises(SerializationError, match=r"malformed|not allowed"):
            check(body)


def test_an_opcode_that_is_not_allowed_is_named_with_its_place() -> None:
    assert verdict(b"]\x94K\x01c") == (
        "the pickle in the body has an opcode that is not allowed: b'c' at byte 6"
    )
    assert verdict(b"\xff") == (
        "the pickle in the body has an opcode that is not allowed: b'\\xff' at byte 2"
    )


def tuples(depth: int) -> bytes:
    return b")" + b"\x85" * depth


HASHERS = [
    b"}%bNs", b"}(%bNu", b"}(NN%bNu", b"\x8f(%b\x90", b"\x8f(NN%b\x90", b"(%b\x91", b"(NN%bN\x91"
]  # fmt: skip
KEEPERS = [b"]%ba", b"](N%be", b"}N%bs", b"}(N%bu", b"}(NNN%bu", b"(%bt", b"%b\x85"]


@pytest.mark.parametrize("around", HASHERS, ids=repr)
def test_what_is_hashed_nests_a_thousand_deep_at_most(around: bytes) -> None:
    assert verdict(around.replace(b"%b", tuples(1000))) == "passes"
    assert verdict(around.replace(b"%b", tuples(1001))) == HASHED


@pytest.mark.parametrize("around", KEEPERS, ids=repr)
def test_what_is_not_hashed_nests_as_it_likes(around: bytes) -> None:
    assert verdict(around.replace(b"%b", tuples(20_000))) == "passes"


@pytest.mark.parametrize("around", HASHERS + KEEPERS, ids=repr)
def test_depth_and_cost_of_a_member_are_those_of_what_holds_it(around: bytes) -> None:
    # What a call makes may be hashable whatever is in its arguments.
    deep = called(around.replace(b"%b", tuples(995)))
    assert verdict(b"(" + deep + b"\x91") == "passes"
    deeper = called(around.replace(b"%b", tuples(1000)))
    assert verdict(b"(" + deeper + b"\x91") == HASHED
    costly = called(around.replace(b"%b", wide(19)))
    assert verdict(b"(" + costly + b"\x91") == HASHED


@pytest.mark.parametrize("around", [b"%b(NNt\x86", b"%b](NNe\x86", b"](%beNa", b"}(N%buNNs"])
def test_what_stands_behind_what_is_deep_or_costly_hides_nothing(around: bytes) -> None:
    for hidden in (tuples(1000), wide(19)):
        assert verdict(b"(" + called(around.replace(b"%b", hidden)) + b"\x91") == HASHED


@pytest.mark.parametrize("before", [b"]" + b"(%be", b"](%beNa", b"(%bt"], ids=repr)
def test_what_stands_behind_what_is_long_is_as_deep_as_it_is(before: bytes) -> None:
    long = before.replace(b"%b", b"N" * 5000)
    for both in (tuples(1000) + long + b"\x86", long + tuples(1000) + b"\x86"):
        assert verdict(b"(" + called(both) + b"\x91") == HASHED
    if before[:1] == b"]":
        assert verdict(b"(" + called(long + tuples(1000) + b"a") + b"\x91") == HASHED


def wide(levels: int) -> bytes:
    """Tuples of two references each to the one before: twice the cost on each level."""
    body = b")\x94"
    for level in range(levels):
        body += b"0" + (b"h" + bytes([level])) * 2 + b"\x86\x94"
    return body


@pytest.mark.parametrize("around", HASHERS, ids=repr)
def test_hashing_visits_a_million_values_at_most(around: bytes) -> None:
    assert verdict(around.replace(b"%b", wide(18))) == "passes"
    assert verdict(around.replace(b"%b", wide(19))) == HASHED


LONG_TEXT = b"X\x2c\x01\x00\x00" + b"x" * 300
HASH_COSTS = {
    b"(" + b"N" * 500 + b"t": 501,
    b"(" + b"N" * 500 + b")\x85t": 503,
    b"(" + LONG_TEXT + b"\x94" + b"h\x00" * 499 + b"t": 501,
    b"(" + b"]" * 500 + b"t": 501,
    b"](" + b"N" * 250 + b"e(" + b"N" * 250 + b"e\x85": 504,
    b"}(" + b"N" * 250 + b"u(" + b"N" * 250 + b"u\x85": 504,
    b"(" + called(b"N") * 100 + b"t": 301,
    b"(" + (BUILDER + b")R") * 100 + b"t": 201,
    b"(" + BUILDER * 300 + b"t": 301,
}
"""Tuples, and how many values hashing one visits: itself, and what is in it."""


@pytest.mark.parametrize("value", HASH_COSTS, ids=range(len(HASH_COSTS)))
def test_hashing_visits_as_many_values_as_there_are(value: bytes) -> None:
    place = bytes([value.count(b"\x94")])
    cost = HASH_COSTS[value]
    before, after = b"\x8f(" + value + b"\x94", b"\x90"
    length = len(START + before + after + b".")
    # A million, and 16 for each byte: each but the first takes two.
    most = (1_000_000 + 16 * (length - 2)) // (cost - 32)

    assert verdict(before + (b"h" + place) * (most - 1) + after) == "passes"
    assert verdict(before + (b"h" + place) * most + after) == HASHED


def test_all_hashing_counts_together() -> None:
    last = b"h\x10"  # level 16: 131,071 values
    assert verdict(wide(16) + b"0\x8f(" + last * 7 + b"\x90") == "passes"
    assert verdict(wide(16) + b"0\x8f(" + last * 8 + b"\x90") == HASHED
    several = b"".join(b"}" + last + b"Ns" for _ in range(8))
    assert verdict(wide(16) + b"0(" + several + b"t") == HASHED


def test_a_long_payload_may_hash_more() -> None:
    filler = b"X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"0"
    assert verdict(filler + b"(" + wide(19) + b"\x91") == "passes"
    assert verdict(filler + b"(" + wide(22) + b"\x91") == HASHED


def counted(code: bytes, layout: str, size: int) -> bytes:
    return code + struct.pack(layout, size) + bytes(size)


LONG_VALUES = {
    "BINBYTES": counted(b"B", "<I", 20_000),
    "BINBYTES8": counted(b"\x8e", "<Q", 20_000),
    "BINUNICODE": counted(b"X", "<I", 20_000),
    "BINUNICODE8": counted(b"\x8d", "<Q", 20_000),
    "BYTEARRAY8": counted(b"\x96", "<Q", 20_000),
    "LONG4": counted(b"\x8b", "<I", 20_000),
    "APPENDS": b"](" + b"N" * 20_000 + b"e",
    "APPEND": b"]" + b"Na" * 20_000,
    "ADDITEMS": b"\x8f(" + b"N" * 20_000 + b"\x90",
    "FROZENSET": b"(" + b"N" * 20_000 + b"\x91",
    "SETITEMS": b"}(" + b"N" * 20_000 + b"u",
    "SETITEM": b"}" + b"NNs" * 10_000,
    "TUPLE": b"(" + b"N" * 20_000 + b"t",
    "REDUCE": called(b"B" + struct.pack("<I", 20_000) + bytes(20_000)),
}


@pytest.mark.parametrize("kind", LONG_VALUES)
def test_a_long_value_is_not_copied_again_and_again(kind: str) -> None:
    # 20,000 each time; a million is free, and twice the length of the payload.
    value = LONG_VALUES[kind] + b"\x94"
    for copy in (called(b"h\x00"), called(b"Nh\x00", 2), called(b"h\x00NN", 3)):
        assert verdict(b"(" + value + copy * 45 + b"t") == "passes"
        assert verdict(b"(" + value + copy * 60 + b"t") == COPIED


def test_the_lengths_of_buffers_count_as_those_of_bytes() -> None:
    copies = b"(\x97\x94" + called(b"h\x00") * 60 + b"t"

    assert verdict(copies, 10_000) == "passes"
    assert verdict(copies, 20_000) == COPIED
    # 200,000 bytes sent apart may be copied twice more.
    assert verdict(copies.replace(called(b"h\x00") * 60, called(b"h\x00") * 7), 200_000) == "passes"
    assert verdict(copies.replace(called(b"h\x00") * 60, called(b"h\x00") * 8), 200_000) == COPIED
    # Each NEXT_BUFFER takes the next one, and beyond the last there is none.
    second = b"(\x97\x97\x94" + called(b"h\x00") * 60 + b"t"
    assert verdict(second, 10_000, 20_000) == COPIED
    assert verdict(second, 20_000, 10_000) == "passes"
    assert verdict(second, 20_000) == "passes"


COPIES = [
    (b"h\x00", 1, 500), (b"Nh\x00", 2, 501), (b"h\x00N", 2, 501), (b"h\x00h\x00", 2, 1000),
    (b"h\x01h\x01", 2, 600), (b"h\x00h\x01", 2, 800), (b"h\x01h\x00", 2, 800),
    (b"h\x00]", 2, 501), (b"h\x00}\x8f", 3, 502), (b"h\x00" + called(b"h\x00"), 2, 1500),
    (b"h\x00" + BUILDER + b")R", 2, 501), (b"h\x00" + BUILDER, 2, 501),
]  # fmt: skip
"""Arguments, their number, and how much is copied: 500 members at 0, 300 bytes at 1."""


@pytest.mark.parametrize(("arguments", "count", "size"), COPIES, ids=range(len(COPIES)))
def test_each_argument_counts_as_it_is_long(arguments: bytes, count: int, size: int) -> None:
    before = b"((" + b"N" * 500 + b"t\x94" + LONG_TEXT + b"\x94"
    copy = called(arguments, count)
    length = len(START + before + b"t.")
    most = (1_000_000 + 2 * length) // (size - 2 * len(copy))  # 2 more for each byte

    assert verdict(before + copy * most + b"t") == "passes"
    assert verdict(before + copy * (most + 1) + b"t") == COPIED


def test_what_a_builder_made_is_not_the_arguments_of_another() -> None:
    # It may be a NamedTuple: a tuple, with members of any length.
    assert verdict(called(b"N")) == "passes"
    assert "malformed" in verdict(BUILDER + called(b"N") + b"R")
    assert "malformed" in verdict(BUILDER + BUILDER + b")RR")
    assert "malformed" in verdict(called(b"N") + b"\x94" + BUILDER + b"h\x00R\x86")


def test_a_short_value_is_copied_as_often_as_the_payload_says() -> None:
    for code, layout in ((b"B", "<I"), (b"\x8e", "<Q"), (b"X", "<I"), (b"\x8d", "<Q")):
        short, long = counted(code, layout, 255) + b"\x94", counted(code, layout, 256) + b"\x94"
        copies = called(b"h\x00") * 6000
        assert verdict(b"(" + short + copies + b"t") == "passes"
        assert verdict(b"(" + long + copies + b"t") == COPIED


def test_what_is_called_nests_five_thousand_deep_at_most() -> None:
    def slices(depth: int) -> bytes:
        return BUILDER * depth + b")" + b"\x85R" * depth

    assert verdict(slices(2400)) == "passes"
    assert verdict(slices(2600)) == DEEP
    assert verdict(called(tuples(4999))) == "passes"
    assert verdict(called(tuples(5000))) == DEEP
