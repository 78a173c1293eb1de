"""What the gate, .ci/run, takes for a flaky test and what for a broken one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AGAIN = ROOT / ".ci" / "again.py"

FLAKY = """
    import pathlib, pytest

    def flaky(name, failures=1):
        file = pathlib.Path(name)
        times = len(file.read_text()) if file.exists() else 0
        file.write_text("x" * (times + 1))
        assert times >= failures, "not yet"
"""

Judge = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def judge(script: Callable[..., list[str]], tmp_path: Path) -> Judge:
    """Run tests as the gate does, have those judged that failed."""

    def run(source: str) -> subprocess.CompletedProcess[str]:
        script(FLAKY + source, name="test_it.py")
        pytest_ = [sys.executable, "-m", "pytest", "--timeout=20"]
        with open(tmp_path / "log", "w") as log:
            status = subprocess.run(
                [*pytest_, "-o", f"cache_dir={tmp_path}/cache"], cwd=tmp_path, stdout=log
            ).returncode
        return subprocess.run(
            [sys.executable, AGAIN, str(status), tmp_path / "log", tmp_path / "cache", *pytest_],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=280,
        )

    return run


def test_one_that_passes_twice_alone_is_flaky_whatever_its_name(judge: Judge) -> None:
    done = judge("""
    @pytest.mark.parametrize("name", ["a b", "x::[y] - 1"])
    def test_names(name):
        flaky(name.replace("::", "-"))

    @pytest.fixture
    def left_behind():
        yield
        flaky("left")

    def test_end(left_behind):
        pass

    def test_good():
        pass
    """)
    assert done.returncode == 0, done
    assert done.stdout.splitlines() == [
        "FLAKY: test_it.py::test_end",
        "FLAKY: test_it.py::test_names[a b]",
        "FLAKY: test_it.py::test_names[x::[y] - 1]",
    ]


BROKEN = {
    "failed again, alone, time 1": """
    def test_it():
        flaky("it")

    def test_wrong():
        assert False
    """,
    "failed again, alone, time 2": """
    def test_it():
        file = pathlib.Path("times")
        file.write_text((file.read_text() if file.exists() else "") + "x")
        assert len(file.read_text()) == 2
    """,
    "failed again, alone, time 1: test_it.py::test_skips": """
    def test_skips():
        if pathlib.Path("failed").exists():
            pytest.skip("not now")
        pathlib.Path("failed").touch()
        assert False
    """,
    "a test hung": """
    @pytest.mark.timeout(0.2)
    def test_it():
        import threading
        if not pathlib.Path("hung").exists():
            pathlib.Path("hung").touch()
            threading.Event().wait()
    """,
    "the tests ended with status 2": """
    import there_is_no_such_module

    def test_it():
        pass
    """,
    "the tests ended with status -6": """
    def test_it():
        flaky("it")

    def test_crash():
        import os
        os.abort()
    """,
    "too many to be flaky": """
    @pytest.mark.parametrize("number", range(11))
    def test_it(number):
        flaky(str(number))
    """,
}


@pytest.mark.parametrize("reason", BROKEN)
def test_anything_else_fails(judge: Judge, reason: str) -> None:
    done = judge(BROKEN[reason])
    assert done.returncode == 1, done
    assert reason in done.stdout.splitlines()[-1], done


def test_the_versions_that_the_gate_tests_are_those_that_the_package_claims() -> None:
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    claims = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    versions = re.search(r"^versions=\((.*)\)$", gate, re.MULTILINE)

    assert versions is not None
    assert re.findall(r":: Python :: (3\.\d+)$", claims, re.MULTILINE) == versions[1].split()
    assert re.findall(r"Operating System :: (.*)", claims) == ["POSIX :: Linux"]
