"""Threads whose start leaves signals to the main thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from streamipc import IpcPeer
from streamipc._threads import make_thread, start_thread
from tests.support.shared_messages import Echo

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "pthread_sigmask"), reason="Windows: threads have no signal mask"
)


@pytest.fixture
def taken() -> Iterator[list[int]]:
    """Note SIGUSR1, which the main thread can't take as yet, as if it had still to wake up."""
    signals: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: signals.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        yield signals
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGUSR1, before)


class SignalledInStart:
    """A thread in whose start a signal comes to the process."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    def start(self) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        self._thread.start()


def start_from_another_thread(then: list[object]) -> threading.Thread:
    def start() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        thread = make_thread(lambda: then.append(signal.pthread_sigmask(0, ())), name="new")
        start_thread(SignalledInStart(thread))  # type: ignore[arg-type]
        thread.join()
        then.append(signal.pthread_sigmask(0, ()))

    starter = threading.Thread(target=start)
    starter.start()
    return starter


def test_a_signal_that_comes_while_a_thread_starts_is_left_to_the_main_thread(
    taken: list[int],
) -> None:
    masks: list[object] = []
    starter = start_from_another_thread(masks)
    time.sleep(0.03)
    assert signal.sigpending() == {signal.SIGUSR1}
    assert masks == []

    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})

    assert taken == [signal.SIGUSR1]
    starter.join(10)
    assert masks == [set(), set()]


def test_a_signal_that_the_main_thread_never_takes_holds_no_thread_up(taken: list[int]) -> None:
    masks: list[object] = []
    starter = start_from_another_thread(masks)
    starter.join(10)

    assert masks == [set(), set()]  # and one of the two has taken it meanwhile
    deadline = time.monotonic() + 10
    while not taken and time.monotonic() < deadline:
        time.sleep(0.01)
    assert taken == [signal.SIGUSR1]


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

    def look() -> None:
        done = subprocess.run([sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE, check=True)
        blocked.append(done.stdout.decode().strip())

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
    deadline = time.monotonic() + 10
    while len(blocked) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)  # the last callback may come after close() has returned
    assert len(blocked) == 6
    assert set(blocked) == {"0" * 16}
