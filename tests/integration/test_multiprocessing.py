"""Pools of multiprocessing in a child whose script serves without a ``__main__`` guard."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from shared_messages import Echo, Note

from streamipc import IpcPeer

METHODS = [one for one in multiprocessing.get_all_start_methods() if one != "fork"]

Script = Callable[..., list[str]]

CHILD = """
    import concurrent.futures, multiprocessing, sys
    from shared_messages import Echo, Note
    from streamipc import IpcPeer, SyncIpcSession

    def work(value):
        return value * 2

    session = IpcPeer(session_type={session_type}).create_stdio_session()

    @session.on_request
    def echo(msg: Echo) -> object:
        kind, method = msg.value
        context = multiprocessing.get_context(method)
        if kind == "executor":
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                return list(pool.map(work, range(4)))
        if kind == "pool":
            with context.Pool(2) as pool:
                return pool.map(work, range(4))
        process = context.Process(target=work, args=(1,))
        process.start()
        process.join()
        return process.exitcode

    {before}
    {serve}
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["executor", "pool", "process"])
def test_a_handler_uses_a_pool_although_its_script_has_no_guard(
    script: Script, kind: str, method: str
) -> None:
    command = script(
        CHILD.format(
            session_type="SyncIpcSession.__base__", before="", serve="session.serve_forever()"
        )
    )
    lines: list[str] = []
    with IpcPeer().create_command_session(command, stderr=lines.append) as session:
        reply: Any = session.call(Echo([kind, method]), timeout=60)
        assert reply == (0 if kind == "process" else [0, 2, 4, 6])
    assert lines == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("session_type", "before", "serve"),
    [
        ("SyncIpcSession", "", "session.serve_forever()"),
        ("SyncIpcSession.__base__", "session.notify(Note('up'))", "session.serve_forever()"),
        (
            "SyncIpcSession.__base__",
            "session.start()",
            "session.notify(Note('up')); session.serve_forever()",
        ),
        ("SyncIpcSession.__base__", "", "with session: session.serve_forever()"),
    ],
)
def test_the_workers_of_a_pool_come_past_whatever_the_script_does(
    script: Script, method: str, session_type: str, before: str, serve: str
) -> None:
    command = script(CHILD.format(session_type=session_type, before=before, serve=serve))
    lines: list[str] = []
    with IpcPeer().create_command_session(command, stderr=lines.append) as session:
        if "up" in before + serve:
            assert session.receive(timeout=60) == Note("up")
        assert session.call(Echo(["pool", method]), timeout=60) == [0, 2, 4, 6]
    assert lines == []


@pytest.mark.skipif(os.name == "nt", reason="nothing handles SIGTERM there")
@pytest.mark.parametrize("session_type", ["SyncIpcSession", "SyncIpcSession.__base__"])
def test_a_worker_that_comes_past_serving_is_ended_by_sigterm_at_any_moment(
    script: Script, session_type: str
) -> None:
    """A pool ends its workers so, and would wait for ever for one that it does not end."""
    serve = """
    def kill(frame, event, arg):
        # While a handler is there, or else when serving is over.
        over = event == "return" and frame.f_code.co_name == "serve_forever"
        if over or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGTERM)

    import os, signal
    if __name__ == "__mp_main__":
        sys.setprofile(kill)
    session.serve_forever()
"""
    command = script(CHILD.format(session_type=session_type, before="", serve=serve))
    lines: list[str] = []
    with IpcPeer().create_command_session(command, stderr=lines.append) as session:
        assert session.call(Echo(["process", "spawn"]), timeout=60) == -signal.SIGTERM
    assert lines == []


@pytest.mark.parametrize("session_type", ["SyncIpcSession", "SyncIpcSession.__base__"])
def test_a_worker_that_comes_past_serving_has_no_thread_of_the_sessions(
    script: Script, session_type: str
) -> None:
    serve = """
    import threading
    seen = []
    start = threading.Thread.start
    threading.Thread.start = lambda thread: (seen.append(thread.name), start(thread))
    session.serve_forever()
    if __name__ == "__mp_main__":
        sys.exit(len(seen))
"""
    command = script(CHILD.format(session_type=session_type, before="", serve=serve))
    with IpcPeer().create_command_session(command) as session:
        assert session.call(Echo(["process", "spawn"]), timeout=60) == 0
