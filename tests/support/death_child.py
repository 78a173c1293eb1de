"""A child under load that dies: ``death_child.py LOAD JOURNAL HOW AFTER WHERE``.

``HOW``: ``killed`` by the parent, or by itself by ``segfault`` or ``exit``; then before
(``WHERE`` 0), in the middle of (1) or after (2) the write number ``AFTER``.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from death_journal import Journal
from death_loads import LOADS, register
from shared_messages import Note

from streamipc import IpcPeer, SessionClosedError
from streamipc.transports.stdio import StdioTransport

load = LOADS[sys.argv[1]]
journal = Journal(sys.argv[2])
how = sys.argv[3]
after, where = int(sys.argv[4]), int(sys.argv[5])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sys.setswitchinterval(float(os.environ.get("STREAMIPC_SWITCH_INTERVAL", "0.005")))


def die() -> NoReturn:
    journal.dies_now()
    if how == "segfault":
        signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)
    os._exit(7)


class MortalStdio(StdioTransport):
    """Writes down what it has written, and dies when it is due."""

    writes = 0

    def write_some(self, buffers: Sequence[memoryview]) -> int:
        due = how != "killed" and self.writes >= after
        self.writes += 1
        data = b"".join(buffers)
        if due and where == 0:
            die()
        if due and where == 1:
            with suppress(BlockingIOError):
                os.write(self.write_fd, data[: (len(data) + 1) // 2])
            die()
        count = super().write_some(buffers)
        journal.wrote(data[:count])
        if due:
            die()
        return count


session = IpcPeer(timeout=60).create_session(MortalStdio())
register(session)


def ask_back() -> None:
    with suppress(SessionClosedError):
        while True:
            load.ask_once(session)


def tell() -> None:
    number = 0
    with suppress(SessionClosedError):
        while True:
            session.notify(Note("x" * 100, number))
            number += 1
            session.request(Note(number=number)).result()  # or nothing else would get through


session.start()
for target in (ask_back, tell):
    threading.Thread(target=target, daemon=True).start()
session.serve_forever()
