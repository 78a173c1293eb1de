"""What it costs to begin, and to do nothing."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from ..contestants import child_command
from ..runner import OURS, Entry, Goal, Metric, Sample, Size, Workload

STARTS = 5
SESSIONS = 100
IDLE_SECONDS = 10.0
STANDARD = "bare interpreter with dataclasses, concurrent.futures, subprocess"
FULL_SECONDS = 0.4
"""What a full run gives to one measurement; the idle time is in proportion to it."""


def output_of(name: str, *arguments: object) -> Any:
    """Run a script of the folder ``children``; return what it prints as JSON."""
    done = subprocess.run(
        child_command(name, *arguments), stdout=subprocess.PIPE, check=True, timeout=60
    )
    return json.loads(done.stdout)


def first_reply(library: str) -> Callable[[Size], Sample]:
    def run(size: Size) -> Sample:
        took = output_of("start.py", library, size.count(STARTS))
        return {"start": statistics.median(took) * 1e3}

    return run


def interpreter(statement: str) -> Callable[[Size], Sample]:
    """Return what measures an interpreter that runs one statement and ends."""

    def run(size: Size) -> Sample:
        took = []
        for _ in range(size.count(STARTS)):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            took.append(time.perf_counter() - start)
        return {"import": statistics.median(took) * 1e3}

    return run


def idle(size: Size) -> Sample:
    seconds = IDLE_SECONDS * size.seconds / FULL_SECONDS
    sample: Sample = output_of("idle.py", size.named(SESSIONS), seconds)
    return sample


def asleep(size: Size) -> Sample:
    """A process without a session that sleeps for a while."""
    before = time.process_time()
    seconds = size.seconds
    time.sleep(seconds)
    return {"cpu": (time.process_time() - before) / seconds * 100}


WORKLOADS = (
    Workload(
        "cold-start",
        "cold start: Popen to first reply",
        (Metric("start", "ms"),),
        (
            Entry(OURS, first_reply("streamipc"), role="ours"),
            Entry("bare interpreter", first_reply("interpreter"), role="limit"),
            Entry(STANDARD, first_reply("standard"), role="limit"),
            Entry("multiprocessing spawn", first_reply("multiprocessing"), lacks="types"),
            Entry("execnet", first_reply("execnet"), needs="execnet", lacks="types"),
            Entry("rpyc", first_reply("rpyc"), needs="rpyc", lacks="types"),
        ),
        (Goal("start", most=25.0, of=(STANDARD,), minus=True),),
    ),
    Workload(
        "import",
        "an interpreter that imports and ends",
        (Metric("import", "ms"),),
        (
            Entry(OURS, interpreter("import streamipc"), role="ours"),
            Entry(
                f"{OURS}, and makes a peer",
                interpreter("from streamipc import IpcPeer, Message; IpcPeer()"),
                role="ours too",
            ),
            Entry("bare interpreter", interpreter("pass"), role="limit"),
            Entry("multiprocessing", interpreter("import multiprocessing.connection")),
            Entry(
                "concurrent.futures",
                interpreter("from concurrent.futures import ProcessPoolExecutor"),
            ),
            Entry("execnet", interpreter("import execnet"), needs="execnet"),
            Entry("rpyc", interpreter("import rpyc"), needs="rpyc"),
            Entry("Pyro5", interpreter("import Pyro5.api"), needs="Pyro5"),
        ),
        (Goal("import", most=15.0, of=("bare interpreter",), minus=True),),
    ),
    Workload(
        "idle",
        "100 idle sessions in one process",
        (Metric("cpu", "%"), Metric("heap", "KB a session"), Metric("threads", "a session")),
        (
            Entry(OURS, idle, role="ours"),
            Entry("a sleeping process", asleep, role="limit"),
        ),
        (Goal("cpu", most=0.1), Goal("heap", most=60.0)),
    ),
)
