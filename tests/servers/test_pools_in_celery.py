"""The example celery_task, with Redis and a prefork worker as they are run in production."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from services import PATIENCE, Service
from web_servers import missing

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "examples" / "celery_task"
PROCESSES = 2

reason = missing("celery", "redis") or (
    None if shutil.which("redis-server") else "redis-server is not installed (Debian: redis-server)"
)
pytestmark = [
    pytest.mark.skipif(reason is not None, reason=str(reason)),
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="children are looked for in Linux's /proc"
    ),
]

# Products of two primes, found only by trying all numbers below them.
TAKES_A_WHILE = 4_999_963 * 4_999_999
TAKES_TOO_LONG = 999_999_937 * 999_999_929

numbers = count(1_000_000_000 + random.randrange(1_000_000))


class Redis(Service):
    """A Redis that listens at a Unix socket in its folder, and keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        super().__init__(
            ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", ""], folder
        )

    def wait_until_ready(self) -> None:
        self.wait(self.socket.exists, "socket")


class CeleryWorker(Service):
    """A Celery worker with the example's tasks.

    Args:
        broker: its address.
        folder: as for ``Service``.
        options: of ``celery worker``.
    """

    def __init__(self, broker: str, folder: Path, *options: str) -> None:
        celery = [sys.executable, "-m", "celery", "--workdir", str(EXAMPLE), "--app", "tasks"]
        support = str(ROOT / "tests" / "support")
        path = os.pathsep.join(filter(None, [support, os.environ.get("PYTHONPATH")]))
        super().__init__(
            [
                *(*celery, "worker", "--include", "celery_extras", "--loglevel", "INFO"),
                *("--without-mingle", "--without-gossip", "--without-heartbeat"),
                *("--concurrency", str(PROCESSES), "--prefetch-multiplier", "1"),
                *options,
            ],
            folder,
            environment={"REDIS_URL": broker, "PYTHONPATH": path},
        )

    def wait_until_ready(self) -> None:
        self.wait(lambda: " ready." in self.log(), "worker")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # Its folder's name is short: it is part of a socket's path.
    with Redis(tmp_path_factory.mktemp("redis")) as redis:
        yield f"redis+socket://{redis.socket}"


@pytest.fixture(scope="module")
def worker(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryWorker]:
    """Start a worker, which is asked to stop when all of these tests have used it."""
    with CeleryWorker(broker, tmp_path_factory.mktemp("worker")) as worker:
        yield worker


class Tasks:
    """Sends tasks, and looks for their results."""

    def __init__(self, broker: str) -> None:
        from celery import Celery

        # Two, for one that has both subscribes to each result when it sends a task.
        self._sender = Celery("sender", broker=broker)
        self._reader = Celery("reader", backend=broker)

    def close(self) -> None:
        self._sender.close()
        self._reader.backend.client.connection_pool.disconnect()
        self._reader.close()

    def send(self, *args: int, name: str = "tasks.factorise", **options: Any) -> str:
        """Send a task; return its id."""
        return str(self._sender.send_task(name, args, **options).id)

    def result(self, task: str) -> Any:
        """Wait for a task; return its result, or raise its error."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            meta = self._reader.backend.get_task_meta(task)
            if meta["status"] == "SUCCESS":
                return meta["result"]
            if meta["status"] == "FAILURE":
                raise meta["result"]
            time.sleep(0.01)
        raise AssertionError(f"a task is still {meta['status']}")

    def check(self, how_many: int = 40, **options: Any) -> None:
        """Have numbers factorised, none twice: each result must be that of its number."""
        sent = {number: self.send(number, **options) for number in islice(numbers, how_many)}
        for number, task in sent.items():
            assert math.prod(self.result(task)) == number


@pytest.fixture(scope="module")
def tasks(broker: str, worker: CeleryWorker) -> Iterator[Tasks]:
    """Return what sends tasks, with its connections made: they would be left behind by a test."""
    tasks = Tasks(broker)
    tasks.check(1)
    yield tasks
    tasks.close()


def test_each_process_has_a_child_where_multiprocessing_may_have_none(
    worker: CeleryWorker, tasks: Tasks
) -> None:
    tasks.check()

    parents = worker.children().values()
    assert len(parents) == len({*parents}) == PROCESSES
    assert worker.process.pid not in parents
    refusal = tasks.result(tasks.send(name="celery_extras.start_a_process"))
    assert refusal == "daemonic processes are not allowed to have children"


def test_the_soft_limit_comes_out_of_call_and_the_next_task_is_answered_rightly(
    worker: CeleryWorker, tasks: Tasks
) -> None:
    from celery.exceptions import SoftTimeLimitExceeded

    tasks.check()
    before = worker.children()

    stuck = [tasks.send(TAKES_TOO_LONG, soft_time_limit=1) for _ in range(PROCESSES)]
    for task in stuck:
        with pytest.raises(SoftTimeLimitExceeded):
            tasks.result(task)

    tasks.check()
    worker.wait(lambda: before.keys().isdisjoint(worker.children()), "end of what was too long")
    assert {*worker.children().values()} == {*before.values()}  # the processes are the same


def test_the_hard_limit_kills_a_process_and_its_child(worker: CeleryWorker, tasks: Tasks) -> None:
    from celery.exceptions import TimeLimitExceeded

    tasks.check()
    before = worker.children()

    with pytest.raises(TimeLimitExceeded):
        tasks.result(tasks.send(TAKES_TOO_LONG, name="celery_extras.factorise_in_a_second"))

    worker.wait(lambda: not before.keys() <= worker.children().keys(), "end of the child")

    def new_one_is_there() -> bool:
        tasks.check(8)
        parents = worker.children().values()
        return len(parents) == PROCESSES and {*parents} != {*before.values()}

    worker.wait(new_one_is_there, "child of the process that Celery has started instead")


def test_a_child_that_is_killed_costs_no_task_for_it_is_tried_again(
    worker: CeleryWorker, tasks: Tasks
) -> None:
    tasks.check()

    task = tasks.send(TAKES_A_WHILE)
    worker.wait(lambda: busy_children(worker), "child with work")
    for victim in busy_children(worker):
        os.kill(victim, signal.SIGKILL)

    tasks.check()
    assert tasks.result(task) == [4_999_963, 4_999_999]
    assert "WorkerLostError" in worker.log()


def busy_children(worker: CeleryWorker) -> list[int]:
    return [pid for pid in worker.children() if is_busy(pid)]


def is_busy(pid: int) -> bool:
    """Tell whether a thread of a process runs just now: field 3 of proc_pid_stat(5)."""
    for file in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            if file.read_text().rpartition(")")[2].split()[0] == "R":
                return True
    return False


def test_processes_that_end_after_some_tasks_and_a_warm_shutdown_leave_no_child(
    broker: str, tmp_path: Path, tasks: Tasks
) -> None:
    with CeleryWorker(broker, tmp_path, "--max-tasks-per-child", "3", "--queues", "few") as worker:
        tasks.check(2, queue="few")
        parents = {*worker.children().values()}
        tasks.check(6, queue="few")
        parents |= {*worker.children().values()}
        assert len(parents) > PROCESSES, parents
        worker.wait(lambda: len(worker.children()) <= PROCESSES, "end of the old children")

        task = tasks.send(TAKES_A_WHILE, queue="few")
        worker.wait(lambda: busy_children(worker), "start of the task")
        worker.stop()  # a warm shutdown: what has been begun is finished

        assert tasks.result(task) == [4_999_963, 4_999_999]
    assert "Traceback" not in worker.log(), worker.log()
