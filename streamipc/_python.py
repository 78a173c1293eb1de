"""Which program to start for a child in Python: ``sys.executable`` is not always one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

__all__ = ["python_command"]

_INTERPRETERS = ("python", "pypy", "graalpy")

_SUFFIXES = ("-dbg", "-debug", "-intel64")


def python_command(*args: str | os.PathLike[str]) -> list[str]:
    """Return the command that runs Python, of this very environment, with these arguments.

    ::

        session = IpcPeer().create_command_session(python_command("-m", "shop.words"))

    In a script that is ``[sys.executable, *args]``. In uWSGI, mod_wsgi and other programs
    that hold an interpreter, ``sys.executable`` is that program, which would start once more,
    or nothing. Then the interpreter is looked for where this environment (``sys.prefix``) has
    its own. Nothing is run to find it.

    Args:
        args: what follows the interpreter: options, a script, its arguments.

    Raises:
        FileNotFoundError: there is no interpreter where one should be.
        RuntimeError: the program is frozen (PyInstaller and the like), and has none.
        TypeError: an argument is no text and no path.
    """
    words = [os.fspath(arg) for arg in args]
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f"arguments of a command are str or paths, not {word!r}")
    return [_interpreter(), *words]


def _interpreter() -> str:
    if getattr(sys, "frozen", False):
        raise RuntimeError(
            f"this program is frozen, so sys.executable ({sys.executable}) is the program itself, "
            "and there is no interpreter to run another script with: ship one, and name it in "
            "the command; or have the program serve when it is started with an argument of its own"
        )
    tried = []
    for path in _candidates():
        if path not in tried:
            tried.append(path)
            if os.path.isfile(path) and os.access(path, os.X_OK) and _may_be_ours(path):
                return path
    raise FileNotFoundError(
        f"no Python interpreter of this environment was found: sys.executable is "
        f"{sys.executable!r}, which is none, and there is none among {', '.join(tried)}. "
        "Name it in the command yourself"
    )


def _candidates() -> Iterator[str]:
    """Yield where the interpreter may be, best first."""
    in_venv = sys.prefix != sys.base_prefix
    own = sys.executable or ""
    # Programs that hold an interpreter are known to guess one of the system's instead of the
    # one whose packages are imported here.
    if _is_python(own) and not (in_venv and not _is_below(own, sys.prefix)):
        yield own
    yield from _of_folders([sys.prefix, sys.exec_prefix])
    if in_venv:
        return  # the base of a virtual environment would run, and not find its packages
    base = getattr(sys, "_base_executable", None) or ""
    if _is_python(base):
        yield base
    import sysconfig

    bindir = sysconfig.get_config_var("BINDIR")
    if bindir:
        yield from _of_folders([os.path.dirname(bindir)])


def _of_folders(prefixes: list[str]) -> Iterator[str]:
    major, minor = sys.version_info[:2]
    flags = getattr(sys, "abiflags", "")
    names = (f"python{major}.{minor}{flags}", f"python{major}.{minor}", f"python{major}", "python")
    for prefix in prefixes:
        if os.name == "nt":  # pragma: no cover - Windows
            yield os.path.join(prefix, "Scripts", "python.exe")
            yield os.path.join(prefix, "python.exe")
        else:
            yield from (os.path.join(prefix, "bin", name) for name in names)


def _is_python(path: str) -> bool:
    """Tell by its name whether a program is an interpreter."""
    name = os.path.basename(path).lower().removesuffix(".exe")
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return any(
        name.startswith(one) and not name[len(one) :].strip("0123456789.dmtuw")
        for one in _INTERPRETERS
    )


def _may_be_ours(path: str) -> bool:
    """Tell whether nothing speaks against it: ``python3`` may be of another version."""
    major, minor = sys.version_info[:2]
    name = os.path.basename(os.path.realpath(path)).lower()
    said = name.removeprefix("python").removesuffix(".exe").strip("dmtuw")
    if not name.startswith("python") or "." not in said:
        return True  # it does not say
    return said.split(".")[:2] == [str(major), str(minor)]


def _is_below(path: str, folder: str) -> bool:
    return os.path.abspath(path).startswith(os.path.join(os.path.abspath(folder), ""))
