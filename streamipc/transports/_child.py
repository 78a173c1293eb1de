"""The ``Popen`` of a child that a session starts: it makes no exit status up."""

from __future__ import annotations

import subprocess

from ._exit import ExitStatus
from ._watch import wait_for_exit

__all__ = ["Child"]


class Child(subprocess.Popen[bytes]):
    """As ``Popen``; its :class:`ExitStatus` knows a guess from a status, whoever asks first."""

    def poll(self) -> int | None:
        """See :meth:`subprocess.Popen.poll`."""
        ExitStatus(self).look()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """See :meth:`subprocess.Popen.wait`."""
        status = ExitStatus(self)
        if timeout is None:
            status.wait()
        elif not wait_for_exit(self, status, timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode
