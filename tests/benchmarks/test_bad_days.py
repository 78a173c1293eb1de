"""The comparison of pools on bad days runs, and ours comes out of them as it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="what becomes of processes is read from /proc: Linux",
)

ROOT = Path(__file__).resolve().parents[2]


def answers_of(tmp_path: Path, *arguments: str) -> dict[str, dict[str, dict[str, str]]]:
    """Run the comparison; return the answers by library, case and question."""
    path = tmp_path / "results.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks.bad_days", *arguments),
            *("--json", os.fspath(path)),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=250,
    )
    answers: dict[str, dict[str, dict[str, str]]] = json.loads(path.read_text(encoding="utf-8"))
    questions = sum(map(len, next(iter(answers.values())).values()))
    assert done.stdout.count("\n| ") == 1 + questions  # the first one is below the head
    return answers


def test_a_pool_of_streamipc_comes_out_of_every_bad_day(tmp_path: Path) -> None:
    options = ("--at-once", "4", "--limit", "30", "--later", "30")
    answers = answers_of(tmp_path, "--only", "streamipc", *options)["streamipc"]
    lost, hung, orphans = answers["lost"], answers["hung"], answers["orphans"]

    assert lost["its task"].startswith("WorkerLostError")
    assert lost["other tasks"] == "all get their replies"
    assert lost["the pool"] == "goes on"
    assert hung["it, with a timeout of 1 s"].startswith("RequestTimeoutError")
    assert hung["other tasks"] == "all get their replies"
    assert hung["its worker"].startswith("killed")
    assert hung["workers that take new tasks"] == "2 of 2"
    assert hung["the program's end"].startswith("takes")
    assert [fate for fate in orphans.values() if not fate.startswith("gone")] == []
    assert answers["daemonic"]["a pool"] == "works"


def test_a_pool_that_hangs_is_told_and_the_table_goes_on(tmp_path: Path) -> None:
    options = ("--at-once", "8", "--limit", "3", "--later", "1")
    names = ("concurrent.futures", "multiprocessing")
    answers = answers_of(tmp_path, "--only", names[0], "--only", names[1], *options)
    executor, pool = (answers[name] for name in names)

    assert executor["lost"]["its task"].startswith("BrokenProcessPool")
    assert executor["hung"]["the program's end"] == "hangs (no end within 3 s)"
    assert pool["lost"]["its task"] == "no end within 3 s"
    for each in (executor, pool):
        assert each["hung"]["its worker"] == "keeps the CPU busy"
        assert each["orphans"]["the busy worker"] == "still there after 1 s"
        assert each["daemonic"]["a pool"].startswith("AssertionError")
