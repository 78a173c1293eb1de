"""Worker pools in every order of events: what the scheduler decides keeps its promises.

No process, no thread, no clock: ``pool_world`` simulates them, and the state machine picks what
happens next: a worker dies in its start, or with requests that nobody has told it of, requests are
cancelled, late, refused, the pool is resized, restarted, closed. Held against DESIGN.md: no request
is lost, ends twice or is given to two workers unless that is allowed; none waits while a worker has
room; and each is so again after an exception of a signal's handler, wherever it comes.
"""

from __future__ import annotations

import pickle
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from pool_world import World

from streamipc.pool.scheduler import Reason

OPTIONS = st.fixed_dictionaries(
    {
        "size": st.sampled_from([1, 2, 2, 3, 4, 0]),
        "per_worker": st.sampled_from([1, 1, 2, 3]),
        "max_requests": st.sampled_from([None, None, 1, 3, 12]),
        "max_lifetime": st.sampled_from([None, None, 3.0]),
        "backoff": st.sampled_from([(0.1, 30.0, 5), (1.0, 4.0, 2), (0.5, 0.5, 1)]),
        "wait": st.sampled_from([5.0, 1.0, 0.0]),
    }
)

SECONDS = (0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 10.0, 40.0)
TIMEOUTS = (None, None, None, 0.0, 0.3, 1.5, 20.0)
SEEDS = st.integers(0, 1 << 32)

PROCESSES = ("start", "start", "send", "send", "answer", "answer", "tell", "tell", "claim")
USERS = ("submit", "submit", "submit", "advance")
BAD = ("fail", "die", "die_unbegun", "refuse", "cancel")

ACTS = (*PROCESSES * 4, *USERS * 4, *BAD)


def pick(things: list[Any], index: int) -> list[Any]:
    return [things[index % len(things)]] if things else []


def held(world: World) -> list[Any]:
    return [(worker, job) for worker in world.up() for job in worker.held]


def fates(world: World) -> list[Any]:
    """Return what has come of each job that had a worker."""
    return [None if isinstance(job.outcome, Reason) else job.outcome for job in world.jobs]


def live(world: World, seed: int, count: int) -> None:
    """Have things happen. From a seed: there would be few of them if each was an example's."""
    chance = random.Random(seed)
    for _ in range(count):
        do(world, chance.choice(ACTS), chance)
        world.check()


def do(world: World, act: str, chance: random.Random) -> None:
    """Have something happen, if it can."""
    index = chance.randrange(24)
    if act == "submit":
        world.submit(chance.choice(TIMEOUTS), retries=index % 3)
    elif act == "advance":
        world.advance(chance.choice(SECONDS))
    elif act == "claim":
        world.claim()
    elif act == "cancel":
        for job in pick([job for job in world.jobs if job.outcome is None], index):
            world.cancel(job)
    elif act == "send":
        for job, worker in pick(world.sending, index):
            world.send(job, worker)
    elif act == "tell" and world.news:
        # Of one thing after the other, as the threads of sessions do, or all mixed up; but a
        # worker's death is known before what it has cost.
        index %= len(world.news)
        news = world.news[index]
        before = [one for one in world.news[:index] if one[0] == "gone" and one[1] is news[-1]]
        world.tell(world.news.index(before[0]) if before else index)
    elif act in ("start", "fail"):
        for worker in pick(world.to_start(), index):
            world.start(worker, act == "start")
    elif act in ("die", "die_unbegun"):
        for worker in pick(world.to_die() or world.up(), index):
            world.die(worker, act == "die_unbegun")
    elif act in ("answer", "refuse"):
        for worker, job in pick(held(world), index):
            getattr(world, act)(worker, job)


