"""A child dies at a random point of two-way load: nothing is lost, nobody is stuck.

Here a few die of each way and each kind of load. ``python -m tests.faults --kills 1000`` has
as many die as one likes, and measures how soon each future ends.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import deaths
import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc, where Linux tells what is left"
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("how", deaths.HOWS)
@pytest.mark.parametrize("load", deaths.LOADS)
def test_all_futures_end_and_nothing_is_left_whenever_a_child_dies(load: str, how: str) -> None:
    tally = deaths.Tally(load)
    for _ in range(2):
        deaths.one_death(tally, how)

    assert tally.faults == []
    assert tally.kills == 2
    assert max(tally.after_death) < deaths.BOUND
    assert (tally.ended["timeout"] > 0) == (how == "stopped")


def test_the_command_prints_a_verdict_for_each_kind_of_load() -> None:
    command = [sys.executable, "-m", "tests.faults", "--kills", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)

    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = done.stdout.splitlines()[1:]
    assert [line.split(":")[:2] for line in verdicts] == [
        ["ok", f" {load}"] for load in deaths.LOADS
    ]
