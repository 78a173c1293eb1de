"""A transport that is interrupted while it is closed or watched is closed by the next call."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from interrupting import Interrupt, interrupted_at

from streamipc.transports._child import Child
from streamipc.transports._exit import ExitStatus
from streamipc.transports._watch import wait_for_exit
from streamipc.transports.pipe import FdTransport
from streamipc.transports.process import ProcessTransport

FILES = ("transports/pipe.py", "transports/process.py", "transports/_watch.py", "/_exit.py")


class Late(TimeoutError):
    """An ``OSError``, as a handler may raise it, which system calls raise too."""


KINDS = pytest.mark.parametrize("kind", [Interrupt, Late])


Made = tuple[FdTransport, tuple[int, ...]]
"""A transport, and the peer's ends."""


def pipes() -> Made:
    (a, b), (c, d) = os.pipe(), os.pipe()
    return FdTransport(a, d), (b, c)


def sockets() -> Made:
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    return FdTransport(fd, fd, owners={fd: (ours,)}), (theirs.detach(),)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@KINDS
@pytest.mark.parametrize("make", [pipes, sockets])
@pytest.mark.parametrize("closes", ["close", "close_write"])
def test_a_descriptor_is_closed_once_wherever_closing_is_interrupted(
    make: Callable[[], Made], closes: str, kind: type[BaseException]
) -> None:
    for k in range(1, 1000):
        transport, theirs = make()
        numbers = {*transport.read_fds, transport.write_fd}
        interrupted = interrupted_at(k, FILES, getattr(transport, closes), kind)
        others = {fd for fd in numbers if not is_open(fd)}
        null = os.open(os.devnull, os.O_RDWR)
        for fd in others - {null}:
            os.dup2(null, fd)  # another file gets the number
        transport.close_write()
        transport.close()

        assert {fd for fd in numbers if is_open(fd)} == others
        for fd in {*others, *theirs, null}:
            os.close(fd)
        if not interrupted:
            break
    assert k > 5


@KINDS
def test_watching_goes_on_wherever_its_start_is_interrupted(kind: type[BaseException]) -> None:
    command = [sys.executable, "-S", "-c", "import sys; sys.stdin.read(); sys.exit(3)"]
    k = 0
    interrupted = True
    while interrupted:
        k += 1
        process: Any = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        transport = ProcessTransport(process)
        ends: list[int | None] = []
        over = threading.Event()

        def on_exit(transport: Any = transport, ends: Any = ends, over: Any = over) -> None:
            ends.append(transport.returncode)
            over.set()

        interrupted = interrupted_at(k, FILES, lambda: transport.watch(on_exit), kind)  # noqa: B023
        if interrupted:
            transport.watch(on_exit)
        transport.close_write()

        assert over.wait(20)
        assert interrupted_at(1, FILES, transport.close, kind)
        transport.close()
        assert ends == [3]
    assert k > 10


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="tells of the end and leaves the status")
@KINDS
@pytest.mark.parametrize("waits", [False, True])
def test_a_status_is_known_wherever_asking_for_it_is_interrupted(
    kind: type[BaseException], waits: bool
) -> None:
    """The kernel gives it once. Popen asks by an object of its own."""
    k, interrupted = 0, True
    while interrupted:
        k += 1
        with Child([sys.executable, "-I", "-S", "-c", "raise SystemExit(3)"]) as process:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            status = ExitStatus(process)
            ask = partial(wait_for_exit, process, status, 20) if waits else status.look
            interrupted = interrupted_at(k, FILES, ask, kind)

            assert process.poll() == 3
            assert (status.code, status.is_lost) == (3, False)
    assert k > 5
