"""What Python's objects over standard input and output hold, and how they write.

The program may have put other objects in their place: wrapped them again for another
encoding, detached their buffers, or assigned something that is no file at all. What counts is
whether an object leads to fd 0 or 1.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any

from .._signals import Ignoring, let_through
from ._sigpipe import SigpipeHeldBack

__all__ = ["LineByLine", "check_open", "flush_output", "take_read_ahead"]


def check_open(fd: int, current: Any, original: Any, name: str) -> None:
    """Raise if a standard stream is closed.

    Args:
        fd: 0 or 1.
        current: such as ``sys.stdin``.
        original: such as ``sys.__stdin__``.
        name: for the error.

    Raises:
        OSError: it is.
    """
    # The original is None: it was closed when Python started, and its number may be another
    # file by now. Closing the object leaves the descriptor open.
    closed = original is None or (_is_closed(current) and _is_closed(original))
    if not closed:
        try:
            os.fstat(fd)
        except OSError as error:
            let_through(error)
            closed = True
    if closed:
        raise OSError(
            errno.EBADF, f"{name} (fd {fd}) is closed; start this process with a pipe there"
        )


def _is_closed(file: Any) -> bool:
    try:
        return bool(file.closed)
    except (AttributeError, ValueError):  # no file object; its buffer was detached
        return False


def _leads_to(fd: int, file: Any) -> bool:
    try:
        return bool(file.fileno() == fd)
    except Exception as error:  # there is none, it is closed, its buffer was detached
        let_through(error)
        return False


def _different(*things: Any) -> list[Any]:
    return list({id(thing): thing for thing in things}.values())


# Output.


def flush_output() -> None:
    """Write what was printed and is still held back."""
    for file in _different(sys.__stdout__, sys.stdout):
        # Not an io object, closed, detached, or the reader is gone: nothing to do about it here.
        with Ignoring(AttributeError, OSError, ValueError), SigpipeHeldBack():
            file.flush()


class LineByLine:
    """Has each line that is printed go out by itself, as on a terminal.

    Python holds back 8 KiB of what is printed into a pipe, which nobody sees meanwhile and
    which is lost if the process is killed. A line that is not complete is still held back, as
    it is on standard error.
    """

    def __init__(self) -> None:
        self._reconfigured: list[io.TextIOWrapper] = []
        self._writers: list[codecs.StreamWriter] = []

    def begin(self) -> None:
        """See to the objects that are in place now; may be called again for new ones."""
        for file in _different(sys.__stdout__, sys.stdout):
            if not _leads_to(1, file):
                continue
            if isinstance(file, io.TextIOWrapper):
                if not file.line_buffering and _set_line_buffering(file, True):
                    self._reconfigured.append(file)
            elif isinstance(file, codecs.StreamWriter) and "write" not in vars(file):
                file.write = _flushing(file)  # type: ignore[method-assign]
                self._writers.append(file)

    def end(self) -> None:
        """Have them write as before."""
        while self._reconfigured:
            _set_line_buffering(self._reconfigured.pop(), False)
        while self._writers:
            vars(self._writers.pop()).pop("write", None)


def _set_line_buffering(file: io.TextIOWrapper, value: bool) -> bool:
    try:
        file.reconfigure(line_buffering=value)
    except (OSError, ValueError) as error:  # its reader is gone, or it was detached since
        let_through(error)
        return False
    return True


def _flushing(writer: codecs.StreamWriter) -> Any:
    write = writer.write
    stream: Any = writer.stream

    def write_and_flush(text: str) -> None:
        write(text)
        if "\n" in text:
            stream.flush()

    return write_and_flush


# Input.


def take_read_ahead() -> bytes:
    """Take what objects have read ahead of fd 0, which must be the null device by now.

    So what has read nothing ahead gives nothing, and takes nothing from the stream.
    """
    files = [file for file in _different(sys.__stdin__, sys.stdin) if _leads_to(0, file)]
    # As text first: it came before what lies in the buffer below. What lies there must not be
    # decoded, so it is taken before.
    buffers = _different(*map(_buffer_of, files))
    below = [
        buffer.read(len(buffer.peek()))
        for buffer in buffers
        if isinstance(buffer, io.BufferedReader)
    ]
    texts = [_text_of(file) for file in files if isinstance(file, io.TextIOWrapper)]
    return b"".join(texts + below)


def _buffer_of(file: Any) -> Any:
    # A codecs.StreamReader has its own name for it; the file may be the buffer itself.
    return getattr(file, "buffer", getattr(file, "stream", file))


def _text_of(file: io.TextIOWrapper) -> bytes:
    """Take what was decoded and not yet read, as the bytes that it was.

    Those of a line's end may have been others, unless ``newline`` said to leave them alone.
    """
    text = ""
    undecoded = b""
    try:
        while character := file.read(1):
            text += character
    except UnicodeDecodeError as error:
        undecoded = error.object  # a character that is not complete yet
    except (OSError, ValueError) as error:
        let_through(error)
    try:
        return text.encode(file.encoding, file.errors or "strict") + undecoded
    except (LookupError, UnicodeError):
        return undecoded
