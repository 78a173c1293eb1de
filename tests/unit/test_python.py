"""The interpreter of this environment, whatever program holds it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import streamipc
from streamipc import python_command

HOME = Path(streamipc.__file__).resolve().parent.parent

posix = pytest.mark.skipif(os.name != "posix", reason="links and bin/ are those of POSIX")


def test_a_script_gets_the_interpreter_that_runs_it() -> None:
    assert python_command() == [sys.executable]
    assert python_command("-m", "shop.words") == [sys.executable, "-m", "shop.words"]


def test_arguments_may_be_paths(tmp_path: Path) -> None:
    assert python_command(tmp_path / "child.py", "x") == [
        sys.executable,
        str(tmp_path / "child.py"),
        "x",
    ]


@pytest.mark.parametrize("argument", [7, None, b"child.py", ["child.py"]])
def test_an_argument_that_is_neither_is_refused(argument: object) -> None:
    with pytest.raises(TypeError):
        python_command(argument)  # type: ignore[arg-type]


@posix
@pytest.mark.parametrize(
    "held_by",
    ["/usr/local/bin/uwsgi", "/usr/sbin/apache2", "/usr/bin/vim", "/opt/python-server", "", None],
)
def test_a_program_that_holds_an_interpreter_is_not_started_again(
    held_by: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", held_by)
    monkeypatch.setattr(sys, "_base_executable", held_by)

    command = python_command("-c", "import sys; print(sys.prefix, *sys.version_info[:2])")

    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [sys.prefix, *map(str, sys.version_info[:2])]


@posix
@pytest.mark.parametrize("executable", ["bin/uwsgi", "/usr/bin/python3", ""])
def test_it_is_the_virtual_environments_own(tmp_path: Path, executable: str) -> None:
    venv = tmp_path / "venv"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60
    )
    source = f"""
import sys
sys.path.append({str(HOME)!r})
sys.executable = {executable and str(venv / executable)!r}
from streamipc import python_command
print(*python_command("-c", "import sys; print(sys.prefix)"), sep="\\n")
"""
    told = subprocess.run(
        [str(venv / "bin" / "python"), "-c", source],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    done = subprocess.run(told.stdout.splitlines(), capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(venv)


@posix
@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("python", True),
        ("python3", True),
        ("python3.13t", True),
        ("python3.11-dbg", True),
        ("Python", True),
        ("pythonw.exe", True),
        ("pypy3.10", True),
        ("uwsgi", False),
        ("uwsgi-python3", False),
        ("python-launcher", False),
        ("pythonservice.exe", False),
        ("", False),
    ],
)
def test_an_interpreter_is_known_by_its_name(name: str, is_one: bool) -> None:
    from streamipc._python import _is_python

    assert _is_python(f"/usr/bin/{name}") is is_one


@posix
def test_an_interpreter_of_another_version_is_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    other = folder / "python2.7"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    (folder / "python3").symlink_to(other)
    (folder / "python").write_text("#!/bin/sh\n")
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))

    assert python_command() == [str(folder / "python")]


@posix
@pytest.mark.parametrize("known_as", ["_base_executable", "BINDIR"])
def test_without_a_virtual_environment_it_may_be_where_python_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known_as: str
) -> None:
    """Such as of a program with a folder of its own for the standard library."""
    folder = tmp_path / "installed" / "bin"
    folder.mkdir(parents=True)
    python = folder / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    for name in ("prefix", "exec_prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    is_base = known_as == "_base_executable"
    monkeypatch.setattr(sys, "_base_executable", str(python) if is_base else None, raising=False)
    monkeypatch.setattr(sysconfig, "get_config_var", {"BINDIR": "" if is_base else str(folder)}.get)

    assert python_command() == [str(python)]

    python.unlink()
    with pytest.raises(FileNotFoundError, match="no Python interpreter of this environment"):
        python_command()


@posix
def test_where_there_is_none_the_error_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))

    with pytest.raises(FileNotFoundError) as caught:
        python_command("child.py")
    assert "'/usr/bin/uwsgi'" in str(caught.value)
    assert str(tmp_path / "bin" / "python") in str(caught.value)


def test_a_frozen_program_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)

    with pytest.raises(RuntimeError, match="this program is frozen"):
        python_command("child.py")
