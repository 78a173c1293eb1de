"""What a finalizer does that interrupts an operation from inside.

One that would have to wait for what it interrupts may be refused with a RuntimeError that says so.
Everything else it asks for must come about.
"""

from __future__ import annotations

import gc
import logging
import signal
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from streamipc import RemoteError, SessionClosedError

from .bench import Bench
from .messages import Ask, Never, Note

__all__ = ["ACTIONS", "TRIGGERS", "Finalizer", "make"]

_SAYS_SO = "it would wait for itself"


class Finalizer:
    """An action, which is taken when :meth:`trigger` is called.

    Args:
        act: what the finalizer does.
        kept: what it may have the interrupted operation raise.
        waits: for what it may have interrupted, and then it is refused.
    """

    def __init__(
        self, act: Callable[[], Any], *kept: type[BaseException], waits: bool = False
    ) -> None:
        self._act = act
        self._waits = waits
        self._may_raise = kept
        self._faults: list[str] = []
        self._has_run = False
        self.trigger: Callable[[], None] = self.take_action

    def take_action(self, *_: object) -> None:
        """Do it; keep what it raises."""
        self._has_run = True
        try:
            self._act()
        except RuntimeError as refusal:
            if not (self._waits and _SAYS_SO in str(refusal)):
                self._faults.append(f"finalizer: {type(refusal).__name__}: {refusal}")
        except BaseException as error:
            if not isinstance(error, self._may_raise):
                self._faults.append(f"finalizer: {type(error).__name__}: {error}")

    def faults(self, triggered: bool) -> list[str]:
        """Return what went wrong inside."""
        if triggered and not self._has_run:
            return ["the finalizer did not run"]
        return self._faults

    def explains(self, outcome: BaseException) -> bool:
        """Tell whether the finalizer may have the operation end so."""
        return isinstance(outcome, self._may_raise)


def _nothing(bench: Bench) -> Finalizer:
    """What fails with this one fails without."""
    return Finalizer(lambda: None)


def _notify(bench: Bench) -> Finalizer:
    note = Note(bench.next())
    bench.unordered.add(note.number)
    return Finalizer(lambda: bench.notify(note))


def _request(bench: Bench) -> Finalizer:
    number = bench.next()
    return Finalizer(
        lambda: bench.futures.append((bench.session.request(Ask(number), None), number))
    )


def _call(bench: Bench) -> Finalizer:
    number = bench.next()
    return Finalizer(lambda: bench.got(bench.session.call(Ask(number), None), number), waits=True)


def _result(bench: Bench) -> Finalizer:
    """Waits for a request that was made before."""
    number = bench.next()
    future = bench.session.request(Ask(number), None)
    bench.futures.append((future, number))
    return Finalizer(lambda: bench.got(future.result(), number), waits=True)


def _cancel(bench: Bench) -> Finalizer:
    future = bench.session.request(Never(), None)
    bench.cancelled.append(future)

    def act() -> None:
        if not future.cancel():
            bench.wrong.append("not cancelled")

    return Finalizer(act)


def _close(bench: Bench) -> Finalizer:
    # The child's handler may fail as it finds that we are gone: a RemoteError.
    ends = (SessionClosedError, CancelledError, RemoteError)
    return Finalizer(lambda: bench.session.close(bench.patience), *ends)


ACTIONS: dict[str, Callable[[Bench], Finalizer]] = {
    "nothing": _nothing,
    "notify": _notify,
    "request": _request,
    "call": _call,
    "result": _result,
    "cancel": _cancel,
    "close": _close,
}


class _Proxy:
    """Takes the action when it goes."""

    def __init__(self, finalizer: Finalizer) -> None:
        self._finalizer = finalizer

    def __del__(self) -> None:
        self._finalizer.take_action()


def _by_del(finalizer: Finalizer) -> None:
    kept = [_Proxy(finalizer)]
    finalizer.trigger = kept.clear


class _Thing:
    """Nothing but something to go."""


def _by_weakref(finalizer: Finalizer) -> None:
    kept = [_Thing()]
    weakref.finalize(kept[0], finalizer.take_action)
    finalizer.trigger = kept.clear


def _by_gc(finalizer: Finalizer) -> None:
    def called(phase: str, info: dict[str, int]) -> None:
        gc.callbacks.remove(called)
        finalizer.take_action()

    def trigger() -> None:
        gc.callbacks.append(called)
        gc.collect(0)

    finalizer.trigger = trigger


class _Handler(logging.Handler):
    def __init__(self, finalizer: Finalizer) -> None:
        super().__init__()
        self._finalizer = finalizer

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger("streamipc").removeHandler(self)
        self._finalizer.take_action()


def _by_log(finalizer: Finalizer) -> None:
    """A handler of logging, which the library calls wherever it logs something."""
    handler = _Handler(finalizer)
    log = logging.getLogger("streamipc")
    finalizer.trigger = lambda: log.addHandler(handler)


def _by_signal(finalizer: Finalizer) -> None:
    """The handler of a signal, which does not raise."""
    signal.signal(signal.SIGUSR2, finalizer.take_action)
    finalizer.trigger = partial(signal.raise_signal, signal.SIGUSR2)


TRIGGERS: dict[str, Callable[[Finalizer], None]] = {
    "del": _by_del,
    "weakref": _by_weakref,
    "gc": _by_gc,
    "log": _by_log,
    "signal": _by_signal,
}


def make(cause: str, bench: Bench) -> Finalizer:
    """Return a new finalizer: ``cause`` is ``"notify"``, or ``"notify by gc"``."""
    action, _, trigger = cause.partition(" by ")
    finalizer = ACTIONS[action](bench)
    TRIGGERS[trigger or "del"](finalizer)
    return finalizer
