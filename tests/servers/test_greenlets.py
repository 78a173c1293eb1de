"""Sessions in a process that gevent or eventlet has patched."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

Script = Callable[..., list[str]]

pytest.importorskip("gevent", reason="gevent is not installed: pip install 'streamipc[servers]'")

PARENT = """
    import sys, threading, time
    import streamipc, streamipc.session, streamipc.sync
    from shared_messages import Echo
    from streamipc import IpcPeer, SyncIpcSession

    def refused(make, word):
        try:
            make()
        except RuntimeError as error:
            assert word in str(error), error
        else:
            raise AssertionError("nothing was raised")
"""


CHILD = """
    import time
    from shared_messages import Echo
    from streamipc import IpcPeer

    session = IpcPeer().create_stdio_session()

    @session.on_request
    def echo(msg: Echo) -> object:
        if isinstance(msg.value, float):
            time.sleep(msg.value)
        return msg.value

    session.serve_forever()
"""


@pytest.fixture
def run(script: Script) -> Callable[..., None]:
    """Run a parent to its end, with the child's command as its arguments."""

    def run_parent(source: str) -> None:
        command = [*script(PARENT + source, name="parent.py"), *script(CHILD)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr

    return run_parent


@pytest.mark.parametrize("kind", ["IpcSession", "SyncIpcSession"])
def test_a_session_made_after_the_patch_lets_other_greenlets_run(
    run: Callable[..., None], kind: str
) -> None:
    run(f"""
    from gevent import monkey
    monkey.patch_all()
    import gevent
    from streamipc import IpcSession

    with IpcPeer(session_type={kind}).create_command_session(sys.argv[1:]) as session:
        assert session.call(Echo(1), timeout=30) == 1
        turns = []

        def turn():
            while True:
                turns.append(1)
                gevent.sleep(0.001)

        turning = gevent.spawn(turn)
        asking = [gevent.spawn(session.call, Echo(0.3), timeout=30) for _ in range(5)]
        asking += [gevent.spawn(session.call, Echo(n), timeout=30) for n in range(20)]
        gevent.joinall(asking, raise_error=True)
        assert [one.value for one in asking[5:]] == list(range(20))
        assert len(turns) > 10
        turning.kill()
    print("done")
    """)


def test_handlers_run_in_greenlets_and_may_ask_back(
    run: Callable[..., None],
) -> None:
    run("""
    from gevent import monkey
    monkey.patch_all()
    import gevent, socket

    ours, theirs = socket.socketpair()
    with IpcPeer(timeout=30) as peer:
        here = peer.create_stream_session(ours, ours)
        there = peer.create_stream_session(theirs, theirs)

        @there.on_request
        def ask_back(msg: Echo) -> object:
            time.sleep(0.01)
            return there.call(Echo(msg.value - 1)) if msg.value else 0

        @here.on_request
        def ask_again(msg: Echo) -> object:
            return here.call(Echo(msg.value - 1)) if msg.value else 0

        there.start()
        asking = [gevent.spawn(here.call, Echo(10)) for _ in range(10)]
        gevent.joinall(asking, raise_error=True)
        assert [one.value for one in asking] == [0] * 10
    print("done")
    """)


def test_streams_without_a_descriptor_let_other_greenlets_run(
    run: Callable[..., None],
) -> None:
    run("""
    from gevent import monkey
    monkey.patch_all()
    import gevent, os, socket

    class Stream:
        def __init__(self, end):
            self.end = end

        def read(self, size):
            return self.end.recv(size)

        def write(self, data):
            return self.end.send(data)

        def close(self):
            self.end.close()

    ends = [Stream(end) for end in socket.socketpair()]
    with IpcPeer(timeout=30) as peer:
        here, there = (peer.create_stream_session(end, end) for end in ends)
        there.on_request(Echo)(lambda msg: time.sleep(0.01) or msg.value)
        there.start()
        text = "x" * 1_000_000
        asking = [gevent.spawn(here.call, Echo(text)) for _ in range(10)]
        gevent.joinall(asking, raise_error=True)
        assert [one.value for one in asking] == [text] * 10
        # gevent's os.fork() begins to watch for SIGCHLD when it is back. A child that has gone by
        # then is waited for in vain.
        gevent.get_hub().loop.install_sigchld()
        pid = os.fork()
        if not pid:
            os._exit(not here.closed)
        assert os.waitpid(pid, 0)[1] == 0
        assert here.call(Echo("goes on")) == "goes on"
    print("done")
    """)


def test_streams_without_a_descriptor_need_patched_sockets(run: Callable[..., None]) -> None:
    run("""
    from gevent import monkey
    monkey.patch_all(socket=False)
    import io
    make = lambda: IpcPeer().create_stream_session(io.BytesIO(), io.BytesIO())
    refused(make, "patched threads and not socket")
    print("done")
    """)


@pytest.mark.parametrize(
    ("patch", "word"),
    [
        ("monkey.patch_all(thread=False)", "patched select and not threads"),
        ("monkey.patch_thread()", "patched threads and not select"),
    ],
)
def test_half_a_patch_is_refused(run: Callable[..., None], patch: str, word: str) -> None:
    run(f"""
    from gevent import monkey
    {patch}
    for kind in (streamipc.IpcSession, SyncIpcSession):
        peer = IpcPeer(session_type=kind)
        refused(lambda: peer.create_command_session(sys.argv[1:]), {word!r})
    print("done")
    """)


def test_a_session_made_before_the_patch_says_so_where_it_would_wait(
    run: Callable[..., None],
) -> None:
    run("""
    session = IpcPeer().create_command_session(sys.argv[1:])
    assert session.call(Echo(1), timeout=30) == 1
    from gevent import monkey
    monkey.patch_all()
    refused(lambda: session.call(Echo(5.0)), "after this session was made")
    print("done", flush=True)
    session.kill()
    import os
    os._exit(0)
    """)


def test_another_real_thread_is_refused(run: Callable[..., None]) -> None:
    run("""
    from gevent import monkey
    monkey.patch_all()
    import gevent.hub
    from shared_messages import Note

    with IpcPeer().create_command_session(sys.argv[1:]) as session:
        assert session.call(Echo(1), timeout=30) == 1
        pool = gevent.hub.get_hub().threadpool

        def use():
            for way in (
                lambda: session.request(Echo(1)),
                lambda: session.stream(Echo(1)),
                lambda: session.notify(Note()),
                lambda: session.receive(timeout=1),
            ):
                refused(way, "made by another thread")
            return "refused"

        assert pool.apply(use) == "refused"
        assert session.call(Echo(2), timeout=30) == 2
    print("done")
    """)


def test_eventlet_is_refused(run: Callable[..., None]) -> None:
    pytest.importorskip("eventlet", reason="eventlet is not installed")
    run("""
    import warnings
    warnings.simplefilter("ignore")
    import eventlet
    eventlet.monkey_patch()
    refused(lambda: IpcPeer().create_command_session(sys.argv[1:]), "eventlet")
    print("done")
    """)
