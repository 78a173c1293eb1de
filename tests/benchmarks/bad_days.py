"""``python -m tests.benchmarks.bad_days``: what becomes of a pool of workers on a bad day.

Does it to each library, for real, and prints a Markdown table:

    lost      a worker gets SIGKILL while it has a task
    hung      a task never ends; it has a timeout, if the library has such a thing
    orphans   the program gets SIGKILL while a worker keeps the CPU busy
    daemonic  the pool is made in a daemonic process, as tasks of Celery's prefork pool are

Each case runs in a process of its own (``--case``), which prints an answer a line. One that
does not come to its end is ended, and what it has not answered is told as "hangs".
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .children import functions
from .measure import cpu_seconds

SIZE = 2
TIMEOUT = 1.0
"""Seconds that a task gets where a library has timeouts for tasks."""

LIMIT = 8.0
"""Seconds from which on something hangs."""

LATER = 5.0
"""Seconds after the end of the program in which its workers are to be gone."""

FOREVER = 120.0
"""Seconds that a task takes which never ends: nothing is to stay for good."""

GLANCE = 0.5
"""Seconds in which a process that has something to do gets some CPU time, if not much."""

OTHERS = 6
"""Small tasks beside the one that has the bad luck."""

START = 60.0
"""Seconds for a case to start its workers, on a machine that does much else."""


# The libraries, behind one small interface.


@dataclass
class Pool:
    """Two workers, and the ways to ask them.

    Args:
        submit: ``submit(function, *args)`` asks without waiting, and returns what has the
            methods of a ``concurrent.futures.Future`` or of ``multiprocessing``'s AsyncResult.
        submit_within: the same with a timeout of so many seconds before the function;
            ``None``: a task can't have one.
    """

    submit: Callable[..., Any]
    submit_within: Callable[..., Any] | None = None


@contextmanager
def open_streamipc() -> Iterator[Pool]:
    from streamipc import WorkerPool

    from .children.messages import Run
    from .contestants import child_command

    with WorkerPool(child_command("ours.py"), size=SIZE) as pool:
        yield Pool(
            lambda function, *args: pool.request(Run(function.__name__, args), timeout=None),
            lambda timeout, function, *args: pool.request(Run(function.__name__, args), timeout),
        )


@contextmanager
def open_executor() -> Iterator[Pool]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(SIZE) as executor:
        yield Pool(executor.submit)


@contextmanager
def open_loky() -> Iterator[Pool]:
    from loky import get_reusable_executor

    # As its manual says: it is asked for each time, and is another one after an accident.
    yield Pool(lambda *args: get_reusable_executor(SIZE).submit(*args))


@contextmanager
def open_pebble() -> Iterator[Pool]:
    from pebble import ProcessPool

    with ProcessPool(SIZE) as pool:
        yield Pool(
            lambda function, *args: pool.schedule(function, args),
            lambda timeout, function, *args: pool.schedule(function, args, timeout=timeout),
        )


@contextmanager
def open_mpire() -> Iterator[Pool]:
    from mpire.pool import WorkerPool

    with WorkerPool(SIZE) as pool:
        yield Pool(
            lambda function, *args: pool.apply_async(function, args),
            lambda timeout, function, *args: pool.apply_async(function, args, task_timeout=timeout),
        )


@contextmanager
def open_multiprocessing() -> Iterator[Pool]:
    with multiprocessing.Pool(SIZE) as pool:
        yield Pool(lambda function, *args: pool.apply_async(function, args))


@dataclass(frozen=True)
class Library:
    """One column of the table.

    Args:
        title: its name there.
        open: makes a pool, with the settings that the library has by default.
        module: what must be installed; ``None``: it is of the standard library.
    """

    title: str
    open: Callable[[], AbstractContextManager[Pool]]
    module: str | None = None

    def version(self) -> str | None:
        """Return what it says of itself; ``None``: it is not installed."""
        if self.module is None:
            return f"Python {platform.python_version()}"
        if importlib.util.find_spec(self.module) is None:
            return None
        if self.module == "streamipc":
            from streamipc import __version__

            return __version__
        return metadata.version(self.module)


LIBRARIES = {
    "streamipc": Library("streamipc.WorkerPool", open_streamipc, "streamipc"),
    "concurrent.futures": Library("ProcessPoolExecutor", open_executor),
    "loky": Library("loky.get_reusable_executor", open_loky, "loky"),
    "pebble": Library("pebble.ProcessPool", open_pebble, "pebble"),
    "mpire": Library("mpire.WorkerPool", open_mpire, "mpire"),
    "multiprocessing": Library("multiprocessing.Pool", open_multiprocessing),
}


# What is seen of futures and processes.


def is_done(future: Any) -> bool:
    done: bool = future.done() if hasattr(future, "done") else future.ready()
    return done


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Look again and again; tell whether it came true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def value_of(future: Any) -> Any:
    return future.result() if hasattr(future, "result") else future.get()


def ending_of(future: Any) -> str:
    """Return how a future has ended: the name of its error, or ``"reply"``."""
    try:
        value_of(future)
    except BaseException as error:
        return type(error).__name__
    return "reply"


def outcome(future: Any, since: float, limit: float) -> str:
    """Wait for a future's end; say what it is and when it came."""
    if not wait_for(lambda: is_done(future), limit):
        return f"no end within {limit:g} s"
    return f"{ending_of(future)} after {time.monotonic() - since:.2f} s"


