"""Whose turn it is to decide, and who does what was decided.

The scheduler's methods are called under one lock, by whoever has news. News are entries of an
inbox: what to call, and with what. An entry leaves the inbox when it has been dealt with, so that
whoever comes next goes on with what was interrupted. A finalizer that has news in the midst of a
decision leaves them there.

What was decided is done outside of the lock, by the thread that finds it, unless that is the main
thread: there the handler of a signal may raise between any two lines, and other threads would lose
their requests. It leaves all but its own to the supervisor: a thread that sleeps until something is
due, or somebody rings. If doing one thing fails, the others are left for whoever comes next. While
requests are in hand it looks four times a second whether an interrupt has left anything behind.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from .._forks import renew
from .._threads import make_thread, start_thread
from .scheduler import Scheduler

__all__ = ["Action", "Turns"]

Action = tuple[Callable[..., object], tuple[Any, ...]]
"""What is to be called, and with what."""

_LOOK = 0.25
"""Seconds between two looks at what an interrupt may have left behind."""

_FOREVER = float("inf")


class Source(Protocol):
    """Has what is to be done, once the scheduler has decided it."""

    def has_work(self) -> bool:
        """Tell whether there is anything."""
        ...

    def take(self) -> list[Action]:
        """Hand it over to who will do it. Called under the lock, and never interrupted."""
        ...


class Turns:
    """See the module's text.

    Args:
        name: of the supervisor's thread.
        scheduler: decides.
        has_threads: whether others may run: else all is done by whoever calls.

    Attributes:
        lock: guards the scheduler, and what the entries of the inbox change.
        inbox: what to call under the lock, with what comes before the time.
        sources: have what is to be done outside of the lock.
        supervised: the same, for the supervisor alone.
    """

    def __init__(self, name: str, scheduler: Scheduler, has_threads: bool) -> None:
        self.lock = threading.RLock()
        self.sources: list[Source] = []
        self.supervised: list[Source] = []
        self.has_threads = has_threads
        self._name = name
        self._scheduler = scheduler
        self.inbox: deque[Action] = deque()
        self._owner = 0  # the thread that decides
        self._is_torn = False  # one that has decided was interrupted
        self._main = threading.main_thread().ident
        self._supervisor: threading.Thread | None = None
        self._supervisors_id = 0
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._wakes_at = 0.0  # when the supervisor looks again
        self._seen = 0  # the number of the last job that it has seen
        self._is_stopped = False
        self._is_forked = False
        self._watchers: dict[queue.SimpleQueue[None], Callable[[], bool]] = {}
        self._left: deque[Action] = deque()  # to be done by another one: see _do

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have ``function(*args, now)`` called under the lock, and what follows from it done."""
        if self._is_forked:
            return
        self.inbox.append((function, args))  # before anything can interrupt it
        self.take()

    def take(self, mine: Callable[[], Action | None] | None = None) -> None:
        """Decide what the news mean, and do what follows.

        Args:
            mine: called under the lock; returns what is for this very thread to do.
        """
        if self._is_forked:
            return
        me = threading.get_ident()
        does_all = me != self._main or not self.has_threads
        while self._owner != me:  # or this is a finalizer: the outer call goes on with it
            todo: list[Action] = []
            with self.lock:
                self._owner = me
                try:
                    self._decide()
                    own = None if mine is None else mine()
                    if does_all:
                        for source in self.sources:
                            todo += source.take()
                    if me == self._supervisors_id or not self.has_threads:
                        for source in self.supervised:
                            todo += source.take()
                        while self._left:
                            todo.append(self._left.popleft())
                finally:
                    self._owner = 0
            mine = None
            if own is not None:
                function, args = own
                function(*args)
            if todo:
                self._do(todo)
            if self.has_threads:
                self._look_after_supervisor()
            if not self.inbox:
                return

    def _do(self, todo: list[Action]) -> None:
        """Do what was decided; if it fails, the rest is left to the supervisor."""
        rest = iter(todo)
        try:
            for function, args in rest:
                function(*args)
        except BaseException:
            self._left.extend(rest)
            raise

    def _decide(self) -> None:
        scheduler = self._scheduler
        if self._is_torn:
            scheduler.mend()
        self._is_torn = True
        now = time.monotonic()
        inbox = self.inbox
        while inbox:
            function, args = inbox[0]
            function(*args, now)
            inbox.popleft()
        if now >= scheduler.soonest:
            scheduler.look(now)
        for news, predicate in [*self._watchers.items()]:
            if predicate():
                news.put(None)
        self._is_torn = False

    # Waiting.

    def check_wait(self) -> None:
        """Refuse to wait in a finalizer, or the handler of a signal, that interrupts a decision.

        Raises:
            RuntimeError: nobody else can decide meanwhile.
        """
        if self._owner == threading.get_ident():
            raise RuntimeError(
                "this finalizer, or handler of a signal, has interrupted the pool in the midst of "
                "a decision, and would have to wait for what it interrupts: use request() and look "
                "for its result later; or wait in another thread"
            )

    def wait_until(self, predicate: Callable[[], bool], until: float | None) -> bool:
        """Wait until a predicate is true, which is asked under the lock.

        Args:
            predicate: what is waited for.
            until: in :func:`time.monotonic` seconds; ``None``: as long as it takes.

        Returns:
            Whether it is true.
        """
        self.check_wait()
        # No Event: an interrupt has its wait() raise a RuntimeError of its own.
        news: queue.SimpleQueue[None] = queue.SimpleQueue()
        try:
            self._watchers[news] = predicate
            self.take()
            news.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
        except queue.Empty:
            return False
        finally:
            self._watchers.pop(news, None)
        return True

    # The supervisor.

    def is_supervisor(self) -> bool:
        """Tell whether the calling thread is the supervisor."""
        return threading.get_ident() == self._supervisors_id

    def stop(self) -> None:
        """End the supervisor's thread."""
        self._is_stopped = True
        self._bell.put(None)
        thread = self._supervisor
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def forget_after_fork(self) -> None:
        """Do nothing any more, in a forked process."""
        # Not even wake anybody: who waits there is a thread that does not exist, and from Python
        # 3.13 on a queue crashes over that.
        self._is_forked = self._is_stopped = True
        renew(self.lock)

    def _look_after_supervisor(self) -> None:
        """Have the supervisor awake, if there is anything for it."""
        if self._supervisor is None:
            if not self._scheduler.is_over:
                self._start_supervisor()
            return
        wakes_at = self._wakes_at
        if (
            self._scheduler.soonest < wakes_at
            or (wakes_at == _FOREVER and not self._scheduler.is_quiet)
            or self._has_work()
        ):
            self._bell.put(None)

    def _has_work(self) -> bool:
        sources = (*self.sources, *self.supervised)
        return bool(self._left) or any([source.has_work() for source in sources])

    def _start_supervisor(self) -> None:
        with self.lock:
            if self._supervisor is not None or self._is_stopped:
                return
            try:
                self._supervisor = make_thread(self._supervise, name=self._name)
                start_thread(self._supervisor)
            except BaseException:  # can't start new thread, or an interrupt
                self._supervisor = None  # the next one tries again; if it runs, two do no harm
                raise

    def _supervise(self) -> None:
        self._supervisors_id = threading.get_ident()
        try:
            self._look_after_pool()
        finally:
            self._supervisor = None
            if self._is_stopped:
                self._bell.put(None)  # for another one, if there is one
            elif not self._scheduler.is_over:
                # What it had to do has failed: another one goes on with the rest.
                time.sleep(_LOOK)
                self._look_after_supervisor()

    def _look_after_pool(self) -> None:
        lingers_until = 0.0
        while True:
            self._wakes_at = 0.0  # from here on nobody has to ring
            self.take()
            if self._is_stopped:
                return
            at = self._scheduler.soonest
            now = time.monotonic()
            if not self._scheduler.is_quiet or self._seen != self._scheduler.last_number:
                self._seen = self._scheduler.last_number
                lingers_until = now + _LOOK
            # Also for a while when requests have ended, so that the next one need not wake it.
            if now < lingers_until:
                at = min(at, lingers_until)
            self._wakes_at = at
            # Whoever came after take() may not have rung: it has seen the 0.
            if self.inbox or self._has_work() or self._scheduler.soonest < at:
                continue
            if self._scheduler.is_over:
                return
            try:
                self._bell.get(timeout=None if at == _FOREVER else max(0.0, at - time.monotonic()))
            except queue.Empty:
                pass
