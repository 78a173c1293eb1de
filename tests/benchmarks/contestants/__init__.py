"""The parent's half of each library, behind one interface: :class:`Caller`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["NUMBER", "TEXT", "Caller", "Opener", "check", "child_command"]

NUMBER, TEXT = 7, "a small message"
"""What every library sends; the reply is the number plus one, and the text."""

CHILDREN = Path(__file__).resolve().parent.parent / "children"


@dataclass
class Caller:
    """A child that answers small messages, and the ways to ask it.

    Args:
        pid: the child's process id.
        call: asks and waits, from the thread that opened it.
        make_call: makes a ``call`` for the thread that runs it; ``None``: can't be shared.
        submit: asks without waiting; ``None``: can't.
        collect: waits for what ``submit`` returned.
    """

    pid: int
    call: Callable[[], Any]
    make_call: Callable[[], Callable[[], Any]] | None = None
    submit: Callable[[int], Any] | None = None
    collect: Callable[[Any], Any] | None = None


Opener = Callable[[], AbstractContextManager[Caller]]


def child_command(name: str, *args: object) -> list[str]:
    """Return the command that runs a file of the folder ``children``."""
    return [sys.executable, os.fspath(CHILDREN / name), *map(str, args)]


def check(number: int, text: str) -> None:
    """Make sure that a reply is what it should be."""
    if (number, text) != (NUMBER + 1, TEXT):
        raise AssertionError(f"wrong reply: {number!r}, {text!r}")
