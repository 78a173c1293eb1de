"""Ctrl-C and SIGTERM, and Python's own diagnostics: what is asked for happens, nothing hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from long_messages import Stubborn, WaitFor
from shared_messages import Echo

from streamipc import IpcPeer, IpcSession, RemoteError, SessionClosedError, SyncIpcSession

Script = Callable[..., list[str]]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no POSIX signals")

IMPORTS = """
    import os, random, signal, sys, threading, time
    from long_messages import Count, Stubborn, WaitFor
    from shared_messages import Echo, Note
    from streamipc import IpcPeer, IpcSession, SessionClosedError, SyncIpcSession

    sys.setswitchinterval(float(os.environ.get("STREAMIPC_SWITCH_INTERVAL", "0.005")))
    # A shell starts what runs in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
"""

CHILD = (
    IMPORTS
    + """
    import long_child
    kind = SyncIpcSession if "sync" in sys.argv else IpcSession
    session = IpcPeer(session_type=kind).create_stdio_session()
    long_child.register(session)

    @session.on_request
    def echo(msg: Echo) -> object:
        return msg.value

    session.serve_forever()
    print("cleaned up", file=sys.stderr)
"""
)

# In result()


def test_ctrl_c_in_result_leaves_request_and_session_alive(script: Script) -> None:
    child = script(CHILD)
    source = """
    with IpcPeer().create_command_session(sys.argv[1:], stderr=None) as session:
        for n in range(20):
            future = session.request(WaitFor(f"go {n}"))
            interrupt = threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGINT))
            try:
                interrupt.start()  # in here, for it may be over before the next line
                future.result(timeout=30)
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("not interrupted")
            interrupt.join()
            assert not future.done()
            session.request(WaitFor(f"go {n}", say=True)).result(timeout=30)
            assert future.result(timeout=30) is None
    assert session.process.stderr is None
    """
    done = subprocess.run(
        [*script(IMPORTS + source, name="parent.py"), *child], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"cleaned up\n")


def test_ctrl_c_in_the_midst_of_traffic_leaves_nobody_waiting(script: Script) -> None:
    child = script(CHILD)
    source = """
    session = IpcPeer().create_command_session(sys.argv[1:], stderr=None).start()
    stop = threading.Event()
    failed, interrupted, ends = [], 0, []

    def ask():
        try:
            while not stop.is_set():
                futures = [session.request(Echo(n)) for n in range(random.randrange(8))]
                assert [f.result(timeout=30) for f in futures] == list(range(len(futures)))
        except SessionClosedError as error:
            # An interrupt that comes between taking bytes and handing them on ends the session.
            ends.append(str(error))
        except BaseException as error:
            failed.append(error)

    armed = False

    def interrupted_here(*_):
        global armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    def interrupt():
        while not stop.wait(random.random() * 0.01):
            os.kill(os.getpid(), signal.SIGINT)

    def use():
        global armed
        try:
            armed = True
            session.request(Echo("main"), timeout=20).result(timeout=30)
            with session.stream(Count(20), timeout=20) as stream:
                for item in stream:
                    pass
        finally:
            armed = False  # what comes now would hit what is no call of the session's

    def dropped(args):
        # One that hits a __del__ can't come out of it. CPython says so, and that is all.
        if args.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(args)

    sys.unraisablehook = dropped
    signal.signal(signal.SIGINT, interrupted_here)
    threads = [threading.Thread(target=ask) for _ in range(3)]
    threads.append(threading.Thread(target=interrupt))
    for thread in threads:
        thread.start()
    while interrupted < 100 and not ends:
        try:
            use()
        except KeyboardInterrupt:
            interrupted += 1
        except SessionClosedError as error:
            ends.append(str(error))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed, failed
    if not ends:
        assert session.request(Echo("still here")).result(timeout=30) == "still here"
        # What was interrupted just before it was sent ends at its deadline.
        patience = time.monotonic() + 30
        while session.stats.pending and time.monotonic() < patience:
            time.sleep(0.01)
        assert session.stats.pending == 0, session.stats
    print(interrupted, ends[:1])
    session.close(timeout=30)
    """
    done = subprocess.run(
        [*script(IMPORTS + source, name="parent.py"), *child],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "cleaned up\n"), done.stdout + done.stderr
    assert done.stdout.strip()


# In a handler


@pytest.mark.parametrize("kind", [IpcSession, SyncIpcSession], ids=["threads", "sync"])
def test_ctrl_c_ends_a_child_in_the_midst_of_a_handler_without_a_word(
    script: Script, kind: type
) -> None:
    child = script(CHILD)
    lines: list[str] = []
    with IpcPeer().create_command_session(
        [*child, "sync"] if kind is SyncIpcSession else child, stderr=lines.append
    ) as session:
        started = _started(session, kind)
        session.process.send_signal(signal.SIGINT)
        with pytest.raises((SessionClosedError, RemoteError)):
            started.result(timeout=20)
        assert session.process.wait(20) == -signal.SIGINT
    assert lines == []


def _started(session: Any, kind: type) -> Any:
    """Return the future of a request whose handler runs and does not end by itself."""
    if kind is IpcSession:
        future = session.request(Stubborn("it"))
        session.request(WaitFor("it started")).result(timeout=20)
        return future
    session.request(Echo()).result(timeout=20)
    future = session.request(WaitFor("never"))
    # Without threads the child says nothing while its handler runs: it is asleep in it.
    deadline = time.monotonic() + 20
    while "futex" not in _wchan(session.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return future


def _wchan(pid: int) -> str:
    with open(f"/proc/{pid}/wchan") as file:
        return file.read() or "futex"


# To all at once


@pytest.mark.parametrize(
    "use",
    [
        "session.request(WaitFor('never')).result()",
        "list(session.stream(WaitFor('never')))",
        "session.serve_forever()",
        "while True: session.request(Echo('x' * 100_000)).result()",
        "session.close(timeout=30)",
    ],
)
def test_ctrl_c_at_a_terminal_ends_the_parent_and_its_children(script: Script, use: str) -> None:
    child = script(CHILD)
    source = f"""
    peer = IpcPeer()
    silent = peer.create_command_session(
        [sys.executable, "-c", "import os, signal; os.write(1, b'up'); signal.pause()"], stderr=None
    )
    with peer, peer.create_command_session(sys.argv[1:]) as session:
        session.request(Echo(1)).result(timeout=30)
        silent.receive(timeout=30)  # one that is interrupted as it starts says more than that
        os.write(1, b"%d %d\\n" % (session.pid, silent.pid))
        if "close" in {use!r}:
            session.request(Stubborn("it"))
        {use}
    """
    parent = subprocess.Popen(
        [*script(IMPORTS + source, name="parent.py"), *child],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.1)  # for it to get there; earlier or later is as good a test
    os.killpg(parent.pid, signal.SIGINT)
    _, said = parent.communicate(timeout=30)

    assert parent.returncode == -signal.SIGINT
    assert said.rstrip().endswith(b"KeyboardInterrupt")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("kind", ["threads", "sync"])
def test_ctrl_c_at_a_terminal_prints_the_traceback_of_the_parent_alone(
    script: Script, kind: str
) -> None:
    child = script(CHILD)
    source = """
    with IpcPeer() as peer:
        for stderr in ("forward", None, "forward", None):
            session = peer.create_command_session([*sys.argv[1:], kind], stderr=stderr)
            session.request(Echo(1)).result(timeout=30)
        os.write(1, b"up\\n")
        time.sleep(60)
    """.replace("kind", repr(kind), 1)
    parent = subprocess.Popen(
        [*script(IMPORTS + source, name="parent.py"), *child],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    # Not one that comes just as the child begins to wait, which CPython sees a moment later.
    time.sleep(0.2)
    os.killpg(parent.pid, signal.SIGINT)
    _, said = parent.communicate(timeout=30)

    assert parent.returncode == -signal.SIGINT
    assert said.count(b"Traceback") == 1, said.decode()
    assert said.endswith(b"KeyboardInterrupt\n")


@pytest.mark.parametrize("kind", ["threads", "sync"])
@pytest.mark.parametrize(
    ("around", "status", "said"),
    [
        ("except KeyboardInterrupt: print('caught')", 0, ["caught"]),
        ("finally: print('cleaned up')", -signal.SIGINT, ["cleaned up"]),
        ("except KeyboardInterrupt: raise SystemExit(5)", 5, []),
        ("except KeyboardInterrupt: os.kill(os.getpid(), 9)", -9, []),
        ("finally: sys.excepthook = lambda *_: print('mine')", -signal.SIGINT, ["mine"]),
    ],
)
def test_whoever_catches_ctrl_c_around_serving_gets_it(
    script: Script, kind: str, around: str, status: int, said: list[str]
) -> None:
    child = script(CHILD.replace("session.serve_forever()", _tried(around)))
    lines: list[str] = []
    with IpcPeer().create_command_session([*child, kind], stderr=lines.append) as session:
        session.request(Echo(1)).result(timeout=20)
        time.sleep(0.2)
        session.process.send_signal(signal.SIGINT)
        assert session.process.wait(20) == status
    assert lines == [*said, *(["cleaned up"] if status == 0 else [])]


def _tried(around: str) -> str:
    return f"try: session.serve_forever()\n    {around}"


def test_another_error_than_ctrl_c_is_printed_as_ever(script: Script) -> None:
    around = "finally: raise LookupError('on the way out')"
    child = script(CHILD.replace("session.serve_forever()", _tried(around)))
    with IpcPeer().create_command_session(child, stderr=lambda line: None) as session:
        session.request(Echo(1)).result(timeout=20)
        time.sleep(0.2)
        session.process.send_signal(signal.SIGINT)
        assert session.process.wait(20) == 1
    assert session.stderr_tail.endswith("LookupError: on the way out")
    assert "KeyboardInterrupt" in session.stderr_tail


def test_an_excepthook_of_the_programs_own_is_told_of_ctrl_c(script: Script) -> None:
    mine = "sys.excepthook = lambda *_: print('mine')\n    session.serve_forever()"
    child = script(CHILD.replace("session.serve_forever()", mine))
    lines: list[str] = []
    with IpcPeer().create_command_session(child, stderr=lines.append) as session:
        session.request(Echo(1)).result(timeout=20)
        time.sleep(0.2)
        session.process.send_signal(signal.SIGINT)
        assert session.process.wait(20) == -signal.SIGINT
    assert lines == ["mine"]


# SIGTERM


@pytest.mark.usefixtures("exit_status_is_waited_for")
@pytest.mark.parametrize("kind", ["threads", "sync"])
def test_a_child_that_serves_finishes_and_answers_when_terminated(
    script: Script, kind: str
) -> None:
    child = script("""
        import os, sys, time
        from shared_messages import Echo
        from streamipc import IpcPeer, IpcSession, SyncIpcSession
        kind = SyncIpcSession if "sync" in sys.argv else IpcSession
        session = IpcPeer(session_type=kind).create_stdio_session()

        @session.on_request
        def echo(msg: Echo) -> object:
            os.write(2, b"handling\\n")
            until = time.monotonic() + 0.2
            while time.monotonic() < until:
                time.sleep(0.01)
            return msg.value

        session.serve_forever()
        os.write(2, b"cleaned up\\n")
    """)
    lines: list[str] = []
    handling = threading.Event()

    def line(text: str) -> None:
        lines.append(text)
        handling.set()

    with IpcPeer().create_command_session([*child, kind], stderr=line) as session:
        future = session.request(Echo("answered"))
        assert handling.wait(20)
        session.terminate()
        assert future.result(timeout=20) == "answered"
        ended = threading.Event()
        session.on_close(ended.set)
        assert ended.wait(20)
        with pytest.raises(SessionClosedError, match="exited with code 0"):
            session.request(Echo())
    assert session.returncode == 0
    assert lines == ["handling", "cleaned up"]


@pytest.mark.parametrize("kind", ["threads", "sync"])
def test_an_idle_child_ends_at_once_when_terminated(
    script: Script, eventually: Any, kind: str
) -> None:
    with IpcPeer().create_command_session([*script(CHILD), kind]) as session:
        assert session.request(Echo(1)).result(timeout=20) == 1
        session.terminate()
        assert session.process.wait(20) == 0
    eventually(lambda: session.stderr_tail == "cleaned up")


@pytest.mark.usefixtures("exit_status_is_waited_for")
def test_a_second_sigterm_ends_a_child_whose_handler_does_not_end(script: Script) -> None:
    with IpcPeer().create_command_session(script(CHILD)) as session:
        future = session.request(Stubborn("it"))
        session.request(WaitFor("it started")).result(timeout=20)
        session.terminate()
        # From the refusal on, the first one has arrived.
        deadline = time.monotonic() + 20
        while session.request(Echo()).exception(timeout=20) is None:
            assert time.monotonic() < deadline
        session.terminate()
        with pytest.raises(SessionClosedError, match="was killed by SIGTERM"):
            future.result(timeout=20)
    assert session.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("setting", "returncode"),
    [
        ("signal.signal(signal.SIGTERM, lambda *_: os._exit(9))", 9),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(8))", 8),
        ("threading.Thread(target=session.serve_forever).start(); signal.pause()", -15),
    ],
)
def test_whoever_handles_sigterm_otherwise_keeps_it(
    script: Script, setting: str, returncode: int
) -> None:
    child = script(CHILD.replace("session.serve_forever()", f"{setting}; session.serve_forever()"))
    with IpcPeer().create_command_session(child) as session:
        assert session.request(Echo(1)).result(timeout=20) == 1
        session.terminate()
        assert session.process.wait(20) == returncode


HUNG_UP = """
    def tell_the_end():
        session._engine.shutdown.ended.wait()
        os.write(2, b"hung up\\n")

    threading.Thread(target=tell_the_end, daemon=True).start()
    """


def test_a_child_that_was_hung_up_on_is_not_spared_for_its_handlers(script: Script) -> None:
    child = script(CHILD.replace("session.serve_forever()", HUNG_UP + "session.serve_forever()"))
    hung_up = threading.Event()
    session = IpcPeer().create_command_session(child, stderr=lambda line: hung_up.set())
    session.request(Stubborn("it"))
    session.request(WaitFor("it started")).result(timeout=20)
    closing = threading.Thread(target=session.close, args=(60,))
    closing.start()
    assert hung_up.wait(20)
    session.terminate()
    closing.join(20)
    assert session.returncode == -signal.SIGTERM


def test_sigterm_is_given_back_when_serving_ends(script: Script) -> None:
    source = """
    sides = [os.pipe(), os.pipe()]
    here = IpcPeer().create_stream_session(sides[0][1], sides[1][0])
    there = IpcPeer().create_stream_session(sides[1][1], sides[0][0]).start()
    threading.Timer(0.1, here.close).start()
    there.serve_forever()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    """
    done = subprocess.run(script(IMPORTS + source), capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


# Diagnostics


def test_all_is_clean_under_the_diagnostics_of_python(script: Script) -> None:
    strict = ["-X", "dev", "-W", "error"]
    python, child = script(CHILD)
    source = """
    peer = IpcPeer()
    for kind in (IpcSession, SyncIpcSession):
        child = sys.argv[1:] + (["sync"] if kind is SyncIpcSession else [])
        with IpcPeer(session_type=kind).create_command_session(child) as session:
            assert session.request(Echo(1)).result(timeout=30) == 1
            assert len(list(session.stream(Count(100)))) == 100
            with session.stream(Count(1_000_000)) as stream:
                next(stream)
            if kind is IpcSession:
                session.request(WaitFor("done"), timeout=0.01).exception()
                session.request(WaitFor("done")).cancel()
                session.request(WaitFor("done", say=True)).result(timeout=30)
        assert session.returncode == 0, session.returncode
    left_open = peer.create_command_session(sys.argv[1:])
    left_open.request(Echo(1)).result()
    """
    done = subprocess.run(
        [python, *strict, script(IMPORTS + source, name="parent.py")[1], python, *strict, child],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.splitlines()) <= {"cleaned up"}


CLOSED_BY_A_SIGNAL = """
    import signal, sys
    from shared_messages import Echo
    from streamipc import IpcPeer

    session = IpcPeer().create_command_session(sys.argv[1:])
    session.start()
    leader = session._engine.leader
    wait = leader._wait_for_input

    def wait_and_be_interrupted(timeout):
        leader._wait_for_input = wait
        signal.raise_signal(signal.SIGUSR1)
        return wait(timeout)

    leader._wait_for_input = wait_and_be_interrupted
    signal.signal(signal.SIGUSR1, lambda *_: session.close(timeout=20))
    print(session.request(Echo("in the end")).result(timeout=20))
    session.close()
    print(session.closed, session.returncode)
"""


def test_a_signal_handler_may_close_the_session_whose_reply_its_thread_reads(
    script: Script, echo_child: list[str]
) -> None:
    command = [*script(CLOSED_BY_A_SIGNAL), *echo_child]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.stdout.splitlines() == ["in the end", "True 0"]
