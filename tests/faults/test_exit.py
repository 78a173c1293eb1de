"""The parent ends, in whatever way: its children go by themselves, and Python has nothing to say.

Children are watched through pidfds, which tell the end of a process that is not one's own child.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable

import pytest

Script = Callable[..., list[str]]

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="pidfds are Linux's: they tell when an orphan has ended"
)

GONE = 1.0
"""Seconds after the parent's end within which its children are gone."""

BOUND = 15.0
"""Seconds that a busy machine may make of it."""

CHILD = """
    import os, sys, threading, time
    import long_child
    from shared_messages import Echo, Note
    from streamipc import IpcPeer, IpcSession, SyncIpcSession
    kind = SyncIpcSession if "sync" in sys.argv else IpcSession
    session = IpcPeer(session_type=kind).create_stdio_session()
    long_child.register(session)

    @session.on_request
    def echo(msg: Echo) -> object:
        return msg.value

    @session.on_message
    def note(msg: Note) -> None:
        time.sleep(0.1)

    session.serve_forever()
"""

PARENT = """
    import os, signal, sys, threading, time
    from long_messages import AskBack, Count, Down, Stubborn, WaitFor
    from shared_messages import Echo, Note
    from streamipc import IpcPeer, RequestContext, SyncIpcSession

    sys.setswitchinterval(float(os.environ.get("STREAMIPC_SWITCH_INTERVAL", "0.005")))
    peer = IpcPeer()
    session = peer.create_command_session(sys.argv[1:])
    assert session.request(Echo(1)).result(timeout=30) == 1

    @session.on_request
    def down(msg: Down) -> int:
        entered.set()
        threading.Event().wait()

    entered = threading.Event()
    pids = [session.pid]
    {use}
    print(*pids, flush=True)
    sys.stdin.readline()
    {end}
"""

USES = {
    "idle": "pass",
    "stubborn handler": """
    session.request(Stubborn("it"))
    session.request(WaitFor("it started")).result(timeout=30)
    """,
    "handler that asks back": """
    session.request(Down(1))
    assert entered.wait(30)
    """,
    "stream": """
    stream = session.stream(Count(1 << 40))
    next(stream)
    """,
    "much to handle": """
    for _ in range(500):
        session.notify(Note())
    """,
    "traffic": """
    def ask():
        while True:
            session.request(Echo("x" * 10_000)).result()

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    """,
    "several": """
    more = [peer.create_command_session(sys.argv[1:]) for _ in range(3)]
    pending = [one.request(WaitFor("never")) for one in more for _ in range(10)]
    pids += [one.pid for one in more]
    """,
}

ENDS = {
    "returns": "pass",
    "exception": "raise LookupError('on purpose')",
    "sys.exit": "sys.exit(3)",
    "sys.exit in a thread": "threading.Thread(target=sys.exit).start()",
    "os._exit": "os._exit(4)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
}

STATUS = {"exception": 1, "sys.exit": 3, "os._exit": 4, "SIGKILL": -9, "SIGTERM": -15}


def _end_parent(command: list[str]) -> tuple[subprocess.Popen[bytes], bytes, float]:
    """Run a parent until it has ended; return it, what it said, and how long children took."""
    parent = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    watched = [os.pidfd_open(pid) for pid in pids]
    try:
        assert watched, parent.communicate()[1].decode()
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        parent.wait(30)
        ended = time.monotonic()
        for pidfd in watched:
            left = max(0.0, ended + BOUND - time.monotonic())
            assert select.select([pidfd], [], [], left)[0], "a child lives on"
        took = time.monotonic() - ended
    finally:
        for pidfd, pid in zip(watched, pids, strict=True):
            if not select.select([pidfd], [], [], 0)[0]:
                os.kill(pid, signal.SIGKILL)
            os.close(pidfd)
        said = parent.communicate(timeout=30)[1]
    return parent, said, took


