"""What a caller of a pool holds: the future of a reply."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Generic, TypeVar

from .._forks import at_home, look_for_fork
from ..engine.lifetimes import park_at_exit
from ..exceptions import RequestTimeoutError, fresh
from ..messages import Message

__all__ = ["PoolFuture"]

R = TypeVar("R")


class PoolFuture(Future[R], Generic[R]):
    """The reply to a request, once it is there: a :class:`concurrent.futures.Future`.

    ``wait()``, ``as_completed()`` and ``add_done_callback()`` work as with any other. It ends
    exactly once, whatever happens to the workers.
    """

    def __init__(self, message: Message, cancel: Callable[[], object], keeps: object) -> None:
        super().__init__()
        self._message = message
        self._cancel = cancel
        self._keeps = keeps  # a pool that nobody holds closes its workers
        self.is_given = False  # to a worker

    @property
    def request(self) -> Message:
        """The message that was sent, or waits for that."""
        return self._message

    def result(self, timeout: float | None = None) -> R:
        """Return the reply; wait for it if need be.

        Args:
            timeout: seconds to wait at the most. It bounds this call only: the request
                stays alive until its own deadline.

        Raises:
            What :meth:`exception` returns, as a copy with a traceback of its own:
            RequestTimeoutError: the reply was not there in time.
            RemoteError: the handler raised.
            WorkerLostError: the worker died with it.
            WorkersUnavailableError: there is no worker, and none can be had soon.
            UnhandledRequestError, SerializationError, OverloadedError, ProtocolError,
            SessionClosedError: what its name says.
            concurrent.futures.CancelledError: the future was cancelled.
        """
        error = self.exception(timeout)
        if error is None:
            return super().result()
        park_at_exit()
        try:
            raise fresh(error)
        finally:
            del self, error  # or the traceback and this frame would keep each other alive

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what :meth:`result` would raise, or ``None``; waits in the same way.

        It is the same object each time.
        """
        self._look_for_fork()
        if timeout is not None and timeout > 1e8:
            timeout = None  # locks refuse numbers not much larger
        try:
            return super().exception(timeout)
        except CancelledError:
            raise
        except FutureTimeoutError:
            name = type(self._message).__wire_name__
            raise RequestTimeoutError(
                f"no reply to {name} within {timeout:g} s; the request itself goes on"
            ) from None

    def cancel(self) -> bool:
        """Cancel the request: it is taken off the queue, or its handler is told to stop.

        A handler that does not stop within the pool's ``kill_grace`` is killed with its worker.

        Returns:
            ``False`` if the reply is already there.
        """
        self._look_for_fork()
        if not self._is_cancelled_now():
            return self.cancelled()
        self._cancel()
        return True

    def _is_cancelled_now(self) -> bool:
        """Have it cancelled, if it is not over; tell whether this call has done it."""
        if self.cancelled() or not super().cancel():
            return False
        try:
            # As an executor does, for those in wait() and as_completed().
            self.set_running_or_notify_cancel()
        except Exception:  # another thread was at it as well
            return False
        return True

    def running(self) -> bool:
        """Tell whether a worker has the request."""
        return self.is_given and not self.done()

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Give it its outcome, unless it has one."""
        self._keeps = None
        try:
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
        except InvalidStateError:
            pass  # it was cancelled, or has it already

    def abandon_after_fork(self, error: BaseException) -> None:
        """Fail in a forked process, where nobody will read the reply."""
        # The old lock may be locked for ever.
        self._condition = type(self._condition)()
        self.settle(None, error)

    @staticmethod
    def _look_for_fork() -> None:
        if not at_home[0]:
            look_for_fork()
