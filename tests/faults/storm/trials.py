"""Trials: one operation, interrupted at one point, and a look at what became of the session.

``python -m tests.faults.storm.trials SPEC`` is the process in which they are made. It may hang or
die of them. It says what it begins and how that ended, one JSON object a line, and ends after the
first fault, for what comes after one may be its consequence.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from . import finalizers
from .bench import Bench, Raised
from .operations import ENDING, FRESH, OPERATIONS, STARTING
from .points import Tracer
from .processes import SOURCES, say

__all__ = ["KINDS", "Case", "Spec"]


class SoftTimeLimit(Exception):
    """As Celery's SoftTimeLimitExceeded."""


class Abort(BaseException):
    """As what gevent and trio use to end a task."""


KINDS: dict[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (SoftTimeLimit, TimeoutError, RuntimeError, KeyboardInterrupt, Abort)
}
"""What signal handlers raise. The second is an OSError."""

_MISSES = 2
"""So many points in a row that were not reached: the operation has no more."""

_SIGNAL = signal.SIGUSR1


@dataclasses.dataclass
class Spec:
    """What to try.

    Args:
        operation: a name of ``OPERATIONS``.
        cause: ``"signal"``, or the name of a finalizer.
        session: ``"threads"`` or ``"sync"``.
        serializer: ``"native"`` or ``"json"``.
        kinds: what the signal handler raises, names of ``KINDS``: each at each point, or one
            after the other with ``rotate``.
        gaps: points from the first signal to a second one; 0: there is no second one.
        first: first point.
        step: points to the next one.
        limit: points to try at the most.
        rotate: one kind and one gap a point.
        everywhere: each operation is a point.
        engine: the points are those of the threads of the session.
        crowd: another thread waits for a reply meanwhile.
        patience: seconds after which what has not happened counts as lost.
        begin: case to begin with.
    """

    operation: str
    cause: str = "signal"
    session: str = "threads"
    serializer: str = "native"
    kinds: list[str] = dataclasses.field(default_factory=lambda: list(KINDS))
    gaps: list[int] = dataclasses.field(default_factory=lambda: [0])
    first: int = 1
    step: int = 1
    limit: int = 1_000_000
    rotate: bool = False
    everywhere: bool = False
    engine: bool = False
    crowd: bool = False
    patience: float = 3.0
    begin: int = 0


@dataclasses.dataclass
class Case:
    """One trial.

    Args:
        number: of the case.
        point: of the operation.
        kind: what the signal handler raises.
        gap: points to the second signal, or 0.
    """

    number: int
    point: int
    kind: str
    gap: int


def cases(spec: Spec) -> Iterator[Case]:
    """Yield the cases of a sweep; it has no end but ``limit``."""
    points = range(spec.first, spec.first + spec.limit * spec.step, spec.step)
    variants = list(itertools.product(spec.kinds, spec.gaps))
    numbers = itertools.count()
    for turn, point in enumerate(points):
        for kind, gap in [variants[turn % len(variants)]] if spec.rotate else variants:
            yield Case(next(numbers), point, kind, gap)