PAIRS = [
    *(("traffic", end) for end in ENDS),
    *((use, end) for use in USES if use != "traffic" for end in ("returns", "SIGKILL")),
]
"""Every way to end, and everything to be in the midst of: not each with each, for time's sake."""


@pytest.mark.parametrize(("use", "end"), PAIRS)
def test_children_go_when_their_parent_ends(script: Script, use: str, end: str) -> None:
    child = script(CHILD)
    parent = script(PARENT.format(use=USES[use], end=ENDS[end]), name="parent.py")
    ended, said, took = _end_parent([*parent, *child])

    assert ended.returncode == STATUS.get(end, 0)
    assert took < BOUND
    if end == "exception":
        assert said.count(b"Traceback") == 1
        assert said.endswith(b"LookupError: on purpose\n")
    else:
        assert said == b""


def test_a_stuck_handler_keeps_an_orphan_for_less_than_a_second(script: Script) -> None:
    child = script(CHILD)
    parent = script(
        PARENT.format(use=USES["stubborn handler"], end=ENDS["SIGKILL"]), name="parent.py"
    )
    idle = script(PARENT.format(use=USES["idle"], end=ENDS["SIGKILL"]), name="idle_parent.py")
    # The best of several, beside an orphan that nothing keeps: on a busy machine that takes
    # its time too.
    for _ in range(10):
        at_least = _end_parent([*idle, *child])[2]
        took = _end_parent([*parent, *child])[2]
        if took - at_least < GONE:
            return
    pytest.fail(f"it took {took:.2f} s, where others took {at_least:.2f} s")


@pytest.mark.parametrize("end", ["os._exit", "SIGKILL"])
def test_a_child_without_threads_goes_in_the_midst_of_its_request(script: Script, end: str) -> None:
    child = [*script(CHILD), "sync"]
    use = """
    future = session.request(Down(1))
    assert entered.wait(30)
    """
    parent = script(PARENT.format(use=use, end=ENDS[end]), name="parent.py")
    assert _end_parent([*parent, *child])[2] < BOUND


