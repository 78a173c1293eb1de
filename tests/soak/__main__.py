"""``python -m tests.soak --minutes N``: mixed traffic for as long as you like, and a verdict.

Two children at a time: one lives as long as the soak, the other is started anew each round
and ended in one of several ways, at rest or in the middle of everything. After each round
the books of both sides are compared: no request, reply, item or notification may be lost,
come twice, or carry another's or a damaged payload. At the end memory, descriptors and
threads must have stayed flat (memory is judged from about two minutes on). The exit status
is 1 if anything of this is not so.

The same seed makes the same requests in the same order; how many there is time for, and how
they interleave, is the machine's business.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import sys
import time

from streamipc import IpcPeer, JsonMessageSerializer

from .checks import ENOUGH, ENOUGH_OF_MEMORY, Usage, growth, keep_no_memory, usage
from .lanes import Lane, Totals


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (1)")
    parser.add_argument("--seed", type=int, help="of an earlier run, to do the same again")
    parser.add_argument("--sabotage", help="a fault that the children are to have; see child.py")
    arguments = parser.parse_args()
    keep_no_memory()
    seed = random.SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
    logging.basicConfig(stream=sys.stderr)
    print(f"soak for {arguments.minutes:g} min, seed {seed}, Python {sys.version.split()[0]}")
    return Soak(arguments.minutes * 60, seed, arguments.sabotage).run()


class Soak:
    """One run.

    Args:
        seconds: how long new rounds are begun.
        seed: see the module's text.
        sabotage: a fault for the children.
    """

    def __init__(self, seconds: float, seed: int, sabotage: str | None) -> None:
        self._seconds = seconds
        self._round_seconds = min(4.0, seconds / (ENOUGH + 1))
        self._seed = seed
        self._arguments = [f"sabotage={sabotage}"] if sabotage else []
        self._totals = Totals()
        self._start = time.monotonic()
        self._own: list[Usage] = []
        self._childs: list[Usage] = []

    def run(self) -> int:
        """Soak; return the exit status."""
        with IpcPeer() as native, IpcPeer(JsonMessageSerializer()) as json:
            steady = Lane("steady", native, self._arguments, self._totals)
            steady.open()
            next_line = 60.0
            for number in itertools.count():
                elapsed = time.monotonic() - self._start
                if (elapsed >= self._seconds and number >= ENOUGH) or not self._goes_on():
                    break
                if elapsed >= next_line:
                    self._print_line()
                    next_line += 60.0
                fresh = (
                    Lane("fresh, JSON", json, ["json", *self._arguments], self._totals)
                    if number % 3 == 2
                    else Lane("fresh", native, self._arguments, self._totals)
                )
                self._round(f"{self._seed}/{number}", steady, fresh)
            self._print_line()
        return self._verdict()

    def _goes_on(self) -> bool:
        return not self._totals.problems

    def _round(self, seed: str, steady: Lane, fresh: Lane) -> None:
        pick = random.Random(seed)
        how = pick.choices(("drain", "close", "kill", "exit"), (5, 2, 2, 1))[0]
        share = 1.0 if how == "drain" else pick.uniform(0.05, 1.0)
        fresh.open()
        steady.begin(seed)
        fresh.begin(seed)
        time.sleep(self._round_seconds * share)
        fresh.end(how)
        time.sleep(self._round_seconds * (1 - share))
        used = steady.rest()
        if used is not None:
            self._childs.append(used)
            self._own.append(usage())

    def _print_line(self) -> None:
        counts, longest = self._totals.counts, self._totals.longest
        own, childs = (used[-1] if used else None for used in (self._own, self._childs))
        ends = ", ".join(
            f"{counts[end]:,} {end}" for end in ("cancelled", "expired", "failed", "interrupted")
        )
        used = ""
        if own and childs:
            used = (
                f"; memory {own.rss / 2**20:.0f} + {childs.rss / 2**20:.0f} MiB, "
                f"descriptors {own.descriptors} + {childs.descriptors}, "
                f"threads {own.threads} + {childs.threads}"
            )
        print(
            f"{(time.monotonic() - self._start) / 60:5.1f} min: {counts['requests']:,} requests "
            f"({ends}), {counts['notifications']:,} notifications, {counts['items']:,} items, "
            f"{counts['bytes'] / 2**20:,.0f} MiB, {counts['children']} children{used}; "
            f"latest deadline {longest.get('late', 0) * 1e3:.0f} ms, "
            f"death {longest.get('death', 0) * 1e3:.0f} ms; {len(self._totals.problems)} problems",
            flush=True,
        )

    def _verdict(self) -> int:
        problems = [
            *self._totals.problems,
            *growth("this process", self._own),
            *growth("the steady child", self._childs),
        ]
        for problem in problems:
            print("PROBLEM:", problem)
        if problems:
            print(f"FAILED with seed {self._seed}")
            return 1
        flat = "descriptors and threads flat"
        if len(self._own) >= ENOUGH_OF_MEMORY:
            flat = f"memory, {flat}"
        print(f"PASSED: nothing lost, duplicated or mismatched; {flat}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
