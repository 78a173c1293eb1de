"""Kills children under two-way load and says what became of everything that was under way.

``one_death`` is the experiment, ``series`` repeats it, and ``verdict`` is its one line.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from death_journal import Journal
from death_loads import LOADS, Load, register
from shared_messages import Note

from streamipc import IpcPeer, ProcessSession, RequestTimeoutError, SessionClosedError
from streamipc.transports import process

__all__ = ["HOWS", "PROMISED", "Tally", "one_death", "series", "verdict"]

HOWS = ("killed", "segfault", "exit", "stopped")
"""SIGKILL from outside, SIGSEGV by itself, ``os._exit``, SIGSTOP and then SIGKILL."""

PROMISED = 0.1
"""Seconds after the death within which every future ends."""

BOUND = 10.0
"""Seconds: what counts as a failure even on a machine with other things to do."""

_PATIENCE = 60.0
"""Seconds after which whoever still waits counts as stuck."""

_FATES = {
    "killed": (-signal.SIGKILL, "SIGKILL"),
    "stopped": (-signal.SIGKILL, "SIGKILL"),
    "segfault": (-signal.SIGSEGV, "SIGSEGV"),
    "exit": (7, None),
}

_CHILD = str(Path(__file__).with_name("death_child.py"))
_THREADS = 3
_WARM = 50
"""Deaths after which the process is as large as it will be."""

_GROWTH = 4 << 20
"""Bytes that it may grow after that: what an allocator's fragmentation comes to."""

_DEADLINE = 0.3
"""Seconds that a request has where the child is stopped."""


