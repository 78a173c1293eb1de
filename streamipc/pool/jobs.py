"""What the scheduler knows of a request and of a worker: the records that it decides on.

They hold no thread, lock or session. The files that start workers and send requests derive from
them, and add what they need.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Job", "State", "Worker"]


class State(str, Enum):
    """What a worker is about."""

    STARTING = "starting"
    """Its process is being started, or has not answered the pool's ``ready`` request yet."""
    READY = "ready"
    """It takes requests."""
    RETIRING = "retiring"
    """It takes requests until the worker that replaces it is ready."""
    DRAINING = "draining"
    """It takes no more, and ends when it has answered those that it has."""
    ENDING = "ending"
    """It was told to end, or was killed."""


class Job:
    """One request, from the moment when the pool has it until it is over.

    Args:
        now: in :func:`time.monotonic` seconds.
        timeout: seconds until it fails; ``None``: it waits for ever.
        retries: how often it may be given to a worker again that died with it.

    Attributes:
        number: says which of two came first; of one that was given back, too.
        worker: that has it; ``None``: it waits for one.
        is_sent: somebody is sending it to ``worker``, or has.
        has_ended: its outcome is known; the worker may still be busy with it.
        refusals: how often a worker refused it that had not started it.
    """

    __slots__ = (
        "deadline",
        "has_ended",
        "is_sent",
        "number",
        "refusals",
        "retries",
        "since",
        "worker",
    )

    def __init__(self, now: float, timeout: float | None = None, retries: int = 0) -> None:
        self.number = 0
        self.since = now
        self.deadline = None if timeout is None else now + timeout
        self.retries = retries
        self.worker: Worker | None = None
        self.is_sent = False
        self.has_ended = False
        self.refusals = 0


class Worker:
    """One child process.

    Attributes:
        number: of the pool's workers, from 1.
        state: see :class:`State`.
        jobs: that it has, in the order in which it got them, each with the time at which the
            worker is killed for it; ``None``: its outcome is not known yet.
        done: requests that it has answered.
        given: requests that it was given.
        started: in :func:`time.monotonic` seconds.
        retire_at: the same; ``None``: it is never too old.
        is_killed: it was told to end because a request took too long.
    """

    __slots__ = (
        "done",
        "given",
        "is_killed",
        "jobs",
        "number",
        "retire_at",
        "started",
        "state",
    )

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.state = State.STARTING
        self.jobs: dict[Job, float | None] = {}
        self.done = 0
        self.given = 0
        self.started = now
        self.retire_at: float | None = None
        self.is_killed = False
