"""What becomes of a forked process's copies of our things, and how a fork is noticed.

A forked process has a copy of everything but of the threads, except for the one that
forked: a lock that another thread held is locked for ever, and what another thread was in
the midst of stays half done. Two rules make the copies safe to let go of:

* Descriptors are made, and closed, under :data:`steady`, for which a fork waits. So a
  forked process finds every descriptor named by the object that owns it, and no number
  there that has come to mean somebody else's file. Nothing else happens under that lock:
  no callback, no logging, no wait for a thread.
* Whatever has descriptors to let go of, or locks to renew, says so by :func:`forgets`.

Python calls us at each fork that it makes itself. A server written in C makes others (uWSGI
loads the application and then forks its workers). So every method that a user may call first
looks at ``at_home[0]``, and calls :func:`look_for_fork` if that is 0. Until then such a copy holds
the descriptors open, and nobody reads from them.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Any

__all__ = ["at_home", "forgets", "forkable_lock", "look_for_fork", "renew", "steady"]

steady = threading.RLock()
"""Held while descriptors are made or closed; taken before any other lock of ours. It can be
taken again by its holder: ``Popen`` with ``preexec_fn`` runs what a fork does, too."""

_forgetful: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()

_pid = os.getpid()
"""The process that the things here belong to."""


class _ByProcessId:
    """What :data:`at_home` is where the system has nothing quicker: 1, or 0 after a fork."""

    def __getitem__(self, _: int) -> int:
        return int(os.getpid() == _pid)

    def __setitem__(self, _: int, value: int) -> None:
        pass


def _wiped_page() -> Any:
    """Return memory that a fork fills with zeros, whoever makes it.

    Looking there takes 50 ns, where asking the system for the process id took 540 in a virtual
    machine and 170 elsewhere. See MADV_WIPEONFORK in madvise(2), Linux 4.14; :mod:`mmap` has no
    name for it.
    """
    try:
        import mmap

        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
        page[0] = 1
    except (ImportError, AttributeError, OSError, ValueError):  # pragma: no cover - no Linux
        return _ByProcessId()
    return page


_MADV_WIPEONFORK = 18

at_home: Any = _wiped_page() if sys.platform.startswith("linux") else _ByProcessId()
"""``at_home[0]`` is 1 in the process that the things here belong to, and 0 in a fork of it until
:func:`look_for_fork` has seen to them."""

_lookers: dict[int, Any] = {}
"""Process id -> the lock of those who look for a fork there. Entering it is one atomic step, and
a copy of the parent's lock, which may be locked for ever, stands under the parent's id."""

_forgetting = 0
"""The process whose thread is in ``_forget_all``, behind its lock."""


def forgets(thing: object, method: str = "forget_after_fork") -> None:
    """Have a method of ``thing`` called in every forked process, as long as it exists."""
    _forgetful[thing] = method


def renew(lock: Any) -> None:
    """Unlock a lock in a forked process, where the thread that held it may not exist."""
    # As the standard library does with its own (threading, logging, concurrent.futures).
    lock._at_fork_reinit()


def forkable_lock() -> threading.RLock:
    """Return a lock that is renewed in every forked process."""
    lock = threading.RLock()
    forgets(lock, "_at_fork_reinit")
    return lock


def look_for_fork() -> None:
    """Forget what is the parent's, if this process was forked and Python was not told.

    Called where a user comes in, before any lock of ours is taken: it may have been held in
    the moment of the fork, by a thread that does not exist here.
    """
    pid = os.getpid()
    if pid == _pid:
        return
    with _lookers.setdefault(pid, threading.RLock()):
        if pid not in (_pid, _forgetting):  # the latter: we come from in there
            _forget_all()


def _before_fork() -> None:
    look_for_fork()
    steady.acquire()


def _forget_all() -> None:
    global _pid, _forgetting
    _forgetting = os.getpid()
    try:
        steady.release()
    except RuntimeError:  # not locked by who forks: it was a fork that Python did not make
        renew(steady)
    for thing, method in list(_forgetful.items()):
        try:
            getattr(thing, method)()
        except Exception:
            pass  # one that can't be let go of must not keep the others
    _pid, _forgetting = _forgetting, 0
    at_home[0] = 1


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows
    os.register_at_fork(
        before=_before_fork, after_in_parent=steady.release, after_in_child=_forget_all
    )
