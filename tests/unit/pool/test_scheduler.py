"""Who gets which request, and when a worker is started, killed, replaced or given up.

The processes are those of ``pool_world``: they do nothing by themselves.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pool_world import FakeJob, FakeWorker, World

from streamipc.pool.jobs import Job, State
from streamipc.pool.scheduler import Reason

EARLY = (0.1, 30.0, 5)


def ready(size: int = 2, workers: int | None = None, **options: Any) -> World:
    """Return a world with workers that are ready."""
    world = World(size if workers is None else workers, **options)
    world.act("start_all")
    world.scheduler.size = size
    assert states(world) == ["ready"] * (workers or size)
    return world


def submit(world: World, *args: Any, **options: Any) -> FakeJob:
    job = world.submit(*args, **options)
    world.settle()
    world.check()
    return job


def many(world: World, count: int, *args: Any, **options: Any) -> list[FakeJob]:
    return [submit(world, *args, **options) for _ in range(count)]


def answer(world: World, job: FakeJob) -> None:
    worker: Any = job.worker
    world.act("answer", worker, job)
    world.check()


def die(world: World, worker: Any, knows: bool = False) -> None:
    world.die(worker, knows)
    world.settle(starts=False)
    world.check()


def break_starts(world: World, count: int) -> None:
    """Have so many starts fail, as soon as they may be tried."""
    for _ in range(count):
        world.settle(starts=False)
        if not world.to_start():
            world.advance(world.scheduler.backoff.pause(world.now))
            world.settle(starts=False)
        world.start(world.to_start()[0], is_ready=False)
        world.settle(starts=False)
    world.check()


def states(world: World) -> list[str]:
    return [worker.state.value for worker in world.scheduler.workers]


def numbers(world: World) -> list[int]:
    return [worker.number for worker in world.scheduler.workers]


# Who gets what.


def test_nothing_is_started_before_it_is_asked() -> None:
    world = World(3)
    world.act("look")

    assert states(world) == []
    assert world.scheduler.soonest == float("inf")


def test_a_request_starts_a_worker_and_gets_it_when_it_is_ready() -> None:
    world = World(3)
    job = world.submit()
    world.claim()
    assert states(world) == ["starting"]
    assert [*world.scheduler.waiting] == [job]

    world.settle()

    assert states(world) == ["ready"]
    assert job.sent_to == world.up()


def test_workers_are_added_one_by_one_as_requests_wait_up_to_size() -> None:
    world = World(3)
    found = []
    for _ in range(5):
        submit(world)
        found.append(len(world.up()))

    assert found == [1, 2, 3, 3, 3]
    assert len(world.scheduler.waiting) == 2


def test_a_worker_that_starts_counts_for_all_that_it_will_take() -> None:
    world = World(4, per_worker=3)
    for _ in range(4):
        world.submit()
    world.claim()

    assert states(world) == ["starting", "starting"]


def test_no_more_workers_are_started_than_wait_for_one_after_a_death() -> None:
    world = World(4)
    world.submit()
    break_starts(world, 1)

    world.settle()
    world.advance(1.0)
    world.settle()

    assert len(world.up()) == 1


def test_the_least_busy_worker_gets_a_request() -> None:
    world = ready(3, per_worker=3)
    jobs = many(world, 6)
    assert sorted(len(worker.jobs) for worker in world.up()) == [2, 2, 2]
    for job in jobs:
        if job.worker is world.up()[1]:
            answer(world, job)

    assert [submit(world).worker for _ in range(2)] == [world.up()[1]] * 2


def test_of_idle_workers_the_one_that_was_busy_last_is_used() -> None:
    world = ready(3)
    first, second = many(world, 2)
    last = second.worker
    answer(world, first)
    answer(world, second)

    assert submit(world).worker is last


def test_requests_wait_in_the_order_in_which_they_came() -> None:
    world = ready(1)
    jobs = many(world, 4)
    for job, following in itertools.pairwise(jobs):
        assert following.worker is None
        answer(world, job)
        assert following.worker is world.up()[0]


def test_the_same_request_is_taken_once() -> None:
    world = ready(1)
    job = submit(world)
    world.decide("submit", job)
    answer(world, job)
    world.decide("submit", job)

    assert world.scheduler.is_quiet
    assert world.scheduler.last_number == 1


# Outcomes.


def test_an_answer_that_comes_twice_or_of_another_worker_changes_nothing() -> None:
    world = ready(2)
    job, other = many(world, 2)
    worker: Any = job.worker
    world.decide("over", job, other.worker)
    assert job.worker is worker
    answer(world, job)
    world.decide("over", job, worker)

    assert (worker.done, job.outcome, world.scheduler.running) == (1, "ok", 1)


def test_a_request_that_waits_fails_at_its_deadline_and_the_others_go_on_waiting() -> None:
    world = ready(1)
    running, late, patient = submit(world), submit(world, 0.5), submit(world)
    assert world.scheduler.soonest == world.now + 0.5

    world.advance(0.5)
    world.settle()

    assert (running.outcome, late.outcome, patient.outcome) == (None, Reason.LATE, None)
    answer(world, running)
    assert patient.worker is world.up()[0]


def test_a_worker_that_is_still_busy_when_its_request_is_over_is_killed_after_the_grace() -> None:
    world = ready(1, kill_grace=2.0)
    job = submit(world, 1.0)
    worker = world.up()[0]
    world.advance(1.0)
    world.settle()
    assert (job.outcome, worker.state) == ("late", State.READY)
    assert world.scheduler.soonest == world.now + 2.0

    world.advance(1.9)
    assert not worker.is_killed
    world.advance(0.1)
    assert (worker.is_killed, worker.state) == (True, State.ENDING)
    world.settle()

    assert world.scheduler.is_quiet
    assert world.scheduler.backoff.row == 0, "it was killed, and has not died"


def test_a_worker_that_ends_its_handler_within_the_grace_lives_and_gets_the_next_one() -> None:
    world = ready(1)
    job, following = submit(world), submit(world)
    world.act("cancel", job)
    assert following.worker is None, "its worker is busy"
    world.act("cancel", job)

    answer(world, job)
    world.advance(10.0)

    assert following.worker is world.up()[0]
    assert not world.up()[0].is_killed


def test_giving_up_twice_gives_no_more_grace() -> None:
    world = ready(1)
    job = submit(world)
    world.act("cancel", job)
    world.advance(0.5)
    world.decide("give_up", job)

    world.advance(0.5)

    assert [worker.is_killed for worker in world.workers] == [True]


def test_a_request_that_nobody_has_sent_yet_is_given_up_without_harm_to_its_worker() -> None:
    world = ready(1)
    job = world.submit()
    world.cancel(job)
    world.settle()
    world.advance(10.0)

    assert job.sent_to == []
    assert world.scheduler.is_quiet
    assert states(world) == ["ready"]


def test_a_request_that_waits_or_was_never_taken_is_given_up() -> None:
    world = ready(1)
    running, waiting = many(world, 2)
    world.act("cancel", waiting)
    assert not world.scheduler.waiting
    never = FakeJob(world.now, None, 0)
    world.decide("give_up", never)
    world.decide("submit", never)
    answer(world, running)

    assert world.scheduler.is_quiet


def test_what_a_killed_worker_was_not_sent_yet_is_given_to_another_one() -> None:
    world = ready(2, workers=1, per_worker=2)
    hangs = submit(world)
    world.act("cancel", hangs)
    job = world.submit()
    assert job.worker is world.up()[0]

    world.advance(1.0)
    world.settle()

    assert [worker.number for worker in job.sent_to] == [2]


def test_a_request_that_waits_behind_one_that_is_killed_does_not_wait_in_vain() -> None:
    world = ready(1, wait=5.0)
    submit(world, 20.0)
    behind = submit(world, 100.0)
    world.advance(20.0)
    world.settle()
    world.advance(1.0)
    assert states(world) == ["ending", "starting"]
    assert behind.outcome is None, "there was a worker until now"

    world.settle()

    assert behind.worker is world.up()[0]


# Deaths.


def test_a_request_is_lost_with_its_worker_and_the_others_are_not() -> None:
    world = ready(2)
    lost, other, waiting = many(world, 3)
    die(world, lost.worker)
    world.settle()

    assert (lost.outcome, other.outcome) == ("lost", None)
    assert [worker.number for worker in waiting.sent_to] == [3]


def test_a_lost_request_is_given_to_others_as_often_as_retries_allow() -> None:
    world = ready(1)
    job = submit(world, retries=1)
    die(world, job.worker)
    world.settle()
    assert job.outcome is None
    die(world, job.worker)

    assert job.outcome == "lost"
    assert [worker.number for worker in job.sent_to] == [1, 2]


def test_a_request_with_retries_is_lost_as_well_when_no_other_worker_can_be_had() -> None:
    world = ready(1)
    job = submit(world, retries=5)
    die(world, job.worker)
    world.settle()
    die(world, job.worker)

    assert world.scheduler.is_down(world.now)
    assert job.outcome == "lost"


def test_what_a_worker_certainly_has_not_begun_is_given_to_another_one_without_retries() -> None:
    world = ready(1)
    job = submit(world)
    die(world, job.worker, knows=True)
    world.settle()

    assert [worker.number for worker in job.sent_to] == [1, 2]
    answer(world, job)
    assert job.outcome == "ok"


def test_what_nobody_has_sent_to_a_dead_worker_is_given_to_another_one() -> None:
    world = ready(1)
    job = world.submit()
    world.die(world.up()[0])
    world.tell()
    world.settle()

    assert [worker.number for worker in job.sent_to] == [2]


def test_lost_requests_wait_again_in_their_old_order_in_front_of_the_others() -> None:
    world = ready(1, per_worker=3)
    jobs = many(world, 5, retries=1)
    die(world, world.up()[0])

    assert [*world.scheduler.waiting] == jobs


def test_what_is_known_of_a_request_twice_counts_once() -> None:
    world = ready(2)
    job = submit(world, retries=1)
    first: Any = job.worker
    die(world, first)
    world.settle()
    assert job.worker is not first

    assert world.decide("lost", job, first) is True
    assert world.decide("take_back", job, first) is True
    answer(world, job)
    assert world.decide("lost", job, first) is False
    assert world.decide("take_back", job, first) is False
    assert world.decide("gone", first) is None


def test_a_request_that_was_given_up_is_not_given_to_another_worker() -> None:
    world = ready(2)
    lost, refused = many(world, 2, retries=1)
    at: Any = {job: job.worker for job in (lost, refused)}
    world.act("cancel", lost)
    world.act("cancel", refused)

    assert world.decide("lost", lost, at[lost]) is False
    assert world.decide("take_back", refused, at[refused]) is False
    assert world.scheduler.is_quiet


def test_a_dead_worker_takes_what_was_given_up_with_it() -> None:
    world = ready(1)
    job = submit(world)
    world.act("cancel", job)
    die(world, job.worker)

    assert world.scheduler.is_quiet


def test_what_a_dead_worker_had_and_nobody_has_told_of_can_be_given_up() -> None:
    world = ready(1)
    job = submit(world)
    world.up()[0].is_up = False
    world.act("gone", job.worker)
    assert not world.scheduler.is_quiet

    world.act("cancel", job)

    assert world.scheduler.is_quiet


def test_a_refused_request_goes_to_another_worker_rather_than_the_same() -> None:
    world = ready(2)
    job = submit(world)
    first: Any = job.worker
    world.act("refuse", first, job)

    assert job.worker is not first
    assert first.state is State.READY


def test_a_request_that_everybody_refuses_is_given_up() -> None:
    world = ready(2)
    job = submit(world)
    while job.outcome is None:
        world.act("refuse", job.worker, job)
        world.check()

    assert job.outcome == "refused"
    assert len(job.sent_to) == 6


def test_a_stream_that_somebody_has_is_dropped() -> None:
    world = ready(1)
    job = submit(world)
    job.outcome = "lost"
    world.decide("drop", job)

    assert world.scheduler.is_quiet
    assert submit(world).worker is world.up()[0]


# Back-off.


def test_the_first_start_that_fails_is_made_again_at_once() -> None:
    world = World(1)
    job = world.submit()
    break_starts(world, 1)
    assert states(world) == ["starting"]

    world.settle()

    assert job.worker is world.up()[0]


def test_while_in_back_off_requests_fail_at_once_and_then_one_worker_is_tried() -> None:
    world = World(3, EARLY)
    waiting = world.submit()
    break_starts(world, 2)
    assert waiting.outcome is Reason.UNAVAILABLE
    assert world.scheduler.is_down(world.now)
    assert submit(world).outcome is Reason.UNAVAILABLE
    assert world.scheduler.soonest == world.scheduler.backoff.not_before

    world.advance(0.1)
    world.claim()

    assert states(world) == ["starting"]
    assert not world.scheduler.is_down(world.now)


def test_while_a_worker_lives_requests_wait_for_it_in_spite_of_back_off() -> None:
    world = ready(2, workers=1)
    submit(world)
    behind = world.submit()
    break_starts(world, 3)

    assert behind.outcome is None
    answer(world, world.jobs[0])
    assert behind.worker is not None


def test_after_too_many_early_deaths_a_worker_is_started_for_those_who_ask_only() -> None:
    world = World(2, (0.1, 1.0, 3))
    world.submit()
    break_starts(world, 3)
    world.advance(100.0)
    world.settle()
    assert states(world) == []

    job = submit(world)

    assert states(world) == ["ready"]
    answer(world, job)
    assert world.scheduler.backoff.row == 0


@pytest.mark.parametrize("asks", ["start_one", "start_all"])
def test_start_asks_for_one_try_when_workers_are_started_no_more(asks: str) -> None:
    world = World(2, (0.1, 1.0, 3))
    world.submit()
    break_starts(world, 3)
    world.advance(100.0)

    world.decide(asks)
    break_starts(world, 1)
    world.advance(100.0)
    world.settle()
    assert len(world.workers) == 4, "it was tried once"
    world.act(asks)

    assert len(world.up()) == (1 if asks == "start_one" else 2)


def test_workers_that_die_together_count_as_one_death() -> None:
    world = ready(8)
    for worker in world.up():
        die(world, worker)

    assert world.scheduler.backoff.row == 1
    assert world.scheduler.backoff.pause(world.now) == 0.0


def test_when_one_of_many_starts_has_failed_all_are_started_in_the_end() -> None:
    world = World(4)
    world.decide("start_all")
    break_starts(world, 1)

    world.settle()

    assert len(world.up()) == 4


def test_an_answer_of_a_new_worker_ends_the_row_and_all_that_are_missing_are_started() -> None:
    world = World(4)
    jobs = [world.submit() for _ in range(4)]
    break_starts(world, 4)
    world.advance(100.0)
    job = submit(world)
    assert len(jobs) == 4
    world.submit()
    world.submit()
    answer(world, job)

    assert world.scheduler.backoff.row == 0
    assert world.scheduler.soonest > world.now


def test_a_worker_that_dies_after_an_answer_is_replaced_without_a_pause() -> None:
    world = ready(1)
    for _ in range(10):
        answer(world, submit(world))
        die(world, world.up()[0])
        world.settle()

    assert world.scheduler.backoff.row == 0
    assert len(world.up()) == 1


def test_a_worker_that_has_lived_long_was_sound_even_if_nobody_has_asked_it() -> None:
    world = ready(1)
    die(world, world.up()[0])
    world.settle()
    assert world.scheduler.backoff.row == 1
    world.advance(30.0)

    die(world, world.up()[0])

    assert world.scheduler.backoff.row == 0


def test_requests_wait_for_a_slow_start_each_for_its_own_time() -> None:
    world = World(1, wait=5.0)
    first = world.submit()
    world.advance(3.0)
    second = world.submit()
    world.claim()
    assert world.scheduler.soonest == 1005.0

    world.advance(2.0)
    world.settle(starts=False)

    assert (first.outcome, second.outcome) == (Reason.UNAVAILABLE, None)
    assert world.scheduler.soonest == 1008.0
    world.settle()
    assert second.worker is world.up()[0]


def test_a_deadline_ends_the_wait_for_a_slow_start() -> None:
    world = World(1, wait=5.0)
    job = world.submit(1.0)
    world.advance(1.0)
    world.settle(starts=False)

    assert job.outcome is Reason.LATE


# Replacing.


def test_a_worker_is_replaced_before_it_has_had_all_of_its_requests() -> None:
    world = ready(1, max_requests=10)
    for _ in range(8):
        answer(world, submit(world))
    assert states(world) == ["ready"]
    job = submit(world)
    world.answer(world.up()[0], job)
    world.settle(starts=False)
    assert states(world) == ["retiring", "starting"]
    last = world.submit()
    assert last.worker is world.up()[0], "it serves meanwhile"

    world.settle()

    assert states(world) == ["draining", "ready"]
    answer(world, last)
    assert numbers(world) == [2]


def test_a_worker_gets_no_more_than_its_requests_if_the_next_one_is_slow() -> None:
    world = ready(1, max_requests=2)
    first = world.up()[0]
    for _ in range(2):
        job = world.submit()
        world.settle(starts=False)
        world.answer(first, job)
        world.settle(starts=False)
        world.check()
    waiting = world.submit()
    world.settle(starts=False)

    assert waiting.worker is None
    assert first.given == 2
    world.settle()
    assert [worker.number for worker in waiting.sent_to] == [2]


def test_workers_with_one_request_each_are_no_more_than_size() -> None:
    world = World(2, max_requests=1)
    jobs = [world.submit() for _ in range(5)]
    world.settle()
    for job in jobs:
        assert len(world.up()) == 2
        answer(world, job)

    assert len({worker for job in jobs for worker in job.sent_to}) == 5


def test_no_more_than_size_are_busy_with_their_last_requests() -> None:
    world = ready(1, max_requests=2, per_worker=2)
    jobs = [world.submit() for _ in range(10)]
    world.settle()
    for _ in range(5):
        for worker in world.up():  # one of two is over, and the other one takes long
            if len(worker.held) == 2:
                answer(world, worker.held[0])
        world.advance(1.0)
        world.settle()

    assert states(world) == ["draining", "ready"]
    assert [worker.held for worker in world.up()] == [[jobs[1]], [jobs[3]]]
    answer(world, jobs[1])
    answer(world, jobs[3])
    assert [worker.held for worker in world.up()] == [jobs[4:6]]


def test_what_is_given_up_and_had_no_place_frees_a_worker_that_is_worn_out() -> None:
    world = World(1, max_requests=1)
    world.act("start_all")
    job, waiting = world.submit(), world.submit()
    world.cancel(job)
    world.check()
    world.settle()

    assert [worker.number for worker in waiting.sent_to] == [2]


def test_workers_that_are_too_old_are_replaced_one_after_the_other() -> None:
    world = ready(3, max_lifetime=60.0)
    assert world.scheduler.soonest == world.now + 60.0
    world.advance(60.0)
    most = 0
    for _ in range(6):
        world.claim()
        most = max(most, sum(state not in ("draining", "ending") for state in states(world)))
        for worker in world.to_start():
            world.start(worker)
        for worker in world.to_die():
            world.act("die", worker)

    assert numbers(world) == [4, 5, 6]
    assert most == 4
    assert world.scheduler.soonest == world.now + 60.0


def test_restart_replaces_one_worker_after_the_other_and_each_new_one_is_ready_first() -> None:
    world = ready(2)
    jobs = many(world, 2)
    world.decide("restart")
    world.claim()
    assert states(world) == ["retiring", "ready", "starting"]
    assert world.scheduler.taking() == 2

    world.settle()

    assert states(world) == ["draining", "draining", "ready", "ready"]
    for job in jobs:
        answer(world, job)
    assert numbers(world) == [3, 4]


def test_restart_replaces_a_worker_that_is_just_starting_once_it_is_ready() -> None:
    world = World(1)
    world.decide("start_all")
    world.decide("restart")
    world.claim()
    assert states(world) == ["starting"]

    world.settle()

    assert numbers(world) == [2]


def test_a_worker_that_dies_or_is_drained_before_its_turn_is_not_restarted() -> None:
    world = ready(3)
    world.decide("restart")
    die(world, world.up()[2])
    world.settle()

    assert numbers(world) == [4, 5, 6]


def test_if_the_new_workers_die_the_old_ones_stay() -> None:
    world = ready(2, backoff=(0.1, 1.0, 3))
    many(world, 2)
    world.decide("restart")
    break_starts(world, 3)
    world.advance(100.0)
    world.settle()

    assert numbers(world) == [1, 2]
    assert states(world) == ["ready", "ready"]
    answer(world, world.jobs[0])
    assert submit(world).worker is not None


def test_an_idle_old_worker_that_stays_gets_requests() -> None:
    world = ready(1, backoff=(0.1, 1.0, 1))
    world.decide("restart")
    break_starts(world, 1)

    assert submit(world).worker is world.up()[0]
    assert states(world) == ["ready"]


def test_restart_tries_again_after_one_that_was_broken() -> None:
    world = ready(2, backoff=(0.1, 1.0, 1))
    world.decide("restart")
    break_starts(world, 1)
    world.advance(100.0)
    world.act("look")
    assert numbers(world) == [1, 2]

    world.act("restart")
    for _ in range(4):
        answer(world, submit(world))

    assert min(numbers(world)) > 2
    assert states(world) == ["ready", "ready"]


def test_no_more_old_workers_stay_than_there_may_be() -> None:
    world = ready(2, max_requests=3, backoff=(0.1, 1.0, 1), per_worker=2)
    first, second = world.up()
    for worker in (first, second):
        worker.state = State.RETIRING
    world.decide("mend")
    world.claim()
    assert states(world) == ["retiring", "retiring", "starting", "starting"]

    world.start(world.to_start()[0], is_ready=False)
    world.settle(starts=False)
    world.check()

    assert states(world) == ["ready", "retiring", "starting"]


def test_a_worker_that_is_too_old_stays_while_the_new_ones_die_and_goes_afterwards() -> None:
    world = ready(1, backoff=(0.1, 1.0, 1), max_lifetime=60.0)
    world.advance(60.0)
    break_starts(world, 1)
    world.advance(100.0)
    world.act("look")
    assert (numbers(world), states(world)) == ([1], ["ready"])

    world.act("start_all")

    assert numbers(world) == [3]


# Resizing.


def test_resize_starts_what_is_missing_if_the_pool_was_started() -> None:
    world = ready(1)
    world.act("resize", 3)
    assert len(world.up()) == 3

    unused = World(1)
    unused.act("resize", 3)
    assert unused.up() == []
    many(unused, 3)
    assert len(unused.up()) == 3


def test_resize_ends_those_that_start_first_and_then_those_that_have_least_to_do() -> None:
    world = ready(4, workers=3, per_worker=2)
    busy = many(world, 3)
    answer(world, busy.pop())
    world.decide("start_all")
    world.claim()
    assert states(world) == ["ready", "ready", "ready", "starting"]

    world.act("resize", 2)

    assert states(world) == ["ready", "ready"]
    assert sorted(numbers(world)) == sorted(job.worker.number for job in busy)  # type: ignore


def test_workers_that_are_too_many_answer_what_they_have() -> None:
    world = ready(2)
    jobs = many(world, 2)
    world.act("resize", 1)
    assert sorted(states(world)) == ["draining", "ready"]

    for job in jobs:
        answer(world, job)

    assert [job.outcome for job in jobs] == ["ok", "ok"]
    assert states(world) == ["ready"]


def test_a_pool_of_no_workers_is_unavailable_to_those_who_wait_as_well() -> None:
    world = ready(1)
    running, waiting = many(world, 2)
    world.act("resize", 0)

    assert waiting.outcome is Reason.UNAVAILABLE
    assert submit(world).outcome is Reason.UNAVAILABLE
    answer(world, running)
    assert states(world) == []


def test_resize_to_none_ends_a_worker_that_is_being_replaced() -> None:
    world = ready(1)
    world.decide("restart")
    world.act("resize", 0)

    assert states(world) == []


# The end.


def test_a_closed_pool_takes_nothing_and_sees_the_rest_to_its_end() -> None:
    world = ready(1)
    running, waiting = many(world, 2)
    world.act("close")
    assert submit(world).outcome is Reason.CLOSED
    answer(world, running)
    answer(world, waiting)

    assert (running.outcome, waiting.outcome) == ("ok", "ok")
    assert world.scheduler.is_quiet


def test_a_closed_pool_starts_workers_for_those_who_wait_only() -> None:
    world = ready(2, max_lifetime=60.0)
    jobs = many(world, 3, retries=1)
    world.act("close")
    die(world, jobs[0].worker)
    assert jobs[0].outcome == "lost", "there are no retries any more"
    world.settle()
    assert [worker.number for worker in jobs[2].sent_to] == [3]

    die(world, jobs[1].worker)
    answer(world, jobs[2])
    world.advance(100.0)
    world.settle()

    assert numbers(world) == [3]


def test_abort_fails_what_waits_and_what_was_to_wait_again() -> None:
    world = ready(1, per_worker=2)
    running, refused, waiting = many(world, 3)
    world.act("abort")
    assert waiting.outcome is Reason.CLOSED
    world.act("refuse", refused.worker, refused)
    assert refused.outcome is Reason.CLOSED
    assert running.outcome is None

    world.decide("end_all")
    world.decide("end_all")
    world.settle()

    assert running.outcome == "lost"
    assert (states(world), len(world.workers)) == ([], 1)


def test_what_nobody_has_sent_yet_is_closed_with_the_workers() -> None:
    world = ready(1)
    job = world.submit()
    world.decide("abort")
    world.decide("end_all")
    world.settle()

    assert (job.outcome, job.sent_to) == (Reason.CLOSED, [])
    assert [worker.has_gone for worker in world.workers] == [True]


def test_a_worker_that_was_starting_at_the_end_is_not_taken_for_ready() -> None:
    world = World(1)
    world.decide("start_all")
    world.claim()
    starting: FakeWorker = world.to_start()[0]
    world.decide("abort")
    world.decide("end_all")
    world.decide("ready", starting)
    assert starting.state is State.ENDING
    world.settle()
    world.decide("ready", starting)

    assert states(world) == []


def test_are_over_looks_at_those_that_were_asked_until_then_only() -> None:
    world = ready(2)
    early, late = many(world, 2)
    scheduler = world.scheduler
    assert not scheduler.are_over(early.number)

    answer(world, early)
    assert scheduler.are_over(early.number)
    assert not scheduler.are_over(scheduler.last_number)

    world.act("cancel", late)
    assert not scheduler.are_over(late.number), "its worker is busy with it"
    answer(world, late)
    assert scheduler.are_over(scheduler.last_number)


# Memory.


def test_requests_that_are_over_are_not_kept_until_their_deadline() -> None:
    world = ready(1)
    for _ in range(300):
        submit(world, 1000.0)
    assert len(world.scheduler._deadlines) == 299
    for job in world.jobs[:290]:
        answer(world, job)
    assert len(world.scheduler._deadlines) < 100
    for job in world.jobs[290:]:
        answer(world, job)

    assert world.scheduler._deadlines == []


# After an interrupt.


def test_mending_keeps_what_the_records_say() -> None:
    world = ready(2)
    jobs = many(world, 4, 60.0)
    scheduler = world.scheduler
    scheduler.waiting.clear()
    scheduler._deadlines.clear()
    for worker in scheduler.workers:
        worker.jobs = {}
    scheduler.mend()
    world.look_if_due()

    assert [*scheduler.waiting] == jobs[2:]
    assert [job.worker for job in jobs[:2]] == [*reversed(world.up())]
    world.check()


def test_mending_takes_back_what_nobody_has_sent_to_a_worker_that_ends() -> None:
    world = ready(1)
    job = world.submit()
    world.up()[0].state = State.ENDING
    world.scheduler.mend()
    world.look_if_due()
    world.settle()

    assert [worker.number for worker in job.sent_to] == [2]


def test_mending_forgets_what_has_ended_and_a_look_ends_a_worker_that_has_nothing_to_do() -> None:
    world = ready(1)
    job: Job = submit(world)
    job.has_ended, job.worker = True, None
    world.up()[0].state = State.DRAINING
    world.scheduler.mend()
    world.look_if_due()

    assert world.scheduler.is_quiet
    assert states(world)[0] == "ending"
