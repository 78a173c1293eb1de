"""Loops and clocks."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WARM_UP = 0.2
"""Part of a measurement's time that is spent before it, unmeasured."""

_CLOCKS_OF_PROCESSES = 2
"""CPUCLOCK_SCHED of Linux; what clock_getcpuclockid(3) puts into a clock's id."""


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, user and system, to the microsecond; Linux only."""
    return time.clock_gettime((~pid << 3) | _CLOCKS_OF_PROCESSES)


def latencies(call: Callable[[], object], seconds: float, pause: float = 0.0) -> list[float]:
    """Call again and again for so many seconds; return the seconds that each call took."""
    clock = time.perf_counter
    took: list[float] = []
    end = clock() + seconds
    while True:
        start = clock()
        call()
        stop = clock()
        took.append(stop - start)
        if stop >= end:
            return took
        if pause:
            time.sleep(pause)


def _cpu_of_both(pid: int) -> float:
    me = os.getpid()
    return time.process_time() + (cpu_seconds(pid) if pid != me else 0.0)


def percentile(values: list[float], percent: float) -> float:
    """Return the value that ``percent`` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def calls(
    call: Callable[[], object], pid: int, seconds: float, pause: float = 0.0
) -> dict[str, float]:
    """Return median and p99 latency and CPU time per call, of both processes, in µs."""
    latencies(call, seconds * WARM_UP, pause)
    before = _cpu_of_both(pid)
    took = latencies(call, seconds, pause)
    after = _cpu_of_both(pid)
    return {
        "p50": statistics.median(took) * 1e6,
        "p99": percentile(took, 99) * 1e6,
        "cpu": (after - before) / len(took) * 1e6,
    }


def from_threads(
    make_call: Callable[[], Callable[[], object]], threads: int, seconds: float
) -> dict[str, float]:
    """Call from several threads at once; return throughput and latencies of all calls."""
    took: list[list[float]] = []
    failures: list[BaseException] = []
    ready = threading.Barrier(threads)

    def work() -> None:
        try:
            call = make_call()
            latencies(call, seconds * WARM_UP)
            ready.wait()
            took.append(latencies(call, seconds))
        except BaseException as error:
            failures.append(error)
            ready.abort()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    every = [one for part in took for one in part]
    p50, p99 = percentile(every, 50), percentile(every, 99)
    return {
        "rate": len(every) / seconds,
        "p50": p50 * 1e6,
        "p99": p99 * 1e6,
        "p99/p50": p99 / p50,
    }


def in_flight(
    submit: Callable[[int], Any], collect: Callable[[Any], object], window: int, seconds: float
) -> dict[str, float]:
    """Keep ``window`` requests under way from this thread; return requests per second."""

    def run(seconds: float) -> float:
        pending: deque[Any] = deque(submit(number) for number in range(window))
        done, start = 0, time.perf_counter()
        end = start + seconds
        while time.perf_counter() < end:
            for _ in range(window):
                collect(pending.popleft())
                pending.append(submit(done))
                done += 1
        while pending:
            collect(pending.popleft())
            done += 1
        return done / (time.perf_counter() - start)

    run(seconds * WARM_UP)
    return {"rate": run(seconds)}


class OtherLoad:
    """How busy other processes keep the CPUs while we measure."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._before = self._others()

    def share(self) -> float:
        """Return the part of all CPU time that others took since this was made, 0 to 1."""
        seconds = (time.perf_counter() - self._start) * (os.cpu_count() or 1)
        return max(0.0, (self._others() - self._before) / seconds)

    @staticmethod
    def _others() -> float:
        """Return the seconds that all processes took, less ours and our children's."""
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
        ticks = user + nice + system + irq + softirq
        return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


@contextmanager
def apart(pid: int) -> Iterator[None]:
    """Bind this process to one CPU and another process to a second one, where there are two.

    A scheduler with an idle CPU does the same. With other load about it may put both on one
    CPU instead, where a blocking ping-pong is several times faster, and the figures of
    different rounds, or libraries, could not be compared.
    """
    usable = os.sched_getaffinity(0)
    if len(usable) > 1:
        first, second, *_ = sorted(usable)
        _bind(os.getpid(), {first})
        _bind(pid, {second})
    try:
        yield
    finally:
        _bind(os.getpid(), usable)


def _bind(pid: int, cpus: set[int]) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(thread), cpus)
        except ProcessLookupError:
            pass  # it has ended since


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """Bind this thread, and what it starts, to one CPU, as ``taskset`` does."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)
