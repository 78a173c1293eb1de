"""How long it takes from nothing to the first reply: ``start.py LIBRARY TIMES``.

Runs as a process of its own, so that every library starts its child from an interpreter of
the same size. Prints the seconds of each time as a JSON list. The library is imported
before the clock starts; the child's imports are what is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent

Start = Callable[[], Callable[[], object]]
"""Starts a child and waits for its first reply; returns what ends the child."""


def with_ours() -> Start:
    from start_messages import Ask

    from streamipc import IpcPeer

    def start() -> Callable[[], object]:
        session = IpcPeer().create_command_session([sys.executable, str(HERE / "start_ours.py")])
        assert session.request(Ask(7, "a small message")).result().number == 8
        return session.close

    return start


def with_interpreter(imports: str = "os") -> Start:
    command = [sys.executable, "-c", f"import {imports}; os.write(1, b'x'); os.read(0, 1)"]

    def start() -> Callable[[], object]:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        return process.communicate

    return start


def answer(connection):  # type: ignore[no-untyped-def]
    number, text = connection.recv()
    connection.send((number + 1, text))


def with_multiprocessing() -> Start:
    import multiprocessing

    context = multiprocessing.get_context("spawn")

    def start() -> Callable[[], object]:
        ours, theirs = context.Pipe()
        process = context.Process(target=answer, args=(theirs,))
        process.start()
        ours.send((7, "a small message"))
        assert ours.recv()[0] == 8
        return process.join

    return start


def with_execnet() -> Start:
    import execnet

    def start() -> Callable[[], object]:
        group = execnet.Group()
        gateway = group.makegateway("popen")
        channel = gateway.remote_exec(
            "number, text = channel.receive(); channel.send((number + 1, text))"
        )
        channel.send((7, "a small message"))
        assert channel.receive(30)[0] == 8
        return lambda: group.terminate(timeout=5)

    return start


def with_rpyc() -> Start:
    import rpyc

    def start() -> Callable[[], object]:
        connection = rpyc.connect_subproc([sys.executable, str(HERE / "rpyc_child.py")])
        assert connection.root.ask(7, "a small message")[0] == 8

        def end() -> None:
            connection.close()
            connection.proc.wait()

        return end

    return start


LIBRARIES = {
    "streamipc": with_ours,
    "interpreter": with_interpreter,
    # What ours imports of the standard library, mostly for its annotations.
    "standard": partial(with_interpreter, "os, dataclasses, concurrent.futures, subprocess"),
    "multiprocessing": with_multiprocessing,
    "execnet": with_execnet,
    "rpyc": with_rpyc,
}


def main() -> None:
    start = LIBRARIES[sys.argv[1]]()
    took = []
    for _ in range(int(sys.argv[2])):
        begin = time.perf_counter()
        end = start()
        took.append(time.perf_counter() - begin)
        end()
    print(json.dumps(took))


# multiprocessing's children import this file.
if __name__ == "__main__":
    main()
