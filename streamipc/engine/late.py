"""Who is told when the peer is done with a request that has ended here.

Its time was over, it was cancelled, or an interrupt has cut short who had asked. The peer is done
with it when it has answered, or if it never got it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .tasks import CallTask

if TYPE_CHECKING:
    from ..protocol.envelopes import RequestId
    from .caller_runs import CallerRuns
    from .errors import ErrorReports
    from .thread_pool import ThreadPool

__all__ = ["LateAnswers"]


class LateAnswers:
    """See the module's text.

    Args:
        pool: calls the user's functions.
        errors: told of what these raise.
    """

    def __init__(self, pool: ThreadPool | CallerRuns, errors: ErrorReports) -> None:
        self._pool = pool
        self._errors = errors
        self._listeners: tuple[Callable[[Any], object], ...] = ()

    def add_listener(self, listener: Callable[[Any], object]) -> None:
        """Have a function called with the id of each such request; it may be called twice."""
        self._listeners = (*self._listeners, listener)

    def tell(self, id: RequestId) -> None:  # noqa: A002
        """Tell them, on a thread that may run the user's code."""
        for listener in self._listeners:
            self._pool.submit(CallTask(partial(listener, id), self._errors.report))
