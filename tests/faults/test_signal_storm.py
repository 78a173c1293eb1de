"""What a signal handler raises comes out of the call as itself, wherever it hits.

Nothing else is lost, and the session goes on.

Short sweeps and barrages of ``python -m tests.faults.storm``: every so many points, each with the
next kind of exception. Without a limit it tries every kind at every point, and it fires 10,000
signals by default.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if not Path("/proc/self/fd").exists():
    pytest.skip("counts descriptors in /proc, as Linux has it", allow_module_level=True)

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.faults.storm.barrage import Spec as Barrage
from tests.faults.storm.barrage import barrage
from tests.faults.storm.operations import SYNC_ONLY
from tests.faults.storm.sweeps import Tally, sweep, table
from tests.faults.storm.trials import Spec

PATIENCE = 10.0
"""Seconds. Only a fault takes that long."""

STEPS = {
    "call": 3,
    "request": 5,
    "nested": 7,
    "large": 17,
    "stream": 127,
    "stream_left": 31,
    "notify": 5,
    "receive": 7,
    "tick": 7,
    "cancel": 4,
    "expire": 17,
    "wait": 17,
    "start": 83,
    "close": 97,
}
"""Points from one that is tried to the next."""


def holds(tally: Tally, least: int = 1) -> None:
    assert not tally.faults, f"{tally.verdict()}\n{table([tally])}\n{tally.faults[0].detail}"
    assert len(tally.points) >= least, tally.verdict()


SWEEPS = [
    (operation, session)
    for operation in STEPS
    for session in ("threads", "sync")
    if not (operation in SYNC_ONLY and session == "threads")
]


@pytest.mark.parametrize(("operation", "session"), SWEEPS)
def test_a_signal_comes_out_as_itself_wherever_it_hits(operation: str, session: str) -> None:
    step = STEPS[operation]
    spec = Spec(operation, "signal", session, step=step, rotate=True, patience=PATIENCE)
    holds(sweep(spec, most_faults=3))


SECOND = {
    "call": 2,
    "large": 7,
    "stream_left": 17,
    "notify": 3,
    "cancel": 2,
    "close": 97,
}
"""The same where a second signal follows, mostly in the ``finally:`` that the first one runs."""

SURE = sys.version_info >= (3, 11)
"""Python 3.10 looks for signals before the first step of a ``finally:`` too, and before a ``with``
block releases its lock for an exception: a second signal may keep it from that."""

PAIRS = [
    (operation, session)
    for operation in (SECOND if SURE else ("notify",))
    for session in ("threads", "sync")
]


@pytest.mark.parametrize(("operation", "session"), PAIRS)
def test_so_does_a_second_one_while_the_first_is_on_its_way(operation: str, session: str) -> None:
    spec = Spec(operation, "signal", session, gaps=[1, 2, 3, 5, 8, 13], rotate=True)
    spec.step, spec.patience = SECOND[operation], PATIENCE
    holds(sweep(spec, most_faults=3))


@pytest.mark.parametrize("switch", [0.0, 1e-6] if SURE else [0.0])
@pytest.mark.parametrize("session", ["threads", "sync"])
def test_signals_at_random_times_in_bursts_lose_nothing(session: str, switch: float) -> None:
    spec = Barrage(300, session=session, switch=switch, patience=PATIENCE)
    if not SURE:
        spec.burst = 0.0
    totals = barrage(spec, most_faults=3)

    assert not any(totals.counts().values()), "\n".join([totals.verdict(), *totals.hangs[:1]])
    assert totals.fired >= spec.signals


@pytest.mark.parametrize("operation", ["call", "stream"])
def test_a_thread_that_waits_meanwhile_loses_nothing(operation: str) -> None:
    step = 4 * STEPS[operation]
    spec = Spec(operation, crowd=True, step=step, rotate=True, patience=PATIENCE)
    holds(sweep(spec, most_faults=3))


def test_all_this_holds_for_json() -> None:
    spec = Spec("nested", "signal", "threads", "json", step=9, rotate=True, patience=PATIENCE)
    holds(sweep(spec, most_faults=3))


def test_what_is_swallowed_or_lost_is_noticed() -> None:
    kinds = ["SoftTimeLimit"]
    tally = sweep(Spec("careless", kinds=kinds, first=5, limit=1, patience=PATIENCE))

    assert sorted(fault.what for fault in tally.faults) == ["note lost", "swallowed"]
