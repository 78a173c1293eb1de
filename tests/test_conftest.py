"""The watch that conftest.py keeps over every test is itself kept."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shared_messages import Add, Echo, Fail, Greeting, Note, SayHello

from streamipc import (
    IpcPeer,
    JsonMessageSerializer,
    MessageSerializer,
    NativeMessageSerializer,
    RemoteError,
)

HERE = Path(__file__).resolve().parent

LEAKS = {
    "a thread": """
        import threading
        def test_it():
            threading.Thread(target=threading.Event().wait, daemon=True, name="lost").start()
    """,
    "a descriptor": """
        import os
        def test_it():
            os.dup(0)
    """,
    "a zombie": """
        import os, time
        def test_it():
            pid = os.posix_spawn("/bin/true", ["true"], {})
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    """,
    "a ResourceWarning": """
        import os
        def test_it():
            os.fdopen(os.dup(0))
    """,
    "an exception in a cycle's finalizer": """
        class Node:
            def __del__(self):
                raise ValueError("nobody sees this")
        def test_it():
            node = Node()
            node.itself = node
    """,
    "an exception in a thread": """
        import threading
        def test_it():
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()
    """,
}
SAID = {
    "a thread": "thread 'lost'",
    "a descriptor": "file descriptor",
    "a zombie": "a zombie",
    "a ResourceWarning": "ResourceWarning",
    "an exception in a cycle's finalizer": "nobody sees this",
    "an exception in a thread": "ZeroDivisionError",
}


def run_pytest(folder: Path, source: str, grace: float) -> subprocess.CompletedProcess[str]:
    watch = (HERE / "conftest.py").read_text().replace("GRACE = 10.0", f"GRACE = {grace}")
    (folder / "conftest.py").write_text(watch)
    (folder / "test_it.py").write_text(textwrap.dedent(source))
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux has /proc/self/fd")
@pytest.mark.parametrize("leak", LEAKS)
def test_a_test_fails_that_leaves_behind(leak: str, tmp_path: Path) -> None:
    done = run_pytest(tmp_path, LEAKS[leak], grace=0.2)

    assert done.returncode == 1, done.stdout + done.stderr
    assert SAID[leak] in done.stdout


def test_a_clean_test_passes(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        """
        import subprocess, sys, threading
        def test_it():
            thread = threading.Thread(target=len, args=("",))
            thread.start()
            subprocess.run([sys.executable, "-c", ""], check=True)
        """,
        grace=20.0,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_connected_sessions_talk_both_ways(connected: Callable[..., Any]) -> None:
    left, right = connected()
    left.on_request(Echo)(lambda msg: f"left: {msg.value}")
    right.on_request(Echo)(lambda msg: f"right: {msg.value}")
    right.start()

    assert left.request(Echo("x")).result(timeout=10) == "right: x"
    assert right.request(Echo("y")).result(timeout=10) == "left: y"


@pytest.mark.parametrize("serializer", [NativeMessageSerializer, JsonMessageSerializer])
def test_echo_child_answers(
    serializer: Callable[[], MessageSerializer],
    echo_child: list[str],
    eventually: Callable[..., None],
) -> None:
    arguments = ["json"] if serializer is JsonMessageSerializer else []
    with (
        IpcPeer(serializer()) as peer,
        peer.create_command_session([*echo_child, *arguments]) as session,
    ):
        assert session.request(Echo([1, "two"])).result(timeout=10) == [1, "two"]
        assert session.request(Add(1, 2)).result(timeout=10) == 3
        assert session.request(SayHello("Ada")).result(timeout=10) == Greeting("Hello, Ada!")
        with pytest.raises(RemoteError, match="ValueError: on purpose"):
            session.request(Fail()).result(timeout=10)
        session.notify(Note("n", 1))
        assert session.receive(timeout=10) == Note("n", 1)
        eventually(lambda: session.stats.pending == 0)


def test_script_is_run_with_the_shared_messages(
    script: Callable[..., list[str]], peer: IpcPeer
) -> None:
    command = script(
        """
        from shared_messages import Echo
        from streamipc import IpcPeer

        session = IpcPeer().create_stdio_session()
        session.on_request(Echo)(lambda msg: msg.value * 2)
        session.serve_forever()
        """
    )

    with peer.create_command_session(command) as session:
        assert session.request(Echo(21)).result(timeout=10) == 42
