"""A child process as a transport: its standard input and output, its death."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .._forks import steady
from .._signals import Ignoring, consume, let_through
from ..exceptions import SessionClosedError
from ._command import Path, StderrOption, check_stderr, checked_command, explained
from ._exit import ExitStatus
from ._lineage import environment_of_child
from ._readahead import flush_pending, take_read_ahead
from ._stderr import StderrSink, quoted
from ._watch import ChildWatcher, wait_for_exit
from .pipe import FdTransport, is_broken

__all__ = ["ProcessTransport", "start_process", "wrap_process"]

_RESERVED = ("stdin", "stdout", "bufsize", "text", "encoding", "errors", "universal_newlines")

_PIPES = 5
"""As much as a start needs: four, of which one tells of a failed exec, and the null device."""

_EXIT_STATUS = 0.08
"""Seconds. A dying process closes its pipes a moment before its status can be had; where
other processes want the CPU, some ten milliseconds before. Futures end within 100."""

_LOOK_AGAIN = 0.0003
"""Seconds. Asking takes a microsecond, where a whole request takes some twenty."""

_LAST_LINES = 0.1
"""Seconds for the last lines of a dead child's standard error to be kept."""

_ENDS_OF_EVERY_DAY = (0, -2, 130)
"""Exit statuses: done, and two ways to end with SIGINT."""

_UNKILLABLE = 5.0
"""Seconds to wait after SIGKILL: a process in an uninterruptible system call ends later."""


