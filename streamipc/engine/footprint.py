"""How much memory a message takes, with everything that it holds."""

from __future__ import annotations

import gc
import sys
from itertools import filterfalse
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

__all__ = ["ATOMS", "densest", "footprint"]

ATOMS = frozenset((str, bytes, bytearray, int, float, complex, bool, type(None)))
"""They hold nothing else."""

_PLAIN = frozenset((list, dict, set, tuple, frozenset))
"""They hold nothing but what :func:`gc.get_referents` tells."""

_SHARED = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
"""What belongs to the program, though a message refers to it."""

_CHUNK = 1 << 12
"""Objects looked at before the limit is, and among which one that occurs twice counts once."""


def footprint(value: object, limit: int, most_objects: int = sys.maxsize) -> int:
    """Return the bytes that ``value`` takes; stop once they are more than ``limit``.

    A list, a dict or the like that is referred to twice counts once. The rest may count again.
    Nothing of the value's own is called but ``__sizeof__`` of its types.

    Args:
        value: what to measure.
        limit: bytes from which on it does not matter how many.
        most_objects: for which to look, in rounds; where there are more, ``limit`` + 1 is returned.
    """
    total = 0
    seen: set[int] = set()
    chunks: list[list[object]] = [[value]]
    while chunks and total <= limit:
        chunk = chunks.pop()
        # There may be millions: loops that run in C, as far as can be.
        fresh = dict(zip(map(id, chunk), chunk, strict=True))
        kinds = set(map(type, chunk))
        compound: list[object] = []
        if not kinds <= ATOMS:
            for known in filter(seen.__contains__, tuple(fresh)):
                del fresh[known]
            compound = [one for one in fresh.values() if type(one) not in ATOMS]
            seen.update(map(id, compound))
        total += sum(map(sys.getsizeof, fresh.values()))
        if not kinds - ATOMS <= _PLAIN:
            total += _others(compound)
            compound = [one for one in compound if not _is_leaf(one)]
        found = gc.get_referents(*compound)
        most_objects -= len(found)
        if most_objects < 0:
            return limit + 1
        chunks += [found[i : i + _CHUNK] for i in range(0, len(found), _CHUNK)]
    return total


def _is_leaf(one: object) -> bool:
    """Tell whether it is not to be followed: it is the program's, or lies over memory."""
    return isinstance(one, _SHARED) or type(one) is memoryview or type(one).__module__ == "numpy"


def _others(compound: list[object]) -> int:
    """Return by how much more, or less, some objects count than Python says."""
    more = 0
    for one in filterfalse(lambda one: type(one) in _PLAIN, compound):
        if isinstance(one, _SHARED):
            more -= sys.getsizeof(one)
        elif _is_leaf(one):
            more += getattr(one, "nbytes", 0)
    return more


_DENSE = b"[]{}()R\x81\x85\x86\x87\x8f\x92"
"""Bytes with which a container begins, in JSON and in a pickle, or an object is made. The other
opcodes that make something (``t``, ``l``, ``d``, ``FROZENSET``) need one of these before them."""

_OTHERS = bytes(sorted({*range(256)} - {*_DENSE}))

_PIECE = 1 << 18
"""Bytes of a payload that are looked at together."""

_BY_DENSE, _BY_OTHER = 400, 24
"""Bytes of memory that come of one such byte, and of one other, at the most. Two of the former make
a deque (760); four of the latter a string with one letter that is not Latin (88)."""


def densest(payload: memoryview) -> int:
    """Return as how much memory a payload of JSON, or a pickle, can come out at the most.

    That takes a hundredth of the time to measure it, and is mostly a few times too much.
    """
    size = len(payload)
    if size <= _PIECE:  # copied, for memoryviews have no translate()
        dense = len(bytes(payload).translate(None, _OTHERS))
    else:
        dense = sum(
            len(bytes(payload[start : start + _PIECE]).translate(None, _OTHERS))
            for start in range(0, size, _PIECE)
        )
    return _BY_DENSE * dense + _BY_OTHER * (size - dense)