@pytest.mark.parametrize("kind", ["IpcSession", "SyncIpcSession"])
def test_a_session_left_open_in_another_thread_says_nothing_at_the_end(
    script: Script, kind: str
) -> None:
    child = script(CHILD)
    source = f"""
    import sys, threading, time
    from long_messages import WaitFor
    from shared_messages import Echo
    from streamipc import IpcPeer, IpcSession, SyncIpcSession
    session = IpcPeer(session_type={kind}).create_command_session(sys.argv[1:])
    asking = threading.Event()

    def ask():
        while True:
            session.request(Echo(1)).result()
            asking.set()

    threading.Thread(target=ask, daemon=True).start()
    assert asking.wait(30)
    """
    done = subprocess.run(
        [*script(source, name="parent.py"), *child], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_transport_that_cant_be_closed_says_nothing_at_the_end(script: Script) -> None:
    source = """
    import os
    from streamipc import IpcPeer
    from streamipc.transports.pipe import FdTransport

    class Unclosable(FdTransport):
        def close_write(self):
            print("tried", flush=True)
            raise RuntimeError("can't be closed")

    read, write = os.pipe()
    broken = IpcPeer().create_session(Unclosable(read, write)).start()
    read, write = os.pipe()
    session = IpcPeer().create_stream_session(write, read).start()
    """
    done = subprocess.run(script(source), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("tried") == 2


LATE_CHILD = """
    import sys
    from shared_messages import Echo
    from streamipc import IpcPeer
    session = IpcPeer().create_stdio_session()

    @session.on_request
    def echo(msg: Echo) -> object:
        return msg.value

    session.serve_forever()
"""

LATE = {
    "atexit, before the session": """
        @atexit.register
        def bye():
            say_bye()
        session = make()
    """,
    "atexit, before all of streamipc is imported": """
        import streamipc
        @atexit.register
        def bye():
            say_bye()
        session = make()
    """,
    "atexit, after the session": """
        session = make()
        atexit.register(say_bye)
    """,
    "atexit, after the session, which another closed": """
        session = make()
        atexit.register(session.close)
        atexit.register(say_bye)
    """,
    "atexit, before the session, which is without threads": """
        atexit.register(lambda: say_bye())
        from streamipc import SyncIpcSession
        session = make(session_type=SyncIpcSession)
    """,
    "atexit, in a session of its own": """
        @atexit.register
        def bye():
            global session
            session = make()
            say_bye()
    """,
    "a stream in atexit": """
        @atexit.register
        def bye():
            print([*session.stream(Echo("streamed"))], end="")
            say_bye()
        session = make()
    """,
    "finalize": """
        class Client: pass
        client = Client()
        weakref.finalize(client, lambda: say_bye())
        session = make()
    """,
    "a thread that is no daemon": """
        session = make()
        def later():
            threading.main_thread().join()
            say_bye()
        threading.Thread(target=later).start()
    """,
    "a pool's thread": """
        from concurrent.futures import ThreadPoolExecutor
        session = make()
        later = ThreadPoolExecutor().submit(lambda: (time.sleep(0.1), say_bye()))
        later.add_done_callback(lambda done: done.result())  # logs what it raises
    """,
}

NO_THREAD_SO_LATE = (3, 12) <= sys.version_info < (3, 12, 3)
"""These start no thread once the main thread has come to its end, in no thread and no atexit
function (python/cpython#113964; mended by #117029, in 3.12.3). A session must have been started
before then, or be one without threads."""


@pytest.mark.parametrize("how", LATE)
@pytest.mark.parametrize("used_before", [True, False])
def test_sessions_can_be_used_while_the_interpreter_ends(
    script: Script, how: str, used_before: bool
) -> None:
    child = script(LATE_CHILD)
    parent = """
    import sys
    import streamipc
    import atexit, threading, time, weakref

    def make(**options):
        from streamipc import IpcPeer
        global Echo, peer
        from shared_messages import Echo
        peer = IpcPeer(timeout=20, **options)
        session = peer.create_command_session(sys.argv[2:])
        if sys.argv[1] == "True":
            assert session.request(Echo("before")).result() == "before"
        return session

    def say_bye():
        print(session.request(Echo("bye")).result(), end=" ")
        session.close()
        print(session.returncode)
    """
    command = script(textwrap.dedent(parent) + textwrap.dedent(LATE[how]), name="parent.py")
    done = subprocess.run(
        [*command, str(used_before), *child], capture_output=True, text=True, timeout=60
    )
    starts_late = not used_before or how == "atexit, in a session of its own"
    if NO_THREAD_SO_LATE and starts_late and "without threads" not in how:
        said = done.stderr.rstrip().splitlines()[-1]
        assert said == "RuntimeError: can't create new thread at interpreter shutdown"
        assert (done.returncode, done.stdout) == (0, "")
        return

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("bye 0\n", "[]bye 0\n")


def test_what_uses_a_session_after_all_that_is_told_that_it_is_the_end(script: Script) -> None:
    """As the finalizer of a module's global, or an atexit function of before the import."""
    child = script(LATE_CHILD)
    parent = """
    import atexit, sys

    def late(name):
        try:
            session.request(Echo("late")).result()
        except SessionClosedError as error:
            # What is still buffered then may be lost, such as where coverage is measured.
            print(name, "the interpreter is ending" in str(error), flush=True)
        session.close()

    atexit.register(late, "registered before")
    from shared_messages import Echo
    from streamipc import IpcPeer, SessionClosedError

    class Client:
        def __del__(self, late=late):
            late("finalizer")

    client = Client()
    session = IpcPeer().create_command_session(sys.argv[1:])
    assert session.request(Echo(1)).result(timeout=30) == 1
    """
    done = subprocess.run(
        [*script(parent, name="parent.py"), *child], capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "registered before True\nfinalizer True\n"
