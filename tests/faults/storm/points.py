"""The points of a call at which CPython may run a signal handler, or a finalizer.

CPython looks for signals when a function is entered, behind each call, and at a backward jump. A
trace function sees each of these before it comes. What is noted there as the arrival of a signal
is handled at that very point, as it would be had the signal come from outside.

The same points serve for finalizers: from 3.12 on the collector runs nowhere else.
"""

from __future__ import annotations

import _thread
import dis
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

__all__ = ["Tracer", "arrival"]

_JUMPS = "BACKWARD" if sys.version_info >= (3, 11) else "JUMP"

_LOOKS = frozenset(
    code
    for name, code in dis.opmap.items()
    if (name.startswith("CALL") and "INTRINSIC" not in name) or _JUMPS in name
)
"""Operations behind which CPython looks for signals."""

# 3.13 loses the events of single operations each time that tracing is switched on again. The
# beginning of each line is left.
_SEES_OPERATIONS = sys.version_info < (3, 13)

_operations: dict[CodeType, bytes] = {}


class arrival(int):  # noqa: N801 - used as a number
    """The number of a signal. Reading ``now`` notes that it has arrived.

    An attribute, for CPython does not look for signals behind one: a trace function that ends
    with it leaves the signal to the code that it traces.
    """

    now = property(_thread.interrupt_main)


class Tracer:
    """A trace function that counts points and does something at one of them.

    Args:
        everywhere: each operation is a point, and each beginning of a line: up to 3.11 the
            collector may run wherever something is made, and what has no collector goes wherever
            its last name does.
    """

    def __init__(self, everywhere: bool = False) -> None:
        self._everywhere = everywhere
        self._lines = everywhere or not _SEES_OPERATIONS
        self._caller: FrameType | None = None
        self.count = 0
        self._target = 0
        self._act: Callable[[FrameType], Any] | None = None
        self._signal: arrival | None = None

    def signal_at(self, target: int, number: int) -> None:
        """Have the signal ``number`` arrive at point ``target``, and stop tracing there."""
        self.count, self._target, self._caller = 0, target, None
        self._signal, self._act = arrival(number), None

    def act_at(self, target: int, act: Callable[[FrameType], Any]) -> None:
        """Call ``act`` with the frame at point ``target``."""
        self._signal, self._act = None, act
        self.count, self._caller = 0, None
        self._target = target

    def go_on(self, frame: FrameType | None) -> None:
        """Trace this frame and those that called it: those that are being left."""
        while frame is not None:
            if frame.f_trace is not None:
                self._trace(frame)
            frame = frame.f_back
        sys.settrace(self)

    def _trace(self, frame: FrameType) -> None:
        frame.f_trace_opcodes = _SEES_OPERATIONS
        frame.f_trace_lines = self._lines
        frame.f_trace = self

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode":
            self._caller = None
            code = frame.f_code
            operations = _operations.get(code)
            if operations is None:
                operations = _operations[code] = code.co_code
            if not (self._everywhere or operations[frame.f_lasti] in _LOOKS):
                return self
            self._caller = frame
        elif event == "call":
            self._trace(frame)
            if frame.f_back is self._caller:
                self._caller = None
                return self  # the point of the call itself
        elif event != "line":
            return self
        self.count += 1
        if self.count == self._target:
            self._target = 0
            self._caller = None  # or it would keep what is interrupted
            if self._signal is not None:
                sys.settrace(None)
                return self._signal.now
            if self._act is not None:
                self._act(frame)
        return self
