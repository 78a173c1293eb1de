"""Pools of workers: small requests, large arrays, and nothing at all."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from .. import measure
from ..contestants import pools
from ..contestants.pools import PoolOpener, caller_of
from ..runner import FULL, OURS, Entry, Goal, Metric, Sample, Size, Workload
from .bulk import make_array
from .calls import CPU, P50, P99, one_caller
from .start import asleep

WORKERS = 2
REQUESTS = 10_000

ARRAYS = 100
ARRAY_BYTES = 10_000_000
WINDOW = 4
"""Arrays that are on their way at the same time: more would measure the memory."""

IDLE_WORKERS = 4
IDLE_SECONDS = 4.0

EXECUTOR = "ProcessPoolExecutor"
APPLY_ASYNC = "… Pool.apply_async()"
SESSIONS = "two sessions in turn"


def number_of(reply: Any) -> int:
    number: int = reply[0] if isinstance(reply, tuple) else reply.number
    return number


def small(
    ask: Callable[[pools.Pool, int], Iterable[Any]], opener: PoolOpener, size: Size
) -> Sample:
    """Ask many times; return the time for each."""
    count = size.named(REQUESTS)
    with opener(WORKERS) as pool:
        start = time.perf_counter()
        replies = list(ask(pool, count))
        took = time.perf_counter() - start
    if [number_of(reply) for reply in replies] != list(range(1, count + 1)):
        raise AssertionError("wrong replies")
    return {"each": took / count * 1e6}


def by_futures(pool: pools.Pool, count: int) -> Iterable[Any]:
    assert pool.ask is not None
    return map(pool.collect, [pool.ask(number) for number in range(count)])


def by_map(pool: pools.Pool, count: int) -> Iterable[Any]:
    assert pool.ask_all is not None
    return pool.ask_all(count)


def one_at_a_time(pool: pools.Pool, count: int) -> Iterable[Any]:
    """Ask a worker again when it has answered."""
    assert pool.ask is not None
    return window(pool, pool.ask, range(count), len(pool.pids))


def window(
    pool: pools.Pool, ask: Callable[[Any], Any], what: Iterable[Any], width: int
) -> Iterable[Any]:
    """Yield the replies, in order; so many requests are on their way."""
    pending: deque[Any] = deque()
    for one in what:
        if len(pending) == width:
            yield pool.collect(pending.popleft())
        pending.append(ask(one))
    while pending:
        yield pool.collect(pending.popleft())


def tiny(
    opener: PoolOpener, ask: Callable[[pools.Pool, int], Iterable[Any]] = by_futures
) -> Callable[[Size], Sample]:
    return partial(small, ask, opener)


def call(opener: PoolOpener) -> Callable[[Size], Sample]:
    return one_caller(partial(caller_of, opener))


def arrays(opener: PoolOpener, both_ways: bool) -> Callable[[Size], Sample]:
    """Return what measures the time for each of many large arrays."""

    def run(size: Size) -> Sample:
        count = size.named(ARRAYS)
        length = max(size.named(ARRAY_BYTES), 1 << 13) & ~7
        data = [make_array(length) for _ in range(WINDOW)]
        with opener(WORKERS) as pool:
            ask = pool.give_back if both_ways else pool.weigh
            assert ask is not None

            def transfer(count: int) -> float:
                start = time.perf_counter()
                what = (data[number % WINDOW] for number in range(count))
                for reply in window(pool, ask, what, WINDOW):
                    weight = reply.nbytes if both_ways else reply
                    if weight != length:
                        raise AssertionError(f"{weight} of {length} bytes came")
                return time.perf_counter() - start

            transfer(2 * WINDOW)  # workers import numpy for the first one
            return {"each": transfer(count) / count * 1e3}

    return run


def idle(opener: PoolOpener) -> Callable[[Size], Sample]:
    """Return what measures the CPU time of a pool that has nothing to do, all processes."""

    def run(size: Size) -> Sample:
        seconds = IDLE_SECONDS * size.seconds / FULL.seconds
        with opener(IDLE_WORKERS) as pool:

            def used() -> float:
                return sum(map(measure.cpu_seconds, [os.getpid(), *pool.pids]))

            time.sleep(seconds / 10)  # what follows the last reply is not idleness
            before = used()
            time.sleep(seconds)
            return {"cpu": (used() - before) / seconds * 100}

    return run


def open_with_numpy(size: int) -> AbstractContextManager[pools.Pool]:
    return pools.open_ours(size, "numpy")


def bulk_entries(both_ways: bool) -> tuple[Entry, ...]:
    return (
        Entry(OURS, arrays(open_with_numpy, both_ways), role="ours", needs="numpy"),
        Entry(EXECUTOR, arrays(pools.open_executor, both_ways), needs="numpy"),
        Entry("multiprocessing.Pool", arrays(pools.open_multiprocessing, both_ways), needs="numpy"),
        Entry("loky", arrays(pools.open_loky, both_ways), needs="loky numpy"),
    )


WORKLOADS = (
    Workload(
        "pool-tiny",
        "10,000 small requests to a pool of 2",
        (Metric("each", "µs"),),
        (
            Entry(OURS, tiny(pools.open_ours), role="ours"),
            Entry("map()", tiny(pools.open_ours, by_map), role="ours too"),
            Entry(
                "per_worker=16",
                tiny(partial(pools.open_ours, per_worker=16)),
                role="ours too",
            ),
            Entry(SESSIONS, tiny(pools.open_sessions), role="limit", lacks="restarts, queue"),
            Entry(
                "…, one request at a time",
                tiny(pools.open_sessions, one_at_a_time),
                role="limit",
                lacks="restarts, queue",
            ),
            Entry(EXECUTOR, tiny(pools.open_executor), lacks="deadlines, restarts"),
            Entry(
                "multiprocessing.Pool.imap()",
                tiny(pools.open_multiprocessing, by_map),
                lacks="deadlines; an answer if a worker dies",
            ),
            Entry(
                APPLY_ASYNC,
                tiny(pools.open_multiprocessing),
                lacks="deadlines; an answer if a worker dies",
            ),
            Entry("loky", tiny(pools.open_loky), needs="loky", lacks="deadlines"),
            Entry("pebble", tiny(pools.open_pebble), needs="pebble", lacks="types"),
            Entry(
                "joblib, in batches",
                tiny(pools.open_joblib, by_map),
                needs="joblib",
                lacks="futures, deadlines",
            ),
        ),
        (Goal("each", most=1.5, of=(SESSIONS,)), Goal("each", most=1.0, of=(APPLY_ASYNC,))),
    ),
    Workload(
        "pool-call",
        "one caller, small message, a pool of 1",
        (P50, P99, CPU),
        (
            Entry(OURS, call(pools.open_ours), role="ours"),
            Entry("a session", call(pools.open_sessions), role="limit", lacks="restarts"),
            Entry(EXECUTOR, call(pools.open_executor), lacks="deadlines, restarts"),
            Entry(
                "multiprocessing.Pool.apply()",
                call(pools.open_multiprocessing),
                lacks="deadlines; an answer if the worker dies",
            ),
            Entry("loky", call(pools.open_loky), needs="loky", lacks="deadlines"),
            Entry("pebble", call(pools.open_pebble), needs="pebble", lacks="types"),
        ),
        (Goal("p50", most=1.0, of=(EXECUTOR, "multiprocessing.Pool.apply()")),),
    ),
    Workload(
        "pool-bulk-in",
        "100 numpy arrays of 10 MB to a pool of 2, small replies",
        (Metric("each", "ms"),),
        bulk_entries(both_ways=False),
        (Goal("each", most=0.4, of=(EXECUTOR,)),),
    ),
    Workload(
        "pool-bulk-both",
        "100 numpy arrays of 10 MB to a pool of 2 and back",
        (Metric("each", "ms"),),
        bulk_entries(both_ways=True),
        (Goal("each", most=0.5, of=(EXECUTOR,)),),
    ),
    Workload(
        "pool-idle",
        "an idle pool of 4, all processes",
        (Metric("cpu", "%"),),
        (
            Entry(OURS, idle(pools.open_ours), role="ours"),
            Entry("a sleeping process", asleep, role="limit"),
            Entry(EXECUTOR, idle(pools.open_executor)),
            Entry("multiprocessing.Pool", idle(pools.open_multiprocessing)),
            Entry("loky", idle(pools.open_loky), needs="loky"),
            Entry("pebble", idle(pools.open_pebble), needs="pebble"),
        ),
        (Goal("cpu", most=0.1),),
    ),
)
