"""The results, as text and as JSON."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from .runner import Goal, Metric, Result, Verdict, Workload

NOTABLE = 0.05
"""Load by others, from which on the table mentions it."""

DISTRIBUTIONS = (
    *("execnet", "rpyc", "python-lsp-jsonrpc", "Pyro5", "numpy"),
    *("joblib", "loky", "pebble"),
)


def lines(
    workload: Workload, results: list[Result], verdicts: list[Verdict], others: float
) -> Iterator[str]:
    """Yield the part of the table that shows one workload.

    A row shows the median over the rounds, its range, the ratio of streamipc's median to
    it, and the medians of the other metrics. ``others`` is how busy other processes kept
    the machine.
    """
    main, *further = workload.metrics
    ours = results[0].median(main.name)
    busy = f"  (others kept the CPUs {others:.0%} busy)" if others > NOTABLE else ""
    yield f"{workload.title}  [{workload.name}]{busy}"
    for result in results:
        name = f"{result.entry.name}{' (limit)' if result.entry.role == 'limit' else ''}"
        value = result.median(main.name)
        if value is None:
            yield f"  {name:<28} {result.missing or 'failed: ' + str(result.error)}"
            continue
        values = result.values(main.name)
        spread = f"{number(min(values))}..{number(max(values))}"
        row = f"  {name:<28} {number(value):>9} {main.unit:<6} {spread:<18}"
        row += f" {'':>7}" if result is results[0] or not ours else f" {ours / value:>6.2f}×"
        more = [also(result, metric) for metric in further]
        if result.entry.lacks:
            more.append(f"no {result.entry.lacks}")
        yield f"{row}  {'; '.join(filter(None, more))}".rstrip()
    for verdict in verdicts:
        yield f"  {told(workload, verdict)}"
    yield ""


def also(result: Result, metric: Metric) -> str:
    value = result.median(metric.name)
    return "" if value is None else f"{metric.name} {number(value)} {metric.unit}"


def told(workload: Workload, verdict: Verdict) -> str:
    """Return a line that says what the goal is and how it was met."""
    mark = {True: "met", False: "NOT MET", None: "nothing to compare with"}[verdict.met]
    text = f"-> goal {goal_text(workload, verdict.goal, verdict.against)}: "
    if verdict.value is None or verdict.low is None or verdict.high is None:
        return text + mark
    spread = f"{number(verdict.low)}..{number(verdict.high)}"
    return f"{text}{number(verdict.value)} ({spread})  {mark}"


def goal_text(workload: Workload, goal: Goal, against: str | None) -> str:
    """Return the goal in words, such as ``p50 ≤ 0.6 × raw pipe``."""
    sign = "≤" if goal.most is not None else "≥"
    bound = goal.most if goal.most is not None else goal.least
    assert bound is not None
    text = f"{goal.metric} {sign} "
    unit = workload.metric(goal.metric).unit
    if not goal.of:
        return f"{text}{number(bound)} {unit}"
    best = against or " or ".join(goal.of)
    if len(goal.of) > 1:
        best = f"the best peer ({best})"
    if goal.minus:
        return f"{text}{best} + {number(bound)} {unit}"
    return f"{text}{bound:g} × {best}"


def number(value: float) -> str:
    """Return a number with three digits or so."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def machine() -> dict[str, Any]:
    """Return where and when this was measured."""
    from streamipc import __version__

    versions = {"streamipc": __version__}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "command": " ".join(["python -m tests.benchmarks", *sys.argv[1:]]),
        "versions": versions,
    }


def cpu_model() -> str:
    """Return the processor's name; see proc_cpuinfo(5)."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def as_json(workload: Workload, results: list[Result], verdicts: list[Verdict]) -> dict[str, Any]:
    """Return one workload's results for the JSON file."""
    return {
        "name": workload.name,
        "title": workload.title,
        "metrics": {m.name: {"unit": m.unit, "better": m.better} for m in workload.metrics},
        "entries": [
            {
                "name": result.entry.name,
                "role": result.entry.role,
                "lacks": result.entry.lacks,
                "missing": result.missing,
                "error": result.error,
                "medians": {m.name: result.median(m.name) for m in workload.metrics},
                "rounds": result.samples,
            }
            for result in results
        ],
        "goals": [
            {
                "goal": goal_text(workload, verdict.goal, verdict.against),
                "value": verdict.value,
                "lowest": verdict.low,
                "highest": verdict.high,
                "met": verdict.met,
            }
            for verdict in verdicts
        ],
    }


def markdown(report: dict[str, Any]) -> Iterator[str]:
    """Yield the table of the README from what the JSON file holds: one row for a workload.

    A cell shows the median; behind it, for streamipc, the range over the rounds.
    """
    yield "| workload | streamipc | limits | others |"
    yield "| --- | --- | --- | --- |"
    for workload in report["workloads"]:
        metric = next(iter(workload["metrics"]))
        unit = workload["metrics"][metric]["unit"]
        cells: dict[str, list[str]] = {"ours": [], "limit": [], "peer": []}
        for entry in workload["entries"]:
            value = entry["medians"][metric]
            if value is None:
                continue
            values = [one[metric] for one in entry["rounds"]]
            if entry is workload["entries"][0]:
                spread = f"{number(min(values))}..{number(max(values))}"
                cells["ours"].append(f"**{number(value)} {unit}** ({spread})")
            else:
                column = "ours" if entry["role"] == "ours too" else entry["role"]
                cells[column].append(f"{entry['name']} {number(value)}")
        row = (", ".join(cells[column]) for column in ("ours", "limit", "peer"))
        yield f"| {workload['title']} | {' | '.join(row)} |"
