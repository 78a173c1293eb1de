"""Both type checkers see the public API as ``user_code.py`` says, from outside the package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import streamipc

USER_CODE = Path(__file__).with_name("user_code.py")
PACKAGE = Path(streamipc.__file__).resolve().parent

SOURCES = [] if "site-packages" in PACKAGE.parts else [str(PACKAGE.parent)]
"""Where checkers find a package that is installed as editable; by itself they don't."""

WRONG = {
    number
    for number, line in enumerate(USER_CODE.read_text(encoding="utf-8").splitlines(), start=1)
    if line.endswith("# wrong")
}


@pytest.fixture
def user_code(tmp_path: Path) -> Path:
    """Copy the file out of this repository, so that no checker finds the sources beside it."""
    copy = tmp_path / USER_CODE.name
    copy.write_bytes(USER_CODE.read_bytes())
    return copy


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**os.environ, "MYPYPATH": os.pathsep.join(SOURCES)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def test_mypy_agrees(user_code: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed; the dev extra has it")
    options = ["--strict", "--no-error-summary", "--hide-error-context", "--no-color-output"]

    out = run("mypy", "--config-file=", *options, user_code.name, cwd=user_code.parent)

    places = re.findall(rf"^{re.escape(user_code.name)}:(\d+): error:", out, re.MULTILINE)
    assert {int(line) for line in places} == WRONG, out


def test_pyright_agrees(user_code: Path) -> None:
    pytest.importorskip("pyright", reason="pyright is not installed; the dev extra has it")
    settings = {"typeCheckingMode": "standard", "extraPaths": SOURCES}
    (user_code.parent / "pyrightconfig.json").write_text(json.dumps(settings))

    out = run("pyright", "--outputjson", "--pythonpath", sys.executable, cwd=user_code.parent)

    errors = [d for d in json.loads(out)["generalDiagnostics"] if d["severity"] == "error"]
    lines = {d["range"]["start"]["line"] + 1 for d in errors}
    assert lines == WRONG, "\n".join(
        f"{d['range']['start']['line'] + 1}: {d['message']}" for d in errors
    )
