"""Wheel and source distribution, built from a clean tree, hold what they should and work."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BELONGS = [
    *(".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "examples"),
    *("pyproject.toml", "setup.cfg", "streamipc", "tests"),
]
"""All that a clone has."""


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
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy all, so that nothing of an earlier build gets in and nothing is left here."""
    tree = tmp_path_factory.mktemp("tree")
    for name in BELONGS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, ".", cwd=tree)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a source distribution; return the folder that it is when it is unpacked."""
    out = tmp_path_factory.mktemp("sdist")
    # What pip and build do, in an environment that holds what the build asks for.
    python = tmp_path_factory.mktemp("builder") / "bin" / "python"
    run(sys.executable, "-m", "venv", python.parent.parent, cwd=out)
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (requires,) = re.findall(r"^requires = \[(.*)\]$", settings, re.MULTILINE)
    requirements = [part.strip(' "') for part in requires.split(",")]
    run(python, "-m", "pip", "install", "-q", *requirements, cwd=out)
    call = (
        f"import sys; sys.path.insert(0, '.ci'); import backend; backend.build_sdist({str(out)!r})"
    )
    run(python, "-c", call, cwd=tree)
    (built,) = out.glob("*.tar.gz")
    run("tar", "-xf", built, cwd=out)
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    return folder


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


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_a_source_distribution_holds_all_that_a_clone_does(sdist: Path, tree: Path) -> None:
    generated = {"PKG-INFO", *(name for name in files(sdist) if ".egg-info/" in name)}
    # A build of the wheel may have left more in the folder.
    belongs = {name for name in files(tree) if name.partition("/")[0] in BELONGS}

    assert files(sdist) - generated == belongs
    if (ROOT / ".git").exists():
        git = ["git", "-c", "safe.directory=*", "ls-files"]
        assert set(run(*git, cwd=ROOT).splitlines()) <= files(sdist)


def test_the_first_command_of_the_readme_works_in_a_source_distribution(sdist: Path) -> None:
    readme = (sdist / "README.md").read_text(encoding="utf-8")
    command = re.search(r"<!-- command: hello -->\n```sh\n(.*?)```", readme, re.DOTALL)
    assert command is not None
    text = command[1].replace("python3", sys.executable)

    assert run("sh", "-c", text, cwd=sdist).endswith("Hello, Riki!\n")
