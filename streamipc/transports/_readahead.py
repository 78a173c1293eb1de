"""What a buffered file object holds besides its descriptor, taken out of it.

Whoever goes on with the bare descriptor must first take the bytes that the object has
already read, and have it write those that it has not written yet.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from .._signals import let_through
from ._sigpipe import SigpipeHeldBack

__all__ = ["flush_pending", "raw_of_pair", "take_read_ahead"]


def take_read_ahead(file: object) -> bytes:
    """Take the bytes that a buffered reader has read ahead; never blocks.

    Windows has no way to ask without blocking before Python 3.12; there the bytes stay
    in the object.
    """
    raw: Any
    if isinstance(file, io.BufferedReader):
        raw = file.raw
    elif isinstance(file, io.BufferedRWPair):
        raw = raw_of_pair(file, writer=False)
    else:
        return b""
    # peek() reads from the file when the buffer is empty, and nothing tells whether it
    # is; so the file must not block meanwhile.
    try:
        restore = _stop_blocking(raw)
    except (AttributeError, OSError) as error:  # pragma: no cover - Windows
        let_through(error)
        return b""
    try:
        return file.read(len(file.peek()))
    except OSError as error:
        let_through(error)
        return b""  # the stream is broken: the next read from the descriptor says so
    finally:
        restore()


def raw_of_pair(pair: io.BufferedRWPair, writer: bool) -> Any:
    """Find the unbuffered object below a pair, such as ``makefile("rwb")``, or ``None``.

    The pair hides what it is made of, and is of little use without: a read through it
    can't be ended by closing it.
    """
    if sys.version_info < (3, 12):  # pragma: no cover - Python 3.10 and 3.11
        return _raw_seen_at_work(pair, writer)
    import gc

    wanted = io.BufferedWriter if writer else io.BufferedReader
    # Not through `type(pair)` or its dict, which are among the referents too.
    raws = [part.raw for part in gc.get_referents(pair) if type(part) is wanted]
    return raws[0] if raws else None


def _raw_seen_at_work(
    pair: io.BufferedRWPair, writer: bool
) -> Any:  # pragma: no cover - Python 3.10 and 3.11
    """See which object's method the pair calls, if that is one written in Python.

    Before Python 3.12 a pair does not show its parts to the garbage collector either.
    """
    if sys.getprofile() is not None:
        return None  # a profiler is at work, and can't be put back by its object
    seen: list[Any] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not seen:
            seen.append(frame.f_locals.get("self"))

    sys.setprofile(profile)
    try:
        _ = pair.writable() if writer else pair.readable()
    finally:
        sys.setprofile(None)
    return seen[0] if seen and isinstance(seen[0], io.RawIOBase) else None


def _stop_blocking(raw: Any) -> Callable[[], object]:
    """Make ``raw`` non-blocking; return what undoes it."""
    sock = getattr(raw, "_sock", None)
    if sock is not None:
        # A socket object waits for its timeout itself, whatever the descriptor says.
        timeout = sock.gettimeout()
        sock.settimeout(0)
        return lambda: sock.settimeout(timeout)
    fd = raw.fileno()
    blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    return lambda: os.set_blocking(fd, blocking)


def flush_pending(file: object) -> None:
    """Have a buffered writer write what it holds, waiting while its file is full.

    Raises:
        OSError: the other side is gone.
    """
    if not isinstance(file, (io.BufferedWriter, io.BufferedRandom, io.BufferedRWPair)):
        return
    while True:
        try:
            with SigpipeHeldBack():
                file.flush()
        except BlockingIOError:
            if isinstance(file, io.BufferedRWPair):
                _wait_writable(raw_of_pair(file, writer=True).fileno())
            else:
                _wait_writable(file.fileno())
        else:
            return


def _wait_writable(fd: int) -> None:
    import select

    select.select((), (fd,), ())
