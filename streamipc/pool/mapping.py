"""The replies to many messages, one after the other, with a bounded number on their way."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from types import TracebackType
from typing import Generic, TypeVar

from ..messages import Message

__all__ = ["Replies"]

R = TypeVar("R")


class Replies(Iterator[R], Generic[R]):
    """An iterator over replies. It takes messages only as fast as replies are taken.

    Leave it early, by ``close()`` or the end of a ``with`` block, and what is on its way is
    cancelled. So it is if a request fails: the error is raised, and nothing comes after it.

    Args:
        messages: what to ask.
        request: sends one, and returns its future.
        ordered: in the order of the messages; else as they come.
        window: messages that are on their way, or wait to be taken.
        return_exceptions: give an error in the place of a reply, and go on.
    """

    def __init__(
        self,
        messages: Iterable[Message],
        request: Callable[[Message], Future[R]],
        *,
        ordered: bool,
        window: int,
        return_exceptions: bool,
    ) -> None:
        self._messages = iter(messages)
        self._request = request
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._sent: deque[Future[R]] = deque()  # in order; or all that are on their way
        self._done: queue.SimpleQueue[Future[R]] = queue.SimpleQueue()
        self._send(window)

    def _send(self, count: int) -> None:
        for message in islice(self._messages, count):
            future = self._request(message)
            self._sent.append(future)
            if not self._ordered:
                future.add_done_callback(self._done.put)

    def __next__(self) -> R:
        if not self._sent:
            raise StopIteration
        try:
            if self._ordered:
                future = self._sent[0]
                error = future.exception()
                self._sent.popleft()
            else:
                future = self._done.get()
                error = future.exception()
                self._sent.remove(future)
            self._send(1)
            if error is not None and self._return_exceptions:
                return error  # type: ignore[return-value]
            return future.result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancel what is on its way."""
        self._messages = iter(())
        sent, self._sent = self._sent, deque()
        for future in sent:
            future.cancel()

    def __enter__(self) -> Replies[R]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_sent", None):
            self.close()
