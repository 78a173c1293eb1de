"""What the parents in the fork tests do: fork in several ways, and use what they have inherited.

Each of these programs is a process of its own, started by a test.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from long_messages import Count
from shared_messages import Echo, Note

from streamipc import SessionClosedError

__all__ = ["PYTHONS_WAYS", "WAYS", "check_inert", "fork", "pipes_held"]

LIMIT = 100
"""Seconds after which a forked process that is stuck is ended, by SIGALRM."""


def fork(work: Callable[[], object], way: str = "main") -> int:
    """Fork, run ``work`` in the forked process, end that; return its id.

    Args:
        work: what to do there; it must not return what matters.
        way: ``main``: on this thread; ``thread``: on another one; ``C``: as a server that is
            written in C does, without telling Python.
    """
    if way == "main":
        return _fork_here(work)
    if way == "C":
        # A copy hangs in CPython itself if a thread waits for the GIL now: nobody repairs the
        # GIL's condition variable, as os.fork() does. All our threads sleep in a moment.
        time.sleep(0.2)
        return _fork_here(work, ctypes.PyDLL(None).fork)
    pids: list[int] = []
    thread = threading.Thread(target=lambda: pids.append(_fork_here(work)))
    thread.start()
    thread.join()
    return pids[0]


PYTHONS_WAYS = ("main", "thread")
WAYS = (*PYTHONS_WAYS, "C")


def _fork_here(work: Callable[[], object], fork: Callable[[], int] = os.fork) -> int:
    pid = fork()
    if not pid:
        signal.alarm(LIMIT)
        _end_with(work)
    return pid


def _end_with(work: Callable[[], object]) -> NoReturn:
    """Run ``work`` and end as programs do, with everything that runs at an exit."""
    import atexit

    try:
        work()
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def check_inert(session: Any, pending: Any = None, stream: Any = None) -> None:
    """Check that a session's copy in this forked process says what it is, whatever one does."""
    uses: dict[str, Callable[[], object]] = {
        "request": lambda: session.request(Echo(1)),
        "call": lambda: session.call(Echo(1)),
        "notify": lambda: session.notify(Note()),
        "stream": lambda: session.stream(Count(3)),
        "receive": lambda: session.receive(timeout=5),
        "start": session.start,
        "with": session.__enter__,
    }
    if pending is not None:
        uses["result"] = pending.result
        pending.cancel()
    if stream is not None:
        uses["iteration"] = lambda: list(stream)
        uses["the stream's result"] = stream.result
        stream.close()
    for name, use in uses.items():
        try:
            got = use()
        except SessionClosedError as error:
            said = str(error)
        else:
            raise AssertionError(f"{name} worked in a forked process: {got!r}")
        assert f"this session belongs to process {os.getppid()}" in said, (name, said)
    assert session.closed
    assert "closed" in repr(session)
    assert session.stats is not None
    assert session not in session.peer.sessions
    session.serve_forever()
    session.close()
    if hasattr(session, "terminate"):
        session.terminate()
        session.kill()


def pipes_held(known: set[int] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """Return the pipes and sockets that this process holds, except for those known."""
    held = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if int(name) > 2 and int(name) not in known and target.startswith(("pipe", "socket")):
                held.append(f"{name}: {target}")
    return held
