"""Memory for large frames: which kind for which size, and who else sees it."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
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


def in_huge_pages(memory: memoryview) -> bool:
    """Tell whether the kernel was advised so: proc_pid_smaps(5)."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    inside = False
    for line in SMAPS.read_text().splitlines():
        if limits := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(limits[1], 16) <= address < int(limits[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError("the memory is not mapped")


has_huge_pages = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="only Linux has huge pages, and not every kernel of it",
)


@has_huge_pages
@pytest.mark.parametrize(("size", "huge"), [((8 << 20) - 1, False), (8 << 20, True)])
def test_from_eight_megabytes_on_pages_are_huge(size: int, huge: bool) -> None:
    assert in_huge_pages(reserve(size)) is huge


@has_huge_pages
def test_a_large_object_lies_in_huge_pages() -> None:
    memory = ReservedBytes(10_000_001)
    with memory.view[5_000_000:] as middle:
        assert in_huge_pages(middle)
    memory.view[-3:] = b"end"
    assert memory.take() == bytes(9_999_998) + b"end"


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