class Pools(RuleBasedStateMachine):
    """Users, processes and time, doing anything in any order."""

    world: World

    @initialize(options=OPTIONS)
    def open(self, options: Any) -> None:
        self.world = World(**options)

    @rule(seed=SEEDS, count=st.integers(1, 100))
    def life(self, seed: int, count: int) -> None:
        """What goes on all the time; in one step, so that there is much of it."""
        live(self.world, seed, count)

    @rule()
    def calm(self) -> None:
        self.world.settle()

    @rule(size=st.integers(0, 4))
    def resize(self, size: int) -> None:
        self.world.decide("resize", size)

    @rule()
    def restart(self) -> None:
        self.world.decide("restart")

    @rule(all_of_them=st.booleans())
    def start(self, all_of_them: bool) -> None:
        self.world.decide("start_all" if all_of_them else "start_one")

    @rule(sure=st.integers(0, 19), aborts=st.booleans())
    def close(self, sure: int, aborts: bool) -> None:
        if sure == 0:
            self.world.decide("close")
            if aborts:
                self.world.decide("abort")
                self.world.decide("end_all")

    @invariant()
    def all_is_well(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


def test_every_order_of_events_keeps_the_promises() -> None:
    run_state_machine_as_test(Pools, settings=settings(stateful_step_count=30))


@given(
    size=st.integers(1, 8),
    per_worker=st.integers(1, 3),
    most=st.integers(1, 8),
    seed=SEEDS,
    asks=st.booleans(),
)
def test_workers_that_all_die_are_started_a_few_times_a_minute(
    size: int, per_worker: int, most: int, seed: int, asks: bool
) -> None:
    chance = random.Random(seed)
    world = World(size, (0.1, 30.0, most), per_worker=per_worker)
    world.decide("start_all")
    while world.now < 1250.0:
        world.claim()
        for worker in world.to_start():
            world.start(worker, is_ready=chance.random() < 0.5)
        for worker in world.up():
            world.die(worker)
        world.settle(starts=False)
        world.advance(chance.choice((0.01, 0.3, 1.0)))
        if asks and chance.random() < 0.3:
            world.submit(chance.choice(TIMEOUTS), retries=1)
    # The first ones, one at once, and then after 0.1 s, 0.2 s, … 25.6 s, less what chance takes
    # off; two for each of these if one is ready, which is no answer, before it dies.
    began = [worker.started for worker in world.workers]
    assert len([at for at in began if at < 1060.0]) <= size + 22
    for end in range(1120, 1250, 10):
        assert len([at for at in began if end - 60.0 <= at < end]) <= 6
    if not asks:
        assert len(began) <= size + 2 * most, "nobody has asked"
    world.finish()


# Interrupts.

CALLS = (
    *("submit", "submit", "cancel", "tell", "tell", "tell", "start", "look", "resize", "restart"),
    *("start_all", "start_one", "close", "abort", "end_all", "mend"),
)


def call(world: World, method: str, seed: int) -> None:
    """Have the scheduler decide something: one call of one of its methods, if there is any."""
    chance = random.Random(seed)
    if method in ("submit", "cancel", "tell", "start"):
        do(world, method, chance)
    elif method == "resize":
        world.decide("resize", chance.randrange(5))
    elif method == "look":
        world.now += chance.choice(SECONDS)
        world.decide("look")
    else:
        world.decide(method)


@given(
    options=OPTIONS,
    seed=SEEDS,
    count=st.integers(1, 150),
    method=st.sampled_from(CALLS),
)
def test_an_interrupt_anywhere_changes_nothing_of_what_is_decided(
    options: Any, seed: int, count: int, method: str
) -> None:
    before = World(**options)
    live(before, seed, count)
    snapshot = pickle.dumps(before)
    undisturbed = pickle.loads(snapshot)
    call(undisturbed, method, seed)
    undisturbed.settle()
    for place in range(1, 10_000):
        world = pickle.loads(snapshot)
        world.interrupt_at = place
        call(world, method, seed)
        if not world.is_interrupted:
            return
        world.check()
        world.settle()
        world.check()
        assert fates(world) == fates(undisturbed)
        world.finish()
    raise AssertionError("there are not so many places")
