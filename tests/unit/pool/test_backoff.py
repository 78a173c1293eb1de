"""When the next worker may be started."""

from __future__ import annotations

import pytest

from streamipc.pool.backoff import Backoff


def backoff(
    first: float = 1.0, longest: float = 8.0, most: int = 3, chance: float = 1.0
) -> Backoff:
    return Backoff(first, longest, most, lambda: chance)


def pauses(one: Backoff, count: int) -> list[float]:
    found = []
    for _ in range(count):
        one.died(100.0)
        found.append(one.pause(100.0))
    return found


def test_nothing_has_to_be_waited_for_at_first() -> None:
    one = backoff()

    assert (one.row, one.pause(0.0), one.is_exhausted) == (0, 0.0, False)


def test_the_first_death_costs_no_pause_and_each_further_one_doubles_it_up_to_the_longest() -> None:
    assert pauses(backoff(), 7) == [0.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_half_of_a_pause_is_left_to_chance() -> None:
    assert pauses(backoff(chance=0.0), 3) == [0.0, 0.5, 1.0]
    assert pauses(backoff(chance=0.5), 3) == [0.0, 0.75, 1.5]
    assert 0.5 <= pauses(Backoff(1.0, 8.0, 3), 2)[1] <= 1.0


def test_a_pause_passes() -> None:
    one = backoff()
    pauses(one, 2)

    assert one.not_before == 101.0
    assert one.pause(100.25) == 0.75
    assert one.pause(200.0) == 0.0


def test_it_is_exhausted_after_so_many_deaths_in_a_row() -> None:
    one = backoff(most=3)
    pauses(one, 2)
    assert not one.is_exhausted

    one.died(100.0)

    assert one.is_exhausted


def test_an_answer_ends_the_row() -> None:
    one = backoff()
    pauses(one, 5)

    one.proved()

    assert (one.row, one.pause(100.0), one.is_exhausted) == (0, 0.0, False)
    assert pauses(one, 2) == [0.0, 1.0]


def test_a_row_of_many_thousands_is_no_overflow() -> None:
    one = backoff(first=0.1)
    pauses(one, 5000)

    assert one.pause(100.0) == 8.0


@pytest.mark.parametrize(
    ("lived", "done", "early"), [(0.0, 0, True), (4.9, 0, True), (5.0, 0, False), (0.1, 1, False)]
)
def test_a_death_is_early_if_nothing_was_answered_and_the_life_was_short(
    lived: float, done: int, early: bool
) -> None:
    assert backoff().is_early(lived, done) is early
