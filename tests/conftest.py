"""What every test gets.

``nothing_is_left_behind`` watches every test by itself: a thread, file descriptor, child
process (a zombie too), unraisable exception or ``ResourceWarning`` that a test leaves
behind fails that test. What is still on its way out has ten seconds to go.

Ask for the others by name:

``script``
    ``script(source)`` writes a child program and returns the command that runs it::

        def test_child_answers(script):
            command = script('''
                from shared_messages import Echo
                from streamipc import IpcPeer

                session = IpcPeer().create_stdio_session()

                @session.on_request
                def echo(msg: Echo) -> object:
                    return msg.value

                session.serve_forever()
            ''')
            with IpcPeer().create_command_session(command) as session:
                assert session.request(Echo("x")).result(timeout=10) == "x"

``echo_child``
    The command of ``tests/support/echo_child.py``, which answers the messages of
    ``shared_messages``; append ``"json"`` for the JSON serializer.

``shared_messages``
    The folder ``tests/support`` can be imported from, in tests and in their children: put
    message modules and other helpers for both sides there.

``peer``
    An ``IpcPeer`` that is closed when the test ends, and its sessions with it.

``connected``
    ``left, right = connected()`` gives two sessions of this process that talk to each other
    over two pipes, not started yet; ``connected(left_peer, right_peer)`` takes peers of the
    test's own. Both are closed when the test ends.

``eventually``
    ``eventually(lambda: session.stats.pending == 0)`` polls until the condition holds. Only
    for what can't be waited for: an event or a future is better.

``exit_status_is_waited_for``
    For tests of what an error says about a child's end. An error waits 80 ms for the exit
    status and the last lines of a child whose output has ended, and does without them on a
    machine that takes longer; with this it waits until they are there.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# How long one example takes says more about the machine than about the code. The examples are
# the same each time, so that a run fails for what was changed and not for what it found; other
# ones are tried with ``--hypothesis-profile=exploring``.
hypothesis.settings.register_profile(
    "exploring", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "steady", hypothesis.settings.get_profile("exploring"), derandomize=True, database=None
)
# A third as many: .ci/run tries all of them on one Python only, the newest.
hypothesis.settings.register_profile(
    "a-third", hypothesis.settings.get_profile("steady"), max_examples=33
)
hypothesis.settings.load_profile("steady")

SUPPORT = Path(__file__).resolve().parent / "support"

GRACE = 10.0
"""Seconds that a thread, descriptor or child has to be gone after its test."""

PROC = Path("/proc")


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = _Held()
    # What exists now is passed by when the garbage of this test is collected; looking at all
    # of it after each test would take longer than most tests.
    gc.freeze()
    yield
    # Objects in reference cycles warn now, while the warning still belongs to this test.
    gc.collect()
    deadline = time.monotonic() + GRACE
    while left := _Held().since(before):
        if time.monotonic() > deadline:
            pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)
        time.sleep(0.005)
        gc.collect()


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    path = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)

    def write(source: str, name: str = "child.py") -> list[str]:
        file = tmp_path / name
        file.write_text(textwrap.dedent(source), encoding="utf-8")
        return [sys.executable, str(file)]

    return write


@pytest.fixture
def echo_child() -> list[str]:
    return [sys.executable, str(SUPPORT / "echo_child.py")]


@pytest.fixture
def peer() -> Iterator[Any]:
    from streamipc import IpcPeer

    with IpcPeer() as peer:
        yield peer


@pytest.fixture
def connected() -> Iterator[Callable[..., tuple[Any, Any]]]:
    from streamipc import IpcPeer

    sessions: list[Any] = []

    def connect(left: Any = None, right: Any = None) -> tuple[Any, Any]:
        to_right, from_left = reversed(os.pipe())
        to_left, from_right = reversed(os.pipe())
        pair = (
            (left or IpcPeer()).create_stream_session(to_right, from_right),
            (right or IpcPeer()).create_stream_session(to_left, from_left),
        )
        sessions.extend(pair)
        return pair

    yield connect
    for session in sessions:
        session.close(timeout=5)


@pytest.fixture
def most_notifications(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what sets how many notifications may wait at the most, in sessions to be made."""
    from streamipc.engine.flow import Flow

    init = Flow.__init__

    def bound(count: int) -> None:
        def make(self: Flow, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            self.most_notifications = count

        monkeypatch.setattr(Flow, "__init__", make)

    return bound


@pytest.fixture
def eventually() -> Callable[..., None]:
    def wait(condition: Callable[[], object], timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"still not so after {timeout:g} s"
            time.sleep(0.002)

    return wait


@pytest.fixture
def exit_status_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamipc.transports import process

    monkeypatch.setattr(process, "_EXIT_STATUS", 30.0)


class _Held:
    """The threads, descriptors and children that this process has at one moment."""

    def __init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.descriptors = _descriptors()
        self.children = _children()

    def since(self, before: _Held) -> list[str]:
        """Return a line for each thing that was not there ``before``."""
        return [
            *(f"  thread {t.name!r}" for t in self.threads - before.threads),
            *(
                f"  file descriptor {fd}: {target}"
                for fd, target in sorted(self.descriptors.items())
                if before.descriptors.get(fd) != target
            ),
            *(
                f"  child process {pid}: {what}"
                for pid, what in sorted(self.children.items())
                if pid not in before.children
            ),
        ]


def _descriptors() -> dict[int, str]:
    """Return the open file descriptors and what they stand for; Linux only."""
    held: dict[int, str] = {}
    folder = PROC / "self" / "fd"
    for name in os.listdir(folder) if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # the descriptor that listdir itself had open
            held[int(name)] = os.readlink(folder / name)
    return held


def _children() -> dict[int, str]:
    """Return this process's children, zombies too, and what they run; Linux only.

    Asks /proc, so that nobody's exit status is taken away from its owner: first the list
    of children that each thread started (proc_tid_children(5), which not every kernel
    has), then line 1 of proc_pid_stat(5): ``pid (command) state …``, where the command
    may hold anything.
    """
    pids: set[str] = set()
    for task in (PROC / "self" / "task").glob("*"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            pids.update((task / "children").read_text().split())
    held: dict[int, str] = {}
    for pid in pids:
        with contextlib.suppress(OSError):  # the child has gone meanwhile
            command, _, rest = (PROC / pid / "stat").read_text().rpartition(")")
            zombie = ", a zombie" if rest.split()[0] in "ZX" else ""
            held[int(pid)] = command.partition("(")[2] + zombie
    return held
