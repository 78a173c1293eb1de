"""Pickles written by hand, and the lengths of opcodes as the standard library has them."""

from __future__ import annotations

import math
import pickletools
import struct
from typing import Any

START = b"\x80\x05"


def text(value: str) -> bytes:
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


SCALARS: list[Any] = [
    None, True, False, 0, 255, 256, 65_535, 65_536, -1, 2**31 - 1, -(2**31), 2**31, -(2**70), 1.5,
    math.inf, "", "x", "é", b"", b"x", b"x" * 16, (),
]  # fmt: skip

SHORT: list[Any] = [
    *SCALARS, "x" * 31, "x" * 32, 2**71 - 1, [], {}, set(), [1], [1, 2], [None, True], {"a": 1},
    {"a": 1, "b": "x"}, {1, 2}, [[]], {"a": {"b": [1.5]}}, ["x", "x"], [b"x", 1, 2**40],
    [1.5] * 20, list(range(-20, 70_000, 7_000)), [[i] for i in range(300)], [1.5] * 70_000,
    [10**9] * 3000,
]  # fmt: skip

LONGER: list[Any] = [
    "x" * 33, "x" * 255, "x" * 256, "x" * 70_000, b"x" * 17, b"x" * 255, b"x" * 256, b"x" * 70_000,
    bytearray(b"x"), bytearray(70_000), 2**72, 2**2000, 2**5000, ["x" * 40] * 3 + [1],
    [str(i) * 20 for i in range(3000)],
]  # fmt: skip

TUPLES: list[Any] = [
    (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ("x",), ("x", "y"), ("x" * 64, 1.5), (None, True, b"x"),
    tuple(range(40)), [(1, "a"), (2, "b")], {(1, 2): 3}, {("x", "y", "z"): [(1,)]}, ((), ()),
    frozenset(), frozenset((1, 2)), {"a": frozenset(("x",))}, [(b"x" * 16, 2**70, -5, 300)],
    [(i, str(i), i / 2) for i in range(3000)], [("x" * 300,), "y" * 300, ["z" * 300]][1:],
]  # fmt: skip


PLAIN_OPCODES = {
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
    "BYTEARRAY8", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "EMPTY_DICT", "SETITEM",
    "SETITEMS", "EMPTY_SET", "ADDITEMS", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "FRAME",
}  # fmt: skip
KNOWN = {opcode.code.encode("latin1")[0]: opcode for opcode in pickletools.opcodes}
LENGTHS = {-2: "<B", -3: "<i", -4: "<I", -5: "<Q"}  # the kinds of length, as pickletools has them


def argument_sizes(code: int, arguments: bytes) -> int | None:
    """Return how many bytes the argument takes that starts here, ``None`` if they aren't there."""
    argument = KNOWN[code].arg
    if argument is None:
        return 0
    if argument.n >= 0:
        return argument.n if len(arguments) >= argument.n else None
    head = struct.calcsize(LENGTHS[argument.n])
    if len(arguments) < head:
        return None
    size = head + struct.unpack_from(LENGTHS[argument.n], arguments)[0]
    return size if len(arguments) >= size else None


def is_a_run_of_plain_opcodes(body: bytes) -> bool:
    pos = 0
    while pos < len(body):
        code = body[pos]
        if code not in KNOWN or KNOWN[code].name not in PLAIN_OPCODES:
            return False
        size = argument_sizes(code, body[pos + 1 :])
        if size is None:
            return False
        pos += 1 + size
    return True


def fillings(size: int) -> list[bytes]:
    """Arguments of all kinds: zeros, any first byte (a length), and bytes that are opcodes."""
    made = [bytes(size), b"N" * size]
    for length in (size - 1, size - 2):
        if size and 0 <= length < 256:
            made += [bytes([length]) + b"N" * (size - 1)]
    for head in (4, 8):
        if size >= head:
            made += [(size - head).to_bytes(head, "little") + b"N" * (size - head)]
            made += [(size - head + 1).to_bytes(head, "little") + b"N" * (size - head)]
    return made
