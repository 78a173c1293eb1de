"""The heap of deadlines stays as small as what is pending."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from streamipc import LogMessage
from streamipc.engine.calls import Call
from streamipc.engine.deadlines import Deadlines

Calls = dict[Any, Any]


@pytest.fixture
def calls() -> Calls:
    return {}


def ask(deadlines: Deadlines, calls: Calls, id_: int, deadline: float) -> Call:
    call = Call(None, id_, LogMessage("x"))
    calls[id_] = call
    deadlines.add(deadline, call)
    return call


def test_the_earliest_is_that_of_a_pending_request(calls: Calls) -> None:
    deadlines = Deadlines(calls)
    assert deadlines.earliest() is None
    ask(deadlines, calls, 1, 5.0)
    ask(deadlines, calls, 2, 3.0)
    ask(deadlines, calls, 3, 4.0)

    assert deadlines.earliest() == 3.0
    del calls[2]
    assert deadlines.earliest() == 4.0
    calls.clear()
    assert deadlines.earliest() is None
    assert len(deadlines) == 0


def test_what_is_over_is_returned_in_order_until_it_was_seen_to(calls: Calls) -> None:
    deadlines = Deadlines(calls)
    futures = {n: ask(deadlines, calls, n, float(n)) for n in (4, 2, 3, 1)}
    del calls[2]

    assert deadlines.expire(0.5) == []
    assert deadlines.expire(3.0) == [futures[1], futures[3]]
    del calls[1]  # and whoever saw to them was interrupted
    assert deadlines.earliest() == 3.0
    assert deadlines.expire(3.0) == [futures[3]]
    del calls[3]
    assert deadlines.expire(3.0) == []
    assert deadlines.expire(9.0) == [futures[4]]


def test_an_id_used_again_does_not_inherit_the_old_deadline(calls: Calls) -> None:
    deadlines = Deadlines(calls)
    ask(deadlines, calls, 1, 1.0)
    new = ask(deadlines, calls, 1, 10.0)

    assert deadlines.expire(5.0) == []
    assert deadlines.expire(10.0) == [new]


def test_a_request_that_is_answered_is_not_kept(calls: Calls) -> None:
    """It holds its message and its reply, each of which may be large."""
    deadlines = Deadlines(calls)
    ask(deadlines, calls, 1, 1.0)  # pending, and due before the other
    answered = weakref.ref(ask(deadlines, calls, 2, 5.0))
    del calls[2]

    assert answered() is None
    assert deadlines.earliest() == 1.0
    assert deadlines.expire(9.0) == [calls[1]]


def test_equal_deadlines_do_not_compare_futures(calls: Calls) -> None:
    deadlines = Deadlines(calls)
    futures = [ask(deadlines, calls, n, 1.0) for n in range(10)]

    assert deadlines.expire(1.0) == futures


def test_thousands_of_answered_requests_leave_few_entries(calls: Calls) -> None:
    deadlines = Deadlines(calls)
    largest = 0
    for n in range(20_000):
        ask(deadlines, calls, n, 1000.0 + n)
        if n >= 10:
            del calls[n - 10]
        largest = max(largest, len(deadlines))

    assert largest <= 2 * 11 + 64
    assert deadlines.earliest() == 1000.0 + 20_000 - 10
