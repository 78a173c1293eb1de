"""The requests of a pool in one process: sends them to workers, and sees to it that each ends once.

A ticket is settled by whoever takes it out of ``_to_settle`` or of the scheduler's ``to_fail``; its
future keeps what comes first, for a request may be cancelled at any moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from .._signals import let_through
from ..exceptions import (
    IpcError,
    OverloadedError,
    RequestTimeoutError,
    SessionClosedError,
    WorkerLostError,
)
from .children import Child
from .reports import Counts
from .scheduler import Reason, Scheduler
from .staff import Staff
from .tickets import RequestTicket, Ticket
from .turns import Action, Turns

__all__ = ["Requests", "lost_error"]


class Requests:
    """See the module's text.

    Args:
        turns: are told what has become of requests.
        scheduler: decides who gets them.
        staff: is told of workers that die with them.
        counts: of the pool.
    """

    def __init__(self, turns: Turns, scheduler: Scheduler, staff: Staff, counts: Counts) -> None:
        self._turns = turns
        self._scheduler = scheduler
        self._staff = staff
        self._counts = counts
        self._to_settle: deque[tuple[Ticket, Any, BaseException | None]] = deque()

    def has_work(self) -> bool:
        """Tell whether a request is to be sent or settled."""
        scheduler = self._scheduler
        return bool(scheduler.to_send or scheduler.to_fail or self._to_settle)

    def take(self) -> list[Action]:
        """See :class:`Source`."""
        scheduler = self._scheduler
        actions: list[Action] = []
        while scheduler.to_send:
            action = self._claim(scheduler.to_send.popleft())
            if action is not None:
                actions.append(action)
        while scheduler.to_fail:
            ticket: Any
            ticket, reason = scheduler.to_fail.popleft()
            actions.append((ticket.settle, (None, self._refusal(ticket, reason))))
        while self._to_settle:
            ticket, value, error = self._to_settle.popleft()
            actions.append((ticket.settle, (value, error)))
        return actions

    def _claim(self, job: Any) -> Action | None:
        """Return what sends a job that has a worker, once."""
        if job.is_sent or job.has_ended or job.worker is None:
            return None
        job.is_sent = True
        return (job.send, (self, job.worker))

    def submit(self, ticket: Ticket) -> None:
        """Take a new ticket; send it if there is a worker for it."""
        turns = self._turns
        turns.inbox.append((self._scheduler.submit, (ticket,)))
        turns.take(lambda: self._claim_own(ticket))

    def _claim_own(self, ticket: Ticket) -> Action | None:
        to_send = self._scheduler.to_send
        if to_send and to_send[-1] is ticket:
            to_send.pop()  # or the supervisor would be woken for it
        return self._claim(ticket)

    def send(self, ticket: RequestTicket, worker: Child) -> None:
        """Send a request to the worker that it was given to."""
        assert worker.session is not None
        try:
            inner = worker.session.request(
                ticket.message,
                ticket.seconds_left(),
                metadata=ticket.metadata,
                **(ticket.options or {}),
            )
        except Exception as error:
            let_through(error)
            self.failed(ticket, worker, error)
            return
        ticket.inner = inner
        if ticket.has_ended:  # it was cancelled meanwhile
            inner.cancel()
        inner.add_done_callback(lambda inner: self._turns.post(self._ended, ticket, worker, inner))

    def _ended(self, ticket: RequestTicket, worker: Child, inner: Future[Any], now: float) -> None:
        try:
            error = inner.exception()
        except CancelledError:
            return  # it was cancelled by us, and cancel() has told
        if error is None:
            self._scheduler.over(ticket, worker, now)
            self._counts.done += 1
            self._to_settle.append((ticket, inner.result(), None))
        else:
            self._failed(ticket, worker, error, now)

    def finish(
        self, ticket: Ticket, worker: Child | None, answers: Sequence[Any], now: float
    ) -> None:
        """A thread that asks by itself has its answer, or wants none any more."""
        if answers and worker is not None:
            self._answered(ticket, worker, now)
        else:
            self._give_up(ticket, worker, now)

    def _answered(self, ticket: Ticket, worker: Child, now: float) -> None:
        self._scheduler.over(ticket, worker, now)
        self._counts.done += 1

    def failed(self, ticket: Ticket, worker: Child, error: BaseException) -> None:
        """A request has failed: give it to another worker, or settle it."""
        self._turns.post(self._failed, ticket, worker, error)

    def _failed(self, ticket: Ticket, worker: Child, error: BaseException, now: float) -> None:
        scheduler, counts = self._scheduler, self._counts
        goes_on = False
        if isinstance(error, SessionClosedError):
            self._staff.gone(worker, error, now)
            if error.executed is False:
                goes_on = scheduler.take_back(ticket, worker, now)
            else:
                ticket.was_sent = True
                counts.lost += not ticket.has_ended
                goes_on = scheduler.lost(ticket, worker, now)
                counts.lost -= goes_on
            error = error if goes_on else lost_error(error)
        elif isinstance(error, OverloadedError):
            goes_on = scheduler.take_back(ticket, worker, now)
        elif isinstance(error, RequestTimeoutError) and not error.answered:
            counts.timed_out += 1
            self._give_up(ticket, worker, now)
            error = _timeout_error(ticket, error)
        else:
            if isinstance(error, RequestTimeoutError):
                counts.timed_out += 1
                error = _timeout_error(ticket, error)
            counts.done += 1
            scheduler.over(ticket, worker, now)
        if goes_on:
            counts.retried += 1
        else:
            self._to_settle.append((ticket, None, error))

    def give_up(self, ticket: Ticket) -> None:
        """Nobody wants the answer any more."""
        self._turns.post(self._give_up, ticket, ticket.worker)

    def _give_up(self, ticket: Ticket, worker: Child | None, now: float) -> None:
        if worker is not None and self._has_answered_late(ticket, worker):
            self._scheduler.over(ticket, worker, now)
        else:
            self._scheduler.give_up(ticket, now)

    @staticmethod
    def _has_answered_late(ticket: Ticket, worker: Child) -> bool:
        """Tell whether the answer has come before we knew that the request had ended."""
        came_late = worker.came_late
        id_ = ticket.inner_id
        if id_ is None:  # of a call(), whose id only the session knows
            id_ = next(iter(came_late - _ids_of(worker)), None)
        if id_ not in came_late:
            return False
        came_late.discard(id_)
        return True

    def cancel(self, ticket: RequestTicket) -> None:
        """The future of a request was cancelled."""
        # In this order: whoever is sending it sees that it has ended, or we see what was sent.
        self.give_up(ticket)
        inner = ticket.inner
        if inner is not None:
            inner.cancel()

    def came_late(self, worker: Child, id: Any) -> None:  # noqa: A002
        """A worker has answered a request that had ended here: its handler is done."""
        self._turns.post(self._came_late, worker, id)

    def _came_late(self, worker: Child, id: Any, now: float) -> None:  # noqa: A002
        if id in worker.told:
            return
        worker.told.append(id)
        ended: list[Any] = [job for job in worker.jobs if job.has_ended]
        # Of several calls whose ids are not known it does not matter which one is over.
        known = None if id in _ids_of(worker) else id
        for job in ended:
            if job.inner_id == id or (known is not None and job.inner_id is None):
                self._scheduler.over(job, worker, now)
                return
        worker.came_late.add(id)

    def stream_ended(self, ticket: Ticket, worker: Child, inner: Future[Any]) -> None:
        """A stream has ended that a caller has got already: no other worker can have it."""
        self._turns.post(self._stream_ended, ticket, worker, inner)

    def _stream_ended(self, ticket: Ticket, worker: Child, inner: Future[Any], now: float) -> None:
        counts = self._counts
        try:
            error = inner.exception()
        except CancelledError:
            self._give_up(ticket, worker, now)
            return
        if isinstance(error, SessionClosedError):
            counts.lost += 1
            self._staff.gone(worker, error, now)
            self._scheduler.drop(ticket, now)
        elif isinstance(error, RequestTimeoutError) and not error.answered:
            counts.timed_out += 1
            self._give_up(ticket, worker, now)
        else:
            self._answered(ticket, worker, now)

    def _refusal(self, ticket: Ticket, reason: Reason) -> IpcError:
        """Return the error of a ticket that gets no worker."""
        what = f"{ticket.name} was not sent; "
        if ticket.was_sent:
            what = f"{ticket.name} was lost with its worker, and was to be sent to another one; "
        if reason is not Reason.LATE:
            staff, is_closed = self._staff, reason is Reason.CLOSED
            error = staff.closed_error(what) if is_closed else staff.unavailable_error(what)
            if ticket.was_sent:
                error.executed = None
            return error
        self._counts.timed_out += 1
        assert ticket.timeout is not None
        how = "was lost with its worker, and has waited for another one"
        if not ticket.was_sent:
            how = "has waited for a worker all that time, and was not sent"
        return RequestTimeoutError(
            f"no reply to {ticket.name} within {ticket.timeout:g} s: it {how}"
        )


def _ids_of(worker: Child) -> set[Any]:
    """Return the ids of the requests of a worker, as far as they are known here."""
    jobs: Any = worker.jobs
    return {job.inner_id for job in jobs}


def _timeout_error(ticket: Ticket, error: RequestTimeoutError) -> RequestTimeoutError:
    """Return the error that names the time which the user has given.

    The session was given what was left of it when there was a worker.
    """
    if ticket.timeout is None:
        return error  # the peer's own
    made = RequestTimeoutError(
        f"no reply to {ticket.name} within {ticket.timeout:g} s: a worker had it, and had not "
        "answered it by then"
    )
    made.answered = error.answered
    made.__cause__ = error
    return made


def lost_error(error: SessionClosedError) -> WorkerLostError:
    """Return the error of a request whose worker has died with it."""
    lost = WorkerLostError(
        str(error),
        returncode=error.returncode,
        signal=error.signal,
        stderr_tail=error.stderr_tail,
        executed=error.executed,
    )
    lost.__cause__ = error
    return lost
