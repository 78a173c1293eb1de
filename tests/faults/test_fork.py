"""``os.fork()`` and ``multiprocessing`` beside live sessions.

The copy of a session in a forked process is inert and says so, holds no pipe open, and
leaves the parent's children alone; the parent goes on as if nothing had happened.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import forking
import pytest

Script = Callable[..., list[str]]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="os.fork() is POSIX's, and /proc is Linux's"
)

IMPORTS = """
    import os, signal, sys, threading, time
    from forking import check_inert, fork, pipes_held
    from long_messages import Count
    from shared_messages import Echo, Note
    from streamipc import IpcPeer, SessionClosedError, SyncIpcSession

    sys.setswitchinterval(float(os.environ.get("STREAMIPC_SWITCH_INTERVAL", "0.005")))
"""


@pytest.fixture
def run(script: Script) -> Callable[..., str]:
    """Run a parent to its end; return what it printed. Nothing may come on standard error."""

    def run_parent(source: str, *arguments: str, timeout: float = 240) -> str:
        command = script(IMPORTS + source, name="parent.py")
        options = ["-W", "ignore:.*fork:DeprecationWarning"]
        done = subprocess.run(
            [command[0], *options, *command[1:], *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run_parent


@pytest.mark.parametrize("way", forking.WAYS)
def test_the_copies_say_that_they_belong_to_another_process(
    run: Callable[..., str], echo_child: list[str], way: str
) -> None:
    source = """
    peer = IpcPeer()
    way, child = sys.argv[1], sys.argv[2:]
    silent = [sys.executable, "-c", "import sys; sys.stdin.buffer.read()"]
    with (
        peer.create_command_session(child) as idle,
        peer.create_command_session(silent) as busy,
        peer.create_command_session(child) as chatty,
        peer.create_command_session(child) as unused,
        IpcPeer(session_type=SyncIpcSession).create_command_session(child) as sync,
    ):
        assert idle.request(Echo(1)).result() == 1
        assert sync.request(Echo(1)).result() == 1
        chatty.notify(Note("kept"))
        assert chatty.receive(timeout=10).text == "kept"
        chatty.notify(Note("left to be received"))
        while not chatty._engine.inbox._received.items:
            time.sleep(0.001)
        pending, stream = busy.request(Echo(2), timeout=None), busy.stream(Count(5), timeout=None)
        waiting = threading.Thread(target=lambda: pending.exception(), daemon=True)
        waiting.start()

        def in_the_copy():
            check_inert(idle)
            check_inert(chatty)
            check_inert(unused)
            check_inert(sync)
            check_inert(busy, pending, stream)
            assert peer.sessions == []
            assert peer.broadcast(Note()) == {}
            assert pipes_held() == []
            # What is made here works.
            with peer.create_command_session(child) as own:
                assert own.request(Echo(3)).result(timeout=60) == 3
            peer.close()

        for _ in range(2):
            pid = fork(in_the_copy, way)
            assert os.waitpid(pid, 0)[1] == 0
            assert idle.request(Echo(4)).result(timeout=10) == 4
            assert not pending.done()
        assert chatty.receive(timeout=10).text == "left to be received"
        assert unused.request(Echo(5)).result(timeout=10) == 5
        assert sync.request(Echo(6)).result(timeout=10) == 6
        busy.close(timeout=0)
        waiting.join()
    codes = [session.returncode for session in (idle, chatty, unused, sync)]
    assert codes == [0, 0, 0, 0], codes
    print("done")
    """
    assert run(source, way, *echo_child) == "done\n"


# Not in C: such a copy holds the pipes until it first uses anything of ours.
@pytest.mark.parametrize(
    "way", [*forking.PYTHONS_WAYS, "multiprocessing", "preexec_fn", "close_fds=False"]
)
def test_no_pipe_is_held_open_by_a_process_that_lives_on(
    run: Callable[..., str], echo_child: list[str], way: str
) -> None:
    source = """
    import multiprocessing, subprocess
    way, child = sys.argv[1], sys.argv[2:]
    to_me, from_me = os.pipe()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]

    def live_on():
        os.write(from_me, b"x")
        signal.pause()

    session = IpcPeer().create_command_session(child)
    assert session.request(Echo(1)).result(timeout=10) == 1
    if way == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=live_on)
        process.start()
        pid = process.pid
    elif way == "preexec_fn":
        process = subprocess.Popen(sleep, preexec_fn=lambda: os.write(from_me, b"x"))
        pid = process.pid
    elif way == "close_fds=False":
        process = subprocess.Popen(sleep, close_fds=False)
        pid = process.pid
        os.write(from_me, b"x")
    else:
        pid = fork(live_on, way)
    assert os.read(to_me, 1) == b"x"
    assert session.request(Echo(2)).result(timeout=10) == 2
    session.close(timeout=10)
    # It saw the end of its input at once: otherwise it would have been sent a signal.
    assert session.returncode == 0, session.returncode
    os.kill(pid, signal.SIGKILL)
    if pid == getattr(globals().get("process"), "pid", None):
        process.wait() if way != "multiprocessing" else process.join()
    else:
        os.waitpid(pid, 0)
    print("done")
    """
    assert run(source, way, *echo_child) == "done\n"


# Not in C: there the interpreter itself waits for ever for a thread that wanted the GIL in the
# moment of the fork (take_gil in CPython's ceval_gil.c, FORCE_SWITCHING).
@pytest.mark.parametrize("way", forking.PYTHONS_WAYS)
def test_forks_in_the_midst_of_traffic_disturb_nobody(
    run: Callable[..., str], echo_child: list[str], way: str
) -> None:
    source = """
    from concurrent.futures import as_completed
    way, child = sys.argv[1], sys.argv[2:]
    peer = IpcPeer()
    session = peer.create_command_session(child)
    stop = threading.Event()
    failed = []

    def ask(number):
        try:
            while not stop.is_set():
                futures = [session.request(Echo(n)) for n in range(10)]
                for future in as_completed(futures, timeout=30):
                    pass
                assert [future.result() for future in futures] == list(range(10))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()

    for _ in range(40):
        pending = session.request(Echo("x"))
        done = as_completed([pending, session.request(Echo("y"))])
        next(done)

        def in_the_copy():
            list(done)
            check_inert(session)
            # Either the reply was there before the fork, or it never will be.
            assert pending.exception(timeout=5) is None or pending.exception().args

        assert os.waitpid(fork(in_the_copy, way), 0)[1] == 0
        assert pending.result(timeout=30) == "x"
    stop.set()
    for thread in threads:
        thread.join()
    session.close()
    assert not failed, failed
    assert session.returncode == 0
    print("done")
    """
    assert run(source, way, *echo_child, timeout=280) == "done\n"


def test_forks_while_sessions_are_made_and_closed_inherit_none_of_their_pipes(
    run: Callable[..., str],
) -> None:
    source = """
    # A fork in the midst of its import, by another thread's first session, would call what it
    # registers with os.register_at_fork() after the fork and not before it.
    import logging

    stop = threading.Event()

    def make_and_close():
        while not stop.is_set():
            with IpcPeer().create_command_session(["cat"]):
                pass

    threads = [threading.Thread(target=make_and_close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(150):
        mine = os.pipe()

        def in_the_copy():
            held = pipes_held(set(mine))
            assert held == [], held
            os.write(mine[1], b"still mine")

        pid = fork(in_the_copy)
        assert os.waitpid(pid, 0)[1] == 0
        assert os.read(mine[0], 100) == b"still mine"
        for fd in mine:
            os.close(fd)
    stop.set()
    for thread in threads:
        thread.join()
    print("done")
    """
    assert run(source) == "done\n"


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_a_handler_that_forks_and_returns_in_both_processes_answers_once(
    run: Callable[..., str], script: Script, fork: str
) -> None:
    child = script(
        """
        import ctypes, os, sys, time
        from shared_messages import Echo
        from streamipc import IpcPeer, RequestContext
        session = IpcPeer().create_stdio_session()

        @session.on_request
        def echo(msg: Echo, context: RequestContext) -> object:
            if msg.value != "fork":
                return msg.value
            time.sleep(0.2)  # see forking.fork
            pid = FORK()
            if pid == 0:
                try:
                    context.progress("from the copy")
                except Exception as error:
                    os.write(2, str(error)[:29].encode())
                return "from the copy"
            return os.waitpid(pid, 0)[1]

        session.serve_forever()
    """.replace("FORK", fork)
    )
    source = """
    with IpcPeer().create_command_session(sys.argv[1:], stderr=None) as session:
        items = []
        assert session.request(Echo("fork"), on_progress=items.append).result(timeout=20) == 0
        assert items == []
        assert session.request(Echo("on")).result(timeout=10) == "on"
        assert session.stats.late == session.stats.junk == session.stats.unreadable == 0
    assert session.returncode == 0
    """
    command = script(IMPORTS + source, name="parent.py")
    done = subprocess.run([*command, *child], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    assert "this session belongs to proce" in done.stderr


def test_what_a_child_forks_does_not_outlive_the_end_of_its_stream(
    run: Callable[..., str], script: Script
) -> None:
    child = script("""
        import os, signal
        from shared_messages import Echo
        from streamipc import IpcPeer
        session = IpcPeer().create_stdio_session()

        @session.on_request
        def echo(msg: Echo) -> object:
            pid = os.fork()
            if pid == 0:
                signal.alarm(30)
                signal.pause()
            return pid

        session.serve_forever()
    """)
    source = """
    session = IpcPeer().create_command_session(sys.argv[1:], stderr=subprocess.DEVNULL)
    pid = session.request(Echo()).result(timeout=10)
    ended = threading.Event()
    session.on_close(ended.set)
    session.kill()
    assert ended.wait(10)
    try:
        os.kill(pid, 0)  # it lives, and holds nothing of ours
    finally:
        os.kill(pid, signal.SIGKILL)
    session.close()
    print("done")
    """
    source = source.replace("session = ", "import subprocess\n    session = ", 1)
    assert run(source, *child) == "done\n"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_goes_well_with_live_sessions(
    run: Callable[..., str], echo_child: list[str], method: str
) -> None:
    source = """
    import multiprocessing

    def work(child, results):
        with IpcPeer().create_command_session(child) as own:
            results.put(own.request(Echo("theirs")).result(timeout=20))

    if __name__ == "__main__":
        method, child = sys.argv[1], sys.argv[2:]
        context = multiprocessing.get_context(method)
        with IpcPeer().create_command_session(child) as session:
            pending = [session.request(Echo(n)) for n in range(100)]
            results = context.Queue()
            process = context.Process(target=work, args=(child, results))
            process.start()
            assert results.get(timeout=30) == "theirs"
            process.join()
            assert process.exitcode == 0
            assert [future.result(timeout=10) for future in pending] == list(range(100))
            results.close()
            results.join_thread()
        assert session.returncode == 0
        print("done")
    """
    assert run(source, method, *echo_child) == "done\n"


def test_a_session_that_is_sent_to_another_process_says_why_it_cant_be(
    echo_child: list[str],
) -> None:
    import pickle

    from streamipc import IpcPeer

    with IpcPeer() as peer:
        session = peer.create_command_session(echo_child)
        for thing in (session, peer):
            with pytest.raises(TypeError, match=r"belongs to this process.*make one there"):
                pickle.dumps(thing)
        session.close()


PAIR = """
    (a, b), (c, d) = os.pipe(), os.pipe()
    left, right = (IpcPeer().create_stream_session(*fds) for fds in ((b, c), (d, a)))
    right.on_request(Echo)(lambda msg: msg.value)
    left.start()
    right.start()
"""


def test_a_thing_that_cant_let_go_keeps_no_session_from_letting_go(run: Callable[..., str]) -> None:
    source = """
    from streamipc._forks import forgets

    class Stubborn:
        def forget_after_fork(self):
            print("tried", flush=True)
            raise OSError("I can't")

    stubborn = Stubborn()
    forgets(stubborn)
    def in_the_copy():
        check_inert(left)
        check_inert(right)
        assert pipes_held() == []

    pid = fork(in_the_copy)
    assert os.waitpid(pid, 0)[1] == 0
    assert left.request(Echo("on")).result(timeout=10) == "on"
    left.close()
    right.close()
    print("done")
    """
    assert run(PAIR + source) == "tried\ndone\n"


def test_what_a_handler_has_is_inert_in_the_copy_and_keeps_it_waiting_for_nothing(
    run: Callable[..., str],
) -> None:
    source = """
    from streamipc import RequestContext

    def in_the_copy(context):
        context.on_cancel(print)  # takes the lock
        for room in ("credit for an item", "no credit"):
            try:
                context.progress("from the copy")
            except SessionClosedError as error:
                assert f"this session belongs to process {os.getppid()}" in str(error), room
            else:
                raise AssertionError(room)

    @right.on_request
    def count(msg: Count, context: RequestContext) -> int:
        context.on_cancel(print)
        context.progress("from the handler")
        served = right._engine.connection.served[context.request_id]
        assert served.credit == 1
        with served._lock:  # as another thread of the handler's may
            pid = fork(lambda: in_the_copy(context), "thread")
        return os.waitpid(pid, 0)[1]

    with left.stream(Count(2), window=2) as stream:
        deadline = time.monotonic() + 20
        while not stream.future.done():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert list(stream) == ["from the handler"]
        assert stream.result() == 0
    left.close()
    right.close()
    print("done")
    """
    assert run(PAIR + source) == "done\n"


def test_a_fork_between_the_arrival_of_a_request_and_its_handler_disturbs_nobody(
    run: Callable[..., str],
) -> None:
    source = """
    host, pids = right._engine.host, []
    find = host.request_handlers

    def find_and_fork(cls):
        host.request_handlers = find
        pids.append(fork(lambda: check_inert(right)))
        return find(cls)

    host.request_handlers = find_and_fork
    assert left.request(Echo("once")).result(timeout=20) == "once"
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0]
    assert left.stats.late == left.stats.junk == left.stats.unreadable == 0
    left.close()
    right.close()
    print("done")
    """
    assert run(PAIR + source) == "done\n"


def test_a_transport_of_the_users_own_needs_to_know_nothing_of_forks(
    run: Callable[..., str],
) -> None:
    source = """
    import queue

    class Pipe:
        def __init__(self):
            self.queue = queue.Queue()

        def read_into(self, buffer):
            data = self.queue.get()
            buffer[:len(data)] = data
            return len(data)

        def write(self, data):
            self.queue.put(bytes(data[:100]))
            return min(len(data), 100)

        def close_write(self):
            self.queue.put(b"")

        close = close_write

    def sockets_held():
        names = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return sum(os.path.exists(n) and os.readlink(n).startswith("socket:") for n in names)

    def check_copy():
        check_inert(session)
        assert not sockets_held(), "the copy holds what the pump is made of"

    with IpcPeer().create_session(Pipe()) as session:
        session.on_request(Echo)(lambda msg: msg.value)
        assert session.request(Echo(1)).result(timeout=20) == 1
        assert sockets_held() == 4
        pid = fork(check_copy)
        assert os.waitpid(pid, 0)[1] == 0
        assert session.request(Echo(2)).result(timeout=20) == 2
    print("done")
    """
    assert run(source) == "done\n"


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_a_copy_handles_no_notification_of_the_parents(run: Callable[..., str], fork: str) -> None:
    source = """
    import ctypes, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of a fork beside threads
    (to_right, from_left), (to_left, from_right) = (reversed(os.pipe()) for _ in range(2))
    left = IpcPeer().create_stream_session(to_right, from_right)
    right = IpcPeer().create_stream_session(to_left, from_left)
    parent, handled = os.getpid(), threading.Event()

    @right.on_message
    def handle(msg: Note) -> None:
        if msg.number:
            os.write(1, b"parent\\n" if os.getpid() == parent else b"copy\\n")
            if msg.number == 3 and os.getpid() == parent:
                handled.set()
            return
        time.sleep(0.2)
        pid = FORK()
        if pid:
            os.waitpid(pid, 0)
        else:
            threading.Timer(0.5, os._exit, (0,)).start()

    right.start()
    for number in range(4):
        left.notify(Note(number=number))
    assert handled.wait(30)
    left.close()
    right.close()
    """.replace("FORK", fork)
    assert run(source) == "parent\n" * 3
