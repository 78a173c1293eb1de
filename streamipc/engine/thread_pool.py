"""The threads of a session, and the limits of what they run.

Each thread of the pool has one duty at a time:

* it is the *I/O thread*, or its *standby* (``io_thread.py``): there is one of the former from the
  start, and one of the latter whenever the former runs a task;
* it runs *offloaded* tasks, up to ``limit`` at a time: handlers that were slow lately; or
  *background* tasks: callbacks of the user's, and writing. The latter have a limit of their
  own, for they must get done while all handlers are stuck: ``on_cancel`` is there to set such a
  handler free. And one may write beyond that limit, for callbacks may be stuck until something is
  written;
* it sleeps, and ends after ``IDLE_SECONDS``.

The invariant:

    A task in a queue is known to somebody: an inline one to the I/O thread, which is awake or
    was woken; another to a thread that was woken or spawned for it, or to every thread that is
    busy, each of which looks again when it is done.

Where no thread can be had (``spawning_fails``), the I/O thread runs everything itself: slower, and
with nobody looking at it, but nothing is lost.

A handler that waits for something of the session's (a nested reply, credit for a stream)
does not count against ``limit``. So two processes can call each other deeper than that; each
level costs one thread that sleeps, and ``Limits.blocked_handlers`` says how many may.

The engine's lock guards everything here. A thread sleeps on its own lock, ``PoolThread.bell``;
whoever gives it something to do changes its duty or a queue under the engine's lock and
then wakes it. Being woken too often only makes it look once more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._signals import let_through
from .._threads import make_thread, start_thread
from .io_thread import IoThread
from .pool_thread import (
    IDLE_SECONDS,
    PoolThread,
    Task,
    add_current,
    current_pool_thread,
    forget_others,
    remove_current,
)
from .tasks import WriteTask
from .waiters import Waiters, wake

if TYPE_CHECKING:
    from .flow import Flow
    from .incoming import IncomingRequest

__all__ = ["ThreadPool"]


class ThreadPool:
    """The threads of one session.

    Args:
        lock: the engine's.
        flow: is told how many handlers wait.
        io_thread: a duty of one of the threads.
        limit: handlers that run at the same time.
        name: of the threads.
        flush_some: writes what tasks have queued, as far as there is room.
        crashed: called when a thread fails for a reason of nobody's foreseeing.

    Attributes:
        running: tasks that run and are not blocked.
        blocked: tasks that wait for something of the session's.
    """

    def __init__(
        self,
        lock: threading.RLock,
        flow: Flow,
        io_thread: IoThread,
        limit: int,
        name: str,
        flush_some: Callable[[], None],
        crashed: Callable[[BaseException], None],
    ) -> None:
        self._lock = lock
        self._flow = flow
        self._limit = limit
        self._name = name
        self._flush_some = flush_some
        self._crashed = crashed
        self.io_thread = io_thread
        io_thread.set_pool(self)
        self._offloaded: deque[Task] = deque()
        self._background: deque[Task] = deque()
        self._threads: dict[PoolThread, bool] = {}  # whether they have begun to run our code
        self._idle: list[PoolThread] = []
        self.running = 0
        self.blocked = 0
        self._running_background = 0  # they count as running as well
        self.spawning_fails = False
        self.stopping = False
        self._quiet = Waiters(lock)  # notified when the last task has ended

    # From outside.

    def start(self) -> None:
        """Start the I/O thread; again, if starting it was interrupted."""
        with self._lock:
            # Whether one that has not begun is going to can't be told: an interrupt within start()
            # may have kept it from that, or have it die before it comes to our code.
            for thread, has_begun in list(self._threads.items()):
                if not has_begun:
                    del self._threads[thread]
            if not self._threads:
                self._spawn()

    def submit(self, task: Task) -> None:
        """Queue a task; run it here if the pool is gone."""
        with self._lock:
            stopped = self.stopping
            if not stopped:
                self.submit_locked(task)
        if stopped:
            task.run()

    def submit_locked(self, task: Task) -> None:
        """As :meth:`submit`, with the lock held, and while the session lives."""
        if task.is_offloaded:
            self.offload(task)
        else:
            self.io_thread.submit(task)

    def submit_read(self, task: IncomingRequest) -> None:
        """Queue a task that the leader has just read.

        An inline one costs no lock: the I/O thread looks for them after each read, and a caller
        that leads calls ``work_arrived``.
        """
        if task.is_offloaded:
            with self._lock:
                # Noted in the step that does it: the one who reads may be interrupted.
                task.entered = True
                self._offloaded.append(task)
                self._call_for_offloaded()
        else:
            task.entered = True
            self.io_thread.inline.append(task)

    def submit_offloaded(self, task: Task) -> None:
        """Queue a task for another thread; run it here if the pool is gone."""
        with self._lock:
            stopped = self.stopping
            if not stopped:
                self.offload(task)
        if stopped:
            task.run()

    def submit_writing(self, task: WriteTask) -> None:
        """As :meth:`submit_offloaded`, before everything else; one of them is enough."""
        with self._lock:
            stopped, queue = self.stopping, self._background
            if not stopped and not (queue and type(queue[0]) is WriteTask):
                queue.appendleft(task)
                self._call_for_background()
        if stopped:
            task.run()

    def more_is_coming(self) -> bool:
        """Tell whether the I/O thread has more to run before it flushes."""
        return bool(self.io_thread.inline)

    def may_read_on(self) -> None:
        """Reading pauses no more; with the lock held."""
        self.io_thread.wake()

    def expire_due(self) -> None:
        """Fail requests whose time is over; the leader calls this in the midst of a burst."""
        self.io_thread.expire_due()

    def deadline_added(self, deadline: float) -> None:
        """See to it, with the lock held, that someone is awake at ``deadline``."""
        self.io_thread.deadline_added(deadline)

    def tasks(self) -> int:
        """Return, with the lock held, how many tasks run or wait to run."""
        return self.running + self.blocked + self.waiting_tasks()

    def waiting_tasks(self) -> int:
        """Return how many tasks wait to run."""
        return len(self.io_thread.inline) + len(self._offloaded) + len(self._background)

    def handlers_running(self) -> int:
        """Return, with the lock held, how many handlers run, those that wait included."""
        return sum(one.task is not None and one.task.is_handler for one in self._threads)

    def wait_until_quiet(self, end: float | None) -> bool:
        """Wait until no task runs or waits, but for the caller's; return whether it is so."""
        own = self.runs_here()  # it closes the session itself where no thread can be had for it
        return self._quiet.wait_for(lambda: self.tasks() <= own, end)

    def drop_tasks(self) -> list[Task]:
        """Take out and return what waits to run."""
        queues = (self.io_thread.inline, self._offloaded, self._background)
        with self._lock:
            dropped = [task for queue in queues for task in queue.copy()]
            for queue in queues:
                queue.clear()
            self._quiet.notify_all()
        return dropped

    def runs_here(self) -> bool:
        """Tell whether the calling thread is running one of this pool's tasks."""
        thread = current_pool_thread()
        return thread is not None and thread.pool is self

    def stop(self) -> None:
        """Tell all threads to end once they are done with what they do."""
        with self._lock:
            self.stopping = True
            for thread in self._threads:
                wake(thread.bell)
            self.io_thread.wake()

    def forget_after_fork(self) -> None:
        """Have the thread that forked, if it is the pool's, end once its task has returned."""
        forget_others()
        self.stopping = True
        for queue in (self.io_thread.inline, self._offloaded, self._background):
            queue.clear()
        self._idle.clear()

    def join(self, end: float) -> None:
        """Wait for the threads, at most until ``end``."""
        me = threading.current_thread()
        for thread in tuple(self._threads):
            if thread.thread is not me and thread.thread.ident is not None:
                thread.thread.join(max(0.0, end - time.monotonic()))

    # Blocking inside a task.

    def enter_wait(self, task: Task) -> None:
        """``task``, of this thread, is going to wait for something of the session's."""
        with self._lock:
            self.running -= 1
            self._running_background -= task.is_background
            self.blocked += 1
            self._flow.blocked_locked(self.blocked)
            self._flow.handler_waits_locked()
            self.io_thread.task_waits()
            self.call_threads()

    def leave_wait(self, task: Task) -> None:
        """It has waited."""
        with self._lock:
            self.running += 1
            self._running_background += task.is_background
            self.blocked -= 1
            self._flow.blocked_locked(self.blocked)

    # Limits, and who is called for what; with the lock held.

    def may_run(self, task: Task) -> bool:
        """Tell whether the limits let one more such task run."""
        if task.is_background:
            return self._running_background < self._limit or type(task) is WriteTask
        return self.running - self._running_background < self._limit

    def offload(self, task: Task) -> None:
        """Queue a task for a thread that is not the I/O thread."""
        if task.is_background:
            self._background.append(task)
            self._call_for_background()
        else:
            self._offloaded.append(task)
            self._call_for_offloaded()

    def spread(self, tasks: list[Task]) -> None:
        """Queue background tasks, for as many threads as may be."""
        self._background.extend(tasks)
        for _ in range(min(len(self._background), self._limit)):
            self._call_for_background()

    def has_offloaded(self) -> bool:
        """Tell whether tasks wait for threads."""
        return bool(self._offloaded or self._background)

    def next_offloaded(self) -> Task | None:
        """Take out a task that waits for a thread which can't be had."""
        for queue in (self._background, self._offloaded):
            if queue:
                return queue.popleft()
        return None

    def call_threads(self) -> None:
        """Have somebody run what waits."""
        if self._background:
            self._call_for_background()
        if self._offloaded:
            self._call_for_offloaded()

    def _call_for_background(self) -> None:
        if self.may_run(self._background[0]):
            self._call_thread(2 * self._limit + 3)

    def _call_for_offloaded(self) -> None:
        if self.may_run(self._offloaded[0]):
            self._call_thread(self._limit + self._running_background + 2)

    def _call_thread(self, most: int) -> None:
        """Wake an idle thread, or spawn one if there are fewer than ``most`` that do not wait."""
        if self.stopping:
            return
        if self._idle:
            wake(self._idle.pop().bell)
        elif len(self._threads) - self.blocked < most:
            self._spawn()

    def idle_or_new_thread(self) -> PoolThread | None:
        """Return a thread without a duty, awake; ``None``: there is none to be had."""
        if not self._idle:
            return self._spawn()
        thread = self._idle.pop()
        wake(thread.bell)
        return thread

    def started(self, thread: PoolThread, task: Task) -> None:
        """Count a task that begins."""
        self.running += 1
        self._running_background += task.is_background
        thread.task = task

    def ended(self, thread: PoolThread, task: Task) -> None:
        """Count one that is over."""
        thread.task = None
        self.running -= 1
        self._running_background -= task.is_background
        if self._background or self._offloaded:
            self.call_threads()
        if self._quiet.sleeping and not self.running:
            self._quiet.notify_all()

    # A thread's life.

    def _spawn(self) -> PoolThread | None:
        thread = PoolThread(self)
        thread.thread = make_thread(self._work, thread, name=self._name)
        self._threads[thread] = False
        try:
            start_thread(thread.thread)
        except (RuntimeError, MemoryError) as error:  # no new thread: those there are must do
            let_through(error)
            self._threads.pop(thread, None)
            if not self._threads:
                raise
            self.spawning_fails = True
            self.io_thread.wake()  # it may sleep, and has to run what we would have
            return None
        if self.spawning_fails:
            self.spawning_fails = False
            # The I/O thread leaves to others again what nobody was called for.
            for _ in range(2 * self._limit):
                self.call_threads()
                if self.spawning_fails:
                    break
        return thread

    def _work(self, me: PoolThread) -> None:
        with self._lock:
            if me not in self._threads:
                return  # its start was interrupted, and another one was started in its place
            self._threads[me] = True
        add_current(me)
        try:
            while self._next_duty(me):
                pass
        except BaseException as error:
            with self._lock:
                if me.task is not None:
                    self.ended(me, me.task)
                self._leave(me)
                if self.io_thread.thread is None and self._threads and not self.stopping:
                    # The end may take as long as ``on_exception`` does.
                    self.io_thread.promote_standby()
            self._crashed(error)
        finally:
            remove_current()

    def _next_duty(self, me: PoolThread) -> bool:
        """Do one duty; return ``False`` to end."""
        with self._lock:
            if self.stopping or me not in self._threads:
                self._leave(me)
                return False
            duty = self.io_thread.duty_of(me)
            task = self._next_task() if duty is None else None
            if task is not None:
                self.started(me, task)
            elif duty is None:
                duty = self.io_thread.standby_duty(me)
                if duty is None:
                    self._idle.append(me)
                    duty = self._idle_away
        if task is not None:
            start = time.perf_counter()
            task.run()
            task.took(time.perf_counter() - start)
            self._flush_some()  # never wait here: what is stuck may be other threads' frames
            with self._lock:
                self.ended(me, task)
        elif duty is not None:
            duty(me)
        return True

    def _next_task(self) -> Task | None:
        for queue in (self._background, self._offloaded):
            if queue and self.may_run(queue[0]):
                return queue.popleft()
        return None

    def _leave(self, me: PoolThread) -> None:
        self._threads.pop(me, None)
        self.io_thread.leave(me)

    def _idle_away(self, me: PoolThread) -> None:
        woken = me.bell.acquire(timeout=IDLE_SECONDS)
        with self._lock:
            if me in self._idle:
                self._idle.remove(me)
                if not woken:
                    self._leave(me)