class Signals:
    """Signals that arrive at points, and the exceptions that their handler has raised."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._tracer = Tracer()
        self.places: list[str] = []
        self._raised: list[Raised] = []
        self._is_armed = False
        signal.signal(_SIGNAL, self._handle)

    def run(self, case: Case, operation: Callable[[], Any]) -> BaseException | None:
        """Run it with the signals of a case; return what came out."""
        self.places, self._raised = [], []
        self._kind, self._gap = KINDS[case.kind], case.gap
        self._tracer.signal_at(1 + case.point, _SIGNAL)  # the first one is that of our own call

        def disarmed_behind() -> None:
            try:
                self._is_armed = True
                operation()
            finally:
                self._is_armed = False  # a store: no signal comes between

        return _outcome(self._tracer, disarmed_behind)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._is_armed:
            return
        frames = list(_callers(frame))
        error = self._kind("raised by a signal handler")
        inside = any(frame.f_code in self._bench.handlers for frame in frames)
        self._raised.append(Raised(error, inside))
        self._bench.excused += inside
        self.places.append(place(frames))
        if self._gap:
            self._tracer.signal_at(self._gap, _SIGNAL)
            self._gap = 0
            self._tracer.go_on(frame)
        raise error

    def faults(self, outcome: BaseException | None) -> list[str]:
        """Return which exceptions did not come out of the operation as themselves."""
        raised, self._raised = self._raised, []
        return self._bench.faults_of_signals(raised, outcome)


def _outcome(tracer: Tracer, operation: Callable[[], Any]) -> BaseException | None:
    try:
        try:
            sys.settrace(tracer)
            operation()
        finally:
            sys.settrace(None)
    except BaseException as error:
        return error
    return None


class Finalizers:
    """A finalizer that runs at a point, and what it was told."""

    def __init__(self, bench: Bench, cause: str, everywhere: bool, engine: bool) -> None:
        self._tracer = Tracer(everywhere)
        self._bench = bench
        self._cause = cause
        self._engine = engine
        self._made: finalizers.Finalizer | None = None
        self.places: list[str] = []
        if engine:
            threading.settrace(self._tracer)
            bench.renew()  # with threads that are traced

    def run(self, case: Case, operation: Callable[[], Any]) -> BaseException | None:
        """Run it with the finalizer of a case; return what came out."""
        self.places = []
        made = self._made = finalizers.make(self._cause, self._bench)

        def act(frame: FrameType) -> None:
            self.places.append(place(list(_callers(frame))))
            made.trigger()

        self._tracer.act_at(case.point, act)
        try:
            if self._engine:
                operation()
                return None
            return _outcome(self._tracer, operation)
        except BaseException as error:
            return error
        finally:
            self._tracer.act_at(0, act)

    def faults(self, outcome: BaseException | None) -> list[str]:
        """Return what came out of the operation, and of the finalizer."""
        assert self._made is not None
        faults = self._made.faults(bool(self.places))
        faults.extend(f"dropped {name(error)}: {error}" for error in self._bench.dropped)
        if outcome is not None and not self._made.explains(outcome):
            faults.append(f"raised {name(outcome)}: {outcome}")
        return faults


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def place(frames: list[FrameType]) -> str:
    """Return the innermost line of the library, and what it has called."""
    inside = ""
    for frame in frames:
        code = frame.f_code
        if code.co_filename.startswith(f"{SOURCES}{os.sep}"):
            file = Path(code.co_filename).relative_to(SOURCES).as_posix()
            return f"{file}:{frame.f_lineno} {code.co_name}{inside}"
        if not inside:
            inside = f" > {Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}"
    return f"outside{inside}"


def name(error: BaseException | None) -> str:
    """Return the name of its type."""
    return type(error).__name__


def main() -> None:
    """Make the trials of a specification."""
    spec = Spec(**json.loads(sys.argv[1]))
    bench = Bench(spec.session, spec.serializer, spec.patience, spec.crowd)
    # A long text is checked by what is compiled for the first one. That takes some ms, and seconds
    # where each step is traced: a session that closes then does not wait for the thread that reads.
    bench.get_error()
    cause: Signals | Finalizers
    if spec.cause == "signal":
        cause = Signals(bench)
    else:
        cause = Finalizers(bench, spec.cause, spec.everywhere, spec.engine)
    prepare = OPERATIONS[spec.operation]
    ends = spec.operation in ENDING or spec.cause.startswith("close")
    starts = spec.operation in STARTING
    fresh = ends or spec.operation in FRESH
    prepare(bench)()  # for what is imported only once
    if not ends:
        bench.faults()
    missed: set[int] = set()
    for case in itertools.islice(cases(spec), spec.begin, None):
        say({"begin": dataclasses.asdict(case)})
        # Ends the process, and says where each thread was.
        faulthandler.dump_traceback_later(2 * spec.patience, exit=True)
        if fresh or bench.spoiled or bench.session.closed:
            bench.renew(start=not starts)
        bench.begin()
        if not (starts or ends):
            bench.hold()
        operation = prepare(bench)
        outcome = cause.run(case, operation)
        faulthandler.dump_traceback_later(6 * spec.patience, exit=True)
        faults = cause.faults(outcome)
        del outcome
        if cause.places:
            missed.clear()
        else:
            missed.add(case.point)
        faults += bench.faults_of_end() if ends else bench.faults()
        faulthandler.cancel_dump_traceback_later()
        say({"end": case.number, "places": cause.places, "faults": faults})
        if faults:
            bench.session.kill()
            os._exit(0)
        if len(missed) >= _MISSES:
            break
    say({"done": True})
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
