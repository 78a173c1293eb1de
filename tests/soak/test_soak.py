"""The soak itself: it passes for two seconds, and it notices what it is there to notice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import streamipc

ROOT = Path(__file__).resolve().parents[2]

if not Path("/proc/self/statm").exists():
    pytest.skip("counts memory and descriptors in /proc, as Linux has it", allow_module_level=True)


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    package = str(Path(streamipc.__file__).resolve().parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", "0.03", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": package},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )


def test_two_seconds_of_everything_pass() -> None:
    done = soak()

    assert done.returncode == 0, done.stdout
    assert "PASSED" in done.stdout
    assert " requests (" in done.stdout


@pytest.mark.parametrize(
    ("fault", "noticed"),
    [
        ("mismatch", 'payload of "somebody else\'s" in the place of'),
        ("lose", "notification 8 came as 7"),
        ("twice", "notification 7 came as 8"),
        ("leak", "the steady child: descriptors grew from"),
    ],
)
def test_a_child_with_a_fault_fails_the_soak(fault: str, noticed: str) -> None:
    done = soak("--sabotage", fault, "--seed", "4711")

    assert done.returncode == 1, done.stdout
    assert noticed in done.stdout
    assert "FAILED with seed 4711" in done.stdout
