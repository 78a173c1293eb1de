"""Programs that start themselves without end, stopped with an error that says why.

A child that imports its parent's script, for the messages in it, runs that script. If the
script starts a child where every importer comes by, the child starts one too, and so on: a
chain of processes that outlives its root. So each child is told, by a variable in its
environment, whose module started it, and looks before it starts a child of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import FrameType
from zlib import crc32

from .._environment import ANSWERS_CANCELLED

__all__ = ["environment_of_child"]

_VARIABLE = "STREAMIPC_STARTED_BY"
"""How many ancestors there are, how many of them in a row are the same program with the same
arguments as this one's parent, a number for these, and the files of whoever started it."""

_MOST_GENERATIONS = 32

_MOST_OF_ONE_KIND = 3
"""Of a program that starts itself: it may tell by other means than its arguments which of
them is to start no more."""

_GUARD = """Put what starts children where an importer does not come by:

        if __name__ == "__main__":
            with IpcPeer().create_command_session(...) as session:
                ...

or into a function; or move the messages to a file of their own, which both sides import."""


def environment_of_child(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return a child's environment, which tells it who started it.

    Args:
        env: what it is to be otherwise; ``None``: ours.

    Raises:
        RuntimeError: this process has no end of children, grandchildren and so on.
    """
    generation, alike, kind, files = _inherited()
    _check_importing(files)
    me = _kind()
    alike = alike + 1 if kind == me else 0
    if alike >= _MOST_OF_ONE_KIND:
        raise RuntimeError(
            f"{_main_file() or 'this program'} was started by itself, with the same arguments, "
            f"{alike} times in a row, and starts a child again: this would go on without end. "
            "Give the child an argument of its own by which it knows that it is to serve, or put "
            "the child in a file of its own"
        )
    if generation >= _MOST_GENERATIONS:
        raise RuntimeError(
            f"this process has {generation} ancestors, each started by the one before through "
            "streamipc, and starts a child again: this looks as if it went on without end"
        )
    value = os.pathsep.join([str(generation + 1), str(alike), str(me), *_starting_files()])
    if env is None:
        env = {name: text for name, text in os.environ.items() if name != ANSWERS_CANCELLED}
    return {**env, _VARIABLE: value}


def _inherited() -> tuple[int, int, int, list[str]]:
    try:
        generation, alike, kind, *files = os.environ[_VARIABLE].split(os.pathsep)
        return int(generation), int(alike), int(kind), files
    except (KeyError, ValueError):
        return 0, 0, -1, []


def _check_importing(files: list[str]) -> None:
    """Raise if what starts a child here is the import of what has started this process."""
    frame = _importing()
    if frame is not None:
        modules = [frame.f_globals]
    else:  # a thread, which is likely to have been started by an import that is going on
        modules = [vars(module) for module in list(sys.modules.values()) if _is_on_its_way(module)]
    for module in modules if files else ():
        name, file = module.get("__name__"), _file_of(module)
        # The same script as a program is another matter: it has its arguments.
        if name != "__main__" and file in files:
            raise RuntimeError(
                f"this process was started by {file}, and is importing that file now, as "
                f"{name!r}: to start a child from here would go on without end.\n\n{_GUARD}"
            )


def _is_on_its_way(module: object) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _starting_files() -> list[str]:
    """Return the files that must not start a child of the child by being imported."""
    frame = _importing()
    files = {_main_file(), "" if frame is None else _file_of(frame.f_globals)}
    return sorted(file for file in files if file)


def _importing() -> FrameType | None:
    """Return the innermost module, main script included, that is being run by this thread."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame


def _file_of(module: Mapping[str, object]) -> str:
    file = module.get("__file__")
    return os.path.realpath(file) if isinstance(file, str) else ""


def _main_file() -> str:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.realpath(file) if isinstance(file, str) else ""


def _kind() -> int:
    """Return a number for this program and its arguments."""
    main = _main_file()
    # One that is given by -c, or has a main program that is not in Python, is its command.
    words = [main, *getattr(sys, "argv", [])[1:]] if main else sys.orig_argv[1:]
    return crc32("\0".join(words).encode("utf-8", "backslashreplace"))
