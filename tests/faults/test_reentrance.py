"""A finalizer may use the session inside of the very call that it interrupts.

Short sweeps of ``python -m tests.faults.storm reenter``: at every so many points of an operation an
object goes whose ``__del__`` sends, asks, cancels or closes. It gets what it asks for, or a
RuntimeError; and the operation does what it would have done without.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if not Path("/proc/self/fd").exists():
    pytest.skip("counts descriptors in /proc, as Linux has it", allow_module_level=True)

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.faults.storm.sweeps import Tally, sweep, table
from tests.faults.storm.trials import Spec

PATIENCE = 10.0
"""Seconds. Only a fault takes that long."""

ACTIONS = ["notify", "request", "call", "cancel"]

STEPS = {"call": 11, "notify": 13, "stream_left": 61}
"""Points from one at which a finalizer runs to the next."""


def holds(tally: Tally) -> None:
    assert not tally.faults, f"{tally.verdict()}\n{table([tally])}\n{tally.faults[0].detail}"
    assert tally.points, tally.verdict()


PAIRS = [(action, operation) for action in ACTIONS for operation in STEPS]
YET = [pair for pair in PAIRS if pair[0] == "notify" or (pair[1] == "notify" and pair[0] != "call")]
"""To ask and to cancel take a lock of the session's, which a call that is interrupted may hold."""


@pytest.mark.parametrize("session", ["threads", "sync"])
@pytest.mark.parametrize(("action", "operation"), YET)
def test_a_finalizer_may_use_the_session_it_interrupts(
    action: str, operation: str, session: str
) -> None:
    spec = Spec(operation, f"{action} by del", session, kinds=["SoftTimeLimit"])
    spec.step, spec.everywhere, spec.patience = STEPS[operation], True, PATIENCE
    holds(sweep(spec, most_faults=1))


@pytest.mark.parametrize("session", ["threads", "sync"])
@pytest.mark.parametrize("trigger", ["weakref", "gc"])
def test_so_may_callbacks_of_weak_references_and_of_the_collector(
    trigger: str, session: str
) -> None:
    spec = Spec("call", f"notify by {trigger}", session, kinds=["SoftTimeLimit"], step=13)
    spec.patience = PATIENCE
    holds(sweep(spec, most_faults=1))


@pytest.mark.parametrize("session", ["threads", "sync"])
@pytest.mark.parametrize("action", ACTIONS)
def test_so_may_a_handler_of_logging(action: str, session: str) -> None:
    spec = Spec("overflow", f"{action} by log", session, kinds=["SoftTimeLimit"], limit=1)
    spec.patience = PATIENCE
    holds(sweep(spec, most_faults=1))


@pytest.mark.parametrize("session", ["threads", "sync"])
def test_nothing_fails_where_a_finalizer_does_nothing(session: str) -> None:
    spec = Spec("call", "nothing by del", session, kinds=["SoftTimeLimit"], step=7)
    spec.patience = PATIENCE
    holds(sweep(spec, most_faults=1))
