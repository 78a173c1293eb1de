"""A wheel built from a clean tree installs into an empty environment and works there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BELONGS = ["LICENSE", "README.md", "pyproject.toml", "setup.cfg", "streamipc"]
"""All that a wheel is made of."""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build in a copy, so that nothing of an earlier build gets in and nothing is left here."""
    tree = tmp_path_factory.mktemp("tree")
    for name in BELONGS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, ".", cwd=tree)
    (built,) = out.glob("*.whl")
    return built


def test_a_wheel_installs_and_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    shutil.copytree(ROOT / "examples" / "hello", tmp_path / "hello")

    run(python, "-m", "pip", "install", "-q", wheel, cwd=tmp_path)

    assert run(python, "parent.py", cwd=tmp_path / "hello") == "Hello, Riki!\n"
    assert run(python, "-m", "pip", "check", cwd=tmp_path).startswith("No broken requirements")


def test_a_wheel_holds_the_package_its_type_marker_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        text = archive.read(metadata).decode()
    sources = {
        str(path.relative_to(ROOT).as_posix()) for path in (ROOT / "streamipc").rglob("*.py")
    }

    assert {name for name in names if ".dist-info/" not in name} == {
        *sources,
        "streamipc/py.typed",
    }
    assert any(name.endswith("LICENSE") for name in names)
    required = [line for line in text.splitlines() if line.startswith("Requires-Dist")]
    assert [line for line in required if "extra ==" not in line] == [
        "Requires-Dist: typing-extensions>=4.6"
    ]
    assert "Requires-Python: >=3.10" in text
