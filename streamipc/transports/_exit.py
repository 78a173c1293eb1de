"""How a child ended, as far as this process can know.

An exit status can be had once. Where SIGCHLD is ignored the kernel throws it away, and a
program that waits for every child (an init, a web server's master) takes it before us.
``Popen`` then says 0, and a crash reads as success. So the status is asked for here.
"""

from __future__ import annotations

import os
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess

__all__ = ["ExitStatus"]


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
        import subprocess

        self._process = process
        own = isinstance(process, subprocess.Popen) and os.name == "posix"
        self._lock = getattr(process, "_waitpid_lock", None) if own else None
        self._known = False  # whether the returncode of Popen has been looked at
        self._is_lost = False

    @property
    def is_lost(self) -> bool:
        """Whether the child has ended and somebody else took its status."""
        return self._is_lost

    @property
    def code(self) -> int | None:
        """The status; ``None``: it runs, or the status is lost."""
        return None if self._is_lost else self._process.returncode

    def look(self) -> bool:
        """Reap the child if it is dead; return whether it is. Never blocks."""
        process = self._process
        if process.returncode is not None:
            self._check()
            return True
        lock = self._lock
        if lock is None:
            return process.poll() is not None
        if not lock.acquire(blocking=False):
            return False  # somebody waits in Popen.wait(), and will tell it
        try:
            self._ask(os.WNOHANG)
        finally:
            lock.release()
        return process.returncode is not None

    def reap(self) -> None:
        """Reap a child that is known to be dead."""
        if self._lock is None:
            self._process.wait()
            return
        with self._lock:  # who waits in Popen.wait() lets go of it at once
            self._ask(0)
        self._check()

    def wait(self) -> None:
        """Block until the child is dead, and reap it."""
        process = self._process
        if self._lock is not None and hasattr(os, "waitid") and process.returncode is None:
            # Without the lock, and without taking the status from anybody.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            self.reap()
        else:  # pragma: no cover - Windows, and macOS before Python 3.13
            process.wait()

    def forget_after_fork(self) -> None:
        """Leave the child to its parent, in a forked process."""
        if self._process.returncode is None:
            # It is no child of this process: Popen.__del__ must not warn about it.
            self._is_lost = self._known = True
            self._process.returncode = 0

    def _ask(self, options: int) -> None:
        """Take the status, holding the lock of Popen."""
        process = self._process
        if process.returncode is not None:
            return
        try:
            pid, status = os.waitpid(process.pid, options)
        except ChildProcessError:
            self._is_lost = self._known = True
            process.returncode = 0  # as Popen has it then, which takes None for "it runs"
            return
        if pid:
            self._known = True
            process.returncode = os.waitstatus_to_exitcode(status)

    def _check(self) -> None:
        """Look, once, at a status that Popen has found."""
        if self._known:
            return
        self._known = True
        if self._lock is not None and self._process.returncode == 0:
            import _signal  # type: ignore[import-not-found]

            # The kernel keeps no status then: the 0 is Popen's guess.
            self._is_lost = _signal.getsignal(_signal.SIGCHLD) == _signal.SIG_IGN
