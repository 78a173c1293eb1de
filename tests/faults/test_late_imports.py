"""What is imported when first needed can't be: a request fails, perhaps, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from shared_messages import Echo, Note

from streamipc import IpcPeer, RemoteError

TIMEOUT = 20

Script = Callable[..., list[str]]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="setrlimit(2): POSIX")

LIMIT = """
    import os, resource, sys

    def limit_descriptors(on):
        most = hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if on:
            most = os.dup(0)  # the next one, that is
            os.close(most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
"""

CHILD = (
    LIMIT
    + """
    from shared_messages import Echo, Note
    from streamipc import IpcPeer

    session = IpcPeer().create_stdio_session()

    @session.on_request
    def echo(msg: Echo) -> object:
        if msg.value == "fail":
            raise ValueError("of the handler")
        if msg.value == "more":
            limit_descriptors(False)
        return len(msg.value)

    @session.on_message
    def fail(msg: Note) -> None:
        raise ValueError("of the notification")

    session.start()
    limit_descriptors(True)
    session.serve_forever()
"""
)

LARGE = "x" * (2 << 20)


def test_a_child_without_descriptors_answers_what_it_has_no_module_for(
    script: Script, eventually: Any
) -> None:
    with IpcPeer().create_command_session(script(CHILD)) as session:
        session.notify(Note("x"))
        for _ in range(2):
            with pytest.raises(RemoteError, match="of the handler"):
                session.request(Echo("fail")).result(timeout=TIMEOUT)
            # Room for it needs no module any more; to read it does, on some versions.
            error = session.request(Echo(LARGE)).exception(timeout=TIMEOUT)
            assert error is None or "Too many open files" in str(error)
        eventually(lambda: "of the notification" in session.stderr_tail)
        assert session.request(Echo("more")).result(timeout=TIMEOUT) == 4
        assert session.request(Echo(LARGE)).result(timeout=TIMEOUT) == len(LARGE)
        with pytest.raises(RemoteError) as failed:
            session.request(Echo("fail")).result(timeout=TIMEOUT)
    assert "in echo" in failed.value.remote_traceback
    assert session.returncode == 0


CLOSES = (
    LIMIT
    + """
    import socket

    ends = [end.detach() for end in socket.socketpair()]
    del sys.modules["socket"], socket  # as if they had been handed down by another process
    from streamipc import IpcPeer

    session = IpcPeer().create_stream_session(ends[0], ends[0])
    session.start()
    limit_descriptors(True)
    session.close()
    limit_descriptors(False)
    print(session.closed, os.read(ends[1], 1))
    try:
        os.fstat(ends[0])
    except OSError as error:
        print(error.strerror)
"""
)


def test_a_session_over_sockets_closes_without_descriptors(script: Script) -> None:
    done = subprocess.run(script(CLOSES), capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["True b''", "Bad file descriptor"], done.stderr
