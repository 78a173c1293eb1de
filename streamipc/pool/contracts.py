"""What a pool tells of itself."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PoolStats", "WorkerInfo"]


class WorkerInfo(NamedTuple):
    """A snapshot of one worker."""

    pid: int | None
    """Its process id; ``None``: there is none yet, or it is no child of this process."""
    state: str
    """``"starting"``, ``"ready"``, ``"retiring"`` (it serves until the one that replaces it is
    ready), ``"draining"`` (it takes no more requests), ``"ending"``."""
    running: int
    """Requests that it has."""
    done: int
    """Requests that it has answered."""
    started: float
    """When it was started, in :func:`time.time` seconds."""
    error: Exception | None = None
    """In an event: what has happened to it, or why there is none."""


class PoolStats(NamedTuple):
    """A snapshot of a pool's counters in this process."""

    size: int
    """Workers that there may be."""
    workers: int
    """Workers that take requests now."""
    waiting: int
    """Requests that wait for a worker."""
    running: int
    """Requests that workers have."""
    done: int
    """Requests that were answered, be it with an error of the handler's."""
    timed_out: int
    """Requests whose time was over."""
    lost: int
    """Requests that failed because their worker died."""
    retried: int
    """Requests that were given to another worker, because one had not started them, or was lost
    and ``retries`` allowed it."""
    started: int
    """Workers that were started so far."""
    died: int
    """Workers that have died, of themselves or killed by others."""
    killed: int
    """Workers that the pool has killed, because a request took too long."""
    retired: int
    """Workers that were replaced: by ``restart()``, for their age, or for what they had done."""