@dataclass
class Tally:
    """What a series of deaths has shown."""

    load: str
    kills: int = 0
    replies: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    after_death: list[float] = field(default_factory=list)
    """Seconds from each death until the last of its futures had ended."""
    after_deadline: list[float] = field(default_factory=list)
    """Seconds from each deadline that passed until the one who waited knew."""
    faults: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Resident bytes after each death."""

    def growth(self) -> int:
        """Bytes by which the process has grown since the first ``_WARM`` deaths."""
        if len(self.sizes) <= _WARM:
            return 0
        return min(self.sizes[-5:]) - max(self.sizes[:_WARM])


class _Caller(threading.Thread):
    """Asks as fast as it can until the session ends; notes how each request ended."""

    def __init__(self, death: _Death, number: int) -> None:
        super().__init__(name=f"caller-{number}", daemon=True)
        self._death = death
        self.over = 0.0  # when the last of its futures had ended
        self.in_time = threading.Event()  # one of its requests reached its deadline
        self.start()

    def run(self) -> None:
        try:
            while True:
                self._ask_some()
        except SessionClosedError as error:
            self._death.check_error(error)
        except BaseException as error:
            self._death.fault(f"a caller failed: {error!r}")
        finally:
            self.over = time.monotonic()
            self.in_time.set()

    def _ask_some(self) -> None:
        death, load = self._death, self._death.load
        # Once a deadline has passed, the next request waits for the death itself.
        timeout = 60.0 if self.in_time.is_set() or not death.stops else _DEADLINE
        asked = []
        ended: SessionClosedError | None = None
        for _ in range(random.randint(1, load.most)):
            message, expected = load.make()
            deadline = time.monotonic() + timeout
            try:
                if load.streams:
                    stream = death.session.stream(message, timeout=timeout)
                    future = stream.future
                else:
                    stream, future = None, death.session.request(message, timeout=timeout)
            except SessionClosedError as error:
                ended = error
                break
            asked.append((future, stream, expected, deadline))
            if future.done() and isinstance(future.exception(), RequestTimeoutError):
                break  # it has waited for room until its deadline; so would the next one
        for future, stream, expected, deadline in asked:
            try:
                self._wait(future, stream, expected)
            except RequestTimeoutError as error:
                death.outcome(future.id, "timeout")
                death.tally.after_deadline.append(time.monotonic() - deadline)
                if not death.stops:
                    death.fault(f"a timeout: {error}")
                self.in_time.set()
            except SessionClosedError as error:
                death.outcome(future.id, "closed")
                ended = error
                death.check_error(error)
        if ended is not None:
            raise ended

    def _wait(self, future: Any, stream: Any, expected: Any) -> None:
        death = self._death
        if stream is not None:
            count = sum(1 for _ in stream)
            if count != expected:
                death.fault(f"a stream of {expected} items ended after {count}")
        if future.result(timeout=60) != expected:
            death.fault(f"a wrong reply to {type(future.request).__name__}")
        death.outcome(future.id, "reply")


class _Death:
    """One child, its load and its end."""

    def __init__(self, tally: Tally, how: str, folder: str, warm_up: float) -> None:
        self.tally = tally
        self.how = how
        self.load: Load = LOADS[tally.load]
        self.stops = how == "stopped"
        self.outcomes: dict[Any, str] = {}
        self._warm_up = warm_up
        self._notes: list[int] = []
        path = os.path.join(folder, "journal")
        self.journal = Journal(path, create=True)
        peer = IpcPeer(timeout=60)
        register(peer)
        peer.on_message(self._note)
        peer.on_exception(lambda error: self.fault(f"reported: {error!r}"))
        by_itself = how in ("segfault", "exit")
        self.session: ProcessSession = peer.create_command_session(
            [
                *(sys.executable, _CHILD, tally.load, path),
                *(how if by_itself else "killed", str(random.randrange(200))),
                str(random.randrange(3)),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def _note(self, message: Note) -> None:
        self._notes.append(message.number)

    def fault(self, text: str) -> None:
        self.tally.faults.append(f"{self.how}: {text}")

    def outcome(self, id: Any, what: str) -> None:  # noqa: A002
        self.outcomes[id] = what
        self.tally.ended[what] += 1

    def check_error(self, error: SessionClosedError) -> None:
        code, name = _FATES[self.how]
        if (error.returncode, error.signal) != (code, name):
            self.fault(f"the error says {error.returncode}, {error.signal}: {error}")

    def happen(self) -> None:
        gone = threading.Event()
        self.session.on_close(gone.set)
        # No thread waits for this one: it ends by itself, in the pool's hands.
        pending = self.session.request(Note(number=-1), timeout=60) if not self.stops else None
        callers = [_Caller(self, number) for number in range(_THREADS)]
        died = self._kill(callers)
        for caller in callers:
            caller.join(_PATIENCE)
            if caller.is_alive():
                self.fault(f"{caller.name} still waits after {_PATIENCE:g} s")
        if not gone.wait(_PATIENCE):
            self.fault(f"on_close was not called within {_PATIENCE:g} s")
        died = died or self.journal.died
        over = max(caller.over for caller in callers)
        if pending is not None and not pending.done():
            self.fault("a future that nobody waited for has not ended")
        if died:
            self.tally.after_death.append(over - died)
            if over - died > BOUND:
                self.fault(f"the last future ended {over - died:.3f} s after the death")
        else:
            self.fault("the child did not say when it died")
        self._check_replies()
        self.session.close(timeout=5)

    def _kill(self, callers: list[_Caller]) -> float:
        """Do what is planned; return when the child died, 0 if it will say so itself."""
        if self.how in ("segfault", "exit"):
            return 0.0
        # From before it is up until it has been busy for a while.
        time.sleep(random.random() * self._warm_up)
        if self.stops:
            self.session.process.send_signal(signal.SIGSTOP)
            for caller in callers:
                if not caller.in_time.wait(_PATIENCE):
                    self.fault("no deadline has passed although the child is stopped")
        died = time.monotonic()
        self.session.kill()
        return died

    def _check_replies(self) -> None:
        for id in self.journal.replies:  # noqa: A001
            what = self.outcomes.get(id, "reply")  # not in: the one without a caller
            self.tally.replies += 1
            # A stopped child's last replies may come when their deadline has passed.
            if what != "reply" and not (what == "timeout" and self.stops):
                self.fault(f"a reply that was written before the death was lost: {what}")
        if self._notes != list(range(len(self._notes))):
            self.fault(f"notifications were lost or out of order: {self._notes[:20]}")


def one_death(tally: Tally, how: str, warm_up: float = 0.2) -> None:
    """Start a child, load it, have it die, and add what was seen to ``tally``."""
    threads, descriptors = threading.active_count(), _descriptors()
    with _exit_status_is_waited_for(), tempfile.TemporaryDirectory() as folder:
        death = _Death(tally, how, folder, warm_up)
        try:
            death.happen()
        finally:
            death.session.close(timeout=0)
            death.journal.close()
    tally.kills += 1
    pid = death.session.pid
    if Path(f"/proc/{pid}").exists():
        death.fault("the child is still there, or a zombie")
    deadline = time.monotonic() + BOUND
    while threading.active_count() > threads or _descriptors() > descriptors:
        if time.monotonic() > deadline:
            names = [thread.name for thread in threading.enumerate()]
            death.fault(f"left behind: threads {names}, descriptors {_descriptors()}")
            break
        time.sleep(0.002)
    del death
    gc.collect()
    tally.sizes.append(_resident())


@contextmanager
def _exit_status_is_waited_for() -> Iterator[None]:
    """Where the system is late to tell it, futures are late rather than wrong: see BOUND."""
    before, process._EXIT_STATUS = process._EXIT_STATUS, BOUND
    try:
        yield
    finally:
        process._EXIT_STATUS = before


def series(load: str, kills: int, tally: Tally | None = None) -> Tally:
    """Have ``kills`` children die under ``load``, each way in turn."""
    tally = tally or Tally(load)
    for _ in range(kills):
        one_death(tally, HOWS[tally.kills % len(HOWS)])
    if tally.growth() > _GROWTH:
        tally.faults.append(f"memory has grown by {tally.growth():,} bytes")
    return tally


def verdict(tally: Tally) -> str:
    """Return one line."""
    death, late = sorted(tally.after_death), sorted(tally.after_deadline)
    slow = sum(seconds > PROMISED for seconds in death)
    size = f"{tally.sizes[min(_WARM, tally.kills) - 1] / 1e6:.1f} to {tally.sizes[-1] / 1e6:.1f} MB"
    return (
        f"{'FAILED' if tally.faults else 'ok'}: {tally.load}: {tally.kills} deaths, "
        f"futures ended {dict(tally.ended)}, last one after {_spread(death)}, {slow} above 100 ms; "
        f"deadlines of stopped children late by {_spread(late)}; {tally.replies} replies written "
        f"before a death, all delivered: {not any('lost' in f for f in tally.faults)}; "
        f"resident {size} since death {min(_WARM, tally.kills)}; {len(tally.faults)} faults"
    )


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    middle, most = seconds[len(seconds) // 2], seconds[-1]
    return f"{middle * 1000:.1f} ms (median), {most * 1000:.1f} ms (most)"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
