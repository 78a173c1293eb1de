"""The arguments of a child process: what they may be, and what to say where they are wrong."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import IO, Any, Literal, Union

from .._signals import let_through

__all__ = ["Path", "StderrOption", "check_stderr", "checked_command", "explained"]

Path = Union[str, bytes, os.PathLike[str], os.PathLike[bytes]]

StderrOption = Union[Literal["forward"], None, int, IO[Any], Callable[[str], object]]
"""What becomes of a child's standard error; see ``start_process``."""

_STDERR = 'one of "forward", None, subprocess.PIPE, subprocess.DEVNULL, a file, a callable'


def checked_command(args: Any, shell: bool) -> Any:
    """Return the command as ``Popen`` takes it.

    Raises:
        ValueError: it is empty, or a list that the shell would drop most of.
        TypeError: it is none.
    """
    if isinstance(args, (str, bytes, os.PathLike)):
        command: Any = args
    else:
        try:
            command = list(args)
        except TypeError:
            raise TypeError(
                f"a command is a list, such as [sys.executable, 'child.py'], not {args!r}"
            ) from None
    if not command:
        raise ValueError("the command to start is empty")
    if shell and isinstance(command, list) and len(command) > 1 and os.name == "posix":
        raise ValueError(
            "with shell=True the command is one text: of a list the shell would run the first "
            "item alone. Leave shell=True out, or join the list by shlex.join()"
        )
    return command


def check_stderr(stderr: Any) -> None:
    """Raise if a child's standard error can't go where it is told to go.

    Raises:
        ValueError: it would go into the frames, or is a text that means nothing.
        TypeError: it is neither of the constants, a descriptor, a file, a callable.
    """
    if stderr is None or callable(stderr):
        return
    if isinstance(stderr, str):
        if stderr == "forward":
            return
        hint = "" if len(stderr.split()) != 1 else f"; for a file: stderr=open({stderr!r}, 'ab')"
        raise ValueError(f"stderr is {_STDERR}, not {stderr!r}{hint}")
    if isinstance(stderr, int) and not isinstance(stderr, bool):
        if stderr == subprocess.STDOUT:
            raise ValueError(
                "stderr=subprocess.STDOUT would put text between the bytes of the frames on the "
                'child\'s standard output: leave stderr out ("forward" passes it on to ours), or '
                "give a callable, which gets each line"
            )
        if stderr >= 0 or stderr in (subprocess.PIPE, subprocess.DEVNULL):
            return
        raise ValueError(f"stderr is {_STDERR}, not {stderr!r}")
    file: Any = stderr
    try:
        file.fileno()
    except Exception as error:
        let_through(error)
        raise TypeError(
            f"stderr is {_STDERR}; {type(stderr).__name__} has no file descriptor that a child "
            "could write to"
        ) from error


def explained(error: OSError, command: Any, shell: bool) -> OSError:
    """Return the error of a failed start, which says so if a whole command line was one name."""
    name = command[0] if isinstance(command, list) else command
    is_name = isinstance(name, (str, bytes)) and error.filename in (name, os.fsdecode(name))
    words = os.fsdecode(name).split() if is_name and not shell else []
    if len(words) < 2 or not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return error
    return type(error)(
        error.errno,
        f"{error.strerror}; a command is a list of its words, such as {words!r}, for no shell "
        "is there to take a text apart",
        error.filename,
    )
