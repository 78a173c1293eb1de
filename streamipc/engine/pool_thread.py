"""The threads of a pool, and what they are given to do."""

from __future__ import annotations

import threading
from typing import Protocol

__all__ = [
    "IDLE_SECONDS",
    "PoolThread",
    "Task",
    "add_current",
    "current_pool_thread",
    "forget_others",
    "idle_pool_thread",
    "is_pool_thread",
    "remove_current",
]

IDLE_SECONDS = 10.0
"""How long a thread without work is kept."""


class Task(Protocol):
    """Something to run; :meth:`run` never raises."""

    @property
    def is_offloaded(self) -> bool:
        """Whether to offload it to another thread than the I/O thread."""
        ...

    @property
    def is_background(self) -> bool:
        """Whether the limit of handlers does not count it."""
        ...

    is_handler: bool
    """Whether it calls a handler: a background task may, if it is ``inline``."""

    has_begun: bool
    """Whether the user's code may have been called: then it is not to be run once more."""

    by_io_thread: bool
    """Set while the I/O thread runs it: it must not wait for room to write its answer."""

    def took(self, seconds: float, /) -> None:
        """Learn from how long it took."""
        ...

    def run(self) -> None:
        """Do it."""
        ...


class Pool(Protocol):
    """What a thread's pool is asked when the thread is going to wait."""

    def enter_wait(self, task: Task, /) -> None:
        """``task``, of this thread, is going to wait for something of the session's."""
        ...

    def leave_wait(self, task: Task, /) -> None:
        """It has waited."""
        ...


class PoolThread:
    """One thread of a pool.

    Args:
        pool: whose.

    Attributes:
        bell: on which it sleeps, unless it is the I/O thread.
        task: which it runs.
    """

    __slots__ = ("bell", "pool", "task", "thread")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.bell = threading.Lock()
        self.bell.acquire()
        self.task: Task | None = None
        self.thread: threading.Thread


_threads: dict[int, PoolThread] = {}
"""By thread identifier. Not a ``threading.local``, which gevent can't make the greenlets'
own once it is there: this module may be imported before gevent patches ``threading``."""


def add_current(thread: PoolThread) -> None:
    """Note that the calling thread is this one."""
    _threads[threading.get_ident()] = thread


def remove_current() -> None:
    """The calling thread is a pool's no more; its identifier may go to another thread."""
    _threads.pop(threading.get_ident(), None)


def forget_others() -> None:
    """Forget the threads that do not exist in this forked process."""
    me = threading.get_ident()
    for ident in list(_threads):
        if ident != me:
            _threads.pop(ident, None)


def is_pool_thread() -> bool:
    """Tell whether the calling thread is one of a pool's."""
    return threading.get_ident() in _threads


def idle_pool_thread() -> PoolThread | None:
    """Return what the calling thread is, of whatever pool, if it runs no task."""
    thread = _threads.get(threading.get_ident())
    return thread if thread is not None and thread.task is None else None


def current_pool_thread() -> PoolThread | None:
    """Return what the calling thread is, of whatever pool, if it runs a task."""
    thread = _threads.get(threading.get_ident())
    return thread if thread is not None and thread.task is not None else None
