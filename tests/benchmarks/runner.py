"""Workloads, their entries and goals, and the loop that measures them in turns.

One round of a workload measures each of its entries once, in a process that is started for
it; the order rotates from round to round. So drift of the machine hits all entries alike,
and a ratio is taken between figures of the same round.
"""

from __future__ import annotations

import importlib.util
import signal
import statistics
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Entry", "Goal", "Metric", "Result", "Size", "Verdict", "Workload", "measure_workload"]

OURS = "streamipc"
"""The name of the entry that goals are about."""

Sample = dict[str, float]
"""The figures of one measurement, by metric."""


@dataclass(frozen=True)
class Size:
    """How much to measure: seconds for loops by time, a factor for loops by count."""

    seconds: float
    scale: float

    def count(self, full: int) -> int:
        """Return how often to do what a full run does ``full`` times."""
        return max(2, int(full * self.scale))

    def named(self, full: int) -> int:
        """Return a number that a title names: it is that, unless nothing is to be proved."""
        return full if self.scale >= QUICK.scale else self.count(full)


PATIENCE = 60.0
"""Seconds that one measurement may take."""

FULL = Size(seconds=0.4, scale=1.0)
QUICK = Size(seconds=0.15, scale=0.2)
SMOKE = Size(seconds=0.01, scale=0.001)


@dataclass(frozen=True)
class Metric:
    """A kind of figure: its name, its unit, and which direction is good."""

    name: str
    unit: str
    better: str = "lower"

    def best(self, values: Sequence[float]) -> float:
        """Return the best of several values."""
        return min(values) if self.better == "lower" else max(values)


@dataclass(frozen=True)
class Entry:
    """One library, or one limit, in one workload.

    Args:
        name: as it stands in the table.
        measure: does it once and returns the figures.
        role: ``"ours"``, ``"ours too"`` (in another setting), ``"peer"`` or ``"limit"``.
        needs: the modules without which it can't run, with spaces between.
        lacks: what it does not do that streamipc does here.
    """

    name: str
    measure: Callable[[Size], Sample]
    role: str = "peer"
    needs: str = ""
    lacks: str = ""


@dataclass(frozen=True)
class Goal:
    """What a metric of streamipc's should be, by itself or against other entries.

    Args:
        metric: which one.
        most, least: the bound; one of the two.
        of: names of entries; the bound is a factor on the best of them.
        minus: with ``of``: the bound is on the difference instead.
    """

    metric: str
    most: float | None = None
    least: float | None = None
    of: tuple[str, ...] = ()
    minus: bool = False

    def met(self, value: float) -> bool:
        """Tell whether ``value`` keeps the bound."""
        if self.most is not None:
            return value <= self.most
        return self.least is not None and value >= self.least


@dataclass(frozen=True)
class Workload:
    """One row of the comparison."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    entries: tuple[Entry, ...]
    goals: tuple[Goal, ...] = ()

    def metric(self, name: str) -> Metric:
        """Return one of its metrics."""
        return next(metric for metric in self.metrics if metric.name == name)


@dataclass
class Result:
    """What was measured for one entry: a sample for each round, or why there is none."""

    entry: Entry
    samples: list[Sample] = field(default_factory=list)
    missing: str | None = None
    error: str | None = None

    def values(self, metric: str) -> list[float]:
        """Return one metric of every round."""
        return [sample[metric] for sample in self.samples if metric in sample]

    def median(self, metric: str) -> float | None:
        """Return the median over the rounds; ``None`` if it was not measured."""
        values = self.values(metric)
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Verdict:
    """How a goal was met: the ratio of medians, and its range over the rounds."""

    goal: Goal
    against: str | None
    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def met(self) -> bool | None:
        """``None`` if there was nothing to compare with."""
        return None if self.value is None else self.goal.met(self.value)


def measure_workload(workload: Workload, size: Size, rounds: int) -> list[Result]:
    """Measure all entries of a workload, in turns."""
    results = [Result(entry) for entry in workload.entries]
    for result in results:
        for name in result.entry.needs.split():
            if importlib.util.find_spec(name) is None:
                result.missing = f"{name} is not installed"
    runnable = [result for result in results if result.missing is None]
    for number in range(rounds if runnable else 0):
        turn = number % len(runnable)
        for result in runnable[turn:] + runnable[:turn]:
            if result.error is not None:
                continue
            try:
                with _at_most(PATIENCE):
                    result.samples.append(result.entry.measure(size))
            except Exception as error:
                # One that fails must not take the others' figures with it.
                result.error = f"{type(error).__name__}: {error}"
                print(f"{workload.name}, {result.entry.name}:", file=sys.stderr)
                traceback.print_exc()
    return results


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise in the main thread what ends a measurement that hangs."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(workload: Workload, results: list[Result]) -> list[Verdict]:
    """Compare what was measured with the workload's goals."""
    by_name = {result.entry.name: result for result in results}
    return [_judge(workload, goal, by_name) for goal in workload.goals]


def _judge(workload: Workload, goal: Goal, results: dict[str, Result]) -> Verdict:
    ours = results[OURS].values(goal.metric)
    if not ours:
        return Verdict(goal, None, None)
    if not goal.of:
        return Verdict(goal, None, statistics.median(ours), min(ours), max(ours))
    medians = {name: results[name].median(goal.metric) for name in goal.of if name in results}
    measured = {name: value for name, value in medians.items() if value is not None}
    if not measured:
        return Verdict(goal, None, None)
    best = workload.metric(goal.metric).best(list(measured.values()))
    against = next(name for name, value in measured.items() if value == best)
    pairs = list(zip(ours, results[against].values(goal.metric), strict=False))
    if goal.minus:
        each = [mine - other for mine, other in pairs]
        value = statistics.median(ours) - best
    else:
        each = [mine / other for mine, other in pairs]
        value = statistics.median(ours) / best
    return Verdict(goal, against, value, min(each), max(each))
