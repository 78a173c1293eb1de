"""What a process imports: no more than its messages need, or starting it takes long."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typing_extensions

import streamipc

FOLDERS = [
    Path(file).resolve().parent for file in (streamipc.__path__[0], typing_extensions.__file__)
]

HEAVY = {
    "asyncio",
    "datetime",
    "decimal",
    "json",
    "multiprocessing",
    "pathlib",
    "pickle",
    "queue",
    "random",
    "shlex",
    "socket",
    "tempfile",
    "uuid",
    "streamipc.engine.progress",
    "streamipc.engine.caller_runs",
    "streamipc.serializers._native_values",
    "streamipc.serializers.json",
    "streamipc.sync",
    "streamipc.transports.process",
    "streamipc.transports.streams",
}
"""What takes long to import, or is for others. A module on this list that turns out to be
needed for the first message may leave it, with its price in the commit message."""

if sys.version_info >= (3, 11):
    HEAVY.add("typing_extensions")  # before, it has what typing lacks

TOO_MUCH_FOR_A_PARENT = HEAVY - {"shlex", "streamipc.transports.process"}

COMMAND = [sys.executable, "-S"]
"""Without site, and the packages that it imports in some installations."""

MESSAGES = """
from streamipc import Message, Request

class Loaded(Message, wire_name="tests.imports.Loaded"):
    names: str
    count: int = 0

class Ask(Request[Loaded], wire_name="tests.imports.Ask"):
    what: str
"""

CHILD = """
import sys
from messages import Ask, Loaded
from streamipc import IpcPeer

session = IpcPeer().create_stdio_session()

@session.on_request
def loaded(msg: Ask) -> Loaded:
    return Loaded(" ".join(sys.modules))

session.serve_forever()
"""

PARENT = """
import sys
from messages import Ask
from streamipc import IpcPeer

with IpcPeer().create_command_session([sys.executable, "-S", "child.py"]) as session:
    reply = session.request(Ask("x")).result(60)
print(reply.names)
print(" ".join(sys.modules))
"""


IN_THE_FIRST_REQUEST = """
import sys
from messages import Ask
from streamipc import IpcPeer

with IpcPeer().create_command_session([sys.executable, "-S", "child.py"]) as session:
    session.start()
    before = {*sys.modules}
    session.request(Ask("x")).result(60)
    print(*{*sys.modules} - before)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "messages.py").write_text(MESSAGES)
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "parent.py").write_text(PARENT)
    return tmp_path


def output_of(folder: Path, *arguments: str) -> list[str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, FOLDERS))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_importing_the_package_imports_typing_and_nothing_else(tmp_path: Path) -> None:
    program = (
        "import atexit, sys, typing; old = {*sys.modules}; import streamipc;"
        "print(*{*sys.modules} - old)"
    )

    (names,) = output_of(tmp_path, "-c", program)

    assert {*names.split()} <= {"streamipc", "__future__"}


def test_a_child_and_its_parent_import_what_a_request_needs(folder: Path) -> None:
    in_child, in_parent = output_of(folder, "parent.py")

    assert {*in_child.split()} & HEAVY == set()
    assert {*in_parent.split()} & TOO_MUCH_FOR_A_PARENT == set()
    assert "streamipc.engine.engine" in in_child.split()
    assert "concurrent.futures" in in_parent.split()


def test_the_first_request_to_a_child_imports_nothing_that_ctrl_c_could_interrupt(
    folder: Path,
) -> None:
    (folder / "first.py").write_text(IN_THE_FIRST_REQUEST)

    (names,) = output_of(folder, "first.py")

    assert names.split() == []


def test_every_public_name_is_there_and_listed(tmp_path: Path) -> None:
    program = (
        "import streamipc; missing = [n for n in streamipc.__all__ if n not in dir(streamipc)];"
        "from streamipc import *; print(missing, IpcPeer.__name__, Stats.__name__)"
    )

    assert output_of(tmp_path, "-c", program) == ["[] IpcPeer Stats"]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'streamipc' has no attribute 'Nothing'"):
        streamipc.Nothing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        from streamipc import Nothing  # type: ignore[attr-defined]  # noqa: F401


def test_dir_names_all_that_is_public_whether_or_not_it_was_used() -> None:
    assert set(streamipc.__all__) <= set(dir(streamipc))
