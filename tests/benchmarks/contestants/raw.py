"""No library: the least that a message between two processes can cost."""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from . import NUMBER, TEXT, Caller, child_command

PAYLOAD = pickle.dumps((NUMBER, TEXT), 5)

SPIN = 20e-6
"""Seconds."""


@contextmanager
def open_pipe(spin: float = 0.0) -> Iterator[Caller]:
    """Two pipes and a child that sends back what it reads."""
    with subprocess.Popen(
        child_command("raw_pipe.py", spin),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        there, back = process.stdin.fileno(), process.stdout.fileno()
        poller = select.poll()
        poller.register(back, select.POLLIN)
        poll, clock = poller.poll, time.perf_counter

        def call() -> bytes:
            os.write(there, PAYLOAD)
            if spin:
                end = clock() + spin
                while not poll(0) and clock() < end:
                    pass
            return os.read(back, 4096)

        assert call() == PAYLOAD
        yield Caller(process.pid, call)
        process.stdin.close()


@contextmanager
def open_pickle() -> Iterator[Caller]:
    """Pickle alone: two messages written and read, nothing sent."""

    def call() -> object:
        asked = pickle.loads(pickle.dumps((NUMBER, TEXT), 5))
        return pickle.loads(pickle.dumps(asked, 5))

    yield Caller(os.getpid(), call)
