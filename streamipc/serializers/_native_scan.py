"""Reads a pickle's opcodes before anything is loaded, and refuses what is not ours.

A pickle is a program. The unpickler's own hook, ``find_class``, only guards the
opcodes that name a global, so a hostile pickle may still:

* change an object in place: ``BUILD`` sets attributes or calls ``__setstate__``, also
  on the members of an Enum; ``APPENDS`` calls the ``extend`` of any object;
* take classes from the extension cache of ``copyreg``, past ``find_class`` (``EXT1``);
* make the memo a table of gigabytes with one large index (``LONG_BINPUT``);
* allocate what a length says before the bytes are found missing (``BINBYTES8``);
* overflow the C stack, or take exponential time, when a tuple of tuples of tuples is
  hashed as a key: ``tuple.__hash__`` neither counts its depth nor keeps its result;
* overflow the C stack when it is thrown away: a slice of slices of slices, as a deque or a
  defaultdict, is freed by recursion without a limit;
* have one long value of the memo copied again and again: a ``bytearray`` of it takes six
  bytes of pickle.

So only the opcodes that our own encoder emits are let through, every length is
compared with the bytes that are there, and hashing, nesting and copying have limits.

:func:`is_plain` does it with regular expressions, at about the speed of loading, for
pickles that name no global at all: scalars, lists, dicts, sets, and tuples of scalars.
It is sound because it reads each opcode with its argument, from the first byte to the
last, as the unpickler will. :func:`check` walks through the rest in Python.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..exceptions import SerializationError

__all__ = ["check", "is_plain", "short_matcher"]

Data = bytes | memoryview

_LOOP = b"*+" if sys.version_info >= (3, 11) else b"{0,1000}"
"""Any number of times; before 3.11 bounded, since the matcher remembers every turn."""


def _run(tokens: bytes) -> bytes:
    """As many of ``tokens`` as there are, and no way back.

    A matcher that went back would try every way to divide a long run into tokens: more
    than there is time for. Before 3.11 a lookahead is what never goes back.
    """
    loop = b"(?:" + tokens + b")" + _LOOP
    return loop if sys.version_info >= (3, 11) else b"(?=(" + loop + b"))\\1"


def _counted(longest: int) -> bytes:
    """A length byte up to ``longest``, then as many bytes."""
    options = (b"\\x%02x.{%d}" % (n, n) for n in range(longest + 1))
    return b"(?:" + b"|".join(options) + b")"


_FRAME = b"\x95.{8}"
# MEMOIZE } ] ( e u s a EMPTY_SET ADDITEMS EMPTY_TUPLE, None, bools
_BYTES = b"[\x94}\\](eusa\x8f\x90)N\x88\x89]"
# Ints, float, short ints and short bytes; eight at a time where lists are long
_NUMBERS = (
    b"K.|M..|J.{4}(?:J.{4}J.{4}J.{4}J.{4}J.{4}J.{4}J.{4})?|G.{8}(?:G.{8}G.{8}G.{8}G.{8}G.{8})?"
    b"|\x8a" + _counted(9) + b"|C" + _counted(16)
)
_NUMBER = b"K.|M..|J.{4}|G.{8}|\x8a" + _counted(9) + b"|C" + _counted(16)


def _untupled(longest_text: int) -> bytes:
    return b"\x8c%b\x94?|%b|%b|%b|h.|j.{4}" % (_counted(longest_text), _BYTES, _NUMBERS, _FRAME)


def _tupled(longest_text: int) -> bytes:
    """As :func:`_untupled`, and tuples of nothing but scalars.

    Such a tuple is recognised by its members standing right before it; ``BINGET`` is
    none, since what it stands for can't be told from here.
    """
    scalar = b"(?:[N\x88\x89)]|\x8c%b|%b)\x94?(?:%b)?" % (_counted(longest_text), _NUMBER, _FRAME)
    return b"%b(?:\x85|%b(?:\x86|%b\x87)?)?|\\((?:%b)?(?:%b)%b[t\x91]|%b|%b|h.|j.{4}" % (
        scalar, scalar, scalar, _FRAME, scalar, _LOOP, _BYTES, _FRAME
    )  # fmt: skip


def _loop(tokens: bytes) -> Callable[..., Any]:
    return re.compile(_run(tokens), re.DOTALL).match


def short_matcher() -> Callable[..., Any]:
    """Return what matches the most common small pickles whole: see :func:`is_plain`."""
    return re.compile(b"\x80\x05" + _run(_untupled(32)) + b"\\.", re.DOTALL).fullmatch


# Compiled when the first payload needs them: they take 3 ms each.
_match_untupled: Callable[..., Any] | None = None
_match_tupled: Callable[..., Any] | None = None

_u32 = struct.Struct("<I").unpack_from
_u64 = struct.Struct("<Q").unpack_from


def is_plain(data: Data, start: int, end: int) -> bool:
    """Tell whether ``data[start:end]`` is a pickle of nothing but plain values.

    ``True`` means: loading it imports nothing, calls nothing, allocates in proportion
    to the payload and hashes no nested tuple. ``False`` means: not known.
    """
    global _match_untupled, _match_tupled
    if end - start < 4 or data[start] != 0x80 or data[start + 1] != 5 or data[end - 1] != 0x2E:
        return False
    start += 2
    end -= 1
    if _match_untupled is None:
        _match_untupled = _loop(_untupled(255))
    pos = _skim(_match_untupled, data, start, end)
    if pos < end and data[pos] in b"\x85\x86\x87t\x91":
        if _match_tupled is None:
            _match_tupled = _loop(_tupled(64))
        pos = _skim(_match_tupled, data, start, end)
    return pos == end


def _skim(match: Callable[..., Any], data: Data, pos: int, end: int) -> int:
    """Return the position of the first opcode that ``match`` does not know.

    Lengths of more than one byte are beyond a regular expression. A position past
    ``end`` means that a length was.
    """
    while True:
        before = pos
        pos = match(data, pos, end).end()
        if pos >= end:
            return pos
        op = data[pos]
        if op in _COUNTED_1:
            size = 2 + data[pos + 1] if end - pos >= 2 else end
        elif op in _COUNTED_4:
            size = 5 + _u32(data, pos + 1)[0] if end - pos >= 5 else end
        elif op in _COUNTED_8:
            size = 9 + _u64(data, pos + 1)[0] if end - pos >= 9 else end
        elif pos == before:
            return pos
        else:
            continue  # a repeat that is bounded has reached its bound
        pos += size


_COUNTED_1 = frozenset((0x8C, ord("C"), 0x8A))  # SHORT_BINUNICODE SHORT_BINBYTES LONG1
_COUNTED_4 = frozenset((ord("X"), ord("B"), 0x8B))  # BINUNICODE BINBYTES LONG4
_COUNTED_8 = frozenset((0x8D, 0x8E, 0x96))  # BINUNICODE8 BINBYTES8 BYTEARRAY8

_SIZES = [0] * 256
"""Opcodes that push one value that costs nothing to hash, and how long they are."""
for _op, _size in {
    ord("N"): 1, 0x88: 1, 0x89: 1,  # NONE NEWTRUE NEWFALSE
    ord("K"): 2, ord("M"): 3, ord("J"): 5, ord("G"): 9,  # BININT1 BININT2 BININT BINFLOAT
    ord(")"): 1,  # EMPTY_TUPLE
}.items():  # fmt: skip
    _SIZES[_op] = _size

_LIST, _DICT, _SET, _BUILT = "list", "dict", "set", "built"
_EMPTY = {ord("]"): _LIST, ord("}"): _DICT, 0x8F: _SET}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_FILLERS = {
    ord("a"): (_LIST, 1, 0), ord("e"): (_LIST, 0, 0), ord("s"): (_DICT, 2, 2),
    ord("u"): (_DICT, 0, 2), 0x90: (_SET, 0, 1),
}  # fmt: skip
"""APPEND APPENDS SETITEM SETITEMS ADDITEMS: what they fill, how many values they take
(0: down to the mark), and which of these are hashed (0: none, 1: all, 2: every other)."""

_GLOBAL = (1, 1, 1, 0)
_HASH_DEPTH = 1000
_BUILD_DEPTH = 5000
"""How deeply the arguments of a builder may nest: more than any pickler goes."""
_BUDGET = 1_000_000
"""How much hashing, and how much copying by builders, is allowed for any payload; a long
one may cause more."""
_LONG = 256
"""Bytes from which on the length of a text, of bytes or of an int matters."""


class _Walk:
    """The unpickler's stack, with the cost of a value in the place of the value.

    A value is ``None`` if it is a short scalar, and its length in bytes if it is a long
    one. Any other is ``(cost, depth, size, sizes)``: how many values hashing it would
    visit, shared ones again each time; how deeply it nests; how much copying it alone
    would copy, in bytes or members; the same for all of its members together. Lists,
    dicts and sets, which grow after they were made, are ``[cost, depth, size, kind]``.
    So is what a builder made, of no kind that can be filled. It is never the arguments of
    another, though it may be a tuple, a NamedTuple: how long its members are is not known.

    The unpickler refuses to reach below the last mark by itself, except that ``POP`` pops
    the mark; the walk refuses that too. Where it does not look for the mark itself, it
    does not matter what it makes of a pickle that will fail.
    """

    def __init__(self, data: bytes, buffers: Sequence[int]) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.buffers = iter(buffers)
        self.to_hash = _BUDGET + 16 * len(data)
        self.to_copy = _BUDGET + 2 * (len(data) + sum(buffers))

    def run(self, pos: int, end: int) -> int:
        """Read opcodes until ``end``; return where the last one ends.

        The most frequent opcodes come first.
        """
        data = self.data
        stack = self.stack
        memo = self.memo
        push = stack.append
        while pos < end:
            op = data[pos]
            if op == 0x94:  # MEMOIZE
                memo.append(stack[-1])
                pos += 1
            elif op == 0x68:  # BINGET
                push(memo[data[pos + 1]])
                pos += 2
            elif size := _SIZES[op]:
                push(None)
                pos += size
            elif op in _COUNTED_1:
                push(None)
                pos += 2 + data[pos + 1]
            elif op == 0x6A:  # LONG_BINGET
                push(memo[_u32(data, pos + 1)[0]])
                pos += 5
            elif op == 0x28:  # MARK
                self.marks.append(len(stack))
                pos += 1
            elif op in _TUPLES:
                push(_sum(self.take(_TUPLES[op])))
                pos += 1
            elif op == 0x52:  # REDUCE
                args = stack.pop()
                if stack[-1] is not _GLOBAL or (args is not None and type(args) is not tuple):
                    raise IndexError
                stack[-1] = [2, 2, 1, _BUILT] if args is None else self.built(args)
                pos += 1
            elif op in _FILLERS:
                self.fill(*_FILLERS[op])
                pos += 1
            elif op in _EMPTY:
                push([1, 1, 1, _EMPTY[op]])
                pos += 1
            else:
                pos = self.rare(op, pos)
        return pos

    def rare(self, op: int, pos: int) -> int:
        """Read one of the opcodes that do not occur often; return where it ends."""
        data = self.data
        stack = self.stack
        if op == 0x74:  # TUPLE
            stack.append(_sum(self.take(0)))
        elif op == 0x93:  # STACK_GLOBAL
            if self.take(2) != [None, None]:
                raise IndexError
            stack.append(_GLOBAL)
        elif op == 0x95:  # FRAME
            return pos + 9
        elif op in _COUNTED_4:
            size = int(_u32(data, pos + 1)[0])
            stack.append(None if size < _LONG else size)
            return pos + 5 + size
        elif op in _COUNTED_8:
            size = int(_u64(data, pos + 1)[0])
            stack.append(None if size < _LONG else size)
            return pos + 9 + size
        elif op == 0x97:  # NEXT_BUFFER
            size = next(self.buffers, 0)
            stack.append(None if size < _LONG else size)
        elif op == 0x91:  # FROZENSET
            items = self.take(0)
            self.hash(items)
            stack.append(_sum(items))
        elif op == 0x30:  # POP
            self.take(1)
        elif op == 0x31:  # POP_MARK
            self.take(0)
        elif op != 0x98 or type(stack[-1]) not in _SCALARS:  # READONLY_BUFFER
            raise SerializationError(
                f"the pickle in the body has an opcode that is not allowed: {bytes([op])!r} "
                f"at byte {pos}"
            )
        return pos + 1

    def take(self, count: int) -> list[Any]:
        """Pop ``count`` values, or those above the mark and the mark."""
        stack = self.stack
        if count:
            start = len(stack) - count
            if start < (self.marks[-1] if self.marks else 0):
                raise IndexError
        else:
            start = self.marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    def fill(self, kind: str, count: int, hashed: int) -> None:
        values = self.take(count)
        target = self.stack[-1]
        if type(target) is not list or target[3] != kind:
            raise IndexError
        if hashed:
            self.hash(values[::hashed])
        cost, depth, size, _ = _sum(values)
        target[0] += cost
        target[2] += size
        if depth > target[1]:
            target[1] = depth

    def hash(self, keys: list[Any]) -> None:
        for key in keys:
            if type(key) not in _SCALARS:
                self.to_hash -= key[0]
                if self.to_hash < 0 or key[1] > _HASH_DEPTH:
                    raise SerializationError(
                        "the body has keys or set members that nest too deeply to be hashed"
                    )

    def built(self, args: tuple[int, int, int, int]) -> list[Any]:
        """Return what a builder makes of its arguments, each of which it may copy."""
        cost, depth, _, sizes = args
        self.to_copy -= sizes
        if self.to_copy < 0:
            raise SerializationError("the body has values that are copied too often")
        if depth > _BUILD_DEPTH:
            raise SerializationError("the body has values that nest too deeply")
        return [cost + 1, depth + 1, sizes, _BUILT]


_SCALARS = (type(None), int)


def _sum(values: list[Any]) -> tuple[int, int, int, int]:
    """Return what stands for a value that holds ``values``."""
    count = len(values)
    if values.count(None) == count:
        return count + 1, 1, count, count
    cost = 1
    depth = sizes = 0
    for value in values:
        if value is None:
            cost += 1
            sizes += 1
        elif type(value) is int:
            cost += 1
            sizes += value
        else:
            cost += value[0]
            sizes += value[2]
            if value[1] > depth:
                depth = value[1]
    return cost, depth + 1, count, sizes


def check(data: bytes, buffers: Sequence[int] = ()) -> None:
    """Raise unless ``data`` is a pickle that the encoder could have made.

    Args:
        data: the pickle.
        buffers: bytes of each of the buffers beside it.

    Raises:
        SerializationError: an opcode is not allowed, a length goes past the end, or
            loading it would take too much time, memory or stack.
    """
    end = len(data) - 1
    if end >= 3 and data[:2] == b"\x80\x05" and data[end] == 0x2E:
        walk = _Walk(data, buffers)
        try:
            if walk.run(2, end) == end and walk.stack:
                return
        except (IndexError, struct.error):
            pass  # an opcode finds too little before it, or too few bytes behind it
    raise SerializationError("the pickle in the body is malformed")
