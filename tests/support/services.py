"""Servers and other long programs: started, looked at, stopped, and what is left of them.

    with Service(command, folder) as service:
        service.wait(lambda: service.children(), "child")

The children that are looked for are those of ``streamipc``: programs of the examples' own. They
are found by their environment, which they have from the service.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from typing_extensions import Self

__all__ = ["PATIENCE", "Service"]

CHILDREN = (b"child.py", b"shop.speller")
"""What the commands of children have in them, and no server's."""

PATIENCE = 60.0
"""Seconds that a service has to start, to stop, or to come to what is waited for."""


class Service:
    """A program that is started here, and stopped at the end of ``with``.

    Args:
        command: of the program.
        folder: where it runs, and writes its log.
        environment: on top of that of this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        mark = str(uuid.uuid4())
        self._mark = f"STARTED_BY={mark}\0".encode()
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={
                    **os.environ,
                    "STARTED_BY": mark,
                    "PYTHONUNBUFFERED": "1",
                    **(environment or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        try:
            self.wait_until_ready()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self._kill()

    def wait_until_ready(self) -> None:
        """Wait until it does its work."""

    def children(self) -> dict[int, int]:
        """Return the children that it and its processes have started, each with its parent."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):
                command = (folder / "cmdline").read_bytes()
                is_child = any(name in command for name in CHILDREN)
                if is_child and self._mark in (folder / "environ").read_bytes():
                    status = (folder / "stat").read_text().rpartition(")")[2].split()
                    found[int(folder.name)] = int(status[1])
        return found

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"the service has ended\n{self.log()}"
            assert time.monotonic() < deadline, f"no {what} in {PATIENCE:g} s\n{self.log()}"
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it as its users do; nothing may be left of it."""
        self.process.terminate()
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the service does not stop\n{self.log()}") from None
        deadline = time.monotonic() + PATIENCE
        while self.children() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.children() == {}, self.log()
        assert status == 0, self.log()

    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def check_log(self) -> None:
        """Look for what no service should have to say."""
        for trouble in ("Traceback", "Exception ignored", "ResourceWarning"):
            assert trouble not in self.log(), self.log()

    def _kill(self) -> None:
        for pid in self.children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
