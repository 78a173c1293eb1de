"""What the handler of a signal has raised, and how that is told from any other error.

Python runs the handlers of signals in its main thread, between two steps of whatever that does.
What a handler raises (``KeyboardInterrupt``, a ``TimeoutError`` of the user's, the soft time limit
of Celery) looks as if the code that was interrupted had raised it. Code that expects errors, be it
``OSError`` from a system call, must let such a one through.
"""

from __future__ import annotations

# What the module signal wraps in enums, whose code takes what the handler of one more signal raises
# for "no such member".
import _signal  # type: ignore[import-not-found]
import functools
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType, TracebackType

__all__ = ["Ignoring", "begin_with", "consume", "interrupt_in", "is_interrupt", "let_through"]

consume = deque[Any](maxlen=0).extend
"""Takes all that an iterator gives, in one call into C. So ``consume(map(os.close, map(fds.pop,
…)))`` takes a descriptor off its list and closes it with nothing in between: CPython calls the
handlers of signals between two steps of Python code only."""


def interrupt_in(error: BaseException, depth: int = 1) -> BaseException | None:
    """Return what the handler of a signal has raised: ``error``, or what it was made from.

    Args:
        error: that was caught; code in between may have wrapped the first one.
        depth: how many calls above this one it was caught: 1: by the caller.

    Returns:
        What is to be raised; ``None``: no signal has to do with it.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    here = sys._getframe(depth)
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if _is_raised_by_handler(one, here):
            return one
        one = one.__cause__ or one.__context__
        if one is not None and not _was_caught_below(one, here):
            return None  # it was there before: whoever called us is handling it
    return None


def is_interrupt(error: BaseException) -> bool:
    """Tell whether the user's code has let out what the handler of a signal has raised.

    Not so if it has made another error of it. A ``KeyboardInterrupt`` is one in any thread.
    """
    return isinstance(error, KeyboardInterrupt) or interrupt_in(error) is error


def begin_with(earlier: BaseException, error: BaseException) -> None:
    """Have ``error`` tell of one that came before, and that it has taken the place of."""
    while error is not earlier and error.__context__ is not None:
        error = error.__context__
    if error is not earlier:
        error.__context__ = earlier


def let_through(error: BaseException, depth: int = 1) -> None:
    """Raise what the handler of a signal has raised, if ``error`` is that, or was made from it.

    To be called first where an ``except`` takes an error for no more than a system call's answer.

    Args:
        error: that was caught.
        depth: how many calls above this one it was caught.
    """
    interrupt = interrupt_in(error, depth + 1)
    if interrupt is not None:
        context = interrupt.__context__
        try:
            raise interrupt
        finally:
            # It may be what another signal has raised, which would be lost: raising sets it to
            # what is being handled here, and that was only made from the interrupt.
            interrupt.__context__ = context


class Ignoring(suppress):
    """As :class:`contextlib.suppress`, but what the handler of a signal has raised comes out."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Leave the block; return whether the error is ignored."""
        ignored = super().__exit__(kind, error, traceback)
        return ignored and (error is None or interrupt_in(error, 2) is None)


def _was_caught_below(error: BaseException, here: FrameType) -> bool:
    """Tell whether an exception was caught by what the code in ``here`` has called, or by that."""
    traceback = error.__traceback__
    frame = None if traceback is None else traceback.tb_frame
    while frame is not None:
        if frame is here:
            return True
        frame = frame.f_back
    return False


def _is_raised_by_handler(error: BaseException, here: FrameType) -> bool:
    """Tell whether the handler of a signal has raised ``error``, which was caught in ``here``."""
    if isinstance(error, KeyboardInterrupt):  # raised without a frame by Python's own handler
        return True
    handlers = set(_codes_of_handlers())
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        # Not here, where it was caught: up to Python 3.12 a frame keeps the locals that are looked
        # at, and with them the error that keeps the frame.
        if frame is not here and (frame.f_code in handlers or _is_called_like_a_handler(frame)):
            return True
        traceback = traceback.tb_next
    return False


def _codes_of_handlers() -> Iterator[Any]:
    """Yield the code of each handler that is installed now, as far as it is Python's."""
    for number in _signal.valid_signals():
        handler: Any = _signal.getsignal(number)
        while isinstance(handler, functools.partial):
            handler = handler.func
        handler = getattr(handler, "__func__", handler)  # of a bound method
        code = getattr(handler, "__code__", None)
        if code is None and callable(handler):
            call: Any = type(handler).__call__
            code = getattr(call, "__code__", None)
        if code is not None:
            yield code


def _is_called_like_a_handler(frame: FrameType) -> bool:
    """Tell whether a frame may be that of a handler that is installed no more.

    It was called with the number of the signal and the frame that was interrupted, which is the
    one below it. No other call looks so.
    """
    below = frame.f_back
    if below is None:
        return False
    values = list(frame.f_locals.values())
    for value in tuple(values):
        if type(value) is tuple:  # *args; and no class of the user's is asked anything
            values += value
    return any(value is below for value in values)
