"""Memory for large frames: which kind for which size, and who else sees it."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamipc.protocol.memory import ReservedBytes, reserve

MEBIBYTE = 1 << 20
SMAPS = Path("/proc/self/smaps")


@pytest.mark.parametrize(
    ("size", "kind"),
    [(100_000, bytearray), (MEBIBYTE - 1, bytearray), (MEBIBYTE, mmap.mmap), (9 << 20, mmap.mmap)],
)
def test_from_a_megabyte_on_memory_is_mapped(size: int, kind: type) -> None:
    memory = reserve(size)

    assert type(memory.obj) is kind
    assert memory.nbytes == size
    memory[-4:] = b"last"
    assert bytes(memory[-5:]) == b"\0last"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_child_does_not_see_what_comes_later() -> None:
    memory = reserve(MEBIBYTE)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(memory[0])
    memory[0] = 7
    os.write(write, b"!")

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(read)
    os.close(write)


def mapping_of(memory: memoryview) -> tuple[int, int, bool]:
    """Return where the mapping begins and ends, and whether it is marked ``hg``: proc(5)."""
    address = address_of(memory)
    for line in SMAPS.read_text().splitlines():
        if limits := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = int(limits[1], 16), int(limits[2], 16)
        elif line.startswith("VmFlags:") and start <= address < end:
            return start, end, "hg" in line.split()
    raise AssertionError("the memory is not mapped")


def address_of(memory: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


needs_huge_pages = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="Linux alone has transparent huge pages, and not in every build",
)


@needs_huge_pages
@pytest.mark.parametrize(("size", "huge"), [((8 << 20) - 1, False), (8 << 20, True)])
def test_from_eight_megabytes_on_pages_are_huge(size: int, huge: bool) -> None:
    assert mapping_of(reserve(size))[2] is huge


@needs_huge_pages
def test_those_of_a_large_object_are_and_no_others_with_them() -> None:
    size = (256 << 20) + 4000  # no heap has so much to spare
    other = reserve(MEBIBYTE)  # Linux maps what comes next below it
    memory = ReservedBytes(size)
    address = address_of(memory.view)
    start, end, huge = mapping_of(memory.view[mmap.PAGESIZE :])

    assert huge
    assert start - mmap.PAGESIZE < address <= start
    assert address + size <= end < address + size + mmap.PAGESIZE
    assert not mapping_of(other)[2]


@needs_huge_pages
def test_the_heap_is_left_as_it_is() -> None:
    """Once such a size was freed, malloc(3) takes the next one from the heap."""
    for size in (8 << 20, 31 << 20, 32 << 20, 8 << 20):
        memory = ReservedBytes(size)
        assert not mapping_of(memory.view[mmap.PAGESIZE :])[2]
        memory.take()


HEAP_WITH_ROOM = """
from test_memory import ReservedBytes, address_of, mapping_of

bytes(31 << 20)  # what is smaller now comes from the heap
held = [bytes(20 << 20) for _ in range(2)]
del held
memory = ReservedBytes(33 << 20)
where = mapping_of(memory.view[1 << 12 :])
memory.take()
other = ReservedBytes(8 << 20)
assert where[0] < address_of(other.view) < where[1], "it was not in the heap"
print(where[2], mapping_of(other.view)[2])
"""


@needs_huge_pages
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others have other heaps")
def test_so_it_is_where_it_has_room_for_a_large_object() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAP_WITH_ROOM],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("False False\n", "")


def test_large_objects_leave_nothing_in_cycles() -> None:
    """A program may run without the garbage collector."""
    ReservedBytes(33 << 20).take()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            ReservedBytes(33 << 20).take()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_without_ctypes_they_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    memory = ReservedBytes(40_000_001)
    memory.view[:5] = b"start"
    assert memory.take() == b"start" + bytes(39_999_996)


@pytest.mark.parametrize("size", [MEBIBYTE, 8 << 20])
@pytest.mark.parametrize("missing", ["MADV_HUGEPAGE", "MAP_ANONYMOUS"])
def test_a_system_without_huge_pages_or_private_mappings_has_other_memory(
    missing: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(mmap, missing, raising=False)
    memory = reserve(size)

    assert type(memory.obj) is mmap.mmap
    assert memory.nbytes == size
    memory[-4:] = b"last"
    assert bytes(memory[-4:]) == b"last"


@pytest.mark.parametrize("size", [1, 1000, 9 << 20])
def test_reserved_bytes_become_bytes_and_stay_as_they_are(size: int) -> None:
    memory = ReservedBytes(size)
    assert memory.view.nbytes == size
    memory.view[-1:] = b"x"

    taken = memory.take()
    assert type(taken) is bytes
    assert taken == bytes(size - 1) + b"x"
    with pytest.raises(ValueError, match="released"):
        memory.view[0] = 1