def outcomes(futures: Sequence[Any], limit: float) -> str:
    """The same for several, which have so long all together."""
    wait_for(lambda: all(map(is_done, futures)), limit)
    endings = Counter(
        ending_of(future) if is_done(future) else f"no end within {limit:g} s" for future in futures
    )
    if endings["reply"] == len(futures):
        return "all get their replies"
    return ", ".join(f"{count} of {len(futures)}: {what}" for what, count in endings.items())


def is_alive(pid: int) -> bool:
    """Tell whether a process is there, and not only waiting to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def is_busy(pid: int) -> bool:
    """Tell whether a process uses the CPU, be there ever so many others that do."""
    try:
        before = cpu_seconds(pid)
        wait_for(lambda: not is_alive(pid), GLANCE)
        return is_alive(pid) and cpu_seconds(pid) - before > GLANCE / 50
    except OSError:
        return False


def members(session: int) -> list[int]:
    """Return the processes of a session; see setsid(2)."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(entry.name)) == session:
                found.append(int(entry.name))
    return found


# The cases, each in a process of its own.

Answers = Iterator[tuple[str, str]]


def start_workers(pool: Pool, limit: float = START) -> set[int]:
    """Ask until all workers have answered, or the time is over; return who has."""
    pids: set[int] = set()
    end = time.monotonic() + limit
    while len(pids) < SIZE and time.monotonic() < end:
        for future in [pool.submit(functions.where, 0.2) for _ in range(SIZE)]:
            if wait_for(lambda it=future: is_done(it), end - time.monotonic()):  # type: ignore[misc]
                pids.add(value_of(future))
    return pids


def begin(pool: Pool, function: Callable[..., Any], seconds: float) -> tuple[Any, int]:
    """Have a worker do something; return the future and the worker's process id."""
    path = Path(tempfile.mkdtemp(dir=os.environ["BAD_DAYS"])) / "pid"
    future = pool.submit(function, str(path), seconds)
    return future, begun(path)


def begun(path: Path) -> int:
    if not wait_for(path.exists, START):
        raise TimeoutError("the worker has not begun with its task")
    return int(path.read_text(encoding="ascii"))


def lost(library: Library, limit: float) -> Answers:
    with library.open() as pool:
        start_workers(pool)
        task, pid = begin(pool, functions.nap, FOREVER)
        beside, _ = begin(pool, functions.nap, 1.0)
        others = [beside, *(pool.submit(functions.answer, 1, "") for _ in range(OTHERS))]
        since = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        yield "its task", outcome(task, since, limit)
        yield "other tasks", outcomes(others, limit)
        yield "the pool", goes_on(pool, limit)


def goes_on(pool: Pool, limit: float) -> str:
    """Ask for something new; say whether that is answered."""
    try:
        future = pool.submit(functions.answer, 1, "")
    except Exception as error:
        return f"is over: {type(error).__name__}"
    if not wait_for(lambda: is_done(future), limit):
        return f"a new task has no end within {limit:g} s"
    ending = ending_of(future)
    return "goes on" if ending == "reply" else f"is over: {ending}"


