"""A finalizer may use the session inside of the very call that it interrupts.

Short sweeps of ``python -m tests.faults.storm reenter``: at every so many points of an operation an
object goes whose ``__del__`` sends, asks, cancels or closes. It gets what it asks for; or, if it
would wait for what it has interrupted, a RuntimeError that says so. And the operation does what it
would have done without. A trial that takes too long ends its process, which says where it stood.
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

ACTIONS = ["notify", "request", "call", "result", "cancel"]

STEPS = {"call": 23, "notify": 29, "stream_left": 397, "large": 61}
"""Points from one at which a finalizer runs to the next."""


def holds(tally: Tally) -> None:
    assert not tally.faults, f"{tally.verdict()}\n{table([tally])}\n{tally.faults[0].detail}"
    assert tally.points, tally.verdict()


@pytest.mark.parametrize("session", ["threads", "sync"])
@pytest.mark.parametrize("operation", STEPS)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_finalizer_may_use_the_session_it_interrupts(
    action: str, operation: str, session: str
) -> None:
    spec = Spec(operation, f"{action} by del", session, kinds=["SoftTimeLimit"])
    spec.step, spec.everywhere, spec.patience = STEPS[operation], True, PATIENCE
    holds(sweep(spec, most_faults=1))


@pytest.mark.parametrize("session", ["threads", "sync"])
@pytest.mark.parametrize("operation", ["call", "notify"])
def test_a_finalizer_may_close_the_session_it_interrupts(operation: str, session: str) -> None:
    spec = Spec(operation, "close by del", session, kinds=["SoftTimeLimit"], everywhere=True)
    # Each takes a child of its own, and so many seconds, for one request is never answered.
    spec.step, spec.limit, spec.patience = 127, 8, 3
    holds(sweep(spec, most_faults=1))


@pytest.mark.parametrize("action", ["notify", "request", "call", "cancel", "close"])
def test_a_finalizer_may_use_it_on_the_threads_of_the_session(action: str) -> None:
    spec = Spec("served", f"{action} by del", kinds=["SoftTimeLimit"], engine=True, step=67)
    spec.everywhere, spec.patience = True, PATIENCE
    if action == "close":
        spec.limit, spec.patience = 8, 3  # as above
    holds(sweep(spec, most_faults=1))


@pytest.mark.parametrize("session", ["threads", "sync"])
@pytest.mark.parametrize("action", ["notify", "call"])
@pytest.mark.parametrize("trigger", ["weakref", "gc", "signal"])
def test_so_may_callbacks_of_weak_references_and_of_the_collector_and_handlers_of_signals(
    trigger: str, action: str, session: str
) -> None:
    spec = Spec("call", f"{action} by {trigger}", session, kinds=["SoftTimeLimit"], step=17)
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
