"""SIGTERM while a session serves: what runs is finished and answered, then serving ends."""

from __future__ import annotations

# What the module signal wraps in enums, which a child that only answers would import for this.
import _signal  # type: ignore[import-not-found]
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OnSigterm"]


class OnSigterm:
    """Has SIGTERM call ``stop`` while a ``with`` block runs, instead of ending the process.

    Only in the main thread, where Python runs signal handlers, and only while nobody else
    has said what SIGTERM does. A second one ends the process as if we were not here.

    Args:
        stop: called between any two instructions of the block; it must wait for no lock
            that the block takes. ``False`` means that nothing is to be finished: the
            process ends at once.
    """

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop
        self._handler = self._first  # one object: each look at a method makes a new one

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if _signal.getsignal(_signal.SIGTERM) != _signal.SIG_DFL:
            return
        try:
            _signal.signal(_signal.SIGTERM, self._handler)
        except ValueError:
            pass  # a subinterpreter, which gets no signals

    def __exit__(self, *_: object) -> None:
        if _signal.getsignal(_signal.SIGTERM) is self._handler:
            _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)

    def _first(self, *_: object) -> None:
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        if not self._stop():
            _signal.raise_signal(_signal.SIGTERM)