def hung(library: Library, limit: float) -> Answers:
    with library.open() as pool:
        start_workers(pool)
        path = Path(tempfile.mkdtemp(dir=os.environ["BAD_DAYS"])) / "pid"
        since = time.monotonic()
        if pool.submit_within is None:
            task = pool.submit(functions.spin, str(path), FOREVER)
            why = " (tasks have no timeout)"
        else:
            task = pool.submit_within(TIMEOUT, functions.spin, str(path), FOREVER)
            why = ""
        pid = begun(path)
        others = [pool.submit(functions.answer, 1, "") for _ in range(OTHERS)]
        yield "it, with a timeout of 1 s", outcome(task, since, limit) + why
        yield "other tasks", outcomes(others, limit)
        yield "its worker", fate_of(pid, since, limit)
        yield "workers that take new tasks", f"{len(start_workers(pool, limit))} of {SIZE}"
        # How long the end of the pool and the program takes is seen from outside.
        yield "LEAVING", ""


def fate_of(pid: int, since: float, limit: float) -> str:
    """Wait until a process is gone, or at least not busy any more; say which."""
    if not wait_for(lambda: not is_busy(pid), since + limit - time.monotonic()):
        return "keeps the CPU busy"
    what = "interrupted (it lives on)" if is_alive(pid) else "killed"
    return f"{what} within {time.monotonic() - since:.1f} s"


def orphans(library: Library, limit: float) -> Answers:
    with library.open() as pool:
        workers = start_workers(pool)
        _, spinning = begin(pool, functions.spin, FOREVER)
        yield "PIDS", json.dumps([spinning, *sorted(workers - {spinning})])
        time.sleep(FOREVER)


def daemonic(library: Library, limit: float) -> Answers:
    context = multiprocessing.get_context("fork")  # as Celery's are made
    ours, theirs = context.Pipe()
    process = context.Process(target=in_daemon, args=(library, theirs), daemon=True)
    process.start()
    if ours.poll(limit):
        yield "a pool", ours.recv()
    process.kill()


def in_daemon(library: Library, connection: Any) -> None:
    try:
        with library.open() as pool:
            future = pool.submit(functions.answer, 1, "")
            if wait_for(lambda: is_done(future), FOREVER):
                connection.send("works" if ending_of(future) == "reply" else ending_of(future))
    except BaseException as error:
        connection.send(f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Case:
    title: str
    run: Callable[[Library, float], Answers]
    questions: tuple[str, ...]


LEAVING = "the program's end"
SPINNING = "the busy worker"
IDLE = "the idle worker"

CASES = {
    "lost": Case("A worker is killed", lost, ("its task", "other tasks", "the pool")),
    "hung": Case(
        "A task hangs",
        hung,
        (
            *("it, with a timeout of 1 s", "other tasks", "its worker"),
            *("workers that take new tasks", LEAVING),
        ),
    ),
    "orphans": Case("The program is killed", orphans, (SPINNING, IDLE)),
    "daemonic": Case("In a daemonic process", daemonic, ("a pool",)),
}


def run_case(case: str, library: str, limit: float) -> None:
    """Run in the process that is made for it: print each answer as it is there."""
    for question, answer in CASES[case].run(LIBRARIES[library], limit):
        print(json.dumps([time.monotonic(), question, answer]), flush=True)


# The process that starts these.


class Trial:
    """A process that runs a case for one library, and what is seen of it from outside."""

    def __init__(self, case: str, library: str, limit: float, folder: str) -> None:
        self.limit = limit
        self.output = Path(folder) / "output"
        self.errors = Path(folder) / "errors"
        command = [sys.executable, "-m", "tests.benchmarks.bad_days"]
        command += ["--case", case, "--only", library, "--limit", str(limit)]
        with self.output.open("wb") as output, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, "BAD_DAYS": folder},
                start_new_session=True,  # so that all of it can be found and ended
            )

    def answers(self) -> dict[str, tuple[float, str]]:
        """Return what it has said so far, and when."""
        lines = self.output.read_text(encoding="utf-8").splitlines(keepends=True)
        said = [json.loads(line) for line in lines if line.endswith("\n")]
        return {question: (when, answer) for when, question, answer in said}

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> None:
        """End all that is left of it."""
        while left := members(self.process.pid):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.01)
            if not any(map(is_alive, left)):
                break
        self.process.wait()


