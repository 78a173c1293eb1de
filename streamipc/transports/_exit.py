"""How a child ended, as far as this process can know.

An exit status can be had once. Where SIGCHLD is ignored the kernel throws it away, and a
program that waits for every child (an init, a web server's master) takes it before us.
``Popen`` then says 0, and a crash reads as success. So the status is asked for here.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import signal
import subprocess
import sys
from operator import itemgetter
from types import FrameType

from .._signals import Ignoring

__all__ = ["ExitStatus"]

_PATIENCE = 10.0
"""Seconds for another thread to tell the status that it has taken from the kernel. It needs a few
microseconds, once the system lets it run."""

_PID = itemgetter(0)
"""The first part of what waitpid() returns; 0: the child runs."""


class ExitStatus:
    """The exit status of one child.

    ``Popen`` is told what is found out, under its own lock, so it stays true for whoever
    asks there. A status that ``Popen`` has found first is taken from it, unless it is a 0
    that can't be known because SIGCHLD is ignored.

    Args:
        process: the child. If it is no ``subprocess.Popen``, such as gevent's, which has
            ways of its own to learn of the end, it is believed.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        # Not isinstance(): gevent may have put its own class there since the child was started.
        own = any(cls.__module__ == "subprocess" for cls in type(process).__mro__)
        self._lock = getattr(process, "_waitpid_lock", None) if own else None
        # Of waitpid(), guarded by that lock, and with the object itself: see ``_ask``.
        self._answers: list[tuple[int, int]] = (
            [] if self._lock is None else vars(process).setdefault("_streamipc_answers", [])
        )

    @property
    def is_lost(self) -> bool:
        """Whether the child has ended and somebody else took its status."""
        return getattr(self._process, "_streamipc_status", "") == "lost"

    @property
    def code(self) -> int | None:
        """The status; ``None``: it runs, or the status is lost."""
        return None if self.is_lost else self._process.returncode

    @property
    def signal_name(self) -> str | None:
        """The signal that killed the child, such as ``"SIGKILL"``, if one did."""
        code = self.code
        return None if code is None or code >= 0 else _signal_name(-code)

    @property
    def fate(self) -> str:
        """What is known of the child, for people: ``"exited with code 3"``."""
        if self._process.returncode is None:
            return "is still running"
        code = self.code
        if code is None:
            return (
                "exited, with a status that somebody else has taken (SIGCHLD is ignored, or other "
                "code of this process waits for all children)"
            )
        return f"was killed by {self.signal_name}" if code < 0 else f"exited with code {code}"

    def look(self) -> bool:
        """Reap the child if it is dead; return whether it is. Never blocks."""
        process = self._process
        if process.returncode is not None:
            self._check()
            return True
        lock = self._lock
        if lock is None:
            return process.poll() is not None
        taken: list[bool] = []
        try:
            # One call into C that also notes the result: an interrupt can't come in between.
            taken.extend(map(lock.acquire, (False,)))
            if not taken[0]:
                return False  # somebody waits in Popen.wait(), and will tell it
            self._ask(os.WNOHANG)
        finally:
            if taken and taken[0]:
                lock.release()
        return process.returncode is not None

    def reap(self) -> None:
        """Reap a child that is known to be dead."""
        if self._lock is None:
            self._process.wait()
            return
        taken: list[bool] = []
        try:
            # Who waits in Popen.wait() lets go of it now, and may have the status already: asked
            # without the lock, the kernel would say that there is none. It is not to be had if
            # this code has interrupted its very holder, as a finalizer does: then we may ask.
            patience = 0.0 if self._is_held_here() else _PATIENCE
            taken.extend(map(self._lock.acquire, (True,), (patience,)))
            self._ask(0)
        finally:
            if taken and taken[0]:
                self._lock.release()
        self._check()

    def wait(self) -> None:
        """Block until the child is dead, and reap it."""
        process = self._process
        if process.returncode is not None:
            self._check()
        elif self._lock is not None and hasattr(os, "waitid"):
            # Without the lock, and without taking the status from anybody.
            with Ignoring(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            self.reap()
        else:  # pragma: no cover - Windows, and macOS before Python 3.13
            process.wait()

    def forget_after_fork(self) -> None:
        """Leave the child to its parent, in a forked process."""
        if self._process.returncode is None:
            # It is no child of this process: Popen.__del__ must not warn about it.
            self._keep(0, "lost")

    def _is_held_here(self) -> bool:
        """Tell whether the caller of :meth:`reap` has interrupted who may hold the lock."""
        process = self._process
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            if frame.f_code in _HOLDERS:
                one = frame.f_locals.get("self")
                if one is process or getattr(one, "_process", None) is process:
                    return True
            frame = frame.f_back
        return False

    def _ask(self, options: int) -> None:
        """Take the status, holding the lock of Popen, or coming from inside of who holds it."""
        process = self._process
        if process.returncode is not None:
            return
        answers = self._answers
        try:
            # There is one if an interrupt has kept somebody from telling it, such as another object
            # of this class. The kernel does not give it twice.
            if not answers:
                answers.extend(filter(_PID, map(os.waitpid, (process.pid,), (options,))))
        except ChildProcessError:
            if process.returncode is None and not answers:
                self._keep(0, "lost")  # as Popen has it then, which takes None for "it runs"
                return
        if answers and process.returncode is None:
            self._keep(os.waitstatus_to_exitcode(answers[0][1]), "true")

    def _keep(self, code: int, truth: str) -> None:
        # With the object itself, of which there is one, and first: who sees the code sees this.
        self._process._streamipc_status = truth  # type: ignore[attr-defined]
        self._process.returncode = code

    def _check(self) -> None:
        """Look, once, at a status that Popen has found."""
        if self._lock is None or hasattr(self._process, "_streamipc_status"):
            return
        code = self._process.returncode
        # The kernel keeps no status where the signal is ignored: the 0 is Popen's guess.
        lost = code == 0 and _signal.getsignal(_signal.SIGCHLD) == _signal.SIG_IGN
        self._keep(code, "lost" if lost else "true")


_HOLDERS = {
    getattr(function, "__code__", None)
    for function in (
        ExitStatus.look,
        ExitStatus.reap,
        getattr(subprocess.Popen, "_internal_poll", None),
        getattr(subprocess.Popen, "_wait", None),
    )
}
"""Who takes the lock of Popen."""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