def start_process(
    args: Path | Iterable[Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stderr: StderrOption = "forward",
    **popen_options: Any,
) -> ProcessTransport:
    """Start a child that talks over its standard input and output.

    Args:
        args: the command, as for :class:`subprocess.Popen`: a list of its words.
        cwd: its working directory.
        env: its environment; ``None``: ours. A variable is added that tells who
            started it.
        stderr: ``"forward"``: what the child writes to standard error is passed on to
            ours and its last lines are kept. A callable: it gets each line instead, on
            the thread that watches the child, so it must not block; what it raises is
            logged; the last lines are kept. ``subprocess.PIPE``: the last lines are
            kept. ``None``: the child has ours. A file, a descriptor or
            ``subprocess.DEVNULL``: it goes there, and nothing is kept.
        popen_options: further options of :class:`subprocess.Popen`.

    Raises:
        ValueError: the command is empty; ``stderr`` means nothing, or is
            ``subprocess.STDOUT``, which would put text between the frames; ``shell=True``
            with a list.
        TypeError: an option is given that the transport has to set itself; ``stderr`` has
            no file descriptor.
        RuntimeError: this process and its parents start one another without end.
        OSError: the child can't be started (``FileNotFoundError``, ``PermissionError``).
    """
    reserved = [name for name in _RESERVED if name in popen_options]
    if reserved:
        raise TypeError(
            f"{', '.join(reserved)}: the session sets this option of Popen itself; "
            "the child's standard input and output carry binary frames"
        )
    shell = bool(popen_options.get("shell"))
    command = checked_command(args, shell)
    check_stderr(stderr)
    on_line = stderr if callable(stderr) else None
    piped = stderr == "forward" or on_line is not None or stderr == subprocess.PIPE
    pipe: Any = subprocess.PIPE if piped else stderr
    environment = environment_of_child(env)
    with steady:
        _check_descriptors()
        try:
            process: subprocess.Popen[Any] = _popen_class()(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=pipe,
                bufsize=0,
                **popen_options,
            )
        except OSError as error:
            let_through(error)
            better = explained(error, command, shell)
            if better is error:
                raise
            raise better from None
        try:
            return ProcessTransport(process, forward=stderr == "forward", on_line=on_line)
        except BaseException:
            process.kill()
            for end in (process.stdin, process.stdout, process.stderr):
                if end is not None:
                    end.close()
            process.wait()
            raise


def _check_descriptors() -> None:
    """Raise now if there are too few: ``Popen`` leaves its first pipe open if it gets no second.

    https://github.com/python/cpython/issues/87474, in the older ones of the supported versions.
    """
    taken: list[int] = []
    try:
        for _ in range(_PIPES):
            taken.extend(os.pipe())
    finally:
        consume(map(os.close, map(taken.pop, [-1] * len(taken))))


def _popen_class() -> Any:
    """Return what to start a child with; what has taken the place of ``Popen`` goes first."""
    # gevent's, for one. It looks for the end of the child in ways of its own.
    if subprocess.Popen.__module__ != "subprocess" or not hasattr(os, "waitid"):
        return subprocess.Popen
    from ._child import Child

    return Child if issubclass(Child, subprocess.Popen) else subprocess.Popen


def wrap_process(process: subprocess.Popen[bytes]) -> ProcessTransport:
    """Make a transport of a child that the user started; it owns the child's pipes.

    The child may be dead already: what it wrote can still be read. If standard error is
    a pipe, it is passed on to ours and its last lines are kept.

    Args:
        process: has ``stdin=PIPE`` and ``stdout=PIPE``, and no text mode.

    Raises:
        TypeError: it is no Popen object, or in text mode.
        ValueError: a pipe is missing or closed, or a session has this child already.
    """
    if not all(hasattr(process, name) for name in ("pid", "stdin", "stdout", "wait", "poll")):
        raise TypeError(f"expected a subprocess.Popen object, not {type(process).__name__}")
    with steady:  # of several threads that come with one child, one gets it
        _check_wrappable(process)
        return ProcessTransport(process, forward=True)


def _check_wrappable(process: subprocess.Popen[bytes]) -> None:
    if getattr(process, "_streamipc_taken", False):
        raise ValueError(f"{describe_command(process)} belongs to a session already")
    for name in ("stdin", "stdout"):
        pipe = getattr(process, name)
        if pipe is None:
            raise ValueError(
                f"{describe_command(process)} has no pipe as {name}; start it with "
                "subprocess.Popen(..., stdin=PIPE, stdout=PIPE)"
            )
        if hasattr(pipe, "encoding"):
            raise TypeError(
                f"{name} of {describe_command(process)} is in text mode; start it without "
                "text=True, encoding and universal_newlines"
            )
        if pipe.closed:
            raise ValueError(f"{name} of {describe_command(process)} is closed")


class ProcessTransport(FdTransport):
    """The pipes of a child process; made by :func:`start_process` or :func:`wrap_process`.

    Args:
        process: the child, with pipes as ``stdin`` and ``stdout``.
        forward: pass its standard error on to ours, if that is a pipe.
        on_line: called with each line of it.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        *,
        forward: bool = True,
        on_line: Callable[[str], object] | None = None,
    ) -> None:
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin is not None
        assert stdout is not None
        with Ignoring(OSError):  # the child is dead; its last output may still be read
            flush_pending(stdin)
        self._process = process
        self._status = ExitStatus(process)
        self._name = describe_command(process)
        self._sink = StderrSink(forward, on_line, self._name)
        self._end_is_wanted = False  # we have asked for it, or made it
        self._is_told = False  # an error has said how the child ended
        self._look_again = 0.0  # when to ask the system whether the child lives
        self._status_by: float | None = None  # until when to wait for the exit status
        with steady:
            super().__init__(
                stdout.fileno(),
                stdin.fileno(),
                owners={stdin.fileno(): (stdin,), stdout.fileno(): (stdout,)},
                prefix={0: take_read_ahead(stdout)},
            )
            self._watcher = ChildWatcher(
                process, self._status, stderr, self._sink, take_read_ahead(stderr)
            )
        # An attribute rather than a set of ours: it lives and dies with the object.
        process._streamipc_taken = True  # type: ignore[attr-defined]

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The child."""
        return self._process

    @property
    def returncode(self) -> int | None:
        """The exit status as :class:`subprocess.Popen` has it.

        ``None``: it runs, or somebody else has taken the status; see :attr:`has_ended`.
        """
        self._status.look()
        return self._status.code

    @property
    def has_ended(self) -> bool:
        """Whether the child is dead, with a status that is known or not."""
        return self._status.look()

    def seems_alive(self) -> bool:
        """Tell whether the child lives; what the system said is good for 0.3 ms.

        For who asks before each of many requests.
        """
        if self._process.returncode is not None:
            return False
        now = time.monotonic()
        if now < self._look_again:
            return True
        self._look_again = now + _LOOK_AGAIN
        return not self._status.look()

    @property
    def stderr_tail(self) -> str:
        """The last 20 lines, or 8 KiB, that the child wrote to standard error."""
        return self._sink.tail

    def watch(self, on_exit: Callable[[], None]) -> None:
        """Start the thread that reads standard error and waits for the child's end.

        Until then nobody reads standard error, and a child that fills it (64 KiB)
        waits.

        Args:
            on_exit: called once, on that thread, when the child is dead and reaped and
                its last lines are in :attr:`stderr_tail`. Not called after ``close()``.

        Raises:
            RuntimeError: no thread can be started, or this is the second call.
            OSError: no file descriptor is left.
        """
        self._watcher.start(on_exit)

    def terminate(self) -> None:
        """Send SIGTERM, unless the child is dead."""
        if not self._status.look():  # Popen would look too, and may make up a status
            self._end_is_wanted = True
            self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL, unless the child is dead."""
        if not self._status.look():
            self._end_is_wanted = True
            self._process.kill()

    def shutdown(self, timeout: float) -> int | None:
        """See to it that the child ends: wait, then SIGTERM, then SIGKILL; reap it.

        A KeyboardInterrupt meanwhile kills the child at once.

        Args:
            timeout: seconds to wait before SIGTERM; after that it has as long again,
                but at least 0.2 and at most 2 seconds, before SIGKILL.

        Returns:
            Its exit status; ``None`` if somebody else has taken that, or if the child
            could not be ended: it belongs to another user, or hangs in the kernel.
        """
        process, status = self._process, self._status
        self._end_is_wanted = True
        try:
            if not wait_for_exit(process, status, timeout):
                with Ignoring(PermissionError):
                    process.terminate()
                if not wait_for_exit(process, status, min(max(timeout, 0.2), 2.0)):
                    with Ignoring(PermissionError):
                        process.kill()
                    wait_for_exit(process, status, _UNKILLABLE)
        except BaseException:
            with Ignoring(OSError):
                process.kill()
            wait_for_exit(process, status, _UNKILLABLE)
            raise
        if self._watcher.started and process.returncode is not None:
            self._watcher.done.wait(_LAST_LINES)
        return status.code

    def look_for_status(self) -> None:
        """Reap the child if it is dying; waits for it until 80 ms after the first call."""
        now = time.monotonic()
        if self._status_by is None:
            self._status_by = now + _EXIT_STATUS
        left = self._status_by - now
        if left <= 0:
            return
        if self._watcher.started:
            self._watcher.done.wait(left)
        else:
            wait_for_exit(self._process, self._status, left)

    def closed_error(self, what: str = "") -> SessionClosedError:
        """Make the error that says how the child ended.

        Waits for the exit status as :meth:`look_for_status`.

        Args:
            what: what could not be done because of it, such as ``"no reply to Hello"``.
        """
        return self._error(what, "")

    def silent_error(self, what: str = "") -> SessionClosedError:
        """As :meth:`closed_error`, for a child from which nothing has come."""
        return self._error(what, " before it sent anything: does it call serve_forever()?")

    def _error(self, what: str, silence: str) -> SessionClosedError:
        self.look_for_status()
        status = self._status
        if status.look():
            self._is_told = True
        fate, code = status.fate, status.code
        if code == 0 and not self._end_is_wanted:
            fate += silence
        text = f"{self._name} {fate}"
        if what:
            text = f"{what}: {text}"
        tail = self.stderr_tail
        return SessionClosedError(
            text + quoted(tail), returncode=code, signal=status.signal_name, stderr_tail=tail
        )

    def unread_bytes(self) -> int | None:
        """Return how many bytes nobody has read of what was written to the child, and never will.

        ``None``: that is not known, or somebody may still read them.
        """
        with Ignoring(ImportError, OSError):  # it is closed, or a system that does not tell
            import fcntl
            import termios

            if is_broken(self.write_fd):
                count = bytearray(4)
                fcntl.ioctl(self.write_fd, termios.FIONREAD, count)
                return int.from_bytes(count, sys.byteorder)
        return None

    def untold_death(self) -> str:
        """Say how the child died, if that was not to be expected and no error has said it.

        It is if we made it end, if it has ended well, or with Ctrl-C, which a terminal sends
        to us too.
        """
        if self._end_is_wanted or self._is_told or not self._status.look():
            return ""
        if not self._status.is_lost and self._status.code in _ENDS_OF_EVERY_DAY:
            return ""
        return f"{self._name} {self._status.fate}{quoted(self.stderr_tail, printable=True)}"

    def close(self) -> None:
        """Close the pipes and end the watching thread; the child is not ended by it."""
        self._watcher.close()
        super().close()

    def close_after_fork(self) -> None:
        """Close the copies of the pipes that a forked process inherited."""
        self._watcher.close_after_fork()
        super().close_after_fork()
        self._status.forget_after_fork()


def describe_command(process: subprocess.Popen[bytes]) -> str:
    """Name a child for people: ``the child 'python child.py' (pid 123)``."""
    args: Any = getattr(process, "args", "")
    if isinstance(args, (list, tuple)):
        import shlex

        args = shlex.join(os.fsdecode(arg) for arg in args)
    text = os.fsdecode(args)
    if len(text) > 100:
        text = text[:97] + "..."
    return f"the child {text!r} (pid {process.pid})"
