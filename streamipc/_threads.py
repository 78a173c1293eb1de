"""Threads whose start does not keep a signal from the main thread.

A signal to the process, such as Ctrl-C, wakes the main thread, and until that runs it is anybody's
who changes his signal mask meanwhile: the system then looks for signals that have become his.
Starting a thread changes masks, the new one's and that of who starts it (pthread_create in the GNU
libc). Python notes for the main thread a signal that another one has taken, but nothing wakes it
again: it goes back to its ``time.sleep(60)`` and sees Ctrl-C a minute later. Children that are
ended by that same Ctrl-C are the moment in which we start threads, so this does come about.

So a thread that starts another blocks all signals first, and both look whether one is still
waiting to be taken before they let signals in again.
"""

from __future__ import annotations

# Its own functions: those of ``signal`` turn 64 numbers into members of an enum, which took half of
# the time in which a thread is started.
import _signal  # type: ignore[import-not-found]
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from ._patches import are_threads_greenlets
from ._signals import let_through

__all__ = ["make_thread", "start_thread"]

_PATIENCE = 0.1
"""Seconds for the main thread to take a signal. It may have this one blocked, for good."""

_LOOK = 0.001
"""Seconds between two looks at whether it has."""

_CAN_BLOCK = hasattr(_signal, "pthread_sigmask")  # not on Windows


def make_thread(
    target: Callable[..., object], *args: object, name: str, daemon: bool = True
) -> threading.Thread:
    """Return a thread to be started by :func:`start_thread`.

    Args:
        target: what it runs, with the signals let in that its maker lets in.
        args: for ``target``.
        name: of the thread.
        daemon: whether the end of the interpreter does not wait for it.
    """
    if not _may_take_signals():
        return threading.Thread(target=target, args=args, name=name, daemon=daemon)
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
    return threading.Thread(target=_run, args=(mask, target, args), name=name, daemon=daemon)


def start_thread(thread: threading.Thread) -> None:
    """Start a thread that :func:`make_thread` has made in this thread.

    Raises:
        RuntimeError: no thread can be started.
    """
    if not _may_take_signals():
        try:
            thread.start()
        except RuntimeError as error:
            # A signal's handler that raises while start() waits on its condition may have it fail
            # with "release unlocked lock" (Python up to 3.12).
            let_through(error)
            raise
        return
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        thread.start()
    finally:
        _let_in(mask)


def _may_take_signals() -> bool:
    """Tell whether the calling thread is one that starts threads while the main thread sleeps.

    Not so a greenlet: it has no mask of its own, and its real thread mostly is the main thread.
    """
    if not _CAN_BLOCK or are_threads_greenlets():
        return False
    # The former is the system's main thread on Linux: after a fork that Python has not made, the
    # latter is still the number of the parent's.
    return threading.get_native_id() not in (os.getpid(), threading.main_thread().native_id)


def _run(mask: Iterable[int], target: Callable[..., object], args: Any) -> None:
    _let_in(mask)
    target(*args)


def _let_in(mask: Iterable[int]) -> None:
    """Set this thread's mask, once the main thread has taken what is waiting for it."""
    end = time.monotonic() + _PATIENCE
    while _signal.sigpending().difference(mask) and time.monotonic() < end:
        time.sleep(_LOOK)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
