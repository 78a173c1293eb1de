"""Real signals at random times, in tight loops of calls, alone and in bursts.

``python -m tests.faults.storm barrage`` starts one process after the other, for each ends after its
first fault, and adds up what they say.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType

from .bench import Bench, Raised
from .messages import Ask, Items, Note
from .processes import Speaker, say
from .sweeps import kind
from .trials import KINDS

__all__ = ["Spec", "Totals", "add_arguments", "barrage", "run"]

_SIGNALS: dict[int, list[str]] = {
    signal.SIGALRM: ["SoftTimeLimit", "TimeoutError", "RuntimeError"],
    signal.SIGUSR1: ["Abort"],
    signal.SIGINT: ["KeyboardInterrupt"],
}
"""What their handlers raise, in turn."""

_OPERATIONS: dict[str, Callable[[Bench], object]] = {}


def _operation(function: Callable[[Bench], object]) -> Callable[[Bench], object]:
    _OPERATIONS[function.__name__] = function
    return function


@_operation
def call(bench: Bench) -> None:
    number = bench.next()
    bench.got(bench.session.call(Ask(number), None), number)


@_operation
def request(bench: Bench) -> None:
    for number in (bench.next(), bench.next(), bench.next()):
        bench.futures.append((bench.session.request(Ask(number), None), number))
    while bench.futures:
        future, number = bench.futures[-1]
        bench.got(future.result(), number)
        bench.futures.pop()


@_operation
def nested(bench: Bench) -> None:
    number = bench.next()
    bench.got(bench.session.call(Ask(number, back=True), None), number)


@_operation
def stream(bench: Bench) -> None:
    with bench.session.stream(Items(40), None) as items:
        seen = [item.number for item in items]
    bench.got(seen, list(range(40)))


@_operation
def notify(bench: Bench) -> None:
    bench.notify(Note(bench.next()))


@dataclasses.dataclass
class Spec:
    """What to fire at.

    Args:
        signals: to fire.
        seed: of the times.
        session: ``"threads"`` or ``"sync"``.
        serializer: ``"native"`` or ``"json"``.
        modes: names of operations.
        burst: share of signals that another one follows within 80 ms, most much sooner.
        others: threads that ask all the time.
        switch: seconds, for ``sys.setswitchinterval``; 0: as it is.
        patience: seconds after which what has not happened counts as lost.
    """

    signals: int = 10_000
    seed: int = 1
    session: str = "threads"
    serializer: str = "native"
    modes: list[str] = dataclasses.field(default_factory=lambda: list(_OPERATIONS))
    burst: float = 0.4
    others: int = 2
    switch: float = 0.0
    patience: float = 3.0


class Volley:
    """Fires signals at the main thread while it is armed, and keeps what their handlers raise."""

    def __init__(self, bench: Bench, rng: random.Random, burst: float) -> None:
        self._bench = bench
        self._rng = rng
        self._burst = burst
        self.armed = False
        self.raised: list[Raised] = []
        self._turns = Counter[int]()
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        threading.Thread(target=self._fire, daemon=True).start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.armed:
            return
        kinds = _SIGNALS[number]
        self._turns[number] += 1
        error = KINDS[kinds[self._turns[number] % len(kinds)]]("raised by a signal handler")
        inside = False
        while frame is not None and not inside:
            inside = frame.f_code in self._bench.handlers
            frame = frame.f_back
        self._bench.excused += inside
        raised = Raised(error, inside)
        self.raised += (raised,)  # no call, behind which another signal would come before this one
        raise error

    def _fire(self) -> None:
        main, rng = threading.main_thread().ident, self._rng
        assert main is not None
        numbers = list(_SIGNALS)
        while True:
            time.sleep(rng.uniform(0.00005, 0.0015))
            if not self.armed:
                continue
            signal.pthread_kill(main, rng.choice(numbers))
            if rng.random() < self._burst:
                for _ in range(rng.randrange(60)):
                    pass  # some microseconds: into the finally: that the first one runs
                if rng.random() < 0.2:
                    time.sleep(rng.uniform(0, 0.08))
                signal.pthread_kill(main, rng.choice(numbers))

    def hit(self, action: Callable[[], object]) -> BaseException | None:
        """Repeat an action until a signal has come; return what came out."""
        self.raised = []
        try:
            self._repeat(action)
        except BaseException as error:
            self.armed = False  # a store: no signal comes between
            return error
        return None

    def _repeat(self, action: Callable[[], object]) -> None:
        # By itself: in Python 3.13 a jump at the end of a loop may be outside of its ``try``.
        try:
            self.armed = True
            while not self.raised:
                action()
        finally:
            self.armed = False


def _serve(spec: Spec) -> None:
    """Be hit until the signals are used up, or until the first fault."""
    if spec.switch:
        sys.setswitchinterval(spec.switch)
    rng = random.Random(spec.seed)
    bench = Bench(spec.session, spec.serializer, spec.patience)
    bench.others = spec.others if spec.session == "threads" else 0
    volley = Volley(bench, rng, spec.burst)
    for _ in range(bench.others):
        threading.Thread(target=_ask_for_ever, args=(bench,), daemon=True).start()
    fired = 0
    while fired < spec.signals:
        bench.begin()
        mode = rng.choice(spec.modes)
        operation = _OPERATIONS[mode]
        say({"begin": mode})
        faulthandler.dump_traceback_later(2 * spec.patience, exit=True)
        outcome = volley.hit(partial(operation, bench))
        faulthandler.dump_traceback_later(6 * spec.patience, exit=True)
        raised, volley.raised = volley.raised, []
        fired += len(raised)
        dropped, torn = len(bench.dropped), bench.torn
        faults = bench.faults_of_signals(raised, outcome)
        count = len(raised)
        del outcome, raised
        faults += bench.faults()
        faulthandler.cancel_dump_traceback_later()
        say({"fired": count, "dropped": dropped, "torn": bench.torn - torn, "faults": faults})
        if faults or bench.spoiled or bench.session.closed:
            bench.session.kill()
            break
    os._exit(0)


def _ask_for_ever(bench: Bench) -> None:
    while not bench.session.closed:
        number = bench.next()
        try:
            if bench.session.call(Ask(number), 2 * bench.patience) != number:
                bench.wrong.append("other thread: wrong reply")
        except Exception as error:
            bench.wrong.append(f"other thread: {type(error).__name__}: {error}")
            return


_PROMISES: dict[str, Callable[[str], object]] = {
    "swallowed": re.compile("swallowed|became |taken for ").match,
    "futures that never end": re.compile(".*(for ever|hangs|RequestTimeoutError)").match,
    "replies lost": re.compile("(next call|call in|another request|other thread|report)").match,
    "sessions ended": re.compile("session ended").match,
}
"""What a fault breaks; the first one that fits."""


@dataclasses.dataclass
class Totals:
    """What a barrage has seen.

    Args:
        fired: exceptions that signal handlers have raised.
        dropped: of those, by CPython, in a ``__del__`` or a callback of a weak reference.
        torn: sessions ended for a torn frame.
        faults: how often each.
        hangs: of the whole process, each with its threads.
    """

    fired: int = 0
    dropped: int = 0
    torn: int = 0
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    hangs: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Totals) -> None:
        """Add what another barrage has seen."""
        self.fired += other.fired
        self.dropped += other.dropped
        self.torn += other.torn
        self.faults += other.faults
        self.hangs += other.hangs

    def counts(self) -> dict[str, int]:
        """Return how often each promise was broken."""
        counts = dict.fromkeys([*_PROMISES, "other faults"], 0)
        for what, number in self.faults.items():
            broken = (name for name, is_broken in _PROMISES.items() if is_broken(what))
            counts[next(broken, "other faults")] += number
        return {**counts, "hangs": len(self.hangs)}

    def verdict(self) -> str:
        """Return what was fired, how often each promise was broken, and each fault."""
        said = ", ".join(f"{number} {name}" for name, number in self.counts().items())
        head = (
            f"{self.fired} signals, {self.dropped} dropped by CPython in a finalizer, {self.torn} "
            f"sessions ended for a torn frame: {said}"
        )
        return "\n".join([head, *(f"{n:6}  {what}" for what, n in self.faults.most_common())])


def barrage(spec: Spec, seconds: float = 1e9, most_faults: int = 1_000_000) -> Totals:
    """Fire; stop early after so many seconds, or faults and hangs."""
    totals, end, seed = Totals(), time.monotonic() + seconds, spec.seed
    while totals.fired < spec.signals and time.monotonic() < end:
        if totals.faults.total() + len(totals.hangs) >= most_faults:
            break
        left = dataclasses.replace(spec, signals=spec.signals - totals.fired, seed=seed)
        _run(left, totals, end)
        seed += 1
    return totals


def _run(spec: Spec, totals: Totals, end: float) -> None:
    begun = ""
    with Speaker.started(__name__, spec) as process:
        for said in process:
            begun = said.get("begin", "")
            if begun:
                continue
            totals.fired += said["fired"]
            totals.dropped += said["dropped"]
            totals.torn += said["torn"]
            totals.faults.update(map(kind, said["faults"]))
            if time.monotonic() > end:
                return
        if begun or process.returncode:
            text = f"{begun}: exit status {process.returncode}\n{process.last_words}"
            totals.hangs.append(text)
            totals.fired += 1  # at least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of this command."""
    default = Spec()
    parser.add_argument("--signals", type=int, default=default.signals, help="in all")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--session", action="append", choices=["threads", "sync"])
    parser.add_argument("--serializer", choices=["native", "json"], default=default.serializer)
    parser.add_argument("--mode", action="append", choices=list(_OPERATIONS))
    parser.add_argument("--burst", type=float, default=default.burst, help="share of bursts")
    parser.add_argument("--others", type=int, default=default.others, help="threads that ask")
    parser.add_argument("--switch", type=float, default=0.0, help="switch interval in seconds")
    parser.add_argument("--patience", type=float, default=default.patience, help="seconds")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--details", type=int, default=1, help="hangs to print in full")


def run(arguments: argparse.Namespace) -> int:
    """Fire, print, and return the exit status."""
    print(f"seed {arguments.seed}", flush=True)
    sessions = arguments.session or ["threads", "sync"]
    totals = Totals()
    for session in sessions:
        spec = Spec(
            -(-arguments.signals // len(sessions)),
            arguments.seed,
            session,
            arguments.serializer,
            arguments.mode or list(_OPERATIONS),
            arguments.burst,
            arguments.others,
            arguments.switch,
            arguments.patience,
        )
        seen = barrage(spec, arguments.seconds / len(sessions))
        print(f"{session}: {seen.verdict()}", flush=True)
        totals.add(seen)
    print(f"in all: {totals.verdict()}")
    for hang in totals.hangs[: arguments.details]:
        print(f"\nhang in {hang}")
    return int(any(totals.counts().values()))


if __name__ == "__main__":
    _serve(Spec(**json.loads(sys.argv[1])))
