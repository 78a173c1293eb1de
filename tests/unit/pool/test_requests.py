"""What becomes of requests: outcomes that real children give too rarely, or in no certain order."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from pool_messages import Add

from streamipc import (
    IpcError,
    OverloadedError,
    RequestTimeoutError,
    SessionClosedError,
    WorkerLostError,
    WorkersUnavailableError,
)
from streamipc.engine.calls import Call
from streamipc.pool.backoff import Backoff
from streamipc.pool.children import Child
from streamipc.pool.futures import Owner, PoolFuture
from streamipc.pool.reports import Counts
from streamipc.pool.requests import Requests
from streamipc.pool.scheduler import Scheduler
from streamipc.pool.tickets import CallTicket
from streamipc.pool.turns import Turns


class Staff:
    """Knows that workers die, and what to say if there is none."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.gone = lambda worker, error, now: scheduler.gone(worker, now)

    def closed_error(self, what: str) -> SessionClosedError:
        return SessionClosedError(f"{what}closed", executed=False)

    def unavailable_error(self, what: str) -> WorkersUnavailableError:
        return WorkersUnavailableError(f"{what}unavailable")


class Pool:
    """Without threads: all is done by whoever calls."""

    def __init__(self, per_worker: int = 2) -> None:
        self.scheduler = Scheduler(
            1, Backoff(30.0, 30.0, 5), per_worker=per_worker, make_worker=Child
        )
        self.turns = Turns("pool", self.scheduler, has_threads=False)
        self.counts = Counts()
        staff: Any = Staff(self.scheduler)
        self.requests = Requests(self.turns, self.scheduler, staff, self.counts)
        self.turns.sources.append(self.requests)
        self.worker = self.start()

    def start(self) -> Any:
        self.turns.post(self.scheduler.start_all)
        worker = self.scheduler.to_start.popleft()
        self.turns.post(self.scheduler.ready, worker)
        return worker

    def ask(self, timeout: float | None = 60.0, retries: int = 0) -> CallTicket:
        ticket = CallTicket(Add(1), timeout, retries, None)
        self.requests.submit(ticket)
        return ticket

    def fail(self, ticket: CallTicket, error: IpcError) -> None:
        self.requests.failed(ticket, self.worker, error)


@pytest.fixture
def pool() -> Pool:
    return Pool()


def answered() -> RequestTimeoutError:
    error = RequestTimeoutError("the peer's clock was faster")
    error.answered = True
    return error


@pytest.mark.parametrize("timeout", [60.0, None])
def test_a_timeout_that_the_worker_tells_of_leaves_it_free(
    pool: Pool, timeout: float | None
) -> None:
    ticket = pool.ask(timeout)
    pool.fail(ticket, answered())

    assert isinstance(ticket.error, RequestTimeoutError)
    assert ("within 60 s" in str(ticket.error)) == (timeout is not None)
    assert pool.worker.jobs == {}
    assert (pool.counts.timed_out, pool.counts.done) == (1, 1)


def test_a_late_answer_frees_the_worker_whichever_comes_first(pool: Pool) -> None:
    first, second = pool.ask(), pool.ask()
    pool.requests.came_late(pool.worker, 7)  # before anybody knows that it was given up
    pool.requests.give_up(first)
    assert [*pool.worker.jobs] == [second]
    pool.requests.give_up(second)
    assert [*pool.worker.jobs] == [second]
    pool.requests.came_late(pool.worker, 7)  # told once more
    assert [*pool.worker.jobs] == [second]
    pool.requests.came_late(pool.worker, 8)
    assert pool.worker.jobs == {}


def test_a_late_answer_of_another_request_frees_nobody(pool: Pool) -> None:
    first, second = pool.ask(), pool.ask()
    known: Any = Future()
    known.id = 3
    first.inner = known
    pool.requests.give_up(first)
    pool.requests.give_up(second)
    pool.requests.came_late(pool.worker, 3)
    assert [*pool.worker.jobs] == [second]


def test_who_is_refused_too_often_is_told(pool: Pool) -> None:
    ticket = pool.ask()
    for _ in range(10):
        pool.fail(ticket, OverloadedError("full"))

    assert isinstance(ticket.error, OverloadedError)
    assert pool.counts.retried > 0


