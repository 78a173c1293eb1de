"""Threads whose start leaves signals to the main thread."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from streamipc import IpcPeer
from streamipc._threads import start_thread
from streamipc.engine import engine
from streamipc.engine.tasks import CallTask
from tests.support.interrupting import signals_raise
from tests.support.shared_messages import Echo

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "pthread_sigmask"), reason="Windows: threads have no signal mask"
)


PROGRAM = """
import os, signal, sys, threading, time
from streamipc._threads import make_thread, start_thread

taken, masks = [], []
has_started = threading.Event()
signal.signal(signal.SIGUSR1, lambda number, _: taken.append(number))
# As if the main thread had still to wake up. No other thread may be here, to take the signal.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

class SignalledInStart:
    def __init__(self, thread):
        self.thread = thread

    def start(self):
        os.kill(os.getpid(), signal.SIGUSR1)
        self.thread.start()
        has_started.set()

def start():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    thread = make_thread(lambda: masks.append(signal.pthread_sigmask(0, ())), name="new")
    start_thread(SignalledInStart(thread))
    thread.join()
    masks.append(signal.pthread_sigmask(0, ()))

starter = threading.Thread(target=start)
begun = time.monotonic()
starter.start()
"""


def run(then: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(then)], timeout=60, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_signal_that_comes_while_a_thread_starts_is_left_to_the_main_thread() -> None:
    run("""
    assert has_started.wait(10)
    pending = signal.sigpending()
    if time.monotonic() - begun < 0.09:  # otherwise we had to wait for the CPU
        assert pending == {signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    starter.join(10)
    assert taken == [signal.SIGUSR1]
    assert masks == [set(), set()]
    """)


def test_a_signal_that_the_main_thread_never_takes_holds_no_thread_up() -> None:
    run("""
    starter.join(10)
    assert masks == [set(), set()]  # and one of the two has taken it meanwhile
    assert taken == [signal.SIGUSR1]
    """)


def test_a_thread_that_can_t_be_started_leaves_the_mask_as_it_was() -> None:
    class Never:
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    masks: list[object] = []

    def start() -> None:
        with pytest.raises(RuntimeError):
            start_thread(Never())  # type: ignore[arg-type]
        masks.append(signal.pthread_sigmask(0, ()))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(10)
    assert masks == [set()]


BLOCKED = "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('SigBlk')][0])"


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc on this system")
def test_a_process_that_a_handler_or_a_callback_starts_has_no_signal_blocked() -> None:
    """Blocked signals are inherited: such a process could not be ended by SIGTERM."""
    blocked: list[str] = []
    looked = threading.Semaphore(0)

    def look() -> None:
        done = subprocess.run([sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE, check=True)
        blocked.append(done.stdout.decode().strip())
        looked.release()

    here, there = os.pipe(), os.pipe()
    with IpcPeer() as one, IpcPeer() as two:
        asking = one.create_stream_session(there[1], here[0])
        serving = two.create_stream_session(here[1], there[0])

        @serving.on_request
        def answer(_: Echo) -> int:
            look()
            return 1

        asking.on_close(look)
        serving.start()
        # Slow ones, so that the threads of the pool run them, which others have started.
        replies = [asking.request(Echo(number)) for number in range(4)]
        assert [reply.result(timeout=30) for reply in replies] == [1] * 4
        replies[0].add_done_callback(lambda _: look())
    for _ in range(6):  # the last callback may come after close() has returned
        assert looked.acquire(timeout=10)
    assert len(blocked) == 6
    assert set(blocked) == {"0" * 16}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="thread ids are so on Linux alone")
def test_the_main_thread_blocks_no_signal_after_a_fork_that_python_has_not_made() -> None:
    """Else a thread that it starts takes what should end a worker, which uWSGI forks in C."""
    program = """
import ctypes, os, sys
from streamipc._threads import _may_take_signals, make_thread
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    os._exit(_may_take_signals())
sys.exit(os.waitpid(pid, 0)[1])
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


# What the handler of a signal raises while a thread is started is no lack of threads.


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have the next thread that the main thread starts, starting, be hit by a signal."""
    starts = threading.Thread.start, _thread.start_new_thread

    def arm() -> None:
        def start(thread: threading.Thread) -> None:
            starts[0](thread)
            hit()

        def start_new_thread(*arguments: Any) -> None:
            starts[1](*arguments)
            hit()

        def hit() -> None:
            if threading.current_thread() is threading.main_thread():
                monkeypatch.setattr(threading.Thread, "start", starts[0])
                monkeypatch.setattr(_thread, "start_new_thread", starts[1])
                signal.raise_signal(signal.SIGALRM)

        monkeypatch.setattr(threading.Thread, "start", start)
        monkeypatch.setattr(_thread, "start_new_thread", start_new_thread)

    return arm


COMES_OUT = pytest.raises(RuntimeError, match="of a signal's handler")


def test_an_interrupt_comes_out_of_the_pool_whose_new_thread_works_all_the_same(
    connected: Callable[..., tuple[Any, Any]], signalled: Callable[[], None]
) -> None:
    left, _ = connected()
    pool = left.start()._engine.pool
    ran = threading.Event()
    with signals_raise(RuntimeError):
        signalled()
        with COMES_OUT:
            pool.submit_offloaded(CallTask(ran.set, print))

    assert ran.wait(30)
    assert not pool.spawning_fails


def test_an_interrupt_comes_out_of_the_one_who_has_read_the_end_which_comes_about(
    connected: Callable[..., tuple[Any, Any]], signalled: Callable[[], None]
) -> None:
    left, _ = connected()
    left.start()
    with signals_raise(RuntimeError):
        signalled()
        with COMES_OUT:
            left._engine.shutdown.stream_ended(None)

    assert left._engine.shutdown.closed.wait(30)


def test_an_interrupt_comes_out_of_the_end_of_a_peer(
    connected: Callable[..., tuple[Any, Any]], signalled: Callable[[], None]
) -> None:
    peer = IpcPeer()
    left, _ = connected(peer)
    left.start()
    with signals_raise(RuntimeError):
        signalled()
        with COMES_OUT:
            peer.close()

    assert left._engine.shutdown.closed.wait(30)


def test_an_interrupt_comes_out_where_a_stream_is_dropped(
    connected: Callable[..., tuple[Any, Any]], signalled: Callable[[], None]
) -> None:
    left, _ = connected()
    future = left.request(Echo())
    with signals_raise(RuntimeError):
        signalled()
        with COMES_OUT:
            engine._drop(future)

    with pytest.raises(CancelledError):
        future.result(30)
