"""A child dies at a random point of two-way load: nothing is lost, nobody is stuck.

Here one dies of each way and each kind of load. ``python -m tests.faults --kills 1000`` has
as many die as one likes, and measures how soon each future ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import deaths
import pytest
from shared_messages import Echo

from streamipc import IpcPeer, SessionClosedError
from streamipc.transports.pipe import FdTransport

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc, where Linux tells what is left"
)


@pytest.fixture(autouse=True)
def switch_interval() -> Iterator[None]:
    """How often Python switches between threads, here; ``deaths`` passes it on to children."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(float(os.environ.get("STREAMIPC_SWITCH_INTERVAL", before)))
    yield
    sys.setswitchinterval(before)


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("how", deaths.HOWS)
@pytest.mark.parametrize("load", deaths.LOADS)
def test_all_futures_end_and_nothing_is_left_whenever_a_child_dies(load: str, how: str) -> None:
    tally = deaths.Tally(load)
    deaths.one_death(tally, how)

    assert tally.faults == []
    assert tally.kills == 1
    assert max(tally.after_death) < deaths.BOUND
    assert (tally.ended["timeout"] > 0) == (how == "stopped")


def test_the_error_of_a_request_that_meets_the_end_is_made_without_a_lock() -> None:
    locked: list[bool] = []

    class Telling(FdTransport):
        def closed_error(self, what: str) -> SessionClosedError:
            # With a child this waits for its exit status.
            locked.append(session._engine.lock._is_owned())
            return SessionClosedError(what)

    def close_and_count() -> int:
        session.close(timeout=0)
        return 1

    read, theirs = os.pipe()
    theirs_too, write = os.pipe()
    session = IpcPeer(id_generator=close_and_count).create_session(Telling(read, write))
    with pytest.raises(SessionClosedError, match="this side closed"):
        session.request(Echo())
    os.close(theirs)
    os.close(theirs_too)
    assert locked == [False]


def test_the_command_prints_a_verdict_for_each_kind_of_load() -> None:
    command = [sys.executable, "-m", "tests.faults", "--kills", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)

    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = done.stdout.splitlines()[1:]
    assert [line.split(":")[:2] for line in verdicts] == [
        ["ok", f" {load}"] for load in deaths.LOADS
    ]
