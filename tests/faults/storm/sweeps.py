"""Sweeps: all the trials of an operation, each process of trials after the other, and a table."""

from __future__ import annotations

import dataclasses
import re
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from .processes import Speaker
from .trials import Spec

__all__ = ["Fault", "Tally", "sweep", "table"]


@dataclasses.dataclass
class Fault:
    """One fault at one point.

    Args:
        what: happened.
        place: of the last interruption, or where the process hung.
        case: the point, and so on.
        detail: the threads of a process that hung.
    """

    what: str
    place: str
    case: dict[str, Any]
    detail: str = ""


@dataclasses.dataclass
class Tally:
    """What a sweep has seen.

    Args:
        spec: of the sweep.
        points: that were reached.
        trials: that interrupted something.
        places: all lines at which something was interrupted.
        faults: one for each thing that did not hold.
        failed: trials with a fault.
        seconds: that it took.
    """

    spec: Spec
    points: set[int] = dataclasses.field(default_factory=set)
    trials: int = 0
    places: set[str] = dataclasses.field(default_factory=set)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0

    def title(self) -> str:
        """Return what was swept."""
        spec = self.spec
        crowd = ", crowd" if spec.crowd else ""
        engine = ", engine's threads" if spec.engine else ""
        second = f", gaps {spec.gaps}" if any(spec.gaps) else ""
        where = f"{spec.session}, {spec.serializer}{crowd}{engine}"
        return f"{spec.operation} ({where}), {spec.cause}{second}"

    def verdict(self) -> str:
        """Return one line of numbers."""
        kinds = Counter(kind(fault.what) for fault in self.faults)
        said = "; ".join(f"{text} {count}" for text, count in kinds.most_common())
        return (
            f"{self.title()}: {self.trials} interrupted at {len(self.points)} points, "
            f"{self.failed} failed, {self.seconds:.0f} s" + (f": {said}" if said else "")
        )


def kind(what: str) -> str:
    """Return a fault less what differs from one to the next."""
    return re.sub(r"\d+", "n", what.replace(f"{__package__}.", "")).partition(": the child")[0][:99]


def sweep(spec: Spec, seconds: float = 1e9, most_faults: int = 1_000_000) -> Tally:
    """Make the trials of a specification; stop early after so many seconds, or faults."""
    tally = Tally(spec)
    begun, begin = time.monotonic(), spec.begin
    while begin >= 0 and len(tally.faults) < most_faults:
        left = seconds - (time.monotonic() - begun)
        if left <= 0:
            break
        begin = _run(dataclasses.replace(spec, begin=begin), tally, left, most_faults)
    tally.seconds = time.monotonic() - begun
    return tally


def _run(spec: Spec, tally: Tally, seconds: float, most_faults: int) -> int:
    """Run one process of trials; return the case to go on with, or -1."""
    end = time.monotonic() + seconds
    case: dict[str, Any] = {}
    begun = False
    with Speaker.started(f"{__package__}.trials", spec) as process:
        for said in process:
            if "done" in said:
                return -1
            if "begin" in said:
                case, begun = said["begin"], True
                continue
            begun = False
            _enter(tally, case, said)
            if time.monotonic() > end or len(tally.faults) >= most_faults:
                return -1
        if begun or not case:
            detail = process.last_words
            what = "hangs" if "Timeout (" in detail else "process died"
            tally.faults.append(Fault(what, _hanging_at(detail), case, detail))
            tally.failed += 1
    return case["number"] + 1 if case else -1


def _enter(tally: Tally, case: dict[str, Any], said: dict[str, Any]) -> None:
    places = said["places"]
    if places:
        tally.trials += 1
        tally.points.add(case["point"])
        tally.places.update(places)
    where = " then ".join(places) or "not interrupted"
    tally.faults.extend(Fault(what, where, case) for what in said["faults"])
    tally.failed += bool(said["faults"])


def _hanging_at(detail: str) -> str:
    """Return the innermost line of the library in the main thread, which comes last."""
    main = detail.rpartition("(most recent call first)")[2]
    found = re.search(r'streamipc/([\w/]+\.py)", line (\d+) in (\w+)', main)
    return f"{found[1]}:{found[2]} {found[3]}" if found else "unknown"


def table(tallies: Iterable[Tally], most: int = 1_000_000) -> str:
    """Return the failing points by place, the most frequent ones first.

    Each row says at which point k it was first seen, for three operations at the most, and what
    the signal handlers had raised.
    """
    rows: dict[tuple[str, str], list[tuple[str, Fault]]] = {}
    for tally in tallies:
        for fault in tally.faults:
            row = rows.setdefault((fault.place, kind(fault.what)), [])
            row.append((f"{tally.spec.session} {tally.spec.operation}", fault))
    lines = []
    for (place, what), faults in sorted(rows.items(), key=lambda row: -len(row[1]))[:most]:
        first = {name: fault.case.get("point", 0) for name, fault in reversed(faults)}
        shown = ", ".join(f"{name} k={point}" for name, point in list(first.items())[-3:])
        kinds = ", ".join(sorted({fault.case.get("kind", "") for _, fault in faults}))
        lines.append(f"{len(faults):5}  {place}: {what}  [{shown}; {kinds}]")
    return "\n".join(lines)