def test_what_was_lost_and_gets_no_other_worker_does_not_count_as_not_executed(pool: Pool) -> None:
    ticket = pool.ask(retries=1)
    pool.fail(ticket, SessionClosedError("it died"))
    assert ticket.error is None
    pool.turns.post(pool.scheduler.abort)

    assert isinstance(ticket.error, SessionClosedError)
    assert ticket.error.executed is None
    assert "was lost with its worker" in str(ticket.error)


def test_so_it_is_if_its_time_is_over_meanwhile(pool: Pool) -> None:
    ticket = pool.ask(timeout=0.05, retries=1)
    pool.fail(ticket, SessionClosedError("it died"))
    time.sleep(0.06)
    pool.turns.take()

    assert isinstance(ticket.error, RequestTimeoutError)
    assert "was lost with its worker" in str(ticket.error)


def test_what_was_cancelled_is_not_counted_as_lost(pool: Pool) -> None:
    ticket = pool.ask()
    pool.requests.give_up(ticket)
    pool.fail(ticket, SessionClosedError("it died"))

    assert pool.counts.lost == 0
    assert pool.scheduler.is_quiet


@pytest.mark.parametrize(
    ("outcome", "is_over"),
    [
        (5, True),
        (SessionClosedError("it died"), True),
        (answered(), True),
        (RequestTimeoutError("nothing came"), False),
        (CancelledError(), False),
    ],
)
def test_a_stream_that_ends_frees_its_worker_unless_its_handler_may_go_on(
    pool: Pool, outcome: Any, is_over: bool
) -> None:
    ticket = pool.ask()
    inner: Future[Any] = Future()
    if isinstance(outcome, CancelledError):
        inner.cancel()
    elif isinstance(outcome, IpcError):
        inner.set_exception(outcome)
    else:
        inner.set_result(outcome)
    pool.requests.stream_ended(ticket, pool.worker, inner)

    assert pool.scheduler.is_quiet is is_over
    assert pool.counts.lost == (type(outcome) is SessionClosedError)


def test_a_job_is_sent_once_also_if_it_stands_in_the_queue_twice(pool: Pool) -> None:
    ticket = pool.ask()
    assert ticket.wait(0)
    pool.scheduler.to_send.append(ticket)
    pool.turns.take()

    assert not ticket.wait(0)


def test_an_error_of_a_lost_worker_keeps_what_is_known_of_it(pool: Pool) -> None:
    ticket = pool.ask()
    pool.fail(ticket, SessionClosedError("it died", returncode=-9, signal="SIGKILL"))

    assert isinstance(ticket.error, WorkerLostError)
    assert (ticket.error.returncode, ticket.error.signal) == (-9, "SIGKILL")


def test_what_an_interrupted_thread_has_cancelled_is_given_up_by_the_next_one() -> None:
    given_up: list[Any] = []
    owner = Owner(given_up.append)
    ticket = CallTicket(Add(1), None, 0, None)
    call = Call(owner, ticket, Add(1))  # type: ignore[arg-type]
    owner.unwanted.append(call)
    owner.give_up_unwanted()
    owner.give_up_unwanted()

    assert given_up == [ticket]
    assert repr(PoolFuture(call)) == "<PoolFuture of pool_messages.Add, request 0: pending>"


def test_a_copy_in_a_forked_process_does_nothing(pool: Pool) -> None:
    called: list[Any] = []
    pool.turns.forget_after_fork()
    pool.turns.post(called.append)
    pool.turns.take(lambda: called.append(1))  # type: ignore[func-returns-value]

    assert called == []


def test_who_interrupts_a_decision_may_not_wait_for_one(pool: Pool) -> None:
    refused: list[RuntimeError] = []

    def decide(now: float) -> None:
        with pytest.raises(RuntimeError, match="interrupted the pool") as caught:
            pool.turns.check_wait()
        refused.append(caught.value)

    pool.turns.post(decide)

    assert len(refused) == 1
    pool.turns.check_wait()
