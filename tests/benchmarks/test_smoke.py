"""Every benchmark runs, at the smallest size; what it measures there means nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"),
        reason="the benchmarks bind CPUs and read /proc: Linux",
    ),
    pytest.mark.timeout(900),  # the first test runs them all
]

ROOT = Path(__file__).resolve().parents[2]

ALWAYS: dict[str, set[str]] = {
    "call": {"streamipc", "raw pipe", "multiprocessing.Pipe", "ProcessPoolExecutor"},
    "call-spin0": {"streamipc", "raw pipe", "ProcessPoolExecutor"},
    "call-unbound": {"streamipc", "raw pipe", "ProcessPoolExecutor"},
    "call-one-cpu": {"streamipc", "raw pipe", "ProcessPoolExecutor"},
    "json": {"streamipc", "native serializer"},
    "cpu-busy": {"streamipc", "spin=0"},
    "cpu-10ms": {"streamipc", "spin=0"},
    "child-calls-parent": {"streamipc", "parent calls child"},
    "threads-8": {"streamipc", "ProcessPoolExecutor"},
    "in-flight-64": {"streamipc", "multiprocessing.Pipe", "ProcessPoolExecutor"},
    "notifications": {"streamipc", "multiprocessing.Pipe"},
    "stream": {"streamipc", "multiprocessing.Pipe"},
    "bulk-bytes": {"streamipc", "raw pipe", "multiprocessing.Pipe"},
    "bulk-numpy": {"raw pipe"},
    "cold-start": {"streamipc", "bare interpreter", "multiprocessing spawn"},
    "import": {"streamipc", "bare interpreter"},
    "idle": {"streamipc"},
    "pending-10000": {"streamipc", "none pending"},
    "slow-handlers": {"streamipc", "threads, no messages"},
    "pool-tiny": {
        *("streamipc", "map()", "per_worker=16"),
        *("two sessions in turn", "…, one request at a time"),
        *("ProcessPoolExecutor", "multiprocessing.Pool.imap()", "… Pool.apply_async()"),
    },
    "pool-call": {
        *("streamipc", "a session", "ProcessPoolExecutor", "multiprocessing.Pool.apply()"),
    },
    "pool-bulk-in": set(),
    "pool-bulk-both": set(),
    "pool-idle": {
        *("streamipc", "a sleeping process", "ProcessPoolExecutor", "multiprocessing.Pool"),
    },
}
"""What needs nothing but the standard library, by workload."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Run the suite once; return what it prints, and the JSON by workload."""
    path = tmp_path_factory.mktemp("benchmarks") / "results.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks", "--smoke", "--rounds", "1", "--markdown"),
            *("--json", os.fspath(path)),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=800,
    )
    workloads = json.loads(path.read_text(encoding="utf-8"))["workloads"]
    return done.stdout, {workload["name"]: workload for workload in workloads}


@pytest.mark.parametrize("name", ALWAYS)
def test_a_workload_measures_all_that_is_installed(
    run: tuple[str, dict[str, Any]], name: str
) -> None:
    entries = run[1][name]["entries"]

    assert [f"{entry['name']}: {entry['error']}" for entry in entries if entry["error"]] == []
    measured = {entry["name"] for entry in entries if entry["rounds"]}
    missing = {entry["name"] for entry in entries if entry["missing"]}
    assert measured >= ALWAYS[name]
    assert measured | missing == {entry["name"] for entry in entries}


def test_there_is_no_workload_that_this_test_does_not_know(
    run: tuple[str, dict[str, Any]],
) -> None:
    assert list(run[1]) == list(ALWAYS)


def test_every_goal_is_judged_where_there_is_something_to_compare_with(
    run: tuple[str, dict[str, Any]],
) -> None:
    needs_numpy = {"bulk-numpy", "pool-bulk-in", "pool-bulk-both"}
    skipped = set() if importlib.util.find_spec("numpy") else needs_numpy
    unjudged = [
        f"{name}: {goal['goal']}"
        for name, workload in run[1].items()
        for goal in workload["goals"]
        if goal["met"] is None and name not in skipped and "execnet" not in goal["goal"]
    ]

    assert unjudged == []


def test_the_table_shows_every_workload(run: tuple[str, dict[str, Any]]) -> None:
    table = run[0]

    assert [name for name in ALWAYS if f"[{name}]" not in table] == []


def test_the_readmes_table_has_a_row_for_every_workload(run: tuple[str, dict[str, Any]]) -> None:
    rows = [line for line in run[0].splitlines() if line.startswith("| ")][2:]

    assert [row.split(" | ")[0] for row in rows] == [f"| {w['title']}" for w in run[1].values()]
    assert all(row.count(" | ") == 3 for row in rows)
