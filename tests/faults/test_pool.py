"""Bad days of a worker pool, with real children: what dies or hangs hurts no other."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pool_messages import Add, Count, Die, DieOnce, Log, Nap, Pid, Ready, Spin

from streamipc import (
    RequestTimeoutError,
    SessionClosedError,
    WorkerInfo,
    WorkerLostError,
    WorkerPool,
    WorkersUnavailableError,
)

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc, where Linux tells what is left"
)

CHILD = str(Path(__file__).resolve().parents[1] / "support" / "pool_child.py")
COMMAND = [sys.executable, CHILD]

Eventually = Callable[..., None]
Script = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(float(os.environ.get("STREAMIPC_SWITCH_INTERVAL", before)))
    yield
    sys.setswitchinterval(before)


def is_alive(pid: int | None) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# Death.


def test_exactly_the_requests_in_flight_are_lost_with_their_worker() -> None:
    with WorkerPool(COMMAND, size=2) as pool:
        pool.wait_ready()
        futures = [pool.request(Nap(0.01)) for _ in range(60)]
        killed = 0
        while not all(future.done() for future in futures):
            if killed < 4 and pool.stats.done >= 10 * killed + 5:
                busy = [info.pid for info in pool.workers if info.running]
                if busy:
                    os.kill(busy[0], signal.SIGKILL)  # type: ignore[arg-type]
                    killed += 1
            time.sleep(0.001)
        errors = [future.exception() for future in futures]
        lost = [error for error in errors if error is not None]
        # One that was killed between two requests has lost none.
        assert 1 <= len(lost) <= killed
        assert {type(error) for error in lost} == {WorkerLostError}
        for error in lost:
            assert isinstance(error, WorkerLostError)
            assert (error.signal, error.returncode) == ("SIGKILL", -9)
            assert "Nap" in str(error)
        assert pool.stats.lost == len(lost)
        assert pool.stats.died == killed


@pytest.mark.parametrize("how", ["request", "call", "stream"])
def test_the_error_of_a_lost_request_tells_how_its_worker_died(how: str) -> None:
    with WorkerPool(COMMAND) as pool:
        ask: dict[str, Callable[[], Any]] = {
            "request": lambda: pool.request(Die(7)).result(),
            "call": lambda: pool.call(Die(7)),
            "stream": lambda: pool.stream(Die(7)).result(),
        }
        with pytest.raises(WorkerLostError, match="exited with code 7") as caught:
            ask[how]()
        assert caught.value.returncode == 7
        assert caught.value.executed is None
        assert "about to die" in caught.value.stderr_tail
        assert pool.call(Add(1)) == 2


def test_a_stream_whose_worker_dies_raises_behind_its_items() -> None:
    with WorkerPool(COMMAND) as pool:
        stream = pool.stream(Count(1000, pause=0.01))
        assert next(stream) == 0
        os.kill(pool.workers[0].pid, signal.SIGKILL)  # type: ignore[arg-type]
        with pytest.raises(WorkerLostError, match="SIGKILL"):
            list(stream)
        assert pool.call(Add(1)) == 2


def test_a_request_is_given_to_one_worker_only(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with WorkerPool(COMMAND, size=2) as pool:
        future = pool.request(Log(str(path), "ran", seconds=30))
        while not path.exists():
            time.sleep(0.001)
        for info in pool.workers:
            os.kill(info.pid, signal.SIGKILL)  # type: ignore[arg-type]
        with pytest.raises(WorkerLostError):
            future.result()
    assert path.read_text() == "ran\n"


def test_unless_it_may_be_retried(tmp_path: Path) -> None:
    with WorkerPool(COMMAND, size=2) as pool:
        assert pool.request(DieOnce(str(tmp_path / "1")), retries=1).result() != os.getpid()
        assert pool.call(DieOnce(str(tmp_path / "2")), retries=1) != os.getpid()
        with pytest.raises(WorkerLostError):
            pool.call(Die(1), retries=2)
        assert pool.stats.died == 5
        assert pool.stats.lost == 1
        assert pool.stats.retried == 4
    with WorkerPool(COMMAND, retries=1) as pool:
        assert pool.call(DieOnce(str(tmp_path / "3")))
        with pytest.raises(WorkerLostError):
            pool.call(DieOnce(str(tmp_path / "4")), retries=0)


def test_a_worker_that_dies_idle_comes_back_and_is_logged_once(
    caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    events: list[tuple[str, WorkerInfo]] = []
    with WorkerPool(COMMAND, on_event=lambda *event: events.append(event)) as pool:
        pid = pool.call(Pid())
        os.kill(pid, signal.SIGSEGV)
        eventually(lambda: [info.state for info in pool.workers] == ["ready"])
        eventually(lambda: pool.workers[0].pid != pid)
        assert pool.call(Add(1)) == 2
        died = [info for event, info in events if event == "died"]
    assert [info.pid for info in died] == [pid]
    assert isinstance(died[0].error, SessionClosedError)
    assert died[0].error.signal == "SIGSEGV"
    records = [record for record in caplog.records if str(pid) in record.getMessage()]
    assert len(records) == 1
    assert records[0].levelname == "WARNING"
    assert "was killed by SIGSEGV" in records[0].getMessage()


def test_requests_that_wait_survive_the_death_of_all_workers() -> None:
    with WorkerPool(COMMAND, size=2) as pool:
        pool.wait_ready()
        assert pool.call(Add(1)) == 2
        futures = [pool.request(Nap(0.05)) for _ in range(20)]
        for info in pool.workers:
            os.kill(info.pid, signal.SIGKILL)  # type: ignore[arg-type]
        outcomes = [type(future.exception()) for future in futures]
    assert outcomes.count(WorkerLostError) <= 2
    assert set(outcomes) <= {WorkerLostError, type(None)}


# Hangs.


def test_a_busy_loop_is_killed_after_its_grace_and_hurts_no_other() -> None:
    # Ready, or on a busy machine its time may be over before the handler has started.
    with WorkerPool(COMMAND, size=2, ready=Ready(), kill_grace=0.2) as pool:
        pool.wait_ready()
        stuck = pool.request(Spin(600), timeout=0.3)
        others = [pool.request(Add(number)) for number in range(200)]
        assert [future.result() for future in others] == list(range(1, 201))
        with pytest.raises(RequestTimeoutError):
            stuck.result()
        spinning = [info.pid for info in pool.workers if info.running]
        assert pool.drain(20)
        assert pool.stats.killed == 1
        assert not any(is_alive(pid) for pid in spinning)
        assert pool.stats.lost == 0


def test_a_cancelled_busy_loop_is_killed_too() -> None:
    with WorkerPool(COMMAND, ready=Ready(), kill_grace=0.5) as pool:
        items: list[int] = []
        stuck = pool.request(Count(10**9), on_progress=items.append)
        while not items:
            time.sleep(0.001)
        busy = pool.request(Spin(600))
        assert stuck.cancel()  # heeds it
        while not busy.running():
            time.sleep(0.001)
        time.sleep(0.2)
        assert busy.cancel()
        assert pool.call(Add(1)) == 2
        assert pool.stats.killed == 1


def test_a_stream_whose_time_is_over_has_its_worker_killed() -> None:
    with WorkerPool(COMMAND, ready=Ready(), kill_grace=0.1) as pool:
        pool.wait_ready()
        with pytest.raises(RequestTimeoutError):
            list(pool.stream(Spin(600), timeout=0.3))
        assert pool.drain(20)
        assert pool.stats.killed == 1
        with pytest.raises(RequestTimeoutError):
            list(pool.stream(Count(10**9), timeout=0.3))
        assert pool.drain(20)
        assert pool.stats.killed == 1


def test_what_shares_a_worker_with_a_busy_loop_is_lost_with_it() -> None:
    with WorkerPool(COMMAND, per_worker=2, ready=Ready(), kill_grace=0.1) as pool:
        pool.wait_ready()
        beside = pool.request(Nap(600))
        with pytest.raises(RequestTimeoutError):
            pool.call(Spin(600), timeout=0.2)
        with pytest.raises(WorkerLostError):
            beside.result()
        assert pool.call(Add(1)) == 2


def test_a_worker_that_hangs_in_its_start_is_given_up() -> None:
    with WorkerPool(
        [*COMMAND, "hangs"], ready=Ready(), start_timeout=0.2, backoff=(30, 30)
    ) as pool:
        began = time.monotonic()
        with pytest.raises(WorkersUnavailableError, match=r"within 0\.2 s \(start_timeout\)"):
            pool.call(Add(1))
        assert time.monotonic() - began < 20
        assert pool.stats.died == 2
        assert not any(is_alive(info.pid) for info in pool.workers)


@pytest.mark.parametrize(
    ("fault", "text"),
    [("not-ready", "the model can't be loaded"), ("dies-in-ready", "exited with code 4")],
)
def test_a_worker_that_is_not_well_gets_no_request(fault: str, text: str) -> None:
    pool = WorkerPool([*COMMAND, fault], ready=Ready(), backoff=(30, 30))
    with pool, pytest.raises(WorkersUnavailableError, match=text):
        pool.call(Add(1))


# What can't be started.


def test_a_child_that_can_not_be_imported_is_told_at_once_and_not_started_again_and_again() -> None:
    with WorkerPool([*COMMAND, "broken"], size=2, backoff=(30, 60)) as pool:
        with pytest.raises(WorkersUnavailableError, match="no licence file") as caught:
            pool.call(Add(1))
        assert caught.value.executed is False
        assert caught.value.returncode == 1
        assert "no licence file" in caught.value.stderr_tail
        assert 10 < caught.value.retry_after <= 30
        began = time.monotonic()
        for _ in range(100):
            with pytest.raises(WorkersUnavailableError):
                pool.request(Add(1)).result()
        assert time.monotonic() - began < 10
        assert pool.stats.started <= 4
        with pytest.raises(WorkersUnavailableError):
            pool.wait_ready()


def test_a_pool_gives_up_on_a_crash_loop_and_tries_again_when_it_is_asked(
    caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    with WorkerPool([*COMMAND, "broken"], backoff=(0.01, 0.05), max_early_deaths=3) as pool:
        pool.start()
        eventually(lambda: pool.stats.died == 3)
        time.sleep(0.3)  # in which it would start six more
        assert pool.stats.started == 3
        assert "3 workers in a row died" in caplog.text
        with pytest.raises(WorkersUnavailableError):
            pool.call(Add(1))
        assert pool.stats.started == 4


def test_a_program_that_is_not_there_is_told_at_once() -> None:
    with WorkerPool(["/no/such/program"]) as pool:
        with pytest.raises(WorkersUnavailableError, match="/no/such/program") as caught:
            pool.call(Add(1))
        assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_pool_of_no_workers_says_so() -> None:
    with WorkerPool(COMMAND, size=0) as pool:
        with pytest.raises(WorkersUnavailableError, match="its size is 0"):
            pool.call(Add(1))
        pool.resize(1)
        assert pool.call(Add(1)) == 2


def test_no_descriptor_is_left_for_a_worker() -> None:
    with WorkerPool(COMMAND, size=2, backoff=(0.01, 0.1)) as pool:
        assert pool.call(Add(1)) == 2
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
        try:
            # The second worker can't be had; the first one serves both.
            futures = [pool.request(Nap(0.1)) for _ in range(4)]
            assert [future.result() for future in futures] == ["rested"] * 4
            held: list[int] = []
            try:
                error: BaseException | None = None
                while error is None:
                    # The dead one's descriptors are closed in between, and taken by us, or by a new
                    # worker.
                    with contextlib.suppress(SessionClosedError, RequestTimeoutError):
                        os.kill(pool.call(Pid(), timeout=5), signal.SIGKILL)
                    held += all_descriptors()
                    try:
                        pool.call(Add(1), timeout=5)
                    except WorkersUnavailableError as one:
                        if not isinstance(one.__cause__, SessionClosedError):
                            error = one.__cause__
                    except WorkerLostError:
                        pass  # its death was not seen yet
                assert isinstance(error, OSError)
                assert error.errno == errno.EMFILE
            finally:
                for fd in held:
                    os.close(fd)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        deadline = time.monotonic() + 20
        while not pool.check() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pool.call(Add(1)) == 2


def all_descriptors() -> list[int]:
    """Take all that are to be had."""
    taken: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    return taken


def test_no_thread_is_to_be_had_for_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamipc.pool import staff

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with WorkerPool(COMMAND) as pool:
        assert pool.drain()  # its supervisor is there
        monkeypatch.setattr(staff, "start_thread", fail)
        assert pool.call(Add(1)) == 2
        pool.restart()
        while pool.stats.retired == 0:
            assert pool.call(Add(1)) == 2


def test_no_process_is_to_be_had_for_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamipc.transports import process

    class NoMemory(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with WorkerPool(COMMAND, backoff=(0.01, 0.02)) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(process, "_popen_class", lambda: NoMemory)
            with pytest.raises(WorkersUnavailableError, match="Cannot allocate memory"):
                pool.call(Add(1))
        deadline = time.monotonic() + 20
        while not pool.check() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pool.call(Add(1)) == 2


# Forks, signals, the end of this process. Each of these is a program of its own.


PARENT = """
    import os, signal, sys, threading, time
    from concurrent.futures import wait
    from forking import fork
    from pool_messages import Add, Nap, Pid, Spin
    from streamipc import SessionClosedError, WorkerPool

    pool = WorkerPool(sys.argv[1:], size=2)
