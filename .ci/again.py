"""Tell flaky tests from broken ones: run what failed in the crowd again, alone, twice.

    again.py STATUS LOG CACHE COMMAND…

STATUS is what pytest ended with, LOG what it printed, CACHE its cache folder, COMMAND what runs
pytest. Each test that failed is run twice in a process of its own. If all of them pass each
time, one line ``FLAKY: …`` for each is printed and the exit status is 0. Otherwise it is 1, and
the last lines say why.

Never flaky: a run that ended in any other way than with failed tests (the interpreter crashed,
a file could not be collected, the installation failed), a test that hung, more than ten tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

TESTS_FAILED = 1  # pytest.ExitCode
MOST = 10
TIMES = 2


def why_not(status: int, log: Path, failed: list[str]) -> str | None:
    """Return why this run can't be excused, if so."""
    if status != TESTS_FAILED:
        return f"the tests ended with status {status}"
    if not failed:
        return "no test is known to have failed"
    if re.search(r"Failed: Timeout|\+ Timeout \+", log.read_text(errors="replace")):
        return "a test hung"
    if len(failed) > MOST:
        return f"{len(failed)} tests failed, which are too many to be flaky"
    return None


def passes(command: list[str], test: str) -> bool:
    """Run one test; a test that is skipped now has not passed."""
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", test],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    passed = done.returncode == 0 and re.search(r"\b1 passed\b", done.stdout) is not None
    if not passed:
        print(done.stdout)
    return passed


def main(status: str, log: str, cache: str, *command: str) -> int:
    """Do what the module says; return the exit status."""
    lasting = Path(cache, "v", "cache", "lastfailed")
    failed = sorted(json.loads(lasting.read_text())) if lasting.exists() else []
    reason = why_not(int(status), Path(log), failed)
    if reason:
        print(f"not tried again: {reason}")
        return 1
    for test in failed:
        for time in range(1, TIMES + 1):
            if not passes([*command], test):
                print(f"failed again, alone, time {time}: {test}")
                return 1
    for test in failed:
        print(f"FLAKY: {test}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
