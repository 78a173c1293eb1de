"""What passes as a plain pickle before it is loaded: no opcode but its own, to the last byte."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest
from pickles import (
    KNOWN,
    LONGER,
    SHORT,
    START,
    TUPLES,
    fillings,
    is_a_run_of_plain_opcodes,
    text,
)

from streamipc.serializers._native_scan import is_plain, short_matcher

MATCH_SHORT = short_matcher()


def plain(body: bytes) -> bool:
    return is_plain(body, 0, len(body))


# What pickle writes for plain values


@pytest.mark.parametrize("value", SHORT, ids=lambda value: f"{value!r:.40}")
def test_a_small_plain_pickle_is_recognised_in_one_match(value: Any) -> None:
    body = pickle.dumps(value, 5)

    if sys.version_info >= (3, 11) or len(body) < 1000:  # before, a match has a bound
        assert MATCH_SHORT(body)
    assert plain(body)


@pytest.mark.parametrize("value", LONGER + TUPLES, ids=lambda value: f"{value!r:.40}")
def test_any_other_plain_pickle_is_recognised_without_a_walk(value: Any) -> None:
    body = pickle.dumps(value, 5)

    assert not MATCH_SHORT(body)
    assert plain(body)


@pytest.mark.parametrize("value", [((1,),), {((1,), 2)}, [(1, [2])], complex(1)], ids=repr)
def test_what_needs_a_walk_is_not_taken_for_plain(value: Any) -> None:
    body = pickle.dumps(value, 5)

    assert not MATCH_SHORT(body)
    assert not plain(body)


def test_only_what_lies_between_start_and_end_is_looked_at() -> None:
    body = pickle.dumps([1, "x"], 5)
    padded = b"\xff\xff" + body + b"\xff"

    assert is_plain(padded, 2, len(padded) - 1)
    assert not is_plain(padded, 1, len(padded) - 1)
    assert not is_plain(padded, 2, len(padded))
    assert not is_plain(padded, 2, len(padded) - 2)


def test_a_plain_pickle_starts_and_ends_as_one_of_protocol_5() -> None:
    assert plain(b"\x80\x05N.")
    for body in (
        b"",
        b".",
        b"\x80\x05.",
        b"\x81\x05N.",
        b"\x80\x04N.",
        b"\x80\x05NN",
        b"\x80\x05N",
    ):
        assert not plain(body)
        assert not is_plain(b"\x80\x05N." + body, 4, 4 + len(body))


# Each opcode is read with its argument, as the unpickler will read it


@pytest.mark.parametrize("size", [*range(40), 64, 65, 66, 67, 254, 255, 256, 257, 258, 300])
def test_an_opcode_takes_as_many_bytes_as_the_unpickler_will_take(size: int) -> None:
    for code in range(256):
        for argument in fillings(size):
            run = bytes([code]) + argument
            allowed = is_a_run_of_plain_opcodes(run)
            assert plain(START + run + b".") == allowed, run
            assert allowed or not MATCH_SHORT(START + run + b"."), run


TOKENS = [
    b"N", b"\x88", b"\x89", b")", b"K\x01", b"M\x01\x02", b"J" + bytes(4), b"G" + bytes(8),
    b"\x8a\x01\x01", b"\x8a\x08" + bytes(8), b"C\x01x", b"C\x10" + bytes(16), text("x"),
    text("x" * 64),
]  # fmt: skip
ENDS = {b"\x85": 1, b"\x86": 2, b"\x87": 3, b"t": 4, b"\x91": 2}


@pytest.mark.parametrize("end", ENDS, ids=lambda code: KNOWN[code[0]].name)
@pytest.mark.parametrize("between", [b"", b"\x94", b"\x95" + bytes(8), b"\x94\x95" + bytes(8)])
def test_a_tuple_of_scalars_is_plain_and_one_of_anything_else_is_not(
    end: bytes, between: bytes
) -> None:
    mark = b"(" if end in b"t\x91" else b""
    for token in TOKENS:
        members = [token + between] * ENDS[end]
        assert plain(START + mark + b"".join(members) + end + b"."), token
        for place in range(ENDS[end]):
            for other in (b"]", b"}", b"\x8f", b"h\x00", b"j" + bytes(4), b"K\x01\x85", b"e", b"0"):
                members[place] = other + between
                assert not plain(START + mark + b"".join(members) + end + b"."), other
            members[place] = token + between


def test_a_tuple_needs_its_members_right_before_it() -> None:
    for end, count in ENDS.items():
        for there in range(count if end not in b"t\x91" else 0):
            assert not plain(START + b"]" + b"N" * there + end + b".")
    for end in (b"t", b"\x91"):
        assert not plain(START + b"N" + end + b".")
        assert plain(START + b"(" + end + b".")


# The walk