"""


@pytest.fixture
def run(script: Script) -> Callable[..., str]:
    def run_parent(source: str, timeout: float = 100) -> str:
        command = [*script(PARENT + source, name="parent.py"), *COMMAND]
        options = ["-W", "ignore:.*fork:DeprecationWarning"]
        done = subprocess.run(
            [command[0], *options, *command[1:]], capture_output=True, text=True, timeout=timeout
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run_parent


@pytest.mark.parametrize("way", ["main", "thread", "C"])
def test_a_forked_process_has_workers_of_its_own(run: Callable[..., str], way: str) -> None:
    source = f"""
    mine = set()
    futures = [pool.request(Nap(1)) for _ in range(2)] + [pool.request(Nap(0.1)) for _ in range(2)]
    while pool.stats.running < 2:
        time.sleep(0.001)
    mine = {{info.pid for info in pool.workers}}

    def in_the_copy():
        assert pool.workers == []
        for future in futures:
            try:
                future.result(timeout=10)
            except SessionClosedError as error:
                assert "forked" in str(error), error
            else:
                raise AssertionError("it has the parent's reply")
        assert pool.call(Pid()) not in mine
        assert list(pool.map([Add(1), Add(2)])) == [2, 3]
        assert not futures[0].cancel()
        pool.close()

    pid = fork(in_the_copy, {way!r})
    assert os.waitpid(pid, 0)[1] == 0
    assert [future.result() for future in futures] == ["rested"] * 4
    assert {{info.pid for info in pool.workers}} == mine
    assert pool.call(Pid()) in mine
    pool.close()
    print("done")
    """
    assert run(source) == "done\n"


def test_a_copy_that_ends_leaves_the_parents_workers_alone(run: Callable[..., str]) -> None:
    source = """
    before = pool.call(Pid())
    assert os.waitpid(fork(lambda: None), 0)[1] == 0
    assert os.waitpid(fork(lambda: pool.close()), 0)[1] == 0
    assert pool.call(Pid()) == before
    pool.close()
    print("done")
    """
    assert run(source) == "done\n"


@pytest.mark.parametrize("busy", ["Nap(60)", "Nap(60, heeds=False)", "Spin(60)"])
def test_the_interpreter_ends_with_work_in_flight(run: Callable[..., str], busy: str) -> None:
    source = f"""
    futures = [pool.request({busy}) for _ in range(5)]
    while pool.stats.running < 2:
        time.sleep(0.001)
    threading.Thread(target=lambda: futures[0].exception(), daemon=True).start()
    threading.Thread(target=lambda: pool.call(Nap(60)), daemon=True).start()
    print(*[info.pid for info in pool.workers])
    """
    began = time.monotonic()
    pids = [int(pid) for pid in run(source).split()]
    assert time.monotonic() - began < 30
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)


def test_no_worker_outlives_a_parent_that_is_killed(script: Script, eventually: Eventually) -> None:
    source = """
    futures = [pool.request(Spin(600)), pool.request(Nap(600, heeds=False))]
    while pool.stats.running < 2:
        time.sleep(0.001)
    print(*[info.pid for info in pool.workers], flush=True)
    time.sleep(60)
    """
    command = [*script(PARENT + source, name="parent.py"), *COMMAND]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    eventually(lambda: not any(is_alive(pid) for pid in pids))


class SoftLimitError(Exception):
    """As Celery's ``SoftTimeLimitExceeded``: a signal's handler raises it."""


@pytest.fixture
def alarm() -> Iterator[Callable[[float], None]]:
    def raise_it(number: int, frame: object) -> None:
        raise SoftLimitError

    before = signal.signal(signal.SIGALRM, raise_it)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["call", "result", "stream", "map", "drain"])
def test_a_soft_time_limit_comes_out_and_the_pool_goes_on(
    alarm: Callable[[float], None], kind: str
) -> None:
    with WorkerPool(COMMAND, kill_grace=0.5) as pool:
        before = pool.call(Pid())
        other: list[Any] = []

        def asked(one: Any) -> Any:
            other.append(one)
            return one

        wait: dict[str, Callable[[], Any]] = {
            "call": lambda: pool.call(Nap(60)),
            "result": lambda: asked(pool.request(Nap(60))).result(),
            "stream": lambda: list(asked(pool.stream(Count(10**6, pause=0.01)))),
            "map": lambda: list(pool.map([Nap(60)] * 3)),
            "drain": lambda: asked(pool.request(Nap(60))) and pool.drain(),
        }
        alarm(0.2)
        with pytest.raises(SoftLimitError):
            wait[kind]()
        for one in other:
            one.cancel()
        assert pool.call(Pid()) == before
        assert pool.stats.killed == 0
        assert pool.drain(10)


# A callback of the garbage collector that one comes in (hypothesis has one) says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", range(2))
def test_signals_at_any_moment_cost_nobody_else_a_request(
    alarm: Callable[[float], None], seed: int
) -> None:
    """Two threads ask while the main thread's calls are interrupted again and again."""
    stop = threading.Event()
    wrong: list[Any] = []
    counts = [0, 0]

    def ask(number: int) -> None:
        while not stop.is_set():
            try:
                if pool.call(Add(number), timeout=60) != number + 1:
                    wrong.append("another's answer")
                counts[number] += 1
            except BaseException as error:
                wrong.append(error)

    # Nobody knows of a call that was interrupted in its first lines whether it was sent. Its worker
    # is killed then, and nobody else had that.
    with WorkerPool(COMMAND, size=2, kill_grace=0.3) as pool:
        pool.wait_ready()
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        interrupts = 0
        end = time.monotonic() + 1.5
        delay = 0.0002 + seed * 0.00007
        while time.monotonic() < end:
            futures: list[Any] = []
            try:
                alarm(delay)
                delay = delay * 1.37 if delay < 0.02 else 0.0002
                while time.monotonic() < end:  # CPython drops one that comes in a finalizer
                    pool.call(Add(5))
                    futures = [pool.request(Add(number)) for number in range(3)]
                    assert [future.result() for future in futures] == [1, 2, 3]
            except SoftLimitError:
                interrupts += 1
        alarm(0)
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert min(counts) > 0
        assert interrupts > 10
        assert pool.drain(30)
        assert pool.stats.died == 0
        pool.wait_ready()
        assert [info.running for info in pool.workers] == [0, 0]
        assert concurrent.futures.wait(futures, timeout=10).not_done == set()
