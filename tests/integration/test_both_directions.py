"""Many threads, both directions, one session: every reply is that of its request."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shared_messages import Echo, Greeting, Note, SayHello

from streamipc import IpcPeer, IpcSession

Connected = Callable[..., tuple[IpcSession, IpcSession]]
Script = Callable[..., list[str]]

CHILD = """
    import sys, threading
    from shared_messages import Echo, Greeting, SayHello
    from streamipc import IpcPeer

    session = IpcPeer().create_stdio_session()

    @session.on_request
    def hello(msg: SayHello) -> Greeting:
        return Greeting(f"Hello, {msg.name}!")

    @session.on_request
    def ask_back(msg: Echo) -> int:
        threads, each = msg.value
        right = []

        def work(number):
            for n in range(each):
                name = f"child {number}-{n}"
                right.append(session.call(SayHello(name)).text == f"Hello, {name}!")

        workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(right)

    session.serve_forever()
"""


def test_ten_thousand_hellos_from_sixteen_threads_in_both_directions(
    script: Script, in_threads: Any
) -> None:
    threads, each = 8, 625
    wrong: list[str] = []
    with IpcPeer().create_command_session(script(CHILD)) as session:
        session.on_request(SayHello)(lambda msg: Greeting(f"Hello, {msg.name}!"))
        back = session.request(Echo([threads, each]), timeout=280)

        def work(number: int) -> None:
            for n in range(each):
                name = f"parent {number}-{n}"
                if session.request(SayHello(name)).result() != Greeting(f"Hello, {name}!"):
                    wrong.append(name)

        in_threads(threads, work)
        assert wrong == []
        assert back.result() == threads * each
        stats = session.stats
        assert stats.pending == 0
        assert stats.late == stats.junk == stats.unreadable == stats.dropped == 0
    assert session.returncode == 0


@pytest.mark.usefixtures("switching")
def test_two_sessions_of_one_process_ask_each_other(connected: Connected, in_threads: Any) -> None:
    left, right = connected()
    for session in (left, right):
        session.on_request(Echo)(lambda msg: msg.value)
        session.start()

    def work(number: int) -> None:
        session = (left, right)[number % 2]
        for n in range(60):
            assert session.request(Echo((number, n))).result() == (number, n)

    in_threads(16, work)
    assert left.stats.pending == right.stats.pending == 0


@pytest.mark.usefixtures("switching")
def test_waiters_that_leave_hand_reading_on(connected: Connected, in_threads: Any) -> None:
    asking, answering = connected()
    go = threading.Event()

    @answering.on_request
    def echo(msg: Echo) -> Any:
        if msg.value == "slow":
            assert go.wait(200)
        return msg.value

    answering.start()
    slow = [asking.request(Echo("slow"), timeout=None) for _ in range(4)]
    finished = threading.Semaphore(0)

    def work(number: int) -> None:
        if number < 4:
            assert slow[number].result() == "slow"
            return
        for n in range(50):
            assert asking.request(Echo((number, n))).result() == (number, n)
        finished.release()
        if number == 4:
            for _ in range(6):
                assert finished.acquire(timeout=200)
            go.set()

    in_threads(10, work)


@pytest.mark.usefixtures("switching")
def test_bounded_waits_and_endless_ones_mix(connected: Connected, in_threads: Any) -> None:
    asking, answering = connected()
    answering.on_request(Echo)(lambda msg: time.sleep(msg.value) or msg.value)
    answering.start()

    def work(number: int) -> None:
        for n in range(12):
            pause = 0.001 * ((n + number) % 4)
            future = asking.request(Echo(pause))
            while True:
                try:
                    assert future.result(timeout=0.0005 * (number % 3)) == pause
                    break
                except TimeoutError:
                    continue

    in_threads(9, work)


@pytest.mark.usefixtures("switching")
def test_writing_never_deadlocks_reading(connected: Connected, in_threads: Any) -> None:
    left, right = connected()
    large = "x" * 300_000
    for session in (left, right):
        session.on_request(Echo)(lambda msg: msg.value)
        session.start()

    def work(number: int) -> None:
        session = (left, right)[number % 2]
        for _ in range(4):
            assert len(session.request(Echo(large)).result()) == len(large)

    in_threads(8, work)


@pytest.mark.usefixtures("switching")
def test_requests_notifications_and_slow_handlers_at_once(
    connected: Connected, in_threads: Any, eventually: Any
) -> None:
    left, right = connected()
    noted: dict[int, list[int]] = {n: [] for n in range(4)}

    @right.on_request
    def echo(msg: Echo) -> Any:
        if msg.value[1] % 20 == 0:
            time.sleep(0.003)
        return left_calls_back(msg.value)

    def left_calls_back(value: Any) -> Any:
        return right.request(SayHello(str(value))).result().text if value[1] % 7 == 0 else "plain"

    left.on_request(SayHello)(lambda msg: Greeting(msg.name))
    right.on_message(Note)(lambda msg: noted[int(msg.text)].append(msg.number))
    right.start()

    def work(number: int) -> None:
        for n in range(40):
            if number < 4:
                left.notify(Note(str(number), n))
            else:
                value = (number, n)
                expected = str(value) if n % 7 == 0 else "plain"
                assert left.request(Echo(value)).result() == expected

    in_threads(10, work)
    eventually(lambda: all(len(numbers) == 40 for numbers in noted.values()))
    assert all(numbers == list(range(40)) for numbers in noted.values())


# Idle


def switches() -> dict[str, int]:
    """Return how often each thread of this process went to sleep; proc_pid_status(5)."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                found[task.name] = int(line.split()[1])
    return found


def idles_for_a_second() -> bool:
    """Tell whether all threads but this one sleep through a second."""
    threads, cpu = switches(), time.process_time()
    time.sleep(1)
    threads_after, cpu_after = switches(), time.process_time()
    me = str(threading.get_native_id())
    woken = sum(count - threads.get(name, 0) for name, count in threads_after.items() if name != me)
    return woken <= 3 and cpu_after - cpu < 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="counts context switches in /proc")
@pytest.mark.parametrize("state", ["quiet", "pending", "waiting", "not started"])
def test_an_idle_session_uses_no_cpu_and_wakes_no_thread(
    connected: Connected, echo_child: list[str], state: str
) -> None:
    left, right = connected()
    right.on_request(Echo)(lambda msg: msg.value)
    right.on_request(SayHello)(lambda msg: go.wait(30))
    go = threading.Event()
    waiting = None
    with IpcPeer().create_command_session(echo_child) as child:
        if state != "not started":
            right.start()
            for _ in range(50):
                left.request(Echo(1)).result(timeout=10)
                child.request(Echo(1)).result(timeout=10)
        if state in ("pending", "waiting"):
            future = left.request(SayHello("x"))
            if state == "waiting":
                waiting = threading.Thread(target=future.result)
                waiting.start()
        # What was going on ends, sooner or later; what never ends shows in every second.
        quiet = any(idles_for_a_second() for _ in range(20))
        go.set()
        if waiting is not None:
            waiting.join(10)
    assert quiet


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_child_uses_no_cpu(echo_child: list[str]) -> None:
    def ticks(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    with IpcPeer().create_command_session(echo_child) as session:
        for _ in range(50):
            session.request(Echo(1)).result(timeout=10)

        def idles() -> bool:
            before = ticks(session.pid)
            time.sleep(0.7)
            return ticks(session.pid) - before <= os.sysconf("SC_CLK_TCK") * 0.05

        assert any(idles() for _ in range(20))
