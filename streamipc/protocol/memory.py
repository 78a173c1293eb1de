"""Memory for a frame that is too large for the shared buffer.

A peer can announce any size, so what is asked for here is only reserved: the system backs
it page by page as bytes arrive.
"""

from __future__ import annotations

import functools
import io
import sys
from typing import Any

from .._signals import let_through

__all__ = ["ReservedBytes", "reserve"]

_RESERVE_LIMIT = 1 << 20
"""Bytes from which on memory for a frame is only reserved."""

_HUGE_PAGES_FROM = 8 << 20
"""Bytes from which on memory is asked for in huge pages (madvise(2)): handing over 64 MiB in
pages of 4 KiB takes the kernel longer than copying them. What is backed is then up to 2 MiB
more than has arrived."""

_MAPPED_BEYOND = 32 << 20
"""Bytes above which malloc(3) gives memory a mapping of its own, whatever was freed before
(``DEFAULT_MMAP_THRESHOLD_MAX`` of glibc, mallopt(3), with 64 bits), unless the heap has room for
it. Memory that is part of the heap gets no advice about huge pages: the heap would keep it when the
object is long gone, and grow by what nobody uses."""

_IS_MMAPPED = 2
"""The bit that says so in the size that glibc's malloc(3) notes in front of what it returns."""


def reserve(size: int) -> memoryview:
    """Return writable memory of ``size`` bytes.

    From a megabyte on it is an anonymous mapping, in which nothing has to be cleared first.

    Raises:
        MemoryError, OSError: there is none.
        ImportError: nor a descriptor, to load what makes a mapping.
    """
    if size < _RESERVE_LIMIT:
        return memoryview(bytearray(size))
    import mmap

    if not hasattr(mmap, "MAP_ANONYMOUS"):  # pragma: no cover - Windows
        return memoryview(mmap.mmap(-1, size))
    # Private: the default, shared memory, would have a forked child see what comes later.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _HUGE_PAGES_FROM and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError as error:
            let_through(error)  # or it is a kernel without them
    return memoryview(memory)


class ReservedBytes:
    """Memory that becomes a ``bytes`` object without being copied.

    ``bytes(size)`` comes from calloc(3), which maps a large size without touching it, and a
    ``BytesIO`` that is the only owner of such an object writes into it and gives it back as
    it is. That is how CPython does it; elsewhere it is right too, and a copy slower.

    Args:
        size: bytes.

    Attributes:
        view: to be written through; all views of it must be released before :meth:`take`.
    """

    __slots__ = ("_file", "view")

    def __init__(self, size: int) -> None:
        self._file = io.BytesIO(bytes(size))
        self.view = self._file.getbuffer()
        if size > _MAPPED_BEYOND:
            _ask_for_huge_pages(self.view)

    def take(self) -> bytes:
        """Return the object; nothing can be written any more."""
        self.view.release()
        return self._file.getvalue()


_HEADER = sys.getsizeof(b"") - 1
"""Bytes of a ``bytes`` object in front of what it holds; a null byte follows that."""


def _ask_for_huge_pages(view: memoryview) -> None:
    """Advise the system about memory that Python has mapped, where there is a way to."""
    try:
        import ctypes
        import mmap

        if not hasattr(mmap, "MADV_HUGEPAGE"):  # pragma: no cover - Linux alone has it
            return
        start = ctypes.addressof(ctypes.c_char.from_buffer(view))
        word = ctypes.sizeof(ctypes.c_size_t)
        allocated = start - _HEADER
        # Then two words, at the start of a page, are in front of it. Elsewhere, and in a Python
        # that checks its memory, it is not to be told.
        if allocated % mmap.PAGESIZE != 2 * word:
            return
        if not ctypes.c_size_t.from_address(allocated - word).value & _IS_MMAPPED:
            return
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        _libc().madvise(
            ctypes.c_void_p(first),
            ctypes.c_size_t(start + len(view) - first),
            ctypes.c_int(mmap.MADV_HUGEPAGE),
        )
    except Exception as error:
        # Or it is a Python without ctypes, or one that forbids it: slower, and nothing else.
        let_through(error)


@functools.cache
def _libc() -> Any:
    """Return the C library: each time that it is opened makes a class, which is a cycle."""
    import ctypes

    return ctypes.CDLL(None)
