"""What a process uses, and whether that stays flat."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
import threading
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["ENOUGH", "ENOUGH_OF_MEMORY", "Usage", "growth", "keep_no_memory", "usage"]

ENOUGH = 8
"""Samples from which the growth of descriptors and threads is judged."""

ENOUGH_OF_MEMORY = 16
"""Samples from which the growth of memory is judged: first it is all warm-up."""

_SLACK = {
    "rss": (1.10, 16 << 20),
    "blocks": (1.05, 5_000),
    "descriptors": (1.0, 1),
    "threads": (1.0, 8),
}
"""Growth that is no leak: a factor, and so many on top. Memory is fragmented, and tables
grow to the size of the heaviest moment; descriptors and threads have no such excuse, but for
the one that the session that stays open gets when it first has to wait for room."""


class Usage(NamedTuple):
    """What one process uses at rest."""

    rss: int
    blocks: int
    descriptors: int
    threads: int


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""The parameters of mallopt(3) in glibc's ``malloc.h``."""

_KEPT = 128 << 10
"""Bytes: glibc's own first values of both."""


def keep_no_memory() -> None:
    """Have malloc(3) give memory back when it is free, where it is glibc's.

    Else it learns from large blocks to keep as much: in a process of many threads hundreds
    of megabytes, which go up and down for reasons that are not ours. Setting the thresholds,
    even to what they are, ends the learning.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _KEPT)


def usage() -> Usage:
    """Return what this process uses; what an allocator keeps for later is given back first."""
    gc.collect()
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
    return Usage(
        rss=_rss(),
        blocks=sys.getallocatedblocks(),
        descriptors=len(os.listdir("/proc/self/fd")) - 1,  # less the one that lists them
        threads=threading.active_count(),
    )


def growth(who: str, samples: Sequence[Usage]) -> list[str]:
    """Return a line for each thing of which a process uses more and more.

    The first quarter of the samples is warm-up for memory: the second is compared with the
    last. Of descriptors and threads even the least of the last quarter must have been
    there from the start, since threads come and go: there may be more by the handlers that run
    at the heaviest moment.
    """
    if len(samples) < ENOUGH:
        return []
    quarter = len(samples) // 4
    found = []
    for name, (factor, more) in _SLACK.items():
        values = [getattr(sample, name) for sample in samples]
        if name in ("rss", "blocks"):
            if len(samples) < ENOUGH_OF_MEMORY:
                continue
            before = statistics.median(values[quarter : 2 * quarter])
            after = statistics.median(values[-quarter:])
        else:
            before, after = max(values[: 2 * quarter]), min(values[-quarter:])
        if after > before * factor + more:
            found.append(f"{who}: {name} grew from {before:,.0f} to {after:,.0f}")
    return found


def _rss() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


_libc = ctypes.CDLL(None)