def examine(case: str, library: str, limit: float, later: float) -> dict[str, str]:
    """Run one case; return the answers by question."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(case, library, limit, folder)
        try:
            answers = killed(trial, later) if case == "orphans" else watched(trial)
        finally:
            trial.end()
        if trial.process.returncode and not answers:
            lines = trial.errors.read_text(encoding="utf-8", errors="replace").split("\n")
            why = next((line for line in reversed(lines) if line.strip()), "no reason given")
            return dict.fromkeys(CASES[case].questions, f"fails: {why}")
    hangs = f"hangs (no end within {limit:g} s)"
    return {question: answers.get(question, hangs) for question in CASES[case].questions}


def watched(trial: Trial) -> dict[str, str]:
    """Let a case run to its end, or for as long as it may."""

    def is_over() -> bool:
        leaving = trial.answers().get("LEAVING")
        return trial.has_ended() or (
            leaving is not None and time.monotonic() - leaving[0] > trial.limit
        )

    wait_for(is_over, START + 5 * trial.limit)
    now = time.monotonic()
    answers = trial.answers()
    leaving = answers.pop("LEAVING", None)
    if leaving is not None and trial.has_ended():
        answers[LEAVING] = (now, f"takes {now - leaving[0]:.1f} s")
    return {question: answer for question, (_, answer) in answers.items()}


def killed(trial: Trial, later: float) -> dict[str, str]:
    """Kill a case once its workers are there; see when these are gone."""
    wait_for(lambda: "PIDS" in trial.answers() or trial.has_ended(), START)
    if "PIDS" not in trial.answers():
        return {}
    pids = json.loads(trial.answers()["PIDS"][1])
    os.kill(trial.process.pid, signal.SIGKILL)
    since = time.monotonic()
    gone: dict[str, str] = {}

    def are_gone() -> bool:
        for question, pid in zip((SPINNING, IDLE), pids, strict=True):
            if question not in gone and not is_alive(pid):
                gone[question] = f"gone within {time.monotonic() - since:.1f} s"
        return len(gone) == len(pids)

    wait_for(are_gone, later)
    return dict.fromkeys((SPINNING, IDLE), f"still there after {later:g} s") | gone


def table(results: dict[str, dict[str, dict[str, str]]], versions: dict[str, str]) -> list[str]:
    """Return the lines of the Markdown table: a column for each library."""
    heads = [f"{LIBRARIES[name].title} ({version})" for name, version in versions.items()]
    lines = [f"| | {' | '.join(heads)} |", f"| --- |{' --- |' * len(heads)}"]
    for name, case in CASES.items():
        for question in case.questions:
            cells = [results[library][name][question].replace("|", "\\|") for library in versions]
            lines.append(f"| {case.title}: {question} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.bad_days",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", choices=LIBRARIES, help="may be repeated")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds; then it hangs")
    parser.add_argument("--later", type=float, default=LATER, help="seconds for orphans to go")
    parser.add_argument("--at-once", type=int, default=1, help="cases at the same time (1)")
    parser.add_argument("--json", metavar="PATH", help="file to write")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = arguments.only or list(LIBRARIES)
    if arguments.case:
        run_case(arguments.case, chosen[0], arguments.limit)
        return

    from .__main__ import export_package

    export_package()
    versions = {}
    for name in chosen:
        version = LIBRARIES[name].version()
        if version is None:
            print(f"{name} is not installed\n")
        else:
            versions[name] = version
    with ThreadPoolExecutor(arguments.at_once) as threads:
        running = {
            (library, case): threads.submit(
                examine, case, library, arguments.limit, arguments.later
            )
            for library in versions
            for case in CASES
        }
    results = {
        library: {case: running[library, case].result() for case in CASES} for library in versions
    }
    print("\n".join(table(results, versions)))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
