"""What a handler in a worker yields, as it yields it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, TypeVar

from ..exceptions import SessionClosedError
from ..futures import ResponseStream
from .requests import lost_error

__all__ = ["PoolStream"]

R = TypeVar("R")


class PoolStream(Generic[R]):
    """What a handler yields, as it yields it, and then its reply; see :class:`ResponseStream`.

    The worker is taken until the stream has ended. Leave the ``with`` block early, or drop the
    stream, and the handler is told to stop.
    """

    def __init__(self, stream: ResponseStream[R], keeps: object) -> None:
        self._stream = stream
        self._keeps = keeps  # a pool that nobody holds closes its workers

    def __iter__(self) -> PoolStream[R]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._stream)
        except SessionClosedError as error:
            raise lost_error(error) from error

    def result(self, timeout: float | None = None) -> R:
        """Return the handler's reply; items not yet taken are thrown away.

        Args:
            timeout: seconds to wait at the most.

        Raises:
            As :meth:`PoolFuture.result`.
        """
        try:
            return self._stream.result(timeout)
        except SessionClosedError as error:
            raise lost_error(error) from error

    def cancel(self) -> bool:
        """Tell the handler to stop; returns ``False`` if the reply is already there."""
        return self._stream.cancel()

    close = cancel

    def __enter__(self) -> PoolStream[R]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._stream.future.description()}>"
