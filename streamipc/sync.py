"""Sessions that have no thread."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ._arguments import checked_timeout
from ._terminating import OnSigterm
from .engine.caller_runs import CallerRuns  # now: a session without descriptors could not load it
from .exceptions import SessionClosedError
from .session import IpcSession, ProcessSession

__all__ = ["SyncIpcSession", "SyncProcessSession"]


class SyncIpcSession(IpcSession):
    """A session with no thread at all: ``IpcPeer(session_type=SyncIpcSession)``.

    For servers that forbid threads, for use before a fork, and for tests. The API is that
    of :class:`IpcSession`, with these differences:

    * Frames are read, handlers run, and deadlines pass only while a thread of yours is
      inside ``result()``, ``receive()``, ``tick()``, ``serve_forever()`` or ``close()``.
      Two things read without running anything: sending, while the pipe is full, and a
      handler that looks at ``ctx.cancelled`` or sends progress.
    * Handlers run one at a time, on that thread (if several threads wait, on those). One
      that waits for a nested request runs others meanwhile, on top of itself; Python's
      recursion limit allows some 100 levels on each side.
    * ``concurrent.futures.wait()`` and ``as_completed()`` read nothing: call
      ``result()`` or ``tick()``. ``await`` is refused.
    * A child's standard error is not passed on by us: the child inherits ours, and
      errors don't quote its last lines. Its death is seen by ``closed`` and by the next
      ``request()``; in a wait, the death of a child that leaves the pipe open in another
      process is noticed at the request's deadline.
    * The transport must be one that can be polled: pipes, sockets, terminals, on POSIX.
    """

    _threads = False

    @property
    def _caller_runs(self) -> CallerRuns:
        caller_runs = self._engine.caller_runs
        assert caller_runs is not None
        return caller_runs

    def tick(self, timeout: float | None = 0) -> bool:
        """Read what there is, once, and run what came of it.

        Args:
            timeout: seconds to wait for input if there is nothing to do; ``None``: as
                long as it takes.

        Returns:
            Whether there was anything to do.

        Raises:
            SessionClosedError: the session has ended.
        """
        self._engine.reentry.check_wait()
        self.start()
        end = None if timeout is None else time.monotonic() + checked_timeout(timeout)
        return self._caller_runs.tick(end)

    def serve_forever(self) -> None:
        """Read and run handlers, here, until the peer is gone.

        SIGTERM and Ctrl-C end it as in :meth:`IpcSession.serve_forever`.
        """
        if self._has_nobody():
            self.close()
            return
        told: list[int] = []

        def stop() -> bool:
            told.append(1)
            self._engine.shutdown.leave_output()
            self._engine.leader.wake()
            return not self._engine.shutdown.ended.is_set()

        with OnSigterm(stop, self._is_child()):
            with suppress(SessionClosedError):
                self._engine.start()
            ended = self._engine.shutdown.ended.is_set
            self._caller_runs.wait_for_end(lambda: ended() or bool(told), None)
            self._caller_runs.run_tasks()
        if told:
            self.close()

    @classmethod
    def for_processes(cls) -> type[ProcessSession]:
        """Return the class of sessions with child processes."""
        return SyncProcessSession if cls is SyncIpcSession else super().for_processes()


class SyncProcessSession(SyncIpcSession, ProcessSession):
    """A session with a child process and without a thread."""

    if not TYPE_CHECKING:  # their types are those of IpcSession

        def request(self, *args, **options):
            """Look, since nobody else does, whether the child lives; then ask."""
            self._look_at_child()
            return super().request(*args, **options)

        def stream(self, *args, **options):
            """As :meth:`request`."""
            self._look_at_child()
            return super().stream(*args, **options)

    def _look_at_child(self) -> None:
        """End the session if the child is dead, once what it had written is read."""
        engine = self._engine
        if engine.lifecycle.refusal is None and not self._transport.seems_alive():
            engine.start()
            self._caller_runs.look()
            engine.shutdown.child_exited()
