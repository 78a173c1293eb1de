"""A terminal as standard input: typed by hand, as a rule, and somebody sits before it.

A program may hold the other side (``ssh -tt``, :func:`pty.fork`), and nothing tells the two
apart until it writes: frames begin with bytes that nobody types. Until then the keys mean
what they mean in every program.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from .._signals import Ignoring, let_through

__all__ = ["Keys", "is_by_hand", "is_in_foreground", "say_what_this_is"]

FRAME = b"\xf3\x4a\x9d\xe2"
"""What frames begin with; see ``protocol/framing.py``."""


def is_by_hand(fd: int) -> bool:
    """Tell whether somebody may be pressing keys there for this process."""
    try:
        # The kernel answers that for one's own terminal alone, and for the master side of any.
        group = os.tcgetpgrp(fd)
        if group <= 0 or os.getsid(group) != os.getsid(0):
            return False
        import termios

        # A program on the other side that knows what it does has seen to raw mode itself.
        return bool(termios.tcgetattr(fd)[3] & (termios.ICANON | termios.ISIG))
    except Exception as error:  # none; Windows has neither
        let_through(error)
        return False


def is_in_foreground(fd: int) -> bool:
    """Tell whether this process may change its terminal, and read from it."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError as error:
        let_through(error)
        return False


def say_what_this_is() -> None:
    """Say on standard error how this program is meant to be started."""
    name, arguments = _program()
    text = (
        f"{name} is the child's side of a streamipc session: by standard input and output it "
        "talks to the program that starts it, and here that is a terminal. Start it from that "
        f"program:\n\n    IpcPeer().create_command_session([sys.executable, {arguments}])\n\n"
        "Ctrl-C or Ctrl-D ends it.\n"
    )
    with Ignoring(Exception):  # there is nobody to tell
        sys.stderr.write(text)
        sys.stderr.flush()


def _program() -> tuple[str, str]:
    """Return this program's name, and how it stands in a list of arguments."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None:
        module = spec.name.removesuffix(".__main__")
        return module, f'"-m", "{module}"'
    path = sys.argv[0] if sys.argv else ""
    if path in ("", "-c", "-"):
        return "This program", "..."
    return os.path.basename(path), f'"{path}"'


class Keys:
    """Finds in what was typed the keys that stand for signals, and for the end.

    Args:
        fd: the terminal, before it is put into raw mode.
    """

    def __init__(self, fd: int) -> None:
        import termios

        characters: list[Any] = termios.tcgetattr(fd)[6]
        self._signals = {
            characters[termios.VINTR]: signal.SIGINT,
            characters[termios.VQUIT]: signal.SIGQUIT,
            characters[termios.VSUSP]: signal.SIGTSTP,
        }
        self._end = characters[termios.VEOF]
        self._last = b""

    def pressed(self, data: bytes) -> int | None:
        """Return the signal that the first such key stands for.

        Returns:
            0: the key for the end; ``None``: there is none, and ``-1``: nor will there be,
            because it is a program that writes.
        """
        recent = self._last + data
        if FRAME in recent:
            return -1
        self._last = recent[1 - len(FRAME) :]
        for number in data:
            key = bytes((number,))
            if key == b"\0":  # a key that is switched off is said to be this one
                continue
            if key in self._signals:
                return int(self._signals[key])
            if key == self._end:
                return 0
        return None
