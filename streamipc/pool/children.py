"""The workers' processes: how one is started, made ready, watched and ended.

The methods block, for as long as a process takes. So they are called on threads of their own, but
for those of a pool whose sessions have no threads.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .._environment import ANSWERS_CANCELLED
from .._signals import Ignoring
from ..exceptions import (
    RemoteError,
    RequestTimeoutError,
    UnhandledRequestError,
)
from ..session import ProcessSession
from .jobs import Worker

if TYPE_CHECKING:
    from ..messages import Message
    from ..peer import IpcPeer
    from ..session import IpcSession

__all__ = ["Child", "Launcher"]


_TOLD = 64
"""Ids that are remembered; a second time comes soon, if it comes."""


class Child(Worker):
    """A worker with its session.

    Attributes:
        session: ``None``: it is being started.
        came_late: ids of requests whose answers came after they had ended here.
        began: when it was started, in :func:`time.time` seconds.
        error: how it has ended; ``None``: it lives, or its end was wanted.
        told: the last of these ids, those that are taken care of too: one may come twice.
        was_ready: it has been ready.
        is_ending: somebody sees to the end of its process.
    """

    __slots__ = ("began", "came_late", "error", "is_ending", "session", "told", "was_ready")

    def __init__(self, number: int, now: float) -> None:
        super().__init__(number, now)
        self.session: IpcSession | None = None
        self.came_late: set[Any] = set()
        self.told: deque[Any] = deque(maxlen=_TOLD)
        self.began = time.time()
        self.error: Exception | None = None
        self.is_ending = False
        self.was_ready = False

    @property
    def pid(self) -> int | None:
        """The process id; ``None``: there is none."""
        return getattr(self.session, "pid", None)


class Launcher:
    """Starts and ends the processes of one pool.

    Args:
        command: of the child, or a callable that returns a session.
        peer: makes the sessions.
        stderr: as for :meth:`IpcPeer.create_command_session`, or a logger.
        ready: a request that a new worker must answer; ``None``: it is ready when it is started.
        start_timeout: seconds for that.
    """

    def __init__(
        self,
        command: Any,
        peer: IpcPeer,
        *,
        stderr: Any,
        ready: Message | None,
        start_timeout: float,
    ) -> None:
        self._command = command
        self._peer = peer
        self._stderr = _line_logger(stderr) if isinstance(stderr, logging.Logger) else stderr
        self._ready = ready
        self._start_timeout = start_timeout

    def make(self) -> IpcSession:
        """Start a process; return its session, which reads nothing yet.

        Raises:
            Exception: whatever the start of a process raises, or the user's own function.
        """
        if callable(self._command):
            return self._command()  # type: ignore[no-any-return]
        environment: Mapping[str, str] = {**os.environ, ANSWERS_CANCELLED: "1"}
        return self._peer.create_command_session(
            self._command, env=environment, stderr=self._stderr
        )

    def wait_until_ready(self, session: IpcSession) -> None:
        """Start a session, and ask it whether it is ready.

        Raises:
            Exception: it is not.
        """
        session.start()
        if self._ready is None:
            return
        name = type(self._ready).__wire_name__
        try:
            session.call(self._ready, timeout=self._start_timeout)
        except RequestTimeoutError:
            raise RequestTimeoutError(
                f"a new worker did not answer {name}, the pool's ready request, within "
                f"{self._start_timeout:g} s (start_timeout){_last_lines(session)}"
            ) from None
        except (RemoteError, UnhandledRequestError) as error:
            raise type(error)(
                f"a new worker has failed to answer {name}, the pool's ready request: {error}"
            ) from error

    @staticmethod
    def end(session: IpcSession, timeout: float) -> None:
        """End a process and its session; ``timeout``: seconds for it to go by itself."""
        with Ignoring(Exception):  # of a session type of the user's own
            session.close(timeout)

    @staticmethod
    def kill(session: IpcSession) -> None:
        """Kill a process; a session that has none is closed."""
        with Ignoring(Exception):  # it belongs to another user, for one
            if isinstance(session, ProcessSession):
                session.kill()
            else:
                session.close(0)


def _line_logger(logger: logging.Logger) -> Callable[[str], None]:
    def log(line: str) -> None:
        logger.info("%s", line)

    return log


def _last_lines(session: IpcSession) -> str:
    tail = getattr(session, "stderr_tail", "")
    return f"; its standard error ended with:\n{tail}" if tail else ""
